//! Provider `kvm`: a [`VmSpec`] on the hypervisor of this crate.

use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::Arc;

use super::{
    CONSOLE_LIMIT, CONSOLE_LOG, DiskSpec, EndReason, Engine, ImageFormat, ProviderError, Running, VmSpec,
};
use crate::vmm::{self, control};

/// Our hypervisor, in this process.
pub(super) struct Kvm;

struct KvmVm {
    vmm: vmm::Vmm,
    handle: Arc<vmm::Handle>,
}

impl Engine for Kvm {
    fn start(&self, dir: &Path, spec: &VmSpec, net: OwnedFd) -> Result<Box<dyn Running>, ProviderError> {
        let spec = vmm::Spec {
            cpus: spec.cpus,
            nested: spec.nested,
            memory: spec.memory,
            kernel: spec.kernel.clone(),
            initrd: spec.initrd.clone(),
            // The i8042's reset line is the way out that this hypervisor has besides ACPI.
            cmdline: format!("{} reboot=k", spec.cmdline),
            disks: spec.disks.iter().map(disk).collect(),
            nets: vec![vmm::Net { mac: spec.mac, backend: vmm::NetBackend::Stream(net) }],
            transport: vmm::Transport::default(),
            serial: vmm::Serial::Log { path: dir.join(CONSOLE_LOG), limit: CONSOLE_LIMIT },
            on_reset: vmm::OnReset::Restart,
        };
        let vmm = vmm::Vmm::new(spec).map_err(ProviderError::Vmm)?;
        let handle = Arc::new(vmm.handle());
        Ok(Box::new(KvmVm { vmm, handle }))
    }
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
    fn target(&self) -> Arc<dyn control::Target> {
        self.handle.clone()
    }

    fn wait(self: Box<Self>) -> Result<EndReason, ProviderError> {
        match self.vmm.run().map_err(ProviderError::Vmm)? {
            // A reset restarts inside the hypervisor; it ends a run only when that was asked for.
            vmm::Exit::PowerOff | vmm::Exit::Reset => Ok(EndReason::Poweroff),
            vmm::Exit::Stopped => Ok(EndReason::Stopped),
        }
    }
}
