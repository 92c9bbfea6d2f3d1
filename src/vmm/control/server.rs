//! The machine's side of the control protocol: a thread that listens and one a connection.

use std::collections::HashMap;
use std::io::{self, BufRead, BufReader, ErrorKind, Read, Write};
use std::net::Shutdown;
use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;

use super::{IDLE, MAX_CONNECTIONS, MAX_LINE, Op, Reply, Request, Target, VERSION};
use crate::vmm::notify::Notify;
use crate::vmm::sandbox;

/// How long an answer may take to be accepted by a client that does not read.
const WRITE_LIMIT: Duration = Duration::from_secs(5);
/// How long [`Server::finish`] gives clients to take the last answers.
const LAST_WORDS: Duration = Duration::from_secs(2);
/// How often a connection that waits looks whether its client is still there.
const WAIT_STEP: Duration = Duration::from_secs(1);

struct Shared {
    target: Arc<dyn Target>,
    state: Mutex<Connections>,
    changed: Condvar,
}

#[derive(Default)]
struct Connections {
    /// Open connections, to close them at the end.
    open: HashMap<u64, UnixStream>,
    next: u64,
    /// Why the machine ended.
    reason: Option<String>,
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, Connections> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A running control server; dropping it disconnects everybody.
pub struct Server {
    shared: Arc<Shared>,
    quit: Notify,
    thread: Option<JoinHandle<()>>,
}

/// Serves `target` to whoever connects to `listener`.
///
/// # Errors
/// When no thread can be started.
pub fn serve(listener: UnixListener, target: Arc<dyn Target>) -> io::Result<Server> {
    listener.set_nonblocking(true)?;
    let shared = Arc::new(Shared { target, state: Mutex::default(), changed: Condvar::new() });
    let quit = Notify::new()?;
    let thread = {
        let (shared, quit) = (shared.clone(), quit.clone());
        sandbox::spawn("control", move || accept(&listener, &shared, &quit))?
    };
    Ok(Server { shared, quit, thread: Some(thread) })
}

impl Server {
    /// Tells everybody who waits why the machine ended, and ends the server.
    pub fn finish(self, reason: &str) {
        self.shared.state().reason = Some(reason.to_owned());
        self.shared.changed.notify_all();
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.quit.signal();
        if let Some(thread) = self.thread.take() {
            _ = thread.join();
        }
        // Who is not waiting is reading; an end of file lets those threads go, too.
        let mut state = self.shared.state();
        state.reason.get_or_insert_with(|| "gone".to_owned());
        self.shared.changed.notify_all();
        for stream in state.open.values() {
            _ = stream.shutdown(Shutdown::Read);
        }
        let deadline = Instant::now() + LAST_WORDS;
        while !state.open.is_empty() {
            let Some(left) = deadline.checked_duration_since(Instant::now()) else { break };
            state = self
                .shared
                .changed
                .wait_timeout(state, left)
                .map_or_else(|poisoned| poisoned.into_inner().0, |(state, _)| state);
        }
        for stream in state.open.values() {
            _ = stream.shutdown(Shutdown::Both);
        }
    }
}

/// Takes connections until told to quit.
fn accept(listener: &UnixListener, shared: &Arc<Shared>, quit: &Notify) {
    loop {
        let mut fds = [PollFd::new(quit, PollFlags::IN), PollFd::new(listener, PollFlags::IN)];
        match poll(&mut fds, None) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(e) => return tracing::error!("control socket: cannot wait for connections: {e}"),
        }
        let [told, _] = fds;
        if !told.revents().is_empty() {
            return;
        }
        match listener.accept() {
            Ok((stream, _)) => {
                if let Err(e) = admit(stream, shared) {
                    tracing::warn!("control socket: a connection was dropped: {e}");
                }
            }
            Err(e) if matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => {}
            Err(e) => {
                // Out of descriptors, most likely: they come back, but not at once.
                tracing::warn!("control socket: cannot accept: {e}");
                let pause = Timespec { tv_sec: 0, tv_nsec: 100_000_000 };
                _ = poll(&mut [PollFd::new(quit, PollFlags::IN)], Some(&pause));
            }
        }
    }
}

/// Starts a thread for a connection, if there is room.
fn admit(stream: UnixStream, shared: &Arc<Shared>) -> io::Result<()> {
    stream.set_nonblocking(false)?;
    stream.set_write_timeout(Some(WRITE_LIMIT))?;
    let mut state = shared.state();
    if state.open.len() >= MAX_CONNECTIONS {
        drop(state);
        return answer(&stream, &Reply::refused("too many connections"));
    }
    let id = state.next;
    state.next += 1;
    state.open.insert(id, stream.try_clone()?);
    drop(state);
    let guard = Guard { shared: shared.clone(), id };
    sandbox::spawn("control-client", move || {
        // A client that goes away in the middle is no concern of the machine's.
        _ = converse(&stream, &guard.shared);
    })?;
    Ok(())
}

/// Forgets its connection when dropped, also when the thread could not be started.
struct Guard {
    shared: Arc<Shared>,
    id: u64,
}

