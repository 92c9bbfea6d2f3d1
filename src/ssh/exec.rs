//! Commands in the guest: one loop that moves standard input, output and error together, so
//! that none of them can block another.

use std::io::{self, Read, Write};
use std::net::Shutdown;
use std::os::fd::BorrowedFd;
use std::time::{Duration, Instant};

use ssh2::Channel;

use super::SshError;
use super::limits::{Limits, Stop, readable, writable};
use super::session::{Session, classify, pending, stopped, would_block};
use crate::model::{Cancel, Stream};

/// What a command gets on its standard input.
pub enum Input<'a> {
    /// Nothing: end of file at once.
    None,
    /// These bytes, then end of file.
    Bytes(&'a [u8]),
    /// These bytes; then it stays open until the command ends, so that the command can tell
    /// by the end of file that we are gone, or that its time is up.
    HeldOpen(&'a [u8]),
    /// All that can be read, then end of file. Reads may block for a moment (a file), not for long.
    Reader(&'a mut dyn Read),
    /// What comes from there as it comes, then end of file: a pipe or terminal whose other end takes its time.
    Live(BorrowedFd<'a>),
}

/// How a command ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExecStatus {
    /// Exit code; 128 and the signal's number when a signal ended it, as shells count.
    pub code: i32,
    /// Name of the signal that ended it, without `SIG`.
    pub signal: Option<String>,
    /// Its time was up: it was told so by the end of its input, and ended.
    pub timed_out: bool,
}

impl ExecStatus {
    /// An end with this code, by itself.
    pub fn of_code(code: i32) -> Self {
        ExecStatus { code, signal: None, timed_out: false }
    }
}

/// When to give up.
pub(super) struct Bounds<'a> {
    pub cancel: &'a Cancel,
    pub timeout: Option<Duration>,
    pub linger: Option<Duration>,
}

/// A guest that answers not even keepalive requests for this long is gone. Six requests fit in;
/// an emulated guest under load may need a while for one.
const SILENCE: Duration = Duration::from_secs(90);

/// How long a command whose time is up may take to end once its input did. The watcher of a step
/// (`provision`) takes up to nine seconds, and an emulated guest is slow.
const GRACE: Duration = Duration::from_secs(25);

/// How long an ended or given up command's channel may take to close.
const CLOSING: Duration = Duration::from_millis(500);

/// Bytes moved at a time: two of the largest SSH packets.
const CHUNK: usize = 64 << 10;

/// Chunks moved in one direction before the other has its turn.
const TURN: usize = 16;

const DOING: &str = "running a command";

/// Runs a command; see [`Session::exec`].
pub(super) fn run(
    session: &Session,
    command: &str,
    input: Input<'_>,
    out: &mut dyn FnMut(Stream, &[u8]),
    bounds: Bounds<'_>,
) -> Result<ExecStatus, SshError> {
    let begin = Instant::now();
    let limits = Limits {
        deadline: bounds.timeout.and_then(|time| begin.checked_add(time)),
        stop: &|| bounds.cancel.is_cancelled(),
    };
    let mut channel = session.drive(limits, DOING, || pending(session.ssh.channel_session()))?;
    session.drive(limits, DOING, || pending(channel.exec(command)))?;
    let mut pump = Pump {
        session,
        feed: Feed::new(input),
        buffer: vec![0; CHUNK],
        heard: Instant::now(),
        begin,
        linger: bounds.linger,
        limits,
        timed_out: false,
    };
    let result = pump.run(&mut channel, out);
    let (limits, timed_out) = (pump.limits, pump.timed_out);
    close(session, &mut channel, limits, result.as_ref().is_ok_and(|end| *end == End::Eof));
    result?;
    Ok(ExecStatus { timed_out, ..status(&channel)? })
}

/// What ended the pumping.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    /// Both outputs are at their end.
    Eof,
    /// The command is known to have ended; something else holds its output.
    Exited,
}

struct Pump<'a, 'b> {
    session: &'a Session,
    feed: Feed<'b>,
    buffer: Vec<u8>,
    /// When the guest last sent anything.
    heard: Instant,
    begin: Instant,
    linger: Option<Duration>,
    limits: Limits<'a>,
    /// The command was told that its time is up.
    timed_out: bool,
}

impl Pump<'_, '_> {
    fn run(&mut self, channel: &mut Channel, out: &mut dyn FnMut(Stream, &[u8])) -> Result<End, SshError> {
        loop {
            self.limits.check().or_else(|stop| self.overdue(stop))?;
            let mut moved = self.feed.push(self.session, channel)?;
            moved |= self.pull(channel, Stream::Stdout, out)?;
            moved |= self.pull(channel, Stream::Stderr, out)?;
            if moved {
                self.heard = Instant::now();
                continue;
            }
            if channel.eof() {
                self.await_end(channel)?;
                return Ok(End::Eof);
            }
            let quiet = self.heard.elapsed();
            if self.linger.is_some_and(|linger| quiet >= linger) && has_ended(channel) {
                return Ok(End::Exited);
            }
            self.rest()?;
        }
    }

