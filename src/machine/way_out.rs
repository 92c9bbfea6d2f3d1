//! The process that keeps a machine's passt alive, `rvm __nat FOLDER`: one for each machine that runs. It
//! starts passt, and another one as soon as that is gone and the machine is not, or the host has other resolvers. What
//! else of a machine comes back by itself it starts, too (`guard.rs`); for a machine without a way out that is all.

use std::fs;
use std::io::{self, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::{ChildStdin, ExitCode};
use std::thread;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::process::{Signal, WaitOptions, getpid, pidfd_send_signal, set_child_subreaper, wait};
use serde::{Deserialize, Serialize};

use super::keepers::{self, READY, end_holder};
use super::{MachineError, Machines, guard};
use crate::model::{Forward, Nat};
use crate::net::passt::{self, Running};
use crate::net::resolvers::{Dns, Resolvers, Watch};
use crate::net::{self, NatAddresses, NetError};
use crate::provider;
use crate::state::{Lock, Respawn, Starter, store};
use crate::vmm::control;

/// Where a machine's first card listens for its passt, in the machine's folder.
pub(super) const SOCKET: &str = "nat.sock";
/// In the same place: what is to be done, who does it, and why it is not done just now.
const TASK: &str = "nat.json";
const LOCK: &str = "nat.lock";
const LOG: &str = "nat.log";
/// The first pause between the end of a passt and the next one. A machine that ends takes its passt along and
/// lets go of its lock within it.
const PAUSE: Duration = Duration::from_millis(200);
/// So long the host's resolvers must have been others: who changes networks has none or the wrong ones for a while.
const SETTLED: Timespec = Timespec { tv_sec: 3, tv_nsec: 0 };

/// What the process is to do.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Task {
    pub(super) way: Nat,
    pub(super) addresses: NatAddresses,
    pub(super) forwards: Vec<Forward>,
    /// It maps the guest's memory.
    #[serde(default)]
    pub(super) vhost_user: bool,
    /// The folders of the machine's private networks.
    #[serde(default)]
    pub(super) networks: Vec<PathBuf>,
    /// What it has come to.
    #[serde(default)]
    pub(super) state: State,
}

/// The machine is about to start: until this is dropped the process watches over its passt alone.
pub(super) struct Waiting {
    _input: Option<ChildStdin>,
}

/// What whoever takes over has to know of a machine that runs.
#[derive(Debug, Clone, Copy, Default, Serialize, Deserialize)]
pub(super) struct State {
    /// What the guest was told of resolvers.
    dns: Option<Dns>,
    /// `None` where it cannot be found.
    passt: Option<Running>,
}

/// Why it cannot begin: a [`NetError`] on its way to the command that started the process.
#[derive(Debug, Serialize, Deserialize)]
enum Refusal {
    Missing,
    PortRace(String),
    Failed(String),
    Host(String),
}

impl From<NetError> for Refusal {
    fn from(error: NetError) -> Self {
        match error {
            NetError::Missing(_) => Refusal::Missing,
            NetError::PortRace(text) => Refusal::PortRace(text),
            NetError::Failed(text) => Refusal::Failed(text),
            NetError::NoVhostUser(why) => Refusal::Failed(why.to_owned()),
            NetError::Io(source) => Refusal::Host(source.to_string()),
        }
    }
}

impl From<Refusal> for NetError {
    fn from(refusal: Refusal) -> Self {
        match refusal {
            Refusal::Missing => NetError::Missing(io::ErrorKind::NotFound.into()),
            Refusal::PortRace(text) => NetError::PortRace(text),
            Refusal::Failed(text) => NetError::Failed(text),
            Refusal::Host(text) => NetError::Io(io::Error::other(text)),
        }
    }
}

impl Machines<'_> {
    /// Has a process of its own start passt for the machine in `dir`, whose card listens, or take on the one that
    /// a machine which runs has, and keep it alive. passt listens on all ports when this returns, unless that
    /// machine is still to get one ([`kept`]).
    pub(super) fn keep_passt(&self, dir: &Path, task: &Task) -> Result<Waiting, MachineError> {
        let path = dir.join(TASK);
        let failed = |e| MachineError::file("start the process of", &path, e);
        // One that has not noticed yet that its machine is gone.
        end_holder(&dir.join(LOCK)).map_err(failed)?;
        store::write_json(&path, task).map_err(|e| MachineError::file("write", &path, e))?;
        let (said, input) = self.start_with_input("__nat", dir).map_err(failed)?;
        if said == READY {
            return Ok(Waiting { _input: input });
        }
        let refusal = serde_json::from_str(&said).unwrap_or_else(|_| {
            Refusal::Failed(if said.is_empty() { "its process ended early".into() } else { said.clone() })
        });
        Err(NetError::from(refusal).into())
    }
}

