//! Locks on image files, so that no image is written by two and none changes under a reader.
#![allow(unsafe_code)]

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;

/// QEMU's image locks: it takes a shared lock on byte 100 + n for each permission n that it uses,
/// and on 200 + n for each that it does not want others to use, then looks for locks of others on
/// the opposite bytes. Permissions: 0 read, 1 write, 2 write unchanged, 3 resize, 4 graph change.
/// (`block/file-posix.c`, `include/block/block-common.h`.)
const USES: i64 = 100;
const FORBIDS: i64 = 200;
const PERMISSIONS: i64 = 5;
const READ: i64 = 0;
const WRITE: i64 = 1;
const RESIZE: i64 = 3;

/// Locks `image` for as long as the file is open: exclusively to write, shared to read. Locks belong
/// to the open file, so they exclude other disks of the same process too, and they are QEMU's own,
/// so that `qemu-img` and a QEMU machine see them and are seen. False when somebody else holds it.
///
/// # Errors
/// When the file system has no locks.
pub(super) fn lock(image: &File, write: bool) -> io::Result<bool> {
    if write {
        return Ok(
            set(image, libc::F_WRLCK, USES, PERMISSIONS)? && set(image, libc::F_WRLCK, FORBIDS, PERMISSIONS)?
        );
    }
    Ok(set(image, libc::F_RDLCK, USES + READ, 1)?
        && set(image, libc::F_RDLCK, FORBIDS + WRITE, 1)?
        && set(image, libc::F_RDLCK, FORBIDS + RESIZE, 1)?)
}

fn set(image: &File, kind: libc::c_int, start: i64, len: i64) -> io::Result<bool> {
    let range = libc::flock {
        l_type: kind as libc::c_short,
        l_whence: libc::SEEK_SET as libc::c_short,
        l_start: start,
        l_len: len,
        l_pid: 0,
    };
    // SAFETY: the descriptor is open and `range` is a valid `flock` for the whole call.
    if unsafe { libc::fcntl(image.as_raw_fd(), libc::F_OFD_SETLK, &range) } == 0 {
        return Ok(true);
    }
    let error = io::Error::last_os_error();
    match error.raw_os_error() {
        Some(libc::EAGAIN | libc::EACCES) => Ok(false),
        _ => Err(error),
    }
}
