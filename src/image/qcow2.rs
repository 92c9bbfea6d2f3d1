//! Checks of a qcow2 file that must be had before it is trusted.
//!
//! Offsets and limits are those of QEMU's `docs/interop/qcow2.rst`. `imago` reads tables when
//! they are first needed, so that a file which was cut short would only fail in a running guest.

use std::ffi::OsString;
use std::io::{self, Read, Seek, SeekFrom};
use std::os::unix::ffi::OsStringExt;
use std::path::PathBuf;

/// What is known of a file that is whole.
#[derive(Debug)]
pub(super) struct Qcow2Info {
    /// Size of the disk in bytes.
    pub size: u64,
    /// The file behind it, which is raw.
    pub backing: Option<PathBuf>,
}

/// Bits 9 to 55 of a table entry are an offset in the file.
const OFFSET_MASK: u64 = 0x00ff_ffff_ffff_fe00;
/// Bit 62 of an L2 entry: the cluster is compressed, and its offset is coded otherwise.
const COMPRESSED: u64 = 1 << 62;
/// QEMU's own limit (`QCOW_MAX_L1_SIZE`), in bytes.
const MAX_L1: u64 = 32 << 20;
/// Bytes in all L2 tables, which are read: those of 64 TiB in clusters of 64 KiB, the usual size.
const MAX_L2: u64 = 8 << 30;
/// Incompatible features that change nothing in the tables: reference counts to be repaired, and another
/// way of compression. Who opens the image says whether it can do that.
const HARMLESS: u64 = 1 | (1 << 3);

struct Header {
    version: u32,
    backing_at: u64,
    backing_length: u32,
    cluster_bits: u32,
    size: u64,
    encryption: u32,
    l1_entries: u32,
    l1_at: u64,
    incompatible: u64,
}

fn wrong<T>(what: &str) -> io::Result<T> {
    Err(io::Error::new(io::ErrorKind::InvalidData, what.to_owned()))
}

/// Reads the header and all tables. An error of kind `InvalidData` or `UnexpectedEof` means
/// that the file is damaged.
pub(super) fn inspect(file: &mut (impl Read + Seek)) -> io::Result<Qcow2Info> {
    let length = file.seek(SeekFrom::End(0))?;
    let header = read_header(file)?;
    check_header(&header, length)?;
    check_tables(file, &header, length)?;
    let backing = read_backing(file, &header, length)?;
    Ok(Qcow2Info { size: header.size, backing })
}

fn read_at(file: &mut (impl Read + Seek), at: u64, length: usize) -> io::Result<Vec<u8>> {
    file.seek(SeekFrom::Start(at))?;
    let mut data = vec![0; length];
    file.read_exact(&mut data)?;
    Ok(data)
}

fn read_header(file: &mut (impl Read + Seek)) -> io::Result<Header> {
    let data = read_at(file, 0, 104)?;
    if !data.starts_with(b"QFI\xfb") {
        return wrong("it is not a qcow2 file");
    }
    let u32_at = |at: usize| {
        data.get(at..at + 4).and_then(|b| b.try_into().ok()).map(u32::from_be_bytes).unwrap_or_default()
    };
    let u64_at = |at: usize| u64::from(u32_at(at)) << 32 | u64::from(u32_at(at + 4));
    Ok(Header {
        version: u32_at(4),
        backing_at: u64_at(8),
        backing_length: u32_at(16),
        cluster_bits: u32_at(20),
        size: u64_at(24),
        encryption: u32_at(32),
        l1_entries: u32_at(36),
        l1_at: u64_at(40),
        incompatible: if u32_at(4) >= 3 { u64_at(72) } else { 0 },
    })
}

fn check_header(header: &Header, length: u64) -> io::Result<()> {
    if !matches!(header.version, 2 | 3) {
        return wrong("its qcow2 version is not known");
    }
    if !(9..=21).contains(&header.cluster_bits) {
        return wrong("its cluster size is out of range");
    }
    if header.incompatible & 2 != 0 {
        return wrong("it is marked as damaged");
    }
    if header.incompatible & 4 != 0 {
        return wrong("it keeps its data in an external file");
    }
    if header.incompatible & 16 != 0 {
        return wrong("it has extended mapping tables (subclusters)");
    }
    if header.incompatible & !HARMLESS != 0 {
        return wrong("it uses a feature of qcow2 that is not known");
    }
    if header.encryption != 0 {
        return wrong("it is encrypted");
    }
    let needed = l2_tables(header);
    let bytes = u64::from(header.l1_entries) * 8;
    if u64::from(header.l1_entries) < needed || bytes > MAX_L1 {
        return wrong("its L1 table has a size that cannot be");
    }
    match header.l1_at.checked_add(bytes) {
        Some(end) if end <= length => Ok(()),
        Some(end) if header.l1_at < 1 << 32 && end > length => Err(io::ErrorKind::UnexpectedEof.into()),
        _ => wrong("its L1 table is outside the file"),
    }
}

/// How many L2 tables the disk has. Each covers (cluster / 8) clusters.
fn l2_tables(header: &Header) -> u64 {
    header.size.div_ceil(1 << (header.cluster_bits * 2 - 3))
}

