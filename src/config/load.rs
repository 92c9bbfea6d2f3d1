//! One file → one project, or all that is wrong with it.

use std::path::Path;

use toml::de::DeTable;

use crate::model::{Machine, Project};

use super::envfile::EnvFile;
use super::error::ConfigError;
use super::keys::Place;
use super::read::{self, ReadError};
use super::report::{Problems, Report, brief};
use super::ruby::looks_like_ruby;
use super::shares::Host;
use super::vars::Vars;
use super::version;
use super::walk::{Reader, Table};

/// Read when the file names no other; it may be missing.
const DEFAULT_ENV_FILE: &str = ".env";
/// Syntax errors shown: later ones mostly follow from the first.
const MOST_SYNTAX_ERRORS: usize = 5;
const SMALLEST: &str = "the smallest useful file is the one line `box = \"debian/13\"`";

/// What is handed in beside the file.
#[derive(Clone, Copy)]
pub struct Inputs<'a> {
    /// The environment of the process.
    pub env: &'a dyn Fn(&str) -> Option<String>,
    /// What this host has; `None`: not known, so that shares of it are errors.
    pub host: Option<Host>,
}

/// As [`load_with`], with nothing known of the host.
pub fn load(file: &Path, env: &dyn Fn(&str) -> Option<String>) -> Result<Project, ConfigError> {
    load_with(file, &Inputs { env, host: None })
}

/// Reads and checks `file`, and the ENV file that belongs to it. All problems are told at once.
pub fn load_with(file: &Path, inputs: &Inputs<'_>) -> Result<Project, ConfigError> {
    let Inputs { env, host } = *inputs;
    let source = read_source(file)?;
    let unreadable = |source| ConfigError::Unreadable { file: file.to_owned(), source };
    // The folder is what identifies a project: the same through every link to it.
    let folder = file.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let root = std::fs::canonicalize(folder).map_err(unreadable)?;
    let file = match file.file_name() {
        Some(name) => root.join(name),
        None => file.to_owned(),
    };
    let tree = parse(&file, &source).map_err(ConfigError::Invalid)?;
    let mut reader = Reader {
        problems: Problems::new(&file, &source),
        vars: Vars::from_environment(env),
        host,
        root: root.clone(),
        networks: Default::default(),
    };
    let top = reader.open(tree.get_ref(), tree.span(), Place::Top);
    reader.check_version(&top);
    let (env_file, incomplete) = reader.env_file(&top);
    reader.vars = Vars::new(env, env_file, incomplete);
    reader.declare_networks(&top);
    let machines = reader.machines(&top);
    let hooks = reader.hooks(&top, &machines);
    let login = reader.login();
    if !reader.problems.is_empty() {
        return Err(ConfigError::Invalid(reader.problems.into_report()));
    }
    let masker = reader.vars.masker(&shown_words(&machines));
    let networks = std::mem::take(&mut reader.networks).into_list();
    Ok(Project { root, file, machines, hooks, networks, login, masker })
}

fn read_source(file: &Path) -> Result<String, ConfigError> {
    let whole = |line: Option<usize>, message: String, help: &str| {
        let mut problems = Problems::new(file, "");
        problems.add_elsewhere(file, line, message, help);
        ConfigError::Invalid(problems.into_report())
    };
    read::text(file).map_err(|error| match error {
        ReadError::Io(source) => ConfigError::Unreadable { file: file.to_owned(), source },
        ReadError::NotAFile(what) => ConfigError::NotAFile { file: file.to_owned(), what },
        ReadError::TooLarge => {
            whole(None, "this file is larger than 1 MiB".into(), "no Vagrantfile is: is it the right file?")
        }
        ReadError::NotText { offset, line } => {
            whole(Some(line), format!("this file is not UTF-8 text (byte {offset})"), "save it as UTF-8")
        }
    })
}

/// The tree of the file. A file that is Ruby, or empty, is told so instead of being parsed
/// to death.
fn parse<'s>(file: &Path, source: &'s str) -> Result<toml::Spanned<DeTable<'s>>, Report> {
    let (tree, mut errors) = DeTable::parse_recoverable(source);
    errors.sort_by_key(|error| error.span().map(|span| span.start));
    let mut problems = Problems::new(file, source);
    let has_keys = errors.is_empty() && !tree.get_ref().is_empty();
    if !has_keys && looks_like_ruby(source) {
        problems.add_whole(
            "this is a Ruby Vagrantfile, as Vagrant reads it; rvm reads TOML",
            "`rvm import` writes the TOML beside it as `Vagrantfile.toml`: rvm takes that one, Vagrant the other",
        );
    } else if errors.is_empty() && !has_keys {
        let fault =
            if source.trim().is_empty() { "this file is empty" } else { "this file holds only comments" };
        problems.add_whole(fault, SMALLEST);
    }
    if !problems.is_empty() {
        return Err(problems.into_report());
    }
    for error in errors.iter().take(MOST_SYNTAX_ERRORS) {
        let span = error.span().unwrap_or_default();
        problems.add(&span, format!("not TOML: {}", error.message()), syntax_help(error.message()));
    }
    if problems.is_empty() { Ok(tree) } else { Err(problems.into_report()) }
}

