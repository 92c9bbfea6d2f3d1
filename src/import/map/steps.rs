//! `config.vm.provision`.

use super::super::draft::{Out, Table};
use super::super::eval::{Lines, Opt};
use super::super::value::{Piece, Text, Value};
use super::{Mapper, boolean, find, string, text};

/// Options of a script that mean nothing here, and why.
const NEEDLESS: &[(&str, &str)] = &[
    ("upload_path", "a script never lies where another one could be"),
    ("keep_color", "colours of scripts are left out"),
    ("binary", "line ends are converted only where the first line has Windows ones"),
    ("reset", "rvm logs in anew after steps of root"),
    ("preserve_order", "steps run in the order of the file"),
    ("communicator_required", "machines are reached by SSH"),
    ("md5", "scripts are not downloaded"),
    ("sha1", "scripts are not downloaded"),
    ("sha256", "scripts are not downloaded"),
];

impl Mapper<'_, '_> {
    pub(super) fn provision(&mut self, scope: usize, args: &[Value], options: Vec<Opt>, at: Lines) {
        let first = args.first().and_then(Value::as_word).map(str::to_owned);
        let kind = find(&options, "type").and_then(|opt| opt.value.as_word()).map(str::to_owned);
        // `provision "name", type: "shell"`, or `provision "shell", name: "name"`.
        let (kind, named) = match (kind, first) {
            (Some(kind), name) => (kind, name),
            (None, Some(kind)) => (kind, None),
            (None, None) => return self.lost(at, "a step of a kind that is not known"),
        };
        let mut after_all = false;
        let outcome = match kind.as_str() {
            "shell" => self.script(&options, at),
            "file" => self.file(&options),
            "docker" => self.docker(&options, at),
            "ansible" => self.ansible(scope, &options).map(|(entries, after)| {
                after_all = after;
                entries
            }),
            kind => Err(format!("the provisioner `{kind}` is not there yet")),
        };
        let entries = match outcome {
            Ok(entries) => entries,
            Err(why) => return self.lost(at, why),
        };
        let mut table = Table { kind: "provision", entries: Vec::new(), at };
        let name = find(&options, "name").map(|opt| opt.value.clone()).or_else(|| named.map(Value::text));
        if let Some(name) = name {
            match text(&name).ok().as_ref().and_then(Text::as_plain).map(step_name) {
                Some(name) if !name.is_empty() => table.set("name", Out::plain(&name)),
                _ => self.lost(at, "a step without a name that can be written"),
            }
        }
        // In the block of a docker step `run` is also a container.
        if let Some(run) = find(&options, "run").filter(|run| !matches!(run.value, Value::List(_))) {
            match run.value.as_word() {
                Some("once") => {}
                Some(word @ ("always" | "never")) => table.set("run", Out::Str(word.to_owned())),
                _ => self
                    .lost(run.at, "`run` can be once, always or never; Vagrant takes other words for once"),
            }
        }
        table.entries.extend(entries);
        match after_all {
            true => self.add_after_all(table),
            false => self.add_step(scope, table),
        }
    }

    /// A step of a name that is there already takes its place, as in Vagrant.
    fn add_step(&mut self, scope: usize, table: Table) {
        let name = table.get("name").cloned();
        let earlier = self.layers.get_mut(scope).and_then(|layer| {
            let same = |known: &&mut Table| known.kind == "provision" && known.get("name") == name.as_ref();
            layer.tables.iter_mut().find(same).filter(|_| name.is_some())
        });
        match earlier {
            Some(earlier) => *earlier = table,
            None => self.add(scope, table),
        }
    }

    pub(super) fn script(&mut self, options: &[Opt], at: Lines) -> Result<Vec<(&'static str, Out)>, String> {
        let get = |key: &str| find(options, key).filter(|opt| opt.value != Value::Nil);
        let mut entries = Vec::new();
        let variables = self.variables(options)?;
        match (get("inline"), get("path")) {
            (Some(inline), None) => {
                let script = text(&inline.value)?;
                let script = self.in_shell(&variables, &script, at);
                if script.trim().is_empty() {
                    return Err("an empty script".into());
                }
                if script.contains('\0') {
                    return Err("a script with a NUL character".into());
                }
                entries.push(("shell", Out::Script(script)));
            }
            (None, Some(path)) => {
                if path.value.as_word().is_some_and(|path| path.contains("://")) {
                    return Err("a script that would be downloaded".into());
                }
                entries.push(("path", string(&path.value)?));
                let names: Vec<Out> = variables
                    .iter()
                    .filter(|(name, value)| self.declare(name, value, at))
                    .map(|(name, _)| Out::plain(name))
                    .collect();
                if !names.is_empty() {
                    entries.push(("env", Out::List(names)));
                }
            }
            _ => return Err("a shell step needs one of `inline` and `path`".into()),
        }
        if let Some(args) = get("args") {
            let args = arguments(&args.value)?;
            if !args.is_empty() {
                entries.push(("args", Out::List(args)));
            }
        }
        if let Some(privileged) = get("privileged")
            && !boolean(&privileged.value)?
        {
            entries.push(("privileged", Out::Bool(false)));
        }
        for key in ["reboot", "sensitive"] {
            if let Some(opt) = get(key)
                && boolean(&opt.value)?
            {
                entries.push((key, Out::Bool(true)));
            }
        }
        for opt in options {
            let known =
                ["type", "name", "run", "inline", "path", "args", "env", "privileged", "reboot", "sensitive"];
            if known.contains(&opt.key.as_str()) || matches!(opt.value, Value::Bool(false) | Value::Nil) {
                continue;
            }
            match NEEDLESS.iter().find(|(key, _)| *key == opt.key) {
                Some((_, why)) => self.needless(opt.at, *why),
                None => self.lost(opt.at, format!("`{}` of a step has no counterpart", opt.key)),
            }
        }
        Ok(entries)
    }

