//! `${NAME}` in string values: where values come from and how they are filled in.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

use crate::model::Masker;

use super::envfile::EnvFile;
pub(super) use super::expand::{BadRef, MOST_FILLED, Text};
use super::index::Turn;
use super::suggest::nearest;

/// The password that logs in to the guests: never a part of anything else.
pub(super) const PASSWORD: &str = "RVM_SSH_PASSWORD";
/// ENV file names whose values are shown by `rvm ssh-config` and so are not masked.
const SHOWN: [&str; 2] = ["RVM_SSH_USER", "RVM_SSH_KEY"];

/// Variables of `[vars]` that stand for one another.
const DEEPEST: usize = 32;

/// Names and values, from the first that counts to the last: what is given for this once, the
/// environment of the process, the ENV files, what the project declares.
pub(super) struct Vars<'a> {
    given: &'a [(String, String)],
    env: &'a dyn Fn(&str) -> Option<String>,
    file: EnvFile,
    declared: BTreeMap<String, Declared>,
    /// Names of `declared` that are being resolved.
    resolving: Vec<String>,
    /// What is wrong with `declared`.
    faults: Vec<Fault>,
    /// Names that something asked for.
    asked: BTreeSet<String>,
    /// The ENV files have not been read: only what stands before them counts.
    early: bool,
    /// The ENV files could not be read in full: missing names are no news.
    incomplete: bool,
    /// Values of the environment that stand in for, or beside, those of the ENV file.
    secrets: BTreeSet<(String, String)>,
    /// What `{i}` stands for.
    pub turn: Turn,
    /// `{i}` was filled in since this was last set to false.
    pub counted: bool,
    /// Bytes that may still be filled in.
    pub left: usize,
}

/// A variable of `[vars]`.
struct Declared {
    /// As it is written.
    text: String,
    /// Where that is.
    span: Range<usize>,
    state: State,
}

#[derive(Clone)]
enum State {
    Unresolved,
    Resolving,
    Resolved(Text),
    /// What is wrong has been noted.
    Failed,
}

/// What is wrong with a variable of `[vars]`.
pub(super) struct Fault {
    /// Its value as it is written.
    pub text: String,
    /// Where that is.
    pub span: Range<usize>,
    /// The references in it that cannot be filled in.
    pub bad: Vec<BadRef>,
}

/// A value and where it came from.
pub(super) struct Found {
    /// The value.
    pub value: String,
    /// A name that stands in the ENV file and whose value is part of this one, so that it
    /// counts as a secret.
    pub secret: Option<String>,
}

/// Message and help.
pub(super) type News = (String, String);

impl<'a> Vars<'a> {
    /// Only what is given for this once, and the environment of the process.
    pub fn new(env: &'a dyn Fn(&str) -> Option<String>, given: &'a [(String, String)]) -> Self {
        Vars {
            given,
            env,
            file: EnvFile::default(),
            declared: BTreeMap::new(),
            resolving: Vec::new(),
            faults: Vec::new(),
            asked: BTreeSet::new(),
            early: true,
            incomplete: false,
            secrets: BTreeSet::new(),
            turn: Turn::Uncounted,
            counted: false,
            left: MOST_FILLED,
        }
    }

    /// Takes the ENV files. `incomplete`: parts of them could not be read, which is a problem
    /// of its own.
    pub fn set_files(&mut self, file: EnvFile, incomplete: bool) {
        self.file = file;
        self.incomplete = incomplete;
        self.early = false;
    }

    /// The ENV files.
    pub fn file(&self) -> &EnvFile {
        &self.file
    }

