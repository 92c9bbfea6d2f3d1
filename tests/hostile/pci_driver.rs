//! The driver of a virtio device on PCI: finds its registers by the capabilities, as Linux does.

use std::io;
use std::sync::{Arc, Mutex};

use rvm::vmm::bus::BusDevice;
use rvm::vmm::pci::{MsiMessage, MsiRouter, PciFunction};
use rvm::vmm::virtio::rng::Rng;
use rvm::vmm::virtio::{PciTransport, VirtioDevice};
use vm_memory::GuestMemoryMmap;
use vmm_sys_util::eventfd::EventFd;

use crate::driver::*;

/// Where the hypervisor put the memory range.
pub const BASE: u32 = 0xd000_8000;
/// No interrupt.
pub const NO_VECTOR: u16 = 0xffff;

/// Offsets in the common configuration, written down a second time on purpose.
pub const COMMON_STATUS: u64 = 0x14;
pub const COMMON_CONFIG_VECTOR: u64 = 0x10;
pub const COMMON_QUEUE_VECTOR: u64 = 0x1a;
pub const COMMON_QUEUE_SIZE: u64 = 0x18;
pub const COMMON_QUEUE_ENABLE: u64 = 0x1c;

/// Notes what the host would deliver; refuses when told to.
#[derive(Clone, Default)]
pub struct Notebook {
    pub routes: Arc<Mutex<Vec<(u16, MsiMessage)>>>,
    pub refuse: Arc<Mutex<bool>>,
    /// Vectors whose events it was told to listen to, or not to.
    pub switches: Arc<Mutex<Vec<(u16, bool)>>>,
}

impl MsiRouter for Notebook {
    fn route(&self, vector: u16, message: MsiMessage) -> io::Result<()> {
        if *self.refuse.lock().unwrap() {
            return Err(io::ErrorKind::OutOfMemory.into());
        }
        self.routes.lock().unwrap().push((vector, message));
        Ok(())
    }

    fn disconnect(&self, vector: u16, _: &EventFd) -> io::Result<()> {
        self.switches.lock().unwrap().push((vector, false));
        Ok(())
    }

    fn connect(&self, vector: u16, _: &EventFd) -> io::Result<()> {
        self.switches.lock().unwrap().push((vector, true));
        Ok(())
    }
}

/// A capability: where it is in configuration space, and the place that it names.
#[derive(Clone, Copy, Debug, Default)]
pub struct Place {
    pub at: usize,
    pub offset: u64,
    pub len: u64,
}

/// A function with what the driver found in its capabilities.
pub struct Pci {
    pub function: PciTransport,
    pub notebook: Notebook,
    pub common: Place,
    pub notify: Place,
    pub isr: Place,
    pub device: Place,
    pub window: Place,
    pub notify_stride: u64,
    /// Offset of the MSI-X capability, of table and pending bits, and how many vectors there are.
    pub msix: usize,
    pub table: u64,
    pub pending: u64,
    pub vectors: u16,
}

impl Pci {
    pub fn config(&mut self, offset: usize) -> u32 {
        let mut data = [0; 4];
        self.function.config_read(offset, &mut data);
        u32::from_le_bytes(data)
    }

    pub fn set_config(&mut self, offset: usize, value: u32) {
        self.function.config_write(offset, &value.to_le_bytes());
    }

    pub fn load<const N: usize>(&mut self, offset: u64) -> [u8; N] {
        let mut data = [0xff; N];
        self.function.read(offset, &mut data);
        data
    }

    pub fn load16(&mut self, offset: u64) -> u16 {
        u16::from_le_bytes(self.load(offset))
    }

    pub fn load32(&mut self, offset: u64) -> u32 {
        u32::from_le_bytes(self.load(offset))
    }

    pub fn store16(&mut self, offset: u64, value: u16) {
        self.function.write(offset, &value.to_le_bytes());
    }

    pub fn store32(&mut self, offset: u64, value: u32) {
        self.function.write(offset, &value.to_le_bytes());
    }

    /// Turns the memory range and MSI-X on, every vector with a message of its own.
    pub fn enable(&mut self) {
        self.set_config(4, 0b110);
        self.set_msix(true, false);
        for vector in 0..self.vectors {
            self.set_entry(vector, message(vector), false);
        }
    }

    pub fn set_msix(&mut self, enable: bool, mask: bool) {
        let control = u32::from(enable) << 31 | u32::from(mask) << 30;
        let rest = self.config(self.msix) & 0x3fff_ffff;
        self.set_config(self.msix, rest | control);
    }

    pub fn set_entry(&mut self, vector: u16, message: MsiMessage, masked: bool) {
        let at = self.table + u64::from(vector) * 16;
        self.store32(at, message.address as u32);
        self.store32(at + 4, (message.address >> 32) as u32);
        self.store32(at + 8, message.data);
        self.store32(at + 12, masked.into());
    }

    pub fn is_pending(&mut self, vector: u16) -> bool {
        let word = u64::from_le_bytes(self.load(self.pending + u64::from(vector / 64) * 8));
        word >> (vector % 64) & 1 == 1
    }

