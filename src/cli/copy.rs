//! `rvm copy`: files between this host and a machine. `rvm upload`: the same in Vagrant's words.

use std::os::fd::AsFd;
use std::path::Path;

use clap::Args;

use super::app::App;
use super::error::{CliError, Kind};
use super::target::{self, Target};
use super::{DONE, Outcome, ssh};
use crate::machine::Machines;
use crate::machine::copy::{CopyOptions, From, To};
use crate::model::{Code, Stream};
use crate::ssh::Program;

/// Words of `rvm copy`.
#[derive(Debug, Args)]
#[command(
    after_help = "NAME:PATH is a path of that machine; relative ones and ~ start at its user's home. `-` is \
    standard input or output. Into a folder that exists things are copied under their own names.\n\
    Examples: rvm cp -r src web:/srv/app; rvm cp web:/var/log/syslog .; rvm cp web:dump.sql - | gzip >dump.gz"
)]
pub struct CopyArgs {
    /// What to copy, and where to: one side is NAME:PATH
    #[arg(required = true, num_args = 2.., value_name = "PATH")]
    paths: Vec<String>,
    /// Copy folders, too, with all that is in them
    #[arg(short, long)]
    recursive: bool,
    /// Read and write as root of the guest
    #[arg(long)]
    sudo: bool,
}

/// Words of `rvm upload`.
#[derive(Debug, Args)]
pub struct UploadArgs {
    /// File or folder of this host
    #[arg(value_name = "SRC")]
    source: String,
    /// Path in the guest; without, the name of SRC in its user's home
    #[arg(value_name = "DST")]
    destination: Option<String>,
    /// Machine or id; needed where the project has several
    #[arg(value_name = "NAME")]
    name: Option<String>,
    /// Upload into a new temporary folder of the guest and print its path
    #[arg(short, long)]
    temporary: bool,
}

/// One side of a copy.
#[derive(Debug, PartialEq, Eq)]
enum Side<'a> {
    Host(&'a str),
    Pipe,
    Guest { name: &'a str, path: &'a str },
}

/// `web:/path` is of a machine; `./a:b`, `/a:b` and `-` are of the host.
fn side(word: &str) -> Side<'_> {
    match word.split_once(':') {
        _ if word == "-" => Side::Pipe,
        Some((name, path)) if !name.is_empty() && !name.contains('/') => Side::Guest { name, path },
        _ => Side::Host(word),
    }
}

/// Copies each source to the last path.
pub fn run(app: &App, args: &CopyArgs) -> Outcome {
    let Some((to, sources)) = args.paths.split_last() else {
        return Err(CliError::usage("something to copy and where to is wanted"));
    };
    let options = CopyOptions { recursive: args.recursive, sudo: args.sudo };
    let machines = app.machines()?;
    for source in sources {
        match (side(source), side(to)) {
            (Side::Guest { .. }, Side::Guest { .. }) => {
                return Err(CliError::usage("both paths are of machines")
                    .hint("copy to this host first, or: `rvm cp a:FILE - | rvm cp - b:FILE`"));
            }
            (Side::Guest { name, path }, host) => {
                if host == Side::Pipe && sources.len() > 1 {
                    return Err(CliError::usage("only one file can go to standard output"));
                }
                check_folder(&host, sources)?;
                copy_out(app, &machines, (name, path), &host, options)?;
            }
            (host, Side::Guest { name, path }) => {
                // Several need a folder: a path with a slash at its end has to be one.
                let path = if sources.len() > 1 && !path.is_empty() {
                    format!("{}/", path.trim_end_matches('/'))
                } else {
                    path.to_owned()
                };
                let target = one(app, &machines, name)?;
                copy_in(app, &machines, &target, &host, &path, options)?;
            }
            _ => {
                return Err(CliError::usage("neither path is of a machine")
                    .hint("write NAME:PATH for one of them, such as web:/etc/hosts"));
            }
        }
    }
    Ok(DONE)
}

/// Several things go into a folder only.
fn check_folder(host: &Side<'_>, sources: &[String]) -> Result<(), CliError> {
    match host {
        Side::Host(path) if (sources.len() > 1 || path.ends_with('/')) && !Path::new(path).is_dir() => {
            Err(CliError::failed(Code::WriteFile, format!("there is no folder {path}")))
        }
        _ => Ok(()),
    }
}

