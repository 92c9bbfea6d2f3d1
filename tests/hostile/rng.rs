//! The entropy device.

use std::os::fd::{AsRawFd, RawFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{self, Receiver, Sender};
use std::time::Duration;

use rvm::vmm::virtio::limit;
use rvm::vmm::virtio::rng::{BURST, MAX_REQUEST, RATE, Rng};
use rvm::vmm::virtio::{VIRTIO_F_EVENT_IDX, VIRTIO_F_INDIRECT_DESC};
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

use crate::driver::*;

#[test]
fn fills_buffers_in_pieces() {
    for features in [0, VIRTIO_F_EVENT_IDX] {
        let mut driver = Driver::started(Rng::new(), 16, features);
        let pieces = [writable(DATA, 7), writable(DATA + 100, 0), writable(HIGH_START, 5000)];
        assert_eq!(driver.transact(0, &pieces), 5007);
        // 5000 zero bytes have a chance of 256 to the power of -5000.
        assert_ne!(driver.get(HIGH_START, 5000), vec![0; 5000]);
        assert_eq!(driver.get(DATA + 7, 93), vec![0; 93]);
    }
}

#[test]
fn request_is_capped_however_large_or_overlapping_its_buffers_are() {
    let mut driver = Driver::started(Rng::new(), 16, 0);
    let pieces = [writable(DATA, 1 << 20); 16];
    assert_eq!(driver.transact(0, &pieces) as usize, MAX_REQUEST);
    assert_eq!(driver.get(DATA + MAX_REQUEST as u64, 64), vec![0; 64]);
}

#[test]
fn buffers_that_are_not_writable_stay_as_they_are() {
    let mut driver = Driver::started(Rng::new(), 16, 0);
    assert_eq!(driver.transact(0, &[readable(DATA, 64)]), 0);
    assert_eq!(driver.transact(0, &[writable(DATA, 0)]), 0);
    assert_eq!(driver.transact(0, &[readable(DATA, 64), writable(DATA + 64, 64)]), 64);
    assert_eq!(driver.get(DATA, 64), vec![0; 64]);
}

#[test]
fn indirect_table_longer_than_the_queue_needs_a_reset() {
    let mut driver = Driver::started(Rng::new(), 16, VIRTIO_F_INDIRECT_DESC);
    driver.describe(0, 0, DATA, 65 * 16, INDIRECT, 0);
    driver.offer(0, 0);
    driver.kick(0);
    driver.wait_broken();
    assert_eq!(driver.poll_used(0), None);
    driver.reset();
    driver.start(0);
    assert_eq!(driver.transact(0, &[writable(DATA, 16)]), 16);
}

/// A clock that goes on when it is told to, and tells which alarms were set.
struct Clock {
    now: Arc<AtomicU64>,
    alarms: Sender<Duration>,
    wake: EventFd,
}

/// The hands of a [`Clock`].
struct Hands {
    now: Arc<AtomicU64>,
    alarms: Receiver<Duration>,
    wake: EventFd,
}

fn clock() -> (Clock, Hands) {
    let (sender, receiver) = mpsc::channel();
    let (now, wake) = (Arc::new(AtomicU64::new(0)), EventFd::new(EFD_NONBLOCK).unwrap());
    let hands = Hands { now: now.clone(), alarms: receiver, wake: wake.try_clone().unwrap() };
    (Clock { now, alarms: sender, wake }, hands)
}

impl limit::Clock for Clock {
    fn now(&self) -> Duration {
        Duration::from_nanos(self.now.load(Ordering::SeqCst))
    }

    fn alarm(&mut self, delay: Duration) -> std::io::Result<()> {
        self.alarms.send(delay).unwrap();
        Ok(())
    }
}

impl AsRawFd for Clock {
    fn as_raw_fd(&self) -> RawFd {
        self.wake.as_raw_fd()
    }
}

impl Hands {
    /// The alarm that the device sets next: by then it has decided to wait.
    fn alarm(&self) -> Duration {
        self.alarms.recv_timeout(Duration::from_secs(20)).expect("the device sets no alarm")
    }

    fn forward(&self, time: Duration) {
        self.now.fetch_add(time.as_nanos() as u64, Ordering::SeqCst);
        self.wake.write(1).unwrap();
    }
}

const WHOLE: u32 = MAX_REQUEST as u32;

/// Takes all that a full bucket holds.
fn empty_the_bucket(driver: &mut Driver) {
    for _ in 0..BURST / WHOLE {
        assert_eq!(driver.transact(0, &[writable(DATA, WHOLE)]), WHOLE);
    }
}

#[test]
fn request_beyond_the_rate_waits_and_comes_whole() {
    let (clock, hands) = clock();
    let mut driver = Driver::started(Rng::with_clock(Box::new(clock)), 16, 0);
    empty_the_bucket(&mut driver);
    let late = driver.submit(0, &[writable(DATA, WHOLE)]);
    let later = driver.submit(0, &[writable(HIGH_START, 16)]);
    let delay = hands.alarm();
    assert_eq!(delay, Duration::from_secs(1) * WHOLE / RATE);
    // Too early, and a kick meanwhile: it goes on waiting, for what is left.
    hands.forward(delay / 4);
    driver.kick(0);
    assert_eq!(hands.alarm(), delay * 3 / 4);
    assert_eq!(driver.poll_used(0), None);
    hands.forward(delay * 3 / 4);
    assert_eq!(driver.used(0), (late, WHOLE));
    // Nobody overtakes; a small request has its turn soon.
    let short = hands.alarm();
    assert!(short < Duration::from_millis(1), "{short:?}");
    hands.forward(short);
    assert_eq!(driver.used(0), (later, 16));
}

#[test]
fn reset_is_not_delayed_and_fills_no_bucket() {
    let (clock, hands) = clock();
    let mut driver = Driver::started(Rng::with_clock(Box::new(clock)), 16, 0);
    empty_the_bucket(&mut driver);
    driver.submit(0, &[writable(DATA, WHOLE)]);
    let delay = hands.alarm();
    // The clock stands still: a reset that waited for it would not come back.
    driver.reset();
    driver.start(0);
    let head = driver.submit(0, &[writable(DATA, WHOLE)]);
    assert_eq!(hands.alarm(), delay);
    hands.forward(delay);
    assert_eq!(driver.used(0), (head, WHOLE));
}
