//! What runs a machine: our hypervisor (`kvm`) or QEMU (`qemu`), behind one door.
//!
//! Either way a machine is one detached process of this binary (`rvm __vm DIR`) that reads
//! [`VmSpec`] from the machine's folder, answers on a control socket there, and leaves an
//! [`Ended`] record when the guest is gone. With `qemu` that process watches a QEMU child.
//! Nothing outside this room knows which of the two it is.

mod agent;
mod changes;
mod choose;
mod clock;
mod console;
mod kvm;
mod launch;
pub mod process;
mod qemu;
mod qmp;
pub mod share;
mod tsc;
pub mod walls;

use std::io;
use std::net::IpAddr;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use thiserror::Error;

pub use crate::model::ImageFormat;
use crate::model::{Code, ProviderKind};
use crate::vmm::control;
use crate::vmm::sandbox::Policy;

pub use choose::{Choice, choose, qemu_binary};
pub use launch::{
    LOG, Live, console, ended, is_gone, live, power_button, power_off, set_balloon, start, stop, usage,
    wait_ended, wait_gone, wait_up,
};
pub use share::{
    ShareSpec, has_ended as shares_have_ended, serves_shares, start_next as serve_shares_again,
    wait_ended as wait_shares_ended,
};

/// The serial console's log never grows beyond this many bytes, twice (one old, one new).
pub const CONSOLE_LIMIT: u64 = 1 << 20;

/// Name of the serial console's log in a machine's folder; the older half is `console.log.1`.
pub const CONSOLE_LOG: &str = "console.log";

/// Name of the socket, in a machine's folder, by which one attaches to its console.
pub const CONSOLE_SOCKET: &str = "console.sock";

/// A virtual machine as its process needs to know it: `vm.json` in the machine's folder.
/// Plain data; no secret, no open handle.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct VmSpec {
    /// For people: what process lists and logs call it.
    pub name: String,
    /// Which engine.
    pub provider: ProviderKind,
    /// QEMU only: use KVM too, instead of software emulation.
    pub accelerated: bool,
    /// Virtual CPUs.
    pub cpus: u8,
    /// Let the guest run virtual machines of its own.
    #[serde(default)]
    pub nested: bool,
    /// Memory in bytes.
    pub memory: u64,
    /// Uncompressed ELF kernel.
    pub kernel: PathBuf,
    /// Its initial RAM disk.
    pub initrd: Option<PathBuf>,
    /// Command line, without what the engine adds.
    pub cmdline: String,
    /// In order: the first is `/dev/vda`.
    pub disks: Vec<DiskSpec>,
    /// Ethernet address of the card that leads out.
    pub mac: [u8; 6],
    /// There is no such card: the host's connections to its SSH server go over a virtio socket. QEMU has none.
    #[serde(default)]
    pub no_nat: bool,
    /// The network is a vhost-user back-end, not a stream of frames. QEMU is not asked to do that.
    #[serde(default)]
    pub vhost_user: bool,
    /// Cards in private networks, in order, each with its Ethernet address. The one at place N listens
    /// for its switch at [`card_socket`]`(N)`, in the machine's folder.
    #[serde(default)]
    pub cards: Vec<[u8; 6]>,
    /// Cards behind those, each with its Ethernet address and the TAP interface of the host that it leads to.
    #[serde(default)]
    pub taps: Vec<Tap>,
    /// Folders of the host that the guest may mount; empty where [`serves_shares`] says no.
    #[serde(default)]
    pub shares: Vec<ShareSpec>,
}

/// A card of a [`VmSpec`] that leads to a TAP interface of the host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tap {
    /// Ethernet address of the card.
    pub mac: [u8; 6],
    /// Name of the interface: 1 to 15 of ASCII letters, digits, `.`, `_` and `-`.
    pub interface: String,
}

/// Name of the socket, in a machine's folder, at which a private card's switch connects.
pub fn card_socket(place: usize) -> String {
    format!("net{place}.sock")
}

