//! The block device: what is acknowledged is in stable storage, and a request that is long can be
//! stopped.
#![allow(unsafe_code)]

use std::fs::File;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use rvm::vmm::DiskFormat;
use rvm::vmm::virtio::VIRTIO_F_INDIRECT_DESC;
use rvm::vmm::virtio::block::Block;
use seccompiler::{BpfProgram, SeccompAction, SeccompFilter, TargetArch};
use tempfile::TempDir;

use crate::block::{DISCARD, FLUSH, IN, IOERR, OK, OUT, UNTOUCHED, disk, range, raw_file, request};
use crate::block_images::chain_of_images;
use crate::driver::*;

const F_FLUSH: u64 = 1 << 9;
const F_RO: u64 = 1 << 5;
const BUFFER: u64 = DATA + 0x1000;

/// Calls of `fdatasync` and `fsync` by threads that are watched.
static SYNCS: AtomicU32 = AtomicU32::new(0);
/// Whether they fail.
static FAIL: AtomicBool = AtomicBool::new(false);
/// There is one count.
static ONE: Mutex<()> = Mutex::new(());

/// In the place of a sync: counts it.
extern "C" fn count(_: libc::c_int, _: *mut libc::siginfo_t, context: *mut libc::c_void) {
    SYNCS.fetch_add(1, Ordering::SeqCst);
    let result = if FAIL.load(Ordering::SeqCst) { -i64::from(libc::EIO) } else { 0 };
    let context = context.cast::<libc::ucontext_t>();
    // SAFETY: the kernel passes the context of the thread, and takes its registers from there.
    unsafe { (*context).uc_mcontext.gregs[libc::REG_RAX as usize] = result };
}

