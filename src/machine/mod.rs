//! Lifecycle of machines: what `up`, `halt`, `destroy` and their siblings do, step by step.
//!
//! Each change holds the machine's own lock and records a step only when it is done, so that
//! a kill at any point leaves something the next command finishes, remakes or removes.

mod after;
mod boot;
mod bridges;
mod console;
pub mod copy;
mod datagrams;
mod diagnose;
mod disks;
mod error;
mod exec;
pub mod folders;
pub mod follow;
pub mod forwards;
mod guard;
mod hooks;
mod inventory;
mod keepers;
mod listeners;
mod live;
mod locks;
mod nat;
mod networks;
mod preview;
mod query;
mod ready;
mod record;
mod sample;
pub mod schedule;
mod stop;
#[cfg(test)]
mod tests;
mod timing;
mod up;
mod volumes;
mod way_in;
pub mod way_out;

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::image::Store;
use crate::model::{Cancel, Event, Forward, Locks, Phase, ProviderKind, Reporter, SshClient, Stopwatch, hex};
use crate::plan::Change;
use crate::state::{Layout, Lock, LockError};

pub use crate::model::ProvisionChoice;
pub use after::{AfterOutcome, AfterPreview};
pub use bridges::BridgeError;
pub use diagnose::BootCause;
pub use error::MachineError;
pub use networks::Place;
pub use preview::{Preview, Start, StepPreview, Undeclared};
pub use sample::Sample;
pub use volumes::{VolumeError, VolumeStatus, VolumeUser};

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

impl State {
    /// The word of `--json` and `--machine-readable`, which is Vagrant's.
    pub fn as_str(self) -> &'static str {
        match self {
            State::NotCreated => "not_created",
            State::Preparing => "preparing",
            State::Running => "running",
            State::Poweroff => "poweroff",
            State::Aborted => "aborted",
        }
    }
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
    pub ports: Vec<OpenPort>,
    /// Places in private networks.
    pub places: Vec<Place>,
    /// Where SSH answers on the host, once it was started.
    pub ssh: Option<SocketAddr>,
    /// Seconds since the virtual machine was started, when running.
    pub uptime: Option<u64>,
    /// Why its process ended, where that is known of an aborted one; what is wrong with one that runs.
    pub cause: Option<String>,
    /// What mends it, of one that runs: a sentence.
    pub remedy: Option<String>,
}

/// A port of the host that leads into a machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OpenPort {
    /// Which.
    pub forward: Forward,
    /// Why it does.
    pub origin: PortOrigin,
}

/// Why a port of the host leads into a machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PortOrigin {
    /// Each machine has one for SSH.
    Ssh,
    /// The file says so.
    File,
    /// In place of the one that the file names, which was taken.
    Corrected,
    /// `rvm port add`.
    Added,
    /// A program of the guest listens, and the file says `auto_forward`.
    Followed,
}

impl PortOrigin {
    /// The word of `--json`.
    pub fn as_str(self) -> &'static str {
        match self {
            PortOrigin::Ssh => "ssh",
            PortOrigin::File => "file",
            PortOrigin::Corrected => "corrected",
            PortOrigin::Added => "added",
            PortOrigin::Followed => "followed",
        }
    }
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
    /// What the client is told beside.
    pub client: SshClient,
}

/// Flags of `up` and `reload`.
#[derive(Debug, Clone, Default)]
pub struct UpOptions {
    /// `--provider`.
    pub provider: Option<ProviderKind>,
    /// Which steps.
    pub provision: ProvisionChoice,
    /// Ask a guest that was started how long its kernel took: one more command over SSH.
    pub timings: bool,
    /// The words for the ssh client that lead to a machine: ports are opened with them while it runs.
    pub ssh_words: Option<fn(&SshInfo) -> Vec<String>>,
}

