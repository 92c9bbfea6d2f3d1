//! What programs of the host change in the folders that the guest knows (fanotify, Linux 5.13 for everybody).
//!
//! fanotify says which process has changed something, if it is the very one that asks, to whoever asks: so what the
//! guest does, by this process, is told from what the host does.

use std::collections::HashMap;
use std::ffi::CStr;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};

use rustix::io::Errno;

use super::fanotify;

/// What happens in a folder, and to the files and folders in it.
pub mod mask {
    #![allow(missing_docs)]
    pub const MODIFY: u64 = libc::FAN_MODIFY;
    pub const ATTRIB: u64 = libc::FAN_ATTRIB;
    pub const MOVED_FROM: u64 = libc::FAN_MOVED_FROM;
    pub const MOVED_TO: u64 = libc::FAN_MOVED_TO;
    pub const CREATE: u64 = libc::FAN_CREATE;
    pub const DELETE: u64 = libc::FAN_DELETE;
    pub const OVERFLOW: u64 = libc::FAN_Q_OVERFLOW;
    pub const IS_FOLDER: u64 = libc::FAN_ONDIR;
    pub const WATCHED: u64 =
        MODIFY | ATTRIB | MOVED_FROM | MOVED_TO | CREATE | DELETE | IS_FOLDER | libc::FAN_EVENT_ON_CHILD;
}

/// Bytes of `struct fanotify_event_metadata`, and of a record before its handle.
const METADATA: usize = 24;
const RECORD: usize = 12;
/// Bytes before what a handle consists of.
const HANDLE: usize = 8;
/// Folders that may be watched to no end, in any case.
const LITTER: usize = 1024;
/// Bytes of events that are fetched at once.
const FETCH: usize = 16 << 10;

/// A folder as fanotify names it: its file system, then kind and content of its handle.
type Handle = Box<[u8]>;

/// What happened to a name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    /// Of [`mask`].
    pub mask: u64,
    /// The number of the folder.
    pub folder: u64,
    /// The name in it; `.` for the folder itself.
    pub name: Box<CStr>,
}

/// The folders that are watched.
#[derive(Debug)]
pub struct Watch {
    group: OwnedFd,
    process: i32,
    folders: HashMap<Handle, u64>,
    handles: HashMap<u64, Handle>,
    /// Those that are watched to no end.
    litter: usize,
    /// It was said that no more can be watched.
    is_full: bool,
    buffer: Vec<u8>,
}

impl Watch {
    /// None.
    ///
    /// # Errors
    /// Where the kernel cannot do it for this user, or has done it for too many programs of the same.
    pub fn new() -> io::Result<Self> {
        let group = fanotify::new_group()?;
        let process = rustix::process::getpid().as_raw_nonzero().get();
        Ok(Self {
            group,
            process,
            folders: HashMap::new(),
            handles: HashMap::new(),
            litter: 0,
            is_full: false,
            buffer: vec![0; FETCH],
        })
    }

    /// Readable when there are events.
    pub fn source(&self) -> RawFd {
        self.group.as_raw_fd()
    }

    /// How many folders there are.
    #[cfg(test)]
    pub fn len(&self) -> usize {
        self.handles.len()
    }

    /// How many are watched to no end.
    #[cfg(test)]
    pub fn litter(&self) -> usize {
        self.litter
    }

    /// Watches the folder at `name` in `parent`, by the number that it has; `.` is `parent` itself.
    ///
    /// # Errors
    /// Of one that cannot be read, on a file system without handles, and what else the system says: nothing is heard
    /// of it.
    pub fn add(&mut self, number: u64, parent: impl AsFd, name: &CStr) -> Result<(), Errno> {
        if self.handles.contains_key(&number) {
            return Ok(());
        }
        let handle = handle_of(&parent, name)?;
        let marked = self.mark(libc::FAN_MARK_ADD, &parent, name);
        if marked == Err(Errno::NOSPC) && !std::mem::replace(&mut self.is_full, true) {
            tracing::warn!(
                "the guest does not hear of changes in all folders: fs.fanotify.max_user_marks is reached"
            );
        }
        marked?;
        self.folders.insert(handle.clone(), number);
        self.handles.insert(number, handle);
        Ok(())
    }

