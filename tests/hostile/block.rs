//! The block device: requests good and bad.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use proptest::prelude::*;
use rvm::vmm::bus::BusDevice;
use rvm::vmm::virtio::block::Block;
use rvm::vmm::virtio::mmio::status::DEVICE_NEEDS_RESET;
use rvm::vmm::virtio::{VIRTIO_F_EVENT_IDX, VIRTIO_F_INDIRECT_DESC};
use rvm::vmm::{Disk, DiskFormat};
use tempfile::TempDir;
use vm_memory::{Bytes, GuestAddress};

use crate::block_images::{chain_of_images, read_qcow2};
use crate::driver::*;

pub const IN: u32 = 0;
pub const OUT: u32 = 1;
pub const FLUSH: u32 = 4;
const GET_ID: u32 = 8;
pub const DISCARD: u32 = 11;
pub const WRITE_ZEROES: u32 = 13;

pub const OK: u8 = 0;
pub const IOERR: u8 = 1;
const UNSUPP: u8 = 2;
/// What is in the status byte before the device writes it.
pub const UNTOUCHED: u8 = 0xee;

const F_RO: u64 = 1 << 5;
const F_FLUSH: u64 = 1 << 9;

/// Sectors of the raw disks here.
const SECTORS: u64 = 64;
const HEADER: u64 = DATA;
const STATUS_BYTE: u64 = DATA + 0x100;
const BUFFER: u64 = DATA + 0x1000;

pub fn disk(path: &Path, format: DiskFormat) -> Disk {
    Disk { path: path.to_owned(), format, read_only: false, serial: "rvm-disk".to_owned() }
}

/// Sector n is filled with n + 1, but for a few that wrap.
pub fn numbered(sectors: u64) -> Vec<u8> {
    (0..sectors).flat_map(|sector| [(sector % 251) as u8 + 1; 512]).collect()
}

pub fn raw_file(folder: &TempDir) -> PathBuf {
    let path = folder.path().join("disk.raw");
    std::fs::write(&path, numbered(SECTORS)).unwrap();
    path
}

struct Raw {
    driver: Driver,
    path: PathBuf,
    _folder: TempDir,
}

fn raw(read_only: bool, features: u64) -> Raw {
    let folder = tempfile::tempdir().unwrap();
    let path = raw_file(&folder);
    let disk = Disk { read_only, ..disk(&path, DiskFormat::Raw) };
    Raw { driver: Driver::started(Block::open(&disk).unwrap(), 64, features), path, _folder: folder }
}

pub fn put_header(driver: &Driver, kind: u32, sector: u64) {
    driver.put(HEADER, &kind.to_le_bytes());
    driver.put(HEADER + 4, &[0; 4]);
    driver.put(HEADER + 8, &sector.to_le_bytes());
    driver.put(STATUS_BYTE, &[UNTOUCHED]);
}

/// One request with `data` between header and status; gives status and length written.
pub fn request(driver: &mut Driver, kind: u32, sector: u64, data: &[Buf]) -> (u8, u32) {
    put_header(driver, kind, sector);
    let mut bufs = vec![readable(HEADER, 16)];
    bufs.extend(data);
    bufs.push(writable(STATUS_BYTE, 1));
    let len = driver.transact(0, &bufs);
    (driver.get(STATUS_BYTE, 1)[0], len)
}

pub fn range(driver: &Driver, ranges: &[(u64, u32, u32)]) -> Buf {
    for (at, (sector, count, flags)) in ranges.iter().enumerate() {
        let at = BUFFER + 16 * at as u64;
        driver.put(at, &sector.to_le_bytes());
        driver.put(at + 8, &count.to_le_bytes());
        driver.put(at + 12, &flags.to_le_bytes());
    }
    readable(BUFFER, 16 * ranges.len() as u32)
}

