//! The block device: several queues on one image.

use std::fs::File;
use std::path::{Path, PathBuf};

use rvm::vmm::DiskFormat;
use rvm::vmm::bus::BusDevice;
use rvm::vmm::virtio::block::Block;
use rvm::vmm::virtio::mmio::status::{ACKNOWLEDGE, DEVICE_NEEDS_RESET, DRIVER, DRIVER_OK, FEATURES_OK};
use tempfile::TempDir;

use crate::block::{FLUSH, IN, OK, OUT, disk, raw_file, request};
use crate::block_images::{chain_of_images, read_qcow2};
use crate::driver::*;

const DISCARD: u32 = 11;
const WRITE_ZEROES: u32 = 13;

const F_FLUSH: u64 = 1 << 9;
const F_MQ: u64 = 1 << 12;

/// The smallest disk with several queues, in bytes.
const SIZE: u64 = 16 << 20;
const QUEUES: usize = 4;
/// Bytes in a qcow2 cluster.
const CLUSTER: u64 = 65536;

/// Where the request of a queue is: header, status, data.
fn places(queue: usize) -> (u64, u64, u64) {
    let base = DATA + queue as u64 * 0x2_0000;
    (base, base + 0x100, base + 0x1000)
}

/// Puts a request into a queue and does not wait.
fn begin(driver: &mut Driver, queue: usize, kind: u32, sector: u64, len: u32) {
    let (header, status, data) = places(queue);
    driver.put(header, &kind.to_le_bytes());
    driver.put(header + 4, &[0; 4]);
    driver.put(header + 8, &sector.to_le_bytes());
    driver.put(status, &[0xee]);
    let mut bufs = vec![readable(header, 16)];
    if len > 0 {
        bufs.push(Buf { addr: data, len, write: kind == IN });
    }
    bufs.push(writable(status, 1));
    driver.submit(queue, &bufs);
}

/// Waits for the request of a queue; gives its status.
fn end(driver: &mut Driver, queue: usize) -> u8 {
    driver.used(queue);
    driver.get(places(queue).1, 1)[0]
}

fn sparse(folder: &TempDir, size: u64) -> PathBuf {
    let path = folder.path().join("sparse.raw");
    File::create(&path).unwrap().set_len(size).unwrap();
    path
}

fn started(path: &Path, format: DiskFormat) -> Driver {
    let device = Block::with_queues(&disk(path, format), QUEUES).unwrap();
    Driver::started(device, 64, F_FLUSH | F_MQ)
}

/// What is counted is what was carried: a request that fails carries nothing.
#[test]
fn bytes_are_counted_when_they_were_carried() {
    let folder = tempfile::tempdir().unwrap();
    let path = raw_file(&folder);
    let block = Block::open(&disk(&path, DiskFormat::Raw)).unwrap();
    let counters = block.counters();
    let mut driver = Driver::started(block, 64, 0);
    let buffer = DATA + 0x1000;
    request(&mut driver, IN, 3, &[writable(buffer, 1024)]);
    request(&mut driver, OUT, 5, &[readable(buffer, 512)]);
    request(&mut driver, IN, 1 << 40, &[writable(buffer, 512)]);
    request(&mut driver, OUT, 1 << 40, &[readable(buffer, 512)]);
    assert_eq!((counters.read(), counters.written()), (1024, 512));
    // They outlive the driver.
    drop(driver);
    assert_eq!(counters.read(), 1024);
}

#[test]
fn there_is_a_queue_for_each_processor() {
    let folder = tempfile::tempdir().unwrap();
    for (size, cpus, queues) in
        [(SIZE, 0, 1), (SIZE, 1, 1), (SIZE, 4, 4), (SIZE, 8, 8), (SIZE, 64, 8), (SIZE - 512, 4, 1)]
    {
        let path = sparse(&folder, size);
        let device = Block::with_queues(&disk(&path, DiskFormat::Raw), cpus).unwrap();
        let mut driver = Driver::new(device, 64);
        assert_eq!(driver.queues.len(), queues, "{size} {cpus}");
        assert_eq!(driver.offered() & F_MQ != 0, queues > 1);
        let mut number = [0; 2];
        driver.transport.read(0x100 + 34, &mut number);
        assert_eq!(usize::from(u16::from_le_bytes(number)), queues);
    }
}

/// Every queue writes its own sectors of each cluster, all at once; then one flushes. Gives what the
/// image has to hold.
fn write_interleaved(driver: &mut Driver, clusters: u64) -> Vec<u8> {
    let piece = CLUSTER / QUEUES as u64;
    let mut expected = Vec::new();
    for cluster in 0..clusters {
        for queue in 0..QUEUES {
            let bytes = vec![(cluster * 7 + queue as u64) as u8 + 1; piece as usize];
            driver.put(places(queue).2, &bytes);
            expected.extend(bytes);
            let offset = cluster * CLUSTER + queue as u64 * piece;
            begin(driver, queue, OUT, offset / 512, piece as u32);
        }
        for queue in 0..QUEUES {
            assert_eq!(end(driver, queue), OK);
        }
    }
    begin(driver, 0, FLUSH, 0, 0);
    assert_eq!(end(driver, 0), OK);
    expected
}

#[test]
fn queues_write_one_raw_image() {
    let folder = tempfile::tempdir().unwrap();
    let path = sparse(&folder, SIZE);
    let mut driver = started(&path, DiskFormat::Raw);
    let expected = write_interleaved(&mut driver, 32);
    assert!(std::fs::read(&path).unwrap()[..expected.len()] == expected);
    // And each reads what the others wrote.
    for queue in 0..QUEUES {
        begin(&mut driver, queue, IN, 0, CLUSTER as u32);
        assert_eq!(end(&mut driver, queue), OK);
        assert!(driver.get(places(queue).2, CLUSTER as usize) == expected[..CLUSTER as usize]);
    }
}

