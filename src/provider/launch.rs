//! Starting, asking and stopping a machine's process from outside it.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom};
use std::os::fd::OwnedFd;
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use super::process::Report;
use super::share::LOCK as SHARE_LOCK;
use super::{CONSOLE_SOCKET, EndReason, Ended, ProviderError, VmSpec};
use crate::model::{Cancel, Code};
use crate::state::{Lock, store};
use crate::vmm::control::{self, Client, Usage};
use crate::vmm::sandbox::Violation;

/// The machine as its process needs it.
pub(super) const SPEC: &str = "vm.json";
/// How it ended.
pub(super) const ENDED: &str = "ended.json";
/// Locked as long as the process lives.
pub(super) const LOCK: &str = "vm.lock";
/// Where it answers.
pub(super) const CONTROL_SOCKET: &str = "control.sock";
/// Its standard error, and that of its children.
pub const LOG: &str = "vm.log";

/// A live process answers at once; one that is stopped or swapped out gets this long.
const ANSWER: Duration = Duration::from_secs(3);

/// A machine that runs.
#[derive(Debug, Clone)]
pub struct Live {
    /// Its process.
    pub pid: u32,
    /// Seconds since it was started.
    pub uptime: u64,
}

/// A process of a machine, or one that is to be like it.
pub(super) fn command(exe: &Path, path: &str, word: &str, dir: &Path) -> Command {
    let mut command = Command::new(exe);
    // Secrets of the caller's environment have no business in a process that runs for days.
    command.arg(word).arg(dir).env_clear().env("PATH", path).current_dir("/");
    command
}

/// Writes `spec` into the machine's folder and starts its process from the binary `exe`, with
/// `net`, a socket at which whoever carries its frames has connected or will (or, where it has no card for those, at which
/// SSH clients do), and `path` as its `PATH`. Returns when the guest runs.
pub fn start(exe: &Path, path: &str, dir: &Path, spec: &VmSpec, net: OwnedFd) -> Result<(), ProviderError> {
    let file = |action, name| {
        let path = dir.join(name);
        move |source| ProviderError::File { action, path, source }
    };
    store::write_json(&dir.join(SPEC), spec).map_err(file("write", SPEC))?;
    store::remove(&dir.join(ENDED)).map_err(file("remove", ENDED))?;
    // Nobody is to wait for folders that were shared before.
    store::remove(&dir.join(SHARE_LOCK)).map_err(file("remove", SHARE_LOCK))?;
    let mut options = OpenOptions::new();
    // Another process that serves its folders writes there, too.
    let log = options.create(true).append(true).mode(0o600).open(dir.join(LOG));
    let log = log.and_then(|log| log.set_len(0).map(|()| log));
    let mut command = command(exe, path, "__vm", dir);
    command
        .stdin(Stdio::from(net))
        .stdout(Stdio::piped())
        .stderr(Stdio::from(log.map_err(file("create", LOG))?));
    let mut child = command.spawn().map_err(ProviderError::Spawn)?;
    // Our copy of the network socket goes: passt must see the end of the machine, not ours.
    drop(command);
    let mut line = String::new();
    if let Some(stdout) = child.stdout.take() {
        stdout.take(1 << 20).read_to_string(&mut line).map_err(ProviderError::Spawn)?;
    }
    match serde_json::from_str::<Report>(&line) {
        Ok(Report::Ready) => Ok(()),
        Ok(Report::Error { message, hint, code }) => {
            let _ = child.wait();
            let code = Code::parse(&code).unwrap_or(Code::EndedEarly);
            Err(ProviderError::Refused { message, hint, code })
        }
        Err(_) => {
            let status = child.wait().map_err(ProviderError::Spawn)?;
            let log = log_of(dir);
            if let Some(violation) = Violation::find(&log) {
                let message = violation.to_string();
                return Err(ProviderError::Refused { message, hint: None, code: Code::Sandbox });
            }
            let last = log.lines().last().unwrap_or("it said nothing").to_owned();
            let message = format!("the machine's process ended early ({status}): {last}");
            Err(ProviderError::Refused { message, hint: None, code: Code::EndedEarly })
        }
    }
}

