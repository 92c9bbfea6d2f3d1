//! Why provisioning stopped.

use std::io;
use std::path::PathBuf;
use std::time::Duration;

use thiserror::Error;

use crate::model::Code;
use crate::ssh::{SshError, WaitError};

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
    /// The guest's package manager reached no mirror.
    #[error("step `{step}` of machine `{machine}` reached no package mirror (`{manager}` says more above)")]
    MirrorUnreachable {
        /// The machine.
        machine: String,
        /// The step.
        step: String,
        /// Program of the package manager.
        manager: &'static str,
    },
    /// The step did not end in its time. It was ended, in the guest too.
    #[error("step `{step}` of machine `{machine}` did not end within {} s and was ended", after.as_secs())]
    StepTimedOut {
        /// The machine.
        machine: String,
        /// The step.
        step: String,
        /// Its `timeout`.
        after: Duration,
    },
    /// The guest rebooted while the step ran, and nothing says that it should.
    #[error("the guest of machine `{machine}` rebooted while step `{step}` ran")]
    GuestRebooted {
        /// The machine.
        machine: String,
        /// The step.
        step: String,
    },
    /// The guest was lost in a step, or went to reboot, and did not come back.
    #[error("the guest of machine `{machine}` did not come back after it was lost in step `{step}`")]
    GuestGone {
        /// The machine.
        machine: String,
        /// The step.
        step: String,
        /// Why.
        #[source]
        source: Box<WaitError>,
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
    /// A step after all machines failed.
    #[error("step `{step}` after all machines failed")]
    AfterAll {
        /// The step.
        step: String,
        /// Why.
        #[source]
        source: Box<ProvisionError>,
    },
    /// A hook failed.
    #[error("hook `{hook}` {when} of machine `{machine}` failed")]
    Hook {
        /// The machine.
        machine: String,
        /// Its name.
        hook: String,
        /// Such as `before halt`.
        when: String,
        /// Why.
        #[source]
        source: Box<ProvisionError>,
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
    /// Its stable code (`docs/errors.md`).
    pub fn code(&self) -> Code {
        match self {
            ProvisionError::StepFailed { .. } => Code::StepFailed,
            ProvisionError::StepUnable { .. } => Code::StepUnable,
            ProvisionError::StepCut { source, .. } if source.is_interrupt() => Code::Interrupted,
            ProvisionError::StepCut { .. } => Code::StepCut,
            ProvisionError::MirrorUnreachable { .. } => Code::MirrorUnreachable,
            ProvisionError::StepTimedOut { .. } => Code::StepTimedOut,
            ProvisionError::GuestRebooted { .. } => Code::GuestRebooted,
            ProvisionError::GuestGone { .. } => Code::GuestGone,
            ProvisionError::AfterAll { source, .. } => source.code(),
            ProvisionError::Hook { source, .. } if source.is_interrupt() => Code::Interrupted,
            ProvisionError::Hook { .. } => Code::HookFailed,
            ProvisionError::UnknownStep { .. } => Code::UnknownStep,
            ProvisionError::Source { .. } => Code::StepSource,
            ProvisionError::Stamps { .. } => Code::Stamps,
        }
    }

    /// What to do next, where there is something to do.
    pub fn hint(&self) -> Option<String> {
        match self {
            ProvisionError::StepFailed { machine, .. } => Some(format!(
                "the machine is left running: look into it with `rvm ssh {machine}`; after the cause is \
                 mended `rvm up {machine}` goes on at this step"
            )),
            ProvisionError::StepTimedOut { machine, .. } => Some(format!(
                "none of its processes is left; the machine runs: look into it with `rvm ssh {machine}`, or \
                 give the step a longer `timeout`; `rvm up {machine}` goes on at this step"
            )),
            ProvisionError::MirrorUnreachable { machine, manager, .. } => Some(format!(
                "look whether this host is online, and at the mirrors of `{manager}` in the guest (`rvm ssh \
                 {machine}`); `retries` in the step tries again by itself; `rvm up {machine}` goes on at it"
            )),
            ProvisionError::GuestRebooted { machine, .. } => Some(format!(
                "where a step is meant to reboot the guest, say `reboot = true` in it; `rvm logs {machine}` \
                 shows the console; `rvm up {machine}` goes on at this step"
            )),
            ProvisionError::GuestGone { machine, source, .. } => {
                Some(source.hint().unwrap_or_else(|| {
                    format!(
                        "`rvm logs {machine}` shows its console; `rvm up {machine}` starts it where it has \
                         ended, and goes on at this step"
                    )
                }))
            }
            ProvisionError::StepUnable { hint, .. } => hint.clone(),
            ProvisionError::StepCut { machine, source, .. } => Some(source.hint().unwrap_or_else(|| {
                format!("`rvm status {machine}` shows whether it still runs; `rvm up {machine}` goes on at this step")
            })),
            ProvisionError::AfterAll { source, .. } if matches!(**source, ProvisionError::StepUnable { .. }) => {
                source.hint()
            }
            ProvisionError::AfterAll { .. } => {
                Some("the machines are left running; after the cause is mended `rvm up` goes on at this step".into())
            }
            ProvisionError::Hook { machine, hook, when, .. } => Some(match when.starts_with("before") {
                true => format!(
                    "the command was not begun; `on_error = \"continue\"` in the hook lets it go on; `rvm \
                     logs {machine} --step {hook}` shows what it printed, where the machine exists"
                ),
                false => format!(
                    "the command itself has succeeded; `rvm logs {machine} --step {hook}` shows what it \
                     printed, where the machine exists"
                ),
            }),
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
        match self {
            ProvisionError::StepCut { source, .. } => source.is_interrupt(),
            ProvisionError::Hook { source, .. } | ProvisionError::AfterAll { source, .. } => {
                source.is_interrupt()
            }
            _ => false,
        }
    }

    /// Whether running the step again may help.
    pub(super) fn may_pass(&self) -> bool {
        match self {
            ProvisionError::StepFailed { .. }
            | ProvisionError::MirrorUnreachable { .. }
            | ProvisionError::StepTimedOut { .. }
            | ProvisionError::GuestRebooted { .. } => true,
            ProvisionError::StepCut { .. } => !self.is_interrupt(),
            _ => false,
        }
    }
}
