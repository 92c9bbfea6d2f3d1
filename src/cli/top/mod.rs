//! `rvm top`: what machines take from the host, again and again.

mod rates;
mod screen;
#[cfg(test)]
mod tests;
mod text;

use std::collections::BTreeMap;
use std::time::Duration;

use clap::Args;

use super::app::{App, env};
use super::error::CliError;
use super::target::{self, Target};
use super::{DONE, Json, Outcome};
use crate::machine::schedule::at_once;
use crate::machine::{Machines, Sample, Status};
use rates::Row;

/// Longest and shortest pause between two looks, in seconds.
const PAUSES: (f64, f64) = (0.2, 3600.0);

/// Words of `rvm top`.
#[derive(Debug, Args)]
#[command(
    after_help = "CPU is in percent of one processor. MEMORY is what the guest uses of what it may use, as it \
    says; HOST is what the host holds for the machine. On a terminal `q` ends it."
)]
pub struct TopArgs {
    /// Machines, groups, /expressions/ or ids; all of the project without
    #[arg(value_name = "NAME", conflicts_with = "all")]
    names: Vec<String>,
    /// All machines of this user, from any folder
    #[arg(short, long)]
    all: bool,
    /// Show one table and end
    #[arg(long)]
    once: bool,
    /// Seconds between two looks, which rates are measured over
    #[arg(short, long, value_name = "SECONDS", default_value = "2", value_parser = pause)]
    interval: f64,
    #[command(flatten)]
    pub(super) json: Json,
}

fn pause(text: &str) -> Result<f64, String> {
    let (least, most) = PAUSES;
    match text.parse::<f64>() {
        Ok(seconds) if (least..=most).contains(&seconds) => Ok(seconds),
        _ => Err(format!("write a number of seconds, {least} to {most}")),
    }
}

/// Looks at the machines until it is told to end.
pub fn run(app: &App, args: &TopArgs) -> Outcome {
    let machines = app.machines()?;
    let targets = if args.all { Vec::new() } else { target::resolve(app, &machines, &args.names)? };
    let mut watch = Watch { machines: &machines, targets, all: args.all, before: BTreeMap::new() };
    let pause = Duration::from_secs_f64(args.interval);
    watch.look()?;
    if args.once || app.json {
        wait(app, pause)?;
        let rows = watch.look()?;
        match app.json {
            true => app.ui.json(&rates::document(&rows, pause)),
            false => app.ui.result(text::table(&rows).trim_end()),
        }
        return Ok(DONE);
    }
    let dumb = env("TERM").is_none_or(|term| term == "dumb");
    if app.ui.is_terminal() && !dumb && !app.ui.is_machine_readable() {
        return screen::run(app, &mut watch, pause);
    }
    loop {
        wait(app, pause)?;
        for row in watch.look()? {
            app.ui.result(&text::line(&row));
        }
        if app.ui.stdout_closed() {
            return Ok(DONE);
        }
    }
}

fn wait(app: &App, pause: Duration) -> Result<(), CliError> {
    app.cancel.wait(pause);
    app.check_cancelled()
}

/// Machines that are looked at again and again.
struct Watch<'a> {
    machines: &'a Machines<'a>,
    targets: Vec<Target>,
    all: bool,
    /// The look before this one, by id.
    before: BTreeMap<String, Sample>,
}

impl Watch<'_> {
    /// How things are, with rates since the last look.
    fn look(&mut self) -> Result<Vec<Row>, CliError> {
        let machines = self.machines;
        let list: Vec<Status> = match self.all {
            true => machines.all()?,
            false => at_once(&self.targets, |target| target.status(machines))
                .into_iter()
                .collect::<Result<_, CliError>>()?,
        };
        let samples = at_once(&list, |status| machines.sample(status));
        let mut rows = Vec::new();
        let mut now = BTreeMap::new();
        for (status, sample) in list.into_iter().zip(samples) {
            let before = status.id.as_ref().and_then(|id| self.before.get(id));
            rows.push(Row::new(&status, before, sample.as_ref()));
            if let (Some(id), Some(sample)) = (status.id, sample) {
                now.insert(id, sample);
            }
        }
        self.before = now;
        Ok(rows)
    }
}
