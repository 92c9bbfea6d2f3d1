//! Folders of a machine: the host's own through virtiofs, copies of the host's, and those in memory. What is
//! mounted is set up in the guest over SSH, and kept in its fstab; `docs/folders.md` says how it all works.

mod confine;
mod error;
mod exclude;
mod inside;
mod mount;
mod remote;
mod rsync;
mod send;
mod shared;
mod tree;
mod watch;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::record::Record;
use super::{MachineError, Machines, SshInfo};
use crate::model::{Cancel, Event, Folder, FolderKind, Machine, Owner, Phase, Project, ProviderKind};
use crate::provider;
use crate::ssh::Session;
use remote::{Fault, Remote, owner_words};
use shared::{FIRST_USER, check_host};

pub use error::FolderError;

/// `$1`: the folder; `$2`, `$3`: whose. Says its numbers, and what there is to copy with.
const PREPARE: &str = r#"
numbers "${2:-${SUDO_USER:-$(id -un)}}" "$3" || fail "the guest has no user or group $2:$3"
[ ! -e "$1" ] || [ -d "$1" ] || fail "$1 is not a folder there"
mkdir -p -- "$1" && chown "$uid:$gid" "$1" || exit 220
if command -v rsync >/dev/null; then echo rsync; fi
if [ -z "${SUDO_USER:-}" ]; then echo root; fi
echo "owner $uid $gid"
exit 223
"#;

/// What it says is short, and it does little.
const PREPARE_TIMEOUT: Duration = Duration::from_secs(60);
const PREPARE_ANSWER: usize = 1 << 10;

/// So much is copied before anybody is told how far it is, in bytes.
const WORTH_TELLING: u64 = 32 << 20;

/// A copy to be made.
#[derive(Debug, Clone, Copy)]
pub struct Job<'a> {
    /// The folder of the host.
    pub host: &'a Path,
    /// Where in the guest, an absolute path; it is made if need be.
    pub guest: &'a str,
    /// What is left out, as patterns of rsync.
    pub exclude: &'a [String],
    /// More of it, as paths relative to `host`.
    pub hidden: &'a [PathBuf],
    /// Remove in the guest what the host does not have.
    pub delete: bool,
    /// Whose it is in the guest; `None`: the login user's.
    pub owner: Option<&'a Owner>,
}

impl<'a> Job<'a> {
    /// The copy that a folder asks for; `None` where it is no copy.
    fn of(folder: &'a Folder, hidden: &'a [PathBuf]) -> Option<Job<'a>> {
        let FolderKind::Copied { host, exclude, delete, .. } = &folder.kind else { return None };
        Some(Job {
            host: &host.path,
            guest: &folder.guest,
            exclude,
            hidden,
            delete: *delete,
            owner: folder.owner.as_ref(),
        })
    }
}

/// The rsync of this host, and how it comes to the guest.
#[derive(Debug)]
struct Rsync<'a> {
    program: PathBuf,
    /// The value of `PATH` for it.
    path: &'a str,
    /// How its ssh client comes to the guest.
    ssh: &'a Route,
    /// The login user is root.
    as_root: bool,
}

/// How a copy may be made.
#[derive(Debug, Clone, Copy, Default)]
pub struct Ways<'a> {
    /// Where programs of this host are looked for: the value of `PATH`.
    pub path: &'a str,
    /// Without it rsync cannot be used.
    pub ssh: Option<&'a Route>,
}

/// How the system's ssh client comes to a guest.
#[derive(Debug, Clone, Default)]
pub struct Route {
    /// Its words, the address last.
    pub words: Vec<String>,
    /// The files that these name: the only ones of the user's that it can read beside the folder.
    pub files: Vec<PathBuf>,
}

/// What is told of a copy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Telling {
    /// How it went.
    All,
    /// What changed, if anything did.
    Changes,
}

