//! The server: one shared folder, as FUSE requests ask for it.
//!
//! It trusts nothing that a request says. Nodes and handles are looked up, names are one component,
//! lengths are bounded, and every file is reached from an open folder by one name ([`system`]), so that
//! nothing outside the shared folder has a name here.
//!
//! Every file is reached with the rights of this process, which are its user's. The guest's kernel
//! decides which user in the guest may do what, going by the owner and permissions that it is told.

mod abi;
mod attributes;
mod budget;
mod errand;
mod fanotify;
mod files;
mod folders;
mod handles;
mod hear;
mod hidden;
mod names;
mod nodes;
mod system;
#[cfg(test)]
pub(crate) mod tests;
mod watch;

use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;

use abi::{Answer, Args, InHeader, cap, op};
use errand::{Errand, Errands};
use handles::{Handles, MAX_HANDLES};
use hear::Hearing;
use nodes::{MAX_FOLDERS, Nodes};
use system::Descriptors;

pub use budget::Budget;

use crate::vmm::virtio::chain::Chain;

/// Most descriptors that a share has open: what the guest opened, folders on the way to files, what tells of changes,
/// and a few for the moment.
pub const MAX_DESCRIPTORS: usize = MAX_HANDLES + MAX_FOLDERS + 16;

/// Most bytes in one read or write.
const MAX_TRANSFER: u32 = 1 << 20;
/// The same, in pages.
const MAX_PAGES: u16 = (MAX_TRANSFER / 4096) as u16;
/// Most bytes that any other request has behind its header.
const MAX_BODY: usize = 64 << 10;
/// Seconds for which the guest may believe what it was told of a name or an attribute. What it changes
/// itself it knows at once.
const VALID: u64 = 1;
/// Whom files belong to that are not the host user's: `nobody`, by the numbers of Linux
/// (`/proc/sys/kernel/overflowuid`).
const NOBODY: u32 = 65534;

/// What a request comes to: how many bytes its answer has behind the header.
type Outcome = Result<usize, Errno>;

/// One shared folder.
#[derive(Debug)]
pub struct Server {
    read_only: bool,
    owner: (u32, u32),
    /// The host user, and the groups it is in.
    user: u32,
    groups: Vec<u32>,
    nodes: Nodes,
    handles: Handles,
    descriptors: Option<Descriptors>,
    /// The device of the folder, if its file system is one that does nothing when a file is closed.
    local: Option<(u32, u32)>,
    hidden: Vec<hidden::Hidden>,
    /// Where somebody is told of what the host changes.
    hearing: Option<Hearing>,
    errands: Errands,
    started: bool,
    /// Another server was here before, which knew what the guest has open.
    took_over: bool,
    answer: Answer,
    body: Vec<u8>,
}

impl Server {
    /// Opens `source`, a folder. Files of the host user's seem to be `owner`'s in the guest, which may know as many as
    /// `budget` has.
    ///
    /// # Errors
    /// What the system says.
    pub fn open(source: &Path, read_only: bool, owner: (u32, u32), budget: &Budget) -> io::Result<Self> {
        Self::with_limits(source, read_only, owner, budget.clone(), MAX_HANDLES)
    }

