//! Virtio devices (OASIS virtio 1.2) behind either of two transports.
//!
//! [`mmio`] and [`pci`] hold the registers, `state` what both mean by them, [`device`] what a device is
//! to its transport, [`queue`] the rings and [`chain`] the one reader of descriptor chains. The devices
//! are [`balloon`], [`block`], [`console`], [`mod@fs`], [`net`], [`rng`] and [`vsock`].
//! A guest that breaks the rules of a queue finds DEVICE_NEEDS_RESET set; nothing else is harmed.

pub mod balloon;
pub mod block;
pub mod chain;
pub mod console;
pub mod device;
pub mod fs;
mod iov;
pub mod limit;
pub mod mmio;
pub mod net;
pub mod pci;
pub mod queue;
pub mod rng;
mod state;
pub mod vsock;
mod worker;

pub use device::{Activation, Interrupt, VirtioDevice};
pub use mmio::MmioTransport;
pub use pci::PciTransport;

use std::io;

use vmm_sys_util::eventfd::EventFd;

/// Bytes of guest-physical address space that one device's registers take.
pub const VIRTIO_MMIO_SIZE: u64 = 0x1000;

/// Feature bit: the device follows virtio 1.0 or later (virtio 1.2, section 6).
pub const VIRTIO_F_VERSION_1: u64 = 1 << 32;
/// Feature bit: descriptors may lead to a table of descriptors (virtio 1.2, section 6).
pub const VIRTIO_F_INDIRECT_DESC: u64 = 1 << 28;
/// Feature bit: each side says at which index it wants to hear again (virtio 1.2, section 6).
pub const VIRTIO_F_EVENT_IDX: u64 = 1 << 29;

/// Why a virtio device could not be made or started.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No event descriptor could be had.
    #[error("creating an event descriptor for a virtio device")]
    EventFd(#[source] io::Error),
    /// A transport's capabilities do not fit; their number is fixed, so never seen.
    #[error("configuration space of a virtio device has no room for its capabilities")]
    Capabilities,
    /// The worker thread did not start.
    #[error("starting the worker thread of {device}")]
    Thread {
        /// Which device, as the thread is named.
        device: &'static str,
        /// The cause.
        #[source]
        source: io::Error,
    },
    /// A worker ended in a way that left its device unusable.
    #[error("the worker thread of {device} had failed before")]
    WorkerFailed {
        /// Which device, as the thread is named.
        device: &'static str,
    },
    /// The driver started the device with a queue that cannot work.
    #[error("queue {index} as the driver set it up")]
    Queue {
        /// Number of the queue.
        index: usize,
        /// What is wrong with it.
        #[source]
        source: queue::SetupError,
    },
    /// A disk image was refused.
    #[error(transparent)]
    Disk(#[from] block::DiskError),
    /// A network back-end was refused.
    #[error(transparent)]
    Net(#[from] net::NetError),
    /// A socket device could not be made.
    #[error(transparent)]
    Vsock(#[from] vsock::VsockError),
    /// A folder cannot be shared.
    #[error(transparent)]
    Fs(#[from] fs::FsError),
}

impl Error {
    /// What the user can do about it.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Disk(error) => error.hint(),
            Self::Net(error) => error.hint(),
            Self::Fs(error) => error.hint(),
            Self::EventFd(_) | Self::Thread { .. } => {
                Some("raise the limits on open files and threads (ulimit -n, ulimit -u)".to_owned())
            }
            Self::WorkerFailed { .. } | Self::Queue { .. } | Self::Capabilities | Self::Vsock(_) => None,
        }
    }
}

/// An error and its causes on one line.
fn error_text(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
}

/// An event descriptor that no child process inherits.
fn new_event() -> io::Result<EventFd> {
    EventFd::new(libc::EFD_NONBLOCK | libc::EFD_CLOEXEC)
}
