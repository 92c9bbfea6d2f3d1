//! Folders of the host that a guest mounts while it runs (virtio-fs).

use std::fs::File;
use std::io::{self, Read};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitCode, Stdio};
use std::thread::{self, JoinHandle};

use rustix::process::setsid;
use serde::{Deserialize, Serialize};

use super::launch::{LOG, SPEC};
use super::qemu::listener;
use super::{ProviderError, VmSpec, changes};
use crate::model::ProviderKind;
use crate::state::{Lock, Starter, store};
use crate::vmm;
use crate::vmm::sandbox::{self, Policy, Role};
use crate::vmm::virtio::fs::{Budget, Feed, Relay, VhostFs, introduce};

/// The word for the process that serves the folders of a machine that QEMU runs.
pub const PROCESS: &str = "__share";
/// The same, after one that died.
pub const NEXT_PROCESS: &str = "__share-next";
/// What it says once, on standard output, when it listens.
const READY: &str = "ready";
/// Locked as long as it lives, in the machine's folder.
pub(super) const LOCK: &str = "share.lock";

/// A shared folder of a [`VmSpec`](super::VmSpec). The guest mounts it with
/// `mount -t virtiofs TAG FOLDER`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ShareSpec {
    /// By which the guest finds it: 1 to 36 bytes (virtio 1.2, section 5.11.4), no two alike in a machine.
    pub tag: String,
    /// Absolute path of a folder of the host, without symbolic links. The guest sees what is below it,
    /// and nothing else.
    pub source: PathBuf,
    /// Paths relative to it at which the guest finds nothing, and can put nothing.
    #[serde(default)]
    pub hidden: Vec<PathBuf>,
    /// The host refuses whatever would change it.
    pub read_only: bool,
    /// User and group whom the guest takes for the owner of all that is the host user's. What the guest
    /// makes belongs to the host user, whoever in the guest makes it.
    pub owner: (u32, u32),
}

/// Whether machines of a provider can have shared folders.
///
/// # Errors
/// Why not, as a clause that follows "because".
pub fn serves_shares(provider: ProviderKind) -> Result<(), &'static str> {
    match provider {
        ProviderKind::Kvm | ProviderKind::Qemu => Ok(()),
    }
}

impl ShareSpec {
    pub(super) fn to_vmm(&self) -> vmm::Share {
        vmm::Share {
            tag: self.tag.clone(),
            source: self.source.clone(),
            hidden: self.hidden.clone(),
            read_only: self.read_only,
            owner: self.owner,
        }
    }
}

/// Name of the socket, in the machine's folder, at which QEMU asks for the share at that place in the list.
pub(super) fn socket(place: usize) -> String {
    format!("share{place}.sock")
}

/// Where a process that serves it is introduced.
fn introductions(place: usize) -> String {
    format!("serve{place}.sock")
}

/// Where that process is connected to.
fn served(place: usize) -> String {
    format!("served{place}.sock")
}

/// Between QEMU and whoever serves its shares, one each.
pub(super) struct Relays(Vec<Relay>);

/// The same at work already, while QEMU starts.
pub(super) struct Working {
    threads: Vec<JoinHandle<io::Result<Relay>>>,
    /// Closed, it tells them to come to an end.
    stop: UnixStream,
}

impl Relays {
    /// Listens in the machine's folder.
    pub(super) fn listen(dir: &Path, shares: &[ShareSpec]) -> io::Result<Self> {
        let bind = |name: String| listener(dir, &name);
        let relay = |place| Ok(Relay::new(bind(socket(place))?, bind(introductions(place))?));
        (0..shares.len()).map(relay).collect::<io::Result<_>>().map(Self)
    }

    /// Lets them work on threads that are not shut in, for QEMU is not there yet, and asks before it is.
    pub(super) fn work(self) -> io::Result<Working> {
        let (stop, stopped) = UnixStream::pair()?;
        let start = |mut relay: Relay| {
            let stopped = stopped.try_clone()?;
            let work = move || relay.run(Some(stopped.as_fd())).map(|()| relay);
            thread::Builder::new().name("folders".into()).spawn(work)
        };
        let threads = self.0.into_iter().map(start).collect::<io::Result<_>>()?;
        Ok(Working { threads, stop })
    }

    /// Lets them work for as long as the machine lives.
    pub(super) fn keep_working(self) -> io::Result<()> {
        for mut relay in self.0 {
            sandbox::spawn("folders", move || {
                if let Err(error) = relay.run(None) {
                    eprintln!("shared folders: QEMU is not served any more: {error}");
                }
            })?;
        }
        Ok(())
    }
}

impl Working {
    /// Waits for them to come to an end.
    pub(super) fn stop(self) -> io::Result<Relays> {
        let Self { threads, stop } = self;
        drop(stop);
        let ended =
            threads.into_iter().map(|thread| thread.join().map_err(|_| io::Error::other("a thread died"))?);
        ended.collect::<io::Result<_>>().map(Relays)
    }
}

/// Whether the process that served the folders of the machine in `dir` to QEMU has ended. False where there never
/// was one.
pub fn has_ended(dir: &Path) -> bool {
    let path = dir.join(LOCK);
    path.exists() && Lock::holder(&path).is_ok_and(|holder| holder.is_none())
}

/// Waits for the end of that process, where there is one. The machine may have ended with it.
///
/// # Errors
/// `NotFound` where there never was one.
pub fn wait_ended(dir: &Path) -> io::Result<()> {
    Lock::wait(&dir.join(LOCK))
}

