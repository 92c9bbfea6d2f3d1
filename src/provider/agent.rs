//! The host's end of the agent in a guest (`guest/agent`): hears that the guest is up, and tells it the time
//! and to switch itself off.
//!
//! What it says is a hint of a stranger. It leads to nothing but an earlier try of what would be tried
//! anyway: a connection to an SSH server that has to prove its host key. What it is told is what any guest
//! may know, in lines so short that one that reads takes them at once; one that does not is hung up on.

use std::io::{self, ErrorKind, Read, Write};
use std::net::Shutdown;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rustix::event::{EventfdFlags, PollFd, PollFlags, eventfd, poll};

use super::clock::ClockWatch;
use crate::vmm::{VsockService, sandbox};

/// The port of the host that agents connect to.
pub(super) const PORT: u32 = 1;
/// The port of the guest at which an agent leads to the SSH server, where the kernel's command line holds [`SSH_WORD`].
pub(super) const SSH_PORT: u32 = 222;
pub(super) const SSH_WORD: &str = "rvm.ssh=vsock";
/// Ports of the guest below this are its root's; others are not the system speaking.
pub(super) const UNPRIVILEGED: u32 = 1024;
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
    clock: ClockWatch,
}

#[derive(Debug, Default)]
struct State {
    up: bool,
    /// The connection that counts. The thread reads from it; whoever has an order writes to it.
    agent: Option<Arc<UnixStream>>,
    /// A connection that the thread has not seen yet.
    next: Option<UnixStream>,
    quit: bool,
}

impl State {
    /// The agent went, or is to go.
    fn hang_up(&mut self) {
        self.up = false;
        if let Some(agent) = self.agent.take() {
            // Its thread has it, too, and hears of its end.
            let _ = agent.shutdown(Shutdown::Both);
        }
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wake(&self) {
        // Fails only when the counter is full, and then the thread is woken anyway.
        let _ = rustix::io::write(&self.wake, &1u64.to_ne_bytes());
    }

    /// The agent says that the guest is up; whether that is news.
    fn set_up(&self) -> bool {
        let was = std::mem::replace(&mut self.state().up, true);
        self.changed.notify_all();
        !was
    }

    /// Tells the agent something, where there is one that has said that the guest is up: before that
    /// nobody reads. Never waits.
    fn tell(&self, line: &str) -> io::Result<()> {
        let mut state = self.state();
        let mut agent = state.agent.as_deref().filter(|_| state.up).ok_or(ErrorKind::NotConnected)?;
        match agent.write(line.as_bytes()) {
            Ok(count) if count == line.len() => Ok(()),
            // It has not read for thousands of lines, or went this moment.
            other => {
                state.hang_up();
                Err(other.err().unwrap_or_else(|| ErrorKind::WriteZero.into()))
            }
        }
    }

    /// Tells the guest what time it is here.
    fn tell_time(&self) {
        let Ok(now) = SystemTime::now().duration_since(UNIX_EPOCH) else {
            return tracing::warn!("this host's clock is before 1970: its guest is not told the time");
        };
        match self.tell(&format!("time {}\n", now.as_nanos())) {
            Ok(()) => tracing::debug!("the guest's clock is set"),
            Err(error) => tracing::debug!(%error, "the guest's clock is not set"),
        }
    }
}

impl Agent {
    /// Of a guest that has not said anything; the service is what its agent connects to.
    pub(super) fn new() -> io::Result<(Self, Box<dyn VsockService>)> {
        Self::with_clock(ClockWatch::new()?)
    }

