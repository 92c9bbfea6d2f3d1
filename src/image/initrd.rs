//! The first root file system of the distribution's kernel: busybox, the modules that a
//! machine needs before it sees its disks, and a small init.

use super::cpio::Cpio;
use super::modules::Module;

/// Modules without which nothing boots: the transport, root disk, seed disk and network.
pub(super) const REQUIRED: &[&str] = &["virtio_mmio", "virtio_blk", "virtio_net", "ext4", "isofs"];
/// Modules that are good to have: entropy, the power button and what reports it, PCI, console, balloon,
/// sockets to the host, shared folders.
pub(super) const WANTED: &[&str] = &[
    "virtio_rng",
    "button",
    "evdev",
    "virtio_pci",
    "virtio_console",
    "virtio_balloon",
    "vmw_vsock_virtio_transport",
    "virtiofs",
];
/// The first program.
pub(super) const INIT: &str = include_str!("guest/initrd-init.sh");
/// What `INIT` calls.
const APPLETS: &[&str] = &[
    "cat",
    "dd",
    "insmod",
    "mkdir",
    "mount",
    "poweroff",
    "reboot",
    "sh",
    "switch_root",
    "sync",
    "tr",
    "umount",
    "usleep",
];
/// All that decides what an initrd is like, for the digest of a box.
pub(super) const INGREDIENTS: &[&[&str]] = &[REQUIRED, WANTED, APPLETS, &[INIT]];

/// The archive. It is not packed: the guest would have to unpack it at each start.
pub(super) fn build(busybox: &[u8], modules: &[Module]) -> Vec<u8> {
    let mut cpio = Cpio::default();
    for dir in ["bin", "dev", "modules", "proc", "root", "sys"] {
        cpio.dir(dir);
    }
    // The kernel opens it for init before anything is mounted (Documentation/admin-guide/devices.txt).
    cpio.device("dev/console", 5, 1);
    cpio.file("bin/busybox", 0o755, busybox);
    for applet in APPLETS {
        cpio.link(&format!("bin/{applet}"), "busybox");
    }
    let mut order = String::new();
    for module in modules {
        cpio.file(&format!("modules/{}", module.file), 0o644, &module.content);
        order.push_str(&module.file);
        order.push('\n');
    }
    cpio.file("modules/order", 0o644, order.as_bytes());
    cpio.file("init", 0o755, INIT.as_bytes());
    cpio.finish()
}

#[cfg(test)]
mod tests {
    use super::super::cpio::tests::parse;
    use super::*;

    #[test]
    fn it_holds_what_init_calls() {
        let modules = [
            Module { file: "b.ko".into(), content: b"2".to_vec() },
            Module { file: "a.ko".into(), content: b"1".to_vec() },
        ];
        let entries = parse(&build(b"box", &modules));
        let content = |name: &str| &entries.iter().find(|e| e.0 == name).unwrap().3;
        assert_eq!(content("modules/order"), b"b.ko\na.ko\n");
        assert_eq!(content("modules/a.ko"), b"1");
        assert_eq!(content("bin/busybox"), b"box");
        assert_eq!(content("bin/sh"), b"busybox");
        assert!(entries.iter().any(|e| e.0 == "dev/console" && e.2 == (5, 1)));
        assert!(content("init").starts_with(b"#!/bin/sh\n"));
    }
}
