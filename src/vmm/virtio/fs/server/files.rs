//! Requests about the content of files.

use std::os::fd::{AsFd, OwnedFd};
use std::time::{SystemTime, UNIX_EPOCH};

use rustix::fs::{FallocateFlags, FileType, OFlags, SeekFrom, Statx};
use rustix::io::Errno;

use super::abi::{self, Args};
use super::handles::{Handle, Kind};
use super::names::mode_of;
use super::nodes::Stamp;
use super::system::{self, Identity};
use super::{MAX_TRANSFER, Outcome, Server};
use crate::vmm::virtio::chain::Chain;
use crate::vmm::virtio::iov;

/// A file that was changed longer ago than this, in seconds, gets another time when it is changed again:
/// file systems count in steps of some milliseconds.
const SETTLED: i64 = 2;
/// Most bytes that one request copies from file to file; the guest asks again for the rest.
const MAX_COPY: u64 = 64 << 20;

/// How a file was asked to be opened.
struct Access {
    flags: OFlags,
    write: bool,
    truncate: bool,
}

impl Access {
    fn parse(bits: u32) -> Result<Self, Errno> {
        let asked = OFlags::from_bits_retain(bits);
        let (flags, write) = match asked & OFlags::RWMODE {
            OFlags::RDONLY => (OFlags::RDONLY, false),
            OFlags::WRONLY => (OFlags::WRONLY, true),
            OFlags::RDWR => (OFlags::RDWR, true),
            _ => return Err(Errno::INVAL),
        };
        Ok(Self { flags, write, truncate: asked.contains(OFlags::TRUNC) })
    }
}

impl Server {
    pub(super) fn open_file(&mut self, node: u64, args: &mut Args<'_>) -> Result<(), Errno> {
        let access = Access::parse(args.u32()?)?;
        if access.write || access.truncate {
            self.writable()?;
        }
        self.handles.check_room()?;
        let (file, mut stat) = self.nodes.open_and_stat(node, access.flags)?;
        self.check_shown(node, &stat)?;
        // Only now is it known to be the right one.
        if access.truncate {
            rustix::fs::ftruncate(&file, 0)?;
            stat = system::stat_of(&file)?;
        }
        self.answer_open(node, file, &stat, access.write);
        Ok(())
    }

    pub(super) fn create(&mut self, parent: u64, args: &mut Args<'_>) -> Result<(), Errno> {
        self.writable()?;
        let (bits, mode) = (args.u32()?, args.u32()?);
        args.skip(8)?;
        let access = Access::parse(bits)?;
        let name = self.free(parent, args.string()?)?;
        self.handles.check_room()?;
        if !self.nodes.has_room() {
            return Err(Errno::NFILE);
        }
        let folder = self.nodes.folder(parent)?;
        let exclusive = OFlags::from_bits_retain(bits) & OFlags::EXCL;
        let flags = access.flags | OFlags::CREATE | exclusive;
        let file = system::open_in(&folder, name, flags, mode_of(mode)).map_err(|error| match error {
            // It came into being since the guest looked, as something else.
            Errno::LOOP | Errno::NXIO => Errno::EXIST,
            other => other,
        })?;
        let mut stat = system::stat_of(&file)?;
        if Identity::of(&stat).kind() != FileType::RegularFile {
            return Err(Errno::EXIST);
        }
        if self.is_secret(&stat) {
            return Err(Errno::ACCESS);
        }
        if access.truncate && stat.stx_size != 0 {
            rustix::fs::ftruncate(&file, 0)?;
            stat = system::stat_of(&file)?;
        }
        let owner = self.seen_owner(&stat);
        let node = self.nodes.enter(parent, name, &stat)?;
        self.answer.entry(node, super::VALID, &stat, owner);
        self.answer_open(node, file, &stat, access.write);
        Ok(())
    }

    /// Takes an open file into the table and says what the guest may keep of it.
    fn answer_open(&mut self, node: u64, file: OwnedFd, stat: &Statx, write: bool) {
        let keep = self.nodes.stamp(node, settled_stamp(stat));
        let handle = self.handles.add(Handle { node, file, kind: Kind::File { write } });
        let keep = if keep { abi::OPEN_KEEP_CACHE } else { 0 };
        // What was only read has no errors that come late, and no disk of this host keeps any back.
        let late = write && self.local != Some((stat.stx_dev_major, stat.stx_dev_minor));
        let quiet = if late { 0 } else { abi::OPEN_NOFLUSH };
        self.answer.u64(handle).u32(keep | quiet).u32(0);
    }

    pub(super) fn read(&mut self, chain: &mut Chain<'_>) -> Outcome {
        let mut args = [0; abi::TRANSFER];
        if !chain.read_exact(&mut args) {
            return Err(Errno::INVAL);
        }
        let mut args = Args::new(&args);
        let (handle, offset, size) = (args.u64()?, args.u64()?, args.u32()?);
        let room = chain.writable_len().checked_sub(abi::OUT_HEADER).ok_or(Errno::INVAL)?;
        let size = room.min(size.min(MAX_TRANSFER) as usize);
        let file = self.handles.file(handle, false)?;
        iov::read_up_to(file.as_fd(), chain.writable(), abi::OUT_HEADER, size, offset).map_err(errno)
    }

