//! The PCI transport (virtio 1.2, section 4.1): one memory range, vendor capabilities that say what is
//! where in it, MSI-X. There is no legacy interface.
//!
//! Registers take accesses of their own width at their own offset and nothing else, as on MMIO; the
//! 64-bit addresses are two words each (section 4.1.3.1). The device configuration takes any width.

use std::io;
use std::sync::Arc;

use vm_memory::GuestMemoryMmap;
use vmm_sys_util::eventfd::EventFd;

use super::Error;
use super::device::{Interrupt, NO_VECTOR, VirtioDevice};
use super::state::{State, set_high, set_low};
use crate::vmm::bus::BusDevice;
use crate::vmm::pci::msix::CONTROL_WRITABLE;
use crate::vmm::pci::{ConfigSpace, Ids, MsiRouter, Msix, PciFunction, Vectors};

/// Vendor of all virtio devices (section 4.1.2).
const VENDOR: u16 = 0x1af4;
/// Device id 0 of virtio 1.0 and later; the device type is added.
const DEVICE_BASE: u16 = 0x1040;
/// Offset of an id that no driver of the legacy interface binds to (section 4.1.2.1).
const SUBSYSTEM_BASE: u16 = 0x40;
/// A revision that no driver of the legacy interface binds to.
const REVISION: u8 = 1;

/// What is where in the memory range: a page for each.
const PAGE: u32 = 0x1000;
const COMMON: u32 = 0;
const ISR: u32 = PAGE;
const DEVICE: u32 = 2 * PAGE;
const NOTIFY: u32 = 3 * PAGE;
const TABLE: u32 = 4 * PAGE;
const PENDING: u32 = 5 * PAGE;
/// Bytes of the memory range.
pub const BAR_LEN: u32 = 8 * PAGE;
/// Bytes between the notify addresses of two queues: an address each, so that KVM knows the queue by
/// the address alone and need not look at what is written.
const NOTIFY_STRIDE: u32 = 4;
/// Vectors at most: what fits the page. More queues than that share none; theirs stay without.
const MAX_VECTORS: usize = 256;

/// Capability ids (PCI Local Bus 3.0, appendix H).
const CAP_VENDOR: u8 = 0x09;
const CAP_MSIX: u8 = 0x11;
/// Offset of message control in the MSI-X capability.
const MSIX_CONTROL: usize = 2;

/// Types of vendor capabilities (section 4.1.4).
mod kind {
    pub(super) const COMMON: u8 = 1;
    pub(super) const NOTIFY: u8 = 2;
    pub(super) const ISR: u8 = 3;
    pub(super) const DEVICE: u8 = 4;
    pub(super) const PCI: u8 = 5;
}

/// Offsets in the vendor capability that leads to the memory range from configuration space
/// (section 4.1.4.9).
mod window {
    pub(super) const BAR: usize = 4;
    pub(super) const OFFSET: usize = 8;
    pub(super) const LENGTH: usize = 12;
    pub(super) const DATA: usize = 16;
    pub(super) const END: usize = 20;
}

/// Offsets of the common configuration (section 4.1.4.3).
mod reg {
    pub(super) const DEVICE_FEATURE_SELECT: u64 = 0x00;
    pub(super) const DEVICE_FEATURE: u64 = 0x04;
    pub(super) const DRIVER_FEATURE_SELECT: u64 = 0x08;
    pub(super) const DRIVER_FEATURE: u64 = 0x0c;
    pub(super) const CONFIG_VECTOR: u64 = 0x10;
    pub(super) const NUM_QUEUES: u64 = 0x12;
    pub(super) const STATUS: u64 = 0x14;
    pub(super) const CONFIG_GENERATION: u64 = 0x15;
    pub(super) const QUEUE_SELECT: u64 = 0x16;
    pub(super) const QUEUE_SIZE: u64 = 0x18;
    pub(super) const QUEUE_VECTOR: u64 = 0x1a;
    pub(super) const QUEUE_ENABLE: u64 = 0x1c;
    pub(super) const QUEUE_NOTIFY_OFF: u64 = 0x1e;
    pub(super) const QUEUE_DESC_LOW: u64 = 0x20;
    pub(super) const QUEUE_DESC_HIGH: u64 = 0x24;
    pub(super) const QUEUE_DRIVER_LOW: u64 = 0x28;
    pub(super) const QUEUE_DRIVER_HIGH: u64 = 0x2c;
    pub(super) const QUEUE_DEVICE_LOW: u64 = 0x30;
    pub(super) const QUEUE_DEVICE_HIGH: u64 = 0x34;
    pub(super) const END: u32 = 0x3c;
}

