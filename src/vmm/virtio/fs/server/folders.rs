//! Requests about the content of folders.

use std::mem::MaybeUninit;

use rustix::fs::{FileType, RawDir, SeekFrom};
use rustix::io::Errno;

use super::abi::{self, Answer, Args};
use super::handles::{Handle, Kind};
use super::{Server, VALID, system};

/// Most bytes of a listing at once.
const MAX_LISTING: usize = 64 << 10;
/// Most bytes of entries that are fetched from the host at once.
const FETCH: usize = 32 << 10;
/// Fewest.
const FETCH_MIN: usize = 1 << 10;
/// Bytes of `struct fuse_entry_out`, which a listing may have before each entry.
const ENTRY: usize = 128;

impl Server {
    pub(super) fn open_folder(&mut self, node: u64) -> Result<(), Errno> {
        self.handles.check_room()?;
        let file = system::reopen_folder(self.nodes.folder(node)?)?;
        let kind = Kind::Folder { position: Some(0) };
        let handle = self.handles.add(Handle { node, file, kind });
        self.answer.u64(handle).u32(0).u32(0);
        Ok(())
    }

    /// Lists a folder from where the guest says, as far as its buffer goes; with `plus`, each file is
    /// told of as by `LOOKUP`.
    pub(super) fn list(
        &mut self,
        node: u64,
        args: &mut Args<'_>,
        plus: bool,
        room: usize,
    ) -> Result<(), Errno> {
        let (number, offset, size) = (args.u64()?, args.u64()?, args.u32()?);
        let room = room.checked_sub(abi::OUT_HEADER).ok_or(Errno::INVAL)?;
        let limit = room.min(size as usize).min(MAX_LISTING);
        // Out of the table meanwhile, because entering files needs all else.
        let mut handle = self.handles.take_folder(number)?;
        let result = self.list_from(node, &mut handle, offset, plus, limit);
        self.handles.put_back(number, handle);
        result
    }

    fn list_from(
        &mut self,
        node: u64,
        handle: &mut Handle,
        offset: u64,
        plus: bool,
        limit: usize,
    ) -> Result<(), Errno> {
        if handle.node != node {
            return Err(Errno::BADF);
        }
        if handle.kind != (Kind::Folder { position: Some(offset) }) {
            // The file system judges what is a place in a folder.
            rustix::fs::seek(&handle.file, SeekFrom::Start(offset))?;
        }
        handle.kind = Kind::Folder { position: None };
        let secrets: Vec<u64> = self.secrets().map(|secret| secret.inode()).collect();
        let mut buffer = [MaybeUninit::uninit(); FETCH];
        // About as many as fit; one of the longest name at least.
        let fetch = (if plus { limit / 4 } else { limit }).clamp(FETCH_MIN, FETCH);
        let Some(buffer) = buffer.get_mut(..fetch) else { return Err(Errno::INVAL) };
        let mut entries = RawDir::new(&handle.file, buffer);
        let mut position = offset;
        loop {
            let done = self.answer.bytes().len();
            if entries.is_buffer_empty() && done * 2 > limit {
                // All that was fetched was told, and most of what came next would not fit.
                handle.kind = Kind::Folder { position: Some(position) };
                return Ok(());
            }
            let entry = match entries.next() {
                Some(entry) => entry?,
                None => {
                    handle.kind = Kind::Folder { position: Some(position) };
                    return Ok(());
                }
            };
            let name = entry.file_name();
            let len = abi::DIRENT + name.count_bytes().next_multiple_of(8) + if plus { ENTRY } else { 0 };
            if self.answer.bytes().len() + len > limit {
                // Not even one: the buffer is too small for any.
                return if self.answer.bytes().is_empty() { Err(Errno::INVAL) } else { Ok(()) };
            }
            let (inode, next) = (entry.ino(), entry.next_entry_cookie());
            let kind = entry.file_type();
            let is_secret =
                |server: &Self| system::stat_in(&handle.file, name).is_ok_and(|stat| server.is_secret(&stat));
            if self.is_hidden(node, name) || (secrets.contains(&inode) && is_secret(self)) {
                position = next;
                continue;
            }
            if plus && !self.entry_before(node, &handle.file, name) {
                // It was removed since.
                position = next;
                continue;
            }
            self.answer.dirent(inode, next, raw_kind(kind), name.to_bytes());
            position = next;
        }
    }

    /// Writes what `LOOKUP` of `name` would; nothing of it for the folder itself and the one above, and
    /// where the guest knows too many files already. False when there is no such file.
    fn entry_before(&mut self, folder: u64, file: &std::os::fd::OwnedFd, name: &std::ffi::CStr) -> bool {
        if matches!(name.to_bytes(), b"." | b"..") {
            self.answer.zeros(ENTRY);
            return true;
        }
        let Ok(stat) = system::stat_in(file, name) else { return false };
        let owner = self.seen_owner(&stat);
        match self.enter(folder, file, name, &stat) {
            Ok(node) => _ = Answer::entry(&mut self.answer, node, VALID, &stat, owner),
            Err(_) => _ = self.answer.zeros(ENTRY),
        }
        true
    }
}

/// `DT_*` of `readdir(3)`.
fn raw_kind(kind: FileType) -> u32 {
    u32::from(match kind {
        FileType::RegularFile => libc::DT_REG,
        FileType::Directory => libc::DT_DIR,
        FileType::Symlink => libc::DT_LNK,
        FileType::Fifo => libc::DT_FIFO,
        FileType::Socket => libc::DT_SOCK,
        FileType::CharacterDevice => libc::DT_CHR,
        FileType::BlockDevice => libc::DT_BLK,
        _ => libc::DT_UNKNOWN,
    })
}