/// Each table must be in the file as a whole, at a place of its own, so that no more is read than there
/// is; each data cluster must begin in it. Entries beyond the end of the disk are nobody's.
fn check_tables(file: &mut (impl Read + Seek), header: &Header, length: u64) -> io::Result<()> {
    let cluster = 1u64 << header.cluster_bits;
    let l1 = read_at(file, header.l1_at, header.l1_entries as usize * 8)?;
    let used = usize::try_from(l2_tables(header)).unwrap_or(usize::MAX);
    let mut tables: Vec<u64> =
        entries(&l1).take(used).map(|entry| entry & OFFSET_MASK).filter(|at| *at != 0).collect();
    tables.sort_unstable();
    if tables.windows(2).any(|pair| matches!(pair, [first, second] if second - first < cluster)) {
        return wrong("two parts of it have the same mapping table");
    }
    if tables.len() as u64 * cluster > MAX_L2 {
        return wrong("its mapping tables are too large");
    }
    for table in tables {
        if table.checked_add(cluster).is_none_or(|end| end > length) {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let l2 = read_at(file, table, cluster as usize)?;
        let beyond = |entry: u64| entry & COMPRESSED == 0 && entry & OFFSET_MASK >= length;
        if entries(&l2).any(beyond) {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
    }
    Ok(())
}

fn entries(table: &[u8]) -> impl Iterator<Item = u64> + '_ {
    table.chunks_exact(8).filter_map(|bytes| bytes.try_into().ok()).map(u64::from_be_bytes)
}

fn read_backing(file: &mut (impl Read + Seek), header: &Header, length: u64) -> io::Result<Option<PathBuf>> {
    if header.backing_at == 0 {
        return Ok(None);
    }
    // "must not be longer than 1023 bytes"
    if header.backing_length == 0 || header.backing_length > 1023 || header.backing_at > length {
        return wrong("the name of its backing file cannot be");
    }
    let name = read_at(file, header.backing_at, header.backing_length as usize)?;
    let path = PathBuf::from(OsString::from_vec(name));
    if !path.is_absolute() {
        return wrong("its backing file has no absolute path");
    }
    Ok(Some(path))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Cursor;

    const CLUSTER: usize = 512;

    /// A disk of 64 KiB in clusters of 512 bytes: two L2 tables, of which the first is there.
    fn image() -> Vec<u8> {
        let mut image = vec![0; 4 * CLUSTER];
        image[..4].copy_from_slice(b"QFI\xfb");
        put(&mut image, 4, 3u32);
        put(&mut image, 20, 9u32);
        put64(&mut image, 24, 64 << 10);
        put(&mut image, 36, 2u32);
        put64(&mut image, 40, CLUSTER as u64);
        put64(&mut image, CLUSTER, (1 << 63) | (2 * CLUSTER as u64));
        put64(&mut image, 2 * CLUSTER, (1 << 63) | (3 * CLUSTER as u64));
        image
    }

    fn put(image: &mut [u8], at: usize, value: u32) {
        image[at..at + 4].copy_from_slice(&value.to_be_bytes());
    }

    fn put64(image: &mut [u8], at: usize, value: u64) {
        image[at..at + 8].copy_from_slice(&value.to_be_bytes());
    }

    fn refused(image: Vec<u8>) -> String {
        inspect(&mut Cursor::new(image)).unwrap_err().to_string()
    }

    #[test]
    fn what_is_whole_is_taken() {
        let info = inspect(&mut Cursor::new(image())).unwrap();
        assert_eq!((info.size, info.backing), (64 << 10, None));
        // Entries beyond the end of the disk are nobody's.
        let mut more = image();
        put(&mut more, 36, 3);
        put64(&mut more, CLUSTER + 16, 1 << 50);
        inspect(&mut Cursor::new(more)).unwrap();
    }

    #[test]
    fn one_table_in_two_places_is_refused() {
        for second in [2 * CLUSTER as u64, 2 * CLUSTER as u64 + 256] {
            let mut image = image();
            put64(&mut image, CLUSTER + 8, second);
            assert!(refused(image).contains("the same mapping table"), "{second}");
        }
    }

    #[test]
    fn features_that_change_the_tables_are_refused() {
        for (bit, why) in
            [(1, "damaged"), (2, "external"), (4, "subclusters"), (5, "not known"), (63, "not known")]
        {
            let mut image = image();
            put64(&mut image, 72, 1 << bit);
            let said = refused(image);
            assert!(said.contains(why), "{bit}: {said}");
        }
        let mut harmless = image();
        put64(&mut harmless, 72, HARMLESS);
        inspect(&mut Cursor::new(harmless)).unwrap();
    }

    /// A file of holes with more tables than any disk has.
    #[test]
    fn tables_without_end_are_refused() {
        const BIG: u64 = 2 << 20;
        let tables = MAX_L2 / BIG + 1;
        let file = tempfile::tempfile().unwrap();
        file.set_len((tables + 2) * BIG).unwrap();
        let mut header = image();
        header.truncate(CLUSTER);
        put(&mut header, 20, 21);
        put64(&mut header, 24, 1 << 60);
        put(&mut header, 36, 1 << 21);
        header.resize(CLUSTER + (8 << 21), 0);
        for table in 0..tables {
            put64(&mut header, CLUSTER + table as usize * 8, (table + 2) * BIG);
        }
        // The first table begins behind the header, which nobody minds here.
        std::os::unix::fs::FileExt::write_all_at(&file, &header[..CLUSTER + tables as usize * 8], 0).unwrap();
        let error = inspect(&mut &file).unwrap_err().to_string();
        assert!(error.contains("too large"), "{error}");
    }
}
