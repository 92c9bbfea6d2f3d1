//! Where the console goes when nobody watches: a file of bounded size.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

/// Appends to a file that never holds more than `limit` bytes: a full one becomes `PATH.1`
/// (the one before it is gone) and a new one begins.
#[derive(Debug)]
pub struct BoundedLog {
    path: PathBuf,
    limit: u64,
    file: File,
    len: u64,
    /// Bytes that could not be written (a full disk), to be said once it works again.
    lost: u64,
}

impl BoundedLog {
    /// Opens or creates the log, readable by its owner only: consoles show what users type.
    ///
    /// # Errors
    /// When the file cannot be opened for appending.
    pub fn open(path: &Path, limit: u64) -> io::Result<Self> {
        let file = OpenOptions::new().create(true).append(true).mode(0o600).open(path)?;
        let len = file.metadata()?.len();
        Ok(Self { path: path.to_owned(), limit: limit.max(1), file, len, lost: 0 })
    }

    fn rotate(&mut self) -> io::Result<()> {
        let mut old = self.path.clone().into_os_string();
        old.push(".1");
        fs::rename(&self.path, old)?;
        self.file = OpenOptions::new().create(true).append(true).mode(0o600).open(&self.path)?;
        self.len = 0;
        Ok(())
    }

    fn append(&mut self, buf: &[u8]) -> io::Result<usize> {
        if self.len >= self.limit {
            self.rotate()?;
        }
        let room = usize::try_from(self.limit - self.len).unwrap_or(usize::MAX);
        let written = self.file.write(buf.get(..room).unwrap_or(buf))?;
        self.len += written as u64;
        Ok(written)
    }
}

impl Write for BoundedLog {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        if self.lost > 0 {
            let note = format!("\n[{} bytes of console output lost]\n", self.lost);
            self.append(note.as_bytes())?;
            self.lost = 0;
        }
        self.append(buf).inspect_err(|e| {
            if e.kind() != io::ErrorKind::Interrupted {
                self.lost += buf.len() as u64;
            }
        })
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn len(path: &Path) -> u64 {
        fs::metadata(path).unwrap().len()
    }

    #[test]
    fn a_full_log_becomes_the_old_one() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("console.log");
        let mut log = BoundedLog::open(&path, 10).unwrap();
        log.write_all(b"0123456789abcdefghijKLM").unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"KLM");
        assert_eq!(fs::read(dir.path().join("console.log.1")).unwrap(), b"abcdefghij");
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 2);
    }

    #[test]
    fn neither_file_ever_exceeds_the_limit() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        let mut log = BoundedLog::open(&path, 64).unwrap();
        for round in 0..200usize {
            log.write_all(&vec![b'x'; round % 150]).unwrap();
            assert!(len(&path) <= 64);
        }
        assert!(len(&dir.path().join("log.1")) <= 64);
    }

    #[test]
    fn an_existing_log_is_continued() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        BoundedLog::open(&path, 8).unwrap().write_all(b"first").unwrap();
        BoundedLog::open(&path, 8).unwrap().write_all(b"second").unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"ond");
        assert_eq!(fs::read(dir.path().join("log.1")).unwrap(), b"firstsec");
    }

    #[test]
    fn what_was_lost_is_said_when_writing_works_again() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        let mut log = BoundedLog::open(&path, 1000).unwrap();
        log.file = File::open(&path).unwrap(); // not writable
        assert!(log.write_all(b"abc").is_err());
        log.file = OpenOptions::new().append(true).open(&path).unwrap();
        log.write_all(b"d").unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "\n[3 bytes of console output lost]\nd");
    }
}
