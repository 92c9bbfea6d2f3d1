//! When a wait must end, and the one place that waits for a socket.

use std::net::TcpStream;
use std::os::fd::{AsFd, BorrowedFd};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};

/// A wish to stop is seen at least this often.
const SLICE: Duration = Duration::from_millis(50);

/// Why a wait ended without what it waited for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stop {
    /// Somebody asked to stop.
    Asked,
    /// The deadline passed.
    Deadline,
}

/// Bounds of a wait.
#[derive(Clone, Copy)]
pub(super) struct Limits<'a> {
    /// Not longer than this; `None`: for ever.
    pub deadline: Option<Instant>,
    /// Asked again and again; `true` ends the wait.
    pub stop: &'a dyn Fn() -> bool,
}

impl<'a> Limits<'a> {
    /// The same, ending at `deadline` at the latest.
    pub fn until(self, deadline: Instant) -> Limits<'a> {
        Limits { deadline: Some(self.deadline.map_or(deadline, |own| own.min(deadline))), ..self }
    }

    /// Fails when it is time to stop.
    pub fn check(&self) -> Result<(), Stop> {
        if (self.stop)() {
            return Err(Stop::Asked);
        }
        match self.deadline {
            Some(deadline) if Instant::now() >= deadline => Err(Stop::Deadline),
            _ => Ok(()),
        }
    }

    /// Waits until the socket is readable, or writable when `write` is set, but not longer than
    /// about 50 ms. Returns whether anything can be read.
    pub fn wait(&self, socket: &TcpStream, write: bool) -> Result<bool, Stop> {
        self.wait_for(socket, write, None)
    }

    /// The same, and it ends when `other` can be read.
    pub fn wait_for(
        &self,
        socket: &TcpStream,
        write: bool,
        other: Option<BorrowedFd<'_>>,
    ) -> Result<bool, Stop> {
        self.check()?;
        let left = self.deadline.map_or(SLICE, |d| d.saturating_duration_since(Instant::now()).min(SLICE));
        Ok(ready(socket, write, other, left).contains(PollFlags::IN))
    }
}

/// Whether something can be read there right now, the end included.
pub(super) fn readable(fd: BorrowedFd<'_>) -> bool {
    let mut fds = [PollFd::from_borrowed_fd(fd, PollFlags::IN)];
    let polled = poll(&mut fds, Some(&Timespec { tv_sec: 0, tv_nsec: 0 }));
    polled.is_ok() && fds.iter().any(|fd| !fd.revents().is_empty())
}

/// Whether the socket takes bytes right now.
pub(super) fn writable(socket: &TcpStream) -> bool {
    let mut fds = [PollFd::new(socket, PollFlags::OUT)];
    let polled = poll(&mut fds, Some(&Timespec { tv_sec: 0, tv_nsec: 0 }));
    polled.is_ok() && fds.iter().any(|fd| fd.revents().contains(PollFlags::OUT))
}

/// What the socket is ready for.
fn ready(socket: &TcpStream, write: bool, other: Option<BorrowedFd<'_>>, time: Duration) -> PollFlags {
    let events = if write { PollFlags::IN | PollFlags::OUT } else { PollFlags::IN };
    let mut fds = vec![PollFd::from_borrowed_fd(socket.as_fd(), events)];
    fds.extend(other.map(|fd| PollFd::from_borrowed_fd(fd, PollFlags::IN)));
    let time = Timespec { tv_sec: 0, tv_nsec: time.as_nanos().min(999_999_999) as _ };
    // A failed poll (a signal came) is like one that found nothing: the caller tries again.
    match poll(&mut fds, Some(&time)) {
        Ok(_) => fds.first().map_or(PollFlags::empty(), |fd| fd.revents()),
        Err(_) => PollFlags::empty(),
    }
}
