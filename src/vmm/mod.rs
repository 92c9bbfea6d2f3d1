//! The hypervisor: one KVM virtual machine, its devices and its way to boot Linux.
//!
//! This room knows nothing of Vagrantfiles, boxes or SSH and imports nothing of this crate
//! outside itself. It takes a [`Spec`] of checked numbers, paths and open descriptors, and
//! gives back why the guest ended.

pub mod bus;
mod spec;
pub mod virtio;

pub use spec::{Backing, Disk, DiskFormat, Exit, Net, NetBackend, OnReset, Serial, Spec};
