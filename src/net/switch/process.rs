//! The processes of a switch. `rvm __switch DIR` listens and watches; `rvm __switch-ports DIR`, its child,
//! carries the frames and is shut in. When the child dies, the watcher starts another one and connects the
//! machines again. Both end when the last machine is gone; when the watcher dies, so does the child.

use std::fs::File;
use std::io::{self, IoSliceMut, Write};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg};
use rustix::process::{Signal, setsid};
use rustix::stdio::stdin;

use super::client::SOCKET;
use super::spec::{Reply, Request, Spec};
use super::table::Table;
use crate::net::networks::{self, LOCK};
use crate::state::{Lock, Respawn, Starter, child};
use crate::vmm::control;
use crate::vmm::sandbox::{self, Policy, Role};

/// The word for the child.
pub const PORTS: &str = "__switch-ports";
/// What the watcher says once, on standard output, when it listens.
pub const READY: &str = "ready";
/// How long a switch waits for its first machine, and for the next one after its last.
const FIRST: Duration = Duration::from_secs(30);
const LAST: Duration = Duration::from_secs(2);
/// The first pause between the death of a child and the next one.
const PAUSE: Duration = Duration::from_millis(50);
/// Questions at once; others wait in line.
const MOST_ASKERS: usize = 16;
/// Longest question, and how long it may take.
const MOST_BYTES: usize = 4 << 20;
const PATIENCE: Duration = Duration::from_secs(10);

/// Watches over the network in `dir` until its last machine is gone.
pub fn watch(dir: &Path) -> ExitCode {
    // It fails only for a process that leads its group already, which is as good.
    let _ = setsid();
    told(sandbox::prepare().and_then(|()| watch_network(dir)))
}

