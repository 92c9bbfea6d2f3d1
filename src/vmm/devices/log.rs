//! Where the console goes when nobody watches: a file of bounded size.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;

/// Bytes that are moved at once when a log is full.
const STEP: usize = 64 << 10;

/// Appends to a file that never holds more than `limit` bytes: a full one is moved over `PATH.1`
/// and begins anew.
///
/// Both files are open from the start and never renamed: a sandbox that opens nothing is enough, and
/// whoever follows the log follows it for good.
#[derive(Debug)]
pub struct BoundedLog {
    file: File,
    older: File,
    limit: u64,
    /// Of `file`, in bytes.
    len: u64,
    step: Vec<u8>,
    /// Bytes that could not be written (a full disk), to be said once it works again.
    lost: u64,
}

impl BoundedLog {
    /// Opens or creates both files, readable by their owner only: consoles show what users type.
    ///
    /// # Errors
    /// When a file cannot be opened.
    pub fn open(path: &Path, limit: u64) -> io::Result<Self> {
        let mut name = path.as_os_str().to_owned();
        name.push(".1");
        let mut options = OpenOptions::new();
        options.read(true).create(true).mode(0o600);
        let file = options.append(true).open(path)?;
        let older = options.append(false).write(true).truncate(false).open(name)?;
        let len = file.metadata()?.len();
        Ok(Self { file, older, limit: limit.max(1), len, step: vec![0; STEP], lost: 0 })
    }

    fn rotate(&mut self) -> io::Result<()> {
        let mut moved = 0;
        loop {
            let count = self.file.read_at(&mut self.step, moved)?;
            let Some(part) = self.step.get(..count).filter(|part| !part.is_empty()) else { break };
            self.older.write_all_at(part, moved)?;
            moved += count as u64;
        }
        self.older.set_len(moved)?;
        self.file.set_len(0)?;
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
    use std::fs;

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
        log.write_all(b"NOP").unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"KLMNOP");
    }

    #[test]
    fn a_long_log_is_moved_whole_and_a_longer_older_one_is_gone() {
        let dir = tempfile::tempdir().unwrap();
        let (path, older) = (dir.path().join("log"), dir.path().join("log.1"));
        let limit = 3 * STEP / 2;
        fs::write(&older, vec![b'o'; 2 * limit]).unwrap();
        let mut log = BoundedLog::open(&path, limit as u64).unwrap();
        let text: Vec<u8> = (0..limit).map(|n| (n % 251) as u8).collect();
        log.write_all(&text).unwrap();
        log.write_all(b"x").unwrap();
        assert!(fs::read(&older).unwrap() == text, "the older log is not what was written");
        assert_eq!(fs::read(&path).unwrap(), b"x");
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
