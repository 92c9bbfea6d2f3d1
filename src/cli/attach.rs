//! A terminal, or a pipe, attached to the console of a machine.

use std::io::{self, ErrorKind, Read, Write};
use std::net::Shutdown;
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::stdio::{stdin, stdout};
use rustix::termios::tcgetwinsize;
use signal_hook::consts::SIGWINCH;

use super::ui::Ui;
use crate::model::{Cancel, Stream};
use crate::vmm::RawMode;
use crate::vmm::attach::{Size, wire};

/// Ctrl-], by which telnet and others detach.
const DETACH: u8 = 0x1d;
/// Bytes typed that the machine has not taken; more are left in the terminal.
const PENDING: usize = 8 << 10;
/// Bytes moved at once.
const CHUNK: usize = 4 << 10;
/// How long there has to be no output after the end of a pipe.
const QUIET: Duration = Duration::from_secs(1);

/// Why an attachment ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// On this side: `typed` by Ctrl-], else at the end of a pipe.
    Detached {
        /// Whether the user sits at a terminal.
        typed: bool,
    },
    /// By the machine.
    Closed,
    /// By a signal.
    Interrupted,
}

/// Standard input and output, connected to a console.
pub struct Attachment {
    stream: UnixStream,
    /// Readable after a change of the terminal's size, or a signal to stop.
    wake: UnixStream,
    /// Restores the terminal when dropped; `None` where standard input is none.
    raw: Option<RawMode>,
    input_open: bool,
    /// Frames on their way to the machine.
    pending: Vec<u8>,
    /// When there was output last, or the end of the input.
    last: Instant,
}

impl Attachment {
    /// Takes standard input; a terminal is raw from now on.
    ///
    /// # Errors
    /// When the terminal refuses or there are no descriptors left.
    pub fn new(stream: UnixStream, cancel: &Cancel) -> io::Result<Self> {
        stream.set_nonblocking(true)?;
        let (wake, waker) = UnixStream::pair()?;
        wake.set_nonblocking(true)?;
        waker.set_nonblocking(true)?;
        signal_hook::low_level::pipe::register(SIGWINCH, waker.try_clone()?)?;
        let cancel = cancel.clone();
        std::thread::Builder::new().name("wake".into()).spawn(move || {
            cancel.wait(Duration::MAX);
            // Full is as good as written.
            _ = (&waker).write(&[0]);
        })?;
        let raw = RawMode::enter()?;
        let mut pending = Vec::new();
        push_terminal_size(&mut pending);
        Ok(Self { stream, wake, raw, input_open: true, pending, last: Instant::now() })
    }

    /// Whether the user sits at a terminal.
    pub fn is_terminal(&self) -> bool {
        self.raw.is_some()
    }

    /// Moves bytes both ways until there is a reason to end.
    ///
    /// # Errors
    /// When socket or terminal break off in an odd way.
    pub fn run(mut self, ui: &Ui, cancel: &Cancel) -> io::Result<End> {
        let end = self.talk(ui, cancel);
        // So that the next line begins where the terminal is itself again.
        self.raw = None;
        end
    }

    fn talk(&mut self, ui: &Ui, cancel: &Cancel) -> io::Result<End> {
        loop {
            if cancel.is_cancelled() {
                return Ok(End::Interrupted);
            }
            if ui.stdout_closed() {
                return Ok(End::Detached { typed: false });
            }
            let ready = match self.wait()? {
                Some(ready) => ready,
                None => return Ok(End::Detached { typed: false }),
            };
            if ready.wake {
                self.woken();
            }
            if ready.input && self.read_input()? {
                // What was typed right before is for the machine.
                self.send()?;
                return Ok(End::Detached { typed: true });
            }
            if ready.output && !self.show(ui)? {
                return Ok(End::Closed);
            }
            if !self.pending.is_empty() && !self.send()? {
                return Ok(End::Closed);
            }
        }
    }

