//! A PCI bus without bridges: what the guest finds by configuration mechanism #1, how a function
//! describes itself, and message-signalled interrupts.
//!
//! Sources: PCI Local Bus Specification 3.0; section numbers are its. There is bus 0 alone, with a
//! host bridge at slot 0 and one function in each further slot. No function has an interrupt pin.
//! KVM is not known here: [`msix::MsiRouter`] stands between.

pub mod config;
pub mod host;
pub mod msix;

pub use config::{ConfigSpace, Ids};
pub use host::{ConfigPorts, PciFunction};
pub use msix::{MsiMessage, MsiRouter, Msix, Vectors};
