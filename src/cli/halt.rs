//! `rvm halt`: machines stopped, their disks kept.

use clap::Args;

use super::Outcome;
use super::app::App;
use super::error::CliError;
use super::hooks;
use super::left;
use super::many::{Many, ManyFlags, Order};
use super::target::{self, Target};
use crate::machine::Machines;
use crate::model::Hooked;

/// Words of `rvm halt`.
#[derive(Debug, Args)]
pub struct HaltArgs {
    /// Machines, groups, /expressions/ or ids; all of the project without
    #[arg(value_name = "NAME")]
    names: Vec<String>,
    /// Switch off without asking the guest
    #[arg(short, long)]
    force: bool,
    #[command(flatten)]
    many: ManyFlags,
}

/// Stops the machines, those that depend on others first, else the last one of the file first.
pub fn run(app: &App, args: &HaltArgs) -> Outcome {
    let machines = args.many.patient(app.machines()?);
    let names = args.many.names(&args.names);
    let mut targets = target::resolve(app, &machines, &names)?;
    if names.is_empty() {
        left::tell(app, &machines, &targets);
    }
    targets.reverse();
    let targets = created(app, &machines, targets)?;
    Many::new(app, &machines, &targets, "halt", Order::Down, &args.many)?.each(&|target| {
        // A machine whose file cannot be read any more is halted all the same.
        let timeout = target.declaration().ok().map(|(_, machine)| machine.halt_timeout);
        let text = match target.id(&machines)? {
            None => "not created",
            Some(id) => {
                let halt = || Ok(machines.halt(&id, args.force, timeout)?);
                match hooks::around(app, &machines, target, Hooked::Halt, halt)? {
                    true => "stopped",
                    false => "was not running",
                }
            }
        };
        app.ui.stage(&target.name, &format!("Machine {text}."));
        Ok(text.into())
    })
}

/// Those that exist; says of the others that they do not.
pub fn created(app: &App, machines: &Machines<'_>, targets: Vec<Target>) -> Result<Vec<Target>, CliError> {
    let mut created = Vec::new();
    for target in targets {
        match target.id(machines)? {
            Some(_) => created.push(target),
            None => app.ui.stage(&target.name, "Machine not created."),
        }
    }
    Ok(created)
}
