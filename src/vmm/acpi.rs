//! ACPI tables: RSDP, XSDT, FADT, FACS, MADT and DSDT, as ACPI 6.5 lays them out.
//!
//! Not "hardware-reduced": the guest has the PC's interrupt controllers and timer, and its
//! power button and soft-off are the fixed ones of the PM1a registers (see [`super::devices::pm`]).

use acpi_tables::fadt::{FADTBuilder, Flags};
use acpi_tables::gas::{AccessSize, AddressSpace, GAS};
use acpi_tables::rsdp::Rsdp;
use acpi_tables::sdt::Sdt;
use acpi_tables::xsdt::XSDT;
use acpi_tables::{Aml, aml, facs::FACS};
use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};

use super::boot::cmdline::MmioDevice;
use super::layout;

/// Who made the tables, in every header.
const OEM_ID: [u8; 6] = *b"RVM   ";
/// Which tables, in every header.
const OEM_TABLE_ID: [u8; 8] = *b"RVMACPI ";
const OEM_REVISION: u32 = 1;
/// Bytes of a table header (section 5.2.6).
const HEADER_LEN: u32 = 36;

/// FADT `IAPC_BOOT_ARCH` (table 5.11): ISA devices are there (COM1); no VGA, no CMOS clock; bit 1
/// clear: no 8042 that a driver should probe.
const IAPC_BOOT_ARCH: u16 = 1 << 0 | 1 << 2 | 1 << 5;
/// FADT `IAPC_BOOT_ARCH`: no message-signalled interrupts, because there is no PCI.
const NO_MSI: u16 = 1 << 3;

/// How the guest is to find its virtio devices.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Announced {
    /// One by one.
    Mmio(Vec<MmioDevice>),
    /// On the PCI bus.
    Pci,
}

impl Announced {
    /// The devices that cannot be found on a bus.
    pub fn mmio(&self) -> &[MmioDevice] {
        match self {
            Self::Mmio(devices) => devices,
            Self::Pci => &[],
        }
    }
}

/// The tables do not fit or cannot be written; the number of devices is bounded, so never seen.
#[derive(Debug, thiserror::Error)]
#[error("cannot write {len} bytes of ACPI tables to guest memory")]
pub struct Error {
    len: usize,
    #[source]
    source: Option<vm_memory::GuestMemoryError>,
}

/// Writes all tables to the BIOS area and gives the address of the RSDP.
///
/// # Errors
/// [`Error`].
pub fn write(mem: &GuestMemoryMmap, cpus: u8, devices: &Announced) -> Result<u64, Error> {
    let tables = build(cpus, devices);
    let len = tables.len();
    if len as u64 > layout::ACPI_TABLES_END - layout::ACPI_TABLES {
        return Err(Error { len, source: None });
    }
    mem.write_slice(&tables, GuestAddress(layout::ACPI_TABLES))
        .map_err(|source| Error { len, source: Some(source) })?;
    Ok(layout::ACPI_TABLES)
}

/// The bytes from [`layout::ACPI_TABLES`] on: the RSDP first, then the tables, each at a
/// multiple of 64 (the FACS must be).
fn build(cpus: u8, devices: &Announced) -> Vec<u8> {
    let mut out = vec![0; 64];
    let dsdt = append(&mut out, &dsdt(devices));
    let facs = append(&mut out, &bytes(&FACS::new()));
    let fadt = append(&mut out, &fadt(dsdt, facs, devices));
    let madt = append(&mut out, &madt(cpus));
    let mut xsdt = XSDT::new(OEM_ID, OEM_TABLE_ID, OEM_REVISION);
    xsdt.add_entry(fadt);
    xsdt.add_entry(madt);
    let xsdt = append(&mut out, &bytes(&xsdt));
    for (to, from) in out.iter_mut().zip(bytes(&Rsdp::new(OEM_ID, xsdt))) {
        *to = from;
    }
    out
}

/// Appends a table and gives its guest-physical address.
fn append(out: &mut Vec<u8>, table: &[u8]) -> u64 {
    let addr = layout::ACPI_TABLES + out.len() as u64;
    out.extend_from_slice(table);
    out.resize(out.len().next_multiple_of(64), 0);
    addr
}

fn bytes(table: &dyn Aml) -> Vec<u8> {
    let mut out = Vec::new();
    table.to_aml_bytes(&mut out);
    out
}

