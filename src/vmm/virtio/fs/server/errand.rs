//! The guest's agent, which makes events of the guest's inotify out of what the host has changed.
//!
//! The guest's kernel makes such an event for a call that changes a file. So the agent makes calls that would change
//! what the host has changed already (`guest/agent/changes.rs`), as a group of its own, by which they are known here.
//! They change nothing, and are answered as it takes for the event: a file that is to seem new is not found first,
//! one that is to seem removed is. Anybody in the guest who is root can do the same, and fools nobody but the guest.

use std::ffi::{CStr, CString};

use rustix::fs::{FileType, Statx};
use rustix::io::Errno;

use super::Server;
use super::abi::{Args, op};
use super::system::{self, Identity, check_name};

/// The group of the first errand; the others follow. None that is given to somebody in the guest.
const GROUPS: u32 = 0x7276_6d00;
/// Numbers from here on are of files that seem to be there only to seem to be removed.
const GHOSTS: u64 = u64::MAX - (1 << 20);

/// What the agent is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Errand {
    /// To look at something, or to say that it has changed.
    Look,
    /// To say that something is new.
    Make,
    /// To say that a file, or a folder, was removed.
    Remove(FileType),
}

impl Errand {
    /// Of a request that comes as a user of that group.
    pub(super) fn of(group: u32) -> Option<Self> {
        match group.wrapping_sub(GROUPS) {
            0 => Some(Self::Look),
            1 => Some(Self::Make),
            2 => Some(Self::Remove(FileType::RegularFile)),
            3 => Some(Self::Remove(FileType::Directory)),
            _ => None,
        }
    }
}

/// What errands leave behind for the next request.
#[derive(Debug, Default)]
pub(super) struct Errands {
    /// How many ghosts there were.
    ghosts: u64,
    /// Where the last one is.
    ghost: Option<(u64, CString)>,
    /// What was said of a file the last time: what the guest has cached goes by that.
    told: Option<(u64, Statx)>,
}

impl Server {
    /// Does what the agent asks for; `None` where it is a request like others.
    pub(super) fn run_errand(
        &mut self,
        errand: Errand,
        opcode: u32,
        node: u64,
        args: &mut Args<'_>,
    ) -> Option<Result<(), Errno>> {
        let outcome = match opcode {
            op::LOOKUP => self.meet(errand, node, args),
            op::MKNOD => self.seem_made(node, args, None),
            op::MKDIR => self.seem_made(node, args, Some(FileType::Directory)),
            op::SYMLINK => self.seem_made(node, args, Some(FileType::Symlink)),
            op::UNLINK | op::RMDIR => self.seem_removed(node, args),
            op::GETATTR => self.tell_attributes(node),
            op::SETATTR => self.repeat_attributes(node),
            _ => return None,
        };
        Some(outcome)
    }

    /// Whether the file at that name is the one that the guest knows to be there.
    fn is_as_known(&mut self, parent: u64, name: &CStr) -> bool {
        let Some((_, known)) = self.nodes.at(parent, name) else { return false };
        let found = self.nodes.folder(parent).and_then(|folder| system::stat_in(folder, name));
        found.is_ok_and(|stat| Identity::of(&stat) == known)
    }

    fn meet(&mut self, errand: Errand, parent: u64, args: &mut Args<'_>) -> Result<(), Errno> {
        let name = check_name(args.string()?)?;
        if self.is_hidden(parent, name) {
            return Err(Errno::NOENT);
        }
        match errand {
            Errand::Make if !self.is_as_known(parent, name) => Err(Errno::NOENT),
            Errand::Remove(kind) if !self.is_as_known(parent, name) => {
                let number = GHOSTS + self.errands.ghosts % (1 << 20);
                self.errands.ghosts += 1;
                self.errands.ghost = Some((parent, name.to_owned()));
                let stat = system::stat_of(self.nodes.root())?;
                self.answer.entry(number, 0, &departed(stat, number, kind, 1), self.owner);
                Ok(())
            }
            _ => self.answer_entry(parent, name).map(drop),
        }
    }

    /// `kind`: `None` where the request says it.
    fn seem_made(&mut self, parent: u64, args: &mut Args<'_>, kind: Option<FileType>) -> Result<(), Errno> {
        let kind = match kind {
            Some(FileType::Symlink) => FileType::Symlink,
            Some(kind) => {
                args.skip(8)?;
                kind
            }
            None => {
                let mode = args.u32()?;
                args.skip(12)?;
                FileType::from_raw_mode(mode)
            }
        };
        let name = self.allowed(parent, args.string()?)?;
        let found = system::stat_in(self.nodes.folder(parent)?, name)?;
        // The guest would take it for an error of ours, and never forget it.
        if Identity::of(&found).kind() != kind {
            return Err(Errno::EXIST);
        }
        self.answer_entry(parent, name).map(drop)
    }

    fn seem_removed(&mut self, parent: u64, args: &mut Args<'_>) -> Result<(), Errno> {
        let name = check_name(args.string()?)?;
        let ghost = self.errands.ghost.take();
        if ghost.is_some_and(|(folder, ghost)| (folder, ghost.as_c_str()) == (parent, name)) {
            return Ok(());
        }
        // It came back; or the guest believes that what was there still is, and gives that up when it hears this.
        Err(if self.is_as_known(parent, name) { Errno::BUSY } else { Errno::INTR })
    }

    fn tell_attributes(&mut self, node: u64) -> Result<(), Errno> {
        let stat = self.stat_node(node, None)?;
        self.errands.told = Some((node, stat));
        self.answer_attributes(&stat);
        Ok(())
    }

    /// The guest takes over what this answers without a look at what it has cached: so it is nothing new, unless the
    /// guest itself has made the file longer or shorter meanwhile.
    fn repeat_attributes(&mut self, node: u64) -> Result<(), Errno> {
        let told = self.errands.told.take().filter(|(told, _)| *told == node).map(|(_, stat)| stat);
        let stat = match (self.stat_node(node, None), self.nodes.identity(node)) {
            (Ok(now), _) => told.filter(|told| told.stx_size == now.stx_size).unwrap_or(now),
            // What was open before another server died may be open still.
            (Err(Errno::STALE), Some(gone)) if !self.took_over => {
                departed(system::stat_of(self.nodes.root())?, gone.inode(), gone.kind(), 0)
            }
            (Err(error), _) => return Err(error),
        };
        self.answer_attributes(&stat);
        Ok(())
    }
}

/// What is said of a file that is not there any more.
fn departed(mut stat: Statx, number: u64, kind: FileType, names: u32) -> Statx {
    stat.stx_ino = number;
    stat.stx_mode = (kind.as_raw_mode() | 0o600) as u16;
    stat.stx_nlink = names;
    (stat.stx_size, stat.stx_blocks) = (0, 0);
    stat
}
