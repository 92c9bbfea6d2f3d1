//! Configuration space of one function: a type 0 header, its one memory range, capabilities.

/// Bytes of configuration space without extended configuration space (section 6.1).
pub const CONFIG_LEN: usize = 256;

/// Offsets in the header (section 6.1, figure 6-1).
mod reg {
    pub(super) const VENDOR: usize = 0x00;
    pub(super) const DEVICE: usize = 0x02;
    pub(super) const COMMAND: usize = 0x04;
    pub(super) const STATUS: usize = 0x06;
    pub(super) const REVISION: usize = 0x08;
    pub(super) const PROGRAMMING_INTERFACE: usize = 0x09;
    pub(super) const CLASS: usize = 0x0a;
    pub(super) const CACHE_LINE: usize = 0x0c;
    pub(super) const LATENCY: usize = 0x0d;
    pub(super) const BAR0: usize = 0x10;
    pub(super) const SUBSYSTEM_VENDOR: usize = 0x2c;
    pub(super) const SUBSYSTEM: usize = 0x2e;
    pub(super) const CAPABILITIES: usize = 0x34;
    pub(super) const INTERRUPT_LINE: usize = 0x3c;
    pub(super) const HEADER_END: usize = 0x40;
}

/// Command bit: the function answers in its memory range (section 6.2.2).
const MEMORY_SPACE: u16 = 1 << 1;
/// Command bit: the function may master the bus. Kept for the driver to read; devices here work when
/// their driver says so and at no other time.
const BUS_MASTER: u16 = 1 << 2;
/// Command bit: no INTx. There is none either way.
const INTX_DISABLE: u16 = 1 << 10;
/// Status bit: there is a list of capabilities (section 6.2.3).
const HAS_CAPABILITIES: u8 = 1 << 4;
/// Bits of a memory BAR that are not address (section 6.2.5.1).
const BAR_FLAGS: u32 = 0xf;

/// Who a function is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ids {
    /// Vendor, as the PCI-SIG numbers them.
    pub vendor: u16,
    /// Device, as its vendor numbers them.
    pub device: u16,
    /// Revision.
    pub revision: u8,
    /// Base class and subclass (appendix D).
    pub class: u16,
    /// Vendor of the subsystem.
    pub subsystem_vendor: u16,
    /// Subsystem.
    pub subsystem: u16,
}

/// Where the one memory range of a function is. The hypervisor places it and it stays there.
#[derive(Debug, Clone, Copy)]
struct Bar {
    base: u32,
    size: u32,
}

/// The registers of a function.
///
/// What a guest writes reaches only the bits that were declared writable.
#[derive(Debug)]
pub struct ConfigSpace {
    bytes: [u8; CONFIG_LEN],
    writable: [u8; CONFIG_LEN],
    initial: [u8; CONFIG_LEN],
    bar: Option<Bar>,
    /// Offset of the pointer to the next capability.
    link: usize,
    /// First byte that no capability has.
    end: usize,
}

impl ConfigSpace {
    /// A function without a memory range and capabilities.
    pub fn new(ids: Ids) -> Self {
        let mut config = Self {
            bytes: [0; CONFIG_LEN],
            writable: [0; CONFIG_LEN],
            initial: [0; CONFIG_LEN],
            bar: None,
            link: reg::CAPABILITIES,
            end: reg::HEADER_END,
        };
        for (at, value) in [
            (reg::VENDOR, ids.vendor),
            (reg::DEVICE, ids.device),
            (reg::CLASS, ids.class),
            (reg::SUBSYSTEM_VENDOR, ids.subsystem_vendor),
            (reg::SUBSYSTEM, ids.subsystem),
        ] {
            config.set(at, &value.to_le_bytes());
        }
        config.set(reg::REVISION, &[ids.revision]);
        config.set(reg::PROGRAMMING_INTERFACE, &[0]);
        // Scratch registers of the operating system.
        for at in [reg::CACHE_LINE, reg::LATENCY, reg::INTERRUPT_LINE] {
            config.allow(at, &[0xff]);
        }
        config
    }

    /// Gives the function `size` bytes of 32-bit memory at `base`: a power of two from 16 on, and a
    /// multiple of it.
    pub fn add_memory(&mut self, base: u32, size: u32) {
        debug_assert!(size.is_power_of_two() && size > BAR_FLAGS && base.is_multiple_of(size));
        self.bar = Some(Bar { base, size });
        self.set(reg::BAR0, &base.to_le_bytes());
        self.allow(reg::COMMAND, &(MEMORY_SPACE | BUS_MASTER | INTX_DISABLE).to_le_bytes());
    }

    /// Appends a capability (section 6.7): its id, then the link, then `body`, of which the guest may
    /// write the bits that are set in `writable`. Gives its offset, `None` when there is no room.
    pub fn add_capability(&mut self, id: u8, body: &[u8], writable: &[u8]) -> Option<usize> {
        let at = self.end;
        let end = at.checked_add(2)?.checked_add(body.len())?;
        if end > CONFIG_LEN {
            return None;
        }
        self.set(at, &[id, 0]);
        self.set(at + 2, body);
        self.allow(at + 2, writable);
        self.set(self.link, &[u8::try_from(at).ok()?]);
        self.set(reg::STATUS, &[HAS_CAPABILITIES]);
        self.link = at + 1;
        // Capabilities begin at multiples of four.
        self.end = end.next_multiple_of(4);
        Some(at)
    }

    /// Reads from `offset` on; all ones beyond the end.
    pub fn read(&self, offset: usize, data: &mut [u8]) {
        data.fill(0xff);
        let from = self.bytes.get(offset..).unwrap_or_default();
        for (to, from) in data.iter_mut().zip(from) {
            *to = *from;
        }
    }

