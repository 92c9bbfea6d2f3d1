//! A driver in a few lines, which does as it is told: also what no driver should.

use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rvm::vmm::bus::BusDevice;
use rvm::vmm::virtio::mmio::status::{ACKNOWLEDGE, DEVICE_NEEDS_RESET, DRIVER, DRIVER_OK, FEATURES_OK};
use rvm::vmm::virtio::{MmioTransport, VIRTIO_F_EVENT_IDX, VIRTIO_F_VERSION_1, VirtioDevice};
use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};
use vmm_sys_util::epoll::{ControlOperation, Epoll, EpollEvent, EventSet};
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

/// Register offsets, written down a second time on purpose.
pub const DEVICE_FEATURES: u64 = 0x10;
pub const DEVICE_FEATURES_SEL: u64 = 0x14;
pub const DRIVER_FEATURES: u64 = 0x20;
pub const DRIVER_FEATURES_SEL: u64 = 0x24;
pub const QUEUE_SEL: u64 = 0x30;
pub const QUEUE_SIZE_MAX: u64 = 0x34;
pub const QUEUE_SIZE: u64 = 0x38;
pub const QUEUE_READY: u64 = 0x44;
pub const QUEUE_NOTIFY: u64 = 0x50;
pub const INTERRUPT_STATUS: u64 = 0x60;
pub const INTERRUPT_ACK: u64 = 0x64;
pub const STATUS: u64 = 0x70;
pub const QUEUE_DESC: u64 = 0x80;
pub const QUEUE_DRIVER: u64 = 0x90;
pub const QUEUE_DEVICE: u64 = 0xa0;

/// Descriptor flags.
pub const NEXT: u16 = 1;
pub const WRITE: u16 = 2;
pub const INDIRECT: u16 = 4;

/// Guest memory: 4 MiB at 0, nothing up to 8 MiB, 4 MiB from there.
pub const LOW_END: u64 = 4 << 20;
pub const HIGH_START: u64 = 8 << 20;
pub const HIGH_END: u64 = 12 << 20;
/// Where tests put buffers; the rings are below.
pub const DATA: u64 = 1 << 20;

/// How long anything may take.
const PATIENCE: Duration = Duration::from_secs(20);

pub fn memory() -> GuestMemoryMmap {
    let high = (HIGH_END - HIGH_START) as usize;
    GuestMemoryMmap::from_ranges(&[(GuestAddress(0), LOW_END as usize), (GuestAddress(HIGH_START), high)])
        .unwrap()
}

/// Where the rings of a queue are, as the driver knows it.
#[derive(Clone, Copy, Debug)]
pub struct Queue {
    pub size: u16,
    pub descriptors: u64,
    pub avail: u64,
    pub used: u64,
    pub next_avail: u16,
    pub next_used: u16,
    pub next_descriptor: u16,
}

impl Queue {
    /// A queue at a place of its own.
    pub fn at(index: u64, size: u16) -> Self {
        let base = 0x1_0000 + index * 0x2_0000;
        Self {
            size,
            descriptors: base,
            avail: base + 0x8000,
            used: base + 0x1_0000,
            next_avail: 0,
            next_used: 0,
            next_descriptor: 0,
        }
    }
}

/// A buffer of a chain.
#[derive(Clone, Copy, Debug)]
pub struct Buf {
    pub addr: u64,
    pub len: u32,
    pub write: bool,
}

pub fn readable(addr: u64, len: u32) -> Buf {
    Buf { addr, len, write: false }
}

pub fn writable(addr: u64, len: u32) -> Buf {
    Buf { addr, len, write: true }
}

/// A transport as a driver uses it: by the registers of MMIO, whatever they are called elsewhere.
pub trait Registers {
    fn get(&mut self, register: u64) -> u32;
    fn set(&mut self, register: u64, value: u32);
    /// Asks for the interrupts of a queue and of the configuration.
    fn wire(&mut self, _queue: u16) {}
}

impl Registers for MmioTransport {
    fn get(&mut self, register: u64) -> u32 {
        let mut data = [0xff; 4];
        self.read(register, &mut data);
        u32::from_le_bytes(data)
    }

    fn set(&mut self, register: u64, value: u32) {
        self.write(register, &value.to_le_bytes());
    }
}

/// A driver that kicks one queue without end, on a thread of its own, until it is dropped.
pub struct Storm {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Storm {
    pub fn on(driver: &Driver, queue: usize) -> Self {
        let kick = driver.transport.queue_kicks().unwrap().remove(queue);
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = stop.clone();
        let thread = std::thread::spawn(move || {
            while !stopped.load(Ordering::Relaxed) {
                kick.write(1).unwrap();
            }
        });
        Storm { stop, thread: Some(thread) }
    }
}

impl Drop for Storm {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            thread.join().unwrap();
        }
    }
}

pub struct Driver<T = MmioTransport> {
    pub mem: GuestMemoryMmap,
    pub transport: T,
    /// Kept open, because closed ones wake nobody.
    _events: Vec<EventFd>,
    pub queues: Vec<Queue>,
    kicks: Vec<EventFd>,
    epoll: Epoll,
    event_idx: bool,
}