/// What a copy did.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Sent {
    /// Files and links that were sent.
    pub files: usize,
    /// How long these are, in bytes.
    pub bytes: u64,
    /// Names that were removed in the guest.
    pub removed: usize,
    /// What the user should know.
    pub warnings: Vec<String>,
    /// Who has no rsync, so that rvm copied without: a clause.
    pub without: Option<&'static str>,
}

/// Makes a folder of the guest like one of the host: by rsync where both have it, else by comparing sizes and
/// times as rsync does. `progress` hears bytes done and in all, from any thread.
///
/// # Errors
/// [`FolderError::Host`] where the host's folder is not there: nothing is removed in the guest then;
/// [`FolderError::Copy`]; those of SSH.
pub fn copy(
    session: &Session,
    machine: &str,
    job: &Job<'_>,
    ways: Ways<'_>,
    progress: &(dyn Fn(u64, u64) + Sync),
    cancel: &Cancel,
) -> Result<Sent, MachineError> {
    let failed = |fault| match fault {
        Fault::Ssh(error) => MachineError::Ssh(error),
        Fault::Said(why) => FolderError::Copy { what: format!("{machine}:{}", job.guest), why }.into(),
    };
    check_host(machine, job.guest, job.host)?;
    let remote = Remote { session, cancel };
    let [user, group] = owner_words(job.owner);
    let answer =
        remote.ask(PREPARE, &[job.guest, user, group], PREPARE_ANSWER, PREPARE_TIMEOUT).map_err(failed)?;
    let owner = owner_in(&answer)
        .ok_or_else(|| failed(Fault::Said("its shell does not answer as a POSIX shell does".into())))?;
    let says = |word: &str| answer.lines().any(|line| line == word);
    let program = rsync::program(ways.path).filter(|program| confine::can_run(program));
    let without = match (ways.ssh, &program, says("rsync")) {
        (Some(ssh), Some(program), true) => {
            let rsync = Rsync { program: program.clone(), path: ways.path, ssh, as_root: says("root") };
            match rsync::run(&rsync, job, owner, cancel).map_err(failed)? {
                rsync::Ran::Sent(sent) => return Ok(sent),
                rsync::Ran::Not(why) => why,
            }
        }
        (_, _, false) => "the guest has no rsync",
        (_, None, _) if rsync::program(ways.path).is_some() => "rsync is none of this system's programs",
        (_, None, _) => "this host has no rsync",
        (None, ..) => "the machine is logged in to by password",
    };
    let sent = send::send(&remote, job, owner, progress).map_err(failed)?;
    Ok(Sent { without: Some(without), ..sent })
}

fn owner_in(answer: &str) -> Option<(u32, u32)> {
    let line = answer.lines().find_map(|line| line.strip_prefix("owner "))?;
    let (uid, gid) = line.split_once(' ')?;
    Some((uid.parse().ok()?, gid.trim().parse().ok()?))
}

/// The folders that a machine is to have with that provider: without the project folder where it cannot be
/// shared and nobody asked for it.
pub(super) fn wanted(machine: &Machine, provider: Option<ProviderKind>) -> Vec<Folder> {
    let served = provider.is_none_or(|kind| provider::serves_shares(kind).is_ok());
    machine.folders.iter().filter(|folder| served || !folder.is_implied()).cloned().collect()
}

