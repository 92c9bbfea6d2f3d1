//! `rvm man`, `rvm list-commands` and `rvm version`: what the binary knows of itself.

use std::fs;
use std::path::PathBuf;

use clap::{Args, Command};
use serde_json::{Value, json};

use super::app::App;
use super::error::CliError;
use super::json::VERSION;
use super::{DONE, Json, Outcome};
use crate::model::Code;

/// Words of `rvm man`.
#[derive(Debug, Args)]
#[command(after_help = "To read them: rvm man | man -l -, or rvm man ~/.local/share/man/man1 and man rvm-up")]
pub struct ManArgs {
    /// Folder for the pages of all commands; without, the page of `rvm` itself is printed
    #[arg(value_name = "DIR")]
    dir: Option<PathBuf>,
}

/// Words of `rvm list-commands`.
#[derive(Debug, Args)]
pub struct ListArgs {
    #[command(flatten)]
    pub(super) json: Json,
}

/// Words of `rvm version`.
#[derive(Debug, Args)]
pub struct VersionArgs {
    #[command(flatten)]
    pub(super) json: Json,
}

/// Prints the version of this program.
pub fn version(app: &App) -> Outcome {
    let installed = env!("CARGO_PKG_VERSION");
    if app.json {
        app.ui.json(&json!({ "version": VERSION, "rvm": installed }));
    } else {
        app.ui.machine("", "version-installed", &[installed]);
        app.ui.result(&format!("rvm {installed}"));
    }
    Ok(DONE)
}

/// Prints the page of `rvm`, or writes a page a command.
pub fn man(app: &App, args: &ManArgs, tree: Command) -> Outcome {
    let cannot =
        |what: String, error: std::io::Error| CliError::failed(Code::WriteFile, what).because(&error);
    match &args.dir {
        None => {
            let mut page = Vec::new();
            clap_mangen::Man::new(tree)
                .render(&mut page)
                .map_err(|e| cannot("cannot write the page of rvm".into(), e))?;
            app.ui.result(String::from_utf8_lossy(&page).trim_end());
        }
        Some(dir) => {
            let dir = app.cwd()?.join(dir);
            fs::create_dir_all(&dir)
                .and_then(|()| clap_mangen::generate_to(tree, &dir))
                .map_err(|e| cannot(format!("cannot write the man pages into {}", dir.display()), e))?;
            app.ui.note(&format!("The man pages are in {}.", dir.display()));
        }
    }
    Ok(DONE)
}

/// Prints name and purpose of each command, in the order of the alphabet.
pub fn list(app: &App, tree: &Command) -> Outcome {
    let commands = commands(tree);
    if app.json {
        let list: Vec<Value> =
            commands.iter().map(|(name, about)| json!({ "name": name, "about": about })).collect();
        app.ui.json(&json!({ "version": VERSION, "commands": list }));
        return Ok(DONE);
    }
    let width = commands.iter().map(|(name, _)| name.len()).max().unwrap_or(0);
    let lines: Vec<String> = commands.iter().map(|(name, about)| format!("{name:<width$} {about}")).collect();
    commands.iter().for_each(|(name, _)| app.ui.machine("", "cli-command", &[name]));
    app.ui.result(&lines.join("\n"));
    Ok(DONE)
}

fn commands(tree: &Command) -> Vec<(String, String)> {
    let shown = tree.get_subcommands().filter(|command| !command.is_hide_set());
    let line = |command: &Command| {
        let about = command.get_about().map(ToString::to_string).unwrap_or_default();
        (command.get_name().to_owned(), about)
    };
    let mut list: Vec<(String, String)> = shown.map(line).collect();
    list.sort();
    list
}
