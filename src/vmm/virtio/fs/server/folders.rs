//! Requests about the content of folders.

use std::collections::VecDeque;
use std::ffi::CStr;
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;

use rustix::fs::{FileType, RawDir, SeekFrom};
use rustix::io::Errno;

use super::abi::{self, Answer, Args};
use super::handles::{Entry, Handle, Kind, Listing};
use super::{Server, VALID, system};

/// Most bytes of a listing at once.
const MAX_LISTING: usize = 64 << 10;
/// Most bytes of entries that are fetched from the host at once, and kept until the guest wants them.
const FETCH: usize = 4 << 10;
/// Bytes of `struct fuse_entry_out`, which a listing may have before each entry.
const ENTRY: usize = 128;

impl Server {
    pub(super) fn open_folder(&mut self, node: u64) -> Result<(), Errno> {
        self.handles.check_room()?;
        let file = system::reopen_folder(self.nodes.folder(node)?)?;
        let kind = Kind::Folder(Listing { position: Some(0), ..Listing::default() });
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
        let result = match &mut handle {
            Handle { node: of, file, kind: Kind::Folder(listing) } if *of == node => {
                self.list_from(node, file, listing, offset, plus, limit)
            }
            _ => Err(Errno::BADF),
        };
        self.handles.put_back(number, handle);
        result
    }

    fn list_from(
        &mut self,
        node: u64,
        file: &OwnedFd,
        listing: &mut Listing,
        offset: u64,
        plus: bool,
        limit: usize,
    ) -> Result<(), Errno> {
        if listing.position.take() != Some(offset) {
            listing.ahead.clear();
            // The file system judges what is a place in a folder.
            rustix::fs::seek(file, SeekFrom::Start(offset))?;
        }
        let mut position = offset;
        loop {
            let done = self.answer.bytes().len();
            // Not for the few that would still fit.
            if listing.ahead.is_empty() && done * 2 <= limit {
                fetch(file, &mut listing.ahead)?;
            }
            let Some(entry) = listing.ahead.front() else { break };
            let padded = entry.name.count_bytes().next_multiple_of(8);
            let len = abi::DIRENT + padded + if plus { ENTRY } else { 0 };
            if done + len > limit {
                if done == 0 {
                    // Too small for any.
                    return Err(Errno::INVAL);
                }
                break;
            }
            position = entry.next;
            // It may have been removed since.
            if !plus || self.entry_before(node, file, &entry.name) {
                self.answer.dirent(entry.inode, entry.next, raw_kind(entry.kind), entry.name.to_bytes());
            }
            listing.ahead.pop_front();
        }
        listing.position = Some(position);
        Ok(())
    }

    /// Writes what `LOOKUP` of `name` would; nothing of it for the folder itself and the one above, and
    /// where the guest knows too many files already. False when there is no such file.
    fn entry_before(&mut self, folder: u64, file: &OwnedFd, name: &CStr) -> bool {
        if matches!(name.to_bytes(), b"." | b"..") {
            self.answer.zeros(ENTRY);
            return true;
        }
        let Ok(stat) = system::stat_in(file, name) else { return false };
        let owner = self.seen_owner(&stat);
        match self.nodes.enter(folder, name, &stat) {
            Ok(node) => _ = Answer::entry(&mut self.answer, node, VALID, &stat, owner),
            Err(_) => _ = self.answer.zeros(ENTRY),
        }
        true
    }
}

/// Adds what the host says next of a folder; nothing at its end.
fn fetch(file: &OwnedFd, entries: &mut VecDeque<Entry>) -> Result<(), Errno> {
    let mut buffer = [MaybeUninit::uninit(); FETCH];
    let mut source = RawDir::new(file, &mut buffer);
    while let Some(entry) = source.next() {
        let entry = entry?;
        entries.push_back(Entry {
            inode: entry.ino(),
            next: entry.next_entry_cookie(),
            kind: entry.file_type(),
            name: entry.file_name().to_owned(),
        });
        if source.is_buffer_empty() {
            break;
        }
    }
    Ok(())
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