    fn with_limits(
        source: &Path,
        read_only: bool,
        owner: (u32, u32),
        budget: Budget,
        handles: usize,
    ) -> io::Result<Self> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let root: OwnedFd = rustix::fs::open(source, flags, Mode::empty())?;
        let mut groups: Vec<u32> =
            rustix::process::getgroups()?.into_iter().map(|gid| gid.as_raw()).collect();
        groups.push(rustix::process::getegid().as_raw());
        let stat = system::stat_of(&root)?;
        let local = system::is_local(&root).then_some((stat.stx_dev_major, stat.stx_dev_minor));
        Ok(Self {
            read_only,
            owner,
            local,
            user: rustix::process::geteuid().as_raw(),
            groups,
            nodes: Nodes::new(root, budget)?,
            handles: Handles::new(handles),
            descriptors: Descriptors::open().ok(),
            hidden: Vec::new(),
            hearing: None,
            errands: Errands::default(),
            started: false,
            took_over: false,
            answer: Answer::default(),
            body: Vec::new(),
        })
    }

    /// Back to the beginning: whatever the guest knew or had open is gone.
    pub fn reset(&mut self) {
        self.handles.clear();
        self.nodes.clear();
        self.errands = Errands::default();
        (self.started, self.took_over) = (false, false);
    }

    /// Takes over from a server that died under its guest, which does not begin again. Files that the guest knows are
    /// found when it looks for them by name; what it had open is closed.
    pub fn take_over(&mut self) {
        (self.started, self.took_over) = (true, true);
        let now = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
        // No server gives more than one number a nanosecond.
        let seconds = now.tv_sec.unsigned_abs().saturating_mul(1_000_000_000);
        self.handles.begin_at(seconds.saturating_add(now.tv_nsec.unsigned_abs()));
    }

    /// Does what `chain` asks for and writes the answer to it; gives the number of bytes written. A
    /// request that cannot be understood at all comes back as it came.
    pub(in crate::vmm::virtio) fn handle(&mut self, chain: &mut Chain<'_>) -> u32 {
        let mut header = [0; abi::IN_HEADER];
        if !chain.read_exact(&mut header) {
            return 0;
        }
        let header = InHeader::parse(&header);
        self.answer.clear();
        let outcome = self.dispatch(&header, chain);
        // No answer is waited for.
        if matches!(header.opcode, op::FORGET | op::BATCH_FORGET) {
            return 0;
        }
        self.reply(&header, outcome, chain)
    }

    /// Writes header and answer, where there is room for them.
    fn reply(&self, header: &InHeader, outcome: Outcome, chain: &mut Chain<'_>) -> u32 {
        let room = chain.writable_len();
        if room < abi::OUT_HEADER {
            return 0;
        }
        let outcome = outcome.and_then(|len| match room - abi::OUT_HEADER < len {
            true => Err(Errno::INVAL),
            false => Ok(len),
        });
        let (len, error) = match outcome {
            Ok(len) => (len, 0),
            Err(error) => (0, -error.raw_os_error()),
        };
        let total = (abi::OUT_HEADER + len) as u32;
        let mut out = Answer::default();
        out.u32(total).u32(error.cast_unsigned()).u64(header.unique);
        chain.write(out.bytes());
        if error == 0 {
            chain.write(self.answer.bytes());
        }
        total
    }

    fn dispatch(&mut self, header: &InHeader, chain: &mut Chain<'_>) -> Outcome {
        let len = (header.len as usize).checked_sub(abi::IN_HEADER).ok_or(Errno::INVAL)?;
        if len > chain.readable_len() {
            return Err(Errno::INVAL);
        }
        if !self.started && header.opcode != op::INIT {
            return Err(Errno::IO);
        }
        // Those that move data do so without a copy.
        match header.opcode {
            op::READ => return self.read(chain),
            op::WRITE => return self.write(len, chain),
            _ if len > MAX_BODY => return Err(Errno::INVAL),
            _ => {}
        }
        let mut body = std::mem::take(&mut self.body);
        body.resize(len, 0);
        let outcome = match chain.read_exact(&mut body) {
            true => self.perform(header, &mut Args::new(&body), chain.writable_len()),
            false => Err(Errno::INVAL),
        };
        self.body = body;
        outcome.map(|()| self.answer.bytes().len()).map_err(|error| self.vanished(error))
    }

    /// What is not found in a share whose folder was removed will never be found.
    fn vanished(&self, error: Errno) -> Errno {
        let is_gone = || system::stat_of(self.nodes.root()).is_ok_and(|stat| stat.stx_nlink == 0);
        if error == Errno::NOENT && is_gone() { Errno::STALE } else { error }
    }

    fn perform(&mut self, header: &InHeader, args: &mut Args<'_>, room: usize) -> Result<(), Errno> {
        let node = header.node;
        if let Some(errand) = Errand::of(header.group).filter(|_| self.hearing.is_some())
            && let Some(outcome) = self.run_errand(errand, header.opcode, node, args)
        {
            return outcome;
        }
        match header.opcode {
            op::INIT => self.init(args),
            op::DESTROY => {
                self.reset();
                Ok(())
            }
            op::FORGET => {
                self.nodes.forget(node, args.u64()?);
                self.unwatch_forgotten();
                Ok(())
            }
            op::BATCH_FORGET => self.batch_forget(args),
            op::LOOKUP => self.lookup(node, args),
            op::READLINK => self.readlink(node),
            op::SYMLINK => self.symlink(node, args),
            op::MKNOD => self.mknod(node, args),
            op::MKDIR => self.mkdir(node, args),
            op::UNLINK => self.unlink(node, args, false),
            op::RMDIR => self.unlink(node, args, true),
            op::RENAME => self.rename(node, args, false),
            op::RENAME2 => self.rename(node, args, true),
            op::LINK => self.link(node, args),
            op::GETATTR => self.getattr(node, args),
            op::SETATTR => self.setattr(node, args),
            op::STATFS => self.statfs(),
            op::SYNCFS => rustix::fs::syncfs(&system::reopen_folder(self.nodes.root())?),
            op::OPEN => self.open_file(node, args),
            op::CREATE => self.create(node, args),
            op::FLUSH => self.flush(args),
            op::RELEASE | op::RELEASEDIR => self.release(args),
            op::FSYNC | op::FSYNCDIR => self.fsync(args),
            op::FALLOCATE => self.fallocate(args),
            op::LSEEK => self.lseek(args),
            op::COPY_FILE_RANGE => self.copy_file_range(args),
            op::OPENDIR => self.open_folder(node),
            op::READDIR => self.list(node, args, false, room),
            op::READDIRPLUS => self.list(node, args, true, room),
            // Extended attributes, locks (the guest's kernel keeps its own), device controls and such.
            _ => Err(Errno::NOSYS),
        }
    }

    /// Agrees on version and abilities. A guest that boots again begins again.
    fn init(&mut self, args: &mut Args<'_>) -> Result<(), Errno> {
        let (major, _minor, readahead, offered) = (args.u32()?, args.u32()?, args.u32()?, args.u32()?);
        if major < abi::MAJOR {
            return Err(Errno::PROTO);
        }
        self.reset();
        // Not with each reset: that is done by a thread that may not watch anything.
        let _ = self.watch_root();
        self.started = major == abi::MAJOR;
        let wanted = cap::ASYNC_READ
            | cap::ATOMIC_O_TRUNC
            | cap::BIG_WRITES
            | cap::AUTO_INVAL_DATA
            | cap::DO_READDIRPLUS
            | cap::READDIRPLUS_AUTO
            | cap::ASYNC_DIO
            | cap::PARALLEL_DIROPS
            | cap::MAX_PAGES;
        self.answer.u32(abi::MAJOR).u32(abi::MINOR).u32(readahead).u32(wanted & offered);
        // Requests in the background, and how many of them are many; then the sizes.
        self.answer.u16(64).u16(48).u32(MAX_TRANSFER).u32(1).u16(MAX_PAGES).u16(0).zeros(32);
        Ok(())
    }

    fn batch_forget(&mut self, args: &mut Args<'_>) -> Result<(), Errno> {
        let (count, _) = (args.u32()?, args.u32()?);
        for _ in 0..count {
            let (node, lookups) = (args.u64()?, args.u64()?);
            self.nodes.forget(node, lookups);
        }
        self.unwatch_forgotten();
        Ok(())
    }

    /// Refuses what would change a share that is for reading.
    fn writable(&self) -> Result<(), Errno> {
        if self.read_only { Err(Errno::ROFS) } else { Ok(()) }
    }
}

impl From<abi::Short> for Errno {
    fn from(_: abi::Short) -> Self {
        Self::INVAL
    }
}
