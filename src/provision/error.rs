//! Why provisioning stopped.

use std::io;
use std::path::PathBuf;

use thiserror::Error;

use crate::ssh::SshError;

/// Why provisioning stopped. The machine is left running.
#[derive(Debug, Error)]
pub enum ProvisionError {
    /// The step ran and failed.
    #[error("step `{step}` of machine `{machine}` failed with exit code {code}")]
    StepFailed {
        /// The machine.
        machine: String,
        /// The step.
        step: String,
        /// Exit code in the guest.
        code: i32,
        /// Name of the signal that ended it, where one did.
        signal: Option<String>,
    },
    /// The step could not be run.
    #[error("step `{step}` of machine `{machine}` cannot run: {why}")]
    StepUnable {
        /// The machine.
        machine: String,
        /// The step.
        step: String,
        /// Why.
        why: String,
        /// What to do about it.
        hint: Option<String>,
    },
    /// The way to the guest broke while a step ran.
    #[error("step `{step}` of machine `{machine}` was cut off")]
    StepCut {
        /// The machine.
        machine: String,
        /// The step.
        step: String,
        /// Why.
        #[source]
        source: Box<SshError>,
    },
    /// `--provision-with` names no step.
    #[error("no provision step has the name or type `{asked}`")]
    UnknownStep {
        /// What was asked for.
        asked: String,
        /// What there is.
        names: Vec<String>,
    },
    /// A script or a file to upload cannot be read.
    #[error("step `{step}` cannot read {path}")]
    Source {
        /// The step.
        step: String,
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The stamps cannot be read or written.
    #[error("cannot keep the stamps of provision steps in {path}")]
    Stamps {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
}

impl ProvisionError {
    /// What to do next, where there is something to do.
    pub fn hint(&self) -> Option<String> {
        match self {
            ProvisionError::StepFailed { machine, .. } => Some(format!(
                "the machine is left running: look into it with `rvm ssh {machine}`; after the cause is \
                 mended `rvm up {machine}` goes on at this step"
            )),
            ProvisionError::StepUnable { hint, .. } => hint.clone(),
            ProvisionError::StepCut { machine, source, .. } => Some(source.hint().unwrap_or_else(|| {
                format!("`rvm status {machine}` shows whether it still runs; `rvm up {machine}` goes on at this step")
            })),
            ProvisionError::UnknownStep { names, .. } if names.is_empty() => {
                Some("this machine has no provision steps".into())
            }
            ProvisionError::UnknownStep { names, .. } => Some(format!("there are: {}", names.join(", "))),
            ProvisionError::Stamps { path, source } if source.kind() == io::ErrorKind::InvalidData => {
                Some(format!("remove {}: then all steps count as not run yet", path.display()))
            }
            ProvisionError::Source { .. } | ProvisionError::Stamps { .. } => None,
        }
    }

    /// Whether it ended by Ctrl-C.
    pub fn is_interrupt(&self) -> bool {
        matches!(self, ProvisionError::StepCut { source, .. } if source.is_interrupt())
    }
}