    fn find_capabilities(&mut self) {
        assert_ne!(self.config(4) & 1 << 20, 0, "no capabilities");
        let mut at = (self.config(0x34) & 0xff) as usize;
        let mut steps = 0;
        while at != 0 {
            steps += 1;
            assert!(at.is_multiple_of(4) && (0x40..256).contains(&at) && steps < 48, "bad list at {at:#x}");
            let head = self.config(at).to_le_bytes();
            match head {
                [0x11, ..] => {
                    self.msix = at;
                    self.vectors = (self.config(at) >> 16 & 0x7ff) as u16 + 1;
                    self.table = self.config(at + 4).into();
                    self.pending = self.config(at + 8).into();
                }
                [0x09, _, len, kind] => {
                    let place =
                        Place { at, offset: self.config(at + 8).into(), len: self.config(at + 12).into() };
                    assert_eq!(self.config(at + 4), 0, "BAR 0");
                    match (kind, len) {
                        (1, 16) => self.common = place,
                        (2, 20) => {
                            self.notify = place;
                            self.notify_stride = self.config(at + 16).into();
                        }
                        (3, 16) => self.isr = place,
                        (4, 16) => self.device = place,
                        (5, 20) => self.window = place,
                        other => panic!("capability {other:?}"),
                    }
                }
                other => panic!("capability {other:?}"),
            }
            at = head[1].into();
        }
    }
}

/// The message that [`Pci::enable`] gives a vector.
pub fn message(vector: u16) -> MsiMessage {
    MsiMessage { address: 0xfee0_1000, data: 0x4000 + u32::from(vector) }
}

impl Registers for Pci {
    fn get(&mut self, register: u64) -> u32 {
        let common = self.common.offset;
        match register {
            DEVICE_FEATURES => self.load32(common + 4),
            QUEUE_SIZE_MAX => self.load16(common + COMMON_QUEUE_SIZE).into(),
            QUEUE_READY => self.load16(common + COMMON_QUEUE_ENABLE).into(),
            INTERRUPT_STATUS => self.load::<1>(self.isr.offset)[0].into(),
            STATUS => self.load::<1>(common + COMMON_STATUS)[0].into(),
            other => panic!("no register {other:#x}"),
        }
    }

    fn set(&mut self, register: u64, value: u32) {
        let common = self.common.offset;
        match register {
            DEVICE_FEATURES_SEL => self.store32(common, value),
            DRIVER_FEATURES_SEL => self.store32(common + 8, value),
            DRIVER_FEATURES => self.store32(common + 0xc, value),
            QUEUE_SEL => self.store16(common + 0x16, value as u16),
            QUEUE_SIZE => self.store16(common + COMMON_QUEUE_SIZE, value as u16),
            QUEUE_READY => self.store16(common + COMMON_QUEUE_ENABLE, value as u16),
            QUEUE_NOTIFY => {
                self.store16(self.notify.offset + u64::from(value) * self.notify_stride, value as u16);
            }
            INTERRUPT_ACK => {}
            STATUS => self.function.write(common + COMMON_STATUS, &[value as u8]),
            0x80..0x88 | 0x90..0x98 | 0xa0..0xa8 => {
                let address = (register - QUEUE_DESC) / 0x10 * 8 + register % 0x10;
                self.store32(common + 0x20 + address, value);
            }
            // The word behind a register, which the frozen-registers case tries.
            0x3c => {}
            other => panic!("no register {other:#x}"),
        }
    }

    fn wire(&mut self, queue: u16) {
        let common = self.common.offset;
        for (register, vector) in [(COMMON_CONFIG_VECTOR, 0), (COMMON_QUEUE_VECTOR, queue + 1)] {
            self.store16(common + register, vector);
            assert_eq!(self.load16(common + register), vector);
        }
    }
}

/// Before a device on PCI that nobody touched yet.
pub fn untouched(device: impl VirtioDevice + 'static, size: u16) -> Driver<Pci> {
    untouched_in(memory(), device, size)
}

/// The same, with its rings in `mem`.
pub fn untouched_in(mem: GuestMemoryMmap, device: impl VirtioDevice + 'static, size: u16) -> Driver<Pci> {
    let count = device.queue_max_sizes().len() as u64;
    let notebook = Notebook::default();
    let function =
        PciTransport::new(Box::new(device), mem.clone(), BASE, Box::new(notebook.clone())).unwrap();
    let kicks = function.queue_kicks().unwrap();
    let events = function.vectors().events().map(|event| event.try_clone().unwrap()).collect();
    let none = Place::default();
    let mut transport = Pci {
        function,
        notebook,
        common: none,
        notify: none,
        isr: none,
        device: none,
        window: none,
        notify_stride: 0,
        msix: 0,
        table: 0,
        pending: 0,
        vectors: 0,
    };
    transport.find_capabilities();
    let queues = (0..count).map(|index| Queue::at(index, size)).collect();
    Driver::assemble(mem, transport, events, kicks, queues)
}

/// An entropy device whose function is enabled, and that nobody touched otherwise.
pub fn rng() -> Driver<Pci> {
    let mut driver = untouched(Rng::new(), 16);
    driver.transport.enable();
    driver
}
