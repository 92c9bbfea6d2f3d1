//! `rvm ssh`: a shell in the guest, or one command.

use std::os::unix::process::CommandExt;
use std::process::Command;

use clap::Args;

use super::Outcome;
use super::app::App;
use super::error::CliError;
use super::hooks;
use super::target;
use crate::machine::{Machines, SshInfo};
use crate::model::{Code, Hooked, Moment, Project, Stream};
use crate::ssh::{ConfigEntry, render_config};

/// Exit code when the reader of our output went away, as a shell reports SIGPIPE.
pub const BROKEN_PIPE: u8 = 141;

/// Words of `rvm ssh`.
#[derive(Debug, Args)]
pub struct SshArgs {
    /// Machine or id; needed where the project has several
    #[arg(value_name = "NAME")]
    name: Option<String>,
    /// Run this command and exit with its exit code; its output comes back byte for byte
    #[arg(short, long, value_name = "CMD")]
    command: Option<String>,
    /// Give the command a terminal
    #[arg(short, long, requires = "command")]
    tty: bool,
    /// For scripts that were written for Vagrant: a command has no terminal unless it is asked for
    #[arg(long, hide = true, conflicts_with = "tty")]
    no_tty: bool,
    /// More arguments for the ssh client
    #[arg(last = true, value_name = "ARGS")]
    extra: Vec<String>,
}

/// Becomes the system's ssh client, or runs one command through a session of our own.
pub fn run(app: &App, args: &SshArgs) -> Outcome {
    let machines = app.machines()?;
    let target = target::resolve_one(app, &machines, &args.name, "ssh")?;
    let (project, machine) = target.declaration()?;
    hooks::run(app, &machines, &target, Moment::Before, Hooked::Ssh)?;
    let code = match &args.command {
        Some(command) if !args.tty && args.extra.is_empty() => {
            one_command(app, &machines, project, &machine.name, command)?
        }
        _ => {
            let info = machines.ssh_info(project, &machine.name)?;
            let before: Vec<String> = args.tty.then(|| "-t".to_owned()).into_iter().collect();
            let after: Vec<String> = args.extra.iter().chain(&args.command).cloned().collect();
            match hooks::any(project, &machine.name, Moment::After, Hooked::Ssh) {
                true => run_client(app, &info, &before, &after)?,
                false => return Err(become_client(app, &info, &before, &after)),
            }
        }
    };
    hooks::run(app, &machines, &target, Moment::After, Hooked::Ssh)?;
    Ok(code)
}

/// Runs the ssh client, and comes back when it has ended: something is to follow it.
fn run_client(app: &App, info: &SshInfo, before: &[String], after: &[String]) -> Outcome {
    let status = client(app, info, before, after).status().map_err(|error| no_client(&error))?;
    Ok(status.code().and_then(|code| u8::try_from(code).ok()).unwrap_or(BROKEN_PIPE))
}

/// Runs the command; output passes through as it comes, both streams apart and unchanged.
fn one_command(app: &App, machines: &Machines<'_>, project: &Project, name: &str, command: &str) -> Outcome {
    let mut out = passed_through(app);
    let result = machines.exec(project, name, command, &mut out);
    if app.ui.stdout_closed() {
        return Ok(BROKEN_PIPE);
    }
    // Exit codes of a Unix process have 8 bits; a code beyond is a failure all the same.
    Ok(u8::try_from(result?).unwrap_or(u8::MAX))
}

/// Shows output of the guest as it comes; when nobody reads on, the command is left.
pub fn passed_through(app: &App) -> impl FnMut(Stream, &[u8]) {
    |stream, data| {
        app.ui.bytes(stream, data);
        if app.ui.stdout_closed() {
            app.cancel.cancel();
        }
    }
}

/// Replaces this process by the ssh client, with words before and after the host; comes back only with
/// an error.
pub fn become_client(app: &App, info: &SshInfo, before: &[String], after: &[String]) -> CliError {
    no_client(&client(app, info, before, after).exec())
}

