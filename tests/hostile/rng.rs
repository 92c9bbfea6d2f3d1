//! The entropy device.

use rvm::vmm::virtio::rng::{MAX_REQUEST, Rng};
use rvm::vmm::virtio::{VIRTIO_F_EVENT_IDX, VIRTIO_F_INDIRECT_DESC};

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