fn syntax_help(message: &str) -> &'static str {
    const HELP: &[(&str, &str)] = &[
        ("string values must be quoted", "put the value in quotes, such as `box = \"debian/13\"`"),
        ("key with no value", "write `key = value`, such as `cpus = 2`"),
        ("duplicate key", "each key stands once in a table; remove one of the two"),
        ("unclosed array table", "close it with two brackets, such as `[[machine]]`"),
        ("unclosed array", "close the list with `]`"),
        ("missing comma", "put a comma between the entries, and `]` at the end of the list"),
        ("unexpected key or value", "put each `key = value` on a line of its own"),
        ("missing escaped value", "write `\\\\` for a `\\`, or put the value in single quotes"),
        ("invalid basic string", "close the string with `\"`, or put `\"\"\"` around several lines"),
        ("invalid literal string", "close the string with `'`, or put `'''` around several lines"),
        ("invalid multi-line basic string", "close the string with `\"\"\"`"),
        ("invalid multi-line literal string", "close the string with `'''`"),
        ("invalid unquoted key", "write `key = value`, such as `cpus = 2`"),
    ];
    HELP.iter().find(|(start, _)| message.starts_with(start)).map_or("", |(_, help)| help)
}

/// What `rvm` itself prints about machines: hiding it would make its output useless.
fn shown_words(machines: &[Machine]) -> Vec<String> {
    let mut words = Vec::new();
    for machine in machines {
        words.extend([machine.name.clone(), machine.hostname.clone(), machine.box_name.clone()]);
        for port in &machine.ports {
            words.extend([port.guest.to_string(), port.host.to_string(), port.host_ip.to_string()]);
        }
        for card in &machine.cards {
            words.push(card.network.clone());
            words.extend(card.addresses.iter().map(|address| address.to_string()));
        }
    }
    words
}

impl Reader<'_> {
    fn check_version(&mut self, top: &Table<'_>) {
        let Some(wanted) = self.text(top, "rvm_version", "\">=0.1\"") else { return };
        let own = version::OWN;
        match version::satisfied(&wanted.value.value, own) {
            Some(true) => {}
            Some(false) => {
                let message =
                    format!("this file is for rvm {}, and this is rvm {own}", brief(&wanted.value.shown));
                self.wrong(
                    &wanted.span,
                    message,
                    "install a version of rvm that fits, or change `rvm_version`",
                );
            }
            None => {
                let message = format!("`rvm_version` cannot be {:?}", brief(&wanted.value.shown));
                self.wrong(&wanted.span, message, "write a version with an operator, such as \">=0.1\"");
            }
        }
    }

    /// The ENV file, and whether parts of it could not be read.
    fn env_file(&mut self, top: &Table<'_>) -> (EnvFile, bool) {
        let named = top.raw("env_file").is_some();
        let given = self.text(top, "env_file", "\"settings.env\"");
        let (path, span) = match given {
            Some(given) if given.value.value.trim().is_empty() => {
                self.wrong(&given.span, "`env_file` is empty", "name a file, or remove the key");
                return (EnvFile::default(), true);
            }
            Some(given) => match self.resolve_path(&given.value.value) {
                Some(path) => (path, given.span),
                None => {
                    self.wrong(
                        &given.span,
                        "`env_file` begins with `~/`, but `HOME` is not set",
                        "write the whole path",
                    );
                    return (EnvFile::default(), true);
                }
            },
            None if named => return (EnvFile::default(), true),
            None => (self.root.join(DEFAULT_ENV_FILE), 0..0),
        };
        let (file, faults) = EnvFile::load(&path);
        let mut incomplete = false;
        for fault in faults {
            if fault.missing && !named {
                continue;
            }
            incomplete = true;
            if fault.missing {
                let message = format!("the ENV file {} does not exist", path.display());
                self.wrong(&span, message, fault.help);
            } else {
                self.problems.add_elsewhere(&path, fault.line, fault.message, fault.help);
            }
        }
        (file, incomplete)
    }
}