/// Starts the process that serves the folders of the machine in `dir`; returns when it listens. It ends
/// with the calling one, and when QEMU hangs up.
pub(super) fn start(dir: &Path, confine: impl FnOnce(&mut Command)) -> Result<Child, ProviderError> {
    launch(PROCESS, dir, confine)
}

/// Starts another one for a machine that runs and whose own died; returns when it serves. It ends with the machine.
///
/// # Errors
/// [`ProviderError::Share`] when it cannot serve.
pub fn start_next(dir: &Path) -> Result<Child, ProviderError> {
    let log = File::options().append(true).open(dir.join(LOG)).map_err(ProviderError::Spawn)?;
    launch(NEXT_PROCESS, dir, |command| {
        command.stderr(Stdio::from(log));
    })
}

fn launch(word: &str, dir: &Path, confine: impl FnOnce(&mut Command)) -> Result<Child, ProviderError> {
    let mut command = Command::new("/proc/self/exe");
    command.arg0("rvm").arg(word).arg(dir).env_clear().stdin(Stdio::null()).stdout(Stdio::piped());
    confine(&mut command);
    let mut child = command.spawn().map_err(ProviderError::Spawn)?;
    let mut word = String::new();
    if let Some(stdout) = child.stdout.take() {
        stdout.take(64 << 10).read_to_string(&mut word).map_err(ProviderError::Spawn)?;
    }
    if word == READY {
        return Ok(child);
    }
    let status = child.wait().map_err(ProviderError::Spawn)?;
    let why = if word.is_empty() { format!("it ended with {status}") } else { word };
    Err(ProviderError::Share(why))
}

/// Starts a thread that says so, in the machine's log, when that process ends before QEMU does.
pub(super) fn watch(mut child: Child) -> io::Result<JoinHandle<()>> {
    sandbox::spawn("shares", move || match child.wait() {
        Ok(status) if status.success() => {}
        Ok(status) => eprintln!("shared folders: the process that serves them ended with {status}"),
        Err(error) => eprintln!("shared folders: cannot wait for the process that serves them: {error}"),
    })
}

/// The process that serves the folders of the machine in `dir`; `is_next`: after one that died.
pub fn main(dir: &Path, is_next: bool) -> ExitCode {
    if is_next {
        // The terminal of whoever started it is not its own. It fails only for a process that leads its group.
        let _ = setsid();
    }
    let mut starter = match sandbox::prepare().and_then(|()| Starter::take()) {
        Ok(starter) => starter,
        Err(error) => return failed(&error.to_string()),
    };
    match serve(dir, is_next, &mut starter) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            starter.tell(&error);
            failed(&error)
        }
    }
}

fn failed(why: &str) -> ExitCode {
    eprintln!("shared folders: {why}");
    ExitCode::FAILURE
}

fn serve(dir: &Path, is_next: bool, starter: &mut Starter) -> Result<(), String> {
    let spec: VmSpec = store::read_json(&dir.join(SPEC))
        .and_then(|spec| spec.ok_or_else(|| io::ErrorKind::NotFound.into()))
        .map_err(|error| format!("cannot read {SPEC}: {error}"))?;
    let lock = Lock::take(&dir.join(LOCK), "shared folders")
        .and_then(|lock| lock.ok_or_else(|| io::ErrorKind::ResourceBusy.into()));
    // The kernel gives it up with this process: nothing else does before.
    std::mem::forget(lock.map_err(|error| format!("cannot lock {LOCK}: {error}"))?);
    let files = Budget::of_memory(spec.memory);
    let feed = Feed::new().map_err(|error| format!("cannot tell of changes: {error}"))?;
    let folders: Vec<vmm::Share> = spec.shares.iter().map(ShareSpec::to_vmm).collect();
    let mut shares = Vec::new();
    for (place, share) in folders.iter().enumerate() {
        let opened = VhostFs::open(share, &files).map_err(|error| super::process::chain(&error))?;
        let opened = opened.telling(&feed, &share.tag);
        let opened = if is_next { opened.taking_over() } else { opened };
        let name = served(place);
        let bound = listener(dir, &name);
        let bound = bound.map_err(|error| format!("cannot create {}: {error}", dir.join(name).display()))?;
        shares.push((opened, bound));
    }
    for place in 0..shares.len() {
        let relay = dir.join(introductions(place));
        introduce(&relay, &dir.join(served(place)))
            .map_err(|error| format!("cannot connect to {}: {error}", relay.display()))?;
    }
    changes::introduce(dir, &feed).map_err(|error| format!("cannot tell of changes: {error}"))?;
    let report = sandbox::enter(&Policy::serving(Role::Share, &folders));
    for missing in report.map_err(|error| super::process::chain(&error))?.missing() {
        eprintln!("sandbox: {missing}");
    }
    starter.tell(READY);
    // It ends with this process.
    thread::Builder::new()
        .name("changes".into())
        .spawn(move || feed.run())
        .map_err(|error| error.to_string())?;
    // All are connected to already.
    let served = shares.into_iter().map(|(share, listener)| share.serve(listener));
    let serving = served.collect::<io::Result<Vec<_>>>().map_err(|error| error.to_string())?;
    serving.into_iter().for_each(vmm::virtio::fs::Serving::wait);
    Ok(())
}
