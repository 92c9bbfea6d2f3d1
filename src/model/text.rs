//! How bytes are written in file names, identifiers and the options of others, and read as lines.

use std::io::{BufRead, BufReader, Read};

/// Lower-case hexadecimal digits, two a byte.
pub fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write;
    bytes.iter().fold(String::new(), |mut out, byte| {
        // Writing to a string cannot fail.
        let _ = write!(out, "{byte:02x}");
        out
    })
}

/// An Ethernet address, such as `52:54:00:12:34:56`.
pub fn mac_text(mac: &[u8; 6]) -> String {
    mac.map(|byte| hex(&[byte])).join(":")
}

/// Longest line that is taken from a program as one, in bytes.
const LINE: u64 = 4096;

/// Gives each line of `stream`, without the white space at its end and cut at 4 KiB, to `line`, until the
/// stream ends or fails, or `line` says `false`.
pub fn each_line(stream: impl Read, mut line: impl FnMut(String) -> bool) {
    let mut reader = BufReader::new(stream);
    let mut bytes = Vec::new();
    loop {
        bytes.clear();
        match (&mut reader).take(LINE).read_until(b'\n', &mut bytes) {
            Ok(0) | Err(_) => return,
            Ok(_) => {}
        }
        if !line(String::from_utf8_lossy(&bytes).trim_end().to_owned()) {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_cut_and_can_be_left() {
        let text = [&b"one \n\xff\n"[..], &[b'x'; 5000]].concat();
        let read = |most: usize| {
            let mut lines = Vec::new();
            each_line(&text[..], |line| {
                lines.push(line.len());
                lines.len() < most
            });
            lines
        };
        assert_eq!(read(9), [3, 3, 4096, 904]);
        assert_eq!(read(2), [3, 3]);
    }

    #[test]
    fn small_bytes_have_two_digits() {
        assert_eq!(hex(&[0, 1, 0xfe]), "0001fe");
        assert_eq!(mac_text(&[0x52, 0x54, 0, 1, 2, 0xff]), "52:54:00:01:02:ff");
    }
}
