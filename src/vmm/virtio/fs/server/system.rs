//! The host's system calls for one step down a folder, and which file is which.
//!
//! A name is one component, checked by [`check_name`], and is always taken relative to a folder that
//! is open. So no path is ever walked, and no symbolic link followed.

use std::ffi::{CStr, CString};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};

use rustix::fs::{AtFlags, FileType, Mode, OFlags, ResolveFlags, Statx, StatxFlags, openat2, statx};
use rustix::io::Errno;

/// Longest name of a file, in bytes, on Linux.
pub const NAME_MAX: usize = 255;

/// What may follow one step: nothing that leads elsewhere.
const RESOLVE: ResolveFlags =
    ResolveFlags::BENEATH.union(ResolveFlags::NO_MAGICLINKS).union(ResolveFlags::NO_SYMLINKS);

/// What is open is never inherited, a symbolic link or somebody's terminal, and never waited for.
const ALWAYS: OFlags = OFlags::CLOEXEC.union(OFlags::NOFOLLOW).union(OFlags::NOCTTY).union(OFlags::NONBLOCK);

/// What tells a file from all others, also from one that later gets its number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Identity {
    device: (u32, u32),
    inode: u64,
    /// Seconds and nanoseconds; zeros on file systems that do not keep it.
    born: (i64, u32),
    /// The bits of its mode that say what it is.
    kind: u32,
}

impl Identity {
    /// Of what was looked at.
    pub fn of(stat: &Statx) -> Self {
        let born = match stat.stx_mask & StatxFlags::BTIME.bits() {
            0 => (0, 0),
            _ => (stat.stx_btime.tv_sec, stat.stx_btime.tv_nsec),
        };
        Self {
            device: (stat.stx_dev_major, stat.stx_dev_minor),
            inode: stat.stx_ino,
            born,
            kind: u32::from(stat.stx_mode) & libc::S_IFMT,
        }
    }

    /// What kind of file it is.
    pub fn kind(&self) -> FileType {
        FileType::from_raw_mode(self.kind)
    }

    /// Its number, which listings have.
    pub fn inode(&self) -> u64 {
        self.inode
    }
}

/// Refuses what is not the name of an entry in a folder.
///
/// # Errors
/// `ENAMETOOLONG`, and `EINVAL` for what would lead elsewhere.
pub fn check_name(name: &CStr) -> Result<&CStr, Errno> {
    match name.to_bytes() {
        b"" | b"." | b".." => Err(Errno::INVAL),
        bytes if bytes.contains(&b'/') => Err(Errno::INVAL),
        bytes if bytes.len() > NAME_MAX => Err(Errno::NAMETOOLONG),
        _ => Ok(name),
    }
}

/// Looks at `name` in `folder` without following it.
pub fn stat_in(folder: impl AsFd, name: &CStr) -> Result<Statx, Errno> {
    let flags = AtFlags::SYMLINK_NOFOLLOW | AtFlags::NO_AUTOMOUNT;
    statx(folder, name, flags, StatxFlags::BASIC_STATS | StatxFlags::BTIME)
}

/// Looks at what is open.
pub fn stat_of(file: impl AsFd) -> Result<Statx, Errno> {
    statx(file, c"", AtFlags::EMPTY_PATH, StatxFlags::BASIC_STATS | StatxFlags::BTIME)
}

/// Opens `name` in `folder`.
pub fn open_in(folder: impl AsFd, name: &CStr, flags: OFlags, mode: Mode) -> Result<OwnedFd, Errno> {
    // What is not really opened is not waited for either, and the kernel refuses to be told.
    let always = if flags.contains(OFlags::PATH) { OFlags::CLOEXEC | OFlags::NOFOLLOW } else { ALWAYS };
    openat2(folder, name, flags | always, mode, RESOLVE)
}

/// Opens the folder at the end of some names, to look at it. Links on the way are followed as long as they stay below
/// `root`: it is for this server to know which folder something is, and not for the guest.
pub fn open_way(root: impl AsFd, way: &[CString]) -> Result<OwnedFd, Errno> {
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS;
    let path = match way {
        [] => b".".to_vec(),
        _ => way.iter().map(|name| name.to_bytes()).collect::<Vec<_>>().join(&b'/'),
    };
    openat2(root, path, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty(), resolve)
}

/// Opens a folder, of which a handle is there, for reading.
pub fn reopen_folder(folder: impl AsFd) -> Result<OwnedFd, Errno> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY;
    openat2(folder, c".", flags | ALWAYS, Mode::empty(), RESOLVE)
}

/// File systems that know of an error at a write or at an fsync, but not when a file is closed, by their numbers
/// (`linux/magic.h`): ext4, XFS, Btrfs, F2FS, tmpfs. Those of networks and of other programs are not among them.
const LOCAL: [u64; 5] = [0xef53, 0x5846_5342, 0x9123_683e, 0xf2f5_2010, 0x0102_1994];

/// Whether a folder is on such a file system.
pub fn is_local(folder: impl AsFd) -> bool {
    rustix::fs::fstatfs(folder).is_ok_and(|stat| LOCAL.contains(&(stat.f_type as u64)))
}

/// The descriptors of this process, by number: the one way to name exactly the file that is open, for
/// the calls that take names only.
#[derive(Debug)]
pub struct Descriptors {
    folder: OwnedFd,
}

impl Descriptors {
    /// Opens the list.
    ///
    /// # Errors
    /// Where `/proc` is not mounted.
    pub fn open() -> Result<Self, Errno> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        Ok(Self { folder: rustix::fs::open("/proc/self/fd", flags, Mode::empty())? })
    }

    /// Sets the permissions of `file`, which is no symbolic link.
    pub fn chmod(&self, file: impl AsFd, mode: Mode) -> Result<(), Errno> {
        rustix::fs::chmodat(&self.folder, number(file), mode, AtFlags::empty())
    }

    /// Gives `file` one more name.
    pub fn link(&self, file: impl AsFd, folder: impl AsFd, name: &CStr) -> Result<(), Errno> {
        rustix::fs::linkat(&self.folder, number(file), folder, name, AtFlags::SYMLINK_FOLLOW)
    }
}

fn number(file: impl AsFd) -> String {
    file.as_fd().as_raw_fd().to_string()
}