/// One virtio device as a PCI function.
pub struct PciTransport {
    state: State,
    config: ConfigSpace,
    msix: Msix,
    vectors: Arc<Vectors>,
    /// Where the capabilities are whose registers do something.
    msix_at: usize,
    window_at: usize,
}

impl PciTransport {
    /// Makes `device` a function whose memory range is at `base`, a multiple of [`BAR_LEN`]; its rings
    /// live in `mem`, its interrupts are delivered by `router`. There is a vector for each queue and
    /// one for the configuration.
    ///
    /// # Errors
    /// [`Error::EventFd`] when the descriptors for kicks and vectors cannot be had; and
    /// [`Error::Capabilities`].
    pub fn new(
        device: Box<dyn VirtioDevice>,
        mem: GuestMemoryMmap,
        base: u32,
        router: Box<dyn MsiRouter>,
    ) -> Result<Self, Error> {
        let queues = device.queue_max_sizes().len();
        let vectors = Arc::new(Vectors::new(vector_count(queues)).map_err(Error::EventFd)?);
        let mut config = ConfigSpace::new(ids(device.device_id()));
        config.add_memory(base, BAR_LEN);
        let (msix_at, window_at) = add_capabilities(&mut config, vectors.len()).ok_or(Error::Capabilities)?;
        let interrupt = Interrupt::with_vectors(vectors.clone(), queues);
        let msix = Msix::new(vectors.clone(), router);
        let state = State::new(device, mem, interrupt)?;
        Ok(Self { state, config, msix, vectors, msix_at, window_at })
    }

    /// Descriptors of the queues' kick events, by queue number: what is to be signalled when the
    /// guest writes to [`notify_offset`] of that queue.
    ///
    /// # Errors
    /// When a descriptor cannot be duplicated.
    pub fn queue_kicks(&self) -> io::Result<Vec<EventFd>> {
        self.state.queue_kicks()
    }

    /// The vectors that the device raises.
    pub fn vectors(&self) -> &Arc<Vectors> {
        &self.vectors
    }

    /// Stops the device and puts function and device into the state after power-on.
    pub fn reset(&mut self) {
        self.state.reset();
        self.msix.reset();
        self.config.reset();
    }

    /// Reads the memory range, whether or not the guest has it answer.
    fn read_memory(&mut self, offset: u64, data: &mut [u8]) {
        data.fill(0);
        let Some((page, at)) = split(offset) else { return };
        match page {
            COMMON => self.read_common(at, data),
            ISR => {
                if let (0, [byte]) = (at, data) {
                    *byte = self.state.interrupt.take_status() as u8;
                }
            }
            DEVICE => self.state.device.read_config(at, data),
            TABLE => self.msix.read_table(at, data),
            PENDING => self.msix.read_pending(at, data),
            _ => {}
        }
    }

    /// Writes the memory range, whether or not the guest has it answer.
    fn write_memory(&mut self, offset: u64, data: &[u8]) {
        let Some((page, at)) = split(offset) else { return };
        match page {
            COMMON => self.write_common(at, data),
            DEVICE => self.state.device.write_config(at, data),
            // The address says which queue, whatever is written there.
            NOTIFY if at % u64::from(NOTIFY_STRIDE) == 0 => {
                self.state.kick((at / u64::from(NOTIFY_STRIDE)) as u32);
            }
            TABLE => self.msix.write_table(at, data),
            _ => {}
        }
    }

