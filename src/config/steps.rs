//! `[[provision]]`.

use std::ops::Range;
use std::path::{Path, PathBuf};

use crate::model::{RunPolicy, Script, Secret, Step, StepKind};

use super::ansible;
use super::report::brief;
use super::vars::{PASSWORD, Text, is_name};
use super::walk::{Reader, Sp, Table};

/// The keys that say what a step does; each step has one of them.
const KINDS: [&str; 6] = ["shell", "path", "packages", "file", "ansible", "docker"];
/// Those that may be followed by a reboot.
const REBOOTING: [&str; 3] = ["shell", "path", "packages"];
/// Times that a step may be run again.
const MOST_RETRIES: u64 = 100;
const RUN: [(&str, RunPolicy); 3] =
    [("once", RunPolicy::Once), ("always", RunPolicy::Always), ("never", RunPolicy::Never)];

/// A step that may not have a name yet.
#[derive(Debug, Clone)]
pub(super) struct RawStep {
    /// As the file gives it.
    pub name: Option<Sp<String>>,
    /// The rest; its name is empty.
    pub step: Step,
}

impl Reader<'_> {
    /// One `[[provision]]`.
    pub fn step(&mut self, table: &Table<'_>) -> Option<RawStep> {
        let name = self.step_name(table);
        let run = self.run_policy(table);
        let env = self.step_env(table);
        let given: Vec<(&str, Range<usize>)> =
            KINDS.iter().filter_map(|key| Some((*key, table.key_span(key)?))).collect();
        let reboot = self.boolean(table, "reboot").unwrap_or(false);
        let kind = match given.as_slice() {
            [] if reboot => Some(StepKind::Reboot),
            [] => {
                let help = "add `shell = \"…\"`, `path = \"script.sh\"`, `packages = [\"…\"]`, \
                            `file = { source = \"…\", destination = \"…\" }`, `ansible = \"site.yml\"`, `docker = { images = [\"…\"] }` or `reboot = true`";
                self.wrong(&table.span, "this step does not say what to do", help);
                None
            }
            [(key, _)] => self.step_kind(table, key),
            [(first, _), others @ ..] => {
                for (other, span) in others {
                    let message = format!("a step does one thing, but this one has `{first}` and `{other}`");
                    self.wrong(span, message, "make two steps of it, each with its own `[[provision]]`");
                }
                None
            }
        };
        let is_script = given.iter().any(|(key, _)| matches!(*key, "shell" | "path"));
        let is_ansible = given.iter().any(|(key, _)| *key == "ansible");
        for key in ansible::KEYS {
            if let Some(span) = table.key_span(key).filter(|_| !is_ansible) {
                let message = format!("`{key}` is for steps with `ansible`, and this one has none");
                self.wrong(&span, message, "remove it, or use `ansible`");
            }
        }
        for key in ["args", "privileged"] {
            let fits = is_script || (is_ansible && key == "args");
            if let Some(span) = table.key_span(key).filter(|_| !fits) {
                let message = format!("`{key}` is for scripts, and this step has none");
                self.wrong(&span, message, "remove it, or use `shell` or `path`");
            }
        }
        if let (true, [(key, _)], Some(span)) = (reboot, given.as_slice(), table.key_span("reboot"))
            && !REBOOTING.contains(key)
        {
            let message = format!("a step with `{key}` is not followed by a reboot");
            self.wrong(&span, message, "make a step of its own of it, with `reboot = true` alone");
        }
        let retries = self.number(table, "retries", 0, MOST_RETRIES).map_or(0, |retries| retries.value);
        let timeout = self.time(table, "timeout").map(|time| time.value);
        let sensitive = self.boolean(table, "sensitive").unwrap_or(false);
        let step = Step {
            run,
            env: env?,
            retries: u32::try_from(retries).unwrap_or_default(),
            timeout,
            reboot,
            sensitive,
            ..Step::new(String::new(), kind?)
        };
        Some(RawStep { name, step })
    }

    fn run_policy(&mut self, table: &Table<'_>) -> RunPolicy {
        // Vagrant takes any word it does not know for `once`: people expect these to mean something.
        const MEANT: [(&[&str], &str); 2] = [
            (&["no", "false", "off", "none", "manual"], "never"),
            (&["yes", "true", "on", "each", "every"], "always"),
        ];
        if let Some(word) =
            table.raw("run").filter(|value| value.get_ref().is_str()).and_then(|v| self.fill(v))
            && let Some((_, meant)) =
                MEANT.iter().find(|(words, _)| words.contains(&word.value.value.as_str()))
        {
            let message = format!("`run` cannot be {:?}", brief(&word.value.shown));
            let help = format!("did you mean `{meant}`? It can be `once`, `always` or `never`");
            self.wrong(&word.span, message, help);
            return RunPolicy::default();
        }
        self.choice(table, "run", &RUN).map(|run| run.value).unwrap_or_default()
    }

    pub(super) fn step_name(&mut self, table: &Table<'_>) -> Option<Sp<String>> {
        const LONGEST: usize = 64;
        let name = self.text(table, "name", "\"web server\"")?;
        let text = name.value.value.as_str();
        // `--provision-with` takes a comma list.
        let fine = !text.trim().is_empty()
            && text.chars().count() <= LONGEST
            && !text.contains(|c: char| c == ',' || c.is_control())
            && text.trim() == text;
        if !fine {
            let message = format!("a step cannot be called {:?}", brief(&name.value.shown));
            self.wrong(&name.span, message, "use 1 to 64 characters on one line, without commas");
            return None;
        }
        Some(name.map(|text| text.value))
    }

    /// The names that a step may see, with their values.
    pub(super) fn step_env(&mut self, table: &Table<'_>) -> Option<Vec<(String, Secret)>> {
        if table.raw("env").is_none() {
            return Some(Vec::new());
        }
        let mut env: Vec<(String, Secret)> = Vec::new();
        let mut complete = true;
        for item in self.texts(table, "env", "[\"DB_NAME\", \"DB_USER\"]")? {
            let name = item.value.value;
            let problem = if name == PASSWORD {
                let help = "it is used to log in; give the step a variable of its own";
                Some((format!("`{PASSWORD}` is not given to steps"), help.to_owned()))
            } else if !is_name(&name) {
                let message = format!("{:?} is not the name of a variable", brief(&item.value.shown));
                Some((message, "name variables of the ENV file; their values follow from it".to_owned()))
            } else if env.iter().any(|(other, _)| *other == name) {
                Some((format!("`{name}` is named twice"), "remove one of them".to_owned()))
            } else if let Some(found) = self.vars.get(&name) {
                self.vars.keep_secret(&name, &found.value);
                env.push((name, Secret::new(found.value)));
                None
            } else {
                complete = false;
                self.vars.undefined(&name)
            };
            if let Some((message, help)) = problem {
                complete = false;
                self.wrong(&item.span, message, help);
            }
        }
        complete.then_some(env)
    }

    pub(super) fn step_kind(&mut self, table: &Table<'_>, key: &str) -> Option<StepKind> {
        match key {
            "packages" => self.packages(table),
            "file" => self.file(table),
            "ansible" => self.ansible(table),
            "docker" => self.docker(table),
            _ => {
                let script = match key {
                    "shell" => self.inline_script(table).map(Script::Inline),
                    _ => self.script_path(table).map(Script::Path),
                };
                let args = self.script_args(table);
                let privileged = match table.raw("privileged") {
                    Some(_) => self.boolean(table, "privileged"),
                    None => Some(true),
                };
                Some(StepKind::Shell { script: script?, args: args?, privileged: privileged? })
            }
        }
    }

    fn inline_script(&mut self, table: &Table<'_>) -> Option<String> {
        let help = "write the commands that the guest's shell is to run";
        self.script_text(table, "shell", "\"echo hello\"", "script", help)
    }

    /// What the guest's shell is to run, as it stands: `${NAME}` in it belongs to that shell. `what` is
    /// how messages call it.
    pub(super) fn script_text(
        &mut self,
        table: &Table<'_>,
        key: &str,
        example: &str,
        what: &str,
        help: &str,
    ) -> Option<String> {
        let script = self.verbatim(table, key, example)?;
        let fault = if script.value.trim().is_empty() {
            "is empty"
        } else if script.value.contains('\0') {
            "holds a NUL character"
        } else {
            return Some(script.value);
        };
        self.wrong(&script.span, format!("the {what} {fault}"), help);
        None
    }

    fn script_path(&mut self, table: &Table<'_>) -> Option<PathBuf> {
        let given = self.text(table, "path", "\"scripts/setup.sh\"")?;
        let path = self.host_file(&given, "script", "name the script itself")?;
        if let Err(error) = std::fs::File::open(&path) {
            let message = format!("cannot read the script {:?}: {error}", brief(&given.value.shown));
            self.wrong(&given.span, message, "check that you may read it");
            return None;
        }
        Some(path)
    }

    pub(super) fn script_args(&mut self, table: &Table<'_>) -> Option<Vec<String>> {
        if table.raw("args").is_none() {
            return Some(Vec::new());
        }
        let args = self.texts(table, "args", "[\"--fast\", \"two words\"]")?;
        let mut fine = true;
        for arg in &args {
            if let Some(name) = &arg.value.secret {
                fine = false;
                let message =
                    format!("`{name}` is from the ENV file, and arguments can be seen by all in the guest");
                let help = format!("use `env = [\"{name}\"]` and read `${name}` in the script");
                self.wrong(&arg.span, message, help);
            } else if arg.value.value.contains('\0') {
                fine = false;
                self.wrong(&arg.span, "an argument holds a NUL character", "remove it");
            }
        }
        fine.then(|| args.into_iter().map(|arg| arg.value.value).collect())
    }

    fn packages(&mut self, table: &Table<'_>) -> Option<StepKind> {
        let names = self.texts(table, "packages", "[\"nginx\"]")?;
        if let (true, Some(value)) = (names.is_empty(), table.raw("packages")) {
            self.wrong(&value.span(), "`packages` is empty", "name at least one package");
            return None;
        }
        let mut fine = true;
        for name in &names {
            if !is_package(&name.value.value) {
                fine = false;
                let message = format!("{:?} is not the name of a package", brief(&name.value.shown));
                self.wrong(&name.span, message, "one name in each string, such as `[\"nginx\", \"git\"]`");
            }
        }
        let names = names.into_iter().map(|name| name.value.value).collect();
        fine.then_some(StepKind::Packages { names })
    }

    /// A path on the host that exists: relative ones start at the project folder.
    pub fn host_path(&mut self, given: &Sp<Text>, what: &str) -> Option<PathBuf> {
        let path = self.named_path(given, what)?;
        match std::fs::metadata(&path) {
            Ok(_) => Some(path),
            Err(error) => {
                let (message, help) = unusable(given, what, &path, &error);
                self.wrong(&given.span, message, help);
                None
            }
        }
    }

    /// A path of the host, whether anything is there or not.
    pub fn named_path(&mut self, given: &Sp<Text>, what: &str) -> Option<PathBuf> {
        let path = self.resolve_path(given);
        let fault = match &path {
            None => "`HOME` is not set",
            Some(_) if given.value.value.trim().is_empty() => "the path is empty",
            Some(_) => return path,
        };
        let message = format!("cannot use the {what} {:?}: {fault}", brief(&given.value.shown));
        let help = match path.filter(|_| !given.value.is_filled()) {
            Some(path) => format!("it was looked for at {}", path.display()),
            None => RELATIVE.into(),
        };
        self.wrong(&given.span, message, help);
        None
    }

    /// Likewise a file; `help` says which one is meant.
    pub fn host_file(&mut self, given: &Sp<Text>, what: &str, help: &str) -> Option<PathBuf> {
        let path = self.host_path(given, what)?;
        if !path.is_file() {
            let message = format!("the {what} {:?} is not a file", brief(&given.value.shown));
            self.wrong(&given.span, message, help);
            return None;
        }
        Some(path)
    }

    /// `~/` is the home folder, other relative paths start at the folder of the file that they
    /// are in. `None`: there is no home folder.
    pub fn resolve_path(&self, given: &Sp<Text>) -> Option<PathBuf> {
        let text = given.value.value.as_str();
        match text.strip_prefix("~/") {
            Some(rest) => self.vars.environment("HOME").map(|home| Path::new(&home).join(rest)),
            None => {
                let file = self.problems.file_of(given.span.start);
                Some(file.parent().unwrap_or(&self.root).join(text))
            }
        }
    }
}