/// The syncs of this thread and those that it starts.
struct Syncs(#[allow(dead_code)] MutexGuard<'static, ()>);

impl Syncs {
    /// Watches them from now on, which only the end of the thread ends.
    fn watch() -> Self {
        let one = ONE.lock().unwrap_or_else(PoisonError::into_inner);
        FAIL.store(false, Ordering::SeqCst);
        // SAFETY: all-zero bytes are a valid `sigaction`.
        let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
        action.sa_sigaction = count as *const () as usize;
        action.sa_flags = libc::SA_SIGINFO;
        // SAFETY: the handler does nothing that a handler may not.
        assert_eq!(unsafe { libc::sigaction(libc::SIGSYS, &action, std::ptr::null_mut()) }, 0);
        let calls = [libc::SYS_fdatasync, libc::SYS_fsync].map(|call| (call, vec![])).into();
        let (others, these) = (SeccompAction::Allow, SeccompAction::Trap);
        let filter = SeccompFilter::new(calls, others, these, TargetArch::x86_64).unwrap();
        seccompiler::apply_filter(&BpfProgram::try_from(filter).unwrap()).unwrap();
        Self(one)
    }

    /// How many there were since the last look.
    fn seen(&self) -> u32 {
        SYNCS.swap(0, Ordering::SeqCst)
    }

    fn fail(&self) {
        FAIL.store(true, Ordering::SeqCst);
    }
}

/// A disk of each format.
fn disks(folder: &TempDir) -> [rvm::vmm::Disk; 2] {
    let (overlay, backing) = chain_of_images(folder, 1 << 20);
    let format = DiskFormat::Qcow2 { backing: Some(backing) };
    [disk(&raw_file(folder), DiskFormat::Raw), disk(&overlay, format)]
}

#[test]
fn a_flush_is_one_sync_and_a_write_is_none() {
    let (syncs, folder) = (Syncs::watch(), tempfile::tempdir().unwrap());
    for disk in disks(&folder) {
        let mut driver = Driver::started(Block::open(&disk).unwrap(), 64, F_FLUSH);
        assert_eq!(syncs.seen(), 0);
        for _ in 0..3 {
            assert_eq!(request(&mut driver, OUT, 3, &[readable(BUFFER, 512)]), (OK, 1));
        }
        assert_eq!(request(&mut driver, IN, 3, &[writable(BUFFER, 512)]), (OK, 513));
        assert_eq!(syncs.seen(), 0, "{disk:?}");
        for _ in 0..3 {
            assert_eq!(request(&mut driver, FLUSH, 0, &[]), (OK, 1));
            assert_eq!(syncs.seen(), 1, "{disk:?}");
        }
        // One that carries data is none.
        assert_eq!(request(&mut driver, FLUSH, 0, &[readable(BUFFER, 512)]), (IOERR, 1));
        assert_eq!(syncs.seen(), 0);
    }
}

#[test]
fn without_the_feature_each_change_is_a_sync() {
    let (syncs, folder) = (Syncs::watch(), tempfile::tempdir().unwrap());
    for disk in disks(&folder) {
        let mut driver = Driver::started(Block::open(&disk).unwrap(), 64, 0);
        for _ in 0..3 {
            assert_eq!(request(&mut driver, OUT, 3, &[readable(BUFFER, 1024)]), (OK, 1));
            assert_eq!(syncs.seen(), 1, "{disk:?}");
        }
        let list = range(&driver, &[(0, 8, 0), (16, 8, 0)]);
        assert_eq!(request(&mut driver, DISCARD, 0, &[list]), (OK, 1));
        assert_eq!(syncs.seen(), 1, "{disk:?}");
        assert_eq!(request(&mut driver, IN, 3, &[writable(BUFFER, 512)]), (OK, 513));
        assert_eq!(request(&mut driver, OUT, 1 << 30, &[readable(BUFFER, 512)]), (IOERR, 1));
        assert_eq!(syncs.seen(), 0, "{disk:?}");
    }
}

#[test]
fn a_sync_that_fails_is_an_error_of_the_request() {
    let (syncs, folder) = (Syncs::watch(), tempfile::tempdir().unwrap());
    syncs.fail();
    for disk in disks(&folder) {
        let mut driver = Driver::started(Block::open(&disk).unwrap(), 64, F_FLUSH);
        assert_eq!(request(&mut driver, OUT, 3, &[readable(BUFFER, 512)]), (OK, 1));
        assert_eq!(request(&mut driver, FLUSH, 0, &[]), (IOERR, 1), "{disk:?}");
        driver.reset();
        driver.start(0);
        assert_eq!(request(&mut driver, OUT, 3, &[readable(BUFFER, 512)]), (IOERR, 1), "{disk:?}");
        assert_eq!(request(&mut driver, IN, 3, &[writable(BUFFER, 512)]), (OK, 513));
    }
    assert_eq!(syncs.seen(), 4);
}

#[test]
fn a_read_only_disk_needs_no_sync() {
    let (syncs, folder) = (Syncs::watch(), tempfile::tempdir().unwrap());
    for disk in disks(&folder) {
        let disk = rvm::vmm::Disk { read_only: true, ..disk };
        let mut driver = Driver::started(Block::open(&disk).unwrap(), 64, F_FLUSH | F_RO);
        assert_eq!(request(&mut driver, FLUSH, 0, &[]), (OK, 1));
    }
    assert_eq!(syncs.seen(), 0);
}

/// The longest request there is, of 254 pieces of 4 MiB, and as many of them as there is room for.
#[test]
fn a_reset_does_not_wait_for_long_requests() {
    const PIECE: u32 = 4 << 20;
    const PIECES: u32 = 254;
    const REQUESTS: u64 = 4;
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("sparse.raw");
    File::create(&path).unwrap().set_len(u64::from(PIECE) * u64::from(PIECES)).unwrap();
    let device = Block::open(&disk(&path, DiskFormat::Raw)).unwrap();
    let mut driver = Driver::new(device, 256);
    // One that was done before the reset came shows nothing; a device that looks up in between is caught
    // in the middle sooner or later.
    for _ in 0..20 {
        driver.start(VIRTIO_F_INDIRECT_DESC);
        driver.put(HIGH_START, &[0xff]);
        for at in 0..REQUESTS {
            let place = DATA + at * 0x4000;
            let (header, status, table) = (place, place + 0x10, place + 0x1000);
            driver.put(header, &[0; 16]);
            driver.put(status, &[UNTOUCHED]);
            driver.describe_at(table, 0, header, 16, NEXT, 1);
            for piece in 1..=PIECES as u16 {
                driver.describe_at(table, piece, HIGH_START, PIECE, NEXT | WRITE, piece + 1);
            }
            driver.describe_at(table, PIECES as u16 + 1, status, 1, WRITE, 0);
            driver.describe(0, at as u16, table, (PIECES + 2) * 16, INDIRECT, 0);
            driver.offer(0, at as u16);
        }
        driver.kick(0);
        let deadline = Instant::now() + Duration::from_secs(20);
        while driver.get(HIGH_START, 1) == [0xff] {
            assert!(Instant::now() < deadline, "the first request does not begin");
            std::thread::yield_now();
        }
        driver.reset();
        let status = |at: u64| driver.get(DATA + at * 0x4000 + 0x10, 1)[0];
        let all: Vec<u8> = (0..REQUESTS).map(status).collect();
        let cut = all.iter().position(|&status| status != OK);
        if let Some(cut) = cut.filter(|&cut| all[cut] == IOERR) {
            assert!(all[cut + 1..].iter().all(|&status| status == UNTOUCHED), "{all:?}");
            return;
        }
    }
    panic!("no request was ever cut short");
}
