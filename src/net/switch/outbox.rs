//! Frames on their way to one machine: what its socket does not take at once waits here, not for ever
//! and not without limit.

use std::collections::VecDeque;
use std::io;
use std::os::fd::AsFd;

use rustix::io::Errno;
use rustix::net::{SendFlags, send};

/// Bytes before each frame: its length, big-endian.
pub(in crate::net) const PREFIX: usize = 4;
/// Bytes of the longest frame: the largest IP packet, and an Ethernet header with a VLAN tag.
pub(in crate::net) const MAX_FRAME: usize = 65535 + 14 + 4;
/// Bytes that wait for one machine. More is dropped, from whoever has most of it waiting.
const LIMIT: usize = 1 << 20;
/// Bytes that are sent at once.
const BATCH: usize = 64 * 1024;

/// Frames from one port that wait.
#[derive(Debug)]
struct Queue {
    source: u64,
    frames: VecDeque<Box<[u8]>>,
    bytes: usize,
}

/// Frames for one machine, fairly from all others.
#[derive(Debug, Default)]
pub(in crate::net) struct Outbox {
    /// One queue, never empty, for each port that frames came from; the first is the next to be served.
    queues: VecDeque<Queue>,
    /// Bytes in the queues.
    held: usize,
    /// Whole frames that are being sent, the first of them perhaps in part.
    current: Vec<u8>,
    sent: usize,
}

impl Outbox {
    /// Nothing waits.
    pub fn is_empty(&self) -> bool {
        self.current.len() == self.sent && self.queues.is_empty()
    }

    /// Takes whole frames, each behind its length, that came from port `source`. Returns how many were
    /// taken and how many were dropped, of whichever source.
    pub fn offer(&mut self, source: u64, frames: &[u8], socket: impl AsFd) -> io::Result<(u64, u64)> {
        let mut done = 0;
        if self.is_empty() {
            done = send_some(socket, frames)?;
        }
        let (mut taken, mut dropped, mut at) = (0, 0, 0);
        while let Some(end) = frame_end(frames, at) {
            taken += 1;
            if end > done {
                if at < done {
                    // The rest of a frame that went out in part comes before all others.
                    self.current.clear();
                    self.sent = 0;
                    self.current.extend_from_slice(frames.get(done..end).unwrap_or_default());
                } else {
                    dropped += self.push(source, frames.get(at..end).unwrap_or_default());
                }
            }
            at = end;
        }
        Ok((taken, dropped))
    }

    /// Queues a frame; how many had to go for it.
    fn push(&mut self, source: u64, frame: &[u8]) -> u64 {
        self.held += frame.len();
        let found = self.queues.iter().position(|queue| queue.source == source);
        let at = found.unwrap_or(self.queues.len());
        if found.is_none() {
            self.queues.push_back(Queue { source, frames: VecDeque::new(), bytes: 0 });
        }
        if let Some(queue) = self.queues.get_mut(at) {
            queue.bytes += frame.len();
            queue.frames.push_back(frame.into());
        }
        let mut dropped = 0;
        while self.held > LIMIT {
            let longest = (0..self.queues.len()).max_by_key(|at| self.queues.get(*at).map(|q| q.bytes));
            let Some(queue) = longest.and_then(|at| self.queues.get_mut(at)) else { break };
            let len = queue.frames.pop_back().map_or(0, |frame| frame.len());
            queue.bytes -= len;
            self.held -= len;
            dropped += 1;
            self.queues.retain(|queue| !queue.frames.is_empty());
        }
        dropped
    }

    /// Sends what the socket takes.
    pub fn flush(&mut self, socket: impl AsFd) -> io::Result<()> {
        loop {
            if self.sent == self.current.len() && !self.refill() {
                return Ok(());
            }
            let rest = self.current.get(self.sent..).unwrap_or_default();
            match send_some(socket.as_fd(), rest)? {
                0 => return Ok(()),
                count => self.sent += count,
            }
        }
    }

    /// The next frames, one of each source in turn; false when there is none.
    fn refill(&mut self) -> bool {
        self.current.clear();
        self.sent = 0;
        while self.current.len() < BATCH {
            let Some(mut queue) = self.queues.pop_front() else { break };
            if let Some(frame) = queue.frames.pop_front() {
                self.held -= frame.len();
                queue.bytes -= frame.len();
                self.current.extend_from_slice(&frame);
            }
            if !queue.frames.is_empty() {
                self.queues.push_back(queue);
            }
        }
        !self.current.is_empty()
    }
}

