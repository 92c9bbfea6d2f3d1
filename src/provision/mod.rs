//! Provision steps: which run, how they run in the guest, and the stamps of those that succeeded.
//!
//! A step is stamped only after it has succeeded, keyed by its content; so a failed run goes on
//! at the failed step, and a changed step runs again. `docs/provisioning.md` tells the whole.

mod ansible;
mod choose;
mod content;
mod docker;
mod error;
mod guest;
mod host;
mod lines;
mod log;
mod output;
mod packages;
mod reboot;
mod runner;
mod shell;
mod stamps;
mod tries;
mod upload;
mod why;

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use crate::model::{
    Cancel, Event, Masker, Phase, ProvisionChoice, Reporter, Secret, Step, StepKind, Stopwatch,
};

pub use choose::Decision;
pub use error::ProvisionError;
pub use guest::{Guest, Link};
pub use host::Host;
pub use log::StepLogs;
pub use stamps::{Digest, Hash, Parts, Stamps};
pub use why::{Why, why};

use choose::Wish;
use content::Content;

/// What steps that run on the host have to know.
pub struct HostSide<'a> {
    /// The project's folder.
    pub dir: &'a Path,
    /// All running machines, as an inventory of Ansible.
    pub inventory: &'a str,
    /// The password that logs in, where no key does.
    pub password: Option<&'a Secret>,
}

/// What [`run`] works with.
pub struct Context<'a> {
    /// Name of the machine.
    pub machine: &'a str,
    /// Where commands run.
    pub guest: &'a dyn Guest,
    /// Takes events.
    pub report: &'a dyn Reporter,
    /// Masks secrets in all that is reported.
    pub masker: &'a Masker,
    /// Ends the step that runs.
    pub cancel: &'a Cancel,
    /// Keeps what the steps print.
    pub logs: &'a StepLogs,
    /// For steps that run on the host.
    pub host: HostSide<'a>,
    /// Versions that packages are locked in, by name; where there are none, the mirror's are taken.
    pub pins: Option<&'a BTreeMap<String, String>>,
    /// Nothing but `pins` may be installed by `packages` steps.
    pub locked: bool,
    /// How long a guest that reboots may take until it lets us in again.
    pub boot_timeout: Duration,
}

/// What [`run`] did.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Outcome {
    /// Names of the steps that ran.
    pub ran: Vec<String>,
    /// Names of the steps that did not.
    pub skipped: Vec<String>,
}

/// A step with what became of it and, where that was needed, what it carries.
struct Planned<'a> {
    step: &'a Step,
    decision: Decision,
    content: Option<(Content, Digest)>,
}

fn plan<'a>(
    steps: &'a [Step],
    choice: &ProvisionChoice,
    stamps: &Stamps,
) -> Result<Vec<Planned<'a>>, ProvisionError> {
    let wishes = choose::wishes(steps, choice)?;
    let one = |(step, wish)| {
        Ok(match wish {
            Wish::Settled(decision) if !decision.runs() => Planned { step, decision, content: None },
            wish => {
                let (content, digest) = content::load(step, stamps)?;
                let decision = choose::decide(step, wish, &digest, stamps);
                Planned { step, decision, content: Some((content, digest)) }
            }
        })
    };
    steps.iter().zip(wishes).map(one).collect()
}

/// What would become of each step now: reads scripts, files and stamps, but needs no guest.
pub fn decide(
    steps: &[Step],
    choice: &ProvisionChoice,
    stamps: &Stamps,
) -> Result<Vec<Decision>, ProvisionError> {
    Ok(plan(steps, choice, stamps)?.into_iter().map(|planned| planned.decision).collect())
}

/// Runs one step, whatever its stamp says, and leaves none. Gives the packages that it has installed.
pub fn run_step(context: &Context<'_>, step: &Step) -> Result<Vec<(String, String)>, ProvisionError> {
    let mut runner = runner::Runner::new(context);
    runner.run(step, &content::read_for(step)?)?;
    Ok(runner.installed)
}

/// Runs a step on the host: a script, or a playbook on all machines of the inventory.
pub fn run_on_host(host: &Host<'_>, side: &HostSide<'_>, step: &Step) -> Result<(), ProvisionError> {
    host.tries(step, &|output| match &step.kind {
        StepKind::Ansible(playbook) => ansible::run(host, side, step, playbook, None, output),
        _ => host.script(step, output),
    })
}

/// The digest of all that a step does, and those of its parts, by the key of those stamps.
pub fn digest(step: &Step, stamps: &Stamps) -> Result<(Digest, Parts), ProvisionError> {
    let (content, digest) = content::load(step, stamps)?;
    Ok((digest, why::parts(step, &content, stamps)))
}

/// Runs the steps that are due, in order; each is stamped when it has succeeded. Ends at the
/// first that fails. All scripts are read before the first step runs, so that a missing one is
/// found at once and an edit meanwhile changes nothing.
pub fn run(
    context: &Context<'_>,
    steps: &[Step],
    choice: &ProvisionChoice,
    stamps: &mut Stamps,
) -> Result<Outcome, ProvisionError> {
    let plan = plan(steps, choice, stamps)?;
    let total = plan.iter().filter(|planned| planned.decision.runs()).count();
    let mut runner = runner::Runner::new(context);
    let mut outcome = Outcome::default();
    for Planned { step, decision, content } in plan {
        let Some((content, digest)) = content.filter(|_| decision.runs()) else {
            outcome.skipped.push(step.name.clone());
            continue;
        };
        let kind = step.kind.type_name();
        let changed = if decision == Decision::RunChanged { ", changed since it succeeded" } else { "" };
        context.report.event(Event::Stage {
            machine: Some(context.machine.to_owned()),
            text: format!("step {} of {total}: {} ({kind}){changed}", outcome.ran.len() + 1, step.name),
        });
        let phase = Phase::Step(context.masker.mask(&step.name));
        let _watch = Stopwatch::start(context.report, context.machine, phase);
        stamps.forget(&step.name)?;
        runner.run(step, &content)?;
        stamps.add_installed(std::mem::take(&mut runner.installed));
        let parts = why::parts(step, &content, stamps);
        stamps.record_with(&step.name, &digest, parts)?;
        outcome.ran.push(step.name.clone());
    }
    Ok(outcome)
}
