//! Both transports as a driver sees them, so that what sets up a device does it over either.

use std::io;

use rvm::vmm::bus::BusDevice;
use rvm::vmm::pci::{MsiMessage, MsiRouter, PciFunction};
use rvm::vmm::virtio::pci::notify_offset;
use rvm::vmm::virtio::{MmioTransport, PciTransport, VirtioDevice};
use vm_memory::GuestMemoryMmap;
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

/// Where the memory range of a PCI function is.
pub const BASE: u32 = 0xd000_8000;

/// Register offsets of virtio-mmio.
pub mod mmio {
    pub const DRIVER_FEATURES: u64 = 0x20;
    pub const DRIVER_FEATURES_SEL: u64 = 0x24;
    pub const QUEUE_SEL: u64 = 0x30;
    pub const QUEUE_SIZE: u64 = 0x38;
    pub const QUEUE_READY: u64 = 0x44;
    pub const QUEUE_NOTIFY: u64 = 0x50;
    pub const STATUS: u64 = 0x70;
    pub const QUEUE_DESC: u64 = 0x80;
    pub const QUEUE_DRIVER: u64 = 0x90;
    pub const QUEUE_DEVICE: u64 = 0xa0;
}

/// Offsets in the memory range of a PCI function: the common configuration, and the MSI-X table.
mod common {
    pub const DRIVER_FEATURE_SELECT: u64 = 0x08;
    pub const DRIVER_FEATURE: u64 = 0x0c;
    pub const CONFIG_VECTOR: u64 = 0x10;
    pub const STATUS: u64 = 0x14;
    pub const QUEUE_SELECT: u64 = 0x16;
    pub const QUEUE_SIZE: u64 = 0x18;
    pub const QUEUE_VECTOR: u64 = 0x1a;
    pub const QUEUE_ENABLE: u64 = 0x1c;
    pub const QUEUE_DESC: u64 = 0x20;
    pub const QUEUE_DRIVER: u64 = 0x28;
    pub const QUEUE_DEVICE: u64 = 0x30;
    pub const TABLE: u64 = 0x4000;
}

/// Configuration space: the command register, and message control of the first capability, which is MSI-X.
const COMMAND: usize = 4;
const MSIX: usize = 0x40;

/// A host that refuses one message in a few.
pub struct Host;

impl MsiRouter for Host {
    fn route(&self, _: u16, message: MsiMessage) -> io::Result<()> {
        if message.data & 7 == 7 { Err(io::ErrorKind::OutOfMemory.into()) } else { Ok(()) }
    }

    fn disconnect(&self, _: u16, _: &EventFd) -> io::Result<()> {
        Ok(())
    }

    fn connect(&self, _: u16, _: &EventFd) -> io::Result<()> {
        Ok(())
    }
}

/// A device behind its registers.
pub enum Wires {
    Mmio(MmioTransport),
    Pci(PciTransport),
}

impl Wires {
    /// Puts `device`, whose rings are in `mem`, behind the one or the other.
    pub fn new(device: Box<dyn VirtioDevice>, mem: GuestMemoryMmap, is_pci: bool) -> Self {
        if !is_pci {
            let irq = EventFd::new(EFD_NONBLOCK).unwrap();
            return Self::Mmio(MmioTransport::new(device, mem, irq).unwrap());
        }
        let vectors = device.queue_max_sizes().len() as u64 + 1;
        let mut function = PciTransport::new(device, mem, BASE, Box::new(Host)).unwrap();
        function.config_write(COMMAND, &[6, 0]);
        let mut head = [0; 1];
        function.config_read(MSIX, &mut head);
        assert_eq!(head, [0x11], "MSI-X is not the first capability");
        function.config_write(MSIX + 2, &[0, 0x80]);
        for vector in 0..vectors {
            let entry = [0xfee0_0000, 0, vector as u32, 0].map(u32::to_le_bytes);
            for (word, at) in entry.iter().zip((common::TABLE + 16 * vector..).step_by(4)) {
                function.write(at, word);
            }
        }
        function.write(common::CONFIG_VECTOR, &[0, 0]);
        Self::Pci(function)
    }

    pub fn status(&mut self) -> u32 {
        let mut word = [0; 4];
        match self {
            Self::Mmio(transport) => transport.read(mmio::STATUS, &mut word),
            Self::Pci(function) => function.read(common::STATUS, &mut word[..1]),
        }
        u32::from_le_bytes(word)
    }

    pub fn set_status(&mut self, status: u32) {
        match self {
            Self::Mmio(transport) => transport.write(mmio::STATUS, &status.to_le_bytes()),
            Self::Pci(function) => function.write(common::STATUS, &[status as u8]),
        }
    }

    pub fn set_features(&mut self, features: u64) {
        let (select, register) = match self {
            Self::Mmio(_) => (mmio::DRIVER_FEATURES_SEL, mmio::DRIVER_FEATURES),
            Self::Pci(_) => (common::DRIVER_FEATURE_SELECT, common::DRIVER_FEATURE),
        };
        for (selector, half) in [(0, features), (1, features >> 32)] {
            self.write(select, selector);
            self.write(register, half as u32);
        }
    }

    /// Sets up a queue with its table, available and used ring at `areas`.
    pub fn set_queue(&mut self, index: u16, size: u16, areas: [u64; 3], ready: u32) {
        let registers = match self {
            Self::Mmio(_) => {
                self.write(mmio::QUEUE_SEL, index.into());
                self.write(mmio::QUEUE_SIZE, size.into());
                [mmio::QUEUE_DESC, mmio::QUEUE_DRIVER, mmio::QUEUE_DEVICE]
            }
            Self::Pci(function) => {
                function.write(common::QUEUE_SELECT, &index.to_le_bytes());
                function.write(common::QUEUE_SIZE, &size.to_le_bytes());
                function.write(common::QUEUE_VECTOR, &(index + 1).to_le_bytes());
                [common::QUEUE_DESC, common::QUEUE_DRIVER, common::QUEUE_DEVICE]
            }
        };
        for (register, address) in registers.into_iter().zip(areas) {
            self.write(register, address as u32);
            self.write(register + 4, (address >> 32) as u32);
        }
        match self {
            Self::Mmio(transport) => transport.write(mmio::QUEUE_READY, &ready.to_le_bytes()),
            Self::Pci(function) => function.write(common::QUEUE_ENABLE, &(ready as u16).to_le_bytes()),
        }
    }

    pub fn kick(&mut self, queue: u32) {
        match self {
            Self::Mmio(transport) => transport.write(mmio::QUEUE_NOTIFY, &queue.to_le_bytes()),
            Self::Pci(function) => function.write(notify_offset(queue as u16), &[0, 0]),
        }
    }

    fn write(&mut self, register: u64, value: u32) {
        match self {
            Self::Mmio(transport) => transport.write(register, &value.to_le_bytes()),
            Self::Pci(function) => function.write(register, &value.to_le_bytes()),
        }
    }
}
