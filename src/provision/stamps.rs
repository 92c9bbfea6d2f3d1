//! Stamps of the steps that have succeeded.

use std::path::Path;

use super::ProvisionError;

/// Keyed hash of all that a step does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Digest(String);

/// Which steps have succeeded with which content, in a machine's folder.
#[derive(Debug)]
pub struct Stamps {}

#[allow(clippy::todo, unused_variables)]
impl Stamps {
    /// Reads `steps.json` and `stamp.key` of a machine's folder; makes the key where there is none.
    pub fn load(machine_dir: &Path) -> Result<Stamps, ProvisionError> {
        todo!()
    }
}