/// A disk of a [`VmSpec`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DiskSpec {
    /// The image.
    pub path: PathBuf,
    /// Its format, always said.
    pub format: ImageFormat,
    /// A raw file below a qcow2 one.
    pub backing: Option<PathBuf>,
    /// Refuse writes.
    pub read_only: bool,
    /// Serial number that the guest sees.
    pub serial: String,
}

/// How a virtual machine ended: `ended.json` in its folder, empty while it runs and when its process
/// was killed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ended {
    /// Why.
    pub reason: EndReason,
    /// The error, for [`EndReason::Failed`].
    pub message: Option<String>,
}

/// Why a virtual machine ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum EndReason {
    /// The guest switched itself off.
    Poweroff,
    /// It was stopped hard, on request.
    Stopped,
    /// The engine gave up.
    Failed,
}

/// Why a provider cannot do what was asked.
#[derive(Debug, Error)]
pub enum ProviderError {
    /// `kvm` was asked for by name and this host cannot.
    #[error("this host cannot run machines with provider `kvm`: {0}")]
    NoKvm(String),
    /// Neither provider can run here.
    #[error(
        "this host can run machines neither with `kvm` ({kvm}) nor with `qemu` (qemu-system-x86_64 is not installed)"
    )]
    NoProvider {
        /// Why not kvm.
        kvm: String,
    },
    /// `qemu` was asked for by name and is not there.
    #[error("provider `qemu` needs qemu-system-x86_64, which is not installed")]
    NoQemu,
    /// A file of the machine cannot be read or written.
    #[error("cannot {action} {path}")]
    File {
        /// Verb.
        action: &'static str,
        /// Which.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The machine's process did not start.
    #[error("cannot start the machine's process")]
    Spawn(#[source] io::Error),
    /// It started and then said why it cannot go on.
    #[error("{message}")]
    Refused {
        /// What it said.
        message: String,
        /// What it said to do next.
        hint: Option<String>,
        /// Its code.
        code: Code,
    },
    /// Talking to a running machine failed.
    #[error("the machine's process does not answer")]
    Control(#[source] io::Error),
    /// It was told to stop and is still there.
    #[error("the machine's process {pid} does not end")]
    Stuck {
        /// Its process id.
        pid: u32,
    },
    /// The hypervisor.
    #[error("the hypervisor failed")]
    Vmm(#[source] crate::vmm::Error),
    /// The walls around it.
    #[error("the machine's process could not be confined")]
    Sandbox(#[source] crate::vmm::sandbox::Error),
    /// The process that serves folders to QEMU.
    #[error("cannot serve the machine's shared folders: {0}")]
    Share(String),
    /// QEMU, for a machine that its host reaches by a virtio socket only.
    #[error(
        "`nat = \"none\"` is not for provider `qemu`: without a card only a virtio socket leads in, and there is none"
    )]
    NoVsock,
    /// QEMU.
    #[error("QEMU ended with {status}: {text}")]
    Qemu {
        /// Its exit status.
        status: String,
        /// What it said last.
        text: String,
    },
}

impl ProviderError {
    /// Its stable code (`docs/errors.md`).
    pub fn code(&self) -> Code {
        match self {
            ProviderError::NoKvm(_) => Code::NoKvm,
            ProviderError::NoProvider { .. } => Code::NoProvider,
            ProviderError::NoQemu => Code::NoQemu,
            ProviderError::File { .. } => Code::ProviderFile,
            ProviderError::Spawn(_) => Code::Spawn,
            ProviderError::Refused { code, .. } => *code,
            ProviderError::Control(_) => Code::NoAnswer,
            ProviderError::Stuck { .. } => Code::Stuck,
            ProviderError::Vmm(error) => vmm_code(error),
            ProviderError::Sandbox(_) => Code::Sandbox,
            ProviderError::Share(_) => Code::Device,
            ProviderError::NoVsock => Code::NoVsock,
            ProviderError::Qemu { .. } => Code::QemuEnded,
        }
    }

    /// What to do next.
    pub fn hint(&self) -> Option<String> {
        match self {
            ProviderError::NoKvm(_) => {
                Some("`rvm doctor` says what is missing; `--provider qemu` works without KVM, slower".into())
            }
            ProviderError::NoProvider { .. } | ProviderError::NoQemu => Some(
                "`sudo apt install qemu-system-x86` gives the slower one; `rvm doctor` says what KVM lacks"
                    .into(),
            ),
            ProviderError::NoVsock => Some(
                "`nat = \"closed\"` reaches nobody either, and has a card for SSH; `rvm doctor` says what KVM lacks".into(),
            ),
            ProviderError::Refused { hint, .. } => hint.clone(),
            ProviderError::Vmm(error) => error.hint(),
            ProviderError::Qemu { text, .. } if text.contains(" lock") => {
                Some("stop the machine or program that uses it, then try again".into())
            }
            ProviderError::Stuck { pid } => Some(format!("`kill -9 {pid}` ends it; its disk is kept")),
            _ => None,
        }
    }
}

/// The stable code of an error of the hypervisor, which knows nothing of codes.
pub fn vmm_code(error: &crate::vmm::Error) -> Code {
    use crate::vmm::Error;
    match error {
        Error::Open(_) => Code::KvmClosed,
        Error::Version(_) => Code::KvmVersion,
        Error::Cpus { .. } => Code::TooManyCpus,
        Error::TooManyDevices { .. } => Code::TooManyDevices,
        Error::Kvm { .. } => Code::KvmSetup,
        Error::Memory(_) => Code::GuestMemory,
        Error::Boot(_) => Code::KernelLoad,
        Error::Acpi(_) => Code::AcpiTables,
        Error::Cpu(_) => Code::CpuSetup,
        Error::Vcpu(_) => Code::CpuStopped,
        Error::Virtio(_) | Error::Stray => Code::Device,
        Error::Bus(_) => Code::AddressConflict,
        Error::Log { .. } => Code::ConsoleLog,
        Error::Terminal(_) => Code::Terminal,
        Error::KeepsResetting { .. } => Code::KeepsResetting,
    }
}

/// Something that runs virtual machines. The two implementers are in `kvm.rs` and `qemu.rs`.
pub(crate) trait Engine {
    /// Builds the machine and lets it run; who carries its frames, or the host's SSH clients, connects to `net`.
    fn start(&self, dir: &Path, spec: &VmSpec, net: OwnedFd) -> Result<Box<dyn Running>, ProviderError>;
}

/// A virtual machine that runs.
pub(crate) trait Running {
    /// What the process may do once the guest runs.
    fn policy(&self) -> Policy;
    /// What the control socket acts on.
    fn target(&self) -> Arc<dyn control::Target>;
    /// Blocks until the guest is gone.
    fn wait(self: Box<Self>) -> Result<EndReason, ProviderError>;
}

/// A locally administered, unicast Ethernet address (IEEE 802c, section 8) made from a machine's id.
pub fn mac_of(id: &str) -> [u8; 6] {
    let digest = <sha2::Sha256 as sha2::Digest>::digest(id.as_bytes());
    let mut mac = [0x02, 0, 0, 0, 0, 0];
    for (to, from) in mac.iter_mut().skip(1).zip(digest.iter()) {
        *to = *from;
    }
    mac
}

/// The same for a card in a private network, by the network's id.
pub fn mac_in(id: &str, network: &str) -> [u8; 6] {
    mac_of(&format!("{id} {network}"))
}

/// The address by which the host reaches its own forwarded ports.
pub fn reachable(ip: IpAddr) -> IpAddr {
    match ip {
        IpAddr::V4(v4) if v4.is_unspecified() => IpAddr::from([127, 0, 0, 1]),
        IpAddr::V6(v6) if v6.is_unspecified() => IpAddr::from(std::net::Ipv6Addr::LOCALHOST),
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mac_is_local_unicast_and_stable() {
        let mac = mac_of("0123");
        assert_eq!(mac[0] & 0b11, 0b10);
        assert_eq!(mac, mac_of("0123"));
        assert_ne!(mac, mac_of("0124"));
    }
}
