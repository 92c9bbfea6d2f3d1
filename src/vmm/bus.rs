//! Address ranges and the devices behind them: one bus for ports, one for memory.
//!
//! The bus knows no device. It finds who owns an address and passes the access on; an access
//! that nobody owns, or that leaves its owner's range, reads as all ones and writes nowhere.

use std::sync::{Arc, Mutex, PoisonError};

/// A device that the guest reaches by reading and writing addresses.
///
/// `data` has 1 to 8 bytes for memory and 1, 2 or 4 for ports; every width may come at every
/// offset, because the guest chooses both.
pub trait BusDevice: Send {
    /// The guest reads `data.len()` bytes at `offset` from the start of the range.
    ///
    /// `data` arrives filled with 0xff, so a device may leave what it does not know.
    fn read(&mut self, offset: u64, data: &mut [u8]);

    /// The guest writes `data` at `offset` from the start of the range.
    fn write(&mut self, offset: u64, data: &[u8]);
}

/// A device as the bus holds it: shared, because several virtual CPUs may reach it at once.
pub type Shared = Arc<Mutex<dyn BusDevice>>;

/// The range is empty, wraps around, or overlaps another.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("cannot place a device at {base:#x} with {len:#x} bytes on the bus: range is taken or empty")]
pub struct Conflict {
    /// First address.
    pub base: u64,
    /// Length in bytes.
    pub len: u64,
}

struct Range {
    base: u64,
    /// Last address that belongs to the range.
    last: u64,
    device: Shared,
}

/// Devices by address.
#[derive(Default)]
pub struct Bus {
    /// Sorted by `base`, disjoint.
    ranges: Vec<Range>,
}

impl Bus {
    /// An empty bus.
    pub fn new() -> Self {
        Self::default()
    }

    /// Puts `device` at `base`..`base + len`.
    ///
    /// # Errors
    /// [`Conflict`] when the range is empty, wraps around or overlaps another.
    pub fn insert(&mut self, base: u64, len: u64, device: Shared) -> Result<(), Conflict> {
        let conflict = Conflict { base, len };
        let Some(last) = len.checked_sub(1).and_then(|l| base.checked_add(l)) else {
            return Err(conflict);
        };
        let at = self.ranges.partition_point(|r| r.last < base);
        if self.ranges.get(at).is_some_and(|next| next.base <= last) {
            return Err(conflict);
        }
        self.ranges.insert(at, Range { base, last, device });
        Ok(())
    }

    /// Reads `data.len()` bytes at `addr`; all ones where there is no device.
    pub fn read(&self, addr: u64, data: &mut [u8]) {
        data.fill(0xff);
        if let Some((offset, device)) = self.find(addr, data.len()) {
            let mut device = device.lock().unwrap_or_else(PoisonError::into_inner);
            device.read(offset, data);
        }
    }

    /// Writes `data` at `addr`; to nowhere if there is no device.
    pub fn write(&self, addr: u64, data: &[u8]) {
        if let Some((offset, device)) = self.find(addr, data.len()) {
            let mut device = device.lock().unwrap_or_else(PoisonError::into_inner);
            device.write(offset, data);
        }
    }

    /// The device that owns all of `addr`..`addr + len`, and how far into its range `addr` is.
    fn find(&self, addr: u64, len: usize) -> Option<(u64, &Shared)> {
        let last = addr.checked_add(u64::try_from(len).ok()?.checked_sub(1)?)?;
        let range = self.ranges.get(self.ranges.partition_point(|r| r.last < addr))?;
        (range.base <= addr && last <= range.last).then(|| (addr - range.base, &range.device))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Remembers the last write and answers reads with the offset.
    #[derive(Default)]
    struct Probe {
        written: Vec<(u64, Vec<u8>)>,
    }

    impl BusDevice for Probe {
        fn read(&mut self, offset: u64, data: &mut [u8]) {
            data.fill(offset as u8);
        }
        fn write(&mut self, offset: u64, data: &[u8]) {
            self.written.push((offset, data.to_vec()));
        }
    }

    fn bus_with(ranges: &[(u64, u64)]) -> (Bus, Vec<Arc<Mutex<Probe>>>) {
        let mut bus = Bus::new();
        let mut probes = Vec::new();
        for &(base, len) in ranges {
            let probe = Arc::new(Mutex::new(Probe::default()));
            bus.insert(base, len, probe.clone()).unwrap();
            probes.push(probe);
        }
        (bus, probes)
    }

    #[test]
    fn accesses_reach_the_owner_with_the_offset() {
        let (bus, probes) = bus_with(&[(0x2000, 0x1000), (0x1000, 0x10)]);
        let mut data = [0; 4];
        bus.read(0x2008, &mut data);
        assert_eq!(data, [8; 4]);
        bus.write(0x100f, &[7]);
        assert_eq!(probes[1].lock().unwrap().written, [(0xf, vec![7])]);
        assert!(probes[0].lock().unwrap().written.is_empty());
    }

    #[test]
    fn what_nobody_owns_reads_all_ones() {
        let (bus, probes) = bus_with(&[(0x1000, 0x10)]);
        for addr in [0, 0xfff, 0x1010, 0x100d, u64::MAX] {
            let mut data = [0; 4];
            bus.read(addr, &mut data);
            assert_eq!(data, [0xff; 4], "at {addr:#x}");
            bus.write(addr, &data);
        }
        bus.read(0x1000, &mut []);
        assert!(probes[0].lock().unwrap().written.is_empty());
    }

    #[test]
    fn overlapping_and_empty_ranges_are_refused() {
        let (mut bus, _) = bus_with(&[(0x1000, 0x10), (0x1020, 0x10)]);
        let device = Arc::new(Mutex::new(Probe::default()));
        for (base, len) in [(0x1000, 1), (0xff1, 0x10), (0x100f, 0x20), (0x1010, 0x11), (5, 0), (u64::MAX, 2)]
        {
            assert_eq!(bus.insert(base, len, device.clone()), Err(Conflict { base, len }));
        }
        bus.insert(0x1010, 0x10, device).unwrap();
    }
}
