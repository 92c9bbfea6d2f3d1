//! The walls around the process of a machine, for the day a guest breaks out of it.
//!
//! [`prepare`] is the first act of such a process. When every file and socket is open, [`enter`]
//! closes the file system and the network (Landlock), gives up all rights, and limits system calls
//! to what each kind of thread needs (seccomp). From then on [`spawn`] starts threads.
//! A forbidden system call ends the process with [`EXIT_STATUS`] and a line that
//! [`Violation::find`] finds.
//!
//! `docs/security.md` describes the walls and names the test for each.

mod landlock;
mod limits;
mod seccomp;
mod tables;
mod threads;
mod trap;

use std::io;
use std::path::PathBuf;

use super::Share;

pub use landlock::{Landlock, close_files};
pub use limits::{LOGS, MAX_FILES, prepare};
pub(super) use threads::is_inside;
pub use threads::spawn;
pub use trap::{EXIT_STATUS, Violation};

/// What the sandbox has to leave open.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Policy {
    /// What the calling thread does from now on.
    pub role: Role,
    /// Folders in which files may be made, changed and removed: those that a guest shares.
    pub writable: Vec<PathBuf>,
    /// Folders in which files may be read only.
    pub readable: Vec<PathBuf>,
    /// Bytes that a file may come to hold by what the process writes; the logs fit in any case. `None` sets
    /// no limit, and so do [`writable`](Self::writable) folders, whose files are the guest's own.
    pub largest_file: Option<u64>,
}

impl Policy {
    /// That of a process that serves these folders, and does what `role` says.
    pub fn serving(role: Role, shares: &[Share]) -> Self {
        let of = |read_only| {
            let those = shares.iter().filter(move |share| share.read_only == read_only);
            those.map(|share| share.source.clone()).collect()
        };
        Self { role, writable: of(false), readable: of(true), largest_file: None }
    }

    /// That of a hypervisor whose guest shares these folders: they stay open to it.
    pub fn hypervisor(shares: &[Share]) -> Self {
        let role = if shares.is_empty() { Role::Hypervisor } else { Role::SharingHypervisor };
        Self::serving(role, shares)
    }
}

/// What the thread that enters does from then on.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Role {
    /// [`Vmm::run`](super::Vmm::run).
    #[default]
    Hypervisor,
    /// The same for a guest with shared folders, in which one kind of thread opens files.
    SharingHypervisor,
    /// Waits for another program that runs the machine.
    Supervisor,
    /// Carries frames between machines.
    Switch,
    /// Serves folders to another program that runs the machine.
    Share,
}

impl Role {
    /// All that there are.
    #[cfg(test)]
    const ALL: [Self; 5] =
        [Self::Hypervisor, Self::SharingHypervisor, Self::Supervisor, Self::Switch, Self::Share];

    /// Its row in the tables.
    fn kind(self) -> &'static str {
        match self {
            Self::Hypervisor | Self::SharingHypervisor => "main",
            Self::Supervisor => "supervisor",
            Self::Switch => "switch",
            Self::Share => "share",
        }
    }
}

/// Which walls stand. Those that are not named stand always, or [`enter`] fails.
#[derive(Debug)]
pub struct Report {
    /// Files and network.
    pub landlock: Landlock,
    /// System calls: `None` is good, else why this kernel has no filters.
    pub no_seccomp: Option<io::Error>,
}

impl Report {
    /// What is missing, a sentence each.
    pub fn missing(&self) -> Vec<String> {
        let mut missing = Vec::new();
        match self.landlock {
            Landlock::Full { .. } => {}
            Landlock::Partial { abi } => missing
                .push(format!("Landlock closes files only in part: this kernel has version {abi} of it")),
            Landlock::NotBuilt => {
                missing.push("files stay open: this kernel is built without Landlock".into())
            }
            Landlock::Off => missing.push("files stay open: Landlock is switched off on this host".into()),
        }
        if let Some(error) = &self.no_seccomp {
            missing.push(format!("system calls stay open: this kernel refuses seccomp filters: {error}"));
        }
        missing
    }
}

/// Why a process cannot be confined.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A folder that is to stay open.
    #[error("cannot leave {path} open in the sandbox")]
    Folder {
        /// Which.
        path: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// Landlock is there and refuses.
    #[error("cannot close the file system for the sandbox")]
    Landlock(#[source] ::landlock::RulesetError),
    /// The tables are wrong.
    #[error("cannot compile the system call filters of the sandbox")]
    Filters(#[source] seccompiler::BackendError),
    /// A limit, a capability, a signal, a thread.
    #[error("cannot set up the sandbox: {what}")]
    System {
        /// Which part.
        what: &'static str,
        /// Why not.
        #[source]
        source: io::Error,
    },
}

/// Shuts the process in, for good. What is open stays usable. Threads that were started before keep
/// their files and capabilities; system calls are limited for them, too.
///
/// # Errors
/// When a wall does not come to stand though the host has it. A host that lacks Landlock or seccomp is
/// no error: the report says so.
pub fn enter(policy: &Policy) -> Result<Report, Error> {
    let failed = |what| move |source| Error::System { what, source };
    if threads::is_inside() {
        return Err(failed("it is there already")(io::ErrorKind::AlreadyExists.into()));
    }
    limits::restrict(policy).map_err(failed("resource limits"))?;
    let landlock = close_files(policy)?;
    limits::drop_capabilities().map_err(failed("capabilities"))?;
    trap::catch().map_err(failed("signal"))?;
    let no_seccomp = threads::enter(policy.role)?;
    Ok(Report { landlock, no_seccomp })
}
