//! The way of what the host changes in shared folders to the guest's agent: a virtio socket where rvm runs the
//! machine, a port of QEMU's virtio console where that does.

use std::io::{self, ErrorKind, Read};
use std::os::fd::OwnedFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::thread::JoinHandle;

use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;

use super::agent;
use super::qemu::listener;
use crate::vmm::virtio::fs::{Feed, LISTENS, flush};
use crate::vmm::{VsockPort, VsockService, control, sandbox};

/// The port of the host that agents connect to.
const PORT: u32 = 2;
/// By which the agent knows the port of a virtio console, and its place there.
const NAME: &str = "rvm.changes";
const PLACE: u8 = 2;
/// Where QEMU connects to hand on what the guest is told, in the machine's folder.
const TOLD: &str = "changes.sock";
/// Where the process that tells connects to.
const TELLING: &str = "changed.sock";

/// The port of a virtio socket at which `feed` tells whoever of the guest's system connects last.
pub(super) fn port(feed: Feed) -> VsockPort {
    VsockPort { port: PORT, service: Box::new(Service(feed)) }
}

#[derive(Debug)]
struct Service(Feed);

impl VsockService for Service {
    fn connect(&mut self, guest_port: u32) -> io::Result<OwnedFd> {
        let (ours, theirs) = agent::pair(guest_port)?;
        self.0.connect(ours)?;
        Ok(theirs.into())
    }
}

/// The thread that tells; ends when this is dropped.
pub(super) struct Telling {
    feed: Feed,
    thread: Option<JoinHandle<()>>,
}

impl Telling {
    pub(super) fn start(feed: Feed) -> io::Result<Self> {
        let telling = feed.clone();
        let work = move || {
            if let Err(error) = telling.run() {
                tracing::warn!(%error, "the guest does not hear of changes in shared folders any more");
            }
        };
        Ok(Self { feed, thread: Some(sandbox::spawn("changes", work)?) })
    }
}

