//! The network device: headers that leave work to it, good and bad.

use std::os::unix::net::UnixStream;
use std::sync::atomic::Ordering;
use std::time::Duration;

use proptest::prelude::*;

use crate::driver::*;
use crate::net::*;

const CSUM: u64 = 1 << 0;
const GUEST_CSUM: u64 = 1 << 1;
const ALL: u64 = CSUM | GUEST_CSUM;

const NEEDS_CSUM: u8 = 1;
const TCPV4: u8 = 1;
const TCPV6: u8 = 4;
const ECN: u8 = 0x80;

/// The header of a frame, as the driver writes it.
#[derive(Clone, Copy, Debug)]
struct Asked {
    flags: u8,
    gso: u8,
    hdr_len: u16,
    gso_size: u16,
    start: u16,
    offset: u16,
}

impl Asked {
    fn bytes(self) -> Vec<u8> {
        let words = [self.hdr_len, self.gso_size, self.start, self.offset, 0xffff];
        [self.flags, self.gso].into_iter().chain(words.into_iter().flat_map(u16::to_le_bytes)).collect()
    }
}

/// A UDP datagram whose checksum is to be finished.
const UDP: Asked = Asked { flags: NEEDS_CSUM, gso: 0, hdr_len: 0, gso_size: 0, start: 34, offset: 6 };
/// TCP segments of 1460 bytes over IPv4: nothing for a stream.
const TCP: Asked =
    Asked { flags: NEEDS_CSUM, gso: TCPV4, hdr_len: 54, gso_size: 1460, start: 34, offset: 16 };

/// A frame over IPv4 whose checksum field, at `asked`'s place, holds the sum of the pseudo-header,
/// with room for a TCP header of 20 bytes.
fn unfinished(asked: Asked, len: usize, number: u32) -> Vec<u8> {
    let mut frame = outgoing(len, number);
    frame[14..34].fill(0);
    frame[26..34].copy_from_slice(&[10, 0, 2, 15, 10, 0, 2, 2]);
    let protocol = if asked.offset == 6 { 17 } else { 6 };
    if protocol == 6 {
        frame[34 + 12] = 5 << 4;
    }
    let sum = add(&frame[26..34], protocol + (len - 34) as u32);
    let field = usize::from(asked.start + asked.offset);
    frame[field..field + 2].copy_from_slice(&sum.to_be_bytes());
    frame
}

/// Ones' complement sum of 16-bit words in network order (RFC 1071).
fn add(bytes: &[u8], mut sum: u32) -> u16 {
    for pair in bytes.chunks(2) {
        sum += u32::from(pair[0]) << 8 | pair.get(1).map_or(0, |low| u32::from(*low));
    }
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    sum as u16
}

/// Whether a receiver finds the transport checksum right.
fn is_right(frame: &[u8], protocol: u32) -> bool {
    add(&frame[34..], u32::from(add(&frame[26..34], protocol + (frame.len() - 34) as u32))) == 0xffff
}

/// Sends a frame behind `header` and waits until the card is done with it.
fn send_asking(driver: &mut Driver, header: &[u8], frame: &[u8]) {
    driver.put(SEND, header);
    driver.put(SEND + HEADER as u64, frame);
    assert_eq!(driver.transact(TX, &[readable(SEND, (HEADER + frame.len()) as u32)]), 0);
}

#[test]
fn stream_offers_what_a_peer_that_takes_frames_can_do() {
    let (ours, _peer) = UnixStream::pair().unwrap();
    let mut driver = Driver::new(card(ours), 16);
    let offered = driver.offered();
    assert_eq!(offered & ALL, ALL);
    // No MTU, no segments, no UDP of any kind.
    for bit in [3, 7, 8, 9, 10, 11, 12, 13, 14, 54, 55, 56] {
        assert_eq!(offered & 1 << bit, 0, "feature {bit}");
    }
}

#[test]
fn checksum_is_finished_wherever_the_pieces_are_cut() {
    let (mut driver, mut peer) = started(64, ALL);
    let lens = [42, 43, 60, 61, 100, 255, 1000, 1001];
    for (number, len) in (0..).zip(lens) {
        let frame = unfinished(UDP, len, number);
        send_asking(&mut driver, &UDP.bytes(), &frame);
        let got = receive_from(&mut peer);
        assert!(is_right(&got, 17), "{len}");
        assert_eq!((&got[..40], &got[42..]), (&frame[..40], &frame[42..]));
        // What the guest may read stays as it is.
        assert_eq!(driver.get(SEND + HEADER as u64, len), frame);
    }
    let frame = unfinished(UDP, 700, 99);
    driver.put(SEND, &UDP.bytes());
    driver.put(SEND + HEADER as u64, &frame);
    // Odd pieces, one within the checksum.
    let mut bufs = Vec::new();
    let mut at = 0;
    for len in [5, 7 + 41, 1, 3, 0, 2, 655 - 2] {
        bufs.push(readable(SEND + at, len));
        at += u64::from(len);
    }
    assert_eq!(at, 712);
    driver.transact(TX, &bufs);
    assert!(is_right(&receive_from(&mut peer), 17));
}

