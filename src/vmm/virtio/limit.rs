//! How fast a guest may make the host work: a token bucket, and the clock that it goes by.

use std::io;
use std::os::fd::{AsRawFd, RawFd};
use std::time::{Duration, Instant};

use vmm_sys_util::timerfd::TimerFd;

/// A clock that wakes whoever waits for it: an edge on its descriptor, with epoll.
///
/// The descriptor is never read. A wake-up that comes too early does no harm: who was woken looks at
/// the time again.
pub trait Clock: AsRawFd + Send {
    /// Time since some moment that does not change.
    fn now(&self) -> Duration;

    /// Makes the descriptor readable after `delay`, which is not zero. An earlier alarm is gone.
    ///
    /// # Errors
    /// What the system says.
    fn alarm(&mut self, delay: Duration) -> io::Result<()>;
}

/// The host's monotonic clock, and a timer of its own.
#[derive(Debug)]
pub struct HostClock {
    start: Instant,
    timer: TimerFd,
}

impl HostClock {
    /// Begins at zero.
    ///
    /// # Errors
    /// When the process has no descriptor left.
    pub fn new() -> io::Result<Self> {
        Ok(Self { start: Instant::now(), timer: TimerFd::new()? })
    }
}

impl AsRawFd for HostClock {
    fn as_raw_fd(&self) -> RawFd {
        self.timer.as_raw_fd()
    }
}

impl Clock for HostClock {
    fn now(&self) -> Duration {
        self.start.elapsed()
    }

    fn alarm(&mut self, delay: Duration) -> io::Result<()> {
        Ok(self.timer.reset(delay, None)?)
    }
}

/// A token bucket: `burst` at once, `rate` a second in the long run. It begins full.
///
/// Kept is only the moment at which it would be full again (the generic cell rate algorithm of
/// ITU-T I.371, annex A), so nothing has to happen while nobody takes.
#[derive(Debug)]
pub struct Bucket {
    burst: u32,
    rate: u32,
    full_at: Duration,
}

impl Bucket {
    /// A full one. `rate` is at least 1.
    pub fn new(burst: u32, rate: u32) -> Self {
        Self { burst, rate: rate.max(1), full_at: Duration::ZERO }
    }

    /// Takes `count` tokens at time `now`. More than `burst` are never there: that many are taken.
    ///
    /// # Errors
    /// How long to wait until they are there; nothing was taken.
    pub fn take(&mut self, count: u32, now: Duration) -> Result<(), Duration> {
        let full_at = self.full_at.max(now) + self.time_for(count.min(self.burst));
        match full_at.checked_sub(now + self.time_for(self.burst)) {
            Some(wait) if !wait.is_zero() => Err(wait),
            _ => {
                self.full_at = full_at;
                Ok(())
            }
        }
    }

    /// How long `count` tokens take to flow in, rounded up.
    fn time_for(&self, count: u32) -> Duration {
        let nanoseconds = (u64::from(count) * 1_000_000_000).div_ceil(u64::from(self.rate));
        Duration::from_nanos(nanoseconds)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const MS: Duration = Duration::from_millis(1);

    #[test]
    fn burst_first_then_the_rate() {
        let mut bucket = Bucket::new(100, 1000);
        assert_eq!(bucket.take(60, Duration::ZERO), Ok(()));
        assert_eq!(bucket.take(40, Duration::ZERO), Ok(()));
        assert_eq!(bucket.take(30, Duration::ZERO), Err(30 * MS));
        assert_eq!(bucket.take(30, 29 * MS), Err(MS));
        assert_eq!(bucket.take(30, 30 * MS), Ok(()));
        assert_eq!(bucket.take(0, 30 * MS), Ok(()));
        // It never holds more than the burst, however long nobody takes.
        assert_eq!(bucket.take(100, 3_600_000 * MS), Ok(()));
        assert_eq!(bucket.take(1, 3_600_000 * MS), Err(MS));
    }

    #[test]
    fn more_than_the_burst_waits_for_a_full_bucket() {
        let mut bucket = Bucket::new(100, 1000);
        assert_eq!(bucket.take(u32::MAX, Duration::ZERO), Ok(()));
        assert_eq!(bucket.take(u32::MAX, 20 * MS), Err(80 * MS));
        assert_eq!(bucket.take(u32::MAX, 100 * MS), Ok(()));
    }

    proptest! {
        /// Whatever is asked for and when, no more is given than burst and rate allow, and whoever
        /// waits as long as told gets it.
        #[test]
        fn never_more_than_allowed(
            burst in 1u32..10_000,
            rate in 1u32..100_000,
            asked in prop::collection::vec((0u32..20_000, 0u64..1_000_000_000), 1..50),
        ) {
            let (mut bucket, mut now, mut given) = (Bucket::new(burst, rate), Duration::ZERO, 0u64);
            for (count, pause) in asked {
                now += Duration::from_nanos(pause);
                if let Err(wait) = bucket.take(count, now) {
                    now += wait;
                    prop_assert_eq!(bucket.take(count, now), Ok(()));
                }
                given += u64::from(count.min(burst));
                let allowed = f64::from(burst) + f64::from(rate) * now.as_secs_f64();
                prop_assert!(given as f64 <= allowed + 1.0, "{} of {}", given, allowed);
            }
        }
    }

    #[test]
    fn the_host_clock_wakes() {
        let mut clock = HostClock::new().unwrap();
        let before = clock.now();
        clock.alarm(MS).unwrap();
        clock.timer.wait().unwrap();
        assert!(clock.now() >= before + MS);
    }
}
