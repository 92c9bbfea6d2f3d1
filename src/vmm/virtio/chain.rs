//! The one reader of descriptor chains (virtio 1.2, section 2.7).
//!
//! A chain is fetched from guest memory once, descriptor by descriptor, and every rule is checked
//! before a byte that it points to is touched. What comes out is slices of guest memory, so a driver
//! that rewrites its descriptors meanwhile changes nothing.

use virtio_queue::desc::split::Descriptor;
use vm_memory::{Bytes, GuestAddress, GuestMemoryBackend, GuestMemoryMmap, VolatileSlice};

/// `VIRTQ_DESC_F_NEXT`: another descriptor follows.
const DESC_NEXT: u16 = 1;
/// `VIRTQ_DESC_F_WRITE`: the device writes this buffer.
const DESC_WRITE: u16 = 2;
/// `VIRTQ_DESC_F_INDIRECT`: the buffer is a table of descriptors.
const DESC_INDIRECT: u16 = 4;
/// Bytes in one descriptor.
pub(super) const DESC_SIZE: usize = 16;

/// What a driver got wrong in a chain.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ChainError {
    /// A head or `next` lies outside its table.
    #[error("descriptor index {index} in a table of {entries}")]
    Index {
        /// The index.
        index: u16,
        /// Entries of that table.
        entries: u16,
    },
    /// More descriptors than may be in one chain: too long, or a loop.
    #[error("descriptor chain is longer than {limit} or loops")]
    TooLong {
        /// The most there may be.
        limit: u16,
    },
    /// An indirect table without the feature, inside another one, or with a successor.
    #[error("indirect descriptor where there may be none")]
    Indirect,
    /// An indirect table of no, broken, or too many entries.
    #[error("indirect table of {len} bytes")]
    IndirectSize {
        /// Its length in bytes.
        len: u32,
    },
    /// A buffer or table is not wholly in one piece of guest memory.
    #[error("{len} bytes at {addr:#x} are not guest memory")]
    Memory {
        /// Guest-physical address.
        addr: u64,
        /// Length in bytes.
        len: u32,
    },
    /// A buffer for the device to read comes after one for it to write.
    #[error("readable descriptor after a writable one")]
    Order,
    /// All buffers together are longer than allowed.
    #[error("descriptor chain holds more than {limit} bytes")]
    TooLarge {
        /// The most there may be.
        limit: u32,
    },
}

/// The table that chains start in, and the limits they keep to.
#[derive(Debug, Clone, Copy)]
pub(super) struct Table<'m> {
    /// Guest memory.
    pub(super) mem: &'m GuestMemoryMmap,
    /// The descriptor table, `entries` times [`DESC_SIZE`] bytes.
    pub(super) descriptors: VolatileSlice<'m>,
    /// Queue size.
    pub(super) entries: u16,
    /// Most descriptors in a chain that uses an indirect table; 0 forbids indirect tables.
    pub(super) indirect_limit: u16,
    /// Most bytes in a chain.
    pub(super) byte_limit: u32,
}

/// One checked chain: buffers that the device reads, then buffers that it writes.
///
/// It is filled by [`Ring::pop`](super::queue::Ring::pop) and meant to be reused: its space is
/// allocated once.
#[derive(Debug)]
pub struct Chain<'m> {
    head: u16,
    segments: Vec<VolatileSlice<'m>>,
    /// `segments[read_at..split]` is what is left to read.
    read_at: usize,
    split: usize,
    /// `segments[write_at..]` is what is left to write.
    write_at: usize,
}

impl<'m> Chain<'m> {
    /// An empty chain with room for `descriptors`.
    pub fn with_capacity(descriptors: u16) -> Self {
        Self {
            head: 0,
            segments: Vec::with_capacity(usize::from(descriptors)),
            read_at: 0,
            split: 0,
            write_at: 0,
        }
    }

    /// A chain of its own, of no queue.
    #[cfg(test)]
    pub(super) fn of(readable: VolatileSlice<'m>, writable: VolatileSlice<'m>) -> Self {
        Self { head: 0, segments: vec![readable, writable], read_at: 0, split: 1, write_at: 1 }
    }

    /// Index of the chain's first descriptor, by which it is returned to the driver.
    pub fn head(&self) -> u16 {
        self.head
    }

    /// What is left for the device to read.
    pub fn readable(&self) -> &[VolatileSlice<'m>] {
        self.segments.get(self.read_at..self.split).unwrap_or_default()
    }

    /// What is left for the device to write.
    pub fn writable(&self) -> &[VolatileSlice<'m>] {
        self.segments.get(self.write_at..).unwrap_or_default()
    }

    /// Bytes left to read.
    pub fn readable_len(&self) -> usize {
        self.readable().iter().map(VolatileSlice::len).sum()
    }

    /// Bytes left to write.
    pub fn writable_len(&self) -> usize {
        self.writable().iter().map(VolatileSlice::len).sum()
    }

    /// Takes `buf.len()` bytes from the front of what is to be read; false, and nothing taken,
    /// when there are fewer.
    pub fn read_exact(&mut self, buf: &mut [u8]) -> bool {
        if self.readable_len() < buf.len() {
            return false;
        }
        let mut rest = buf;
        while !rest.is_empty() {
            let Some(segment) = self.segments.get_mut(self.read_at) else { return false };
            let count = segment.copy_to(rest);
            if !advance(segment, count) {
                self.read_at += 1;
            }
            rest = rest.get_mut(count..).unwrap_or_default();
        }
        true
    }