    pub(super) fn write(&mut self, len: usize, chain: &mut Chain<'_>) -> Outcome {
        self.writable()?;
        let mut args = [0; abi::TRANSFER];
        if !chain.read_exact(&mut args) {
            return Err(Errno::INVAL);
        }
        let mut args = Args::new(&args);
        let (handle, offset, size) = (args.u64()?, args.u64()?, args.u32()?);
        let (_write_flags, _lock_owner, flags) = (args.u32()?, args.u64()?, args.u32()?);
        if size > MAX_TRANSFER || len != abi::TRANSFER + size as usize {
            return Err(Errno::INVAL);
        }
        let append = OFlags::from_bits_retain(flags).contains(OFlags::APPEND);
        let file = self.handles.file(handle, true)?;
        let size = size as usize;
        let count = iov::write_up_to(file.as_fd(), chain.readable(), size, offset, append).map_err(errno)?;
        self.answer.u32(count as u32).u32(0);
        Ok(self.answer.bytes().len())
    }

    /// A descriptor in the guest was closed: what a network file system kept back until now is said now.
    pub(super) fn flush(&mut self, args: &mut Args<'_>) -> Result<(), Errno> {
        let handle = args.u64()?;
        match self.handles.file(handle, true) {
            Ok(file) => close(rustix::io::fcntl_dupfd_cloexec(file, 0)?),
            Err(_) => self.handles.file(handle, false).map(drop),
        }
    }

    pub(super) fn release(&mut self, args: &mut Args<'_>) -> Result<(), Errno> {
        self.handles.remove(args.u64()?).map(drop)
    }

    pub(super) fn fsync(&mut self, args: &mut Args<'_>) -> Result<(), Errno> {
        let (handle, flags) = (args.u64()?, args.u32()?);
        let file = &self.handles.get_mut(handle)?.file;
        match flags & abi::FSYNC_DATA {
            0 => rustix::fs::fsync(file),
            _ => rustix::fs::fdatasync(file),
        }
    }

    pub(super) fn fallocate(&mut self, args: &mut Args<'_>) -> Result<(), Errno> {
        self.writable()?;
        let (handle, offset, len, mode) = (args.u64()?, args.u64()?, args.u64()?, args.u32()?);
        let known = FallocateFlags::KEEP_SIZE | FallocateFlags::PUNCH_HOLE | FallocateFlags::ZERO_RANGE;
        let mode = FallocateFlags::from_bits(mode).filter(|mode| known.contains(*mode));
        let mode = mode.ok_or(Errno::OPNOTSUPP)?;
        rustix::fs::fallocate(self.handles.file(handle, true)?, mode, offset, len)
    }

    pub(super) fn lseek(&mut self, args: &mut Args<'_>) -> Result<(), Errno> {
        let (handle, offset, whence) = (args.u64()?, args.u64()?, args.u32()?);
        let place = match i32::try_from(whence) {
            Ok(libc::SEEK_DATA) => SeekFrom::Data(offset),
            Ok(libc::SEEK_HOLE) => SeekFrom::Hole(offset),
            // The guest knows all others itself.
            _ => return Err(Errno::INVAL),
        };
        let found = rustix::fs::seek(self.handles.file(handle, false)?, place)?;
        self.answer.u64(found);
        Ok(())
    }

    pub(super) fn copy_file_range(&mut self, args: &mut Args<'_>) -> Result<(), Errno> {
        self.writable()?;
        let (from, mut from_offset, _node) = (args.u64()?, args.u64()?, args.u64()?);
        let (to, mut to_offset, len, flags) = (args.u64()?, args.u64()?, args.u64()?, args.u64()?);
        if flags != 0 {
            return Err(Errno::INVAL);
        }
        let (from, to) = (self.handles.file(from, false)?, self.handles.file(to, true)?);
        let len = len.min(MAX_COPY) as usize;
        let count = rustix::fs::copy_file_range(from, Some(&mut from_offset), to, Some(&mut to_offset), len)?;
        self.answer.u32(count as u32).u32(0);
        Ok(())
    }
}

/// What tells whether a file was changed since, if it would be seen: not right after a change, when the
/// next one could get the same time.
fn settled_stamp(stat: &Statx) -> Option<Stamp> {
    let time = |time: rustix::fs::StatxTimestamp| (time.tv_sec, time.tv_nsec);
    let (modified, changed) = (time(stat.stx_mtime), time(stat.stx_ctime));
    let now = SystemTime::now().duration_since(UNIX_EPOCH).ok()?.as_secs().cast_signed();
    let newest = modified.0.max(changed.0);
    (newest.saturating_add(SETTLED) < now).then_some(Stamp { size: stat.stx_size, modified, changed })
}

/// Closes a descriptor and hears what the file system has to say.
fn close(file: OwnedFd) -> Result<(), Errno> {
    // Dropping it would swallow the error.
    iov::close(file).map_err(errno)
}

fn errno(error: std::io::Error) -> Errno {
    Errno::from_io_error(&error).unwrap_or(Errno::INVAL)
}
