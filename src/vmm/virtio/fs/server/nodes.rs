//! The files that the guest knows, and the folders that are open for them.
//!
//! A file is known by its folder and its name there, and by its identity: whatever is found there later
//! is used only if it is the same file. So a file costs some memory and no descriptor, however many the
//! guest knows; only of folders some are open, those that were used last.

use std::collections::{HashMap, VecDeque};
use std::ffi::{CStr, CString};
use std::hash::{BuildHasher, DefaultHasher, Hash, Hasher, RandomState};
use std::os::fd::OwnedFd;
use std::sync::Arc;

use rustix::fs::{FileType, Mode, OFlags, Statx};
use rustix::io::Errno;

use super::budget::Budget;
use super::system::{self, Identity};

/// The shared folder itself (`FUSE_ROOT_ID`).
pub const ROOT: u64 = 1;
/// Most folders that are kept open.
pub const MAX_FOLDERS: usize = 256;
/// Deepest nesting of folders: what a path of `PATH_MAX` bytes can hold.
const MAX_DEPTH: usize = 2048;

/// What was seen of a file's content: two that are alike have the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stamp {
    /// In bytes.
    pub size: u64,
    /// Last change of the content: seconds, nanoseconds.
    pub modified: (i64, u32),
    /// Last change of anything.
    pub changed: (i64, u32),
}

/// A file that the guest knows.
#[derive(Debug)]
struct Node {
    identity: Identity,
    parent: u64,
    name: CString,
    /// How often the guest was told of it and has not forgotten it.
    lookups: u64,
    /// Nodes that have this one as their parent.
    children: u32,
    /// Of a folder, while it is open.
    folder: Option<Arc<OwnedFd>>,
    /// The folder was used since it was last considered for being closed.
    recent: bool,
    /// What the guest may have cached.
    stamp: Option<Stamp>,
}

impl Node {
    fn is_at(&self, parent: u64, name: &CStr) -> bool {
        (self.parent, self.name.as_c_str()) == (parent, name)
    }
}

/// A folder, and where it was found.
#[derive(Debug)]
pub struct Place {
    /// Its number.
    pub number: u64,
    /// That of the folder in which it was.
    pub parent: u64,
    /// Its name there.
    pub name: CString,
}

/// All of them.
#[derive(Debug)]
pub struct Nodes {
    root: Arc<OwnedFd>,
    root_identity: Identity,
    nodes: HashMap<u64, Node>,
    by_identity: HashMap<Identity, u64>,
    /// By digests of folder and name; the last one that was found there.
    by_place: HashMap<u64, u64>,
    hasher: RandomState,
    /// Folders that the guest has forgotten, since somebody asked.
    forgotten: Vec<Place>,
    /// Folders that are open, and some that no longer are, in the order in which they may be closed.
    open: VecDeque<u64>,
    open_count: usize,
    budget: Budget,
}

impl Nodes {
    /// With nothing but the shared folder, which is `root`.
    ///
    /// # Errors
    /// What the system says, and `ENOTDIR`.
    pub fn new(root: OwnedFd, budget: Budget) -> Result<Self, Errno> {
        let root_identity = Identity::of(&system::stat_of(&root)?);
        if root_identity.kind() != FileType::Directory {
            return Err(Errno::NOTDIR);
        }
        Ok(Self {
            root: Arc::new(root),
            root_identity,
            nodes: HashMap::new(),
            by_identity: HashMap::new(),
            by_place: HashMap::new(),
            hasher: RandomState::new(),
            forgotten: Vec::new(),
            open: VecDeque::new(),
            open_count: 0,
            budget,
        })
    }

    /// The shared folder.
    pub fn root(&self) -> &Arc<OwnedFd> {
        &self.root
    }

    /// Forgets everything but the shared folder.
    pub fn clear(&mut self) {
        self.budget.give(self.nodes.len());
        self.nodes = HashMap::new();
        self.by_identity = HashMap::new();
        self.by_place = HashMap::new();
        self.forgotten = Vec::new();
        self.open.clear();
        self.open_count = 0;
    }

    /// How many the guest knows.
    #[cfg(test)]
    pub fn len(&self) -> usize {
        self.nodes.len()
    }

