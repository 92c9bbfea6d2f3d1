//! `rvm inventory`: the running machines, as Ansible takes them.

use clap::Args;

use super::app::App;
use super::{DONE, Outcome};
use crate::ssh::{inventory_json, render_inventory};

/// Words of `rvm inventory`.
#[derive(Debug, Args)]
pub struct InventoryArgs {
    /// In YAML, for a file (the default)
    #[arg(long)]
    ansible: bool,
    /// In JSON, as Ansible asks a program for it
    #[arg(long, alias = "list", conflicts_with = "ansible")]
    pub(super) json: bool,
}

/// Prints the inventory of the machines of the project that run.
pub fn run(app: &App, args: &InventoryArgs) -> Outcome {
    let project = app.project()?;
    let hosts = app.machines()?.inventory(&project)?;
    if hosts.is_empty() {
        app.ui.note("No machine of this project runs: the inventory is empty.");
    }
    match args.json {
        true => app.ui.json(&inventory_json(&hosts)),
        false => app.ui.result(render_inventory(&hosts).trim_end()),
    }
    Ok(DONE)
}
