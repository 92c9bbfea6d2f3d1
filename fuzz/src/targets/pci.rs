//! A device on the PCI bus: configuration space and memory range, accessed in any order and width.

use libfuzzer_sys::arbitrary::{Result, Unstructured};
use rvm::vmm::bus::BusDevice;
use rvm::vmm::pci::PciFunction;
use rvm::vmm::virtio::PciTransport;
use rvm::vmm::virtio::pci::BAR_LEN;

use crate::rig::{memory, rarely};
use crate::targets::any_device;
use crate::wires::{BASE, Host};

const BAR_0: usize = 0x10;
const PAGE: u64 = 0x1000;
/// Pages of the memory range: common, ISR, device, notify, vectors, pending bits, and two of nothing.
const PAGES: u64 = 8;
const WIDTHS: [usize; 4] = [1, 2, 4, 8];

pub fn run(u: &mut Unstructured<'_>) -> Result<()> {
    let mut function = PciTransport::new(any_device(u)?, memory(), BASE, Box::new(Host)).unwrap();
    let first = word(&mut function, BAR_0);
    while !u.is_empty() {
        let width = if rarely(u) { u.int_in_range(0..=8)? } else { *u.choose(&WIDTHS)? };
        let value = match u.int_in_range(0..=3)? {
            0 => u.int_in_range(0..=16)?,
            1 => *u.choose(&[1, 3, 11, 15, 0x8000, 0xc000])?,
            2 => 0x1000 * u.int_in_range(0..=0x110u64)?,
            _ => u.arbitrary()?,
        };
        let mut data = value.to_le_bytes();
        if u.ratio(1, 3)? {
            let offset = if rarely(u) { u.arbitrary()? } else { u.int_in_range(0..=0xffu16)?.into() };
            function.config_write(offset, &data[..width.min(4)]);
            function.config_read(offset, &mut data[..width.min(4)]);
        } else {
            let page = PAGE * u.int_in_range(0..=PAGES - 1)?;
            let offset = if rarely(u) { u.arbitrary()? } else { page + u.int_in_range(0..=0x40u64)? };
            function.write(offset, &data[..width]);
            function.read(offset, &mut data[..width]);
        }
    }
    // The memory range is where it was, whatever was tried.
    function.reset();
    assert_eq!(word(&mut function, BAR_0), first);
    assert_eq!(u64::from(BAR_LEN), PAGE * PAGES);
    Ok(())
}

fn word(function: &mut PciTransport, offset: usize) -> u32 {
    let mut data = [0; 4];
    function.config_read(offset, &mut data);
    u32::from_le_bytes(data)
}
