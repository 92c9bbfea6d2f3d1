//! Standard input and output as a serial line: raw while the guest has it, as it was afterwards.

use std::io::{self, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::stdio::{stdin, stdout};
use rustix::termios::{OptionalActions, Termios, isatty, tcgetattr, tcsetattr};

/// Puts the terminal on standard input into raw mode until it is dropped.
#[derive(Debug)]
pub struct RawMode {
    before: Termios,
}

impl RawMode {
    /// `None` when standard input is not a terminal.
    ///
    /// # Errors
    /// When the terminal refuses the mode.
    pub fn enter() -> io::Result<Option<Self>> {
        if !isatty(stdin()) {
            return Ok(None);
        }
        let before = tcgetattr(stdin())?;
        let mut raw = before.clone();
        raw.make_raw();
        tcsetattr(stdin(), OptionalActions::Now, &raw)?;
        Ok(Some(Self { before }))
    }
}

impl Drop for RawMode {
    fn drop(&mut self) {
        // Nothing is left to be done about a terminal that is gone.
        _ = tcsetattr(stdin(), OptionalActions::Now, &self.before);
    }
}

/// Writes to standard output without a buffer, and gives up when the machine is stopping, so
/// that a reader who does not read cannot keep a stopped machine alive.
#[derive(Debug)]
pub struct Stdout {
    stopping: Arc<AtomicBool>,
}

impl Stdout {
    /// `stopping` is set before the thread that writes is sent a signal.
    pub fn new(stopping: Arc<AtomicBool>) -> Self {
        Self { stopping }
    }
}

impl Write for Stdout {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        loop {
            if self.stopping.load(Ordering::Acquire) {
                return Err(io::ErrorKind::BrokenPipe.into());
            }
            match rustix::io::write(stdout(), buf) {
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => wait_writable(),
                other => return Ok(other?),
            }
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Someone else made standard output non-blocking. The time limit covers a signal that came
/// between the check for it and the wait.
fn wait_writable() {
    let stdout = stdout();
    let mut fds = [PollFd::new(&stdout, PollFlags::OUT)];
    _ = poll(&mut fds, Some(&Timespec { tv_sec: 0, tv_nsec: 100_000_000 }));
}

/// Finds the way out in what is typed: Ctrl-A x ends the machine, Ctrl-A twice types one.
#[derive(Debug, Default)]
pub struct Escape {
    armed: bool,
}

const CTRL_A: u8 = 1;

impl Escape {
    /// Keeps in `input` what is for the guest; `true` when the user wants out.
    pub fn filter(&mut self, input: &mut Vec<u8>) -> bool {
        let mut quit = false;
        input.retain(|byte| match (std::mem::take(&mut self.armed), *byte) {
            (false, CTRL_A) => {
                self.armed = true;
                false
            }
            (true, b'x' | b'X') => {
                quit = true;
                false
            }
            _ => true,
        });
        quit
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn typed(escape: &mut Escape, text: &[u8]) -> (Vec<u8>, bool) {
        let mut input = text.to_vec();
        let quit = escape.filter(&mut input);
        (input, quit)
    }

    #[test]
    fn ctrl_a_x_is_the_way_out_even_in_two_reads() {
        let mut escape = Escape::default();
        assert_eq!(typed(&mut escape, b"ls\x01"), (b"ls".to_vec(), false));
        assert_eq!(typed(&mut escape, b"x"), (vec![], true));
        assert_eq!(typed(&mut escape, b"x\x01x"), (b"x".to_vec(), true));
    }

    #[test]
    fn ctrl_a_twice_types_it_once() {
        let mut escape = Escape::default();
        assert_eq!(typed(&mut escape, b"a\x01\x01b\x01c"), (b"a\x01bc".to_vec(), false));
    }

    #[test]
    fn a_stopping_machine_writes_no_more() {
        let mut out = Stdout::new(Arc::new(AtomicBool::new(true)));
        assert_eq!(out.write(b"x").unwrap_err().kind(), io::ErrorKind::BrokenPipe);
    }
}
