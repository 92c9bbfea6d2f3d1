//! Variables, and what is assigned to them, to elements and to attributes.

use std::rc::Rc;

use super::super::tree::{Kind, Node, Target};
use super::super::value::Value;
use super::{Eval, Evaluated, Flow, Lines};

impl Eval<'_, '_> {
    fn is_global(name: &str) -> bool {
        name.starts_with(|c: char| c.is_uppercase() || c == '$' || c == '@')
    }

    pub(super) fn variable(&self, name: &str) -> Value {
        if name == "__FILE__" {
            return Value::text("Vagrantfile");
        }
        if Self::is_global(name) {
            return self.globals.get(name).cloned().unwrap_or(Value::Nil);
        }
        for frame in self.frames.iter().rev() {
            if let Some(value) = frame.vars.get(name) {
                return value.clone();
            }
            if frame.closed {
                break;
            }
        }
        Value::Nil
    }

    pub(super) fn set_variable(&mut self, name: &str, value: Value) {
        if Self::is_global(name) {
            self.globals.insert(name.to_owned(), value);
            return;
        }
        // The frame that has it, else the innermost one.
        let mut home = self.frames.len().saturating_sub(1);
        for (index, frame) in self.frames.iter().enumerate().rev() {
            if frame.vars.contains_key(name) {
                home = index;
                break;
            }
            if frame.closed {
                break;
            }
        }
        if let Some(frame) = self.frames.get_mut(home) {
            frame.vars.insert(name.to_owned(), value);
        }
    }

    pub(super) fn assign(&mut self, target: &Target, value: Value, at: Lines) -> Result<(), Flow> {
        match target {
            Target::Var(name) => self.set_variable(name, value),
            Target::Index(receiver, key) => {
                let (holder, key) = (self.value(receiver)?, self.value(key)?);
                self.assign_index(receiver, holder, key, value, at)?;
            }
            Target::Attribute(receiver, name) => match self.value(receiver)? {
                Value::Handle(handle) => self.set_attribute(&handle, name, value, at),
                Value::Unknown(why) => self.lost(at, &*why),
                other => self.lost(at, format!("sets `{name}` of {}", other.kind())),
            },
            Target::Other => self.lost(at, "an assignment of a kind that rvm import does not read"),
        }
        Ok(())
    }

    /// `holder[key] = value`: what is held is a new value, which its variable gets.
    pub(super) fn assign_index(
        &mut self,
        node: &Node,
        holder: Value,
        key: Value,
        value: Value,
        at: Lines,
    ) -> Result<(), Flow> {
        let changed = match holder {
            Value::Handle(handle) => {
                self.set_element(&handle, key, value, at);
                return Ok(());
            }
            Value::Env => {
                let vagrants = key.as_word().is_some_and(|name| name.starts_with("VAGRANT_"));
                match vagrants {
                    true => self.needless(at, "a setting of Vagrant's own"),
                    false => self.lost(at, "sets a variable of the environment"),
                }
                return Ok(());
            }
            Value::Hash(pairs) => {
                self.spend(pairs.len() + 1)?;
                let mut pairs = Vec::clone(&pairs);
                match pairs.iter_mut().find(|(known, _)| *known == key) {
                    Some((_, old)) => *old = value,
                    None => pairs.push((key, value)),
                }
                self.made(Value::Hash(Rc::new(pairs)))?
            }
            Value::List(items) => {
                self.spend(items.len() + 1)?;
                let mut items = Vec::clone(&items);
                let index = match key {
                    Value::Int(index) => usize::try_from(index).ok().filter(|index| *index <= items.len()),
                    _ => None,
                };
                match index {
                    Some(index) if index < items.len() => {
                        if let Some(item) = items.get_mut(index) {
                            *item = value;
                        }
                    }
                    Some(_) => items.push(value),
                    None => {
                        self.lost(at, "an element of a list by an index that rvm import does not read");
                        return Ok(());
                    }
                }
                self.made(Value::List(Rc::new(items)))?
            }
            Value::Unknown(why) => {
                self.lost(at, &*why);
                return Ok(());
            }
            other => {
                self.lost(at, format!("sets an element of {}", other.kind()));
                return Ok(());
            }
        };
        self.put_back(node, changed, at)
    }

    /// Gives the variable (or element) that `node` names its changed value.
    pub(super) fn put_back(&mut self, node: &Node, value: Value, at: Lines) -> Result<(), Flow> {
        match &node.kind {
            Kind::Var(name) | Kind::Const(name) => self.set_variable(name, value),
            Kind::Call(call) if call.name == "[]" => {
                if let (Some(receiver), [key]) = (&call.receiver, call.args.as_slice()) {
                    let (holder, key) = (self.value(receiver)?, self.value(key)?);
                    self.assign_index(receiver, holder, key, value, at)?;
                }
            }
            _ => self.lost(at, "changes a value that no variable holds"),
        }
        Ok(())
    }

    pub(super) fn update(&mut self, target: &Target, operator: &str, value: &Node, at: Lines) -> Evaluated {
        let old = match target {
            Target::Var(name) => self.variable(name),
            Target::Index(receiver, key) => {
                let (holder, key) = (self.value(receiver)?, self.value(key)?);
                self.method(holder, "[]", vec![key], at)?
            }
            _ => return Ok(Value::unknown("an assignment of a kind that rvm import does not read")),
        };
        if operator == "||" {
            if let Value::Text(text) = &old
                && let Some((name, None)) = text.as_env()
            {
                let name = name.to_owned();
                let default = self.value(value)?;
                let value = self.with_default(&name, default, at);
                self.assign(target, value.clone(), at)?;
                return Ok(value);
            }
            match old {
                Value::Nil | Value::Bool(false) => {}
                _ => return Ok(old),
            }
            let value = self.value(value)?;
            self.assign(target, value.clone(), at)?;
            return Ok(value);
        }
        let value = self.value(value)?;
        let value = self.method(old, operator, vec![value], at)?;
        self.assign(target, value.clone(), at)?;
        Ok(value)
    }

    pub(super) fn unpack(&mut self, targets: &[Target], value: &Node, at: Lines) -> Evaluated {
        let value = self.value(value)?;
        if let Value::Unknown(_) = value {
            for target in targets {
                self.assign(target, value.clone(), at)?;
            }
            return Ok(value);
        }
        let items = match &value {
            Value::List(items) => Vec::clone(items),
            other => vec![other.clone()],
        };
        self.spend(items.len())?;
        let mut items = items.into_iter();
        for target in targets {
            self.assign(target, items.next().unwrap_or(Value::Nil), at)?;
        }
        Ok(value)
    }
}
