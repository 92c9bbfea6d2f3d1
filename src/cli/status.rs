//! `rvm status`: the machines of this project as they are now.

use clap::Args;

use super::app::App;
use super::error::CliError;
use super::target::{self, Target};
use super::{DONE, Json, Outcome, json, left};
use crate::machine::schedule::at_once;
use crate::machine::{State, Status};
use crate::vmm::control::Usage;

/// Vagrant pads names to this width.
const NAME_WIDTH: usize = 25;
/// Exit code of `--exit-code` when a machine is not running.
const NOT_RUNNING: u8 = 1;

/// A machine, and what its memory costs where that can be told.
type Shown = (Status, Option<Usage>);

/// Words of `rvm status`.
#[derive(Debug, Args)]
pub struct StatusArgs {
    /// Machines or ids; all of the project without
    #[arg(value_name = "NAME")]
    names: Vec<String>,
    /// Exit with 1 unless all of them are running
    #[arg(long)]
    exit_code: bool,
    #[command(flatten)]
    pub(super) json: Json,
}

/// Asks the machines and prints.
pub fn run(app: &App, args: &StatusArgs) -> Outcome {
    let machines = app.machines()?;
    let targets = target::resolve(app, &machines, &args.names)?;
    let ask = |target: &Target| {
        let status = target.status(&machines)?;
        let usage = machines.usage(&status);
        Ok((status, usage))
    };
    let list = at_once(&targets, ask).into_iter().collect::<Result<Vec<Shown>, CliError>>()?;
    if app.json {
        app.ui.json(&json::Machines::with_usage(&list));
    } else {
        list.iter().for_each(|shown| lines(app, shown));
        app.ui.result(&text(&list));
    }
    if args.names.is_empty() {
        left::tell(app, &machines, &targets);
    }
    let all_run = list.iter().all(|(status, _)| status.state == State::Running);
    Ok(if args.exit_code && !all_run { NOT_RUNNING } else { DONE })
}

/// The lines of `--machine-readable`.
fn lines(app: &App, (status, usage): &Shown) {
    let say = |kind, data: &[&str]| app.ui.machine(&status.name, kind, data);
    let provider = status.provider.map_or("auto", |p| p.as_str());
    say("metadata", &["provider", provider]);
    say("provider-name", &[provider]);
    say("state", &[status.state.as_str()]);
    say("state-human-short", &[word(status.state)]);
    say("state-human-long", &[&explain(status, usage.as_ref())]);
}

/// The state in Vagrant's words.
pub fn word(state: State) -> &'static str {
    match state {
        State::NotCreated => "not created",
        State::Preparing => "preparing",
        State::Running => "running",
        State::Poweroff => "poweroff",
        State::Aborted => "aborted",
    }
}

fn text(list: &[Shown]) -> String {
    let width = list.iter().map(|(s, _)| s.name.chars().count()).max().unwrap_or(0).max(NAME_WIDTH);
    let mut text = String::from("Current machine states:\n\n");
    for (status, usage) in list {
        let provider = status.provider.map_or("auto", |p| p.as_str());
        let memory = usage.as_ref().and_then(memory).map(|text| format!(", {text}")).unwrap_or_default();
        text.push_str(&format!("{:<width$} {} ({provider}){memory}\n", status.name, word(status.state)));
    }
    text.push('\n');
    match list {
        [(status, usage)] => text.push_str(&explain(status, usage.as_ref())),
        _ => {
            text.push_str("This project has several machines. `rvm status NAME` says more about one of them.")
        }
    }
    text
}

fn explain(status: &Status, usage: Option<&Usage>) -> String {
    let name = &status.name;
    match status.state {
        State::NotCreated => format!("The machine does not exist yet. `rvm up {name}` creates it."),
        State::Preparing => format!(
            "An `rvm up` was cut off before the machine was started. `rvm up {name}` goes on, \
             `rvm destroy {name}` removes what there is."
        ),
        State::Running => running(status, usage),
        State::Poweroff => {
            format!("The machine is switched off; its disk is kept. `rvm up {name}` starts it again.")
        }
        State::Aborted => {
            let cause =
                status.cause.as_deref().unwrap_or("it crashed, was killed, or the host was restarted");
            format!(
                "The machine's process ended without being asked to: {cause}. Its disk is kept. \
                 `rvm up {name}` starts it again, `rvm logs {name}` shows its console."
            )
        }
    }
}

