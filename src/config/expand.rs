//! `${NAME}` and `{i}` in a string.

use std::ops::Range;

use super::index::{self, Turn};
use super::report::brief;
use super::vars::{News, PASSWORD, Vars, is_name};

/// Bad references that are told for one string.
const MOST_BAD: usize = 20;
/// Bytes that may be filled in in all, so that copies and long values do not multiply without end.
pub(super) const MOST_FILLED: usize = 64 * 1024 * 1024;
/// What a reference counts beside its value.
const REFERENCE: usize = 64;

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

impl Vars<'_> {
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
                        if std::mem::take(&mut self.left) == 0 {
                            return Err(Vec::new());
                        }
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
            (Some(found), _) => Ok(Resolved { value: found.value, filled: true, secret: found.secret }),
            (None, Some(default)) => Ok(Resolved { value: default.to_owned(), filled: false, secret: None }),
            (None, None) => Err(self.undefined(name)),
        }
    }
}
