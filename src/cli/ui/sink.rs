//! The two streams of the process. Nothing else in the crate writes to them.

use std::io::{self, IsTerminal, Write};
use std::sync::{Mutex, MutexGuard};

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
pub struct Sink {
    stdout: Mutex<Stream>,
    stderr: Mutex<Stream>,
}

struct Stream {
    writer: Box<dyn Write + Send>,
    terminal: bool,
    failure: Option<io::Error>,
}

impl Sink {
    /// The streams of this process.
    pub fn of_process() -> Self {
        Self::new(
            (Box::new(io::stdout()), io::stdout().is_terminal()),
            (Box::new(io::stderr()), io::stderr().is_terminal()),
        )
    }

    /// Any two streams, and whether each is a terminal.
    pub fn new(stdout: (Box<dyn Write + Send>, bool), stderr: (Box<dyn Write + Send>, bool)) -> Self {
        let stream = |(writer, terminal)| Mutex::new(Stream { writer, terminal, failure: None });
        Sink { stdout: stream(stdout), stderr: stream(stderr) }
    }

    /// Writes all of `data` and flushes it.
    pub fn write(&self, to: To, data: &[u8]) {
        let mut stream = self.stream(to);
        if stream.failure.is_none() {
            stream.failure = stream.writer.write_all(data).and_then(|()| stream.writer.flush()).err();
        }
    }

    /// Whether a write to the stream failed, so that no further text arrives.
    pub fn is_closed(&self, to: To) -> bool {
        self.stream(to).failure.is_some()
    }

    /// Why standard output could not be written, if that was not just a reader that left.
    pub fn stdout_error(&self) -> Option<String> {
        let stream = self.stream(To::Stdout);
        let failure = stream.failure.as_ref()?;
        (failure.kind() != io::ErrorKind::BrokenPipe).then(|| failure.to_string())
    }

    /// Whether the stream is a terminal.
    pub fn is_terminal(&self, to: To) -> bool {
        self.stream(to).terminal
    }

    fn stream(&self, to: To) -> MutexGuard<'_, Stream> {
        let stream = match to {
            To::Stdout => &self.stdout,
            To::Stderr => &self.stderr,
        };
        stream.lock().unwrap_or_else(|e| e.into_inner())
    }
}
