//! From the bytes that a step prints to lines that are safe to show.

use crate::model::{Masker, Stream};

/// Longest line that is shown, in bytes.
const MAX_LINE: usize = 16 << 10;

/// What is gathered beyond that and thrown away: a secret that the cut splits lies in here, and
/// so it is never shown by half.
const SLACK: usize = 4 << 10;

/// Gathers the two streams of a step into lines and shows them, masked.
pub(super) struct Lines<'a> {
    show: &'a dyn Fn(Stream, String),
    masker: &'a Masker,
    stdout: Line,
    stderr: Line,
}

/// A line that is not yet at its end.
#[derive(Default)]
struct Line {
    bytes: Vec<u8>,
    /// The last byte was a carriage return: what follows, unless it is the line end, overwrites.
    returned: bool,
    /// Bytes were thrown away.
    cut: bool,
}

impl<'a> Lines<'a> {
    pub fn new(masker: &'a Masker, show: &'a dyn Fn(Stream, String)) -> Self {
        Lines { show, masker, stdout: Line::default(), stderr: Line::default() }
    }

    /// Takes what came on a stream.
    pub fn take(&mut self, stream: Stream, data: &[u8]) {
        if !data.contains(&b'\n') && !data.contains(&b'\r') {
            return self.line(stream).extend(data);
        }
        for &byte in data {
            let line = self.line(stream);
            if byte == b'\n' {
                let line = std::mem::take(line);
                self.show(stream, line);
            } else {
                line.push(byte);
            }
        }
    }

    fn line(&mut self, stream: Stream) -> &mut Line {
        match stream {
            Stream::Stdout => &mut self.stdout,
            Stream::Stderr => &mut self.stderr,
        }
    }

    /// Shows what came without a line end.
    pub fn flush(&mut self) {
        for stream in [Stream::Stdout, Stream::Stderr] {
            let line = std::mem::take(self.line(stream));
            if !line.bytes.is_empty() {
                self.show(stream, line);
            }
        }
    }

    fn show(&self, stream: Stream, line: Line) {
        let text = self.masker.mask(&harmless(&String::from_utf8_lossy(&line.bytes)));
        let text = if line.cut || text.len() > MAX_LINE { shortened(&text) } else { text };
        (self.show)(stream, text);
    }
}

impl Line {
    /// Takes bytes among which there is neither a line end nor a carriage return: a step may print a
    /// gigabyte of them.
    fn extend(&mut self, data: &[u8]) {
        let Some((first, rest)) = data.split_first() else { return };
        self.push(*first);
        let room = (MAX_LINE + SLACK).saturating_sub(self.bytes.len()).min(rest.len());
        self.bytes.extend_from_slice(rest.get(..room).unwrap_or_default());
        self.cut |= room < rest.len();
    }

    fn push(&mut self, byte: u8) {
        if byte == b'\r' {
            self.returned = true;
            return;
        }
        // A progress display: of its many states the last one is the line.
        if std::mem::take(&mut self.returned) {
            self.bytes.clear();
            self.cut = false;
        }
        if self.bytes.len() < MAX_LINE + SLACK {
            self.bytes.push(byte);
        } else {
            self.cut = true;
        }
    }
}

fn shortened(text: &str) -> String {
    let end = text.len().saturating_sub(SLACK).min(MAX_LINE);
    let end = (0..=end).rev().find(|&at| text.is_char_boundary(at)).unwrap_or(0);
    format!("{}… [line cut]", text.get(..end).unwrap_or_default())
}

/// The text without what could change more on a terminal than the line it is printed on: escape
/// sequences (ECMA-48 section 5.4, and the strings of 5.6), other control characters, and
/// characters that reorder text. Tabs stay.
pub(super) fn harmless(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut chars = text.chars().peekable();
    while let Some(c) = chars.next() {
        match c {
            '\u{1b}' => skip_escape(&mut chars),
            '\u{9b}' => skip_until_final(&mut chars),
            '\t' => out.push(c),
            '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{200e}' | '\u{200f}' => {}
            c if c.is_control() => {}
            c => out.push(c),
        }
    }
    out
}

type Chars<'a> = std::iter::Peekable<std::str::Chars<'a>>;

fn skip_escape(chars: &mut Chars<'_>) {
    match chars.next_if(|c| !c.is_control()) {
        Some('[') => skip_until_final(chars),
        // Operating system command, device control, privacy message, application command, string.
        Some(']' | 'P' | '^' | '_' | 'X') => {
            while let Some(c) = chars.next() {
                if c == '\u{7}' || c == '\u{9c}' || (c == '\u{1b}' && chars.next_if_eq(&'\\').is_some()) {
                    break;
                }
            }
        }
        // Intermediate bytes, then a final one.
        Some('\u{20}'..='\u{2f}') => {
            while chars.next_if(|c| ('\u{20}'..='\u{7e}').contains(c)).is_some_and(|c| c < '\u{30}') {}
        }
        _ => {}
    }
}

