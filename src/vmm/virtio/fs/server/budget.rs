//! How many files a guest may know, in all that it shares.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Memory of a guest that a file takes which it knows, at least, in bytes: `struct fuse_inode` and `struct dentry` of
/// Linux, which are 1,000 together.
const IN_GUEST: u64 = 1 << 10;
/// Most files, however much memory a guest has. Each costs about 280 bytes here, and twice that if its name is a long one.
const MOST: usize = 2 << 20;

/// What is left for the shares of one machine, which have it together. A guest that is honest never comes to its end:
/// its own memory does before.
#[derive(Debug, Clone)]
pub struct Budget {
    used: Arc<AtomicUsize>,
    limit: usize,
}

impl Budget {
    /// For a guest with so much memory, in bytes.
    pub fn of_memory(bytes: u64) -> Self {
        Self::of_files(usize::try_from(bytes / IN_GUEST).unwrap_or(MOST).min(MOST))
    }

    /// So many files.
    pub(super) fn of_files(limit: usize) -> Self {
        Self { used: Arc::default(), limit }
    }

    /// Whether there is room for one more.
    pub(super) fn has_room(&self) -> bool {
        self.used.load(Ordering::Relaxed) < self.limit
    }

    /// Takes one; false when there is none left.
    pub(super) fn take(&self) -> bool {
        let more = |used: usize| (used < self.limit).then_some(used + 1);
        self.used.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more).is_ok()
    }

    /// Gives some back.
    pub(super) fn give(&self, count: usize) {
        self.used.fetch_sub(count, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_grows_with_the_guest_and_has_an_end() {
        let limits = [128 << 20, 1 << 30, 64 << 30, u64::MAX].map(|memory| Budget::of_memory(memory).limit);
        assert_eq!(limits, [131_072, 1 << 20, 2 << 20, 2 << 20]);
    }
}
