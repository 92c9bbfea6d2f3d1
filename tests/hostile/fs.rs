//! The file system device, by its registers and queues. What its server makes of requests is tested
//! beside it.

use std::os::unix::fs::MetadataExt;

use rvm::vmm::Share;
use rvm::vmm::virtio::fs::{Budget, Fs, TAG_LEN};
use rvm::vmm::virtio::{VIRTIO_F_EVENT_IDX, VIRTIO_F_INDIRECT_DESC, VirtioDevice};

use crate::driver::*;

const URGENT: usize = 0;
const REQUESTS: usize = 1;
/// Where answers are written to.
const ANSWER: u64 = DATA + 0x10_0000;

const LOOKUP: u32 = 1;
const FORGET: u32 = 2;
const INIT: u32 = 26;
const STATFS: u32 = 17;
const SETATTR: u32 = 4;

fn share(folder: &tempfile::TempDir) -> Share {
    let source = folder.path().into();
    Share { tag: "data".into(), source, hidden: Vec::new(), read_only: false, owner: (1000, 1000) }
}

fn files() -> Budget {
    Budget::of_memory(16 << 20)
}

fn started(folder: &tempfile::TempDir, features: u64) -> Driver {
    let mut driver = Driver::started(Fs::new(&share(folder), &files()).unwrap(), 16, features);
    begin(&mut driver);
    driver
}

fn begin(driver: &mut Driver) {
    let body = [7u32, 31, 1 << 20, u32::MAX].map(u32::to_le_bytes).concat();
    assert_eq!(request(driver, REQUESTS, INIT, 0, &body), Ok(64));
}

/// Sends one request; gives the number of bytes behind the header of the answer, or the error.
fn request(driver: &mut Driver, queue: usize, opcode: u32, node: u64, body: &[u8]) -> Result<u32, i32> {
    let mut bytes = ((40 + body.len()) as u32).to_le_bytes().to_vec();
    bytes.extend(opcode.to_le_bytes());
    bytes.extend(5u64.to_le_bytes());
    bytes.extend(node.to_le_bytes());
    bytes.extend([0; 16]);
    bytes.extend(body);
    driver.put(DATA, &bytes);
    // In pieces, as no driver would cut them.
    let (head, tail) = (7, bytes.len() as u32 - 7);
    let pieces =
        [readable(DATA, head), readable(DATA + 7, tail), writable(ANSWER, 5), writable(ANSWER + 5, 4096)];
    let written = driver.transact(queue, &pieces);
    if written == 0 {
        return Ok(0);
    }
    let header = driver.get(ANSWER, 16);
    let word = |at: usize| u32::from_le_bytes(header[at..at + 4].try_into().unwrap());
    assert_eq!((word(0), word(8)), (written, 5));
    match word(4) {
        0 => Ok(written - 16),
        error => Err(-error.cast_signed()),
    }
}

/// Number of a file of the shared folder, as the guest is told it.
fn node_of(driver: &mut Driver, queue: usize, name: &[u8]) -> u64 {
    assert_eq!(request(driver, queue, LOOKUP, 1, name), Ok(128));
    u64::from_le_bytes(driver.get(ANSWER + 16, 8).try_into().unwrap())
}

