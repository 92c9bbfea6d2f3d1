//! Checksum and segmentation offload: what the header before each frame asks for (virtio 1.2,
//! section 5.1.6).
//!
//! The guest leaves checksums unfinished and sends segments longer than its MTU; a TAP interface
//! takes both over, and for a stream the device finishes the checksum itself. UDP fragmentation is
//! not offered: it is deprecated, and no back-end that takes frames alone could cut a datagram up.

use super::batch::Rejected;
use super::{ETHERNET_HEADER, HEADER_LEN};

/// Feature bits (virtio 1.2, section 5.1.3).
pub(super) const F_CSUM: u64 = 1 << 0;
pub(super) const F_GUEST_CSUM: u64 = 1 << 1;
pub(super) const F_GUEST_TSO4: u64 = 1 << 7;
pub(super) const F_GUEST_TSO6: u64 = 1 << 8;
pub(super) const F_GUEST_ECN: u64 = 1 << 9;
pub(super) const F_HOST_TSO4: u64 = 1 << 11;
pub(super) const F_HOST_TSO6: u64 = 1 << 12;
pub(super) const F_HOST_ECN: u64 = 1 << 13;
/// What the guest may leave to us.
pub(super) const HOST: u64 = F_CSUM | F_HOST_TSO4 | F_HOST_TSO6 | F_HOST_ECN;
/// What a back-end that segments may leave to the guest.
pub(super) const GUEST: u64 = F_GUEST_CSUM | F_GUEST_TSO4 | F_GUEST_TSO6 | F_GUEST_ECN;

/// `VIRTIO_NET_HDR_F_NEEDS_CSUM`: the checksum is to be finished.
const NEEDS_CSUM: u8 = 1;
/// `VIRTIO_NET_HDR_F_DATA_VALID`: the checksum need not be looked at.
const DATA_VALID: u8 = 2;
/// `VIRTIO_NET_HDR_GSO_*`.
const GSO_NONE: u8 = 0;
const GSO_TCPV4: u8 = 1;
const GSO_TCPV6: u8 = 4;
const GSO_ECN: u8 = 0x80;
/// Where a TCP header has its checksum and its length in words of 32 bits (RFC 9293, section 3.1).
const TCP_CHECKSUM: usize = 16;
const TCP_LENGTH: usize = 12;
/// Bytes of the shortest TCP header.
const TCP_HEADER: usize = 20;

/// Bytes of a frame within which its checksum has to lie: all headers that there are in practice.
pub(super) const MAX_HEADERS: usize = 256;

/// The header of a frame that the guest is to take as it is.
pub(super) const PLAIN: [u8; HEADER_LEN] = [0; HEADER_LEN];
/// That of one whose checksum it need not look at.
pub(super) const VALID: [u8; HEADER_LEN] = [DATA_VALID, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];

/// What a driver asked for, checked against the length of its frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Offload {
    /// Where the sum begins and where it goes, as bytes of the frame.
    checksum: Option<(usize, usize)>,
    /// The frame is to be cut up as TCP segments.
    segment: bool,
    /// The header with nothing in it but what was checked.
    header: [u8; HEADER_LEN],
}

impl Offload {
    /// Nothing.
    const NONE: Self = Self { checksum: None, segment: false, header: PLAIN };

