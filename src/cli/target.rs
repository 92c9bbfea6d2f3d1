//! Which machines a command is about: names of the project, or ids from any folder.

use std::sync::Arc;

use super::app::App;
use super::error::{CliError, Kind};
use crate::machine::{Machines, Status};
use crate::model::{Machine, Project};

/// Shortest id prefix that is taken for an id.
const MIN_ID_LEN: usize = 4;

/// A machine that a command works on.
#[derive(Debug, Clone)]
pub struct Target {
    /// Its name.
    pub name: String,
    /// Its id, if it was addressed by that.
    id: Option<String>,
    /// Its project, if that could be read.
    project: Option<Arc<Project>>,
    /// Why the project is not there.
    trouble: Option<CliError>,
}

impl Target {
    fn declared(project: &Arc<Project>, name: &str) -> Self {
        Target { name: name.to_owned(), id: None, project: Some(Arc::clone(project)), trouble: None }
    }

    /// The project and the machine as declared: for commands that need the file.
    pub fn declaration(&self) -> Result<(&Project, &Machine), CliError> {
        let Some(project) = &self.project else {
            return Err(self.trouble.clone().unwrap_or_else(|| {
                CliError::new(Kind::Config, format!("the project of {} cannot be read", self.name))
            }));
        };
        match project.machines.iter().find(|m| m.name == self.name) {
            Some(machine) => Ok((project, machine)),
            None => Err(CliError::new(
                Kind::Config,
                format!("{} no longer declares a machine `{}`", project.file.display(), self.name),
            )
            .hint("add it again, or remove what is left of it with `rvm destroy ID`")),
        }
    }

    /// Its id, also of a machine whose record cannot be read; `None` when it is not created.
    pub fn id(&self, machines: &Machines<'_>) -> Result<Option<String>, CliError> {
        match &self.id {
            Some(id) => Ok(Some(id.clone())),
            None => Ok(self.status(machines)?.id),
        }
    }

    /// The machine as it is now.
    pub fn status(&self, machines: &Machines<'_>) -> Result<Status, CliError> {
        match (&self.id, &self.project) {
            (Some(id), _) => Ok(machines.status_of(id)?),
            (None, Some(project)) => Ok(machines.status(project, &self.name)?),
            (None, None) => Err(CliError::failed(format!("no machine `{}`", self.name))),
        }
    }
}

/// The machines that `words` name, each once, in the order of the words; with no words all of
/// the project, in the order of its file.
///
/// A word is a name of the project, else an id or its beginning (from any folder). A project that
/// cannot be read does not stand in the way of an id.
pub fn resolve(app: &App, machines: &Machines<'_>, words: &[String]) -> Result<Vec<Target>, CliError> {
    let project = app.project().map(Arc::new);
    if words.is_empty() {
        let project = project?;
        return Ok(project.machines.iter().map(|m| Target::declared(&project, &m.name)).collect());
    }
    let mut targets: Vec<Target> = Vec::new();
    for word in words {
        let declared = project.as_ref().ok().filter(|p| p.machines.iter().any(|m| m.name == *word));
        let target = match declared {
            Some(project) => Target::declared(project, word),
            None => match by_id(app, machines, word)? {
                Some(target) => target,
                None => return Err(unknown(word, project.as_deref())),
            },
        };
        if !targets.iter().any(|t| t.name == target.name && t.root() == target.root()) {
            targets.push(target);
        }
    }
    Ok(targets)
}

/// The one machine that `word` names, or the only one of the project. `command` is for the error.
pub fn resolve_one(
    app: &App,
    machines: &Machines<'_>,
    word: &Option<String>,
    command: &str,
) -> Result<Target, CliError> {
    let mut targets = resolve(app, machines, word.as_slice())?;
    match (targets.pop(), targets.is_empty()) {
        (Some(target), true) => Ok(target),
        (last, _) => {
            let names: Vec<&str> = targets.iter().chain(&last).map(|t| t.name.as_str()).collect();
            Err(CliError::usage(format!(
                "`rvm {command}` works on one machine, and this project has several"
            ))
            .hint(format!("name one of: {}", names.join(", "))))
        }
    }
}

impl Target {
    fn root(&self) -> Option<&std::path::Path> {
        self.project.as_ref().map(|p| p.root.as_path())
    }
}

fn by_id(app: &App, machines: &Machines<'_>, word: &str) -> Result<Option<Target>, CliError> {
    if !looks_like_id(word) {
        return Ok(None);
    }
    let Some(id) = machines.find(&word.to_ascii_lowercase())? else { return Ok(None) };
    let status = match machines.status_of(&id) {
        Ok(status) => status,
        // What cannot be read can still be removed.
        Err(error) => {
            let name = short(&id).to_owned();
            return Ok(Some(Target { name, id: Some(id), project: None, trouble: Some(error.into()) }));
        }
    };
    let loaded = app.project_at(status.project.clone()).and_then(|project| {
        // The search goes upward: a project further up is another one.
        if project.root == status.project {
            return Ok(project);
        }
        Err(CliError::new(
            Kind::Config,
            format!("{} holds no Vagrantfile any more", status.project.display()),
        )
        .hint(format!("`rvm destroy {}` removes the machine", short(&id))))
    });
    let (project, trouble) = match loaded {
        Ok(project) => (Some(Arc::new(project)), None),
        Err(error) => (None, Some(error)),
    };
    Ok(Some(Target { name: status.name, id: Some(id), project, trouble }))
}

fn unknown(word: &str, project: Result<&Project, &CliError>) -> CliError {
    match project {
        Ok(project) => {
            let names: Vec<&str> = project.machines.iter().map(|m| m.name.as_str()).collect();
            CliError::usage(format!(
                "no machine `{word}` in {}, and no machine with such an id",
                project.file.display()
            ))
            .hint(format!("this project has: {}", names.join(", ")))
        }
        Err(error) if looks_like_id(word) && error.kind == Kind::Config => {
            CliError::usage(format!("no machine has an id that begins with `{word}`"))
                .hint("`rvm global-status` shows all ids")
        }
        Err(error) => error.clone(),
    }
}

fn looks_like_id(word: &str) -> bool {
    (MIN_ID_LEN..=32).contains(&word.len()) && word.bytes().all(|b| b.is_ascii_hexdigit())
}

/// The part of an id that lists show.
pub fn short(id: &str) -> &str {
    id.get(..7).unwrap_or(id)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_may_be_an_id() {
        assert!(looks_like_id("cafe") && looks_like_id("0123456789abcdefABCDEF0123456789"));
        assert!(!looks_like_id("caf") && !looks_like_id("web1") && !looks_like_id(""));
        assert!(!looks_like_id("0123456789abcdef0123456789abcdef0"));
    }

    #[test]
    fn short_ids() {
        assert_eq!(short("0123456789abcdef0123456789abcdef"), "0123456");
        assert_eq!(short("äöü"), "äöü");
    }
}
