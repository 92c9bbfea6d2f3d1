//! Disk images: raw by the system's own calls, qcow2 through `imago`.

use std::fs::{File, OpenOptions};
use std::io::{self, Seek, SeekFrom};
use std::os::fd::AsFd;
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::path::Path;
use std::sync::{PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use imago::file::File as Storage;
use imago::io_buffers::{IoVector, IoVectorMut};
use imago::qcow2::Qcow2;
use imago::raw::Raw;
use imago::{DenyImplicitOpenGate, FormatAccess, FormatDriverBuilder};
use rustix::fs::{FallocateFlags, fallocate};
use vm_memory::VolatileSlice;

use super::error::DiskError;
use super::{SECTOR, lock, qcow2};
use crate::vmm::virtio::iov;
use crate::vmm::{Backing, Disk, DiskFormat};

/// An open and locked image, which several workers use at once. Raw ones need no lock of ours: each
/// request is a call of its own. qcow2 is left to `imago`, which lets requests that touch different
/// clusters run in parallel; only discarding and zeroing exclude all else.
#[derive(Debug)]
pub(super) struct Image {
    layer: Layer,
    size: u64,
}

#[derive(Debug)]
enum Layer {
    Raw(File),
    Qcow2(Box<Qcow2Image>),
}

#[derive(Debug)]
struct Qcow2Image(RwLock<FormatAccess<Storage>>);

impl Qcow2Image {
    fn shared(&self) -> io::Result<RwLockReadGuard<'_, FormatAccess<Storage>>> {
        self.0.read().map_err(broken)
    }

    fn alone(&self) -> io::Result<RwLockWriteGuard<'_, FormatAccess<Storage>>> {
        self.0.write().map_err(broken)
    }
}

/// A worker panicked in the middle of a change.
fn broken<T>(_: PoisonError<T>) -> io::Error {
    io::Error::other("an earlier change of the image was not finished")
}

impl Image {
    /// Opens and locks what `disk` names.
    pub(super) fn open(disk: &Disk) -> Result<Self, DiskError> {
        let (file, len) = open_locked(&disk.path, !disk.read_only)?;
        match &disk.format {
            DiskFormat::Raw => Ok(Self { layer: Layer::Raw(file), size: sectors(&disk.path, len)? }),
            DiskFormat::Qcow2 { backing } => open_qcow2(disk, file, backing.as_ref()),
        }
    }

    /// Size in bytes, a multiple of [`SECTOR`].
    pub(super) fn size(&self) -> u64 {
        self.size
    }

    /// Fills `slices` from `offset`.
    pub(super) fn read(&self, slices: &[VolatileSlice<'_>], offset: u64) -> io::Result<()> {
        match &self.layer {
            Layer::Raw(file) => iov::read_at(file.as_fd(), slices, offset),
            Layer::Qcow2(image) => {
                let (vector, _guard) = IoVectorMut::from_volatile_slice(slices);
                image.shared()?.readv(vector, offset)
            }
        }
    }

    /// Writes `slices` to `offset`.
    pub(super) fn write(&self, slices: &[VolatileSlice<'_>], offset: u64) -> io::Result<()> {
        match &self.layer {
            Layer::Raw(file) => iov::write_at(file.as_fd(), slices, offset),
            Layer::Qcow2(image) => {
                let (vector, _guard) = IoVector::from_volatile_slice(slices);
                image.shared()?.writev(vector, offset)
            }
        }
    }

    /// Brings every write that is done, whichever queue it came by, to stable storage.
    pub(super) fn sync(&self) -> io::Result<()> {
        match &self.layer {
            Layer::Raw(file) => file.sync_data(),
            Layer::Qcow2(image) => {
                let image = image.shared()?;
                image.flush()?;
                image.sync()
            }
        }
    }

    /// Hands everything that is kept in memory to the host's kernel.
    pub(super) fn flush(&self) -> io::Result<()> {
        match &self.layer {
            Layer::Raw(_) => Ok(()),
            Layer::Qcow2(image) => image.shared()?.flush(),
        }
    }

    /// Gives back the space of a range whose content nobody needs; what a file system or format
    /// cannot give back stays.
    pub(super) fn discard(&self, offset: u64, len: u64) -> io::Result<()> {
        let result = match &self.layer {
            Layer::Raw(file) => punch(file, offset, len),
            Layer::Qcow2(image) => image.alone()?.discard_to_any(offset, len),
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
            Layer::Qcow2(image) if unmap => image.alone()?.discard_to_zero(offset, len),
            Layer::Qcow2(image) => image.alone()?.write_zeroes(offset, len),
        }
    }
}

/// The files move into the image, and with them their locks.
fn open_qcow2(disk: &Disk, file: File, backing: Option<&Backing>) -> Result<Image, DiskError> {
    let failed = |source| DiskError::Qcow2 { path: disk.path.clone(), source };
    qcow2::check(&file, &disk.path)?;
    let backing = match backing {
        None => None,
        Some(backing) => {
            let (file, len) = open_locked(&backing.path, false)?;
            sectors(&backing.path, len)?;
            let storage = Storage::try_from(file).map_err(failed)?;
            let raw = Raw::builder(storage).open(DenyImplicitOpenGate::default()).map_err(failed)?;
            Some(FormatAccess::new(raw))
        }
    };
    let storage = Storage::try_from(file).map_err(failed)?;
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
    Ok(Image { layer: Layer::Qcow2(Box::new(Qcow2Image(RwLock::new(image)))), size })
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

fn punch(file: &File, offset: u64, len: u64) -> io::Result<()> {
    Ok(fallocate(file, FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE, offset, len)?)
}

fn zero(file: &File, offset: u64, len: u64, unmap: bool) -> io::Result<()> {
    if unmap {
        return punch(file, offset, len);
    }
    Ok(fallocate(file, FallocateFlags::ZERO_RANGE | FallocateFlags::KEEP_SIZE, offset, len)?)
}

/// Whether the file system or the format lacks the operation.
fn unsupported(error: &io::Error) -> bool {
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
