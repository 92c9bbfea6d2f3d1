//! The network device with several pairs of queues, and its control queue.

use std::io::Write;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use rvm::vmm::virtio::mmio::status::{ACKNOWLEDGE, DEVICE_NEEDS_RESET, DRIVER, DRIVER_OK, FEATURES_OK};
use rvm::vmm::virtio::net::{Counters, Net};

use crate::driver::*;
use crate::net::{HEADER, MAC, RECEIVE, framed, incoming, outgoing, receive_from};

const F_CTRL_VQ: u64 = 1 << 17;
const F_MQ: u64 = 1 << 22;
const SIZE: u16 = 16;
/// Queues of the second of two pairs, and the one after them.
const RX1: usize = 2;
const TX1: usize = 3;
const CONTROL: usize = 4;
/// Where commands are, and their answers.
const COMMAND: u64 = DATA + 0x10000;
const ANSWER: u64 = DATA + 0x11000;
/// `VIRTIO_NET_OK`, `VIRTIO_NET_ERR`.
const OK: u8 = 0;
const ERR: u8 = 1;

/// A card with so many pairs, and who is behind each.
fn card(pairs: usize) -> (Net, Vec<UnixStream>) {
    let (ours, theirs): (Vec<_>, Vec<_>) = (0..pairs).map(|_| UnixStream::pair().unwrap()).unzip();
    for peer in &theirs {
        peer.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    }
    (Net::over_sockets(MAC, ours.into_iter().map(Into::into).collect()).unwrap(), theirs)
}

fn started() -> (Driver, Vec<UnixStream>, Arc<Counters>) {
    let (card, peers) = card(2);
    let counters = card.counters();
    (Driver::started(card, SIZE, F_CTRL_VQ | F_MQ), peers, counters)
}

/// Sends `bytes` as a command; gives the answer.
fn command(driver: &mut Driver, queue: usize, bytes: &[u8]) -> u8 {
    driver.put(COMMAND, bytes);
    driver.put(ANSWER, &[0xee]);
    let command = [readable(COMMAND, bytes.len() as u32), writable(ANSWER, 1)];
    let bufs = if bytes.is_empty() { &command[1..] } else { &command[..] };
    assert_eq!(driver.transact(queue, bufs), 1);
    driver.get(ANSWER, 1)[0]
}

fn set_pairs(driver: &mut Driver, queue: usize, count: u16) -> u8 {
    let [low, high] = count.to_le_bytes();
    command(driver, queue, &[4, 0, low, high])
}

fn send(driver: &mut Driver, queue: usize, number: u32) -> Vec<u8> {
    let frame = outgoing(100, number);
    driver.put(DATA, &[0; HEADER]);
    driver.put(DATA + HEADER as u64, &frame);
    assert_eq!(driver.transact(queue, &[readable(DATA, (HEADER + frame.len()) as u32)]), 0);
    frame
}

#[test]
fn several_pairs_are_offered_where_the_back_end_has_them() {
    for (pairs, expected) in [(1, 0), (2, F_CTRL_VQ | F_MQ), (8, F_CTRL_VQ | F_MQ)] {
        let mut driver = Driver::new(card(pairs).0, SIZE);
        assert_eq!(driver.offered() & (F_CTRL_VQ | F_MQ), expected);
        let queues = if pairs == 1 { 2 } else { 2 * pairs + 1 };
        assert_eq!(driver.queues.len(), queues);
        let mut config = [0xff; 4];
        rvm::vmm::bus::BusDevice::read(&mut driver.transport, 0x106, &mut config);
        assert_eq!(config, [1, 0, if pairs == 1 { 0 } else { pairs as u8 }, 0]);
    }
}

#[test]
fn pair_carries_frames_as_long_as_the_driver_uses_it() {
    let (mut driver, mut peers, counters) = started();
    let dropped = || counters.send_dropped.load(Ordering::SeqCst);
    for life in 0..2 {
        // The first pair works by itself, the second does nothing.
        let frame = send(&mut driver, 1, 1);
        assert_eq!(receive_from(&mut peers[0]), frame);
        let before = dropped();
        send(&mut driver, TX1, 2);
        assert_eq!(dropped(), before + 1);
        driver.submit(RX1, &[writable(RECEIVE, 2048)]);
        peers[1].write_all(&framed(&incoming(100, 3))).unwrap();
        assert_eq!(set_pairs(&mut driver, CONTROL, 2), OK);
        // What waited comes now.
        let (_, len) = driver.used(RX1);
        assert_eq!(driver.get(RECEIVE, len as usize)[HEADER..], incoming(100, 3));
        for number in 0..20 {
            for (queue, peer) in [(1, 0), (TX1, 1)] {
                let frame = send(&mut driver, queue, number);
                assert_eq!(receive_from(&mut peers[peer]), frame);
            }
        }
        assert_eq!(set_pairs(&mut driver, CONTROL, 1), OK);
        let before = dropped();
        send(&mut driver, TX1, 4);
        assert_eq!(dropped(), before + 1);
        // A reset goes back to one.
        assert_eq!(set_pairs(&mut driver, CONTROL, 2), OK);
        if life == 0 {
            driver.reset();
            driver.start(F_CTRL_VQ | F_MQ);
        }
    }
}

