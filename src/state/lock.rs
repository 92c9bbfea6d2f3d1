//! Exclusive use of a machine or a box, across processes.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use thiserror::Error;

use super::store;
use crate::model::{Cancel, Code};

/// Pause between two looks at a lock that somebody else has.
const LOOK_AGAIN: Duration = Duration::from_millis(100);

/// How often, and with which pause, a lock is tried that somebody may only look at.
const LOOKS: u32 = 50;
const LOOK: Duration = Duration::from_millis(20);

/// Held until dropped; the kernel also drops it with the process.
#[derive(Debug)]
pub struct Lock {
    file: File,
}

/// Why a lock was not had.
#[derive(Debug, Error)]
pub enum LockError {
    /// The lock file cannot be made or locked.
    #[error("cannot lock {path}")]
    Io {
        /// The lock file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// Somebody else had it all the time.
    #[error("{holder} did not finish within {seconds} s", seconds = .waited.as_secs())]
    TimedOut {
        /// Who holds it.
        holder: String,
        /// How long it was waited for.
        waited: Duration,
    },
    /// The user pressed Ctrl-C while waiting.
    #[error("interrupted while waiting for {holder}")]
    Cancelled {
        /// Who held it.
        holder: String,
    },
}

impl LockError {
    /// Its stable code (`docs/errors.md`).
    pub fn code(&self) -> Code {
        match self {
            LockError::Io { .. } => Code::LockFile,
            LockError::TimedOut { .. } => Code::LockTimeout,
            LockError::Cancelled { .. } => Code::Interrupted,
        }
    }

    /// What to do next, where there is something to do.
    pub fn hint(&self) -> Option<String> {
        match self {
            LockError::Io { source, .. } => store::remedy(source),
            LockError::TimedOut { .. } | LockError::Cancelled { .. } => None,
        }
    }
}

impl Lock {
    /// Takes the lock at `path`, waiting while another process has it. `owner` says what we are
    /// (shown to those who wait); `waiting` is called once, with what the holder says it is.
    pub fn acquire(
        path: &Path,
        owner: &str,
        cancel: &Cancel,
        waiting: impl FnOnce(&str),
    ) -> Result<Lock, LockError> {
        Self::acquire_within(None, path, owner, cancel, waiting)
    }

    /// The same, waiting no longer than `patience`; `None`: for ever.
    pub fn acquire_within(
        patience: Option<Duration>,
        path: &Path,
        owner: &str,
        cancel: &Cancel,
        waiting: impl FnOnce(&str),
    ) -> Result<Lock, LockError> {
        let fail = |source| LockError::Io { path: path.to_owned(), source };
        let began = Instant::now();
        let mut waiting = Some(waiting);
        loop {
            match Self::try_acquire(path, owner).map_err(fail)? {
                Ok(lock) => return Ok(lock),
                Err(holder) => {
                    let left = patience.map(|patience| patience.saturating_sub(began.elapsed()));
                    if left.is_some_and(|left| left.is_zero()) {
                        return Err(LockError::TimedOut { holder, waited: began.elapsed() });
                    }
                    if let Some(tell) = waiting.take() {
                        tell(&holder);
                    }
                    // flock has no wait that a Ctrl-C of ours could end: look again instead.
                    if cancel.wait(LOOK_AGAIN.min(left.unwrap_or(LOOK_AGAIN))) {
                        return Err(LockError::Cancelled { holder });
                    }
                }
            }
        }
    }

    /// Takes the lock, or says who has it.
    pub fn try_acquire(path: &Path, owner: &str) -> io::Result<Result<Lock, String>> {
        if let Some(dir) = path.parent() {
            store::create_private_dir(dir)?;
        }
        let mut file =
            OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o600).open(path)?;
        match file.try_lock() {
            Ok(()) => {
                file.set_len(0)?;
                file.seek(SeekFrom::Start(0))?;
                write!(file, "{owner} (pid {})", std::process::id())?;
                Ok(Ok(Lock { file }))
            }
            Err(TryLockError::WouldBlock) => Ok(Err(name_of_holder(file))),
            Err(TryLockError::Error(error)) => Err(error),
        }
    }

    /// Takes a lock that others look at ([`Lock::holder`]), and have for that moment; `None` when somebody
    /// has it for longer.
    pub fn take(path: &Path, owner: &str) -> io::Result<Option<Lock>> {
        for _ in 0..LOOKS {
            if let Ok(lock) = Self::try_acquire(path, owner)? {
                return Ok(Some(lock));
            }
            Cancel::new().wait(LOOK);
        }
        Ok(None)
    }

