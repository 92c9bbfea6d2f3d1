//! `rvm provision`: steps on machines that run.

use clap::Args;

use super::Outcome;
use super::after;
use super::app::App;
use super::hooks;
use super::lock::{self, LockedFlag};
use super::many::{Many, ManyFlags, Order};
use super::steps::{self, WithFlag};
use super::target;
use crate::machine::ProvisionChoice;
use crate::model::Hooked;

/// Words of `rvm provision`.
#[derive(Debug, Args)]
pub struct ProvisionArgs {
    /// Machines, groups, /expressions/ or ids; all of the project without
    #[arg(value_name = "NAME")]
    names: Vec<String>,
    #[command(flatten)]
    with: WithFlag,
    #[command(flatten)]
    locked: LockedFlag,
    #[command(flatten)]
    many: ManyFlags,
    /// Run this step and all after it
    #[arg(long, value_name = "STEP", conflicts_with = "provision_with")]
    from: Option<String>,
}

/// Runs the steps, those too that have succeeded before.
pub fn run(app: &App, args: &ProvisionArgs) -> Outcome {
    let mut machines = args.many.patient(app.machines()?);
    let targets = target::resolve(app, &machines, &args.many.names(&args.names))?;
    lock::apply(&mut machines, &targets, Some(args.locked))?;
    let choice = match (args.with.provision_with.as_slice(), &args.from) {
        ([], None) => ProvisionChoice::Force,
        (_, Some(step)) => ProvisionChoice::From(step.clone()),
        (names, None) => ProvisionChoice::With(names.to_vec()),
    };
    steps::check_choice(&choice, &targets)?;
    let many = Many::new(app, &machines, &targets, "provision", Order::Up, &args.many)?;
    let outcome = many.each(&|target| {
        let (project, machine) = target.declaration()?;
        let provision = || Ok(machines.provision(project, machine, &choice)?);
        let outcome = hooks::around(app, &machines, target, Hooked::Provision, provision)?;
        let steps = steps::summary(&outcome);
        app.ui.stage(&target.name, &format!("Provisioned: {steps}."));
        Ok(steps)
    });
    let outcome = after::run(app, &machines, &targets, &choice, outcome);
    lock::keep(app, &machines, &targets);
    outcome
}
