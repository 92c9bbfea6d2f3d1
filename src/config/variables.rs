//! `[vars]`, and what `--var` says of it.

use toml::de::DeValue;

use super::report::brief;
use super::suggest::{nearest, one_of};
use super::vars::{PASSWORD, is_name};
use super::walk::{Reader, Table};

/// Variables of one project.
const MOST_VARS: usize = 1000;
/// Begins the names that mean something to `rvm` itself.
const OWN: &str = "RVM_";
/// Names that a help lists.
const MOST_LISTED: usize = 12;

impl Reader<'_> {
    /// Takes the variables of `[vars]`; each may refer to others.
    pub fn variables(&mut self, top: &Table<'_>) {
        let Some(value) = top.raw("vars") else { return };
        let Some(entries) = value.get_ref().as_table() else {
            self.wrong(
                &value.span(),
                "`vars` is not a table",
                "write `[vars]` and `NAME = \"value\"` below it",
            );
            return;
        };
        if entries.len() > MOST_VARS {
            let message = format!("`[vars]` has {} variables", entries.len());
            self.wrong(&value.span(), message, format!("at most {MOST_VARS} are accepted"));
            return;
        }
        for (key, value) in entries {
            let name: &str = key.get_ref();
            if !is_name(name) {
                let message = format!("{:?} is not the name of a variable", brief(name));
                self.wrong(&key.span(), message, "use letters, digits and `_`, beginning with no digit");
                continue;
            }
            if name.starts_with(OWN) {
                let help = "names that begin with `RVM_` belong to rvm; they are set in the ENV file or the environment";
                self.wrong(&key.span(), format!("`{name}` is no variable of a project"), help);
                continue;
            }
            let text = match value.get_ref() {
                DeValue::String(text) => text.to_string(),
                DeValue::Integer(number) => number.to_string(),
                DeValue::Float(number) => number.as_str().to_owned(),
                DeValue::Boolean(is) => is.to_string(),
                _ => {
                    let help = format!("write a string or a number, such as `{name} = \"value\"`");
                    self.wrong(&value.span(), format!("the variable `{name}` cannot have this value"), help);
                    self.vars.declare_failed(name);
                    continue;
                }
            };
            self.vars.declare(name, &text, value.span());
        }
        for fault in self.vars.resolve_declared() {
            for reference in fault.bad {
                let span = self.locate(&fault.span, &fault.text, &reference.range);
                self.wrong(&span, reference.message, reference.help);
            }
        }
    }

    /// A variable that is given for this once and that nothing uses is a mistake.
    pub fn check_given(&mut self) {
        let given = self.vars.given();
        for (at, (name, _)) in given.iter().enumerate() {
            let shown = brief(name);
            let repeated = given.iter().take(at).any(|(earlier, _)| earlier == name);
            if repeated || self.problems.is_full() {
                continue;
            }
            if name == PASSWORD {
                let help = "other users of this host can see it there: write it to the ENV file";
                self.problems.add_whole(format!("`{PASSWORD}` cannot be given on the command line"), help);
            } else if !is_name(name) {
                let message = format!("`--var {shown}`: this is not the name of a variable");
                self.problems.add_whole(message, "write `--var NAME=VALUE`");
            } else if !self.vars.is_known(name) {
                let known = self.vars.known();
                let help = match nearest(name, known.iter().map(String::as_str)) {
                    Some(near) => format!("did you mean `{near}`?"),
                    None if known.is_empty() => "it has no variables".into(),
                    None => {
                        format!("it can be {}", one_of(known.iter().take(MOST_LISTED).map(String::as_str)))
                    }
                };
                let message = format!("`--var {shown}`: nothing in this project uses the variable `{shown}`");
                self.problems.add_whole(message, help);
            }
        }
    }
}
