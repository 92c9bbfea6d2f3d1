//! `config.trigger`.

use super::super::draft::{Out, Table};
use super::super::eval::{Lines, Opt};
use super::super::value::Value;
use super::{Mapper, find};

/// Commands that hooks can be around.
const COMMANDS: [&str; 6] = ["up", "halt", "reload", "provision", "destroy", "ssh"];
/// What a script on either side can say.
const SCRIPT: [&str; 5] = ["inline", "path", "args", "env", "privileged"];

/// A hook, before the names of machines are settled.
pub(super) struct Draft {
    /// 0: for all machines; else the machine, from 1.
    pub scope: usize,
    pub table: Table,
    /// Names that `only_on` gives.
    pub only: Vec<String>,
}

impl Mapper<'_, '_> {
    pub(super) fn trigger(
        &mut self,
        moment: &'static str,
        scope: usize,
        args: &[Value],
        options: &[Opt],
        at: Lines,
    ) {
        let Some(commands) = self.commands(args, at) else { return };
        if let Some(kind) = find(options, "type")
            && kind.value.as_word() != Some("command")
        {
            return self.lost(at, "a trigger of Vagrant's insides: hooks are around commands");
        }
        let mut only = Vec::new();
        for opt in options {
            match opt.key.as_str() {
                "run" | "run_remote" | "type" | "name" | "on_error" => {}
                "only_on" => match names(&opt.value) {
                    Some(names) => only = names,
                    None => {
                        return self.lost(
                            opt.at,
                            "`only_on` that is no list of names: name the machines of the hook",
                        );
                    }
                },
                "info" | "warn" => self.needless(opt.at, "what a hook prints is shown"),
                key => self.lost(opt.at, format!("`{key}` of a trigger has no counterpart")),
            }
        }
        let mut found = false;
        for (key, on) in [("run", "host"), ("run_remote", "guest")] {
            let Some(opt) = find(options, key) else { continue };
            found = true;
            if on == "guest" && !self.has_guest(moment, &commands, at) {
                continue;
            }
            match self.hook_script(on, &opt.value, opt.at) {
                Ok(script) => {
                    let mut entries = Vec::new();
                    let name = find(options, "name").and_then(|opt| opt.value.as_word());
                    if let Some(name) = name.map(super::steps::step_name).filter(|name| !name.is_empty()) {
                        entries.push(("name", Out::plain(&name)));
                    }
                    let words = commands.iter().map(|command| Out::plain(command)).collect();
                    entries.push((moment, Out::List(words)));
                    if on == "guest" {
                        entries.push(("on", Out::plain(on)));
                    }
                    if find(options, "on_error").and_then(|opt| opt.value.as_word()) == Some("continue") {
                        entries.push(("on_error", Out::plain("continue")));
                    }
                    entries.extend(script);
                    let table = Table { kind: "hook", entries, at };
                    self.hooks.push(Draft { scope, table, only: only.clone() });
                }
                Err(why) => self.lost(opt.at, why),
            }
        }
        if !found {
            self.lost(at, "a trigger that runs nothing which rvm import knows");
        }
    }

    fn commands(&mut self, args: &[Value], at: Lines) -> Option<Vec<String>> {
        let mut words = Vec::new();
        for arg in args {
            match arg {
                Value::List(list) => words.extend(list.iter().map(Value::as_word)),
                other => words.push(other.as_word()),
            }
        }
        let mut commands: Vec<String> = Vec::new();
        for word in words {
            match word {
                Some("all") => commands.extend(COMMANDS.map(str::to_owned)),
                Some(word) if COMMANDS.contains(&word) => commands.push(word.to_owned()),
                Some(word) => self.lost(at, format!("there are no hooks around `{word}`")),
                None => self.lost(at, "a trigger around a command that is not in the file"),
            }
        }
        commands.sort_by_key(|word| COMMANDS.iter().position(|known| known == word));
        commands.dedup();
        (!commands.is_empty()).then_some(commands)
    }

    fn has_guest(&mut self, moment: &str, commands: &[String], at: Lines) -> bool {
        let gone = |command: &&String| match moment {
            "before" => *command == "up",
            _ => matches!(command.as_str(), "halt" | "destroy"),
        };
        match commands.iter().find(gone) {
            Some(command) => {
                self.lost(at, format!("{moment} `{command}` there is no guest to run this in"));
                false
            }
            None => true,
        }
    }

    fn hook_script(
        &mut self,
        on: &str,
        value: &Value,
        at: Lines,
    ) -> Result<Vec<(&'static str, Out)>, String> {
        let Value::Hash(pairs) = value else {
            return Err("a trigger without a script that is in the file".into());
        };
        let mut options = Vec::new();
        for (key, value) in pairs.iter() {
            match key.as_word() {
                Some(key) if SCRIPT.contains(&key) => {
                    options.push(Opt { key: key.to_owned(), value: value.clone(), at });
                }
                Some(key) => self.lost(at, format!("`{key}` of a trigger has no counterpart")),
                None => {}
            }
        }
        let mut entries = self.script(&options, at)?;
        if on == "host" {
            entries.retain(|(key, _)| *key != "privileged");
        }
        // A step may be rebooted after; a hook may not.
        entries.retain(|(key, _)| !matches!(*key, "reboot" | "sensitive"));
        Ok(entries)
    }

    /// Puts the hooks at the top of the file, for the machines as they are called by now.
    pub(super) fn place_hooks(&mut self) {
        for Draft { scope, mut table, only } in std::mem::take(&mut self.hooks) {
            let own = self.layers.get(scope).and_then(|layer| layer.name.clone());
            let known = |name: &String| self.layers.iter().any(|layer| layer.name.as_ref() == Some(name));
            let names: Vec<String> = match own.filter(|_| scope > 0) {
                Some(name) => vec![name],
                None if only.iter().all(known) => only,
                None => {
                    self.lost(table.at, "`only_on` names a machine that the file does not have");
                    continue;
                }
            };
            if !names.is_empty() {
                table
                    .entries
                    .push(("machines", Out::List(names.iter().map(|name| Out::plain(name)).collect())));
            }
            self.add(0, table);
        }
    }
}

/// A name or a list of names.
fn names(value: &Value) -> Option<Vec<String>> {
    match value {
        Value::List(list) => list.iter().map(|item| item.as_word().map(str::to_owned)).collect(),
        other => other.as_word().map(|word| vec![word.to_owned()]),
    }
}
