//! `rvm exec`: a program in the guest, as if it ran here.

use std::os::fd::AsFd;
use std::sync::mpsc::{Receiver, channel};

use clap::Args;
use signal_hook::consts::{SIGHUP, SIGINT};

use super::app::App;
use super::error::CliError;
use super::signals::Passed;
use super::{Outcome, ssh, target};
use crate::machine::{Machines, SshInfo};
use crate::model::Project;
use crate::ssh::{Input, Program, quote};

/// Words of `rvm exec`.
#[derive(Debug, Args)]
#[command(
    after_help = "No shell reads the words: `rvm exec web -- sh -c 'ls | wc -l'` starts one. Standard input, \
    output, error and the exit code are those of the program, byte for byte; Ctrl-C reaches it, and three of them \
    within two seconds leave it. `rvm ssh -c` runs a line of shell instead."
)]
pub struct ExecArgs {
    /// Machine or id; needed where the project has several
    #[arg(value_name = "NAME")]
    name: Option<String>,
    /// Give the program a terminal
    #[arg(short, long)]
    tty: bool,
    /// Folder of the guest to start in; the user's home without
    #[arg(short, long, value_name = "DIR")]
    workdir: Option<String>,
    /// The program and its arguments
    #[arg(last = true, required = true, value_name = "CMD")]
    command: Vec<String>,
}

/// Runs the program through a session of our own, or, for a terminal, through the system's ssh client.
pub fn run(app: &App, args: &ExecArgs) -> Outcome {
    if args.command.iter().any(|word| word.contains('\0')) {
        return Err(CliError::usage("a word of the command contains a NUL byte"));
    }
    let machines = app.machines()?;
    let target = target::resolve_one(app, &machines, &args.name, "exec")?;
    let (project, machine) = target.declaration()?;
    if args.tty {
        let info: SshInfo = machines.ssh_info(project, &machine.name)?;
        return Err(ssh::become_client(app, &info, &["-t".into()], &[line(args)]));
    }
    let program = Program { argv: &args.command, dir: args.workdir.as_deref() };
    let (tell, told) = channel();
    let code = std::thread::scope(|scope| {
        let _passing = app.signals.pass_to(tell.clone());
        scope.spawn(|| pass_on(&machines, project, &machine.name, told));
        // It learns that nobody reads on when it writes.
        let mut out = ssh::passed_through(app);
        // The thread listens as long as we hold its sender.
        let mut started = |group| _ = tell.send(Passed::Group(group));
        let stdin = std::io::stdin();
        let input = Input::Live(stdin.as_fd());
        let code = machines.run_program(project, &machine.name, program, input, &mut out, &mut started);
        // Ends the thread, which holds no sender of its own.
        drop(tell);
        code
    });
    if app.ui.stdout_closed() {
        return Ok(ssh::BROKEN_PIPE);
    }
    Ok(u8::try_from(code?).unwrap_or(u8::MAX))
}

/// The program as one line for a shell in the guest.
fn line(args: &ExecArgs) -> String {
    let words: Vec<String> = args.command.iter().map(|word| quote(word)).collect();
    let program = words.join(" ");
    match &args.workdir {
        Some(dir) => format!("cd -- {} && {program}", quote(dir)),
        None => program,
    }
}

/// Signals of ours become signals of the program, as soon as it runs.
fn pass_on(machines: &Machines<'_>, project: &Project, name: &str, told: Receiver<Passed>) {
    let mut group = None;
    let mut waiting = Vec::new();
    for passed in told {
        match passed {
            Passed::Group(number) => group = Some(number),
            Passed::Signal(signal) => waiting.push(signal),
        }
        let Some(group) = group else { continue };
        for signal in waiting.drain(..) {
            let sent = machines
                .session(project, name)
                .and_then(|session| Ok(session.signal(group, word(signal), &machines.cancel)?));
            if let Err(error) = sent {
                // The program goes on; the user may press again, or leave.
                tracing::warn!(%error, "the signal did not reach the guest");
            }
        }
    }
}

fn word(signal: i32) -> &'static str {
    match signal {
        SIGINT => "INT",
        SIGHUP => "HUP",
        _ => "TERM",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_terminal_gets_the_same_words() {
        let args = ExecArgs {
            name: None,
            tty: true,
            workdir: Some("/a b".into()),
            command: vec!["printf".into(), "it's $HOME".into()],
        };
        assert_eq!(line(&args), r"cd -- '/a b' && 'printf' 'it'\''s $HOME'");
    }
}
