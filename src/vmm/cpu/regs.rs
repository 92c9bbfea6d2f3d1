//! Registers at the first instruction: 64-bit mode with the first GiB mapped one to one.
//!
//! Numbers are those of the Intel SDM, volume 3A; what Linux expects is in its
//! `Documentation/arch/x86/boot.rst`, section "64-bit boot protocol".

use kvm_bindings::{
    Msrs, kvm_dtable, kvm_fpu, kvm_lapic_state, kvm_msr_entry, kvm_regs, kvm_segment, kvm_sregs,
};
use kvm_ioctls::VcpuFd;
use vm_memory::{Bytes, GuestAddress, GuestMemoryError, GuestMemoryMmap};

use super::Error;
use crate::vmm::layout::{BOOT_STACK, GDT, IDT, PML4, ZERO_PAGE};

const PAGE: u64 = 0x1000;
/// Page table entry: present and writable.
const PRESENT_WRITABLE: u64 = 0b11;
/// Page directory entry: present, writable, 2 MiB page.
const LARGE_PAGE: u64 = 0x83;
/// CR0: PG, AM, WP, NE, ET, MP, PE.
const CR0: u64 = 0x8005_0033;
/// CR4: PAE.
const CR4: u64 = 1 << 5;
/// EFER: LME and LMA.
const EFER: u64 = 1 << 8 | 1 << 10;

/// Selectors that the boot protocol demands.
const BOOT_CS: u16 = 0x10;
const BOOT_DS: u16 = 0x18;
const BOOT_TSS: u16 = 0x20;
/// Null, unused, 64-bit code, data, TSS: the descriptors as the processor reads them.
const GDT_ENTRIES: [u64; 5] = [0, 0, 0x00af_9b00_0000_ffff, 0x00cf_9300_0000_ffff, 0x008f_8b00_0000_ffff];

/// Writes the descriptor tables and the page tables of the first GiB.
///
/// # Errors
/// What guest memory says when it ends before them; the smallest guest has them all.
pub fn write_boot_tables(mem: &GuestMemoryMmap) -> Result<(), GuestMemoryError> {
    for (at, entry) in (GDT..).step_by(8).zip(GDT_ENTRIES) {
        mem.write_obj(entry, GuestAddress(at))?;
    }
    mem.write_obj(0u64, GuestAddress(IDT))?;
    let (pdpt, directory) = (PML4 + PAGE, PML4 + 2 * PAGE);
    mem.write_obj(pdpt | PRESENT_WRITABLE, GuestAddress(PML4))?;
    mem.write_obj(directory | PRESENT_WRITABLE, GuestAddress(pdpt))?;
    for index in 0..512 {
        mem.write_obj(index << 21 | LARGE_PAGE, GuestAddress(directory + index * 8))?;
    }
    Ok(())
}

/// General registers: RSI points to the zero page.
pub fn general(entry: u64) -> kvm_regs {
    kvm_regs { rip: entry, rsi: ZERO_PAGE, rsp: BOOT_STACK, rbp: BOOT_STACK, rflags: 2, ..Default::default() }
}

/// Segments and control registers; what the reset state has beyond them stays.
pub fn segments(reset: kvm_sregs) -> kvm_sregs {
    let code = kvm_segment {
        limit: 0xffff_ffff,
        selector: BOOT_CS,
        type_: 0b1011,
        present: 1,
        s: 1,
        l: 1,
        g: 1,
        ..Default::default()
    };
    let data = kvm_segment { selector: BOOT_DS, type_: 0b0011, l: 0, db: 1, ..code };
    let tss = kvm_segment { selector: BOOT_TSS, s: 0, l: 0, ..code };
    kvm_sregs {
        cs: code,
        ds: data,
        es: data,
        fs: data,
        gs: data,
        ss: data,
        tr: tss,
        gdt: kvm_dtable { base: GDT, limit: (size_of_val(&GDT_ENTRIES) - 1) as u16, ..Default::default() },
        idt: kvm_dtable { base: IDT, limit: 7, ..Default::default() },
        cr0: CR0,
        cr3: PML4,
        cr4: CR4,
        efer: EFER,
        ..reset
    }
}

/// FPU as after FNINIT, with SSE exceptions masked.
pub fn fpu() -> kvm_fpu {
    kvm_fpu { fcw: 0x37f, mxcsr: 0x1f80, ..Default::default() }
}

