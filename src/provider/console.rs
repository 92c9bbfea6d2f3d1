//! The consoles of a QEMU child: its serial output goes into the bounded log, its virtio console to
//! whoever is attached.

use std::io::{self, Read, Write};
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::thread::JoinHandle;

use vmm_sys_util::epoll::{ControlOperation, Epoll, EpollEvent, EventSet};

use crate::vmm::attach::Attached;
use crate::vmm::{BoundedLog, sandbox};

/// Starts a thread that ends with the stream.
pub(super) fn pump(mut stream: UnixStream, mut log: BoundedLog) -> io::Result<JoinHandle<()>> {
    sandbox::spawn("console", move || {
        let mut buffer = [0; 4096];
        loop {
            match stream.read(&mut buffer) {
                Ok(0) => break,
                Ok(n) => {
                    // A full disk must not stop the guest: what does not fit is dropped.
                    if let Err(error) = log.write_all(buffer.get(..n).unwrap_or_default()) {
                        tracing::warn!(%error, "console output lost");
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(_) => break,
            }
        }
    })
}

/// Event token of the stream to QEMU; who is attached comes after it.
const QEMU: u64 = 0;

/// Starts a thread that carries bytes between QEMU's end of the virtio console and whoever attaches
/// by `listener`. It ends with the stream.
pub(super) fn serve(stream: UnixStream, listener: UnixListener) -> io::Result<JoinHandle<()>> {
    stream.set_nonblocking(true)?;
    let attached = Attached::new(listener, QEMU + 1)?;
    let epoll = Epoll::new()?;
    sandbox::spawn("attach", move || {
        if let Err(error) = carry(&stream, attached, &epoll) {
            tracing::warn!(%error, "the console is closed");
        }
    })
}

fn carry(mut stream: &UnixStream, mut attached: Attached, epoll: &Epoll) -> io::Result<()> {
    let set = EventSet::IN | EventSet::OUT | EventSet::READ_HANG_UP | EventSet::EDGE_TRIGGERED;
    let watch = |fd: RawFd, token| epoll.ctl(ControlOperation::Add, fd, EpollEvent::new(set, token));
    watch(stream.as_raw_fd(), QEMU)?;
    attached.watch(&watch)?;
    let (mut readable, mut writable) = (true, true);
    let mut bytes = [0; 4096];
    loop {
        let idle = !(readable || writable && !attached.input().is_empty() || attached.has_work());
        let mut events = [EpollEvent::default(); 8];
        let count = match epoll.wait(if idle { -1 } else { 0 }, &mut events) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            result => result?,
        };
        for event in events.iter().take(count) {
            match event.data() {
                QEMU => (readable, writable) = (true, true),
                token => attached.note(token, event.event_set()),
            }
        }
        if readable {
            match passing(stream.read(&mut bytes))? {
                Some(0) => return Ok(()),
                Some(count) => attached.push_output(bytes.get(..count).unwrap_or_default()),
                None => readable = false,
            }
        }
        attached.work(&watch);
        // QEMU's console has no size to set.
        attached.take_size();
        if writable && !attached.input().is_empty() {
            match passing(stream.write(attached.input()))? {
                Some(count) => attached.take_input(count),
                None => writable = false,
            }
        }
    }
}

/// `None` when the stream is not ready.
fn passing(result: io::Result<usize>) -> io::Result<Option<usize>> {
    match result {
        Ok(count) => Ok(Some(count)),
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(None),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::vmm::attach::wire;

    #[test]
    fn bytes_go_both_ways_until_qemu_ends() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("console.sock");
        let (ours, mut qemu) = UnixStream::pair().unwrap();
        let thread = serve(ours, UnixListener::bind(&path).unwrap()).unwrap();
        qemu.write_all(b"login: ").unwrap();
        let mut user = UnixStream::connect(&path).unwrap();
        let mut frames = Vec::new();
        wire::push_size(&mut frames, wire::Size { columns: 1, rows: 2 });
        wire::push_input(&mut frames, b"root");
        user.write_all(&frames).unwrap();
        let mut typed = [0; 4];
        qemu.read_exact(&mut typed).unwrap();
        assert_eq!(&typed, b"root");
        drop(qemu);
        let mut seen = String::new();
        user.read_to_string(&mut seen).unwrap();
        assert_eq!(seen, "login: ");
        thread.join().unwrap();
    }
}