#[test]
fn a_tag_is_shown_and_a_wrong_one_refused() {
    let folder = tempfile::tempdir().unwrap();
    let device = Fs::new(&share(&folder), &files()).unwrap();
    let mut config = [0xff; 48];
    device.read_config(0, &mut config);
    assert_eq!(&config[..5], b"data\0");
    assert_eq!(config[TAG_LEN..], [1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
    for tag in [String::new(), "a\0b".into(), "x".repeat(TAG_LEN + 1)] {
        assert!(Fs::new(&Share { tag, ..share(&folder) }, &files()).is_err());
    }
    let longest = Share { tag: "x".repeat(TAG_LEN), ..share(&folder) };
    Fs::new(&longest, &files()).unwrap();
    let error = Fs::new(&Share { source: "/no/such/folder".into(), ..share(&folder) }, &files()).unwrap_err();
    assert!(error.to_string().contains("/no/such/folder"), "{error}");
}

#[test]
fn both_queues_serve_with_and_without_indirect_tables_and_event_indexes() {
    for features in [0, VIRTIO_F_EVENT_IDX, VIRTIO_F_INDIRECT_DESC | VIRTIO_F_EVENT_IDX] {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("file"), "f").unwrap();
        let mut driver = started(&folder, features);
        for _ in 0..100 {
            for queue in [URGENT, REQUESTS] {
                let node = node_of(&mut driver, queue, b"file\0");
                assert_eq!(request(&mut driver, queue, LOOKUP, 1, b"none\0"), Err(libc::ENOENT));
                assert_eq!(request(&mut driver, queue, STATFS, 1, &[]), Ok(80));
                assert_eq!(request(&mut driver, queue, FORGET, node, &1u64.to_le_bytes()), Ok(0));
            }
        }
    }
}

#[test]
fn chains_that_are_no_requests_come_back_as_they_are() {
    let folder = tempfile::tempdir().unwrap();
    let mut driver = started(&folder, 0);
    for queue in [URGENT, REQUESTS] {
        assert_eq!(driver.transact(queue, &[readable(DATA, 39), writable(ANSWER, 100)]), 0);
        assert_eq!(driver.transact(queue, &[writable(ANSWER, 100)]), 0);
        assert_eq!(driver.transact(queue, &[readable(DATA, 0)]), 0);
        assert_eq!(driver.transact(queue, &[readable(DATA, 1 << 20)]), 0);
    }
    assert_eq!(request(&mut driver, REQUESTS, STATFS, 1, &[]), Ok(80));
}

#[test]
fn driver_that_breaks_a_queue_needs_a_reset_and_the_share_lives() {
    let folder = tempfile::tempdir().unwrap();
    let mut driver = started(&folder, 0);
    for queue in [URGENT, REQUESTS] {
        let bad: [&[Buf]; 3] = [
            &[readable(LOW_END - 8, 40)],
            &[writable(DATA, 100), readable(DATA, 40)],
            &[readable(DATA, 1 << 20), writable(HIGH_START, 1 << 20)],
        ];
        for pieces in bad {
            driver.submit(queue, pieces);
            driver.wait_broken();
            driver.reset();
            driver.start(0);
            // Nothing is known of what was before.
            assert_eq!(request(&mut driver, REQUESTS, STATFS, 1, &[]), Err(libc::EIO));
            begin(&mut driver);
        }
        let avail = driver.queues[queue].avail;
        driver.set_avail_index(avail, 1000);
        driver.kick(queue);
        driver.wait_broken();
        driver.reset();
        driver.start(0);
        begin(&mut driver);
    }
    assert_eq!(request(&mut driver, REQUESTS, STATFS, 1, &[]), Ok(80));
}

#[test]
fn both_queues_have_to_be_ready() {
    let folder = tempfile::tempdir().unwrap();
    let mut driver = Driver::new(Fs::new(&share(&folder), &files()).unwrap(), 16);
    driver.agree(0);
    driver.configure(REQUESTS);
    driver.write(STATUS, 15);
    driver.wait_broken();
}

#[test]
fn kicks_for_ever_do_not_keep_a_share_from_being_reset() {
    let folder = tempfile::tempdir().unwrap();
    let mut driver = started(&folder, 0);
    let storms = [Storm::on(&driver, URGENT), Storm::on(&driver, REQUESTS)];
    for _ in 0..20 {
        driver.reset();
        driver.start(0);
        begin(&mut driver);
    }
    drop(storms);
    assert_eq!(request(&mut driver, REQUESTS, STATFS, 1, &[]), Ok(80));
}

/// A driver that goes away in the middle of everything leaves nothing open.
#[test]
fn a_reset_closes_what_the_guest_had_open() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("file"), "f").unwrap();
    let mut driver = started(&folder, 0);
    const OPEN: u32 = 14;
    let held = |folder: &tempfile::TempDir| {
        let inode = std::fs::metadata(folder.path().join("file")).unwrap().ino();
        let links = std::fs::read_dir("/proc/self/fd").unwrap();
        links
            .filter_map(|link| std::fs::metadata(link.ok()?.path()).ok())
            .filter(|meta| meta.ino() == inode)
            .count()
    };
    let node = node_of(&mut driver, REQUESTS, b"file\0");
    for _ in 0..5 {
        assert_eq!(request(&mut driver, REQUESTS, OPEN, node, &[0; 8]), Ok(16));
    }
    assert_eq!(held(&folder), 5);
    driver.reset();
    assert_eq!(held(&folder), 0);
}

#[test]
fn requests_that_lie_about_their_length_touch_nothing() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("file"), "f").unwrap();
    let mut driver = started(&folder, 0);
    let node = node_of(&mut driver, REQUESTS, b"file\0");
    // Too short for what it is: the size that follows would be what lies behind it in memory.
    let truncate = [8u32, 0].map(u32::to_le_bytes).concat();
    assert_eq!(request(&mut driver, REQUESTS, SETATTR, node, &truncate), Err(libc::EINVAL));
    assert_eq!(std::fs::read(folder.path().join("file")).unwrap(), b"f");
}
