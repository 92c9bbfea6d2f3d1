//! Ruby text → [`Node`]s, by `prism`, the parser of Ruby itself.
//!
//! Prism goes on after a mistake and refuses to nest without end, but its recursion wants some
//! stack: see [`super::STACK`].

use ruby_prism as prism;

use super::tree::{Block, Call, Kind, Node, Param, Target};

/// Expressions within expressions that are read; what a person writes has a tenth of it.
const DEEPEST: usize = 80;
/// Mistakes of the Ruby file that are told: later ones mostly follow from the first.
const MOST_MISTAKES: usize = 5;

const TOO_DEEP: &str = "this is nested too deeply";

/// The statements of a file, and what prism finds wrong with it: line and message.
pub(super) fn parse(source: &str) -> (Vec<Node>, Vec<(usize, String)>) {
    let result = prism::parse(source.as_bytes());
    let mistakes = result.errors().take(MOST_MISTAKES).map(|mistake| {
        let line = line_number(mistake.location().start_line());
        (line, String::from_utf8_lossy(mistake.message()).into_owned())
    });
    let mistakes = mistakes.collect();
    let reader = Reader { depth: 0 };
    let statements = match result.node().as_program_node() {
        Some(program) => reader.list(&program.statements().body()),
        None => Vec::new(),
    };
    (statements, mistakes)
}