impl Driver {
    /// Before a device that nobody touched yet; queues of `size`.
    pub fn new(device: impl VirtioDevice + 'static, size: u16) -> Self {
        Self::in_memory(memory(), device, size)
    }

    /// The same, with its rings in `mem`.
    pub fn in_memory(mem: GuestMemoryMmap, device: impl VirtioDevice + 'static, size: u16) -> Self {
        let count = device.queue_max_sizes().len() as u64;
        let irq = EventFd::new(EFD_NONBLOCK).unwrap();
        let transport = MmioTransport::new(Box::new(device), mem.clone(), irq.try_clone().unwrap()).unwrap();
        let kicks = transport.queue_kicks().unwrap();
        let queues = (0..count).map(|index| Queue::at(index, size)).collect();
        Self::assemble(mem, transport, vec![irq], kicks, queues)
    }

    /// One that is set up with `features` besides VERSION_1 and runs.
    pub fn started(device: impl VirtioDevice + 'static, size: u16, features: u64) -> Self {
        let mut driver = Self::new(device, size);
        driver.start(features);
        driver
    }
}

impl<T: Registers> Driver<T> {
    /// Puts one together, which waits for `events`.
    pub fn assemble(
        mem: GuestMemoryMmap,
        transport: T,
        events: Vec<EventFd>,
        kicks: Vec<EventFd>,
        queues: Vec<Queue>,
    ) -> Self {
        let epoll = Epoll::new().unwrap();
        for event in &events {
            let edge = EpollEvent::new(EventSet::IN | EventSet::EDGE_TRIGGERED, 0);
            epoll.ctl(ControlOperation::Add, event.as_raw_fd(), edge).unwrap();
        }
        Self { mem, transport, _events: events, queues, kicks, epoll, event_idx: false }
    }

    pub fn read(&mut self, offset: u64) -> u32 {
        self.transport.get(offset)
    }

    pub fn write(&mut self, offset: u64, value: u32) {
        self.transport.set(offset, value);
    }

    pub fn status(&mut self) -> u32 {
        self.read(STATUS)
    }

    pub fn offered(&mut self) -> u64 {
        self.write(DEVICE_FEATURES_SEL, 0);
        let low = self.read(DEVICE_FEATURES);
        self.write(DEVICE_FEATURES_SEL, 1);
        u64::from(self.read(DEVICE_FEATURES)) << 32 | u64::from(low)
    }

    pub fn choose(&mut self, features: u64) {
        self.write(DRIVER_FEATURES_SEL, 0);
        self.write(DRIVER_FEATURES, features as u32);
        self.write(DRIVER_FEATURES_SEL, 1);
        self.write(DRIVER_FEATURES, (features >> 32) as u32);
    }

    /// Up to FEATURES_OK.
    pub fn agree(&mut self, features: u64) {
        self.write(STATUS, ACKNOWLEDGE);
        self.write(STATUS, ACKNOWLEDGE | DRIVER);
        self.choose(features | VIRTIO_F_VERSION_1);
        self.write(STATUS, ACKNOWLEDGE | DRIVER | FEATURES_OK);
        assert_ne!(self.status() & FEATURES_OK, 0, "features were refused");
    }

    /// Writes the registers of a queue.
    pub fn configure(&mut self, index: usize) {
        let queue = self.queues[index];
        self.write(QUEUE_SEL, index as u32);
        self.write(QUEUE_SIZE, queue.size.into());
        for (register, address) in
            [(QUEUE_DESC, queue.descriptors), (QUEUE_DRIVER, queue.avail), (QUEUE_DEVICE, queue.used)]
        {
            self.write(register, address as u32);
            self.write(register + 4, (address >> 32) as u32);
        }
        self.transport.wire(index as u16);
        self.write(QUEUE_READY, 1);
    }

    pub fn start(&mut self, features: u64) {
        self.agree(features);
        self.event_idx = features & VIRTIO_F_EVENT_IDX != 0;
        for index in 0..self.queues.len() {
            let fresh = Queue::at(index as u64, self.queues[index].size);
            self.queues[index] = fresh;
            self.mem.write_obj(0u32, GuestAddress(fresh.avail)).unwrap();
            self.mem.write_obj(0u32, GuestAddress(fresh.used)).unwrap();
            self.configure(index);
        }
        self.write(STATUS, ACKNOWLEDGE | DRIVER | FEATURES_OK | DRIVER_OK);
        assert_eq!(self.status(), ACKNOWLEDGE | DRIVER | FEATURES_OK | DRIVER_OK);
    }

    pub fn reset(&mut self) {
        self.write(STATUS, 0);
        assert_eq!(self.status(), 0);
    }

    pub fn put(&self, addr: u64, bytes: &[u8]) {
        self.mem.write_slice(bytes, GuestAddress(addr)).unwrap();
    }

    pub fn get(&self, addr: u64, len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        self.mem.read_slice(&mut bytes, GuestAddress(addr)).unwrap();
        bytes
    }