    /// Waits for anything to do; `None` when a pipe has ended and there was no output for a while.
    fn wait(&self) -> io::Result<Option<Ready>> {
        let mut timeout = None;
        if !self.input_open && self.pending.is_empty() {
            let Some(left) = QUIET.checked_sub(self.last.elapsed()) else { return Ok(None) };
            timeout = Timespec::try_from(left).ok();
        }
        let stdin = stdin();
        let mut output = PollFlags::IN;
        output.set(PollFlags::OUT, !self.pending.is_empty());
        let mut fds = vec![
            PollFd::new(&self.wake, PollFlags::IN),
            PollFd::new(&self.stream, output),
            PollFd::from_borrowed_fd(stdin.as_fd(), PollFlags::IN),
        ];
        if !self.input_open || self.pending.len() >= PENDING {
            fds.pop();
        }
        match poll(&mut fds, timeout.as_ref()) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
        let seen = |index: usize, flags| fds.get(index).is_some_and(|fd| fd.revents().intersects(flags));
        let any = PollFlags::IN | PollFlags::HUP | PollFlags::ERR;
        Ok(Some(Ready { wake: seen(0, any), output: seen(1, any), input: seen(2, any) }))
    }

    /// The terminal may have changed its size; a signal to stop is seen by itself.
    fn woken(&mut self) {
        let mut bytes = [0; 64];
        while matches!(self.wake.read(&mut bytes), Ok(1..)) {}
        push_terminal_size(&mut self.pending);
    }

    /// Takes what is typed; true when the user wants to detach.
    fn read_input(&mut self) -> io::Result<bool> {
        let mut bytes = [0; CHUNK];
        let count = match rustix::io::read(stdin(), &mut bytes) {
            Ok(count) => count,
            Err(Errno::INTR | Errno::AGAIN) => return Ok(false),
            // A terminal that is gone.
            Err(Errno::IO) => 0,
            Err(error) => return Err(error.into()),
        };
        let mut typed = bytes.get(..count).unwrap_or_default();
        if typed.is_empty() {
            self.input_open = false;
            self.last = Instant::now();
        }
        let mut detach = false;
        if self.raw.is_some()
            && let Some(at) = typed.iter().position(|byte| *byte == DETACH)
        {
            (detach, typed) = (true, typed.get(..at).unwrap_or_default());
        }
        wire::push_input(&mut self.pending, typed);
        Ok(detach)
    }

    /// Shows output; false when the machine has closed the console.
    fn show(&mut self, ui: &Ui) -> io::Result<bool> {
        let mut bytes = [0; CHUNK];
        match self.stream.read(&mut bytes) {
            Ok(0) => return Ok(false),
            Ok(count) => {
                ui.bytes(Stream::Stdout, bytes.get(..count).unwrap_or_default());
                self.last = Instant::now();
            }
            Err(error) if is_gone(&error) => return Ok(false),
            Err(error) if is_passing(&error) => {}
            Err(error) => return Err(error),
        }
        Ok(true)
    }

    /// Sends what the machine takes; false when it has closed the console.
    fn send(&mut self) -> io::Result<bool> {
        match self.stream.write(&self.pending) {
            Ok(count) => {
                self.pending.drain(..count);
                if self.pending.is_empty() && !self.input_open {
                    self.last = Instant::now();
                    self.stream.shutdown(Shutdown::Write)?;
                }
            }
            Err(error) if is_gone(&error) => return Ok(false),
            Err(error) if is_passing(&error) => {}
            Err(error) => return Err(error),
        }
        Ok(true)
    }
}

struct Ready {
    wake: bool,
    output: bool,
    input: bool,
}

fn is_passing(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted)
}

fn is_gone(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::BrokenPipe | ErrorKind::ConnectionReset)
}

/// Tells the size of the terminal on standard output, if it is one that knows its size.
fn push_terminal_size(out: &mut Vec<u8>) {
    if let Ok(size) = tcgetwinsize(stdout())
        && size.ws_col > 0
        && size.ws_row > 0
    {
        wire::push_size(out, Size { columns: size.ws_col, rows: size.ws_row });
    }
}
