//! The file behind a qcow2 image: what `imago` reads and writes, and what it has freed.
//!
//! `imago` counts clusters as free and uses them again, but gives no space back to the host. That is
//! done here, in three steps, so that nothing is lost whenever the host fails in between:
//!
//! 1. A range that a request freed *waits* ([`HostFile::free`]).
//! 2. It gets *ripe* ([`HostFile::ripen`]) right before the tables that no longer mention it are
//!    brought to stable storage.
//! 3. After that it is punched ([`HostFile::punch`]).
//!
//! A cluster that is used again meanwhile is written to, and every write takes its range out first,
//! under the lock under which holes are punched. What was allocated and not written yet has no content
//! that a hole could lose.
#![allow(unsafe_code)]

use std::fmt;
use std::fs::File;
use std::io;
use std::ops::Range;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use imago::io_buffers::{IoVector, IoVectorMut};
use imago::storage::PreallocateMode;
use imago::storage::drivers::CommonStorageHelper;

use super::freed::Ranges;
use super::image::{punch, unsupported};

/// Most bytes punched at once, for writers wait meanwhile.
const HOLE: u64 = 64 << 20;

/// The file itself.
#[derive(Debug)]
pub(super) struct HostFile {
    file: File,
    freed: Mutex<Freed>,
    /// Whether `freed` has anything, so that writers seldom need its lock. Set only while nobody else
    /// uses the image.
    some: AtomicBool,
    /// The file system has no holes.
    solid: AtomicBool,
}

#[derive(Debug, Default)]
struct Freed {
    waiting: Ranges,
    ripe: Ranges,
}

impl HostFile {
    fn freed(&self) -> MutexGuard<'_, Freed> {
        // Nothing in there panics half-way.
        self.freed.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Bytes that wait to be given back, and in how many ranges.
    pub(super) fn waiting(&self) -> (u64, usize) {
        if !self.some.load(Ordering::Relaxed) {
            return (0, 0);
        }
        let freed = self.freed();
        (freed.waiting.bytes() + freed.ripe.bytes(), freed.waiting.count() + freed.ripe.count())
    }

    /// Ranges that the format is about to free. The caller uses the image alone, from before to after
    /// they are free; what is written to one of them until then takes it out again.
    pub(super) fn free(&self, ranges: &[Range<u64>]) {
        if ranges.is_empty() || self.solid.load(Ordering::Relaxed) {
            return;
        }
        let mut freed = self.freed();
        ranges.iter().for_each(|range| freed.waiting.add(range));
        self.some.store(true, Ordering::Relaxed);
    }

    /// These are in use.
    pub(super) fn keep(&self, range: &Range<u64>) {
        if !self.some.load(Ordering::Relaxed) {
            return;
        }
        let mut freed = self.freed();
        freed.waiting.remove(range);
        freed.ripe.remove(range);
    }

    /// What waits gets ripe: the tables that are written to stable storage next do not mention it.
    pub(super) fn ripen(&self) {
        if self.some.load(Ordering::Relaxed) {
            let freed = &mut *self.freed();
            freed.ripe.append(&mut freed.waiting);
        }
    }

    /// Brings what was written to stable storage.
    pub(super) fn sync(&self) -> io::Result<()> {
        self.file.sync_data()
    }

    /// What is ripe stays as it is: nobody knows what is in stable storage.
    pub(super) fn spoil(&self) {
        self.freed().ripe = Ranges::default();
    }

    /// Gives the space of what is ripe back to the host.
    pub(super) fn punch(&self) {
        while self.some.load(Ordering::Relaxed) {
            let mut freed = self.freed();
            let Some(range) = freed.ripe.pop(HOLE) else {
                if freed.waiting.count() == 0 {
                    self.some.store(false, Ordering::Relaxed);
                }
                return;
            };
            // Under the lock: nobody writes there before the hole is made.
            let Err(error) = punch(&self.file, range.start, range.end - range.start) else { continue };
            freed.ripe = Ranges::default();
            if unsupported(&error) {
                self.solid.store(true, Ordering::Relaxed);
                freed.waiting = Ranges::default();
            } else {
                tracing::warn!(%error, "space that a disk freed is not given back to the host");
            }
        }
    }
}

/// What `imago` gets.
#[derive(Debug)]
pub(super) struct Storage {
    inner: imago::file::File,
    host: Arc<HostFile>,
}

impl Storage {
    /// Takes an open file; its locks go with it.
    pub(super) fn new(file: File) -> io::Result<Self> {
        let (freed, some, solid) = (Mutex::default(), AtomicBool::new(false), AtomicBool::new(false));
        let host = HostFile { file: file.try_clone()?, freed, some, solid };
        Ok(Self { inner: file.try_into()?, host: Arc::new(host) })
    }

    /// The file below.
    pub(super) fn host(&self) -> Arc<HostFile> {
        Arc::clone(&self.host)
    }

    fn keep(&self, offset: u64, len: u64) {
        self.host.keep(&(offset..offset.saturating_add(len)));
    }
}

impl fmt::Display for Storage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.inner.fmt(f)
    }
}

impl imago::Storage for Storage {
    fn mem_align(&self) -> usize {
        self.inner.mem_align()
    }

    fn req_align(&self) -> usize {
        self.inner.req_align()
    }

    fn zero_align(&self) -> usize {
        self.inner.zero_align()
    }

    fn discard_align(&self) -> usize {
        self.inner.discard_align()
    }

    fn size(&self) -> io::Result<u64> {
        self.inner.size()
    }

    fn get_filename(&self) -> Option<PathBuf> {
        self.inner.get_filename()
    }

    unsafe fn pure_readv(&self, bufv: IoVectorMut<'_>, offset: u64) -> io::Result<()> {
        // SAFETY: the caller keeps the contract, which is the same.
        unsafe { self.inner.pure_readv(bufv, offset) }
    }

    unsafe fn pure_writev(&self, bufv: IoVector<'_>, offset: u64) -> io::Result<()> {
        self.keep(offset, bufv.len());
        // SAFETY: as above.
        unsafe { self.inner.pure_writev(bufv, offset) }
    }

    unsafe fn pure_write_zeroes(&self, offset: u64, length: u64) -> io::Result<()> {
        self.keep(offset, length);
        // SAFETY: as above.
        unsafe { self.inner.pure_write_zeroes(offset, length) }
    }

    unsafe fn pure_write_allocated_zeroes(&self, offset: u64, length: u64) -> io::Result<()> {
        self.keep(offset, length);
        // SAFETY: as above.
        unsafe { self.inner.pure_write_allocated_zeroes(offset, length) }
    }

    unsafe fn pure_discard(&self, offset: u64, length: u64) -> io::Result<()> {
        // SAFETY: as above.
        unsafe { self.inner.pure_discard(offset, length) }
    }

    /// There are no buffers; the library's own would wait for requests of other queues.
    fn flush(&self) -> io::Result<()> {
        Ok(())
    }

    /// The library's own would keep other queues from writing for so long.
    fn sync(&self) -> io::Result<()> {
        self.host.sync()
    }

    fn settle_writes(&self) -> io::Result<()> {
        self.inner.settle_writes()
    }

    unsafe fn invalidate_cache(&self) -> io::Result<()> {
        // SAFETY: as above.
        unsafe { self.inner.invalidate_cache() }
    }

    fn get_storage_helper(&self) -> &CommonStorageHelper {
        self.inner.get_storage_helper()
    }

    fn resize(&self, new_size: u64, prealloc_mode: PreallocateMode) -> io::Result<()> {
        self.inner.resize(new_size, prealloc_mode)
    }
}
