//! What a virtual processor is before its first instruction.

pub mod cpuid;
mod regs;

use std::io;

use kvm_bindings::{CpuId, KVM_MAX_CPUID_ENTRIES};
use kvm_ioctls::{Cap, Kvm, VcpuFd};
use vm_memory::GuestMemoryMmap;

pub use regs::write_boot_tables;

/// What went wrong with a virtual processor.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// An ioctl failed.
    #[error("cannot set up virtual CPU {cpu}: {what}")]
    Ioctl {
        /// Its number.
        cpu: u8,
        /// Which of its parts.
        what: &'static str,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// Page tables cannot be written to guest memory.
    #[error("cannot write boot page tables to guest memory")]
    Tables(#[source] vm_memory::GuestMemoryError),
    /// Asked for, and not to be had.
    #[error("cannot give the guest virtual machines of its own: this host's KVM does not offer it")]
    NoNesting,
    /// More leaves than KVM takes.
    #[error("cannot build the CPUID of virtual CPU {0}: too many leaves")]
    TooManyLeaves(u8),
}

/// What all virtual processors of a machine have in common.
#[derive(Debug)]
pub struct Model {
    supported: CpuId,
    tsc_deadline: bool,
    cpus: u8,
    nested: bool,
}

impl Error {
    /// What to do about it.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::NoNesting => Some(
                "the host's administrator turns it on with the option `nested=1` of the module `kvm_intel` \
                 or `kvm_amd`; without it, set `nested = false`"
                    .into(),
            ),
            _ => None,
        }
    }
}

impl Model {
    /// Asks KVM what it can offer to a machine of `cpus` processors, which may run virtual machines
    /// of their own if `nested` is set.
    ///
    /// # Errors
    /// [`Error::Ioctl`], [`Error::NoNesting`].
    pub fn new(kvm: &Kvm, cpus: u8, nested: bool) -> Result<Self, Error> {
        let supported = kvm.get_supported_cpuid(KVM_MAX_CPUID_ENTRIES).map_err(|e| Error::Ioctl {
            cpu: 0,
            what: "supported CPUID",
            source: e.into(),
        })?;
        if nested && !cpuid::can_nest(supported.as_slice()) {
            return Err(Error::NoNesting);
        }
        Ok(Self { supported, tsc_deadline: kvm.check_extension(Cap::TscDeadlineTimer), cpus, nested })
    }

    /// Bits of the guest-physical addresses that KVM can map.
    pub fn address_bits(&self) -> u32 {
        cpuid::address_bits(self.supported.as_slice())
    }

    /// Sets up processor `cpu`; number 0 starts at `entry`, the others wait to be woken.
    ///
    /// # Errors
    /// Any of [`Error`].
    pub fn configure(&self, vcpu: &VcpuFd, cpu: u8, entry: u64) -> Result<(), Error> {
        let failed = |what| move |e: kvm_ioctls::Error| Error::Ioctl { cpu, what, source: e.into() };
        let Self { cpus, tsc_deadline, nested, .. } = *self;
        let topology = cpuid::Topology { cpu, cpus, tsc_deadline, nested };
        let leaves = cpuid::patch(self.supported.as_slice(), topology);
        let leaves = CpuId::from_entries(&leaves).map_err(|_| Error::TooManyLeaves(cpu))?;
        vcpu.set_cpuid2(&leaves).map_err(failed("CPUID"))?;
        regs::set_msrs(vcpu, cpu)?;
        regs::set_lapic(vcpu).map_err(failed("local APIC"))?;
        if cpu == 0 {
            vcpu.set_fpu(&regs::fpu()).map_err(failed("FPU"))?;
            vcpu.set_regs(&regs::general(entry)).map_err(failed("registers"))?;
            let sregs = vcpu.get_sregs().map_err(failed("segments"))?;
            vcpu.set_sregs(&regs::segments(sregs)).map_err(failed("segments"))?;
        }
        Ok(())
    }
}

/// Writes what [`Model::configure`] makes the first processor use.
///
/// # Errors
/// [`Error::Tables`].
pub fn prepare_memory(mem: &GuestMemoryMmap) -> Result<(), Error> {
    write_boot_tables(mem).map_err(Error::Tables)
}
