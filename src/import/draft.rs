//! The TOML before it is text.

use super::eval::Lines;
use super::value::{Piece, Text};

/// A value of the TOML.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Out {
    /// A string in which `${NAME}` is a variable.
    Str(String),
    /// A string in which nothing is filled in.
    Script(String),
    Int(i64),
    Bool(bool),
    List(Vec<Out>),
    Inline(Vec<(&'static str, Out)>),
    /// A table on one line, with names of the file's.
    Map(Vec<(String, Out)>),
    /// A table of its own, below the one that it is in.
    Table(Vec<(&'static str, Out)>),
    /// A list of tables, each of its own.
    Tables(Vec<Vec<(&'static str, Out)>>),
}

impl Out {
    /// A string with its variables; `None` where TOML cannot say it.
    pub fn filled(text: &Text) -> Option<Out> {
        let mut out = String::new();
        for piece in &text.0 {
            match piece {
                Piece::Plain(plain) => out.push_str(&plain.replace("${", "$${")),
                // `$${` would be a plain `${`.
                Piece::Env { .. } if out.ends_with('$') => return None,
                Piece::Env { name, default: None } => out.push_str(&format!("${{{name}}}")),
                Piece::Env { name, default: Some(default) } => {
                    out.push_str(&format!("${{{name}:-{default}}}"));
                }
            }
        }
        Some(Out::Str(out))
    }

    /// A string without variables.
    pub fn plain(text: &str) -> Out {
        Out::Str(text.replace("${", "$${"))
    }
}

/// Keys and values of a table.
pub(super) type Entries = Vec<(&'static str, Out)>;

/// `key = value  # remark`.
#[derive(Debug, Clone)]
pub(super) struct Entry {
    pub key: &'static str,
    pub value: Out,
    pub remark: Option<String>,
    pub at: Lines,
}

/// One `[[kind]]`.
#[derive(Debug, Clone)]
pub(super) struct Table {
    pub kind: &'static str,
    pub entries: Vec<(&'static str, Out)>,
    pub at: Lines,
}

impl Table {
    /// The value of a key.
    pub fn get(&self, key: &str) -> Option<&Out> {
        self.entries.iter().find(|(name, _)| *name == key).map(|(_, value)| value)
    }

    /// Sets a key, in place of an earlier value.
    pub fn set(&mut self, key: &'static str, value: Out) {
        match self.entries.iter_mut().find(|(name, _)| *name == key) {
            Some((_, old)) => *old = value,
            None => self.entries.push((key, value)),
        }
    }
}

/// The top of the file, or one machine.
#[derive(Debug, Clone, Default)]
pub(super) struct Layer {
    /// `None` at the top.
    pub name: Option<String>,
    /// Where the machine is declared.
    pub at: Lines,
    pub entries: Vec<Entry>,
    /// `[vars]`, at the top alone.
    pub vars: Vec<(String, Out)>,
    pub tables: Vec<Table>,
}

impl Layer {
    /// The entry of a key.
    pub fn get(&self, key: &str) -> Option<&Entry> {
        self.entries.iter().find(|entry| entry.key == key)
    }

    /// Sets a key, in place of an earlier value.
    pub fn set(&mut self, entry: Entry) {
        self.entries.retain(|known| known.key != entry.key);
        self.entries.push(entry);
    }
}