/// What `up` did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UpOutcome {
    /// It was running already.
    pub was_running: bool,
    /// What the file says and was not applied.
    pub pending: Vec<Change>,
    /// Names of the steps that ran.
    pub ran: Vec<String>,
    /// Names of the steps that had succeeded before.
    pub skipped: Vec<String>,
}

/// The store with what its operations need: the room's front door.
pub struct Machines<'a> {
    /// Where things are kept.
    pub layout: Layout,
    /// Boxes and kernels.
    pub images: Store,
    /// Takes events.
    pub report: &'a dyn Reporter,
    /// Ends waits.
    pub cancel: Cancel,
    /// The rvm binary, to start a virtual machine's process from.
    pub exe: PathBuf,
    /// The value of `PATH`: where QEMU is looked for, and what a machine's process gets.
    pub path: String,
    /// What projects pin, by their folders; of those that are not here nothing is pinned.
    pub locks: BTreeMap<PathBuf, Locks>,
    /// `packages` steps may install nothing that is not pinned.
    pub locked: bool,
    /// What runs machines for which neither a command nor the file says what; `None`: what suits the host.
    pub default_provider: Option<ProviderKind>,
    /// How long to wait for another command that works on a machine; `None`: until it ends.
    pub lock_timeout: Option<Duration>,
    /// Where projects keep their pointers; `None`: `.rvm` in the project's folder.
    pub dot_dir: Option<PathBuf>,
}

impl Machines<'_> {
    /// Lock file of a machine, by what stays the same before and after it exists.
    fn lock_path(&self, project: &Path, name: &str) -> PathBuf {
        let digest =
            Sha256::digest([project.as_os_str().as_encoded_bytes(), b"\0", name.as_bytes()].concat());
        self.layout.lock_file(&format!("machine-{}", hex(&digest[..16])))
    }

    /// Takes a machine for one command; says for whom it waits when it has to.
    fn lock(&self, project: &Path, name: &str, verb: &str) -> Result<Lock, MachineError> {
        let _watch = self.time(name, Phase::Wait);
        let waiting = |holder: &str| self.stage(name, format!("Waiting for `{holder}` to finish."));
        let (path, owner) = (self.lock_path(project, name), format!("rvm {verb} {name}"));
        Lock::acquire_within(self.lock_timeout, &path, &owner, &self.cancel, waiting).map_err(|error| {
            match error {
                LockError::TimedOut { .. } => MachineError::Busy { name: name.into(), source: error },
                other => other.into(),
            }
        })
    }

    fn check_cancel(&self, name: &str) -> Result<(), MachineError> {
        match self.cancel.is_cancelled() {
            true => Err(MachineError::Interrupted(format!("`rvm up {name}` goes on where this ended"))),
            false => Ok(()),
        }
    }

    /// Times a phase of the work on a machine, up to where the result is dropped.
    fn time<'a>(&'a self, name: &'a str, phase: Phase) -> Stopwatch<'a> {
        Stopwatch::start(self.report, name, phase)
    }

    fn stage(&self, name: &str, text: String) {
        self.report.event(Event::Stage { machine: Some(name.into()), text });
    }

    fn detail(&self, name: &str, text: String) {
        self.report.event(Event::Detail { machine: Some(name.into()), text });
    }

    /// Takes the events of those who know no machines: they are about this one.
    fn for_machine<'a>(&'a self, name: &'a str) -> ForMachine<'a> {
        ForMachine { name, next: self.report }
    }

    fn warn(&self, name: &str, text: String) {
        self.report.event(Event::Warning { machine: Some(name.into()), text });
    }
}

struct ForMachine<'a> {
    name: &'a str,
    next: &'a dyn Reporter,
}

impl Reporter for ForMachine<'_> {
    fn event(&self, mut event: Event) {
        if let Event::Stage { machine, .. } | Event::Detail { machine, .. } | Event::Warning { machine, .. } =
            &mut event
        {
            machine.get_or_insert_with(|| self.name.to_owned());
        }
        self.next.event(event);
    }
}
