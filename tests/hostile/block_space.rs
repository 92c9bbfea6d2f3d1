//! The block device: space that a guest gives up goes back to the host, and nothing else does.

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use proptest::prelude::*;
use rvm::vmm::bus::BusDevice;
use rvm::vmm::virtio::block::Block;
use rvm::vmm::{Backing, DiskFormat};
use tempfile::TempDir;

use crate::block::{DISCARD, FLUSH, IN, OK, OUT, WRITE_ZEROES, disk, range, request};
use crate::block_images::{chain_of_images, read_qcow2};
use crate::driver::*;
use crate::qcow2_check::check;

const BUFFER: u64 = HIGH_START;
const F_FLUSH: u64 = 1 << 9;
/// Bytes in a cluster of the images here.
const CLUSTER: u64 = 65536;
const SECTORS: u64 = CLUSTER / 512;
/// What a file system may keep for itself, and tables.
const SLACK: u64 = 8 * CLUSTER;

/// Bytes that the host keeps for a file.
fn space(path: &Path) -> u64 {
    std::fs::metadata(path).unwrap().blocks() * 512
}

/// A cluster of the driver's disk is filled with `byte`.
fn write(driver: &mut Driver, cluster: u64, byte: u8) {
    driver.put(BUFFER, &[byte; CLUSTER as usize]);
    let data = [readable(BUFFER, CLUSTER as u32)];
    assert_eq!(request(driver, OUT, cluster * SECTORS, &data), (OK, 1));
}

/// So many clusters from `first` are given up.
fn give_up(driver: &mut Driver, kind: u32, first: u64, count: u64) {
    let flags = u32::from(kind == WRITE_ZEROES);
    let list = range(driver, &[(first * SECTORS, (count * SECTORS) as u32, flags)]);
    assert_eq!(request(driver, kind, 0, &[list]), (OK, 1));
}

fn flush(driver: &mut Driver) {
    assert_eq!(request(driver, FLUSH, 0, &[]), (OK, 1));
}

fn read(driver: &mut Driver, cluster: u64) -> Vec<u8> {
    let data = [writable(BUFFER, CLUSTER as u32)];
    assert_eq!(request(driver, IN, cluster * SECTORS, &data), (OK, CLUSTER as u32 + 1));
    driver.get(BUFFER, CLUSTER as usize)
}

/// An overlay of 64 clusters, its backing file below.
struct Overlay {
    driver: Driver,
    path: PathBuf,
    backing: Backing,
    _folder: TempDir,
}

const CLUSTERS: u64 = 64;

fn overlay() -> Overlay {
    let folder = tempfile::tempdir().unwrap();
    let (path, backing) = chain_of_images(&folder, CLUSTERS * CLUSTER);
    let driver = Driver::started(Block::open(&disk(&path, format(&backing))).unwrap(), 64, F_FLUSH);
    Overlay { driver, path, backing, _folder: folder }
}

fn format(backing: &Backing) -> DiskFormat {
    DiskFormat::Qcow2 { backing: Some(backing.clone()) }
}

impl Overlay {
    /// All of its clusters, by another reader.
    fn content(&self) -> Vec<u8> {
        read_qcow2(&self.path, &self.backing.path, 0, (CLUSTERS * CLUSTER) as usize)
    }
}

#[test]
fn what_is_given_up_on_a_raw_disk_is_the_hosts_again() {
    for kind in [DISCARD, WRITE_ZEROES] {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("disk.raw");
        std::fs::write(&path, vec![7; (CLUSTERS * CLUSTER) as usize]).unwrap();
        let mut driver = Driver::started(Block::open(&disk(&path, DiskFormat::Raw)).unwrap(), 64, F_FLUSH);
        flush(&mut driver);
        let before = space(&path);
        give_up(&mut driver, kind, 8, 48);
        assert!(space(&path) + 48 * CLUSTER <= before + SLACK, "{before}, then {}", space(&path));
        let image = std::fs::read(&path).unwrap();
        assert!(image[..8 * CLUSTER as usize].iter().all(|&byte| byte == 7));
        assert!(image[56 * CLUSTER as usize..].iter().all(|&byte| byte == 7));
        assert_eq!(image.len() as u64, CLUSTERS * CLUSTER);
    }
}

