//! The memory-mapped transport (virtio 1.2, section 4.2, register layout version 2).
//!
//! Every register is 32 bits wide and takes nothing else: an access of another width or alignment
//! reads zero and writes nothing. The device configuration behind them takes any width.

use std::io;

use vm_memory::GuestMemoryMmap;
use vmm_sys_util::eventfd::EventFd;

use super::device::{Activation, Interrupt, VirtioDevice};
use super::queue::QueueConfig;
use super::{Error, VIRTIO_F_VERSION_1, error_text, new_event};
use crate::vmm::bus::BusDevice;

/// "virt", little-endian.
const MAGIC: u32 = 0x7472_6976;
/// Register layout of virtio 1.0 and later.
const VERSION: u32 = 2;
/// "rvm", little-endian: the subsystem vendor, which drivers only print.
const VENDOR: u32 = 0x006d_7672;
/// Where the device configuration begins.
const CONFIG: u64 = 0x100;
/// Lengths and addresses of shared memory that is not there (section 4.2.2.2).
const NO_SHARED_MEMORY: u32 = u32::MAX;

/// Register offsets (virtio 1.2, table 4.1).
mod reg {
    pub(super) const MAGIC_VALUE: u64 = 0x000;
    pub(super) const VERSION: u64 = 0x004;
    pub(super) const DEVICE_ID: u64 = 0x008;
    pub(super) const VENDOR_ID: u64 = 0x00c;
    pub(super) const DEVICE_FEATURES: u64 = 0x010;
    pub(super) const DEVICE_FEATURES_SEL: u64 = 0x014;
    pub(super) const DRIVER_FEATURES: u64 = 0x020;
    pub(super) const DRIVER_FEATURES_SEL: u64 = 0x024;
    pub(super) const QUEUE_SEL: u64 = 0x030;
    pub(super) const QUEUE_SIZE_MAX: u64 = 0x034;
    pub(super) const QUEUE_SIZE: u64 = 0x038;
    pub(super) const QUEUE_READY: u64 = 0x044;
    pub(super) const QUEUE_NOTIFY: u64 = 0x050;
    pub(super) const INTERRUPT_STATUS: u64 = 0x060;
    pub(super) const INTERRUPT_ACK: u64 = 0x064;
    pub(super) const STATUS: u64 = 0x070;
    pub(super) const QUEUE_DESC_LOW: u64 = 0x080;
    pub(super) const QUEUE_DESC_HIGH: u64 = 0x084;
    pub(super) const QUEUE_DRIVER_LOW: u64 = 0x090;
    pub(super) const QUEUE_DRIVER_HIGH: u64 = 0x094;
    pub(super) const QUEUE_DEVICE_LOW: u64 = 0x0a0;
    pub(super) const QUEUE_DEVICE_HIGH: u64 = 0x0a4;
    pub(super) const SHM_LEN_LOW: u64 = 0x0b0;
    pub(super) const SHM_BASE_HIGH: u64 = 0x0bc;
    pub(super) const CONFIG_GENERATION: u64 = 0x0fc;
}

/// Device status bits (virtio 1.2, section 2.1).
pub mod status {
    /// The guest noticed the device.
    pub const ACKNOWLEDGE: u32 = 1;
    /// The guest has a driver for it.
    pub const DRIVER: u32 = 2;
    /// The driver is ready.
    pub const DRIVER_OK: u32 = 4;
    /// Features are agreed on.
    pub const FEATURES_OK: u32 = 8;
    /// The device needs to be reset.
    pub const DEVICE_NEEDS_RESET: u32 = 64;
    /// The driver gave up.
    pub const FAILED: u32 = 128;
}

/// One virtio device behind memory-mapped registers.
pub struct MmioTransport {
    device: Box<dyn VirtioDevice>,
    mem: GuestMemoryMmap,
    interrupt: Interrupt,
    queues: Vec<QueueConfig>,
    kicks: Vec<EventFd>,
    status: u32,
    driver_features: u64,
    device_features_sel: u32,
    driver_features_sel: u32,
    queue_sel: u32,
}

impl MmioTransport {
    /// Puts registers before `device`, whose rings live in `mem` and which interrupts through `irq`.
    ///
    /// # Errors
    /// [`Error::EventFd`] when the descriptors for the queues' kicks cannot be had.
    pub fn new(device: Box<dyn VirtioDevice>, mem: GuestMemoryMmap, irq: EventFd) -> Result<Self, Error> {
        let kicks = device
            .queue_max_sizes()
            .iter()
            .map(|_| new_event())
            .collect::<io::Result<Vec<_>>>()
            .map_err(Error::EventFd)?;
        let queues = fresh_queues(device.as_ref());
        Ok(Self {
            device,
            mem,
            interrupt: Interrupt::new(irq),
            queues,
            kicks,
            status: 0,
            driver_features: 0,
            device_features_sel: 0,
            driver_features_sel: 0,
            queue_sel: 0,
        })
    }

