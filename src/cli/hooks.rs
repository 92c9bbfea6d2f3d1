//! Hooks around a command.

use super::app::{App, env};
use super::error::CliError;
use super::target::Target;
use crate::machine::Machines;
use crate::model::{Hook, Hooked, Moment, Project};

/// Set for what hooks run: an `rvm` that they call runs none, or it could go on for ever.
const INSIDE: &str = "RVM_HOOK";

/// Whether there is anything to run at that moment.
pub fn any(project: &Project, machine: &str, moment: Moment, command: Hooked) -> bool {
    env(INSIDE).is_none() && due(project, machine, moment, command).next().is_some()
}

fn due<'a>(
    project: &'a Project,
    machine: &'a str,
    moment: Moment,
    command: Hooked,
) -> impl Iterator<Item = &'a Hook> {
    let about = move |hook: &&Hook| hook.moment == moment && hook.commands.contains(&command);
    project.hooks.iter().filter(about).filter(move |hook| hook.machines.iter().any(|name| name == machine))
}

/// Does `work` on a target, with the hooks of its project before and after it.
pub fn around<T>(
    app: &App,
    machines: &Machines<'_>,
    target: &Target,
    command: Hooked,
    work: impl FnOnce() -> Result<T, CliError>,
) -> Result<T, CliError> {
    run(app, machines, target, Moment::Before, command)?;
    let done = work()?;
    run(app, machines, target, Moment::After, command)?;
    Ok(done)
}

/// Runs the hooks of that moment, in the order of the file. The first that fails ends the command,
/// unless it may fail.
pub fn run(
    app: &App,
    machines: &Machines<'_>,
    target: &Target,
    moment: Moment,
    command: Hooked,
) -> Result<(), CliError> {
    // A machine whose file cannot be read has no hooks that we know of.
    let Ok((project, machine)) = target.declaration() else { return Ok(()) };
    if env(INSIDE).is_some() {
        return Ok(());
    }
    for hook in due(project, &machine.name, moment, command) {
        app.check_cancelled()?;
        let name = &hook.step.name;
        app.ui.stage(&target.name, &format!("hook {} {}: {name}", moment.as_str(), command.as_str()));
        match machines.hook(project, machine, hook, command) {
            Ok(true) => {}
            Ok(false) => app.ui.note(&format!("    {}: not run, the machine is not running", target.name)),
            Err(error) if hook.may_fail && !error.is_interrupt() => {
                app.ui.warn(&CliError::from(error).one_line());
            }
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}
