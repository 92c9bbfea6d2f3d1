//! Why a virtual machine cannot be built or go on.

use std::io;
use std::path::PathBuf;

use super::{acpi, boot, bus, cpu, memory, vcpu, virtio};

/// Errors of the hypervisor.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// `/dev/kvm` is missing or not ours to use.
    #[error("cannot open /dev/kvm")]
    Open(#[source] io::Error),
    /// KVM speaks another API than the stable version 12.
    #[error("cannot use /dev/kvm: it has API version {0}, not 12")]
    Version(i32),
    /// More processors than possible, or none.
    #[error("cannot make a machine of {asked} virtual CPUs: 1 to {max} are possible here")]
    Cpus {
        /// As asked for.
        asked: u8,
        /// The limit.
        max: usize,
    },
    /// More virtio devices than places for them.
    #[error("cannot make a machine of {asked} disks, network cards and shared folders: {max} are possible")]
    TooManyDevices {
        /// As asked for.
        asked: usize,
        /// The limit of the transport, beside the devices that every machine has.
        max: usize,
    },
    /// A part of the machine that KVM emulates could not be made.
    #[error("cannot set up the machine: {what}")]
    Kvm {
        /// Which part.
        what: &'static str,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// Guest memory.
    #[error(transparent)]
    Memory(#[from] memory::Error),
    /// Kernel, initrd, command line.
    #[error(transparent)]
    Boot(#[from] boot::Error),
    /// ACPI tables.
    #[error(transparent)]
    Acpi(#[from] acpi::Error),
    /// A processor's initial state.
    #[error(transparent)]
    Cpu(#[from] cpu::Error),
    /// A running processor.
    #[error(transparent)]
    Vcpu(#[from] vcpu::Error),
    /// A disk, network card or another virtio device.
    #[error(transparent)]
    Virtio(#[from] virtio::Error),
    /// Two devices at one address.
    #[error(transparent)]
    Bus(#[from] bus::Conflict),
    /// The console log cannot be opened.
    #[error("cannot open console log {path}")]
    Log {
        /// The file.
        path: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// The terminal does not do what a console needs.
    #[error("cannot use the terminal as the console")]
    Terminal(#[source] io::Error),
    /// A process to which guest memory was given works on it though it was told to stop.
    #[error(
        "the network back-end neither stops nor ends, and could write to guest memory that is used anew: \
         the machine ends"
    )]
    Stray,
    /// The guest resets itself as soon as it has booted, over and over.
    #[error("guest keeps resetting: {count} times in {seconds} s")]
    KeepsResetting {
        /// How often.
        count: usize,
        /// In how many seconds.
        seconds: u64,
    },
}

impl Error {
    /// What to do about it.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Open(e) if e.kind() == io::ErrorKind::NotFound => Some(
                "load the module `kvm_intel` or `kvm_amd`, and enable virtualization in the firmware".into(),
            ),
            Self::Open(e) if e.kind() == io::ErrorKind::PermissionDenied => {
                Some("join the group that owns it: `sudo usermod -aG kvm $USER`, then log in again".into())
            }
            Self::KeepsResetting { .. } => {
                Some("look at the console for a kernel panic: root file system, initrd, memory".into())
            }
            Self::Stray => {
                Some("see what became of its passt (`ps`), end that, and start the machine anew".into())
            }
            Self::Memory(memory::Error::Reserve { .. }) => Some(
                "this host promises no more memory than it has (vm.overcommit_memory): take less `memory`"
                    .into(),
            ),
            Self::Memory(memory::Error::Addresses { most, .. }) => {
                Some(format!("set `memory` to {} MiB at most", most >> 20))
            }
            Self::Boot(e) => e.hint(),
            Self::Cpu(e) => e.hint(),
            Self::Vcpu(e) => e.hint(),
            Self::Virtio(e) => e.hint(),
            _ => None,
        }
    }
}
