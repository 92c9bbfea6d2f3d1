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
/// Why datagrams are not carried.
const SILENT: &str = "datagrams.log";
/// Beside the process's working folder, because the path of a socket is limited.
const CONTROL: &str = "ssh.sock";
/// The process.
pub(super) const PROCESS: &str = "__follow";
/// Ports below are privileged on the host.
const LOWEST: u16 = 1024;
/// Ports that are open at once.
pub const MOST: usize = 128;
/// Ports that are opened or closed at once, each by a process of the ssh client's; the rest after a pause.
const AT_ONCE: usize = 8;
/// So often for one line of the guest's, which is enough to close all and open others; then it is out of date.
const ROUNDS: usize = 2 * MOST / AT_ONCE;
/// Ports that one connection opens: its client forgets none that was closed, and searches them all each time.
const MOST_OPENED: usize = 4096;
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
pub struct Followed {
    /// Those that lead in.
    pub open: Vec<Forward>,
    /// Those that cannot be had on this host.
    pub passed_over: Vec<Forward>,
    /// How many there are beyond [`MOST`].
    #[serde(default)]
    pub beyond: usize,
    /// Why nothing goes through the UDP ports among those that lead in.
    #[serde(skip)]
    pub silent: Option<String>,
}

/// The ports of the machine in `dir` that are followed now.
pub(super) fn followed(dir: &Path) -> Followed {
    if !keepers::is_done(&task_of(dir)) {
        return Followed::default();
    }
    let dir = dir.join(FOLDER);
    let mut followed: Followed = store::read_json(&dir.join(OPEN)).ok().flatten().unwrap_or_default();
    if followed.open.iter().any(|forward| forward.protocol == Protocol::Udp) {
        followed.silent = std::fs::read_to_string(dir.join(SILENT)).ok();
    }
    followed
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
        let (ports, carrier, to) = (Followed::default(), &carrier, BTreeMap::new());
        let (opened, worn) = (0, false);
        let mut follower =
            Follower { dir, machine, task, ssh: "ssh", carrier, ports, to, refused, opened, worn };
        follower.write()?;
        store::remove(&dir.join(CONTROL))?;
        let mut child = follower.connect()?;
        let words = Words::of(&mut child);
        let heard = match child.stdout.take() {
            Some(output) => follower.listen(output, &mut || duty.is_at_work(starter)),
            None => Ok(()),
        };
        // It has said too much, cannot be heard any more, or another one is due.
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
    store::remove(&dir.join(SILENT))?;
    let carry = move || {
        let mut respawn = Respawn::new(PAUSE);
        loop {
            carrier.wait_for_port();
            let began = Instant::now();
            let mut command = client("ssh", &dir, &ALIVE, &words);
            command.arg(datagrams::script());
            carry_once(&carrier, command, &dir.join(SILENT));
            respawn.wait(began.elapsed());
        }
    };
    thread::Builder::new().name("datagrams".into()).spawn(carry).map(drop)
}

