//! Folders of a guest that are not on its own disks.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// Where the project folder is in a guest, unless the file says otherwise; Vagrant has it there too.
pub const PROJECT_FOLDER: &str = "/vagrant";

/// A folder of the host in a guest, or one in its memory.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Folder {
    /// Where it is in the guest: an absolute path without `.`, `..`, empty parts, control characters or a
    /// slash at its end; unique in its machine.
    pub guest: String,
    /// What it is.
    pub kind: FolderKind,
    /// Whom it belongs to in the guest; `None`: the login user, or root where it is in memory.
    pub owner: Option<Owner>,
    /// Words for `mount -o`, of letters, digits and `._:=+-`.
    pub options: Vec<String>,
}

/// What a [`Folder`] is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum FolderKind {
    /// The host's own, seen through virtiofs.
    Shared {
        /// What of the host.
        host: HostFolder,
        /// The guest cannot write to it.
        read_only: bool,
        /// Nobody asked for it: the project folder at [`PROJECT_FOLDER`].
        implied: bool,
    },
    /// A copy of the host's, made anew when asked for.
    Copied {
        /// What of the host.
        host: HostFolder,
        /// What is not copied, as patterns of rsync; it is not removed in the guest either.
        exclude: Vec<String>,
        /// Remove in the guest what the host does not have.
        delete: bool,
        /// `rvm rsync-auto` watches it.
        watch: bool,
    },
    /// In the guest's memory, and gone with it.
    Memory {
        /// Most bytes that it takes; `None`: half of the guest's memory.
        size: Option<u64>,
    },
}

/// A folder of the host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HostFolder {
    /// Absolute path. It may have vanished, or never have been there, by the time it is used.
    pub path: PathBuf,
    /// Make it where it is missing.
    pub create: bool,
    /// What the guest must not see of it, relative to `path`: ENV files.
    pub hidden: Vec<PathBuf>,
}

/// A user of the guest, and a group: names or numbers, of letters, digits and `._-`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Owner {
    /// The user.
    pub user: String,
    /// The group; `None`: the user's own.
    pub group: Option<String>,
}

impl std::fmt::Display for Owner {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.user)?;
        match &self.group {
            Some(group) => write!(f, ":{group}"),
            None => Ok(()),
        }
    }
}

impl Folder {
    /// What of the host it is; `None` for one in memory.
    pub fn host(&self) -> Option<&HostFolder> {
        match &self.kind {
            FolderKind::Shared { host, .. } | FolderKind::Copied { host, .. } => Some(host),
            FolderKind::Memory { .. } => None,
        }
    }

    /// Whether it is a copy of the host's.
    pub fn is_copied(&self) -> bool {
        matches!(self.kind, FolderKind::Copied { .. })
    }

    /// Whether `rvm rsync-auto` watches it.
    pub fn is_watched(&self) -> bool {
        matches!(self.kind, FolderKind::Copied { watch: true, .. })
    }

    /// Whether it is the host's own.
    pub fn is_shared(&self) -> bool {
        matches!(self.kind, FolderKind::Shared { .. })
    }

    /// Whether nobody asked for it.
    pub fn is_implied(&self) -> bool {
        matches!(self.kind, FolderKind::Shared { implied: true, .. })
    }
}

/// A disk of the project that outlives its machines.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Volume {
    /// `[a-z0-9][a-z0-9-]*`, at most 16 characters.
    pub name: String,
    /// In bytes, a multiple of 1 MiB.
    pub size: u64,
    /// Made with an empty ext4 on it.
    pub filesystem: bool,
    /// It belongs to all projects of this user that declare it so, by its name.
    pub shared: bool,
}
