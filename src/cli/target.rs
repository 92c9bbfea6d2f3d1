//! Which machines a command is about: names of the project, or ids from any folder.

use std::sync::Arc;

use super::app::App;
use super::error::{CliError, Kind};
use crate::config::{ConfigError, Report};
use crate::machine::{Machines, Status};
use crate::model::{Absent, Code, Machine, Project};

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
    /// Not asked for: another target depends on it.
    pub implied: bool,
}

impl Target {
    fn declared(project: &Arc<Project>, name: &str) -> Self {
        let project = Some(Arc::clone(project));
        Target { name: name.to_owned(), id: None, project, trouble: None, implied: false }
    }

    /// The project and the machine as declared: for commands that need the file.
    pub fn declaration(&self) -> Result<(&Project, &Machine), CliError> {
        let Some(project) = &self.project else {
            return Err(self.trouble.clone().unwrap_or_else(|| {
                CliError::new(
                    Kind::Config,
                    Code::NotDeclared,
                    format!("the project of {} cannot be read", self.name),
                )
            }));
        };
        match project.machines.iter().find(|m| m.name == self.name) {
            Some(machine) => Ok((project, machine)),
            None => Err(CliError::new(
                Kind::Config,
                Code::NotDeclared,
                format!("{} no longer declares a machine `{}`", project.file.display(), self.name),
            )
            .hint(format!("add it again, or remove what is left of it: `rvm destroy {}`", self.name))),
        }
    }

    /// Its id, also of a machine whose record cannot be read; `None` when it is not created.
    pub fn id(&self, machines: &Machines<'_>) -> Result<Option<String>, CliError> {
        match (&self.id, &self.project) {
            (Some(id), _) => Ok(Some(id.clone())),
            (None, Some(project)) => Ok(machines.id_of(&project.root, &self.name)?),
            (None, None) => Ok(None),
        }
    }

    /// The machine as it is now.
    pub fn status(&self, machines: &Machines<'_>) -> Result<Status, CliError> {
        match (&self.id, &self.project) {
            (Some(id), _) => Ok(machines.status_of(id)?),
            (None, Some(project)) => Ok(machines.status(project, &self.name)?),
            (None, None) => Err(CliError::failed(Code::NotDeclared, format!("no machine `{}`", self.name))),
        }
    }
}

/// The machines that `words` name, each once, in the order of the words; with no words all of
/// the project, in the order of its file.
///
/// A word is a `/regular expression/` that is looked for in the names of the project, or one of these
/// names, or a group of the project, or a machine that the file declares no more, or an id or its beginning (from any
/// folder). A project that
/// cannot be read does not stand in the way of an id.
pub fn resolve(app: &App, machines: &Machines<'_>, words: &[String]) -> Result<Vec<Target>, CliError> {
    let project = app.project().map(Arc::new);
    if words.is_empty() {
        let project = project?;
        return Ok(project.machines.iter().map(|m| Target::declared(&project, &m.name)).collect());
    }
    let mut targets: Vec<Target> = Vec::new();
    for word in words {
        let found = match &project {
            Ok(project) => in_project(project, word)?,
            Err(error) if pattern(word).is_some() => return Err(error.clone()),
            Err(_) => Vec::new(),
        };
        let found = match found.is_empty() {
            false => found,
            true => match left_over(machines, project.as_ref().ok(), word)? {
                Some(target) => vec![target],
                None => match by_id(app, machines, word)? {
                    Some(target) => vec![target],
                    None => return Err(unknown(word, project.as_deref())),
                },
            },
        };
        for target in found {
            if !targets.iter().any(|t| t.is_same(&target)) {
                targets.push(target);
            }
        }
    }
    Ok(targets)
}

/// The expression in a word such as `/web[0-9]/`.
fn pattern(word: &str) -> Option<&str> {
    word.strip_prefix('/')?.strip_suffix('/').filter(|pattern| !pattern.is_empty())
}

/// The machines of a project that a word names; none when it may be an id.
fn in_project(project: &Arc<Project>, word: &str) -> Result<Vec<Target>, CliError> {
    let all = |fits: &dyn Fn(&Machine) -> bool| -> Vec<Target> {
        let fitting = project.machines.iter().filter(|machine| fits(machine));
        fitting.map(|machine| Target::declared(project, &machine.name)).collect()
    };
    if let Some(pattern) = pattern(word) {
        let regex = regex::Regex::new(pattern).map_err(|error| bad_pattern(word, &error))?;
        let found = all(&|machine| regex.is_match(&machine.name));
        return match found.is_empty() {
            true => Err(unknown(word, Ok(project))),
            false => Ok(found),
        };
    }
    let named = all(&|machine| machine.name == word);
    Ok(match named.is_empty() {
        false => named,
        true => all(&|machine| machine.groups.iter().any(|group| group == word)),
    })
}

