//! Processes that keep an ssh client for a machine until it ends: `rvm __forward FILE` (`forwards.rs`) and `rvm __follow
//! FILE` (`follow.rs`).
//!
//! The file says what to do. It is `NAME.new-PID` (the command that wrote it) until the process is at work, and from then on `NAME.json`, for as long as
//! it is to be done: a process that is killed is started again (`guard.rs`). Whoever does it holds `NAME.lock`, and
//! `NAME.log` says why nobody does just now.

use std::fs;
use std::io::{self, Read};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStderr, ChildStdin, Command, ExitCode, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::thread;
use std::time::Duration;

use rustix::io::Errno;
use rustix::process::{Pid, Signal, WaitOptions, kill_process_group, setsid, waitpgid};
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::{MachineError, Machines};
use crate::model::Cancel;
use crate::state::{Lock, Starter, store};
use crate::vmm::sandbox;

/// What such a process says once it is at work.
pub(super) const READY: &str = "ready";
/// What is said of one that is gone.
pub(super) const ENDED: &str = "its process has ended";
/// How long a process that was told to end may take.
const ENDING: Duration = Duration::from_secs(5);
/// Longest complaint that is passed on.
pub(super) const MOST_BYTES: u64 = 4096;

impl Machines<'_> {
    /// Has a process begin `task`, which becomes that of `path`, `NAME.json`; why it does not, in its own words.
    pub(super) fn begin_task<T: Serialize>(
        &self,
        word: &str,
        path: &Path,
        task: &T,
    ) -> Result<Result<(), String>, MachineError> {
        let dir = path.parent().unwrap_or(path);
        store::create_private_dir(dir).map_err(|e| MachineError::file("create", dir, e))?;
        let new = path.with_extension(new_extension());
        let _ = store::remove(&path.with_extension("log"));
        store::write_json(&new, task).map_err(|e| MachineError::file("write", &new, e))?;
        let said = self.start_keeper(word, &new);
        if matches!(&said, Ok(said) if said == READY) {
            return Ok(Ok(()));
        }
        let _ = store::remove(&new);
        said.map(|said| Err(one_line(&said))).map_err(|e| MachineError::file("start the process of", path, e))
    }

    /// Starts a process that outlives this command; what it says once it is at work, or why it is not.
    pub(super) fn start_keeper(&self, word: &str, path: &Path) -> io::Result<String> {
        self.start_with(word, path, Stdio::null()).map(|(said, _)| said)
    }

    /// The same, and the end of its standard input, which is a pipe.
    pub(super) fn start_with_input(
        &self,
        word: &str,
        path: &Path,
    ) -> io::Result<(String, Option<ChildStdin>)> {
        self.start_with(word, path, Stdio::piped())
    }

    fn start_with(&self, word: &str, path: &Path, input: Stdio) -> io::Result<(String, Option<ChildStdin>)> {
        let mut command = Command::new(&self.exe);
        let (mut child, said, input) = told(command.env_clear().env("PATH", &self.path), word, path, input)?;
        if said != READY {
            child.wait()?;
        }
        Ok((said, input))
    }
}

/// Starts the process of a task anew, from one that was started so itself.
pub(super) fn start_again(word: &str, path: &Path) -> Result<Child, String> {
    let mut command = Command::new("/proc/self/exe");
    let started = told(command.arg0("rvm"), word, path, Stdio::null());
    let (mut child, said, _) = started.map_err(|error| error.to_string())?;
    if said == READY {
        return Ok(child);
    }
    bury(&mut child);
    Err(one_line(&said))
}

/// Of a task that is about to begin: another command may be about to begin it, too.
fn new_extension() -> String {
    format!("new-{}", std::process::id())
}