impl Machines<'_> {
    /// Whether the folders of a machine that runs are as the file says.
    pub(super) fn folders_in_place(&self, machine: &Machine, record: &Record) -> bool {
        record.applied.folders == wanted(machine, record.provider)
    }

    /// Brings the folders of a machine that runs to what the file says. `started`: it has just been started.
    pub(super) fn place_folders(
        &self,
        machine: &Machine,
        record: &mut Record,
        session: &Session,
        started: bool,
        words: Option<fn(&SshInfo) -> Vec<String>>,
    ) -> Result<(), MachineError> {
        let all = wanted(machine, record.provider);
        if started {
            self.tell_unserved(machine, record.provider);
        }
        let before = record.applied.folders.clone();
        if (all.is_empty() && before.is_empty()) || (!started && all == before) {
            return Ok(());
        }
        let _watch = self.time(&machine.name, Phase::Folders);
        let placed = self.place(machine, record, session, (&all, &before), words);
        // In the order of the file, so that what is as it should be compares equal.
        let order = |folder: &Folder| all.iter().position(|other| other.guest == folder.guest);
        record.applied.folders.sort_by_key(order);
        self.save(record)?;
        placed
    }

    fn place(
        &self,
        machine: &Machine,
        record: &mut Record,
        session: &Session,
        (all, before): (&[Folder], &[Folder]),
        words: Option<fn(&SshInfo) -> Vec<String>>,
    ) -> Result<(), MachineError> {
        let name = &machine.name;
        // One that the virtual machine was started without waits for the next start.
        let can_be = |folder: &&Folder| !folder.is_shared() || record.shares.contains(folder);
        let (ready, waiting): (Vec<&Folder>, Vec<&Folder>) = all.iter().partition(can_be);
        let mounted: Vec<&Folder> = ready.iter().copied().filter(|f| mount::is_mounted(f)).collect();
        let same_kind = |a: &Folder, b: &Folder| a.guest == b.guest && a.is_shared() == b.is_shared();
        let left = |old: &&Folder| {
            mount::is_mounted(old)
                && !mounted.iter().any(|new| same_kind(new, old))
                && !waiting.iter().any(|new| same_kind(new, old))
        };
        let gone: Vec<&str> = before.iter().filter(left).map(|folder| folder.guest.as_str()).collect();
        // What is there already of those that wait, or are still to be copied, stays noted.
        let stays = |old: &&Folder| match old.is_copied() {
            true => ready.contains(old),
            false => waiting.iter().any(|new| same_kind(new, old)),
        };
        let mut placed: Vec<Folder> = before.iter().filter(stays).cloned().collect();
        let mut first = None;
        if !mounted.is_empty() || !gone.is_empty() {
            let remote = Remote { session, cancel: &self.cancel };
            let answers = mount::mount(&remote, &gone, &mounted).map_err(|fault| match fault {
                Fault::Ssh(error) => MachineError::Ssh(error),
                Fault::Said(why) => not_mounted(name, "its folders", why, false),
            })?;
            for (folder, answer) in mounted.iter().zip(answers) {
                match answer {
                    Ok(numbers) => {
                        self.note_owner(name, record, folder, numbers);
                        if !before.contains(folder) {
                            self.detail(name, format!("Folder {} is {}.", folder.guest, what_it_is(folder)));
                        }
                        placed.push((*folder).clone());
                    }
                    Err(why) if folder.is_implied() => {
                        self.warn(name, format!("the project folder is not at {}: {why}", folder.guest))
                    }
                    Err(why) => {
                        first = first.or(Some(not_mounted(name, &folder.guest, why, folder.is_shared())));
                    }
                }
            }
        }
        record.applied.folders = placed;
        for old in before.iter().filter(|old| old.is_copied()) {
            if !all.iter().any(|new| new.guest == old.guest) {
                self.detail(name, format!("Folder {} is not kept up to date any more.", old.guest));
            }
        }
        if let Some(error) = first {
            return Err(error);
        }
        for folder in ready.iter().filter(|folder| folder.is_copied() && !before.contains(folder)) {
            let ssh = self.client_to(record, words);
            self.bring(machine, folder, session, ssh.as_ref(), Telling::All)?;
            record.applied.folders.push((*folder).clone());
        }
        Ok(())
    }

    /// Copies the folders of a machine that runs once more. Gives how many there are.
    ///
    /// # Errors
    /// A machine that does not run, or does not let us in; those of [`copy`].
    pub fn rsync(
        &self,
        project: &Project,
        machine: &Machine,
        words: fn(&SshInfo) -> Vec<String>,
    ) -> Result<usize, MachineError> {
        let folders: Vec<&Folder> = machine.folders.iter().filter(|folder| folder.is_copied()).collect();
        if folders.is_empty() {
            return Ok(0);
        }
        let _lock = self.lock(&project.root, &machine.name, "rsync")?;
        let mut record = self.running(&project.root, &machine.name)?;
        let session = self.connect(&project.login_for(&machine.name), &record)?;
        self.bring_all(machine, &folders, &mut record, &session, words, Telling::All)
            .map_err(|error| self.lost(project, &machine.name, error))?;
        Ok(folders.len())
    }

    /// Copies folders, and notes those that were not in place.
    fn bring_all(
        &self,
        machine: &Machine,
        folders: &[&Folder],
        record: &mut Record,
        session: &Session,
        words: fn(&SshInfo) -> Vec<String>,
        telling: Telling,
    ) -> Result<(), MachineError> {
        let ssh = self.client_to(record, Some(words));
        for folder in folders {
            if let Some(host) = folder.host() {
                self.host_folder(&machine.name, folder, host)?;
            }
            self.bring(machine, folder, session, ssh.as_ref(), telling)?;
            if !record.applied.folders.contains(folder) {
                record.applied.folders.retain(|old| old.guest != folder.guest);
                record.applied.folders.push((*folder).clone());
                record.applied.folders.sort_by(|a, b| a.guest.cmp(&b.guest));
                self.save(record)?;
            }
        }
        Ok(())
    }

    /// The ssh client for a machine, where it is let in without being asked.
    fn client_to(&self, record: &Record, words: Option<fn(&SshInfo) -> Vec<String>>) -> Option<Route> {
        let words = words.filter(|_| record.identity.is_some())?;
        let info = self.login_info(record.clone()).ok()?;
        let files = info.identity.iter().chain([&info.known_hosts]).cloned().collect();
        Some(Route { words: words(&info), files })
    }

    fn bring(
        &self,
        machine: &Machine,
        folder: &Folder,
        session: &Session,
        ssh: Option<&Route>,
        telling: Telling,
    ) -> Result<(), MachineError> {
        let name = &machine.name;
        let hidden = left_out(machine, folder);
        let Some(job) = Job::of(folder, &hidden) else { return Ok(()) };
        let task = format!("{name}: copying to {}", folder.guest);
        let progress = |done: u64, total: u64| {
            if total >= WORTH_TELLING {
                let (task, detail) = (task.clone(), format!("{} of {} MiB", done >> 20, total >> 20));
                self.report.event(Event::Progress { task, detail, done, total });
            }
        };
        let sent = copy(session, name, &job, Ways { path: &self.path, ssh }, &progress, &self.cancel)?;
        for warning in &sent.warnings {
            self.warn(name, format!("{}: {warning}", folder.guest));
        }
        if telling != Telling::Changes || sent.files + sent.removed > 0 {
            let mut text = summary(&sent);
            if let (Some(why), true) = (sent.without, telling != Telling::Changes) {
                text.push_str(&format!(" (without rsync: {why})"));
            }
            self.detail(name, format!("Folder {} is up to date: {text}.", folder.guest));
        }
        Ok(())
    }

    fn note_owner(&self, name: &str, record: &mut Record, folder: &Folder, numbers: (u32, u32)) {
        if !folder.is_shared() {
            return;
        }
        let before = record.accounts.insert(account(folder.owner.as_ref()), numbers).unwrap_or(FIRST_USER);
        if before != numbers {
            let ((uid, gid), guest) = (before, &folder.guest);
            let text = format!("what is in {guest} belongs to {uid}:{gid} until `rvm reload {name}`");
            self.warn(name, text);
        }
    }

    /// Says, once a start, that the project folder is not there, and how to have it.
    fn tell_unserved(&self, machine: &Machine, provider: Option<ProviderKind>) {
        let Some(folder) = machine.folders.iter().find(|folder| folder.is_implied()) else { return };
        if let Some(Err(why)) = provider.map(provider::serves_shares) {
            let text = format!(
                "The project folder is not at {}, because {why}; a `[[folder]]` with `type = \"rsync\"` copies it.",
                folder.guest
            );
            self.detail(&machine.name, text);
        }
    }
}