#[test]
fn reads_and_writes_raw() {
    for features in [0, F_FLUSH | VIRTIO_F_EVENT_IDX | VIRTIO_F_INDIRECT_DESC] {
        let mut raw = raw(false, features);
        let driver = &mut raw.driver;
        assert_eq!(request(driver, IN, 3, &[writable(BUFFER, 1024)]), (OK, 1025));
        assert_eq!(driver.get(BUFFER, 1024), [[4; 512], [5; 512]].concat());
        driver.put(BUFFER, &[0xab; 512]);
        assert_eq!(request(driver, OUT, 63, &[readable(BUFFER, 512)]), (OK, 1));
        let image = std::fs::read(&raw.path).unwrap();
        assert_eq!(image[63 * 512..], [0xab; 512]);
        assert_eq!(image[..63 * 512], numbered(63));
    }
}

#[test]
fn data_in_many_odd_pieces_is_one_request() {
    let mut raw = raw(false, 0);
    let driver = &mut raw.driver;
    let pieces = [
        writable(BUFFER, 1),
        writable(HIGH_START, 511),
        writable(BUFFER + 1, 0),
        writable(LOW_END - 300, 300),
        writable(BUFFER + 1, 724),
    ];
    assert_eq!(request(driver, IN, 1, &pieces), (OK, 1537));
    let mut got = driver.get(BUFFER, 1);
    got.extend(driver.get(HIGH_START, 511));
    got.extend(driver.get(LOW_END - 300, 300));
    got.extend(driver.get(BUFFER + 1, 724));
    assert_eq!(got, numbered(4)[512..]);
}

#[test]
fn longest_request_fits_and_is_whole() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("disk.raw");
    let content: Vec<u8> = (0..254 * 4096u32).map(|at| (at / 512 * 7) as u8).collect();
    std::fs::write(&path, &content).unwrap();
    let device = Block::open(&disk(&path, DiskFormat::Raw)).unwrap();
    let mut driver = Driver::started(device, 256, VIRTIO_F_INDIRECT_DESC);
    let mut seg_max = [0; 4];
    rvm::vmm::bus::BusDevice::read(&mut driver.transport, 0x100 + 12, &mut seg_max);
    assert_eq!(u32::from_le_bytes(seg_max), 254);
    // Backwards, so that no two pieces are neighbours.
    let place = |piece: u64| HIGH_START + (253 - piece) * 4096;
    let data: Vec<_> = (0..254).map(|piece| writable(place(piece), 4096)).collect();
    assert_eq!(request(&mut driver, IN, 0, &data), (OK, 254 * 4096 + 1));
    for piece in 0..254 {
        let at = piece as usize * 4096;
        assert!(driver.get(place(piece), 4096) == content[at..at + 4096], "piece {piece}");
    }
    let data: Vec<_> = (0..254).map(|piece| readable(place(piece), 4096)).collect();
    assert_eq!(request(&mut driver, OUT, 0, &data), (OK, 1));
    assert!(std::fs::read(&path).unwrap() == content);
}

#[test]
fn header_and_status_may_lie_in_any_pieces() {
    let mut raw = raw(false, 0);
    let driver = &mut raw.driver;
    put_header(driver, IN, 7);
    let head: Vec<_> = (0..16).map(|at| readable(HEADER + at, 1)).collect();
    // The last byte of the last buffer is the status.
    let bufs = [head, vec![writable(BUFFER, 513)]].concat();
    assert_eq!(driver.transact(0, &bufs), 513);
    assert_eq!(driver.get(BUFFER, 512), [8; 512]);
    assert_eq!(driver.get(BUFFER + 512, 1), [OK]);
}

#[test]
fn get_id_gives_the_serial() {
    let mut raw = raw(false, 0);
    let driver = &mut raw.driver;
    driver.put(BUFFER, &[0xff; 40]);
    assert_eq!(request(driver, GET_ID, 0, &[writable(BUFFER, 40)]), (OK, 21));
    let mut expected = b"rvm-disk".to_vec();
    expected.resize(20, 0);
    expected.extend([0xff; 20]);
    assert_eq!(driver.get(BUFFER, 40), expected);
    assert_eq!(request(driver, GET_ID, 0, &[writable(BUFFER, 19)]), (IOERR, 1));
    assert_eq!(request(driver, GET_ID, 0, &[]), (IOERR, 1));
}

