//! Why a folder of a machine is not as the file says.

use std::path::PathBuf;

use thiserror::Error;

use crate::model::Code;

/// `Display` is one sentence.
#[derive(Debug, Error)]
pub enum FolderError {
    /// What runs the machine cannot share folders.
    #[error("machine `{machine}` cannot have the folder {guest} of the host, because {why}")]
    Unserved {
        /// Which machine.
        machine: String,
        /// Where it was to be.
        guest: String,
        /// A clause.
        why: String,
    },
    /// The host's folder is not there, or is none.
    #[error("the folder {path} of this host, for {guest} in machine `{machine}`, cannot be used: {why}")]
    Host {
        /// Which machine.
        machine: String,
        /// Where it was to be.
        guest: String,
        /// The host's.
        path: PathBuf,
        /// Why.
        why: String,
    },
    /// The guest does not mount it.
    #[error("machine `{machine}` runs, but {guest} is not mounted in it: {why}")]
    Mount {
        /// Which machine.
        machine: String,
        /// Where it was to be.
        guest: String,
        /// What the guest said.
        why: String,
        /// It is one of the host's.
        shared: bool,
    },
    /// It was not copied, or not all of it.
    #[error("cannot copy to {what}: {why}")]
    Copy {
        /// Machine and folder, `web:/srv/app`.
        what: String,
        /// Why, from the guest or the host.
        why: String,
    },
    /// Changes on the host cannot be seen.
    #[error("cannot watch {path} for changes: {why}")]
    Watch {
        /// The host's.
        path: PathBuf,
        /// Why.
        why: String,
    },
}

impl FolderError {
    /// Its stable code (`docs/errors.md`).
    pub fn code(&self) -> Code {
        match self {
            FolderError::Unserved { .. } => Code::FolderUnserved,
            FolderError::Host { .. } => Code::FolderOfHost,
            FolderError::Mount { .. } => Code::FolderNotMounted,
            FolderError::Copy { .. } => Code::FolderNotCopied,
            FolderError::Watch { .. } => Code::FolderNotWatched,
        }
    }

    /// What to do next.
    pub fn hint(&self) -> Option<String> {
        Some(match self {
            FolderError::Unserved { .. } => {
                "`type = \"rsync\"` copies the folder instead; `rvm rsync` brings the copy up to date".into()
            }
            FolderError::Host { .. } => {
                "correct `host`, or set `create = true` to have a missing one made".into()
            }
            FolderError::Mount { machine, shared: true, .. } => format!(
                "a kernel without virtiofs cannot: `type = \"rsync\"` copies the folder; `rvm ssh {machine}` looks into it"
            ),
            FolderError::Mount { machine, .. } => {
                format!("`rvm ssh {machine}` looks into it, `rvm up {machine}` tries again")
            }
            FolderError::Copy { why, .. } if why.contains("No space left") => {
                "the guest's disk is full: `exclude` what it does not need, or give it a larger `disk`".into()
            }
            FolderError::Copy { .. } => "`rvm rsync` tries again".into(),
            FolderError::Watch { why, .. } if why.contains("limit") => {
                "`exclude` folders that need no watching, or raise the limit: sudo sysctl fs.inotify.max_user_watches=524288"
                    .into()
            }
            FolderError::Watch { .. } => "`rvm rsync` copies once, without watching".into(),
        })
    }
}
