//! The system calls of fanotify and of handles (`fanotify(7)`, `name_to_handle_at(2)`), which no library has that is used
//! here.
#![allow(unsafe_code)]

use std::ffi::CStr;
use std::io;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};

use rustix::io::Errno;

/// Longest handle (`MAX_HANDLE_SZ`).
const HANDLE_MAX: usize = 128;

/// `struct file_handle`, with room for the longest.
#[repr(C)]
struct FileHandle {
    bytes: u32,
    kind: i32,
    content: [u8; HANDLE_MAX],
}

/// A group whose events name folders and what is in them, and are read without waiting.
///
/// # Errors
/// What the system says.
pub fn new_group() -> io::Result<OwnedFd> {
    let flags = libc::FAN_CLASS_NOTIF | libc::FAN_CLOEXEC | libc::FAN_NONBLOCK | libc::FAN_REPORT_DFID_NAME;
    // SAFETY: the call takes two numbers.
    let group = unsafe { libc::fanotify_init(flags, 0) };
    if group < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel has just made it, for nobody else.
    Ok(unsafe { OwnedFd::from_raw_fd(group) })
}

/// Adds a mark to the folder at `name` in `parent`, or removes one.
///
/// # Errors
/// What the system says.
pub fn mark(group: impl AsFd, action: u32, mask: u64, parent: impl AsFd, name: &CStr) -> Result<(), Errno> {
    let flags = action | libc::FAN_MARK_ONLYDIR | libc::FAN_MARK_DONT_FOLLOW;
    let (group, parent) = (group.as_fd().as_raw_fd(), parent.as_fd().as_raw_fd());
    // SAFETY: the name ends with a zero and lives as long as the call.
    done(unsafe { libc::fanotify_mark(group, flags, mask, parent, name.as_ptr()) }.into())
}

/// Removes all marks.
///
/// # Errors
/// What the system says.
pub fn flush(group: impl AsFd) -> Result<(), Errno> {
    let group = group.as_fd().as_raw_fd();
    // SAFETY: the call takes numbers, and no name.
    done(
        unsafe { libc::fanotify_mark(group, libc::FAN_MARK_FLUSH, 0, libc::AT_FDCWD, std::ptr::null()) }
            .into(),
    )
}

/// Kind and content of the handle of what is at `name` in `parent`.
///
/// # Errors
/// What the system says.
pub fn handle(parent: impl AsFd, name: &CStr) -> Result<(i32, Vec<u8>), Errno> {
    let mut handle = FileHandle { bytes: HANDLE_MAX as u32, kind: 0, content: [0; HANDLE_MAX] };
    let mut mount = 0i32;
    let parent = parent.as_fd().as_raw_fd();
    let (into, mount) = (std::ptr::from_mut(&mut handle), std::ptr::from_mut(&mut mount));
    // SAFETY: the name ends with a zero, the handle has as much room as it says, and all live as long as the call.
    done(unsafe { libc::syscall(libc::SYS_name_to_handle_at, parent, name.as_ptr(), into, mount, 0) })?;
    let content = handle.content.get(..handle.bytes as usize).ok_or(Errno::INVAL)?;
    Ok((handle.kind, content.to_vec()))
}

fn done(result: i64) -> Result<(), Errno> {
    match result {
        0 => Ok(()),
        _ => Err(Errno::from_io_error(&io::Error::last_os_error()).unwrap_or(Errno::INVAL)),
    }
}
