//! `rvm status`: the machines of this project as they are now.

use clap::Args;

use super::app::App;
use super::target;
use super::{DONE, Json, Outcome, json};
use crate::machine::{State, Status};

/// Vagrant pads names to this width.
const NAME_WIDTH: usize = 25;
/// Exit code of `--exit-code` when a machine is not running.
const NOT_RUNNING: u8 = 1;

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
    let list = targets.iter().map(|t| t.status(&machines)).collect::<Result<Vec<Status>, _>>()?;
    if app.json {
        app.ui.json(&json::Machines::new(&list));
    } else {
        app.ui.result(&text(&list));
    }
    let all_run = list.iter().all(|status| status.state == State::Running);
    Ok(if args.exit_code && !all_run { NOT_RUNNING } else { DONE })
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

fn text(list: &[Status]) -> String {
    let width = list.iter().map(|s| s.name.chars().count()).max().unwrap_or(0).max(NAME_WIDTH);
    let mut text = String::from("Current machine states:\n\n");
    for status in list {
        let provider = status.provider.map_or("auto", |p| p.as_str());
        text.push_str(&format!("{:<width$} {} ({provider})\n", status.name, word(status.state)));
    }
    text.push('\n');
    match list {
        [one] => text.push_str(&explain(one)),
        _ => {
            text.push_str("This project has several machines. `rvm status NAME` says more about one of them.")
        }
    }
    text
}

fn explain(status: &Status) -> String {
    let name = &status.name;
    match status.state {
        State::NotCreated => format!("The machine does not exist yet. `rvm up {name}` creates it."),
        State::Preparing => format!(
            "An `rvm up` was cut off before the machine was started. `rvm up {name}` goes on, \
             `rvm destroy {name}` removes what there is."
        ),
        State::Running => running(status),
        State::Poweroff => {
            format!("The machine is switched off; its disk is kept. `rvm up {name}` starts it again.")
        }
        State::Aborted => format!(
            "The machine's process ended without being asked to: it crashed, was killed, or the host \
             was restarted. Its disk is kept. `rvm up {name}` starts it again, `rvm logs {name}` shows its console."
        ),
    }
}

fn running(status: &Status) -> String {
    let name = &status.name;
    let mut text = match status.uptime {
        Some(seconds) => format!("The machine has been running for {}", duration(seconds)),
        None => String::from("The machine is running"),
    };
    if let Some(pid) = status.pid {
        text.push_str(&format!(" (process {pid})"));
    }
    text.push_str(&format!(
        ". `rvm ssh {name}` logs in, `rvm halt {name}` stops it, `rvm destroy {name}` removes it."
    ));
    text
}

fn duration(seconds: u64) -> String {
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

    fn machine(name: &str, state: State) -> Status {
        let created = state != State::NotCreated;
        Status {
            id: created.then(|| "0123456789abcdef0123456789abcdef".into()),
            name: name.into(),
            provider: created.then_some(ProviderKind::Kvm),
            state,
            project: "/p".into(),
            box_name: "micro".into(),
            pid: (state == State::Running).then_some(42),
            ports: vec![],
            ssh: None,
            uptime: (state == State::Running).then_some(3725),
        }
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
        let long = "a-name-that-is-longer-than-the-column";
        insta::assert_snapshot!(text(&[machine("web", State::Aborted), machine(long, State::Poweroff)]), @r"
        Current machine states:

        web                                   aborted (kvm)
        a-name-that-is-longer-than-the-column poweroff (kvm)

        This project has several machines. `rvm status NAME` says more about one of them.
        ");
    }

    #[test]
    fn durations() {
        assert_eq!([5, 65, 3725, 90_000].map(duration), ["5 s", "1 min 5 s", "1 h 2 min", "1 d 1 h"]);
    }
}
