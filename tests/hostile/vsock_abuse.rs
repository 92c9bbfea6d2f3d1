//! The socket device and guests that break its rules.

use std::io::{self, Write};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};

use rvm::vmm::virtio::vsock::{BUFFER, MAX_CONNECTIONS, MAX_RESETS};

use crate::driver::*;
use crate::vsock_guest::*;

#[test]
fn data_after_a_shutdown_resets_the_connection() {
    let mut rig = rig(16);
    let mut peer = rig.connect(OWN);
    rig.send(&Packet { flags: 2, ..Packet::new(SHUTDOWN, OWN, OPEN) }, &[]);
    rig.data(OWN, OPEN, b"more");
    rig.expect(RST);
    assert_ended(&mut peer);
    // A guest that wants nothing more gets nothing more.
    let mut peer = rig.connect(OWN);
    rig.send(&Packet { flags: 1, ..Packet::new(SHUTDOWN, OWN, OPEN) }, &[]);
    assert_eq!(peer.write_all(b"late").unwrap_err().kind(), io::ErrorKind::BrokenPipe);
    rig.data(OWN, OPEN, b"still");
    assert_eq!(read(&mut peer, 5), b"still");
    rig.quiet();
}

#[test]
fn peer_that_never_reads_costs_one_buffer() {
    let mut rig = rig(16);
    let peer = rig.connect(OWN);
    let mut sent = 0u32;
    // The guest keeps to its credit, which stops growing once the socket and the buffer are full.
    let mut forwarded = 0;
    let chunk = pattern(BUFFER as usize / 2);
    loop {
        while sent - forwarded <= BUFFER / 2 {
            rig.data(OWN, OPEN, &chunk);
            sent += BUFFER / 2;
        }
        rig.send(&Packet::new(CREDIT_REQUEST, OWN, OPEN), &[]);
        let (packet, _) = rig.expect(CREDIT_UPDATE);
        if packet.fwd_cnt == forwarded {
            break;
        }
        forwarded = packet.fwd_cnt;
        assert!(sent < 64 << 20, "the host takes everything");
    }
    assert!(sent - forwarded <= BUFFER);
    // One that does not keep to it is cut off.
    let room = BUFFER - (sent - forwarded);
    rig.data(OWN, OPEN, &vec![0; room as usize + 1]);
    rig.expect(RST);
    drop(peer);
    rig.quiet();
}

#[test]
fn credit_lies_reset_the_connection() {
    for lie in [1, 6, u32::MAX, 1 << 31] {
        let mut rig = rig(16);
        let mut peer = rig.connect(OWN);
        peer.write_all(b"12345").unwrap();
        rig.expect(RW);
        // More has left the guest's buffer than ever came into it, or it came back.
        let base = if lie == 1 {
            rig.send(&Packet { fwd_cnt: 5, ..Packet::new(CREDIT_UPDATE, OWN, OPEN) }, &[]);
            4
        } else {
            lie
        };
        rig.send(&Packet { fwd_cnt: base, ..Packet::new(CREDIT_UPDATE, OWN, OPEN) }, &[]);
        rig.expect(RST);
        assert_ended(&mut peer);
    }
}

#[test]
fn length_beyond_the_buffers_resets_the_connection() {
    for (len, there) in [(1, 0), (100, 99), (u32::MAX, 4), (BUFFER + 1, 4)] {
        let mut rig = rig(16);
        let mut peer = rig.connect(OWN);
        rig.send(&Packet { len, ..Packet::new(RW, OWN, OPEN) }, &pattern(there));
        rig.expect(RST);
        assert_ended(&mut peer);
        rig.connect(OWN);
    }
}

#[test]
fn bytes_beyond_the_length_are_ignored() {
    let mut rig = rig(16);
    let mut peer = rig.connect(OWN);
    rig.send(&Packet { len: 3, ..Packet::new(RW, OWN, OPEN) }, b"yesno");
    rig.data(OWN, OPEN, b"!");
    assert_eq!(read(&mut peer, 4), b"yes!");
}

#[test]
fn wrong_addresses_types_and_operations_are_refused() {
    let mut rig = rig(16);
    let request = Packet::new(REQUEST, OWN, OPEN);
    for dst_cid in [0, 1, 3, 4, u64::from(u32::MAX), u64::MAX, HOST | 1 << 32] {
        rig.refused(&Packet { dst_cid, ..request });
    }
    for kind in [0, 2, 3, u16::MAX] {
        rig.refused(&Packet { kind, ..request });
    }
    for op in [0, RESPONSE, SHUTDOWN, RW, CREDIT_UPDATE, CREDIT_REQUEST, 8, u16::MAX] {
        rig.refused(&Packet { op, ..request });
    }
    // On a connection they end it.
    for op in [0, REQUEST, RESPONSE, 8, u16::MAX] {
        let mut peer = rig.connect(OWN);
        rig.refused(&Packet { op, ..request });
        assert_ended(&mut peer);
    }
    assert_eq!(rig.counters.dropped.load(Ordering::Relaxed), 0);
    rig.quiet();
}

