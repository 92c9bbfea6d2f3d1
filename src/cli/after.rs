//! Steps after all machines, at the end of the commands that run steps.

use super::Outcome;
use super::app::App;
use super::error::CliError;
use super::target::Target;
use crate::machine::{AfterOutcome, Machines, ProvisionChoice};

/// Runs what follows all machines, if the command has done well on all of its own.
pub fn run(
    app: &App,
    machines: &Machines<'_>,
    targets: &[Target],
    choice: &ProvisionChoice,
    outcome: Outcome,
) -> Outcome {
    let Ok((project, _)) = targets.first().map_or_else(|| Err(()), |t| t.declaration().map_err(|_| ()))
    else {
        return outcome;
    };
    if project.after_all.is_empty() || !matches!(outcome, Ok(super::DONE)) {
        return outcome;
    }
    for after in &project.after_all {
        app.check_cancelled()?;
        match machines.after_all(project, after, choice).map_err(CliError::from)? {
            AfterOutcome::Ran | AfterOutcome::NotDue => {}
            AfterOutcome::Waits(names) => {
                let name = &after.step.name;
                app.ui.note(&format!("Step `{name}` after all machines waits for: {}.", names.join(", ")));
            }
        }
    }
    outcome
}
