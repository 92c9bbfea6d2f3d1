//! How bytes are written in file names, identifiers and the options of others.

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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn small_bytes_have_two_digits() {
        assert_eq!(hex(&[0, 1, 0xfe]), "0001fe");
        assert_eq!(mac_text(&[0x52, 0x54, 0, 1, 2, 0xff]), "52:54:00:01:02:ff");
    }
}
