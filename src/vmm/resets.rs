//! Tells a guest that was rebooted from one that cannot boot and resets itself for ever.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use super::Error;

/// Resets within [`WINDOW`] that are taken for reboots.
const ALLOWED: usize = 5;
/// No guest that works is rebooted more often than [`ALLOWED`] times in this time.
const WINDOW: Duration = Duration::from_secs(30);

/// Counts resets.
#[derive(Debug, Default)]
pub struct ResetGuard {
    recent: VecDeque<Instant>,
}

impl ResetGuard {
    /// Counts one that happened `now`.
    ///
    /// # Errors
    /// [`Error::KeepsResetting`] when it was one too many.
    pub fn count(&mut self, now: Instant) -> Result<(), Error> {
        self.recent.retain(|then| now.duration_since(*then) < WINDOW);
        self.recent.push_back(now);
        let count = self.recent.len();
        if count > ALLOWED {
            return Err(Error::KeepsResetting { count, seconds: WINDOW.as_secs() });
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_sixth_reset_in_half_a_minute_is_one_too_many() {
        let (mut guard, start) = (ResetGuard::default(), Instant::now());
        for second in 0..5 {
            guard.count(start + Duration::from_secs(second)).unwrap();
        }
        let err = guard.count(start + Duration::from_secs(29)).unwrap_err();
        assert!(matches!(err, Error::KeepsResetting { count: 6, seconds: 30 }));
    }

    #[test]
    fn reboots_now_and_then_are_fine() {
        let (mut guard, start) = (ResetGuard::default(), Instant::now());
        for round in 0..100 {
            guard.count(start + Duration::from_secs(round * 7)).unwrap();
        }
    }
}