    /// Descriptors of the queues' kick events, by queue number: what is to be signalled when the
    /// guest writes that number to offset 0x50.
    ///
    /// # Errors
    /// When a descriptor cannot be duplicated.
    pub fn queue_kicks(&self) -> io::Result<Vec<EventFd>> {
        self.kicks.iter().map(EventFd::try_clone).collect()
    }

    /// What the driver reads as the device status.
    pub fn status(&self) -> u32 {
        let broken = if self.interrupt.is_broken() { status::DEVICE_NEEDS_RESET } else { 0 };
        self.status | broken
    }

    fn read_register(&self, offset: u64) -> u32 {
        let queue = self.selected();
        match offset {
            reg::MAGIC_VALUE => MAGIC,
            reg::VERSION => VERSION,
            reg::DEVICE_ID => self.device.device_id(),
            reg::VENDOR_ID => VENDOR,
            reg::DEVICE_FEATURES => half(self.device.features(), self.device_features_sel),
            reg::QUEUE_SIZE_MAX => queue.map_or(0, |queue| u32::from(queue.max_size)),
            reg::QUEUE_READY => queue.map_or(0, |queue| u32::from(queue.ready)),
            reg::INTERRUPT_STATUS => self.interrupt.status(),
            reg::STATUS => self.status(),
            reg::SHM_LEN_LOW..=reg::SHM_BASE_HIGH => NO_SHARED_MEMORY,
            reg::CONFIG_GENERATION => self.interrupt.generation(),
            _ => 0,
        }
    }

    fn write_register(&mut self, offset: u64, value: u32) {
        match offset {
            reg::DEVICE_FEATURES_SEL => self.device_features_sel = value,
            reg::DRIVER_FEATURES => self.write_features(value),
            reg::DRIVER_FEATURES_SEL => self.driver_features_sel = value,
            reg::QUEUE_SEL => self.queue_sel = value,
            reg::QUEUE_NOTIFY => self.kick(value),
            reg::INTERRUPT_ACK => self.interrupt.acknowledge(value),
            reg::STATUS => self.write_status(value),
            reg::QUEUE_SIZE | reg::QUEUE_READY | reg::QUEUE_DESC_LOW..=reg::QUEUE_DEVICE_HIGH => {
                self.write_queue(offset, value);
            }
            _ => {}
        }
    }

    fn selected(&self) -> Option<&QueueConfig> {
        self.queues.get(usize::try_from(self.queue_sel).ok()?)
    }

    /// The driver may choose features between DRIVER and FEATURES_OK only.
    fn write_features(&mut self, value: u32) {
        if self.status != status::ACKNOWLEDGE | status::DRIVER {
            return;
        }
        let (shift, mask) = match self.driver_features_sel {
            0 => (0, u64::from(u32::MAX)),
            1 => (32, u64::from(u32::MAX) << 32),
            _ => return,
        };
        self.driver_features = self.driver_features & !mask | u64::from(value) << shift;
    }

    /// Queues are set up between FEATURES_OK and DRIVER_OK, each until it is ready; then they are
    /// frozen until the reset.
    fn write_queue(&mut self, offset: u64, value: u32) {
        if self.status != status::ACKNOWLEDGE | status::DRIVER | status::FEATURES_OK {
            return;
        }
        let Some(queue) = usize::try_from(self.queue_sel).ok().and_then(|index| self.queues.get_mut(index))
        else {
            return;
        };
        match (offset, value) {
            (reg::QUEUE_READY, 0) => queue.ready = false,
            (reg::QUEUE_READY, 1) => queue.ready = true,
            _ if queue.ready => {}
            (reg::QUEUE_SIZE, _) => queue.size = value,
            (reg::QUEUE_DESC_LOW, _) => set_low(&mut queue.descriptors, value),
            (reg::QUEUE_DESC_HIGH, _) => set_high(&mut queue.descriptors, value),
            (reg::QUEUE_DRIVER_LOW, _) => set_low(&mut queue.avail, value),
            (reg::QUEUE_DRIVER_HIGH, _) => set_high(&mut queue.avail, value),
            (reg::QUEUE_DEVICE_LOW, _) => set_low(&mut queue.used, value),
            (reg::QUEUE_DEVICE_HIGH, _) => set_high(&mut queue.used, value),
            _ => {}
        }
    }

