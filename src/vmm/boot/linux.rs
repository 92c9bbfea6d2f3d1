//! The zero page: `struct boot_params` with the memory map, the initrd and the command line.

use linux_loader::loader::bootparam::{boot_e820_entry, boot_params};
use vm_memory::{ByteValued, Bytes, GuestAddress, GuestMemoryBackend, GuestMemoryMmap, GuestMemoryRegion};

use super::{Error, Ramdisk, end_of};
use crate::vmm::layout::{ACPI_TABLES, ACPI_TABLES_END, CMDLINE, HIGH_RAM, LOW_RAM_END, ZERO_PAGE};

/// `hdr.boot_flag`.
const BOOT_FLAG: u16 = 0xaa55;
/// `hdr.header`, "HdrS".
const HEADER_MAGIC: u32 = 0x5372_6448;
/// `hdr.type_of_loader` of a loader without a number of its own.
const LOADER_UNDEFINED: u8 = 0xff;
/// `hdr.version`: 2.15, the newest.
const PROTOCOL: u16 = 0x020f;
/// `hdr.kernel_alignment` of a kernel as distributions build it.
const KERNEL_ALIGNMENT: u32 = 0x0100_0000;
/// Types of e820 entries (ACPI 6.5, table 15.2).
const E820_RAM: u32 = 1;
const E820_RESERVED: u32 = 2;

/// Memory as the guest is told of it: `(address, length, type)`.
pub(super) fn e820(mem: &GuestMemoryMmap) -> Vec<(u64, u64, u32)> {
    let mut map = vec![
        (0, LOW_RAM_END, E820_RAM),
        (LOW_RAM_END, 0xa_0000 - LOW_RAM_END, E820_RESERVED),
        (ACPI_TABLES, ACPI_TABLES_END - ACPI_TABLES, E820_RESERVED),
    ];
    for region in mem.iter() {
        let start = region.start_addr().0.max(HIGH_RAM);
        map.push((start, end_of(region).saturating_sub(start), E820_RAM));
    }
    map
}

/// Writes the zero page. `cmdline_len` is without the NUL that follows.
pub(super) fn write_zero_page(
    mem: &GuestMemoryMmap,
    ramdisk: Option<Ramdisk>,
    cmdline_len: usize,
    rsdp: u64,
) -> Result<(), Error> {
    let mut params = boot_params { acpi_rsdp_addr: rsdp, ..Default::default() };
    params.hdr.boot_flag = BOOT_FLAG;
    params.hdr.header = HEADER_MAGIC;
    params.hdr.version = PROTOCOL;
    params.hdr.type_of_loader = LOADER_UNDEFINED;
    params.hdr.kernel_alignment = KERNEL_ALIGNMENT;
    params.hdr.cmd_line_ptr = CMDLINE as u32;
    params.hdr.cmdline_size = cmdline_len as u32;
    if let Some(ramdisk) = ramdisk {
        params.hdr.ramdisk_image = ramdisk.addr;
        params.hdr.ramdisk_size = ramdisk.len;
    }
    let map = e820(mem);
    params.e820_entries = map.len() as u8;
    for (entry, (addr, size, type_)) in params.e820_table.iter_mut().zip(map) {
        *entry = boot_e820_entry { addr, size, r#type: type_ };
    }
    mem.write_slice(params.as_slice(), GuestAddress(ZERO_PAGE))
        .map_err(|source| Error::Write { what: "zero page", source })
}
