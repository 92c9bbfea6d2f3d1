//! CPUID: what KVM supports, made true for one processor of a machine with `cpus` of them.
//!
//! Leaves are those of the Intel SDM (volume 2A, CPUID) and AMD's APM (volume 3, appendix E).

use kvm_bindings::{KVM_CPUID_FLAG_SIGNIFCANT_INDEX, kvm_cpuid_entry2};

/// Which processor of how many.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Topology {
    /// Number of the processor, which is its APIC id.
    pub cpu: u8,
    /// How many there are, 1 to 64: one package, one thread a core.
    pub cpus: u8,
    /// KVM emulates the TSC deadline timer.
    pub tsc_deadline: bool,
    /// The guest may run virtual machines of its own.
    pub nested: bool,
}

/// Leaf 1, ECX: TSC deadline timer. KVM does not report it; without it Linux calibrates the
/// APIC timer against the PIT for a quarter of a second.
const TSC_DEADLINE: u32 = 1 << 24;
/// Leaf 1, ECX: runs on a hypervisor. KVM does not report it; without it there is no kvm-clock.
const HYPERVISOR: u32 = 1 << 31;
/// Leaf 1, EDX: EBX says how many logical processors the package has.
const HTT: u32 = 1 << 28;
/// Leaf 0x8000_0001, ECX: AMD's word for the same, with cores for threads.
const CMP_LEGACY: u32 = 1 << 1;

/// Leaf 1, ECX: Intel's virtual machine extensions.
const VMX: u32 = 1 << 5;
/// Leaf 0x8000_0001, ECX: AMD's.
const SVM: u32 = 1 << 2;
/// What AMD's can do.
const SVM_LEAF: u32 = 0x8000_000a;

/// Whether KVM can give a guest virtual machine extensions.
pub fn can_nest(supported: &[kvm_cpuid_entry2]) -> bool {
    supported.iter().any(|leaf| match leaf.function {
        0x1 => leaf.ecx & VMX != 0,
        0x8000_0001 => leaf.ecx & SVM != 0,
        _ => false,
    })
}

/// Bits of a guest-physical address, where nothing says it (Intel SDM, CPUID leaf 0x8000_0008).
const FEWEST_ADDRESS_BITS: u32 = 36;

/// Bits of the guest-physical addresses that KVM can map.
pub fn address_bits(supported: &[kvm_cpuid_entry2]) -> u32 {
    let leaf = supported.iter().find(|leaf| leaf.function == 0x8000_0008).map_or(0, |leaf| leaf.eax);
    // 7:0 those of the processor, 23:16 those of a guest where they are fewer: AMD's leaf, which KVM fills in
    // on all processors.
    let (host, guest) = (leaf & 0xff, leaf >> 16 & 0xff);
    match (guest, host) {
        (0, 0) => FEWEST_ADDRESS_BITS,
        (0, host) => host,
        (guest, _) => guest,
    }
}

/// Gives the leaves for the processor that `topology` names.
pub fn patch(supported: &[kvm_cpuid_entry2], topology: Topology) -> Vec<kvm_cpuid_entry2> {
    let max_basic = supported.iter().find(|e| e.function == 0).map_or(0, |e| e.eax);
    let mut leaves: Vec<_> =
        supported.iter().filter(|e| !matches!(e.function, 0xb | 0x1f)).copied().collect();
    for leaf in &mut leaves {
        adjust(leaf, topology);
    }
    if max_basic >= 0xb {
        leaves.extend(extended_topology(topology));
    }
    leaves
}

/// Bits of an APIC id that number the cores.
fn core_bits(cpus: u8) -> u32 {
    u32::from(cpus.max(1)).next_power_of_two().trailing_zeros()
}

