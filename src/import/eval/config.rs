//! What is said to the object that `Vagrant.configure` hands to its block.

use std::rc::Rc;

use super::super::tree::Call;
use super::super::value::{Handle, Part, Value};
use super::{Declared, Eval, Evaluated, Event, Flow, Lines, MOST_MACHINES, Opt, What};

impl Eval<'_, '_> {
    fn say(&mut self, handle: &Handle, what: What, at: Lines) {
        let event = Event { scope: handle.scope, at, only: handle.only.clone(), what };
        self.said.events.push(event);
    }

    /// `handle.name = value`.
    pub(super) fn set_attribute(&mut self, handle: &Handle, name: &str, value: Value, at: Lines) {
        // The statement it stands in says so.
        if matches!(value, Value::Unknown(_)) && !matches!(handle.part, Part::Options(_)) {
            return;
        }
        match &handle.part {
            Part::Config => self.lost(at, format!("`config.{name}`, which rvm import does not know")),
            Part::Section(section) => {
                let path = format!("{section}.{name}");
                self.say(handle, What::Set { path, value }, at);
            }
            Part::Provider(provider) => {
                let provider = Rc::clone(provider);
                self.say(handle, What::Provider { provider, key: name.to_owned(), args: vec![value] }, at);
            }
            Part::Options(_) => self.collect(name, value, at),
        }
    }

    /// `handle[key] = value`, or an element of one of its attributes.
    pub(super) fn set_element(&mut self, handle: &Handle, key: Value, value: Value, at: Lines) {
        match &handle.part {
            Part::Provider(provider) => {
                let provider = Rc::clone(provider);
                let args = vec![key, value];
                self.say(handle, What::Provider { provider, key: "[]".into(), args }, at);
            }
            Part::Options(Some(name)) => {
                let name = Rc::clone(name);
                let mut pairs =
                    match self.open.last().and_then(|open| open.iter().find(|opt| *opt.key == *name)) {
                        Some(Opt { value: Value::Hash(pairs), .. }) => Vec::clone(pairs),
                        _ => Vec::new(),
                    };
                pairs.push((key, value));
                self.collect(&name, Value::Hash(Rc::new(pairs)), at);
            }
            _ => self.lost(at, "an element of something that rvm import does not know"),
        }
    }

    /// An option of the innermost block.
    fn collect(&mut self, key: &str, value: Value, at: Lines) {
        if let Some(open) = self.open.last_mut() {
            match open.iter_mut().find(|opt| opt.key == key) {
                Some(opt) => opt.value = value,
                None => open.push(Opt { key: key.to_owned(), value, at }),
            }
        }
    }

    pub(super) fn config_call(&mut self, handle: &Handle, call: &Call, at: Lines) -> Evaluated {
        let name = call.name.as_str();
        let part = |part: Part| Value::Handle(Handle { part, ..handle.clone() });
        let bare = call.args.is_empty() && call.block.is_none();
        match &handle.part {
            // Asked about what plug-ins add.
            _ if name == "respond_to?" => {
                self.needless(at, "plug-ins of Vagrant: taken as not installed");
                Ok(Value::Bool(false))
            }
            Part::Config if bare => Ok(part(Part::Section(name.into()))),
            Part::Config => Ok(Value::unknown(format!("`config.{name}`, which rvm import does not know"))),
            Part::Section(section) => match (&**section, name) {
                ("vm", "define") => self.define(handle, call, at),
                ("vm", "provider") => self.provider(handle, call, at),
                (_, _) if bare => Ok(Value::unknown(format!("reads `config.{section}.{name}` back"))),
                _ => {
                    let path = format!("{section}.{name}");
                    self.section_call(handle, path, call, at)
                }
            },
            // `vmx` of VMware and the like: elements of it are set.
            Part::Provider(_) if bare => Ok(Value::Handle(handle.clone())),
            Part::Provider(provider) => {
                let provider = Rc::clone(provider);
                let args = self.arguments(&call.args)?;
                self.say(handle, What::Provider { provider, key: name.to_owned(), args }, at);
                Ok(Value::Nil)
            }
            Part::Options(_) if bare => Ok(part(Part::Options(Some(name.into())))),
            Part::Options(_) => {
                let args = self.arguments(&call.args)?;
                // `docker.run` and its kind may come several times.
                let mut said = match self.open.last().and_then(|open| open.iter().find(|opt| opt.key == name))
                {
                    Some(Opt { value: Value::List(calls), .. }) => Vec::clone(calls),
                    _ => Vec::new(),
                };
                said.push(Value::List(Rc::new(args)));
                self.collect(name, Value::List(Rc::new(said)), at);
                Ok(Value::Nil)
            }
        }
    }

