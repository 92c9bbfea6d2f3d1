//! Disk images: raw by the system's own calls, qcow2 through `imago`.

use std::fs::{File, OpenOptions};
use std::io::{self, Seek, SeekFrom};
use std::os::fd::AsFd;
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::path::Path;

use imago::qcow2::Qcow2;
use imago::raw::Raw;
use imago::{DenyImplicitOpenGate, FormatAccess, FormatDriverBuilder};
use rustix::fs::{FallocateFlags, fallocate};

use super::clusters::Clusters;
use super::error::DiskError;
use super::storage::Storage;
use super::{SECTOR, lock, qcow2};
use crate::vmm::virtio::iov::{self, Part};
use crate::vmm::{Backing, Disk, DiskFormat};

/// An open and locked image, which several workers use at once. Raw ones need no lock of ours: each
/// request is a call of its own.
#[derive(Debug)]
pub(super) struct Image {
    layer: Layer,
    size: u64,
    /// Length of the file when it was opened.
    len: u64,
}

#[derive(Debug)]
enum Layer {
    Raw(File),
    Qcow2(Box<Clusters>),
}

impl Image {
    /// Opens and locks what `disk` names.
    pub(super) fn open(disk: &Disk) -> Result<Self, DiskError> {
        let (file, len) = open_locked(&disk.path, !disk.read_only)?;
        match &disk.format {
            DiskFormat::Raw => Ok(Self { layer: Layer::Raw(file), size: sectors(&disk.path, len)?, len }),
            DiskFormat::Qcow2 { backing } => open_qcow2(disk, (file, len), backing.as_ref()),
        }
    }

    /// Size in bytes, a multiple of [`SECTOR`].
    pub(super) fn size(&self) -> u64 {
        self.size
    }

    /// Bytes that the file may come to hold. A qcow2 image may have clusters that only its snapshots use, so
    /// that all of the disk comes on top of what there is, with the tables for it: two entries of 8 bytes
    /// at most for each cluster of 512 bytes at least.
    pub(super) fn most_bytes(&self) -> u64 {
        match &self.layer {
            Layer::Raw(_) => self.len,
            Layer::Qcow2(_) => self.len.saturating_add(self.size).saturating_add(self.size / 16),
        }
    }

    /// Bytes of which a whole and aligned number is to be discarded for the host to get them back.
    pub(super) fn granularity(&self) -> u64 {
        match &self.layer {
            Layer::Raw(_) => SECTOR,
            Layer::Qcow2(image) => image.cluster(),
        }
    }

    /// Fills `part` from `offset`.
    pub(super) fn read(&self, part: Part<'_, '_>, offset: u64) -> io::Result<()> {
        match &self.layer {
            Layer::Raw(file) => iov::read_at(file.as_fd(), part, offset),
            Layer::Qcow2(image) => image.read(part, offset),
        }
    }

    /// Writes `part` to `offset`.
    pub(super) fn write(&self, part: Part<'_, '_>, offset: u64) -> io::Result<()> {
        match &self.layer {
            Layer::Raw(file) => iov::write_at(file.as_fd(), part, offset),
            Layer::Qcow2(image) => image.write(part, offset),
        }
    }

    /// Brings every write that is done, whichever queue it came by, to stable storage.
    pub(super) fn sync(&self) -> io::Result<()> {
        match &self.layer {
            Layer::Raw(file) => file.sync_data(),
            Layer::Qcow2(image) => image.sync(),
        }
    }

    /// Hands everything that is kept in memory to the host's kernel.
    pub(super) fn flush(&self) -> io::Result<()> {
        match &self.layer {
            Layer::Raw(_) => Ok(()),
            Layer::Qcow2(image) => image.flush(),
        }
    }

    /// Whether space that was discarded is still to be given back, which the next [`sync`](Self::sync)
    /// does.
    pub(super) fn is_untidy(&self) -> bool {
        match &self.layer {
            Layer::Raw(_) => false,
            Layer::Qcow2(image) => image.is_untidy(),
        }
    }

    /// Gives back the space of a range whose content nobody needs; what a file system or format
    /// cannot give back stays.
    pub(super) fn discard(&self, offset: u64, len: u64) -> io::Result<()> {
        let result = match &self.layer {
            Layer::Raw(file) => punch(file, offset, len),
            Layer::Qcow2(image) => image.discard(offset, len),
        };
        match result {
            Err(error) if unsupported(&error) => Ok(()),
            result => result,
        }
    }