    /// Writes what may be written from `offset` on.
    pub fn write(&mut self, offset: usize, data: &[u8]) {
        if let (reg::BAR0, Ok(word), Some(bar)) = (offset, <[u8; 4]>::try_from(data), self.bar) {
            return self.write_bar(bar, u32::from_le_bytes(word));
        }
        let bytes = self.bytes.iter_mut().zip(&self.writable).skip(offset);
        for ((byte, writable), new) in bytes.zip(data) {
            *byte = *byte & !writable | new & writable;
        }
    }

    /// All ones ask for the size (section 6.2.5.1). Any other address is refused: the register reads
    /// the place that the function has.
    fn write_bar(&mut self, bar: Bar, value: u32) {
        let asks_size = value | BAR_FLAGS == u32::MAX;
        let reads = if asks_size { !(bar.size - 1) } else { bar.base };
        if let Some(register) = self.bytes.get_mut(reg::BAR0..reg::BAR0 + 4) {
            register.copy_from_slice(&reads.to_le_bytes());
        }
    }

    /// Whether the guest has the function answer in its memory range.
    pub fn memory_enabled(&self) -> bool {
        let mut command = [0; 2];
        self.read(reg::COMMAND, &mut command);
        u16::from_le_bytes(command) & MEMORY_SPACE != 0
    }

    /// The four bytes at `offset`, little-endian; zero beyond the end.
    pub fn word(&self, offset: usize) -> u32 {
        let bytes = self.bytes.get(offset..).and_then(<[u8]>::first_chunk);
        bytes.map_or(0, |bytes| u32::from_le_bytes(*bytes))
    }

    /// Back to the state after power-on.
    pub fn reset(&mut self) {
        self.bytes = self.initial;
    }

    /// Sets bytes as they are after power-on.
    fn set(&mut self, at: usize, bytes: &[u8]) {
        for space in [&mut self.bytes, &mut self.initial] {
            for (to, from) in space.iter_mut().skip(at).zip(bytes) {
                *to = *from;
            }
        }
    }

    /// Makes bits writable.
    fn allow(&mut self, at: usize, bits: &[u8]) {
        for (to, from) in self.writable.iter_mut().skip(at).zip(bits) {
            *to = *from;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const IDS: Ids = Ids {
        vendor: 0x1af4,
        device: 0x1044,
        revision: 1,
        class: 0xff00,
        subsystem_vendor: 0x1af4,
        subsystem: 0x44,
    };

    #[test]
    fn header_identifies_and_is_read_only() {
        let mut config = ConfigSpace::new(IDS);
        let header = |config: &ConfigSpace| [0, 8, 0x2c].map(|at| config.word(at));
        assert_eq!(header(&config), [0x1044_1af4, 0xff00_0001, 0x0044_1af4]);
        for at in 0..64 {
            config.write(at, &[0xff]);
        }
        assert_eq!(header(&config), [0x1044_1af4, 0xff00_0001, 0x0044_1af4]);
        assert_eq!(config.word(4), 0, "no memory, so nothing to turn on");
        config.write(255, &[0xff; 4]);
        config.write(usize::MAX, &[0xff; 4]);
        let mut data = [0; 4];
        config.read(255, &mut data);
        assert_eq!(data, [0, 0xff, 0xff, 0xff]);
        config.read(usize::MAX, &mut data);
        assert_eq!(data, [0xff; 4]);
    }

    #[test]
    fn memory_range_tells_its_size_and_stays_where_it_is() {
        let mut config = ConfigSpace::new(IDS);
        config.add_memory(0xd000_8000, 0x8000);
        assert_eq!(config.word(0x10), 0xd000_8000);
        for ones in [u32::MAX, 0xffff_fff0] {
            config.write(0x10, &ones.to_le_bytes());
            assert_eq!(config.word(0x10), 0xffff_8000);
        }
        for other in [0xd000_8000, 0xd000_0000, 0, 0x1000, 0xfee0_0000, 0xffff_0000] {
            config.write(0x10, &u32::to_le_bytes(other));
            assert_eq!(config.word(0x10), 0xd000_8000, "after {other:#x}");
        }
        config.write(0x10, &[0xff, 0xff]);
        config.write(0x11, &[0xff; 4]);
        assert_eq!(config.word(0x10), 0xd000_8000);
        assert!(!config.memory_enabled());
        config.write(4, &[0xff, 0xff]);
        assert!(config.memory_enabled());
        assert_eq!(config.word(4), 0x0406);
        config.reset();
        assert!(!config.memory_enabled());
    }

    #[test]
    fn capabilities_are_linked_and_bounded() {
        let mut config = ConfigSpace::new(IDS);
        assert_eq!(config.add_capability(9, &[1; 15], &[0, 0xf0]), Some(0x40));
        assert_eq!(config.add_capability(0x11, &[2; 10], &[]), Some(0x54));
        assert_eq!((config.bytes[6], config.bytes[0x34]), (0x10, 0x40));
        assert_eq!(config.bytes[0x40..0x44], [9, 0x54, 1, 1]);
        assert_eq!(config.bytes[0x54..0x58], [0x11, 0, 2, 2]);
        config.write(0x40, &[0xff; 32]);
        assert_eq!(config.bytes[0x40..0x44], [9, 0x54, 1, 0xf1]);
        assert_eq!(config.bytes[0x54..0x58], [0x11, 0, 2, 2]);
        assert_eq!(config.add_capability(9, &[0; 200], &[]), None);
        assert_eq!(config.bytes[0x55], 0);
    }
}
