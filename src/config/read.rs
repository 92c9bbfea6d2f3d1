//! Bytes of a file → text, with limits.

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::FileTypeExt;
use std::path::Path;

/// No file written by hand comes near this; a larger one is something else.
pub(super) const LARGEST: u64 = 1024 * 1024;

/// Why a file gave no text.
#[derive(Debug)]
pub(super) enum ReadError {
    /// The operating system said no.
    Io(io::Error),
    /// A folder, a pipe, a device.
    NotAFile(&'static str),
    /// More than [`LARGEST`] bytes.
    TooLarge,
    /// Not UTF-8: the byte offset and the line of the first wrong byte.
    NotText {
        /// From 0.
        offset: usize,
        /// From 1.
        line: usize,
    },
}

/// The text of a regular file, without a byte order mark.
pub(super) fn text(path: &Path) -> Result<String, ReadError> {
    // Asked before opening: opening a pipe would wait for its other end.
    let kind = std::fs::metadata(path).map_err(ReadError::Io)?.file_type();
    if !kind.is_file() {
        return Err(ReadError::NotAFile(match () {
            () if kind.is_dir() => "a folder",
            () if kind.is_fifo() => "a pipe",
            () if kind.is_socket() => "a socket",
            () => "a device",
        }));
    }
    let mut bytes = Vec::new();
    File::open(path).and_then(|f| f.take(LARGEST + 1).read_to_end(&mut bytes)).map_err(ReadError::Io)?;
    if bytes.len() as u64 > LARGEST {
        return Err(ReadError::TooLarge);
    }
    let text = String::from_utf8(bytes).map_err(|e| {
        let offset = e.utf8_error().valid_up_to();
        let before = e.as_bytes().iter().take(offset);
        ReadError::NotText { offset, line: before.filter(|b| **b == b'\n').count() + 1 }
    })?;
    Ok(text.strip_prefix('\u{feff}').map(str::to_owned).unwrap_or(text))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(bytes: &[u8]) -> Result<String, ReadError> {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), bytes).unwrap();
        text(file.path())
    }

    #[test]
    fn text_comes_without_its_mark() {
        assert_eq!(of(b"\xef\xbb\xbfbox = 1").unwrap(), "box = 1");
        assert_eq!(of(b"").unwrap(), "");
    }

    #[test]
    fn what_is_no_text_says_where() {
        let error = of(b"ab\ncd\xffe").unwrap_err();
        assert!(matches!(error, ReadError::NotText { offset: 5, line: 2 }), "{error:?}");
        let large = vec![b'#'; LARGEST as usize + 1];
        assert!(matches!(of(&large), Err(ReadError::TooLarge)));
        assert!(of(&large[1..]).is_ok());
        let dir = tempfile::tempdir().unwrap();
        assert!(matches!(text(dir.path()), Err(ReadError::NotAFile("a folder"))));
        assert!(matches!(text(&dir.path().join("none")), Err(ReadError::Io(_))));
    }
}
