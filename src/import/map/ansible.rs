//! `config.vm.provision "ansible"`.

use super::super::draft::{Entries, Out, Table};
use super::super::eval::{Lines, Opt};
use super::super::value::Value;
use super::{Mapper, boolean, find, string};

/// Options that mean nothing here, and why.
const NEEDLESS: &[(&str, &str)] = &[
    ("compatibility_mode", "the `ansible-playbook` of this host is taken as it is"),
    ("version", "the `ansible-playbook` of this host is taken as it is"),
    ("verbose", "a run says what it does; `args = [\"-v\"]` makes it say more"),
    ("host_key_checking", "host keys are pinned"),
    ("ask_become_pass", "nothing is asked"),
    ("force_remote_user", "the login user is in the inventory"),
];
/// Options that are arguments of `ansible-playbook`.
const ARGUMENTS: [(&str, &str); 2] =
    [("vault_password_file", "--vault-password-file"), ("start_at_task", "--start-at-task")];

impl Mapper<'_, '_> {
    /// The keys of the step; also whether it is for all machines at once.
    pub(super) fn ansible(&mut self, scope: usize, options: &[Opt]) -> Result<(Entries, bool), String> {
        let get = |key: &str| find(options, key).filter(|opt| opt.value != Value::Nil);
        let playbook = get("playbook").ok_or("an ansible step without a playbook")?;
        let mut entries = vec![("ansible", string(&playbook.value)?)];
        let mut arguments = Vec::new();
        let mut for_all = false;
        for opt in options {
            let key = opt.key.as_str();
            if opt.value == Value::Nil || matches!(key, "type" | "name" | "run" | "playbook") {
                continue;
            }
            match key {
                "extra_vars" => match extra_vars(&opt.value) {
                    Ok(vars) => entries.push(("extra_vars", vars)),
                    Err(why) => self.lost(opt.at, format!("`extra_vars`: {why}")),
                },
                "limit" => match words(&opt.value).as_deref() {
                    Ok([Out::Str(all)]) if all == "all" || all == "*" => for_all = true,
                    Ok([one]) => entries.push(("limit", one.clone())),
                    _ => self.lost(opt.at, "`limit` that is no pattern: write `limit = \"a:b\"`"),
                },
                "tags" | "skip_tags" => match words(&opt.value) {
                    Ok(list) if list.is_empty() => {}
                    Ok(list) => {
                        entries.push((if key == "tags" { "tags" } else { "skip_tags" }, Out::List(list)))
                    }
                    Err(why) => self.lost(opt.at, format!("`{key}`: {why}")),
                },
                "become" | "sudo" => {
                    if boolean(&opt.value)? {
                        entries.push(("become", Out::Bool(true)));
                    }
                }
                "raw_arguments" | "raw_ssh_args" => match words(&opt.value) {
                    Ok(list) if key == "raw_arguments" => arguments.extend(list),
                    _ => self.lost(opt.at, format!("`{key}` has no counterpart")),
                },
                "groups" => self.ansible_groups(&opt.value, opt.at),
                _ => match (
                    ARGUMENTS.iter().find(|(known, _)| *known == key),
                    NEEDLESS.iter().find(|(known, _)| *known == key),
                ) {
                    (Some((_, option)), _) => arguments.extend([Out::plain(option), string(&opt.value)?]),
                    (None, Some((_, why))) => self.needless(opt.at, *why),
                    (None, None) => {
                        self.lost(opt.at, format!("`{key}` of an ansible step has no counterpart"));
                    }
                },
            }
        }
        if !arguments.is_empty() {
            entries.push(("args", Out::List(arguments)));
        }
        // Within one machine it stands for "when they are all there"; else each machine would run it on all.
        if for_all && scope == 0 {
            entries.push(("limit", Out::plain("all")));
        }
        Ok((entries, for_all && scope > 0))
    }

