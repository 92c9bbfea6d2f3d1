//! Why a disk image was refused.

use std::io;
use std::path::PathBuf;

/// Why a disk image was refused.
#[derive(Debug, thiserror::Error)]
pub enum DiskError {
    /// It could not be opened or examined.
    #[error("opening disk image {}", path.display())]
    Open {
        /// The image.
        path: PathBuf,
        /// The cause.
        #[source]
        source: io::Error,
    },
    /// It is neither a file nor a block device.
    #[error("disk image {} is neither a file nor a block device", path.display())]
    NotAFile {
        /// The image.
        path: PathBuf,
    },
    /// Another process, or another disk of this machine, uses it in a way that excludes this one.
    #[error("disk image {} is in use{}", path.display(), if *write { "" } else { " for writing" })]
    Locked {
        /// The image.
        path: PathBuf,
        /// Whether it was to be written.
        write: bool,
    },
    /// It holds nothing.
    #[error("disk image {} is empty", path.display())]
    Empty {
        /// The image.
        path: PathBuf,
    },
    /// Its size is not a number of sectors.
    #[error("disk image {} has {size} bytes, which is not a multiple of 512", path.display())]
    Unaligned {
        /// The image.
        path: PathBuf,
        /// Its size in bytes.
        size: u64,
    },
    /// It was said to be qcow2.
    #[error("disk image {} is not qcow2", path.display())]
    NotQcow2 {
        /// The image.
        path: PathBuf,
    },
    /// It ends before something that it refers to.
    #[error("disk image {} is truncated: {what} ends at byte {end}, the file at {len}", path.display())]
    Truncated {
        /// The image.
        path: PathBuf,
        /// What lies beyond the end.
        what: &'static str,
        /// Where that ends.
        end: u64,
        /// Length of the file.
        len: u64,
    },
    /// It uses a part of qcow2 that is not supported, or is damaged.
    #[error("qcow2 image {} cannot be used", path.display())]
    Qcow2 {
        /// The image.
        path: PathBuf,
        /// The cause.
        #[source]
        source: io::Error,
    },
    /// The serial does not fit.
    #[error("disk serial {serial:?} is not 20 or fewer printable ASCII characters")]
    Serial {
        /// The serial.
        serial: String,
    },
}

impl DiskError {
    /// What the user can do about it.
    pub fn hint(&self) -> Option<String> {
        let hint = match self {
            Self::Locked { .. } => "stop the machine or program that uses it, then try again",
            Self::NotQcow2 { .. } => "if the image holds the bytes of a disk as they are, its format is raw",
            Self::Truncated { .. } => "copy or download the image again: a part of it is missing",
            Self::Unaligned { .. } => "grow the file to a multiple of 512 bytes: truncate -s %512 FILE",
            Self::Qcow2 { .. } => "qemu-img check says what is wrong; qemu-img convert makes a plain copy",
            Self::Open { source, .. } if source.kind() == io::ErrorKind::PermissionDenied => {
                "the image has to be readable, and writable unless the disk is read-only"
            }
            _ => return None,
        };
        Some(hint.to_owned())
    }
}
