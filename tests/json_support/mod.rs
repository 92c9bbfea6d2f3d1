//! The shapes of `docs/json.md`, and whether a document has the one that is described there.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

const PAGE: &str = include_str!("../../docs/json.md");

/// What a table says of each field, by its path.
pub type Shape = BTreeMap<String, Field>;

/// What a table says of a field.
#[derive(Debug)]
pub struct Field {
    types: BTreeSet<&'static str>,
    /// It need not be there.
    absent: bool,
}

/// All tables of the page, by the names in their marks.
pub fn shapes() -> BTreeMap<&'static str, Shape> {
    let mut shapes = BTreeMap::new();
    for part in PAGE.split("<!-- json: ").skip(1) {
        let (name, rest) = part.split_once(" -->").expect("a mark ends");
        let rows = rest.lines().skip(1).take_while(|line| line.starts_with('|')).skip(2);
        let mut shape = Shape::from([("version".to_owned(), field("number"))]);
        for row in rows {
            let cells: Vec<&str> = row.split('|').map(str::trim).collect();
            let path = cells[1].trim_matches('`').to_owned();
            assert!(shape.insert(path, field(cells[2])).is_none(), "{name}: {row} is there twice");
        }
        assert!(shape.len() > 1, "{name} has no table");
        assert!(shapes.insert(name, shape).is_none(), "{name} is there twice");
    }
    shapes
}

fn field(words: &'static str) -> Field {
    let (words, absent) = match words.strip_suffix(", or absent") {
        Some(words) => (words, true),
        None => (words, false),
    };
    let types: BTreeSet<&str> = words.split(" or ").collect();
    let known = ["text", "number", "true/false", "list", "object", "null"];
    assert!(types.iter().all(|word| known.contains(word)), "`{words}` is no type");
    Field { types, absent }
}

/// Checks that a document has the shape of that name: no field more, none less, each of its type. Gives the
/// paths that were there.
#[track_caller]
pub fn check(name: &str, document: &Value) -> BTreeSet<String> {
    let shapes = shapes();
    let shape = shapes.get(name).unwrap_or_else(|| panic!("docs/json.md does not describe `{name}`"));
    assert_eq!(document["version"], 1, "{document:#}");
    let mut seen = BTreeSet::new();
    walk(name, shape, "", document, &mut seen);
    seen
}

#[track_caller]
fn walk(name: &str, shape: &Shape, path: &str, value: &Value, seen: &mut BTreeSet<String>) {
    match value {
        Value::Object(fields) => {
            let at = |key: &str| if path.is_empty() { key.to_owned() } else { format!("{path}.{key}") };
            for (key, value) in fields {
                let path = at(key);
                let Some(field) = shape.get(&path) else {
                    panic!("{name}: `{path}` is not in docs/json.md: {value}")
                };
                let kind = kind(value);
                assert!(field.types.contains(kind), "{name}: `{path}` is {kind}, not {:?}", field.types);
                seen.insert(path.clone());
                walk(name, shape, &path, value, seen);
            }
            for (path, field) in shape.iter().filter(|(_, field)| !field.absent) {
                let key = path.rsplit('.').next().unwrap_or_default();
                let is_here = at(key) == *path;
                assert!(
                    !is_here || fields.contains_key(key),
                    "{name}: `{path}` is missing ({:?})",
                    field.types
                );
            }
        }
        Value::Array(list) => {
            for value in list {
                walk(name, shape, &format!("{path}[]"), value, seen);
            }
        }
        _ => {}
    }
}

fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "true/false",
        Value::Number(_) => "number",
        Value::String(_) => "text",
        Value::Array(_) => "list",
        Value::Object(_) => "object",
    }
}