    /// What is given for this once.
    pub fn given(&self) -> &'a [(String, String)] {
        self.given
    }

    /// A variable of the process alone.
    pub fn environment(&self, name: &str) -> Option<String> {
        (self.env)(name)
    }

    /// Takes a variable of `[vars]`.
    pub fn declare(&mut self, name: &str, text: &str, span: Range<usize>) {
        let declared = Declared { text: text.to_owned(), span, state: State::Unresolved };
        self.declared.insert(name.to_owned(), declared);
    }

    /// Notes that `[vars]` has this name, and something is wrong with its value.
    pub fn declare_failed(&mut self, name: &str) {
        let declared = Declared { text: String::new(), span: 0..0, state: State::Failed };
        self.declared.insert(name.to_owned(), declared);
    }

    /// Fills in the variables of `[vars]`; gives what is wrong with them.
    pub fn resolve_declared(&mut self) -> Vec<Fault> {
        let names: Vec<String> = self.declared.keys().cloned().collect();
        for name in names {
            self.declared(&name);
        }
        std::mem::take(&mut self.faults)
    }

    /// The value of a variable of `[vars]`.
    fn declared(&mut self, name: &str) -> Option<Text> {
        let entry = self.declared.get(name)?;
        let (text, span) = (entry.text.clone(), entry.span.clone());
        let fault = match &entry.state {
            State::Resolved(text) => return Some(text.clone()),
            State::Failed => return None,
            State::Resolving => {
                let from = self.resolving.iter().position(|other| other == name).unwrap_or_default();
                let chain: Vec<String> =
                    self.resolving.iter().skip(from).map(|other| format!("`{other}`")).collect();
                let message = format!("`{name}` stands for itself: {} → `{name}`", chain.join(" → "));
                Some((message, "write one of these values out".to_owned()))
            }
            State::Unresolved if self.resolving.len() >= DEEPEST => {
                let message = format!("variables stand for one another more than {DEEPEST} deep");
                Some((message, "write some of these values out".to_owned()))
            }
            State::Unresolved => None,
        };
        let bad = match fault {
            Some((message, help)) => vec![BadRef { range: 0..text.len(), message, help }],
            None => {
                self.set_state(name, State::Resolving);
                self.resolving.push(name.to_owned());
                let filled = self.expand(&text);
                self.resolving.pop();
                match filled {
                    Ok(filled) => {
                        self.set_state(name, State::Resolved(filled.clone()));
                        return Some(filled);
                    }
                    Err(bad) => bad,
                }
            }
        };
        self.set_state(name, State::Failed);
        self.faults.push(Fault { text, span, bad });
        None
    }

    fn set_state(&mut self, name: &str, state: State) {
        if let Some(declared) = self.declared.get_mut(name) {
            // What has failed stays so: a circle is found from within.
            if !matches!(declared.state, State::Failed) {
                declared.state = state;
            }
        }
    }

    /// The value of a name: what is given for this once, then the environment of the process,
    /// then the ENV files, then `[vars]`.
    pub fn get(&mut self, name: &str) -> Option<Found> {
        self.asked.insert(name.to_owned());
        let entry = self.file.entries.get(name);
        let secret = entry.is_some().then(|| name.to_owned());
        let given = self.given.iter().rev().find(|(given, _)| given == name);
        let over = given.map(|(_, value)| value.clone()).or_else(|| (self.env)(name));
        if let (Some(value), Some(name)) = (&over, &secret) {
            self.keep_secret(name, value);
        }
        let in_file = || self.file.entries.get(name).map(|entry| entry.value.clone());
        if let Some(value) = over.or_else(in_file) {
            return Some(Found { value, secret });
        }
        self.declared(name).map(|text| Found { value: text.value, secret: text.secret })
    }

    /// Whether something in the project is named so.
    pub fn is_known(&self, name: &str) -> bool {
        self.asked.contains(name) || self.declared.contains_key(name)
    }

    /// The names that something in the project asks for, but for those of `rvm` itself.
    pub fn known(&self) -> Vec<String> {
        let all: BTreeSet<&String> = self.asked.iter().chain(self.declared.keys()).collect();
        all.into_iter().filter(|name| !name.starts_with("RVM_")).cloned().collect()
    }

    /// Masks this value too from now on, unless it stands in `[vars]` for all to read.
    pub fn keep_secret(&mut self, name: &str, value: &str) {
        let open = self.declared.get(name).is_some_and(|declared| {
            matches!(&declared.state, State::Resolved(text) if text.secret.is_none() && text.value == value)
        });
        if !open || is_sensitive(name) {
            self.secrets.insert((name.to_owned(), value.to_owned()));
        }
    }

    /// Message and help for a name that nobody defines; `None` where that is no news.
    pub fn undefined(&self, name: &str) -> Option<News> {
        if self.incomplete || self.declared.contains_key(name) {
            return None;
        }
        let files: Vec<String> = self.file.paths.iter().map(|path| path.display().to_string()).collect();
        let place = match files.as_slice() {
            _ if self.early => "the environment does not have it, and nothing else counts here".to_owned(),
            [] => "neither `[vars]` nor the environment has it, and there is no ENV file".to_owned(),
            files => format!("neither `[vars]` nor {} nor the environment has it", files.join(" nor ")),
        };
        let known = self.file.entries.keys().chain(self.declared.keys());
        let help = match nearest(name, known.map(String::as_str)) {
            Some(near) => format!("did you mean `{near}`? ({place})"),
            None => format!("{place}; set it there, or give a default: `${{{name}:-value}}`"),
        };
        Some((format!("`{name}` is not defined"), help))
    }

    /// What hides the values of the ENV file in all that is printed. Left readable are: the
    /// login user and key path, words and numbers too common to hide, and a value that is
    /// also one of `names` (machines, boxes, ports: what `rvm` itself has to show), unless its own name says that it is secret.
    pub fn masker(&self, names: &[String]) -> Masker {
        let in_files = self.file.all.iter().map(|(name, value)| (name, value));
        let all = in_files.chain(self.secrets.iter().map(|(name, value)| (name, value)));
        let hidden: BTreeSet<&str> = all
            .filter(|(name, value)| {
                let common = is_common(value) || names.contains(value);
                !SHOWN.contains(&name.as_str()) && (is_sensitive(name) || !common)
            })
            .map(|(_, value)| value.as_str())
            .collect();
        Masker::new(hidden)
    }
}

