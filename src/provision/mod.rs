//! Provision steps: which run, how they run in the guest, and the stamps of those that succeeded.

mod choose;
mod error;
mod guest;
mod stamps;

use crate::model::{Cancel, Masker, ProvisionChoice, Reporter, Step};

pub use choose::{Decision, decide};
pub use error::ProvisionError;
pub use guest::Guest;
pub use stamps::{Digest, Stamps};

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
}

/// What [`run`] did.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Outcome {
    /// Names of the steps that ran.
    pub ran: Vec<String>,
    /// Names of the steps that did not.
    pub skipped: Vec<String>,
}

/// Runs the steps that are due, in order; each is stamped when it has succeeded. Ends at the
/// first that fails.
#[allow(clippy::todo, unused_variables)]
pub fn run(
    context: &Context<'_>,
    steps: &[Step],
    choice: &ProvisionChoice,
    stamps: &mut Stamps,
) -> Result<Outcome, ProvisionError> {
    todo!()
}