fn bad_pattern(word: &str, error: &regex::Error) -> CliError {
    // The library draws a picture of the place; its last line says what is wrong.
    let text = error.to_string();
    let why = text.lines().last().unwrap_or_default().trim();
    let why = why.strip_prefix("error: ").unwrap_or(why);
    CliError::usage(format!("`{word}` is no regular expression: {why}"))
        .hint("`/web[0-9]/` fits all machines with web and a digit in their names")
}

/// With all that the targets depend on, so that these can be ready first. What was not asked for is
/// marked as implied.
pub fn with_dependencies(mut targets: Vec<Target>) -> Vec<Target> {
    let mut at = 0;
    while let Some(target) = targets.get(at).cloned() {
        at += 1;
        let Some(project) = &target.project else { continue };
        for name in target.needs() {
            let needed = Target { implied: true, ..Target::declared(project, name) };
            if !targets.iter().any(|other| other.is_same(&needed)) {
                targets.push(needed);
            }
        }
    }
    targets
}

/// For each target the numbers of those that it depends on, also through machines that are no targets.
pub fn dependencies(targets: &[Target]) -> Vec<Vec<usize>> {
    let of = |target: &Target| {
        let mut names: Vec<String> = target.needs().to_vec();
        let mut at = 0;
        while let Some(name) = names.get(at).cloned() {
            at += 1;
            let machine = target.project.iter().flat_map(|p| &p.machines).find(|m| m.name == name);
            for more in machine.iter().flat_map(|machine| &machine.depends_on) {
                if !names.contains(more) {
                    names.push(more.clone());
                }
            }
        }
        let needed = |other: &Target| other.root() == target.root() && names.contains(&other.name);
        (0..targets.len()).filter(|&at| targets.get(at).is_some_and(needed)).collect()
    };
    targets.iter().map(of).collect()
}

/// Refuses to go on where this host lacks folders that the command uses of the machines.
pub fn check_folders(targets: &[Target], uses: fn(&Absent) -> bool) -> Result<(), CliError> {
    let declared = targets.iter().filter_map(|target| target.declaration().ok());
    let absent = declared.flat_map(|(_, machine)| machine.absent.iter().filter(|folder| uses(folder)));
    match Report::of_absent(absent) {
        None => Ok(()),
        Some(report) => Err(ConfigError::Invalid(report).into()),
    }
}

/// The one machine that `word` names, or the only one of the project. `command` is for the error.
pub fn resolve_one(
    app: &App,
    machines: &Machines<'_>,
    word: &Option<String>,
    command: &str,
) -> Result<Target, CliError> {
    let targets = resolve(app, machines, word.as_slice())?;
    let names: Vec<&str> = targets.iter().map(|t| t.name.as_str()).collect();
    let several = match word {
        Some(word) => format!("`{word}` names several"),
        None => "this project has several".to_owned(),
    };
    let error = CliError::new(
        Kind::Usage,
        Code::SeveralMachines,
        format!("`rvm {command}` works on one machine, and {several}"),
    )
    .hint(format!("name one of: {}", names.join(", ")));
    let chosen = match (targets.as_slice(), word) {
        ([only], _) => Some(only),
        (all, None) => all.iter().find(|t| t.declaration().is_ok_and(|(_, machine)| machine.primary)),
        (_, Some(_)) => None,
    };
    chosen.cloned().ok_or(error)
}

impl Target {
    /// Whether both are one machine.
    fn is_same(&self, other: &Target) -> bool {
        self.name == other.name
            && self.root() == other.root()
            && (self.project.is_some() || self.id == other.id)
    }

    /// Names of the machines that must be ready before it.
    pub fn needs(&self) -> &[String] {
        self.declaration().map(|(_, machine)| machine.depends_on.as_slice()).unwrap_or_default()
    }

    fn root(&self) -> Option<&std::path::Path> {
        self.project.as_ref().map(|p| p.root.as_path())
    }
}

/// A machine of the project that its file declares no more.
fn left_over(
    machines: &Machines<'_>,
    project: Option<&Arc<Project>>,
    word: &str,
) -> Result<Option<Target>, CliError> {
    let Some(project) = project.filter(|_| pattern(word).is_none()) else { return Ok(None) };
    let id = machines.id_of(&project.root, word)?;
    Ok(id.map(|id| Target { id: Some(id), ..Target::declared(project, word) }))
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
            let trouble = Some(error.into());
            return Ok(Some(Target { name, id: Some(id), project: None, trouble, implied: false }));
        }
    };
    let loaded = app.project_at(status.project.clone()).and_then(|project| {
        // The search goes upward: a project further up is another one.
        if project.root == status.project {
            return Ok(project);
        }
        Err(CliError::new(
            Kind::Config,
            Code::NotDeclared,
            format!("{} holds no Vagrantfile any more", status.project.display()),
        )
        .hint(format!("`rvm destroy {}` removes the machine", short(&id))))
    });
    let (project, trouble) = match loaded {
        Ok(project) => (Some(Arc::new(project)), None),
        Err(error) => (None, Some(error)),
    };
    Ok(Some(Target { name: status.name, id: Some(id), project, trouble, implied: false }))
}