/// What is known of the passt of a machine that runs.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Kept {
    /// Somebody watches over it.
    Well,
    /// There is none, and somebody tries to start one all the time; why that fails.
    Tried(String),
    /// Nobody watches over it; whether there is one, where that is known.
    ByNobody(Option<bool>),
}

/// Whether the process of the machine in `dir` is there.
pub(super) fn is_there(dir: &Path) -> bool {
    matches!(Lock::holder(&dir.join(LOCK)), Ok(Some(_)))
}

/// Who keeps the passt of the machine in `dir`.
pub(super) fn kept(dir: &Path) -> Kept {
    if !is_there(dir) {
        return Kept::ByNobody(state_of(dir).passt.map(|passt| passt.open().is_some()));
    }
    let why = fs::read_to_string(dir.join(LOG)).unwrap_or_default();
    if why.trim().is_empty() { Kept::Well } else { Kept::Tried(why.trim().to_owned()) }
}

/// What the process of the machine in `dir` knows, or knew.
pub(super) fn state_of(dir: &Path) -> State {
    store::read_json::<Task>(&dir.join(TASK)).ok().flatten().map(|task| task.state).unwrap_or_default()
}

/// The process: keeps passt running until the machine in `dir` ends.
pub fn process(dir: &Path) -> ExitCode {
    keepers::keeper(|starter| keep(dir, starter))
}

fn keep(dir: &Path, starter: &mut Starter) -> io::Result<()> {
    let lock = Lock::take(&dir.join(LOCK), "rvm up")?;
    let _lock = lock.ok_or_else(|| io::Error::other("another process keeps it"))?;
    let task: Task = store::read_json(&dir.join(TASK))?.ok_or(io::ErrorKind::NotFound)?;
    if task.way == Nat::None {
        return watch_over(dir, &task, starter);
    }
    // passt goes to the background, and would be a child of somebody else's.
    set_child_subreaper(Some(getpid()))?;
    store::remove(&dir.join(LOG))?;
    let is_running = !provider::is_gone(dir);
    let mut keeper = Keeper { dir, task, watch: Watch::new().ok() };
    if (!is_running || keeper.passt().is_none())
        && let Err(error) = keeper.begin(is_running)
    {
        if !is_running {
            starter.tell(&serde_json::to_string(&Refusal::from(error))?);
            return Ok(());
        }
        // It is to have one as soon as there is one to be had.
        fs::write(dir.join(LOG), why(error))?;
    }
    starter.tell(READY);
    let (folder, networks) = (dir.to_owned(), keeper.task.networks.clone());
    thread::Builder::new().name("guard".into()).spawn(move || guard_started(&folder, &networks))?;
    let mut respawn = Respawn::new(PAUSE);
    loop {
        let began = Instant::now();
        if !keeper.attend() {
            respawn.wait(began.elapsed());
        }
        if provider::is_gone(dir) {
            return store::remove(&dir.join(TASK));
        }
        // Without a log less is known, and as much is done.
        let _ = match keeper.begin(true) {
            Ok(()) => store::remove(&dir.join(LOG)),
            Err(error) => fs::write(dir.join(LOG), why(error)),
        };
    }
}

/// Watches over what else the machine needs once it was started; whether it was.
fn guard_started(dir: &Path, networks: &[PathBuf]) -> bool {
    // It ends when the machine was started, or nobody is left to start it.
    let _ = io::copy(&mut io::stdin(), &mut io::sink());
    let is_there = !provider::is_gone(dir);
    if is_there {
        guard::watch(dir, networks);
    }
    is_there
}

/// The whole of it for a machine that has no passt.
fn watch_over(dir: &Path, task: &Task, starter: &mut Starter) -> io::Result<()> {
    starter.tell(READY);
    if guard_started(dir, &task.networks) {
        let mut respawn = Respawn::new(PAUSE);
        while !provider::is_gone(dir) {
            let began = Instant::now();
            provider::wait_gone(dir)?;
            respawn.wait(began.elapsed());
        }
    }
    store::remove(&dir.join(TASK))
}

/// passt's own words, where there are some.
fn why(error: NetError) -> String {
    match error {
        NetError::PortRace(text) | NetError::Failed(text) => text,
        other => other.to_string(),
    }
}

struct Keeper<'a> {
    dir: &'a Path,
    task: Task,
    /// Without one, the host's resolvers are looked at when passt starts.
    watch: Option<Watch>,
}