    /// Whether it is still the one at `path`. With the folder of a lock, which its holder may remove, the lock
    /// goes; who waited for it has then one that keeps nobody out.
    pub fn is_at(&self, path: &Path) -> bool {
        let (Ok(mine), Ok(there)) = (self.file.metadata(), std::fs::metadata(path)) else { return false };
        (mine.dev(), mine.ino()) == (there.dev(), there.ino())
    }

    /// Waits until nobody has the lock at `path`: the event that somebody's process ended. Others may find it held
    /// for a moment then, as by [`Lock::holder`].
    ///
    /// # Errors
    /// `NotFound` when there never was one; others as the system says.
    pub fn wait(path: &Path) -> io::Result<()> {
        File::open(path)?.lock_shared()
    }

    /// Who holds the lock at `path` now; `None` when nobody does. For the moment that this takes,
    /// a [`Lock::try_acquire`] elsewhere may fail and find no name: it should try again.
    pub fn holder(path: &Path) -> io::Result<Option<String>> {
        let file = match File::open(path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error),
        };
        match file.try_lock_shared() {
            Ok(()) => Ok(None),
            Err(TryLockError::WouldBlock) => Ok(Some(name_of_holder(file))),
            Err(TryLockError::Error(error)) => Err(error),
        }
    }
}

/// What the holder wrote of itself.
fn name_of_holder(file: File) -> String {
    let mut name = String::new();
    file.take(500).read_to_string(&mut name).unwrap_or_default();
    if name.is_empty() { "another rvm".into() } else { name }
}

impl Drop for Lock {
    fn drop(&mut self) {
        // Whoever waits must not read a stale owner; failing to clear it harms nobody.
        let _ = self.file.set_len(0);
        let _ = self.file.unlock();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_second_waits_and_learns_who_has_it() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("sub/m.lock");
        let cancel = Cancel::new();
        let first = Lock::acquire(&path, "rvm up web", &cancel, |_| panic!("nobody has it")).unwrap();
        let (tell, told) = std::sync::mpsc::channel();
        let other = path.clone();
        let waiter = std::thread::spawn(move || {
            Lock::acquire(&other, "rvm halt", &Cancel::new(), |holder| tell.send(holder.to_owned()).unwrap())
                .map(drop)
                .is_ok()
        });
        let holder = told.recv().unwrap();
        assert!(holder.starts_with("rvm up web (pid "), "{holder}");
        drop(first);
        assert!(waiter.join().unwrap());
    }

    #[test]
    fn the_holder_is_seen_without_taking_the_lock() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("m.lock");
        assert_eq!(Lock::holder(&path).unwrap(), None);
        let lock = Lock::try_acquire(&path, "a").unwrap().unwrap();
        assert!(Lock::holder(&path).unwrap().unwrap().starts_with("a (pid "));
        drop(lock);
        assert_eq!(Lock::holder(&path).unwrap(), None);
    }

    #[test]
    fn the_end_of_a_holder_is_an_event() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("m.lock");
        assert_eq!(Lock::wait(&path).unwrap_err().kind(), io::ErrorKind::NotFound);
        let lock = Lock::try_acquire(&path, "a").unwrap().unwrap();
        let (tell, told) = std::sync::mpsc::channel();
        let other = path.clone();
        let waiter = std::thread::spawn(move || {
            tell.send(()).unwrap();
            Lock::wait(&other)
        });
        told.recv().unwrap();
        assert!(!waiter.is_finished());
        drop(lock);
        waiter.join().unwrap().unwrap();
        assert!(Lock::take(&path, "b").unwrap().is_some());
    }

    #[test]
    fn patience_ends() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("m.lock");
        let first = Lock::try_acquire(&path, "rvm up web").unwrap().unwrap();
        for patience in [0, 20].map(Duration::from_millis) {
            let within = |patience| Lock::acquire_within(patience, &path, "b", &Cancel::new(), |_| ());
            let error = within(Some(patience)).unwrap_err();
            assert!(error.to_string().starts_with("rvm up web (pid "), "{error}");
            assert!(matches!(error, LockError::TimedOut { waited, .. } if waited >= patience));
        }
        drop(first);
        assert!(Lock::acquire_within(Some(Duration::ZERO), &path, "b", &Cancel::new(), |_| ()).is_ok());
    }

    #[test]
    fn a_wait_ends_with_cancel() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("m.lock");
        let _first = Lock::try_acquire(&path, "a").unwrap().unwrap();
        let cancel = Cancel::new();
        cancel.cancel();
        let error = Lock::acquire(&path, "b", &cancel, |_| ()).unwrap_err();
        assert!(matches!(error, LockError::Cancelled { .. }));
    }
}
