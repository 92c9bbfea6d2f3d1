//! What a machine's process gives back once its guest runs.
#![allow(unsafe_code)]

use std::{ptr, slice};

use super::memory::PAGE;

/// Hands the pages of the program and its libraries, and of the heap, that the start needed back to the
/// host. Those that are used again come from the page cache.
///
/// Not for a process in which somebody debugs: breakpoints are written into such pages.
pub(super) fn pages_of_the_start() {
    // SAFETY: the callback reads what it is given during the call, and does not unwind.
    unsafe { libc::dl_iterate_phdr(Some(release), ptr::null_mut()) };
    // SAFETY: takes the allocator's own lock; memory in use stays.
    unsafe { libc::malloc_trim(0) };
}

/// One program or library: its segments that cannot be written are pages of a file, as they were.
extern "C" fn release(info: *mut libc::dl_phdr_info, _: usize, _: *mut libc::c_void) -> libc::c_int {
    // SAFETY: `dl_iterate_phdr` gives a valid one for the time of the call.
    let info = unsafe { &*info };
    // SAFETY: that is what the two fields say, and no one changes a loaded program's headers.
    let headers = unsafe { slice::from_raw_parts(info.dlpi_phdr, info.dlpi_phnum.into()) };
    for header in headers.iter().filter(|header| header.p_type == libc::PT_LOAD) {
        if header.p_flags & libc::PF_W != 0 {
            continue;
        }
        let begin = (info.dlpi_addr + header.p_vaddr) as usize;
        let start = begin & !(PAGE - 1);
        let length = (begin + header.p_memsz as usize).next_multiple_of(PAGE) - start;
        // SAFETY: a private mapping of a file that was never written: a page that is touched again reads
        // the same. Where the kernel refuses (its own pages), nothing has changed.
        unsafe { libc::madvise(start as *mut libc::c_void, length, libc::MADV_DONTNEED) };
    }
    0
}
