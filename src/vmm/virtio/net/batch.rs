//! Frames on their way from guest memory to the back-end, gathered without a copy.

use vm_memory::VolatileSlice;

use super::{ETHERNET_HEADER, HEADER_LEN, MAX_FRAME};
use crate::vmm::virtio::chain::Chain;
use crate::vmm::virtio::iov::{IoVecs, MAX_PIECES};

/// Most frames in one system call.
pub(super) const MAX_FRAMES: usize = 64;
/// Bytes before each frame in a stream: its length, big-endian.
pub(super) const PREFIX: usize = 4;
/// Bytes of a frame that are copied out of guest memory before they are looked at: its length in
/// the stream and its ethernet header.
const HEAD: usize = PREFIX + ETHERNET_HEADER;

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
}

#[derive(Debug)]
struct Frame {
    chain: u16,
    head: [u8; HEAD],
    /// The rest of it, by index of its slices.
    first: usize,
    end: usize,
    /// Bytes in a stream: `head` and the rest.
    len: usize,
}

impl<'m> Batch<'m> {
    pub(super) fn new() -> Self {
        Self {
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
    /// with the address `mac` sends. The addresses are looked at after they left guest memory, so
    /// what is checked is what is sent.
    pub(super) fn add(&mut self, chain: &mut Chain<'m>, mac: &[u8]) -> Result<(), Rejected> {
        let mut header = [0; HEADER_LEN];
        if !chain.writable().is_empty() || !chain.read_exact(&mut header) {
            return Err(Rejected);
        }
        let len = chain.readable_len();
        let mut head = [0; HEAD];
        let (prefix, ethernet) = head.split_at_mut(PREFIX);
        if len > MAX_FRAME || !chain.read_exact(ethernet) || ethernet.get(6..12) != Some(mac) {
            return Err(Rejected);
        }
        prefix.copy_from_slice(&u32::try_from(len).unwrap_or(u32::MAX).to_be_bytes());
        let first = self.slices.len();
        self.slices.extend_from_slice(chain.readable());
        let (chain, end) = (chain.head(), self.slices.len());
        self.frames.push(Frame { chain, head, first, end, len: PREFIX + len });
        Ok(())
    }

    /// What a stream takes next: each frame behind its length.
    pub(super) fn stream_pieces<'a>(&'a self) -> IoVecs<'a> {
        let mut iov = IoVecs::new();
        let mut skip = self.sent;
        for frame in self.frames.get(self.next..).unwrap_or_default() {
            if let Some(head) = frame.head.get(skip..).filter(|head| !head.is_empty()) {
                iov.push_bytes(head);
            }
            iov.push_from(self.slices_of(frame), skip.saturating_sub(HEAD));
            skip = 0;
        }
        iov
    }

    /// The next frame alone, behind `header`.
    pub(super) fn frame_pieces<'a>(&'a self, header: &'a [u8]) -> IoVecs<'a> {
        let mut iov = IoVecs::new();
        if let Some(frame) = self.frames.get(self.next) {
            iov.push_bytes(header);
            iov.push_bytes(frame.head.get(PREFIX..).unwrap_or_default());
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

    /// Notes that the next frame is done with, sent or not.
    pub(super) fn skip_frame(&mut self) {
        self.sent = 0;
        self.next = self.frames.len().min(self.next + 1);
    }

    /// Notes that all frames are done with.
    pub(super) fn skip_all(&mut self) {
        self.sent = 0;
        self.next = self.frames.len();
    }

    /// Heads of the chains that are done with, once each; forgets the batch when all are.
    pub(super) fn take_done(&mut self, mut done: impl FnMut(u16)) {
        // Slices stay where they are until the last frame is sent; frames know them by index.
        for frame in self.frames.drain(..self.next) {
            done(frame.chain);
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
        bytes.extend_from_slice(&frame.head);
        for slice in self.slices_of(frame) {
            let start = bytes.len();
            bytes.resize(start + slice.len(), 0);
            slice.copy_to(bytes.get_mut(start..).unwrap_or_default());
        }
        bytes.drain(..self.sent.min(bytes.len()));
        bytes
    }

    fn slices_of(&self, frame: &Frame) -> &[VolatileSlice<'m>] {
        self.slices.get(frame.first..frame.end).unwrap_or_default()
    }
}
