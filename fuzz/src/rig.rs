//! What the targets share: a small guest with a driver that mostly does right. One choice in 256
//! is a wrong one, so that the fuzzer comes past the first check and still meets each of them.

use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use libfuzzer_sys::arbitrary::{Result, Unstructured};
use rvm::vmm::virtio::mmio::status::{ACKNOWLEDGE, DEVICE_NEEDS_RESET, DRIVER, DRIVER_OK, FEATURES_OK};
use rvm::vmm::virtio::{VIRTIO_F_INDIRECT_DESC, VIRTIO_F_VERSION_1, VirtioDevice};
use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};

use crate::wires::Wires;

/// Guest memory: 1 MiB at 0, nothing up to 2 MiB, 1 MiB from there.
pub const LOW_END: u64 = 1 << 20;
pub const HIGH_START: u64 = 2 << 20;
pub const HIGH_END: u64 = 3 << 20;

/// The status of a device that works.
const RUNNING: u32 = ACKNOWLEDGE | DRIVER | FEATURES_OK | DRIVER_OK;

/// Descriptor flags.
const NEXT: u16 = 1;
const WRITE: u16 = 2;
const INDIRECT: u16 = 4;

/// How long a device may take with a handful of requests before it counts as stuck.
const PATIENCE: Duration = Duration::from_secs(10);

/// Most descriptors that one buffer is cut into.
const PIECES: u16 = 4;

pub fn memory() -> GuestMemoryMmap {
    let high = (HIGH_END - HIGH_START) as usize;
    GuestMemoryMmap::from_ranges(&[(GuestAddress(0), LOW_END as usize), (GuestAddress(HIGH_START), high)])
        .unwrap()
}

/// True once in 256, and never at the end of the input.
pub fn rarely(u: &mut Unstructured<'_>) -> bool {
    u.arbitrary::<u8>().is_ok_and(|byte| byte == 0xff)
}

/// `good`, rarely any number at all.
pub fn mostly(u: &mut Unstructured<'_>, good: u64) -> u64 {
    if rarely(u) { u.arbitrary().unwrap_or(good) } else { good }
}

/// A folder in memory for the files of this process.
pub fn folder() -> &'static Path {
    static FOLDER: std::sync::OnceLock<tempfile::TempDir> = std::sync::OnceLock::new();
    let make = || tempfile::Builder::new().prefix("rvm-fuzz").tempdir_in("/dev/shm").unwrap();
    FOLDER.get_or_init(make).path()
}

/// A file in [`folder`] with that content.
pub fn file(name: &str, content: &[u8]) -> PathBuf {
    let path = folder().join(name);
    std::fs::write(&path, content).unwrap();
    path
}

/// A buffer of a chain: what the device is to read, or room for it to write.
pub struct Buf {
    bytes: Vec<u8>,
    write: bool,
}

pub fn readable(bytes: impl Into<Vec<u8>>) -> Buf {
    Buf { bytes: bytes.into(), write: false }
}

pub fn writable(len: usize) -> Buf {
    Buf { bytes: vec![0xee; len], write: true }
}

/// Where a queue lies and how far its driver is.
struct Queue {
    size: u16,
    descriptors: u64,
    avail: u64,
    used: u64,
    offered: u16,
    free: u16,
}

/// A device with its driver.
pub struct Rig {
    pub mem: GuestMemoryMmap,
    wires: Wires,
    queues: Vec<Queue>,
    /// What was agreed on.
    features: u64,
    /// Where the next buffer lies.
    brk: u64,
    /// The driver did something wrong: the device may stop, and wrong things may be anywhere.
    dirty: bool,
}

impl Rig {
    /// Sets the device up. `Ok(None)`: it refused what the driver did wrong.
    pub fn start(device: impl VirtioDevice + 'static, u: &mut Unstructured<'_>) -> Result<Option<Self>> {
        Self::start_in(memory(), device, u)
    }

