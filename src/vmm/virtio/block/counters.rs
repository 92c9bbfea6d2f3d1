//! How much a disk has carried.

use std::sync::atomic::{AtomicU64, Ordering};

use super::MAX_QUEUES;

/// Bytes that the guest has read and written, over all resets.
#[derive(Debug, Default)]
pub struct Counters {
    lanes: [Lane; MAX_QUEUES],
}

/// What one queue's worker counts: a cache line that no other one touches.
#[derive(Debug, Default)]
#[repr(align(64))]
struct Lane {
    read: AtomicU64,
    written: AtomicU64,
}

impl Counters {
    /// Bytes read.
    pub fn read(&self) -> u64 {
        self.lanes.iter().map(|lane| lane.read.load(Ordering::Relaxed)).sum()
    }

    /// Bytes written; what was discarded or zeroed is not among them.
    pub fn written(&self) -> u64 {
        self.lanes.iter().map(|lane| lane.written.load(Ordering::Relaxed)).sum()
    }

    /// `len` bytes were read by way of that queue.
    pub(super) fn add_read(&self, queue: u16, len: usize) {
        if let Some(lane) = self.lanes.get(usize::from(queue)) {
            lane.read.fetch_add(len as u64, Ordering::Relaxed);
        }
    }

    /// `len` bytes were written by way of that queue.
    pub(super) fn add_written(&self, queue: u16, len: usize) {
        if let Some(lane) = self.lanes.get(usize::from(queue)) {
            lane.written.fetch_add(len as u64, Ordering::Relaxed);
        }
    }
}
