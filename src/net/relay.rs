//! Carries frames between a virtual machine and whoever connects for it: its passt, and after that one was
//! killed the next.
//!
//! It stands between QEMU and passt. QEMU (7.2 at least) writes to a connection that it has accepted, and passt the
//! rest of a frame of which a part was taken, without ever reading meanwhile: where both have much to say, as
//! in a large download, each waits for the other for ever. QEMU writes so that it does not wait to a
//! connection that it is given, and what is here waits for neither.

use std::borrow::Cow;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixListener;

use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;
use rustix::net::{RecvFlags, recv};

use super::switch::outbox::{MAX_FRAME, Outbox, PREFIX, frame_end};
use crate::vmm::sandbox;
use crate::vmm::virtio::net::is_for_loopback;

/// Bytes that are taken from one side at a time. More is not taken while some of it waits for the other.
const TURN: usize = 128 * 1024;

/// One side.
struct End {
    socket: OwnedFd,
    /// Received bytes; they begin with a frame's length.
    input: Vec<u8>,
    filled: usize,
    /// Frames for it.
    outbox: Outbox,
}

/// Starts a thread that ends with the `machine`'s connection.
pub fn start(machine: OwnedFd, listener: UnixListener) -> io::Result<()> {
    sandbox::spawn("nat", move || {
        if let Err(error) = carry(End::new(machine), &listener) {
            tracing::warn!(%error, "the machine has lost its network");
        }
    })
    .map(drop)
}

fn carry(mut machine: End, listener: &UnixListener) -> io::Result<()> {
    let mut peer: Option<End> = None;
    loop {
        let ready = wait(&machine, peer.as_ref(), listener)?;
        let [from_machine, to_machine, from_peer, to_peer, connects] = ready;
        if connects {
            // Nobody but this user can connect; whoever is gone again is noticed at the first read.
            match listener.accept() {
                Ok((socket, _)) => peer = Some(End::new(socket.into())),
                Err(error) if is_passing(&error) => {}
                Err(error) => return Err(error),
            }
        }
        if to_machine {
            machine.outbox.flush(&machine.socket)?;
        }
        if to_peer && peer.as_mut().is_some_and(|peer| peer.outbox.flush(&peer.socket).is_err()) {
            peer = None;
        }
        if from_machine && !machine.pass(|frames| give(&mut peer, frames))? {
            return Ok(());
        }
        if from_peer {
            let End { socket, outbox, .. } = &mut machine;
            let passed =
                peer.as_mut().map(|peer| peer.pass(|frames| outbox.offer(0, frames, &*socket).map(drop)));
            // Of a frame that it did not finish nothing has gone on.
            if !matches!(passed, Some(Ok(true))) {
                peer = None;
            }
        }
    }
}

/// Without anybody there frames are lost, as on a cable that is not plugged in.
fn give(peer: &mut Option<End>, frames: &[u8]) -> io::Result<()> {
    if let Some(End { socket, outbox, .. }) = peer
        && outbox.offer(0, &without_loopback(frames), &*socket).is_err()
    {
        *peer = None;
    }
    Ok(())
}

/// Frames, but for those to loopback addresses, which no host lets out. An older passt would connect to them.
fn without_loopback(frames: &[u8]) -> Cow<'_, [u8]> {
    let mut kept: Option<Vec<u8>> = None;
    let mut at = 0;
    while let Some(end) = frame_end(frames, at) {
        let frame = frames.get(at..end).unwrap_or_default();
        let is_kept = !is_for_loopback(frame.get(PREFIX..).unwrap_or_default());
        match &mut kept {
            None if is_kept => {}
            None => kept = Some(frames.get(..at).unwrap_or_default().to_vec()),
            Some(kept) if is_kept => kept.extend_from_slice(frame),
            Some(_) => {}
        }
        at = end;
    }
    kept.map_or(Cow::Borrowed(frames), Cow::Owned)
}