impl Keeper<'_> {
    fn passt(&self) -> Option<OwnedFd> {
        self.task.state.passt?.open()
    }

    /// Starts passt, which is to ask the host's resolvers of now.
    fn begin(&mut self, is_running: bool) -> Result<(), NetError> {
        let (way, now) = (self.task.way, Resolvers::of_host(self.task.way));
        let mut dns = match self.task.state.dns {
            Some(dns) if is_running => dns,
            _ => Dns::new(way, self.task.addresses.gateway),
        };
        if !now.is_empty() {
            dns.asked = now;
        }
        begin(self.dir, &self.task, &dns, is_running)?;
        let passt = self.task.forwards.first().and_then(Running::child);
        self.task.state = State { dns: Some(dns), passt };
        // Whoever takes over knows less without it.
        let _ = store::write_json(&self.dir.join(TASK), &self.task);
        Ok(())
    }

    /// Waits until passt is gone, or ends it because the host has other resolvers; whether it did that.
    fn attend(&self) -> bool {
        let ended = self
            .passt()
            .is_some_and(|passt| wait_for_end(passt.as_fd(), self.watch.as_ref(), &|| self.has_others()));
        wait_for_all();
        ended
    }

    /// Whether the host asks others than passt does.
    fn has_others(&self) -> bool {
        let now = Resolvers::of_host(self.task.way);
        !now.is_empty() && self.task.state.dns.is_some_and(|dns| dns.asked != now)
    }
}

/// Waits for the end of a process, which comes at the latest when `watch` has told something, and `is_due` holds
/// a while after; whether it came by that.
fn wait_for_end(process: BorrowedFd<'_>, watch: Option<&Watch>, is_due: &dyn Fn() -> bool) -> bool {
    let mut ended = false;
    // Nobody may have looked for a while.
    let mut settling = watch.is_some();
    loop {
        let mut fds = vec![PollFd::from_borrowed_fd(process, PollFlags::IN)];
        // What else happens meanwhile is looked at together.
        fds.extend(watch.filter(|_| !settling && !ended).map(|watch| PollFd::new(watch, PollFlags::IN)));
        let count = match poll(&mut fds, settling.then_some(&SETTLED)) {
            Ok(count) => count,
            Err(Errno::INTR) => continue,
            // Its end cannot be waited for that way.
            Err(_) => return ended,
        };
        if fds.first().is_some_and(|fd| !fd.revents().is_empty()) {
            return ended;
        }
        let Some(watch) = watch else { continue };
        if count > 0 {
            settling = true;
            continue;
        }
        settling = false;
        watch.again();
        if is_due() {
            // It has nothing to save.
            ended = pidfd_send_signal(process, Signal::KILL).is_ok();
        }
    }
}

/// Connects passt and the machine, which may be running already.
fn begin(dir: &Path, task: &Task, dns: &Dns, is_running: bool) -> Result<(), NetError> {
    let mut peer = control::connect(&dir.join(SOCKET)).map_err(NetError::Io)?;
    // By vhost-user the guest sees its link come back, and sends something by itself.
    if is_running && !task.vhost_user {
        // passt learns the guest's Ethernet address from what it sends, and would not reach it before.
        peer.write_all(&net::call_out(task.addresses.guest)).map_err(NetError::Io)?;
    }
    passt::start(task.way, &task.addresses, &task.forwards, dns, &peer, task.vhost_user)
}

/// Waits until no child of this thread, the first one, is left. Orphans are its, and those that others started are
/// not.
fn wait_for_all() {
    let own = WaitOptions::from_bits_retain(libc::__WNOTHREAD.cast_unsigned());
    while matches!(wait(own), Ok(_) | Err(Errno::INTR)) {}
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::process::{Pid, PidfdFlags, pidfd_open};
    use std::process::Command;
    use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

    #[test]
    fn a_process_is_ended_once_the_resolvers_are_others() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("resolv.conf");
        fs::write(&path, "nameserver 192.0.2.1\n").unwrap();
        let watch = Watch::of(&path).unwrap();
        let (due, looks) = (AtomicBool::new(false), AtomicU32::new(0));
        let is_due = || {
            looks.fetch_add(1, Ordering::Relaxed);
            if !due.swap(true, Ordering::Relaxed) {
                // Not yet; from now on they are.
                fs::write(&path, "nameserver 192.0.2.2\n").unwrap();
                return false;
            }
            true
        };
        let mut child = Command::new("sleep").arg("600").spawn().unwrap();
        let process = pidfd_open(Pid::from_child(&child), PidfdFlags::empty()).unwrap();
        assert!(wait_for_end(process.as_fd(), Some(&watch), &is_due));
        assert!(!child.wait().unwrap().success());
        assert_eq!(looks.into_inner(), 2, "what nobody changed is looked at");
    }

    #[test]
    fn a_process_that_ends_by_itself_is_told_from_one_that_was_ended() {
        let dir = tempfile::tempdir().unwrap();
        let watch = Watch::of(&dir.path().join("resolv.conf")).unwrap();
        for watch in [None, Some(&watch)] {
            let mut child = Command::new("true").spawn().unwrap();
            let process = pidfd_open(Pid::from_child(&child), PidfdFlags::empty()).unwrap();
            assert!(!wait_for_end(process.as_fd(), watch, &|| false));
            child.wait().unwrap();
        }
    }
}