#[test]
fn what_is_given_up_on_a_qcow2_disk_is_the_hosts_again_after_a_flush() {
    for kind in [DISCARD, WRITE_ZEROES] {
        let mut overlay = overlay();
        let driver = &mut overlay.driver;
        (0..CLUSTERS).for_each(|cluster| write(driver, cluster, cluster as u8 + 1));
        flush(driver);
        let before = space(&overlay.path);
        assert!(before >= CLUSTERS * CLUSTER);
        // All but the ends of it, in two pieces and not whole clusters.
        give_up(driver, kind, 8, 24);
        give_up(driver, kind, 32, 24);
        flush(driver);
        let after = space(&overlay.path);
        assert!(after + 48 * CLUSTER <= before + SLACK, "{before}, then {after}");
        for cluster in [0, 7, 56, CLUSTERS - 1] {
            assert!(read(driver, cluster) == [cluster as u8 + 1; CLUSTER as usize], "cluster {cluster}");
        }
        assert!((8..56).all(|cluster| read(driver, cluster) == [0; CLUSTER as usize]));
        // The file has the space again when it is needed, and does not grow.
        let len = std::fs::metadata(&overlay.path).unwrap().len();
        (8..56).for_each(|cluster| write(driver, cluster, 0xa0));
        flush(driver);
        assert_eq!(std::fs::metadata(&overlay.path).unwrap().len(), len);
        assert!((8..56).all(|cluster| read(driver, cluster) == [0xa0; CLUSTER as usize]));
        check(&overlay.path);
    }
}

/// Less than a cluster is kept, and a driver is told that it is not worth the while.
#[test]
fn parts_of_clusters_are_kept() {
    let mut overlay = overlay();
    let driver = &mut overlay.driver;
    let mut alignment = [0; 4];
    driver.transport.read(0x100 + 44, &mut alignment);
    assert_eq!(u64::from(u32::from_le_bytes(alignment)), SECTORS);
    (0..3).for_each(|cluster| write(driver, cluster, 5));
    let list = range(driver, &[(1, 2 * SECTORS as u32, 0)]);
    assert_eq!(request(driver, DISCARD, 0, &[list]), (OK, 1));
    flush(driver);
    assert!(read(driver, 0) == [5; CLUSTER as usize]);
    assert!(read(driver, 2) == [5; CLUSTER as usize]);
    // The last one of the disk goes away even so.
    assert!(read(driver, 1) == [0; CLUSTER as usize]);
    check(&overlay.path);
}

/// The format hands a freed cluster out again before a flush: nobody may punch it then.
#[test]
fn a_cluster_that_is_used_again_stays() {
    for rewritten in [true, false] {
        let mut overlay = overlay();
        let driver = &mut overlay.driver;
        (0..8).for_each(|cluster| write(driver, cluster, 1));
        flush(driver);
        let len = std::fs::metadata(&overlay.path).unwrap().len();
        give_up(driver, DISCARD, 0, 8);
        // The same clusters of the disk, or others.
        let first = if rewritten { 0 } else { 20 };
        (first..first + 8).for_each(|cluster| write(driver, cluster, 2));
        flush(driver);
        flush(driver);
        assert_eq!(std::fs::metadata(&overlay.path).unwrap().len(), len, "they were not used again");
        let content = overlay.content();
        let at = (first * CLUSTER) as usize;
        assert!(content[at..at + 8 * CLUSTER as usize].iter().all(|&byte| byte == 2));
        check(&overlay.path);
    }
}

/// Nothing is punched before the tables that do not mention it are in the file.
#[test]
fn before_a_flush_the_file_has_everything() {
    let mut overlay = overlay();
    let copy = overlay.path.with_extension("copy");
    for _ in 0..20 {
        let driver = &mut overlay.driver;
        (0..8).for_each(|cluster| write(driver, cluster, 9));
        flush(driver);
        let before = space(&overlay.path);
        give_up(driver, DISCARD, 0, 8);
        // What a host that crashes now leaves behind.
        std::fs::copy(&overlay.path, &copy).unwrap();
        // Unless the queue was quiet for so long meanwhile.
        if space(&overlay.path) != before {
            continue;
        }
        let content = read_qcow2(&copy, &overlay.backing.path, 0, 8 * CLUSTER as usize);
        assert!(content.iter().all(|&byte| byte == content[0]) && [0, 9].contains(&content[0]));
        flush(driver);
        assert!(space(&overlay.path) + 8 * CLUSTER <= before + SLACK);
        return;
    }
    panic!("it was punched at once, always");
}