    fn read_common(&self, offset: u64, data: &mut [u8]) {
        let state = &self.state;
        let queue = state.queue();
        let (width, value) = match offset {
            reg::DEVICE_FEATURE_SELECT => (4, state.device_features_sel),
            reg::DEVICE_FEATURE => (4, state.device_features()),
            reg::DRIVER_FEATURE_SELECT => (4, state.driver_features_sel),
            reg::DRIVER_FEATURE => (4, state.driver_features()),
            reg::CONFIG_VECTOR => (2, state.interrupt.vector(None).into()),
            reg::NUM_QUEUES => (2, state.queue_count() as u32),
            reg::STATUS => (1, state.status()),
            reg::CONFIG_GENERATION => (1, state.interrupt.generation() & 0xff),
            reg::QUEUE_SELECT => (2, state.queue_sel),
            reg::QUEUE_SIZE => (2, queue.map_or(0, |queue| queue.size)),
            reg::QUEUE_VECTOR => (2, self.queue_vector().into()),
            reg::QUEUE_ENABLE => (2, queue.map_or(0, |queue| queue.ready.into())),
            reg::QUEUE_NOTIFY_OFF => (2, queue.map_or(0, |_| state.queue_sel)),
            reg::QUEUE_DESC_LOW => (4, queue.map_or(0, |queue| queue.descriptors as u32)),
            reg::QUEUE_DESC_HIGH => (4, queue.map_or(0, |queue| (queue.descriptors >> 32) as u32)),
            reg::QUEUE_DRIVER_LOW => (4, queue.map_or(0, |queue| queue.avail as u32)),
            reg::QUEUE_DRIVER_HIGH => (4, queue.map_or(0, |queue| (queue.avail >> 32) as u32)),
            reg::QUEUE_DEVICE_LOW => (4, queue.map_or(0, |queue| queue.used as u32)),
            reg::QUEUE_DEVICE_HIGH => (4, queue.map_or(0, |queue| (queue.used >> 32) as u32)),
            _ => return,
        };
        if data.len() == width {
            for (to, from) in data.iter_mut().zip(value.to_le_bytes()) {
                *to = from;
            }
        }
    }

    fn write_common(&mut self, offset: u64, data: &[u8]) {
        match *data {
            [value] if offset == reg::STATUS => {
                self.state.write_status(value.into());
                if self.state.status() == 0 {
                    self.msix.take_back();
                }
            }
            [a, b] => self.write_half(offset, u16::from_le_bytes([a, b])),
            [a, b, c, d] => self.write_word(offset, u32::from_le_bytes([a, b, c, d])),
            _ => {}
        }
    }

    fn write_half(&mut self, offset: u64, value: u16) {
        let state = &mut self.state;
        match offset {
            reg::CONFIG_VECTOR => state.interrupt.set_vector(None, value),
            reg::QUEUE_SELECT => state.queue_sel = value.into(),
            reg::QUEUE_SIZE => state.configure(|queue| queue.size = value.into()),
            reg::QUEUE_VECTOR => state.interrupt.set_vector(Some(state.queue_sel as u16), value),
            // A driver may not take it back but by a reset (section 4.1.4.3.2).
            reg::QUEUE_ENABLE if value == 1 => state.set_ready(true),
            _ => {}
        }
    }

    fn write_word(&mut self, offset: u64, value: u32) {
        let state = &mut self.state;
        match offset {
            reg::DEVICE_FEATURE_SELECT => state.device_features_sel = value,
            reg::DRIVER_FEATURE_SELECT => state.driver_features_sel = value,
            reg::DRIVER_FEATURE => state.write_features(value),
            reg::QUEUE_DESC_LOW => state.configure(|queue| set_low(&mut queue.descriptors, value)),
            reg::QUEUE_DESC_HIGH => state.configure(|queue| set_high(&mut queue.descriptors, value)),
            reg::QUEUE_DRIVER_LOW => state.configure(|queue| set_low(&mut queue.avail, value)),
            reg::QUEUE_DRIVER_HIGH => state.configure(|queue| set_high(&mut queue.avail, value)),
            reg::QUEUE_DEVICE_LOW => state.configure(|queue| set_low(&mut queue.used, value)),
            reg::QUEUE_DEVICE_HIGH => state.configure(|queue| set_high(&mut queue.used, value)),
            _ => {}
        }
    }

    fn queue_vector(&self) -> u16 {
        u16::try_from(self.state.queue_sel)
            .map_or(NO_VECTOR, |queue| self.state.interrupt.vector(Some(queue)))
    }

    /// Whether an access to configuration space touches the data of the window.
    fn in_window(&self, offset: usize, len: usize) -> bool {
        let (start, end) = (self.window_at + window::DATA, self.window_at + window::END);
        offset < end && start < offset.saturating_add(len)
    }

    /// What the window shows at present: offset and length in the memory range, if it is an access
    /// that the range could get.
    fn window(&self) -> Option<(u32, usize)> {
        let bar = self.config.word(self.window_at + window::BAR) & 0xff;
        let offset = self.config.word(self.window_at + window::OFFSET);
        let len = self.config.word(self.window_at + window::LENGTH);
        let right = bar == 0 && matches!(len, 1 | 2 | 4) && offset.is_multiple_of(len) && offset < BAR_LEN;
        right.then_some((offset, len as usize))
    }
}

/// Where in the memory range the guest kicks `queue`.
pub fn notify_offset(queue: u16) -> u64 {
    u64::from(NOTIFY) + u64::from(queue) * u64::from(NOTIFY_STRIDE)
}

