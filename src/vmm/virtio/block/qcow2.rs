//! What is checked of a qcow2 file before the format library gets it.
//!
//! The library reads zeros beyond the end of a file, so a truncated image would pass as one that
//! holds zeros. Offsets are those of QEMU's `docs/interop/qcow2.txt`.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;

use super::error::DiskError;

/// "QFI\xfb", big-endian.
const MAGIC: u32 = 0x5146_49fb;
/// Versions of the format.
const VERSIONS: std::ops::RangeInclusive<u32> = 2..=3;
/// Bytes of a version 2 header.
const HEADER_LEN: usize = 72;
/// What is read of a version 3 one: as far as its incompatible features.
const FEATURES_LEN: usize = 80;
/// Bits of a table entry that hold an offset.
const OFFSET_MASK: u64 = 0x00ff_ffff_ffff_fe00;
/// L2 entry: the cluster is compressed.
const COMPRESSED: u64 = 1 << 62;
/// L2 entry: the cluster reads as zeros, whatever its offset.
const ZERO: u64 = 1;
/// Clusters are 512 bytes to 2 MiB.
const CLUSTER_BITS: std::ops::RangeInclusive<u32> = 9..=21;
/// The largest L1 table that QEMU takes, in bytes.
const MAX_L1: u64 = 32 * 1024 * 1024;
/// Bytes in all second mapping tables, which are read when an image is opened: those of 64 TiB in clusters
/// of 64 KiB, the usual size.
const MAX_L2: u64 = 8 << 30;

/// Refuses what is no qcow2 file, and one that ends before its tables or data do. Gives the number of
/// bytes in a cluster.
pub(super) fn check(file: &File, path: &Path) -> Result<u64, DiskError> {
    let failed = |source| DiskError::Open { path: path.to_owned(), source };
    let len = file.metadata().map_err(failed)?.len();
    let image = Image { file, path, len };
    let mut header = [0; FEATURES_LEN];
    let have = usize::try_from(len).unwrap_or(FEATURES_LEN).min(FEATURES_LEN);
    if let Some(start) = header.get_mut(..have) {
        file.read_exact_at(start, 0).map_err(failed)?;
    }
    if be32(&header, 0) != MAGIC {
        return Err(DiskError::NotQcow2 { path: path.to_owned() });
    }
    image.holds("its header", 0, HEADER_LEN as u64)?;
    if !VERSIONS.contains(&be32(&header, 4)) {
        return Err(image.damaged("its version is not 2 or 3"));
    }
    if be32(&header, 4) == 3 {
        image.holds("its header", 0, FEATURES_LEN as u64)?;
        image.check_features(be64(&header, 72))?;
    }
    if be32(&header, 32) != 0 {
        return Err(image.damaged("it is encrypted"));
    }
    let cluster_bits = be32(&header, 20);
    if !CLUSTER_BITS.contains(&cluster_bits) {
        return Err(image.damaged("its cluster size is out of range"));
    }
    let cluster = 1 << cluster_bits;
    let refcount_len = u64::from(be32(&header, 56)).saturating_mul(cluster);
    image.holds("its refcount table", be64(&header, 48), refcount_len)?;
    let l1_len = u64::from(be32(&header, 36)) * 8;
    let l1_offset = be64(&header, 40);
    if l1_len > MAX_L1 {
        return Err(image.damaged("its first mapping table is too large"));
    }
    image.holds("its first mapping table", l1_offset, l1_len)?;
    // What an entry of the first table covers: a table of 8-byte entries, each a cluster. Those beyond the
    // end of the disk are not looked at by anybody.
    let used = be64(&header, 24).div_ceil(1 << (2 * cluster_bits - 3)).saturating_mul(8);
    image.check_tables(l1_offset, l1_len.min(used), cluster_bits).map_err(|error| match error {
        Refused::Disk(error) => error,
        Refused::Io(source) => failed(source),
    })?;
    Ok(cluster)
}

enum Refused {
    Disk(DiskError),
    Io(io::Error),
}

impl From<DiskError> for Refused {
    fn from(error: DiskError) -> Self {
        Self::Disk(error)
    }
}