    /// Writes one descriptor of a queue.
    pub fn describe(&self, queue: usize, index: u16, addr: u64, len: u32, flags: u16, next: u16) {
        self.describe_at(self.queues[queue].descriptors, index, addr, len, flags, next);
    }

    pub fn describe_at(&self, table: u64, index: u16, addr: u64, len: u32, flags: u16, next: u16) {
        let at = table + u64::from(index) * 16;
        self.put(at, &addr.to_le_bytes());
        self.put(at + 8, &len.to_le_bytes());
        self.put(at + 12, &flags.to_le_bytes());
        self.put(at + 14, &next.to_le_bytes());
    }

    /// Writes a chain to free descriptors; gives its head. The driver has as many chains in flight
    /// as fit.
    pub fn chain(&mut self, queue: usize, bufs: &[Buf]) -> u16 {
        let size = self.queues[queue].size;
        let head = self.queues[queue].next_descriptor;
        for (at, buf) in bufs.iter().enumerate() {
            let index = (head + at as u16) % size;
            let last = at + 1 == bufs.len();
            let flags = if buf.write { WRITE } else { 0 } | if last { 0 } else { NEXT };
            self.describe(queue, index, buf.addr, buf.len, flags, (index + 1) % size);
        }
        self.queues[queue].next_descriptor = (head + bufs.len() as u16) % size;
        head
    }

    /// Puts a head into the available ring.
    pub fn offer(&mut self, queue: usize, head: u16) {
        let state = &mut self.queues[queue];
        let slot = u64::from(state.next_avail % state.size);
        state.next_avail = state.next_avail.wrapping_add(1);
        let (avail, index) = (state.avail, state.next_avail);
        self.put(avail + 4 + slot * 2, &head.to_le_bytes());
        self.set_avail_index(avail, index);
    }

    pub fn set_avail_index(&self, avail: u64, index: u16) {
        let order = Ordering::Release;
        self.mem.store(index.to_le(), GuestAddress(avail + 2), order).unwrap();
    }

    pub fn kick(&self, queue: usize) {
        self.kicks[queue].write(1).unwrap();
    }

    /// Offers one chain and kicks.
    pub fn submit(&mut self, queue: usize, bufs: &[Buf]) -> u16 {
        let head = self.chain(queue, bufs);
        self.offer(queue, head);
        self.kick(queue);
        head
    }

    /// The next used entry, if there is one. If not, asks for an interrupt when it comes.
    pub fn poll_used(&mut self, queue: usize) -> Option<(u16, u32)> {
        if let Some(entry) = self.take_used(queue) {
            return Some(entry);
        }
        if !self.event_idx {
            return None;
        }
        let state = self.queues[queue];
        let used_event = GuestAddress(state.avail + 4 + 2 * u64::from(state.size));
        let order = Ordering::Release;
        self.mem.store(state.next_used.to_le(), used_event, order).unwrap();
        std::sync::atomic::fence(Ordering::SeqCst);
        self.take_used(queue)
    }

    fn take_used(&mut self, queue: usize) -> Option<(u16, u32)> {
        let state = &mut self.queues[queue];
        let order = Ordering::Acquire;
        let index: u16 = self.mem.load(GuestAddress(state.used + 2), order).unwrap();
        if u16::from_le(index) == state.next_used {
            return None;
        }
        let slot = u64::from(state.next_used % state.size);
        state.next_used = state.next_used.wrapping_add(1);
        let entry: [u32; 2] = self.mem.read_obj(GuestAddress(state.used + 4 + slot * 8)).unwrap();
        Some((u16::try_from(entry[0]).unwrap(), entry[1]))
    }

    /// Waits for the next used entry.
    pub fn used(&mut self, queue: usize) -> (u16, u32) {
        self.wait_for("a used buffer", |driver| driver.poll_used(queue))
    }

    /// Offers one chain, kicks and waits for it to come back; gives the length written.
    pub fn transact(&mut self, queue: usize, bufs: &[Buf]) -> u32 {
        let head = self.submit(queue, bufs);
        let (used, len) = self.used(queue);
        assert_eq!(used, head);
        len
    }

    pub fn wait_broken(&mut self) {
        self.wait_for("DEVICE_NEEDS_RESET", |driver| {
            (driver.status() & DEVICE_NEEDS_RESET != 0).then_some(())
        });
    }

    /// Waits for interrupts until `done` has a value.
    pub fn wait_for<V>(&mut self, what: &str, mut done: impl FnMut(&mut Self) -> Option<V>) -> V {
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(value) = done(self) {
                return value;
            }
            let left = deadline.saturating_duration_since(Instant::now());
            assert!(!left.is_zero(), "no {what}");
            let mut events = [EpollEvent::default()];
            let milliseconds = i32::try_from(left.as_millis()).unwrap();
            match self.epoll.wait(milliseconds, &mut events) {
                Ok(_) => {}
                Err(error) => assert_eq!(error.kind(), std::io::ErrorKind::Interrupted),
            }
        }
    }
}