    /// Reads the header of a frame of `len` bytes. What was not agreed on is ignored where the
    /// specification says so, and refused where the frame would go out wrong.
    pub(super) fn parse(header: &[u8; HEADER_LEN], len: usize, features: u64) -> Result<Self, Rejected> {
        if features & F_CSUM == 0 {
            return Ok(Self::NONE);
        }
        let [flags, gso, hdr_len @ .., _, _] = header;
        let [hdr_low, hdr_high, size_low, size_high, start_low, start_high, offset_low, offset_high] =
            *hdr_len;
        let word = |low, high| usize::from(u16::from_le_bytes([low, high]));
        let (hdr_len, size) = (word(hdr_low, hdr_high), word(size_low, size_high));
        let (start, offset) = (word(start_low, start_high), word(offset_low, offset_high));
        let wanted = match gso & !GSO_ECN {
            GSO_NONE => 0,
            GSO_TCPV4 => F_HOST_TSO4,
            GSO_TCPV6 => F_HOST_TSO6,
            _ => return Err(Rejected),
        };
        let ecn = if gso & GSO_ECN == 0 { 0 } else { F_HOST_ECN };
        if (wanted | ecn) & !features != 0 || (wanted == 0 && ecn != 0) {
            return Err(Rejected);
        }
        let segment = wanted != 0;
        if flags & NEEDS_CSUM == 0 {
            return if segment { Err(Rejected) } else { Ok(Self::NONE) };
        }
        let field = start + offset;
        if start < ETHERNET_HEADER || field + 2 > len.min(MAX_HEADERS) {
            return Err(Rejected);
        }
        let tcp = offset == TCP_CHECKSUM && start + TCP_HEADER <= len;
        if segment && !(tcp && (1..=len).contains(&size) && hdr_len <= len) {
            return Err(Rejected);
        }
        let mut clean = *header;
        clean[0] = NEEDS_CSUM;
        if !segment {
            clean[2..6].fill(0);
        }
        clean[10..].fill(0);
        Ok(Self { checksum: Some((start, field)), segment, header: clean })
    }

    /// Bytes of the frame that have to be looked at or written to: up to the end of the checksum.
    pub(super) fn head_len(&self) -> usize {
        self.checksum.map_or(ETHERNET_HEADER, |(_, field)| field + 2)
    }

    /// Where the sum begins and where it goes.
    pub(super) fn checksum(&self) -> Option<(usize, usize)> {
        self.checksum
    }

    /// The header, for a back-end that does what it asks for.
    pub(super) fn header(&self) -> &[u8; HEADER_LEN] {
        &self.header
    }

    /// Checks what only the frame itself tells, given its first [`head_len`](Self::head_len) bytes:
    /// a TCP header that is to be repeated before each segment has to be there as a whole.
    pub(super) fn fits(&self, head: &[u8], len: usize) -> bool {
        let Some((start, _)) = self.checksum.filter(|_| self.segment) else { return true };
        let words = head.get(start + TCP_LENGTH).map_or(0, |byte| usize::from(byte >> 4));
        let header = words * 4;
        header >= TCP_HEADER && start + header <= len
    }
}

