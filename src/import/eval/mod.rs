//! Works out what a Vagrantfile says: variables, loops over what is written in the file,
//! conditions and methods of its own, strings. Nothing of Ruby is run: what is not known here is
//! [`Value::Unknown`], and the lines that depend on it are noted.
//!
//! Everything that a file can make large is counted: steps, weight of values, depth of calls,
//! rounds of a loop, machines.

mod assign;
mod calls;
mod config;
mod loops;
mod methods;
mod outside;

use std::collections::HashMap;
use std::rc::Rc;

use super::left::{Notes, Sort};
use super::tree::{Kind, Node, Param};
use super::value::{Piece, Text, Value};

/// Steps of the whole file: a cluster of a few hundred machines takes a tenth of it.
const FUEL: usize = 400_000;
/// Methods of the file that call each other.
const DEEPEST_CALL: usize = 12;
/// Machines of one file, as `config` has it.
const MOST_MACHINES: usize = 256;

/// First and last line of an expression.
pub(super) type Lines = (usize, usize);

/// A `config.vm.define`.
#[derive(Debug, Clone)]
pub(super) struct Declared {
    /// As the file names it.
    pub name: String,
    /// Where it was first named.
    pub at: Lines,
    /// `primary:`, `autostart:`.
    pub options: Vec<(Value, Value)>,
}

/// An option of a call, and where it stands.
#[derive(Debug, Clone)]
pub(super) struct Opt {
    pub key: String,
    pub value: Value,
    pub at: Lines,
}

/// Something that the file says to Vagrant.
#[derive(Debug, Clone)]
pub(super) struct Event {
    /// 0: for all machines; else the machine, from 1.
    pub scope: usize,
    pub at: Lines,
    /// For this provider alone.
    pub only: Option<Rc<str>>,
    pub what: What,
}

/// Kinds of [`Event`].
#[derive(Debug, Clone)]
pub(super) enum What {
    /// `config.vm.box = value` is `vm.box`.
    Set { path: String, value: Value },
    /// Within a provider's block: `vb.memory = value`, `vb.customize value, …`.
    Provider { provider: Rc<str>, key: String, args: Vec<Value> },
    /// `config.vm.network value, option: value` is `vm.network`.
    Call { path: String, args: Vec<Value>, options: Vec<Opt> },
}

/// What the file says.
#[derive(Debug, Default)]
pub(super) struct Said {
    pub machines: Vec<Declared>,
    pub events: Vec<Event>,
    /// There is a `Vagrant.configure`: it is a Vagrantfile.
    pub configures: bool,
}

/// How an evaluation ends early.
enum Flow {
    Next(Value),
    Break,
    Return(Value),
    /// A limit was reached.
    Stop(&'static str),
}

type Evaluated = Result<Value, Flow>;

/// Variables of a block or a method.
#[derive(Default)]
struct Frame {
    vars: HashMap<String, Value>,
    /// A method: it does not see the variables around it.
    closed: bool,
}

/// A `def`.
struct Method {
    params: Vec<Param>,
    body: Vec<Node>,
}

/// Works out a file, statement by statement.
pub(super) struct Eval<'e, 's> {
    notes: &'e mut Notes<'s>,
    frames: Vec<Frame>,
    /// Constants, `$globals` and `@variables`.
    globals: HashMap<String, Value>,
    methods: HashMap<String, Rc<Method>>,
    fuel: usize,
    calls: usize,
    /// Options of the blocks that are open.
    open: Vec<Vec<Opt>>,
    said: Said,
}

/// Works out the statements of a file.
pub(super) fn evaluate(statements: &[Node], notes: &mut Notes<'_>) -> Said {
    let mut eval = Eval {
        notes,
        frames: vec![Frame::default()],
        globals: HashMap::new(),
        methods: HashMap::new(),
        fuel: FUEL,
        calls: 0,
        open: Vec::new(),
        said: Said::default(),
    };
    for (index, node) in statements.iter().enumerate() {
        match eval.run(std::slice::from_ref(node)) {
            Ok(_) | Err(Flow::Next(_) | Flow::Break) => {}
            Err(Flow::Return(_)) => {
                eval.notes.add(Sort::Lost, (node.line, node.last), "`return` ends the file here");
                break;
            }
            Err(Flow::Stop(why)) => {
                let last = statements.get(index..).and_then(<[Node]>::last).map_or(node.last, |n| n.last);
                eval.notes.add(Sort::Lost, (node.line, last), why);
                break;
            }
        }
    }
    eval.said
}

impl Eval<'_, '_> {
    fn lost(&mut self, at: Lines, reason: impl Into<String>) {
        self.notes.add(Sort::Lost, at, reason);
    }

