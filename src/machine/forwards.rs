//! Ports that are forwarded to a running machine beside those of its file. passt takes none while it
//! runs, so each, or each range, has a process of its own, `rvm __forward FILE`, which keeps the system's
//! ssh client connected until the machine ends, also when its guest reboots in between. TCP ports that
//! client forwards itself; what carries UDP is in `datagrams.rs`.

use std::fs;
use std::io::{self, BufRead, BufReader, Read};
use std::net::IpAddr;
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::process::{ChildStdin, Command, ExitCode, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process_group, setsid};
use serde::{Deserialize, Serialize};

use super::{MachineError, Machines, Status, datagrams};
use crate::model::{Cancel, Forward, PortRun, Project, Protocol, port_runs};
use crate::net;
use crate::provider;
use crate::state::{Lock, Starter, child, store};
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
pub(super) struct Task {
    /// Ports of the host, and where they lead.
    pub(super) run: PortRun,
    /// Words for the ssh client that lead to the machine.
    ssh: Vec<String>,
}

impl Machines<'_> {
    /// Forwards ports more of a running machine, from now until it ends. `ssh` are the words for the ssh
    /// client that lead to it.
    ///
    /// # Errors
    /// A port that is taken, a machine that does not run or does not let us in.
    pub fn add_forwards(
        &self,
        project: &Project,
        name: &str,
        run: &PortRun,
        ssh: Vec<String>,
    ) -> Result<(), MachineError> {
        let record = self.running(&project.root, name)?;
        net::choose(&run.forwards().collect::<Vec<_>>(), &mut |_, _| true)?;
        self.keep_forwards(&self.layout.machine(&record.id), name, Task { run: run.clone(), ssh })
    }

    /// Starts the process of a task for the machine in `dir`.
    fn keep_forwards(&self, dir: &Path, name: &str, task: Task) -> Result<(), MachineError> {
        let dir = dir.join(FOLDER);
        store::create_private_dir(&dir).map_err(|e| MachineError::file("create", &dir, e))?;
        let path = dir.join(file_of(&task.run.first));
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
        Ok(self.start_told(word, path, Stdio::null())?.0)
    }

    /// The same, and the end of its standard input, if that is a pipe.
    pub(super) fn start_told(
        &self,
        word: &str,
        path: &Path,
        input: Stdio,
    ) -> io::Result<(String, Option<ChildStdin>)> {
        let mut child = Command::new(&self.exe)
            .arg(word)
            .arg(path)
            .env_clear()
            .env("PATH", &self.path)
            .current_dir("/")
            .stdin(input)
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()?;
        let input = child.stdin.take();
        let mut said = String::new();
        if let Some(stdout) = child.stdout.take() {
            stdout.take(MOST_BYTES).read_to_string(&mut said)?;
        }
        if said != READY {
            child.wait()?;
        }
        Ok((said, input))
    }

    /// Ends the forwards of these ports of the host that were added; how many there were. Of a range of which
    /// only a part is to end the rest is begun anew, so that its connections are lost.
    pub fn remove_forwards(
        &self,
        status: &Status,
        host: &RangeInclusive<u16>,
        protocol: Protocol,
    ) -> Result<usize, MachineError> {
        let Some(id) = &status.id else { return Ok(0) };
        let dir = self.layout.machine(id);
        let mut count = 0;
        for (path, task) in tasks(&dir) {
            let (gone, rest): (Vec<Forward>, Vec<Forward>) =
                task.run.forwards().partition(|forward| host.contains(&forward.host));
            if task.run.first.protocol != protocol || gone.is_empty() {
                continue;
            }
            let failed = |e| MachineError::file("end the process of", &path, e);
            let was_there = end_holder(&path.with_extension("lock")).map_err(failed)?;
            store::remove(&path).map_err(failed)?;
            if !was_there {
                continue;
            }
            count += gone.len();
            for run in port_runs(&rest) {
                self.keep_forwards(&dir, &status.name, Task { run, ssh: task.ssh.clone() })?;
            }
        }
        Ok(count)
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

/// What is to be done for the machine in `dir`, and the files that say so, whether or not anybody is at it.
fn tasks(dir: &Path) -> Vec<(PathBuf, Task)> {
    let entries = fs::read_dir(dir.join(FOLDER)).into_iter().flatten().flatten();
    let files =
        entries.map(|entry| entry.path()).filter(|path| path.extension().is_some_and(|e| e == "json"));
    files.filter_map(|path| Some((path.clone(), store::read_json::<Task>(&path).ok().flatten()?))).collect()
}

/// The forwards of the machine in `dir` that are there now.
pub(super) fn added(dir: &Path) -> Vec<Forward> {
    let live = |path: &Path| matches!(Lock::holder(&path.with_extension("lock")), Ok(Some(_)));
    let tasks = tasks(dir).into_iter().filter(|(path, _)| live(path));
    let mut list: Vec<Forward> =
        tasks.flat_map(|(_, task)| task.run.forwards().collect::<Vec<_>>()).collect();
    list.sort_by_key(|forward| (forward.guest, forward.host));
    list
}

fn file_of(first: &Forward) -> String {
    format!("{}-{}-{}.json", first.protocol.as_str(), first.host_ip, first.host)
}

/// The process: keeps the forwards that `path` describes until its machine ends.
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
    let lock = Lock::take(&path.with_extension("lock"), "rvm port add")?;
    let _lock = lock.ok_or_else(|| io::Error::other("this port is forwarded already"))?;
    let dir = path.parent().and_then(Path::parent).ok_or(io::ErrorKind::NotFound)?;
    let mut carrier = match task.run.first.protocol {
        Protocol::Tcp => None,
        Protocol::Udp => Some(datagrams::Carrier::listen(&task.run)?),
    };
    loop {
        let log = tempfile::tempfile()?;
        match &mut carrier {
            None => carry_connections(&task, log.try_clone()?, starter)?,
            Some(carrier) => {
                let mut command = client(&[], &task);
                command.arg(datagrams::script()).stderr(Stdio::from(log.try_clone()?));
                carrier.carry(command, &mut || starter.tell(READY))?;
            }
        }
        if starter.waits() {
            return Err(complaint(log)?);
        }
        if provider::is_gone(dir) {
            return store::remove(path);
        }
        Cancel::new().wait(PAUSE);
    }
}

