//! `rvm up`: machines created, started, provisioned.

use std::sync::Mutex;
use std::time::Instant;

use clap::Args;

use super::after;
use super::app::{App, env};
use super::edited::Files;
use super::hooks;
use super::left;
use super::lock::{self, LockedFlag};
use super::many::{Many, ManyFlags, Order};
use super::steps::{self, StepFlags};
use super::target::{self, Target};
use super::timings::{Collector, Timings, TimingsFlag};
use super::{DONE, Outcome};
use crate::machine::{Machines, ProvisionChoice, UpOptions, UpOutcome};
use crate::model::{Hooked, Machine, ProviderKind};

/// Words of `rvm up`.
#[derive(Debug, Args)]
pub struct UpArgs {
    /// Machines, groups, /expressions/ or ids; without, all of the project but `autostart = false`
    #[arg(value_name = "NAME")]
    names: Vec<String>,
    /// What runs the machine, kvm or qemu; without, the file or this host decides
    #[arg(long, value_enum, hide_possible_values = true)]
    provider: Option<Provider>,
    /// For scripts that were written for Vagrant: nothing is installed, and nothing destroyed
    #[arg(long, hide = true)]
    no_install_provider: bool,
    #[arg(long, hide = true)]
    no_destroy_on_error: bool,
    #[command(flatten)]
    steps: StepFlags,
    #[command(flatten)]
    timings: TimingsFlag,
    #[command(flatten)]
    locked: LockedFlag,
    #[command(flatten)]
    many: ManyFlags,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Provider {
    /// The hypervisor of rvm
    Kvm,
    /// QEMU with software emulation
    Qemu,
}

/// Brings the machines up, with what they depend on.
pub fn run(app: &App, args: &UpArgs) -> Outcome {
    let begin = Instant::now();
    let collector = Collector::new(&*app.ui);
    let mut machines = args.many.patient(Machines { report: &collector, ..app.machines()? });
    let names = args.many.names(&args.names);
    let mut targets = target::resolve(app, &machines, &names)?;
    if names.is_empty() {
        targets.retain(|target| target.declaration().is_ok_and(|(_, machine)| machine.autostart));
        if targets.is_empty() {
            app.ui.note("No machine of this project starts by itself (`autostart = false`): `rvm up NAME` starts one.");
            return Ok(DONE);
        }
    }
    if let Some(text) = as_root(rustix::process::geteuid().is_root(), env("SUDO_USER").as_deref()) {
        app.ui.warn(&text);
    }
    let provider = args.provider.map(|p| match p {
        Provider::Kvm => ProviderKind::Kvm,
        Provider::Qemu => ProviderKind::Qemu,
    });
    let options = UpOptions {
        provider,
        provision: args.steps.choice(),
        timings: args.timings.wanted(),
        ssh_words: Some(super::ssh::words),
    };
    steps::check_choice(&options.provision, &targets)?;
    let targets = target::with_dependencies(targets);
    target::check_folders(&targets, |_| true)?;
    tell_implied(app, &targets);
    lock::apply(&mut machines, &targets, Some(args.locked))?;
    let files = Files::of(&targets);
    let timings = Timings::new(app, &args.timings, &collector, begin)?;
    let up = Mutex::new(Vec::new());
    let many = Many::new(app, &machines, &targets, "up", Order::Up, &args.many)?;
    let outcome = many.each(&|target| {
        let options = if target.implied { for_implied(&options) } else { options.clone() };
        let (project, machine) = target.declaration()?;
        let bring_up = || timings.measure(&machines, target, || Ok(machines.up(project, machine, &options)?));
        let outcome = hooks::around(app, &machines, target, Hooked::Up, bring_up)?;
        up.lock().unwrap_or_else(|e| e.into_inner()).push(target.name.clone());
        Ok(told(app, target, &outcome))
    });
    files.tell(app, "up");
    let outcome = after::run(app, &machines, &targets, &options.provision, outcome);
    lock::keep(app, &machines, &targets);
    if names.is_empty() {
        left::tell(app, &machines, &targets);
    }
    messages(app, &targets, &up.into_inner().unwrap_or_else(|e| e.into_inner()));
    outcome
}

/// Who became root needs it for nothing here, and is somebody else to rvm.
fn as_root(is_root: bool, sudo_user: Option<&str>) -> Option<String> {
    let user = sudo_user.filter(|user| is_root && *user != "root")?;
    Some(format!(
        "run by sudo: machines and boxes are root's, and rvm shows {user} none of them. It needs no root."
    ))
}

/// What is needed by others gets the steps that it lacks, and no more.
fn for_implied(options: &UpOptions) -> UpOptions {
    let provision = match options.provision {
        ProvisionChoice::Skip => ProvisionChoice::Skip,
        _ => ProvisionChoice::Auto,
    };
    UpOptions { provision, ..options.clone() }
}

/// Says which machines are brought up that were not asked for.
fn tell_implied(app: &App, targets: &[Target]) {
    let for_whom = |name: &String| {
        let those = targets.iter().filter(|target| target.needs().contains(name));
        those.map(|target| target.name.as_str()).collect::<Vec<_>>().join(", ")
    };
    let implied = targets.iter().filter(|target| target.implied);
    let words: Vec<String> = implied.map(|t| format!("{} (for {})", t.name, for_whom(&t.name))).collect();
    if !words.is_empty() {
        app.ui.note(&format!("Needed too, and brought up first where it is not: {}.", words.join(", ")));
    }
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
    } else if outcome.was_running && outcome.ran.is_empty() && !outcome.skipped.is_empty() && !target.implied
    {
        app.ui.note(&format!("    {}: `rvm provision` runs the steps again.", target.name));
    }
    let state = if outcome.was_running { "was running" } else { "up" };
    format!("{state}: {steps}")
}

/// What the file has to say about the machines that came up.
pub fn messages(app: &App, targets: &[Target], up: &[String]) {
    for target in targets.iter().filter(|target| up.contains(&target.name)) {
        if let Ok((_, Machine { message: Some(message), .. })) = target.declaration() {
            app.ui.stage(&target.name, message.trim_end());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::as_root;

    #[test]
    fn who_became_root_is_told() {
        assert!(as_root(true, Some("anna")).unwrap().contains("shows anna none of them"));
        for (is_root, user) in [(true, None), (true, Some("root")), (false, Some("anna"))] {
            assert_eq!(as_root(is_root, user), None);
        }
    }
}
