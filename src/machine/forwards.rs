//! Ports that are forwarded to a running machine beside those of its file. passt takes none while it
//! runs, so each has a process of its own, `rvm __forward FILE`, which keeps the system's ssh client
//! listening until the machine ends, also when its guest reboots in between.

use std::fs;
use std::io::{self, BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process_group, setsid};
use serde::{Deserialize, Serialize};

use super::{MachineError, Machines, Status};
use crate::model::{Cancel, Forward, Project, Protocol};
use crate::net;
use crate::provider;
use crate::state::{Lock, Starter, store};
use crate::vmm::sandbox;

/// Folder in the machine's own.
const FOLDER: &str = "forwards";
/// What the process, and the ssh client before it, say once they listen.
pub(super) const READY: &str = "ready";
/// Between two tries to reach a guest that reboots.
const PAUSE: Duration = Duration::from_millis(500);
/// How long a process that was told to end may take.
const ENDING: Duration = Duration::from_secs(5);
/// Longest complaint that is passed on.
const MOST_BYTES: u64 = 4096;

/// What the process is to do.
#[derive(Debug, Serialize, Deserialize)]
struct Task {
    forward: Forward,
    /// Words for the ssh client that lead to the machine.
    ssh: Vec<String>,
}

impl Machines<'_> {
    /// Forwards one more TCP port of a running machine, from now until it ends. `ssh` are the words for
    /// the ssh client that lead to it.
    ///
    /// # Errors
    /// A port that is taken, a machine that does not run or does not let us in.
    pub fn add_forward(
        &self,
        project: &Project,
        name: &str,
        forward: &Forward,
        ssh: Vec<String>,
    ) -> Result<(), MachineError> {
        let record = self.running(&project.root, name)?;
        let dir = self.layout.machine(&record.id).join(FOLDER);
        net::choose(std::slice::from_ref(forward), &mut |_, _| true)?;
        store::create_private_dir(&dir).map_err(|e| MachineError::file("create", &dir, e))?;
        let path = dir.join(file_of(forward.host, forward.protocol));
        let task = Task { forward: forward.clone(), ssh };
        store::write_json(&path, &task).map_err(|e| MachineError::file("write", &path, e))?;
        let said = self
            .start_keeper("__forward", &path)
            .map_err(|e| MachineError::file("start the process of", &path, e))?;
        if said == READY {
            return Ok(());
        }
        let _ = store::remove(&path);
        let text = said.lines().map(str::trim).filter(|line| !line.is_empty()).collect::<Vec<_>>().join("; ");
        Err(MachineError::Forward { name: name.into(), text })
    }

    /// Starts a process that outlives this command; what it says once it is at work, or why it is not.
    pub(super) fn start_keeper(&self, word: &str, path: &Path) -> io::Result<String> {
        let mut child = Command::new(&self.exe)
            .arg(word)
            .arg(path)
            .env_clear()
            .env("PATH", &self.path)
            .current_dir("/")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()?;
        let mut said = String::new();
        if let Some(stdout) = child.stdout.take() {
            stdout.take(MOST_BYTES).read_to_string(&mut said)?;
        }
        if said != READY {
            child.wait()?;
        }
        Ok(said)
    }

    /// Ends a forward that was added; `Ok(false)` when there is none of that port.
    pub fn remove_forward(
        &self,
        status: &Status,
        host: u16,
        protocol: Protocol,
    ) -> Result<bool, MachineError> {
        let Some(id) = &status.id else { return Ok(false) };
        let path = self.layout.machine(id).join(FOLDER).join(file_of(host, protocol));
        let lock = path.with_extension("lock");
        let failed = |e| MachineError::file("end the process of", &path, e);
        let found = end_holder(&lock).map_err(failed)?;
        store::remove(&path).map_err(failed)?;
        Ok(found)
    }
}

/// Ends the process that holds a lock, which leads a group that its ssh client is in; whether there was one.
pub(super) fn end_holder(lock: &Path) -> io::Result<bool> {
    let mut left = ENDING;
    let mut found = false;
    while let Some(holder) = Lock::holder(lock)? {
        found = true;
        // It holds the lock, so it is alive and ours.
        let pid = holder.trim_end_matches(')').rsplit(' ').next().and_then(|pid| pid.parse().ok());
        if let Some(pid) = pid.and_then(Pid::from_raw) {
            let _ = kill_process_group(pid, Signal::TERM);
        }
        if left.is_zero() {
            return Err(io::ErrorKind::TimedOut.into());
        }
        let slice = Duration::from_millis(20);
        Cancel::new().wait(slice);
        left = left.saturating_sub(slice);
    }
    Ok(found)
}