/// IA32_MISC_ENABLE and its fast-string bit.
const MISC_ENABLE: (u32, u64) = (0x1a0, 1);
/// IA32_MTRR_DEF_TYPE: enabled, all write-back. With MTRRs off Linux gives up PAT as well.
const MTRR_DEF_TYPE: (u32, u64) = (0x2ff, 1 << 11 | 6);

/// Sets the model-specific registers that KVM's reset values do not cover.
pub fn set_msrs(vcpu: &VcpuFd, cpu: u8) -> Result<(), Error> {
    let failed = |source| Error::Ioctl { cpu, what: "model-specific registers", source };
    let entries =
        [MISC_ENABLE, MTRR_DEF_TYPE].map(|(index, data)| kvm_msr_entry { index, data, ..Default::default() });
    let msrs = Msrs::from_entries(&entries).map_err(|_| Error::TooManyLeaves(cpu))?;
    let set = vcpu.set_msrs(&msrs).map_err(|e| failed(e.into()))?;
    match entries.get(set) {
        None => Ok(()),
        Some(refused) => {
            Err(failed(std::io::Error::other(format!("KVM refuses register {:#x}", refused.index))))
        }
    }
}

/// Offsets of the local vector table entries in the APIC's page.
const LVT_LINT0: usize = 0x350;
const LVT_LINT1: usize = 0x360;
/// Delivery modes in bits 10:8.
const MODE_NMI: u32 = 4;
const MODE_EXTINT: u32 = 7;

/// Wires LINT0 to the 8259s and LINT1 to the NMI, as a PC's firmware does.
pub fn set_lapic(vcpu: &VcpuFd) -> Result<(), kvm_ioctls::Error> {
    let mut lapic = vcpu.get_lapic()?;
    set_mode(&mut lapic, LVT_LINT0, MODE_EXTINT);
    set_mode(&mut lapic, LVT_LINT1, MODE_NMI);
    vcpu.set_lapic(&lapic)
}

fn set_mode(lapic: &mut kvm_lapic_state, offset: usize, mode: u32) {
    let Some(register) = lapic.regs.get_mut(offset..offset + 4) else { return };
    let mut bytes = [0u8; 4];
    for (to, from) in bytes.iter_mut().zip(register.iter()) {
        *to = *from as u8;
    }
    // Delivery mode in, mask bit out.
    let value = (u32::from_le_bytes(bytes) & !(0x700 | 1 << 16)) | mode << 8;
    for (to, from) in register.iter_mut().zip(value.to_le_bytes()) {
        *to = from as _;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::vmm::memory::{Memory, Sharing};

    #[test]
    fn the_first_gib_is_mapped_one_to_one() {
        let memory = Memory::new(16 << 20, Sharing::Private).unwrap();
        write_boot_tables(memory.guest()).unwrap();
        let read = |at| memory.guest().read_obj::<u64>(GuestAddress(at)).unwrap();
        assert_eq!(read(PML4), 0xa003);
        assert_eq!(read(0xa000), 0xb003);
        assert_eq!(read(0xb000), 0x83);
        assert_eq!(read(0xb000 + 511 * 8), 511 << 21 | 0x83);
        assert_eq!(read(GDT + u64::from(BOOT_CS)), 0x00af_9b00_0000_ffff);
    }

    #[test]
    fn registers_follow_the_boot_protocol() {
        let sregs = segments(kvm_sregs { apic_base: 0xfee0_0900, ..Default::default() });
        assert_eq!((sregs.cs.selector, sregs.ds.selector), (0x10, 0x18));
        assert_eq!((sregs.cs.l, sregs.cs.db, sregs.ds.l, sregs.ds.db), (1, 0, 0, 1));
        assert_eq!(sregs.apic_base, 0xfee0_0900, "the reset state is kept");
        assert_eq!(general(0x100_0000).rsi, ZERO_PAGE);
    }

    #[test]
    fn lint_modes_replace_mask_and_mode_only() {
        let mut lapic = kvm_lapic_state::default();
        for (at, byte) in 0x0001_0012u32.to_le_bytes().into_iter().enumerate() {
            lapic.regs[LVT_LINT0 + at] = byte as _;
        }
        set_mode(&mut lapic, LVT_LINT0, MODE_EXTINT);
        let word: Vec<u8> = lapic.regs[LVT_LINT0..LVT_LINT0 + 4].iter().map(|b| *b as u8).collect();
        assert_eq!(word, 0x712u32.to_le_bytes());
    }
}
