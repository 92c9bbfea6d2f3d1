//! Names of the shared folder that do not exist for the guest.
//!
//! A name is hidden at its path, whatever folder is there by now: what the host makes anew, or later, is no more to be
//! seen than what was there first. It stays hidden in folders in which it was found, when the host moves them. The guest
//! cannot change what the path leads to: of the names on the way it can make and remove empty folders, and no more.

use std::collections::VecDeque;
use std::ffi::{CStr, CString};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use rustix::fs::{FileType, Statx};
use rustix::io::Errno;

use super::Server;
use super::system::{self, Identity, check_name};

/// Most folders of one path that are remembered: only the host makes more of them.
const FOLDERS: usize = 16;

/// A name that is hidden.
#[derive(Debug)]
pub(super) struct Hidden {
    /// The names on the way to it, from the shared folder.
    way: Vec<CString>,
    name: CString,
    /// Folders at that path in which there was such a file, the last one at the end.
    folders: VecDeque<Identity>,
}

impl Hidden {
    /// The folder that is at its path now.
    fn folder(&self, root: impl AsFd) -> Option<OwnedFd> {
        system::open_way(root, &self.way).ok()
    }

    /// The file that is at its path now.
    fn file(&self, root: impl AsFd) -> Option<Statx> {
        system::stat_in(self.folder(root)?, &self.name).ok()
    }

    /// Whether a folder is at its path now, or had it before.
    fn is_in(&mut self, folder: Identity, root: impl AsFd) -> bool {
        let now = self.folder(root).and_then(|folder| {
            let identity = Identity::of(&system::stat_of(&folder).ok()?);
            // The guest cannot make such a file: so it cannot push out what is remembered either.
            if !self.folders.contains(&identity) && system::stat_in(&folder, &self.name).is_ok() {
                if self.folders.len() == FOLDERS {
                    self.folders.pop_front();
                }
                self.folders.push_back(identity);
            }
            Some(identity)
        });
        now == Some(folder) || self.folders.contains(&folder)
    }
}

/// Some file systems take small letters for capital ones.
fn is_like(name: &CStr, other: &CStr) -> bool {
    name.to_bytes().eq_ignore_ascii_case(other.to_bytes())
}

impl Server {
    /// Hides a path, relative to the shared folder, whether there is a file or not: the guest finds nothing there,
    /// and can put nothing there.
    pub fn hide(&mut self, path: &Path) {
        let mut way = path.iter().filter_map(|name| CString::new(name.as_bytes()).ok()).collect::<Vec<_>>();
        let Some(name) = way.pop() else { return };
        let mut hidden = Hidden { way, name, folders: VecDeque::new() };
        let root = self.nodes.root();
        if let Some(folder) = hidden.folder(root).and_then(|folder| system::stat_of(folder).ok()) {
            hidden.is_in(Identity::of(&folder), root);
        }
        self.hidden.push(hidden);
    }

    /// Whether that name in a folder is hidden.
    pub(super) fn is_hidden(&mut self, parent: u64, name: &CStr) -> bool {
        let mut named = self.hidden.iter_mut().filter(|hidden| is_like(&hidden.name, name)).peekable();
        named.peek().is_some()
            && self.nodes.identity(parent).is_some_and(|folder| {
                let root = self.nodes.root();
                named.any(|hidden| hidden.is_in(folder, root))
            })
    }

    /// Whether that name in a folder is on the way to a hidden one.
    fn leads_to_hidden(&self, parent: u64, name: &CStr) -> bool {
        let is_parent = |above: &[CString]| {
            let found = system::open_way(self.nodes.root(), above).and_then(system::stat_of);
            found.is_ok_and(|stat| self.nodes.identity(parent) == Some(Identity::of(&stat)))
        };
        self.hidden.iter().any(|hidden| {
            let mut steps = hidden.way.iter().enumerate().filter(|(_, step)| is_like(step, name));
            steps.any(|(above, _)| hidden.way.get(..above).is_some_and(is_parent))
        })
    }

    /// Whether it is a hidden file that has another name, too. Those that have no other are not found anyway.
    pub(super) fn is_secret(&self, stat: &Statx) -> bool {
        stat.stx_nlink > 1 && self.secrets().any(|secret| secret == Identity::of(stat))
    }

    /// Refuses a file that the guest found before it was hidden: the host has moved it, or its folder, or given it one
    /// more name since.
    ///
    /// # Errors
    /// `EACCES`.
    pub(super) fn check_shown(&mut self, node: u64, stat: &Statx) -> Result<(), Errno> {
        let is_named = |name: &CStr| self.hidden.iter().any(|hidden| is_like(&hidden.name, name));
        let named = self.nodes.place_of(node).filter(|(_, name)| is_named(name));
        let named = named.map(|(parent, name)| (parent, name.to_owned()));
        let is_hidden = named.is_some_and(|(parent, name)| self.is_hidden(parent, &name));
        if is_hidden || self.is_secret(stat) { Err(Errno::ACCESS) } else { Ok(()) }
    }

    /// The hidden files that there are.
    pub(super) fn secrets(&self) -> impl Iterator<Item = Identity> {
        let files = self.hidden.iter().filter_map(|hidden| hidden.file(self.nodes.root()));
        files.map(|stat| Identity::of(&stat)).filter(|file| file.kind() == FileType::RegularFile)
    }

    /// Refuses what is no name, and a hidden one, for requests that make or remove a folder.
    ///
    /// # Errors
    /// As [`check_name`]; `EACCES`.
    pub(super) fn allowed<'n>(&mut self, parent: u64, name: &'n CStr) -> Result<&'n CStr, Errno> {
        let name = check_name(name)?;
        if self.is_hidden(parent, name) { Err(Errno::ACCESS) } else { Ok(name) }
    }

    /// The same, and refuses one on the way to a hidden one, for requests that change something else.
    ///
    /// # Errors
    /// As [`allowed`](Self::allowed); `EBUSY`, as for a place where something is mounted.
    pub(super) fn free<'n>(&mut self, parent: u64, name: &'n CStr) -> Result<&'n CStr, Errno> {
        let name = self.allowed(parent, name)?;
        if self.leads_to_hidden(parent, name) { Err(Errno::BUSY) } else { Ok(name) }
    }
}
