//! `rvm import`: the TOML for a Ruby Vagrantfile.

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use clap::Args;

use super::app::{App, env};
use super::error::{CliError, Kind};
use super::{DONE, Outcome, init};
use crate::config;
use crate::import::{self, ImportError, Imported, Left, Sort};
use crate::model::Code;

/// The exit code where something was not carried over.
const INCOMPLETE: u8 = 1;

/// Words of `rvm import`.
#[derive(Debug, Args)]
pub struct ImportArgs {
    /// The Ruby file
    #[arg(value_name = "VAGRANTFILE", default_value = "Vagrantfile")]
    file: PathBuf,
    /// Where to write the TOML; `-` is standard output. Without: Vagrantfile.toml beside the Ruby file,
    /// which rvm then reads in place of it
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,
    /// Replace a file that is there
    #[arg(short, long)]
    force: bool,
}

/// Writes the file.
pub fn run(app: &App, args: &ImportArgs) -> Outcome {
    let path = app.cwd()?.join(&args.file);
    let name = args.file.file_name().map_or_else(String::new, |name| name.to_string_lossy().into_owned());
    let source = read(&path).map_err(|error| {
        let error =
            CliError::new(Kind::Config, Code::UnreadableConfig, format!("cannot read {}", path.display()))
                .because(&error);
        error.hint("name the Ruby file: `rvm import path/to/Vagrantfile`")
    })?;
    let imported = import::import(&source, &name).map_err(|error| refused(&path, &source, &error))?;
    if args.output.as_deref() == Some(Path::new("-")) {
        app.ui.result(imported.toml.trim_end());
        tell(app, &name, &imported);
        return Ok(code(&imported));
    }
    let output = match &args.output {
        Some(output) => app.cwd()?.join(output),
        None => path.with_file_name("Vagrantfile.toml"),
    };
    let hint = "`rvm import --force` replaces it, `-o FILE` writes another one";
    init::write(&output, imported.toml.as_bytes(), args.force, hint)?;
    tell(app, &name, &imported);
    app.ui.note(&format!("Wrote {}.", output.display()));
    // Scripts that are not there and variables that are not set are for the user to mend.
    match config::load(&output, &env) {
        Ok(_) => {
            let found = ["Vagrantfile", "Vagrantfile.toml"].map(Path::new);
            if found.into_iter().any(|name| output.ends_with(name)) {
                app.ui.note("`rvm up` brings its machines up.");
            }
            Ok(code(&imported))
        }
        Err(error) => {
            app.ui.warn(&format!(
                "it needs a change before `rvm up`:\n{}",
                CliError::from(error).render(false)
            ));
            Ok(INCOMPLETE)
        }
    }
}

fn code(imported: &Imported) -> u8 {
    if imported.is_complete() { DONE } else { INCOMPLETE }
}

/// The text of a regular file.
fn read(path: &Path) -> io::Result<String> {
    // Asked before opening: opening a pipe would wait for its other end.
    if !std::fs::metadata(path)?.is_file() {
        return Err(io::Error::other("it is not a file"));
    }
    let mut text = Vec::new();
    // One byte more than is accepted, which tells that there is more.
    File::open(path)?.take(import::LARGEST as u64 + 1).read_to_end(&mut text)?;
    String::from_utf8(text).map_err(|_| io::Error::other("it is not UTF-8 text"))
}

/// The reader of Ruby knows no codes.
fn code_of(error: &ImportError) -> Code {
    match error {
        ImportError::TooLarge => Code::ImportTooLarge,
        ImportError::NotVagrant => Code::NotAVagrantfile,
        ImportError::Endless => Code::ImportEndless,
        ImportError::Thread(_) => Code::Host,
    }
}

fn refused(path: &Path, source: &str, error: &ImportError) -> CliError {
    let failed = CliError::new(Kind::Config, code_of(error), format!("cannot import {}", path.display()))
        .because(error);
    match error {
        ImportError::NotVagrant if source.parse::<toml::Table>().is_ok_and(|table| !table.is_empty()) => {
            failed.hint("it is TOML, as rvm reads it: there is nothing to import")
        }
        ImportError::NotVagrant => failed.hint("name the Ruby file: `rvm import path/to/Vagrantfile`"),
        _ => failed,
    }
}

/// Says what was not carried over.
fn tell(app: &App, name: &str, imported: &Imported) {
    let of = |sort: Sort| imported.left.iter().filter(move |left| left.sort == sort);
    let lines = |left: &Left| format!("{:>5}: {}\n       {}\n", left.lines(), left.text, left.reason);
    let needless: String = of(Sort::Needless).map(lines).collect();
    if !needless.is_empty() {
        app.ui.note(&format!("Lines of {name} that mean nothing to rvm:\n{needless}"));
    }
    let lost: String = of(Sort::Lost).map(lines).collect();
    if !lost.is_empty() {
        let count = of(Sort::Lost).count();
        let lines = if count == 1 { "1 line".to_owned() } else { format!("{count} lines") };
        app.ui.warn(&format!("{lines} of {name} not carried over:\n{}", lost.trim_end()));
    }
}
