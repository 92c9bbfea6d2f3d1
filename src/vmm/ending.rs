//! How the life of a machine ends: the first to say why wins.

use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use super::Error;
use super::notify::Notify;

/// Why a machine stopped running.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// Switched off by the guest.
    PowerOff,
    /// Reset by the guest.
    Reset,
    /// Told to.
    Stop,
}

/// Shared by whoever can end a machine and the thread that waits for it.
#[derive(Debug)]
pub struct Ending {
    reason: Mutex<Option<Result<End, Error>>>,
    event: Notify,
    stopping: Arc<AtomicBool>,
}

impl Ending {
    /// Nothing has ended yet.
    ///
    /// # Errors
    /// When the host has no event descriptor left.
    pub fn new() -> io::Result<Self> {
        Ok(Self {
            reason: Mutex::new(None),
            event: Notify::new()?,
            stopping: Arc::new(AtomicBool::new(false)),
        })
    }

    /// Says why; the first reason stays.
    pub fn finish(&self, reason: Result<End, Error>) {
        self.reason.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(reason);
        self.event.signal();
    }

    /// Takes the reason, once there is one.
    pub fn take(&self) -> Option<Result<End, Error>> {
        self.reason.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    /// Readable once there is a reason.
    pub fn event(&self) -> &Notify {
        &self.event
    }

    /// Set while the virtual CPUs are being stopped.
    pub fn stopping(&self) -> &Arc<AtomicBool> {
        &self.stopping
    }

    /// Whether the virtual CPUs have to leave the guest for good.
    pub fn is_stopping(&self) -> bool {
        self.stopping.load(Ordering::Acquire)
    }
}

/// How a device ends a machine that it cannot be reset for: in whichever of its lives. Clones are one.
#[derive(Debug, Clone, Default)]
pub struct Alarm {
    shared: Arc<Mutex<Alarmed>>,
}

#[derive(Debug, Default)]
struct Alarmed {
    raised: bool,
    /// The present life's.
    ending: Option<Arc<Ending>>,
}

impl Alarm {
    /// Ends the machine's present life with [`Error::Stray`], and has it no other one.
    pub fn raise(&self) {
        let mut alarmed = self.shared.lock().unwrap_or_else(PoisonError::into_inner);
        alarmed.raised = true;
        if let Some(ending) = &alarmed.ending {
            ending.finish(Err(Error::Stray));
        }
    }

    /// A new life, which ends by `ending`, is put together.
    pub fn begin(&self, ending: &Arc<Ending>) {
        self.shared.lock().unwrap_or_else(PoisonError::into_inner).ending = Some(ending.clone());
    }

    /// Whether there can be a new life.
    ///
    /// # Errors
    /// [`Error::Stray`].
    pub fn check(&self) -> Result<(), Error> {
        let raised = self.shared.lock().unwrap_or_else(PoisonError::into_inner).raised;
        if raised { Err(Error::Stray) } else { Ok(()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_reason_stays() {
        let ending = Ending::new().unwrap();
        assert!(ending.take().is_none());
        assert!(!ending.event().clear());
        ending.finish(Ok(End::PowerOff));
        ending.finish(Ok(End::Reset));
        assert!(ending.event().clear());
        assert!(matches!(ending.take(), Some(Ok(End::PowerOff))));
    }

    #[test]
    fn an_alarm_ends_this_life_and_all_others() {
        let (alarm, ending) = (Alarm::default(), Arc::new(Ending::new().unwrap()));
        alarm.begin(&ending);
        alarm.check().unwrap();
        alarm.clone().raise();
        assert!(matches!(ending.take(), Some(Err(Error::Stray))));
        assert!(matches!(alarm.check(), Err(Error::Stray)));
    }
}
