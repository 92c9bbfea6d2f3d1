//! Guest memory: two regions around the 32-bit hole, on huge pages where the host has them.
#![allow(unsafe_code)]

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;

use kvm_bindings::kvm_userspace_memory_region;
use kvm_ioctls::VmFd;
use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, memfd_create};
use vm_memory::mmap::MmapRegionBuilder;
use vm_memory::{
    FileOffset, GuestAddress, GuestMemoryBackend, GuestMemoryMmap, GuestMemoryRegion, GuestRegionMmap,
    VolatileSlice,
};

use super::layout::{HOLE, HOLE_END};

/// Size of an x86 huge page. A guest page table walk on a nested page table is one level
/// shorter for memory that is aligned to it on both sides: 15 faults instead of 4,000 to boot.
const HUGE_PAGE: usize = 2 << 20;

/// Size of an x86 page.
pub const PAGE: usize = 4096;

/// What went wrong with guest memory.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The size is outside what the hypervisor offers.
    #[error("cannot give a guest {0} bytes of memory: not a multiple of 1 MiB between 16 MiB and 1 TiB")]
    Size(u64),
    /// The host's processors do not address so much.
    #[error(
        "cannot give a guest {} MiB of memory: the processors of this host address {bits} bits, which is {} MiB at \
         most beside the addresses of devices", bytes >> 20, most >> 20
    )]
    Addresses {
        /// How much was asked for.
        bytes: u64,
        /// Bits of an address.
        bits: u32,
        /// The most that they reach.
        most: u64,
    },
    /// The host does not give the memory.
    #[error("cannot reserve {bytes} bytes of guest memory")]
    Reserve {
        /// How much.
        bytes: u64,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// vm-memory refuses the region.
    #[error("cannot lay out guest memory: {0}")]
    Layout(String),
    /// KVM refuses the region.
    #[error("cannot give KVM the guest memory at {addr:#x}")]
    Attach {
        /// Guest-physical start.
        addr: u64,
        /// Why not.
        #[source]
        source: io::Error,
    },
}

/// Smallest guest: below it no kernel fits.
const MIN: u64 = 16 << 20;
/// Largest guest, as in a Vagrantfile. Not every processor addresses that: [`check`].
const MAX: u64 = 1 << 40;

/// Splits `size` bytes of RAM around the hole: `(guest address, length)` of each region.
///
/// # Errors
/// [`Error::Size`] when `size` is not a multiple of 1 MiB from 16 MiB to 1 TiB.
pub fn split(size: u64) -> Result<Vec<(u64, u64)>, Error> {
    if !(MIN..=MAX).contains(&size) || !size.is_multiple_of(1 << 20) {
        return Err(Error::Size(size));
    }
    if size <= HOLE {
        return Ok(vec![(0, size)]);
    }
    Ok(vec![(0, HOLE), (HOLE_END, size - HOLE)])
}

/// Whether `size` bytes of RAM, around the hole, lie within addresses of `bits` bits.
///
/// # Errors
/// [`Error::Size`] as [`split`]; [`Error::Addresses`].
pub fn check(size: u64, bits: u32) -> Result<(), Error> {
    let limit = 1u64.checked_shl(bits).unwrap_or(u64::MAX);
    let end = split(size)?.into_iter().map(|(start, len)| start + len).max().unwrap_or_default();
    if end <= limit {
        return Ok(());
    }
    let most = limit.saturating_sub(HOLE_END - HOLE).max(limit.min(HOLE));
    Err(Error::Addresses { bytes: size, bits, most })
}

/// Whether another process can map the memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sharing {
    /// No: huge pages wherever the host has them.
    Private,
    /// It lies in files without a name (`memfd_create(2)`) that cannot change their size. They get huge
    /// pages only where `/sys/kernel/mm/transparent_hugepage/shmem_enabled` is `advise` or more, which it
    /// is not by default.
    Shared,
}

/// Whether this host gives shared memory huge pages when it is asked to.
pub fn shared_huge_pages() -> bool {
    let setting = std::fs::read_to_string("/sys/kernel/mm/transparent_hugepage/shmem_enabled");
    setting.is_ok_and(|text| gives_huge_pages(&text))
}