/// Waits until there is something to do: from the machine, to it, from the peer, to it, a new peer.
fn wait(machine: &End, peer: Option<&End>, listener: &UnixListener) -> io::Result<[bool; 5]> {
    let wanted = |from: &End, to: Option<&End>| {
        let mut flags = PollFlags::empty();
        flags.set(PollFlags::IN, to.is_none_or(|to| to.outbox.is_empty()));
        flags.set(PollFlags::OUT, !from.outbox.is_empty());
        flags
    };
    let other = match peer {
        None => PollFd::new(listener, PollFlags::IN),
        Some(peer) => PollFd::new(&peer.socket, wanted(peer, Some(machine))),
    };
    let mut fds = [PollFd::new(&machine.socket, wanted(machine, peer)), other];
    match poll(&mut fds, None) {
        Ok(_) => {}
        Err(Errno::INTR) => return Ok([false; 5]),
        Err(error) => return Err(error.into()),
    }
    let [machine, other] = fds.map(|fd| fd.revents());
    // An end or an error is found by reading, also where nothing was to be read.
    let reads = |flags: PollFlags| flags.intersects(PollFlags::IN | PollFlags::HUP | PollFlags::ERR);
    let writes = |flags: PollFlags| flags.contains(PollFlags::OUT);
    Ok(match peer {
        None => [reads(machine), writes(machine), false, false, reads(other)],
        Some(_) => [reads(machine), writes(machine), reads(other), writes(other), false],
    })
}

impl End {
    fn new(socket: OwnedFd) -> End {
        End { socket, input: vec![0; TURN], filled: 0, outbox: Outbox::default() }
    }

    /// Reads once and hands on the whole frames that are there; `false`: the other side has ended.
    fn pass(&mut self, mut to: impl FnMut(&[u8]) -> io::Result<()>) -> io::Result<bool> {
        let room = self.input.get_mut(self.filled..).unwrap_or_default();
        match recv(self.socket.as_fd(), room, RecvFlags::DONTWAIT) {
            Ok((0, _)) => return Ok(false),
            Ok((count, _)) => self.filled += count,
            Err(Errno::AGAIN | Errno::INTR) => return Ok(true),
            Err(error) => return Err(error.into()),
        }
        let mut end = 0;
        while let Some(head) = self.input.get(end..self.filled).and_then(|rest| rest.first_chunk::<PREFIX>())
        {
            let len = u32::from_be_bytes(*head) as usize;
            if len > MAX_FRAME {
                return Err(io::Error::new(io::ErrorKind::InvalidData, format!("a frame of {len} bytes")));
            }
            match frame_end(self.input.get(..self.filled).unwrap_or_default(), end) {
                Some(next) => end = next,
                None => break,
            }
        }
        to(self.input.get(..end).unwrap_or_default())?;
        self.input.copy_within(end..self.filled, 0);
        self.filled -= end;
        Ok(true)
    }
}

/// Whether it is worth trying once more.
fn is_passing(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, Interrupted, WouldBlock};
    matches!(error.kind(), ConnectionAborted | Interrupted | WouldBlock)
}

#[cfg(test)]
mod tests {
    use super::super::switch::outbox::tests::frame;
    use super::*;
    use std::io::{Read, Write};
    use std::os::unix::net::UnixStream;
    use std::thread;

    /// The machine's end of a relay, and where peers connect.
    fn relay(dir: &tempfile::TempDir) -> (UnixStream, std::path::PathBuf) {
        let path = dir.path().join("nat.sock");
        let (ours, theirs) = UnixStream::pair().unwrap();
        start(ours.into(), UnixListener::bind(&path).unwrap()).unwrap();
        (theirs, path)
    }

    fn read_frame(stream: &mut UnixStream) -> Vec<u8> {
        let mut head = [0; PREFIX];
        stream.read_exact(&mut head).unwrap();
        let mut frame = vec![0; u32::from_be_bytes(head) as usize];
        stream.read_exact(&mut frame).unwrap();
        frame
    }