/// The rest of a control sequence: parameters up to a byte of 0x40 to 0x7e.
fn skip_until_final(chars: &mut Chars<'_>) {
    while let Some(c) = chars.next_if(|c| ('\u{20}'..='\u{7e}').contains(c)) {
        if c >= '\u{40}' {
            break;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::RefCell;

    fn shown(chunks: &[&[u8]], secrets: &[&str]) -> Vec<String> {
        let seen = RefCell::default();
        let masker = Masker::new(secrets.iter().copied());
        let show = |stream, line| Vec::push(&mut seen.borrow_mut(), (stream, line));
        let mut lines = Lines::new(&masker, &show);
        for chunk in chunks {
            lines.take(Stream::Stdout, chunk);
        }
        lines.flush();
        seen.into_inner().into_iter().map(|(_, line): (Stream, String)| line).collect()
    }

    #[test]
    fn lines_are_gathered_across_chunks_and_the_last_one_needs_no_end() {
        assert_eq!(shown(&[b"a", b"b\nc\r\n\n", b"d"], &[]), ["ab", "c", "", "d"]);
        assert_eq!(shown(&[b"ab\n"], &[]), ["ab"]);
    }

    #[test]
    fn a_secret_that_is_split_or_coloured_is_masked() {
        assert_eq!(shown(&[b"pw=hun", b"ter2!\n"], &["hunter2"]), ["pw=***!"]);
        assert_eq!(shown(&[b"hun\x1b[31mter2\n"], &["hunter2"]), ["***"]);
    }

    #[test]
    fn of_a_progress_display_the_last_state_is_shown() {
        assert_eq!(shown(&[b"10%\r50%\r", b"100%\r\nnext\n5%\r"], &[]), ["100%", "next", "5%"]);
    }

    #[test]
    fn streams_do_not_mix() {
        let seen = RefCell::default();
        let masker = Masker::default();
        let show = |stream, line| Vec::push(&mut seen.borrow_mut(), (stream, line));
        let mut lines = Lines::new(&masker, &show);
        lines.take(Stream::Stdout, b"ou");
        lines.take(Stream::Stderr, b"err\n");
        lines.take(Stream::Stdout, b"t\n");
        assert_eq!(seen.into_inner(), [(Stream::Stderr, "err".into()), (Stream::Stdout, "out".into())]);
    }

    #[test]
    fn what_could_harm_a_terminal_is_taken_out() {
        for (dirty, clean) in [
            ("\x1b[2J\x1b[1;31mred\x1b[0m", "red"),
            ("\x1b]0;title\x07a\x1b]8;;http://x\x1b\\b", "ab"),
            ("\x1bPq#0\x1b\\c", "c"),
            ("\x1b(Bd\x1bce", "de"),
            ("a\x08\x7f\0\tb", "a\tb"),
            ("\u{9b}31mx\u{202e}y\u{2066}", "xy"),
            ("end\x1b", "end"),
            ("end\x1b[", "end"),
            ("\x1b\x1b[31mz", "z"),
            ("Grüße ✓", "Grüße ✓"),
        ] {
            assert_eq!(harmless(dirty), clean, "{dirty:?}");
        }
    }

    #[test]
    fn bytes_that_are_no_text_are_shown_as_such() {
        assert_eq!(shown(&[b"a\xffb\n"], &[]), ["a\u{fffd}b"]);
    }

    #[test]
    fn a_gigabyte_without_a_line_end_costs_a_line() {
        let masker = Masker::default();
        let seen = RefCell::new(Vec::new());
        let show = |_, line| seen.borrow_mut().push(line);
        let mut lines = Lines::new(&masker, &show);
        let chunk = vec![b'x'; 1 << 20];
        lines.take(Stream::Stdout, b"10%\r");
        for _ in 0..1024 {
            lines.take(Stream::Stdout, &chunk);
            assert!(lines.stdout.bytes.capacity() <= 4 * (MAX_LINE + SLACK));
        }
        lines.take(Stream::Stdout, b"\nnext\n");
        let seen = seen.into_inner();
        assert_eq!((seen.len(), seen[1].as_str()), (2, "next"));
        assert!(seen[0].starts_with("xxx") && seen[0].ends_with("[line cut]"));
    }

    #[test]
    fn a_long_line_is_cut_and_a_secret_at_the_cut_is_not_shown() {
        let line = shown(&[&vec![b'x'; 5_000_000], b"\nnext\n"], &[]);
        assert_eq!(line.len(), 2);
        assert!(line[0].len() <= MAX_LINE + 20 && line[0].ends_with("[line cut]"));
        for fill in MAX_LINE - 10..MAX_LINE + SLACK + 10 {
            let mut data = vec![b'x'; fill];
            data.extend_from_slice(b"hunter2-and-more-of-it");
            data.resize(MAX_LINE + 3 * SLACK, b'y');
            let line = shown(&[&data], &["hunter2-and-more-of-it"]);
            assert!(!line[0].contains("hun"), "{fill}");
        }
    }
}
