//! Split virtqueues (virtio 1.2, section 2.7): set up once, then one ring for the device's worker.
//!
//! `virtio_queue::Queue` carries what the driver configured; [`Ring`] does the work on it. It looks
//! the three areas up in guest memory once, publishes used buffers a batch at a time and reports an
//! available index that cannot be, where the crate's own queue would only fall silent.

use std::num::Wrapping;
use std::sync::atomic::{Ordering, fence};

use virtio_queue::{Queue, QueueT};
use vm_memory::{Bytes, GuestAddress, GuestMemoryBackend, GuestMemoryMmap, VolatileSlice};

use super::chain::{Chain, ChainError, DESC_SIZE, Table};
use super::{VIRTIO_F_EVENT_IDX, VIRTIO_F_INDIRECT_DESC};

/// Bytes before the entries of the available and the used ring: flags and index.
const RING_HEADER: usize = 4;
/// Offset of the index in both rings.
const RING_INDEX: usize = 2;
/// Bytes in one entry of the available ring.
const AVAIL_ENTRY: usize = 2;
/// Bytes in one entry of the used ring.
const USED_ENTRY: usize = 8;
/// Bytes after the entries: the event index.
const RING_EVENT: usize = 2;
/// `VIRTQ_AVAIL_F_NO_INTERRUPT`.
const AVAIL_NO_INTERRUPT: u16 = 1;
/// `VIRTQ_USED_F_NO_NOTIFY`.
const USED_NO_NOTIFY: u16 = 1;

/// Why a queue cannot be used as the driver set it up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SetupError {
    /// The driver did not make it ready.
    #[error("the queue is not ready")]
    NotReady,
    /// Not a power of two between 1 and what the device offers.
    #[error("queue size {size} is not a power of two up to {max}")]
    Size {
        /// What the driver asked for.
        size: u32,
        /// What the device offers.
        max: u16,
    },
    /// An area that is missing, misaligned, or not in one piece of guest memory.
    #[error("{area} at {addr:#x} is missing, misaligned or outside guest memory")]
    Area {
        /// Which one.
        area: &'static str,
        /// Guest-physical address.
        addr: u64,
    },
    /// Two areas share memory.
    #[error("descriptor table and rings overlap")]
    Overlap,
}

/// What a driver did that a queue cannot recover from; the device then needs a reset.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Fault {
    /// The available index ran ahead of what the ring can hold.
    #[error("available index is {ahead} ahead in a queue of {size}")]
    AvailIndex {
        /// Entries between the device's position and the driver's.
        ahead: u16,
        /// Queue size.
        size: u16,
    },
    /// A descriptor chain breaks the rules.
    #[error("bad descriptor chain")]
    Chain(#[from] ChainError),
    /// The ring could not be accessed.
    #[error("ring is not accessible")]
    Ring,
}

/// A queue as the driver writes it into registers, unchecked.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct QueueConfig {
    /// Largest size, set by the device.
    pub max_size: u16,
    /// Number of descriptors.
    pub size: u32,
    /// Whether the driver made it ready.
    pub ready: bool,
    /// Descriptor table, guest-physical.
    pub descriptors: u64,
    /// Available ring ("driver area").
    pub avail: u64,
    /// Used ring ("device area").
    pub used: u64,
}

impl QueueConfig {
    /// Checks everything and makes the queue; what the driver writes later changes nothing.
    ///
    /// # Errors
    /// [`SetupError`] says what is wrong. A queue that is not ready is no error: it comes out
    /// not `ready()`.
    pub fn build(&self, mem: &GuestMemoryMmap, features: u64) -> Result<Queue, SetupError> {
        let bad_size = SetupError::Size { size: self.size, max: self.max_size };
        let mut queue = Queue::new(self.max_size).map_err(|_| bad_size)?;
        if !self.ready {
            return Ok(queue);
        }
        let size = u16::try_from(self.size).map_err(|_| bad_size)?;
        if !size.is_power_of_two() || size > self.max_size {
            return Err(bad_size);
        }
        let areas = self.areas(size);
        for (area, addr, len, align) in areas {
            let in_memory = GuestMemoryBackend::get_slice(mem, GuestAddress(addr), len).is_ok();
            if addr == 0 || addr % align != 0 || !in_memory {
                return Err(SetupError::Area { area, addr });
            }
        }
        // In memory, so no end overflows.
        let overlap = |a: usize, b: usize| match (areas.get(a), areas.get(b)) {
            (Some(a), Some(b)) => a.1 < b.1 + b.2 as u64 && b.1 < a.1 + a.2 as u64,
            _ => false,
        };
        if overlap(0, 1) || overlap(0, 2) || overlap(1, 2) {
            return Err(SetupError::Overlap);
        }
        queue.set_size(size);
        queue.set_desc_table_address(Some(low(self.descriptors)), Some(high(self.descriptors)));
        queue.set_avail_ring_address(Some(low(self.avail)), Some(high(self.avail)));
        queue.set_used_ring_address(Some(low(self.used)), Some(high(self.used)));
        queue.set_event_idx(features & VIRTIO_F_EVENT_IDX != 0);
        queue.set_ready(true);
        Ok(queue)
    }

