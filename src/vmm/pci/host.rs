//! Configuration mechanism #1 (section 3.2.2.3.2) and the host bridge behind it.

use std::sync::{Arc, Mutex, PoisonError};

use super::config::{ConfigSpace, Ids};
use crate::vmm::bus::BusDevice;

/// Bytes from the address register at port 0xcf8 to the data registers at port 0xcfc.
const DATA: u64 = 4;
/// Highest byte of an address: accesses to the data register are configuration cycles.
const ENABLE: u8 = 0x80;

/// What kernels look for on bus 0 before they believe in mechanism #1. The ids are those of the host
/// bridge of QEMU's generic PCI host, which has no registers of its own and so no driver.
const BRIDGE: Ids =
    Ids { vendor: 0x1b36, device: 0x0008, revision: 0, class: 0x0600, subsystem_vendor: 0, subsystem: 0 };

/// The configuration space of one function. `offset` and `data` lie within 4 bytes at a multiple of 4.
pub trait PciFunction: Send {
    /// The guest reads configuration space.
    fn config_read(&mut self, offset: usize, data: &mut [u8]);

    /// The guest writes configuration space.
    fn config_write(&mut self, offset: usize, data: &[u8]);
}

/// Ports 0xcf8 to 0xcff, and which function is in which slot of bus 0.
pub struct ConfigPorts {
    address: u32,
    bridge: ConfigSpace,
    functions: Vec<Arc<Mutex<dyn PciFunction>>>,
}

impl ConfigPorts {
    /// The bridge in slot 0, `functions` in the slots from 1 on.
    pub fn new(functions: Vec<Arc<Mutex<dyn PciFunction>>>) -> Self {
        Self { address: 0, bridge: ConfigSpace::new(BRIDGE), functions }
    }

    /// What an access to the data register means: slot and offset in configuration space.
    fn target(&self, offset: u64, len: usize) -> Option<(usize, usize)> {
        let byte = usize::try_from(offset.checked_sub(DATA)?).ok()?;
        let [register, function, bus, enable] = self.address.to_le_bytes();
        let (slot, function) = (usize::from(function >> 3), function & 7);
        // The bits below `ENABLE` are those of extended configuration space where processors have it:
        // an access there must not look like one to the header.
        let there = enable == ENABLE && bus == 0 && function == 0 && byte + len <= 4;
        there.then_some((slot, usize::from(register & !3) + byte))
    }

    fn function(&self, slot: usize) -> Option<&Mutex<dyn PciFunction>> {
        self.functions.get(slot.checked_sub(1)?).map(Arc::as_ref)
    }
}

impl BusDevice for ConfigPorts {
    fn read(&mut self, offset: u64, data: &mut [u8]) {
        if let (0, Ok(word)) = (offset, <&mut [u8; 4]>::try_from(&mut *data)) {
            *word = self.address.to_le_bytes();
            return;
        }
        match self.target(offset, data.len()) {
            Some((0, at)) => self.bridge.read(at, data),
            Some((slot, at)) => {
                if let Some(function) = self.function(slot) {
                    function.lock().unwrap_or_else(PoisonError::into_inner).config_read(at, data);
                }
            }
            None => {}
        }
    }

    fn write(&mut self, offset: u64, data: &[u8]) {
        if let (0, Ok(word)) = (offset, <[u8; 4]>::try_from(data)) {
            // The lowest two read as zero.
            self.address = u32::from_le_bytes(word) & !3;
            return;
        }
        match self.target(offset, data.len()) {
            Some((0, at)) => self.bridge.write(at, data),
            Some((slot, at)) => {
                if let Some(function) = self.function(slot) {
                    function.lock().unwrap_or_else(PoisonError::into_inner).config_write(at, data);
                }
            }
            None => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Answers with the offset and keeps what is written.
    #[derive(Default)]
    struct Probe(Vec<(usize, Vec<u8>)>);

    impl PciFunction for Probe {
        fn config_read(&mut self, offset: usize, data: &mut [u8]) {
            data.fill(offset as u8);
        }
        fn config_write(&mut self, offset: usize, data: &[u8]) {
            self.0.push((offset, data.to_vec()));
        }
    }

    fn read(ports: &mut ConfigPorts, offset: u64, len: usize) -> Vec<u8> {
        let mut data = vec![0xff; len];
        ports.read(offset, &mut data);
        data
    }

    #[test]
    fn accesses_reach_the_function_that_the_address_names() {
        let probe = Arc::new(Mutex::new(Probe::default()));
        let mut ports = ConfigPorts::new(vec![probe.clone()]);
        ports.write(0, &0x8000_0000u32.to_le_bytes());
        assert_eq!(read(&mut ports, 4, 4), 0x0008_1b36u32.to_le_bytes());
        ports.write(0, &0x8000_0008u32.to_le_bytes());
        assert_eq!(read(&mut ports, 6, 2), [0x00, 0x06]);
        ports.write(0, &0x8000_0840u32.to_le_bytes());
        assert_eq!(read(&mut ports, 5, 1), [0x41]);
        assert_eq!(read(&mut ports, 4, 4), [0x40; 4]);
        ports.write(7, &[9]);
        assert_eq!(probe.lock().unwrap().0, [(0x43, vec![9])]);
    }

    #[test]
    fn what_is_not_there_reads_all_ones() {
        let probe = Arc::new(Mutex::new(Probe::default()));
        let mut ports = ConfigPorts::new(vec![probe.clone()]);
        // Not enabled, slot 2, function 1, bus 1, slot 31, extended configuration space.
        for address in
            [0x0000_0800u32, 0x8000_1000, 0x8000_0900, 0x8001_0800, 0x8000_f800, 0x8100_0800, 0xff00_0800]
        {
            ports.write(0, &address.to_le_bytes());
            assert_eq!(read(&mut ports, 4, 4), [0xff; 4], "{address:#x}");
            ports.write(4, &[0; 4]);
        }
        ports.write(0, &0x8000_0800u32.to_le_bytes());
        // Across registers, and ports that are no register by themselves.
        for (offset, len) in [(2, 4), (3, 1), (3, 2), (0, 2), (1, 4), (5, 4), (7, 2), (8, 1)] {
            assert_eq!(read(&mut ports, offset, len), vec![0xff; len], "{len} at {offset}");
            ports.write(offset, &vec![0; len]);
        }
        assert!(probe.lock().unwrap().0.is_empty());
    }

    #[test]
    fn kernels_find_mechanism_1() {
        let mut ports = ConfigPorts::new(Vec::new());
        // What Linux does: a byte to 0xcfb has to stay without effect, and the register has to keep a word.
        ports.write(3, &[1]);
        ports.write(0, &0x8000_0000u32.to_le_bytes());
        assert_eq!(read(&mut ports, 0, 4), 0x8000_0000u32.to_le_bytes());
        ports.write(0, &u32::MAX.to_le_bytes());
        assert_eq!(read(&mut ports, 0, 4), 0xffff_fffcu32.to_le_bytes());
    }
}
