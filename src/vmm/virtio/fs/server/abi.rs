//! Numbers and structures of the FUSE protocol (`linux/fuse.h`, version 7.34), little-endian as
//! virtio-fs wants them on machines that are (virtio 1.2, section 5.11.6).

use rustix::fs::{Statx, StatxTimestamp};

/// The version that is spoken: the last one with something that is used here, `SYNCFS`.
pub const MAJOR: u32 = 7;
/// Its second part.
pub const MINOR: u32 = 34;

/// What is asked for, in the header of a request.
pub mod op {
    #![allow(missing_docs)]
    pub const LOOKUP: u32 = 1;
    pub const FORGET: u32 = 2;
    pub const GETATTR: u32 = 3;
    pub const SETATTR: u32 = 4;
    pub const READLINK: u32 = 5;
    pub const SYMLINK: u32 = 6;
    pub const MKNOD: u32 = 8;
    pub const MKDIR: u32 = 9;
    pub const UNLINK: u32 = 10;
    pub const RMDIR: u32 = 11;
    pub const RENAME: u32 = 12;
    pub const LINK: u32 = 13;
    pub const OPEN: u32 = 14;
    pub const READ: u32 = 15;
    pub const WRITE: u32 = 16;
    pub const STATFS: u32 = 17;
    pub const RELEASE: u32 = 18;
    pub const FSYNC: u32 = 20;
    pub const FLUSH: u32 = 25;
    pub const INIT: u32 = 26;
    pub const OPENDIR: u32 = 27;
    pub const READDIR: u32 = 28;
    pub const RELEASEDIR: u32 = 29;
    pub const FSYNCDIR: u32 = 30;
    pub const CREATE: u32 = 35;
    pub const DESTROY: u32 = 38;
    pub const BATCH_FORGET: u32 = 42;
    pub const FALLOCATE: u32 = 43;
    pub const READDIRPLUS: u32 = 44;
    pub const RENAME2: u32 = 45;
    pub const LSEEK: u32 = 46;
    pub const COPY_FILE_RANGE: u32 = 47;
    pub const SYNCFS: u32 = 50;
}

/// What both sides can do, agreed on by `INIT`.
pub mod cap {
    #![allow(missing_docs)]
    pub const ASYNC_READ: u32 = 1 << 0;
    pub const ATOMIC_O_TRUNC: u32 = 1 << 3;
    pub const BIG_WRITES: u32 = 1 << 5;
    pub const AUTO_INVAL_DATA: u32 = 1 << 12;
    pub const DO_READDIRPLUS: u32 = 1 << 13;
    pub const READDIRPLUS_AUTO: u32 = 1 << 14;
    pub const ASYNC_DIO: u32 = 1 << 15;
    pub const PARALLEL_DIROPS: u32 = 1 << 18;
    pub const MAX_PAGES: u32 = 1 << 22;
}

/// Which attributes `SETATTR` is to change.
pub mod set {
    #![allow(missing_docs)]
    pub const MODE: u32 = 1 << 0;
    pub const SIZE: u32 = 1 << 3;
    pub const ATIME: u32 = 1 << 4;
    pub const MTIME: u32 = 1 << 5;
    pub const FH: u32 = 1 << 6;
    pub const ATIME_NOW: u32 = 1 << 7;
    pub const MTIME_NOW: u32 = 1 << 8;
}

/// Answer to `OPEN`: what the guest has cached of the file is good.
pub const OPEN_KEEP_CACHE: u32 = 1 << 1;
/// Answer to `OPEN`: do not tell when a descriptor is closed.
pub const OPEN_NOFLUSH: u32 = 1 << 5;
/// `GETATTR`: a handle is given.
pub const GETATTR_FH: u32 = 1 << 0;
/// `FSYNC`: data only.
pub const FSYNC_DATA: u32 = 1 << 0;

/// Bytes of the header of a request.
pub const IN_HEADER: usize = 40;
/// Bytes of the header of an answer.
pub const OUT_HEADER: usize = 16;
/// Bytes that `READ` and `WRITE` have behind the header.
pub const TRANSFER: usize = 40;
/// Bytes of an entry of a folder before its name.
pub const DIRENT: usize = 24;

/// The header of a request.
#[derive(Debug, Clone, Copy)]
pub struct InHeader {
    /// Bytes of the whole request.
    pub len: u32,
    /// One of [`op`].
    pub opcode: u32,
    /// By which the answer is known.
    pub unique: u64,
    /// What it is about.
    pub node: u64,
    /// The group of the user who asks, in the guest. The guest's kernel has checked what that user may.
    pub group: u32,
}