fn one(app: &App, machines: &Machines<'_>, name: &str) -> Result<Target, CliError> {
    let target = target::resolve_one(app, machines, &Some(name.to_owned()), "copy");
    target.map_err(|error| match error.code {
        Code::UnknownMachine => {
            let known = error.hint.as_ref().map(|hint| format!("{hint}; ")).unwrap_or_default();
            error.hint(format!("{known}`./{name}:…` is a file of this host"))
        }
        _ => error,
    })
}

fn copy_in(
    app: &App,
    machines: &Machines<'_>,
    target: &Target,
    host: &Side<'_>,
    path: &str,
    options: CopyOptions,
) -> Result<(), CliError> {
    let (project, machine) = target.declaration()?;
    let stdin = std::io::stdin();
    let full;
    let from = match host {
        Side::Host(source) => {
            full = app.cwd()?.join(source);
            From::Path(&full)
        }
        _ => From::Stream(stdin.as_fd()),
    };
    Ok(machines.copy_in(project, &machine.name, from, path, options)?)
}

fn copy_out(
    app: &App,
    machines: &Machines<'_>,
    (name, path): (&str, &str),
    host: &Side<'_>,
    options: CopyOptions,
) -> Result<(), CliError> {
    let target = one(app, machines, name)?;
    let (project, machine) = target.declaration()?;
    let mut out = ssh::passed_through(app);
    let mut print = |data: &[u8]| out(Stream::Stdout, data);
    let full;
    let to = match host {
        Side::Host(to) => {
            full = app.cwd()?.join(to);
            To::Path(&full)
        }
        _ => To::Stream(&mut print),
    };
    let left_out = machines.copy_out(project, &machine.name, path, to, options)?;
    for entry in left_out {
        app.ui.warn(&format!("not copied: {entry}"));
    }
    Ok(())
}

/// Uploads a file or folder.
pub fn upload(app: &App, args: &UploadArgs) -> Outcome {
    let machines = app.machines()?;
    let (destination, name) = destination(app, args)?;
    let target = target::resolve_one(app, &machines, &name, "upload")?;
    let mut path = destination.unwrap_or_default();
    if args.temporary {
        path = format!("{}/", temporary(&machines, &target)?);
    }
    let options = CopyOptions { recursive: true, sudo: false };
    copy_in(app, &machines, &target, &Side::Host(&args.source), &path, options)?;
    let place = if path.is_empty() { "the home folder" } else { path.as_str() };
    match args.temporary {
        true => app.ui.result(place),
        false => app.ui.stage(&target.name, &format!("Uploaded {} to {place}.", args.source)),
    }
    Ok(DONE)
}

/// Vagrant's two words: the second may be the machine.
fn destination(app: &App, args: &UploadArgs) -> Result<(Option<String>, Option<String>), CliError> {
    let is_machine = |word: &str| {
        app.project().is_ok_and(|project| project.machines.iter().any(|machine| machine.name == word))
    };
    match (&args.destination, &args.name) {
        (Some(word), None) if is_machine(word) => Ok((None, Some(word.clone()))),
        (Some(_), _) if args.temporary && args.name.is_some() => {
            Err(CliError::usage("-t chooses the destination itself"))
        }
        (destination, name) => Ok((destination.clone(), name.clone())),
    }
}

fn temporary(machines: &Machines<'_>, target: &Target) -> Result<String, CliError> {
    let (project, machine) = target.declaration()?;
    let argv = ["mktemp", "-d", "/tmp/rvm-upload.XXXXXX"].map(str::to_owned);
    let mut text = Vec::new();
    let mut out = |stream, data: &[u8]| {
        if stream == Stream::Stdout && text.len() < 200 {
            text.extend_from_slice(data);
        }
    };
    let program = Program { argv: &argv, dir: None };
    let input = crate::ssh::Input::None;
    let code = machines.run_program(project, &machine.name, program, input, &mut out, &mut |_| ())?;
    let path = String::from_utf8_lossy(&text).trim().to_owned();
    if code == 0 && path.starts_with("/tmp/rvm-upload.") && !path.contains(char::is_whitespace) {
        return Ok(path);
    }
    let message = format!("{} makes no temporary folder", machine.name);
    Err(CliError::new(Kind::Failed, Code::CopyFailed, message))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sides_are_told_apart() {
        assert_eq!(side("web:/etc"), Side::Guest { name: "web", path: "/etc" });
        assert_eq!(side("web:"), Side::Guest { name: "web", path: "" });
        assert_eq!(side("web:a:b"), Side::Guest { name: "web", path: "a:b" });
        for host in ["./web:x", "/a:b", "file", ":x", "a/b:c"] {
            assert_eq!(side(host), Side::Host(host));
        }
        assert_eq!(side("-"), Side::Pipe);
    }
}
