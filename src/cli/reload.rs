//! `rvm reload`: stop, start again with the file as it is now.

use std::sync::Mutex;
use std::time::Instant;

use clap::Args;

use super::Outcome;
use super::after;
use super::app::App;
use super::edited::Files;
use super::hooks;
use super::lock::{self, LockedFlag};
use super::many::{Many, ManyFlags, Order};
use super::steps::{self, StepFlags};
use super::timings::{Collector, Timings, TimingsFlag};
use super::{target, up};
use crate::machine::{Machines, UpOptions};
use crate::model::Hooked;

/// Words of `rvm reload`.
#[derive(Debug, Args)]
pub struct ReloadArgs {
    /// Machines, groups, /expressions/ or ids; all of the project without
    #[arg(value_name = "NAME")]
    names: Vec<String>,
    /// Switch off without asking the guest
    #[arg(short, long)]
    force: bool,
    #[command(flatten)]
    steps: StepFlags,
    #[command(flatten)]
    timings: TimingsFlag,
    #[command(flatten)]
    locked: LockedFlag,
    #[command(flatten)]
    many: ManyFlags,
}

/// Restarts the machines, those that others depend on first.
pub fn run(app: &App, args: &ReloadArgs) -> Outcome {
    let begin = Instant::now();
    let collector = Collector::new(&*app.ui);
    let mut machines = args.many.patient(Machines { report: &collector, ..app.machines()? });
    let targets = target::resolve(app, &machines, &args.many.names(&args.names))?;
    target::check_folders(&targets, |_| true)?;
    lock::apply(&mut machines, &targets, Some(args.locked))?;
    let timings = Timings::new(app, &args.timings, &collector, begin)?;
    let options = UpOptions {
        provision: args.steps.choice(),
        timings: args.timings.wanted(),
        ssh_words: Some(super::ssh::words),
        ..UpOptions::default()
    };
    steps::check_choice(&options.provision, &targets)?;
    let files = Files::of(&targets);
    let up = Mutex::new(Vec::new());
    let many = Many::new(app, &machines, &targets, "reload", Order::Up, &args.many)?;
    let outcome = many.each(&|target| {
        let (project, machine) = target.declaration()?;
        if target.id(&machines)?.is_none() {
            let text = "not created: `rvm up` creates it";
            app.ui.stage(&target.name, &format!("Machine {text}."));
            return Ok(text.into());
        }
        let reload = || Ok(machines.reload(project, machine, args.force, &options)?);
        let reload = || timings.measure(&machines, target, reload);
        let outcome = hooks::around(app, &machines, target, Hooked::Reload, reload)?;
        up.lock().unwrap_or_else(|e| e.into_inner()).push(target.name.clone());
        Ok(up::told(app, target, &outcome))
    });
    files.tell(app, "reload");
    let outcome = after::run(app, &machines, &targets, &options.provision, outcome);
    lock::keep(app, &machines, &targets);
    up::messages(app, &targets, &up.into_inner().unwrap_or_else(|e| e.into_inner()));
    outcome
}