    /// A kick that did not go through an ioeventfd.
    fn kick(&self, queue: u32) {
        if self.status & status::DRIVER_OK == 0 {
            return;
        }
        if let Some(kick) = usize::try_from(queue).ok().and_then(|index| self.kicks.get(index)) {
            // A write fails only when the counter is full, and then a kick is pending anyway.
            let _ = kick.write(1);
        }
    }

    /// One step forward in the order of section 3.1.1, or a reset; anything else keeps the state.
    fn write_status(&mut self, value: u32) {
        use status::{ACKNOWLEDGE, DEVICE_NEEDS_RESET, DRIVER, DRIVER_OK, FAILED, FEATURES_OK};
        if value == 0 {
            return self.reset();
        }
        // The driver writes back what it read, and that bit is the device's.
        let value = value & !DEVICE_NEEDS_RESET;
        if self.status & FAILED != 0 || value & self.status != self.status {
            return;
        }
        if value == self.status | FAILED {
            self.status = value;
            return;
        }
        const KNOWN: u32 = ACKNOWLEDGE | DRIVER;
        const AGREED: u32 = KNOWN | FEATURES_OK;
        const RUNNING: u32 = AGREED | DRIVER_OK;
        match (self.status, value) {
            // Some firmware drivers take the first two steps at once.
            (0, ACKNOWLEDGE) | (0 | ACKNOWLEDGE, KNOWN) => self.status = value,
            (KNOWN, AGREED) if self.features_agree() => self.status = value,
            (AGREED, RUNNING) => {
                self.status = value;
                self.activate();
            }
            _ => {}
        }
    }

    fn features_agree(&self) -> bool {
        let unoffered = self.driver_features & !self.device.features();
        unoffered == 0 && self.driver_features & VIRTIO_F_VERSION_1 != 0
    }

    fn activate(&mut self) {
        if let Err(error) = self.try_activate() {
            tracing::warn!(device = self.device.device_id(), error = %error_text(&error),
                "virtio device not started");
            self.interrupt.needs_reset();
        }
    }

    fn try_activate(&mut self) -> Result<(), Error> {
        let mut queues = Vec::with_capacity(self.queues.len());
        for (index, (config, kick)) in self.queues.iter().zip(&self.kicks).enumerate() {
            let queue = config
                .build(&self.mem, self.driver_features)
                .map_err(|source| Error::Queue { index, source })?;
            queues.push((queue, kick.try_clone().map_err(Error::EventFd)?));
        }
        self.device.activate(Activation {
            mem: self.mem.clone(),
            features: self.driver_features,
            queues,
            interrupt: self.interrupt.clone(),
        })
    }

    fn reset(&mut self) {
        self.device.reset();
        self.interrupt.reset();
        self.queues = fresh_queues(self.device.as_ref());
        self.status = 0;
        self.driver_features = 0;
        self.device_features_sel = 0;
        self.driver_features_sel = 0;
        self.queue_sel = 0;
    }
}

impl BusDevice for MmioTransport {
    fn read(&mut self, offset: u64, data: &mut [u8]) {
        if let Some(offset) = offset.checked_sub(CONFIG) {
            return self.device.read_config(offset, data);
        }
        data.fill(0);
        if let Ok(word) = <&mut [u8; 4]>::try_from(data)
            && offset.is_multiple_of(4)
        {
            *word = self.read_register(offset).to_le_bytes();
        }
    }

    fn write(&mut self, offset: u64, data: &[u8]) {
        if let Some(offset) = offset.checked_sub(CONFIG) {
            return self.device.write_config(offset, data);
        }
        if let Ok(word) = <[u8; 4]>::try_from(data)
            && offset.is_multiple_of(4)
        {
            self.write_register(offset, u32::from_le_bytes(word));
        }
    }
}

impl Drop for MmioTransport {
    fn drop(&mut self) {
        self.device.reset();
    }
}

fn fresh_queues(device: &dyn VirtioDevice) -> Vec<QueueConfig> {
    let fresh =
        |&max_size: &u16| QueueConfig { max_size, size: u32::from(max_size), ..QueueConfig::default() };
    device.queue_max_sizes().iter().map(fresh).collect()
}

/// The 32 feature bits that a selector register points to.
fn half(features: u64, selector: u32) -> u32 {
    match selector {
        0 => (features & u64::from(u32::MAX)) as u32,
        1 => (features >> 32) as u32,
        _ => 0,
    }
}

fn set_low(address: &mut u64, value: u32) {
    *address = *address & !u64::from(u32::MAX) | u64::from(value);
}

fn set_high(address: &mut u64, value: u32) {
    *address = *address & u64::from(u32::MAX) | u64::from(value) << 32;
}
