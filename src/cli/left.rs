//! Machines of a project that its file no longer declares: one was taken out of it, or has another name there.

use super::app::App;
use super::status::word;
use super::target::{Target, short};
use crate::machine::Machines;

/// Says which there are, for a command that was about all machines of the project. That this cannot be found
/// out stands in nobody's way.
pub fn tell(app: &App, machines: &Machines<'_>, targets: &[Target]) {
    let Some(Ok((project, _))) = targets.first().map(Target::declaration) else { return };
    let left = match machines.left_over(project) {
        Ok(left) => left,
        Err(error) => return tracing::debug!(%error, "machines that are declared no more"),
    };
    let Some(first) = left.first() else { return };
    let text = |status: &crate::machine::Status| {
        let id = status.id.as_deref().map(short).unwrap_or_default();
        format!("{} ({}, {id})", status.name, word(status.state))
    };
    let list: Vec<String> = left.iter().map(text).collect();
    app.ui.note(&format!(
        "Not in the Vagrantfile any more: {}. `rvm destroy {}` removes such a machine.",
        list.join(", "),
        first.name
    ));
}