    /// Name, address, length and alignment of each area (virtio 1.2, section 2.7).
    fn areas(&self, size: u16) -> [(&'static str, u64, usize, u64); 3] {
        [
            ("descriptor table", self.descriptors, table_len(size), 16),
            ("available ring", self.avail, avail_len(size), 2),
            ("used ring", self.used, used_len(size), 4),
        ]
    }
}

fn low(addr: u64) -> u32 {
    (addr & u64::from(u32::MAX)) as u32
}

fn high(addr: u64) -> u32 {
    (addr >> 32) as u32
}

fn table_len(size: u16) -> usize {
    usize::from(size) * DESC_SIZE
}

fn avail_len(size: u16) -> usize {
    RING_HEADER + usize::from(size) * AVAIL_ENTRY + RING_EVENT
}

fn used_len(size: u16) -> usize {
    RING_HEADER + usize::from(size) * USED_ENTRY + RING_EVENT
}

/// The device's end of one queue.
#[derive(Debug)]
pub struct Ring<'m> {
    table: Table<'m>,
    avail: VolatileSlice<'m>,
    used: VolatileSlice<'m>,
    event_idx: bool,
    next_avail: Wrapping<u16>,
    /// The driver's index when it was last read.
    seen_avail: Wrapping<u16>,
    next_used: Wrapping<u16>,
    /// The used index that the driver can see.
    published: Wrapping<u16>,
}

impl<'m> Ring<'m> {
    /// Takes over `queue`, which lives in `mem`. No chain may hold more than `byte_limit` bytes.
    ///
    /// An indirect table may be as long as the device's largest queue size, also where the driver
    /// chose a smaller one: Linux does that when memory for a full ring was short.
    ///
    /// # Errors
    /// [`SetupError::NotReady`], or [`SetupError::Area`] when an area is not in `mem`.
    pub fn new(
        mem: &'m GuestMemoryMmap,
        queue: &Queue,
        features: u64,
        byte_limit: u32,
    ) -> Result<Self, SetupError> {
        if !queue.ready() {
            return Err(SetupError::NotReady);
        }
        let size = queue.size();
        let area = |area, addr, len| {
            GuestMemoryBackend::get_slice(mem, GuestAddress(addr), len)
                .map_err(|_| SetupError::Area { area, addr })
        };
        let indirect = features & VIRTIO_F_INDIRECT_DESC != 0;
        Ok(Self {
            table: Table {
                mem,
                descriptors: area("descriptor table", queue.desc_table(), table_len(size))?,
                entries: size,
                indirect_limit: if indirect { queue.max_size() } else { 0 },
                byte_limit,
            },
            avail: area("available ring", queue.avail_ring(), avail_len(size))?,
            used: area("used ring", queue.used_ring(), used_len(size))?,
            event_idx: features & VIRTIO_F_EVENT_IDX != 0,
            next_avail: Wrapping(queue.next_avail()),
            seen_avail: Wrapping(queue.next_avail()),
            next_used: Wrapping(queue.next_used()),
            published: Wrapping(queue.next_used()),
        })
    }

    /// Number of descriptors.
    pub fn size(&self) -> u16 {
        self.table.entries
    }

    /// Where it stands: the next entry to take of the available ring, and the next to fill of the used one.
    /// A ring that is made of a queue with these goes on from there.
    pub fn positions(&self) -> (u16, u16) {
        (self.next_avail.0, self.next_used.0)
    }

