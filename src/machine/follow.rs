//! `auto_forward`: ports that programs of a guest open lead in from the same ports of 127.0.0.1, and cease to
//! when they close. One process for each machine that wants it, `rvm __follow FOLDER`: a shell in the guest
//! tells it who listens there, over a connection of the system's ssh client that carries the forwards, too.
//!
//! What the guest says is not trusted: it opens unprivileged ports of loopback only, a limited number of
//! them, a few a second.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, BufRead, BufReader, Read};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

use rustix::process::Signal;

use serde::{Deserialize, Serialize};

use super::keepers::{self, Duty, ENDED};
use super::record::Record;
use super::{MachineError, Machines, UpOptions, forwards, guard};
use crate::model::{Cancel, Forward, Machine, Project, Protocol};
use crate::provider;
use crate::state::{Starter, child, store};

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

/// What is run in the guest: each second the kernel's tables of listeners, a line where they have changed.
/// A line is due every ten seconds all the same: writing it fails once nobody is connected any more, which
/// ends the loop. State 0A is LISTEN (include/net/tcp_states.h).
const WATCH: &str = "last=-; n=0; while :; do \
    now=$(sed -n 's/^ *[0-9]*: \\([0-9A-F]*:[0-9A-F]*\\) [0-9A-F]*:0000 0A .*/\\1/p' /proc/net/tcp /proc/net/tcp6 \
    2>/dev/null | sort -u | tr '\\n' ' '); n=$((n + 1)); \
    if [ \"$now\" != \"$last\" ] || [ $n -ge 10 ]; then echo \"$now\" || exit; last=$now; n=0; fi; sleep 1; done";

/// What the process is to do.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Task {
    /// Words for the ssh client that lead to the machine.
    ssh: Vec<String>,
    /// TCP ports of the guest that ports of the file lead to.
    known: BTreeSet<u16>,
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
        let is_tcp = |port: &&Forward| port.protocol == Protocol::Tcp;
        let known = record.ports.iter().filter(is_tcp).map(|port| port.guest).collect();
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

/// The ports of the machine in `dir` that are open now because its guest listens.
pub(super) fn opened(dir: &Path) -> Vec<Forward> {
    if !keepers::is_done(&task_of(dir)) {
        return Vec::new();
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
    loop {
        let (task, refused) = (&duty.task, BTreeMap::new());
        let mut follower = Follower { dir, machine, task, ssh: "ssh", open: Vec::new(), refused };
        follower.write()?;
        store::remove(&dir.join(CONTROL))?;
        let log = tempfile::tempfile()?;
        let mut child = follower.connect(log.try_clone()?)?;
        let heard = match child.stdout.take() {
            Some(output) => follower.listen(output, &mut || duty.is_at_work(starter)),
            None => Ok(()),
        };
        // It has said too much, or cannot be heard any more.
        let _ = child.kill();
        child.wait()?;
        heard?;
        if starter.waits() {
            return Err(keepers::complaint(log)?);
        }
        if provider::is_gone(machine) {
            return store::remove(dir);
        }
        Cancel::new().wait(PAUSE);
    }
}

/// One connection to a guest.
struct Follower<'a> {
    dir: &'a Path,
    machine: &'a Path,
    task: &'a Task,
    /// The client's program.
    ssh: &'a str,
    open: Vec<Forward>,
    /// When a port could not be had.
    refused: BTreeMap<u16, Instant>,
}

