//! Rings: indexes, notifications, and drivers that run ahead.

use rvm::vmm::virtio::queue::{Fault, QueueConfig, Ring, SetupError};
use rvm::vmm::virtio::rng::Rng;
use rvm::vmm::virtio::{VIRTIO_F_EVENT_IDX, VIRTIO_F_VERSION_1};
use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};

use crate::driver::*;

const SIZE: u16 = 16;

fn config() -> QueueConfig {
    let queue = Queue::at(0, SIZE);
    QueueConfig {
        max_size: 64,
        size: SIZE.into(),
        ready: true,
        descriptors: queue.descriptors,
        avail: queue.avail,
        used: queue.used,
    }
}

fn ring(mem: &GuestMemoryMmap, features: u64) -> Ring<'_> {
    let features = features | VIRTIO_F_VERSION_1;
    Ring::new(mem, &config().build(mem, features).unwrap(), features, u32::MAX).unwrap()
}

fn set(mem: &GuestMemoryMmap, addr: u64, value: u16) {
    mem.write_obj(value, GuestAddress(addr)).unwrap();
}

fn get(mem: &GuestMemoryMmap, addr: u64) -> u16 {
    mem.read_obj(GuestAddress(addr)).unwrap()
}

#[test]
fn available_index_beyond_the_queue_is_a_fault() {
    for ahead in [SIZE + 1, 500, u16::MAX] {
        let mem = memory();
        let mut ring = ring(&mem, 0);
        let mut chain = ring.new_chain();
        set(&mem, config().avail + 2, ahead);
        let fault = Fault::AvailIndex { ahead, size: SIZE };
        assert_eq!(ring.pop(&mut chain), Err(fault));
        assert_eq!(ring.enable_kicks(), Err(fault));
    }
}

#[test]
fn available_index_that_jumps_needs_a_reset_and_the_device_lives() {
    let mut driver = Driver::started(Rng::new(), SIZE, 0);
    assert_eq!(driver.transact(0, &[writable(DATA, 8)]), 8);
    driver.set_avail_index(driver.queues[0].avail, 500);
    driver.kick(0);
    driver.wait_broken();
    assert_eq!(driver.read(INTERRUPT_STATUS) & 2, 2);
    assert_eq!(driver.poll_used(0), None);
    driver.reset();
    driver.start(0);
    assert_eq!(driver.transact(0, &[writable(DATA, 8)]), 8);
}

#[test]
fn available_index_that_goes_back_is_a_fault() {
    let mem = memory();
    let mut ring = ring(&mem, 0);
    let mut chain = ring.new_chain();
    set(&mem, config().avail + 2, 3);
    for _ in 0..3 {
        assert!(ring.pop(&mut chain).unwrap());
    }
    set(&mem, config().avail + 2, 2);
    assert_eq!(ring.pop(&mut chain), Err(Fault::AvailIndex { ahead: u16::MAX, size: SIZE }));
}

#[test]
fn indexes_wrap() {
    let mem = memory();
    let mut ring = ring(&mem, 0);
    let mut chain = ring.new_chain();
    let queue = config();
    for round in 0..70_000u32 {
        let head = (round % 16) as u16;
        set(&mem, queue.avail + 4 + 2 * u64::from(head), head);
        set(&mem, queue.avail + 2, (round + 1) as u16);
        assert!(ring.pop(&mut chain).unwrap());
        assert_eq!(chain.head(), head);
        ring.push(head, round).unwrap();
        assert!(ring.publish().unwrap());
        assert_eq!(get(&mem, queue.used + 2), (round + 1) as u16);
        let entry: [u32; 2] = mem.read_obj(GuestAddress(queue.used + 4 + 8 * u64::from(head))).unwrap();
        assert_eq!(entry, [u32::from(head), round]);
        assert!(!ring.pop(&mut chain).unwrap());
    }
}

#[test]
fn used_buffers_are_published_together() {
    let mem = memory();
    let mut ring = ring(&mem, 0);
    ring.push(3, 1).unwrap();
    ring.push(4, 2).unwrap();
    assert_eq!(get(&mem, config().used + 2), 0);
    assert!(ring.publish().unwrap());
    assert_eq!(get(&mem, config().used + 2), 2);
    // Nothing new, nothing to tell.
    assert!(!ring.publish().unwrap());
}