#[test]
fn queues_write_one_qcow2_image_and_any_of_them_flushes_it() {
    let folder = tempfile::tempdir().unwrap();
    let (path, backing) = chain_of_images(&folder, SIZE);
    let below = backing.path.clone();
    let mut driver = started(&path, DiskFormat::Qcow2 { backing: Some(backing) });
    let expected = write_interleaved(&mut driver, 32);
    // The image is still open: this is what the flush brought to the file.
    assert!(read_qcow2(&path, &below, 0, expected.len()) == expected);
}

#[test]
fn discards_of_one_queue_and_writes_of_others_do_not_meet() {
    let folder = tempfile::tempdir().unwrap();
    let (path, backing) = chain_of_images(&folder, SIZE);
    let below = backing.path.clone();
    let mut driver = started(&path, DiskFormat::Qcow2 { backing: Some(backing) });
    let sectors = CLUSTER / 512;
    for round in 0..60u64 {
        // A whole cluster goes away while its neighbours are written.
        let cluster = round % 20 * 3;
        let (_, _, data) = places(0);
        driver.put(data, &(cluster * sectors).to_le_bytes());
        driver.put(data + 8, &(sectors as u32).to_le_bytes());
        driver.put(data + 12, &1u32.to_le_bytes());
        let zeroes = round % 2 == 0;
        if !zeroes {
            driver.put(data + 12, &[0; 4]);
        }
        begin(&mut driver, 0, if zeroes { WRITE_ZEROES } else { DISCARD }, 0, 16);
        for queue in 1..3 {
            driver.put(places(queue).2, &[round as u8 + 1; CLUSTER as usize]);
            begin(&mut driver, queue, OUT, (cluster + queue as u64) * sectors, CLUSTER as u32);
        }
        begin(&mut driver, 3, IN, cluster * sectors, CLUSTER as u32);
        for queue in 0..QUEUES {
            assert_eq!(end(&mut driver, queue), OK, "round {round}, queue {queue}");
        }
        begin(&mut driver, 3, FLUSH, 0, 0);
        assert_eq!(end(&mut driver, 3), OK);
        let got = read_qcow2(&path, &below, cluster * CLUSTER, 3 * CLUSTER as usize);
        let (gone, written) = got.split_at(CLUSTER as usize);
        assert!(!zeroes || gone.iter().all(|byte| *byte == 0), "round {round}");
        assert!(written.iter().all(|byte| *byte == round as u8 + 1), "round {round}");
    }
}

#[test]
fn driver_may_use_some_of_the_queues_but_not_without_the_first() {
    let folder = tempfile::tempdir().unwrap();
    let path = sparse(&folder, SIZE);
    let running = ACKNOWLEDGE | DRIVER | FEATURES_OK | DRIVER_OK;
    let device = Block::with_queues(&disk(&path, DiskFormat::Raw), QUEUES).unwrap();
    let mut driver = Driver::new(device, 64);
    driver.agree(F_MQ);
    for queue in [0, 2] {
        driver.configure(queue);
    }
    driver.write(STATUS, running);
    for queue in [2, 0] {
        // Nobody looks at the queue that is not there.
        driver.kick(1);
        begin(&mut driver, queue, IN, 0, 512);
        assert_eq!(end(&mut driver, queue), OK);
    }
    driver.reset();
    driver.agree(F_MQ);
    driver.configure(1);
    driver.write(STATUS, running);
    assert_eq!(driver.status(), running | DEVICE_NEEDS_RESET);
}

#[test]
fn broken_queue_does_not_stop_the_others_until_the_reset() {
    let folder = tempfile::tempdir().unwrap();
    let path = sparse(&folder, SIZE);
    let mut driver = started(&path, DiskFormat::Raw);
    driver.set_avail_index(driver.queues[1].avail, 1000);
    driver.kick(1);
    driver.wait_broken();
    begin(&mut driver, 2, IN, 0, 512);
    assert_eq!(end(&mut driver, 2), OK);
    driver.reset();
    driver.start(F_FLUSH | F_MQ);
    for queue in 0..QUEUES {
        begin(&mut driver, queue, IN, 0, 512);
        assert_eq!(end(&mut driver, queue), OK);
    }
}

#[test]
fn reset_with_all_queues_at_work_is_clean() {
    let folder = tempfile::tempdir().unwrap();
    let path = sparse(&folder, SIZE);
    let mut driver = started(&path, DiskFormat::Raw);
    for round in 1..20u8 {
        for queue in 0..QUEUES {
            driver.put(places(queue).2, &[round; 0x1_0000]);
            for _ in 0..10 {
                begin(&mut driver, queue, OUT, queue as u64 * 128, 0x1_0000);
            }
        }
        driver.reset();
        // Nobody works on the rings or the buffers any more.
        let used = |driver: &Driver, queue: usize| driver.get(driver.queues[queue].used, 500);
        let before: Vec<_> = (0..QUEUES).map(|queue| used(&driver, queue)).collect();
        for queue in 0..QUEUES {
            driver.put(places(queue).2, &[0xfe; 0x1_0000]);
        }
        assert!(!std::fs::read(&path).unwrap().contains(&0xfe));
        assert!((0..QUEUES).all(|queue| used(&driver, queue) == before[queue]));
        driver.start(F_FLUSH | F_MQ);
    }
}