/// The forwards of the machine in `dir` that are there now.
pub(super) fn added(dir: &Path) -> Vec<Forward> {
    let entries = fs::read_dir(dir.join(FOLDER)).into_iter().flatten().flatten();
    let live = |path: &PathBuf| matches!(Lock::holder(&path.with_extension("lock")), Ok(Some(_)));
    let tasks =
        entries.map(|entry| entry.path()).filter(|path| path.extension().is_some_and(|e| e == "json"));
    let mut list: Vec<Forward> = tasks
        .filter(live)
        .filter_map(|path| store::read_json::<Task>(&path).ok().flatten())
        .map(|task| task.forward)
        .collect();
    list.sort_by_key(|forward| (forward.guest, forward.host));
    list
}

fn file_of(host: u16, protocol: Protocol) -> String {
    format!("{}-{host}.json", protocol.as_str())
}

/// The process: keeps the forward that `path` describes until its machine ends.
pub fn process(path: &Path) -> ExitCode {
    keeper(|starter| keep(path, starter))
}

/// What a process does that keeps an ssh client for a machine; it is ended by [`end_holder`].
pub(super) fn keeper(work: impl FnOnce(&mut Starter) -> io::Result<()>) -> ExitCode {
    // A session and a group of its own, which is how it is ended together with its ssh client.
    let _ = setsid();
    let Ok(mut starter) = sandbox::prepare().and_then(|()| Starter::take()) else { return ExitCode::FAILURE };
    match work(&mut starter) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            starter.tell(&error.to_string());
            ExitCode::FAILURE
        }
    }
}

/// What an ssh client that ended too early had to say.
pub(super) fn complaint(mut log: fs::File) -> io::Result<io::Error> {
    let mut text = String::new();
    io::Seek::rewind(&mut log)?;
    log.take(MOST_BYTES).read_to_string(&mut text)?;
    Ok(io::Error::other(if text.is_empty() { "ssh gave up".into() } else { text }))
}

fn keep(path: &Path, starter: &mut Starter) -> io::Result<()> {
    let task: Task = store::read_json(path)?.ok_or(io::ErrorKind::NotFound)?;
    let Ok(_lock) = Lock::try_acquire(&path.with_extension("lock"), "rvm port add")? else {
        return Err(io::Error::other("this port is forwarded already"));
    };
    let dir = path.parent().and_then(Path::parent).ok_or(io::ErrorKind::NotFound)?;
    loop {
        let log = tempfile::tempfile()?;
        let mut child = Command::new("ssh")
            .args(arguments(&task))
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::from(log.try_clone()?))
            .spawn()?;
        let mut line = String::new();
        if let Some(stdout) = child.stdout.take() {
            BufReader::new(stdout.take(MOST_BYTES)).read_line(&mut line)?;
        }
        let listens = line.trim_end() == READY;
        if listens {
            starter.tell(READY);
        }
        child.wait()?;
        if starter.waits() {
            return Err(complaint(log)?);
        }
        if matches!(provider::live(dir), Ok(None)) {
            return store::remove(path);
        }
        Cancel::new().wait(PAUSE);
    }
}

fn arguments(task: &Task) -> Vec<String> {
    let Forward { guest, host, host_ip, .. } = task.forward;
    let listen = match host_ip {
        std::net::IpAddr::V4(v4) => v4.to_string(),
        std::net::IpAddr::V6(v6) => format!("[{v6}]"),
    };
    let mut words: Vec<String> = ["-F", "none", "-N", "-T"].map(String::from).to_vec();
    for option in [
        "BatchMode yes",
        "ExitOnForwardFailure yes",
        // A guest that hangs or reboots is noticed within half a minute.
        "ServerAliveInterval 10",
        "ServerAliveCountMax 3",
        "ConnectTimeout 10",
        // It runs when the client is logged in and listens.
        "PermitLocalCommand yes",
        "LocalCommand echo ready",
    ] {
        words.extend(["-o".to_owned(), option.to_owned()]);
    }
    words.extend(["-L".to_owned(), format!("{listen}:{host}:127.0.0.1:{guest}")]);
    words.extend(task.ssh.iter().cloned());
    words
}
