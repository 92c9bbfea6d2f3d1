//! The two streams of the process. Nothing else in the crate writes to them.

use std::io::{self, IsTerminal, Write};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};

/// Which stream of ours.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum To {
    /// Standard output: what was asked for.
    Stdout,
    /// Standard error: what is said about it.
    Stderr,
}

/// Standard output and error. A stream whose reader went away (`rvm … | head`) is dropped
/// quietly: the work goes on, the text has nowhere to go.
#[derive(Debug, Default)]
pub struct Sink {
    stdout_closed: AtomicBool,
    stderr_closed: AtomicBool,
    stdout_error: OnceLock<io::Error>,
}

impl Sink {
    /// Writes all of `data` and flushes it.
    pub fn write(&self, to: To, data: &[u8]) {
        let closed = self.flag(to);
        if closed.load(Ordering::Relaxed) {
            return;
        }
        let result = match to {
            To::Stdout => write_all(&mut io::stdout().lock(), data),
            To::Stderr => write_all(&mut io::stderr().lock(), data),
        };
        if let Err(error) = result {
            closed.store(true, Ordering::Relaxed);
            if to == To::Stdout && error.kind() != io::ErrorKind::BrokenPipe {
                // The first one is the one that counts.
                let _ = self.stdout_error.set(error);
            }
        }
    }

    /// Why standard output could not be written, if that was not just a reader that left.
    pub fn stdout_error(&self) -> Option<&io::Error> {
        self.stdout_error.get()
    }

    /// Whether a write to the stream failed, so that no further text arrives.
    pub fn is_closed(&self, to: To) -> bool {
        self.flag(to).load(Ordering::Relaxed)
    }

    fn flag(&self, to: To) -> &AtomicBool {
        match to {
            To::Stdout => &self.stdout_closed,
            To::Stderr => &self.stderr_closed,
        }
    }
}

fn write_all(stream: &mut impl Write, data: &[u8]) -> io::Result<()> {
    stream.write_all(data)?;
    stream.flush()
}

/// Whether the stream is a terminal.
pub fn is_terminal(to: To) -> bool {
    match to {
        To::Stdout => io::stdout().is_terminal(),
        To::Stderr => io::stderr().is_terminal(),
    }
}