    /// All that the guest knows.
    #[cfg(test)]
    pub fn numbers(&self) -> Vec<u64> {
        self.nodes.keys().copied().collect()
    }

    /// How many folders are open.
    #[cfg(test)]
    pub fn open_folders(&self) -> usize {
        self.open_count
    }

    /// As if many others had been used since.
    #[cfg(test)]
    pub fn close_folders(&mut self) {
        self.nodes.values_mut().for_each(|node| node.folder = None);
        self.open.clear();
        self.open_count = 0;
    }

    /// What kind of file it is.
    ///
    /// # Errors
    /// `ESTALE` for what the guest was never told of, or has forgotten.
    pub fn kind(&self, id: u64) -> Result<FileType, Errno> {
        match id {
            ROOT => Ok(FileType::Directory),
            _ => Ok(self.get(id)?.identity.kind()),
        }
    }

    /// Which file it is; `None` for what the guest does not know.
    pub fn identity(&self, id: u64) -> Option<Identity> {
        match id {
            ROOT => Some(self.root_identity),
            _ => Some(self.nodes.get(&id)?.identity),
        }
    }

    /// The folder and the name by which it is known; `None` for the shared folder, and what the guest does not know.
    pub fn place_of(&self, id: u64) -> Option<(u64, &CStr)> {
        self.nodes.get(&id).map(|node| (node.parent, node.name.as_c_str()))
    }

    /// What the guest knows to be at `name` in `parent`.
    pub fn at(&self, parent: u64, name: &CStr) -> Option<(u64, Identity)> {
        let id = *self.by_place.get(&self.digest(parent, name))?;
        let node = self.nodes.get(&id).filter(|node| node.is_at(parent, name))?;
        Some((id, node.identity))
    }

    /// The guest knows that nothing is at `name` in `parent` any more.
    pub fn vacate(&mut self, parent: u64, name: &CStr) {
        self.by_place.remove(&self.digest(parent, name));
    }

    fn digest(&self, parent: u64, name: &CStr) -> u64 {
        self.hasher.hash_one((parent, name))
    }

    /// All folders but the shared one, and where they were found.
    pub fn folders(&self) -> Vec<Place> {
        let folders = self.nodes.iter().filter(|(_, node)| node.identity.kind() == FileType::Directory);
        let place =
            |(id, node): (&u64, &Node)| Place { number: *id, parent: node.parent, name: node.name.clone() };
        folders.map(place).collect()
    }

    /// Folders that the guest has forgotten since this was asked for last.
    pub fn take_forgotten(&mut self) -> Vec<Place> {
        std::mem::take(&mut self.forgotten)
    }

    fn get(&self, id: u64) -> Result<&Node, Errno> {
        self.nodes.get(&id).ok_or(Errno::STALE)
    }

    /// The number of the file that `stat` was found to be, at `name` in `parent`; the guest will be
    /// told of it, once more.
    ///
    /// # Errors
    /// `ENFILE` when the guest knows too many.
    pub fn enter(&mut self, parent: u64, name: &CStr, stat: &Statx) -> Result<u64, Errno> {
        let identity = Identity::of(stat);
        if identity == self.root_identity {
            return Ok(ROOT);
        }
        if let Some(id) = self.by_identity.get(&identity).copied() {
            self.place(id, parent, name);
            if let Some(node) = self.nodes.get_mut(&id) {
                node.lookups = node.lookups.saturating_add(1);
            }
            return Ok(id);
        }
        if !self.budget.take() {
            return Err(Errno::NFILE);
        }
        let id = self.number(&identity);
        let node = Node {
            identity,
            parent,
            name: name.to_owned(),
            lookups: 1,
            children: 0,
            folder: None,
            recent: false,
            stamp: None,
        };
        self.nodes.insert(id, node);
        self.by_identity.insert(identity, id);
        self.by_place.insert(self.digest(parent, name), id);
        self.adopt(parent, 1);
        Ok(id)
    }

