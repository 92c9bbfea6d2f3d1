//! One file a target. A new one is a file here and a line in [`ALL`].

mod balloon;
mod block;
mod bzimage;
mod chain;
mod config;
mod console;
mod control;
mod elf;
mod fs;
mod import;
mod mmio;
mod net;
mod pci;
mod qcow2;
mod rng;
mod serial;
mod switch;
mod vhost;
mod vsock;

use std::os::unix::net::UnixStream;

use libfuzzer_sys::arbitrary::{Result, Unstructured};
use rvm::vmm::virtio::VirtioDevice;
use rvm::vmm::virtio::balloon::Balloon;
use rvm::vmm::virtio::net::Net;
use rvm::vmm::virtio::rng::Rng;
use rvm::vmm::virtio::vsock::Vsock;

use crate::Target;

/// Every target by name; `scripts/fuzz.sh` reads the names from here.
pub const ALL: &[(&str, Target)] = &[
    ("balloon", balloon::run),
    ("block", block::run),
    ("bzimage", bzimage::run),
    ("chain", chain::run),
    ("config", config::run),
    ("console", console::run),
    ("control", control::run),
    ("elf", elf::run),
    ("fs", fs::run),
    ("import", import::run),
    ("mmio", mmio::run),
    ("net", net::run),
    ("pci", pci::run),
    ("qcow2", qcow2::run),
    ("rng", rng::run),
    ("serial", serial::run),
    ("switch", switch::run),
    ("vhost", vhost::run),
    ("vsock", vsock::run),
];

/// One of the devices that are made of little: of one queue, of three, and of five, the last with two pairs of
/// queues and one to control them, and one with registers of its own that can be written.
fn any_device(u: &mut Unstructured<'_>) -> Result<Box<dyn VirtioDevice>> {
    Ok(match u.int_in_range(0..=3)? {
        0 => Box::new(Rng::new()),
        1 => Box::new(Balloon::new(crate::rig::HIGH_END).unwrap()),
        2 => {
            let nobody = rvm::vmm::Vsock { cid: 3, ports: vec![], listener: None, forwards: vec![] };
            Box::new(Vsock::new(nobody).unwrap())
        }
        _ => {
            let sockets = [0, 1].map(|_| UnixStream::pair().unwrap().0.into());
            Box::new(Net::over_sockets(net::MAC, sockets.into()).unwrap())
        }
    })
}