    /// Puts a variable of a script file into `[vars]`, from where the step takes it. What comes from the
    /// environment is empty without it, as in Vagrant.
    fn declare(&mut self, name: &str, value: &Text, at: Lines) -> bool {
        let mut value = value.clone();
        for piece in &mut value.0 {
            match piece {
                // The environment has the name anyway, and counts more.
                Piece::Env { name: own, default } if own == name => {
                    *piece = Piece::Plain(default.take().unwrap_or_default());
                }
                Piece::Env { default, .. } => _ = default.get_or_insert_default(),
                Piece::Plain(_) => {}
            }
        }
        let value = Out::filled(&value).filter(|_| !name.starts_with("RVM_"));
        let vars = self.layers.first_mut().map(|top| &mut top.vars);
        let (Some(value), Some(vars)) = (value, vars) else {
            self.lost(at, format!("`env` {name} of a script file: write it to .env, and `env` to this step"));
            return false;
        };
        match vars.iter().find(|(known, _)| known == name) {
            Some((_, known)) if *known != value => {
                let why = format!("`env` {name}: another step gives it another value; it has the first here");
                self.lost(at, why);
            }
            Some(_) => {}
            None => vars.push((name.to_owned(), value)),
        }
        true
    }

    /// `env: { NAME: value }`.
    fn variables(&mut self, options: &[Opt]) -> Result<Vec<(String, Text)>, String> {
        let Some(opt) = find(options, "env") else { return Ok(Vec::new()) };
        let pairs = match &opt.value {
            Value::Hash(pairs) => pairs,
            Value::Nil => return Ok(Vec::new()),
            Value::Unknown(why) => return Err(why.to_string()),
            other => return Err(format!("`env` is {}", other.kind())),
        };
        let mut variables = Vec::new();
        for (name, value) in pairs.iter() {
            let name = name.as_word().filter(|name| is_name(name));
            match (name, value.to_text()) {
                (Some(name), Some(value)) => variables.push((name.to_owned(), value)),
                (Some(name), None) => {
                    let why = match value {
                        Value::Unknown(why) => why.to_string(),
                        other => other.kind().to_owned(),
                    };
                    self.lost(opt.at, format!("`env` {name}: {why}"));
                }
                (None, _) => self.lost(opt.at, "`env` with something that is no name of a variable"),
            }
        }
        Ok(variables)
    }

    /// The script with its variables set first. What comes from the environment of Vagrant is left
    /// to the guest's shell, with its default.
    fn in_shell(&mut self, variables: &[(String, Text)], script: &Text, at: Lines) -> String {
        let mut out = String::new();
        let mut outer: Vec<String> = script.names().map(str::to_owned).collect();
        for (name, value) in variables {
            out.push_str(&format!("export {name}={}\n", shell_word(value)));
            outer.extend(value.names().map(str::to_owned));
        }
        for piece in &script.0 {
            match piece {
                Piece::Plain(text) => out.push_str(text),
                Piece::Env { name, default } => out.push_str(&shell_variable(name, default.as_deref())),
            }
        }
        outer.dedup();
        for name in outer {
            let why = format!(
                "hand ENV[\"{name}\"] in: write {name} to .env, and `env = [\"{name}\"]` to the step"
            );
            self.lost(at, why);
        }
        out
    }

