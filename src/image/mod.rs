//! Boxes, their kernels, machine disks and seed disks.
//!
//! A box is built once, from the packages of the distribution's own mirror, into a folder of
//! the store that is named by the digest of its recipe. Nothing half-built ever counts: a
//! build happens in a folder beside, and is renamed when it is whole. `docs/box.md` has the
//! contract between a box and the rest.

mod build;
mod cpio;
mod disk;
mod error;
mod fast;
mod initrd;
mod iso;
pub mod kernel;
mod locked;
mod mirror;
mod modules;
mod overlay;
mod password;
mod qcow2;
mod recipe;
mod record;
mod rootless;
mod seed;
mod store;
mod tool;
mod unpack;

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::model::LockedBox;

pub use disk::{check_image, create_disk, grow_disk};
pub use error::ImageError;
pub use overlay::{check_overlay, create_overlay};
pub use password::hash_password;
pub use recipe::known_boxes;
pub use seed::{HostKey, Seed, SeedDisk, SeedNetwork, write_seed};
pub use store::Store;

/// What the store is told about its surroundings.
#[derive(Debug, Clone, Default)]
pub struct Settings {
    /// Package mirror (`RVM_MIRROR`), such as `http://deb.debian.org/debian`. `None`: the one
    /// that the host's own apt uses where the host is a Debian, else the public one.
    pub mirror: Option<String>,
    /// Archive of the distribution's snapshots (`RVM_SNAPSHOTS`), for boxes that are locked to packages
    /// which the mirror does not have any more. `None`: the public one.
    pub snapshots: Option<String>,
    /// Folder for large temporary files of a box build, absolute; every user id must be able to
    /// pass through it. `None`: `/var/tmp`.
    pub scratch: Option<PathBuf>,
}

/// A box in the store, whole and ready to start machines from.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct BoxImage {
    /// Such as `debian/13`.
    pub name: String,
    /// SHA-256 (hex) of the recipe and of the names and versions of all packages in it: equal
    /// on two hosts that built the same thing.
    pub digest: String,
    /// Its folder, absolute.
    pub dir: PathBuf,
    /// The root file system: a raw ext4 image of the whole disk, sparse, mode 0444.
    pub root_disk: PathBuf,
    /// Size of `root_disk` in bytes: the smallest disk that a machine can have.
    pub size: u64,
    /// Size in bytes of the disk of a machine that does not say.
    pub default_disk: u64,
    /// When it was built, in seconds since 1970 (UTC).
    pub created: u64,
    /// Digest of the recipe that it was made with.
    #[serde(default)]
    pub recipe: String,
    /// Release of the distribution.
    #[serde(default)]
    pub suite: String,
    /// The state of the distribution that its packages are of, in seconds since 1970 (UTC).
    #[serde(default)]
    pub snapshot: u64,
    /// Release of the distribution's kernel, such as `6.12.48+deb13-cloud-amd64`.
    pub kernel_version: String,
    /// Who logs in where the project does not say.
    pub default_user: String,
    /// Its guests tell the host when they are up (`docs/box.md`); the record of a machine that was
    /// made from an older box does not say.
    #[serde(default)]
    pub agent: bool,
    /// Their agent leads to their SSH server over a virtio socket, too, where it is asked to.
    #[serde(default)]
    pub agent_ssh: bool,
    /// The mirror it came from.
    pub mirror: String,
    /// Names and versions of its packages, sorted by name.
    pub packages: Vec<(String, String)>,
}

impl BoxImage {
    /// What pins it. Its list of packages must be known.
    pub fn lock(&self) -> LockedBox {
        LockedBox {
            name: self.name.clone(),
            digest: self.digest.clone(),
            recipe: self.recipe.clone(),
            suite: self.suite.clone(),
            snapshot: self.snapshot,
            kernel: self.kernel_version.clone(),
            packages: self.packages.clone(),
        }
    }
}

/// What boots a machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Kernel {
    /// An uncompressed ELF.
    pub vmlinux: PathBuf,
    /// First-stage file system, where the kernel needs one.
    pub initrd: Option<PathBuf>,
    /// Its release.
    pub version: String,
    /// What the kernel command line must hold for the root disk of a box, such as
    /// `root=LABEL=rvm-root rw`.
    pub cmdline: String,
}