    /// The number for a file: the same one whoever asks, so that the guest of a server that died knows the files of
    /// the next one by the numbers that it has. Another one where two files would have the same.
    fn number(&self, identity: &Identity) -> u64 {
        // Its keys are always the same.
        let mut hasher = DefaultHasher::new();
        identity.hash(&mut hasher);
        // A fuzzer would not find such numbers.
        let mut number = if cfg!(fuzzing) { ROOT } else { hasher.finish() };
        while number <= ROOT || self.nodes.contains_key(&number) {
            number = number.wrapping_add(1);
        }
        number
    }

    /// Whether one more can be told of.
    pub fn has_room(&self) -> bool {
        self.budget.has_room()
    }

    /// A file was moved, or found under another name.
    fn place(&mut self, id: u64, parent: u64, name: &CStr) {
        let digest = self.digest(parent, name);
        let Some(node) = self.nodes.get_mut(&id) else { return };
        self.by_place.insert(digest, id);
        if node.is_at(parent, name) {
            return;
        }
        let old_name = std::mem::replace(&mut node.name, name.to_owned());
        let old = std::mem::replace(&mut node.parent, parent);
        self.leave(id, old, &old_name);
        if old != parent {
            self.adopt(parent, 1);
            self.adopt(old, -1);
        }
    }

    /// What `stat` was found to be is now at `name` in `parent`, if the guest knows it.
    pub fn moved(&mut self, parent: u64, name: &CStr, stat: &Statx) {
        if let Some(id) = self.by_identity.get(&Identity::of(stat)).copied() {
            self.place(id, parent, name);
        }
    }

    /// What was at a place is not there any more, unless something else is.
    fn leave(&mut self, id: u64, parent: u64, name: &CStr) {
        let digest = self.digest(parent, name);
        if self.by_place.get(&digest) == Some(&id) {
            self.by_place.remove(&digest);
        }
    }

    fn adopt(&mut self, parent: u64, change: i32) {
        if let Some(node) = self.nodes.get_mut(&parent) {
            node.children = node.children.saturating_add_signed(change);
            self.drop_unused(parent);
        }
    }

    /// The guest forgets `count` times that it was told of a file.
    pub fn forget(&mut self, id: u64, count: u64) {
        if let Some(node) = self.nodes.get_mut(&id) {
            node.lookups = node.lookups.saturating_sub(count);
            self.drop_unused(id);
        }
    }

    /// Removes a node that nobody knows and nothing lies in, and then its parent, if that was all.
    fn drop_unused(&mut self, mut id: u64) {
        while let Some(node) = self.nodes.get(&id)
            && node.lookups == 0
            && node.children == 0
        {
            let Some(node) = self.nodes.remove(&id) else { return };
            self.budget.give(1);
            self.by_identity.remove(&node.identity);
            self.open_count -= usize::from(node.folder.is_some());
            self.leave(id, node.parent, &node.name);
            if node.identity.kind() == FileType::Directory {
                self.forgotten.push(Place { number: id, parent: node.parent, name: node.name });
            }
            id = node.parent;
            if let Some(parent) = self.nodes.get_mut(&id) {
                parent.children = parent.children.saturating_sub(1);
            }
        }
    }

    /// A folder, opened if it is not open.
    ///
    /// # Errors
    /// `ENOTDIR`; `ESTALE` when it is no longer where it was; what the system says.
    pub fn folder(&mut self, id: u64) -> Result<Arc<OwnedFd>, Errno> {
        // Up to one that is open, then down again.
        let mut missing = Vec::new();
        let mut at = id;
        let mut folder = loop {
            if at == ROOT {
                break Arc::clone(&self.root);
            }
            let node = self.nodes.get_mut(&at).ok_or(Errno::STALE)?;
            if node.identity.kind() != FileType::Directory {
                return Err(Errno::NOTDIR);
            }
            if let Some(folder) = &node.folder {
                node.recent = true;
                break Arc::clone(folder);
            }
            // What the guest was told of at different times may add up to a circle.
            if missing.len() == MAX_DEPTH {
                return Err(Errno::STALE);
            }
            missing.push(at);
            at = node.parent;
        };
        for id in missing.into_iter().rev() {
            let node = self.get(id)?;
            folder = Arc::new(open_same(&folder, node, OFlags::PATH | OFlags::DIRECTORY)?.0);
            self.keep_open(id, Arc::clone(&folder));
        }
        Ok(folder)
    }

