//! What the host changes, as the guest's agent is to be told.

use std::collections::HashMap;
use std::ffi::CStr;

use rustix::fs::FileType;
use rustix::io::Errno;

use super::Server;
use super::nodes::ROOT;
use super::system::{self, Identity};
use super::watch::{Event, Watch, mask};
use crate::vmm::virtio::fs::feed::{Change, Feed};

/// Longest path that is told: no program can name a longer one (`PATH_MAX`).
const PATH_MAX: usize = 4095;
/// Reads of events between two looks at what else there is to do.
const READS: usize = 4;

/// Who hears of changes of a share, and how.
#[derive(Debug)]
pub(super) struct Hearing {
    watch: Watch,
    feed: Feed,
    tag: String,
}

/// One event for each name, where the first one was.
fn gather(events: Vec<Event>) -> Vec<Event> {
    let mut places = HashMap::new();
    let mut gathered: Vec<Event> = Vec::new();
    for event in events {
        let place = *places.entry((event.folder, event.name.clone())).or_insert(gathered.len());
        match gathered.get_mut(place) {
            Some(known) => known.mask |= event.mask,
            None => gathered.push(event),
        }
    }
    gathered
}

impl Server {
    /// Tells `feed` from now on of what the host changes in folders that the guest knows.
    pub fn tell(&mut self, feed: &Feed, tag: &str) {
        match Watch::new() {
            Ok(watch) => self.hearing = Some(Hearing { watch, feed: feed.clone(), tag: tag.to_owned() }),
            Err(error) => tracing::warn!(%error, "the guest does not hear of changes in shared folders"),
        }
        if let Err(error) = self.watch_root() {
            tracing::warn!(%error, tag, "the guest does not hear of changes in a shared folder");
            self.hearing = None;
        }
    }

    /// Readable when the host has changed something.
    pub fn source(&self) -> Option<std::os::fd::RawFd> {
        self.hearing.as_ref().map(|hearing| hearing.watch.source())
    }

    /// How many files the guest knows.
    #[cfg(test)]
    pub(super) fn known(&self) -> usize {
        self.nodes.len()
    }

    /// How many folders are watched.
    #[cfg(test)]
    pub(super) fn watched(&self) -> usize {
        self.hearing.as_ref().map_or(0, |hearing| hearing.watch.len())
    }

    /// How many are that nobody knows any more.
    #[cfg(test)]
    pub(super) fn watched_to_no_end(&self) -> usize {
        self.hearing.as_ref().map_or(0, |hearing| hearing.watch.litter())
    }

    /// Watches the shared folder itself, and nothing else.
    pub(super) fn watch_root(&mut self) -> Result<(), Errno> {
        let Some(hearing) = &mut self.hearing else { return Ok(()) };
        hearing.watch.clear();
        hearing.watch.add(ROOT, self.nodes.root(), c".")
    }

    /// The guest knows a folder from now on.
    pub(super) fn watch_folder(&mut self, number: u64, parent: impl std::os::fd::AsFd, name: &CStr) {
        if let Some(hearing) = &mut self.hearing {
            // Of one that cannot be watched nothing is heard.
            let _ = hearing.watch.add(number, parent, name);
        }
    }

    /// The guest has removed what it knew at a place.
    pub(super) fn leave(&mut self, parent: u64, name: &CStr) {
        if let (Some(hearing), Some((number, _))) = (&mut self.hearing, self.nodes.at(parent, name)) {
            hearing.watch.removed(number);
        }
        self.nodes.vacate(parent, name);
    }

    /// Of folders that the guest has forgotten nobody is told any more.
    pub(super) fn unwatch_forgotten(&mut self) {
        let forgotten = self.nodes.take_forgotten();
        let Some(hearing) = &mut self.hearing else { return };
        for folder in forgotten {
            // It is known again.
            if self.nodes.identity(folder.number).is_some() {
                continue;
            }
            let parent = self.nodes.folder(folder.parent).ok();
            let place = parent.as_deref().map(|parent| (parent, folder.name.as_c_str()));
            hearing.watch.remove(folder.number, place);
        }
        if hearing.watch.is_littered() {
            self.watch_anew();
        }
    }

