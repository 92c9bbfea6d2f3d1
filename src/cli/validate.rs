//! `rvm validate`: is the Vagrantfile right?

use clap::Args;
use serde_json::json;

use super::app::App;
use super::{DONE, Json, Outcome};
use crate::config::{ConfigError, Report};

/// Words of `rvm validate`.
#[derive(Debug, Args)]
pub struct ValidateArgs {
    /// For scripts that were written for Vagrant: a provider is never needed
    #[arg(short = 'p', long, hide = true)]
    ignore_provider: bool,
    #[command(flatten)]
    pub(super) json: Json,
}

/// Loads the project; all that is wrong with it comes back as one error.
pub fn run(app: &App) -> Outcome {
    let project = app.project()?;
    if let Some(report) = Report::of_absent(project.machines.iter().flat_map(|machine| &machine.absent)) {
        return Err(ConfigError::Invalid(report).into());
    }
    let names: Vec<&str> = project.machines.iter().map(|m| m.name.as_str()).collect();
    if app.json {
        app.ui.json(&json!({
            "version": super::json::VERSION,
            "valid": true,
            "file": project.file.display().to_string(),
            "machines": names,
        }));
    } else {
        let file = project.file.display();
        app.ui.result(&format!("{file} is valid. Machines: {}", names.join(", ")));
    }
    Ok(DONE)
}
