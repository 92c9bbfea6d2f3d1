//! Provider `kvm`: a [`VmSpec`] on the hypervisor of this crate.

use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use super::agent::{self, Agent};
use super::changes::{self, Telling};
use super::{
    CONSOLE_LIMIT, CONSOLE_LOG, CONSOLE_SOCKET, DiskSpec, EndReason, Engine, ImageFormat, ProviderError,
    Running, ShareSpec, VmSpec, card_socket,
};
use crate::vmm::sandbox::Policy;
use crate::vmm::virtio::fs::Feed;
use crate::vmm::{self, control};

/// Our hypervisor, in this process.
pub(super) struct Kvm;

/// Where programs of the host connect to ports of the guest, in the machine's folder.
const VSOCK: &str = "vsock.sock";
/// The longest packet that passt takes, which it would announce by DHCP, too.
const PASST_MTU: u16 = 65520;
/// The context identifier of every guest; it means something in its own machine only.
const GUEST_CID: u32 = 3;

struct KvmVm {
    vmm: vmm::Vmm,
    target: Arc<KvmTarget>,
    shares: Vec<vmm::Share>,
    changes: Option<Feed>,
}

/// What the control socket acts on.
struct KvmTarget {
    handle: vmm::Handle,
    agent: Agent,
}

impl Engine for Kvm {
    fn start(&self, dir: &Path, spec: &VmSpec, net: OwnedFd) -> Result<Box<dyn Running>, ProviderError> {
        let socket = listener(dir, VSOCK)?;
        let console = listener(dir, CONSOLE_SOCKET)?;
        let (mut nets, mut forwards) = (Vec::new(), Vec::new());
        if spec.no_nat {
            forwards.push(vmm::VsockForward { listener: net, guest_port: agent::SSH_PORT });
        } else {
            let backend = match spec.vhost_user {
                false => vmm::NetBackend::Listen(net.into()),
                true => vmm::NetBackend::VhostUser(vmm::VhostUser {
                    socket: None,
                    listener: Some(net.into()),
                    mtu: Some(PASST_MTU),
                }),
            };
            nets.push(vmm::Net { mac: spec.mac, backend });
        }
        for (place, mac) in spec.cards.iter().enumerate() {
            let backend = vmm::NetBackend::Neighbours(listener(dir, &card_socket(place))?);
            nets.push(vmm::Net { mac: *mac, backend });
        }
        for tap in &spec.taps {
            nets.push(vmm::Net { mac: tap.mac, backend: vmm::NetBackend::Tap(tap.interface.clone()) });
        }
        let ssh = if spec.no_nat { format!(" {}", agent::SSH_WORD) } else { String::new() };
        let shares: Vec<vmm::Share> = spec.shares.iter().map(ShareSpec::to_vmm).collect();
        let (agent, service) = Agent::new().map_err(ProviderError::Spawn)?;
        let mut ports = vec![vmm::VsockPort { port: agent::PORT, service }];
        let changes = match shares.is_empty() {
            true => None,
            false => Some(Feed::new().map_err(ProviderError::Spawn)?),
        };
        ports.extend(changes.clone().map(changes::port));
        let spec = vmm::Spec {
            cpus: spec.cpus,
            nested: spec.nested,
            memory: spec.memory,
            kernel: spec.kernel.clone(),
            initrd: spec.initrd.clone(),
            // The i8042's reset line is the way out that this hypervisor has besides ACPI.
            cmdline: format!("{} reboot=k{ssh}", spec.cmdline),
            disks: spec.disks.iter().map(disk).collect(),
            nets,
            shares: shares.clone(),
            changes: changes.clone(),
            transport: vmm::Transport::default(),
            vsock: Some(vmm::Vsock { cid: GUEST_CID, ports, listener: Some(socket.into()), forwards }),
            serial: vmm::Serial::Log { path: dir.join(CONSOLE_LOG), limit: CONSOLE_LIMIT },
            console: Some(console),
            on_reset: vmm::OnReset::Restart,
        };
        let vmm = vmm::Vmm::new(spec).map_err(ProviderError::Vmm)?;
        let target = Arc::new(KvmTarget { handle: vmm.handle(), agent });
        Ok(Box::new(KvmVm { vmm, target, shares, changes }))
    }
}

/// A socket in the machine's folder that its process answers at.
fn listener(dir: &Path, name: &str) -> Result<UnixListener, ProviderError> {
    let path = dir.join(name);
    control::bind(&path).map_err(|source| ProviderError::File { action: "create", path, source })
}

fn disk(disk: &DiskSpec) -> vmm::Disk {
    let format = match disk.format {
        ImageFormat::Raw => vmm::DiskFormat::Raw,
        ImageFormat::Qcow2 => {
            vmm::DiskFormat::Qcow2 { backing: disk.backing.clone().map(|path| vmm::Backing { path }) }
        }
    };
    vmm::Disk { path: disk.path.clone(), format, read_only: disk.read_only, serial: disk.serial.clone() }
}

impl Running for KvmVm {
    /// What the guest shares stays open to it, and thus to the process that serves it.
    fn policy(&self) -> Policy {
        Policy { largest_file: Some(self.vmm.largest_file()), ..Policy::hypervisor(&self.shares) }
    }

    fn target(&self) -> Arc<dyn control::Target> {
        self.target.clone()
    }

    fn wait(self: Box<Self>) -> Result<EndReason, ProviderError> {
        let _listening = self.target.agent.listen().map_err(ProviderError::Spawn)?;
        let _telling = self.changes.map(Telling::start).transpose().map_err(ProviderError::Spawn)?;
        match self.vmm.run().map_err(ProviderError::Vmm)? {
            // A reset restarts inside the hypervisor; it ends a run only when that was asked for.
            vmm::Exit::PowerOff | vmm::Exit::Reset => Ok(EndReason::Poweroff),
            vmm::Exit::Stopped => Ok(EndReason::Stopped),
        }
    }
}

impl control::Target for KvmTarget {
    fn status(&self) -> control::Status {
        self.handle.status()
    }

    fn power_button(&self) -> io::Result<()> {
        self.handle.power_button()
    }

    fn power_off(&self) -> io::Result<()> {
        self.agent.power_off().or_else(|error| {
            tracing::debug!(%error, "the guest's agent cannot be told: the power button");
            self.handle.power_button()
        })
    }

    fn stop(&self) -> io::Result<()> {
        self.handle.stop()
    }

    fn usage(&self) -> io::Result<control::Usage> {
        self.handle.usage()
    }

    fn set_balloon(&self, bytes: u64) -> io::Result<()> {
        self.handle.set_balloon(bytes)
    }

    fn wait_up(&self, time: Duration) -> io::Result<bool> {
        Ok(self.agent.wait_up(time))
    }
}