impl Follower<'_> {
    fn ssh(&self, words: &[&str]) -> Command {
        let mut command = Command::new(self.ssh);
        command.current_dir(self.dir).args(["-F", "none", "-T", "-o", "BatchMode yes"]);
        command.args(["-o", &format!("ControlPath {CONTROL}")]).args(words).args(&self.task.ssh);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        // The ports that it keeps open would be there for good.
        child::ends_with_us(&mut command, Signal::TERM);
        command
    }

    fn connect(&self, log: std::fs::File) -> io::Result<Child> {
        let words = [
            "-o",
            "ControlMaster yes",
            "-o",
            "ControlPersist no",
            // A guest that hangs or reboots is noticed within half a minute.
            "-o",
            "ServerAliveInterval 10",
            "-o",
            "ServerAliveCountMax 3",
            "-o",
            "ConnectTimeout 10",
        ];
        let mut command = self.ssh(&words);
        command.arg(WATCH).stdout(Stdio::piped()).stderr(Stdio::from(log)).spawn()
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
    fn follow(&mut self, wanted: &BTreeSet<(u16, Option<IpAddr>)>) -> io::Result<()> {
        let others: BTreeSet<u16> =
            forwards::added(self.machine).into_iter().map(|forward| forward.guest).collect();
        let is_wanted =
            |port: u16| port >= LOWEST && !self.task.known.contains(&port) && !others.contains(&port);
        let wanted: Vec<(u16, Option<IpAddr>)> =
            wanted.iter().filter(|(port, _)| is_wanted(*port)).copied().collect();
        let mut changed = false;
        for forward in std::mem::take(&mut self.open) {
            if wanted.iter().any(|(port, _)| *port == forward.guest) {
                self.open.push(forward);
                continue;
            }
            // Cancelled by the port that it listens on.
            self.tell("cancel", forward.guest, None);
            changed = true;
        }
        self.refused.retain(|_, when| when.elapsed() < AGAIN);
        for (port, ip) in wanted {
            let known = self.refused.contains_key(&port) || self.open.iter().any(|it| it.guest == port);
            // Those that fail count as well.
            if known || self.open.len() + self.refused.len() >= MOST {
                continue;
            }
            if self.tell("forward", port, ip) {
                self.open.push(Forward {
                    guest: port,
                    host: port,
                    host_ip: Ipv4Addr::LOCALHOST.into(),
                    protocol: Protocol::Tcp,
                    auto_correct: false,
                });
                changed = true;
            } else {
                self.refused.insert(port, Instant::now());
            }
        }
        if changed {
            self.write()?;
        }
        Ok(())
    }

    /// Has the client that is connected open or close a forward; whether it did.
    fn tell(&self, verb: &str, port: u16, ip: Option<IpAddr>) -> bool {
        let to = match ip {
            None => "localhost".to_owned(),
            Some(IpAddr::V4(v4)) => v4.to_string(),
            Some(IpAddr::V6(v6)) => format!("[{v6}]"),
        };
        let status = self.ssh(&["-O", verb, "-L", &format!("127.0.0.1:{port}:{to}:{port}")]).status();
        status.is_ok_and(|status| status.success())
    }

    fn write(&self) -> io::Result<()> {
        store::write_json(&self.dir.join(OPEN), &self.open)
    }
}

/// Ports that are listened on, as [`WATCH`] says them: on any address or on loopback. `None`: `localhost`
/// reaches it.
fn listeners(line: &str) -> BTreeSet<(u16, Option<IpAddr>)> {
    let parse = |word: &str| {
        let (ip, port) = word.split_once(':')?;
        let port = u16::from_str_radix(port, 16).ok()?;
        let ip = address(ip)?;
        let at = match ip.to_canonical() {
            ip if ip.is_unspecified() => None,
            ip if ip == IpAddr::from(Ipv4Addr::LOCALHOST) || ip == IpAddr::from(Ipv6Addr::LOCALHOST) => None,
            ip if ip.is_loopback() => Some(ip),
            _ => return None,
        };
        Some((port, at))
    };
    line.split_ascii_whitespace().filter_map(parse).collect()
}

/// An address in words of four bytes as the guest's processor stores them: little-endian.
fn address(digits: &str) -> Option<IpAddr> {
    let mut bytes = Vec::new();
    for at in (0..digits.len()).step_by(8) {
        let word = u32::from_str_radix(digits.get(at..at + 8)?, 16).ok()?;
        bytes.extend(word.to_le_bytes());
    }
    match bytes.len() {
        4 => Some(IpAddr::from(<[u8; 4]>::try_from(bytes).ok()?)),
        16 => Some(IpAddr::from(<[u8; 16]>::try_from(bytes).ok()?)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_guest_says_is_taken_apart() {
        let line = "0100007F:1F90 00000000:0016 3500007F:2714 0F02000A:1F91 \
                    00000000000000000000000000000000:0BB8 00000000000000000000000001000000:0BB9 \
                    0000000000000000FFFF00000100007F:0BBA x:1 0100007F:10000 01:1 :1 0100007F \u{e4}\u{f6}\u{fc}\u{df}:1\n";
        let expected = [
            (22, None),
            (3000, None),
            (3001, None),
            (3002, None),
            (8080, None),
            (10004, Some(IpAddr::from([127, 0, 0, 53]))),
        ];
        assert_eq!(listeners(line), BTreeSet::from(expected));
        assert!(listeners("").is_empty());
    }

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
        let refused = BTreeMap::new();
        let mut follower = Follower { dir, machine: dir, task: &task, ssh, open: Vec::new(), refused };
        let count = || std::fs::read_to_string(&calls).unwrap().lines().count();
        let listening = |ports: std::ops::Range<u16>| ports.map(|port| (port, None)).collect();
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

    /// The script on this host: a port that is opened is said.
    #[test]
    fn the_script_says_who_listens() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let mut child = Command::new("sh").args(["-c", WATCH]).stdout(Stdio::piped()).spawn().unwrap();
        let mut reader = BufReader::new(child.stdout.take().unwrap());
        let mut line = String::new();
        reader.read_line(&mut line).unwrap();
        assert!(listeners(&line).contains(&(port, None)), "{line}");
        drop(listener);
        while listeners(&line).contains(&(port, None)) {
            line.clear();
            assert_ne!(reader.read_line(&mut line).unwrap(), 0);
        }
        child.kill().unwrap();
        child.wait().unwrap();
    }
}
