//! Frames on their way from guest memory to the back-end, gathered without a copy.

use vm_memory::VolatileSlice;

use super::checksum::Checksum;
use super::loopback::{ADDRESSES_END, is_for_loopback};
use super::offload::{MAX_HEADERS, Offload};
use super::{ETHERNET_HEADER, HEADER_LEN, MAX_FRAME};
use crate::vmm::virtio::chain::Chain;
use crate::vmm::virtio::iov::{IoVecs, MAX_PIECES};

/// Most frames in one system call.
pub(super) const MAX_FRAMES: usize = 64;
/// Bytes of frames in one system call on a stream. A UNIX socket takes this much as one piece
/// (`unix_stream_sendmsg` in Linux' `net/unix/af_unix.c`: some 48 KiB), so that the peer sees whole
/// frames: passt before 2024 loses its place when it reads a part of one.
const PIECE: usize = 32 << 10;
/// Bytes before each frame in a stream: its length, big-endian.
pub(super) const PREFIX: usize = 4;
/// Most bytes that are copied out of guest memory before they are looked at: a frame's length in
/// the stream, its ethernet header, and the headers up to a checksum that is to be finished.
const MAX_HEAD: usize = PREFIX + MAX_HEADERS;

/// Why a frame was not taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Rejected;

/// Frames that the driver gave and the back-end has not taken yet. Holds its space for good.
#[derive(Debug)]
pub(super) struct Batch<'m> {
    frames: Vec<Frame>,
    slices: Vec<VolatileSlice<'m>>,
    /// First frame that is not sent wholly.
    next: usize,
    /// Bytes of that frame and its prefix that are sent.
    sent: usize,
    /// Feature bits that were agreed on.
    features: u64,
    /// Checksums are finished here, because the back-end does not.
    finish: bool,
}

#[derive(Debug)]
struct Frame {
    chain: u16,
    offload: Offload,
    head: [u8; MAX_HEAD],
    head_len: usize,
    /// The rest of it, by index of its slices.
    first: usize,
    end: usize,
    /// Bytes in a stream: `head` and the rest.
    len: usize,
    /// Nobody took it.
    dropped: bool,
}

/// What became of a frame that is done with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fate {
    /// The back-end has it: its length in bytes.
    Sent(usize),
    /// Nobody has it.
    Dropped,
}

impl Frame {
    fn head(&self) -> &[u8] {
        self.head.get(..self.head_len).unwrap_or_default()
    }
}