    /// passt writes on and on and does not read; the machine, as QEMU, reads whenever it can and writes only what
    /// is taken at once. All that passt says arrives, and then what the machine has said.
    #[test]
    fn a_peer_that_reads_nothing_while_it_writes_holds_nobody_up() {
        let dir = tempfile::tempdir().unwrap();
        let (mut machine, path) = relay(&dir);
        let mut peer = UnixStream::connect(path).unwrap();
        const COUNT: usize = 5000;
        let passt = thread::spawn(move || {
            for n in 0..COUNT {
                peer.write_all(&frame((n % 251) as u8, 1514)).unwrap();
            }
            peer
        });
        machine.set_nonblocking(true).unwrap();
        let acknowledgement = frame(7, 54);
        let (mut read, mut written, mut pending) = (Vec::new(), 0_usize, Vec::new());
        let mut chunk = vec![0; 1 << 16];
        while read.len() < COUNT * (1514 + PREFIX) {
            match machine.read(&mut chunk) {
                Ok(count) => read.extend_from_slice(&chunk[..count]),
                Err(error) => assert_eq!(error.kind(), io::ErrorKind::WouldBlock),
            }
            if pending.is_empty() {
                pending = acknowledgement.clone();
                written += 1;
            }
            match machine.write(&pending) {
                Ok(count) => drop(pending.drain(..count)),
                Err(error) => assert_eq!(error.kind(), io::ErrorKind::WouldBlock),
            }
        }
        let mut at = 0;
        for n in 0..COUNT {
            let end = frame_end(&read, at).unwrap();
            assert!(read[at + PREFIX..end].iter().all(|byte| *byte == (n % 251) as u8));
            at = end;
        }
        let mut peer = passt.join().unwrap();
        let rest = thread::spawn(move || {
            machine.set_nonblocking(false).unwrap();
            machine.write_all(&pending).unwrap();
            machine
        });
        for _ in 0..written {
            assert_eq!(read_frame(&mut peer), [7; 54]);
        }
        drop(rest.join().unwrap());
    }

    #[test]
    fn a_new_peer_begins_with_a_whole_frame_on_both_sides() {
        let dir = tempfile::tempdir().unwrap();
        let (mut machine, path) = relay(&dir);
        let mut first = UnixStream::connect(&path).unwrap();
        first.write_all(&frame(1, 100)).unwrap();
        assert_eq!(read_frame(&mut machine), [1; 100]);
        // It ends within a frame, and so does what the machine has said until then.
        first.write_all(&frame(2, 100)[..50]).unwrap();
        machine.write_all(&frame(3, 100)[..50]).unwrap();
        drop(first);
        let mut second = UnixStream::connect(&path).unwrap();
        second.write_all(&frame(4, 100)).unwrap();
        assert_eq!(read_frame(&mut machine), [4; 100]);
        machine.write_all(&frame(3, 100)[50..]).unwrap();
        assert_eq!(read_frame(&mut second), [3; 100]);
        // With the machine it ends.
        drop(machine);
        assert_eq!(second.read(&mut [0]).unwrap(), 0);
    }

    #[test]
    fn frames_for_loopback_do_not_reach_passt_and_all_others_do() {
        let dir = tempfile::tempdir().unwrap();
        let (mut machine, path) = relay(&dir);
        let mut peer = UnixStream::connect(&path).unwrap();
        let to = |last: u8, ip: [u8; 4]| {
            let mut frame = frame(last, 100);
            frame[PREFIX + 12..PREFIX + 14].copy_from_slice(&[8, 0]);
            frame[PREFIX + 30..PREFIX + 34].copy_from_slice(&ip);
            frame
        };
        let sent: Vec<Vec<u8>> =
            (1..100).map(|n| to(n, if n % 3 == 0 { [127, 0, 0, 1] } else { [192, 0, 2, 1] })).collect();
        machine.write_all(&sent.concat()).unwrap();
        for frame in sent.iter().enumerate().filter(|(at, _)| (at + 1) % 3 != 0).map(|(_, frame)| frame) {
            assert_eq!(read_frame(&mut peer), frame[PREFIX..]);
        }
        // Inwards nothing is looked at.
        peer.write_all(&sent[2]).unwrap();
        assert_eq!(read_frame(&mut machine), sent[2][PREFIX..]);
    }

    #[test]
    fn a_peer_that_sends_no_frames_is_left_and_another_can_come() {
        let dir = tempfile::tempdir().unwrap();
        let (mut machine, path) = relay(&dir);
        let mut bad = UnixStream::connect(&path).unwrap();
        bad.write_all(&[0xff; 8]).unwrap();
        assert_eq!(bad.read(&mut [0]).unwrap_or(0), 0);
        let mut good = UnixStream::connect(&path).unwrap();
        good.write_all(&frame(1, 60)).unwrap();
        assert_eq!(read_frame(&mut machine), [1; 60]);
    }
}
