//! `rvm rsync` and `rvm rsync-auto`: copies of folders brought up to date, once or as they change.

use clap::Args;

use super::app::App;
use super::error::{CliError, Kind};
use super::many::{Many, ManyFlags, Order};
use super::target::{self, Target};
use super::{DONE, Outcome, ssh};
use crate::machine::{Machines, State};
use crate::model::Folder;

/// Words of `rvm rsync`.
#[derive(Debug, Args)]
pub struct RsyncArgs {
    /// Machines, groups, /expressions/ or ids; all of the project that run without
    #[arg(value_name = "NAME")]
    names: Vec<String>,
    #[command(flatten)]
    many: ManyFlags,
}

/// Words of `rvm rsync-auto`.
#[derive(Debug, Args)]
pub struct RsyncAutoArgs {
    /// Machines, groups, /expressions/ or ids; all of the project that run without
    #[arg(value_name = "NAME")]
    names: Vec<String>,
}

/// The machines that are meant: with folders that fit, and running where none was named.
fn targets(
    app: &App,
    machines: &Machines<'_>,
    names: &[String],
    fits: fn(&Folder) -> bool,
) -> Result<Vec<Target>, CliError> {
    let mut targets = target::resolve(app, machines, names)?;
    for target in &targets {
        target.declaration()?;
    }
    targets.retain(|target| target.declaration().is_ok_and(|(_, machine)| machine.folders.iter().any(fits)));
    if targets.is_empty() {
        app.ui.note("There is no such folder: a `[[folder]]` with `type = \"rsync\"` is copied.");
        return Ok(targets);
    }
    if names.is_empty() {
        let mut running = Vec::new();
        for target in targets {
            if target.status(machines)?.state == State::Running {
                running.push(target);
            }
        }
        if running.is_empty() {
            app.ui.note("No machine with such folders runs: `rvm up` copies them as it starts one.");
        }
        targets = running;
    }
    target::check_folders(&targets, |folder| folder.copied)?;
    Ok(targets)
}

/// Copies once.
pub fn run(app: &App, args: &RsyncArgs) -> Outcome {
    let machines = args.many.patient(app.machines()?);
    let targets = targets(app, &machines, &args.many.names(&args.names), Folder::is_copied)?;
    Many::new(app, &machines, &targets, "rsync", Order::Up, &args.many)?.each(&|target| {
        let (project, machine) = target.declaration()?;
        app.ui.stage(&target.name, "Copying folders.");
        machines.rsync(project, machine, ssh::words)?;
        Ok("up to date".into())
    })
}

/// Copies, and again whenever something changes, until Ctrl-C.
pub fn auto(app: &App, args: &RsyncAutoArgs) -> Outcome {
    let machines = app.machines()?;
    let targets = targets(app, &machines, &args.names, Folder::is_watched)?;
    // Ctrl-C is how it ends: nothing is interrupted by it.
    let (sender, signals) = std::sync::mpsc::channel();
    let _passing = app.signals.pass_to(sender);
    let cancel = app.cancel.clone();
    std::thread::spawn(move || signals.recv().map(|_| cancel.cancel()));
    let watch = |target: &Target| {
        let (project, machine) = target.declaration()?;
        let result = machines.rsync_auto(project, machine, ssh::words).map_err(CliError::from);
        result.inspect_err(|error| {
            // The others go on.
            if targets.len() > 1 && error.kind != Kind::Interrupted {
                app.ui.error(error, false);
            }
        })
    };
    let results: Vec<Result<usize, CliError>> = std::thread::scope(|scope| {
        let threads: Vec<_> = targets.iter().map(|target| scope.spawn(|| watch(target))).collect();
        let ended = threads.into_iter().map(|thread| thread.join());
        ended.map(|result| result.unwrap_or_else(|panic| std::panic::resume_unwind(panic))).collect()
    });
    match results.into_iter().find_map(Result::err) {
        // Ctrl-C is how it ends.
        Some(error) if error.kind == Kind::Interrupted => Ok(DONE),
        Some(error) => Err(error),
        None => Ok(DONE),
    }
}
