//! `rvm schema`: what editors complete and check a Vagrantfile with.

use super::app::App;
use super::error::CliError;
use super::{DONE, Outcome};
use crate::config;
use crate::model::Code;

/// Prints the JSON schema of the Vagrantfile.
pub fn run(app: &App) -> Outcome {
    let text = serde_json::to_string_pretty(&config::schema())
        .map_err(|e| CliError::failed(Code::Host, "cannot write the schema as JSON").because(&e))?;
    app.ui.result(&text);
    Ok(DONE)
}
