//! `auto_forward`: ports that programs of a guest open lead in from the same ports of 127.0.0.1, and cease to
//! when they close. One process for each machine that wants it, `rvm __follow FILE`: a shell in the guest
//! tells it who listens there (`listeners.rs`), over a connection of the system's ssh client that carries the forwards,
//! too; those of UDP go over a second session of it (`datagrams.rs`), once there are any.
//!
//! What the guest says is not trusted: it opens unprivileged ports of loopback only, a limited number of
//! them, a few a second.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, BufRead, BufReader, Read};
use std::net::{IpAddr, Ipv4Addr};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitCode, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::Signal;

use serde::{Deserialize, Serialize};

use super::datagrams::{self, Carrier};
use super::keepers::{self, Duty, ENDED, Words};
use super::listeners::{Listener, WATCH, listeners};
use super::record::Record;
use super::{MachineError, Machines, UpOptions, forwards, guard};
use crate::model::{Cancel, Forward, Machine, Project, Protocol};
use crate::provider;
use crate::state::{Respawn, Starter, child, store};

/// Folder in the machine's own.
pub(super) const FOLDER: &str = "follow";
/// In it: what is to be done, which ports are open, and where the ssh client is told.
pub(super) const TASK: &str = "task.json";
const OPEN: &str = "open.json";
/// Beside the process's working folder, because the path of a socket is limited.
const CONTROL: &str = "ssh.sock";
/// The process.
pub(super) const PROCESS: &str = "__follow";
/// Ports below are privileged on the host.
const LOWEST: u16 = 1024;
/// Ports that are open at once.
const MOST: usize = 128;
/// Longest line that a guest gets to say.
const MOST_BYTES: u64 = 64 * 1024;
/// After each line, so that a guest that has much to say costs little; and before a guest that reboots is
/// connected to again.
const PAUSE: Duration = Duration::from_millis(500);
/// So long a port that could not be had is not tried again: less than the ten seconds after which a line is due.
const AGAIN: Duration = Duration::from_secs(9);

/// What the process is to do.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Task {
    /// Words for the ssh client that lead to the machine.
    ssh: Vec<String>,
    /// Ports of the guest that ports of the file lead to.
    known: BTreeSet<(Protocol, u16)>,
}

impl Machines<'_> {
    /// Has the ports of a machine that runs followed, or not, as the file says. That it cannot be done is
    /// told, and is no reason for an `up` to fail.
    pub(super) fn follow_ports(
        &self,
        project: &Project,
        machine: &Machine,
        record: &Record,
        options: &UpOptions,
    ) -> Result<(), MachineError> {
        let path = task_of(&self.layout.machine(&record.id));
        let failed = |e| MachineError::file("follow the ports of a machine with", &path, e);
        let Some(words) = options.ssh_words.filter(|_| machine.auto_forward) else {
            return keepers::retire(&path).map_err(failed);
        };
        if record.identity.is_none() {
            let text = "its ports are not followed (`auto_forward`): it is logged in to by password";
            self.warn(&machine.name, text.into());
            return Ok(());
        }
        let known = record.ports.iter().map(key).collect();
        let task = Task { ssh: words(&self.ssh_info(project, &machine.name)?), known };
        let same = store::read_json::<Task>(&path).ok().flatten().as_ref() == Some(&task);
        if same && keepers::is_done(&path) {
            return Ok(());
        }
        keepers::retire(&path).map_err(failed)?;
        if let Err(said) = self.begin_task(PROCESS, &path, &task)? {
            self.warn(&machine.name, format!("its ports are not followed (`auto_forward`): {said}"));
        }
        Ok(())
    }
}

fn task_of(machine: &Path) -> PathBuf {
    machine.join(FOLDER).join(TASK)
}

/// What is said of the machine in `dir`, which runs, when nobody follows its ports, and somebody is to.
pub(super) fn trouble(dir: &Path) -> Option<String> {
    let path = task_of(dir);
    if !path.exists() || keepers::is_done(&path) {
        return None;
    }
    let more = guard::task_tried(dir, &path).map(|more| format!(", and {more}"));
    Some(format!("its ports are not followed (`auto_forward`): {ENDED}{}", more.unwrap_or_default()))
}