#[test]
fn config_space_takes_any_access() {
    let mut raw = raw(false, 0);
    let mut config = vec![0; 0x60];
    raw.driver.transport.read(0x100, &mut config);
    assert_eq!(config[..8], SECTORS.to_le_bytes());
    for offset in 0..0x60usize {
        for width in 0..=8 {
            let mut data = vec![0xff; width];
            raw.driver.transport.write(0x100 + offset as u64, &data);
            raw.driver.transport.read(0x100 + offset as u64, &mut data);
            let mut expected = config[offset..].to_vec();
            expected.resize(width.max(expected.len()), 0);
            assert_eq!(data, expected[..width], "{width} bytes at {offset:#x}");
        }
    }
    let mut data = [0xff; 8];
    raw.driver.transport.read(u64::MAX - 3, &mut data);
    assert_eq!(data, [0; 8]);
}

#[test]
fn access_beyond_the_end_fails() {
    let mut raw = raw(false, 0);
    let driver = &mut raw.driver;
    for sector in [SECTORS - 1, SECTORS, 1 << 54, 1 << 55, u64::MAX / 512, u64::MAX - 1, u64::MAX] {
        assert_eq!(request(driver, IN, sector, &[writable(BUFFER, 1024)]), (IOERR, 1), "{sector:#x}");
        assert_eq!(request(driver, OUT, sector, &[readable(BUFFER, 1024)]), (IOERR, 1), "{sector:#x}");
    }
    assert!(std::fs::read(&raw.path).unwrap() == numbered(SECTORS));
}

#[test]
fn data_of_a_wrong_length_fails() {
    let mut raw = raw(false, 0);
    for len in [1, 511, 513, 1000] {
        assert_eq!(request(&mut raw.driver, IN, 0, &[writable(BUFFER, len)]), (IOERR, 1));
        assert_eq!(request(&mut raw.driver, OUT, 0, &[readable(BUFFER, len)]), (IOERR, 1));
    }
    assert!(std::fs::read(&raw.path).unwrap() == numbered(SECTORS));
}

#[test]
fn data_of_no_length_is_no_error() {
    let mut raw = raw(false, 0);
    assert_eq!(request(&mut raw.driver, IN, 0, &[]), (OK, 1));
    assert_eq!(request(&mut raw.driver, OUT, SECTORS, &[readable(BUFFER, 0)]), (OK, 1));
}

#[test]
fn data_of_the_wrong_direction_fails() {
    let mut raw = raw(false, 0);
    let driver = &mut raw.driver;
    assert_eq!(request(driver, IN, 0, &[readable(BUFFER, 512)]), (IOERR, 1));
    assert_eq!(request(driver, OUT, 0, &[writable(BUFFER, 512)]), (IOERR, 1));
    let both = [readable(BUFFER, 512), writable(BUFFER + 512, 512)];
    assert_eq!(request(driver, OUT, 0, &both), (IOERR, 1));
    assert_eq!(request(driver, IN, 0, &both), (IOERR, 1));
    assert!(std::fs::read(&raw.path).unwrap() == numbered(SECTORS));
}

#[test]
fn read_only_disk_refuses_every_change() {
    let mut raw = raw(true, F_RO);
    let driver = &mut raw.driver;
    assert_eq!(driver.offered() & F_RO, F_RO);
    assert_eq!(request(driver, IN, 0, &[writable(BUFFER, 512)]), (OK, 513));
    assert_eq!(request(driver, OUT, 0, &[readable(BUFFER + 512, 512)]), (IOERR, 1));
    let all = range(driver, &[(0, 8, 0)]);
    assert_eq!(request(driver, DISCARD, 0, &[all]), (IOERR, 1));
    assert_eq!(request(driver, WRITE_ZEROES, 0, &[all]), (IOERR, 1));
    assert_eq!(request(driver, FLUSH, 0, &[]), (OK, 1));
    assert!(std::fs::read(&raw.path).unwrap() == numbered(SECTORS));
}

#[test]
fn unknown_request_is_unsupported() {
    let mut raw = raw(false, 0);
    for kind in [2, 3, 5, 7, 9, 10, 12, 14, 0x8000_0000, u32::MAX] {
        assert_eq!(request(&mut raw.driver, kind, 0, &[writable(BUFFER, 512)]), (UNSUPP, 1));
    }
}

