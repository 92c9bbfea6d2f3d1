//! `${NAME}` in string values: where values come from and how they are filled in.

use std::collections::BTreeSet;
use std::ops::Range;

use crate::model::Masker;

use super::envfile::EnvFile;
use super::index::{self, Turn};
use super::report::brief;
use super::suggest::nearest;

/// The password that logs in to the guests: never a part of anything else.
pub(super) const PASSWORD: &str = "RVM_SSH_PASSWORD";
/// ENV file names whose values are shown by `rvm ssh-config` and so are not masked.
const SHOWN: [&str; 2] = ["RVM_SSH_USER", "RVM_SSH_KEY"];

/// Bad references that are told for one string.
const MOST_BAD: usize = 20;
/// Bytes that may be filled in in all, so that copies and long values do not multiply without end.
const MOST_FILLED: usize = 64 * 1024 * 1024;
/// What a reference counts beside its value.
const REFERENCE: usize = 64;

/// Names and values: the environment of the process over the ENV file.
pub(super) struct Vars<'a> {
    env: &'a dyn Fn(&str) -> Option<String>,
    file: EnvFile,
    /// The ENV file could not be read in full: missing names are no news.
    incomplete: bool,
    /// Values of the environment that stand in for, or beside, those of the ENV file.
    secrets: Vec<(String, String)>,
    /// What `{i}` stands for.
    pub turn: Turn,
    /// `{i}` was filled in since this was last set to false.
    pub counted: bool,
    /// What is left of [`MOST_FILLED`].
    left: usize,
}

/// A value and where it came from.
pub(super) struct Found {
    /// The value.
    pub value: String,
    /// Its name stands in the ENV file, so the value counts as a secret.
    pub secret: bool,
}

/// A string of the file with its variables filled in.
#[derive(Debug, Clone)]
pub(super) struct Text {
    /// What it says.
    pub value: String,
    /// What messages may show: as written where a variable was filled in, whatever it holds.
    pub shown: String,
    /// A name of the ENV file whose value is part of it.
    pub secret: Option<String>,
}

impl Text {
    /// A text in which nothing was filled in.
    pub fn plain(text: &str) -> Text {
        Text { value: text.to_owned(), shown: text.to_owned(), secret: None }
    }

    /// Whether `shown` is not what it says.
    pub fn is_filled(&self) -> bool {
        self.shown != self.value
    }
}

/// The value of one `${…}`.
struct Resolved {
    value: String,
    /// From a variable and not from the default.
    filled: bool,
    /// The name, where it stands in the ENV file.
    secret: Option<String>,
}

impl Resolved {
    fn plain(value: &str) -> Self {
        Resolved { value: value.to_owned(), filled: false, secret: None }
    }
}

/// A `${…}` or `{i}` that cannot be filled in.
#[derive(Debug)]
pub(super) struct BadRef {
    /// Its bytes in the string.
    pub range: Range<usize>,
    /// What is wrong.
    pub message: String,
    /// What to do.
    pub help: String,
}

/// Message and help.
type News = (String, String);

impl<'a> Vars<'a> {
    /// `incomplete`: parts of the ENV file could not be read, which is a problem of its own.
    pub fn new(env: &'a dyn Fn(&str) -> Option<String>, file: EnvFile, incomplete: bool) -> Self {
        Vars {
            env,
            file,
            incomplete,
            secrets: Vec::new(),
            turn: Turn::Uncounted,
            counted: false,
            left: MOST_FILLED,
        }
    }

    /// Only the environment of the process.
    pub fn from_environment(env: &'a dyn Fn(&str) -> Option<String>) -> Self {
        Self::new(env, EnvFile::default(), false)
    }

    /// The ENV file.
    pub fn file(&self) -> &EnvFile {
        &self.file
    }

    /// A variable of the process alone.
    pub fn environment(&self, name: &str) -> Option<String> {
        (self.env)(name)
    }

    /// The value of a name; the environment of the process wins over the ENV file.
    pub fn get(&mut self, name: &str) -> Option<Found> {
        let entry = self.file.entries.get(name);
        let secret = entry.is_some();
        match (self.env)(name) {
            Some(value) => {
                if secret {
                    self.keep_secret(name, &value);
                }
                Some(Found { value, secret })
            }
            None => entry.map(|entry| Found { value: entry.value.clone(), secret }),
        }
    }

    /// Masks this value too from now on.
    pub fn keep_secret(&mut self, name: &str, value: &str) {
        self.secrets.push((name.to_owned(), value.to_owned()));
    }

    /// Message and help for a name that nobody defines; `None` where that is no news.
    pub fn undefined(&self, name: &str) -> Option<News> {
        if self.incomplete {
            return None;
        }
        let place = match &self.file.path {
            Some(path) => format!("neither {} nor the environment has it", path.display()),
            None => "the environment does not have it, and there is no ENV file".to_owned(),
        };
        let help = match nearest(name, self.file.entries.keys().map(String::as_str)) {
            Some(near) => format!("did you mean `{near}`? ({place})"),
            None => format!("{place}; set it there, or give a default: `${{{name}:-value}}`"),
        };
        Some((format!("`{name}` is not defined"), help))
    }