    fn watch_anew(&mut self) {
        // The shared folder could be watched before.
        let _ = self.watch_root();
        for folder in self.nodes.folders() {
            if let Ok(parent) = self.nodes.folder(folder.parent) {
                self.watch_folder(folder.number, parent, &folder.name);
            }
        }
    }

    /// Tells of what the host has changed; false when there may be more.
    pub fn hear(&mut self) -> bool {
        let Some(mut hearing) = self.hearing.take() else { return true };
        let (mut events, mut done) = (Vec::new(), false);
        for _ in 0..READS {
            done = hearing.watch.take(&mut events);
            if done {
                break;
            }
        }
        if self.started {
            for event in &gather(events) {
                self.tell_of(event, &hearing);
            }
        }
        self.hearing = Some(hearing);
        done
    }

    fn tell_of(&mut self, event: &Event, hearing: &Hearing) {
        if event.mask & mask::OVERFLOW != 0 {
            return tracing::warn!("the guest does not hear of all changes: there were too many at once");
        }
        let Event { mask, folder, name } = event;
        // A folder is told of by the one that it is in.
        if name.as_ref() == c"." || self.is_hidden(*folder, name) {
            return;
        }
        let Some(change) = self.change(*mask, *folder, name) else { return };
        if change.removed.is_some() {
            self.nodes.vacate(*folder, name);
        }
        if let Some(path) = self.path_of(*folder, name) {
            hearing.feed.add(&hearing.tag, path, change);
        }
    }

    /// What has become of a name, for one who knows what the guest knows.
    fn change(&mut self, mask: u64, folder: u64, name: &CStr) -> Option<Change> {
        let (made, gone) =
            (mask & (mask::CREATE | mask::MOVED_TO) != 0, mask & (mask::DELETE | mask::MOVED_FROM) != 0);
        let (modified, attributes) = (mask & mask::MODIFY != 0, mask & mask::ATTRIB != 0);
        let known = self.nodes.at(folder, name);
        let now = self.nodes.folder(folder).and_then(|folder| system::stat_in(folder, name)).ok();
        if now.is_some_and(|stat| self.is_secret(&stat)) {
            return None;
        }
        let now = now.map(|stat| Identity::of(&stat));
        let none = Change::default();
        match (known, now) {
            (Some((_, known)), Some(now)) if known == now => {
                Some(Change { modified: modified || made || gone, attributes, ..none })
            }
            (Some((number, known)), Some(now)) => Some(Change {
                removed: Some(known.kind()),
                made: Some(now.kind()),
                left: Some(number),
                ..none
            }),
            (Some((number, known)), None) => {
                Some(Change { removed: Some(known.kind()), left: Some(number), ..none })
            }
            (None, Some(now)) => {
                let made = made.then_some(now.kind());
                Some(Change { made, modified, attributes: attributes && made.is_none(), ..none })
            }
            // It came and went; or went, and was never looked at.
            (None, None) if made || !gone => None,
            (None, None) => {
                let folder = mask & mask::IS_FOLDER != 0;
                let kind = if folder { FileType::Directory } else { FileType::RegularFile };
                Some(Change { removed: Some(kind), ..none })
            }
        }
    }

    /// Where the guest finds a name.
    fn path_of(&self, mut folder: u64, name: &CStr) -> Option<Vec<u8>> {
        let (mut names, mut len) = (vec![name], name.count_bytes());
        while folder != ROOT {
            let (parent, name) = self.nodes.place_of(folder)?;
            names.push(name);
            len += 1 + name.count_bytes();
            // What the guest was told of at different times may add up to a circle.
            if len > PATH_MAX {
                return None;
            }
            folder = parent;
        }
        let names: Vec<&[u8]> = names.iter().rev().map(|name| name.to_bytes()).collect();
        Some(names.join(&b'/'))
    }
}