    fn keep_open(&mut self, id: u64, folder: Arc<OwnedFd>) {
        while self.open_count >= MAX_FOLDERS {
            let Some(candidate) = self.open.pop_front() else { break };
            let Some(node) = self.nodes.get_mut(&candidate).filter(|node| node.folder.is_some()) else {
                continue;
            };
            if std::mem::take(&mut node.recent) {
                self.open.push_back(candidate);
            } else {
                node.folder = None;
                self.open_count -= 1;
            }
        }
        if let Some(node) = self.nodes.get_mut(&id) {
            self.open_count += usize::from(node.folder.is_none());
            node.folder = Some(folder);
            node.recent = true;
            self.open.push_back(id);
        }
        // Those of folders that were forgotten meanwhile.
        if self.open.len() > 2 * MAX_FOLDERS {
            let nodes = &self.nodes;
            self.open.retain(|id| nodes.get(id).is_some_and(|node| node.folder.is_some()));
        }
    }

    /// Opens a file: with `O_PATH` to look at it, whatever it is; else only files of the kind for which
    /// nothing else happens when they are opened.
    ///
    /// # Errors
    /// `ESTALE` when another file is where it was; `EACCES` for devices, sockets and the like; what the
    /// system says.
    pub fn open(&mut self, id: u64, flags: OFlags) -> Result<OwnedFd, Errno> {
        Ok(self.open_and_stat(id, flags)?.0)
    }

    /// The same, with what the file was then.
    ///
    /// # Errors
    /// As [`open`](Self::open).
    pub fn open_and_stat(&mut self, id: u64, flags: OFlags) -> Result<(OwnedFd, Statx), Errno> {
        if id == ROOT {
            let folder = system::reopen_folder(&self.root)?;
            let stat = system::stat_of(&folder)?;
            return Ok((folder, stat));
        }
        let parent = self.get(id)?.parent;
        if !flags.contains(OFlags::PATH) && self.kind(id)? != FileType::RegularFile {
            return Err(Errno::ACCESS);
        }
        let folder = self.folder(parent)?;
        open_same(&folder, self.get(id)?, flags)
    }

    /// Looks at a file.
    ///
    /// # Errors
    /// As [`open`](Self::open).
    pub fn stat(&mut self, id: u64) -> Result<Statx, Errno> {
        if id == ROOT {
            return system::stat_of(&self.root);
        }
        let node = self.get(id)?;
        if let Some(folder) = &node.folder {
            return system::stat_of(folder);
        }
        let parent = node.parent;
        let folder = self.folder(parent)?;
        let node = self.get(id)?;
        let stat = system::stat_in(folder, &node.name).map_err(gone)?;
        if Identity::of(&stat) == node.identity { Ok(stat) } else { Err(Errno::STALE) }
    }

    /// What the guest may have cached of a file becomes `stamp`; whether it was that already.
    pub fn stamp(&mut self, id: u64, stamp: Option<Stamp>) -> bool {
        match self.nodes.get_mut(&id) {
            Some(node) => std::mem::replace(&mut node.stamp, stamp) == stamp && stamp.is_some(),
            None => false,
        }
    }
}

impl Drop for Nodes {
    fn drop(&mut self) {
        self.clear();
    }
}

/// Opens what a node was, in the folder where it was.
fn open_same(folder: &OwnedFd, node: &Node, flags: OFlags) -> Result<(OwnedFd, Statx), Errno> {
    let file = system::open_in(folder, &node.name, flags, Mode::empty()).map_err(gone)?;
    let stat = system::stat_of(&file)?;
    match Identity::of(&stat) == node.identity {
        true => Ok((file, stat)),
        false => Err(Errno::STALE),
    }
}

/// A file that the guest knew is not where it was: it is to look again.
fn gone(error: Errno) -> Errno {
    match error {
        Errno::NOENT | Errno::LOOP | Errno::NOTDIR | Errno::NXIO | Errno::NODEV => Errno::STALE,
        other => other,
    }
}
