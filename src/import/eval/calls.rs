//! Calls: of methods of the file, of Ruby's own functions, of methods of values.

use std::rc::Rc;

use super::super::tree::{Call, Node, Param};
use super::super::value::{Text, Value};
use super::{DEEPEST_CALL, Eval, Evaluated, Flow, Frame, Lines, is_env_name, methods};

impl Eval<'_, '_> {
    pub(super) fn call(&mut self, call: &Call, at: Lines) -> Evaluated {
        let Some(receiver) = &call.receiver else { return self.function(call, at) };
        let value = self.value(receiver)?;
        if call.safe && value == Value::Nil {
            return Ok(Value::Nil);
        }
        match value {
            Value::Handle(handle) => self.config_call(&handle, call, at),
            Value::Env => self.env_call(call, at),
            Value::Const(name) => self.const_call(&name, call, at),
            Value::Unknown(why) => Ok(Value::Unknown(why)),
            value => self.value_call(receiver, value, call, at),
        }
    }

    fn value_call(&mut self, node: &Node, value: Value, call: &Call, at: Lines) -> Evaluated {
        let args = self.arguments(&call.args)?;
        if let Some(block) = &call.block {
            let known = self.loop_method(&value, &call.name, &args, block, at)?;
            return Ok(known.unwrap_or_else(|| {
                Value::unknown(format!("`{}` with a block, which rvm import does not know", call.name))
            }));
        }
        // These change the value in place, for all who look at the variable.
        let changes = match call.name.as_str() {
            "<<" | "push" | "append" => "push",
            "concat" => "+",
            "merge!" | "update" => "merge",
            _ => return self.method(value, &call.name, args, at),
        };
        let changed = self.method(value, changes, args, at)?;
        if !matches!(changed, Value::Unknown(_)) {
            self.put_back(node, changed.clone(), at)?;
        }
        Ok(changed)
    }

    /// A method of a string, a number, a list, a hash.
    pub(super) fn method(&mut self, value: Value, name: &str, mut args: Vec<Value>, at: Lines) -> Evaluated {
        let unknown = std::iter::once(&value).chain(&args).find_map(|value| match value {
            Value::Unknown(why) => Some(Rc::clone(why)),
            _ => None,
        });
        if let (Some(why), false) = (unknown, matches!(value, Value::Hash(_) | Value::List(_))) {
            return Ok(Value::Unknown(why));
        }
        if let Some(open) = methods::of_open_text(&value, name, &args) {
            return self.made(open);
        }
        let in_list = matches!((&value, name), (Value::List(_), "push" | "+" | "join"));
        let value = self.fixed(value, at);
        if !in_list {
            args = args.into_iter().map(|arg| self.fixed(arg, at)).collect();
        }
        for looked_at in std::iter::once(&value).chain(&args) {
            let weight = looked_at.weight().unwrap_or(usize::MAX);
            self.spend(weight)?;
        }
        match methods::of_value(&value, name, &args) {
            Some(result) => self.made(result),
            None => {
                Ok(Value::unknown(format!("`{name}` of {}, which rvm import does not know", value.kind())))
            }
        }
    }

    fn function(&mut self, call: &Call, at: Lines) -> Evaluated {
        if let Some(method) = self.methods.get(&call.name).cloned() {
            let args = self.arguments(&call.args)?;
            if self.calls >= DEEPEST_CALL {
                return Ok(Value::unknown("methods that call each other without end"));
            }
            if call.block.is_some() {
                return Ok(Value::unknown("a method of the file that takes a block"));
            }
            self.calls += 1;
            self.frames.push(Frame { closed: true, ..Frame::default() });
            let outcome = self.bind_method(&method.params, args).and_then(|()| self.run(&method.body));
            self.frames.pop();
            self.calls -= 1;
            return match outcome {
                Err(Flow::Return(value)) => Ok(value),
                other => other,
            };
        }
        let name = call.name.as_str();
        match name {
            "__dir__" => return Ok(Value::text(".")),
            "puts" | "print" | "p" | "pp" | "warn" | "printf" | "putc" => {
                self.needless(at, "it only prints, each time that Vagrant reads the file");
                return Ok(Value::Nil);
            }
            "require" | "require_relative" | "load" => {
                match name {
                    "require" => self.needless(at, "a library of Ruby"),
                    _ => self.lost(at, "Ruby in another file"),
                }
                return Ok(Value::Nil);
            }
            "raise" | "fail" | "abort" | "exit" | "exit!" => {
                self.needless(at, "it ends Vagrant with an error");
                return Ok(Value::Nil);
            }
            "sleep" => return Ok(Value::Nil),
            _ => {}
        }
        if matches!(name, "system" | "exec" | "spawn" | "fork" | "eval" | "instance_eval") {
            return Ok(Value::unknown(format!("`{name}`: rvm import runs nothing")));
        }
        let args = self.arguments(&call.args)?;
        match (name, args.as_slice()) {
            ("format" | "sprintf", [format, rest @ ..]) => {
                self.method(format.clone(), "%", vec![Value::List(Rc::new(rest.to_vec()))], at)
            }
            ("Integer", [value, ..]) => self.method(value.clone(), "to_i", Vec::new(), at),
            ("String", [value]) => self.method(value.clone(), "to_s", Vec::new(), at),
            ("Array", [Value::List(list)]) => Ok(Value::List(Rc::clone(list))),
            _ => Ok(Value::unknown(format!("`{name}`, which is not defined in this file"))),
        }
    }

    /// Method parameters: one list is not taken apart, unlike for a block.
    fn bind_method(&mut self, params: &[Param], args: Vec<Value>) -> Result<(), Flow> {
        match (params.len(), args.len()) {
            (2.., 1) => {
                let mut args = args;
                args.push(Value::Nil);
                // The rest take their defaults.
                let (first, rest) = params.split_at(1);
                args.truncate(1);
                self.bind(first, args)?;
                self.bind(rest, Vec::new())
            }
            _ => self.bind(params, args),
        }
    }

    fn env_call(&mut self, call: &Call, at: Lines) -> Evaluated {
        let args = self.arguments(&call.args)?;
        let known = args.first().and_then(Value::as_word).filter(|name| is_env_name(name));
        let Some(name) = known.map(str::to_owned) else {
            return Ok(Value::unknown("a variable of the environment whose name is not in the file"));
        };
        match (call.name.as_str(), args.get(1)) {
            ("[]", None) => Ok(Value::Text(Rc::new(Text::env(name, None)))),
            ("fetch", Some(default)) => Ok(self.with_default(&name, default.clone(), at)),
            ("fetch", None) => {
                let default = match &call.block {
                    Some(block) => self.run_block(block, vec![Value::text(name.as_str())])?,
                    None => Value::Nil,
                };
                Ok(self.with_default(&name, default, at))
            }
            ("key?" | "has_key?" | "include?" | "member?", None) => {
                self.lost(at, format!("depends on ENV[\"{name}\"], which was taken as not set"));
                Ok(Value::Bool(false))
            }
            (method, _) => Ok(Value::unknown(format!("`ENV.{method}`"))),
        }
    }
}