    /// `groups: { "web" => ["a", "b"] }`: groups of the machines.
    fn ansible_groups(&mut self, value: &Value, at: Lines) {
        let Value::Hash(pairs) = value else {
            return self.lost(at, "`groups` that are not in the file: name them in `groups` of the machines");
        };
        for (group, members) in pairs.iter() {
            let members = match members {
                Value::List(list) => {
                    list.iter().map(|item| item.as_word().map(str::to_owned)).collect::<Option<_>>()
                }
                _ => None,
            };
            match (group.as_word(), members) {
                (Some(group), Some::<Vec<String>>(members)) if !group.contains(':') => {
                    self.groups.extend(members.into_iter().map(|member| (group.to_owned(), member, at)));
                }
                (group, _) => {
                    let group = group.unwrap_or("one");
                    self.lost(at, format!("the group `{group}`: groups of machines have names alone"));
                }
            }
        }
    }

    /// Gives machines, by the names that the file has for them, the groups that they are in.
    pub(super) fn place_groups(&mut self) {
        for (group, member, at) in std::mem::take(&mut self.groups) {
            let tidy = super::settings::tidy_name(&group, false);
            let index = self.layers.iter().skip(1).position(|layer| layer.name.as_ref() == Some(&member));
            let Some(index) = index else {
                self.lost(at, format!("the group `{group}` has `{member}`, which is no machine of the file"));
                continue;
            };
            if tidy != group {
                self.lost(at, format!("groups have only a to z, 0 to 9 and `-`: `{group}` is `{tidy}` here"));
            }
            if self.layers.iter().any(|layer| layer.name.as_ref() == Some(&tidy)) {
                self.lost(at, format!("the group `{tidy}` is called as a machine"));
                continue;
            }
            let mut groups = match self.layers.get(index + 1).and_then(|layer| layer.get("groups")) {
                Some(entry) => match &entry.value {
                    Out::List(list) => list.clone(),
                    _ => Vec::new(),
                },
                None => Vec::new(),
            };
            let group = Out::plain(&tidy);
            if !groups.contains(&group) {
                groups.push(group);
            }
            self.set(index + 1, "groups", Out::List(groups), at);
        }
    }

    /// A step that follows all machines.
    pub(super) fn add_after_all(&mut self, mut table: Table) {
        table.kind = "after_all";
        let name = table.get("name").cloned();
        let taken = self.layers.first().is_some_and(|top| {
            let same = |known: &&Table| known.kind == "after_all" && known.get("name") == name.as_ref();
            top.tables.iter().any(|known| same(&known))
        });
        if taken && name.is_some() {
            table.entries.retain(|(key, _)| *key != "name");
        }
        self.add(0, table);
    }
}

/// A string of words with commas, or a list.
fn words(value: &Value) -> Result<Vec<Out>, String> {
    match value {
        Value::List(list) => list.iter().map(string).collect(),
        Value::Text(text) => match text.as_plain() {
            Some(plain) => {
                let words = plain.split(',').map(str::trim).filter(|word| !word.is_empty());
                Ok(words.map(Out::plain).collect())
            }
            None => Ok(vec![string(value)?]),
        },
        other => Ok(vec![string(other)?]),
    }
}

fn extra_vars(value: &Value) -> Result<Out, String> {
    let Value::Hash(pairs) = value else {
        return Err("a file of variables: hand it over by `args = [\"--extra-vars\", \"@FILE\"]`".into());
    };
    let mut table = Vec::new();
    for (key, value) in pairs.iter() {
        let key = key.as_word().ok_or("a name that is not in the file")?;
        table.push((key.to_owned(), json(value)?));
    }
    Ok(Out::Map(table))
}

fn json(value: &Value) -> Result<Out, String> {
    match value {
        Value::Bool(is) => Ok(Out::Bool(*is)),
        Value::Int(number) => Ok(Out::Int(*number)),
        Value::List(list) => list.iter().map(json).collect::<Result<_, _>>().map(Out::List),
        Value::Hash(_) => extra_vars(value),
        other => string(other),
    }
}