fn line_number(line: i32) -> usize {
    usize::try_from(line).unwrap_or(1).max(1)
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn name(id: &prism::ConstantId<'_>) -> String {
    text(id.as_slice())
}

/// One level of the walk through prism's tree.
#[derive(Clone, Copy)]
struct Reader {
    depth: usize,
}

impl Reader {
    fn list(self, nodes: &prism::NodeList<'_>) -> Vec<Node> {
        nodes.iter().map(|node| self.node(&node)).collect()
    }

    fn body(self, statements: Option<prism::StatementsNode<'_>>) -> Vec<Node> {
        statements.map(|statements| self.list(&statements.body())).unwrap_or_default()
    }

    /// The body of a block, a method, a pair of parentheses.
    fn any_body(self, node: Option<prism::Node<'_>>) -> Vec<Node> {
        match node {
            None => Vec::new(),
            Some(node) => match node.as_statements_node() {
                Some(statements) => self.list(&statements.body()),
                None => vec![self.node(&node)],
            },
        }
    }

    fn boxed(self, node: &prism::Node<'_>) -> Box<Node> {
        Box::new(self.node(node))
    }

    fn node(self, node: &prism::Node<'_>) -> Node {
        let place = node.location();
        let inner = Reader { depth: self.depth + 1 };
        let kind = if self.depth >= DEEPEST { Kind::Other(TOO_DEEP) } else { inner.kind(node) };
        Node { line: line_number(place.start_line()), last: line_number(place.end_line()), kind }
    }

    fn kind(self, node: &prism::Node<'_>) -> Kind {
        self.literal(node)
            .or_else(|| self.variable(node))
            .or_else(|| self.flow(node))
            .or_else(|| node.as_call_node().map(|call| self.call(&call)))
            .unwrap_or_else(|| Kind::Other(reason(node)))
    }

    fn literal(self, node: &prism::Node<'_>) -> Option<Kind> {
        use prism::Node as N;
        Some(match node {
            N::NilNode { .. } => Kind::Nil,
            N::TrueNode { .. } => Kind::Bool(true),
            N::FalseNode { .. } => Kind::Bool(false),
            N::SourceFileNode { .. } => Kind::Var("__FILE__".into()),
            N::IntegerNode { .. } => integer(&node.as_integer_node()?.value()),
            N::FloatNode { .. } => Kind::Float(node.as_float_node()?.value()),
            N::StringNode { .. } => Kind::Str(text(node.as_string_node()?.unescaped())),
            N::SymbolNode { .. } => Kind::Sym(text(node.as_symbol_node()?.unescaped())),
            N::InterpolatedStringNode { .. } => {
                Kind::Joined(self.list(&node.as_interpolated_string_node()?.parts()))
            }
            N::InterpolatedSymbolNode { .. } => {
                Kind::Joined(self.list(&node.as_interpolated_symbol_node()?.parts()))
            }
            N::EmbeddedStatementsNode { .. } => {
                Kind::Group(self.body(node.as_embedded_statements_node()?.statements()))
            }
            N::ArrayNode { .. } => Kind::List(self.list(&node.as_array_node()?.elements())),
            N::HashNode { .. } => self.hash(&node.as_hash_node()?.elements()),
            N::KeywordHashNode { .. } => self.hash(&node.as_keyword_hash_node()?.elements()),
            N::RangeNode { .. } => {
                let range = node.as_range_node()?;
                Kind::Range {
                    from: self.boxed(&range.left()?),
                    to: self.boxed(&range.right()?),
                    without_end: range.is_exclude_end(),
                }
            }
            _ => return None,
        })
    }

    fn hash(self, elements: &prism::NodeList<'_>) -> Kind {
        let mut pairs = Vec::new();
        for element in elements.iter() {
            match element.as_assoc_node() {
                Some(pair) => pairs.push((self.node(&pair.key()), self.node(&pair.value()))),
                None => return Kind::Other("a hash that takes in another one with `**`"),
            }
        }
        Kind::Hash(pairs)
    }

    fn variable(self, node: &prism::Node<'_>) -> Option<Kind> {
        use prism::Node as N;
        let assign = |name: String, value: &prism::Node<'_>| Kind::Assign {
            target: Target::Var(name),
            value: self.boxed(value),
        };
        let update = |name: String, operator: &str, value: &prism::Node<'_>| Kind::Update {
            target: Target::Var(name),
            operator: operator.to_owned(),
            value: self.boxed(value),
        };
        Some(match node {
            N::LocalVariableReadNode { .. } => Kind::Var(name(&node.as_local_variable_read_node()?.name())),
            N::GlobalVariableReadNode { .. } => Kind::Var(name(&node.as_global_variable_read_node()?.name())),
            N::InstanceVariableReadNode { .. } => {
                Kind::Var(name(&node.as_instance_variable_read_node()?.name()))
            }
            N::ConstantReadNode { .. } | N::ConstantPathNode { .. } => Kind::Const(constant(node)?),
            N::LocalVariableWriteNode { .. } => {
                let write = node.as_local_variable_write_node()?;
                assign(name(&write.name()), &write.value())
            }
            N::GlobalVariableWriteNode { .. } => {
                let write = node.as_global_variable_write_node()?;
                assign(name(&write.name()), &write.value())
            }
            N::InstanceVariableWriteNode { .. } => {
                let write = node.as_instance_variable_write_node()?;
                assign(name(&write.name()), &write.value())
            }
            N::ConstantWriteNode { .. } => {
                let write = node.as_constant_write_node()?;
                assign(name(&write.name()), &write.value())
            }
            N::LocalVariableOrWriteNode { .. } => {
                let write = node.as_local_variable_or_write_node()?;
                update(name(&write.name()), "||", &write.value())
            }
            N::ConstantOrWriteNode { .. } => {
                let write = node.as_constant_or_write_node()?;
                update(name(&write.name()), "||", &write.value())
            }
            N::GlobalVariableOrWriteNode { .. } => {
                let write = node.as_global_variable_or_write_node()?;
                update(name(&write.name()), "||", &write.value())
            }
            N::LocalVariableOperatorWriteNode { .. } => {
                let write = node.as_local_variable_operator_write_node()?;
                update(name(&write.name()), &name(&write.binary_operator()), &write.value())
            }
            N::GlobalVariableOperatorWriteNode { .. } => {
                let write = node.as_global_variable_operator_write_node()?;
                update(name(&write.name()), &name(&write.binary_operator()), &write.value())
            }
            N::IndexOrWriteNode { .. } => {
                let write = node.as_index_or_write_node()?;
                let target = self.index(write.receiver(), write.arguments());
                Kind::Update { target, operator: "||".into(), value: self.boxed(&write.value()) }
            }
            N::IndexOperatorWriteNode { .. } => {
                let write = node.as_index_operator_write_node()?;
                let target = self.index(write.receiver(), write.arguments());
                let operator = name(&write.binary_operator());
                Kind::Update { target, operator, value: self.boxed(&write.value()) }
            }
            N::MultiWriteNode { .. } => {
                let write = node.as_multi_write_node()?;
                let mut targets: Vec<Target> = write.lefts().iter().map(|left| self.target(&left)).collect();
                if write.rest().is_some() || !write.rights().is_empty() {
                    targets.push(Target::Other);
                }
                Kind::Unpack { targets, value: self.boxed(&write.value()) }
            }
            _ => return None,
        })
    }

    fn index(self, receiver: Option<prism::Node<'_>>, arguments: Option<prism::ArgumentsNode<'_>>) -> Target {
        let key = arguments.and_then(|arguments| arguments.arguments().first());
        match (receiver, key) {
            (Some(receiver), Some(key)) => Target::Index(self.boxed(&receiver), self.boxed(&key)),
            _ => Target::Other,
        }
    }

    fn target(self, node: &prism::Node<'_>) -> Target {
        if let Some(local) = node.as_local_variable_target_node() {
            Target::Var(name(&local.name()))
        } else if let Some(constant) = node.as_constant_target_node() {
            Target::Var(name(&constant.name()))
        } else if let Some(global) = node.as_global_variable_target_node() {
            Target::Var(name(&global.name()))
        } else {
            Target::Other
        }
    }

    fn flow(self, node: &prism::Node<'_>) -> Option<Kind> {
        use prism::Node as N;
        Some(match node {
            N::IfNode { .. } => {
                let branch = node.as_if_node()?;
                let other = match branch.subsequent() {
                    None => Vec::new(),
                    Some(next) => match next.as_else_node() {
                        Some(last) => self.body(last.statements()),
                        None => vec![self.node(&next)],
                    },
                };
                let condition = self.boxed(&branch.predicate());
                Kind::If { condition, then: self.body(branch.statements()), other }
            }
            N::UnlessNode { .. } => {
                let branch = node.as_unless_node()?;
                let then = branch.else_clause().map(|other| self.body(other.statements()));
                let condition = self.boxed(&branch.predicate());
                Kind::If { condition, then: then.unwrap_or_default(), other: self.body(branch.statements()) }
            }
            N::CaseNode { .. } => {
                let case = node.as_case_node()?;
                let whens = case.conditions().iter().filter_map(|condition| {
                    let when = condition.as_when_node()?;
                    Some((self.list(&when.conditions()), self.body(when.statements())))
                });
                Kind::Case {
                    subject: self.boxed(&case.predicate()?),
                    whens: whens.collect(),
                    other: case.else_clause().map(|other| self.body(other.statements())).unwrap_or_default(),
                }
            }
            N::AndNode { .. } => {
                let and = node.as_and_node()?;
                Kind::And(self.boxed(&and.left()), self.boxed(&and.right()))
            }
            N::OrNode { .. } => {
                let or = node.as_or_node()?;
                Kind::Or(self.boxed(&or.left()), self.boxed(&or.right()))
            }
            N::ParenthesesNode { .. } => Kind::Group(self.any_body(node.as_parentheses_node()?.body())),
            N::BeginNode { .. } => {
                let begin = node.as_begin_node()?;
                // What rescues is for when something fails: here nothing is run that could.
                Kind::Group(self.body(begin.statements()))
            }
            N::DefNode { .. } => {
                let def = node.as_def_node()?;
                if def.receiver().is_some() {
                    return None;
                }
                Kind::Def {
                    name: name(&def.name()),
                    params: self.params(def.parameters()),
                    body: self.any_body(def.body()),
                }
            }
            N::ForNode { .. } => {
                let each = node.as_for_node()?;
                let param = match self.target(&each.index()) {
                    Target::Var(name) => Param::Name(name, None),
                    _ => return None,
                };
                Kind::For { param, over: self.boxed(&each.collection()), body: self.body(each.statements()) }
            }
            N::NextNode { .. } => Kind::Next(self.first(node.as_next_node()?.arguments())),
            N::BreakNode { .. } => Kind::Break,
            N::ReturnNode { .. } => Kind::Return(self.first(node.as_return_node()?.arguments())),
            N::SplatNode { .. } => Kind::Splat(self.boxed(&node.as_splat_node()?.expression()?)),
            _ => return None,
        })
    }

    fn first(self, arguments: Option<prism::ArgumentsNode<'_>>) -> Option<Box<Node>> {
        Some(self.boxed(&arguments?.arguments().first()?))
    }

    fn call(self, call: &prism::CallNode<'_>) -> Kind {
        let method = name(&call.name());
        let receiver = call.receiver().map(|receiver| self.node(&receiver));
        let mut args = call.arguments().map(|list| self.list(&list.arguments())).unwrap_or_default();
        let block = match call.block() {
            None => None,
            Some(block) => match block.as_block_node() {
                Some(block) => {
                    let params = block.parameters().and_then(|params| params.as_block_parameters_node());
                    let params = self.params(params.and_then(|params| params.parameters()));
                    Some(Block { params, body: self.any_body(block.body()) })
                }
                None => return Kind::Other("a block that is handed on with `&`"),
            },
        };
        // `a.b = c` and `a[b] = c` are calls to prism.
        if call.is_attribute_write()
            && let Some(receiver) = receiver
        {
            let value = args.pop();
            let target = match (method.as_str(), args.pop()) {
                ("[]=", Some(key)) => Target::Index(Box::new(receiver), Box::new(key)),
                (_, None) => Target::Attribute(Box::new(receiver), method.trim_end_matches('=').to_owned()),
                _ => Target::Other,
            };
            return match value {
                Some(value) => Kind::Assign { target, value: Box::new(value) },
                None => Kind::Other("an assignment without a value"),
            };
        }
        Kind::Call(Box::new(Call { receiver, safe: call.is_safe_navigation(), name: method, args, block }))
    }

    fn params(self, params: Option<prism::ParametersNode<'_>>) -> Vec<Param> {
        let Some(params) = params else { return Vec::new() };
        let mut list: Vec<Param> = params.requireds().iter().map(|param| self.param(&param)).collect();
        for optional in params.optionals().iter() {
            list.push(match optional.as_optional_parameter_node() {
                Some(optional) => Param::Name(name(&optional.name()), Some(self.boxed(&optional.value()))),
                None => Param::Other,
            });
        }
        if params.rest().is_some() {
            list.push(Param::Other);
        }
        list
    }

    fn param(self, node: &prism::Node<'_>) -> Param {
        if let Some(required) = node.as_required_parameter_node() {
            return Param::Name(name(&required.name()), None);
        }
        match node.as_multi_target_node() {
            Some(tuple) if self.depth < DEEPEST => {
                let inner = Reader { depth: self.depth + 1 };
                Param::Tuple(tuple.lefts().iter().map(|left| inner.param(&left)).collect())
            }
            _ => Param::Other,
        }
    }
}