fn adjust(leaf: &mut kvm_cpuid_entry2, t: Topology) {
    let id = u32::from(t.cpu);
    let last = u32::from(t.cpus).saturating_sub(1);
    match leaf.function {
        0x1 => {
            leaf.ecx |= HYPERVISOR;
            set(&mut leaf.ecx, TSC_DEADLINE, t.tsc_deadline);
            set(&mut leaf.edx, HTT, t.cpus > 1);
            leaf.ecx &= if t.nested { !0 } else { !VMX };
            // 31:24 APIC id, 23:16 APIC ids in the package, 15:8 cache line in 8 bytes.
            let ids = 1 << core_bits(t.cpus);
            leaf.ebx = (leaf.ebx & 0xff) | id << 24 | ids << 16 | 8 << 8;
        }
        // Deterministic cache parameters of Intel; no type, no cache.
        0x4 if leaf.eax & 0x1f != 0 => {
            let level = leaf.eax >> 5 & 0x7;
            let cores = (1 << core_bits(t.cpus)) - 1;
            let sharing = if level >= 3 { cores } else { 0 };
            leaf.eax = (leaf.eax & 0x3fff) | cores << 26 | sharing << 14;
        }
        0x8000_0001 => {
            leaf.ecx &= if t.nested { !0 } else { !SVM };
            // EBX is the package type, which only AMD fills in.
            if leaf.ecx & CMP_LEGACY != 0 || leaf.ebx != 0 {
                set(&mut leaf.ecx, CMP_LEGACY, t.cpus > 1);
            }
        }
        SVM_LEAF if !t.nested => (leaf.eax, leaf.ebx, leaf.ecx, leaf.edx) = (0, 0, 0, 0),
        // 15:12 bits of the core number in the APIC id, 7:0 last core.
        0x8000_0008 => leaf.ecx = (leaf.ecx & !0xf0ff) | core_bits(t.cpus) << 12 | last,
        // AMD's cache parameters.
        0x8000_001d if leaf.eax & 0x1f != 0 => {
            let level = leaf.eax >> 5 & 0x7;
            let sharing = if level >= 3 { last } else { 0 };
            leaf.eax = (leaf.eax & 0x3fff) | sharing << 14;
        }
        // AMD: extended APIC id; core id with one thread; node 0 of one.
        0x8000_001e => (leaf.eax, leaf.ebx, leaf.ecx) = (id, id, 0),
        _ => {}
    }
}

fn set(register: &mut u32, bit: u32, on: bool) {
    if on {
        *register |= bit;
    } else {
        *register &= !bit;
    }
}