/// The machine in `dir` as its live process sees it; `None` when there is no such process.
pub fn live(dir: &Path) -> Result<Option<Live>, ProviderError> {
    match Client::connect(&dir.join(CONTROL_SOCKET), ANSWER).and_then(|mut client| client.status()) {
        Ok(status) => Ok(Some(Live { pid: status.pid, uptime: status.uptime_ms / 1000 })),
        // No answer: only the lock tells a dead process from one that is busy starting or stuck.
        Err(error) => match holder(dir)? {
            None => Ok(None),
            Some(_) => Err(ProviderError::Control(error)),
        },
    }
}

/// Whether the machine in `dir` has no live process for certain: one that does not answer may be busy.
pub fn is_gone(dir: &Path) -> bool {
    matches!(live(dir), Ok(None))
}

/// Waits for the end of the process of the machine in `dir`, which has started.
///
/// # Errors
/// `NotFound` where there never was one.
pub fn wait_gone(dir: &Path) -> io::Result<()> {
    Lock::wait(&dir.join(LOCK))
}

/// What the memory of the machine in `dir` costs; `None` when it cannot be asked.
pub fn usage(dir: &Path) -> Option<Usage> {
    let asked = Client::connect(&dir.join(CONTROL_SOCKET), ANSWER).and_then(|mut client| client.usage());
    asked.inspect_err(|error| tracing::debug!(dir = %dir.display(), %error, "memory is not known")).ok()
}

/// Asks the guest of the machine in `dir` to give `bytes` of its memory back, in all.
pub fn set_balloon(dir: &Path, bytes: u64) -> Result<(), ProviderError> {
    let connect = Client::connect(&dir.join(CONTROL_SOCKET), ANSWER);
    connect.and_then(|mut client| client.set_balloon(bytes)).map_err(ProviderError::Control)
}

/// Attaches to the console of the machine in `dir`; `vmm::attach::wire` is spoken there.
pub fn console(dir: &Path) -> Result<UnixStream, ProviderError> {
    let path = dir.join(CONSOLE_SOCKET);
    control::connect(&path).map_err(|source| ProviderError::File { action: "attach to", path, source })
}

/// Process id of whoever holds the machine's lock; 0 when it has not written it yet.
fn holder(dir: &Path) -> Result<Option<u32>, ProviderError> {
    let path = dir.join(LOCK);
    let holder =
        Lock::holder(&path).map_err(|source| ProviderError::File { action: "lock", path, source })?;
    Ok(holder
        .map(|text| text.trim_end_matches(')').rsplit(' ').next().and_then(|n| n.parse().ok()).unwrap_or(0)))
}

/// How the machine in `dir` ended; `None` while it runs, before its first start, and when its
/// process was killed, unless it was by its own sandbox.
pub fn ended(dir: &Path) -> Result<Option<Ended>, ProviderError> {
    let path = dir.join(ENDED);
    let record =
        store::read_json(&path).map_err(|source| ProviderError::File { action: "read", path, source })?;
    let ended = record.or_else(|| {
        let message = Some(Violation::find(&log_of(dir))?.to_string());
        Some(Ended { reason: EndReason::Failed, message })
    });
    Ok(ended.map(|ended| Ended { message: ended.message.map(printable), ..ended }))
}

/// Bytes at the end of the log that are looked at.
const LOG_TAIL: u64 = 64 << 10;

/// The end of what the process wrote to standard error.
fn log_of(dir: &Path) -> String {
    let read = || -> io::Result<Vec<u8>> {
        let mut log = File::open(dir.join(LOG))?;
        let start = log.metadata()?.len().saturating_sub(LOG_TAIL);
        log.seek(SeekFrom::Start(start))?;
        let mut tail = Vec::new();
        log.take(LOG_TAIL).read_to_end(&mut tail)?;
        Ok(tail)
    };
    String::from_utf8_lossy(&read().unwrap_or_default()).into_owned()
}

/// What a process wrote that its guest may have broken into goes to a terminal: no control characters.
fn printable(text: String) -> String {
    text.chars().filter(|c| !c.is_control()).collect()
}

