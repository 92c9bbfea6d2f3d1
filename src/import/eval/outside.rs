//! Constants that the file does not define: Vagrant itself, and Ruby's own classes.

use std::rc::Rc;

use super::super::tree::Call;
use super::super::value::{Handle, Part, Text, Value};
use super::{Eval, Evaluated, Lines};

impl Eval<'_, '_> {
    pub(super) fn constant(&self, name: &str) -> Value {
        if let Some(value) = self.globals.get(name) {
            return value.clone();
        }
        match name {
            "ENV" => Value::Env,
            "ARGV" => Value::unknown("depends on the words of the command line"),
            _ => Value::Const(name.into()),
        }
    }

    pub(super) fn const_call(&mut self, name: &str, call: &Call, at: Lines) -> Evaluated {
        match (name, call.name.as_str()) {
            ("Vagrant", "configure") | ("Vagrant::Config", "run") => return self.configure(call, at),
            ("Vagrant", "has_plugin?") => {
                self.needless(at, "plug-ins of Vagrant: taken as not installed");
                return Ok(Value::Bool(false));
            }
            ("Vagrant", "require_version" | "require_plugin") => {
                self.needless(at, "a demand on Vagrant itself");
                return Ok(Value::Nil);
            }
            ("Vagrant::Util::Platform", "windows?" | "darwin?" | "cygwin?" | "wsl?" | "solaris?") => {
                return Ok(Value::Bool(false));
            }
            ("Vagrant::Util::Platform", "linux?" | "unix?") => return Ok(Value::Bool(true)),
            ("Dir", "pwd" | "getwd") => return Ok(Value::text(".")),
            _ => {}
        }
        let args = self.arguments(&call.args)?;
        let path = match (name, call.name.as_str(), args.as_slice()) {
            ("File", "join", parts) => join(parts),
            ("File", "dirname", [path]) => path.as_word().map(|path| parent(path).to_owned()),
            ("File", "basename", [path]) => {
                path.as_word().map(|path| path.rsplit('/').next().unwrap_or_default().to_owned())
            }
            ("File", "expand_path" | "absolute_path" | "realpath", [path]) => path.as_word().map(clean),
            ("File", "expand_path" | "absolute_path", [path, base]) => match path.as_word() {
                Some(path) if path.starts_with(['/', '~']) => Some(path.to_owned()),
                _ => join(&[base.clone(), path.clone()]),
            },
            ("Hash", "new", []) => return Ok(Value::Hash(Rc::default())),
            ("Array", "new", []) => return Ok(Value::List(Rc::default())),
            _ => {
                let why = format!("`{name}.{}`: rvm import reads no other file and runs nothing", call.name);
                return Ok(Value::unknown(why));
            }
        };
        match path {
            Some(path) => self.made(Value::text(path)),
            None => {
                let unknown = args.iter().find_map(|arg| match arg {
                    Value::Unknown(why) => Some(Rc::clone(why)),
                    _ => None,
                });
                Ok(Value::Unknown(unknown.unwrap_or_else(|| "a path that is not known".into())))
            }
        }
    }

    fn configure(&mut self, call: &Call, at: Lines) -> Evaluated {
        self.said.configures = true;
        let config = Handle { scope: 0, only: None, part: Part::Config };
        match &call.block {
            Some(block) => self.run_block(block, vec![Value::Handle(config)])?,
            None => {
                self.lost(at, "a configuration without a block");
                Value::Nil
            }
        };
        Ok(Value::Nil)
    }
}

/// The parts with `/` between, tidied. Paths begin at the folder of the Vagrantfile.
fn join(parts: &[Value]) -> Option<String> {
    let mut joined = Text::default();
    for (index, part) in parts.iter().enumerate() {
        if index > 0 {
            joined.push(&Text::plain("/"));
        }
        joined.push(&part.to_text()?);
    }
    joined.as_plain().map(clean)
}

fn parent(path: &str) -> &str {
    match path.trim_end_matches('/').rsplit_once('/') {
        Some(("", _)) => "/",
        Some((parent, _)) => parent,
        None => ".",
    }
}

/// Without `.` and, where it can be, without `..`. `Vagrantfile/..` is the project folder, as in
/// `File.expand_path("..", __FILE__)`.
fn clean(path: &str) -> String {
    let mut parts: Vec<&str> = Vec::new();
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." if parts.last().is_some_and(|last| *last != "..") => {
                parts.pop();
            }
            part => parts.push(part),
        }
    }
    let root = if path.starts_with('/') { "/" } else { "" };
    let joined = format!("{root}{}", parts.join("/"));
    if joined.is_empty() { ".".to_owned() } else { joined }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_begin_at_the_project() {
        assert_eq!(clean("Vagrantfile/.."), ".");
        assert_eq!(clean("./a//b/../c"), "a/c");
        assert_eq!(clean("../x"), "../x");
        assert_eq!(clean("/a/./b/"), "/a/b");
        assert_eq!((parent("Vagrantfile"), parent("a/b/"), parent("/a")), (".", "a", "/"));
    }
}
