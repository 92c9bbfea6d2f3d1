//! The other side of the control protocol.

use std::io::{self, ErrorKind, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;

use super::{MAX_LINE, Op, Reply, Request, Status, Usage, VERSION, connect};

/// How often a wait for the guest asks whether it is to go on.
const STEP: Duration = Duration::from_millis(200);

/// A connection to a machine.
#[derive(Debug)]
pub struct Client {
    stream: UnixStream,
    timeout: Duration,
}

impl Client {
    /// Connects to the control socket at `path`; each answer may take `timeout`.
    ///
    /// # Errors
    /// As [`connect`].
    pub fn connect(path: &Path, timeout: Duration) -> io::Result<Self> {
        let stream = connect(path)?;
        stream.set_write_timeout(Some(timeout.max(Duration::from_millis(1))))?;
        Ok(Self { stream, timeout })
    }

    /// What the machine is and does.
    ///
    /// # Errors
    /// `TimedOut`, `UnexpectedEof` when the process ended, `InvalidData` for an answer that is
    /// none, `Other` with the machine's own words when it refuses.
    pub fn status(&mut self) -> io::Result<Status> {
        let reply = self.ask(Op::Status, self.timeout)?;
        reply.status.ok_or_else(|| invalid("no status in the answer"))
    }

    /// Presses the power button.
    ///
    /// # Errors
    /// As [`Self::status`].
    pub fn power_button(&mut self) -> io::Result<()> {
        self.ask(Op::PowerButton, self.timeout).map(drop)
    }

    /// Asks the guest to shut down, by the surest way that the machine has. The process of an earlier
    /// release knows one way only.
    ///
    /// # Errors
    /// As [`Self::status`].
    pub fn power_off(&mut self) -> io::Result<()> {
        match self.ask(Op::PowerOff, self.timeout) {
            Err(error) if error.kind() == ErrorKind::Other => self.power_button(),
            other => other.map(drop),
        }
    }

    /// Ends the machine at once.
    ///
    /// # Errors
    /// As [`Self::status`].
    pub fn stop(&mut self) -> io::Result<()> {
        self.ask(Op::Stop, self.timeout).map(drop)
    }

    /// What the machine's memory costs.
    ///
    /// # Errors
    /// As [`Self::status`].
    pub fn usage(&mut self) -> io::Result<Usage> {
        let reply = self.ask(Op::Usage, self.timeout)?;
        reply.usage.ok_or_else(|| invalid("no usage in the answer"))
    }

    /// Asks the guest to give `bytes` of memory back, in all.
    ///
    /// # Errors
    /// As [`Self::status`].
    pub fn set_balloon(&mut self, bytes: u64) -> io::Result<()> {
        let request = Request { op: Op::Balloon, version: VERSION, bytes: Some(bytes) };
        self.request(&request, self.timeout).map(drop)
    }

    /// Waits up to `timeout` for the machine to end and gives the reason.
    ///
    /// # Errors
    /// As [`Self::status`]; after `TimedOut` the connection is of no more use.
    pub fn wait(&mut self, timeout: Duration) -> io::Result<String> {
        let reply = self.ask(Op::Wait, timeout)?;
        reply.reason.ok_or_else(|| invalid("no reason in the answer"))
    }

    /// Waits up to `timeout` for the guest to say that it is up, and as long as `go_on` says so, which
    /// is asked a few times a second; whether it did.
    ///
    /// # Errors
    /// As [`Self::status`]; after false the connection is of no more use.
    pub fn wait_up(&mut self, timeout: Duration, go_on: &mut dyn FnMut() -> bool) -> io::Result<bool> {
        self.send(&Request::of(Op::WaitUp))?;
        let deadline = Instant::now() + timeout;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() || !go_on() {
                return Ok(false);
            }
            let step = Timespec::try_from(left.min(STEP)).map_err(io::Error::other)?;
            match poll(&mut [PollFd::new(&self.stream, PollFlags::IN)], Some(&step)) {
                Ok(0) | Err(Errno::INTR) => {}
                Ok(_) => return self.receive(Instant::now() + self.timeout).map(|_| true),
                Err(error) => return Err(error.into()),
            }
        }
    }

    fn ask(&mut self, op: Op, timeout: Duration) -> io::Result<Reply> {
        self.request(&Request::of(op), timeout)
    }

    fn request(&mut self, request: &Request, timeout: Duration) -> io::Result<Reply> {
        self.send(request)?;
        self.receive(Instant::now() + timeout)
    }

    fn send(&mut self, request: &Request) -> io::Result<()> {
        let mut line = serde_json::to_vec(request)?;
        line.push(b'\n');
        self.stream.write_all(&line)
    }

    fn receive(&mut self, deadline: Instant) -> io::Result<Reply> {
        let reply: Reply = serde_json::from_slice(&self.read_line(deadline)?)?;
        match reply.error {
            Some(error) => Err(io::Error::other(error)),
            None if !reply.ok => Err(invalid("neither ok nor an error in the answer")),
            None => Ok(reply),
        }
    }

    fn read_line(&mut self, deadline: Instant) -> io::Result<Vec<u8>> {
        let mut line = Vec::new();
        let mut chunk = [0; 512];
        while line.last() != Some(&b'\n') {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(ErrorKind::TimedOut.into());
            }
            self.stream.set_read_timeout(Some(left))?;
            let count = match self.stream.read(&mut chunk) {
                Ok(0) => return Err(ErrorKind::UnexpectedEof.into()),
                Ok(count) => count,
                Err(e) if e.kind() == ErrorKind::Interrupted => continue,
                Err(e) if e.kind() == ErrorKind::WouldBlock => return Err(ErrorKind::TimedOut.into()),
                Err(e) => return Err(e),
            };
            line.extend_from_slice(chunk.get(..count).unwrap_or_default());
            if line.len() > MAX_LINE {
                return Err(invalid("answer is too long"));
            }
        }
        Ok(line)
    }
}

fn invalid(what: &'static str) -> io::Error {
    io::Error::new(ErrorKind::InvalidData, what)
}
