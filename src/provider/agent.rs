//! The host's end of the agent in a guest (`guest/agent`): hears that the guest is up.
//!
//! What it says is a hint of a stranger. It leads to nothing but an earlier try of what would be tried
//! anyway: a connection to an SSH server that has to prove its host key.

use std::io::{self, ErrorKind, Read};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use rustix::event::{EventfdFlags, PollFd, PollFlags, eventfd, poll};

use crate::vmm::{VsockService, sandbox};

/// The port of the host that agents connect to.
pub(super) const PORT: u32 = 1;
/// Ports of the guest below this are its root's; others are not the system speaking.
const UNPRIVILEGED: u32 = 1024;
/// Longest line of an agent.
const LINE: usize = 64;

/// What is known of a guest's agent. One connection counts, the last.
#[derive(Debug)]
pub(super) struct Agent {
    shared: Arc<Shared>,
}

/// The thread that listens; ends when this is dropped.
#[derive(Debug)]
pub(super) struct Listening {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Debug)]
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
    /// Wakes the thread.
    wake: OwnedFd,
}

#[derive(Debug, Default)]
struct State {
    up: bool,
    /// A connection that the thread has not seen yet.
    next: Option<UnixStream>,
    quit: bool,
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wake(&self) {
        // Fails only when the counter is full, and then the thread is woken anyway.
        let _ = rustix::io::write(&self.wake, &1u64.to_ne_bytes());
    }

    fn set_up(&self, up: bool) {
        self.state().up = up;
        self.changed.notify_all();
    }
}

impl Agent {
    /// Of a guest that has not said anything; the service is what its agent connects to.
    pub(super) fn new() -> io::Result<(Self, Box<dyn VsockService>)> {
        let wake = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        let shared = Arc::new(Shared { state: Mutex::default(), changed: Condvar::new(), wake });
        let service = Box::new(Service(shared.clone()));
        Ok((Self { shared }, service))
    }

    /// Starts to listen.
    pub(super) fn listen(&self) -> io::Result<Listening> {
        let shared = self.shared.clone();
        let thread = sandbox::spawn("agent", move || listen(&shared))?;
        Ok(Listening { shared: self.shared.clone(), thread: Some(thread) })
    }

    /// Waits until the guest is up, at most `time`; whether it is.
    pub(super) fn wait_up(&self, time: Duration) -> bool {
        let state = self.shared.state();
        match self.shared.changed.wait_timeout_while(state, time, |state| !state.up) {
            Ok((state, _)) => state.up,
            Err(poisoned) => poisoned.into_inner().0.up,
        }
    }
}