fn client(app: &App, info: &SshInfo, before: &[String], after: &[String]) -> Command {
    if info.identity.is_none() {
        app.ui.note(&format!("{} is logged in to by password: ssh is going to ask for it.", info.name));
    }
    let mut command = Command::new("ssh");
    command.args(arguments(info, before, after));
    command
}

fn no_client(error: &std::io::Error) -> CliError {
    let failure = CliError::failed(Code::MissingProgram, "cannot start the ssh client").because(&error);
    if error.kind() == std::io::ErrorKind::NotFound {
        return failure.hint("install it: sudo apt install openssh-client");
    }
    failure
}

fn arguments(info: &SshInfo, before: &[String], after: &[String]) -> Vec<String> {
    let mut list = options(info);
    list.extend_from_slice(before);
    list.push(info.host.to_string());
    list.extend_from_slice(after);
    list
}

/// The options that lead to the machine and to no other.
pub fn options(info: &SshInfo) -> Vec<String> {
    // `-o` takes the very lines of a configuration file (ssh(1)).
    let block = render_config(&entry(info, &info.name));
    let lines = block.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with("Host "));
    // No other file may vouch for a host key, and no open connection to whatever had this port
    // before may be taken.
    let ours = ["GlobalKnownHostsFile /dev/null", "ControlPath none"];
    lines.chain(ours).flat_map(|line| ["-o".into(), line.to_owned()]).collect()
}

/// Words for a client that runs in the background.
pub fn words(info: &SshInfo) -> Vec<String> {
    let mut words = options(info);
    words.push(info.host.to_string());
    words
}

/// What the ssh client has to know, under the name `host`.
pub fn entry(info: &SshInfo, host: &str) -> ConfigEntry {
    ConfigEntry {
        host: host.to_owned(),
        hostname: info.host,
        port: info.port,
        user: info.user.clone(),
        known_hosts: info.known_hosts.clone(),
        identities: info.identity.iter().cloned().collect(),
        password: info.identity.is_none(),
        options: info.client.lines(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::SshClient;

    fn info() -> SshInfo {
        SshInfo {
            name: "web".into(),
            host: [127, 0, 0, 1].into(),
            port: 2222,
            user: "vagrant".into(),
            identity: Some("/m/id key".into()),
            known_hosts: "/m/known_hosts".into(),
            client: SshClient { forward_agent: true, ..SshClient::default() },
        }
    }

    #[test]
    fn extra_words_come_after_the_host() {
        let words = |words: &[&str]| words.iter().map(|word| word.to_string()).collect::<Vec<_>>();
        let list = arguments(&info(), &[], &words(&["-L", "80:localhost:80"]));
        assert!(list.ends_with(&["127.0.0.1".into(), "-L".into(), "80:localhost:80".into()]), "{list:?}");
        let list = arguments(&info(), &words(&["-t"]), &words(&["top"]));
        assert!(list.ends_with(&["-t".into(), "127.0.0.1".into(), "top".into()]), "{list:?}");
    }

    #[test]
    fn the_client_reads_the_options_as_meant() {
        let mut list = arguments(&info(), &[], &[]);
        list.insert(0, "-G".into());
        let output = Command::new("ssh").args(["-F", "/dev/null"]).args(&list).output().unwrap();
        let text = String::from_utf8_lossy(&output.stdout).to_lowercase();
        for line in [
            "user vagrant",
            "port 2222",
            "hostname 127.0.0.1",
            "stricthostkeychecking true",
            "userknownhostsfile /m/known_hosts",
            "globalknownhostsfile /dev/null",
            "identityfile /m/id key",
            "identitiesonly yes",
            "passwordauthentication no",
            "forwardagent yes",
        ] {
            assert!(text.lines().any(|have| have == line), "{line} is not in:\n{text}");
        }
    }
}
