//! The process that keeps a machine's passt alive, `rvm __nat FOLDER`: one for each machine that runs. It
//! starts passt, and another one as soon as that is gone and the machine is not.

use std::fs;
use std::io::{self, Write};
use std::path::Path;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use rustix::io::Errno;
use rustix::process::{WaitOptions, getpid, set_child_subreaper, wait};
use serde::{Deserialize, Serialize};

use super::forwards::{self, READY, end_holder};
use super::{MachineError, Machines};
use crate::model::{Forward, Nat};
use crate::net::{self, NatAddresses, NetError, passt};
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

/// What the process is to do.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Task {
    pub(super) way: Nat,
    pub(super) addresses: NatAddresses,
    pub(super) forwards: Vec<Forward>,
    /// It maps the guest's memory.
    #[serde(default)]
    pub(super) vhost_user: bool,
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
    /// Has a process of its own start passt for the machine in `dir`, whose card listens, and keep it alive;
    /// passt listens on all ports when this returns.
    pub(super) fn keep_passt(&self, dir: &Path, task: &Task) -> Result<(), MachineError> {
        let path = dir.join(TASK);
        let failed = |e| MachineError::file("start the process of", &path, e);
        // One that has not noticed yet that its machine is gone.
        end_holder(&dir.join(LOCK)).map_err(failed)?;
        store::write_json(&path, task).map_err(|e| MachineError::file("write", &path, e))?;
        let said = self.start_keeper("__nat", dir).map_err(failed)?;
        if said == READY {
            return Ok(());
        }
        let refusal = serde_json::from_str(&said).unwrap_or_else(|_| {
            Refusal::Failed(if said.is_empty() { "its process ended early".into() } else { said.clone() })
        });
        Err(NetError::from(refusal).into())
    }
}

/// Why the machine in `dir` has no passt, if somebody tries to start one all the time.
pub(super) fn still_tried(dir: &Path) -> Option<String> {
    let is_kept = matches!(Lock::holder(&dir.join(LOCK)), Ok(Some(_)));
    is_kept.then(|| fs::read_to_string(dir.join(LOG)).unwrap_or_default().trim().to_owned())
}

/// The process: keeps passt running until the machine in `dir` ends.
pub fn process(dir: &Path) -> ExitCode {
    forwards::keeper(|starter| keep(dir, starter))
}

fn keep(dir: &Path, starter: &mut Starter) -> io::Result<()> {
    let lock = Lock::take(&dir.join(LOCK), "rvm up")?;
    let _lock = lock.ok_or_else(|| io::Error::other("another process keeps it"))?;
    let task: Task = store::read_json(&dir.join(TASK))?.ok_or(io::ErrorKind::NotFound)?;
    // passt goes to the background, and would be a child of somebody else's.
    set_child_subreaper(Some(getpid()))?;
    store::remove(&dir.join(LOG))?;
    let is_running = !matches!(provider::live(dir), Ok(None));
    if let Err(error) = begin(dir, &task, is_running) {
        starter.tell(&serde_json::to_string(&Refusal::from(error))?);
        return Ok(());
    }
    starter.tell(READY);
    let mut respawn = Respawn::new(PAUSE);
    loop {
        let began = Instant::now();
        wait_for_all();
        respawn.wait(began.elapsed());
        if matches!(provider::live(dir), Ok(None)) {
            return store::remove(&dir.join(TASK));
        }
        // Without a log less is known, and as much is done.
        let _ = match begin(dir, &task, true) {
            Ok(()) => store::remove(&dir.join(LOG)),
            Err(error) => fs::write(dir.join(LOG), error.to_string()),
        };
    }
}

/// Connects passt and the machine, which may be running already.
fn begin(dir: &Path, task: &Task, is_running: bool) -> Result<(), NetError> {
    let mut peer = control::connect(&dir.join(SOCKET)).map_err(NetError::Io)?;
    // By vhost-user the guest sees its link come back, and sends something by itself.
    if is_running && !task.vhost_user {
        // passt learns the guest's Ethernet address from what it sends, and would not reach it before.
        peer.write_all(&net::call_out(task.addresses.guest)).map_err(NetError::Io)?;
    }
    passt::start(task.way, &task.addresses, &task.forwards, &peer, task.vhost_user)
}

/// Waits until no child is left.
fn wait_for_all() {
    while matches!(wait(WaitOptions::empty()), Ok(_) | Err(Errno::INTR)) {}
}
