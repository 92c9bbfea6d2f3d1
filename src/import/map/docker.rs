//! `config.vm.provision "docker"`.

use super::super::draft::Out;
use super::super::eval::{Lines, Opt};
use super::super::value::Value;
use super::steps::arguments;
use super::{Mapper, find, string};

impl Mapper<'_, '_> {
    pub(super) fn docker(&mut self, options: &[Opt], at: Lines) -> Result<Vec<(&'static str, Out)>, String> {
        let mut images = Vec::new();
        let mut containers = Vec::new();
        for opt in options {
            match opt.key.as_str() {
                "type" | "name" => {}
                // Whether the step runs; in a block also containers that do.
                "run" if !matches!(opt.value, Value::List(_)) => {}
                "images" | "pull_images" => match list(&opt.value) {
                    Ok(list) => images.extend(list),
                    Err(why) => self.lost(opt.at, format!("`{}`: {why}", opt.key)),
                },
                "run" => {
                    let Value::List(calls) = &opt.value else { continue };
                    for call in calls.iter() {
                        match self.docker_run(call, opt.at) {
                            Ok(container) => containers.push(container),
                            Err(why) => self.lost(opt.at, format!("a container: {why}")),
                        }
                    }
                }
                key => self.lost(opt.at, format!("`{key}` of a docker step has no counterpart")),
            }
        }
        let mut docker = Vec::new();
        if !images.is_empty() {
            docker.push(("images", Out::List(images)));
        }
        let mut names: Vec<Out> = Vec::new();
        containers.retain(|container: &Vec<(&'static str, Out)>| {
            let name = container.first().map(|(_, name)| name.clone());
            let is_new = name.as_ref().is_some_and(|name| !names.contains(name));
            names.extend(name);
            is_new
        });
        if names.len() > containers.len() {
            self.lost(at, "two containers of one name");
        }
        if docker.is_empty() && containers.is_empty() {
            return Err("a docker step with neither images nor containers that are known".into());
        }
        if !containers.is_empty() {
            docker.push(("container", Out::Tables(containers)));
        }
        Ok(vec![("docker", Out::Table(docker))])
    }

    /// `docker.run name, image: …, cmd: …, args: …`.
    fn docker_run(&mut self, call: &Value, at: Lines) -> Result<Vec<(&'static str, Out)>, String> {
        let Value::List(args) = call else { return Err("it is not in the file".into()) };
        let name = args.first().and_then(Value::as_word).ok_or("a name that is not in the file")?;
        let tidy = name.replace('/', "-");
        let fits = tidy.len() > 1
            && tidy.starts_with(|c: char| c.is_ascii_alphanumeric())
            && tidy.chars().all(|c| c.is_ascii_alphanumeric() || "_.-".contains(c));
        if !fits {
            return Err(format!("it cannot be called `{name}`"));
        }
        let options: Vec<Opt> = match args.get(1) {
            Some(Value::Hash(pairs)) => pairs
                .iter()
                .filter_map(|(key, value)| {
                    Some(Opt { key: key.as_word()?.to_owned(), value: value.clone(), at })
                })
                .collect(),
            _ => Vec::new(),
        };
        let get = |key: &str| find(&options, key).filter(|opt| opt.value != Value::Nil);
        let image = get("image").map_or_else(|| Ok(Out::plain(name)), |opt| string(&opt.value))?;
        let mut container = vec![("name", Out::plain(&tidy)), ("image", image)];
        for (theirs, ours) in [("cmd", "command"), ("args", "options")] {
            if let Some(opt) = get(theirs) {
                let words = arguments(&opt.value)?;
                if !words.is_empty() {
                    container.push((ours, Out::List(words)));
                }
            }
        }
        let restart = match get("restart").map(|opt| &opt.value) {
            // Vagrant's own default.
            None => "always",
            Some(Value::Bool(false)) => "no",
            Some(value) => match value.as_word() {
                Some(word @ ("no" | "on-failure" | "always" | "unless-stopped")) => word,
                _ => return Err("`restart` that is not known".into()),
            },
        };
        container.push(("restart", Out::plain(restart)));
        for opt in &options {
            match opt.key.as_str() {
                "image" | "cmd" | "args" | "restart" => {}
                "auto_assign_name" if opt.value == Value::Bool(true) => {}
                "daemonize" if opt.value == Value::Bool(true) => {}
                key => self.lost(at, format!("`{key}` of a container has no counterpart")),
            }
        }
        Ok(container)
    }
}

/// Images: a list, a name, or what a call got.
fn list(value: &Value) -> Result<Vec<Out>, String> {
    match value {
        Value::List(items) => {
            let mut images = Vec::new();
            for item in items.iter() {
                images.extend(list(item)?);
            }
            Ok(images)
        }
        other => {
            let image = string(other)?;
            match &image {
                Out::Str(name) if name.starts_with(|c: char| c.is_ascii_alphanumeric() || c == '$') => {
                    Ok(vec![image])
                }
                _ => Err("a name that is none of an image".into()),
            }
        }
    }
}