/// Where the frame that begins at `at` ends, if all of it is there.
pub(in crate::net) fn frame_end(bytes: &[u8], at: usize) -> Option<usize> {
    let prefix = bytes.get(at..)?.first_chunk::<PREFIX>()?;
    let end = (at + PREFIX).checked_add(u32::from_be_bytes(*prefix) as usize)?;
    (end <= bytes.len()).then_some(end)
}

/// Bytes that the socket took; none when it is full.
fn send_some(socket: impl AsFd, bytes: &[u8]) -> io::Result<usize> {
    if bytes.is_empty() {
        return Ok(0);
    }
    loop {
        match send(socket.as_fd(), bytes, SendFlags::NOSIGNAL | SendFlags::DONTWAIT) {
            Ok(count) => return Ok(count),
            Err(Errno::AGAIN) => return Ok(0),
            Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

#[cfg(test)]
pub(in crate::net) mod tests {
    use super::*;
    use std::io::Read;
    use std::os::unix::net::UnixStream;

    pub(in crate::net) fn frame(fill: u8, len: usize) -> Vec<u8> {
        let mut frame = u32::try_from(len).unwrap().to_be_bytes().to_vec();
        frame.resize(PREFIX + len, fill);
        frame
    }

    /// All frames that come out at the other end, by their first byte and length.
    fn drain(outbox: &mut Outbox, ours: &UnixStream, theirs: &UnixStream) -> Vec<(u8, usize)> {
        theirs.set_nonblocking(true).unwrap();
        let (mut bytes, mut chunk) = (Vec::new(), vec![0; 1 << 16]);
        loop {
            outbox.flush(ours).unwrap();
            match (&mut &*theirs).read(&mut chunk) {
                Ok(count) => bytes.extend_from_slice(&chunk[..count]),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock && outbox.is_empty() => break,
                Err(error) => assert_eq!(error.kind(), io::ErrorKind::WouldBlock),
            }
        }
        let (mut frames, mut at) = (Vec::new(), 0);
        while let Some(end) = frame_end(&bytes, at) {
            frames.push((bytes[at + PREFIX], end - at - PREFIX));
            at = end;
        }
        assert_eq!(at, bytes.len(), "the stream ends within a frame");
        frames
    }

    #[test]
    fn what_is_sent_in_part_comes_out_whole_and_in_order() {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let mut outbox = Outbox::default();
        let mut offered = Vec::new();
        for n in 0..200_u8 {
            let two = [frame(n, 3000), frame(n, 61)].concat();
            assert_eq!(outbox.offer(1, &two, &ours).unwrap(), (2, 0));
            offered.extend([(n, 3000), (n, 61)]);
        }
        assert!(!outbox.is_empty(), "the socket took it all: nothing was tested");
        assert_eq!(drain(&mut outbox, &ours, &theirs), offered);
    }

    #[test]
    fn a_flood_costs_its_own_frames_and_bounded_memory() {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let mut outbox = Outbox::default();
        for _ in 0..10_000 {
            outbox.offer(1, &frame(1, 1500), &ours).unwrap();
        }
        assert!(outbox.held <= LIMIT);
        // Another source gets its frames in, and not behind the whole flood.
        assert_eq!(outbox.offer(2, &frame(2, 1500), &ours).unwrap(), (1, 1));
        assert_eq!(outbox.offer(2, &frame(2, 1500), &ours).unwrap().0, 1);
        let frames = drain(&mut outbox, &ours, &theirs);
        let places: Vec<usize> = (0..frames.len()).filter(|at| frames[*at].0 == 2).collect();
        assert_eq!(places.len(), 2);
        assert!(frames.len() - places[1] > 300, "{places:?} of {}", frames.len());
    }

    #[test]
    fn a_machine_that_is_gone_is_an_error_and_not_a_signal() {
        let (ours, theirs) = UnixStream::pair().unwrap();
        drop(theirs);
        assert!(Outbox::default().offer(1, &frame(1, 60), &ours).is_err());
    }
}