fn integer(value: &prism::Integer<'_>) -> Kind {
    let (negative, digits) = value.to_u32_digits();
    let number = match digits {
        [low] => i64::from(*low),
        [low, high] => i64::from(*low) | (i64::from(*high & 0x7fff_ffff) << 32),
        _ => return Kind::Other("a number that is too large"),
    };
    if digits.get(1).is_some_and(|high| high >> 31 != 0) {
        return Kind::Other("a number that is too large");
    }
    Kind::Int(if negative { -number } else { number })
}

/// The whole name of a constant. Prism bounds how long its chain is only by the file: no recursion.
fn constant(node: &prism::Node<'_>) -> Option<String> {
    let mut parts = Vec::new();
    let mut at = Some(node.as_constant_path_node());
    if let Some(read) = node.as_constant_read_node() {
        return Some(name(&read.name()));
    }
    while let Some(Some(path)) = at.take() {
        parts.push(name(&path.name()?));
        let Some(parent) = path.parent() else { break };
        match parent.as_constant_read_node() {
            Some(read) => parts.push(name(&read.name())),
            None => at = Some(Some(parent.as_constant_path_node()?)),
        }
        if parts.len() > DEEPEST {
            return None;
        }
    }
    parts.reverse();
    Some(parts.join("::"))
}

/// Why an expression is not read.
fn reason(node: &prism::Node<'_>) -> &'static str {
    use prism::Node as N;
    match node {
        N::XStringNode { .. } | N::InterpolatedXStringNode { .. } => {
            "a command in backquotes: rvm import runs nothing"
        }
        N::ClassNode { .. } | N::ModuleNode { .. } | N::SingletonClassNode { .. } => {
            "a class or module of Ruby"
        }
        N::DefNode { .. } => "a method of an object",
        N::WhileNode { .. } | N::UntilNode { .. } => "a loop without a list or a range",
        N::LambdaNode { .. } => "a lambda of Ruby",
        N::RegularExpressionNode { .. } | N::InterpolatedRegularExpressionNode { .. } => {
            "a regular expression"
        }
        N::ErrorRecoveryNode { .. } => "something is missing here",
        _ => "Ruby that rvm import does not read",
    }
}
