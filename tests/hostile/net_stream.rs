//! The stream behind a card: peers that are slow, stop, or talk nonsense.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use crate::driver::*;
use crate::net::*;

#[test]
fn frames_arrive_however_the_stream_is_cut() {
    let (mut driver, mut peer) = started(64, 0);
    let bytes: Vec<u8> = (0..3).flat_map(|number| framed(&incoming(70, number))).collect();
    for cut in 1..bytes.len() {
        for slot in 0..3 {
            post(&mut driver, slot, 2048);
        }
        peer.write_all(&bytes[..cut]).unwrap();
        // Let the card see the first part alone where that has a whole frame.
        let first = (cut / 74) as u64;
        for slot in 0..first {
            assert_eq!(received(&mut driver, slot), incoming(70, slot as u32));
        }
        peer.write_all(&bytes[cut..]).unwrap();
        for slot in first..3 {
            assert_eq!(received(&mut driver, slot), incoming(70, slot as u32), "cut at {cut}");
        }
    }
}

#[test]
fn frames_arrive_byte_by_byte() {
    let (mut driver, mut peer) = started(16, 0);
    post(&mut driver, 0, 2048);
    post(&mut driver, 1, 2048);
    for byte in [framed(&incoming(300, 1)), framed(&incoming(14, 2))].concat() {
        peer.write_all(&[byte]).unwrap();
    }
    assert_eq!(received(&mut driver, 0), incoming(300, 1));
    assert_eq!(received(&mut driver, 1), incoming(14, 2));
}

#[test]
fn runts_are_skipped() {
    let (mut driver, mut peer) = started(16, 0);
    post(&mut driver, 0, 2048);
    for len in 0..14 {
        peer.write_all(&framed(&vec![0xff; len])).unwrap();
    }
    peer.write_all(&framed(&incoming(60, 1))).unwrap();
    assert_eq!(received(&mut driver, 0), incoming(60, 1));
}

#[test]
fn length_that_cannot_be_takes_the_link_down() {
    for len in [MAX_FRAME as u32 + 1, 1 << 24, u32::MAX] {
        let (mut driver, mut peer) = started(16, 0);
        post(&mut driver, 0, 2048);
        peer.write_all(&framed(&incoming(60, 1))).unwrap();
        peer.write_all(&len.to_be_bytes()).unwrap();
        assert_eq!(received(&mut driver, 0), incoming(60, 1));
        driver.wait_for("link down", |driver| (!link_is_up(driver)).then_some(()));
        send(&mut driver, &outgoing(60, 2));
    }
}

#[test]
fn peer_that_goes_away_takes_the_link_down_and_the_card_lives() {
    use rvm::vmm::virtio::mmio::status::DEVICE_NEEDS_RESET;
    let (mut driver, mut peer) = started(16, 1 << 16);
    assert!(link_is_up(&mut driver));
    let generation = driver.read(0xfc);
    post(&mut driver, 0, 2048);
    peer.write_all(&framed(&incoming(60, 1))).unwrap();
    // Half a frame, which nobody will ever finish.
    peer.write_all(&framed(&incoming(60, 2))[..30]).unwrap();
    drop(peer);
    assert_eq!(received(&mut driver, 0), incoming(60, 1));
    driver.wait_for("link down", |driver| (!link_is_up(driver)).then_some(()));
    driver.wait_for("interrupt", |driver| (driver.read(INTERRUPT_STATUS) & 2 != 0).then_some(()));
    assert_ne!(driver.read(0xfc), generation);
    for number in 0..40 {
        send(&mut driver, &outgoing(60, number));
    }
    assert_eq!(driver.status() & DEVICE_NEEDS_RESET, 0);
    // Still so for the next driver.
    driver.reset();
    driver.start(1 << 16);
    assert!(!link_is_up(&mut driver));
    send(&mut driver, &outgoing(60, 1));
}

/// Frames that [`stuff`] offers.
const STUFFED: u32 = 32;

