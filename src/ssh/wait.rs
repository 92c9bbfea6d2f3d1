//! Waiting for a guest that boots.

use std::cell::{Cell, RefCell};
use std::time::{Duration, Instant};

use thiserror::Error;

use super::limits::Limits;
use super::session::{Patience, Session};
use super::{SshError, Target};
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

impl WaitError {
    /// What to do next, where there is something to do.
    pub fn hint(&self) -> Option<String> {
        match self {
            WaitError::Ssh(error) => error.hint(),
            WaitError::TimedOut { .. } | WaitError::VmEnded { .. } => None,
        }
    }

    /// Whether it ended by Ctrl-C.
    pub fn is_interrupt(&self) -> bool {
        matches!(self, WaitError::Ssh(error) if error.is_interrupt())
    }
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

/// Shortest and longest pause between two tries.
const PAUSE: (Duration, Duration) = (Duration::from_millis(50), Duration::from_millis(250));

/// Shortest and longest wait for a server's first words. A user-mode network accepts before the
/// guest listens, and such a connection may never come alive: the first tries are short. A
/// guest that is emulated on a busy host may need long: the later ones are not.
const BANNER: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(15));

/// From the server's first words to the end of the login.
const LOGIN: Duration = Duration::from_secs(60);

/// A first boot may still be installing the key or the password when the server already speaks:
/// refused logins are repeated for the first of these; on a slow guest for half the time that it
/// took to get there, up to the second.
const REFUSED: (Duration, Duration) = (Duration::from_secs(5), Duration::from_secs(30));

/// Pause after a refused login.
const REFUSED_PAUSE: Duration = Duration::from_millis(750);

/// Tries to log in until it works, `deadline` passes, `alive` says that the virtual machine's
/// process has ended, or trying is of no use. `on_stage` hears of each stage reached, once.
/// A login that is refused is repeated for a few seconds.
pub fn wait_ready(
    target: &Target,
    deadline: Instant,
    alive: &mut dyn FnMut() -> bool,
    on_stage: &mut dyn FnMut(BootStage),
    cancel: &Cancel,
) -> Result<Session, WaitError> {
    let alive = RefCell::new(alive);
    let ended = Cell::new(false);
    let stop = || {
        ended.set(ended.get() || !(alive.borrow_mut())());
        ended.get() || cancel.is_cancelled()
    };
    let limits = Limits { deadline: Some(deadline), stop: &stop };
    let mut tries = Tries::new();
    loop {
        let patience = Patience { banner: tries.banner, login: LOGIN };
        let result = Session::attempt(target, patience, limits, &mut |reached| {
            if reached > tries.stage {
                tries.stage = reached;
                on_stage(reached);
            }
        });
        let rest = match result {
            Ok(session) => return Ok(session),
            // Seen again, with its cause, below.
            Err(SshError::Cancelled) => Duration::ZERO,
            Err(error) => tries.failed(error, deadline)?,
        };
        if cancel.wait(rest.min(deadline.saturating_duration_since(Instant::now()))) {
            return Err(SshError::Cancelled.into());
        }
        if stop() {
            return Err(WaitError::VmEnded { stage: tries.stage });
        }
        if Instant::now() >= deadline {
            return Err(WaitError::TimedOut { stage: tries.stage, last: tries.last });
        }
    }
}

/// What the tries so far have shown.
struct Tries {
    begin: Instant,
    stage: BootStage,
    banner: Duration,
    pause: Duration,
    refused_since: Option<Instant>,
    last: Option<SshError>,
}

impl Tries {
    fn new() -> Self {
        Tries {
            begin: Instant::now(),
            stage: BootStage::NoConnection,
            banner: BANNER.0,
            pause: PAUSE.0,
            refused_since: None,
            last: None,
        }
    }

    /// Says how long to rest before the next try, or that none is of use.
    fn failed(&mut self, error: SshError, deadline: Instant) -> Result<Duration, WaitError> {
        let rest = match error {
            SshError::AuthFailed { .. } => {
                let since = *self.refused_since.get_or_insert_with(Instant::now);
                let enough = (since.duration_since(self.begin) / 2).clamp(REFUSED.0, REFUSED.1);
                if since.elapsed() >= enough {
                    return Err(error.into());
                }
                REFUSED_PAUSE
            }
            SshError::Connect { .. }
            | SshError::NoBanner { .. }
            | SshError::Handshake { .. }
            | SshError::TimedOut { .. }
            | SshError::Lost { .. }
            | SshError::Protocol { .. } => {
                if matches!(error, SshError::NoBanner { source: None, .. }) {
                    self.banner = (self.banner * 2).min(BANNER.1);
                }
                self.pause = (self.pause * 3 / 2).min(PAUSE.1);
                self.pause
            }
            _ => return Err(error.into()),
        };
        // What the deadline cut off says less than the failure before it.
        if Instant::now() < deadline || self.last.is_none() {
            self.last = Some(error);
        }
        Ok(rest)
    }
}
