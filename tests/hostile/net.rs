//! The network device: what a guest sends and receives.

use std::io::{Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use rvm::vmm::NetBackend;
use rvm::vmm::bus::BusDevice;
use rvm::vmm::virtio::mmio::status::DEVICE_NEEDS_RESET;
use rvm::vmm::virtio::net::{Net, NetError};
use rvm::vmm::virtio::{Error, VIRTIO_F_EVENT_IDX, VIRTIO_F_INDIRECT_DESC};

use crate::driver::*;

pub const RX: usize = 0;
pub const TX: usize = 1;
pub const MAC: [u8; 6] = [2, 0, 0, 0, 0, 1];
pub const OTHER: [u8; 6] = [2, 0, 0, 0, 0, 2];
/// Bytes of the virtio header.
pub const HEADER: usize = 12;
/// The longest frame: IP packet, ethernet header, VLAN tag.
pub const MAX_FRAME: usize = 65535 + 14 + 4;
pub const F_MRG_RXBUF: u64 = 1 << 15;
/// Where frames to send are built, 128 KiB each way.
pub const SEND: u64 = DATA;
/// Where receive buffers are.
pub const RECEIVE: u64 = HIGH_START;

pub fn card(socket: UnixStream) -> Net {
    Net::new(rvm::vmm::Net { mac: MAC, backend: NetBackend::Stream(socket.into()) }).unwrap()
}

/// A running card and the back-end's end of its socket.
pub fn started(size: u16, features: u64) -> (Driver, UnixStream) {
    let (ours, theirs) = UnixStream::pair().unwrap();
    theirs.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    (Driver::started(card(ours), size, features), theirs)
}

/// A frame of `len` bytes that no other `number` has.
pub fn frame(to: [u8; 6], from: [u8; 6], len: usize, number: u32) -> Vec<u8> {
    let mut frame = [to, from].concat();
    // The type that is there for experiments (IEEE 802): what is in it is no address to anybody.
    frame.extend([0x88, 0xb5]);
    frame.extend(number.to_be_bytes());
    frame.extend((frame.len()..len.max(frame.len())).map(|at| (at as u32 ^ number) as u8));
    frame.truncate(len);
    frame
}

pub fn outgoing(len: usize, number: u32) -> Vec<u8> {
    frame(OTHER, MAC, len, number)
}

pub fn incoming(len: usize, number: u32) -> Vec<u8> {
    frame(MAC, OTHER, len, number)
}

pub fn framed(frame: &[u8]) -> Vec<u8> {
    [&(frame.len() as u32).to_be_bytes(), frame].concat()
}

pub fn receive_from(peer: &mut UnixStream) -> Vec<u8> {
    let mut len = [0; 4];
    peer.read_exact(&mut len).unwrap();
    let mut frame = vec![0; u32::from_be_bytes(len) as usize];
    peer.read_exact(&mut frame).unwrap();
    frame
}

/// Sends one frame from the guest and waits until the card is done with it.
pub fn send(driver: &mut Driver, frame: &[u8]) {
    // What the header says is ignored: no offload was agreed on.
    driver.put(SEND, &[0xff; HEADER]);
    driver.put(SEND + HEADER as u64, frame);
    assert_eq!(driver.transact(TX, &[readable(SEND, (HEADER + frame.len()) as u32)]), 0);
}

/// Offers a receive buffer in slot `slot`; slots are 4 KiB apart.
pub fn post(driver: &mut Driver, slot: u64, len: u32) -> u16 {
    driver.submit(RX, &[writable(RECEIVE + slot * 4096, len)])
}

/// Waits for a frame in the one buffer of slot `slot`.
pub fn received(driver: &mut Driver, slot: u64) -> Vec<u8> {
    let (_, len) = driver.used(RX);
    let bytes = driver.get(RECEIVE + slot * 4096, len as usize);
    assert_eq!(bytes[..HEADER], [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0]);
    bytes[HEADER..].to_vec()
}

pub fn link_is_up(driver: &mut Driver) -> bool {
    let mut status = [0; 2];
    driver.transport.read(0x106, &mut status);
    u16::from_le_bytes(status) == 1
}

#[test]
fn config_space_holds_the_address_and_the_link() {
    let (mut driver, _peer) = started(16, 0);
    let mut config = [0xff; 10];
    driver.transport.read(0x100, &mut config);
    assert_eq!(config, [2, 0, 0, 0, 0, 1, 1, 0, 0, 0]);
    driver.transport.write(0x100, &[9; 6]);
    driver.transport.read(0x103, &mut config[..3]);
    assert_eq!(config[..3], [0, 0, 1]);
}

#[test]
fn frames_go_both_ways() {
    for features in [0, F_MRG_RXBUF | VIRTIO_F_EVENT_IDX | VIRTIO_F_INDIRECT_DESC] {
        let (mut driver, mut peer) = started(16, features);
        for number in 0..50 {
            let frame = outgoing(60 + number as usize * 10, number);
            send(&mut driver, &frame);
            assert_eq!(receive_from(&mut peer), frame);
            let frame = incoming(60 + number as usize * 10, number);
            post(&mut driver, 0, 2048);
            peer.write_all(&framed(&frame)).unwrap();
            assert_eq!(received(&mut driver, 0), frame);
        }
    }
}

#[test]
fn frame_in_any_pieces_goes_out_whole() {
    let (mut driver, mut peer) = started(64, 0);
    let frame = outgoing(1000, 7);
    driver.put(SEND, &[0; HEADER]);
    driver.put(SEND + HEADER as u64, &frame);
    // Header and ethernet header each in several pieces, an empty piece, a piece elsewhere.
    driver.put(HIGH_END - 500, &frame[500..]);
    let bufs = [
        readable(SEND, 5),
        readable(SEND + 5, 10),
        readable(SEND + 15, 0),
        readable(SEND + 15, 7),
        readable(SEND + 22, 490),
        readable(HIGH_END - 500, 500),
    ];
    assert_eq!(driver.transact(TX, &bufs), 0);
    assert_eq!(receive_from(&mut peer), frame);
}

#[test]
fn batch_of_frames_goes_out_in_order() {
    let (mut driver, mut peer) = started(256, VIRTIO_F_EVENT_IDX);
    for round in 0..10 {
        let mut heads = Vec::new();
        for slot in 0..120u64 {
            let at = SEND + slot * 1024;
            let frame = outgoing(100 + slot as usize, round * 1000 + slot as u32);
            driver.put(at, &[0; HEADER]);
            driver.put(at + HEADER as u64, &frame);
            let bufs = [readable(at, HEADER as u32), readable(at + 12, frame.len() as u32)];
            let head = driver.chain(TX, &bufs);
            driver.offer(TX, head);
            heads.push(head);
        }
        driver.kick(TX);
        for slot in 0..120 {
            let expected = outgoing(100 + slot as usize, round * 1000 + slot);
            assert_eq!(receive_from(&mut peer), expected, "{round}/{slot}");
        }
        for head in heads {
            assert_eq!(driver.used(TX), (head, 0));
        }
    }
}

#[test]
fn batch_of_frames_comes_in_in_order() {
    let (mut driver, mut peer) = started(128, VIRTIO_F_EVENT_IDX);
    for slot in 0..120 {
        post(&mut driver, slot, 2048);
    }
    let all: Vec<u8> = (0..120).flat_map(|number| framed(&incoming(1400, number))).collect();
    peer.write_all(&all).unwrap();
    for slot in 0..120 {
        assert_eq!(received(&mut driver, slot), incoming(1400, slot as u32));
    }
}

#[test]
fn longest_frame_goes_both_ways() {
    let (mut driver, mut peer) = started(64, F_MRG_RXBUF);
    let frame = outgoing(MAX_FRAME, 1);
    let reader = std::thread::spawn(move || {
        let frame = receive_from(&mut peer);
        (peer, frame)
    });
    send(&mut driver, &frame);
    let (mut peer, got) = reader.join().unwrap();
    assert!(got == frame);
    for slot in 0..33 {
        post(&mut driver, slot, 2048);
    }
    let frame = incoming(MAX_FRAME, 2);
    let writer = std::thread::spawn({
        let bytes = framed(&frame);
        move || peer.write_all(&bytes).map(|()| peer).unwrap()
    });
    let mut got = Vec::new();
    for slot in 0..33u64 {
        let (_, len) = driver.used(RX);
        got.extend(driver.get(RECEIVE + slot * 4096, len as usize));
    }
    assert_eq!(u16::from_le_bytes([got[10], got[11]]), 33);
    assert!(got[HEADER..] == frame);
    writer.join().unwrap();
}

#[test]
fn mergeable_frame_waits_until_there_are_buffers_enough() {
    let (mut driver, mut peer) = started(16, F_MRG_RXBUF);
    let frame = incoming(5000, 3);
    post(&mut driver, 0, 2048);
    peer.write_all(&framed(&frame)).unwrap();
    peer.write_all(&framed(&incoming(100, 4))).unwrap();
    // Header in pieces, so that the number of buffers is in two of them.
    let head = [writable(RECEIVE + 4096, 11), writable(RECEIVE + 4096 + 11, 2037)];
    driver.submit(RX, &head);
    assert_eq!(driver.poll_used(RX), None);
    post(&mut driver, 2, 2048);
    let mut got = Vec::new();
    for slot in 0..3u64 {
        let (_, len) = driver.used(RX);
        got.extend(driver.get(RECEIVE + slot * 4096, len as usize));
    }
    assert_eq!(got[..HEADER], [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 3, 0]);
    assert!(got[HEADER..] == frame);
    post(&mut driver, 3, 2048);
    assert_eq!(received(&mut driver, 3), incoming(100, 4));
}

#[test]
fn number_of_buffers_is_found_in_a_header_of_pieces() {
    let (mut driver, mut peer) = started(16, F_MRG_RXBUF);
    let pieces: Vec<_> = (0..20).map(|at| writable(RECEIVE + at, 1)).collect();
    driver.submit(RX, &pieces[..15]);
    post(&mut driver, 1, 2048);
    peer.write_all(&framed(&incoming(100, 0))).unwrap();
    assert_eq!(driver.used(RX).1, 15);
    assert_eq!(driver.used(RX).1, 97);
    assert_eq!(driver.get(RECEIVE, HEADER), [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2, 0]);
}

#[test]
fn frame_that_never_fits_is_dropped() {
    // All buffers of a whole queue together are too small.
    let (mut driver, mut peer) = started(4, F_MRG_RXBUF);
    for slot in 0..4 {
        post(&mut driver, slot, 1000);
    }
    peer.write_all(&framed(&incoming(4000, 1))).unwrap();
    peer.write_all(&framed(&incoming(900, 2))).unwrap();
    assert_eq!(received(&mut driver, 0), incoming(900, 2));
    // Without mergeable buffers, one has to do.
    let (mut driver, mut peer) = started(4, 0);
    post(&mut driver, 0, 1000);
    post(&mut driver, 1, 2000);
    peer.write_all(&framed(&incoming(989, 1))).unwrap();
    peer.write_all(&framed(&incoming(988, 2))).unwrap();
    assert_eq!(received(&mut driver, 0), incoming(988, 2));
}

#[test]
fn what_is_no_receive_buffer_comes_back_unused() {
    let (mut driver, mut peer) = started(16, F_MRG_RXBUF);
    let bad: [&[Buf]; 4] = [
        &[readable(RECEIVE, 2048)],
        &[writable(RECEIVE, 11)],
        &[writable(RECEIVE, 0)],
        &[readable(RECEIVE, 4), writable(RECEIVE + 4, 2048)],
    ];
    let heads: Vec<_> = bad.into_iter().map(|bufs| driver.submit(RX, bufs)).collect();
    post(&mut driver, 1, 2048);
    peer.write_all(&framed(&incoming(100, 5))).unwrap();
    for head in heads {
        assert_eq!(driver.used(RX), (head, 0));
    }
    assert_eq!(received(&mut driver, 1), incoming(100, 5));
}

#[test]
fn reception_does_not_stall_with_a_tiny_ring() {
    const FRAMES: u32 = 3000;
    for features in [0, VIRTIO_F_EVENT_IDX, VIRTIO_F_EVENT_IDX | F_MRG_RXBUF] {
        let (mut driver, mut peer) = started(2, features);
        let writer = std::thread::spawn(move || {
            for number in 0..FRAMES {
                peer.write_all(&framed(&incoming(60 + number as usize % 1400, number))).unwrap();
            }
            peer
        });
        post(&mut driver, 0, 2048);
        post(&mut driver, 1, 2048);
        for number in 0..FRAMES {
            let slot = u64::from(number % 2);
            let expected = incoming(60 + number as usize % 1400, number);
            assert!(received(&mut driver, slot) == expected, "frame {number}");
            post(&mut driver, slot, 2048);
        }
        writer.join().unwrap();
    }
}

#[test]
fn frames_wait_for_the_first_buffers() {
    let (mut driver, mut peer) = started(256, 0);
    for number in 0..100 {
        peer.write_all(&framed(&incoming(200, number))).unwrap();
    }
    for slot in 0..100 {
        post(&mut driver, slot, 2048);
        assert_eq!(received(&mut driver, slot), incoming(200, slot as u32));
    }
}

#[test]
fn what_is_no_frame_is_dropped_and_counted() {
    let (ours, mut peer) = UnixStream::pair().unwrap();
    let net = card(ours);
    let counters = net.counters();
    let mut driver = Driver::started(net, 64, 0);
    let good = outgoing(60, 1);
    driver.put(SEND, &[0; HEADER]);
    driver.put(SEND + HEADER as u64, &good);
    let spoofed = SEND + 0x1000;
    driver.put(spoofed, &[0; HEADER]);
    driver.put(spoofed + HEADER as u64, &frame(OTHER, OTHER, 60, 2));
    let huge = [readable(SEND, 72), readable(RECEIVE, (MAX_FRAME - 59) as u32)];
    let bad: [&[Buf]; 9] = [
        &[readable(SEND, 0)],
        &[readable(SEND, 1)],
        &[readable(SEND, 11)],
        &[readable(SEND, HEADER as u32)],
        &[readable(SEND, HEADER as u32 + 13)],
        &[readable(spoofed, 72)],
        &[writable(SEND, 72)],
        &[readable(SEND, 72), writable(SEND + 72, 10)],
        &huge,
    ];
    for bufs in bad {
        assert_eq!(driver.transact(TX, bufs), 0);
    }
    // The first thing that comes out is the first good frame.
    send(&mut driver, &good);
    assert_eq!(receive_from(&mut peer), good);
    assert_eq!(counters.send_dropped.load(Ordering::Relaxed), 9);
}

#[test]
fn counters_tell_what_happened() {
    let (ours, mut peer) = UnixStream::pair().unwrap();
    let net = card(ours);
    let counters = net.counters();
    let mut driver = Driver::started(net, 64, 0);
    send(&mut driver, &outgoing(60, 1));
    send(&mut driver, &frame(OTHER, OTHER, 60, 2));
    post(&mut driver, 0, 100);
    peer.write_all(&framed(&incoming(1000, 1))).unwrap();
    peer.write_all(&framed(&incoming(60, 2))).unwrap();
    assert_eq!(received(&mut driver, 0), incoming(60, 2));
    let value = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
    assert_eq!((value(&counters.sent), value(&counters.send_dropped)), (1, 1));
    assert_eq!((value(&counters.received), value(&counters.receive_dropped)), (1, 1));
    assert_eq!((value(&counters.sent_bytes), value(&counters.received_bytes)), (60, 60));
}

/// A card whose frames are carried by who connects to it, and that socket.
fn served(backend: fn(UnixListener) -> NetBackend) -> (Net, UnixListener, tempfile::TempDir) {
    let folder = tempfile::tempdir().unwrap();
    let listener = UnixListener::bind(folder.path().join("socket")).unwrap();
    let backend = backend(listener.try_clone().unwrap());
    (Net::new(rvm::vmm::Net { mac: MAC, backend }).unwrap(), listener, folder)
}

#[test]
fn frames_that_nobody_takes_are_dropped_and_counted() {
    let (net, ..) = served(NetBackend::Listen);
    let counters = net.counters();
    let mut driver = Driver::started(net, 64, 0);
    for number in 0..3 {
        send(&mut driver, &outgoing(60, number));
    }
    let value = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
    assert_eq!((value(&counters.sent), value(&counters.sent_bytes)), (0, 0));
    assert_eq!(value(&counters.send_dropped), 3);
}

#[test]
fn guest_looks_at_the_checksums_of_its_neighbours() {
    for (backend, flags) in [(NetBackend::Listen as fn(_) -> _, 2), (NetBackend::Neighbours as fn(_) -> _, 0)]
    {
        let (net, listener, _folder) = served(backend);
        let mut peer = UnixStream::connect_addr(&listener.local_addr().unwrap()).unwrap();
        let mut driver = Driver::new(net, 16);
        // GUEST_CSUM, which only who makes frames can answer for.
        let features = driver.offered() & (1 << 1);
        assert_eq!(features != 0, flags != 0);
        driver.start(features);
        receives_with_flags(&mut driver, &mut peer, flags);
    }
}

/// A frame comes whole, behind a header with those flags.
pub fn receives_with_flags(driver: &mut Driver, peer: &mut UnixStream, flags: u8) {
    post(driver, 0, 2048);
    peer.write_all(&framed(&incoming(100, 1))).unwrap();
    let (_, len) = driver.used(RX);
    let got = driver.get(RECEIVE, len as usize);
    assert_eq!(got[..HEADER], [flags, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0]);
    assert_eq!(got[HEADER..], incoming(100, 1));
}

#[test]
fn driver_that_breaks_a_queue_needs_a_reset_and_the_card_lives() {
    for queue in [RX, TX] {
        let (mut driver, mut peer) = started(16, 0);
        driver.set_avail_index(driver.queues[queue].avail, 17);
        driver.kick(queue);
        peer.write_all(&framed(&incoming(100, 1))).unwrap();
        driver.wait_broken();
        driver.reset();
        driver.start(0);
        driver.submit(queue, &[writable(LOW_END - 1, 2)]);
        driver.wait_broken();
        driver.reset();
        driver.start(0);
        assert_eq!(driver.status() & DEVICE_NEEDS_RESET, 0);
        send(&mut driver, &outgoing(60, 3));
        assert_eq!(receive_from(&mut peer), outgoing(60, 3));
        post(&mut driver, 0, 2048);
        // The frame from before the faults is still there.
        assert_eq!(received(&mut driver, 0), incoming(100, 1));
    }
}

#[test]
fn kicks_for_ever_do_not_keep_a_card_from_being_reset() {
    let (mut driver, mut peer) = started(16, 0);
    let storms = [Storm::on(&driver, RX), Storm::on(&driver, TX)];
    for number in 0..20 {
        let frame = outgoing(60, number);
        send(&mut driver, &frame);
        assert_eq!(receive_from(&mut peer), frame);
        post(&mut driver, 0, 2048);
        peer.write_all(&framed(&incoming(60, number))).unwrap();
        assert_eq!(received(&mut driver, 0), incoming(60, number));
        driver.reset();
        driver.start(0);
    }
    drop(storms);
}

#[test]
fn config_space_takes_any_access() {
    let (mut driver, _peer) = started(16, 0);
    let mut config = vec![0; 0x40];
    driver.transport.read(0x100, &mut config);
    for offset in 0..0x40usize {
        for width in 0..=8 {
            let mut data = vec![0xff; width];
            driver.transport.write(0x100 + offset as u64, &data);
            driver.transport.read(0x100 + offset as u64, &mut data);
            let mut expected = config[offset..].to_vec();
            expected.resize(width.max(expected.len()), 0);
            assert_eq!(data, expected[..width], "{width} bytes at {offset:#x}");
        }
    }
}

#[test]
fn both_queues_have_to_be_ready() {
    use rvm::vmm::virtio::mmio::status::{ACKNOWLEDGE, DRIVER, DRIVER_OK, FEATURES_OK};
    for queue in [RX, TX] {
        let (ours, _peer) = UnixStream::pair().unwrap();
        let mut driver = Driver::new(card(ours), 16);
        driver.agree(0);
        driver.configure(queue);
        driver.write(STATUS, ACKNOWLEDGE | DRIVER | FEATURES_OK | DRIVER_OK);
        assert_ne!(driver.status() & DEVICE_NEEDS_RESET, 0);
    }
}

fn refused(mac: [u8; 6], backend: NetBackend) -> NetError {
    match Net::new(rvm::vmm::Net { mac, backend }) {
        Err(Error::Net(error)) => error,
        other => panic!("{other:?}"),
    }
}

#[test]
fn back_end_has_to_be_what_it_is_said_to_be() {
    use std::os::unix::net::UnixDatagram;
    let file = std::fs::File::open("/dev/null").unwrap();
    let stream = |fd| refused(MAC, NetBackend::Stream(fd));
    assert!(matches!(stream(file.into()), NetError::NotAStream(_)));
    let (datagram, _other) = UnixDatagram::pair().unwrap();
    assert!(matches!(stream(datagram.into()), NetError::NotAStream(_)));
    let folder = tempfile::tempdir().unwrap();
    let listener = UnixListener::bind(folder.path().join("socket")).unwrap();
    assert!(matches!(stream(listener.into()), NetError::NotAStream(_)));
    for name in ["", "rvm-no-such-if", "a-name-of-more-than-fifteen-bytes", "nul\0"] {
        let error = refused(MAC, NetBackend::Tap(name.to_owned()));
        assert!(matches!(error, NetError::NoInterface { .. }), "{name:?}: {error:?}");
    }
    let (ours, _peer) = UnixStream::pair().unwrap();
    let error = refused([1, 0, 0, 0, 0, 1], NetBackend::Stream(ours.into()));
    assert!(matches!(error, NetError::Mac { .. }));
    assert!(error.to_string().contains("01:00:00:00:00:01"));
}