/// The word in brackets is what holds (`Documentation/admin-guide/mm/transhuge.rst` of the kernel).
fn gives_huge_pages(setting: &str) -> bool {
    ["[always]", "[within_size]", "[advise]", "[force]"].iter().any(|word| setting.contains(word))
}

/// Memory of one guest.
///
/// The mapping stays valid for the life of the process, so that no device thread can ever hold
/// a dangling address; its pages go back to the host when this is dropped or [cleared](Self::clear).
#[derive(Debug)]
pub struct Memory {
    guest: GuestMemoryMmap,
}

impl Memory {
    /// Reserves `size` bytes; the host gives the pages when the guest touches them.
    ///
    /// # Errors
    /// [`Error::Size`], [`Error::Reserve`], [`Error::Layout`].
    pub fn new(size: u64, sharing: Sharing) -> Result<Self, Error> {
        let mut regions = Vec::with_capacity(2);
        for (base, len) in split(size)? {
            let len = usize::try_from(len).map_err(|_| Error::Size(size))?;
            let failed = |source| Error::Reserve { bytes: size, source };
            let file = match sharing {
                Sharing::Private => None,
                Sharing::Shared => Some(nameless(len).map_err(failed)?),
            };
            let host = reserve(len, file.as_ref()).map_err(failed)?;
            // SAFETY: `reserve` has just mapped `len` bytes at `host`, and nothing ever unmaps them.
            let builder = unsafe { MmapRegionBuilder::new(len).with_raw_mmap_pointer(host) };
            let mut builder = builder
                .with_mmap_prot(libc::PROT_READ | libc::PROT_WRITE)
                .with_mmap_flags(if file.is_some() { SHARED } else { PRIVATE });
            if let Some(file) = file {
                builder = builder.with_file_offset(FileOffset::new(file, 0));
            }
            let region = builder.build().map_err(|e| Error::Layout(e.to_string()))?;
            regions.push(
                GuestRegionMmap::new(region, GuestAddress(base))
                    .ok_or_else(|| Error::Layout(format!("region at {base:#x} is too long")))?,
            );
        }
        let guest = GuestMemoryMmap::from_regions(regions).map_err(|e| Error::Layout(e.to_string()))?;
        Ok(Self { guest })
    }

    /// The memory as devices see it.
    pub fn guest(&self) -> &GuestMemoryMmap {
        &self.guest
    }

    /// Makes `vm` see the memory at its guest-physical addresses.
    ///
    /// # Errors
    /// [`Error::Attach`].
    pub fn attach(&self, vm: &VmFd) -> Result<(), Error> {
        for (slot, region) in (0..).zip(self.guest.iter()) {
            let kvm_region = kvm_userspace_memory_region {
                slot,
                flags: 0,
                guest_phys_addr: region.start_addr().0,
                memory_size: region.len(),
                userspace_addr: region.as_ptr() as u64,
            };
            // SAFETY: the mapping is ours, as long as the region says, and is never unmapped.
            unsafe { vm.set_user_memory_region(kvm_region) }
                .map_err(|e| Error::Attach { addr: region.start_addr().0, source: e.into() })?;
        }
        Ok(())
    }

    /// Gives all pages back: the memory reads as zeros again.
    pub fn clear(&self) {
        let sharing = sharing(&self.guest);
        for region in self.guest.iter() {
            if let Ok(all) = region.as_volatile_slice()
                && let Err(error) = give_back(&all, sharing)
            {
                tracing::error!(%error, "cannot clear guest memory");
            }
        }
    }
}

/// Whether another process can map `guest`.
pub fn sharing(guest: &GuestMemoryMmap) -> Sharing {
    let shared = guest.iter().any(|region| region.file_offset().is_some());
    if shared { Sharing::Shared } else { Sharing::Private }
}