#[test]
fn packets_of_others_and_torn_headers_are_dropped() {
    let mut rig = rig(16);
    for src_cid in [0, HOST, 4, CID | 1 << 32, u64::MAX] {
        rig.send(&Packet { src_cid, ..Packet::new(REQUEST, OWN, OPEN) }, &[]);
    }
    for len in [1, 43] {
        rig.driver.transact(TX, &[readable(DATA, len)]);
    }
    rig.driver.transact(TX, &[writable(DATA, 4096)]);
    assert_eq!(rig.counters.dropped.load(Ordering::Relaxed), 8);
    rig.quiet();
    rig.connect(OWN);
}

#[test]
fn connect_flood_is_refused_beyond_the_limit() {
    let mut rig = rig(16);
    let mut peers: Vec<_> = (0..MAX_CONNECTIONS as u32).map(|at| rig.connect(OWN + at)).collect();
    for at in 0..100 {
        rig.refused(&Packet::new(REQUEST, 1 + at, OPEN));
    }
    // Nor is there room for the host.
    assert_ended(&mut rig.program("CONNECT 22\n"));
    rig.data(OWN + 255, OPEN, b"here");
    assert_eq!(read(&mut peers[255], 4), b"here");
    // One that leaves makes room for one.
    rig.send(&Packet::new(RST, OWN, OPEN), &[]);
    assert_ended(&mut peers[0]);
    let _peer = rig.connect(1);
    rig.refused(&Packet::new(REQUEST, 2, OPEN));
}

#[test]
fn reset_storm_is_bounded_and_not_answered() {
    let mut rig = rig(16);
    for at in 0..1000 {
        rig.send(&Packet::new(RST, at, OPEN), &[]);
    }
    rig.quiet();
    // Refusals that the guest does not take are dropped.
    let extra = 50;
    for at in 0..MAX_RESETS as u32 + extra {
        rig.send(&Packet::new(RW, at, OPEN), &[]);
    }
    assert_eq!(rig.counters.resets_dropped.load(Ordering::Relaxed), u64::from(extra));
    for at in 0..MAX_RESETS as u32 {
        assert_eq!(rig.expect(RST).0.dst_port, at);
    }
    rig.quiet();
}

#[test]
fn guest_that_offers_no_buffers_stops_nothing_else() {
    let mut rig = rig(16);
    rig.send(&Packet::new(REQUEST, OWN, OPEN), &[]);
    let mut peer = rig.peer();
    peer.write_all(b"waiting").unwrap();
    for _ in 0..100 {
        rig.data(OWN, OPEN, b"x");
    }
    assert_eq!(read(&mut peer, 100), [b'x'; 100]);
    rig.expect(RESPONSE);
    assert_eq!(rig.expect(RW).1, b"waiting");
}

#[test]
fn useless_receive_buffers_come_back_unused() {
    let mut rig = rig(16);
    rig.send(&Packet::new(REQUEST, OWN, OPEN), &[]);
    let _peer = rig.peer();
    for useless in [writable(BUFFERS, 43), writable(BUFFERS, 44), readable(BUFFERS, 4096)] {
        assert_eq!(rig.driver.transact(RX, &[useless]), 0);
    }
    // They moved the place of the next descriptor, and thereby its buffer.
    rig.expect(RESPONSE);
}

#[test]
fn driver_that_breaks_a_queue_needs_a_reset_and_the_host_is_told() {
    let mut rig = rig(16);
    let mut peer = rig.connect(OWN);
    rig.driver.describe(TX, 3, LOW_END, 64, 0, 0);
    rig.driver.offer(TX, 3);
    rig.driver.kick(TX);
    rig.driver.wait_broken();
    assert_ended(&mut peer);
    rig.driver.reset();
    rig.posted = 0;
    rig.driver.start(0);
    rig.connect(OWN);
}

/// A guest in a hurry: random packets on few ports, and nothing but its own connections suffers.
#[test]
fn random_packets_do_no_harm() {
    use proptest::prelude::*;
    use proptest::test_runner::{Config, TestRunner};

    let rig = Arc::new(Mutex::new(rig(16)));
    let packet =
        (0u16..10, 0u32..4, 0u32..3, any::<u32>(), prop_oneof![Just(0u32), any::<u32>()], 0usize..300);
    let many = prop::collection::vec(packet, 1..60);
    let mut runner = TestRunner::new(Config { cases: 64, failure_persistence: None, ..Config::default() });
    let result = runner.run(&many, |packets| {
        let mut rig = rig.lock().unwrap();
        for (op, own, port, flags, fwd_cnt, len) in packets {
            let sent = Packet {
                flags,
                fwd_cnt,
                buf_alloc: flags,
                len: len as u32 + flags % 2,
                ..Packet::new(op, own, OPEN - 1 + port)
            };
            rig.send(&sent, &pattern(len));
        }
        // What is for it is drained, and then it can still connect.
        rig.send(&Packet::new(RST, OWN, OPEN), &[]);
        rig.send(&Packet::new(REQUEST, OWN, OPEN), &[]);
        while rig.next().0.dst_port != OWN {}
        Ok(())
    });
    result.unwrap();
}