#[test]
fn flush_takes_no_data() {
    let mut raw = raw(false, F_FLUSH);
    assert_eq!(request(&mut raw.driver, FLUSH, 0, &[]), (OK, 1));
    assert_eq!(request(&mut raw.driver, FLUSH, 0, &[readable(BUFFER, 512)]), (IOERR, 1));
    assert_eq!(request(&mut raw.driver, FLUSH, 0, &[writable(BUFFER, 512)]), (IOERR, 1));
}

#[test]
fn short_header_fails_and_missing_status_comes_back_untouched() {
    let mut raw = raw(false, 0);
    let driver = &mut raw.driver;
    put_header(driver, IN, 0);
    assert_eq!(driver.transact(0, &[readable(HEADER, 15), writable(STATUS_BYTE, 1)]), 1);
    assert_eq!(driver.get(STATUS_BYTE, 1), [IOERR]);
    // Header for the device to write: there is none to read.
    put_header(driver, IN, 0);
    assert_eq!(driver.transact(0, &[writable(HEADER, 16), writable(STATUS_BYTE, 1)]), 1);
    assert_eq!(driver.get(STATUS_BYTE, 1), [IOERR]);
    // Status that the device must not write.
    put_header(driver, OUT, 0);
    let bufs = [readable(HEADER, 16), readable(BUFFER, 512), readable(STATUS_BYTE, 1)];
    assert_eq!(driver.transact(0, &bufs), 0);
    assert_eq!(driver.get(STATUS_BYTE, 1), [UNTOUCHED]);
    assert_eq!(driver.transact(0, &[readable(HEADER, 0)]), 0);
    assert!(std::fs::read(&raw.path).unwrap() == numbered(SECTORS));
    assert_eq!(request(&mut raw.driver, IN, 0, &[writable(BUFFER, 512)]), (OK, 513));
}

#[test]
fn bad_chain_needs_a_reset_and_touches_nothing() {
    let mut raw = raw(false, 0);
    let bad: [&[Buf]; 4] = [
        &[readable(HEADER, 16), readable(BUFFER, 512), readable(LOW_END - 1, 2), writable(STATUS_BYTE, 1)],
        &[readable(HEADER, 16), writable(u64::MAX - 511, 512), writable(STATUS_BYTE, 1)],
        &[readable(HEADER, 16), writable(STATUS_BYTE, 1), readable(BUFFER, 512)],
        &[readable(HEADER, 16), readable(0, u32::MAX), writable(STATUS_BYTE, 1)],
    ];
    for bufs in bad {
        let driver = &mut raw.driver;
        put_header(driver, OUT, 0);
        driver.submit(0, bufs);
        driver.wait_broken();
        assert_eq!(driver.get(STATUS_BYTE, 1), [UNTOUCHED]);
        assert_eq!(driver.poll_used(0), None);
        driver.reset();
        driver.start(0);
        assert_eq!(request(driver, IN, 2, &[writable(BUFFER, 512)]), (OK, 513));
        assert_eq!(driver.status() & DEVICE_NEEDS_RESET, 0);
    }
    assert!(std::fs::read(&raw.path).unwrap() == numbered(SECTORS));
}

#[test]
fn discard_and_write_zeroes_reach_the_image() {
    let mut raw = raw(false, 0);
    let driver = &mut raw.driver;
    let zeroes = range(driver, &[(8, 8, 0), (20, 1, 1), (21, 0, 0)]);
    assert_eq!(request(driver, WRITE_ZEROES, 0, &[zeroes]), (OK, 1));
    let discard = range(driver, &[(32, 16, 0)]);
    assert_eq!(request(driver, DISCARD, 0, &[discard]), (OK, 1));
    let mut expected = numbered(SECTORS);
    expected[8 * 512..16 * 512].fill(0);
    expected[20 * 512..21 * 512].fill(0);
    let image = std::fs::read(&raw.path).unwrap();
    // What was discarded may read as anything.
    assert!(image[..32 * 512] == expected[..32 * 512]);
    assert!(image[48 * 512..] == expected[48 * 512..]);
    assert_eq!(image.len(), expected.len());
}

