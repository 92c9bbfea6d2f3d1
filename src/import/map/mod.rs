//! What the file says to Vagrant → the words of our configuration. What has none is noted.

mod ansible;
mod boxes;
mod check;
mod docker;
mod folders;
mod hooks;
mod network;
mod provider;
mod settings;
mod steps;

use std::collections::HashMap;
use std::rc::Rc;

use super::draft::{Entry, Layer, Out, Table};
use super::eval::{Event, Lines, Opt, Said, What};
use super::left::{Notes, Sort};
use super::value::{Text, Value, option};

/// Puts events into layers: the first is the top of the file, then one for each machine.
struct Mapper<'m, 's> {
    notes: &'m mut Notes<'s>,
    layers: Vec<Layer>,
    /// Which provider gave a setting that all of them have, by layer and key.
    givers: HashMap<(usize, &'static str), Rc<str>>,
    subnets: network::Subnets,
    hooks: Vec<hooks::Draft>,
    /// Groups and machines as the file names them.
    groups: Vec<(String, String, Lines)>,
}

/// The layers of what was said: valid for `config` as far as one can tell without the files
/// that it names.
pub(super) fn map(said: Said, notes: &mut Notes<'_>) -> Vec<Layer> {
    let mut mapper = Mapper {
        notes,
        layers: vec![Layer::default()],
        givers: HashMap::new(),
        subnets: network::Subnets::default(),
        hooks: Vec::new(),
        groups: Vec::new(),
    };
    for machine in &said.machines {
        let layer = Layer { name: Some(machine.name.clone()), at: machine.at, ..Layer::default() };
        mapper.layers.push(layer);
    }
    for (index, machine) in said.machines.iter().enumerate() {
        mapper.define_options(index + 1, &machine.options, machine.at);
    }
    for event in said.events {
        mapper.event(event);
    }
    mapper.check();
    mapper.layers
}

impl Mapper<'_, '_> {
    fn lost(&mut self, at: Lines, reason: impl Into<String>) {
        self.notes.add(Sort::Lost, at, reason);
    }

    fn needless(&mut self, at: Lines, reason: impl Into<String>) {
        self.notes.add(Sort::Needless, at, reason);
    }

    fn set(&mut self, scope: usize, key: &'static str, value: Out, at: Lines) {
        self.set_with(scope, key, value, at, None);
    }

    fn set_with(&mut self, scope: usize, key: &'static str, value: Out, at: Lines, remark: Option<String>) {
        if let Some(layer) = self.layers.get_mut(scope) {
            layer.set(Entry { key, value, remark, at });
        }
    }

    fn add(&mut self, scope: usize, table: Table) {
        if let Some(layer) = self.layers.get_mut(scope) {
            layer.tables.push(table);
        }
    }

    fn define_options(&mut self, scope: usize, options: &[(Value, Value)], at: Lines) {
        for (key, value) in options {
            match (key.as_word(), value) {
                (Some("primary"), Value::Bool(true)) => self.set(scope, "primary", Out::Bool(true), at),
                (Some("autostart"), Value::Bool(false)) => self.set(scope, "autostart", Out::Bool(false), at),
                (Some("primary"), Value::Bool(false)) | (Some("autostart"), Value::Bool(true)) => {}
                (Some(name @ ("primary" | "autostart")), Value::Unknown(why)) => {
                    self.lost(at, format!("`{name}`: {why}"));
                }
                (name, _) => {
                    let name = name.unwrap_or("an option").to_owned();
                    self.lost(at, format!("`{name}` of a machine, which rvm import does not know"));
                }
            }
        }
    }

    fn event(&mut self, event: Event) {
        let Event { scope, at, only, what } = event;
        if let Some(provider) = only {
            return self.lost(at, format!("it is for the provider `{provider}` alone"));
        }
        match what {
            What::Set { path, value } => self.setting(scope, &path, &value, at),
            What::Provider { provider, key, args } => self.provider(scope, &provider, &key, &args, at),
            What::Call { path, args, options } => match path.as_str() {
                "vm.network" => self.network(scope, &args, &options, at),
                "vm.provision" => self.provision(scope, &args, options, at),
                "vm.disk" => self.disk(scope, &args, &options, at),
                "vm.synced_folder" => self.folder(scope, &args, &options, at),
                "trigger.before" => self.trigger("before", scope, &args, &options, at),
                "trigger.after" => self.trigger("after", scope, &args, &options, at),
                "vm.usable_port_range" => self.needless(at, "rvm takes any free port"),
                path => self.lost(at, format!("`config.{path}`, which has no counterpart")),
            },
        }
    }
}

/// The value of an option.
fn find<'o>(options: &'o [Opt], key: &str) -> Option<&'o Opt> {
    options.iter().find(|opt| opt.key == key)
}

/// A string of the TOML, with variables; `Err`: why there is none.
fn string(value: &Value) -> Result<Out, String> {
    let text = text(value)?;
    Out::filled(&text).ok_or_else(|| "a `$` before a variable, which TOML cannot say".into())
}

/// A string as the file has it: nil is an error, a bare variable of the environment is required.
fn text(value: &Value) -> Result<Text, String> {
    match value {
        Value::Text(text) => Ok(Text::clone(text)),
        Value::Unknown(why) => Err(why.to_string()),
        Value::Sym(_) | Value::Int(_) => value.to_text().ok_or_else(|| "a string is needed here".into()),
        other => Err(format!("{} where a string is needed", other.kind())),
    }
}

/// A whole number in a range, or the variable that holds it.
fn number(value: &Value, least: i64, most: i64) -> Result<Out, String> {
    let fits = |number: i64| (least..=most).contains(&number);
    let wrong = || format!("a whole number from {least} to {most} is needed here");
    match value {
        Value::Int(number) if fits(*number) => Ok(Out::Int(*number)),
        Value::Unknown(why) => Err(why.to_string()),
        Value::Text(text) => match (text.as_plain(), text.as_env()) {
            (Some(plain), _) => match plain.trim().parse() {
                Ok(number) if fits(number) => Ok(Out::Int(number)),
                _ => Err(wrong()),
            },
            (None, Some((_, default))) => {
                let fine = default.is_none_or(|default| default.trim().parse().is_ok_and(fits));
                if fine { string(value) } else { Err(wrong()) }
            }
            (None, None) => string(value),
        },
        _ => Err(wrong()),
    }
}

/// `true` or `false`.
fn boolean(value: &Value) -> Result<bool, String> {
    match value {
        Value::Bool(is) => Ok(*is),
        Value::Nil => Ok(false),
        Value::Unknown(why) => Err(why.to_string()),
        other => Err(format!("{} where true or false is needed", other.kind())),
    }
}

/// The value of a key that is a string or a symbol.
fn pair<'v>(value: &'v Value, key: &str) -> Option<&'v Value> {
    match value {
        Value::Hash(pairs) => option(pairs, key),
        _ => None,
    }
}