/// Has an ssh client forward the ports, until it ends.
fn carry_connections(task: &Task, log: fs::File, starter: &mut Starter) -> io::Result<()> {
    let mut child = client(&connections(&task.run), task)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::from(log))
        .spawn()?;
    let mut line = String::new();
    if let Some(stdout) = child.stdout.take() {
        BufReader::new(stdout.take(MOST_BYTES)).read_line(&mut line)?;
    }
    if line.trim_end() == READY {
        starter.tell(READY);
    }
    child.wait().map(drop)
}

/// The system's ssh client, connected to the machine; a command for the guest may follow.
fn client(words: &[String], task: &Task) -> Command {
    let mut command = Command::new("ssh");
    command.args(["-F", "none", "-T"]);
    for option in [
        "BatchMode yes",
        // A guest that hangs or reboots is noticed within half a minute.
        "ServerAliveInterval 10",
        "ServerAliveCountMax 3",
        "ConnectTimeout 10",
    ] {
        command.args(["-o", option]);
    }
    command.args(words).args(&task.ssh);
    // Nobody would know of it.
    child::ends_with_us(&mut command, Signal::TERM);
    command
}

/// Words for a client that forwards TCP ports.
fn connections(run: &PortRun) -> Vec<String> {
    let mut words: Vec<String> = ["-N", "-o", "ExitOnForwardFailure yes"].map(String::from).to_vec();
    // It runs when the client is logged in and listens.
    words.extend(["-o", "PermitLocalCommand yes", "-o", "LocalCommand echo ready"].map(String::from));
    for Forward { guest, host, host_ip, .. } in run.forwards() {
        let listen = match host_ip {
            IpAddr::V4(v4) => v4.to_string(),
            IpAddr::V6(v6) => format!("[{v6}]"),
        };
        words.extend(["-L".to_owned(), format!("{listen}:{host}:127.0.0.1:{guest}")]);
    }
    words
}
