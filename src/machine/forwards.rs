//! Ports that are forwarded to a running machine beside those of its file. passt takes none while it
//! runs, so each, or each range, has a process of its own, `rvm __forward FILE`, which keeps the system's
//! ssh client connected until the machine ends, also when its guest reboots in between. TCP ports that
//! client forwards itself; what carries UDP is in `datagrams.rs`.

use std::io::{self, BufRead, BufReader, Read};
use std::net::IpAddr;
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::time::Duration;

use rustix::process::Signal;
use serde::{Deserialize, Serialize};

use super::keepers::{self, Duty, ENDED, MOST_BYTES, READY, Words};
use super::record::Record;
use super::{MachineError, Machines, Status, datagrams, guard};
use crate::model::{Cancel, Forward, PortRun, Project, Protocol, port_runs};
use crate::net;
use crate::provider;
use crate::state::{Starter, child, store};

/// Folder in the machine's own.
pub(super) const FOLDER: &str = "forwards";
/// The process.
pub(super) const PROCESS: &str = "__forward";
/// Between two tries to reach a guest that reboots.
const PAUSE: Duration = Duration::from_millis(500);

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
        self.keep_forwards(&self.layout.machine(&record.id), name, &Task { run: run.clone(), ssh })
    }

    /// Starts the process of a task for the machine in `dir`.
    fn keep_forwards(&self, dir: &Path, name: &str, task: &Task) -> Result<(), MachineError> {
        let path = dir.join(FOLDER).join(file_of(&task.run.first));
        let begun = self.begin_task(PROCESS, &path, task)?;
        begun.map_err(|text| MachineError::Forward { name: name.into(), text })
    }

    /// Has those started again that are to be there for a machine that runs, and are not.
    pub(super) fn mend_forwards(&self, record: &Record) {
        for (path, task) in lost(&self.layout.machine(&record.id)) {
            let text = match self.start_keeper(PROCESS, &path) {
                Ok(said) if said == READY => "another one was started".to_owned(),
                // The one who does that by itself was faster.
                _ if keepers::is_done(&path) => continue,
                Ok(said) => format!("another one cannot be started ({})", keepers::one_line(&said)),
                Err(error) => format!("another one cannot be started ({error})"),
            };
            self.warn(&record.name, format!("port {}: {ENDED}; {text}", task.run));
        }
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
            keepers::retire(&path).map_err(|e| MachineError::file("end the process of", &path, e))?;
            count += gone.len();
            for run in port_runs(&rest) {
                self.keep_forwards(&dir, &status.name, &Task { run, ssh: task.ssh.clone() })?;
            }
        }
        Ok(count)
    }
}

/// What is to be done for the machine in `dir`, and the files that say so, whether or not anybody is at it.
fn tasks(dir: &Path) -> Vec<(PathBuf, Task)> {
    let files = keepers::task_files(&dir.join(FOLDER)).into_iter();
    files.filter_map(|path| Some((path.clone(), store::read_json::<Task>(&path).ok().flatten()?))).collect()
}

fn lost(dir: &Path) -> Vec<(PathBuf, Task)> {
    tasks(dir).into_iter().filter(|(path, _)| !keepers::is_done(path)).collect()
}

/// What is said of forwards that are to be there for the machine in `dir`, which runs, and are not.
pub(super) fn trouble(dir: &Path) -> Option<String> {
    let said = |(path, task): &(PathBuf, Task)| {
        let more = guard::task_tried(dir, path).map(|more| format!(", and {more}"));
        format!("port {}: {ENDED}{}", task.run, more.unwrap_or_default())
    };
    let all: Vec<String> = lost(dir).iter().map(said).collect();
    (!all.is_empty()).then(|| all.join(", and "))
}

/// Ends the forwards of the machine in `dir`.
pub(super) fn end_all(dir: &Path) -> io::Result<()> {
    keepers::task_files(&dir.join(FOLDER)).iter().try_for_each(|path| keepers::retire(path))
}

/// The forwards of the machine in `dir` that are there now.
pub(super) fn added(dir: &Path) -> Vec<Forward> {
    let tasks = tasks(dir).into_iter().filter(|(path, _)| keepers::is_done(path));
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
    keepers::keeper(|starter| keep(path, starter))
}

fn keep(path: &Path, starter: &mut Starter) -> io::Result<()> {
    let duty: Duty<Task> = Duty::take(path, "rvm port add", "this port is forwarded already")?;
    let dir = path.parent().and_then(Path::parent).ok_or(io::ErrorKind::NotFound)?;
    let carrier = match duty.task.run.first.protocol {
        Protocol::Tcp => None,
        Protocol::Udp => Some(datagrams::Carrier::listen(&duty.task.run)?),
    };
    loop {
        let words = match &carrier {
            None => carry_connections(&duty, starter)?,
            Some(carrier) => {
                let mut command = client(&[], &duty.task);
                command.arg(datagrams::script());
                carrier.carry(command, &mut || duty.is_at_work(starter))?
            }
        };
        if starter.waits() {
            return Err(words.complaint());
        }
        // A machine that ends takes its connections along, and is gone within that.
        Cancel::new().wait(PAUSE);
        if provider::is_gone(dir) {
            return duty.is_over();
        }
    }
}

/// Has an ssh client forward the ports, until it ends; what it had to say.
fn carry_connections(duty: &Duty<Task>, starter: &mut Starter) -> io::Result<Words> {
    let mut child = client(&connections(&duty.task.run), &duty.task)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()?;
    let words = Words::of(&mut child);
    let mut line = String::new();
    if let Some(stdout) = child.stdout.take() {
        BufReader::new(stdout.take(MOST_BYTES)).read_line(&mut line)?;
    }
    if line.trim_end() == READY {
        duty.is_at_work(starter)?;
    }
    child.wait()?;
    Ok(words)
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