#[test]
fn driver_that_wants_no_interrupt_gets_none() {
    let mem = memory();
    let mut ring = ring(&mem, 0);
    set(&mem, config().avail, 1);
    ring.push(0, 0).unwrap();
    assert!(!ring.publish().unwrap());
    set(&mem, config().avail, 0);
    ring.push(0, 0).unwrap();
    assert!(ring.publish().unwrap());
}

#[test]
fn event_index_decides_about_interrupts() {
    let mem = memory();
    let mut ring = ring(&mem, VIRTIO_F_EVENT_IDX);
    let used_event = config().avail + 4 + 2 * u64::from(SIZE);
    let mut publish = |count: u16, event: u16| {
        set(&mem, used_event, event);
        for _ in 0..count {
            ring.push(0, 0).unwrap();
        }
        ring.publish().unwrap()
    };
    assert!(publish(1, 0)); // 0 → 1 passes 0
    assert!(!publish(1, 5)); // 1 → 2
    assert!(!publish(3, 5)); // 2 → 5
    assert!(publish(1, 5)); // 5 → 6 passes 5
    assert!(!publish(4, 5)); // 6 → 10, 5 is behind
    assert!(publish(4, 12)); // 10 → 14 passes 12
    assert!(!publish(0, 14)); // nothing
}

#[test]
fn event_index_asks_for_the_next_kick() {
    let mem = memory();
    let mut ring = ring(&mem, VIRTIO_F_EVENT_IDX);
    let mut chain = ring.new_chain();
    let avail_event = config().used + 4 + 8 * u64::from(SIZE);
    set(&mem, avail_event, 77);
    ring.disable_kicks().unwrap();
    assert_eq!(get(&mem, config().used), 0, "flags have no say with EVENT_IDX");
    assert!(!ring.enable_kicks().unwrap());
    assert_eq!(get(&mem, avail_event), 0);
    set(&mem, config().avail + 2, 2);
    assert!(ring.enable_kicks().unwrap(), "two came meanwhile");
    for _ in 0..2 {
        assert!(ring.pop(&mut chain).unwrap());
    }
    assert!(!ring.enable_kicks().unwrap());
    assert_eq!(get(&mem, avail_event), 2);
}

#[test]
fn chains_put_back_are_no_reason_to_go_on() {
    for features in [0, VIRTIO_F_EVENT_IDX] {
        let mem = memory();
        let mut ring = ring(&mem, features);
        let mut chain = ring.new_chain();
        set(&mem, config().avail + 2, 2);
        while ring.pop(&mut chain).unwrap() {}
        ring.unpop(2);
        assert!(!ring.enable_kicks().unwrap());
        set(&mem, config().avail + 2, 3);
        assert!(ring.enable_kicks().unwrap());
        assert!(ring.pop(&mut chain).unwrap());
    }
}

#[test]
fn flags_ask_for_kicks_without_event_index() {
    let mem = memory();
    let mut ring = ring(&mem, 0);
    ring.disable_kicks().unwrap();
    assert_eq!(get(&mem, config().used), 1);
    set(&mem, config().avail + 2, 1);
    assert!(ring.enable_kicks().unwrap());
    assert_eq!(get(&mem, config().used), 0);
}

#[test]
fn chain_put_back_is_popped_again() {
    let mem = memory();
    let mut ring = ring(&mem, 0);
    let mut chain = ring.new_chain();
    for (slot, head) in [(0, 5u16), (1, 9), (2, 2)] {
        set(&mem, config().avail + 4 + 2 * slot, head);
    }
    set(&mem, config().avail + 2, 3);
    let mut heads = Vec::new();
    for _ in 0..3 {
        assert!(ring.pop(&mut chain).unwrap());
    }
    ring.unpop(2);
    while ring.pop(&mut chain).unwrap() {
        heads.push(chain.head());
    }
    assert_eq!(heads, [9, 2]);
}

#[test]
fn queue_that_is_not_ready_makes_no_ring() {
    let mem = memory();
    let queue = QueueConfig { ready: false, ..config() }.build(&mem, 0).unwrap();
    assert_eq!(Ring::new(&mem, &queue, 0, 0).unwrap_err(), SetupError::NotReady);
}

#[test]
fn kicks_for_ever_do_not_keep_a_device_from_being_reset() {
    let mut driver = Driver::started(Rng::new(), SIZE, 0);
    let storm = Storm::on(&driver, 0);
    for _ in 0..20 {
        for _ in 0..8 {
            assert_eq!(driver.transact(0, &[writable(DATA, 64)]), 64);
        }
        driver.reset();
        driver.start(0);
    }
    drop(storm);
}