    /// Waits for a moment, or for bytes.
    fn rest(&mut self) -> Result<(), SshError> {
        self.check_alive()?;
        let (write, awaited) = (self.session.wants_to_write(), self.feed.awaited());
        match self.limits.wait_for(&self.session.socket, write, awaited) {
            Ok(true) => self.heard = Instant::now(),
            Ok(false) => {}
            Err(stop) => self.overdue(stop)?,
        }
        Ok(())
    }

    /// A command whose input is held open is told by its end that the time is up, once, and gets
    /// [`GRACE`] to end. So its connection stays of use, and its end is known for certain.
    fn overdue(&mut self, stop: Stop) -> Result<(), SshError> {
        if stop != Stop::Deadline || self.timed_out || !self.feed.release() {
            return Err(stopped(stop, DOING, self.begin.elapsed()));
        }
        self.timed_out = true;
        self.limits.deadline = Instant::now().checked_add(GRACE);
        Ok(())
    }

    /// Moves what the guest has sent on one stream.
    fn pull(
        &mut self,
        channel: &mut Channel,
        stream: Stream,
        out: &mut dyn FnMut(Stream, &[u8]),
    ) -> Result<bool, SshError> {
        let mut source = match stream {
            Stream::Stdout => channel.stream(0),
            Stream::Stderr => channel.stderr(),
        };
        for turn in 0..TURN {
            match source.read(&mut self.buffer) {
                Ok(0) => return Ok(turn > 0),
                Ok(count) => out(stream, self.buffer.get(..count).unwrap_or_default()),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(turn > 0),
                Err(error) => return Err(failure(self.session, error)),
            }
        }
        Ok(true)
    }

    /// Output has ended; waits for the server to close the channel, after which the exit code is
    /// known. A process that closed its output may go on for long.
    fn await_end(&mut self, channel: &mut Channel) -> Result<(), SshError> {
        loop {
            match channel.wait_close() {
                Ok(()) => return Ok(()),
                Err(error) if would_block(&error) => {}
                Err(error) => return Err(classify(error, DOING)),
            }
            self.rest()?;
            if self.timed_out {
                self.feed.push(self.session, channel)?;
            }
        }
    }

    /// Sends a keepalive request when one is due, and fails when none was answered for long.
    fn check_alive(&self) -> Result<(), SshError> {
        if self.heard.elapsed() >= SILENCE {
            return Err(SshError::Lost { doing: DOING, source: None });
        }
        // The library cannot resume a keepalive that was sent by half: only when there is room.
        if !self.session.wants_to_write() && writable(&self.session.socket) {
            self.session.ssh.keepalive_send().map_err(|e| classify(e, DOING))?;
        }
        Ok(())
    }
}

/// What still has to go to standard input.
struct Feed<'a> {
    source: Source<'a>,
    /// Read from the source, not yet sent. A packet that was sent by half must be offered again
    /// as it was: so nothing is appended while something is here.
    waiting: Vec<u8>,
    sent: usize,
    done: bool,
}

