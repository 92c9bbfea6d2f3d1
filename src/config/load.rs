//! One file → one project, or all that is wrong with it.

use std::ops::Range;
use std::path::Path;

use toml::de::DeTable;

use crate::model::{Machine, Project};

use super::envfile::EnvFile;
use super::error::ConfigError;
use super::include::Layers;
use super::keys::Place;
use super::merge::moved;
use super::read::{self, ReadError};
use super::report::{Problems, brief};
use super::ruby::looks_like_ruby;
use super::shares::Host;
use super::vars::Vars;
use super::version;
use super::walk::{Reader, Table};

/// Read when the file names no other; it may be missing.
pub(super) const DEFAULT_ENV_FILE: &str = ".env";
/// Ends the names of listed ENV files that may be missing.
const LOCAL_ENDING: &str = ".local";
/// Syntax errors shown: later ones mostly follow from the first.
const MOST_SYNTAX_ERRORS: usize = 5;
const SMALLEST: &str = "the smallest useful file is the one line `box = \"debian/13\"`";

/// What is handed in beside the file.
#[derive(Clone, Copy)]
pub struct Inputs<'a> {
    /// The environment of the process.
    pub env: &'a dyn Fn(&str) -> Option<String>,
    /// Variables that the user gives for this once, `--var NAME=VALUE`: the last of a name
    /// counts, and before everything else.
    pub vars: &'a [(String, String)],
    /// What this host has; `None`: not known, so that shares of it are errors.
    pub host: Option<Host>,
}

/// As [`load_with`], with nothing known of the host.
pub fn load(file: &Path, env: &dyn Fn(&str) -> Option<String>) -> Result<Project, ConfigError> {
    load_with(file, &Inputs { env, vars: &[], host: None })
}

/// Reads and checks `file`, the files that it includes, its local layer and the ENV files that
/// belong to it. All problems are told at once.
pub fn load_with(file: &Path, inputs: &Inputs<'_>) -> Result<Project, ConfigError> {
    let Inputs { env, vars, host } = *inputs;
    let source = read_source(file)?;
    let unreadable = |source| ConfigError::Unreadable { file: file.to_owned(), source };
    // The folder is what identifies a project: the same through every link to it.
    let folder = file.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let root = std::fs::canonicalize(folder).map_err(unreadable)?;
    let file = match file.file_name() {
        Some(name) => root.join(name),
        None => file.to_owned(),
    };
    let mut reader = Reader {
        problems: Problems::new(&file, &source),
        vars: Vars::new(env, vars),
        host,
        root: root.clone(),
        networks: Default::default(),
        volumes: Vec::new(),
        env_names: Default::default(),
    };
    reader.check_content(&source);
    let Some(main) = reader.parse(&source, 0).filter(|_| reader.problems.is_empty()) else {
        return Err(ConfigError::Invalid(reader.problems.into_report()));
    };
    let layers = reader.layers(&main);
    if !reader.problems.is_empty() {
        return Err(ConfigError::Invalid(reader.problems.into_report()));
    }
    let texts = layers.texts(&reader);
    let tree = Layers::tree(&texts);
    let top = reader.open(&tree, 0..0, Place::Top);
    reader.check_version(&top);
    let (env_file, incomplete) = reader.env_files(&top);
    reader.vars.set_files(env_file, incomplete);
    reader.variables(&top);
    reader.declare_networks(&top);
    reader.declare_volumes(&top);
    let machines = reader.machines(&top);
    let hooks = reader.hooks(&top, &machines);
    let after_all = reader.after_all(&top, &machines);
    let login = reader.login();
    reader.check_given();
    if !reader.problems.is_empty() {
        return Err(ConfigError::Invalid(reader.problems.into_report()));
    }
    let masker = reader.vars.masker(&shown_words(&machines));
    let networks = std::mem::take(&mut reader.networks).into_list();
    Ok(Project { root, file, machines, hooks, after_all, networks, login, masker })
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
        for card in &machine.host_cards {
            words.push(card.to.name().to_owned());
            words.extend(card.addresses.iter().map(|net| net.addr().to_string()));
        }
    }
    words
}

impl Reader<'_> {
    /// A main file that is Ruby, or empty, is told so instead of being parsed to death.
    fn check_content(&mut self, source: &str) {
        let (tree, errors) = DeTable::parse_recoverable(source);
        let has_keys = errors.is_empty() && !tree.get_ref().is_empty();
        if !has_keys && looks_like_ruby(source) {
            self.problems.add_whole(
                "this is a Ruby Vagrantfile, as Vagrant reads it; rvm reads TOML",
                "`rvm import` writes the TOML beside it as `Vagrantfile.toml`: rvm takes that one, Vagrant the other",
            );
        } else if errors.is_empty() && !has_keys {
            let fault =
                if source.trim().is_empty() { "this file is empty" } else { "this file holds only comments" };
            self.problems.add_whole(fault, SMALLEST);
        }
    }

    /// The tree of a file, its spans moved on by `base`.
    pub fn parse<'t>(&mut self, source: &'t str, base: usize) -> Option<DeTable<'t>> {
        if !self.problems.is_empty() && base == 0 {
            return None;
        }
        let (tree, mut errors) = DeTable::parse_recoverable(source);
        errors.sort_by_key(|error| error.span().map(|span| span.start));
        for error in errors.iter().take(MOST_SYNTAX_ERRORS) {
            let span = error.span().unwrap_or_default();
            let message = format!("not TOML: {}", error.message());
            self.wrong(&(span.start + base..span.end + base), message, syntax_help(error.message()));
        }
        errors.is_empty().then(|| moved(tree.into_inner(), base))
    }

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

    /// The ENV files laid over each other, and whether parts of them could not be read.
    fn env_files(&mut self, top: &Table<'_>) -> (EnvFile, bool) {
        let mut all = EnvFile::default();
        let mut incomplete = false;
        if top.raw("env_file").is_none() {
            let path = self.root.join(DEFAULT_ENV_FILE);
            incomplete |= self.env_file(&path, None, &mut all);
            return (all, incomplete);
        }
        let listed = top.raw("env_file").is_some_and(|value| value.get_ref().is_array());
        let (given, complete) = self.one_or_more(top, "env_file", "\"settings.env\"");
        incomplete |= !complete;
        for entry in given {
            if entry.value.value.trim().is_empty() {
                self.wrong(&entry.span, "`env_file` is empty", "name a file, or remove the key");
                incomplete = true;
            } else if let Some(path) = self.resolve_path(&entry) {
                // What is not committed cannot be there on every desk.
                let may_miss = listed && entry.value.value.ends_with(LOCAL_ENDING);
                incomplete |= self.env_file(&path, Some(&entry.span).filter(|_| !may_miss), &mut all);
            } else {
                let message = "`env_file` begins with `~/`, but `HOME` is not set";
                self.wrong(&entry.span, message, "write the whole path");
                incomplete = true;
            }
        }
        (all, incomplete)
    }

    /// Lays one ENV file over the others. `named`: where it is named, if it must be there.
    fn env_file(&mut self, path: &Path, named: Option<&Range<usize>>, all: &mut EnvFile) -> bool {
        let (file, faults) = EnvFile::load(path);
        let mut incomplete = false;
        for fault in faults {
            match named {
                None if fault.missing => continue,
                Some(span) if fault.missing => {
                    let message = format!("the ENV file {} does not exist", path.display());
                    self.wrong(span, message, fault.help);
                }
                _ => self.problems.add_elsewhere(path, fault.line, fault.message, fault.help),
            }
            incomplete = true;
        }
        all.lay_over(file);
        incomplete
    }
}