/// `[A-Za-z_][A-Za-z0-9_]*`.
pub(super) fn is_name(name: &str) -> bool {
    name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
        && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_')
}

/// Whether the name of a variable says that its value is a secret.
fn is_sensitive(name: &str) -> bool {
    let name = name.to_ascii_uppercase();
    ["PASS", "SECRET", "TOKEN", "KEY", "CREDENTIAL"].iter().any(|word| name.contains(word))
}

/// Words that would turn every second line into stars and give nothing away.
fn is_common(value: &str) -> bool {
    const WORDS: [&str; 14] = [
        "true",
        "false",
        "yes",
        "no",
        "on",
        "off",
        "none",
        "null",
        "root",
        "vagrant",
        "localhost",
        "127.0.0.1",
        "0.0.0.0",
        "::1",
    ];
    let lower = value.to_ascii_lowercase();
    WORDS.contains(&lower.as_str()) || (value.len() < 3 && value.chars().all(|c| c.is_ascii_digit()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn vars(env: &dyn Fn(&str) -> Option<String>) -> Vars<'_> {
        let (file, problems) = EnvFile::parse("DB_NAME=shop\nDB_PASSWORD=hunter2\nEMPTY=\nBOTH=file\n");
        assert!(problems.is_empty());
        let mut vars = Vars::new(env, &[]);
        vars.set_files(file, false);
        vars
    }

    fn env(name: &str) -> Option<String> {
        matches!(name, "USER_BOX" | "BOTH").then(|| "from-env".to_owned())
    }

    fn filled(text: &str) -> String {
        vars(&env).expand(text).unwrap_or_else(|bad| panic!("{}", bad[0].message)).value
    }

    #[test]
    fn values_are_filled_in() {
        assert_eq!(filled("x ${DB_NAME} y"), "x shop y");
        assert_eq!(filled("${USER_BOX}${DB_NAME}"), "from-envshop");
        assert_eq!(filled("${NONE:-a b}"), "a b");
        assert_eq!(filled("${EMPTY:-filled}|${EMPTY}|${NONE:-}"), "filled||");
        assert_eq!(filled("${BOTH}"), "from-env");
        assert_eq!(filled("$${DB_NAME} $ $5 $$ é$"), "${DB_NAME} $ $5 $$ é$");
    }

    #[test]
    fn what_was_filled_in_is_not_shown() {
        let mut vars = vars(&env);
        let text = vars.expand("a ${DB_NAME}").unwrap();
        assert_eq!((text.shown.as_str(), text.secret.as_deref()), ("a ${DB_NAME}", Some("DB_NAME")));
        assert_eq!(vars.expand("${BOTH}").unwrap().secret.as_deref(), Some("BOTH"));
        let text = vars.expand("a ${USER_BOX}").unwrap();
        assert_eq!((text.shown.as_str(), text.secret), ("a ${USER_BOX}", None));
    }

    #[test]
    fn bad_references_are_all_told() {
        let mut vars = vars(&env);
        let bad = vars.expand("${DB_NAM} ${} ${A-b} ${A:-${B}} ${RVM_SSH_PASSWORD} ${X").err().unwrap();
        let told: Vec<&str> = bad.iter().map(|b| b.message.as_str()).collect();
        assert_eq!(told.len(), 6, "{told:?}");
        assert_eq!(bad[0].range, 0..9);
        assert!(bad[0].help.contains("`DB_NAME`"), "{}", bad[0].help);
        assert!(told[5].contains("no closing"));
    }

    #[test]
    fn an_unreadable_env_file_does_not_make_every_name_undefined() {
        let mut vars = Vars::new(&env, &[]);
        vars.set_files(EnvFile::default(), true);
        assert!(vars.expand("${ANY}").is_err_and(|bad| bad.is_empty()));
        assert!(vars.undefined("ANY").is_none());
    }

    #[test]
    fn the_masker_hides_values_but_not_common_words_or_machine_names() {
        let text = "RVM_SSH_USER=deployer\nRVM_SSH_PASSWORD=true\nDEBUG=true\nPORT=80\nBIG_PORT=5432\n\
                    WEB_HOST=web\nDB_PASSWORD=web2\nNAME=shop\nNAME=store\nBOTH=file\n";
        let mut vars = Vars::new(&env, &[]);
        vars.set_files(EnvFile::parse(text).0, false);
        vars.get("BOTH");
        let masker = vars.masker(&["web".into(), "web2".into()]);
        assert_eq!(
            masker.mask("deployer true 80 5432 web web2 shop store from-env file"),
            "deployer *** 80 *** web *** *** *** *** ***"
        );
    }
}
