//! Requests about attributes of files, and of the file system.

use std::os::fd::{AsFd, OwnedFd};

use rustix::fs::{AtFlags, FileType, OFlags, Statx, Timespec, Timestamps, UTIME_NOW, UTIME_OMIT};
use rustix::io::Errno;

use super::abi::{self, Args, set};
use super::names::mode_of;
use super::{NOBODY, Server, VALID, system};

impl Server {
    /// Whom a file belongs to as the guest sees it.
    pub(super) fn seen_owner(&self, stat: &Statx) -> (u32, u32) {
        let (uid, gid) = self.owner;
        match (stat.stx_uid == self.user, self.groups.contains(&stat.stx_gid)) {
            (true, _) => (uid, gid),
            (false, true) => (NOBODY, gid),
            (false, false) => (NOBODY, NOBODY),
        }
    }

    /// Looks at a file by its name, or if it has none any more, by what is open of it.
    pub(super) fn stat_node(&mut self, node: u64, handle: Option<u64>) -> Result<Statx, Errno> {
        if let Some(handle) = handle.and_then(|number| self.handles.get_mut(number).ok())
            && handle.node == node
        {
            return system::stat_of(&handle.file);
        }
        match self.nodes.stat(node) {
            Err(Errno::STALE) => match self.handles.any_of(node) {
                Some(handle) => system::stat_of(&handle.file),
                None => Err(Errno::STALE),
            },
            result => result,
        }
    }

    pub(super) fn answer_attributes(&mut self, stat: &Statx) {
        let owner = self.seen_owner(stat);
        self.answer.u64(VALID).u32(0).u32(0).attr(stat, owner);
    }

    pub(super) fn getattr(&mut self, node: u64, args: &mut Args<'_>) -> Result<(), Errno> {
        let (flags, _, handle) = (args.u32()?, args.u32()?, args.u64()?);
        let handle = (flags & abi::GETATTR_FH != 0).then_some(handle);
        let stat = self.stat_node(node, handle)?;
        self.answer_attributes(&stat);
        Ok(())
    }

    /// Owners stay: all that is in a share is the host user's, and the answer says so. To refuse would
    /// stop whoever unpacks an archive as root.
    pub(super) fn setattr(&mut self, node: u64, args: &mut Args<'_>) -> Result<(), Errno> {
        self.writable()?;
        let (valid, _, handle, size, _) = (args.u32()?, args.u32()?, args.u64()?, args.u64()?, args.u64()?);
        let (atime, mtime, _ctime) = (args.u64()?, args.u64()?, args.u64()?);
        let (atime_nsec, mtime_nsec, _ctime_nsec) = (args.u32()?, args.u32()?, args.u32()?);
        let mode = args.u32()?;
        let handle = (valid & set::FH != 0).then_some(handle);
        if valid & set::MODE != 0 {
            self.chmod(node, mode)?;
        }
        if valid & set::SIZE != 0 {
            self.truncate(node, handle, size)?;
        }
        if valid & (set::ATIME | set::MTIME) != 0 {
            let time = |which, now, seconds: u64, nanoseconds: u32| match valid {
                valid if valid & which == 0 => Timespec { tv_sec: 0, tv_nsec: UTIME_OMIT },
                valid if valid & now != 0 => Timespec { tv_sec: 0, tv_nsec: UTIME_NOW },
                _ => Timespec { tv_sec: seconds.cast_signed(), tv_nsec: i64::from(nanoseconds) },
            };
            if atime_nsec.max(mtime_nsec) >= 1_000_000_000 {
                return Err(Errno::INVAL);
            }
            let times = Timestamps {
                last_access: time(set::ATIME, set::ATIME_NOW, atime, atime_nsec),
                last_modification: time(set::MTIME, set::MTIME_NOW, mtime, mtime_nsec),
            };
            self.with_file(node, |file| {
                rustix::fs::utimensat(file.as_fd(), c"", &times, AtFlags::EMPTY_PATH)
            })?;
        }
        let stat = self.stat_node(node, handle)?;
        self.answer_attributes(&stat);
        Ok(())
    }

    /// Does something with a descriptor of the file, if only to name it.
    fn with_file<T>(
        &mut self,
        node: u64,
        act: impl FnOnce(&OwnedFd) -> Result<T, Errno>,
    ) -> Result<T, Errno> {
        match self.nodes.open(node, OFlags::PATH) {
            Err(Errno::STALE) => match self.handles.any_of(node) {
                Some(handle) => act(&handle.file),
                None => Err(Errno::STALE),
            },
            file => act(&file?),
        }
    }

    fn chmod(&mut self, node: u64, mode: u32) -> Result<(), Errno> {
        // Its permissions mean nothing, and the call would follow it.
        if self.nodes.kind(node)? == FileType::Symlink {
            return Err(Errno::OPNOTSUPP);
        }
        let descriptors = self.descriptors.take();
        let result = match &descriptors {
            Some(descriptors) => self.with_file(node, |file| descriptors.chmod(file, mode_of(mode))),
            None => Err(Errno::OPNOTSUPP),
        };
        self.descriptors = descriptors;
        result
    }

    fn truncate(&mut self, node: u64, handle: Option<u64>, size: u64) -> Result<(), Errno> {
        if let Some(file) = handle.and_then(|number| self.handles.file(number, true).ok()) {
            return rustix::fs::ftruncate(file, size);
        }
        let (file, stat) = self.nodes.open_and_stat(node, OFlags::WRONLY)?;
        self.check_shown(node, &stat)?;
        rustix::fs::ftruncate(&file, size)
    }

    pub(super) fn statfs(&mut self) -> Result<(), Errno> {
        let stat = rustix::fs::fstatvfs(&**self.nodes.root())?;
        let word = |value: u64| u32::try_from(value).unwrap_or(u32::MAX);
        self.answer
            .u64(stat.f_blocks)
            .u64(stat.f_bfree)
            .u64(stat.f_bavail)
            .u64(stat.f_files)
            .u64(stat.f_ffree);
        self.answer.u32(word(stat.f_bsize)).u32(word(stat.f_namemax)).u32(word(stat.f_frsize)).zeros(28);
        Ok(())
    }
}
