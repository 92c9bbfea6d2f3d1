//! The internet checksum (RFC 1071) of bytes in guest memory.

use vm_memory::VolatileSlice;

/// Bytes that are copied out of guest memory at a time: they stay in the processor's first cache.
const CHUNK: usize = 2048;

/// A ones' complement sum that grows piece by piece, wherever the pieces are cut.
#[derive(Debug, Default, Clone, Copy)]
pub(super) struct Checksum {
    /// Little-endian words; the sum does not care about byte order until it is stored (RFC 1071,
    /// section 2). A frame has less than 2^15 words of 32 bits, so nothing is carried out of it.
    sum: u64,
    /// The next byte is the second of its 16-bit word.
    odd: bool,
}

impl Checksum {
    /// Adds `bytes`.
    pub(super) fn add(&mut self, bytes: &[u8]) {
        let mut rest = bytes;
        if self.odd
            && let Some((first, tail)) = rest.split_first()
        {
            self.sum += u64::from(*first) << 8;
            self.odd = false;
            rest = tail;
        }
        let (words, tail) = rest.as_chunks::<4>();
        self.sum += words.iter().map(|word| u64::from(u32::from_le_bytes(*word))).sum::<u64>();
        let mut last = [0; 4];
        for (to, from) in last.iter_mut().zip(tail) {
            *to = *from;
        }
        self.sum += u64::from(u32::from_le_bytes(last));
        self.odd ^= rest.len() % 2 == 1;
    }

    /// Adds what is in `slices`, each byte of which is read once.
    pub(super) fn add_guest(&mut self, slices: &[VolatileSlice<'_>]) {
        let mut buffer = [0; CHUNK];
        for slice in slices {
            let mut at = 0;
            while let Ok(rest) = slice.offset(at) {
                let count = rest.copy_to(&mut buffer);
                if count == 0 {
                    break;
                }
                self.add(buffer.get(..count).unwrap_or_default());
                at += count;
            }
        }
    }

    /// The checksum as it is sent. Never zero, which means "none" to UDP; all ones is the same number.
    pub(super) fn finish(self) -> [u8; 2] {
        let mut sum = self.sum;
        while sum > u64::from(u16::MAX) {
            sum = (sum >> 16) + (sum & u64::from(u16::MAX));
        }
        match !(sum as u16) {
            0 => [0xff, 0xff],
            checksum => checksum.to_le_bytes(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn of(pieces: &[&[u8]]) -> [u8; 2] {
        let mut sum = Checksum::default();
        for piece in pieces {
            sum.add(piece);
        }
        sum.finish()
    }

    /// RFC 1071, word by word in network order, as its section 4.1 does it.
    fn plain(bytes: &[u8]) -> [u8; 2] {
        let mut sum = 0u32;
        for pair in bytes.chunks(2) {
            sum += u32::from(pair[0]) << 8 | pair.get(1).map_or(0, |low| u32::from(*low));
            sum = (sum & 0xffff) + (sum >> 16);
        }
        match !(sum as u16) {
            0 => [0xff, 0xff],
            checksum => checksum.to_be_bytes(),
        }
    }

    #[test]
    fn known_vectors() {
        // RFC 1071, section 3: the sum of these is 0xddf2.
        assert_eq!(of(&[&[0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7]]), (!0xddf2u16).to_be_bytes());
        // An IPv4 header whose checksum, 0xb861, is left out.
        let header = [
            0x45, 0x00, 0x00, 0x73, 0x00, 0x00, 0x40, 0x00, 0x40, 0x11, 0x00, 0x00, 0xc0, 0xa8, 0x00, 0x01,
            0xc0, 0xa8, 0x00, 0xc7,
        ];
        assert_eq!(of(&[&header]), [0xb8, 0x61]);
        // Nothing sums up to zero, the complement of which is all ones; that of all ones is sent as
        // all ones too.
        assert_eq!(of(&[]), [0xff, 0xff]);
        assert_eq!(of(&[&[0xff, 0xff]]), [0xff, 0xff]);
    }

    #[test]
    fn longest_frame_of_ones_does_not_overflow() {
        assert_eq!(of(&[&[0xff; 65536]]), [0xff, 0xff]);
        assert_eq!(of(&[&[0xff; 65535]]), plain(&[0xff; 65535]));
    }

    proptest! {
        #[test]
        fn pieces_do_not_matter(
            bytes in prop::collection::vec(any::<u8>(), 0..9000),
            cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..6),
        ) {
            let mut cuts: Vec<_> = cuts.iter().map(|cut| cut.index(bytes.len() + 1)).collect();
            cuts.extend([0, bytes.len()]);
            cuts.sort_unstable();
            let pieces: Vec<_> = cuts.windows(2).map(|cut| &bytes[cut[0]..cut[1]]).collect();
            prop_assert_eq!(of(&pieces), plain(&bytes));
            // Guest memory cut the same way.
            let mut memory = bytes.clone();
            let whole = VolatileSlice::from(memory.as_mut_slice());
            let slices: Vec<_> =
                cuts.windows(2).map(|cut| whole.subslice(cut[0], cut[1] - cut[0]).unwrap()).collect();
            let mut sum = Checksum::default();
            sum.add_guest(&slices);
            prop_assert_eq!(sum.finish(), plain(&bytes));
        }
    }
}
