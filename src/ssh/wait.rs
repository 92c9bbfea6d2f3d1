//! Waiting for a guest that boots.

use std::time::Instant;

use thiserror::Error;

use super::{Session, SshError, Target};
use crate::model::Cancel;

/// How far a boot has come, seen from outside.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum BootStage {
    /// Nothing accepts a connection.
    NoConnection,
    /// Something accepts connections, but no SSH server speaks. User-mode networks accept
    /// for the guest, so this does not prove that the guest is up.
    Connected,
    /// An SSH server spoke.
    Banner,
    /// It proved to be the guest we made.
    HostKey,
    /// Logged in.
    Ready,
}

/// Why a machine did not become ready.
#[derive(Debug, Error)]
pub enum WaitError {
    /// The time is up.
    #[error("the guest was not ready in time: {stage}")]
    TimedOut {
        /// The furthest stage that was reached.
        stage: BootStage,
        /// What the last try failed of.
        #[source]
        last: Option<SshError>,
    },
    /// The virtual machine's process ended.
    #[error("the virtual machine ended while it was booting: {stage}")]
    VmEnded {
        /// The furthest stage that was reached.
        stage: BootStage,
    },
    /// Trying again is of no use: wrong host key, refused login, unusable key file. Or Ctrl-C.
    #[error(transparent)]
    Ssh(#[from] SshError),
}

impl std::fmt::Display for BootStage {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            BootStage::NoConnection => "nothing accepts connections at its SSH address",
            BootStage::Connected => "its SSH port is forwarded, but no SSH server answered",
            BootStage::Banner => "its SSH server answered, but the handshake did not succeed",
            BootStage::HostKey => "its SSH server answered, but the login did not succeed",
            BootStage::Ready => "it is ready",
        })
    }
}

/// Tries to log in until it works, `deadline` passes, `alive` says that the virtual machine's
/// process has ended, or trying is of no use. `on_stage` hears of each stage reached, once.
#[allow(clippy::todo, unused_variables)]
pub fn wait_ready(
    target: &Target,
    deadline: Instant,
    alive: &mut dyn FnMut() -> bool,
    on_stage: &mut dyn FnMut(BootStage),
    cancel: &Cancel,
) -> Result<Session, WaitError> {
    todo!()
}
