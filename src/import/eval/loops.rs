//! Blocks, and the methods that run one for each of something.

use std::rc::Rc;

use super::super::tree::{Block, Node, Param};
use super::super::value::Value;
use super::{Eval, Evaluated, Flow, Frame, Lines};

/// Rounds of one loop.
pub(super) const LONGEST: i64 = 10_000;

/// What a loop makes of what its rounds come to.
enum Keep {
    Nothing,
    Results,
    /// Items whose result is true, or false.
    Items(bool),
}

impl Eval<'_, '_> {
    /// Runs a block with its parameters bound to `values`.
    pub(super) fn run_block(&mut self, block: &Block, values: Vec<Value>) -> Evaluated {
        self.spend(1)?;
        self.frames.push(Frame::default());
        let outcome = self.bind(&block.params, values).and_then(|()| self.run(&block.body));
        self.frames.pop();
        match outcome {
            Err(Flow::Next(value)) => Ok(value),
            other => other,
        }
    }

    pub(super) fn bind(&mut self, params: &[Param], values: Vec<Value>) -> Result<(), Flow> {
        // One list for several parameters is taken apart, as in Ruby.
        let values = match values.as_slice() {
            [Value::List(items)] if params.len() > 1 => Vec::clone(items),
            _ => values,
        };
        self.spend(values.len())?;
        let mut values = values.into_iter();
        for param in params {
            let value = values.next();
            match param {
                Param::Name(name, default) => {
                    let value = match (value, default) {
                        (Some(value), _) => value,
                        (None, Some(default)) => self.value(default)?,
                        (None, None) => Value::Nil,
                    };
                    if let Some(frame) = self.frames.last_mut() {
                        frame.vars.insert(name.clone(), value);
                    }
                }
                Param::Tuple(params) => self.bind(params, vec![value.unwrap_or(Value::Nil)])?,
                Param::Other => {}
            }
        }
        Ok(())
    }

    pub(super) fn for_each(&mut self, param: &Param, over: Value, body: &[Node], at: Lines) -> Evaluated {
        let rounds = match self.rounds(over, at)? {
            Ok(rounds) => rounds,
            Err(why) => return Ok(Value::Unknown(why)),
        };
        for round in rounds {
            self.spend(1)?;
            // The variable of `for` is one of the surroundings.
            if let (Param::Name(name, _), Some(value)) = (param, round.into_iter().next()) {
                self.set_variable(name, value);
            }
            match self.run(body) {
                Ok(_) | Err(Flow::Next(_)) => {}
                Err(Flow::Break) => break,
                Err(other) => return Err(other),
            }
        }
        Ok(Value::Nil)
    }

    /// What a loop goes over: the values of the block's parameters for each round.
    fn rounds(&mut self, over: Value, at: Lines) -> Result<Result<Vec<Vec<Value>>, Rc<str>>, Flow> {
        Ok(Ok(match self.fixed(over, at) {
            Value::List(items) => {
                self.spend(items.len())?;
                items.iter().map(|item| vec![item.clone()]).collect()
            }
            Value::Hash(pairs) => {
                self.spend(pairs.len())?;
                pairs.iter().map(|(key, value)| vec![key.clone(), value.clone()]).collect()
            }
            Value::Range(from, to) => {
                if to.saturating_sub(from) >= LONGEST {
                    return Ok(Err(format!("a loop of more than {LONGEST} rounds").into()));
                }
                self.spend(usize::try_from(to.saturating_sub(from)).unwrap_or(0))?;
                (from..=to).map(|number| vec![Value::Int(number)]).collect()
            }
            Value::Unknown(why) => return Ok(Err(why)),
            other => return Ok(Err(format!("a loop over {}", other.kind()).into())),
        }))
    }

    /// A method with a block; `None`: it is none of those known here.
    pub(super) fn loop_method(
        &mut self,
        receiver: &Value,
        name: &str,
        args: &[Value],
        block: &Block,
        at: Lines,
    ) -> Result<Option<Value>, Flow> {
        let (over, keep, index) = match (name, args) {
            ("each" | "each_pair" | "each_entry", []) => (receiver.clone(), Keep::Nothing, None),
            ("each_with_index", []) => (receiver.clone(), Keep::Nothing, Some(0)),
            ("with_index", []) => (receiver.clone(), Keep::Results, Some(0)),
            ("with_index", [Value::Int(first)]) => (receiver.clone(), Keep::Results, Some(*first)),
            ("map" | "collect" | "flat_map", []) => (receiver.clone(), Keep::Results, None),
            ("select" | "filter", []) => (receiver.clone(), Keep::Items(true), None),
            ("reject", []) => (receiver.clone(), Keep::Items(false), None),
            ("each_key" | "each_value", []) => {
                let method = if name == "each_key" { "keys" } else { "values" };
                (self.method(receiver.clone(), method, Vec::new(), at)?, Keep::Nothing, None)
            }
            ("times", []) => match self.number(receiver.clone(), at) {
                Ok(count) => (Value::Range(0, count.saturating_sub(1)), Keep::Nothing, None),
                Err(why) => return Ok(Some(Value::Unknown(why))),
            },
            ("upto", [to]) => match (self.number(receiver.clone(), at), self.number(to.clone(), at)) {
                (Ok(from), Ok(to)) => (Value::Range(from, to), Keep::Nothing, None),
                (Err(why), _) | (_, Err(why)) => return Ok(Some(Value::Unknown(why))),
            },
            _ => return Ok(None),
        };
        let rounds = match self.rounds(over, at)? {
            Ok(rounds) => rounds,
            Err(why) => return Ok(Some(Value::Unknown(why))),
        };
        let mut kept = Vec::new();
        for (number, round) in rounds.into_iter().enumerate() {
            let item = match round.as_slice() {
                [one] => one.clone(),
                several => Value::List(Rc::new(several.to_vec())),
            };
            let values = match index {
                Some(first) => {
                    let number = i64::try_from(number).unwrap_or(i64::MAX).saturating_add(first);
                    vec![item.clone(), Value::Int(number)]
                }
                None => round,
            };
            let result = match self.run_block(block, values) {
                Ok(result) => result,
                Err(Flow::Break) => break,
                Err(other) => return Err(other),
            };
            match keep {
                Keep::Nothing => {}
                Keep::Results => kept.push(result),
                Keep::Items(wanted) => match self.truth(result, at) {
                    Ok(is) if is == wanted => kept.push(item),
                    Ok(_) => {}
                    Err(why) => return Ok(Some(Value::Unknown(why))),
                },
            }
        }
        let value = match keep {
            Keep::Nothing => Value::Nil,
            _ => Value::List(Rc::new(kept)),
        };
        self.made(value).map(Some)
    }
}