#[test]
fn bad_commands_are_refused_and_the_card_lives() {
    let (mut driver, mut peers, _) = started();
    for count in [0, 3, 8, 0x100, 0x8000, u16::MAX] {
        assert_eq!(set_pairs(&mut driver, CONTROL, count), ERR, "{count}");
    }
    let bad: &[&[u8]] = &[
        &[],
        &[4],
        &[4, 0],
        &[4, 0, 2],
        &[4, 0, 2, 0, 0],
        &[4, 1, 2, 0],
        &[4, 2, 2, 0],
        &[0, 0, 1, 0],
        &[1, 0, 2, 0],
        &[5, 0, 0, 0],
        &[0xff; 4],
        &[0; 4096],
    ];
    for bytes in bad {
        assert_eq!(command(&mut driver, CONTROL, bytes), ERR, "{bytes:?}");
    }
    // No room for an answer: it is done all the same, as nobody can be told.
    driver.put(COMMAND, &[4, 0, 2, 0]);
    assert_eq!(driver.transact(CONTROL, &[readable(COMMAND, 4)]), 0);
    // In pieces.
    driver.put(COMMAND, &[4, 0, 2, 0]);
    let pieces =
        [readable(COMMAND, 1), readable(COMMAND + 1, 2), readable(COMMAND + 3, 1), writable(ANSWER, 9)];
    assert_eq!(driver.transact(CONTROL, &pieces), 1);
    assert_eq!(driver.get(ANSWER, 1), [OK]);
    for (queue, peer) in [(1, 0), (TX1, 1)] {
        let frame = send(&mut driver, queue, 7);
        assert_eq!(receive_from(&mut peers[peer]), frame);
    }
    assert_eq!(driver.status() & DEVICE_NEEDS_RESET, 0);
}

#[test]
fn pairs_that_were_not_set_up_cannot_be_used() {
    let (card, _peers) = card(3);
    let mut driver = Driver::new(card, SIZE);
    driver.agree(F_CTRL_VQ | F_MQ);
    // The first two, half of the third, and control.
    for queue in [0, 1, 2, 3, 4, 6] {
        driver.configure(queue);
    }
    driver.write(STATUS, ACKNOWLEDGE | DRIVER | FEATURES_OK | DRIVER_OK);
    assert_eq!(driver.status() & DEVICE_NEEDS_RESET, 0);
    assert_eq!(set_pairs(&mut driver, 6, 3), ERR);
    assert_eq!(set_pairs(&mut driver, 6, 2), OK);
}

#[test]
fn control_queue_comes_after_the_first_pair_without_mq() {
    let (card, mut peers) = card(2);
    let mut driver = Driver::started(card, SIZE, F_CTRL_VQ);
    assert_eq!(set_pairs(&mut driver, 2, 2), ERR);
    assert_eq!(set_pairs(&mut driver, 2, 1), OK);
    let frame = send(&mut driver, 1, 1);
    assert_eq!(receive_from(&mut peers[0]), frame);
}

#[test]
fn pair_that_breaks_needs_a_reset_and_so_does_a_broken_control_queue() {
    for queue in [TX1, CONTROL] {
        let (mut driver, mut peers, _) = started();
        let avail = driver.queues[queue].avail;
        driver.set_avail_index(avail, 1000);
        driver.kick(queue);
        driver.wait_broken();
        // The other queues go on until the reset.
        let frame = send(&mut driver, 1, 1);
        assert_eq!(receive_from(&mut peers[0]), frame);
        driver.reset();
        driver.start(F_CTRL_VQ | F_MQ);
        assert_eq!(set_pairs(&mut driver, CONTROL, 2), OK);
        let frame = send(&mut driver, TX1, 1);
        assert_eq!(receive_from(&mut peers[1]), frame);
    }
}

#[test]
fn commands_and_frames_at_the_same_time_lose_nothing() {
    let (mut driver, mut peers, _) = started();
    for number in 0..200 {
        assert_eq!(set_pairs(&mut driver, CONTROL, 2), OK);
        driver.submit(RX1, &[writable(RECEIVE, 2048)]);
        peers[1].write_all(&framed(&incoming(60, number))).unwrap();
        let (_, len) = driver.used(RX1);
        assert_eq!(driver.get(RECEIVE, len as usize)[HEADER..], incoming(60, number));
        assert_eq!(set_pairs(&mut driver, CONTROL, 1), OK);
    }
}