fn sdt(signature: [u8; 4], revision: u8, body: &[u8]) -> Vec<u8> {
    let mut sdt = Sdt::new(signature, HEADER_LEN, revision, OEM_ID, OEM_TABLE_ID, OEM_REVISION);
    sdt.append_slice(body);
    sdt.as_slice().to_vec()
}

/// Fixed hardware (section 5.2.9). `SMI_CMD` 0 says that ACPI mode is always on.
fn fadt(dsdt: u64, facs: u64, devices: &Announced) -> Vec<u8> {
    let port = |at: u16, bits: u8, size| GAS::new(AddressSpace::SystemIo, bits, 0, size, u64::from(at));
    let mut fadt = FADTBuilder::new(OEM_ID, OEM_TABLE_ID, OEM_REVISION)
        .flag(Flags::Wbinvd)
        .flag(Flags::ProcC1)
        // Set means: not a fixed button. The power button is one, the sleep button is not there.
        .flag(Flags::SlpButton)
        .flag(Flags::FixRtc)
        .flag(Flags::ResetRegSup)
        .flag(Flags::Headless);
    // Both addresses of each kind, as firmware does: ACPICA warns when they differ.
    fadt.dsdt = (dsdt as u32).into();
    fadt.x_dsdt = dsdt.into();
    fadt.firmware_ctrl = (facs as u32).into();
    fadt.sci_int = (layout::SCI_GSI as u16).into();
    fadt.pm1a_evt_blk = u32::from(layout::PM1A_EVT).into();
    fadt.pm1_evt_len = 4;
    fadt.x_pm1a_evt_blk = port(layout::PM1A_EVT, 32, AccessSize::WordAccess);
    fadt.pm1a_cnt_blk = u32::from(layout::PM1A_CNT).into();
    fadt.pm1_cnt_len = 2;
    fadt.x_pm1a_cnt_blk = port(layout::PM1A_CNT, 16, AccessSize::WordAccess);
    // No C2, no C3: the guest halts.
    fadt.p_lvl2_lat = 0xffff.into();
    fadt.p_lvl3_lat = 0xffff.into();
    let msi = if *devices == Announced::Pci { 0 } else { NO_MSI };
    fadt.iapc_boot_arch = (IAPC_BOOT_ARCH | msi).into();
    fadt.reset_reg = port(layout::I8042_COMMAND, 8, AccessSize::ByteAccess);
    fadt.reset_value = layout::I8042_RESET;
    bytes(&fadt.finalize())
}

/// Interrupt controllers (section 5.2.12).
fn madt(cpus: u8) -> Vec<u8> {
    /// PCAT_COMPAT: the machine also has two 8259.
    const DUAL_8259: u32 = 1;
    /// Flags of an interrupt source override: active high, level.
    const HIGH_LEVEL: u16 = 0b1101;
    let mut body = Vec::new();
    body.extend_from_slice(&layout::LAPIC.to_le_bytes());
    body.extend_from_slice(&DUAL_8259.to_le_bytes());
    for id in 0..cpus {
        // Type 0, processor local APIC: length, ACPI processor id, APIC id, enabled.
        body.extend_from_slice(&[0, 8, id, id, 1, 0, 0, 0]);
    }
    // Type 1, IOAPIC: length, id, reserved, address, first GSI.
    body.extend_from_slice(&[1, 12, 0, 0]);
    body.extend_from_slice(&layout::IOAPIC.to_le_bytes());
    body.extend_from_slice(&0u32.to_le_bytes());
    // Type 2, interrupt source override: length, bus ISA, source, GSI, flags.
    body.extend_from_slice(&[2, 10, 0, layout::SCI_GSI as u8]);
    body.extend_from_slice(&layout::SCI_GSI.to_le_bytes());
    body.extend_from_slice(&HIGH_LEVEL.to_le_bytes());
    // Type 4, local APIC NMI: length, all processors, flags as the bus has them, LINT1.
    body.extend_from_slice(&[4, 6, 0xff, 0, 0, 1]);
    sdt(*b"APIC", 4, &body)
}

/// The devices that cannot be enumerated: serial port, PCI bus or virtio-mmio; and how to switch off.
fn dsdt(devices: &Announced) -> Vec<u8> {
    let mut body = Vec::new();
    serial_port(&mut body);
    for (index, device) in (0u32..).zip(devices.mmio()) {
        virtio_device(&mut body, index, *device);
    }
    if *devices == Announced::Pci {
        pci_bus(&mut body);
    }
    let s5 = layout::SLP_TYP_S5;
    aml::Name::new("_S5_".into(), &aml::Package::new(vec![&s5, &s5, &0u8, &0u8])).to_aml_bytes(&mut body);
    sdt(*b"DSDT", 2, &body)
}

