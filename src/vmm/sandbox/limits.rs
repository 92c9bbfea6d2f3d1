//! What a process gives up beside files and system calls: descriptors that it inherited,
//! capabilities, core dumps, being looked into.
#![allow(unsafe_code)]

use std::io;

use rustix::process::{
    DumpableBehavior, Resource, Rlimit, getrlimit, set_dumpable_behavior, setrlimit, umask,
};
use rustix::thread::{
    CapabilitySet, CapabilitySets, capabilities, clear_ambient_capability_set,
    remove_capability_from_bounding_set, set_capabilities, set_no_new_privs,
};

use super::Policy;
use crate::vmm::virtio::fs::MAX_DESCRIPTORS;

/// Most descriptors that the process may have open: thirteen devices, 32 control connections and
/// the connections of a vsock are well below. Shared folders come on top.
pub const MAX_FILES: u64 = 1024;

/// Those that each shared folder may have beside that.
const MAX_SHARED: u64 = MAX_DESCRIPTORS as u64;

/// Bytes that any file may hold whatever the limit: logs, and the record of the end.
pub const LOGS: u64 = 64 << 20;

/// The first act of a process that is for one machine only, before it opens anything: closes what it
/// inherited beside its standard descriptors, makes no file that others can read and no core dump,
/// and allocates from one heap.
///
/// # Errors
/// What the kernel refuses.
pub fn prepare() -> io::Result<()> {
    umask(rustix::fs::Mode::RWXG | rustix::fs::Mode::RWXO);
    // SAFETY: nothing has been opened yet, so no descriptor above 2 has an owner here.
    if unsafe { libc::syscall(libc::SYS_close_range, 3, u32::MAX, 0) } != 0 {
        return Err(io::Error::last_os_error());
    }
    one_heap();
    no_core_dump()
}

/// The C library gives threads heaps of their own, and reads a file in `/proc` before it shrinks one.
fn one_heap() {
    // SAFETY: changes a setting of the allocator, under its own lock.
    unsafe { libc::mallopt(libc::M_ARENA_MAX, 1) };
}

/// A core dump holds the guest's memory.
fn no_core_dump() -> io::Result<()> {
    Ok(setrlimit(Resource::Core, Rlimit { current: Some(0), maximum: Some(0) })?)
}

/// Limits resources, closes `/proc/PID` to others of the same user, and forbids to gain rights. A process
/// that serves `folders` to a guest makes files in them with just the permissions that the guest says.
pub(super) fn restrict(policy: &Policy) -> io::Result<()> {
    one_heap();
    no_core_dump()?;
    if let (Some(bytes), []) = (policy.largest_file, policy.writable.as_slice()) {
        limit_files(bytes.max(LOGS))?;
    }
    // Seccomp forbids to lock memory, too. The number of processes is no limit to set: it is counted over
    // all of the user's, and whoever may start threads may not start processes.
    lower(Resource::Memlock, 0)?;
    let folders = policy.writable.len() + policy.readable.len();
    if folders > 0 {
        umask(rustix::fs::Mode::empty());
    }
    let wanted = MAX_FILES + folders as u64 * MAX_SHARED;
    lower(Resource::Nofile, wanted)?;
    set_dumpable_behavior(DumpableBehavior::NotDumpable)?;
    Ok(set_no_new_privs(true)?)
}

/// A file that is as long as it may be is an error of the one that writes to it (EFBIG), which a guest sees
/// as one of its disk. The signal that comes with it would end the process.
fn limit_files(bytes: u64) -> io::Result<()> {
    // SAFETY: ignoring a signal runs no code.
    if unsafe { libc::signal(libc::SIGXFSZ, libc::SIG_IGN) } == libc::SIG_ERR {
        return Err(io::Error::last_os_error());
    }
    lower(Resource::Fsize, bytes)
}

/// Sets a limit for good, where it is not lower already.
fn lower(resource: Resource, wanted: u64) -> io::Result<()> {
    let most = getrlimit(resource).maximum.map_or(wanted, |now| now.min(wanted));
    Ok(setrlimit(resource, Rlimit { current: Some(most), maximum: Some(most) })?)
}

/// Gives up all capabilities of the calling thread and of those that it starts, for good.
pub(super) fn drop_capabilities() -> io::Result<()> {
    let own = capabilities(None)?;
    if own.effective.contains(CapabilitySet::SETPCAP) {
        for number in 0..u64::BITS {
            // The kernel knows fewer than 64.
            _ = remove_capability_from_bounding_set(CapabilitySet::from_bits_retain(1 << number));
        }
    }
    clear_ambient_capability_set()?;
    let none = CapabilitySet::empty();
    Ok(set_capabilities(None, CapabilitySets { effective: none, permitted: none, inheritable: none })?)
}