#[test]
fn bad_ranges_change_nothing() {
    let mut raw = raw(false, 0);
    let io: [&[(u64, u32, u32)]; 6] = [
        &[],
        &[(SECTORS, 1, 0)],
        &[(0, 1, 0), (SECTORS - 1, 2, 0)],
        &[(u64::MAX, 1, 0)],
        &[(1 << 55, 8, 0)],
        &[(0, u32::MAX, 0)],
    ];
    for kind in [DISCARD, WRITE_ZEROES] {
        for ranges in io {
            let data = range(&raw.driver, ranges);
            assert_eq!(request(&mut raw.driver, kind, 0, &[data]), (IOERR, 1), "{ranges:?}");
        }
        let many = range(&raw.driver, &[(0, 1, 0); 17]);
        assert_eq!(request(&mut raw.driver, kind, 0, &[many]), (IOERR, 1));
        let data = range(&raw.driver, &[(0, 1, 0)]);
        for len in [1, 15, 17] {
            assert_eq!(request(&mut raw.driver, kind, 0, &[Buf { len, ..data }]), (IOERR, 1));
        }
        let flags = if kind == DISCARD { 1 } else { 2 };
        let data = range(&raw.driver, &[(0, 1, 0), (1, 1, flags)]);
        assert_eq!(request(&mut raw.driver, kind, 0, &[data]), (UNSUPP, 1));
    }
    assert!(std::fs::read(&raw.path).unwrap() == numbered(SECTORS));
}

#[test]
fn image_cut_short_while_in_use_is_an_io_error() {
    let mut raw = raw(false, 0);
    File::options().write(true).open(&raw.path).unwrap().set_len(512).unwrap();
    assert_eq!(request(&mut raw.driver, IN, 0, &[writable(BUFFER, 512)]), (OK, 513));
    assert_eq!(request(&mut raw.driver, IN, 0, &[writable(BUFFER, 1024)]), (IOERR, 1));
    assert_eq!(request(&mut raw.driver, IN, 9, &[writable(BUFFER, 512)]), (IOERR, 1));
}

#[test]
fn kicks_for_ever_do_not_keep_a_disk_from_being_reset() {
    let mut raw = raw(false, 0);
    let storm = Storm::on(&raw.driver, 0);
    for round in 0..20 {
        assert_eq!(request(&mut raw.driver, IN, round, &[writable(BUFFER, 512)]), (OK, 513));
        raw.driver.reset();
        raw.driver.start(0);
    }
    drop(storm);
}

#[test]
fn reset_in_the_middle_of_requests_leaves_whole_sectors() {
    let mut raw = raw(false, F_FLUSH);
    for round in 0..30u8 {
        let driver = &mut raw.driver;
        driver.put(BUFFER, &vec![round; SECTORS as usize * 512]);
        put_header(driver, OUT, 0);
        let bufs = [readable(HEADER, 16), readable(BUFFER, SECTORS as u32 * 512), writable(STATUS_BYTE, 1)];
        for _ in 0..20 {
            driver.submit(0, &bufs);
        }
        driver.reset();
        // Nobody works on the ring or the buffers any more.
        let before = driver.get(driver.queues[0].used, 500);
        driver.put(BUFFER, &vec![0xfe; SECTORS as usize * 512]);
        let image = std::fs::read(&raw.path).unwrap();
        assert!(!image.contains(&0xfe));
        assert_eq!(driver.get(driver.queues[0].used, 500), before);
        driver.start(F_FLUSH);
        assert_eq!(request(driver, IN, 5, &[writable(BUFFER, 512)]), (OK, 513));
    }
}

#[test]
fn many_requests_in_flight_all_come_back() {
    let mut raw = raw(false, VIRTIO_F_EVENT_IDX);
    let driver = &mut raw.driver;
    for _ in 0..100 {
        let mut heads = Vec::new();
        for slot in 0..21u64 {
            let (header, status) = (DATA + slot * 0x40, DATA + slot * 0x40 + 0x20);
            driver.put(header, &[0; 8]);
            driver.put(header + 8, &slot.to_le_bytes());
            let data = writable(BUFFER + slot * 512, 512);
            let head = driver.chain(0, &[readable(header, 16), data, writable(status, 1)]);
            driver.offer(0, head);
            heads.push(head);
        }
        driver.kick(0);
        for head in heads {
            assert_eq!(driver.used(0), (head, 513));
        }
        assert!(driver.get(BUFFER, 21 * 512) == numbered(21));
        driver.put(BUFFER, &[0; 21 * 512]);
    }
}

