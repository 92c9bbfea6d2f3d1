//! What can go wrong with boxes, kernels, disks and seeds.

use std::io;
use std::path::{Path, PathBuf};

use thiserror::Error;

use crate::model::Code;
use crate::state::LockError;

/// Why a box, a kernel, a disk or a seed was not had.
#[derive(Debug, Error)]
pub enum ImageError {
    /// No recipe of that name is built in.
    #[error("there is no box `{name}`")]
    UnknownBox {
        /// As it was asked for.
        name: String,
        /// Those there are.
        known: Vec<&'static str>,
    },
    /// The store has no box of that name.
    #[error("the store has no box `{name}`")]
    NotInStore {
        /// As it was asked for.
        name: String,
    },
    /// Someone else builds or removes the box right now.
    #[error("box `{name}` is in use by {holder}")]
    Busy {
        /// The box.
        name: String,
        /// Who has it.
        holder: String,
    },
    /// It was waited for a build that failed.
    #[error("box `{name}` could not be built for another machine: {why}")]
    FailedBefore {
        /// The box.
        name: String,
        /// Why it failed.
        why: String,
    },
    /// The package mirror that was asked for is not one. Its value is not shown: it may hold
    /// a password.
    #[error("the package mirror that is set is not a plain http:// or https:// address")]
    BadMirror,
    /// A box is locked to a recipe that this rvm does not have.
    #[error(
        "box `{name}` cannot be had as it is locked: this rvm builds it in another way ({digest} is not in the store)"
    )]
    OtherRecipe {
        /// The box.
        name: String,
        /// The beginning of its locked digest.
        digest: String,
    },
    /// A box is locked to packages that cannot be had any more.
    #[error(
        "box `{name}` cannot be built as it is locked: {mirror} does not have {missing} any more, and {snapshots} cannot be reached"
    )]
    PackagesGone {
        /// The box.
        name: String,
        /// Where its packages were looked for.
        mirror: String,
        /// And where after that.
        snapshots: String,
        /// Names and versions of the first of them.
        missing: String,
    },
    /// A box was built with its locked packages, and came out with others.
    #[error("box `{name}` cannot be built as it is locked: {differences}")]
    BuiltDifferently {
        /// The box.
        name: String,
        /// Names and versions of the first packages.
        differences: String,
    },
    /// A kernel is locked to another one than this rvm builds here.
    #[error("the kernel `fast` is locked to {locked}, and here it is {found}")]
    OtherKernel {
        /// As the lock file has it.
        locked: String,
        /// As it is in the store.
        found: String,
    },
    /// The folder of a box lacks a part, or a part does not parse.
    #[error("box `{name}` in {dir} is broken: {what}")]
    BrokenBox {
        /// Name of the box.
        name: String,
        /// Its folder.
        dir: PathBuf,
        /// What is missing or wrong.
        what: String,
    },
    /// Reading or writing failed.
    #[error("cannot {doing} {path}")]
    Io {
        /// The verb.
        doing: &'static str,
        /// On what.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A program that the build needs is not installed.
    #[error("cannot {doing}: `{tool}` is not installed")]
    MissingTool {
        /// What it was wanted for.
        doing: String,
        /// The program.
        tool: String,
        /// The Debian package that has it.
        package: &'static str,
    },
    /// The user has no subordinate ids, so that nothing can be built without root.
    #[error("cannot build a box as user `{user}`: no subordinate ids in {file}")]
    NoSubIds {
        /// The user.
        user: String,
        /// `/etc/subuid` or `/etc/subgid`.
        file: &'static str,
    },
    /// A program that the build ran has failed.
    #[error("cannot {doing}: {tool} ended with {status}\n{tail}")]
    Tool {
        /// What it was to do.
        doing: String,
        /// The program.
        tool: String,
        /// Its exit status, in words.
        status: String,
        /// The last lines that it printed.
        tail: String,
    },
    /// The user pressed Ctrl-C.
    #[error("interrupted while {doing}")]
    Cancelled {
        /// What was going on.
        doing: String,
    },
    /// The lock of a box or kernel was not had.
    #[error(transparent)]
    Lock(#[from] LockError),
    /// A file that should be a kernel is none that can be booted.
    #[error("{path} is not a kernel that can be booted: {what}")]
    NotAKernel {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        what: String,
    },
    /// A kernel package lacks a module that the first stage needs.
    #[error("kernel {version} has no module `{module}`, built in or not")]
    NoModule {
        /// Kernel version.
        version: String,
        /// The module.
        module: String,
    },
    /// The machine's disk would be smaller than the box.
    #[error("a disk of {size} bytes is smaller than the box `{name}`, which has {box_size} bytes")]
    DiskTooSmall {
        /// Name of the box.
        name: String,
        /// Asked for, in bytes.
        size: u64,
        /// Size of the box, in bytes.
        box_size: u64,
    },
    /// A disk image is damaged.
    #[error("disk {path} is damaged: {what}")]
    BadDisk {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        what: String,
    },
    /// An image of the user's is not what it is said to be.
    #[error("cannot use the disk image {path}: {what}")]
    BadImage {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        what: String,
    },
    /// A seed holds a value that no guest could use.
    #[error("cannot write the seed disk: {what}")]
    BadSeed {
        /// Which value, without its content where that is secret.
        what: String,
    },
}

impl ImageError {
    /// Shorthand for `map_err`.
    pub(super) fn io(doing: &'static str, path: impl AsRef<Path>) -> impl FnOnce(io::Error) -> ImageError {
        let path = path.as_ref().to_owned();
        move |source| ImageError::Io { doing, path, source }
    }

    /// Its stable code (`docs/errors.md`).
    pub fn code(&self) -> Code {
        match self {
            ImageError::UnknownBox { .. } => Code::UnknownBox,
            ImageError::NotInStore { .. } => Code::NotInStore,
            ImageError::Busy { .. } => Code::BoxBusy,
            ImageError::BadMirror => Code::BadMirror,
            ImageError::BrokenBox { .. } => Code::BrokenBox,
            ImageError::Io { .. } => Code::ImageFile,
            ImageError::MissingTool { .. } => Code::MissingTool,
            ImageError::NoSubIds { .. } => Code::NoSubIds,
            ImageError::Tool { .. } => Code::BuildFailed,
            ImageError::Cancelled { .. } => Code::Interrupted,
            ImageError::Lock(e) => e.code(),
            ImageError::NotAKernel { .. } => Code::NotAKernel,
            ImageError::NoModule { .. } => Code::NoModule,
            ImageError::DiskTooSmall { .. } => Code::DiskTooSmall,
            ImageError::BadDisk { .. } => Code::BadDisk,
            ImageError::BadImage { .. } => Code::BadImage,
            ImageError::BadSeed { .. } => Code::BadSeed,
            ImageError::FailedBefore { .. } => Code::BuildFailed,
            ImageError::OtherRecipe { .. } => Code::OtherRecipe,
            ImageError::PackagesGone { .. } => Code::PackagesGone,
            ImageError::BuiltDifferently { .. } => Code::BuiltDifferently,
            ImageError::OtherKernel { .. } => Code::OtherKernel,
        }
    }

    /// What the user can do about it.
    pub fn hint(&self) -> Option<String> {
        match self {
            ImageError::UnknownBox { known, .. } => {
                Some(format!("boxes that can be built: {}", known.join(", ")))
            }
            ImageError::BrokenBox { name, .. } => {
                Some(format!("`rvm box remove {name}` removes it; the next `rvm up` builds it anew"))
            }
            ImageError::OtherRecipe { name, .. } | ImageError::BuiltDifferently { name, .. } => {
                Some(format!(
                    "use the rvm that the lock file names, bring the box from another desk, or `rvm lock --update {name}`"
                ))
            }
            ImageError::PackagesGone { name, .. } => Some(format!(
                "`rvm lock --update {name}` locks what the mirror has now; RVM_SNAPSHOTS names another archive of snapshots"
            )),
            ImageError::OtherKernel { .. } => {
                Some("`rvm lock --update` locks the one that is built here".into())
            }
            ImageError::BadMirror => Some(
                "RVM_MIRROR takes an address such as http://deb.debian.org/debian, without user and password"
                    .into(),
            ),
            ImageError::MissingTool { package, .. } => {
                Some(format!("`sudo apt install {package}` installs it"))
            }
            ImageError::NoSubIds { user, .. } => Some(format!(
                "`sudo usermod --add-subuids 100000-165535 --add-subgids 100000-165535 {user}` gives it some"
            )),
            ImageError::Io { source, .. } if source.kind() == io::ErrorKind::StorageFull => {
                Some("free some space; what was half written is removed by itself".into())
            }
            ImageError::Tool { tail, .. } => tool_hint(tail),
            ImageError::DiskTooSmall { box_size, .. } => {
                Some(format!("give `disk` at least {} MiB, or leave it out", box_size.div_ceil(1 << 20)))
            }
            ImageError::BadImage { .. } => Some(
                "`format` says what an image is; `qemu-img convert` makes a copy that stands alone".into(),
            ),
            ImageError::BadDisk { .. } => Some("`rvm destroy` removes the machine and its disk".into()),
            _ => None,
        }
    }
}

/// Hints for what build tools commonly die of.
fn tool_hint(tail: &str) -> Option<String> {
    let has = |words: &[&str]| words.iter().any(|w| tail.contains(w));
    if has(&["No space left on device", "not enough free space"]) {
        Some("free some space and run the command again; nothing half-built is kept".into())
    } else if has(&[
        "Could not resolve",
        "Temporary failure resolving",
        "Could not connect",
        "Unable to connect",
    ]) {
        Some(
            "the package mirror cannot be reached; check the network, or set RVM_MIRROR to one that can"
                .into(),
        )
    } else if has(&["NO_PUBKEY", "is not signed"]) {
        Some("the archive's keys are missing or old: `sudo apt install debian-archive-keyring`".into())
    } else if has(&["newuidmap", "newgidmap"]) {
        Some("`sudo apt install uidmap`, and give your user ids in /etc/subuid and /etc/subgid".into())
    } else {
        None
    }
}
