//! UNIX sockets at paths of any length.
//!
//! An address holds 108 bytes of path (`unix(7)`), a machine's folder is often longer. Then the
//! folder is opened and the socket named through it, as `/proc/self/fd/N/NAME`.

use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags};

/// Longest path that fits into an address, with the 0 behind it.
const MAX_PATH: usize = 107;

/// A path that fits into an address, and the folder that has to stay open while it is used.
fn shorten(path: &Path) -> io::Result<(Option<OwnedFd>, PathBuf)> {
    if path.as_os_str().as_bytes().len() <= MAX_PATH {
        return Ok((None, path.to_owned()));
    }
    let name = path.file_name().ok_or(io::ErrorKind::InvalidInput)?;
    let parent = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    let folder = rustix::fs::open(parent, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
    let short = PathBuf::from(format!("/proc/self/fd/{}", folder.as_raw_fd())).join(name);
    Ok((Some(folder), short))
}

/// Listens at `path`, for this user only. A socket that a dead process left there is replaced.
///
/// # Errors
/// `AddrInUse` when something listens there or the path is no socket; others as the system says.
pub fn bind(path: &Path) -> io::Result<UnixListener> {
    let (_folder, short) = shorten(path)?;
    let listener = match UnixListener::bind(&short) {
        Err(e) if e.kind() == io::ErrorKind::AddrInUse && is_dead(&short) => {
            std::fs::remove_file(&short)?;
            UnixListener::bind(&short)?
        }
        other => other?,
    };
    std::fs::set_permissions(&short, PermissionsExt::from_mode(0o600))?;
    Ok(listener)
}

/// Whether `path` is a socket that nobody listens to.
fn is_dead(path: &Path) -> bool {
    let is_socket = File::open(path).is_err()
        && std::fs::symlink_metadata(path).is_ok_and(|meta| meta.file_type().is_socket());
    is_socket && matches!(UnixStream::connect(path), Err(e) if e.kind() == io::ErrorKind::ConnectionRefused)
}

/// Connects to the socket at `path`.
///
/// # Errors
/// `NotFound` when there is none, `ConnectionRefused` when nobody listens, others as the system says.
pub fn connect(path: &Path) -> io::Result<UnixStream> {
    let (_folder, short) = shorten(path)?;
    UnixStream::connect(short)
}