impl Drop for Listening {
    fn drop(&mut self) {
        self.shared.state().quit = true;
        self.shared.wake();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// Takes connections of the guest's.
#[derive(Debug)]
struct Service(Arc<Shared>);

impl VsockService for Service {
    fn connect(&mut self, guest_port: u32) -> io::Result<OwnedFd> {
        if guest_port >= UNPRIVILEGED {
            return Err(ErrorKind::PermissionDenied.into());
        }
        let (ours, theirs) = UnixStream::pair()?;
        ours.set_nonblocking(true)?;
        // However many a guest makes, one waits.
        self.0.state().next = Some(ours);
        self.0.wake();
        Ok(theirs.into())
    }
}

/// Reads lines of one agent after the other until told to quit.
fn listen(shared: &Shared) {
    let mut agent: Option<Lines> = None;
    loop {
        if let Err(error) = wait(shared, agent.as_ref()) {
            return tracing::warn!(%error, "cannot listen to the guest's agent");
        }
        let mut state = shared.state();
        if state.quit {
            return;
        }
        if let Some(stream) = state.next.take() {
            agent = Some(Lines { stream, line: Vec::new() });
            state.up = false;
        }
        drop(state);
        let Some(lines) = &mut agent else { continue };
        match lines.read() {
            Ok(false) => {}
            Ok(true) => shared.set_up(true),
            Err(_) => {
                agent = None;
                shared.set_up(false);
            }
        }
    }
}

/// Returns when there is a new connection, an order to quit, or something of `agent` to read.
fn wait(shared: &Shared, agent: Option<&Lines>) -> io::Result<()> {
    let source = agent.map_or(shared.wake.as_fd(), |agent| agent.stream.as_fd());
    let mut fds = [PollFd::new(&shared.wake, PollFlags::IN), PollFd::from_borrowed_fd(source, PollFlags::IN)];
    match poll(&mut fds, None) {
        Ok(_) | Err(rustix::io::Errno::INTR) => {}
        Err(error) => return Err(error.into()),
    }
    // Not signalled is as good.
    let _ = rustix::io::read(&shared.wake, &mut [0; 8]);
    Ok(())
}

struct Lines {
    stream: UnixStream,
    line: Vec<u8>,
}

impl Lines {
    /// Reads what there is, a little at a time; true when that says that the guest is up. An error is
    /// the end of the agent: it went, or talks nonsense.
    fn read(&mut self) -> io::Result<bool> {
        let mut bytes = [0; LINE];
        let count = match self.stream.read(&mut bytes) {
            Ok(0) => return Err(ErrorKind::UnexpectedEof.into()),
            Ok(count) => count,
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => {
                return Ok(false);
            }
            Err(error) => return Err(error),
        };
        let mut up = false;
        for &byte in bytes.get(..count).unwrap_or_default() {
            if byte != b'\n' {
                if self.line.len() == LINE {
                    return Err(ErrorKind::InvalidData.into());
                }
                self.line.push(byte);
                continue;
            }
            // A version follows, of no use yet. Lines of newer agents are not for us.
            up |= self.line.starts_with(b"up ");
            self.line.clear();
        }
        Ok(up)
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    const SOON: Duration = Duration::from_secs(10);
    const NOW: Duration = Duration::ZERO;

    fn connect(service: &mut dyn VsockService) -> UnixStream {
        let stream = UnixStream::from(service.connect(1).unwrap());
        stream.set_read_timeout(Some(SOON)).unwrap();
        stream
    }

    /// The agent was hung up on.
    fn assert_dropped(stream: &mut UnixStream) {
        match stream.read(&mut [0; 1]) {
            Ok(count) => assert_eq!(count, 0),
            Err(error) => assert_eq!(error.kind(), ErrorKind::ConnectionReset),
        }
    }

    #[test]
    fn a_guest_is_up_once_it_says_so_and_until_it_goes() {
        let (agent, mut service) = Agent::new().unwrap();
        let _listening = agent.listen().unwrap();
        assert!(!agent.wait_up(NOW));
        let mut guest = connect(service.as_mut());
        guest.write_all(b"news 7\nu").unwrap();
        guest.write_all(b"p 1\n").unwrap();
        assert!(agent.wait_up(SOON));
        assert!(agent.wait_up(NOW));
        drop(guest);
        // It boots again: the next one has to say so anew.
        let mut guest = connect(service.as_mut());
        guest.write_all(b"up 2\n").unwrap();
        assert!(agent.wait_up(SOON));
    }

    #[test]
    fn only_the_last_connection_counts() {
        let (agent, mut service) = Agent::new().unwrap();
        let _listening = agent.listen().unwrap();
        let mut first = connect(service.as_mut());
        first.write_all(b"up 1\n").unwrap();
        assert!(agent.wait_up(SOON));
        let _second = connect(service.as_mut());
        assert_dropped(&mut first);
        assert!(!agent.wait_up(NOW));
    }

    #[test]
    fn nonsense_and_users_of_the_guest_are_not_listened_to() {
        let (agent, mut service) = Agent::new().unwrap();
        let _listening = agent.listen().unwrap();
        assert_eq!(service.connect(1024).unwrap_err().kind(), ErrorKind::PermissionDenied);
        let mut guest = connect(service.as_mut());
        // It may be hung up on before the last byte is written.
        let _ = guest.write_all(&[b'u'; 1000]);
        assert_dropped(&mut guest);
        for _ in 0..1000 {
            connect(service.as_mut());
        }
        let mut guest = connect(service.as_mut());
        guest.write_all(b"upside\n up 1\nUP 1\n").unwrap();
        assert!(!agent.wait_up(NOW));
        guest.write_all(b"up 1\n").unwrap();
        assert!(agent.wait_up(SOON));
    }
}