/// A running card whose socket holds little, the peer, and a second hold on the card's end.
fn narrow() -> (Driver, UnixStream, UnixStream) {
    let (ours, peer) = UnixStream::pair().unwrap();
    peer.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    let spare = ours.try_clone().unwrap();
    let card = card(ours);
    rustix::net::sockopt::set_socket_send_buffer_size(&spare, 64 * 1024).unwrap();
    (Driver::started(card, 64, 0), peer, spare)
}

/// Offers more frames than a narrow socket holds.
fn stuff(driver: &mut Driver, len: usize) {
    for number in 0..STUFFED {
        let at = SEND + u64::from(number) * 0x1_0000;
        driver.put(at, &[0; HEADER]);
        driver.put(at + HEADER as u64, &outgoing(len, number));
        let head = driver.chain(TX, &[readable(at, (HEADER + len) as u32)]);
        driver.offer(TX, head);
    }
    driver.kick(TX);
}

/// Stops a card in the middle of a frame by `stop`: one too long to be sent in one piece. Where the socket is full at the end of one by
/// chance, frames of another length are tried.
fn stop_in_part<T>(mut stop: impl FnMut(Driver) -> T) -> (T, UnixStream, UnixStream) {
    for len in (60_001..61_000).step_by(50) {
        let (mut driver, peer, spare) = narrow();
        stuff(&mut driver, len);
        // The worker is at it; it stops when the socket is full.
        let waiting = || rustix::io::ioctl_fionread(&peer).unwrap();
        while waiting() < len as u64 {
            std::thread::yield_now();
        }
        let stopped = stop(driver);
        if waiting() % (len as u64 + 4) != 0 {
            return (stopped, peer, spare);
        }
    }
    panic!("the socket is always full at the end of a frame");
}

#[test]
fn slow_peer_gets_every_frame_whole() {
    let (mut driver, mut peer, _spare) = narrow();
    stuff(&mut driver, 30_000);
    for number in 0..STUFFED {
        assert!(receive_from(&mut peer) == outgoing(30_000, number), "frame {number}");
    }
    for _ in 0..STUFFED {
        driver.used(TX);
    }
    send(&mut driver, &outgoing(100, 1));
    assert_eq!(receive_from(&mut peer), outgoing(100, 1));
}

#[test]
fn slow_peer_does_not_hold_up_reception() {
    let (mut driver, mut peer, _spare) = narrow();
    stuff(&mut driver, 48_000);
    for number in 0..20 {
        post(&mut driver, 32, 2048);
        peer.write_all(&framed(&incoming(100, number))).unwrap();
        assert_eq!(received(&mut driver, 32), incoming(100, number));
    }
    while driver.poll_used(TX).is_some() {}
    assert!(u32::from(driver.queues[TX].next_used) < STUFFED, "the peer was not slow");
}

/// Reads frames until one has `last` as its number; all have to be whole.
fn read_up_to(peer: &mut UnixStream, last: &[u8]) {
    loop {
        let frame = receive_from(peer);
        let number = u32::from_be_bytes([frame[14], frame[15], frame[16], frame[17]]);
        assert!(frame == outgoing(frame.len(), number), "a frame was torn");
        if frame == last {
            return;
        }
    }
}

#[test]
fn reset_in_the_middle_of_a_frame_keeps_the_stream_whole() {
    let (mut driver, mut peer, _spare) = stop_in_part(|mut driver| {
        driver.reset();
        driver
    });
    // The frame's buffers are the guest's again.
    driver.put(SEND, &vec![0xee; STUFFED as usize * 0x1_0000]);
    driver.start(0);
    let last = outgoing(100, 77);
    let reader = std::thread::spawn({
        let last = last.clone();
        move || {
            read_up_to(&mut peer, &last);
            peer
        }
    });
    send(&mut driver, &last);
    drop(reader.join().unwrap());
}