impl From<io::Error> for Refused {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

struct Image<'a> {
    file: &'a File,
    path: &'a Path,
    len: u64,
}

impl Image<'_> {
    /// Refuses the image unless the file holds `count` bytes at `offset`.
    fn holds(&self, what: &'static str, offset: u64, count: u64) -> Result<(), DiskError> {
        let end = offset.saturating_add(count);
        if end <= self.len {
            return Ok(());
        }
        Err(DiskError::Truncated { path: self.path.to_owned(), what, end, len: self.len })
    }

    fn damaged(&self, why: &'static str) -> DiskError {
        DiskError::Qcow2 {
            path: self.path.to_owned(),
            source: io::Error::new(io::ErrorKind::InvalidData, why),
        }
    }

    /// Refuses features without which nobody may open the image. The format library knows none but data
    /// in another file; it says so after the tables were read as if they had the plain layout.
    fn check_features(&self, incompatible: u64) -> Result<(), DiskError> {
        let why = match incompatible {
            0 => return Ok(()),
            bits if bits & 1 << 1 != 0 => "it is marked as damaged",
            bits if bits & 1 << 2 != 0 => "its data is in another file",
            bits if bits & 1 << 4 != 0 => "it has extended mapping tables (subclusters)",
            bits if bits & 1 << 3 != 0 => "it is compressed in another way than deflate",
            1 => "it was not closed by who wrote it, and has reference counts to be repaired",
            _ => "it uses a feature of qcow2 that nobody knows here",
        };
        Err(self.damaged(why))
    }

    /// Looks through all mapping tables: 8 bytes for each cluster that the image holds. Each lies in a
    /// place of its own in the file, so that no more is read than there is.
    fn check_tables(&self, l1_offset: u64, l1_len: u64, cluster_bits: u32) -> Result<(), Refused> {
        let cluster = 1 << cluster_bits;
        // At most `MAX_L1`.
        let mut bytes = vec![0; usize::try_from(l1_len).unwrap_or_default()];
        self.file.read_exact_at(&mut bytes, l1_offset)?;
        let mut tables: Vec<u64> =
            entries(&bytes).map(|entry| entry & OFFSET_MASK).filter(|&offset| offset != 0).collect();
        tables.sort_unstable();
        if tables.windows(2).any(|pair| matches!(pair, [first, second] if second - first < cluster)) {
            return Err(self.damaged("two parts of it have the same mapping table").into());
        }
        if tables.len() as u64 * cluster > MAX_L2 {
            return Err(self.damaged("its mapping tables are too large").into());
        }
        bytes.resize(1 << cluster_bits, 0);
        for table in tables {
            self.holds("a mapping table", table, cluster)?;
            self.file.read_exact_at(&mut bytes, table)?;
            // The last cluster may be written in part, so only its start has to be there.
            for offset in entries(&bytes).filter_map(|entry| data_offset(entry, cluster_bits)) {
                self.holds("a data cluster", offset, 1)?;
            }
        }
        Ok(())
    }
}

/// Where the cluster of an L2 entry begins in the file, if it is there at all.
fn data_offset(entry: u64, cluster_bits: u32) -> Option<u64> {
    if entry & COMPRESSED != 0 {
        // Below 62 - (cluster_bits - 8) bits the offset, above it the length.
        return Some(entry & ((1 << (70 - cluster_bits)) - 1));
    }
    Some(entry & OFFSET_MASK).filter(|&offset| offset != 0 && entry & ZERO == 0)
}

fn entries(table: &[u8]) -> impl Iterator<Item = u64> {
    table.chunks_exact(8).map(|entry| be64(entry, 0))
}

fn be32(bytes: &[u8], at: usize) -> u32 {
    bytes.get(at..).and_then(|rest| rest.first_chunk()).map_or(0, |word| u32::from_be_bytes(*word))
}

fn be64(bytes: &[u8], at: usize) -> u64 {
    bytes.get(at..).and_then(|rest| rest.first_chunk()).map_or(0, |word| u64::from_be_bytes(*word))
}
