//! What the process may still open: nothing, or what lies below the folders that it names.

use landlock::{
    ABI, Access, AccessFs, AccessNet, CompatLevel, Compatible, LandlockStatus, PathBeneath, PathFd, Ruleset,
    RulesetAttr, RulesetCreatedAttr, RulesetError, RulesetStatus, Scope,
};

use super::{Error, Policy, Role};

/// What is asked for: the newest that the crate knows; older kernels give what they have.
const WANTED: ABI = ABI::V7;

/// What the kernel gives.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Landlock {
    /// Files, TCP, signals and abstract sockets are closed.
    Full {
        /// Version of the kernel's interface.
        abi: i32,
    },
    /// Files are closed; of the rest what this version has: renames (2), truncation (3), TCP (4),
    /// device controls (5), signals and abstract sockets (6).
    Partial {
        /// Version of the kernel's interface.
        abi: i32,
    },
    /// The kernel was built without it.
    NotBuilt,
    /// The kernel has it, and it is switched off.
    Off,
}

/// Closes the file system to the calling thread and those that it starts, but for the folders that
/// `policy` leaves open, and TCP; also signals to, and abstract sockets of, processes outside. This
/// is the part of [`enter`](super::enter) that can be had alone.
///
/// # Errors
/// [`Error::Folder`], [`Error::Landlock`].
pub fn close_files(policy: &Policy) -> Result<Landlock, Error> {
    let files = AccessFs::from_all(WANTED);
    let scope = match policy.role {
        Role::Hypervisor | Role::SharingHypervisor | Role::Switch | Role::Share => Scope::from_all(WANTED),
        // The kernel asks whether we may signal our child, too, when it dies with us.
        Role::Supervisor => Scope::AbstractUnixSocket.into(),
    };
    let ruleset = || -> Result<_, RulesetError> {
        Ruleset::default()
            .set_compatibility(CompatLevel::BestEffort)
            .handle_access(files)?
            .handle_access(AccessNet::from_all(WANTED))?
            .scope(scope)?
            .create()
    };
    let mut ruleset = ruleset().map_err(Error::Landlock)?;
    // Everything but running programs and making device files.
    let change = files & !(AccessFs::Execute | AccessFs::MakeBlock | AccessFs::MakeChar);
    let read = AccessFs::ReadFile | AccessFs::ReadDir;
    let writable = policy.writable.iter().map(|path| (path, change));
    for (path, access) in writable.chain(policy.readable.iter().map(|path| (path, read))) {
        let failed = |source| Error::Folder { path: path.clone(), source };
        let folder = PathFd::new(path).map_err(|e| failed(std::io::Error::other(e)))?;
        ruleset = ruleset.add_rule(PathBeneath::new(folder, access)).map_err(Error::Landlock)?;
    }
    let status = ruleset.restrict_self().map_err(Error::Landlock)?;
    Ok(match (status.landlock, status.ruleset) {
        (LandlockStatus::NotImplemented, _) => Landlock::NotBuilt,
        (LandlockStatus::NotEnabled, _) | (_, RulesetStatus::NotEnforced) => Landlock::Off,
        (LandlockStatus::Available { effective_abi, kernel_abi }, enforced) => {
            let abi = kernel_abi.unwrap_or(effective_abi as i32);
            match enforced {
                RulesetStatus::FullyEnforced => Landlock::Full { abi },
                _ => Landlock::Partial { abi },
            }
        }
    })
}
