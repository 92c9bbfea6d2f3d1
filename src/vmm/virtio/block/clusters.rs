//! qcow2 images, through `imago`.

use std::io;
use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use imago::io_buffers::{IoVector, IoVectorMut};
use imago::{FormatAccess, ShallowMapping};

use super::storage::{HostFile, Storage};
use crate::vmm::virtio::iov::Part;

/// Freed bytes, and pieces of them, that wait for a flush at most. More are given back at once.
const MAX_WAITING: (u64, usize) = (1 << 30, 4096);

/// An open image. `imago` lets requests that touch different clusters run in parallel; only discarding
/// and zeroing exclude all else.
#[derive(Debug)]
pub(super) struct Clusters {
    image: RwLock<FormatAccess<Storage>>,
    host: Arc<HostFile>,
    /// Bytes in a cluster, a power of two.
    cluster: u64,
    /// Held by the one that gives space back.
    giving: Mutex<()>,
}

/// A worker panicked in the middle of a change.
fn broken<T>(_: PoisonError<T>) -> io::Error {
    io::Error::other("an earlier change of the image was not finished")
}

impl Clusters {
    /// An image with clusters of `cluster` bytes that lies in `host`.
    pub(super) fn new(image: FormatAccess<Storage>, host: Arc<HostFile>, cluster: u64) -> Self {
        Self { image: RwLock::new(image), host, cluster, giving: Mutex::new(()) }
    }

    fn shared(&self) -> io::Result<RwLockReadGuard<'_, FormatAccess<Storage>>> {
        self.image.read().map_err(broken)
    }

    fn alone(&self) -> io::Result<RwLockWriteGuard<'_, FormatAccess<Storage>>> {
        self.image.write().map_err(broken)
    }

    /// Bytes in a cluster.
    pub(super) fn cluster(&self) -> u64 {
        self.cluster
    }

    /// Fills `part` from `offset`.
    pub(super) fn read(&self, part: Part<'_, '_>, offset: u64) -> io::Result<()> {
        let (vector, _guard) = IoVectorMut::from_volatile_slice(part.slices);
        let vector = vector.split_tail_at(part.skip as u64).split_at(part.len as u64).0;
        self.shared()?.readv(vector, offset)
    }

    /// Writes `part` to `offset`.
    pub(super) fn write(&self, part: Part<'_, '_>, offset: u64) -> io::Result<()> {
        let (vector, _guard) = IoVector::from_volatile_slice(part.slices);
        let vector = vector.split_tail_at(part.skip as u64).split_at(part.len as u64).0;
        self.shared()?.writev(vector, offset)
    }

    /// Hands the tables that are in memory to the host's kernel.
    pub(super) fn flush(&self) -> io::Result<()> {
        self.shared()?.flush()
    }

    /// Brings tables and data to stable storage; then what the tables had freed before goes back to the
    /// host.
    pub(super) fn sync(&self) -> io::Result<()> {
        // If another one gives back, then that one's flush comes too early for what was freed since.
        let giving = self.giving.try_lock().ok();
        let stable = self.flush_with(giving.is_some()).and_then(|()| self.host.sync());
        if giving.is_some() {
            match stable {
                Ok(()) => self.host.punch(),
                Err(_) => self.host.spoil(),
            }
        }
        stable
    }

    /// Flushes; if `ripen` is set, all that is free before gets ripe.
    fn flush_with(&self, ripen: bool) -> io::Result<()> {
        // Nobody frees anything while this is held.
        let image = self.shared()?;
        if ripen {
            self.host.ripen();
        }
        image.flush()
    }

    /// Whether there is something to give back to the host.
    pub(super) fn is_untidy(&self) -> bool {
        self.host.waiting().0 > 0
    }

    /// Frees the clusters of a range whose content nobody needs.
    pub(super) fn discard(&self, offset: u64, len: u64) -> io::Result<()> {
        self.freeing(offset, len, |image| image.discard_to_any(offset, len))
    }

    /// Makes a range read as zeros, freeing its clusters if `unmap` is set.
    pub(super) fn write_zeroes(&self, offset: u64, len: u64, unmap: bool) -> io::Result<()> {
        if unmap {
            return self.freeing(offset, len, |image| image.discard_to_zero(offset, len));
        }
        self.alone()?.write_zeroes(offset, len)
    }

    fn freeing(
        &self,
        offset: u64,
        len: u64,
        change: impl FnOnce(&mut FormatAccess<Storage>) -> io::Result<()>,
    ) -> io::Result<()> {
        let mut image = self.alone()?;
        let freed = self.mapped(&image, offset, len)?;
        // Before the change, which may use one of them again and write to it.
        self.host.free(&freed);
        let changed = change(&mut image);
        if changed.is_err() {
            // Some may still be in use.
            freed.iter().for_each(|range| self.host.keep(range));
        }
        drop(image);
        let (bytes, count) = self.host.waiting();
        if bytes > MAX_WAITING.0 || count > MAX_WAITING.1 {
            self.sync()?;
        }
        changed
    }

    /// Where in the file the clusters lie that a discard of the range will free: those that are wholly
    /// in it and that nothing else refers to.
    fn mapped(&self, image: &FormatAccess<Storage>, offset: u64, len: u64) -> io::Result<Vec<Range<u64>>> {
        let mask = self.cluster - 1;
        let (start, mut end) = (offset.saturating_add(mask) & !mask, offset.saturating_add(len));
        // The last cluster may be one in part only.
        if end < image.size() {
            end &= !mask;
        }
        let (mut at, mut found) = (start, Vec::new());
        while at < end {
            let (mapping, count) = image.get_shallow_mapping(at, end - at)?;
            if count == 0 {
                break;
            }
            if let ShallowMapping::Raw { offset, writable: true, .. } = mapping {
                let whole = count.saturating_add(mask) & !mask;
                found.push(offset..offset.saturating_add(whole));
            }
            at += count;
        }
        Ok(found)
    }
}