/// Ceases to follow the ports of the machine in `dir`.
pub(super) fn end(dir: &Path) -> io::Result<()> {
    keepers::retire(&task_of(dir))
}

/// Ports at which a guest listens.
#[derive(Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Followed {
    /// Those that lead in.
    pub(super) open: Vec<Forward>,
    /// Those that cannot be had on this host.
    pub(super) passed_over: Vec<Forward>,
}

/// The ports of the machine in `dir` that are followed now.
pub(super) fn followed(dir: &Path) -> Followed {
    if !keepers::is_done(&task_of(dir)) {
        return Followed::default();
    }
    store::read_json(&dir.join(FOLDER).join(OPEN)).ok().flatten().unwrap_or_default()
}

/// The process: follows the ports of a machine, as `path` says, until that ends.
pub fn process(path: &Path) -> ExitCode {
    keepers::keeper(|starter| keep(path, starter))
}

fn keep(path: &Path, starter: &mut Starter) -> io::Result<()> {
    let duty: Duty<Task> = Duty::take(path, "rvm up", "another process follows these ports")?;
    let dir = path.parent().ok_or(io::ErrorKind::NotFound)?;
    let machine = dir.parent().ok_or(io::ErrorKind::NotFound)?;
    let carrier = Carrier::new()?;
    carry_datagrams(dir, &duty.task, carrier.clone())?;
    loop {
        // Nobody listens in a guest that is not there.
        carrier.retain(|_| false);
        let (task, refused) = (&duty.task, BTreeMap::new());
        let (ports, carrier) = (Followed::default(), &carrier);
        let mut follower = Follower { dir, machine, task, ssh: "ssh", carrier, ports, refused };
        follower.write()?;
        store::remove(&dir.join(CONTROL))?;
        let mut child = follower.connect()?;
        let words = Words::of(&mut child);
        let heard = match child.stdout.take() {
            Some(output) => follower.listen(output, &mut || duty.is_at_work(starter)),
            None => Ok(()),
        };
        // It has said too much, or cannot be heard any more.
        let _ = child.kill();
        child.wait()?;
        heard?;
        if starter.waits() {
            return Err(words.complaint());
        }
        // A machine that ends takes its connections along, and is gone within that.
        Cancel::new().wait(PAUSE);
        if provider::is_gone(machine) {
            return store::remove(dir);
        }
    }
}

/// Carries datagrams for as long as this process lives, while there is a port for them.
fn carry_datagrams(dir: &Path, task: &Task, carrier: Carrier) -> io::Result<()> {
    let (dir, words) = (dir.to_owned(), task.ssh.clone());
    let carry = move || {
        let mut respawn = Respawn::new(PAUSE);
        loop {
            carrier.wait_for_port();
            let began = Instant::now();
            let mut command = client("ssh", &dir, &ALIVE, &words);
            command.arg(datagrams::script());
            // Why it ended, if it did, is known to who follows; or it is tried again.
            let _ = carrier.carry(command, &mut || Ok(()));
            respawn.wait(began.elapsed());
        }
    };
    thread::Builder::new().name("datagrams".into()).spawn(carry).map(drop)
}

/// A guest that hangs or reboots is noticed within half a minute.
const ALIVE: [&str; 6] =
    ["-o", "ServerAliveInterval 10", "-o", "ServerAliveCountMax 3", "-o", "ConnectTimeout 10"];

/// The system's ssh client, which goes by the connection that there is, if there is one.
fn client(program: &str, dir: &Path, words: &[&str], machine: &[String]) -> Command {
    let mut command = Command::new(program);
    command.current_dir(dir).args(["-F", "none", "-T", "-o", "BatchMode yes"]);
    command.args(["-o", &format!("ControlPath {CONTROL}")]).args(words).args(machine);
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    // The ports that it keeps open would be there for good.
    child::ends_with_us(&mut command, Signal::TERM);
    command
}

fn key(forward: &Forward) -> (Protocol, u16) {
    (forward.protocol, forward.guest)
}