/// Leaf 0xb: a level of threads (one), a level of cores, the end.
fn extended_topology(t: Topology) -> [kvm_cpuid_entry2; 3] {
    let level = |index: u32, shift: u32, count: u32, kind: u32| kvm_cpuid_entry2 {
        function: 0xb,
        index,
        flags: KVM_CPUID_FLAG_SIGNIFCANT_INDEX,
        eax: shift,
        ebx: count,
        ecx: kind << 8 | index,
        edx: u32::from(t.cpu),
        ..Default::default()
    };
    [level(0, 0, 1, 1), level(1, core_bits(t.cpus), u32::from(t.cpus), 2), level(2, 0, 0, 0)]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(function: u32, index: u32, regs: [u32; 4]) -> kvm_cpuid_entry2 {
        let [eax, ebx, ecx, edx] = regs;
        kvm_cpuid_entry2 { function, index, eax, ebx, ecx, edx, ..Default::default() }
    }

    fn host() -> Vec<kvm_cpuid_entry2> {
        vec![
            entry(0, 0, [0x1f, 0, 0, 0]),
            entry(1, 0, [0x306a9, 0xff10_08aa, 0x1, 1 << 28]),
            entry(4, 0, [0x7c00_c121, 0, 0, 0]),
            entry(4, 3, [0x7c00_c163, 0, 0, 0]),
            entry(4, 4, [0, 0, 0, 0]),
            entry(0xb, 0, [9, 9, 9, 9]),
            entry(0x1f, 0, [9, 9, 9, 9]),
            entry(0x4000_0000, 0, [0x4000_0001, 0x4b4d_564b, 0, 0]),
            entry(0x8000_0001, 0, [0, 0x4000_0000, 0x2, 0]),
            entry(0x8000_0008, 0, [0x3030, 0, 0x70ff, 0]),
            entry(0x8000_001e, 0, [77, 77, 77, 0]),
        ]
    }

    fn leaf(leaves: &[kvm_cpuid_entry2], function: u32, index: u32) -> kvm_cpuid_entry2 {
        let mut found = leaves.iter().filter(|e| e.function == function && e.index == index);
        let leaf = *found.next().unwrap();
        assert!(found.next().is_none(), "leaf {function:#x}.{index} is there twice");
        leaf
    }

    #[test]
    fn what_kvm_leaves_out_is_set() {
        let t = Topology { cpu: 0, cpus: 1, tsc_deadline: true, nested: false };
        let one = leaf(&patch(&host(), t), 1, 0);
        assert_eq!(one.ecx, 1 | TSC_DEADLINE | HYPERVISOR);
        assert_eq!(one.edx & HTT, 0);
        let without = patch(&host(), Topology { tsc_deadline: false, ..t });
        assert_eq!(leaf(&without, 1, 0).ecx & TSC_DEADLINE, 0);
    }

    #[test]
    fn addresses_are_as_long_as_a_guests_may_be() {
        let of = |eax| address_bits(&[entry(1, 0, [7, 0, 0, 0]), entry(0x8000_0008, 0, [eax, 0, 0, 0])]);
        assert_eq!((of(0x3027), of(0x3034), of(0x0030_3034)), (39, 52, 48));
        assert_eq!((of(0), address_bits(&[])), (36, 36));
    }

    #[test]
    fn every_leaf_tells_the_same_topology() {
        for (cpus, bits) in [(1, 0), (2, 1), (3, 2), (4, 2), (64, 6)] {
            for cpu in 0..cpus {
                let leaves = patch(&host(), Topology { cpu, cpus, tsc_deadline: true, nested: false });
                let (id, n) = (u32::from(cpu), u32::from(cpus));
                let one = leaf(&leaves, 1, 0);
                assert_eq!((one.ebx >> 24, one.ebx >> 16 & 0xff, one.ebx & 0xff), (id, 1 << bits, 0xaa));
                assert_eq!(one.edx & HTT != 0, cpus > 1);
                let smt = leaf(&leaves, 0xb, 0);
                assert_eq!((smt.eax, smt.ebx, smt.ecx, smt.edx), (0, 1, 0x100, id));
                let core = leaf(&leaves, 0xb, 1);
                assert_eq!((core.eax, core.ebx, core.ecx, core.edx), (bits, n, 0x201, id));
                assert_eq!(leaf(&leaves, 0xb, 2).ebx, 0);
                assert_eq!(leaf(&leaves, 4, 0).eax, 0x0121 | ((1 << bits) - 1) << 26);
                let l3 = leaf(&leaves, 4, 3).eax;
                assert_eq!((l3 >> 26, l3 >> 14 & 0xfff), ((1 << bits) - 1, (1 << bits) - 1));
                assert_eq!(leaf(&leaves, 0x8000_0008, 0).ecx, bits << 12 | (n - 1));
                assert_eq!(leaf(&leaves, 0x8000_001e, 0).eax, id);
                assert_eq!(leaf(&leaves, 0x8000_0001, 0).ecx & CMP_LEGACY != 0, cpus > 1);
            }
        }
    }

    #[test]
    fn virtual_machines_in_the_guest_only_where_asked_for() {
        let mut host = host();
        assert!(!can_nest(&host));
        host.push(entry(SVM_LEAF, 0, [1, 8, 0, 0xff]));
        for leaf in &mut host {
            leaf.ecx |= match leaf.function {
                0x1 => VMX,
                0x8000_0001 => SVM,
                _ => 0,
            };
        }
        assert!(can_nest(&host));
        for nested in [false, true] {
            let leaves = patch(&host, Topology { cpu: 0, cpus: 1, tsc_deadline: true, nested });
            assert_eq!(leaf(&leaves, 1, 0).ecx & VMX != 0, nested);
            assert_eq!(leaf(&leaves, 0x8000_0001, 0).ecx & SVM != 0, nested);
            assert_eq!(leaf(&leaves, SVM_LEAF, 0).edx != 0, nested);
        }
    }

    #[test]
    fn other_leaves_are_kept_and_0x1f_is_left_out() {
        let leaves = patch(&host(), Topology { cpu: 1, cpus: 2, tsc_deadline: true, nested: false });
        assert_eq!(leaf(&leaves, 0x4000_0000, 0).ebx, 0x4b4d_564b);
        assert!(!leaves.iter().any(|e| e.function == 0x1f));
        assert_eq!(leaf(&leaves, 4, 4).eax, 0);
    }

    #[test]
    fn an_old_processor_gets_no_leaf_beyond_its_last() {
        let leaves = patch(
            &[entry(0, 0, [0xa, 0, 0, 0])],
            Topology { cpu: 0, cpus: 4, tsc_deadline: false, nested: false },
        );
        assert_eq!(leaves.len(), 1);
    }
}
