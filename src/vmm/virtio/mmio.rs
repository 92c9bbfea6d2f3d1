//! The memory-mapped transport (virtio 1.2, section 4.2, register layout version 2).
//!
//! Every register is 32 bits wide and takes nothing else: an access of another width or alignment
//! reads zero and writes nothing. The device configuration behind them takes any width.

use std::io;

use vm_memory::GuestMemoryMmap;
use vmm_sys_util::eventfd::EventFd;

use super::Error;
use super::device::{Interrupt, VirtioDevice};
pub use super::state::status;
use super::state::{State, set_high, set_low};
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

/// One virtio device behind memory-mapped registers.
pub struct MmioTransport {
    state: State,
}

impl MmioTransport {
    /// Puts registers before `device`, whose rings live in `mem` and which interrupts through `irq`.
    ///
    /// # Errors
    /// [`Error::EventFd`] when the descriptors for the queues' kicks cannot be had.
    pub fn new(device: Box<dyn VirtioDevice>, mem: GuestMemoryMmap, irq: EventFd) -> Result<Self, Error> {
        Ok(Self { state: State::new(device, mem, Interrupt::new(irq))? })
    }

    /// Descriptors of the queues' kick events, by queue number: what is to be signalled when the
    /// guest writes that number to offset 0x50.
    ///
    /// # Errors
    /// When a descriptor cannot be duplicated.
    pub fn queue_kicks(&self) -> io::Result<Vec<EventFd>> {
        self.state.queue_kicks()
    }

    /// Stops the device and puts it into the state after power-on, as a driver that writes zero to
    /// the status register does.
    pub fn reset(&mut self) {
        self.state.reset();
    }

    fn read_register(&self, offset: u64) -> u32 {
        let state = &self.state;
        match offset {
            reg::MAGIC_VALUE => MAGIC,
            reg::VERSION => VERSION,
            reg::DEVICE_ID => state.device.device_id(),
            reg::VENDOR_ID => VENDOR,
            reg::DEVICE_FEATURES => state.device_features(),
            reg::QUEUE_SIZE_MAX => state.queue().map_or(0, |queue| u32::from(queue.max_size)),
            reg::QUEUE_READY => state.queue().map_or(0, |queue| u32::from(queue.ready)),
            reg::INTERRUPT_STATUS => state.interrupt.status(),
            reg::STATUS => state.status(),
            reg::SHM_LEN_LOW..=reg::SHM_BASE_HIGH => NO_SHARED_MEMORY,
            reg::CONFIG_GENERATION => state.interrupt.generation(),
            _ => 0,
        }
    }

    fn write_register(&mut self, offset: u64, value: u32) {
        let state = &mut self.state;
        match offset {
            reg::DEVICE_FEATURES_SEL => state.device_features_sel = value,
            reg::DRIVER_FEATURES => state.write_features(value),
            reg::DRIVER_FEATURES_SEL => state.driver_features_sel = value,
            reg::QUEUE_SEL => state.queue_sel = value,
            reg::QUEUE_SIZE => state.configure(|queue| queue.size = value),
            reg::QUEUE_READY if value <= 1 => state.set_ready(value == 1),
            reg::QUEUE_NOTIFY => state.kick(value),
            reg::INTERRUPT_ACK => state.interrupt.acknowledge(value),
            reg::STATUS => state.write_status(value),
            reg::QUEUE_DESC_LOW => state.configure(|queue| set_low(&mut queue.descriptors, value)),
            reg::QUEUE_DESC_HIGH => state.configure(|queue| set_high(&mut queue.descriptors, value)),
            reg::QUEUE_DRIVER_LOW => state.configure(|queue| set_low(&mut queue.avail, value)),
            reg::QUEUE_DRIVER_HIGH => state.configure(|queue| set_high(&mut queue.avail, value)),
            reg::QUEUE_DEVICE_LOW => state.configure(|queue| set_low(&mut queue.used, value)),
            reg::QUEUE_DEVICE_HIGH => state.configure(|queue| set_high(&mut queue.used, value)),
            _ => {}
        }
    }
}

impl BusDevice for MmioTransport {
    fn read(&mut self, offset: u64, data: &mut [u8]) {
        if let Some(offset) = offset.checked_sub(CONFIG) {
            return self.state.device.read_config(offset, data);
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
            return self.state.device.write_config(offset, data);
        }
        if let Ok(word) = <[u8; 4]>::try_from(data)
            && offset.is_multiple_of(4)
        {
            self.write_register(offset, u32::from_le_bytes(word));
        }
    }
}