fn serial_port(body: &mut Vec<u8>) {
    aml::Device::new(
        "_SB_.COM1".into(),
        vec![
            &aml::Name::new("_HID".into(), &aml::EISAName::new("PNP0501")),
            &aml::Name::new("_UID".into(), &aml::ZERO),
            &aml::Name::new(
                "_CRS".into(),
                &aml::ResourceTemplate::new(vec![
                    &aml::IO::new(layout::COM1 as u16, layout::COM1 as u16, 1, layout::COM_LEN as u8),
                    &aml::Interrupt::new(true, true, false, false, layout::COM1_GSI),
                ]),
            ),
        ],
    )
    .to_aml_bytes(body);
}

/// One bus, so that a kernel searches no other, and the memory that its functions are in. There is no
/// `_PRT`: no function has an interrupt pin.
fn pci_bus(body: &mut Vec<u8>) {
    let memory_end = layout::PCI_MEMORY + (layout::PCI_MEMORY_LEN - 1);
    let config = layout::PCI_CONFIG as u16;
    aml::Device::new(
        "_SB_.PCI0".into(),
        vec![
            &aml::Name::new("_HID".into(), &aml::EISAName::new("PNP0A03")),
            &aml::Name::new("_UID".into(), &aml::ZERO),
            &aml::Name::new("_BBN".into(), &aml::ZERO),
            &aml::Name::new("_SEG".into(), &aml::ZERO),
            &aml::Name::new(
                "_CRS".into(),
                &aml::ResourceTemplate::new(vec![
                    &aml::AddressSpace::new_bus_number(0u16, 0u16),
                    &aml::IO::new(config, config, 1, layout::PCI_CONFIG_LEN as u8),
                    &aml::AddressSpace::new_memory(
                        aml::AddressSpaceCacheable::NotCacheable,
                        true,
                        layout::PCI_MEMORY,
                        memory_end,
                        None,
                    ),
                ]),
            ),
        ],
    )
    .to_aml_bytes(body);
}

/// `LNRO0005` is what Linux' virtio_mmio driver binds to.
fn virtio_device(body: &mut Vec<u8>, index: u32, device: MmioDevice) {
    aml::Device::new(
        format!("_SB_.V{index:03}").as_str().into(),
        vec![
            &aml::Name::new("_HID".into(), &"LNRO0005"),
            &aml::Name::new("_UID".into(), &index),
            &aml::Name::new("_CCA".into(), &aml::ONE),
            &aml::Name::new(
                "_CRS".into(),
                &aml::ResourceTemplate::new(vec![
                    &aml::Memory32Fixed::new(true, device.base as u32, layout::VIRTIO_MMIO_STRIDE as u32),
                    &aml::Interrupt::new(true, true, false, false, device.gsi),
                ]),
            ),
        ],
    )
    .to_aml_bytes(body);
}

#[cfg(test)]
mod tests {
    use super::*;

    const DEVICES: [MmioDevice; 2] =
        [MmioDevice { base: 0xd000_0000, gsi: 5 }, MmioDevice { base: 0xd000_1000, gsi: 16 }];

    fn mmio() -> Announced {
        Announced::Mmio(DEVICES.to_vec())
    }

    fn sum(bytes: &[u8]) -> u8 {
        bytes.iter().fold(0, |sum, b| sum.wrapping_add(*b))
    }

    fn u16_at(t: &[u8], at: usize) -> u16 {
        u16::from_le_bytes(t[at..at + 2].try_into().unwrap())
    }

    fn u32_at(t: &[u8], at: usize) -> u32 {
        u32::from_le_bytes(t[at..at + 4].try_into().unwrap())
    }

    fn u64_at(t: &[u8], at: usize) -> u64 {
        u64::from_le_bytes(t[at..at + 8].try_into().unwrap())
    }

    /// The table at a guest-physical address, its checksum verified.
    fn table(all: &[u8], addr: u64, signature: &[u8; 4]) -> Vec<u8> {
        let at = (addr - layout::ACPI_TABLES) as usize;
        let len = u32_at(all, at + 4) as usize;
        let table = all[at..at + len].to_vec();
        assert_eq!(&table[..4], signature);
        assert_eq!(sum(&table), 0, "checksum of {}", String::from_utf8_lossy(signature));
        table
    }

