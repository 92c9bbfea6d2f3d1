//! What goes over a console's socket.
//!
//! From the machine: the guest's output as it is. To the machine: frames of one byte that says what
//! it is, two bytes of length (big-endian), and that many bytes.
//!
//! | kind | holds |
//! |---|---|
//! | 0 | what is typed |
//! | 1 | the size of the terminal: columns, then rows, two bytes each, big-endian |
//!
//! Whoever sends anything else is disconnected. The end of what is sent is not the end of what is
//! received: the socket may be shut down for writing only.

/// Bytes before what a frame holds.
const HEADER: usize = 3;
const INPUT: u8 = 0;
const SIZE: u8 = 1;

/// Size of a terminal in characters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Size {
    /// Characters in a line.
    pub columns: u16,
    /// Lines.
    pub rows: u16,
}

/// Appends frames that carry what was typed.
pub fn push_input(out: &mut Vec<u8>, typed: &[u8]) {
    for piece in typed.chunks(usize::from(u16::MAX)) {
        out.push(INPUT);
        out.extend((piece.len() as u16).to_be_bytes());
        out.extend(piece);
    }
}

/// Appends a frame that tells the size of the terminal.
pub fn push_size(out: &mut Vec<u8>, size: Size) {
    out.push(SIZE);
    out.extend(4u16.to_be_bytes());
    out.extend(size.columns.to_be_bytes());
    out.extend(size.rows.to_be_bytes());
}

/// What a frame brought.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Item<'a> {
    Input(&'a [u8]),
    Size(Size),
}

/// A frame that is none.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a frame of kind {kind} with {len} bytes")]
pub(super) struct BadFrame {
    kind: u8,
    len: u16,
}

/// Takes a stream of frames apart, however it is cut; holds a header and a size, never input.
#[derive(Debug, Default)]
pub(super) struct Parser {
    /// Header, and a size behind it.
    bytes: [u8; HEADER + 4],
    have: usize,
    /// Of the input frame that is being read.
    left: usize,
}

impl Parser {
    /// Takes the first item out of `bytes`; `None` when they are all taken and hold no whole one.
    pub(super) fn next<'a>(&mut self, bytes: &mut &'a [u8]) -> Result<Option<Item<'a>>, BadFrame> {
        loop {
            if self.left > 0 {
                let Some((now, rest)) = bytes.split_at_checked(self.left.min(bytes.len())) else {
                    return Ok(None);
                };
                *bytes = rest;
                self.left -= now.len();
                return Ok((!now.is_empty()).then_some(Item::Input(now)));
            }
            let Some((byte, rest)) = bytes.split_first() else { return Ok(None) };
            *bytes = rest;
            if let Some(slot) = self.bytes.get_mut(self.have) {
                *slot = *byte;
                self.have += 1;
            }
            let [kind, l0, l1, c0, c1, r0, r1] = self.bytes;
            let len = u16::from_be_bytes([l0, l1]);
            match (self.have, kind, len) {
                (..HEADER, ..) => {}
                (HEADER, INPUT, _) => (self.have, self.left) = (0, len.into()),
                (7, SIZE, _) => {
                    self.have = 0;
                    let (columns, rows) = (u16::from_be_bytes([c0, c1]), u16::from_be_bytes([r0, r1]));
                    return Ok(Some(Item::Size(Size { columns, rows })));
                }
                (_, SIZE, 4) => {}
                _ => return Err(BadFrame { kind, len }),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn parse(parser: &mut Parser, mut bytes: &[u8]) -> Result<(Vec<u8>, Vec<Size>), BadFrame> {
        let (mut input, mut sizes) = (Vec::new(), Vec::new());
        while let Some(item) = parser.next(&mut bytes)? {
            match item {
                Item::Input(typed) => input.extend(typed),
                Item::Size(size) => sizes.push(size),
            }
        }
        assert!(bytes.is_empty());
        Ok((input, sizes))
    }

    proptest! {
        /// However the stream is cut, the same comes out.
        #[test]
        fn frames_in_any_pieces(
            typed in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..300), 0..8),
            columns: u16,
            rows: u16,
            cut in 1usize..50,
        ) {
            let size = Size { columns, rows };
            let mut stream = Vec::new();
            for text in &typed {
                push_input(&mut stream, text);
                push_size(&mut stream, size);
            }
            let (mut parser, mut input, mut sizes) = (Parser::default(), Vec::new(), Vec::new());
            for piece in stream.chunks(cut) {
                let (more, sized) = parse(&mut parser, piece).unwrap();
                input.extend(more);
                sizes.extend(sized);
            }
            prop_assert_eq!(input, typed.concat());
            prop_assert_eq!(sizes, vec![size; typed.len()]);
        }

        /// Rubbish is refused or taken for frames, and nothing worse.
        #[test]
        fn rubbish_does_no_harm(bytes in prop::collection::vec(0u8..4, 0..400)) {
            let _ = parse(&mut Parser::default(), &bytes);
        }
    }

    #[test]
    fn what_is_no_frame_is_refused() {
        for bad in [&[2, 0, 0][..], &[1, 0, 3], &[1, 0, 5, 0], &[255, 255, 255]] {
            assert!(parse(&mut Parser::default(), bad).is_err(), "{bad:?}");
        }
        // An empty frame is one.
        assert_eq!(parse(&mut Parser::default(), &[0, 0, 0, 0, 0, 1, 7]), Ok((vec![7], vec![])));
    }

    #[test]
    fn much_is_typed_in_several_frames() {
        let mut stream = Vec::new();
        push_input(&mut stream, &[9; 100_000]);
        assert_eq!(parse(&mut Parser::default(), &stream).unwrap().0, [9; 100_000]);
    }
}