impl<'m> Batch<'m> {
    /// `finish` says whether checksums that the driver left unfinished are finished here.
    pub(super) fn new(features: u64, finish: bool) -> Self {
        Self {
            features,
            finish,
            frames: Vec::with_capacity(MAX_FRAMES),
            slices: Vec::with_capacity(2 * MAX_PIECES),
            next: 0,
            sent: 0,
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.next == self.frames.len()
    }

    /// Whether another frame is worth taking before the next system call.
    pub(super) fn has_room(&self) -> bool {
        self.frames.len() < MAX_FRAMES && self.slices.len() + self.frames.len() < MAX_PIECES
    }

    /// Takes the frame in `chain`, which comes behind a virtio header, if it is one that a card
    /// with the address `mac` sends. Headers are looked at after they left guest memory, so what is
    /// checked is what is sent.
    pub(super) fn add(&mut self, chain: &mut Chain<'m>, mac: &[u8]) -> Result<(), Rejected> {
        let mut header = [0; HEADER_LEN];
        if !chain.writable().is_empty() || !chain.read_exact(&mut header) {
            return Err(Rejected);
        }
        let len = chain.readable_len();
        if !(ETHERNET_HEADER..=MAX_FRAME).contains(&len) {
            return Err(Rejected);
        }
        let offload = Offload::parse(&header, len, self.features)?;
        let mut head = [0; MAX_HEAD];
        let head_len = PREFIX + offload.head_len().max(ADDRESSES_END.min(len));
        let headers = head.get_mut(PREFIX..head_len).ok_or(Rejected)?;
        if !chain.read_exact(headers) || headers.get(6..12) != Some(mac) || !offload.fits(headers, len) {
            return Err(Rejected);
        }
        if is_for_loopback(headers) {
            return Err(Rejected);
        }
        if let Some((start, field)) = offload.checksum().filter(|_| self.finish) {
            let mut sum = Checksum::default();
            sum.add(headers.get(start..).unwrap_or_default());
            sum.add_guest(chain.readable());
            headers.get_mut(field..field + 2).ok_or(Rejected)?.copy_from_slice(&sum.finish());
        }
        head[..PREFIX].copy_from_slice(&u32::try_from(len).unwrap_or(u32::MAX).to_be_bytes());
        let first = self.slices.len();
        self.slices.extend_from_slice(chain.readable());
        let (chain, end) = (chain.head(), self.slices.len());
        self.frames.push(Frame {
            chain,
            offload,
            head,
            head_len,
            first,
            end,
            len: PREFIX + len,
            dropped: false,
        });
        Ok(())
    }

    /// What a stream takes next: each frame behind its length, at most [`PIECE`] or one frame.
    pub(super) fn stream_pieces<'a>(&'a self) -> IoVecs<'a> {
        let mut iov = IoVecs::new();
        let mut skip = self.sent;
        let mut bytes = 0;
        for frame in self.frames.get(self.next..).unwrap_or_default() {
            bytes += frame.len;
            if bytes > PIECE && bytes > frame.len {
                break;
            }
            if let Some(head) = frame.head().get(skip..).filter(|head| !head.is_empty()) {
                iov.push_bytes(head);
            }
            iov.push_from(self.slices_of(frame), skip.saturating_sub(frame.head_len));
            skip = 0;
        }
        iov
    }

    /// The next frame alone, behind the header that says what is to be done with it.
    pub(super) fn frame_pieces<'a>(&'a self) -> IoVecs<'a> {
        let mut iov = IoVecs::new();
        if let Some(frame) = self.frames.get(self.next) {
            iov.push_bytes(frame.offload.header());
            iov.push_bytes(frame.head().get(PREFIX..).unwrap_or_default());
            iov.push_from(self.slices_of(frame), 0);
        }
        iov
    }

    /// Notes that a stream took `count` bytes.
    pub(super) fn advance(&mut self, count: usize) {
        self.sent += count;
        while let Some(frame) = self.frames.get(self.next) {
            if self.sent < frame.len {
                break;
            }
            self.sent -= frame.len;
            self.next += 1;
        }
    }

    /// Notes that the next frame was taken as a whole.
    pub(super) fn frame_sent(&mut self) {
        self.sent = 0;
        self.next = self.frames.len().min(self.next + 1);
    }

    /// Notes that nobody takes the next frame.
    pub(super) fn drop_frame(&mut self) {
        if let Some(frame) = self.frames.get_mut(self.next) {
            frame.dropped = true;
        }
        self.frame_sent();
    }

    /// Notes that nobody takes any of the frames that are left.
    pub(super) fn drop_all(&mut self) {
        while !self.is_empty() {
            self.drop_frame();
        }
    }

    /// Heads of the chains that are done with, once each, and what became of their frames; forgets the batch
    /// when all are.
    pub(super) fn take_done(&mut self, mut done: impl FnMut(u16, Fate)) {
        // Slices stay where they are until the last frame is sent; frames know them by index.
        for frame in self.frames.drain(..self.next) {
            done(frame.chain, if frame.dropped { Fate::Dropped } else { Fate::Sent(frame.len - PREFIX) });
        }
        self.next = 0;
        if self.frames.is_empty() {
            self.slices.clear();
        }
    }

    /// A copy of what is left of the frame that is sent in part.
    pub(super) fn rest_of_frame(&self) -> Vec<u8> {
        let Some(frame) = self.frames.get(self.next).filter(|_| self.sent > 0) else { return vec![] };
        let mut bytes = Vec::with_capacity(frame.len);
        bytes.extend_from_slice(frame.head());
        for slice in self.slices_of(frame) {
            let start = bytes.len();
            bytes.resize(start + slice.len(), 0);
            slice.copy_to(bytes.get_mut(start..).unwrap_or_default());
        }
        bytes.drain(..self.sent.min(bytes.len()));
        bytes
    }

    /// A batch of short frames, of which nothing is in guest memory.
    #[cfg(test)]
    pub(super) fn of_short_frames(frames: &[&[u8]]) -> Self {
        let mut batch = Self::new(0, false);
        for (chain, bytes) in (0..).zip(frames) {
            let mut head = [0; MAX_HEAD];
            let (len, offload) =
                (PREFIX + bytes.len(), Offload::parse(&[0; HEADER_LEN], bytes.len(), 0).unwrap());
            head[PREFIX..len].copy_from_slice(bytes);
            batch.frames.push(Frame {
                chain,
                offload,
                head,
                head_len: len,
                first: 0,
                end: 0,
                len,
                dropped: false,
            });
        }
        batch
    }

    fn slices_of(&self, frame: &Frame) -> &[VolatileSlice<'m>] {
        self.slices.get(frame.first..frame.end).unwrap_or_default()
    }
}