    /// A chain with room for the longest that this ring may bring.
    pub fn new_chain(&self) -> Chain<'m> {
        Chain::with_capacity(self.table.entries.max(self.table.indirect_limit))
    }

    /// Takes the next chain that the driver made available; false when there is none.
    ///
    /// # Errors
    /// [`Fault`] when the driver broke the rules; the ring must not be used any more.
    pub fn pop(&mut self, chain: &mut Chain<'m>) -> Result<bool, Fault> {
        if self.next_avail == self.seen_avail && !self.look()? {
            return Ok(false);
        }
        let slot = usize::from(self.next_avail.0 % self.table.entries);
        let offset = RING_HEADER + slot * AVAIL_ENTRY;
        let head = load(&self.avail, offset, Ordering::Relaxed)?;
        chain.collect(&self.table, head)?;
        self.next_avail += 1;
        Ok(true)
    }

    /// Puts the last `count` popped chains back, to be popped again.
    pub fn unpop(&mut self, count: u16) {
        self.next_avail -= count;
    }

    /// Returns the chain that began at `head`, with `len` bytes written to it. The driver sees it
    /// after [`publish`](Self::publish).
    ///
    /// # Errors
    /// [`Fault::Ring`] when the used ring is not accessible.
    pub fn push(&mut self, head: u16, len: u32) -> Result<(), Fault> {
        let slot = usize::from(self.next_used.0 % self.table.entries);
        let entry = u64::from(head) | u64::from(len) << 32;
        self.used.write_obj(entry.to_le(), RING_HEADER + slot * USED_ENTRY).map_err(|_| Fault::Ring)?;
        self.next_used += 1;
        Ok(())
    }

    /// Shows the driver all chains pushed so far; true when it wants an interrupt for them.
    ///
    /// # Errors
    /// [`Fault::Ring`] when a ring is not accessible.
    pub fn publish(&mut self) -> Result<bool, Fault> {
        let old = self.published;
        if self.next_used == old {
            return Ok(false);
        }
        self.published = self.next_used;
        store(&self.used, RING_INDEX, self.published.0)?;
        // The driver writes its wish, then reads our index; we write our index, then read its wish.
        fence(Ordering::SeqCst);
        if self.event_idx {
            let offset = RING_HEADER + usize::from(self.size()) * AVAIL_ENTRY;
            let event = Wrapping(load(&self.avail, offset, Ordering::Relaxed)?);
            return Ok(self.published - event - Wrapping(1) < self.published - old);
        }
        Ok(load(&self.avail, 0, Ordering::Relaxed)? & AVAIL_NO_INTERRUPT == 0)
    }

    /// Asks the driver not to kick. With EVENT_IDX it does not anyway until the index moves.
    ///
    /// # Errors
    /// [`Fault::Ring`] when a ring is not accessible.
    pub fn disable_kicks(&mut self) -> Result<(), Fault> {
        if self.event_idx { Ok(()) } else { store(&self.used, 0, USED_NO_NOTIFY) }
    }

    /// Asks the driver to kick for the next chain that it adds; true when it added one meanwhile,
    /// for which there may be no kick. Chains that were put back are not new: whoever put them back
    /// waits for more.
    ///
    /// # Errors
    /// [`Fault`] when a ring is not accessible or the available index cannot be.
    pub fn enable_kicks(&mut self) -> Result<bool, Fault> {
        let seen = self.seen_avail;
        if self.event_idx {
            let offset = RING_HEADER + usize::from(self.size()) * USED_ENTRY;
            store(&self.used, offset, seen.0)?;
        } else {
            store(&self.used, 0, 0)?;
        }
        fence(Ordering::SeqCst);
        self.look()?;
        Ok(self.seen_avail != seen)
    }

    /// Reads the driver's index; true when there is something to pop.
    fn look(&mut self) -> Result<bool, Fault> {
        self.seen_avail = Wrapping(load(&self.avail, RING_INDEX, Ordering::Acquire)?);
        let ahead = (self.seen_avail - self.next_avail).0;
        if ahead > self.size() {
            return Err(Fault::AvailIndex { ahead, size: self.size() });
        }
        Ok(ahead > 0)
    }
}

fn load(ring: &VolatileSlice<'_>, offset: usize, order: Ordering) -> Result<u16, Fault> {
    ring.load::<u16>(offset, order).map(u16::from_le).map_err(|_| Fault::Ring)
}

fn store(ring: &VolatileSlice<'_>, offset: usize, value: u16) -> Result<(), Fault> {
    ring.store(value.to_le(), offset, Ordering::Release).map_err(|_| Fault::Ring)
}