#[test]
fn qcow2_overlay_takes_the_writes_and_the_backing_file_stays() {
    let folder = tempfile::tempdir().unwrap();
    let (overlay, backing) = chain_of_images(&folder, 1 << 20);
    let before = std::fs::read(&backing.path).unwrap();
    let format = DiskFormat::Qcow2 { backing: Some(backing.clone()) };
    {
        let device = Block::open(&disk(&overlay, format.clone())).unwrap();
        let mut driver = Driver::started(device, 64, F_FLUSH);
        let driver = &mut driver;
        assert_eq!(request(driver, IN, 2, &[writable(BUFFER, 512)]), (OK, 513));
        assert_eq!(driver.get(BUFFER, 512), before[1024..1536]);
        driver.put(BUFFER, &[0x5a; 1024]);
        let pieces = [readable(BUFFER, 100), readable(BUFFER, 924)];
        assert_eq!(request(driver, OUT, 3, &pieces), (OK, 1));
        assert_eq!(request(driver, IN, 2, &[writable(BUFFER, 2048)]), (OK, 2049));
        let middle = [&before[1024..1536], &[0x5a; 1024], &before[2560..3072]].concat();
        assert_eq!(driver.get(BUFFER, 2048), middle);
        // Beyond the end of the backing file there are zeros.
        assert_eq!(request(driver, IN, 1024, &[writable(BUFFER, 512)]), (OK, 513));
        assert_eq!(driver.get(BUFFER, 512), [0; 512]);
        assert_eq!(request(driver, IN, 2048, &[writable(BUFFER, 512)]), (IOERR, 1));
        // A flush brings the file to where another reader finds all of it.
        assert_eq!(request(driver, FLUSH, 0, &[]), (OK, 1));
        let copy = folder.path().join("copy.qcow2");
        std::fs::copy(&overlay, &copy).unwrap();
        let seen = read_qcow2(&copy, &backing.path, 0, 4096);
        assert_eq!(seen[1536..2560], [0x5a; 1024]);
        assert_eq!(seen[..1536], before[..1536]);
        // Written, not flushed: the device does it when it goes.
        driver.put(BUFFER, &[0x77; 512]);
        assert_eq!(request(driver, OUT, 1500, &[readable(BUFFER, 512)]), (OK, 1));
    }
    assert!(std::fs::read(&backing.path).unwrap() == before);
    let device = Block::open(&disk(&overlay, format)).unwrap();
    let mut driver = Driver::started(device, 64, 0);
    assert_eq!(request(&mut driver, IN, 1500, &[writable(BUFFER, 512)]), (OK, 513));
    assert_eq!(driver.get(BUFFER, 512), [0x77; 512]);
}

#[test]
fn qcow2_discard_and_write_zeroes_hide_the_backing_file() {
    let folder = tempfile::tempdir().unwrap();
    let (overlay, backing) = chain_of_images(&folder, 1 << 20);
    let before = std::fs::read(&backing.path).unwrap();
    let format = DiskFormat::Qcow2 { backing: Some(backing.clone()) };
    let device = Block::open(&disk(&overlay, format)).unwrap();
    let mut driver = Driver::started(device, 64, F_FLUSH);
    let driver = &mut driver;
    for (sector, flags) in [(1, 0), (130, 1)] {
        let zeroes = range(driver, &[(sector, 128, flags)]);
        assert_eq!(request(driver, WRITE_ZEROES, 0, &[zeroes]), (OK, 1));
        assert_eq!(request(driver, IN, sector - 1, &[writable(BUFFER, 130 * 512)]), (OK, 130 * 512 + 1));
        let got = driver.get(BUFFER, 130 * 512);
        let at = (sector as usize - 1) * 512;
        assert!(got[..512] == before[at..at + 512], "sector before {sector}");
        assert!(got[512..129 * 512].iter().all(|&byte| byte == 0), "sectors from {sector}");
    }
    let discard = range(driver, &[(256, 256, 0)]);
    assert_eq!(request(driver, DISCARD, 0, &[discard]), (OK, 1));
    driver.put(BUFFER, &[3; 512]);
    assert_eq!(request(driver, OUT, 300, &[readable(BUFFER, 512)]), (OK, 1));
    assert_eq!(request(driver, IN, 300, &[writable(BUFFER + 512, 512)]), (OK, 513));
    assert_eq!(driver.get(BUFFER + 512, 512), [3; 512]);
    assert!(std::fs::read(&backing.path).unwrap() == before);
}