    /// Makes a range read as zeros, giving its space back if `unmap` is set.
    pub(super) fn write_zeroes(&self, offset: u64, len: u64, unmap: bool) -> io::Result<()> {
        match &self.layer {
            Layer::Raw(file) => match zero(file, offset, len, unmap) {
                Err(error) if unsupported(&error) => zero_fill(file, offset, len),
                result => result,
            },
            Layer::Qcow2(image) => image.write_zeroes(offset, len, unmap),
        }
    }
}

/// The files move into the image, and with them their locks.
fn open_qcow2(disk: &Disk, (file, len): (File, u64), backing: Option<&Backing>) -> Result<Image, DiskError> {
    let failed = |source| DiskError::Qcow2 { path: disk.path.clone(), source };
    let cluster = qcow2::check(&file, &disk.path)?;
    let backing = match backing {
        None => None,
        Some(backing) => {
            let (file, len) = open_locked(&backing.path, false)?;
            sectors(&backing.path, len)?;
            let storage = Storage::new(file).map_err(failed)?;
            let raw = Raw::builder(storage).open(DenyImplicitOpenGate::default()).map_err(failed)?;
            Some(FormatAccess::new(raw))
        }
    };
    let storage = Storage::new(file).map_err(failed)?;
    let host = storage.host();
    let image = Qcow2::<Storage>::builder(storage)
        .write(!disk.read_only)
        .backing(backing)
        .data_file(None)
        .open(DenyImplicitOpenGate::default())
        .map_err(failed)?;
    if image.requires_external_data_file() {
        return Err(failed(io::Error::new(io::ErrorKind::Unsupported, "its data is in another file")));
    }
    let image = FormatAccess::new(image);
    let size = sectors(&disk.path, image.size())?;
    Ok(Image { layer: Layer::Qcow2(Box::new(Clusters::new(image, host, cluster))), size, len })
}

/// Opens and locks a file or block device; gives its length too.
fn open_locked(path: &Path, write: bool) -> Result<(File, u64), DiskError> {
    let failed = |source| DiskError::Open { path: path.to_owned(), source };
    // Opening a FIFO would wait for its other end.
    let mut options = OpenOptions::new();
    options.read(true).write(write).custom_flags(libc::O_NONBLOCK);
    let mut file = options.open(path).map_err(failed)?;
    let metadata = file.metadata().map_err(failed)?;
    let len = if metadata.is_file() {
        metadata.len()
    } else if metadata.file_type().is_block_device() {
        file.seek(SeekFrom::End(0)).map_err(failed)?
    } else {
        return Err(DiskError::NotAFile { path: path.to_owned() });
    };
    if !lock::lock(&file, write).map_err(failed)? {
        return Err(DiskError::Locked { path: path.to_owned(), write });
    }
    Ok((file, len))
}

fn sectors(path: &Path, size: u64) -> Result<u64, DiskError> {
    match size {
        0 => Err(DiskError::Empty { path: path.to_owned() }),
        _ if !size.is_multiple_of(SECTOR) => Err(DiskError::Unaligned { path: path.to_owned(), size }),
        _ => Ok(size),
    }
}

/// Gives the space of a range of a file back; it reads as zeros then.
pub(super) fn punch(file: &File, offset: u64, len: u64) -> io::Result<()> {
    Ok(fallocate(file, FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE, offset, len)?)
}

fn zero(file: &File, offset: u64, len: u64, unmap: bool) -> io::Result<()> {
    if unmap {
        return punch(file, offset, len);
    }
    Ok(fallocate(file, FallocateFlags::ZERO_RANGE | FallocateFlags::KEEP_SIZE, offset, len)?)
}

/// Whether the file system or the format lacks the operation.
pub(super) fn unsupported(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::Unsupported || error.raw_os_error() == Some(libc::EOPNOTSUPP)
}

/// Zeros the slow way, for file systems that know no other.
fn zero_fill(file: &File, mut offset: u64, mut len: u64) -> io::Result<()> {
    use std::os::unix::fs::FileExt;
    let zeros = [0; 4096];
    while len > 0 {
        let count = len.min(zeros.len() as u64);
        file.write_all_at(zeros.get(..count as usize).unwrap_or_default(), offset)?;
        offset += count;
        len -= count;
    }
    Ok(())
}