fn told(result: io::Result<()>) -> ExitCode {
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

fn watch_network(dir: &Path) -> io::Result<()> {
    let lock = Lock::take(&dir.join(LOCK), "switch")?;
    let _lock =
        lock.ok_or_else(|| io::Error::new(io::ErrorKind::ResourceBusy, "this network has a switch already"))?;
    let listener = control::bind(&dir.join(SOCKET))?;
    Starter::take()?.tell(READY);
    let mut respawn = Respawn::new(PAUSE);
    let mut again = false;
    loop {
        let began = Instant::now();
        let mut command = Command::new("/proc/self/exe");
        command.arg0("rvm").arg(PORTS).arg(dir);
        command.stdin(Stdio::from(OwnedFd::from(listener.try_clone()?))).stdout(Stdio::null());
        // Unwatched it would go on for ever after its first fault. Whoever starts a switch again begins with both.
        child::ends_with_us(&mut command, Signal::KILL);
        let mut child = command.spawn()?;
        if again {
            // It asks the socket that the child listens to, so it cannot come too early.
            for trouble in networks::rejoin(dir) {
                eprintln!("{trouble}");
            }
        }
        let status = child.wait()?;
        if status.success() {
            return Ok(());
        }
        eprintln!("the process of the ports ended with {status}; another one takes over");
        respawn.wait(began.elapsed());
        again = true;
    }
}

/// Carries frames between the machines of the network in `dir`; standard input is the socket at which it
/// is asked.
pub fn ports(dir: &Path) -> ExitCode {
    told(run_ports(dir))
}

fn run_ports(dir: &Path) -> io::Result<()> {
    sandbox::prepare()?;
    let spec = networks::spec_of(dir)?;
    let listener = UnixListener::from(rustix::io::fcntl_dupfd_cloexec(stdin(), 3)?);
    let null = File::options().read(true).open("/dev/null")?;
    rustix::stdio::dup2_stdin(&null)?;
    listener.set_nonblocking(true)?;
    let report = sandbox::enter(&Policy { role: Role::Switch, largest_file: Some(0), ..Policy::default() });
    for missing in report.map_err(io::Error::other)?.missing() {
        eprintln!("sandbox: {missing}");
    }
    Switch::new(spec, listener).run()
}

/// Somebody who asks.
struct Asker {
    stream: UnixStream,
    bytes: Vec<u8>,
    socket: Option<OwnedFd>,
    until: Instant,
}

struct Switch {
    table: Table,
    listener: UnixListener,
    askers: Vec<Asker>,
    /// When it ends unless a machine comes.
    end: Option<Instant>,
    /// Somebody said that it is to end.
    ended: bool,
}

impl Switch {
    fn new(spec: Spec, listener: UnixListener) -> Self {
        let end = Some(Instant::now() + FIRST);
        Switch { table: Table::new(spec), listener, askers: Vec::new(), end, ended: false }
    }

    fn run(mut self) -> io::Result<()> {
        loop {
            let (new, asked, frames) = self.wait()?;
            for (at, flags) in frames.into_iter().enumerate() {
                if flags.contains(PollFlags::OUT) {
                    self.table.flush(at);
                }
                if flags.intersects(PollFlags::IN | PollFlags::HUP | PollFlags::ERR) {
                    self.table.serve(at);
                }
            }
            self.table.sweep(|member, gone| eprintln!("{} left: {gone}", member.machine));
            self.answer(&asked);
            if self.ended {
                return Ok(());
            }
            if new {
                self.accept();
            }
            match (self.table.is_empty(), self.end) {
                (false, _) => self.end = None,
                (true, None) => self.end = Some(Instant::now() + LAST),
                (true, Some(end)) if Instant::now() >= end && self.askers.is_empty() => return Ok(()),
                (true, Some(_)) => {}
            }
        }
    }

    /// Waits for something to do: whether somebody comes, who has asked more, what is with each port.
    fn wait(&self) -> io::Result<(bool, Vec<bool>, Vec<PollFlags>)> {
        let mut fds: Vec<PollFd<'_>> = Vec::new();
        let full = self.askers.len() >= MOST_ASKERS;
        fds.push(PollFd::new(&self.listener, if full { PollFlags::empty() } else { PollFlags::IN }));
        fds.extend(self.askers.iter().map(|asker| PollFd::new(&asker.stream, PollFlags::IN)));
        fds.extend(self.table.sockets().map(|(socket, waiting): (BorrowedFd<'_>, bool)| {
            let out = if waiting { PollFlags::OUT } else { PollFlags::empty() };
            PollFd::from_borrowed_fd(socket, PollFlags::IN | out)
        }));
        let until = self.askers.iter().map(|asker| asker.until).chain(self.end).min();
        let left = until.map(|until| until.saturating_duration_since(Instant::now()));
        let timeout = left.map(Timespec::try_from).transpose().map_err(io::Error::other)?;
        match poll(&mut fds, timeout.as_ref()) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
        let mut flags = fds.iter().map(PollFd::revents);
        let new = flags.next().is_some_and(|flags| flags.contains(PollFlags::IN));
        let asked = flags.by_ref().take(self.askers.len()).map(|flags| !flags.is_empty()).collect();
        Ok((new, asked, flags.collect()))
    }

    fn accept(&mut self) {
        if let Ok((stream, _)) = self.listener.accept()
            && stream.set_nonblocking(true).is_ok()
        {
            let until = Instant::now() + PATIENCE;
            self.askers.push(Asker { stream, bytes: Vec::new(), socket: None, until });
        }
    }

    fn answer(&mut self, asked: &[bool]) {
        let now = Instant::now();
        let askers = std::mem::take(&mut self.askers);
        for (mut asker, more) in askers.into_iter().zip(asked) {
            let whole = if *more { asker.read() } else { Ok(false) };
            match whole {
                Ok(true) => {
                    let reply = self.act(&asker.bytes, asker.socket.take());
                    let text = serde_json::to_vec(&reply).unwrap_or_default();
                    // Who does not listen to a short answer gets none.
                    let _ = asker.stream.write_all(&text);
                }
                Ok(false) if now < asker.until => self.askers.push(asker),
                _ => {}
            }
        }
    }

    fn act(&mut self, question: &[u8], socket: Option<OwnedFd>) -> Reply {
        let done = match (serde_json::from_slice(question), socket) {
            (Ok(Request::Join(member)), Some(socket)) => self.table.join(member, socket),
            (Ok(Request::Join(_)), None) => Err("no socket came along".into()),
            (Ok(Request::Names(zone)), _) => self.table.names(zone),
            (Ok(Request::Status), _) => Ok(()),
            (Ok(Request::End), _) => {
                self.ended = true;
                Ok(())
            }
            (Err(error), _) => Err(format!("not understood: {error}")),
        };
        Reply { error: done.err(), pid: std::process::id(), ports: self.table.status() }
    }
}

impl Asker {
    /// Reads what there is; true when the question is whole.
    fn read(&mut self) -> io::Result<bool> {
        let mut chunk = vec![0; 64 * 1024];
        loop {
            let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
            let mut control = RecvAncillaryBuffer::new(&mut space);
            let flags = RecvFlags::DONTWAIT | RecvFlags::CMSG_CLOEXEC;
            let mut parts = [IoSliceMut::new(&mut chunk)];
            let received = match recvmsg(self.stream.as_fd(), &mut parts, &mut control, flags) {
                Ok(message) => message.bytes,
                Err(rustix::io::Errno::AGAIN) => return Ok(false),
                Err(rustix::io::Errno::INTR) => continue,
                Err(error) => return Err(error.into()),
            };
            for message in control.drain() {
                if let RecvAncillaryMessage::ScmRights(descriptors) = message {
                    self.socket = descriptors.last().or(self.socket.take());
                }
            }
            if received == 0 {
                return Ok(true);
            }
            self.bytes.extend_from_slice(chunk.get(..received).unwrap_or_default());
            if self.bytes.len() > MOST_BYTES {
                return Err(io::ErrorKind::InvalidData.into());
            }
        }
    }
}