fn told(
    command: &mut Command,
    word: &str,
    path: &Path,
    input: Stdio,
) -> io::Result<(Child, String, Option<ChildStdin>)> {
    command.arg(word).arg(path).current_dir("/").stdin(input).stdout(Stdio::piped()).stderr(Stdio::null());
    let mut child = command.spawn()?;
    let input = child.stdin.take();
    let mut said = String::new();
    if let Some(stdout) = child.stdout.take() {
        stdout.take(MOST_BYTES).read_to_string(&mut said)?;
    }
    Ok((child, said, input))
}

/// Waits for the end of a child, and of what it leaves of its group to us: an ssh client that still listens would be in
/// the way of the next one.
pub(super) fn bury(child: &mut Child) {
    let group = Pid::from_child(child);
    let _ = child.wait();
    while matches!(waitpgid(group, WaitOptions::empty()), Ok(Some(_)) | Err(Errno::INTR)) {}
}

/// What a process said that does not begin.
pub(super) fn one_line(said: &str) -> String {
    let lines: Vec<&str> = said.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    if lines.is_empty() { "its process ended early".to_owned() } else { lines.join("; ") }
}

/// Ends the process that holds a lock, which leads a group that its ssh client is in.
pub(super) fn end_holder(lock: &Path) -> io::Result<()> {
    let mut left = ENDING;
    while let Some(holder) = Lock::holder(lock)? {
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
    Ok(())
}

/// Has the task of `path`, `NAME.json`, done no more.
pub(super) fn retire(path: &Path) -> io::Result<()> {
    let lock = path.with_extension("lock");
    // Nobody ever was at it.
    while lock.exists() {
        end_holder(&lock)?;
        // Whoever starts it again looks what to do once it has the lock, and finds nothing.
        if let Ok(_lock) = Lock::try_acquire(&lock, "rvm")? {
            store::remove(&path.with_extension("log"))?;
            return store::remove(path);
        }
    }
    Ok(())
}

/// The task files in a folder.
pub(super) fn task_files(dir: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    entries.map(|entry| entry.path()).filter(|path| path.extension().is_some_and(|e| e == "json")).collect()
}

/// Whether somebody is at the task of `path`.
pub(super) fn is_done(path: &Path) -> bool {
    matches!(Lock::holder(&path.with_extension("lock")), Ok(Some(_)))
}

/// What such a process does; it is ended by [`end_holder`].
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

/// A task that this process does, and nobody else meanwhile.
pub(super) struct Duty<T> {
    pub(super) task: T,
    path: PathBuf,
    _lock: Lock,
}

impl<T: DeserializeOwned> Duty<T> {
    /// Takes on the task of a file. `owner` says what we are; `taken` is the error where somebody is at it.
    pub(super) fn take(path: &Path, owner: &str, taken: &'static str) -> io::Result<Self> {
        let lock = Lock::take(&path.with_extension("lock"), owner)?;
        let lock = lock.ok_or_else(|| io::Error::new(io::ErrorKind::ResourceBusy, taken))?;
        // In that order: see `retire`.
        let task =
            store::read_json(path)?.ok_or_else(|| io::Error::other("it is not to be done any more"))?;
        Ok(Self { task, path: path.to_owned(), _lock: lock })
    }

    /// Tells the starter that it is done, and from now on is to be done until the machine ends.
    pub(super) fn is_at_work(&self, starter: &mut Starter) -> io::Result<()> {
        if starter.waits() {
            fs::rename(&self.path, self.path.with_extension("json"))?;
            starter.tell(READY);
        }
        Ok(())
    }

    /// There is nothing to be done any more.
    pub(super) fn is_over(&self) -> io::Result<()> {
        store::remove(&self.path.with_extension("json"))
    }
}

/// What a program says at its standard error: the beginning, however much a guest has it say.
pub(super) struct Words(Option<Receiver<String>>);

impl Words {
    /// Listens to a child whose standard error is a pipe.
    pub(super) fn of(child: &mut Child) -> Self {
        let (tell, told) = channel();
        let listen = move |mut output: ChildStderr| {
            let mut text = Vec::new();
            let _ = (&mut output).take(MOST_BYTES).read_to_end(&mut text);
            let _ = tell.send(String::from_utf8_lossy(&text).into_owned());
            let _ = io::copy(&mut output, &mut io::sink());
        };
        let spawn = |output| thread::Builder::new().name("words".into()).spawn(move || listen(output)).ok();
        Self(child.stderr.take().and_then(spawn).map(|_| told))
    }

    /// Why an ssh client that has ended did so too early. Its master may have its standard error, too, and keep it
    /// for as long as the guest likes: that is not waited for.
    pub(super) fn complaint(self) -> io::Error {
        let text = self.0.and_then(|told| told.recv_timeout(ENDING).ok()).unwrap_or_default();
        io::Error::other(if text.is_empty() { "ssh gave up".into() } else { text })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_task_is_to_be_done_from_when_it_is_done_until_it_is_retired() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("tcp-127.0.0.1-8080.json");
        let new = path.with_extension(new_extension());
        let others = path.with_extension("new-1");
        let take = |path: &Path| Duty::<u32>::take(path, "a test", "taken");
        assert!(take(&path).is_err(), "there is none");
        store::write_json(&new, &7).unwrap();
        let duty = take(&new).unwrap();
        // Another command is about to begin the same one, and gives up.
        store::write_json(&others, &8).unwrap();
        assert_eq!(take(&others).err().unwrap().to_string(), "taken");
        store::remove(&others).unwrap();
        assert_eq!((duty.task, is_done(&path), task_files(dir.path())), (7, true, Vec::new()));
        let mut heard = tempfile::tempfile().unwrap();
        let mut starter = Starter::of(heard.try_clone().unwrap());
        duty.is_at_work(&mut starter).unwrap();
        let mut said = String::new();
        io::Seek::rewind(&mut heard).unwrap();
        heard.read_to_string(&mut said).unwrap();
        assert_eq!((said.as_str(), starter.waits()), (READY, false));
        assert_eq!(task_files(dir.path()), std::slice::from_ref(&path));
        assert_eq!(take(&path).err().unwrap().to_string(), "taken");
        drop(duty);
        // Whoever starts it again is at the same file.
        take(&path).unwrap().is_at_work(&mut Starter::of(tempfile::tempfile().unwrap())).unwrap();
        retire(&path).unwrap();
        assert_eq!(task_files(dir.path()), Vec::<PathBuf>::new());
        assert!(take(&path).is_err(), "it was retired");
        retire(&dir.path().join("other.json")).unwrap();
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1, "a lock, and nothing else");
    }

    #[test]
    fn what_a_process_leaves_is_waited_for() {
        let mut child = Command::new("cat").stdin(Stdio::piped()).process_group(0).spawn().unwrap();
        let group = Pid::from_child(&child).as_raw_nonzero().get();
        let mut client = Command::new("sleep").arg("0.2").process_group(group).spawn().unwrap();
        bury(&mut child);
        assert!(client.wait().is_err(), "nobody waited for it");
    }

    #[test]
    fn what_a_client_complains_of_is_heard_and_bounded() {
        let complaint = |script: &str| {
            let mut command = Command::new("sh");
            let mut child = command.args(["-c", script]).stderr(Stdio::piped()).spawn().unwrap();
            let words = Words::of(&mut child);
            assert!(child.wait().unwrap().success(), "it was held up");
            words.complaint().to_string()
        };
        assert_eq!(complaint("echo no route >&2"), "no route\n");
        assert_eq!(complaint("true"), "ssh gave up");
        let much = complaint("head -c 1000000 /dev/zero | tr '\\0' x >&2");
        assert_eq!(much.len() as u64, MOST_BYTES);
    }

    #[test]
    fn what_a_process_says_is_one_line() {
        assert_eq!(one_line("a\r\n\n b \n"), "a; b");
        assert_eq!(one_line("\n"), "its process ended early");
    }
}