    fn with_clock(clock: ClockWatch) -> io::Result<(Self, Box<dyn VsockService>)> {
        let wake = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        let shared = Arc::new(Shared { state: Mutex::default(), changed: Condvar::new(), wake, clock });
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

    /// Tells the guest to switch itself off, without waiting for that.
    ///
    /// # Errors
    /// `NotConnected` where no agent has said that the guest is up; what the connection says.
    pub(super) fn power_off(&self) -> io::Result<()> {
        self.shared.tell("poweroff\n")
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
        let (ours, theirs) = pair(guest_port)?;
        ours.set_nonblocking(true)?;
        // However many a guest makes, one waits.
        self.0.state().next = Some(ours);
        self.0.wake();
        Ok(theirs.into())
    }
}

/// Both ends of a connection that comes from that port of the guest, if that is its system's.
pub(super) fn pair(guest_port: u32) -> io::Result<(UnixStream, UnixStream)> {
    match guest_port {
        UNPRIVILEGED.. => Err(ErrorKind::PermissionDenied.into()),
        _ => UnixStream::pair(),
    }
}

/// Reads lines of one agent after the other, and tells each the time, until told to quit.
fn listen(shared: &Shared) {
    let mut agent: Option<Lines> = None;
    loop {
        let jumped = match wait(shared, agent.as_ref()).and_then(|()| shared.clock.has_jumped()) {
            Ok(jumped) => jumped,
            Err(error) => return tracing::warn!(%error, "cannot listen to the guest's agent"),
        };
        if jumped {
            shared.tell_time();
        }
        let mut state = shared.state();
        if state.quit {
            return;
        }
        if let Some(stream) = state.next.take().map(Arc::new) {
            agent = Some(Lines { stream: stream.clone(), line: Vec::new() });
            (state.agent, state.up) = (Some(stream), false);
        }
        drop(state);
        let Some(lines) = &mut agent else { continue };
        match lines.read() {
            Ok(false) => {}
            // A guest's clock stood still while its memory was on a disk.
            Ok(true) if shared.set_up() => shared.tell_time(),
            Ok(true) => {}
            Err(_) => {
                agent = None;
                shared.state().hang_up();
            }
        }
    }
}

/// Returns when there is a new connection, an order to quit, something of `agent` to read, or when the
/// clock has jumped.
fn wait(shared: &Shared, agent: Option<&Lines>) -> io::Result<()> {
    let source = agent.map_or(shared.wake.as_fd(), |agent| agent.stream.as_fd());
    let fds = [shared.wake.as_fd(), shared.clock.as_fd(), source];
    let mut fds = fds.map(|fd| PollFd::from_borrowed_fd(fd, PollFlags::IN));
    match poll(&mut fds, None) {
        Ok(_) | Err(rustix::io::Errno::INTR) => {}
        Err(error) => return Err(error.into()),
    }
    // Not signalled is as good.
    let _ = rustix::io::read(&shared.wake, &mut [0; 8]);
    Ok(())
}

struct Lines {
    stream: Arc<UnixStream>,
    line: Vec<u8>,
}

impl Lines {
    /// Reads what there is, a little at a time; true when that says that the guest is up. An error is
    /// the end of the agent: it went, or talks nonsense.
    fn read(&mut self) -> io::Result<bool> {
        let mut bytes = [0; LINE];
        let count = match (&*self.stream).read(&mut bytes) {
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
    use std::io::{BufRead, BufReader};

    use super::*;

    const SOON: Duration = Duration::from_secs(10);
    const NOW: Duration = Duration::ZERO;

    fn connect(service: &mut dyn VsockService) -> UnixStream {
        let stream = UnixStream::from(service.connect(1).unwrap());
        stream.set_read_timeout(Some(SOON)).unwrap();
        stream
    }

    /// The agent was hung up on, whatever it was told before.
    fn assert_dropped(stream: &mut UnixStream) {
        if let Err(error) = stream.read_to_end(&mut Vec::new()) {
            assert_eq!(error.kind(), ErrorKind::ConnectionReset);
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

    /// The next line that the guest is told.
    fn told(guest: &mut BufReader<UnixStream>) -> String {
        let mut line = String::new();
        guest.read_line(&mut line).unwrap();
        assert_eq!(line.pop(), Some('\n'), "{line}");
        // The longest that agents understand.
        assert!(line.len() <= LINE, "{line}");
        line
    }

    fn assert_time(line: &str) {
        let then: u64 = line.strip_prefix("time ").expect(line).parse().unwrap();
        let age = SystemTime::now().duration_since(UNIX_EPOCH + Duration::from_nanos(then)).unwrap();
        assert!(age < SOON, "{line} was {age:?} ago");
    }

    #[test]
    fn a_guest_that_is_up_is_told_the_time_and_again_when_the_clock_jumps() {
        let jump = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK).unwrap();
        let clock = ClockWatch::of(jump.try_clone().unwrap());
        let jump = || rustix::io::write(&jump, &1u64.to_ne_bytes()).unwrap();
        let (agent, mut service) = Agent::with_clock(clock).unwrap();
        let _listening = agent.listen().unwrap();
        // Nobody is there to be told.
        jump();
        let mut guest = BufReader::new(connect(service.as_mut()));
        guest.get_mut().write_all(b"up 1\n").unwrap();
        assert_time(&told(&mut guest));
        // To say it again is no news.
        guest.get_mut().write_all(b"up 1\nup 1\n").unwrap();
        jump();
        assert_time(&told(&mut guest));
        agent.power_off().unwrap();
        assert_eq!(told(&mut guest), "poweroff");
        // The next one is told anew.
        let mut next = BufReader::new(connect(service.as_mut()));
        next.get_mut().write_all(b"up 1\n").unwrap();
        assert_time(&told(&mut next));
    }

    #[test]
    fn who_is_not_up_or_went_is_told_nothing() {
        let (agent, mut service) = Agent::new().unwrap();
        let kind = |agent: &Agent| agent.power_off().unwrap_err().kind();
        let listening = agent.listen().unwrap();
        assert_eq!(kind(&agent), ErrorKind::NotConnected);
        let mut guest = connect(service.as_mut());
        guest.write_all(b"soon\n").unwrap();
        assert_eq!(kind(&agent), ErrorKind::NotConnected);
        guest.write_all(b"up 1\n").unwrap();
        assert!(agent.wait_up(SOON));
        // Nobody listens any more, so nobody but the order finds out that it went.
        drop(listening);
        drop(guest);
        assert_eq!(kind(&agent), ErrorKind::BrokenPipe);
        assert_eq!(kind(&agent), ErrorKind::NotConnected);
    }

    #[test]
    fn a_guest_that_does_not_read_holds_nobody_up_and_is_hung_up_on() {
        let (agent, mut service) = Agent::new().unwrap();
        let _listening = agent.listen().unwrap();
        let mut guest = connect(service.as_mut());
        guest.write_all(b"up 1\n").unwrap();
        assert!(agent.wait_up(SOON));
        let full = (0..1_000_000).find_map(|_| agent.power_off().err()).expect("it is never full");
        assert!(matches!(full.kind(), ErrorKind::WouldBlock | ErrorKind::WriteZero), "{full}");
        assert!(!agent.wait_up(NOW));
        let mut all = Vec::new();
        guest.read_to_end(&mut all).unwrap();
        assert!(all.starts_with(b"time ") && !all.is_empty());
    }

    #[test]
    fn a_guest_that_floods_is_told_the_time_once() {
        let (agent, mut service) = Agent::new().unwrap();
        let _listening = agent.listen().unwrap();
        let mut guest = BufReader::new(connect(service.as_mut()));
        for _ in 0..10_000 {
            guest.get_mut().write_all(b"up 1\n").unwrap();
        }
        assert_time(&told(&mut guest));
        // Too long a line is the end of it.
        let _ = guest.get_mut().write_all(&[b'x'; 2 * LINE]);
        let mut rest = Vec::new();
        // The end may come as an error where something that it sent was not read.
        let _ = guest.read_to_end(&mut rest);
        assert_eq!(String::from_utf8_lossy(&rest), "");
    }
}