/// What no copy of that folder touches, relative to its top: ENV files, and the places of what else is mounted or
/// copied there.
fn left_out(machine: &Machine, folder: &Folder) -> Vec<PathBuf> {
    let hidden = folder.host().map(|host| host.hidden.clone()).unwrap_or_default();
    let folders = machine.folders.iter().map(|other| other.guest.as_str());
    let places = folders.chain(machine.disks.iter().filter_map(|disk| disk.mount.as_deref()));
    let inside = places.filter_map(|place| Path::new(place).strip_prefix(&folder.guest).ok());
    hidden.into_iter().chain(inside.filter(|path| !path.as_os_str().is_empty()).map(Path::to_owned)).collect()
}

fn not_mounted(machine: &str, guest: &str, why: String, shared: bool) -> MachineError {
    FolderError::Mount { machine: machine.into(), guest: guest.into(), why, shared }.into()
}

/// Under which an owner is remembered; empty: the login user.
fn account(owner: Option<&Owner>) -> String {
    owner.map(ToString::to_string).unwrap_or_default()
}

fn what_it_is(folder: &Folder) -> String {
    match &folder.kind {
        FolderKind::Shared { host, .. } => host.path.display().to_string(),
        FolderKind::Copied { .. } => "a copy".into(),
        FolderKind::Memory { size: Some(size) } => format!("in memory, {} MiB at most", size >> 20),
        FolderKind::Memory { size: None } => "in memory".into(),
    }
}

