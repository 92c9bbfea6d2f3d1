//! `rvm halt`: machines stopped, their disks kept.

use clap::Args;

use super::Outcome;
use super::app::App;
use super::{target, up};

/// Words of `rvm halt`.
#[derive(Debug, Args)]
pub struct HaltArgs {
    /// Machines or ids; all of the project without
    #[arg(value_name = "NAME")]
    names: Vec<String>,
    /// Switch off without asking the guest
    #[arg(short, long)]
    force: bool,
}

/// Stops the machines, the last one of the file first.
pub fn run(app: &App, args: &HaltArgs) -> Outcome {
    let machines = app.machines()?;
    let mut targets = target::resolve(app, &machines, &args.names)?;
    targets.reverse();
    up::each(app, &targets, "halt", |target| {
        // A machine whose file cannot be read any more is halted all the same.
        let timeout = target.declaration().ok().map(|(_, machine)| machine.halt_timeout);
        let text = match target.id(&machines)? {
            None => "not created",
            Some(id) if machines.halt(&id, args.force, timeout)? => "stopped",
            Some(_) => "was not running",
        };
        app.ui.stage(&target.name, &format!("Machine {text}."));
        Ok(text.into())
    })
}