    fn needless(&mut self, at: Lines, reason: impl Into<String>) {
        self.notes.add(Sort::Needless, at, reason);
    }

    fn spend(&mut self, steps: usize) -> Result<(), Flow> {
        match self.fuel.checked_sub(steps) {
            Some(left) => {
                self.fuel = left;
                Ok(())
            }
            None => Err(Flow::Stop(
                "the file makes more of itself than rvm import follows; the rest was not read",
            )),
        }
    }

    /// A value that was made of others, within the limits.
    fn made(&mut self, value: Value) -> Evaluated {
        match value.weight() {
            Some(weight) => {
                self.spend(weight)?;
                Ok(value)
            }
            None => Ok(Value::unknown("a value that grows too large")),
        }
    }

    /// Statements one after the other. What one comes to without being known is noted there.
    fn run(&mut self, statements: &[Node]) -> Evaluated {
        let mut last = Value::Nil;
        for node in statements {
            last = self.value(node)?;
            if let Value::Unknown(why) = &last {
                let why = Rc::clone(why);
                self.lost((node.line, node.last), &*why);
            }
        }
        Ok(last)
    }

    fn value(&mut self, node: &Node) -> Evaluated {
        self.spend(1)?;
        let at = (node.line, node.last);
        match &node.kind {
            Kind::Nil => Ok(Value::Nil),
            Kind::Bool(is) => Ok(Value::Bool(*is)),
            Kind::Int(number) => Ok(Value::Int(*number)),
            Kind::Float(number) => Ok(Value::Float(*number)),
            Kind::Str(text) => self.made(Value::text(text.as_str())),
            Kind::Sym(name) => Ok(Value::Sym(name.as_str().into())),
            Kind::Joined(parts) => self.joined(parts),
            Kind::List(items) => {
                let items = self.arguments(items)?;
                self.made(Value::List(Rc::new(items)))
            }
            Kind::Hash(pairs) => {
                let mut list: Vec<(Value, Value)> = Vec::new();
                for (key, value) in pairs {
                    let pair = (self.value(key)?, self.value(value)?);
                    list.retain(|(known, _)| *known != pair.0);
                    list.push(pair);
                    self.spend(1 + list.len() / 16)?;
                }
                self.made(Value::Hash(Rc::new(list)))
            }
            Kind::Range { from, to, without_end } => self.range(from, to, *without_end, at),
            Kind::Var(name) => Ok(self.variable(name)),
            Kind::Const(name) => Ok(self.constant(name)),
            Kind::Call(call) => self.call(call, at),
            Kind::Assign { target, value } => {
                let value = self.value(value)?;
                self.assign(target, value.clone(), at)?;
                Ok(value)
            }
            Kind::Update { target, operator, value } => self.update(target, operator, value, at),
            Kind::Unpack { targets, value } => self.unpack(targets, value, at),
            Kind::If { condition, then, other } => {
                let condition = self.value(condition)?;
                match self.truth(condition, at) {
                    Ok(true) => self.run(then),
                    Ok(false) => self.run(other),
                    Err(why) => Ok(Value::Unknown(why)),
                }
            }
            Kind::Case { subject, whens, other } => self.case(subject, whens, other, at),
            Kind::And(left, right) => {
                let left = self.value(left)?;
                match self.truth(left.clone(), at) {
                    Ok(true) => self.value(right),
                    Ok(false) => Ok(left),
                    Err(why) => Ok(Value::Unknown(why)),
                }
            }
            Kind::Or(left, right) => self.either(left, right, at),
            Kind::Group(body) => self.group(body),
            Kind::Def { name, params, body } => {
                let method = Method { params: params.clone(), body: body.clone() };
                self.methods.insert(name.clone(), Rc::new(method));
                Ok(Value::Nil)
            }
            Kind::For { param, over, body } => {
                let over = self.value(over)?;
                self.for_each(param, over, body, at)
            }
            Kind::Next(value) => {
                let value = value.as_ref().map(|value| self.value(value)).transpose()?;
                Err(Flow::Next(value.unwrap_or(Value::Nil)))
            }
            Kind::Break => Err(Flow::Break),
            Kind::Return(value) => {
                let value = value.as_ref().map(|value| self.value(value)).transpose()?;
                Err(Flow::Return(value.unwrap_or(Value::Nil)))
            }
            Kind::Splat(_) => Ok(Value::unknown("a `*` where rvm import does not read one")),
            Kind::Other(why) => Ok(Value::unknown(why)),
        }
    }