fn running(status: &Status, usage: Option<&Usage>) -> String {
    let name = &status.name;
    let mut text = match status.uptime {
        Some(seconds) => format!("The machine has been running for {}", duration(seconds)),
        None => String::from("The machine is running"),
    };
    if let Some(pid) = status.pid {
        text.push_str(&format!(" (process {pid})"));
    }
    text.push('.');
    if let Some(cause) = &status.cause {
        text.push_str(&format!(" But {cause}. {}", status.remedy.as_deref().unwrap_or_default()));
    }
    if let Some(available) = usage.and_then(|usage| usage.guest?.available) {
        text.push_str(&format!(
            " Its guest says that {} of memory are available to it.",
            mebibytes(available)
        ));
    }
    text.push_str(&format!(
        " `rvm ssh {name}` logs in, `rvm halt {name}` stops it, `rvm destroy {name}` removes it."
    ));
    text
}

/// What the host holds for a guest, beside what the guest was given.
fn memory(usage: &Usage) -> Option<String> {
    Some(format!("{} of {} of memory in use", mebibytes(usage.resident?), mebibytes(usage.memory)))
}

/// In whole MiB, rounded up: what is in use is not nothing.
fn mebibytes(bytes: u64) -> String {
    format!("{} MiB", bytes.div_ceil(1 << 20))
}

/// A time as a person reads it.
pub fn duration(seconds: u64) -> String {
    match (seconds / 86_400, seconds / 3600 % 24, seconds / 60 % 60, seconds % 60) {
        (0, 0, 0, s) => format!("{s} s"),
        (0, 0, m, s) => format!("{m} min {s} s"),
        (0, h, m, _) => format!("{h} h {m} min"),
        (d, h, ..) => format!("{d} d {h} h"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::ProviderKind;
    use crate::vmm::control::Stats;

    fn machine(name: &str, state: State) -> Shown {
        let created = state != State::NotCreated;
        let status = Status {
            id: created.then(|| "0123456789abcdef0123456789abcdef".into()),
            name: name.into(),
            provider: created.then_some(ProviderKind::Kvm),
            state,
            project: "/p".into(),
            box_name: "micro".into(),
            pid: (state == State::Running).then_some(42),
            ports: vec![],
            places: vec![],
            ssh: None,
            uptime: (state == State::Running).then_some(3725),
            cause: None,
            remedy: None,
        };
        (status, None)
    }

    #[test]
    fn the_look_of_vagrant() {
        insta::assert_snapshot!(text(&[machine("default", State::Running)]), @r"
        Current machine states:

        default                   running (kvm)

        The machine has been running for 1 h 2 min (process 42). `rvm ssh default` logs in, `rvm halt default` stops it, `rvm destroy default` removes it.
        ");
        insta::assert_snapshot!(text(&[machine("default", State::NotCreated)]), @r"
        Current machine states:

        default                   not created (auto)

        The machine does not exist yet. `rvm up default` creates it.
        ");
        let cause =
            Some("the machine's process was stopped by its sandbox: system call 41 (thread vcpu0)".into());
        insta::assert_snapshot!(text(&[(Status { cause, ..machine("default", State::Aborted).0 }, None)]), @r"
        Current machine states:

        default                   aborted (kvm)

        The machine's process ended without being asked to: the machine's process was stopped by its sandbox: system call 41 (thread vcpu0). Its disk is kept. `rvm up default` starts it again, `rvm logs default` shows its console.
        ");
        let long = "a-name-that-is-longer-than-the-column";
        insta::assert_snapshot!(text(&[machine("web", State::Aborted), machine(long, State::Poweroff)]), @r"
        Current machine states:

        web                                   aborted (kvm)
        a-name-that-is-longer-than-the-column poweroff (kvm)

        This project has several machines. `rvm status NAME` says more about one of them.
        ");
    }

    #[test]
    fn memory_of_a_running_machine() {
        let guest = Stats { available: Some(700 << 20), ..Stats::default() };
        let usage = Usage {
            memory: 1 << 30,
            resident: Some((212 << 20) - 4096),
            balloon_target: Some(0),
            balloon: Some(0),
            guest: Some(guest),
            traffic: None,
        };
        let (status, _) = machine("default", State::Running);
        insta::assert_snapshot!(text(&[(status.clone(), Some(usage.clone()))]), @r"
        Current machine states:

        default                   running (kvm), 212 MiB of 1024 MiB of memory in use

        The machine has been running for 1 h 2 min (process 42). Its guest says that 700 MiB of memory are available to it. `rvm ssh default` logs in, `rvm halt default` stops it, `rvm destroy default` removes it.
        ");
        let unknown = Usage { resident: None, guest: None, ..usage };
        assert_eq!(text(&[(status.clone(), Some(unknown))]), text(&[(status, None)]));
    }

    #[test]
    fn durations() {
        assert_eq!([5, 65, 3725, 90_000].map(duration), ["5 s", "1 min 5 s", "1 h 2 min", "1 d 1 h"]);
    }
}