    #[test]
    fn every_table_is_reached_from_the_rsdp_and_sums_to_zero() {
        let all = build(4, &mmio());
        assert_eq!(&all[..8], b"RSD PTR ");
        assert_eq!((sum(&all[..20]), sum(&all[..36])), (0, 0));
        let xsdt = table(&all, u64_at(&all, 24), b"XSDT");
        let fadt = table(&all, u64_at(&xsdt, 36), b"FACP");
        table(&all, u64_at(&xsdt, 44), b"APIC");
        table(&all, u64_at(&fadt, 140), b"DSDT");
        assert_eq!(u64::from(u32_at(&fadt, 40)), u64_at(&fadt, 140), "both DSDT addresses");
        let facs = u64::from(u32_at(&fadt, 36));
        assert_eq!(facs % 64, 0);
        assert_eq!(&all[(facs - layout::ACPI_TABLES) as usize..][..4], b"FACS");
    }

    #[test]
    fn fadt_names_the_fixed_registers() {
        let fadt = fadt(0xe_0040, 0xe_0100, &mmio());
        assert_eq!(fadt.len(), 276);
        assert_eq!(u16_at(&fadt, 46), 9, "SCI_INT");
        assert_eq!(u32_at(&fadt, 48), 0, "SMI_CMD");
        assert_eq!((u32_at(&fadt, 56), fadt[88]), (0x600, 4), "PM1a_EVT");
        assert_eq!((u32_at(&fadt, 64), fadt[89]), (0x604, 2), "PM1a_CNT");
        assert_eq!(u16_at(&fadt, 109), 0b10_1101, "IAPC_BOOT_ARCH");
        assert_eq!(u16_at(&self::fadt(0, 0, &Announced::Pci), 109), 0b10_0101, "with MSI");
        let flags = u32_at(&fadt, 112);
        assert_eq!(flags & (1 << 4 | 1 << 20), 0, "fixed power button, not hardware-reduced");
        assert_ne!(flags & 1 << 10, 0, "RESET_REG_SUP");
        assert_eq!((fadt[116], u64_at(&fadt, 120), fadt[128]), (1, 0x64, 0xfe), "reset register");
        assert_eq!((fadt[148], u64_at(&fadt, 152)), (1, 0x600), "X_PM1a_EVT");
        assert_eq!((fadt[172], u64_at(&fadt, 176)), (1, 0x604), "X_PM1a_CNT");
    }

    #[test]
    fn madt_lists_each_processor_once() {
        let madt = madt(64);
        let mut at = 44;
        let mut apics = Vec::new();
        let mut kinds = Vec::new();
        while at < madt.len() {
            kinds.push(madt[at]);
            if madt[at] == 0 {
                apics.push(madt[at + 3]);
            }
            at += usize::from(madt[at + 1]);
        }
        assert_eq!(at, madt.len());
        assert_eq!(apics, (0..64).collect::<Vec<u8>>());
        assert_eq!(kinds[64..], [1, 2, 4]);
    }

    #[test]
    fn dsdt_holds_a_node_for_each_device() {
        let dsdt = dsdt(&mmio());
        let count = |needle: &[u8]| dsdt.windows(needle.len()).filter(|w| *w == needle).count();
        assert_eq!(count(b"LNRO0005"), 2);
        assert_eq!(count(b"V001"), 1);
        assert_eq!(count(&0xd000_1000u32.to_le_bytes()), 1);
        assert_eq!(count(b"_S5_"), 1);
        assert_eq!(count(b"PCI0"), 0);
    }

    #[test]
    fn dsdt_holds_one_bus_for_pci() {
        let dsdt = dsdt(&Announced::Pci);
        let count = |needle: &[u8]| dsdt.windows(needle.len()).filter(|w| *w == needle).count();
        assert_eq!((count(b"PCI0"), count(b"LNRO0005")), (1, 0));
        // Word bus number, fixed: granularity, first, last, translation, length.
        assert_eq!(count(&[0x88, 13, 0, 2, 0xc, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0]), 1);
        assert_eq!(count(&[0, 0, 0, 0xd0, 0xff, 0xff, 0xf, 0xd0, 0, 0, 0, 0, 0, 0, 0x10, 0]), 1);
    }

    #[test]
    fn the_largest_machine_fits() {
        let devices = vec![DEVICES[0]; layout::VIRTIO_GSIS.len()];
        assert!(build(64, &Announced::Mmio(devices)).len() < 0x2_0000);
    }
}