impl Drop for Guard {
    fn drop(&mut self) {
        self.shared.state().open.remove(&self.id);
        self.shared.changed.notify_all();
    }
}

/// Answers one request after the other until the client leaves.
fn converse(stream: &UnixStream, shared: &Shared) -> io::Result<()> {
    let mut lines =
        Lines { reader: BufReader::new(Deadlined { stream, until: Instant::now() }), line: Vec::new() };
    loop {
        let reply = match lines.next() {
            Ok(None) => return Ok(()),
            Ok(Some(line)) => match serde_json::from_slice::<Request>(line) {
                Err(e) => Reply::refused(format!("not a request: {e}")),
                Ok(request) if request.version != VERSION => {
                    Reply::refused(format!("version {} is not spoken here, {VERSION} is", request.version))
                }
                Ok(request) => match handle(&request, stream, shared)? {
                    Some(reply) => reply,
                    None => return Ok(()),
                },
            },
            Err(e) if e.kind() == ErrorKind::InvalidData => {
                return answer(stream, &Reply::refused(e));
            }
            Err(e) => return Err(e),
        };
        answer(stream, &reply)?;
    }
}

/// `None` when the client has gone.
fn handle(request: &Request, stream: &UnixStream, shared: &Shared) -> io::Result<Option<Reply>> {
    let done = |result: io::Result<()>| result.map_or_else(Reply::refused, |()| Reply::done());
    Ok(Some(match request.op {
        Op::Status => Reply::status(shared.target.status()),
        Op::PowerButton => done(shared.target.power_button()),
        Op::PowerOff => done(shared.target.power_off()),
        Op::Stop => done(shared.target.stop()),
        Op::Usage => shared.target.usage().map_or_else(Reply::refused, Reply::usage),
        Op::Balloon => match request.bytes {
            Some(bytes) => done(shared.target.set_balloon(bytes)),
            None => Reply::refused("`bytes` is missing"),
        },
        Op::Wait => return wait(stream, shared),
        Op::WaitUp => return wait_up(stream, shared),
    }))
}

/// Waits for the end of the machine, or of the client.
fn wait(stream: &UnixStream, shared: &Shared) -> io::Result<Option<Reply>> {
    let mut state = shared.state();
    loop {
        if let Some(reason) = &state.reason {
            return Ok(Some(Reply::ended(reason)));
        }
        let timed_out;
        (state, timed_out) = match shared.changed.wait_timeout(state, WAIT_STEP) {
            Ok((state, result)) => (state, result.timed_out()),
            Err(poisoned) => {
                let (state, result) = poisoned.into_inner();
                (state, result.timed_out())
            }
        };
        if timed_out && has_left(stream)? {
            return Ok(None);
        }
    }
}

/// Waits for the guest to be up, or for the end of the machine or of the client.
fn wait_up(stream: &UnixStream, shared: &Shared) -> io::Result<Option<Reply>> {
    loop {
        match shared.target.wait_up(WAIT_STEP) {
            Ok(true) => return Ok(Some(Reply::done())),
            Ok(false) => {}
            Err(error) => return Ok(Some(Reply::refused(error))),
        }
        if shared.state().reason.is_some() {
            return Ok(Some(Reply::refused("the machine has ended")));
        }
        if has_left(stream)? {
            return Ok(None);
        }
    }
}

fn has_left(stream: &UnixStream) -> io::Result<bool> {
    let mut fds = [PollFd::new(stream, PollFlags::RDHUP)];
    poll(&mut fds, Some(&Timespec { tv_sec: 0, tv_nsec: 0 }))?;
    let [fd] = fds;
    Ok(fd.revents().intersects(PollFlags::RDHUP | PollFlags::HUP | PollFlags::ERR))
}

fn answer(mut stream: &UnixStream, reply: &Reply) -> io::Result<()> {
    let mut line = serde_json::to_vec(reply)?;
    line.push(b'\n');
    stream.write_all(&line)
}

/// Reads from a stream until a point in time, so that a byte now and then does not hold a
/// connection for ever.
struct Deadlined<'a> {
    stream: &'a UnixStream,
    until: Instant,
}

impl Read for Deadlined<'_> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let left = self.until.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(ErrorKind::TimedOut.into());
        }
        self.stream.set_read_timeout(Some(left))?;
        let mut stream = self.stream;
        stream.read(buf)
    }
}

struct Lines<'a> {
    reader: BufReader<Deadlined<'a>>,
    line: Vec<u8>,
}

impl Lines<'_> {
    /// The next line; `None` at the end. A line that is too long is `InvalidData`.
    fn next(&mut self) -> io::Result<Option<&[u8]>> {
        self.line.clear();
        self.reader.get_mut().until = Instant::now() + IDLE;
        let mut bounded = (&mut self.reader).take(MAX_LINE as u64);
        if bounded.read_until(b'\n', &mut self.line)? == 0 {
            return Ok(None);
        }
        if self.line.last() != Some(&b'\n') && self.line.len() >= MAX_LINE {
            return Err(io::Error::new(ErrorKind::InvalidData, "line is too long"));
        }
        Ok(Some(&self.line))
    }
}
