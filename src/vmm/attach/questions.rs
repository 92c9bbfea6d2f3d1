//! Takes questions to the terminal out of a guest's output.
//!
//! A terminal answers them as if somebody had typed. On a console with a history and any number of
//! readers there is no right answer: whoever attaches late would answer what was asked at boot
//! (systemd asks each console for its size), and two readers would answer twice. The size comes with
//! the device instead.
//!
//! Sequences are those of ECMA-48 and of xterm (Thomas Dickey, "XTerm Control Sequences").

/// Bytes of a sequence that are held until it is whole; a longer one is no question.
const MOST: usize = 256;
const ESC: u8 = 0x1b;
const BEL: u8 = 0x07;
/// "Who are you?"
const ENQ: u8 = 0x05;

/// Looks at a stream of output, however it is cut.
#[derive(Debug)]
pub(super) struct Questions {
    held: [u8; MOST],
    len: usize,
    within: Within,
}

/// What the held bytes are the beginning of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Within {
    Text,
    /// ESC.
    Escape,
    /// ESC [.
    Control,
    /// ESC ] (a command) or ESC P (a device control string).
    Words,
    /// The same, and an ESC that may end it.
    WordsEscape,
}

impl Questions {
    pub(super) fn new() -> Self {
        Self { held: [0; MOST], len: 0, within: Within::Text }
    }

    /// Gives what of `bytes` is no question to `out`, in order; what may become one is held back.
    pub(super) fn filter(&mut self, mut bytes: &[u8], mut out: impl FnMut(&[u8])) {
        while let Some((byte, rest)) = bytes.split_first() {
            if self.within == Within::Text {
                let text = bytes.iter().take_while(|byte| !matches!(**byte, ESC | ENQ)).count();
                let (text, rest) = bytes.split_at(text);
                out(text);
                bytes = rest;
                if let Some((byte, rest)) = rest.split_first() {
                    bytes = rest;
                    if *byte == ESC {
                        self.hold(ESC, Within::Escape, &mut out);
                    }
                }
                continue;
            }
            bytes = rest;
            self.step(*byte, &mut out);
        }
    }

    /// One byte of a sequence.
    fn step(&mut self, byte: u8, out: &mut impl FnMut(&[u8])) {
        match (self.within, byte) {
            (Within::Escape, b'[') => self.hold(byte, Within::Control, out),
            (Within::Escape, b']' | b'P') => self.hold(byte, Within::Words, out),
            (Within::Escape, b'Z') => self.forget(),
            (Within::Control, b' '..=b'?') => self.hold(byte, Within::Control, out),
            (Within::Control, b'@'..=b'~') if self.asks(byte) => self.forget(),
            (Within::Words, ESC) => self.hold(byte, Within::WordsEscape, out),
            (Within::Words, BEL) | (Within::WordsEscape, b'\\') if self.words_ask() => self.forget(),
            (Within::Words, b' '..) => self.hold(byte, Within::Words, out),
            // Whole and no question, or none of these sequences.
            (_, ESC) => {
                self.release(out);
                self.hold(ESC, Within::Escape, out);
            }
            _ => {
                self.release(out);
                out(&[byte]);
            }
        }
    }

    fn hold(&mut self, byte: u8, within: Within, out: &mut impl FnMut(&[u8])) {
        match self.held.get_mut(self.len) {
            Some(slot) => {
                *slot = byte;
                self.len += 1;
                self.within = within;
            }
            None => {
                self.release(out);
                out(&[byte]);
            }
        }
    }

    fn forget(&mut self) {
        (self.len, self.within) = (0, Within::Text);
    }

    fn release(&mut self, out: &mut impl FnMut(&[u8])) {
        out(self.held.get(..self.len).unwrap_or_default());
        self.forget();
    }