fn unknown(word: &str, project: Result<&Project, &CliError>) -> CliError {
    match project {
        Ok(project) => {
            let names: Vec<&str> = project.machines.iter().map(|m| m.name.as_str()).collect();
            let mut groups: Vec<&str> =
                project.machines.iter().flat_map(|m| m.groups.iter().map(String::as_str)).collect();
            groups.sort_unstable();
            groups.dedup();
            let file = project.file.display();
            let message = match pattern(word) {
                Some(_) => format!("no machine in {file} has a name that `{word}` fits"),
                None => format!("no machine `{word}` in {file}, and no machine with such an id"),
            };
            let groups = match groups.as_slice() {
                [] => String::new(),
                groups => format!("; groups: {}", groups.join(", ")),
            };
            CliError::new(Kind::Usage, Code::UnknownMachine, message)
                .hint(format!("this project has: {}{groups}", names.join(", ")))
        }
        Err(error) if looks_like_id(word) && error.kind == Kind::Config => CliError::new(
            Kind::Usage,
            Code::UnknownMachine,
            format!("no machine has an id that begins with `{word}`"),
        )
        .hint("`rvm global-status` shows all ids"),
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
    use crate::model::{Login, Masker};

    /// Machines with what they depend on.
    fn project(machines: &[(&str, &[&str])]) -> Arc<Project> {
        let machine = |(name, needs): &(&str, &[&str])| Machine {
            depends_on: needs.iter().map(|need| need.to_string()).collect(),
            ..Machine::new(*name, "micro")
        };
        let mut machines: Vec<Machine> = machines.iter().map(machine).collect();
        for machine in machines.iter_mut().filter(|machine| machine.name.starts_with("web")) {
            machine.groups = vec!["front".into()];
        }
        Arc::new(Project {
            root: "/p".into(),
            file: "/p/Vagrantfile".into(),
            machines,
            login: Login::default(),
            masker: Masker::default(),
            hooks: Vec::new(),
            after_all: Vec::new(),
            networks: Vec::new(),
        })
    }

    fn names(targets: &[Target]) -> Vec<&str> {
        targets.iter().map(|target| target.name.as_str()).collect()
    }

    #[test]
    fn names_groups_and_expressions() {
        let project = project(&[("web1", &[]), ("web2", &[]), ("db", &[]), ("front", &[])]);
        let found = |word: &str| in_project(&project, word).map(|found| names(&found).join(" "));
        assert_eq!(found("web2").unwrap(), "web2");
        assert_eq!(found("/web[0-9]/").unwrap(), "web1 web2");
        assert_eq!(found("/^(db|web1)$/").unwrap(), "web1 db");
        assert_eq!(found("front").unwrap(), "front", "a machine's name comes before a group's");
        assert_eq!(found("cafe").unwrap(), "", "it may be an id");
        let none = found("/x/").unwrap_err();
        assert_eq!(none.kind, Kind::Usage);
        assert_eq!(none.hint.unwrap(), "this project has: web1, web2, db, front; groups: front");
        let bad = found("/web(/").unwrap_err();
        assert_eq!(
            (bad.kind, bad.message.as_str()),
            (Kind::Usage, "`/web(/` is no regular expression: unclosed group")
        );
        assert_eq!((pattern("/"), pattern("//"), pattern("web")), (None, None, None));
    }

    #[test]
    fn a_group_names_its_machines() {
        let project = project(&[("web1", &[]), ("db", &[]), ("web2", &[])]);
        assert_eq!(names(&in_project(&project, "front").unwrap()), ["web1", "web2"]);
    }

    #[test]
    fn what_is_depended_on_is_added_and_comes_first() {
        let project = project(&[("web", &["app"]), ("app", &["db"]), ("db", &[]), ("other", &[])]);
        let targets = with_dependencies(vec![Target::declared(&project, "web")]);
        let marked: Vec<_> = targets.iter().map(|t| (t.name.as_str(), t.implied)).collect();
        assert_eq!(marked, [("web", false), ("app", true), ("db", true)]);
        assert_eq!(dependencies(&targets), [vec![1, 2], vec![2], vec![]]);
        // Through a machine that is no target.
        let ends = [Target::declared(&project, "db"), Target::declared(&project, "web")];
        assert_eq!(dependencies(&ends), [vec![], vec![0]]);
    }

    #[test]
    fn a_circle_ends() {
        let project = project(&[("a", &["b"]), ("b", &["a"])]);
        let targets = with_dependencies(vec![Target::declared(&project, "a")]);
        assert_eq!(names(&targets), ["a", "b"]);
        assert_eq!(dependencies(&targets), [vec![0, 1], vec![0, 1]]);
    }

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
