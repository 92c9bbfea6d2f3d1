//! An event that one thread signals and another polls for.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use rustix::event::{EventfdFlags, eventfd};

/// An eventfd; clones share it.
#[derive(Debug, Clone)]
pub struct Notify(Arc<OwnedFd>);

impl Notify {
    /// Not signalled.
    ///
    /// # Errors
    /// When the process has no descriptor left.
    pub fn new() -> io::Result<Self> {
        Ok(Self(Arc::new(eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?)))
    }

    /// Makes it readable.
    pub fn signal(&self) {
        // Fails only when the counter is full, and then it is readable already.
        _ = rustix::io::write(&self.0, &1u64.to_ne_bytes());
    }

    /// Makes it unreadable; whether it had been signalled.
    pub fn clear(&self) -> bool {
        rustix::io::read(&self.0, &mut [0; 8]).is_ok()
    }
}

impl AsFd for Notify {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_signal_is_seen_once() {
        let notify = Notify::new().unwrap();
        assert!(!notify.clear());
        notify.clone().signal();
        notify.signal();
        assert!(notify.clear());
        assert!(!notify.clear());
    }
}