/// One connection to a guest.
struct Follower<'a> {
    dir: &'a Path,
    machine: &'a Path,
    task: &'a Task,
    /// The client's program.
    ssh: &'a str,
    carrier: &'a Carrier,
    ports: Followed,
    /// When a port could not be had.
    refused: BTreeMap<(Protocol, u16), Instant>,
}

impl Follower<'_> {
    fn connect(&self) -> io::Result<Child> {
        let words = [&["-o", "ControlMaster yes", "-o", "ControlPersist no"][..], &ALIVE].concat();
        let mut command = client(self.ssh, self.dir, &words, &self.task.ssh);
        command.arg(WATCH).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()
    }

    fn listen(&mut self, output: impl Read, ready: &mut dyn FnMut() -> io::Result<()>) -> io::Result<()> {
        let mut reader = BufReader::new(output);
        loop {
            let mut line = Vec::new();
            (&mut reader).take(MOST_BYTES).read_until(b'\n', &mut line)?;
            if line.last() != Some(&b'\n') {
                return Ok(());
            }
            let wanted = listeners(&String::from_utf8_lossy(&line));
            self.follow(&wanted)?;
            ready()?;
            Cancel::new().wait(PAUSE);
        }
    }

    /// Opens and closes what is to be. What cannot be had is tried again after a while.
    fn follow(&mut self, wanted: &BTreeSet<Listener>) -> io::Result<()> {
        let others: BTreeSet<(Protocol, u16)> = forwards::added(self.machine).iter().map(key).collect();
        let is_wanted = |listener: &&Listener| {
            let key = (listener.protocol, listener.port);
            listener.port >= LOWEST && !self.task.known.contains(&key) && !others.contains(&key)
        };
        let wanted: Vec<Listener> = wanted.iter().filter(is_wanted).copied().collect();
        let mut changed = false;
        for forward in std::mem::take(&mut self.ports.open) {
            if wanted.iter().any(|listener| (listener.protocol, listener.port) == key(&forward)) {
                self.ports.open.push(forward);
                continue;
            }
            self.close(&forward);
            changed = true;
        }
        self.refused.retain(|_, when| when.elapsed() < AGAIN);
        let mut passed_over: Vec<Forward> = Vec::new();
        for Listener { protocol, port, at } in wanted {
            let is_it = |forward: &Forward| key(forward) == (protocol, port);
            if self.ports.open.iter().chain(&passed_over).any(is_it) {
                continue;
            }
            let host_ip = Ipv4Addr::LOCALHOST.into();
            let forward = Forward { guest: port, host: port, host_ip, protocol, auto_correct: false };
            if self.refused.contains_key(&(protocol, port)) {
                passed_over.push(forward);
                continue;
            }
            // Those that fail count as well.
            if self.ports.open.len() + self.refused.len() >= MOST {
                continue;
            }
            if self.open(&forward, at) {
                self.ports.open.push(forward);
                changed = true;
            } else {
                self.refused.insert((protocol, port), Instant::now());
                passed_over.push(forward);
            }
        }
        if changed || passed_over != self.ports.passed_over {
            self.ports.passed_over = passed_over;
            self.write()?;
        }
        Ok(())
    }

    /// Whether it could be had.
    fn open(&self, forward: &Forward, to: Option<IpAddr>) -> bool {
        match forward.protocol {
            Protocol::Tcp => self.tell("forward", forward.host, to),
            Protocol::Udp => self.carrier.open(forward).is_ok(),
        }
    }

    fn close(&self, forward: &Forward) {
        match forward.protocol {
            // Cancelled by the port that it listens on.
            Protocol::Tcp => drop(self.tell("cancel", forward.host, None)),
            Protocol::Udp => self.carrier.retain(|at| at.port() != forward.host),
        }
    }

    /// Has the client that is connected open or close a forward; whether it did.
    fn tell(&self, verb: &str, port: u16, ip: Option<IpAddr>) -> bool {
        let to = match ip {
            None => "localhost".to_owned(),
            Some(IpAddr::V4(v4)) => v4.to_string(),
            Some(IpAddr::V6(v6)) => format!("[{v6}]"),
        };
        let words = ["-O", verb, "-L", &format!("127.0.0.1:{port}:{to}:{port}")];
        let status = client(self.ssh, self.dir, &words, &self.task.ssh).status();
        status.is_ok_and(|status| status.success())
    }

    fn write(&self) -> io::Result<()> {
        store::write_json(&self.dir.join(OPEN), &self.ports)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::UdpSocket;

    /// A guest that names ports which the host has, line after line, costs the host one process for each.
    #[test]
    fn a_port_that_cannot_be_had_is_not_tried_with_each_line() {
        use std::os::unix::fs::PermissionsExt;
        let dir = tempfile::tempdir().unwrap();
        let (client, calls) = (dir.path().join("client"), dir.path().join("calls"));
        std::fs::write(&client, format!("#!/bin/sh\necho \"$*\" >>{}\nexit 255\n", calls.display())).unwrap();
        std::fs::set_permissions(&client, PermissionsExt::from_mode(0o700)).unwrap();
        let task = Task { ssh: vec!["web".into()], known: BTreeSet::new() };
        let (dir, ssh) = (dir.path(), client.to_str().unwrap());
        let (ports, refused, carrier) = (Followed::default(), BTreeMap::new(), &Carrier::new().unwrap());
        let mut follower = Follower { dir, machine: dir, task: &task, ssh, carrier, ports, refused };
        let count = || std::fs::read_to_string(&calls).unwrap().lines().count();
        let of = |protocol: Protocol| move |port: u16| Listener { protocol, port, at: None };
        let listening = |ports: std::ops::Range<u16>| ports.map(of(Protocol::Tcp)).collect();
        for _ in 0..20 {
            follower.follow(&listening(3000..3002)).unwrap();
        }
        assert_eq!(count(), 2);
        // Later they are.
        follower.refused.values_mut().for_each(|when| *when = when.checked_sub(AGAIN).unwrap());
        follower.follow(&listening(3000..3001)).unwrap();
        assert_eq!(count(), 3);
        // Neither are many.
        follower.follow(&listening(4000..5000)).unwrap();
        assert_eq!(count(), 2 + MOST);
    }

    /// UDP ports are opened by the process itself, count among the others, and are closed when nobody listens.
    #[test]
    fn udp_ports_are_opened_and_closed() {
        let dir = tempfile::tempdir().unwrap();
        let others = UdpSocket::bind("127.0.0.1:0").unwrap();
        let taken = others.local_addr().unwrap().port();
        let free = UdpSocket::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let of_file = taken.checked_sub(1).unwrap();
        let task = Task { ssh: vec!["web".into()], known: BTreeSet::from([(Protocol::Udp, of_file)]) };
        let (ports, refused, carrier) = (Followed::default(), BTreeMap::new(), &Carrier::new().unwrap());
        let (dir, ssh) = (dir.path(), "/bin/false");
        let mut follower = Follower { dir, machine: dir, task: &task, ssh, carrier, ports, refused };
        let udp = |port: u16| Listener { protocol: Protocol::Udp, port, at: None };
        follower.follow(&BTreeSet::from([taken, free, of_file, 80].map(udp))).unwrap();
        assert_eq!(follower.ports.open.iter().map(key).collect::<Vec<_>>(), [(Protocol::Udp, free)]);
        assert_eq!(follower.refused.keys().collect::<Vec<_>>(), [&(Protocol::Udp, taken)]);
        assert!(UdpSocket::bind(("127.0.0.1", free)).is_err(), "nobody listens");
        let listed: Followed = store::read_json(&dir.join(OPEN)).unwrap().unwrap();
        assert_eq!((listed.open[0].host, listed.open[0].protocol), (free, Protocol::Udp));
        assert_eq!(listed.passed_over.iter().map(key).collect::<Vec<_>>(), [(Protocol::Udp, taken)]);
        follower.follow(&BTreeSet::new()).unwrap();
        let listed: Followed = store::read_json(&dir.join(OPEN)).unwrap().unwrap();
        assert_eq!(listed, Followed::default());
        let deadline = Instant::now() + Duration::from_secs(20);
        while UdpSocket::bind(("127.0.0.1", free)).is_err() {
            assert!(Instant::now() < deadline, "it is not closed");
            thread::yield_now();
        }
    }
}