    /// The last of some expressions; those before it are statements.
    fn group(&mut self, body: &[Node]) -> Evaluated {
        match body.split_last() {
            None => Ok(Value::Nil),
            Some((last, before)) => {
                self.run(before)?;
                self.value(last)
            }
        }
    }

    fn arguments(&mut self, nodes: &[Node]) -> Result<Vec<Value>, Flow> {
        let mut list = Vec::new();
        for node in nodes {
            if let Kind::Splat(inner) = &node.kind {
                match self.value(inner)? {
                    Value::List(items) => {
                        self.spend(items.len())?;
                        list.extend(items.iter().cloned());
                    }
                    Value::Range(from, to) if to.saturating_sub(from) < loops::LONGEST => {
                        self.spend(usize::try_from(to.saturating_sub(from)).unwrap_or(0))?;
                        list.extend((from..=to).map(Value::Int));
                    }
                    Value::Nil => {}
                    Value::Unknown(why) => list.push(Value::Unknown(why)),
                    _ => list.push(Value::unknown("a `*` before something that is no list")),
                }
            } else {
                list.push(self.value(node)?);
            }
        }
        Ok(list)
    }

    fn joined(&mut self, parts: &[Node]) -> Evaluated {
        let mut text = Text::default();
        for part in parts {
            let value = self.value(part)?;
            match (value.to_text(), value) {
                (Some(more), _) => text.push(&more),
                (None, Value::Unknown(why)) => return Ok(Value::Unknown(why)),
                (None, other) => {
                    return Ok(Value::unknown(format!("{} within a string", other.kind())));
                }
            }
            let size: usize = text.by_default().len();
            if size > 256 * 1024 {
                return Ok(Value::unknown("a string that grows too large"));
            }
        }
        self.made(Value::Text(Rc::new(text)))
    }

    fn range(&mut self, from: &Node, to: &Node, without_end: bool, at: Lines) -> Evaluated {
        let (from, to) = (self.value(from)?, self.value(to)?);
        match (self.number(from, at), self.number(to, at)) {
            (Ok(from), Ok(to)) => Ok(Value::Range(from, if without_end { to.saturating_sub(1) } else { to })),
            (Err(why), _) | (_, Err(why)) => Ok(Value::Unknown(why)),
        }
    }

    /// A whole number; variables of the environment count as not set.
    fn number(&mut self, value: Value, at: Lines) -> Result<i64, Rc<str>> {
        match self.fixed(value, at) {
            Value::Int(number) => Ok(number),
            Value::Unknown(why) => Err(why),
            Value::Text(text) => {
                let number = text.as_plain().and_then(|text| text.trim().parse().ok());
                number.ok_or_else(|| "a string where a number is needed".into())
            }
            other => Err(format!("{} where a number is needed", other.kind()).into()),
        }
    }

