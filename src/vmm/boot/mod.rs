//! What has to be in guest memory before the first instruction: the kernel, its command line,
//! an initrd, the zero page and the page tables of the 64-bit Linux boot protocol.
//!
//! Source: the kernel's `Documentation/arch/x86/boot.rst`, section "64-bit boot protocol".

pub mod cmdline;
mod elf;
mod linux;

use std::fs::File;
use std::io::{self, Seek};
use std::path::{Path, PathBuf};

use vm_memory::{Bytes, GuestAddress, GuestMemoryBackend, GuestMemoryMmap};

use super::layout::{CMDLINE, HOLE};

/// Why a guest cannot be booted.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file cannot be read.
    #[error("cannot read {what} {path}")]
    Read {
        /// "kernel" or "initrd".
        what: &'static str,
        /// The file.
        path: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// The file is something else.
    #[error("cannot boot {path}: it is {found}, not a 64-bit x86 ELF kernel")]
    NotAKernel {
        /// The file.
        path: PathBuf,
        /// What it is instead.
        found: &'static str,
    },
    /// The file ends before what its header announces.
    #[error("cannot boot {path}: the file is cut short ({len} bytes, needs {needs})")]
    Truncated {
        /// The file.
        path: PathBuf,
        /// Its length in bytes.
        len: u64,
        /// The end of what the header announces, in bytes.
        needs: u64,
    },
    /// The kernel wants to be where there is no RAM.
    #[error("cannot boot {path}: it needs memory from {start:#x} to {end:#x}, outside the guest's RAM")]
    OutsideRam {
        /// The file.
        path: PathBuf,
        /// First address.
        start: u64,
        /// End of the range.
        end: u64,
    },
    /// linux-loader refuses the file.
    #[error("cannot load kernel {path}")]
    Load {
        /// The file.
        path: PathBuf,
        /// Why not.
        #[source]
        source: linux_loader::loader::Error,
    },
    /// No room between the kernel and the end of low memory.
    #[error("cannot place initrd {path} of {len} bytes: only {room} bytes of memory are free")]
    InitrdTooLarge {
        /// The file.
        path: PathBuf,
        /// Its length in bytes.
        len: u64,
        /// Free bytes.
        room: u64,
    },
    /// The kernel would cut it off.
    #[error("cannot use a kernel command line of {len} bytes: Linux takes {max} at most")]
    CmdlineTooLong {
        /// With what announces the devices.
        len: usize,
        /// The limit.
        max: usize,
    },
    /// Bytes that end or corrupt a command line.
    #[error("cannot use a kernel command line with a NUL or line break in it")]
    CmdlineCharacter,
    /// Guest memory does not take what must be written; it is checked before, so never seen.
    #[error("cannot write {what} to guest memory")]
    Write {
        /// What.
        what: &'static str,
        /// Why not.
        #[source]
        source: vm_memory::GuestMemoryError,
    },
}

impl Error {
    /// What to do about it.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::NotAKernel { .. } => Some(
                "give an uncompressed `vmlinux`, or a distribution's `vmlinuz` where it can be unpacked"
                    .into(),
            ),
            Self::Truncated { .. } => Some("fetch or build the kernel again".into()),
            Self::OutsideRam { .. } | Self::InitrdTooLarge { .. } => {
                Some("give the guest more memory".into())
            }
            _ => None,
        }
    }
}

/// Kernel and initrd. They stay open, so that a guest that resets gets the same ones, and needs no
/// path that a sandbox would have to leave open.
#[derive(Debug)]
pub struct Images {
    kernel: Image,
    initrd: Option<Image>,
}

impl Images {
    /// Opens both; what they are is checked when they are loaded.
    ///
    /// # Errors
    /// [`Error::Read`].
    pub fn open(kernel: &Path, initrd: Option<&Path>) -> Result<Self, Error> {
        let kernel = Image::open("kernel", kernel)?;
        let initrd = initrd.map(|path| Image::open("initrd", path)).transpose()?;
        Ok(Self { kernel, initrd })
    }
}

/// An open file.
#[derive(Debug)]
struct Image {
    what: &'static str,
    path: PathBuf,
    file: File,
}

impl Image {
    fn open(what: &'static str, path: &Path) -> Result<Self, Error> {
        let file = File::open(path).map_err(|source| Error::Read { what, path: path.to_owned(), source })?;
        Ok(Self { what, path: path.to_owned(), file })
    }

    fn unreadable(&self, source: io::Error) -> Error {
        Error::Read { what: self.what, path: self.path.clone(), source }
    }

    /// Length of the file in bytes.
    fn len(&self) -> Result<u64, Error> {
        let meta = self.file.metadata().map_err(|e| self.unreadable(e))?;
        if meta.is_dir() {
            return Err(self.unreadable(io::ErrorKind::IsADirectory.into()));
        }
        Ok(meta.len())
    }
}

/// Loads everything and gives the address of the first instruction.
///
/// `cmdline` is complete: it already announces the devices.
///
/// # Errors
/// Any of [`Error`].
pub fn load(mem: &GuestMemoryMmap, images: &Images, cmdline: &str, rsdp: u64) -> Result<GuestAddress, Error> {
    let loaded = elf::load(mem, &images.kernel)?;
    let ramdisk = images.initrd.as_ref().map(|image| load_initrd(mem, image, loaded.end)).transpose()?;
    cmdline::check(cmdline)?;
    mem.write_slice(cmdline.as_bytes(), GuestAddress(CMDLINE))
        .map_err(|source| Error::Write { what: "command line", source })?;
    linux::write_zero_page(mem, ramdisk, cmdline.len(), rsdp)?;
    Ok(loaded.entry)
}

/// Where an initrd is in guest memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Ramdisk {
    addr: u32,
    len: u32,
}

const PAGE: u64 = 4096;

/// Reads the initrd to the top of low memory.
fn load_initrd(mem: &GuestMemoryMmap, image: &Image, kernel_end: u64) -> Result<Ramdisk, Error> {
    let len = image.len()?;
    let top = low_ram_end(mem);
    let room = top.saturating_sub(kernel_end.next_multiple_of(PAGE));
    let too_large = || Error::InitrdTooLarge { path: image.path.clone(), len, room };
    let addr =
        top.checked_sub(len.next_multiple_of(PAGE)).filter(|a| *a >= kernel_end).ok_or_else(too_large)?;
    let count = usize::try_from(len).map_err(|_| too_large())?;
    let mut file = &image.file;
    file.rewind().map_err(|e| image.unreadable(e))?;
    mem.read_exact_volatile_from(GuestAddress(addr), &mut file, count)
        .map_err(|e| image.unreadable(io::Error::other(e)))?;
    let narrow = |v: u64| u32::try_from(v).map_err(|_| too_large());
    Ok(Ramdisk { addr: narrow(addr)?, len: narrow(len)? })
}

/// End of the RAM below the hole.
fn low_ram_end(mem: &GuestMemoryMmap) -> u64 {
    mem.iter().map(end_of).filter(|end| *end <= HOLE).max().unwrap_or(0)
}

/// First address behind a region.
fn end_of(region: &impl vm_memory::GuestMemoryRegion) -> u64 {
    region.start_addr().0.saturating_add(region.len())
}

#[cfg(test)]
mod tests;
