//! Lifecycle of machines: what `up`, `halt`, `destroy` and their siblings do, step by step.
//!
//! INTERFACE (the bodies are being written; signatures hold).

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

pub use crate::model::ProvisionChoice;
use crate::model::{Cancel, Forward, Machine, Project, ProviderKind, Reporter};
use crate::state::Layout;

/// State of a machine, asked of the live process, with Vagrant's words.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum State {
    /// Declared, nothing exists yet.
    NotCreated,
    /// An `up` was cut off before the machine was ever started.
    Preparing,
    /// Its process answers.
    Running,
    /// Switched off in an orderly way (Vagrant: `poweroff`).
    Poweroff,
    /// Its process ended without being asked to (kill -9, host reboot, crash).
    Aborted,
}

/// One machine as it is now.
#[derive(Debug, Clone)]
pub struct Status {
    /// 32 hex digits; `None` when not created.
    pub id: Option<String>,
    /// Its name in the project.
    pub name: String,
    /// What runs it; `None` when not created.
    pub provider: Option<ProviderKind>,
    /// Now.
    pub state: State,
    /// Folder of its project.
    pub project: PathBuf,
    /// Box it was made from.
    pub box_name: String,
    /// Process of the virtual machine, when running.
    pub pid: Option<u32>,
    /// Ports as they are, after `auto_correct`, without the SSH one.
    pub ports: Vec<Forward>,
    /// Where SSH answers on the host, once it was started.
    pub ssh: Option<SocketAddr>,
    /// Seconds since the virtual machine was started, when running.
    pub uptime: Option<u64>,
}

/// What `ssh`, `ssh-config` need. All paths absolute.
#[derive(Debug, Clone)]
pub struct SshInfo {
    /// Machine name.
    pub name: String,
    /// Address on the host.
    pub host: IpAddr,
    /// Port on the host.
    pub port: u16,
    /// Login user.
    pub user: String,
    /// Private key file.
    pub identity: Option<PathBuf>,
    /// known_hosts file with the pinned host key.
    pub known_hosts: PathBuf,
}

/// Flags of `up` and `reload`.
#[derive(Debug, Clone, Default)]
pub struct UpOptions {
    /// `--provider`.
    pub provider: Option<ProviderKind>,
    /// Which steps.
    pub provision: ProvisionChoice,
}

/// What `up` did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UpOutcome {
    /// It was running already.
    pub was_running: bool,
    /// Names of the steps that ran.
    pub ran: Vec<String>,
    /// Names of the steps that had succeeded before.
    pub skipped: Vec<String>,
}

/// The store with what its operations need: the room's front door.
pub struct Machines<'a> {
    /// Where things are kept.
    pub layout: Layout,
    /// Takes events.
    pub report: &'a dyn Reporter,
    /// Ends waits.
    pub cancel: Cancel,
    /// The rvm binary, to start a virtual machine's process from.
    pub exe: PathBuf,
}

/// Why an operation failed. `Display` is one sentence; `source()` the cause.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct MachineError(String);

impl MachineError {
    /// What to do next, where there is something to do.
    pub fn hint(&self) -> Option<String> {
        None
    }
    /// Ctrl-C: exit code 130.
    pub fn is_interrupt(&self) -> bool {
        false
    }
}

#[allow(clippy::todo, missing_docs, unused_variables)]
impl Machines<'_> {
    /// Creates what is missing, starts it, waits for SSH, runs the steps.
    pub fn up(
        &self,
        project: &Project,
        machine: &Machine,
        options: &UpOptions,
    ) -> Result<UpOutcome, MachineError> {
        todo!()
    }
    /// Stops and starts again with the file as it is now.
    pub fn reload(
        &self,
        project: &Project,
        machine: &Machine,
        force: bool,
        options: &UpOptions,
    ) -> Result<UpOutcome, MachineError> {
        todo!()
    }
    /// Runs steps on a running machine.
    pub fn provision(
        &self,
        project: &Project,
        machine: &Machine,
        with: &ProvisionChoice,
    ) -> Result<UpOutcome, MachineError> {
        todo!()
    }
    /// Stops; `Ok(false)` when it was not running.
    pub fn halt(&self, id: &str, force: bool) -> Result<bool, MachineError> {
        todo!()
    }
    /// Stops hard and removes all its files.
    pub fn destroy(&self, id: &str) -> Result<(), MachineError> {
        todo!()
    }
    /// State of a declared machine.
    pub fn status(&self, project: &Project, name: &str) -> Result<Status, MachineError> {
        todo!()
    }
    /// State of a machine by full id.
    pub fn status_of(&self, id: &str) -> Result<Status, MachineError> {
        todo!()
    }
    /// All machines of this user, sorted by project and name.
    pub fn all(&self) -> Result<Vec<Status>, MachineError> {
        todo!()
    }
    /// Removes entries whose machine has no files worth keeping; returns them.
    pub fn prune(&self) -> Result<Vec<Status>, MachineError> {
        todo!()
    }
    /// Full id for an id prefix of at least 2 hex digits; `Ok(None)`: no such machine; ambiguous is an error.
    pub fn find(&self, prefix: &str) -> Result<Option<String>, MachineError> {
        todo!()
    }
    /// How to log in to a running machine. `Err` when not created or not running.
    pub fn ssh_info(&self, project: &Project, name: &str) -> Result<SshInfo, MachineError> {
        todo!()
    }
    /// Runs one command over SSH without a terminal: output goes to `out` as it comes, the
    /// guest's exit code comes back.
    pub fn exec(
        &self,
        project: &Project,
        name: &str,
        command: &str,
        out: &mut dyn FnMut(crate::model::Stream, &[u8]),
    ) -> Result<i32, MachineError> {
        todo!()
    }
    /// The serial console log of a machine, oldest first.
    pub fn console_log(&self, id: &str) -> Result<Vec<u8>, MachineError> {
        todo!()
    }
}
