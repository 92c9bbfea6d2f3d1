//! A wish to stop, shared by everything that may take long.

use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

/// Set once, by Ctrl-C; every wait in this crate ends early when it is set.
#[derive(Debug, Clone, Default)]
pub struct Cancel(Arc<(Mutex<bool>, Condvar)>);

impl Cancel {
    /// Not cancelled yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Ask everything to stop; wakes all waiters.
    pub fn cancel(&self) {
        *self.0.0.lock().unwrap_or_else(|e| e.into_inner()) = true;
        self.0.1.notify_all();
    }

    /// Whether someone asked to stop.
    pub fn is_cancelled(&self) -> bool {
        *self.0.0.lock().unwrap_or_else(|e| e.into_inner())
    }

    /// Waits for `time`, or less when cancelled; returns whether it is cancelled.
    pub fn wait(&self, time: Duration) -> bool {
        let guard = self.0.0.lock().unwrap_or_else(|e| e.into_inner());
        match self.0.1.wait_timeout_while(guard, time, |cancelled| !*cancelled) {
            Ok((guard, _)) => *guard,
            Err(e) => *e.into_inner().0,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_waiter_is_woken() {
        let cancel = Cancel::new();
        assert!(!cancel.wait(Duration::from_millis(1)));
        let other = cancel.clone();
        let waiter = std::thread::spawn(move || other.wait(Duration::from_secs(60)));
        cancel.cancel();
        assert!(waiter.join().unwrap());
    }
}