/// The header of an incoming frame of `len` bytes as the guest may have it; `None` when it asks
/// for what was not agreed on: such a frame was on its way before the driver changed its mind.
pub(super) fn incoming(header: &[u8; HEADER_LEN], features: u64) -> Option<[u8; HEADER_LEN]> {
    let [flags, gso, ..] = *header;
    let wanted = match gso & !GSO_ECN {
        GSO_NONE => 0,
        GSO_TCPV4 => F_GUEST_TSO4,
        GSO_TCPV6 => F_GUEST_TSO6,
        _ => return None,
    };
    let ecn = if gso & GSO_ECN == 0 { 0 } else { F_GUEST_ECN };
    let csum = if flags & NEEDS_CSUM == 0 && wanted == 0 { 0 } else { F_GUEST_CSUM };
    if (wanted | ecn | csum) & !features != 0 {
        return None;
    }
    if features & F_GUEST_CSUM == 0 {
        return Some(PLAIN);
    }
    let mut clean = *header;
    clean[0] &= NEEDS_CSUM | DATA_VALID;
    clean[10..].fill(0);
    Some(clean)
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: u64 = HOST | GUEST;

    fn header(flags: u8, gso: u8, words: [u16; 4]) -> [u8; HEADER_LEN] {
        let mut header = PLAIN;
        (header[0], header[1]) = (flags, gso);
        for (to, word) in header[2..10].chunks_mut(2).zip(words) {
            to.copy_from_slice(&word.to_le_bytes());
        }
        header[10..].fill(0xee);
        header
    }

    #[test]
    fn without_the_feature_the_header_means_nothing() {
        let everything = [0xff; HEADER_LEN];
        assert_eq!(Offload::parse(&everything, 60, GUEST), Ok(Offload::NONE));
        assert_eq!(Offload::parse(&PLAIN, 60, ALL), Ok(Offload::NONE));
        // Unknown flags are ignored (virtio 1.2, section 5.1.6.2.2).
        assert_eq!(Offload::parse(&header(0xfe, 0, [9; 4]), 60, ALL), Ok(Offload::NONE));
    }

    #[test]
    fn what_was_checked_is_all_that_is_passed_on() {
        let udp = Offload::parse(&header(0xff, 0, [40, 1000, 34, 6]), 60, ALL).unwrap();
        assert_eq!((udp.checksum(), udp.head_len()), (Some((34, 40)), 42));
        assert_eq!(*udp.header(), [1, 0, 0, 0, 0, 0, 34, 0, 6, 0, 0, 0]);
        let tcp = Offload::parse(&header(1, 0x81, [54, 1460, 34, 16]), 4000, ALL).unwrap();
        assert_eq!(*tcp.header(), [1, 0x81, 54, 0, 0xb4, 5, 34, 0, 16, 0, 0, 0]);
        let mut head = [0; 52];
        for (words, fits) in [(0, false), (4, false), (5, true), (15, true)] {
            head[34 + TCP_LENGTH] = words << 4;
            assert_eq!(tcp.fits(&head, 34 + 60), fits, "{words}");
        }
        assert!(!tcp.fits(&head, 34 + 59));
    }

    #[test]
    fn fields_have_to_lie_within_the_frame() {
        let refused = |flags, gso, words, len| {
            assert_eq!(
                Offload::parse(&header(flags, gso, words), len, ALL),
                Err(Rejected),
                "{gso} {words:?}"
            );
        };
        // Checksum: in the ethernet header, beyond the frame, beyond what we look at, overflowing.
        for (start, offset) in [(0, 0), (13, 6), (34, 25), (60, 0), (300, 6), (u16::MAX, u16::MAX)] {
            refused(1, 0, [0, 0, start, offset], 60);
        }
        refused(1, 0, [0, 0, 250, 6], 1000);
        assert!(Offload::parse(&header(1, 0, [0, 0, 250, 4]), 1000, ALL).is_ok());
        // Segments: not TCP's checksum, no size, size or headers beyond the frame, no room for TCP.
        let good = [54, 1460, 34, 16];
        for (at, value) in [(0, 4001), (1, 0), (1, 4001), (2, 3990), (3, 6)] {
            let mut bad = good;
            bad[at] = value;
            refused(1, 1, bad, 4000);
        }
        refused(1, 1, [52, 1, 34, 16], 52);
        // Without a checksum to finish there is nothing to repeat.
        refused(0, 1, good, 4000);
        // Types: UDP fragments, UDP segments, ECN alone, unknown.
        for gso in [2, 3, 5, 6, 0x7f, 0x80, 0x83, 0xff] {
            refused(1, gso, good, 4000);
        }
        // Not agreed on.
        for (gso, missing) in [(1, F_HOST_TSO4), (4, F_HOST_TSO6), (0x81, F_HOST_ECN)] {
            assert_eq!(Offload::parse(&header(1, gso, good), 4000, ALL & !missing), Err(Rejected));
            assert!(Offload::parse(&header(1, gso, good), 4000, ALL).is_ok());
        }
    }

    #[test]
    fn guest_gets_only_what_it_agreed_on() {
        let segment = header(1, 0x81, [54, 1460, 34, 16]);
        assert_eq!(incoming(&segment, ALL), Some([1, 0x81, 54, 0, 0xb4, 5, 34, 0, 16, 0, 0, 0]));
        for missing in [F_GUEST_CSUM, F_GUEST_TSO4, F_GUEST_ECN] {
            assert_eq!(incoming(&segment, ALL & !missing), None);
        }
        assert_eq!(incoming(&header(1, 4, [0; 4]), ALL & !F_GUEST_TSO6), None);
        assert_eq!(incoming(&header(1, 0, [0; 4]), ALL & !F_GUEST_CSUM), None);
        assert_eq!(incoming(&header(2, 0, [0; 4]), 0), Some(PLAIN));
        assert_eq!(incoming(&header(0xfe, 0, [0; 4]), ALL), Some(VALID));
        assert_eq!(incoming(&header(0, 3, [0; 4]), ALL), None);
    }
}
