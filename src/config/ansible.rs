//! Steps with `ansible`.

use serde_json::{Map, Value};
use toml::Spanned;
use toml::de::{DeTable, DeValue};

use crate::model::{Ansible, Secret, StepKind};

use super::report::brief;
use super::walk::{Reader, Table};

/// The keys that only such a step has, beside `args`.
pub(super) const KEYS: [&str; 5] = ["extra_vars", "limit", "tags", "skip_tags", "become"];

impl Reader<'_> {
    pub(super) fn ansible(&mut self, table: &Table<'_>) -> Option<StepKind> {
        let given = self.text(table, "ansible", "\"site.yml\"")?;
        let playbook = self.host_file(&given, "playbook", "name the playbook itself")?;
        let args = self.script_args(table)?;
        let limit = match table.raw("limit") {
            Some(_) => Some(self.words(table, "limit", false)?.join(",")),
            None => None,
        };
        let tags = self.words(table, "tags", true)?;
        let skip_tags = self.words(table, "skip_tags", true)?;
        let become_root = self.boolean(table, "become").unwrap_or(false);
        let extra_vars = match table.raw("extra_vars") {
            None => Map::new(),
            Some(value) => match value.get_ref().as_table() {
                Some(entries) => self.vars_table(entries)?,
                None => {
                    let help = "write `extra_vars = { name = \"value\" }`";
                    self.wrong(&value.span(), "`extra_vars` is no table", help);
                    return None;
                }
            },
        };
        let extra_vars = Secret::new(Value::Object(extra_vars).to_string());
        let ansible = Ansible { playbook, limit, tags, skip_tags, become_root, extra_vars, args };
        Some(StepKind::Ansible(Box::new(ansible)))
    }

    /// A string, or a list of strings; each is a word that is no option.
    fn words(&mut self, table: &Table<'_>, key: &str, is_list: bool) -> Option<Vec<String>> {
        if table.raw(key).is_none() {
            return Some(Vec::new());
        }
        let words = match is_list {
            true => self.texts(table, key, "[\"config\"]")?,
            false => vec![self.text(table, key, "\"web:!db\"")?],
        };
        let mut fine = true;
        for word in &words {
            if let Some(name) = &word.value.secret {
                fine = false;
                let message =
                    format!("`{name}` is from the ENV file, and `{key}` can be seen by all on this host");
                self.wrong(&word.span, message, "write the word itself");
                continue;
            }
            let text = word.value.value.as_str();
            if text.trim().is_empty() || text.starts_with('-') || text.contains(['\0', '\n']) {
                fine = false;
                let message = format!("an entry of `{key}` cannot be {:?}", brief(&word.value.shown));
                self.wrong(&word.span, message, "write a word that does not begin with `-`");
            }
        }
        fine.then(|| words.into_iter().map(|word| word.value.value).collect())
    }

    fn vars_table(&mut self, entries: &DeTable<'_>) -> Option<Map<String, Value>> {
        let mut map = Map::new();
        let mut fine = true;
        for (name, value) in entries {
            match self.json(value) {
                Some(value) => _ = map.insert(name.get_ref().to_string(), value),
                None => fine = false,
            }
        }
        fine.then_some(map)
    }

    /// The value with its variables filled in. TOML is never nested deeper than its parser allows.
    fn json(&mut self, value: &Spanned<DeValue<'_>>) -> Option<Value> {
        match value.get_ref() {
            DeValue::String(_) => self.fill(value).map(|text| Value::String(text.value.value)),
            DeValue::Boolean(is) => Some(Value::Bool(*is)),
            DeValue::Integer(number) => {
                let parsed = i64::from_str_radix(number.as_str(), number.radix()).ok();
                if parsed.is_none() {
                    self.wrong(&value.span(), "this number is too large", "write it as a string");
                }
                parsed.map(Value::from)
            }
            DeValue::Float(number) => {
                let parsed: Option<f64> = number.as_str().parse().ok();
                let parsed = parsed.and_then(serde_json::Number::from_f64).map(Value::Number);
                if parsed.is_none() {
                    self.wrong(&value.span(), "JSON has no such number", "write it as a string");
                }
                parsed
            }
            DeValue::Array(list) => {
                list.iter().map(|item| self.json(item)).collect::<Option<_>>().map(Value::Array)
            }
            DeValue::Table(entries) => self.vars_table(entries).map(Value::Object),
            DeValue::Datetime(_) => {
                self.wrong(&value.span(), "a date cannot be handed to ansible", "write it as a string");
                None
            }
        }
    }
}
