//! Which steps run.

use super::{Digest, ProvisionError, Stamps};
use crate::model::{ProvisionChoice, Step};

/// What becomes of a step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Decision {
    /// It runs: it never succeeded, or it always runs, or it was asked for.
    Run,
    /// It runs: its content changed since it succeeded.
    RunChanged,
    /// It succeeded before with this content.
    Done,
    /// `run = "never"`, and nobody named it.
    Never,
    /// `--no-provision`, or others were named.
    NotChosen,
}

/// One decision for each of `steps`; `digests` are theirs. A name in `choice` that is neither
/// a step's name nor the type of one is an error.
#[allow(clippy::todo, unused_variables)]
pub fn decide(
    steps: &[Step],
    digests: &[Digest],
    stamps: &Stamps,
    choice: &ProvisionChoice,
) -> Result<Vec<Decision>, ProvisionError> {
    todo!()
}
