//! Loads an ELF kernel, after a check of everything in its header that the guest memory or
//! the reader of an error message cares about.
//!
//! Layouts: System V ABI, "ELF-64 Object File Format".

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;

use linux_loader::loader::KernelLoader;
use linux_loader::loader::elf::Elf;
use vm_memory::{GuestAddress, GuestMemoryBackend, GuestMemoryMmap};

use super::Error;
use crate::vmm::layout::{HIGH_RAM, HOLE};

const EHDR_LEN: usize = 64;
const PHDR_LEN: usize = 56;
const ELF_CLASS_64: u8 = 2;
const ELF_LITTLE_ENDIAN: u8 = 1;
const EM_X86_64: u16 = 62;
const PT_LOAD: u32 = 1;
/// More program headers than any kernel has (they have 3 to 6).
const MAX_PHDRS: u16 = 64;

/// A kernel in memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Loaded {
    /// The first instruction.
    pub entry: GuestAddress,
    /// First address behind the kernel, with what it clears itself.
    pub end: u64,
}

/// Reads the segments of a kernel straight into guest memory.
pub(super) fn load(mem: &GuestMemoryMmap, kernel: &super::Image) -> Result<Loaded, Error> {
    let (mut file, path) = (&kernel.file, kernel.path.as_path());
    let loaded = check(&Image { file, path, len: kernel.len()? }, mem)?;
    Elf::load(mem, None, &mut file, Some(GuestAddress(HIGH_RAM)))
        .map_err(|source| Error::Load { path: path.to_owned(), source })?;
    Ok(loaded)
}

struct Image<'a> {
    file: &'a File,
    path: &'a Path,
    len: u64,
}

impl Image<'_> {
    fn not_a_kernel(&self, found: &'static str) -> Error {
        Error::NotAKernel { path: self.path.to_owned(), found }
    }

    fn needs(&self, end: Option<u64>) -> Result<(), Error> {
        let needs = end.unwrap_or(u64::MAX);
        if needs > self.len {
            return Err(Error::Truncated { path: self.path.to_owned(), len: self.len, needs });
        }
        Ok(())
    }

    fn read(&self, buf: &mut [u8], offset: u64) -> Result<(), Error> {
        self.file.read_exact_at(buf, offset).map_err(|source| Error::Read {
            what: "kernel",
            path: self.path.to_owned(),
            source,
        })
    }
}

/// Checks the header and every loadable segment against the file's length and the guest's RAM.
fn check(image: &Image<'_>, mem: &GuestMemoryMmap) -> Result<Loaded, Error> {
    let mut ehdr = [0; EHDR_LEN];
    let head = EHDR_LEN.min(usize::try_from(image.len).unwrap_or(EHDR_LEN));
    let (start, _) = ehdr.split_at_mut(head);
    image.read(start, 0)?;
    identify(image, &ehdr)?;
    image.needs(Some(EHDR_LEN as u64))?;

    let entry = u64_at(&ehdr, 24);
    let phoff = u64_at(&ehdr, 32);
    let phentsize = u16_at(&ehdr, 54);
    let phnum = u16_at(&ehdr, 56);
    if usize::from(phentsize) != PHDR_LEN || phnum == 0 || phnum > MAX_PHDRS {
        return Err(image.not_a_kernel("an ELF file without usable program headers"));
    }
    image.needs(phoff.checked_add(u64::from(phnum) * PHDR_LEN as u64))?;

    let mut end = 0;
    let mut entry_inside = false;
    for index in 0..u64::from(phnum) {
        let mut phdr = [0; PHDR_LEN];
        image.read(&mut phdr, phoff + index * PHDR_LEN as u64)?;
        let filesz = u64_at(&phdr, 32);
        image.needs(u64_at(&phdr, 8).checked_add(filesz))?;
        if u32_at(&phdr, 0) != PT_LOAD {
            continue;
        }
        let (paddr, memsz) = (u64_at(&phdr, 24), u64_at(&phdr, 40).max(filesz));
        let outside = || Error::OutsideRam {
            path: image.path.to_owned(),
            start: paddr,
            end: paddr.saturating_add(memsz),
        };
        let segment_end = paddr.checked_add(memsz).ok_or_else(outside)?;
        if memsz == 0 {
            continue;
        }
        if paddr < HIGH_RAM || segment_end > HOLE || !has_range(mem, paddr, memsz) {
            return Err(outside());
        }
        entry_inside |= (paddr..segment_end).contains(&entry);
        end = end.max(segment_end);
    }
    if !entry_inside {
        return Err(image.not_a_kernel("an ELF file that starts outside its own segments"));
    }
    Ok(Loaded { entry: GuestAddress(entry), end })
}

fn has_range(mem: &GuestMemoryMmap, start: u64, len: u64) -> bool {
    usize::try_from(len).is_ok_and(|len| mem.check_range(GuestAddress(start), len))
}

/// Tells an x86-64 ELF from the other things that people take for a kernel.
fn identify(image: &Image<'_>, head: &[u8; EHDR_LEN]) -> Result<(), Error> {
    let found = match head {
        _ if image.len == 0 => "an empty file",
        [0x7f, b'E', b'L', b'F', class, data, ..] => {
            if *class != ELF_CLASS_64 {
                "a 32-bit ELF file"
            } else if *data != ELF_LITTLE_ENDIAN {
                "a big-endian ELF file"
            } else if u16_at(head, 18) != EM_X86_64 && image.len >= EHDR_LEN as u64 {
                "an ELF file for another processor"
            } else {
                return Ok(());
            }
        }
        [b'M', b'Z', ..] => "a bzImage or EFI program",
        [0x1f, 0x8b, ..] => "a gzip file",
        [0xfd, b'7', b'z', b'X', b'Z', ..] => "an xz file",
        [0x28, 0xb5, 0x2f, 0xfd, ..] => "a zstd file",
        [b'#', b'!', ..] => "a script",
        _ => "something else",
    };
    Err(image.not_a_kernel(found))
}

fn bytes_at<const N: usize>(buf: &[u8], at: usize) -> [u8; N] {
    buf.get(at..).and_then(|rest| rest.first_chunk().copied()).unwrap_or([0; N])
}

fn u16_at(buf: &[u8], at: usize) -> u16 {
    u16::from_le_bytes(bytes_at(buf, at))
}

fn u32_at(buf: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes_at(buf, at))
}

fn u64_at(buf: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes_at(buf, at))
}