    /// The folder of that number was removed, and its mark with it.
    pub fn removed(&mut self, number: u64) {
        if let Some(handle) = self.handles.remove(&number)
            && self.folders.get(&handle) == Some(&number)
        {
            self.folders.remove(&handle);
        }
    }

    /// Watches no more the folder of that number, which is at `name` in `parent`.
    pub fn remove(&mut self, number: u64, place: Option<(&OwnedFd, &CStr)>) {
        let Some(handle) = self.handles.get(&number).cloned() else { return };
        self.removed(number);
        // Another one may be at its place, which is watched, too.
        let is_there =
            |(parent, name): &(&OwnedFd, &CStr)| handle_of(parent, name).is_ok_and(|at| at == handle);
        let place = place.filter(is_there);
        let removed =
            place.is_some_and(|(parent, name)| self.mark(libc::FAN_MARK_REMOVE, parent, name).is_ok());
        self.litter += usize::from(!removed);
    }

    /// Whether so many folders are watched to no end, because they were not found any more, that it is better to begin
    /// anew.
    pub fn is_littered(&self) -> bool {
        self.litter > LITTER + self.handles.len() / 2
    }

    /// Watches nothing any more.
    pub fn clear(&mut self) {
        self.folders.clear();
        self.handles.clear();
        (self.litter, self.is_full) = (0, false);
        if let Err(error) = fanotify::flush(&self.group) {
            tracing::warn!(%error, "too many folders are watched for changes");
        }
    }

    fn mark(&self, action: u32, parent: impl AsFd, name: &CStr) -> Result<(), Errno> {
        fanotify::mark(&self.group, action, mask::WATCHED, parent, name)
    }

    /// What the host has done since the last call; false when there may be more. Too much at once is one event with
    /// [`mask::OVERFLOW`], of no folder.
    pub fn take(&mut self, into: &mut Vec<Event>) -> bool {
        let Ok(count) = rustix::io::read(&self.group, &mut self.buffer) else { return true };
        let mut rest = self.buffer.get(..count).unwrap_or_default();
        while let Some(len) = u32_at(rest, 0).map(|len| len as usize).filter(|len| *len >= METADATA) {
            let Some((event, next)) = rest.split_at_checked(len) else { break };
            rest = next;
            into.extend(self.parse(event));
        }
        count == 0
    }

    fn parse(&self, event: &[u8]) -> Option<Event> {
        let (start, mask) = (u32_at(event, 4)?.to_le_bytes(), u64_at(event, 8)?);
        if mask & mask::OVERFLOW != 0 {
            return Some(Event { mask, folder: 0, name: c".".into() });
        }
        let process = u32_at(event, 20)?.cast_signed();
        if process == self.process {
            return None;
        }
        // Version and another byte, then how long this part is.
        let record = event.get(u16::from_le_bytes([start[2], start[3]]).into()..)?;
        if record.first() != Some(&libc::FAN_EVENT_INFO_TYPE_DFID_NAME) {
            return None;
        }
        let system = record.get(4..RECORD)?;
        let bytes = u32_at(record, RECORD)? as usize;
        let kind = record.get(RECORD + 4..RECORD + HANDLE)?;
        let (content, name) = record.get(RECORD + HANDLE..)?.split_at_checked(bytes)?;
        let folder = *self.folders.get(&[system, kind, content].concat()[..])?;
        let name = CStr::from_bytes_until_nul(name).ok()?.into();
        Some(Event { mask, folder, name })
    }
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    bytes.get(at..at + 4)?.try_into().ok().map(u32::from_ne_bytes)
}

fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    bytes.get(at..at + 8)?.try_into().ok().map(u64::from_ne_bytes)
}

/// The handle of a folder, as events have it.
fn handle_of(parent: impl AsFd, name: &CStr) -> Result<Handle, Errno> {
    let (kind, content) = fanotify::handle(&parent, name)?;
    // Where something is mounted its folders are on another file system than this; then nothing is heard of them.
    let system = rustix::fs::fstatvfs(&parent)?.f_fsid;
    Ok([&system.to_ne_bytes()[..], &kind.to_ne_bytes(), &content].concat().into())
}
