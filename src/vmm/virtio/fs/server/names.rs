//! Requests about names: finding, making, moving and removing files.

use std::ffi::CStr;
use std::os::fd::AsFd;

use rustix::fs::{AtFlags, FileType, Mode, OFlags, RenameFlags, Statx};
use rustix::io::Errno;

use super::abi::Args;
use super::nodes::ROOT;
use super::system::{self, check_name};
use super::{Server, VALID};

/// Permissions that a guest can give: all but those by which a program runs as somebody else. A guest
/// could make such programs for others on the host to run.
const PERMISSIONS: u32 = 0o1777;
/// Longest target of a symbolic link that Linux knows (`PATH_MAX`), with the zero at its end.
const TARGET_MAX: usize = 4096;

/// The permissions in what a guest says.
pub(super) fn mode_of(bits: u32) -> Mode {
    Mode::from_raw_mode(bits & PERMISSIONS)
}

impl Server {
    /// Answers with the file at `name` in `parent`.
    pub(super) fn answer_entry(&mut self, parent: u64, name: &CStr) -> Result<u64, Errno> {
        let folder = self.nodes.folder(parent)?;
        let stat = system::stat_in(&folder, name)?;
        if self.is_secret(&stat) {
            return Err(Errno::NOENT);
        }
        let owner = self.seen_owner(&stat);
        let node = self.enter(parent, &folder, name, &stat)?;
        self.answer.entry(node, VALID, &stat, owner);
        Ok(node)
    }

    /// The guest is told of a file at `name` in `parent`, which is open as `folder`.
    pub(super) fn enter(
        &mut self,
        parent: u64,
        folder: impl AsFd,
        name: &CStr,
        stat: &Statx,
    ) -> Result<u64, Errno> {
        let node = self.nodes.enter(parent, name, stat)?;
        if self.nodes.kind(node) == Ok(FileType::Directory) && node != ROOT {
            self.watch_folder(node, folder, name);
        }
        Ok(node)
    }

    pub(super) fn lookup(&mut self, parent: u64, args: &mut Args<'_>) -> Result<(), Errno> {
        let name = check_name(args.string()?)?;
        if self.is_hidden(parent, name) {
            return Err(Errno::NOENT);
        }
        self.answer_entry(parent, name).map(drop)
    }

    pub(super) fn readlink(&mut self, node: u64) -> Result<(), Errno> {
        if self.nodes.kind(node)? != FileType::Symlink {
            return Err(Errno::INVAL);
        }
        let link = self.nodes.open(node, OFlags::PATH)?;
        let mut target = [0; TARGET_MAX];
        let len = rustix::fs::readlinkat_raw(&link, c"", &mut target)?;
        self.answer.raw(target.get(..len).unwrap_or_default());
        Ok(())
    }

    /// A link may point anywhere: it is the guest that follows it, there. On the host it is one more
    /// link in a folder of a project.
    pub(super) fn symlink(&mut self, parent: u64, args: &mut Args<'_>) -> Result<(), Errno> {
        self.writable()?;
        let name = self.free(parent, args.string()?)?;
        let target = args.string()?;
        if target.count_bytes() >= TARGET_MAX {
            return Err(Errno::NAMETOOLONG);
        }
        rustix::fs::symlinkat(target, self.nodes.folder(parent)?, name)?;
        self.answer_entry(parent, name).map(drop)
    }

    pub(super) fn mknod(&mut self, parent: u64, args: &mut Args<'_>) -> Result<(), Errno> {
        self.writable()?;
        let mode = args.u32()?;
        // Device number, umask (which the guest's kernel has applied), nothing.
        args.skip(12)?;
        let name = self.free(parent, args.string()?)?;
        let kind = match FileType::from_raw_mode(mode) {
            kind @ (FileType::RegularFile | FileType::Fifo | FileType::Socket) => kind,
            _ => return Err(Errno::PERM),
        };
        rustix::fs::mknodat(self.nodes.folder(parent)?, name, kind, mode_of(mode), 0)?;
        self.answer_entry(parent, name).map(drop)
    }

    pub(super) fn mkdir(&mut self, parent: u64, args: &mut Args<'_>) -> Result<(), Errno> {
        self.writable()?;
        let (mode, _umask) = (args.u32()?, args.u32()?);
        let name = self.allowed(parent, args.string()?)?;
        rustix::fs::mkdirat(self.nodes.folder(parent)?, name, mode_of(mode))?;
        self.answer_entry(parent, name).map(drop)
    }

    pub(super) fn unlink(&mut self, parent: u64, args: &mut Args<'_>, folder: bool) -> Result<(), Errno> {
        self.writable()?;
        let name = args.string()?;
        let name = if folder { self.allowed(parent, name)? } else { self.free(parent, name)? };
        let flags = if folder { AtFlags::REMOVEDIR } else { AtFlags::empty() };
        rustix::fs::unlinkat(self.nodes.folder(parent)?, name, flags)?;
        self.leave(parent, name);
        Ok(())
    }

    pub(super) fn rename(&mut self, parent: u64, args: &mut Args<'_>, flags: bool) -> Result<(), Errno> {
        self.writable()?;
        let target = args.u64()?;
        let flags = match flags {
            true => {
                let flags = args.u32()?;
                args.skip(4)?;
                RenameFlags::from_bits(flags).ok_or(Errno::INVAL)?
            }
            false => RenameFlags::empty(),
        };
        // What is left behind instead of the file is for overlays only, and a device file.
        if flags.contains(RenameFlags::WHITEOUT) {
            return Err(Errno::INVAL);
        }
        let (old, new) = (self.free(parent, args.string()?)?, self.free(target, args.string()?)?);
        let (from, to) = (self.nodes.folder(parent)?, self.nodes.folder(target)?);
        rustix::fs::renameat_with(&from, old, &to, new, flags)?;
        self.nodes.vacate(parent, old);
        if let Ok(stat) = system::stat_in(&to, new) {
            self.nodes.moved(target, new, &stat);
        }
        if flags.contains(RenameFlags::EXCHANGE)
            && let Ok(stat) = system::stat_in(&from, old)
        {
            self.nodes.moved(parent, old, &stat);
        }
        Ok(())
    }

    pub(super) fn link(&mut self, parent: u64, args: &mut Args<'_>) -> Result<(), Errno> {
        self.writable()?;
        let node = args.u64()?;
        let name = self.free(parent, args.string()?)?;
        if self.nodes.kind(node)? == FileType::Directory {
            return Err(Errno::PERM);
        }
        let (file, stat) = self.nodes.open_and_stat(node, OFlags::PATH)?;
        self.check_shown(node, &stat)?;
        let descriptors = self.descriptors.as_ref().ok_or(Errno::OPNOTSUPP)?;
        descriptors.link(&file, self.nodes.folder(parent)?, name)?;
        self.answer_entry(parent, name).map(drop)
    }
}
