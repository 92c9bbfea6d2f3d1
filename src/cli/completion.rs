//! `rvm completion`: what a shell needs to complete words, names of machines and boxes among them.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::process::ExitCode;
use std::sync::Arc;

use clap::{Args, Command, ValueEnum};
use clap_complete::Shell;

use super::app::{App, settings};
use super::error::CliError;
use super::signals::Signals;
use super::ui::sink::{Sink, To};
use super::ui::{Style, Ui};
use super::{DONE, Outcome};
use crate::image::{Store, known_boxes};
use crate::model::{Cancel, Project};

/// What the scripts call for names; the program takes it before it looks at options.
pub const NAMES: &str = "__complete";

const BASH: &str = include_str!("completion/names.bash");
const ZSH: &str = include_str!("completion/names.zsh");

/// Words of `rvm completion`.
#[derive(Debug, Args)]
#[command(after_help = "bash: rvm completion bash >~/.local/share/bash-completion/completions/rvm\n\
    zsh:  rvm completion zsh >DIR/_rvm, where DIR is one of $fpath\n\
    fish: rvm completion fish >~/.config/fish/completions/rvm.fish\n\
    For this shell only: source <(rvm completion bash)")]
pub struct CompletionArgs {
    /// Shell to write for: bash, zsh or fish
    #[arg(value_enum, value_name = "SHELL", hide_possible_values = true)]
    shell: Word,
}

/// The shells that are served.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Word {
    Bash,
    Zsh,
    Fish,
}

/// Prints the script.
pub fn run(app: &App, args: &CompletionArgs, tree: Command) -> Outcome {
    app.ui.result(script(args.shell, tree).trim_end());
    Ok(DONE)
}

/// What a positional word can be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Names {
    Machines,
    Boxes,
}

impl Names {
    /// As the first positional word of that command has it.
    fn of(command: &Command) -> Option<Names> {
        let first = command.get_positionals().next()?;
        match first.get_value_names()?.first()?.trim_start_matches('[') {
            name if name == "NAME" || name.starts_with("NAME]") => Some(Names::Machines),
            "BOX" => Some(Names::Boxes),
            _ => None,
        }
    }

    fn as_str(self) -> &'static str {
        match self {
            Names::Machines => "machines",
            Names::Boxes => "boxes",
        }
    }
}

fn script(shell: Word, mut tree: Command) -> String {
    let kind = match shell {
        Word::Bash => Shell::Bash,
        Word::Zsh => Shell::Zsh,
        Word::Fish => Shell::Fish,
    };
    let mut bytes = Vec::new();
    clap_complete::generate(kind, &mut tree, "rvm", &mut bytes);
    let text = String::from_utf8_lossy(&bytes).into_owned();
    let commands = served(&tree);
    match shell {
        Word::Bash => {
            let mut cases = String::new();
            for (path, names, options) in &commands {
                // Writing to a string does not fail.
                let _ = writeln!(
                    cases,
                    "        \"{}\") kind={}; valued=' {} ' ;;",
                    path.join(" "),
                    names.as_str(),
                    options.join(" ")
                );
            }
            format!("{text}\n{}", BASH.replace("        # COMMANDS\n", &cases))
        }
        Word::Zsh => zsh(&text, &tree),
        Word::Fish => {
            let mut text = text;
            for (path, names, _) in &commands {
                let seen: Vec<String> =
                    path.iter().map(|word| format!("__fish_seen_subcommand_from {word}")).collect();
                let _ = writeln!(
                    text,
                    "complete -c rvm -n \"{}\" -f -a \"(rvm {NAMES} {} 2>/dev/null)\"",
                    seen.join("; and "),
                    names.as_str()
                );
            }
            text
        }
    }
}

/// The commands whose words are names, with their options that take a value.
fn served(tree: &Command) -> Vec<(Vec<String>, Names, Vec<String>)> {
    let mut list = Vec::new();
    let mut open: Vec<(Vec<String>, &Command)> = vec![(Vec::new(), tree)];
    while let Some((path, command)) = open.pop() {
        // `help COMMAND` has the names of commands below it, and no words of its own.
        if path.first().is_some_and(|word| word == "help") {
            continue;
        }
        if let Some(names) = Names::of(command) {
            list.push((path.clone(), names, valued(command)));
        }
        for below in command.get_subcommands() {
            for name in std::iter::once(below.get_name()).chain(below.get_visible_aliases()) {
                open.push(([path.clone(), vec![name.to_owned()]].concat(), below));
            }
        }
    }
    list.sort_by(|a, b| a.0.cmp(&b.0));
    list
}

/// Options whose next word is their value.
fn valued(command: &Command) -> Vec<String> {
    let mut words = BTreeSet::new();
    for option in command.get_opts().filter(|option| option.get_action().takes_values()) {
        let least = option.get_num_args().map_or(1, |range| range.min_values());
        if least > 0 && !option.is_require_equals_set() {
            words.extend(option.get_long().map(|long| format!("--{long}")));
            words.extend(option.get_short().map(|short| format!("-{short}")));
        }
    }
    words.into_iter().collect()
}

/// The generator gives every positional word the files of the folder; ours are asked for.
fn zsh(text: &str, tree: &Command) -> String {
    let mut ids = BTreeSet::new();
    let mut open = vec![tree];
    while let Some(command) = open.pop() {
        if let (Some(names), Some(first)) = (Names::of(command), command.get_positionals().next()) {
            ids.insert((first.get_id().as_str(), names.as_str(), first.get_help().map(ToString::to_string)));
        }
        open.extend(command.get_subcommands());
    }
    let line = |line: &str| -> String {
        let fits = |id: &str, help: &Option<String>| {
            let help = help.as_deref().unwrap_or_default();
            let word = help.split([',', ';', ':', '[', '\'']).next().unwrap_or_default();
            line.contains(&format!(":{id} -- {word}"))
        };
        match ids.iter().find(|(id, _, help)| fits(id, help)) {
            Some((_, names, _)) => line.replace(":_default'", &format!(":_rvm_{names}'")),
            None => line.to_owned(),
        }
    };
    let body: Vec<String> = text.lines().map(line).collect();
    let (head, rest) = body.split_first().map_or(("", &[][..]), |(head, rest)| (head.as_str(), rest));
    format!("{head}\n{ZSH}\n{}\n", rest.join("\n"))
}

/// Prints the names of that kind, one a line: nothing at all where there is no project or it cannot be
/// read, for nobody wants an error in the middle of a word.
pub fn names(kind: &str) -> ExitCode {
    let ui = Arc::new(Ui::new(Style { quiet: true, ..Style::default() }, To::Stderr, Sink::of_process()));
    let app = App { ui, cancel: Cancel::new(), signals: Signals::default(), json: false, vars: Vec::new() };
    let found = match kind {
        "machines" => app.project().map(|project| machines(&project)),
        "boxes" => boxes(&app),
        _ => Ok(BTreeSet::new()),
    };
    for name in found.unwrap_or_default() {
        app.ui.result(&name);
    }
    ExitCode::SUCCESS
}

fn machines(project: &Project) -> BTreeSet<String> {
    project.machines.iter().flat_map(|m| std::iter::once(&m.name).chain(&m.groups)).cloned().collect()
}

fn boxes(app: &App) -> Result<BTreeSet<String>, CliError> {
    let store = Store::new(app.layout()?, settings());
    let built = store.list()?.into_iter().map(|image| image.name);
    Ok(known_boxes().map(str::to_owned).chain(built).collect())
}
