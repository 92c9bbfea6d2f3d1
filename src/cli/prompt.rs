//! Questions to the user.

use std::io::{self, IsTerminal};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;

use rustix::event::{PollFd, PollFlags, poll};
use signal_hook::consts::{SIGINT, SIGTERM};

use super::app::App;
use super::error::CliError;
use super::signals;
use crate::model::Code;

/// Longest answer that is read.
const MAX_ANSWER: usize = 4096;

/// Whether there is somebody to ask.
pub fn can_ask(app: &App) -> bool {
    !app.ui.is_machine_readable() && io::stdin().is_terminal()
}

/// Asks; `y` or `yes` is yes, all else and the end of input are no. Ctrl-C is an error of kind
/// [`Kind::Interrupted`].
pub fn yes(app: &App, question: &str) -> Result<bool, CliError> {
    app.ui.question(question);
    let answer =
        line().map_err(|e| CliError::failed(Code::CannotAsk, "cannot read the answer").because(&e))?;
    match answer {
        Some(answer) => Ok(is_yes(&answer)),
        None => Err(CliError::interrupted("interrupted at the question: nothing was changed")),
    }
}

fn is_yes(answer: &str) -> bool {
    matches!(answer.trim().to_lowercase().as_str(), "y" | "yes")
}

/// A line of standard input; `None` when a signal came first.
fn line() -> io::Result<Option<String>> {
    let (wake, signal) = UnixStream::pair()?;
    let handlers = [
        signal_hook::low_level::pipe::register(SIGINT, signal.try_clone()?)?,
        signal_hook::low_level::pipe::register(SIGTERM, signal)?,
    ];
    let result = read_line(&wake);
    for handler in handlers {
        signal_hook::low_level::unregister(handler);
    }
    result
}

fn read_line(wake: &UnixStream) -> io::Result<Option<String>> {
    let stdin = io::stdin();
    let mut answer = Vec::new();
    loop {
        // One that came before the handlers of this question were there.
        if signals::arrived() {
            return Ok(None);
        }
        let mut fds = [PollFd::new(&stdin, PollFlags::IN), PollFd::new(wake, PollFlags::IN)];
        match poll(&mut fds, None) {
            Err(rustix::io::Errno::INTR) => continue,
            result => result?,
        };
        let [ready, woken] = &fds;
        if !woken.revents().is_empty() {
            return Ok(None);
        }
        if ready.revents().is_empty() {
            continue;
        }
        let mut part = [0; 256];
        let count = rustix::io::read(stdin.as_fd(), &mut part)?;
        answer.extend_from_slice(part.get(..count).unwrap_or_default());
        if count == 0 || answer.contains(&b'\n') || answer.len() > MAX_ANSWER {
            return Ok(Some(String::from_utf8_lossy(&answer).into_owned()));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_yes_is_yes() {
        assert!(is_yes("y\n") && is_yes(" YES "));
        assert!(!is_yes("") && !is_yes("n\n") && !is_yes("yessir"));
    }
}