#[test]
fn checksum_of_zero_is_sent_as_all_ones() {
    let (mut driver, mut peer) = started(16, ALL);
    let mut frame = unfinished(UDP, 60, 0);
    // The last two bytes make the sum all ones.
    frame[58..].fill(0);
    let rest = !add(&frame[34..], 0);
    frame[58..].copy_from_slice(&rest.to_be_bytes());
    send_asking(&mut driver, &UDP.bytes(), &frame);
    let got = receive_from(&mut peer);
    assert_eq!(got[40..42], [0xff, 0xff]);
    assert!(is_right(&got, 17));
}

#[test]
fn long_frame_goes_out_with_its_checksum() {
    let (mut driver, mut peer) = started(64, ALL);
    for (number, len) in (0..).zip([1514, 20_000, 65_535]) {
        for asked in [UDP, Asked { gso: 0, gso_size: 0, ..TCP }] {
            let frame = unfinished(asked, len, number);
            let reader = std::thread::spawn(move || {
                let got = receive_from(&mut peer);
                (peer, got)
            });
            send_asking(&mut driver, &asked.bytes(), &frame);
            let (back, got) = reader.join().unwrap();
            peer = back;
            assert!(is_right(&got, if asked.offset == 6 { 17 } else { 6 }), "{len}");
            let field = usize::from(asked.start + asked.offset);
            assert!(got[..field] == frame[..field] && got[field + 2..] == frame[field + 2..]);
        }
    }
}

#[test]
fn nothing_is_finished_that_was_not_agreed_on() {
    let (mut driver, mut peer) = started(16, 0);
    let frame = unfinished(UDP, 100, 1);
    send_asking(&mut driver, &UDP.bytes(), &frame);
    assert_eq!(receive_from(&mut peer), frame);
}

#[test]
fn bad_headers_are_dropped_and_counted_and_the_card_lives() {
    let (ours, mut peer) = UnixStream::pair().unwrap();
    peer.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    let net = card(ours);
    let counters = net.counters();
    let mut driver = Driver::started(net, 64, ALL);
    let bad = [
        // Where the sum begins: in the ethernet header, behind the frame.
        Asked { start: 0, ..UDP },
        Asked { start: 13, ..UDP },
        Asked { start: 1999, ..UDP },
        Asked { start: u16::MAX, ..UDP },
        // Where it goes: beyond the frame by a byte, beyond what is looked at, beyond 16 bits.
        Asked { start: 34, offset: 1965, ..UDP },
        Asked { start: 34, offset: 221, ..UDP },
        Asked { start: u16::MAX, offset: u16::MAX, ..UDP },
        // Segments: TCP as it should be, with nothing, UDP, ECN of nothing, unknown.
        TCP,
        Asked { gso: TCPV6, ..TCP },
        Asked { gso: TCPV4 | ECN, ..TCP },
        Asked { flags: 0, ..TCP },
        Asked { gso: 3, ..TCP },
        Asked { gso: 5, ..TCP },
        Asked { gso: ECN, ..TCP },
        Asked { gso: ECN, ..UDP },
        Asked { gso: 2, ..TCP },
        Asked { gso: 0xff, ..TCP },
    ];
    let frame = unfinished(TCP, 2000, 1);
    for asked in bad {
        send_asking(&mut driver, &asked.bytes(), &frame);
    }
    // A frame shorter than its headers.
    send_asking(&mut driver, &UDP.bytes(), &frame[..41]);
    assert_eq!(counters.send_dropped.load(Ordering::Relaxed), bad.len() as u64 + 1);
    // The first thing that comes out is the first good one.
    let good = unfinished(UDP, 80, 2);
    send_asking(&mut driver, &UDP.bytes(), &good);
    let got = receive_from(&mut peer);
    assert!(got.len() == 80 && is_right(&got, 17));
}

#[test]
fn guest_is_told_that_checksums_are_right_if_it_asked() {
    for (features, flags) in [(GUEST_CSUM, 2), (0, 0), (CSUM, 0)] {
        let (mut driver, mut peer) = started(16, features);
        receives_with_flags(&mut driver, &mut peer, flags);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Whatever headers say, a frame goes out whole, but for two bytes, or not at all.
    #[test]
    fn any_header_costs_at_most_its_frame(
        asked in prop::collection::vec((any::<[u8; 2]>(), prop::array::uniform4(0u16..200)), 1..20),
    ) {
        let (mut driver, mut peer) = started(64, ALL);
        let mut sent = Vec::new();
        for (number, ([flags, gso], [hdr_len, gso_size, start, offset])) in (0..).zip(asked) {
            let asked = Asked { flags, gso: (gso % 8) | (gso & ECN), hdr_len, gso_size, start, offset };
            let frame = outgoing(120, number);
            send_asking(&mut driver, &asked.bytes(), &frame);
            sent.push(frame);
        }
        let last = outgoing(60, u32::MAX);
        send_asking(&mut driver, &[0; HEADER], &last);
        let mut candidates = sent.into_iter();
        loop {
            let got = receive_from(&mut peer);
            if got == last {
                break;
            }
            let differing = |frame: &Vec<u8>| frame.iter().zip(&got).filter(|(a, b)| a != b).count();
            prop_assert!(candidates.any(|frame| frame.len() == got.len() && differing(&frame) <= 2));
        }
    }
}
