//! What the guest has open.

use std::collections::HashMap;
use std::os::fd::OwnedFd;

use rustix::io::Errno;

/// Most files and folders that a guest may have open in a share at a time.
pub const MAX_HANDLES: usize = 4096;

/// A file or folder that the guest has open.
#[derive(Debug)]
pub struct Handle {
    /// The file.
    pub node: u64,
    /// Open here.
    pub file: OwnedFd,
    /// What for.
    pub kind: Kind,
}

/// What something was opened for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A file.
    File {
        /// Also to be written.
        write: bool,
    },
    /// A folder.
    Folder {
        /// From where the host would go on to list it, if that is known.
        position: Option<u64>,
    },
}

/// All of them, by numbers that are never used twice.
#[derive(Debug)]
pub struct Handles {
    handles: HashMap<u64, Handle>,
    next: u64,
    limit: usize,
}

impl Handles {
    /// None, and at most `limit`.
    pub fn new(limit: usize) -> Self {
        Self { handles: HashMap::new(), next: 1, limit }
    }

    /// Has the numbers begin at `first`, so that none is what another server gave to something else.
    pub fn begin_at(&mut self, first: u64) {
        self.next = first;
    }

    /// How many there are.
    #[cfg(test)]
    pub fn len(&self) -> usize {
        self.handles.len()
    }

    /// Closes all.
    pub fn clear(&mut self) {
        self.handles.clear();
    }

    /// Refuses one more when there are too many: to be asked before anything is opened or made.
    ///
    /// # Errors
    /// `ENFILE`.
    pub fn check_room(&self) -> Result<(), Errno> {
        if self.handles.len() < self.limit { Ok(()) } else { Err(Errno::NFILE) }
    }

    /// Takes one more; gives its number.
    pub fn add(&mut self, handle: Handle) -> u64 {
        let number = self.next;
        self.next += 1;
        self.handles.insert(number, handle);
        number
    }

    /// The one of that number.
    ///
    /// # Errors
    /// `EBADF`, as for the rest.
    pub fn get_mut(&mut self, number: u64) -> Result<&mut Handle, Errno> {
        self.handles.get_mut(&number).ok_or(Errno::BADF)
    }

    /// A file, open to be written if `write` is set.
    pub fn file(&self, number: u64, write: bool) -> Result<&OwnedFd, Errno> {
        match self.handles.get(&number) {
            Some(Handle { file, kind: Kind::File { write: can }, .. }) if *can || !write => Ok(file),
            _ => Err(Errno::BADF),
        }
    }

    /// Anything that is open of a file: what is left of it when it has no name any more.
    pub fn any_of(&self, node: u64) -> Option<&Handle> {
        self.handles.values().find(|handle| handle.node == node)
    }

    /// Takes a folder out of the table, to be [put back](Self::put_back).
    pub fn take_folder(&mut self, number: u64) -> Result<Handle, Errno> {
        match self.handles.get(&number) {
            Some(Handle { kind: Kind::Folder { .. }, .. }) => self.remove(number),
            _ => Err(Errno::BADF),
        }
    }

    /// Puts back what was taken out.
    pub fn put_back(&mut self, number: u64, handle: Handle) {
        self.handles.insert(number, handle);
    }

    /// Closes one.
    pub fn remove(&mut self, number: u64) -> Result<Handle, Errno> {
        self.handles.remove(&number).ok_or(Errno::BADF)
    }
}
