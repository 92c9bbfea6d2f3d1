//! What an expression comes to. Values from the environment stay open: they become `${NAME}`.

use std::rc::Rc;

/// Levels of lists within lists.
const DEEPEST: usize = 24;
/// Elements, and 64-byte parts of text, in one value.
const HEAVIEST: usize = 20_000;

/// A part of a text.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Piece {
    /// As it stands.
    Plain(String),
    /// A variable of the environment.
    Env {
        /// Its name.
        name: String,
        /// What it counts as where it is not set; `None`: as nil.
        default: Option<String>,
    },
}

/// A string, perhaps with variables of the environment in it. No two plain pieces touch.
#[derive(Debug, Clone, PartialEq, Default)]
pub(super) struct Text(pub Vec<Piece>);

impl Text {
    /// Just that.
    pub fn plain(text: impl Into<String>) -> Text {
        Text(vec![Piece::Plain(text.into())])
    }

    /// A variable of the environment alone.
    pub fn env(name: impl Into<String>, default: Option<String>) -> Text {
        Text(vec![Piece::Env { name: name.into(), default }])
    }

    /// Adds `other` at the end.
    pub fn push(&mut self, other: &Text) {
        for piece in &other.0 {
            match (self.0.last_mut(), piece) {
                (Some(Piece::Plain(text)), Piece::Plain(more)) => text.push_str(more),
                _ => self.0.push(piece.clone()),
            }
        }
    }

    /// What it says where no variable is in it.
    pub fn as_plain(&self) -> Option<&str> {
        match self.0.as_slice() {
            [] => Some(""),
            [Piece::Plain(text)] => Some(text),
            _ => None,
        }
    }

    /// The variable that it is, alone.
    pub fn as_env(&self) -> Option<(&str, Option<&str>)> {
        match self.0.as_slice() {
            [Piece::Env { name, default }] => Some((name, default.as_deref())),
            _ => None,
        }
    }

    /// The names of the variables in it.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.0.iter().filter_map(|piece| match piece {
            Piece::Env { name, .. } => Some(name.as_str()),
            Piece::Plain(_) => None,
        })
    }

    /// What it says where no variable is set.
    pub fn by_default(&self) -> String {
        let parts = self.0.iter().map(|piece| match piece {
            Piece::Plain(text) => text.as_str(),
            Piece::Env { default, .. } => default.as_deref().unwrap_or_default(),
        });
        parts.collect()
    }

    fn weight(&self) -> usize {
        let bytes: usize = self
            .0
            .iter()
            .map(|piece| match piece {
                Piece::Plain(text) => text.len(),
                Piece::Env { name, default } => name.len() + default.as_ref().map_or(0, String::len),
            })
            .sum();
        1 + bytes / 64
    }
}

/// A part of the object that `Vagrant.configure` hands to its block.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Handle {
    /// 0: what holds for all machines; else a machine, from 1.
    pub scope: usize,
    /// `override` of a provider's block: what is set there is for that provider alone.
    pub only: Option<Rc<str>>,
    /// Which part.
    pub part: Part,
}

/// Parts of the configuration object.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Part {
    /// All of it.
    Config,
    /// `config.NAME`: `vm`, `ssh`, `trigger`, `vagrant`, or what a plug-in adds.
    Section(Rc<str>),
    /// What a provider's block gets first.
    Provider(Rc<str>),
    /// What the block of a provision step or of a trigger gets: it collects options. With a name:
    /// one of them, whose elements are set.
    Options(Option<Rc<str>>),
}

/// What an expression comes to.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Value {
    Nil,
    Bool(bool),
    Int(i64),
    Float(f64),
    Text(Rc<Text>),
    Sym(Rc<str>),
    List(Rc<Vec<Value>>),
    Hash(Rc<Vec<(Value, Value)>>),
    /// From and to, both included.
    Range(i64, i64),
    /// `ENV`.
    Env,
    /// Another constant that is no variable of the file: `File`, `Vagrant::Util::Platform`.
    Const(Rc<str>),
    Handle(Handle),
    /// Not known without running Ruby; why.
    Unknown(Rc<str>),
}

impl Value {
    /// A string.
    pub fn text(text: impl Into<String>) -> Value {
        Value::Text(Rc::new(Text::plain(text)))
    }

    /// A value that is not known.
    pub fn unknown(why: impl AsRef<str>) -> Value {
        Value::Unknown(why.as_ref().into())
    }

    /// What it says as a string or symbol without variables.
    pub fn as_word(&self) -> Option<&str> {
        match self {
            Value::Text(text) => text.as_plain(),
            Value::Sym(name) => Some(name),
            _ => None,
        }
    }

    /// What `#{…}` makes of it; `None` where that is Ruby's own business.
    pub fn to_text(&self) -> Option<Text> {
        Some(match self {
            Value::Nil => Text::default(),
            Value::Bool(is) => Text::plain(is.to_string()),
            Value::Int(number) => Text::plain(number.to_string()),
            Value::Float(number) => Text::plain(format!("{number:?}")),
            Value::Sym(name) => Text::plain(&**name),
            Value::Text(text) => {
                let filled = text.0.iter().map(|piece| match piece {
                    // nil becomes nothing.
                    Piece::Env { name, default: None } => {
                        Piece::Env { name: name.clone(), default: Some(String::new()) }
                    }
                    other => other.clone(),
                });
                Text(filled.collect())
            }
            _ => return None,
        })
    }

    /// How much of the limits it takes; `None` beyond them.
    pub fn weight(&self) -> Option<usize> {
        fn walk(value: &Value, depth: usize, sum: &mut usize) -> Option<()> {
            *sum += match value {
                Value::Text(text) => text.weight(),
                _ => 1,
            };
            if depth > DEEPEST || *sum > HEAVIEST {
                return None;
            }
            match value {
                Value::List(list) => list.iter().try_for_each(|item| walk(item, depth + 1, sum)),
                Value::Hash(pairs) => pairs.iter().try_for_each(|(key, item)| {
                    walk(key, depth + 1, sum)?;
                    walk(item, depth + 1, sum)
                }),
                _ => Some(()),
            }
        }
        let mut sum = 0;
        walk(self, 0, &mut sum)?;
        Some(sum)
    }

    /// What people call it.
    pub fn kind(&self) -> &'static str {
        match self {
            Value::Nil => "nil",
            Value::Bool(_) => "true or false",
            Value::Int(_) | Value::Float(_) => "a number",
            Value::Text(_) => "a string",
            Value::Sym(_) => "a symbol",
            Value::List(_) => "a list",
            Value::Hash(_) => "a hash",
            Value::Range(..) => "a range",
            Value::Env | Value::Const(_) | Value::Handle(_) => "an object",
            Value::Unknown(_) => "not known",
        }
    }
}

/// The value of that key, a string or a symbol.
pub(super) fn option<'v>(pairs: &'v [(Value, Value)], key: &str) -> Option<&'v Value> {
    pairs.iter().find(|(name, _)| name.as_word() == Some(key)).map(|(_, value)| value)
}