const RELATIVE: &str = "relative paths start at the folder of the file that they are in";

/// What is said of a path of the host that cannot be used, and what to do about it.
pub(super) fn unusable(
    given: &Sp<Text>,
    what: &str,
    path: &Path,
    error: &std::io::Error,
) -> (String, String) {
    let fault = match error.kind() {
        std::io::ErrorKind::NotFound => "it does not exist".to_owned(),
        _ => error.to_string(),
    };
    let message = format!("cannot use the {what} {:?}: {fault}", brief(&given.value.shown));
    let help = match given.value.is_filled() {
        false => format!("it was looked for at {}", path.display()),
        true => RELATIVE.into(),
    };
    (message, help)
}

/// Names of packages, with what apt accepts behind them (`name=version`, `name:arch`,
/// `name/suite`) and others do; nothing that a package manager could take for an option or a removal.
fn is_package(name: &str) -> bool {
    name.len() <= 256
        && name.starts_with(|c: char| c.is_ascii_alphanumeric())
        && !name.ends_with('-')
        && name.chars().all(|c| c.is_ascii_alphanumeric() || "+-._:~=/@^".contains(c))
}

#[cfg(test)]
mod tests {
    use super::is_package;

    #[test]
    fn package_names() {
        for name in ["nginx", "g++", "libc6:amd64", "nginx=1.22.1-9", "7zip", "python3.11", "bash/bookworm"] {
            assert!(is_package(name), "{name}");
        }
        for name in ["", "-y", "nginx-", "a b", "a;b", "$(x)", "é", "../x"] {
            assert!(!is_package(name), "{name}");
        }
    }
}
