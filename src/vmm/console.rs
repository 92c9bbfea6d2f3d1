//! Both ends of the serial line: where its output goes, and who types.

use std::io::{self, Write};
use std::os::fd::AsFd;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;
use rustix::stdio::stdin;

use super::devices::log::BoundedLog;
use super::devices::terminal::{Escape, RawMode, Stdout};
use super::ending::{End, Ending};
use super::machine::Machine;
use super::{Error, Serial, release, sandbox};

/// What the serial port writes to; opened once, for all lives of a machine.
#[derive(Debug)]
pub enum Output {
    /// A log.
    Log(SharedLog),
    /// Standard output.
    Stdio,
}

impl Output {
    /// Opens it.
    ///
    /// # Errors
    /// [`Error::Log`].
    pub fn open(serial: &Serial) -> Result<Self, Error> {
        Ok(match serial {
            Serial::Log { path, limit } => {
                let log = BoundedLog::open(path, *limit);
                let log = log.map_err(|source| Error::Log { path: path.clone(), source })?;
                Self::Log(SharedLog(Arc::new(Mutex::new(log))))
            }
            Serial::Stdio => Self::Stdio,
        })
    }

    /// For the serial port of the life that ends with `ending`.
    pub fn writer(&self, ending: &Ending) -> Box<dyn Write + Send> {
        match self {
            Self::Log(log) => Box::new(log.clone()),
            Self::Stdio => Box::new(Stdout::new(ending.stopping().clone())),
        }
    }
}

/// A log that one life of a machine after the other writes to.
#[derive(Debug, Clone)]
pub struct SharedLog(Arc<Mutex<BoundedLog>>);

impl Write for SharedLog {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).write(buf)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// How long a guest runs until what only its start needed is given back: its drivers have set up their
/// devices by then.
const SETTLING: Duration = Duration::from_secs(2);

/// Bytes read from standard input at once.
const CHUNK: usize = 64;

/// Input to the serial port; lasts over resets.
#[derive(Debug, Default)]
pub struct Console {
    /// Restores the terminal when dropped.
    raw: Option<RawMode>,
    input_open: bool,
    escape: Escape,
    /// Read and not yet taken by the guest.
    pending: Vec<u8>,
}

impl Console {
    /// Takes standard input, if that is what `serial` says.
    ///
    /// # Errors
    /// [`Error::Terminal`].
    pub fn open(serial: &Serial) -> Result<Self, Error> {
        match serial {
            Serial::Log { .. } => Ok(Self::default()),
            Serial::Stdio => {
                let raw = RawMode::enter().map_err(Error::Terminal)?;
                Ok(Self { raw, input_open: true, ..Self::default() })
            }
        }
    }

    /// Feeds the serial port of `machine` until there is a reason to end it.
    ///
    /// # Errors
    /// What a virtual CPU or the wait itself failed with.
    pub fn serve(&mut self, machine: &Machine) -> Result<End, Error> {
        let mut settled = sandbox::is_inside().then(|| Instant::now() + SETTLING);
        loop {
            if let Some(reason) = machine.ending.take() {
                return reason;
            }
            let mut fds = vec![PollFd::new(machine.ending.event(), PollFlags::IN)];
            let stdin = stdin();
            if !self.pending.is_empty() {
                fds.push(PollFd::new(&machine.drained, PollFlags::IN));
            } else if self.input_open {
                fds.push(PollFd::from_borrowed_fd(stdin.as_fd(), PollFlags::IN));
            }
            let left = settled.map(|time| time.saturating_duration_since(Instant::now()));
            match poll(&mut fds, left.and_then(|left| left.try_into().ok()).as_ref()) {
                Ok(_) | Err(Errno::INTR) => {}
                Err(e) => return Err(Error::Kvm { what: "event loop", source: e.into() }),
            }
            if settled.is_some_and(|time| Instant::now() >= time) {
                release::pages_of_the_start();
                settled = None;
            }
            if fds.get(1).is_some_and(|fd| !fd.revents().is_empty()) {
                self.feed(machine);
            }
        }
    }

    fn feed(&mut self, machine: &Machine) {
        if self.pending.is_empty() {
            self.read(&machine.ending);
        } else {
            machine.drained.clear();
        }
        let mut serial = machine.serial.lock().unwrap_or_else(PoisonError::into_inner);
        let taken = serial.receive(&self.pending);
        self.pending.drain(..taken.min(self.pending.len()));
    }

    fn read(&mut self, ending: &Ending) {
        let mut chunk = [0; CHUNK];
        match rustix::io::read(stdin(), &mut chunk) {
            Ok(0) => self.input_open = false,
            Ok(len) => {
                self.pending.extend_from_slice(chunk.get(..len).unwrap_or_default());
                // Only who sits at a terminal needs a way out; a pipe carries what it carries.
                if self.raw.is_some() && self.escape.filter(&mut self.pending) {
                    ending.finish(Ok(End::Stop));
                }
            }
            Err(Errno::INTR | Errno::AGAIN) => {}
            Err(_) => self.input_open = false,
        }
    }
}