#[test]
fn card_that_is_dropped_finishes_the_frame_it_sends() {
    let (mut driver, mut peer, spare) = narrow();
    stuff(&mut driver, 48_000);
    let last = outgoing(100, 77);
    let reader = std::thread::spawn({
        let last = last.clone();
        move || {
            read_up_to(&mut peer, &last);
            peer
        }
    });
    drop(driver);
    // The next boot's card on the same socket.
    let mut driver = Driver::started(card(spare), 64, 0);
    send(&mut driver, &last);
    let _peer = reader.join().unwrap();
    assert!(link_is_up(&mut driver));
}

#[test]
fn card_that_is_dropped_takes_in_the_frame_it_receives() {
    let (ours, mut peer) = UnixStream::pair().unwrap();
    let spare = ours.try_clone().unwrap();
    let mut driver = Driver::started(card(ours), 64, 0);
    post(&mut driver, 0, 2048);
    // The first frame shows that the card has read, with it the beginning of the second.
    let second = framed(&incoming(60_000, 2));
    peer.write_all(&[&framed(&incoming(60, 1))[..], &second[..100]].concat()).unwrap();
    assert_eq!(received(&mut driver, 0), incoming(60, 1));
    let writer = std::thread::spawn(move || {
        peer.write_all(&second[100..]).unwrap();
        peer
    });
    drop(driver);
    let mut peer = writer.join().unwrap();
    peer.write_all(&framed(&incoming(60, 3))).unwrap();
    let mut driver = Driver::started(card(spare), 64, 0);
    post(&mut driver, 0, 2048);
    // The second frame is gone with the card that read its beginning.
    let got = received(&mut driver, 0);
    assert!(got == incoming(60, 3), "{} bytes", got.len());
}

#[test]
fn stream_that_cannot_be_brought_to_a_frame_is_closed() {
    // Nobody reads.
    let ((), mut peer, spare) = stop_in_part(drop);
    let mut driver = Driver::started(card(spare), 64, 0);
    driver.wait_for("link down", |driver| (!link_is_up(driver)).then_some(()));
    let mut rest = Vec::new();
    peer.read_to_end(&mut rest).unwrap();
}

#[test]
fn frames_that_were_read_survive_a_reset() {
    let (mut driver, mut peer) = started(16, 0);
    post(&mut driver, 0, 2048);
    let all: Vec<u8> = (0..5).flat_map(|number| framed(&incoming(80, number))).collect();
    peer.write_all(&all[..all.len() - 20]).unwrap();
    assert_eq!(received(&mut driver, 0), incoming(80, 0));
    driver.reset();
    peer.write_all(&all[all.len() - 20..]).unwrap();
    driver.start(0);
    for number in 1..5 {
        post(&mut driver, 0, 2048);
        assert_eq!(received(&mut driver, 0), incoming(80, number));
    }
}

#[test]
fn frames_are_not_torn_apart() {
    const FRAMES: usize = 200;
    const LEN: usize = 1514;
    let (ours, mut peer) = UnixStream::pair().unwrap();
    let spare = ours.try_clone().unwrap();
    let card = card(ours);
    // Room for a piece at a time, and not for all frames.
    rustix::net::sockopt::set_socket_send_buffer_size(&spare, 64 * 1024).unwrap();
    let mut driver = Driver::started(card, 256, 0);
    let frame = outgoing(LEN, 1);
    driver.put(SEND, &[0; HEADER]);
    driver.put(SEND + HEADER as u64, &frame);
    for _ in 0..FRAMES {
        let head = driver.chain(TX, &[readable(SEND, (HEADER + LEN) as u32)]);
        driver.offer(TX, head);
    }
    driver.kick(TX);
    // What a reader that comes now finds: more than the first piece, the end of no other frame.
    let waiting = || rustix::io::ioctl_fionread(&peer).unwrap();
    while waiting() < 100_000 {
        std::thread::yield_now();
    }
    let found = waiting();
    assert_eq!(found % (4 + LEN as u64), 0, "{found} bytes");
    for _ in 0..FRAMES {
        assert!(receive_from(&mut peer) == frame);
    }
}