/// Carries datagrams until that ends; where it does not even begin, the file at `silent` says why. It is tried again.
fn carry_once(carrier: &Carrier, command: Command, silent: &Path) {
    let mut is_ready = false;
    let ended = carrier.carry(command, &mut || {
        is_ready = true;
        store::remove(silent)
    });
    if !is_ready {
        let why = ended.map_or_else(|error| error, Words::complaint).to_string();
        // Nobody is told then, which is no reason to carry nothing.
        let _ = std::fs::write(silent, keepers::one_line(&why));
    }
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
    /// Where TCP ports that are open lead to.
    to: BTreeMap<u16, Option<IpAddr>>,
    /// When a port could not be had.
    refused: BTreeMap<(Protocol, u16), Instant>,
    /// TCP ports that were opened so far.
    opened: usize,
    /// The client keeps what it is to close, or has opened so many ports that another one has to take over.
    worn: bool,
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
            for _ in 0..ROUNDS {
                let is_all = self.follow(&wanted)?;
                ready()?;
                if self.worn {
                    return Ok(());
                }
                Cancel::new().wait(PAUSE);
                if is_all {
                    break;
                }
            }
        }
    }

    /// Opens and closes what is to be, [`AT_ONCE`] ports at most; whether that is all. What cannot be had is tried
    /// again after a while.
    fn follow(&mut self, wanted: &BTreeSet<Listener>) -> io::Result<bool> {
        let others: BTreeSet<(Protocol, u16)> = forwards::added(self.machine).iter().map(key).collect();
        let is_wanted = |listener: &&Listener| {
            let key = (listener.protocol, listener.port);
            listener.port >= LOWEST && !self.task.known.contains(&key) && !others.contains(&key)
        };
        let wanted: Vec<Listener> = wanted.iter().filter(is_wanted).copied().collect();
        let (mut left, mut is_all, mut changed) = (AT_ONCE, true, false);
        for forward in std::mem::take(&mut self.ports.open) {
            let to = self.to.get(&forward.host).copied().filter(|_| forward.protocol == Protocol::Tcp);
            let is_it = |listener: &Listener| {
                (listener.protocol, listener.port) == key(&forward) && to.is_none_or(|to| to == listener.at)
            };
            if wanted.iter().any(is_it) {
                self.ports.open.push(forward);
            } else if left == 0 {
                is_all = false;
                self.ports.open.push(forward);
            } else {
                left -= 1;
                if self.close(&forward) {
                    changed = true;
                } else {
                    // It is still there.
                    self.ports.open.push(forward);
                }
            }
        }
        self.refused.retain(|_, when| when.elapsed() < AGAIN);
        let mut passed_over: Vec<Forward> = Vec::new();
        let mut beyond = BTreeSet::new();
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
                beyond.insert((protocol, port));
                continue;
            }
            if left == 0 || self.worn {
                is_all = false;
                continue;
            }
            left -= 1;
            if self.open(&forward, at) {
                self.ports.open.push(forward);
                changed = true;
            } else {
                self.refused.insert((protocol, port), Instant::now());
                passed_over.push(forward);
            }
        }
        let beyond = beyond.len();
        if changed || (&passed_over, beyond) != (&self.ports.passed_over, self.ports.beyond) {
            self.ports.passed_over = passed_over;
            self.ports.beyond = beyond;
            self.write()?;
        }
        Ok(is_all)
    }

    /// Whether it could be had.
    fn open(&mut self, forward: &Forward, to: Option<IpAddr>) -> bool {
        if forward.protocol == Protocol::Udp {
            return self.carrier.open(forward).is_ok();
        }
        let is_open = self.tell("forward", forward.host, to);
        if is_open {
            self.to.insert(forward.host, to);
            self.opened += 1;
            self.worn |= self.opened >= MOST_OPENED;
        }
        is_open
    }

    /// Whether it is closed.
    fn close(&mut self, forward: &Forward) -> bool {
        if forward.protocol == Protocol::Udp {
            self.carrier.retain(|at| at.port() != forward.host);
            return true;
        }
        // The client looks for one that leads to the same address.
        let to = self.to.get(&forward.host).copied().flatten();
        let is_closed = self.tell("cancel", forward.host, to);
        if is_closed {
            self.to.remove(&forward.host);
        }
        self.worn |= !is_closed;
        is_closed
    }

    /// Has the client that is connected open or close a forward; whether it did.
    fn tell(&self, verb: &str, port: u16, ip: Option<IpAddr>) -> bool {
        let to = match ip {
            None => "localhost".to_owned(),
            Some(IpAddr::V4(v4)) => v4.to_string(),
            Some(IpAddr::V6(v6)) => format!("[{v6}]"),
        };
        let spec = format!("127.0.0.1:{port}:{to}:{port}");
        let words = ["-O", verb, "-o", "LogLevel ERROR", "-L", &spec];
        let output = client(self.ssh, self.dir, &words, &self.task.ssh).stderr(Stdio::piped()).output();
        // One that cancels nothing says so, and ends well all the same.
        output.is_ok_and(|output| {
            output.status.success() && !String::from_utf8_lossy(&output.stderr).contains("failed")
        })
    }

    fn write(&self) -> io::Result<()> {
        store::write_json(&self.dir.join(OPEN), &self.ports)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::state::Lock;
    use std::net::UdpSocket;
    use std::os::unix::fs::PermissionsExt;

    fn task() -> Task {
        Task { ssh: vec!["web".into()], known: BTreeSet::new() }
    }

    fn follower<'a>(dir: &'a Path, task: &'a Task, ssh: &'a str, carrier: &'a Carrier) -> Follower<'a> {
        let (ports, to, refused) = (Followed::default(), BTreeMap::new(), BTreeMap::new());
        Follower { dir, machine: dir, task, ssh, carrier, ports, to, refused, opened: 0, worn: false }
    }

    /// A program of that text, in that folder.
    fn program(dir: &Path, text: &str) -> String {
        let path = dir.join("client");
        std::fs::write(&path, text).unwrap();
        std::fs::set_permissions(&path, PermissionsExt::from_mode(0o700)).unwrap();
        path.to_str().unwrap().to_owned()
    }

    /// A guest that names ports which the host has, line after line, costs the host one process for each.
    #[test]
    fn a_port_that_cannot_be_had_is_not_tried_with_each_line() {
        let dir = tempfile::tempdir().unwrap();
        let calls = dir.path().join("calls");
        let client = program(dir.path(), "#!/bin/sh\necho \"$*\" >>calls\nexit 255\n");
        let task = task();
        let (dir, ssh) = (dir.path(), client.as_str());
        let carrier = Carrier::new().unwrap();
        let mut follower = follower(dir, &task, ssh, &carrier);
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
        // Neither are many, and of those only some with each line.
        let many = listening(4000..5000);
        assert!(!follower.follow(&many).unwrap());
        assert_eq!(count(), 3 + AT_ONCE);
        while !follower.follow(&many).unwrap() {}
        assert_eq!(count(), 2 + MOST);
        let listed: Followed = store::read_json(&dir.join(OPEN)).unwrap().unwrap();
        assert_eq!((listed.passed_over.len(), listed.beyond), (MOST - 1, 1000 + 1 - MOST));
    }

    /// A client that keeps a list of what it forwards, as OpenSSH's does: what it is to close has to lead to the same
    /// address, and that there is no such port it only says.
    const CLIENT: &str = r#"#!/bin/sh
while [ "$1" != -O ]; do shift; done
echo "$2" >>verbs
if [ "$2" = forward ]; then echo "$6" >>open
elif grep -qxF -- "$6" open; then grep -vxF -- "$6" open >rest; mv rest open
else echo "forwarding request failed: port not forwarded" >&2; fi
"#;

    #[test]
    fn what_a_guest_closes_at_another_address_of_loopback_is_closed() {
        let dir = tempfile::tempdir().unwrap();
        let ssh = program(dir.path(), CLIENT);
        let (task, carrier) = (task(), Carrier::new().unwrap());
        let mut follower = follower(dir.path(), &task, &ssh, &carrier);
        let said = |line: &str| listeners(line);
        let open = || std::fs::read_to_string(dir.path().join("open")).unwrap();
        assert!(follower.follow(&said("0200007F:0BB8 00000000:0BB9")).unwrap());
        assert_eq!(open(), "127.0.0.1:3000:127.0.0.2:3000\n127.0.0.1:3001:localhost:3001\n");
        // Who listens elsewhere from now on is led to.
        assert!(follower.follow(&said("0300007F:0BB8 00000000:0BB9")).unwrap());
        assert_eq!(open(), "127.0.0.1:3001:localhost:3001\n127.0.0.1:3000:127.0.0.3:3000\n");
        assert!(follower.follow(&said("")).unwrap());
        assert_eq!((open().as_str(), &follower.ports, follower.worn), ("", &Followed::default(), false));
    }

    #[test]
    fn a_port_that_is_not_closed_counts_and_ends_the_connection() {
        let dir = tempfile::tempdir().unwrap();
        let ssh = program(dir.path(), CLIENT);
        let (task, carrier) = (task(), Carrier::new().unwrap());
        let mut follower = follower(dir.path(), &task, &ssh, &carrier);
        assert!(follower.follow(&listeners("0200007F:0BB8")).unwrap());
        std::fs::write(dir.path().join("open"), "").unwrap();
        follower.listen(&b"\n0200007F:0BB9\n"[..], &mut || Ok(())).unwrap();
        assert!(follower.worn);
        assert_eq!(follower.ports.open.iter().map(key).collect::<Vec<_>>(), [(Protocol::Tcp, 3000)]);
    }

    /// A guest that listens at other ports with each line makes the host start few processes, and the client's list
    /// has an end.
    #[test]
    fn a_guest_that_changes_its_mind_costs_little() {
        let dir = tempfile::tempdir().unwrap();
        let ssh = program(dir.path(), CLIENT);
        let (task, carrier) = (task(), Carrier::new().unwrap());
        let mut follower = follower(dir.path(), &task, &ssh, &carrier);
        let tcp = |port: u16| Listener { protocol: Protocol::Tcp, port, at: None };
        let sets = [3000..3128, 4000..4128].map(|ports| ports.map(tcp).collect::<BTreeSet<_>>());
        let verbs = || std::fs::read_to_string(dir.path().join("verbs")).unwrap().lines().count();
        for (round, set) in sets.iter().cycle().take(6).enumerate() {
            assert!(!follower.follow(set).unwrap());
            assert_eq!(verbs(), (round + 1) * AT_ONCE);
        }
        follower.opened = MOST_OPENED - 1;
        follower.ports = Followed::default();
        assert!(!follower.follow(&sets[0]).unwrap(), "the rest is for the next connection");
        assert!(follower.worn);
        assert_eq!((follower.ports.open.len(), follower.opened), (1, MOST_OPENED));
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
        let carrier = Carrier::new().unwrap();
        let dir = dir.path();
        let mut follower = follower(dir, &task, "/bin/false", &carrier);
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

    /// A guest that cannot run the relay: its ports are listed, and that nothing goes through them is said.
    #[test]
    fn why_no_datagrams_are_carried_is_kept_until_they_are() {
        let machine = tempfile::tempdir().unwrap();
        let dir = machine.path().join(FOLDER);
        store::create_private_dir(&dir).unwrap();
        let _lock =
            Lock::try_acquire(&task_of(machine.path()).with_extension("lock"), "a test").unwrap().unwrap();
        let (silent, carrier) = (dir.join(SILENT), Carrier::new().unwrap());
        let shell = |script: &str| {
            let mut command = Command::new("sh");
            command.args(["-c", script]).env("HOME", machine.path());
            command
        };
        carry_once(
            &carrier,
            shell("cat >/dev/null & echo 'no such' >&2; echo program >&2; exit 126"),
            &silent,
        );
        let of = |protocol: Protocol| {
            let host_ip = Ipv4Addr::LOCALHOST.into();
            let open = vec![Forward { guest: 5000, host: 5000, host_ip, protocol, auto_correct: false }];
            store::write_json(&dir.join(OPEN), &Followed { open, ..Followed::default() }).unwrap();
            followed(machine.path()).silent
        };
        assert_eq!(of(Protocol::Udp).as_deref(), Some("no such; program"));
        assert_eq!(of(Protocol::Tcp), None, "no port of those that are there");
        let (work, ended) = (carrier.clone(), silent.clone());
        let command = shell(&datagrams::script());
        let carrying = thread::spawn(move || carry_once(&work, command, &ended));
        let deadline = Instant::now() + Duration::from_secs(20);
        while of(Protocol::Udp).is_some() {
            assert!(Instant::now() < deadline, "it is still said");
            thread::yield_now();
        }
        carrier.hang_up();
        carrying.join().unwrap();
        assert_eq!(of(Protocol::Udp), None, "it did begin");
    }
}