enum Source<'a> {
    Bytes { rest: &'a [u8], then_eof: bool },
    Reader(&'a mut dyn Read),
    Live(BorrowedFd<'a>),
}

/// What a source had.
#[derive(PartialEq, Eq)]
enum Refill {
    Some,
    NothingYet,
    End,
}

impl<'a> Feed<'a> {
    fn new(input: Input<'a>) -> Self {
        let source = match input {
            Input::None => Source::Bytes { rest: &[], then_eof: true },
            Input::Bytes(rest) => Source::Bytes { rest, then_eof: true },
            Input::HeldOpen(rest) => Source::Bytes { rest, then_eof: false },
            Input::Reader(reader) => Source::Reader(reader),
            Input::Live(fd) => Source::Live(fd),
        };
        Feed { source, waiting: Vec::new(), sent: 0, done: false }
    }

    /// Sends as much as the other side takes; returns whether anything went.
    fn push(&mut self, session: &Session, channel: &mut Channel) -> Result<bool, SshError> {
        for turn in 0..TURN {
            if self.done {
                return Ok(turn > 0);
            }
            if self.sent >= self.waiting.len() {
                match self.refill()? {
                    Refill::Some => {}
                    Refill::NothingYet => return Ok(turn > 0),
                    Refill::End => return self.finish(channel).map(|()| turn > 0),
                }
            }
            match channel.write(self.waiting.get(self.sent..).unwrap_or_default()) {
                Ok(count) => self.sent += count,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(turn > 0),
                Err(error) => match failure(session, error) {
                    lost @ SshError::Lost { .. } => return Err(lost),
                    // The command ended, or closed its input: what is left has no reader.
                    _ => self.done = true,
                },
            }
        }
        Ok(true)
    }

    /// What a wait should end for, beside the connection.
    fn awaited(&self) -> Option<BorrowedFd<'a>> {
        match &self.source {
            Source::Live(fd) if !self.done && self.sent >= self.waiting.len() => Some(*fd),
            _ => None,
        }
    }

    /// Takes the next chunk from the source.
    fn refill(&mut self) -> Result<Refill, SshError> {
        self.sent = 0;
        self.waiting.clear();
        match &mut self.source {
            Source::Bytes { rest, .. } => {
                let (now, later) = rest.split_at(rest.len().min(CHUNK));
                self.waiting.extend_from_slice(now);
                *rest = later;
            }
            Source::Reader(reader) => {
                reader
                    .take(CHUNK as u64)
                    .read_to_end(&mut self.waiting)
                    .map_err(|source| SshError::Input { source })?;
            }
            Source::Live(fd) => {
                if !readable(*fd) {
                    return Ok(Refill::NothingYet);
                }
                self.waiting.resize(CHUNK, 0);
                let read = rustix::io::retry_on_intr(|| rustix::io::read(*fd, &mut self.waiting));
                self.waiting.truncate(*read.as_ref().unwrap_or(&0));
                match read {
                    Err(rustix::io::Errno::AGAIN) => return Ok(Refill::NothingYet),
                    // A terminal that has gone.
                    Err(rustix::io::Errno::IO) | Ok(_) => {}
                    Err(error) => return Err(SshError::Input { source: error.into() }),
                }
            }
        }
        Ok(if self.waiting.is_empty() { Refill::End } else { Refill::Some })
    }

    /// Lets input that was held open end after what is still to be sent; `false` where none was.
    fn release(&mut self) -> bool {
        match &mut self.source {
            Source::Bytes { then_eof: held @ false, .. } => {
                *held = true;
                self.done = false;
                true
            }
            _ => false,
        }
    }

    fn finish(&mut self, channel: &mut Channel) -> Result<(), SshError> {
        if matches!(self.source, Source::Bytes { then_eof: false, .. }) {
            self.done = true;
            return Ok(());
        }
        match channel.send_eof() {
            Ok(()) => self.done = true,
            Err(error) if would_block(&error) => {}
            Err(error) => match classify(error, "sending input") {
                lost @ SshError::Lost { .. } => return Err(lost),
                _ => self.done = true,
            },
        }
        Ok(())
    }
}

/// Closes the channel as well as it goes; what fails here changes nothing for the caller.
fn close(session: &Session, channel: &mut Channel, limits: Limits<'_>, orderly: bool) {
    let never = || false;
    let bound = Limits { deadline: None, stop: if orderly { limits.stop } else { &never } };
    let time = if orderly { CLOSING } else { CLOSING / 10 };
    let bound = bound.until(Instant::now() + time);
    let closed = session.drive(bound, "closing a channel", || pending(channel.close()));
    if closed.is_err() {
        // A half-closed channel would confuse the next command.
        let _ = session.socket.shutdown(Shutdown::Both);
    }
}

/// Whether the server has reported an end other than exit code 0.
fn has_ended(channel: &Channel) -> bool {
    channel.exit_status().is_ok_and(|code| code != 0)
        || channel.exit_signal().is_ok_and(|signal| signal.exit_signal.is_some())
}

fn status(channel: &Channel) -> Result<ExecStatus, SshError> {
    let protocol = |source| classify(source, "reading an exit code");
    let signal = channel.exit_signal().map_err(protocol)?.exit_signal;
    let code = match &signal {
        Some(name) => 128 + signal_number(name),
        None => channel.exit_status().map_err(protocol)?,
    };
    Ok(ExecStatus { code, signal, timed_out: false })
}

/// Numbers of the signals that RFC 4254 section 6.10 names, as Linux counts them; 0 for others.
fn signal_number(name: &str) -> i32 {
    match name {
        "HUP" => 1,
        "INT" => 2,
        "QUIT" => 3,
        "ILL" => 4,
        "ABRT" => 6,
        "FPE" => 8,
        "KILL" => 9,
        "USR1" => 10,
        "SEGV" => 11,
        "USR2" => 12,
        "PIPE" => 13,
        "ALRM" => 14,
        "TERM" => 15,
        _ => 0,
    }
}

/// An `io::Error` of the library hides its code: whether the connection is gone is asked of it.
fn failure(session: &Session, error: io::Error) -> SshError {
    match ssh2::Error::last_session_error(&session.ssh) {
        Some(source) => classify(source, DOING),
        None => SshError::Input { source: error },
    }
}