/// Gives the whole pages within `slice`, which is guest memory that is shared as said, back to the host;
/// gives the number of bytes. They read zeros afterwards, and cost nothing until they are touched again.
///
/// This is the only place that knows how (`madvise(2)`).
///
/// # Errors
/// What the system says, for memory that is locked.
pub fn give_back(slice: &VolatileSlice<'_>, sharing: Sharing) -> io::Result<u64> {
    let start = slice.ptr_guard_mut().as_ptr();
    let skip = start.align_offset(PAGE);
    let len = slice.len().saturating_sub(skip) / PAGE * PAGE;
    if len == 0 {
        return Ok(0);
    }
    let advice = match sharing {
        Sharing::Private => libc::MADV_DONTNEED,
        // What others mapped goes as well: a hole in the file.
        Sharing::Shared => libc::MADV_REMOVE,
    };
    // SAFETY: the pages lie within the slice, which the borrow keeps mapped; to fill them with zeros
    // is a write like any other through a volatile slice.
    let result = unsafe { libc::madvise(start.wrapping_add(skip).cast(), len, advice) };
    if result == 0 { Ok(len as u64) } else { Err(io::Error::last_os_error()) }
}

/// Bytes of guest memory that the host has given pages to, as `mincore(2)` counts them.
///
/// Costs nothing for memory that was never touched or lies on huge pages, and up to 2 ms a GiB for
/// memory on small ones. The kernel's lock on the address space is let go every 16 MiB.
///
/// # Errors
/// What the system says.
pub fn resident(guest: &GuestMemoryMmap) -> io::Result<u64> {
    let mut pages = vec![0u8; 16 << 10];
    let mut count = 0u64;
    for region in guest.iter() {
        let (host, len) = (region.as_ptr(), region.size());
        for offset in (0..len).step_by(pages.len() * PAGE) {
            let piece = (len - offset).min(pages.len() * PAGE);
            // SAFETY: the piece lies within the region's mapping, and the vector has a byte for
            // each of its pages.
            let result =
                unsafe { libc::mincore(host.wrapping_add(offset).cast(), piece, pages.as_mut_ptr()) };
            if result != 0 {
                return Err(io::Error::last_os_error());
            }
            let seen = pages.iter().take(piece.div_ceil(PAGE));
            count += seen.map(|page| u64::from(page & 1)).sum::<u64>();
        }
    }
    Ok(count * PAGE as u64)
}

impl Drop for Memory {
    fn drop(&mut self) {
        self.clear();
    }
}

const PRIVATE: i32 = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE;
const SHARED: i32 = libc::MAP_SHARED | libc::MAP_NORESERVE;

/// A file of `len` bytes that only descriptors lead to. Nobody who has one can make it shorter, upon which
/// we would find memory gone, or longer.
fn nameless(len: usize) -> io::Result<File> {
    let file = File::from(memfd_create("guest", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING)?);
    file.set_len(len as u64)?;
    fcntl_add_seals(&file, SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL)?;
    Ok(file)
}

