//! `rvm reload`: stop, start again with the file as it is now.

use std::time::Instant;

use clap::Args;

use super::Outcome;
use super::app::App;
use super::steps::{self, StepFlags};
use super::timings::{Collector, Timings, TimingsFlag};
use super::{lock, target, up};
use crate::machine::{Machines, UpOptions};

/// Words of `rvm reload`.
#[derive(Debug, Args)]
pub struct ReloadArgs {
    /// Machines or ids; all of the project without
    #[arg(value_name = "NAME")]
    names: Vec<String>,
    /// Switch off without asking the guest
    #[arg(short, long)]
    force: bool,
    #[command(flatten)]
    steps: StepFlags,
    #[command(flatten)]
    timings: TimingsFlag,
}

/// Restarts the machines, one after the other.
pub fn run(app: &App, args: &ReloadArgs) -> Outcome {
    let begin = Instant::now();
    let collector = Collector::new(&*app.ui);
    let mut machines = Machines { report: &collector, ..app.machines()? };
    let targets = target::resolve(app, &machines, &args.names)?;
    machines.locks = lock::read(&targets, None)?;
    let mut timings = Timings::new(app, &args.timings, &collector, begin)?;
    let options =
        UpOptions { provider: None, provision: args.steps.choice(), timings: args.timings.wanted() };
    steps::check_choice(&options.provision, &targets)?;
    up::each(app, &targets, "reload", |target| {
        let (project, machine) = target.declaration()?;
        if target.status(&machines)?.id.is_none() {
            let text = "not created: `rvm up` creates it";
            app.ui.stage(&target.name, &format!("Machine {text}."));
            return Ok(text.into());
        }
        let outcome = timings
            .measure(&machines, target, || Ok(machines.reload(project, machine, args.force, &options)?))?;
        Ok(up::told(app, target, &outcome))
    })
}
