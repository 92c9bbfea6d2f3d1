//! A validator for the part of JSON schema that the schema of the Vagrantfile uses. A keyword that
//! it does not know is a panic: it cannot pass what it does not understand.

use std::collections::HashMap;

use regex::Regex;
use serde_json::Value;

pub struct Validator {
    schema: Value,
    patterns: HashMap<String, Regex>,
}

impl Validator {
    pub fn new(schema: Value) -> Self {
        let mut patterns = HashMap::new();
        collect(&schema, &mut patterns);
        Validator { schema, patterns }
    }

    /// What the schema has against a value, each with its place.
    pub fn faults(&self, value: &Value) -> Vec<String> {
        let mut faults = Vec::new();
        self.check(&self.schema, value, "", &mut faults);
        faults
    }

    fn fits(&self, schema: &Value, value: &Value) -> bool {
        let mut faults = Vec::new();
        self.check(schema, value, "", &mut faults);
        faults.is_empty()
    }

    fn matches(&self, pattern: &Value, text: &str) -> bool {
        self.patterns[pattern.as_str().unwrap()].is_match(text)
    }

    fn check(&self, schema: &Value, value: &Value, at: &str, faults: &mut Vec<String>) {
        let schema = schema.as_object().unwrap_or_else(|| panic!("{schema} is no schema"));
        let wrong = |faults: &mut Vec<String>, fault: String| faults.push(format!("{at}: {fault}"));
        for (keyword, rule) in schema {
            match keyword.as_str() {
                "$schema" | "title" | "description" | "default" | "definitions" => {}
                "type" => {
                    let types: Vec<&Value> = rule.as_array().map_or(vec![rule], |list| list.iter().collect());
                    if !types.iter().any(|name| is_a(value, name.as_str().unwrap())) {
                        wrong(faults, format!("{value} is not of type {rule}"));
                    }
                }
                "enum" if !rule.as_array().unwrap().contains(value) => {
                    wrong(faults, format!("{value} is none of {rule}"))
                }
                "enum" => {}
                "pattern" => {
                    if value.as_str().is_some_and(|text| !self.matches(rule, text)) {
                        wrong(faults, format!("{value} does not match {rule}"));
                    }
                }
                "minimum" | "maximum" => {
                    if let (Some(number), Some(bound)) = (value.as_f64(), rule.as_f64())
                        && (if keyword == "minimum" { number < bound } else { number > bound })
                    {
                        wrong(faults, format!("{value} is beyond the {keyword} {rule}"));
                    }
                }
                "anyOf" if !rule.as_array().unwrap().iter().any(|schema| self.fits(schema, value)) => {
                    wrong(faults, format!("{value} fits none of {rule}"));
                }
                "anyOf" => {}
                "allOf" => {
                    rule.as_array().unwrap().iter().for_each(|schema| self.check(schema, value, at, faults))
                }
                "$ref" => {
                    let name = rule.as_str().unwrap().strip_prefix("#/definitions/").unwrap();
                    self.check(&self.schema["definitions"][name], value, at, faults);
                }
                "items" => {
                    for (index, item) in value.as_array().into_iter().flatten().enumerate() {
                        self.check(rule, item, &format!("{at}[{index}]"), faults);
                    }
                }
                "properties" => {
                    for (key, value) in value.as_object().into_iter().flatten() {
                        if let Some(schema) = rule.get(key) {
                            self.check(schema, value, &format!("{at}.{key}"), faults);
                        }
                    }
                }
                "additionalProperties" => {
                    let known = schema.get("properties");
                    for (key, value) in value.as_object().into_iter().flatten() {
                        match rule {
                            _ if known.is_some_and(|known| known.get(key).is_some()) => {}
                            Value::Bool(true) => {}
                            Value::Bool(false) => faults.push(format!("{at}: `{key}` is not allowed")),
                            schema => self.check(schema, value, &format!("{at}.{key}"), faults),
                        }
                    }
                }
                "propertyNames" => {
                    for key in value.as_object().into_iter().flatten().map(|(key, _)| key) {
                        self.check(rule, &Value::String(key.clone()), &format!("{at}.{key}"), faults);
                    }
                }
                "required" => {
                    let missing = |key: &&Value| {
                        value.as_object().is_some_and(|o| !o.contains_key(key.as_str().unwrap()))
                    };
                    for key in rule.as_array().unwrap().iter().filter(missing) {
                        wrong(faults, format!("{key} is missing"));
                    }
                }
                other => panic!("this validator does not know `{other}`"),
            }
        }
    }
}

fn is_a(value: &Value, name: &str) -> bool {
    match name {
        "string" => value.is_string(),
        "integer" => value.is_i64() || value.is_u64(),
        "number" => value.is_number(),
        "boolean" => value.is_boolean(),
        "array" => value.is_array(),
        "object" => value.is_object(),
        other => panic!("this validator does not know the type `{other}`"),
    }
}

fn collect(schema: &Value, patterns: &mut HashMap<String, Regex>) {
    match schema {
        Value::Object(object) => {
            // Under `properties` it would be the name of a key.
            if let Some(pattern) = object.get("pattern").and_then(Value::as_str) {
                patterns.insert(pattern.to_owned(), Regex::new(pattern).unwrap());
            }
            object.values().for_each(|value| collect(value, patterns));
        }
        Value::Array(list) => list.iter().for_each(|value| collect(value, patterns)),
        _ => {}
    }
}