    /// Fills in `${NAME}`, `${NAME:-default}` and `{i}`; `$${` stands for `${`. An error without
    /// a reference in it is one that has been told already.
    pub fn expand(&mut self, text: &str) -> Result<Text, Vec<BadRef>> {
        let mut out = Text { value: String::with_capacity(text.len()), shown: text.to_owned(), secret: None };
        let (mut bad, mut failed, mut filled) = (Vec::new(), false, false);
        let mut at = 0;
        while let Some(rest) = text.get(at..).filter(|rest| !rest.is_empty()) {
            let Some(next) = rest.find(['$', '{']) else {
                out.value.push_str(rest);
                break;
            };
            let (plain, from) = rest.split_at(next);
            out.value.push_str(plain);
            at += next;
            let (length, resolved) = if from.starts_with("$${") {
                (3, Ok(Resolved::plain("${")))
            } else if from.starts_with("${") {
                let length = from.find('}').map_or(from.len(), |end| end + 1);
                (length, self.resolve(from.get(..length).unwrap_or(from)))
            } else if from.starts_with("{{") {
                // What templates of other tools are written with.
                (2, Ok(Resolved::plain("{{")))
            } else if let Some(length) = index::reference(from) {
                (length, self.resolve_index(from.get(..length).unwrap_or(from)))
            } else {
                (1, Ok(Resolved::plain(from.get(..1).unwrap_or_default())))
            };
            match resolved {
                Ok(resolved) => {
                    let Some(left) = self.left.checked_sub(resolved.value.len() + REFERENCE) else {
                        let message =
                            format!("more than {} MiB are filled in in this project", MOST_FILLED >> 20);
                        let help = "use shorter values, fewer of them or fewer copies".to_owned();
                        return Err(vec![BadRef { range: 0..text.len(), message, help }]);
                    };
                    self.left = left;
                    out.value.push_str(&resolved.value);
                    out.secret = out.secret.or(resolved.secret);
                    filled |= resolved.filled;
                }
                Err(news) => {
                    failed = true;
                    let news = news.filter(|_| bad.len() < MOST_BAD);
                    bad.extend(news.map(|(message, help)| BadRef { range: at..at + length, message, help }));
                }
            }
            at += length;
        }
        if !filled {
            out.shown.clone_from(&out.value);
        }
        if failed { Err(bad) } else { Ok(out) }
    }

    /// The value of one `{i}`.
    fn resolve_index(&mut self, reference: &str) -> Result<Resolved, Option<News>> {
        self.counted = true;
        let i = match self.turn {
            Turn::Number(i) => i,
            Turn::Any => 1,
            Turn::Family => return Ok(Resolved::plain("")),
            Turn::Uncounted => {
                let message =
                    format!("`{}` is the number of a copy, and nothing is counted here", brief(reference));
                return Err(Some((message, "add `count = 3` to the machine".into())));
            }
        };
        index::value(reference, i).map(|value| Resolved::plain(&value)).map_err(Some)
    }

    /// The value of one `${…}`, and its name where the value is a secret.
    fn resolve(&mut self, reference: &str) -> Result<Resolved, Option<News>> {
        const FORMS: &str = "write `${NAME}` or `${NAME:-default}`; `$${` gives a plain `${`";
        let bad = |message: String, help: &str| Err(Some((message, help.to_owned())));
        let Some(inner) = reference.strip_prefix("${").and_then(|inner| inner.strip_suffix('}')) else {
            return bad("this `${` has no closing `}`".into(), FORMS);
        };
        let end = inner.find(|c: char| !c.is_ascii_alphanumeric() && c != '_').unwrap_or(inner.len());
        let (name, rest) = inner.split_at(end);
        let default = match rest.strip_prefix(":-") {
            Some(default) => Some(default),
            None if rest.is_empty() => None,
            None => return bad(format!("`{reference}` is not understood"), FORMS),
        };
        if !is_name(name) {
            return bad(format!("`{reference}` does not name a variable"), FORMS);
        }
        if default.is_some_and(|default| default.contains("${")) {
            return bad("a default cannot hold another `${…}`".into(), FORMS);
        }
        if name == PASSWORD {
            let help = "it is used to log in; give steps a variable of their own";
            return bad(format!("`{PASSWORD}` is not filled in anywhere"), help);
        }
        let found = self.get(name).filter(|found| !found.value.is_empty() || default.is_none());
        match (found, default) {
            (Some(found), _) => {
                let secret = found.secret.then(|| name.to_owned());
                Ok(Resolved { value: found.value, filled: true, secret })
            }
            (None, Some(default)) => Ok(Resolved { value: default.to_owned(), filled: false, secret: None }),
            (None, None) => Err(self.undefined(name)),
        }
    }

    /// What hides the values of the ENV file in all that is printed. Left readable are: the
    /// login user and key path, words and numbers too common to hide, and a value that is
    /// also one of `names` (machines, boxes, ports: what `rvm` itself has to show), unless its own name says that it is secret.
    pub fn masker(&self, names: &[String]) -> Masker {
        let all = self.file.all.iter().chain(&self.secrets);
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
        Vars::new(env, file, false)
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
        let mut vars = Vars::new(&env, EnvFile::default(), true);
        assert!(vars.expand("${ANY}").is_err_and(|bad| bad.is_empty()));
        assert!(vars.undefined("ANY").is_none());
    }

    #[test]
    fn the_masker_hides_values_but_not_common_words_or_machine_names() {
        let text = "RVM_SSH_USER=deployer\nRVM_SSH_PASSWORD=true\nDEBUG=true\nPORT=80\nBIG_PORT=5432\n\
                    WEB_HOST=web\nDB_PASSWORD=web2\nNAME=shop\nNAME=store\nBOTH=file\n";
        let mut vars = Vars::new(&env, EnvFile::parse(text).0, false);
        vars.get("BOTH");
        let masker = vars.masker(&["web".into(), "web2".into()]);
        assert_eq!(
            masker.mask("deployer true 80 5432 web web2 shop store from-env file"),
            "deployer *** 80 *** web *** *** *** *** ***"
        );
    }
}