/// Asks the guest to switch itself off: by its agent where that is connected, else by the power button.
pub fn power_off(dir: &Path) -> Result<(), ProviderError> {
    let connect = Client::connect(&dir.join(CONTROL_SOCKET), ANSWER);
    // The process of a machine that an older rvm started knows the button only.
    connect.and_then(|mut client| client.power_off()).or_else(|_| power_button(dir))
}

/// Presses the power button, which a guest may heed or not.
pub fn power_button(dir: &Path) -> Result<(), ProviderError> {
    let connect = Client::connect(&dir.join(CONTROL_SOCKET), ANSWER);
    connect.and_then(|mut client| client.power_button()).map_err(ProviderError::Control)
}

/// Waits until the guest of the machine in `dir` says that it is up, at most until the machine has run
/// for `time`; whether it did. It can be up without saying so.
pub fn wait_up(dir: &Path, time: Duration, cancel: &Cancel) -> bool {
    let wait = || -> io::Result<bool> {
        let mut client = Client::connect(&dir.join(CONTROL_SOCKET), ANSWER)?;
        let left = time.saturating_sub(Duration::from_millis(client.status()?.uptime_ms));
        client.wait_up(left, &mut || !cancel.is_cancelled())
    };
    wait().unwrap_or_else(|error| {
        tracing::debug!(dir = %dir.display(), %error, "no word from the guest");
        false
    })
}

/// Waits until the guest is gone, at most `time`; whether it is.
pub fn wait_ended(dir: &Path, time: Duration) -> Result<bool, ProviderError> {
    match Client::connect(&dir.join(CONTROL_SOCKET), ANSWER) {
        Ok(mut client) => match client.wait(time) {
            Ok(_) => wait_lock(dir),
            Err(error) if is_timeout(&error) => Ok(false),
            // It ended while we asked.
            Err(_) => wait_lock(dir),
        },
        Err(_) => wait_lock(dir),
    }
}

fn is_timeout(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::TimedOut | io::ErrorKind::WouldBlock)
}

/// The guest is gone; its process writes its last record and ends within moments.
fn wait_lock(dir: &Path) -> Result<bool, ProviderError> {
    let path = dir.join(LOCK);
    let cancel = Cancel::new();
    for _ in 0..100 {
        if holder(dir)?.is_none() {
            return Ok(true);
        }
        // The lock goes with the process: there is no event to wait for but its absence.
        cancel.wait(Duration::from_millis(20));
    }
    tracing::debug!(path = %path.display(), "lock still held");
    Ok(false)
}

/// Stops the machine hard: by the control socket, else by a signal to the process that holds
/// the lock. `Ok` when it is gone, also when it was gone before.
pub fn stop(dir: &Path) -> Result<(), ProviderError> {
    let asked = Client::connect(&dir.join(CONTROL_SOCKET), ANSWER).and_then(|mut client| client.stop());
    if asked.is_ok() && wait_lock(dir)? {
        return Ok(());
    }
    let Some(pid) = holder(dir)? else { return Ok(()) };
    let stuck = ProviderError::Stuck { pid };
    let raw = i32::try_from(pid).ok().and_then(rustix::process::Pid::from_raw);
    let Some(target) = raw else { return Err(stuck) };
    // Holding the lock, the process is ours and alive: the number cannot have been given anew.
    let _ = rustix::process::kill_process(target, rustix::process::Signal::KILL);
    if wait_lock(dir)? { Ok(()) } else { Err(stuck) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_that_its_sandbox_stopped_says_so() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(ended(dir.path()).unwrap(), None);
        store::create_empty(&dir.path().join(ENDED)).unwrap();
        std::fs::write(dir.path().join(LOG), "sandbox: a wall is missing\n").unwrap();
        assert_eq!(ended(dir.path()).unwrap(), None);
        let line = "sandbox: system call 41 by thread virtio-net is forbidden; the process ends here\n";
        std::fs::write(dir.path().join(LOG), line).unwrap();
        let ended = ended(dir.path()).unwrap().unwrap();
        assert_eq!(ended.reason, EndReason::Failed);
        assert!(ended.message.unwrap().ends_with("by its sandbox: system call 41 (thread virtio-net)"));
    }
}