/// Maps `len` bytes of `file`, or of zeros, at an address that is a multiple of a huge page.
fn reserve(len: usize, file: Option<&File>) -> io::Result<*mut u8> {
    let padded = len.checked_add(HUGE_PAGE).ok_or(io::ErrorKind::OutOfMemory)?;
    let prot = libc::PROT_READ | libc::PROT_WRITE;
    // SAFETY: a new anonymous mapping at an address of the kernel's choice touches nothing of ours.
    let start = unsafe { libc::mmap(std::ptr::null_mut(), padded, prot, PRIVATE, -1, 0) };
    if start == libc::MAP_FAILED {
        return Err(io::Error::last_os_error());
    }
    let start = start.cast::<u8>();
    let head = start.align_offset(HUGE_PAGE).min(HUGE_PAGE);
    let aligned = start.wrapping_add(head);
    // SAFETY: the bytes in front of `aligned` are part of the mapping above, and unused.
    unsafe { libc::munmap(start.cast(), head) };
    // SAFETY: so are those behind `aligned + len`, because `padded` is `len` and a huge page.
    unsafe { libc::munmap(aligned.wrapping_add(len).cast(), HUGE_PAGE - head) };
    if let Some(file) = file {
        let (fixed, fd) = (SHARED | libc::MAP_FIXED, file.as_raw_fd());
        // SAFETY: it takes the place of the mapping above, which nobody uses yet.
        let mapped = unsafe { libc::mmap(aligned.cast(), len, prot, fixed, fd, 0) };
        if mapped == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
    }
    // SAFETY: advice on our own mapping. A host without huge pages refuses, and only speed is lost.
    unsafe { libc::madvise(aligned.cast(), len, libc::MADV_HUGEPAGE) };
    Ok(aligned)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::FileExt;

    use super::*;
    use vm_memory::Bytes;

    const GIB: u64 = 1 << 30;

    #[test]
    fn ram_is_split_around_the_hole() {
        assert_eq!(split(128 << 20).unwrap(), [(0, 128 << 20)]);
        assert_eq!(split(3 * GIB).unwrap(), [(0, 3 * GIB)]);
        assert_eq!(split(3 * GIB + (1 << 20)).unwrap(), [(0, 3 * GIB), (4 * GIB, 1 << 20)]);
        assert_eq!(split(4608 << 20).unwrap(), [(0, 3 * GIB), (4 * GIB, 1536 << 20)]);
    }

    #[test]
    fn odd_sizes_are_refused() {
        for size in [0, 1 << 20, (16 << 20) + 1, 1025 * GIB, u64::MAX] {
            assert!(matches!(split(size), Err(Error::Size(s)) if s == size), "{size}");
        }
    }

    #[test]
    fn a_guest_ends_below_the_last_address_of_the_processor() {
        let most = |size, bits| match check(size, bits) {
            Ok(()) => size,
            Err(Error::Addresses { bytes, bits: told, most }) => {
                assert_eq!((bytes, told), (size, bits));
                assert!(check(most, bits).is_ok() && most < size);
                most
            }
            Err(error) => panic!("{error}"),
        };
        assert_eq!(most(511 * GIB, 39), 511 * GIB);
        // The hole takes one of the 512.
        assert_eq!(most(512 * GIB, 39), 511 * GIB);
        assert_eq!(most(1024 * GIB, 40), 1023 * GIB);
        assert_eq!(most(1024 * GIB, 46), 1024 * GIB);
        assert_eq!(most(3 * GIB, 32), 3 * GIB);
        assert_eq!(most(4 * GIB, 32), 3 * GIB);
        assert!(matches!(check(0, 46), Err(Error::Size(0))));
        assert!(check(1024 * GIB, 64).is_ok());
        let text = check(512 * GIB, 39).unwrap_err().to_string();
        assert!(
            text.contains("524288 MiB of memory: ") && text.contains("39 bits, which is 523264 MiB"),
            "{text}"
        );
    }

    #[test]
    fn regions_are_aligned_to_huge_pages_and_writable_to_the_end() {
        let memory = Memory::new(3 * GIB + (5 << 20), Sharing::Private).unwrap();
        for region in memory.guest().iter() {
            assert_eq!(region.as_ptr() as usize % HUGE_PAGE, 0);
            let last = GuestAddress(region.last_addr().0);
            memory.guest().write_obj(7u8, last).unwrap();
            assert_eq!(memory.guest().read_obj::<u8>(last).unwrap(), 7);
        }
        assert!(memory.guest().write_obj(0u8, GuestAddress(3 * GIB)).is_err());
    }

    #[test]
    fn word_in_brackets_says_whether_shared_memory_gets_huge_pages() {
        assert!(!gives_huge_pages("always within_size advise [never] deny force"));
        assert!(!gives_huge_pages("always within_size advise never [deny] force"));
        assert!(gives_huge_pages("always within_size [advise] never deny force"));
        assert!(gives_huge_pages("[always] within_size advise never deny force"));
    }

    #[test]
    fn cleared_memory_reads_zeros() {
        for sharing in [Sharing::Private, Sharing::Shared] {
            let memory = Memory::new(16 << 20, sharing).unwrap();
            memory.guest().write_obj(u64::MAX, GuestAddress(0x1000)).unwrap();
            memory.clear();
            assert_eq!(memory.guest().read_obj::<u64>(GuestAddress(0x1000)).unwrap(), 0);
        }
    }

    #[test]
    fn shared_memory_is_a_file_whose_size_nobody_changes() {
        let memory = Memory::new(3 * GIB + (5 << 20), Sharing::Shared).unwrap();
        for region in memory.guest().iter() {
            assert_eq!(region.as_ptr() as usize % HUGE_PAGE, 0);
            let last = GuestAddress(region.last_addr().0);
            memory.guest().write_obj(7u8, last).unwrap();
            let file = region.file_offset().unwrap().file();
            let mut byte = [0];
            file.read_exact_at(&mut byte, region.len() - 1).unwrap();
            assert_eq!(byte, [7]);
            for len in [0, region.len() - 1, region.len() + 1] {
                assert_eq!(file.set_len(len).unwrap_err().kind(), io::ErrorKind::PermissionDenied);
            }
        }
        assert_eq!(sharing(memory.guest()), Sharing::Shared);
    }

    /// KiB in use of the mappings from `start` to `end`.
    fn rss(start: usize, end: usize) -> u64 {
        let smaps = std::fs::read_to_string("/proc/self/smaps").unwrap();
        let (mut within, mut sum) = (false, 0);
        for line in smaps.lines() {
            let word = line.split(' ').next().unwrap_or_default();
            if let Some((from, to)) = word.split_once('-') {
                let hex = |text| usize::from_str_radix(text, 16).unwrap();
                within = hex(from) < end && hex(to) > start;
            } else if let Some(rest) = line.strip_prefix("Rss:").filter(|_| within) {
                sum += rest.trim().trim_end_matches(" kB").parse::<u64>().unwrap();
            }
        }
        sum
    }

    /// More than any host of ours has: what is not touched costs nothing.
    #[test]
    fn guest_may_have_more_memory_than_the_host() {
        let memory = Memory::new(MAX, Sharing::Private).unwrap();
        let last = memory.guest().iter().last().unwrap().last_addr();
        memory.guest().write_obj(7u8, last).unwrap();
        memory.guest().write_obj(7u8, GuestAddress(0)).unwrap();
        assert_eq!(memory.guest().read_obj::<u8>(last).unwrap(), 7);
        for region in memory.guest().iter() {
            let start = region.as_ptr() as usize;
            // A huge page at each end.
            let used = rss(start, start + region.size());
            assert!(used <= (4 * HUGE_PAGE as u64) >> 10, "{used} KiB");
        }
    }

    #[test]
    fn whole_pages_within_go_back_and_no_others() {
        for sharing in [Sharing::Private, Sharing::Shared] {
            whole_pages_go_back(sharing);
        }
    }

    fn whole_pages_go_back(sharing: Sharing) {
        let memory = Memory::new(16 << 20, sharing).unwrap();
        let guest = memory.guest();
        let fill = vec![0xaa; 5 * PAGE];
        guest.write_slice(&fill, GuestAddress(0)).unwrap();
        let piece = |start, len| GuestMemoryBackend::get_slice(guest, GuestAddress(start), len).unwrap();
        let page = PAGE as u64;
        assert_eq!(give_back(&piece(page - 1, 2 * PAGE), sharing).unwrap(), page);
        assert_eq!(give_back(&piece(2 * page, PAGE - 1), sharing).unwrap(), 0);
        assert_eq!(give_back(&piece(3 * page + 5, 1), sharing).unwrap(), 0);
        assert_eq!(give_back(&piece(4 * page, PAGE), sharing).unwrap(), page);
        let mut now = vec![0; 5 * PAGE];
        guest.read_slice(&mut now, GuestAddress(0)).unwrap();
        let expected: Vec<u8> = [0xaa, 0, 0xaa, 0xaa, 0].iter().flat_map(|b| [*b; PAGE]).collect();
        assert!(now == expected);
    }

    #[test]
    fn what_was_touched_is_resident_until_it_is_given_back() {
        for sharing in [Sharing::Private, Sharing::Shared] {
            let memory = Memory::new(4 * GIB, sharing).unwrap();
            let guest = memory.guest();
            assert_eq!(resident(guest).unwrap(), 0);
            for address in [0, 3 * GIB - 1, 4 * GIB] {
                guest.write_obj(1u8, GuestAddress(address)).unwrap();
            }
            // Three small pages or three huge ones, as the host has them.
            let touched = resident(guest).unwrap();
            assert!((3 * PAGE as u64..=3 * HUGE_PAGE as u64).contains(&touched), "{touched}");
            memory.clear();
            assert_eq!(resident(guest).unwrap(), 0);
        }
    }
}