#[test]
fn without_a_flush_a_quiet_disk_gives_back_and_so_does_one_that_goes() {
    let mut overlay = overlay();
    let driver = &mut overlay.driver;
    (0..CLUSTERS).for_each(|cluster| write(driver, cluster, 3));
    flush(driver);
    let before = space(&overlay.path);
    give_up(driver, DISCARD, 0, 32);
    let deadline = Instant::now() + Duration::from_secs(20);
    while space(&overlay.path) + 32 * CLUSTER > before + SLACK {
        assert!(Instant::now() < deadline, "{before} bytes, and still {}", space(&overlay.path));
        std::thread::yield_now();
    }
    give_up(driver, WRITE_ZEROES, 32, 24);
    let Overlay { driver, path, backing, _folder } = overlay;
    drop(driver);
    assert!(space(&path) + 56 * CLUSTER <= before + SLACK);
    check(&path);
    let content = read_qcow2(&path, &backing.path, 0, (CLUSTERS * CLUSTER) as usize);
    let (gone, left) = content.split_at(56 * CLUSTER as usize);
    assert!(gone.iter().all(|&byte| byte == 0) && left.iter().all(|&byte| byte == 3));
}

/// A snapshot that somebody else made refers to the same clusters.
#[test]
fn a_cluster_that_something_else_refers_to_stays() {
    let Overlay { mut driver, path, backing, _folder } = overlay();
    (0..2).for_each(|cluster| write(&mut driver, cluster, 4));
    drop(driver);
    // The third cluster of the disk becomes the first of the file, too: two references, none alone.
    let mut image = std::fs::read(&path).unwrap();
    let be64 = |image: &[u8], at: usize| u64::from_be_bytes(image[at..at + 8].try_into().unwrap());
    let offset = |entry: u64| (entry & 0x00ff_ffff_ffff_fe00) as usize;
    let l2 = offset(be64(&image, be64(&image, 40) as usize));
    let data = offset(be64(&image, l2));
    for entry in [l2, l2 + 16] {
        image[entry..entry + 8].copy_from_slice(&(data as u64).to_be_bytes());
    }
    let block = be64(&image, be64(&image, 48) as usize) as usize;
    let count = block + data / CLUSTER as usize * 2;
    assert_eq!(image[count..count + 2], [0, 1]);
    image[count..count + 2].copy_from_slice(&[0, 2]);
    std::fs::write(&path, &image).unwrap();
    check(&path);

    let mut driver = Driver::started(Block::open(&disk(&path, format(&backing))).unwrap(), 64, F_FLUSH);
    give_up(&mut driver, DISCARD, 0, 2);
    flush(&mut driver);
    assert!(read(&mut driver, 2) == [4; CLUSTER as usize]);
    drop(driver);
    assert_eq!(std::fs::read(&path).unwrap()[data..data + CLUSTER as usize], [4; CLUSTER as usize]);
    check(&path);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 16, ..ProptestConfig::default() })]

    /// Whatever is written, given up, zeroed and flushed: the disk is what a model of it is, and the file
    /// has its books in order.
    #[test]
    fn a_disk_that_gives_back_is_a_disk(steps in prop::collection::vec((0..5u8, 0..16u64, 1..5u64), 1..60)) {
        let mut overlay = overlay();
        let mut model = overlay.content();
        for (number, (step, first, count)) in steps.into_iter().enumerate() {
            let driver = &mut overlay.driver;
            let bytes = (first * CLUSTER) as usize..((first + count) * CLUSTER) as usize;
            match step {
                0 | 1 => {
                    (first..first + count).for_each(|cluster| write(driver, cluster, number as u8 + 1));
                    model[bytes].fill(number as u8 + 1);
                }
                2 => {
                    give_up(driver, DISCARD, first, count);
                    model[bytes].fill(0);
                }
                3 => {
                    give_up(driver, WRITE_ZEROES, first, count);
                    model[bytes].fill(0);
                }
                _ => flush(driver),
            }
        }
        let driver = &mut overlay.driver;
        for cluster in 0..20 {
            let at = (cluster * CLUSTER) as usize;
            prop_assert!(read(driver, cluster) == model[at..at + CLUSTER as usize], "cluster {}", cluster);
        }
        let Overlay { driver, path, backing, _folder } = overlay;
        drop(driver);
        check(&path);
        prop_assert!(read_qcow2(&path, &backing.path, 0, model.len()) == model);
    }
}