impl InHeader {
    /// Takes it apart.
    pub fn parse(bytes: &[u8; IN_HEADER]) -> Self {
        let mut args = Args::new(bytes);
        // Long enough, so there are no errors.
        let (len, opcode) = (args.u32().unwrap_or(0), args.u32().unwrap_or(0));
        let (unique, node) = (args.u64().unwrap_or(0), args.u64().unwrap_or(0));
        let (_user, group) = (args.u32().unwrap_or(0), args.u32().unwrap_or(0));
        Self { len, opcode, unique, node, group }
    }
}

/// Reads what a request says behind its header.
#[derive(Debug)]
pub struct Args<'a> {
    rest: &'a [u8],
}

/// The request ends early.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Short;

impl<'a> Args<'a> {
    /// From the first byte on.
    pub fn new(bytes: &'a [u8]) -> Self {
        Self { rest: bytes }
    }

    /// The next 32-bit number.
    ///
    /// # Errors
    /// [`Short`], as for all that follow.
    pub fn u32(&mut self) -> Result<u32, Short> {
        let (word, rest) = self.rest.split_first_chunk().ok_or(Short)?;
        self.rest = rest;
        Ok(u32::from_le_bytes(*word))
    }

    /// The next 64-bit number.
    pub fn u64(&mut self) -> Result<u64, Short> {
        let (word, rest) = self.rest.split_first_chunk().ok_or(Short)?;
        self.rest = rest;
        Ok(u64::from_le_bytes(*word))
    }

    /// Passes over some bytes.
    pub fn skip(&mut self, count: usize) -> Result<(), Short> {
        self.rest = self.rest.get(count..).ok_or(Short)?;
        Ok(())
    }

    /// The next string, with the zero at its end.
    pub fn string(&mut self) -> Result<&'a std::ffi::CStr, Short> {
        let string = std::ffi::CStr::from_bytes_until_nul(self.rest).map_err(|_| Short)?;
        self.skip(string.count_bytes() + 1)?;
        Ok(string)
    }
}

/// Writes what an answer says behind its header.
#[derive(Debug, Default)]
pub struct Answer {
    bytes: Vec<u8>,
}

impl Answer {
    /// Forgets what was written; the room stays.
    pub fn clear(&mut self) {
        self.bytes.clear();
    }

    /// Bytes that it takes of memory.
    #[cfg(test)]
    pub fn room(&self) -> usize {
        self.bytes.capacity()
    }

    /// What was written.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// A 16-bit number.
    pub fn u16(&mut self, value: u16) -> &mut Self {
        self.raw(&value.to_le_bytes())
    }

    /// A 32-bit number.
    pub fn u32(&mut self, value: u32) -> &mut Self {
        self.raw(&value.to_le_bytes())
    }

    /// A 64-bit number.
    pub fn u64(&mut self, value: u64) -> &mut Self {
        self.raw(&value.to_le_bytes())
    }

    /// Bytes as they are.
    pub fn raw(&mut self, bytes: &[u8]) -> &mut Self {
        self.bytes.extend_from_slice(bytes);
        self
    }

    /// `count` zeros.
    pub fn zeros(&mut self, count: usize) -> &mut Self {
        self.bytes.resize(self.bytes.len() + count, 0);
        self
    }

    /// `struct fuse_attr` of a file with that owner.
    pub fn attr(&mut self, stat: &Statx, (uid, gid): (u32, u32)) -> &mut Self {
        let seconds = |time: StatxTimestamp| time.tv_sec.cast_unsigned();
        self.u64(stat.stx_ino).u64(stat.stx_size).u64(stat.stx_blocks);
        for time in [stat.stx_atime, stat.stx_mtime, stat.stx_ctime] {
            self.u64(seconds(time));
        }
        for time in [stat.stx_atime, stat.stx_mtime, stat.stx_ctime] {
            self.u32(time.tv_nsec);
        }
        self.u32(stat.stx_mode.into()).u32(stat.stx_nlink).u32(uid).u32(gid);
        // Device files mean the host's devices; their numbers would mean something else in the guest.
        self.u32(0).u32(stat.stx_blksize).u32(0)
    }

    /// `struct fuse_entry_out`, good for `valid` seconds.
    pub fn entry(&mut self, node: u64, valid: u64, stat: &Statx, owner: (u32, u32)) -> &mut Self {
        self.u64(node).u64(0).u64(valid).u64(valid).u32(0).u32(0).attr(stat, owner)
    }

    /// `struct fuse_dirent`: an entry of a folder, with its padding.
    pub fn dirent(&mut self, inode: u64, next: u64, kind: u32, name: &[u8]) -> &mut Self {
        self.u64(inode).u64(next).u32(name.len() as u32).u32(kind).raw(name);
        self.zeros(name.len().next_multiple_of(8) - name.len())
    }
}