    /// The value with every variable of the environment counted as not set, which is noted.
    fn fixed(&mut self, value: Value, at: Lines) -> Value {
        let Value::Text(text) = &value else { return value };
        if text.as_plain().is_some() {
            return value;
        }
        let names: Vec<String> = text
            .0
            .iter()
            .filter_map(|piece| match piece {
                Piece::Plain(_) => None,
                Piece::Env { name, default: Some(default) } if !default.is_empty() => {
                    Some(format!("ENV[\"{name}\"]: its default `{default}` was taken"))
                }
                Piece::Env { name, .. } => Some(format!("ENV[\"{name}\"], which was taken as not set")),
            })
            .collect();
        let fixed = match text.as_env() {
            Some((_, None)) => Value::Nil,
            _ => Value::text(text.by_default()),
        };
        for name in names {
            self.lost(at, format!("depends on {name}"));
        }
        fixed
    }

    /// Whether it counts as true; `Err`: it is not known, and why.
    fn truth(&mut self, value: Value, at: Lines) -> Result<bool, Rc<str>> {
        match self.fixed(value, at) {
            Value::Nil | Value::Bool(false) => Ok(false),
            Value::Unknown(why) => Err(why),
            _ => Ok(true),
        }
    }

    /// `left || right`. A variable of the environment takes the right side as its default.
    fn either(&mut self, left: &Node, right: &Node, at: Lines) -> Evaluated {
        let left = self.value(left)?;
        if let Value::Text(text) = &left
            && let Some((name, None)) = text.as_env()
        {
            let name = name.to_owned();
            let right = self.value(right)?;
            return Ok(self.with_default(&name, right, at));
        }
        // What holds a default is not nil.
        match &left {
            Value::Text(_) => Ok(left),
            Value::Nil | Value::Bool(false) => self.value(right),
            _ => Ok(left),
        }
    }

    /// `${NAME:-default}`, where the default can be written there.
    fn with_default(&mut self, name: &str, default: Value, at: Lines) -> Value {
        let default = match default {
            Value::Nil => return Value::Text(Rc::new(Text::env(name, None))),
            Value::Unknown(why) => return Value::Unknown(why),
            Value::Text(text) if text.as_plain().is_none() => {
                self.lost(at, format!("a default of ENV[\"{name}\"] that depends on another variable"));
                text.by_default()
            }
            other => match other.to_text() {
                Some(text) => text.by_default(),
                None => {
                    self.lost(at, format!("depends on ENV[\"{name}\"], which was taken as not set"));
                    return other;
                }
            },
        };
        if default.contains(['}', '\n']) || default.contains("${") {
            self.lost(at, format!("ENV[\"{name}\"] has a default that cannot stand in a TOML variable"));
            return Value::text(default);
        }
        Value::Text(Rc::new(Text::env(name, Some(default))))
    }

    fn case(
        &mut self,
        subject: &Node,
        whens: &[(Vec<Node>, Vec<Node>)],
        other: &[Node],
        at: Lines,
    ) -> Evaluated {
        let subject = self.value(subject)?;
        let subject = self.fixed(subject, at);
        for (conditions, body) in whens {
            for condition in self.arguments(conditions)? {
                match (&subject, &condition) {
                    (Value::Unknown(why), _) | (_, Value::Unknown(why)) => {
                        return Ok(Value::Unknown(Rc::clone(why)));
                    }
                    (Value::Int(number), Value::Range(from, to)) if (from..=to).contains(&number) => {
                        return self.run(body);
                    }
                    _ if subject == condition => return self.run(body),
                    _ => {}
                }
            }
        }
        self.run(other)
    }
}

/// Whether it is the name of a variable of the environment that a TOML file can hold.
fn is_env_name(name: &str) -> bool {
    let word = |c: char| c.is_ascii_alphanumeric() || c == '_';
    (1..=128).contains(&name.len())
        && name.chars().all(word)
        && !name.starts_with(|c: char| c.is_ascii_digit())
}