#[test]
fn guest_data_is_never_taken_for_a_format() {
    // A guest writes a qcow2 header that names a host file into sector 0 of its raw disk.
    let folder = tempfile::tempdir().unwrap();
    let secret = folder.path().join("secret");
    std::fs::write(&secret, [0x42; 4096]).unwrap();
    let (overlay, _) = chain_of_images(&folder, 1 << 20);
    let mut evil = std::fs::read(&overlay).unwrap();
    evil.truncate(65536);
    let mut raw = raw(false, 0);
    raw.driver.put(BUFFER, &evil[..512]);
    assert_eq!(request(&mut raw.driver, OUT, 0, &[readable(BUFFER, 512)]), (OK, 1));
    let Raw { driver, path, _folder } = raw;
    drop(driver);
    let device = Block::open(&disk(&path, DiskFormat::Raw)).unwrap();
    let mut driver = Driver::started(device, 64, 0);
    assert_eq!(request(&mut driver, IN, 0, &[writable(BUFFER, 512)]), (OK, 513));
    assert_eq!(driver.get(BUFFER, 512), evil[..512]);
}

#[derive(Debug, Clone)]
struct Request {
    kind: u32,
    sector: u64,
    lens: Vec<(u64, u32, bool)>,
}

fn any_request() -> impl Strategy<Value = Request> {
    let kind = prop_oneof![
        8 => prop::sample::select(vec![IN, OUT, FLUSH, GET_ID, DISCARD, WRITE_ZEROES]),
        1 => any::<u32>(),
    ];
    let sector = prop_oneof![8 => 0..SECTORS + 4, 1 => any::<u64>()];
    let len = prop_oneof![
        6 => (0..9u32).prop_map(|sectors| sectors * 512),
        2 => 0..2000u32,
        1 => prop::sample::select(vec![16, 20, 32]),
    ];
    let piece = (0..0x4_0000u64, len, any::<bool>());
    (kind, sector, prop::collection::vec(piece, 0..6)).prop_map(|(kind, sector, mut lens)| {
        lens.sort_by_key(|piece| piece.2);
        Request { kind, sector, lens }
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 60, ..ProptestConfig::default() })]

    /// Any request comes back with a status, the image keeps its size and a reference model of the
    /// disk agrees with what reads give.
    #[test]
    fn random_requests_keep_the_disk_whole(requests in prop::collection::vec(any_request(), 1..40)) {
        let mut raw = raw(false, F_FLUSH);
        for Request { kind, sector, lens } in requests {
            let driver = &mut raw.driver;
            let data: Vec<_> = lens
                .iter()
                .map(|&(at, len, write)| Buf { addr: BUFFER + at, len, write })
                .collect();
            let before = std::fs::read(&raw.path).unwrap();
            let (status, len) = request(driver, kind, sector, &data);
            prop_assert!(status <= UNSUPP, "status {status}");
            prop_assert!(len >= 1);
            let after = std::fs::read(&raw.path).unwrap();
            prop_assert_eq!(after.len(), before.len());
            let changes = [OUT, DISCARD, WRITE_ZEROES].contains(&kind) && status == OK;
            prop_assert!(changes || after == before);
            if kind == IN && status == OK && data.len() == 1 {
                let at = sector as usize * 512;
                let got = driver.get(data[0].addr, data[0].len as usize);
                prop_assert!(got == before[at..at + got.len()], "sector {}", sector);
            }
        }
        let image = File::open(&raw.path).unwrap();
        let mut sector = [0; 512];
        image.read_exact_at(&mut sector, 0).unwrap();
        prop_assert_eq!(request(&mut raw.driver, IN, 0, &[writable(BUFFER, 512)]), (OK, 513));
        let mut got = [0; 512];
        raw.driver.mem.read_slice(&mut got, GuestAddress(BUFFER)).unwrap();
        prop_assert_eq!(got, sector);
    }
}