    /// The same in `mem`, which is as large as [`memory`].
    pub fn start_in(
        mem: GuestMemoryMmap,
        device: impl VirtioDevice + 'static,
        u: &mut Unstructured<'_>,
    ) -> Result<Option<Self>> {
        let offered = device.features();
        let sizes: Vec<u16> = device.queue_max_sizes().to_vec();
        let wish = u.arbitrary::<u64>()?;
        // A bit that no device offers says which transport it is.
        let wires = Wires::new(Box::new(device), mem.clone(), wish >> 63 == 1);
        let mut rig = Rig { mem, wires, queues: Vec::new(), features: 0, brk: HIGH_START, dirty: false };
        rig.features = rig.or_wrong(u, offered & wish | VIRTIO_F_VERSION_1);
        rig.wires.set_status(ACKNOWLEDGE);
        rig.wires.set_status(ACKNOWLEDGE | DRIVER);
        rig.wires.set_features(rig.features);
        rig.wires.set_status(ACKNOWLEDGE | DRIVER | FEATURES_OK);
        for (index, max) in (0..).zip(sizes) {
            rig.queue(u, index, max)?;
        }
        rig.wires.set_status(RUNNING);
        let runs = rig.wires.status() == RUNNING;
        assert!(runs || rig.dirty, "a good driver was refused");
        Ok(runs.then_some(rig))
    }

    /// Whether the driver agreed to all of these feature bits.
    pub fn agreed(&self, bits: u64) -> bool {
        self.features & bits == bits
    }

    fn queue(&mut self, u: &mut Unstructured<'_>, index: u16, max: u16) -> Result<()> {
        let good = 1 << u.int_in_range(0..=max.ilog2())?;
        let size = self.or_wrong(u, good) as u16;
        let base = 0x1_0000 + u64::from(index) * 0x1_0000;
        let descriptors = self.or_wrong(u, base);
        let avail = self.or_wrong(u, base + 0x8000);
        let used = self.or_wrong(u, base + 0xc000);
        let ready = self.or_wrong(u, 1) as u32;
        self.wires.set_queue(index, size, [descriptors, avail, used], ready);
        // Flags: whether the driver wants interrupts.
        self.put(avail, &u.int_in_range(0..=1u16)?.to_le_bytes());
        self.queues.push(Queue { size: size.max(1), descriptors, avail, used, offered: 0, free: 0 });
        Ok(())
    }

    /// `good`, rarely any number: then nothing is owed to the driver any more.
    pub fn or_wrong(&mut self, u: &mut Unstructured<'_>, good: u64) -> u64 {
        let value = mostly(u, good);
        self.dirty |= value != good;
        value
    }

    /// Writes guest memory where there is any.
    fn put(&self, addr: u64, bytes: &[u8]) {
        let _ = self.mem.write_slice(bytes, GuestAddress(addr));
    }

    /// Whether the device wants to be reset.
    pub fn is_broken(&mut self) -> bool {
        self.wires.status() & DEVICE_NEEDS_RESET != 0
    }

    /// Builds a chain of `bufs`, each in pieces, and offers it.
    pub fn offer(&mut self, u: &mut Unstructured<'_>, queue: usize, bufs: &[Buf]) -> Result<()> {
        let mut table = Vec::new();
        for buf in bufs {
            self.pieces(u, buf, &mut table)?;
        }
        let size = self.queues[queue].size;
        let too_long = table.len() > usize::from(size);
        let indirect = self.agreed(VIRTIO_F_INDIRECT_DESC) && (too_long || u.ratio(1, 4)?);
        if table.is_empty() || too_long && !indirect {
            return Ok(());
        }
        let base = self.queues[queue].descriptors;
        let head = self.queues[queue].free;
        if indirect {
            let at = self.room(16 * table.len() as u64);
            self.describe(u, at, 0, table.len() as u16, &table)?;
            let len = self.or_wrong(u, 16 * table.len() as u64) as u32;
            let flags = self.or_wrong(u, INDIRECT.into()) as u16;
            self.put(base.wrapping_add(16 * u64::from(head)), &entry(at, len, flags, 0));
        } else {
            self.describe(u, base, head, size, &table)?;
        }
        let taken = if indirect { 1 } else { table.len() as u16 };
        let head = self.or_wrong(u, head.into()) as u16;
        let state = &mut self.queues[queue];
        state.free = (state.free + taken) % size;
        let slot = u64::from(state.offered % size);
        state.offered = state.offered.wrapping_add(1);
        let (avail, offered) = (state.avail, state.offered);
        self.put(avail.wrapping_add(4 + 2 * slot), &head.to_le_bytes());
        let index = self.or_wrong(u, offered.into()) as u16;
        let _ = self.mem.store(index.to_le(), GuestAddress(avail.wrapping_add(2)), Ordering::Release);
        Ok(())
    }

