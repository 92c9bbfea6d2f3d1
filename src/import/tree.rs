//! What is left of a Ruby file for us: the expressions that a Vagrantfile is made of. Whatever
//! else Ruby has is [`Kind::Other`], which is reported where it stands and never run.

/// An expression and the lines it stands on, from 1.
#[derive(Debug, Clone)]
pub(super) struct Node {
    /// Its first line.
    pub line: usize,
    /// Its last line.
    pub last: usize,
    /// What it is.
    pub kind: Kind,
}

/// Kinds of expressions.
#[derive(Debug, Clone)]
pub(super) enum Kind {
    Nil,
    Bool(bool),
    Int(i64),
    Float(f64),
    Str(String),
    Sym(String),
    /// A string of parts: text and `#{…}`.
    Joined(Vec<Node>),
    List(Vec<Node>),
    /// Keys and values; keyword arguments too.
    Hash(Vec<(Node, Node)>),
    /// `from..to`, or `from...to`.
    Range {
        from: Box<Node>,
        to: Box<Node>,
        without_end: bool,
    },
    /// A variable: local, `@instance` or `$global`.
    Var(String),
    /// `A::B` as `A::B`.
    Const(String),
    Call(Box<Call>),
    Assign {
        target: Target,
        value: Box<Node>,
    },
    /// `target ||= value`, `target += value`.
    Update {
        target: Target,
        operator: String,
        value: Box<Node>,
    },
    /// `a, b = value`.
    Unpack {
        targets: Vec<Target>,
        value: Box<Node>,
    },
    If {
        condition: Box<Node>,
        then: Vec<Node>,
        other: Vec<Node>,
    },
    Case {
        subject: Box<Node>,
        whens: Vec<(Vec<Node>, Vec<Node>)>,
        other: Vec<Node>,
    },
    And(Box<Node>, Box<Node>),
    Or(Box<Node>, Box<Node>),
    /// `( … )`, `begin … end`.
    Group(Vec<Node>),
    Def {
        name: String,
        params: Vec<Param>,
        body: Vec<Node>,
    },
    For {
        param: Param,
        over: Box<Node>,
        body: Vec<Node>,
    },
    Next(Option<Box<Node>>),
    Break,
    Return(Option<Box<Node>>),
    /// `*list` among arguments.
    Splat(Box<Node>),
    /// Ruby that is not read; the reason why, for people.
    Other(&'static str),
}

/// `receiver.name(args) { block }`.
#[derive(Debug, Clone)]
pub(super) struct Call {
    pub receiver: Option<Node>,
    /// `&.` in place of `.`.
    pub safe: bool,
    pub name: String,
    pub args: Vec<Node>,
    pub block: Option<Block>,
}

/// `do |params| body end`.
#[derive(Debug, Clone)]
pub(super) struct Block {
    pub params: Vec<Param>,
    pub body: Vec<Node>,
}

/// A parameter of a block or a method.
#[derive(Debug, Clone)]
pub(super) enum Param {
    Name(String, Option<Box<Node>>),
    /// `(a, b)`.
    Tuple(Vec<Param>),
    /// `*rest`, `key:`, `&block`: nothing is bound to it.
    Other,
}

/// What is assigned to.
#[derive(Debug, Clone)]
pub(super) enum Target {
    /// A variable or a constant.
    Var(String),
    /// `receiver[key]`.
    Index(Box<Node>, Box<Node>),
    /// `receiver.name`.
    Attribute(Box<Node>, String),
    Other,
}
