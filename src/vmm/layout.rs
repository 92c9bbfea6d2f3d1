//! Every guest-physical address, port and interrupt number that the hypervisor chooses.
//!
//! | from | to | what |
//! |---|---|---|
//! | 0x500 | 0x9fc00 | RAM; boot data below 0xc000, command line at 0x20000 |
//! | 0xe0000 | 0x100000 | ACPI tables (reserved) |
//! | 0x100000 | 3 GiB | RAM: kernel where its ELF says, initrd at the top |
//! | 3 GiB | 4 GiB | hole: virtio-mmio or PCI memory, IOAPIC, local APIC, KVM's own pages |
//! | 4 GiB | | the rest of RAM |

/// Global descriptor table.
pub const GDT: u64 = 0x500;
/// Interrupt descriptor table: one empty entry, the kernel loads its own.
pub const IDT: u64 = 0x540;
/// `struct boot_params`, the "zero page" of the Linux boot protocol.
pub const ZERO_PAGE: u64 = 0x7000;
/// Initial stack pointer.
pub const BOOT_STACK: u64 = 0x8ff0;
/// Page map level 4; the next two pages hold the one PDPT and the one page directory.
pub const PML4: u64 = 0x9000;
/// Kernel command line.
pub const CMDLINE: u64 = 0x2_0000;
/// Longest command line in bytes with its NUL: what x86 Linux keeps (`COMMAND_LINE_SIZE`).
pub const CMDLINE_MAX: usize = 2048;
/// End of the RAM below the BIOS area, where a PC has its extended BIOS data area.
pub const LOW_RAM_END: u64 = 0x9_fc00;
/// Start of the BIOS area, searched by kernels for the RSDP; ACPI tables are here.
pub const ACPI_TABLES: u64 = 0xe_0000;
/// End of the BIOS area.
pub const ACPI_TABLES_END: u64 = 0x10_0000;
/// Start of extended memory; a kernel loads at or above it.
pub const HIGH_RAM: u64 = 0x10_0000;

/// Start of the hole in RAM below 4 GiB.
pub const HOLE: u64 = 3 << 30;
/// End of the hole; RAM goes on here.
pub const HOLE_END: u64 = 4 << 30;
/// First virtio-mmio device; each takes [`VIRTIO_MMIO_STRIDE`].
pub const VIRTIO_MMIO: u64 = 0xd000_0000;
/// Bytes between virtio-mmio devices.
pub const VIRTIO_MMIO_STRIDE: u64 = 0x1000;
/// PCI memory: the ranges of all functions. A machine has these or virtio-mmio devices.
pub const PCI_MEMORY: u32 = 0xd000_0000;
/// Bytes of PCI memory.
pub const PCI_MEMORY_LEN: u32 = 0x10_0000;
/// Slots of the one PCI bus behind the host bridge, which has slot 0.
pub const PCI_SLOTS: usize = 31;
/// PCI configuration mechanism #1: address register, data register.
pub const PCI_CONFIG: u64 = 0xcf8;
/// Ports of both.
pub const PCI_CONFIG_LEN: u64 = 8;
/// Where KVM's IOAPIC answers.
pub const IOAPIC: u32 = 0xfec0_0000;
/// Where KVM's local APICs answer.
pub const LAPIC: u32 = 0xfee0_0000;
/// Three pages that KVM needs on Intel processors, just below the firmware area of a PC.
pub const KVM_TSS: usize = 0xfffb_d000;

/// First serial port (COM1) and its interrupt.
pub const COM1: u64 = 0x3f8;
/// Ports of one UART.
pub const COM_LEN: u64 = 8;
/// Interrupt of COM1.
pub const COM1_GSI: u32 = 4;
/// Keyboard controller: data at 0x60, command and status at 0x64.
pub const I8042: u64 = 0x60;
/// Ports from [`I8042`] up to the command port.
pub const I8042_LEN: u64 = 5;
/// Command port of the keyboard controller; writing [`I8042_RESET`] resets the machine.
pub const I8042_COMMAND: u16 = 0x64;
/// Pulse the reset line.
pub const I8042_RESET: u8 = 0xfe;
/// CMOS index and data port.
pub const CMOS: u64 = 0x70;
/// Ports of the CMOS.
pub const CMOS_LEN: u64 = 2;
/// ACPI PM1a event block: status (2 bytes), enable (2 bytes).
pub const PM1A_EVT: u16 = 0x600;
/// ACPI PM1a control block (2 bytes), right behind the event block.
pub const PM1A_CNT: u16 = 0x604;
/// Ports of both PM1a blocks.
pub const PM_LEN: u64 = 6;
/// ACPI system control interrupt.
pub const SCI_GSI: u32 = 9;
/// `SLP_TYP` of S5, soft off; the number is ours, `\_S5` tells it to the guest.
pub const SLP_TYP_S5: u8 = 5;

/// Interrupts for virtio devices, in order of use: first the ISA ones that nothing else has,
/// which a kernel without ACPI can also use, then IOAPIC pins 16 to 23.
pub const VIRTIO_GSIS: [u32; 14] = [5, 6, 7, 10, 11, 12, 16, 17, 18, 19, 20, 21, 22, 23];
