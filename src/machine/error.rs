//! Why an operation on a machine failed.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use thiserror::Error;

use super::BootCause;
use super::folders::FolderError;
use super::volumes::VolumeError;
use crate::image::ImageError;
use crate::model::Code;
use crate::net::{NetError, NetworkError, PortError};
use crate::provider::ProviderError;
use crate::provision::ProvisionError;
use crate::ssh::SshError;
use crate::state::{LockError, store};

/// `Display` is one sentence; `source()` the cause.
#[derive(Debug, Error)]
pub enum MachineError {
    /// A file cannot be read or written.
    #[error("cannot {action} {path}")]
    File {
        /// Verb.
        action: &'static str,
        /// Which.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// No random numbers.
    #[error("the host gives no random numbers")]
    Random(#[source] io::Error),
    /// A record of another version.
    #[error("{path} was written by another version of rvm (format {version})")]
    Version {
        /// The record.
        path: PathBuf,
        /// Its format.
        version: u32,
    },
    /// Several machines fit.
    #[error("`{prefix}` fits several machines: {ids}", ids = .ids.join(", "))]
    Ambiguous {
        /// What was given.
        prefix: String,
        /// What fits.
        ids: Vec<String>,
    },
    /// It was never made.
    #[error("machine `{0}` is not created")]
    NotCreated(String),
    /// It must run for this.
    #[error("machine `{0}` is not running")]
    NotRunning(String),
    /// It ended while a command ran in it.
    #[error("machine `{name}` ended while the command ran in it{}", if cause.is_empty() { String::new() } else { format!(": {cause}") })]
    Ended {
        /// Which.
        name: String,
        /// Why, where that is known; may be empty.
        cause: String,
    },
    /// A file or folder was not copied.
    #[error("cannot copy {what}: {why}")]
    Copy {
        /// The path on the side that refused.
        what: String,
        /// Why.
        why: String,
        /// What to do.
        hint: Option<String>,
    },
    /// The agent of its box cannot do what the file asks for.
    #[error(
        "`nat` of machine `{0}` cannot be \"none\": its disk was made from a box whose agent does not lead to its SSH server"
    )]
    OldAgent(String),
    /// Ctrl-C.
    #[error("interrupted; {0}")]
    Interrupted(String),
    /// Another rvm works on it for longer than was to be waited.
    #[error("machine `{name}` is in use")]
    Busy {
        /// Which.
        name: String,
        /// By whom.
        #[source]
        source: LockError,
    },
    /// Waiting for another rvm.
    #[error(transparent)]
    Lock(LockError),
    /// Box, kernel, disk or seed.
    #[error(transparent)]
    Image(ImageError),
    /// A host port.
    #[error(transparent)]
    Port(PortError),
    /// The network.
    #[error(transparent)]
    Net(NetError),
    /// A private network.
    #[error(transparent)]
    Network(NetworkError),
    /// Two networks of a machine have addresses in common.
    #[error("machine `{machine}` is in network `{other}`, whose addresses overlap {subnet}")]
    Overlap {
        /// The machine.
        machine: String,
        /// One of the networks.
        other: String,
        /// Subnet of the other one.
        subnet: ipnet::IpNet,
    },
    /// A card in a network of the host's.
    #[error(transparent)]
    Bridge(#[from] super::BridgeError),
    /// A port could not be forwarded to a running machine.
    #[error("cannot forward another port to machine `{name}`: {text}")]
    Forward {
        /// Which.
        name: String,
        /// What ssh said.
        text: String,
    },
    /// The provider.
    #[error(transparent)]
    Provider(ProviderError),
    /// The machine started and did not become reachable.
    #[error("machine `{name}` did not come up: {what}{console}")]
    Boot {
        /// Which.
        name: String,
        /// The stage reached and what failed there.
        what: String,
        /// The likely cause, its evidence and the last console lines, each behind a newline.
        console: String,
        /// The likely cause.
        cause: BootCause,
        /// What to do.
        hint: String,
    },
    /// It runs, and what its `ready` asks for did not come true.
    #[error("machine `{name}` runs but is not ready: {probe} did not come true within {seconds} s: {last}", seconds = .timeout.as_secs())]
    NotReady {
        /// Which.
        name: String,
        /// Which probe, in words.
        probe: String,
        /// How long it was tried.
        timeout: Duration,
        /// What the last try gave; may hold lines of output, each on a line of its own.
        last: String,
    },
    /// A folder.
    #[error(transparent)]
    Folder(FolderError),
    /// A volume.
    #[error(transparent)]
    Volume(VolumeError),
    /// SSH.
    #[error(transparent)]
    Ssh(SshError),
    /// A provision step.
    #[error(transparent)]
    Provision(ProvisionError),
}

impl MachineError {
    pub(super) fn file(action: &'static str, path: &Path, source: io::Error) -> Self {
        MachineError::File { action, path: path.into(), source }
    }