fn summary(sent: &Sent) -> String {
    let (files, removed) = (sent.files, sent.removed);
    if files + removed == 0 {
        return "nothing to do".into();
    }
    let plural = if files == 1 { "" } else { "s" };
    let copied = format!("{files} file{plural} ({}) copied", size_text(sent.bytes));
    match (files, removed) {
        (_, 0) => copied,
        (0, removed) => format!("{removed} removed"),
        (_, removed) => format!("{copied}, {removed} removed"),
    }
}

/// A size for people.
fn size_text(bytes: u64) -> String {
    match bytes {
        0..1024 => format!("{bytes} bytes"),
        1024..1_048_576 => format!("{} KiB", bytes >> 10),
        _ => format!("{} MiB", bytes >> 20),
    }
}

/// The numbers that guests gave for owners of shared folders.
pub(super) type Accounts = BTreeMap<String, (u32, u32)>;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::HostFolder;

    #[test]
    fn what_was_done_in_words() {
        let sent = |files, bytes, removed| summary(&Sent { files, bytes, removed, ..Sent::default() });
        assert_eq!(sent(0, 0, 0), "nothing to do");
        assert_eq!(sent(1, 5, 0), "1 file (5 bytes) copied");
        assert_eq!(sent(0, 0, 3), "3 removed");
        assert_eq!(sent(20, 3 << 20, 2), "20 files (3 MiB) copied, 2 removed");
    }

    #[test]
    fn what_else_is_in_a_folder_is_left_alone() {
        let folder = |guest: &str, kind| Folder { guest: guest.into(), kind, owner: None, options: vec![] };
        let host = HostFolder { path: "/p".into(), create: false, hidden: vec![".env".into()] };
        let kind = FolderKind::Copied { host, exclude: vec![], delete: true, watch: true };
        let copy = folder("/srv", kind.clone());
        let others =
            ["/srv/cache", "/srvx", "/"].map(|guest| folder(guest, FolderKind::Memory { size: None }));
        let machine = Machine {
            folders: others.into_iter().chain([copy.clone(), folder("/srv/a/b", kind)]).collect(),
            ..Machine::new("web", "micro")
        };
        let left: Vec<_> = left_out(&machine, &copy).iter().map(|path| path.display().to_string()).collect();
        assert_eq!(left, [".env", "cache", "a/b"]);
    }

    #[test]
    fn owners_that_a_guest_says() {
        assert_eq!(owner_in("rsync\nowner 1000 33\n"), Some((1000, 33)));
        for text in ["", "owner", "owner 1", "owner a b", "owner -1 2"] {
            assert_eq!(owner_in(text), None, "{text}");
        }
    }
}
