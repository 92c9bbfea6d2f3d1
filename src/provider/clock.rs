//! Hears when the host's clock jumps: it was set, or the host slept and woke up.

use std::io::{self, ErrorKind};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create, timerfd_settime,
};

/// Readable once the clock has jumped. A clock that is only made faster or slower, as by a time daemon,
/// does not jump.
#[derive(Debug)]
pub(super) struct ClockWatch(OwnedFd);

impl ClockWatch {
    /// Watches from now on. Everything that it needs later is had now.
    pub(super) fn new() -> io::Result<Self> {
        let timer = timerfd_create(TimerfdClockId::Realtime, TimerfdFlags::CLOEXEC | TimerfdFlags::NONBLOCK)?;
        // It never expires. Whenever the distance between this clock and the one that only ever counts changes, the
        // kernel cancels it, and goes on watching (timerfd_create(2)); a host's sleep is added to this one only.
        let never = Timespec { tv_sec: i64::MAX, tv_nsec: 0 };
        let spec = Itimerspec { it_interval: Timespec { tv_sec: 0, tv_nsec: 0 }, it_value: never };
        timerfd_settime(&timer, TimerfdTimerFlags::ABSTIME | TimerfdTimerFlags::CANCEL_ON_SET, &spec)?;
        Ok(Self(timer))
    }

    /// One that jumps when that descriptor, which must not block, can be read.
    #[cfg(test)]
    pub(super) fn of(descriptor: OwnedFd) -> Self {
        Self(descriptor)
    }

    /// Whether it has jumped since it was last asked.
    pub(super) fn has_jumped(&self) -> io::Result<bool> {
        match rustix::io::read(&self.0, &mut [0; 8]).map_err(io::Error::from) {
            Ok(_) => Ok(true),
            Err(error) if error.raw_os_error() == Some(libc::ECANCELED) => Ok(true),
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => Ok(false),
            Err(error) => Err(error),
        }
    }
}

impl AsFd for ClockWatch {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clock_that_goes_on_does_not_jump() {
        assert!(!ClockWatch::new().unwrap().has_jumped().unwrap());
    }
}
