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
}

impl Model {
    /// Asks KVM what it can offer to a machine of `cpus` processors.
    ///
    /// # Errors
    /// [`Error::Ioctl`].
    pub fn new(kvm: &Kvm, cpus: u8) -> Result<Self, Error> {
        let supported = kvm.get_supported_cpuid(KVM_MAX_CPUID_ENTRIES).map_err(|e| Error::Ioctl {
            cpu: 0,
            what: "supported CPUID",
            source: e.into(),
        })?;
        Ok(Self { supported, tsc_deadline: kvm.check_extension(Cap::TscDeadlineTimer), cpus })
    }

    /// Sets up processor `cpu`; number 0 starts at `entry`, the others wait to be woken.
    ///
    /// # Errors
    /// Any of [`Error`].
    pub fn configure(&self, vcpu: &VcpuFd, cpu: u8, entry: u64) -> Result<(), Error> {
        let failed = |what| move |e: kvm_ioctls::Error| Error::Ioctl { cpu, what, source: e.into() };
        let topology = cpuid::Topology { cpu, cpus: self.cpus, tsc_deadline: self.tsc_deadline };
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