impl Drop for Telling {
    fn drop(&mut self) {
        self.feed.quit();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// What QEMU is told for it, in pairs.
pub(super) fn arguments() -> [String; 4] {
    [
        "-chardev".into(),
        format!("socket,id=changes,path={TOLD}"),
        "-device".into(),
        format!("virtserialport,chardev=changes,nr={PLACE},name={NAME}"),
    ]
}

/// What stands between QEMU and the process that tells, which may die and be followed by another one.
pub(super) struct Pipe {
    qemu: UnixListener,
    tellers: UnixListener,
}

/// The same once QEMU has connected.
pub(super) struct Connected {
    qemu: UnixStream,
    tellers: UnixListener,
}

impl Pipe {
    /// Listens in the machine's folder.
    pub(super) fn listen(dir: &Path) -> io::Result<Self> {
        Ok(Self { qemu: listener(dir, TOLD)?, tellers: listener(dir, TELLING)? })
    }

    /// Waits for QEMU, which is there.
    pub(super) fn accept(self) -> io::Result<Connected> {
        Ok(Connected { qemu: self.qemu.accept()?.0, tellers: self.tellers })
    }
}

impl Connected {
    /// Starts a thread that ends with QEMU.
    pub(super) fn start(self) -> io::Result<()> {
        let work = move || {
            if let Err(error) = self.carry() {
                tracing::warn!(%error, "the guest does not hear of changes in shared folders any more");
            }
        };
        sandbox::spawn("changes", work).map(drop)
    }

    fn carry(self) -> io::Result<()> {
        let mut qemu = End::new(self.qemu)?;
        let mut teller: Option<End> = None;
        loop {
            let wanted = |end: &End, other: Option<&End>| {
                let room = if other.is_none_or(|other| other.out.is_empty()) {
                    PollFlags::IN
                } else {
                    PollFlags::empty()
                };
                if end.out.is_empty() { room } else { room | PollFlags::OUT }
            };
            let mut fds = vec![
                PollFd::new(&self.tellers, PollFlags::IN),
                PollFd::new(&qemu.stream, wanted(&qemu, teller.as_ref())),
            ];
            fds.extend(
                teller.as_ref().map(|teller| PollFd::new(&teller.stream, wanted(teller, Some(&qemu)))),
            );
            match poll(&mut fds, None) {
                Ok(_) | Err(Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
            let connects = fds.first().is_some_and(|fd| !fd.revents().is_empty());
            // What it said last cannot be taken from it yet: it would wake this again and again.
            let died = fds.get(2).is_some_and(|fd| fd.revents().contains(PollFlags::HUP));
            if died && !qemu.out.is_empty() {
                teller = None;
            }
            if connects {
                // Whoever is gone again is noticed at the first read.
                teller = self.tellers.accept().and_then(|(stream, _)| End::new(stream)).ok();
                // The agent has told the one before.
                if let Some(teller) = teller.as_mut().filter(|_| qemu.listens) {
                    teller.out.push(LISTENS);
                }
            }
            if !qemu.pass(teller.as_mut())? {
                return Ok(());
            }
            if teller.as_mut().is_some_and(|teller| !teller.pass(Some(&mut qemu)).unwrap_or_default()) {
                teller = None;
            }
        }
    }
}

/// One side.
struct End {
    stream: UnixStream,
    /// What it has not taken yet.
    out: Vec<u8>,
    /// It has said so.
    listens: bool,
}

impl End {
    fn new(stream: UnixStream) -> io::Result<Self> {
        stream.set_nonblocking(true)?;
        Ok(Self { stream, out: Vec::new(), listens: false })
    }

    /// Takes what it says, for the `other` side, as soon as that has taken what was said before; false at the end.
    fn pass(&mut self, other: Option<&mut Self>) -> io::Result<bool> {
        let taken = self.flush().and_then(|()| match other {
            Some(other) if !other.out.is_empty() => Ok(1),
            other => {
                let mut bytes = [0; 4096];
                let count = self.stream.read(&mut bytes)?;
                let bytes = bytes.get(..count).unwrap_or_default();
                self.listens |= bytes.contains(&LISTENS);
                // Where nobody is it is lost.
                if let Some(other) = other {
                    other.out.extend_from_slice(bytes);
                    other.flush()?;
                }
                Ok(count)
            }
        });
        match taken {
            Ok(count) => Ok(count > 0),
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => Ok(true),
            Err(error) => Err(error),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        flush(&self.stream, &mut self.out)
    }
}

/// Has `feed` tell the guest of the machine in `dir`, which QEMU runs.
pub(super) fn introduce(dir: &Path, feed: &Feed) -> io::Result<()> {
    feed.connect(control::connect(&dir.join(TELLING))?)
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    #[test]
    fn bytes_go_both_ways_and_the_next_teller_takes_over() {
        let dir = tempfile::tempdir().unwrap();
        let pipe = Pipe::listen(dir.path()).unwrap();
        let mut qemu = UnixStream::connect(dir.path().join(TOLD)).unwrap();
        pipe.accept().unwrap().start().unwrap();
        let teller = || UnixStream::connect(dir.path().join(TELLING)).unwrap();
        let mut first = teller();
        // More than any socket holds.
        let many = vec![7; 4 << 20];
        let writer = {
            let (mut first, many) = (first.try_clone().unwrap(), many.clone());
            std::thread::spawn(move || first.write_all(&many).unwrap())
        };
        let mut got = vec![0; many.len()];
        qemu.read_exact(&mut got).unwrap();
        writer.join().unwrap();
        assert!(got == many);
        qemu.write_all(b"ok").unwrap();
        let mut answer = [0; 2];
        first.read_exact(&mut answer).unwrap();
        assert_eq!(&answer, b"ok");
        qemu.write_all(&[LISTENS]).unwrap();
        first.read_exact(&mut answer[..1]).unwrap();
        let mut second = teller();
        second.read_exact(&mut answer[..1]).unwrap();
        assert_eq!(answer[0], LISTENS);
        second.write_all(b"next").unwrap();
        let mut got = [0; 4];
        qemu.read_exact(&mut got).unwrap();
        assert_eq!(&got, b"next");
        assert_eq!(first.read(&mut answer).unwrap(), 0);
        drop(qemu);
        assert_eq!(second.read(&mut answer).unwrap(), 0);
    }

    #[test]
    fn only_the_system_of_a_guest_is_told() {
        let mut port = port(Feed::new().unwrap());
        assert_eq!(
            port.service.connect(agent::UNPRIVILEGED).unwrap_err().kind(),
            ErrorKind::PermissionDenied
        );
        port.service.connect(1).unwrap();
    }
}
