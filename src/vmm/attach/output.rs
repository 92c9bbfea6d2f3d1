//! The last output of a console, and who has read how far.

/// Bytes that are kept: what somebody sees who attaches late, and how far a reader may be behind.
pub const KEPT: usize = 64 << 10;

/// A ring of the last [`KEPT`] bytes; each byte has a number, counted from the first.
#[derive(Debug)]
pub(super) struct Output {
    ring: Box<[u8]>,
    end: u64,
}

impl Output {
    pub(super) fn new() -> Self {
        Self { ring: vec![0; KEPT].into_boxed_slice(), end: 0 }
    }

    /// The number of the oldest byte that is kept.
    pub(super) fn start(&self) -> u64 {
        self.end.saturating_sub(KEPT as u64)
    }

    /// The number that the next byte will have.
    pub(super) fn end(&self) -> u64 {
        self.end
    }

    pub(super) fn push(&mut self, bytes: &[u8]) {
        // Of more than there is room for, only the end stays.
        let skipped = bytes.len().saturating_sub(KEPT);
        self.end += skipped as u64;
        let mut rest = bytes.get(skipped..).unwrap_or_default();
        while !rest.is_empty() {
            let at = place(self.end);
            let room = self.ring.get_mut(at..).unwrap_or_default();
            let (now, later) = rest.split_at(rest.len().min(room.len()));
            for (to, from) in room.iter_mut().zip(now) {
                *to = *from;
            }
            self.end += now.len() as u64;
            rest = later;
        }
    }

    /// The bytes from number `from` on, as far as they lie in one piece; `from` is not before the start.
    pub(super) fn piece(&self, from: u64) -> &[u8] {
        let at = place(from);
        let len = usize::try_from(self.end.saturating_sub(from)).unwrap_or(0).min(KEPT - at);
        self.ring.get(at..at + len).unwrap_or_default()
    }
}

/// Where in the ring a byte is.
fn place(number: u64) -> usize {
    (number % KEPT as u64) as usize
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all(output: &Output, mut from: u64) -> Vec<u8> {
        let mut bytes = Vec::new();
        while from < output.end() {
            let piece = output.piece(from);
            bytes.extend(piece);
            from += piece.len() as u64;
        }
        bytes
    }

    #[test]
    fn the_last_bytes_are_kept() {
        let (mut output, mut everything) = (Output::new(), Vec::new());
        for (round, len) in [0, 1, 100, KEPT - 50, 7, KEPT, KEPT + 1, 3 * KEPT + 9, 5].into_iter().enumerate()
        {
            let bytes: Vec<u8> = (0..len).map(|n| (n * 7 + round) as u8).collect();
            output.push(&bytes);
            everything.extend(bytes);
            assert_eq!(output.end(), everything.len() as u64);
            assert!(all(&output, output.start()) == everything[everything.len().saturating_sub(KEPT)..]);
        }
        assert!(all(&output, output.end()).is_empty());
    }
}
