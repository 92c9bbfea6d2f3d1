//! The work on a queue allocates nothing: counted by the allocator of this process while the driver
//! only looks at memory. One test, so that nobody else allocates meanwhile.
#![allow(unsafe_code)]

#[allow(dead_code)]
#[path = "hostile/driver.rs"]
mod driver;

use std::alloc::{GlobalAlloc, Layout, System};
use std::io::{self, Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use driver::*;
use rvm::vmm::virtio::balloon::Balloon;
use rvm::vmm::virtio::block::Block;
use rvm::vmm::virtio::console::Console;
use rvm::vmm::virtio::net::Net;
use rvm::vmm::virtio::rng::Rng;
use rvm::vmm::virtio::vsock::Vsock;
use rvm::vmm::{Disk, DiskFormat, NetBackend, VsockPort, VsockService};
use vm_memory::{Bytes, GuestAddress};

struct Counting;

static ALLOCATIONS: AtomicU64 = AtomicU64::new(0);

// SAFETY: every call goes to the system's allocator unchanged.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.fetch_add(1, Ordering::SeqCst);
        // SAFETY: the caller keeps the contract of `alloc`.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, memory: *mut u8, layout: Layout) {
        // SAFETY: the caller keeps the contract of `dealloc`.
        unsafe { System.dealloc(memory, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Offers `heads` together, 100 times, with `feed` before each; what is allocated until the last is
/// back, the first 10 rounds apart.
fn allocations(driver: &mut Driver, queue: usize, heads: &[u16], mut feed: impl FnMut()) -> u64 {
    let index = GuestAddress(driver.queues[queue].used + 2);
    let deadline = Instant::now() + Duration::from_secs(20);
    let base: u16 = driver.mem.load(index, Ordering::Acquire).unwrap();
    let mut before = 0;
    for round in 0..100 {
        if round == 10 {
            before = ALLOCATIONS.load(Ordering::SeqCst);
        }
        for &head in heads {
            driver.offer(queue, head);
        }
        driver.kick(queue);
        feed();
        let wanted = base + (round + 1) * heads.len() as u16;
        while driver.mem.load::<u16>(index, Ordering::Acquire).unwrap() != wanted {
            assert!(Instant::now() < deadline, "not all of {wanted} came back");
            std::thread::yield_now();
        }
    }
    ALLOCATIONS.load(Ordering::SeqCst) - before
}

fn block() -> u64 {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("disk.raw");
    std::fs::write(&path, vec![7; 1 << 20]).unwrap();
    let disk = Disk { path, format: DiskFormat::Raw, read_only: false, serial: String::new() };
    let mut driver = Driver::started(Block::open(&disk).unwrap(), 64, 1 << 9);
    // Read, write, flush, serial.
    let mut heads = Vec::new();
    for kind in [0u32, 1, 4, 8] {
        let header = DATA + u64::from(kind) * 64;
        driver.put(header, &kind.to_le_bytes());
        driver.put(header + 4, &[0; 12]);
        let piece = |at: u64| Buf { addr: HIGH_START + at * 8192, len: 4096, write: kind != 1 };
        let pieces = if kind == 4 { 0 } else { 8 };
        let mut bufs = vec![readable(header, 16)];
        bufs.extend((0..pieces).map(piece));
        bufs.push(writable(header + 32, 1));
        heads.push(driver.chain(0, &bufs));
    }
    let count = allocations(&mut driver, 0, &heads, || {});
    for kind in [0u64, 1, 4, 8] {
        assert_eq!(driver.get(DATA + kind * 64 + 32, 1), [0], "status of {kind}");
    }
    count
}

fn rng() -> u64 {
    let mut driver = Driver::started(Rng::new(), 64, 0);
    let heads = [driver.chain(0, &[writable(DATA, 9000)])];
    allocations(&mut driver, 0, &heads, || {})
}

fn balloon() -> u64 {
    let mut driver = Driver::started(Balloon::new(8 << 20).unwrap(), 64, 0);
    let numbers: Vec<u8> = (512..768u32).rev().flat_map(u32::to_le_bytes).collect();
    driver.put(DATA, &numbers);
    let heads = [driver.chain(0, &[readable(DATA, numbers.len() as u32)])];
    allocations(&mut driver, 0, &heads, || {})
}

fn console() -> u64 {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("console.sock");
    let console = Console::new(UnixListener::bind(&path).unwrap()).unwrap();
    let _reader = UnixStream::connect(&path).unwrap();
    let mut driver = Driver::started(console, 64, 0);
    let heads: Vec<_> = (0..30).map(|_| driver.chain(1, &[readable(DATA, 1000)])).collect();
    allocations(&mut driver, 1, &heads, || {})
}

fn net() -> (u64, u64) {
    let (ours, mut peer) = UnixStream::pair().unwrap();
    let mac = [2, 0, 0, 0, 0, 1];
    let card = Net::new(rvm::vmm::Net { mac, backend: NetBackend::Stream(ours.into()) }).unwrap();
    // Checksums are finished by the card.
    let mut driver = Driver::started(card, 64, 1);
    let mut frame = [0x55; 1000];
    frame[6..12].copy_from_slice(&mac);
    driver.put(DATA, &[1, 0, 0, 0, 0, 0, 34, 0, 6, 0, 0, 0]);
    driver.put(DATA + 12, &frame);
    let sent: Vec<_> = (0..30).map(|_| driver.chain(1, &[readable(DATA, 1012)])).collect();
    let received: Vec<_> = (0..30).map(|_| driver.chain(0, &[writable(HIGH_START, 2048)])).collect();
    let mut batch = vec![0; 30 * 1004];
    for framed in batch.chunks_mut(1004) {
        framed[..4].copy_from_slice(&1000u32.to_be_bytes());
        framed[4..].copy_from_slice(&frame);
    }
    let incoming = allocations(&mut driver, 0, &received, || peer.write_all(&batch).unwrap());
    let outgoing = allocations(&mut driver, 1, &sent, || peer.read_exact(&mut batch).unwrap());
    (incoming, outgoing)
}

/// Gives its one socket to the first who connects.
#[derive(Debug)]
struct Once(Option<UnixStream>);

impl VsockService for Once {
    fn connect(&mut self, _: u32) -> io::Result<OwnedFd> {
        self.0.take().map(OwnedFd::from).ok_or(io::ErrorKind::ConnectionRefused.into())
    }
}

fn vsock() -> (u64, u64) {
    const LEN: usize = 1000;
    let (ours, mut peer) = UnixStream::pair().unwrap();
    let port = VsockPort { port: 7, service: Box::new(Once(Some(ours))) };
    let device =
        Vsock::new(rvm::vmm::Vsock { cid: 3, ports: vec![port], listener: None, forwards: vec![] }).unwrap();
    let mut driver = Driver::started(device, 64, 0);
    // From port 9 of the guest to port 7 of the host; the guest has 4 GiB for what comes.
    let packet = |op: u8, len: usize| {
        let mut header = [0; 44];
        (header[0], header[8], header[16], header[20]) = (3, 2, 9, 7);
        header[24..28].copy_from_slice(&(len as u32).to_le_bytes());
        (header[28], header[30]) = (1, op);
        header[36..40].fill(0xff);
        header
    };
    driver.put(DATA, &packet(1, 0));
    driver.transact(1, &[readable(DATA, 44)]);
    assert_eq!(driver.transact(0, &[writable(HIGH_START, 2048)]), 44);
    assert_eq!(driver.get(HIGH_START + 30, 1), [2], "the connection was refused");
    driver.put(DATA, &packet(5, LEN));
    let length = (44 + LEN) as u32;
    let sent: Vec<_> = (0..30).map(|_| driver.chain(1, &[readable(DATA, length)])).collect();
    let received: Vec<_> = (0..30).map(|_| driver.chain(0, &[writable(HIGH_START, length)])).collect();
    let mut batch = vec![0; 30 * LEN];
    let outgoing = allocations(&mut driver, 1, &sent, || peer.read_exact(&mut batch).unwrap());
    let incoming = allocations(&mut driver, 0, &received, || peer.write_all(&batch).unwrap());
    (incoming, outgoing)
}

#[test]
fn work_on_a_queue_allocates_nothing() {
    assert_eq!((block(), rng(), balloon(), console(), net(), vsock()), (0, 0, 0, 0, (0, 0), (0, 0)));
}