    /// Puts as much of `data` as fits at the front of what is to be written; gives the number of
    /// bytes.
    pub fn write(&mut self, data: &[u8]) -> usize {
        let mut rest = data;
        while !rest.is_empty() {
            let Some(segment) = self.segments.get_mut(self.write_at) else { break };
            let count = segment.len().min(rest.len());
            let (now, later) = rest.split_at(count);
            segment.copy_from(now);
            if !advance(segment, count) {
                self.write_at += 1;
            }
            rest = later;
        }
        data.len() - rest.len()
    }

    /// Takes the last writable byte away from the chain: where a block device puts its status.
    pub fn take_last_byte(&mut self) -> Option<VolatileSlice<'m>> {
        if self.writable().is_empty() {
            return None;
        }
        let last = self.segments.last_mut()?;
        let before = last.len().checked_sub(1)?;
        let byte = last.offset(before).ok()?;
        if before == 0 {
            self.segments.pop();
        } else {
            *last = last.subslice(0, before).ok()?;
        }
        Some(byte)
    }

    /// The byte at `offset` of what is to be written.
    pub fn writable_byte(&self, mut offset: usize) -> Option<VolatileSlice<'m>> {
        for segment in self.writable() {
            if offset < segment.len() {
                return segment.subslice(offset, 1).ok();
            }
            offset -= segment.len();
        }
        None
    }

    /// Forgets the last chain and collects the one that starts at `head`.
    pub(super) fn collect(&mut self, table: &Table<'m>, head: u16) -> Result<(), ChainError> {
        self.head = head;
        self.segments.clear();
        (self.read_at, self.split, self.write_at) = (0, 0, 0);
        let mut budget = Budget { bytes: table.byte_limit, writing: false };
        let (mut descriptors, mut entries) = (table.descriptors, table.entries);
        let (mut limit, mut indirect) = (table.entries, false);
        let (mut index, mut taken) = (head, 0);
        loop {
            if taken == limit {
                return Err(ChainError::TooLong { limit });
            }
            let descriptor = fetch(&descriptors, entries, index)?;
            if descriptor.flags() & DESC_INDIRECT != 0 {
                if indirect || table.indirect_limit == 0 || descriptor.flags() & DESC_NEXT != 0 {
                    return Err(ChainError::Indirect);
                }
                (descriptors, entries) = indirect_table(table, &descriptor)?;
                (limit, indirect, index) = (table.indirect_limit, true, 0);
                continue;
            }
            self.push(table, &descriptor, &mut budget)?;
            taken += 1;
            if descriptor.flags() & DESC_NEXT == 0 {
                break;
            }
            index = descriptor.next();
        }
        if !budget.writing {
            self.split = self.segments.len();
        }
        self.write_at = self.split;
        Ok(())
    }

    fn push(
        &mut self,
        table: &Table<'m>,
        descriptor: &Descriptor,
        budget: &mut Budget,
    ) -> Result<(), ChainError> {
        let writable = descriptor.flags() & DESC_WRITE != 0;
        if writable && !budget.writing {
            budget.writing = true;
            self.split = self.segments.len();
        } else if !writable && budget.writing {
            return Err(ChainError::Order);
        }
        let len = descriptor.len();
        if len == 0 {
            return Ok(());
        }
        budget.bytes =
            budget.bytes.checked_sub(len).ok_or(ChainError::TooLarge { limit: table.byte_limit })?;
        self.segments.push(slice(table.mem, descriptor)?);
        Ok(())
    }
}

/// What a chain being collected may still hold.
struct Budget {
    bytes: u32,
    writing: bool,
}

/// Drops `count` bytes from the front; false when nothing is left.
fn advance(segment: &mut VolatileSlice<'_>, count: usize) -> bool {
    match segment.offset(count) {
        Ok(rest) if !rest.is_empty() => {
            *segment = rest;
            true
        }
        _ => false,
    }
}

fn fetch(descriptors: &VolatileSlice<'_>, entries: u16, index: u16) -> Result<Descriptor, ChainError> {
    let out_of_range = ChainError::Index { index, entries };
    if index >= entries {
        return Err(out_of_range);
    }
    descriptors.read_obj(usize::from(index) * DESC_SIZE).map_err(|_| out_of_range)
}

fn indirect_table<'m>(
    table: &Table<'m>,
    descriptor: &Descriptor,
) -> Result<(VolatileSlice<'m>, u16), ChainError> {
    let len = descriptor.len();
    let entries = u16::try_from(len / DESC_SIZE as u32).unwrap_or(u16::MAX);
    if len == 0 || !len.is_multiple_of(DESC_SIZE as u32) || entries > table.indirect_limit {
        return Err(ChainError::IndirectSize { len });
    }
    Ok((slice(table.mem, descriptor)?, entries))
}

fn slice<'m>(mem: &'m GuestMemoryMmap, descriptor: &Descriptor) -> Result<VolatileSlice<'m>, ChainError> {
    let (addr, len) = (descriptor.addr().0, descriptor.len());
    let outside = ChainError::Memory { addr, len };
    let bytes = usize::try_from(len).map_err(|_| outside)?;
    GuestMemoryBackend::get_slice(mem, GuestAddress(addr), bytes).map_err(|_| outside)
}
