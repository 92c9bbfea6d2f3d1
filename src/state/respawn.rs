//! How soon a process that ended is started again.

use std::time::Duration;

use crate::model::Cancel;

/// The longest pause.
const LONGEST: Duration = Duration::from_secs(5);
/// A process that lived so long was well.
const WELL: Duration = Duration::from_secs(60);

/// Pauses between the end of a process and the next one: each twice as long as the one before, up to 5 s, and
/// short again after a process that lived for a minute.
#[derive(Debug)]
pub struct Respawn {
    first: Duration,
    next: Duration,
}

impl Respawn {
    /// `first` is the first pause.
    pub fn new(first: Duration) -> Self {
        Self { first, next: first }
    }

    /// Waits, after a process that lived for so long.
    pub fn wait(&mut self, lived: Duration) {
        Cancel::new().wait(self.pause(lived));
    }

    fn pause(&mut self, lived: Duration) -> Duration {
        if lived > WELL {
            self.next = self.first;
        }
        let pause = self.next;
        self.next = (pause * 2).min(LONGEST);
        pause
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_until_one_was_well() {
        let mut respawn = Respawn::new(Duration::from_millis(200));
        let pauses: Vec<u128> = (0..7).map(|_| respawn.pause(Duration::ZERO).as_millis()).collect();
        assert_eq!(pauses, [200, 400, 800, 1600, 3200, 5000, 5000]);
        assert_eq!(respawn.pause(WELL * 2).as_millis(), 200);
    }
}