    /// Its stable code (`docs/errors.md`).
    pub fn code(&self) -> Code {
        match self {
            MachineError::File { .. } => Code::MachineFile,
            MachineError::Random(_) => Code::NoRandom,
            MachineError::Version { .. } => Code::RecordVersion,
            MachineError::Ambiguous { .. } => Code::AmbiguousId,
            MachineError::NotCreated(_) => Code::NotCreated,
            MachineError::NotRunning(_) => Code::NotRunning,
            MachineError::OldAgent(_) => Code::OldAgent,
            MachineError::Busy { .. } => Code::MachineBusy,
            MachineError::NotReady { .. } => Code::NotReady,
            MachineError::Forward { .. } => Code::NotForwarded,
            MachineError::Overlap { .. } => Code::SubnetsOverlap,
            MachineError::Bridge(e) => e.code(),
            MachineError::Ended { .. } => Code::MachineEnded,
            MachineError::Copy { .. } => Code::CopyFailed,
            MachineError::Interrupted(_) => Code::Interrupted,
            MachineError::Lock(e) => e.code(),
            MachineError::Image(e) => e.code(),
            MachineError::Port(e) => e.code(),
            MachineError::Net(e) => e.code(),
            MachineError::Network(e) => e.code(),
            MachineError::Provider(e) => e.code(),
            MachineError::Boot { cause, .. } => cause.code(),
            MachineError::Folder(e) => e.code(),
            MachineError::Volume(e) => e.code(),
            MachineError::Ssh(e) => e.code(),
            MachineError::Provision(e) => e.code(),
        }
    }

    pub(super) fn copy(what: &str, why: String) -> Self {
        MachineError::Copy { what: what.into(), why, hint: None }
    }

    /// What to do next, where there is something to do.
    pub fn hint(&self) -> Option<String> {
        match self {
            MachineError::File { source, .. } => store::remedy(source),
            MachineError::Lock(e) => e.hint(),
            MachineError::Version { .. } => {
                Some("use that version, or `rvm destroy` the machine with it".into())
            }
            MachineError::Ambiguous { .. } => Some("give more digits".into()),
            MachineError::Busy { .. } => {
                Some("without --lock-timeout, or with a longer one, rvm waits for it".into())
            }
            MachineError::NotReady { name, .. } => Some(format!(
                "`rvm ssh {name}` looks into it, `rvm up {name}` tries again; `timeout` gives the probe longer"
            )),
            MachineError::NotCreated(_) | MachineError::NotRunning(_) => Some("`rvm up` brings it up".into()),
            MachineError::Ended { name, .. } => Some(format!(
                "`rvm logs {name}` shows what its console said last, `rvm up {name}` starts it again"
            )),
            MachineError::OldAgent(name) => Some(format!(
                "`rvm destroy {name}` and `rvm up {name}` make it anew from a box of this rvm; `nat = \"closed\"` works with any"
            )),
            MachineError::Copy { hint, .. } => hint.clone(),
            MachineError::Image(e) => e.hint(),
            MachineError::Port(e) => e.hint(),
            MachineError::Net(e) => e.hint(),
            MachineError::Network(e) => e.hint(),
            MachineError::Overlap { .. } => Some("give one of the two another `subnet`".into()),
            MachineError::Bridge(e) => Some(e.hint()),
            MachineError::Forward { name, .. } => Some(format!(
                "does `rvm ssh {name}` work? A port of the Vagrantfile needs no SSH: `rvm reload` applies it"
            )),
            MachineError::Provider(e) => e.hint(),
            MachineError::Boot { hint, .. } => Some(hint.clone()),
            MachineError::Folder(e) => e.hint(),
            MachineError::Volume(e) => e.hint(),
            MachineError::Ssh(e) => e.hint(),
            MachineError::Provision(e) => e.hint(),
            _ => None,
        }
    }

    /// Ctrl-C: exit code 130.
    pub fn is_interrupt(&self) -> bool {
        match self {
            MachineError::Interrupted(_) | MachineError::Lock(LockError::Cancelled { .. }) => true,
            MachineError::Network(NetworkError::Lock(LockError::Cancelled { .. })) => true,
            MachineError::Image(ImageError::Cancelled { .. }) => true,
            MachineError::Ssh(e) => e.is_interrupt(),
            MachineError::Provision(e) => e.is_interrupt(),
            _ => false,
        }
    }
}

macro_rules! from {
    ($($variant:ident($error:ty)),*) => {$(
        impl From<$error> for MachineError {
            fn from(error: $error) -> Self {
                MachineError::$variant(error)
            }
        }
    )*};
}

from!(
    Lock(LockError),
    Image(ImageError),
    Port(PortError),
    Net(NetError),
    Network(NetworkError),
    Provider(ProviderError),
    Folder(FolderError),
    Volume(VolumeError),
    Ssh(SshError),
    Provision(ProvisionError)
);
