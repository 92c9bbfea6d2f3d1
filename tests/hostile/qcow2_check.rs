//! Whether the books of a qcow2 image are in order: every cluster counted as often as something refers
//! to it. Written from the format's description, for images of version 3 with counts of 16 bits, without
//! snapshots and compression.

use std::collections::BTreeMap;
use std::path::Path;

const OFFSET: u64 = 0x00ff_ffff_ffff_fe00;
const COPIED: u64 = 1 << 63;

struct Books {
    image: Vec<u8>,
    cluster: u64,
    seen: BTreeMap<u64, u16>,
    /// Clusters that an entry claims for itself alone, and who says so.
    alone: Vec<(u64, String)>,
}

impl Books {
    fn number(&self, at: u64, len: usize) -> u64 {
        let at = at as usize;
        self.image
            .get(at..at + len)
            .unwrap_or_default()
            .iter()
            .fold(0, |sum, &byte| sum << 8 | u64::from(byte))
    }

    fn refer(&mut self, offset: u64, clusters: u64) {
        assert_eq!(offset % self.cluster, 0, "something at {offset:#x} is not aligned");
        for cluster in 0..clusters {
            *self.seen.entry(offset / self.cluster + cluster).or_default() += 1;
        }
    }

    fn mapping(&mut self, at: u64, what: &str) -> u64 {
        let entry = self.number(at, 8);
        let offset = entry & OFFSET;
        if offset != 0 {
            self.refer(offset, 1);
            if entry & COPIED != 0 {
                self.alone.push((offset / self.cluster, format!("{what} at {at:#x}")));
            }
        }
        offset
    }
}

/// Fails where a cluster is counted too often, which loses space, or not often enough, which loses data.
pub fn check(path: &Path) {
    let image = std::fs::read(path).unwrap();
    let mut books = Books { image, cluster: 0, seen: BTreeMap::new(), alone: Vec::new() };
    assert_eq!((books.number(0, 4), books.number(4, 4)), (0x5146_49fb, 3));
    assert_eq!((books.number(60, 4), books.number(96, 4)), (0, 4), "snapshots, or counts of another width");
    books.cluster = 1 << books.number(20, 4);
    let cluster = books.cluster;
    books.refer(0, 1);
    let (l1, entries) = (books.number(40, 8), books.number(36, 4));
    books.refer(l1, (entries * 8).div_ceil(cluster));
    for entry in 0..entries {
        let l2 = books.mapping(l1 + entry * 8, "an L1 entry");
        for entry in (0..cluster / 8).filter(|_| l2 != 0) {
            books.mapping(l2 + entry * 8, "an L2 entry");
        }
    }
    let (table, clusters) = (books.number(48, 8), books.number(56, 4));
    books.refer(table, clusters);
    let mut counts = BTreeMap::new();
    for entry in 0..clusters * cluster / 8 {
        let block = books.number(table + entry * 8, 8) & OFFSET;
        if block == 0 {
            continue;
        }
        books.refer(block, 1);
        for slot in 0..cluster / 2 {
            let count = books.number(block + slot * 2, 2) as u16;
            if count > 0 {
                counts.insert(entry * (cluster / 2) + slot, count);
            }
        }
    }
    assert_eq!(books.seen, counts, "cluster: references seen, and as counted");
    for (cluster, who) in &books.alone {
        assert_eq!(counts[cluster], 1, "{who} has cluster {cluster} not for itself");
    }
}
