//! Why a folder cannot be shared.

use std::io;
use std::path::PathBuf;

/// Why a folder cannot be shared.
#[derive(Debug, thiserror::Error)]
pub enum FsError {
    /// The guest could not find it by that name.
    #[error("a shared folder cannot have the tag {tag:?}: 1 to {max} bytes without a zero are possible", max = super::TAG_LEN)]
    Tag {
        /// As asked for.
        tag: String,
    },
    /// The folder cannot be opened.
    #[error("cannot share {path}")]
    Source {
        /// The folder.
        path: PathBuf,
        /// The cause.
        #[source]
        source: io::Error,
    },
}

impl FsError {
    /// What the user can do about it.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Source { path, .. } => {
                Some(format!("{} has to be a folder that you may read", path.display()))
            }
            Self::Tag { .. } => None,
        }
    }
}
