//! `rvm reload`: stop, start again with the file as it is now.

use clap::Args;

use super::Outcome;
use super::app::App;
use super::steps::{self, StepFlags};
use super::{target, up};
use crate::machine::UpOptions;

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
}

/// Restarts the machines, one after the other.
pub fn run(app: &App, args: &ReloadArgs) -> Outcome {
    let machines = app.machines()?;
    let targets = target::resolve(app, &machines, &args.names)?;
    let options = UpOptions { provider: None, provision: args.steps.choice() };
    steps::check_choice(&options.provision, &targets)?;
    up::each(app, &targets, "reload", |target| {
        let (project, machine) = target.declaration()?;
        if target.status(&machines)?.id.is_none() {
            let text = "not created: `rvm up` creates it";
            app.ui.stage(&target.name, &format!("Machine {text}."));
            return Ok(text.into());
        }
        let outcome = machines.reload(project, machine, args.force, &options)?;
        Ok(up::told(app, target, &outcome))
    })
}