impl PciFunction for PciTransport {
    fn config_read(&mut self, offset: usize, data: &mut [u8]) {
        if self.in_window(offset, data.len())
            && let Some((at, len)) = self.window()
        {
            let mut bytes = [0; 4];
            if let Some(bytes) = bytes.get_mut(..len) {
                self.read_memory(at.into(), bytes);
            }
            self.config.write(self.window_at + window::DATA, &bytes);
        }
        self.config.read(offset, data);
    }

    fn config_write(&mut self, offset: usize, data: &[u8]) {
        self.config.write(offset, data);
        if self.in_window(offset, data.len())
            && let Some((at, len)) = self.window()
        {
            let bytes = self.config.word(self.window_at + window::DATA).to_le_bytes();
            self.write_memory(at.into(), bytes.get(..len).unwrap_or_default());
        }
        let control = self.config.word(self.msix_at) >> (8 * MSIX_CONTROL);
        self.msix.set_control(control as u16);
    }
}

impl BusDevice for PciTransport {
    fn read(&mut self, offset: u64, data: &mut [u8]) {
        if self.config.memory_enabled() {
            self.read_memory(offset, data);
        }
    }

    fn write(&mut self, offset: u64, data: &[u8]) {
        if self.config.memory_enabled() {
            self.write_memory(offset, data);
        }
    }
}

/// How many vectors a device with that many queues has: one for each and one for the configuration.
pub fn vector_count(queues: usize) -> u16 {
    queues.saturating_add(1).min(MAX_VECTORS) as u16
}

/// Page of the memory range and offset in it.
fn split(offset: u64) -> Option<(u32, u64)> {
    let offset = u32::try_from(offset).ok().filter(|offset| *offset < BAR_LEN)?;
    Some((offset - offset % PAGE, u64::from(offset % PAGE)))
}

fn ids(device: u32) -> Ids {
    let device = device as u16;
    Ids {
        vendor: VENDOR,
        device: DEVICE_BASE.wrapping_add(device),
        revision: REVISION,
        // Class and subclass: Ethernet, other mass storage, unclassified.
        class: match device {
            1 => 0x0200,
            2 => 0x0180,
            _ => 0xff00,
        },
        subsystem_vendor: VENDOR,
        subsystem: SUBSYSTEM_BASE.wrapping_add(device),
    }
}

/// Adds all capabilities; gives the offsets of MSI-X and of the window.
fn add_capabilities(config: &mut ConfigSpace, vectors: usize) -> Option<(usize, usize)> {
    // Table size less one, then offsets in BAR 0 of table and pending bits.
    let mut msix = [0; 10];
    let (control, places) = msix.split_at_mut(2);
    control.copy_from_slice(&(vectors.saturating_sub(1) as u16).to_le_bytes());
    let (table, pending) = places.split_at_mut(4);
    table.copy_from_slice(&TABLE.to_le_bytes());
    pending.copy_from_slice(&PENDING.to_le_bytes());
    let msix_at = config.add_capability(CAP_MSIX, &msix, &CONTROL_WRITABLE.to_le_bytes())?;
    for (kind, offset, len, more) in [
        (kind::COMMON, COMMON, reg::END, &[][..]),
        (kind::ISR, ISR, 1, &[]),
        (kind::DEVICE, DEVICE, PAGE, &[]),
        (kind::NOTIFY, NOTIFY, PAGE, &NOTIFY_STRIDE.to_le_bytes()),
    ] {
        config.add_capability(CAP_VENDOR, &vendor(kind, offset, len, more), &[])?;
    }
    let mut writable = [0; window::END - 2];
    for registers in [window::BAR..window::BAR + 1, window::OFFSET..window::END] {
        for at in registers {
            if let Some(byte) = writable.get_mut(at - 2) {
                *byte = 0xff;
            }
        }
    }
    let window_at = config.add_capability(CAP_VENDOR, &vendor(kind::PCI, 0, 0, &[0; 4]), &writable)?;
    Some((msix_at, window_at))
}

/// A vendor capability behind id and link: length, type, BAR 0, id 0, padding, offset, length, more.
fn vendor(kind: u8, offset: u32, len: u32, more: &[u8]) -> Vec<u8> {
    let mut body = vec![16 + more.len() as u8, kind, 0, 0, 0, 0];
    body.extend_from_slice(&offset.to_le_bytes());
    body.extend_from_slice(&len.to_le_bytes());
    body.extend_from_slice(more);
    body
}