    fn file(&mut self, options: &[Opt]) -> Result<Vec<(&'static str, Out)>, String> {
        let get = |key: &str| {
            let opt = find(options, key).ok_or_else(|| format!("a file step without `{key}`"))?;
            text(&opt.value)
        };
        let mut source = get("source")?;
        // The content of the folder: so it is here anyway.
        if let Some(Piece::Plain(last)) = source.0.last_mut() {
            *last = last.strip_suffix("/.").unwrap_or(last).to_owned();
        }
        let mut destination = get("destination")?;
        if let Some(Piece::Plain(first)) = destination.0.first_mut() {
            let home = first.strip_prefix("$HOME/").or_else(|| first.strip_prefix("${HOME}/"));
            *first = home.unwrap_or(first).to_owned();
        }
        let filled = |text: &Text| Out::filled(text).ok_or_else(|| "a `$` before a variable".to_owned());
        let file = Out::Inline(vec![("source", filled(&source)?), ("destination", filled(&destination)?)]);
        Ok(vec![("file", file)])
    }
}

fn is_name(name: &str) -> bool {
    let word = |c: char| c.is_ascii_alphanumeric() || c == '_';
    !name.is_empty() && name.chars().all(word) && !name.starts_with(|c: char| c.is_ascii_digit())
}

/// A name as `config` takes it: one line, no comma, at most 64 characters.
pub(super) fn step_name(name: &str) -> String {
    let tidy: String =
        name.chars().map(|c| if c == ',' || c.is_control() { ' ' } else { c }).take(60).collect();
    tidy.split_whitespace().collect::<Vec<_>>().join(" ")
}

fn shell_variable(name: &str, default: Option<&str>) -> String {
    match default {
        None => format!("${{{name}}}"),
        Some(default) => {
            let mut escaped = String::new();
            for c in default.chars() {
                if matches!(c, '"' | '\\' | '$' | '`') {
                    escaped.push('\\');
                }
                escaped.push(c);
            }
            format!("${{{name}:-{escaped}}}")
        }
    }
}

/// The value as one word of a shell.
fn shell_word(value: &Text) -> String {
    let mut out = String::new();
    for piece in &value.0 {
        match piece {
            Piece::Plain(text) => out.push_str(&format!("'{}'", text.replace('\'', r"'\''"))),
            Piece::Env { name, default } => {
                out.push_str(&format!("\"{}\"", shell_variable(name, default.as_deref())));
            }
        }
    }
    if out.is_empty() { "''".to_owned() } else { out }
}

/// A list of arguments, or a string that Vagrant would hand to the shell.
pub(super) fn arguments(value: &Value) -> Result<Vec<Out>, String> {
    match value {
        Value::List(items) => items.iter().map(argument).collect(),
        Value::Text(text) => match text.as_plain() {
            Some(plain) => Ok(words(plain)?.iter().map(|word| Out::plain(word)).collect()),
            None if text.0.len() == 1 => Ok(vec![argument(value)?]),
            None => Err("arguments in one string with a variable in it: write them as a list".into()),
        },
        other => Ok(vec![argument(other)?]),
    }
}

fn argument(value: &Value) -> Result<Out, String> {
    match value {
        Value::Bool(is) => Ok(Out::Str(is.to_string())),
        Value::Float(_) => value.to_text().and_then(|text| Out::filled(&text)).ok_or_else(String::new),
        other => string(other),
    }
}

/// The words of a command line without anything that a shell would fill in.
fn words(line: &str) -> Result<Vec<String>, String> {
    let mut words = Vec::new();
    let mut word: Option<String> = None;
    let mut chars = line.chars();
    while let Some(c) = chars.next() {
        match c {
            c if c.is_whitespace() => words.extend(word.take()),
            '\'' | '"' => {
                let word = word.get_or_insert_with(String::new);
                loop {
                    match chars.next() {
                        Some(end) if end == c => break,
                        Some('$' | '`' | '\\') if c == '"' => {
                            return Err("arguments that a shell would fill in".into());
                        }
                        Some(inside) => word.push(inside),
                        None => return Err("arguments with an open quote".into()),
                    }
                }
            }
            '$' | '`' | '\\' | '*' | '?' | '~' | '|' | '&' | ';' | '<' | '>' | '(' | ')' => {
                return Err("arguments that a shell would fill in".into());
            }
            c => word.get_or_insert_with(String::new).push(c),
        }
    }
    words.extend(word);
    Ok(words)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arguments_in_one_string() {
        assert_eq!(words("a 'b c' \"d\"e  ''").unwrap(), ["a", "b c", "de", ""]);
        for wrong in ["$(x)", "\"$x\"", "a 'b", "*.txt", "a; b"] {
            assert!(words(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn values_are_one_word_of_a_shell() {
        assert_eq!(shell_word(&Text::plain("it's")), r"'it'\''s'");
        assert_eq!(shell_word(&Text::env("A", Some("x$y".into()))), r#""${A:-x\$y}""#);
        assert_eq!(shell_word(&Text::default()), "''");
    }

    #[test]
    fn names_of_steps() {
        assert_eq!(step_name("install, then  run\n"), "install then run");
    }
}