    /// Cuts a buffer, places the pieces and adds their descriptors.
    fn pieces(
        &mut self,
        u: &mut Unstructured<'_>,
        buf: &Buf,
        table: &mut Vec<(u64, u32, u16)>,
    ) -> Result<()> {
        let mut rest: &[u8] = &buf.bytes;
        for left in (0..u.int_in_range(1..=PIECES)?).rev() {
            let cut = if left == 0 { rest.len() } else { u.int_in_range(0..=rest.len())? };
            let (now, later) = rest.split_at(cut);
            let at = self.room(now.len() as u64);
            self.put(at, now);
            let addr = self.or_wrong(u, at);
            let len = self.or_wrong(u, now.len() as u64) as u32;
            let flags = self.or_wrong(u, if buf.write { WRITE } else { 0 }.into()) as u16;
            table.push((addr, len, flags));
            rest = later;
        }
        Ok(())
    }

    /// Writes the descriptors of a chain from `head` on to a table of `entries`.
    fn describe(
        &mut self,
        u: &mut Unstructured<'_>,
        base: u64,
        head: u16,
        entries: u16,
        table: &[(u64, u32, u16)],
    ) -> Result<()> {
        for (at, (addr, len, flags)) in (0..).zip(table) {
            let index = (head + at) % entries;
            let last = usize::from(at) + 1 == table.len();
            let next = self.or_wrong(u, ((index + 1) % entries).into()) as u16;
            let flags = if last { *flags } else { flags | NEXT };
            self.put(base.wrapping_add(16 * u64::from(index)), &entry(*addr, *len, flags, next));
        }
        Ok(())
    }

    /// A place for a buffer; from the beginning again when memory is at its end.
    fn room(&mut self, len: u64) -> u64 {
        if self.brk + len > HIGH_END {
            self.brk = HIGH_START;
        }
        let at = self.brk;
        self.brk += len;
        at
    }

    /// Says that there is something in a queue.
    pub fn kick(&mut self, queue: u32) {
        self.wires.kick(queue);
    }

    /// Waits until a queue's chains are used or the device is broken. Only a driver that did
    /// something wrong may have to go without.
    pub fn settle(&mut self, queue: usize) {
        let begin = Instant::now();
        loop {
            let Queue { used, offered, .. } = self.queues[queue];
            let index = self.mem.load::<u16>(GuestAddress(used.wrapping_add(2)), Ordering::Acquire);
            if index.is_ok_and(|index| u16::from_le(index) == offered) || self.is_broken() {
                return;
            }
            if self.dirty && begin.elapsed() > Duration::from_millis(2) {
                return;
            }
            assert!(begin.elapsed() < PATIENCE, "queue {queue} is stuck");
            std::thread::yield_now();
        }
    }

    /// Resets the device: whatever was done to it, it can be set up again.
    pub fn reset(&mut self) {
        self.wires.set_status(0);
        assert_eq!(self.wires.status(), 0);
    }
}

/// A descriptor as it lies in memory.
pub fn entry(addr: u64, len: u32, flags: u16, next: u16) -> [u8; 16] {
    let mut bytes = [0; 16];
    bytes[..8].copy_from_slice(&addr.to_le_bytes());
    bytes[8..12].copy_from_slice(&len.to_le_bytes());
    bytes[12..14].copy_from_slice(&flags.to_le_bytes());
    bytes[14..].copy_from_slice(&next.to_le_bytes());
    bytes
}