    /// Whether a control sequence that ends in `last` wants an answer.
    fn asks(&self, last: u8) -> bool {
        let middle = self.held.get(2..self.len).unwrap_or_default();
        match (middle, last) {
            // Status, position; `>` sets something.
            ([first, ..], b'n') => *first != b'>',
            // What are you; `?` is the shape of Linux's cursor.
            (middle, b'c') => middle.first() != Some(&b'?'),
            // Modes.
            ([.., b'$'], b'p') => true,
            // Keyboard, version, parameters.
            ([b'?'], b'u') | ([b'>', ..], b'q') | ([] | [b'0'..=b'9'], b'x') => true,
            // The window and its title.
            ([b'1', b'1' | b'3'..=b'6' | b'8' | b'9', ..] | [b'2', b'0' | b'1', ..], b't') => true,
            _ => false,
        }
    }

    /// Whether a command or a device control string wants an answer.
    fn words_ask(&self) -> bool {
        match self.held.get(1..self.len).unwrap_or_default() {
            [b'P', b'$' | b'+', b'q', ..] => true,
            [b']', words @ ..] => words.windows(2).any(|pair| pair == b";?"),
            _ => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn filtered(bytes: &[u8], cut: usize) -> Vec<u8> {
        let (mut questions, mut all) = (Questions::new(), Vec::new());
        for piece in bytes.chunks(cut) {
            questions.filter(piece, |bytes| all.extend(bytes));
        }
        all
    }

    #[test]
    fn questions_go_and_all_else_stays() {
        let questions: [&[u8]; 14] = [
            b"\x1b[6n",
            b"\x1b[?6n",
            b"\x1b[5n",
            b"\x1b[c",
            b"\x1b[0c",
            b"\x1b[>c",
            b"\x1b[?2026$p",
            b"\x1b[?u",
            b"\x1b[>0q",
            b"\x1b[18t",
            b"\x1b[21t",
            b"\x1b]11;?\x07",
            b"\x1b]4;1;?\x1b\\",
            b"\x1bP+q544e\x1b\\",
        ];
        let others: [&[u8]; 14] = [
            b"\x1b[1;31m",
            b"\x1b[2J",
            b"\x1b[?25h",
            b"\x1b[?0c",
            b"\x1b[!p",
            b"\x1b[>4;1n",
            b"\x1b[22;0t",
            b"\x1b[2 q",
            b"\x1b]0;title\x07",
            b"\x1b]8;;http://x/?y\x1b\\",
            b"\x1bPq#0~\x1b\\",
            b"\x1b(B",
            b"\x1b7",
            "ä€\r\n\t".as_bytes(),
        ];
        for cut in [1, 2, 3, 100] {
            for (question, other) in questions.iter().zip(others) {
                let text = [b"a", *question, other, b"b\x05c", *question, b"d"].concat();
                let expected = [b"a", other, b"bcd"].concat();
                assert_eq!(
                    String::from_utf8_lossy(&filtered(&text, cut)),
                    String::from_utf8_lossy(&expected),
                    "{}",
                    question.escape_ascii()
                );
            }
        }
        assert_eq!(filtered(b"\x1bZ\x1b\x1b[6n\x1b[3\n4m", 1), b"\x1b\x1b[3\n4m");
    }

    #[test]
    fn what_is_too_long_to_be_one_is_none() {
        let long = [&b"\x1b]52;c;"[..], &[b'x'; 2 * MOST], b"\x07end"].concat();
        assert_eq!(filtered(&long, 7), long);
        let endless = [&b"\x1b["[..], &[b'1'; 3 * MOST]].concat();
        assert_eq!(filtered(&endless, 1000), endless);
    }

    proptest! {
        /// It comes out the same however the stream is cut, and text stays as it is.
        #[test]
        fn cuts_change_nothing(
            bytes in prop::collection::vec(prop::sample::select(b"\x1b\x1b[]P?;6ncq\\\x07\x05a\n$0".to_vec()), 0..200),
            cut in 1usize..20,
        ) {
            prop_assert_eq!(filtered(&bytes, cut), filtered(&bytes, 1000));
            let text: Vec<u8> = bytes.iter().copied().filter(|byte| !matches!(*byte, ESC | ENQ)).collect();
            prop_assert_eq!(filtered(&text, cut), text);
        }
    }
}