    /// Arguments, and those with a name as options.
    fn with_options(&mut self, call: &Call, at: Lines) -> Result<(Vec<Value>, Vec<Opt>), Flow> {
        let mut args = self.arguments(&call.args)?;
        let mut options = Vec::new();
        if let Some(Value::Hash(pairs)) = args.last() {
            for (key, value) in pairs.iter() {
                if let Some(key) = key.as_word() {
                    options.push(Opt { key: key.to_owned(), value: value.clone(), at });
                }
            }
            args.pop();
        }
        Ok((args, options))
    }

    fn section_call(&mut self, handle: &Handle, path: String, call: &Call, at: Lines) -> Evaluated {
        let (args, mut options) = self.with_options(call, at)?;
        if let Some(block) = &call.block {
            let collector = Handle { part: Part::Options(None), ..handle.clone() };
            self.open.push(Vec::new());
            let outcome = self.run_block(block, vec![Value::Handle(collector)]);
            let collected = self.open.pop().unwrap_or_default();
            outcome?;
            for opt in collected {
                options.retain(|known| known.key != opt.key);
                options.push(opt);
            }
        }
        self.say(handle, What::Call { path, args, options }, at);
        Ok(Value::Nil)
    }

    fn define(&mut self, handle: &Handle, call: &Call, at: Lines) -> Evaluated {
        let mut args = self.arguments(&call.args)?;
        let options = match args.last() {
            Some(Value::Hash(pairs)) => Vec::clone(pairs),
            _ => Vec::new(),
        };
        args.truncate(1);
        let name = args.pop().unwrap_or(Value::Nil);
        let name = match self.fixed(name, at) {
            Value::Unknown(why) => return Ok(Value::Unknown(why)),
            value => match value.to_text().as_ref().and_then(|text| text.as_plain()) {
                Some(name) if !name.is_empty() => name.to_owned(),
                _ => return Ok(Value::unknown("a machine without a name")),
            },
        };
        if handle.scope != 0 {
            return Ok(Value::unknown("a machine within a machine"));
        }
        let known = self.said.machines.iter().position(|machine| machine.name == name);
        let index = match known {
            Some(index) => index,
            None if self.said.machines.len() >= MOST_MACHINES => {
                return Ok(Value::unknown(format!("more than {MOST_MACHINES} machines")));
            }
            None => {
                self.said.machines.push(Declared { name, at, options: Vec::new() });
                self.said.machines.len() - 1
            }
        };
        if let Some(machine) = self.said.machines.get_mut(index) {
            machine.options.extend(options);
        }
        let machine = Handle { scope: index + 1, only: handle.only.clone(), part: Part::Config };
        if let Some(block) = &call.block {
            self.run_block(block, vec![Value::Handle(machine)])?;
        }
        Ok(Value::Nil)
    }

    fn provider(&mut self, handle: &Handle, call: &Call, at: Lines) -> Evaluated {
        let args = self.arguments(&call.args)?;
        let Some(name) = args.first().and_then(Value::as_word) else {
            return Ok(Value::unknown("a provider whose name is not in the file"));
        };
        let name: Rc<str> = name.into();
        let Some(block) = &call.block else {
            self.needless(at, "which provider Vagrant prefers");
            return Ok(Value::Nil);
        };
        let own = Handle { part: Part::Provider(Rc::clone(&name)), ..handle.clone() };
        let shadow = Handle { only: Some(name), part: Part::Config, ..handle.clone() };
        self.run_block(block, vec![Value::Handle(own), Value::Handle(shadow)])?;
        Ok(Value::Nil)
    }
}
