//! The way to a machine from other threads.

use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use vm_memory::GuestMemoryMmap;

use super::Spec;
use super::control::{State, Status, Target, Usage};
use super::ending::{End, Ending};
use super::machine::{Machine, MachinePm};
use super::memory;
use super::meters::Meters;
use super::slots::Slots;
use super::virtio::balloon;

/// How long a guest may take to say how much memory it has left.
const ANSWER: Duration = Duration::from_millis(200);

/// What of a machine is the same over all its resets.
pub(super) struct Core {
    started: Instant,
    cpus: u8,
    memory: u64,
    guest: GuestMemoryMmap,
    balloon: balloon::Control,
    meters: Meters,
    now: Mutex<Now>,
}

/// The present life of the machine.
struct Now {
    ending: Arc<Ending>,
    pm: Option<MachinePm>,
    state: State,
}

impl Core {
    pub(super) fn new(spec: &Spec, machine: &Machine, guest: &GuestMemoryMmap, slots: &Slots) -> Self {
        let now = Now { ending: machine.ending.clone(), pm: Some(machine.pm.clone()), state: State::Running };
        Self {
            started: Instant::now(),
            cpus: spec.cpus,
            memory: spec.memory,
            guest: guest.clone(),
            balloon: slots.balloon(),
            meters: slots.meters(),
            now: Mutex::new(now),
        }
    }

    fn now(&self) -> MutexGuard<'_, Now> {
        self.now.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The life that was is over and its devices go; a new one may begin.
    pub(super) fn between_lives(&self) {
        self.now().pm = None;
    }

    /// A new life began; one that was to be stopped ends at once.
    pub(super) fn restarted(&self, machine: &Machine) {
        let mut now = self.now();
        now.ending = machine.ending.clone();
        now.pm = Some(machine.pm.clone());
        if now.state == State::Stopping {
            now.ending.finish(Ok(End::Stop));
        }
    }

    /// There will be no other life.
    pub(super) fn ended(&self) {
        let mut now = self.now();
        now.pm = None;
        now.state = State::Ended;
    }
}

/// Reaches a machine; clones reach the same one.
#[derive(Clone)]
pub struct Handle {
    core: Arc<Core>,
}

impl Handle {
    pub(super) fn new(core: Arc<Core>) -> Self {
        Self { core }
    }

    /// What the machine is and does.
    pub fn status(&self) -> Status {
        let core = &self.core;
        Status {
            state: core.now().state,
            pid: std::process::id(),
            uptime_ms: u64::try_from(core.started.elapsed().as_millis()).unwrap_or(u64::MAX),
            cpus: core.cpus,
            memory: core.memory,
        }
    }

    /// What the guest's memory costs the host, and what the guest says about it. A guest that tells
    /// gets 200 ms to answer.
    ///
    /// # Errors
    /// When the host does not say what is resident.
    pub fn usage(&self) -> io::Result<Usage> {
        let core = &self.core;
        let balloon = core.balloon.usage(ANSWER);
        Ok(Usage {
            memory: core.memory,
            resident: Some(memory::resident(&core.guest)?),
            balloon_target: Some(balloon.target),
            balloon: Some(balloon.actual),
            guest: balloon.stats,
            traffic: Some(core.meters.traffic()),
        })
    }

    /// Asks the guest to give `bytes` of its memory back, in all; 0 lets it have everything. The
    /// guest does it as it can, in its own time, and keeps what it cannot do without.
    ///
    /// # Errors
    /// `InvalidInput` when the guest has less than that.
    pub fn set_balloon(&self, bytes: u64) -> io::Result<()> {
        if bytes > self.core.memory {
            let text = format!("the guest has {} bytes of memory, not {bytes}", self.core.memory);
            return Err(io::Error::new(io::ErrorKind::InvalidInput, text));
        }
        self.core.balloon.set_target(bytes);
        Ok(())
    }

    /// Presses the power button; a guest that listens shuts down.
    ///
    /// # Errors
    /// `NotConnected` when the machine has ended or is just being reset.
    pub fn power_button(&self) -> io::Result<()> {
        // The lock is held so that no reset can take the device's VM away meanwhile.
        let now = self.core.now();
        let pm = now.pm.as_ref().ok_or_else(gone)?;
        pm.lock().unwrap_or_else(PoisonError::into_inner).press_power_button();
        Ok(())
    }

    /// Ends the machine at once, as if its power failed.
    ///
    /// # Errors
    /// `NotConnected` when the machine has ended.
    pub fn stop(&self) -> io::Result<()> {
        let mut now = self.core.now();
        if now.state == State::Ended {
            return Err(gone());
        }
        now.state = State::Stopping;
        now.ending.finish(Ok(End::Stop));
        Ok(())
    }
}

fn gone() -> io::Error {
    io::Error::new(io::ErrorKind::NotConnected, "the machine has ended")
}

impl Target for Handle {
    fn status(&self) -> Status {
        Self::status(self)
    }

    fn power_button(&self) -> io::Result<()> {
        Self::power_button(self)
    }

    fn stop(&self) -> io::Result<()> {
        Self::stop(self)
    }

    fn usage(&self) -> io::Result<Usage> {
        Self::usage(self)
    }

    fn set_balloon(&self, bytes: u64) -> io::Result<()> {
        Self::set_balloon(self, bytes)
    }
}
