//! `rvm up`: machines created, started, provisioned.

use std::time::Instant;

use clap::Args;

use super::app::App;
use super::error::{CliError, Kind};
use super::lock::{self, LockedFlag};
use super::steps::{self, StepFlags};
use super::target::{self, Target};
use super::timings::{Collector, Timings, TimingsFlag};
use super::{DONE, Outcome};
use crate::machine::{Machines, UpOptions, UpOutcome};
use crate::model::ProviderKind;

/// Words of `rvm up`.
#[derive(Debug, Args)]
pub struct UpArgs {
    /// Machines or ids; all of the project without
    #[arg(value_name = "NAME")]
    names: Vec<String>,
    /// What runs the machine, kvm or qemu; without, the file or this host decides
    #[arg(long, value_enum, hide_possible_values = true)]
    provider: Option<Provider>,
    #[command(flatten)]
    steps: StepFlags,
    #[command(flatten)]
    timings: TimingsFlag,
    #[command(flatten)]
    locked: LockedFlag,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Provider {
    /// The hypervisor of rvm
    Kvm,
    /// QEMU with software emulation
    Qemu,
}

/// Brings the machines up, one after the other.
pub fn run(app: &App, args: &UpArgs) -> Outcome {
    let begin = Instant::now();
    let collector = Collector::new(&*app.ui);
    let mut machines = Machines { report: &collector, ..app.machines()? };
    let targets = target::resolve(app, &machines, &args.names)?;
    machines.locks = lock::read(&targets, Some(args.locked))?;
    let mut timings = Timings::new(app, &args.timings, &collector, begin)?;
    let provider = args.provider.map(|p| match p {
        Provider::Kvm => ProviderKind::Kvm,
        Provider::Qemu => ProviderKind::Qemu,
    });
    let options = UpOptions { provider, provision: args.steps.choice(), timings: args.timings.wanted() };
    steps::check_choice(&options.provision, &targets)?;
    let outcome = each(app, &targets, "up", |target| {
        let outcome = timings.measure(&machines, target, || up(&machines, target, &options))?;
        Ok(told(app, target, &outcome))
    });
    lock::keep(app, &machines, &targets);
    outcome
}

fn up(machines: &Machines<'_>, target: &Target, options: &UpOptions) -> Result<UpOutcome, CliError> {
    let (project, machine) = target.declaration()?;
    Ok(machines.up(project, machine, options)?)
}

/// Says how it went; gives the words for the summary.
pub fn told(app: &App, target: &Target, outcome: &UpOutcome) -> String {
    let steps = steps::summary(outcome);
    let state = if outcome.was_running { "was running already" } else { "is up" };
    app.ui.stage(&target.name, &format!("Machine {state}: {steps}."));
    if !outcome.pending.is_empty() {
        let mut subjects: Vec<String> =
            outcome.pending.iter().map(|change| change.subject.to_string()).collect();
        subjects.dedup();
        let (name, subjects) = (&target.name, subjects.join(", "));
        app.ui.note(&format!("    {name}: not applied: {subjects}; `rvm plan {name}` says what does."));
    } else if outcome.was_running && outcome.ran.is_empty() && !outcome.skipped.is_empty() {
        app.ui.note(&format!("    {}: `rvm provision` runs the steps again.", target.name));
    }
    steps
}

/// Does `work` on each target. A failure of one does not keep the others from being served: all
/// failures are shown, and with several targets a summary ends the output.
pub fn each(
    app: &App,
    targets: &[Target],
    verb: &str,
    mut work: impl FnMut(&Target) -> Result<String, CliError>,
) -> Outcome {
    if let [only] = targets {
        return work(only).map(|_| DONE).map_err(|error| interrupted(error, verb, only));
    }
    let mut lines: Vec<(&str, String)> = Vec::new();
    let mut failed = 0;
    for target in targets {
        match app.check_cancelled().and_then(|()| work(target)) {
            Ok(done) => lines.push((&target.name, done)),
            Err(error) if error.kind == Kind::Interrupted => return Err(interrupted(error, verb, target)),
            Err(error) => {
                app.ui.error(&error, false);
                lines.push((&target.name, format!("failed: {}", first_line(&error))));
                failed += 1;
            }
        }
    }
    app.ui.note(&format!("Summary of `rvm {verb}`:"));
    for (name, line) in &lines {
        app.ui.note(&format!("    {name:<25} {line}"));
    }
    match failed {
        0 => Ok(DONE),
        n => Err(CliError::failed(format!("{n} of {} machines failed", targets.len()))
            .hint(format!("`rvm {verb}` again goes on where they stopped"))),
    }
}

fn first_line(error: &CliError) -> String {
    error.one_line().lines().next().unwrap_or_default().to_owned()
}

/// Says in what state things are left.
fn interrupted(mut error: CliError, verb: &str, target: &Target) -> CliError {
    if error.kind == Kind::Interrupted && error.hint.is_none() {
        let name = &target.name;
        error.hint = Some(format!(
            "nothing is lost: `rvm {verb} {name}` goes on, `rvm status` shows how far it got, \
             `rvm destroy {name}` removes it"
        ));
    }
    error
}
