//! What the process that keeps a machine's passt (`way_out.rs`) starts again besides: who serves its shared folders to
//! QEMU, the switches of its private networks, and who keeps ports that were added or are followed (`keepers.rs`). A
//! machine's own process cannot: it is shut in.
//!
//! Whoever does such work holds a lock for as long as it lives, so its end is an event. Of several machines in a
//! network one starts the switch; the others find themselves connected.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::process::Child;
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread;
use std::time::{Duration, Instant};

use rustix::fs::inotify;
use rustix::io::Errno;

use super::{follow, forwards, keepers, way_out};
use crate::model::Cancel;
use crate::net::{self, Networks};
use crate::provider;
use crate::state::{Lock, Respawn, store};

/// The first pause between the end of a process and the next one. A machine that ends takes them along, and lets go
/// of its own lock within it.
const PAUSE: Duration = Duration::from_millis(200);
/// How often new tasks are looked for where the kernel does not tell of them.
const LOOK: Duration = Duration::from_secs(2);
/// Why shared folders are not served again, in the machine's folder.
const SHARES_LOG: &str = "share.log";

/// Something that is to be there as long as a machine is, or shorter.
struct Ward {
    /// Where it is said why it is not.
    log: PathBuf,
    /// Whether it is to be there.
    alive: Box<dyn Fn() -> bool + Send>,
    /// Waits for its end.
    wait: Box<dyn Fn() -> io::Result<()> + Send>,
    /// Starts it, unless somebody else has; the process, if it is a child of ours.
    start: Box<dyn Fn() -> Result<Option<Child>, String> + Send>,
    /// The first pause before that.
    pause: Duration,
}

/// Watches over all that the machine in `dir` needs, which runs, on threads of its own. `networks` are the folders of
/// its networks.
pub(super) fn watch(dir: &Path, networks: &[PathBuf]) {
    let wards = networks.iter().filter_map(|network| switch(dir, network)).chain([shares(dir)]);
    for ward in wards {
        spawn(move || ward.keep());
    }
    let dir = dir.to_owned();
    spawn(move || watch_tasks(&dir));
}

/// Without a thread less comes back by itself, and `status` says so.
fn spawn(work: impl FnOnce() + Send + 'static) {
    let _ = thread::Builder::new().name("guard".into()).spawn(work);
}

/// The folders of tasks, and the process that does each.
const TASKS: [(&str, &str); 2] = [(forwards::FOLDER, forwards::PROCESS), (follow::FOLDER, follow::PROCESS)];

/// Watches over all tasks of the machine in `dir`, those to come as well, for as long as this process lives.
fn watch_tasks(dir: &Path) {
    let watched = Arc::new(Mutex::new(BTreeSet::new()));
    let changes = task_changes(dir);
    let mut space = [MaybeUninit::uninit(); 4096];
    let mut events = changes.as_ref().ok().map(|changes| inotify::Reader::new(changes, &mut space));
    loop {
        for (folder, process) in TASKS {
            let mut files = keepers::task_files(&dir.join(folder));
            files.retain(|path| folder != follow::FOLDER || path.ends_with(follow::TASK));
            for path in files {
                if hold(&watched).insert(path.clone()) {
                    let ward = task(alive(dir), process, path, Arc::clone(&watched));
                    spawn(move || ward.keep());
                }
            }
        }
        let event = events.as_mut().map(inotify::Reader::next);
        if !matches!(event, Some(Ok(_) | Err(Errno::INTR))) {
            // A user has few such watches (`fs.inotify.max_user_instances`), which others may use up.
            Cancel::new().wait(LOOK);
        }
    }
}

/// Tells of tasks that come about, which is by a change of their names.
fn task_changes(dir: &Path) -> io::Result<OwnedFd> {
    let inotify = inotify::init(inotify::CreateFlags::CLOEXEC)?;
    for (folder, _) in TASKS {
        let folder = dir.join(folder);
        store::create_private_dir(&folder)?;
        inotify::add_watch(&inotify, &folder, inotify::WatchFlags::MOVED_TO)?;
    }
    Ok(inotify)
}

fn hold<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
}

/// The process of a task, until that is retired.
fn task(
    machine: Box<dyn Fn() -> bool + Send>,
    process: &'static str,
    path: PathBuf,
    watched: Arc<Mutex<BTreeSet<PathBuf>>>,
) -> Ward {
    let (lock, file) = (path.with_extension("lock"), path.clone());
    Ward {
        log: path.with_extension("log"),
        alive: Box::new(move || {
            if !machine() {
                return false;
            }
            // One that takes the name of this one a moment later is watched over by another thread.
            let mut watched = hold(&watched);
            path.exists() || !watched.remove(&path)
        }),
        wait: Box::new(move || Lock::wait(&lock)),
        start: Box::new(move || keepers::start_again(process, &file).map(Some)),
        pause: PAUSE,
    }
}

fn shares(dir: &Path) -> Ward {
    let (waits, starts) = (dir.to_owned(), dir.to_owned());
    Ward {
        log: dir.join(SHARES_LOG),
        alive: alive(dir),
        wait: Box::new(move || provider::wait_shares_ended(&waits)),
        start: Box::new(move || {
            provider::serve_shares_again(&starts).map(Some).map_err(|error| error.to_string())
        }),
        pause: PAUSE,
    }
}

fn alive(dir: &Path) -> Box<dyn Fn() -> bool + Send> {
    let dir = dir.to_owned();
    Box::new(move || !provider::is_gone(&dir))
}

fn switch(dir: &Path, network: &Path) -> Option<Ward> {
    let machine = dir.file_name()?.to_str()?.to_owned();
    let id = network.file_name()?.to_str()?.to_owned();
    let root = network.parent()?.to_owned();
    let folder = network.to_owned();
    Some(Ward {
        log: dir.join(switch_log(&id)),
        alive: alive(dir),
        wait: Box::new(move || net::wait_switch_ended(&folder)),
        start: Box::new(move || {
            let (exe, cancel) = (Path::new("/proc/self/exe"), Cancel::new());
            let networks = Networks { root: root.clone(), exe, cancel: &cancel };
            networks.mend_one(&id, &machine).map(|mended| mended?.switch).map_err(|error| error.to_string())
        }),
        pause: PAUSE,
    })
}

fn switch_log(network: &str) -> String {
    format!("network-{network}.log")
}

impl Ward {
    fn keep(&self) {
        let mut respawn = Respawn::new(self.pause);
        let mut child: Option<Child> = None;
        loop {
            let began = Instant::now();
            // The machine has no such thing.
            if (self.wait)().is_err() {
                return;
            }
            if let Some(mut ended) = child.take() {
                // Its lock goes with it.
                keepers::bury(&mut ended);
            }
            respawn.wait(began.elapsed());
            if !(self.alive)() {
                return;
            }
            // Without a log less is known, and as much is done.
            let _ = match (self.start)() {
                Ok(started) => {
                    child = started;
                    store::remove(&self.log)
                }
                Err(error) => fs::write(&self.log, error),
            };
        }
    }
}

/// What is said of shared folders that are not served, if somebody tries to serve them again.
pub(super) fn shares_tried(dir: &Path) -> Option<String> {
    tried(dir, &dir.join(SHARES_LOG))
}

/// What is said of a switch that is gone, if somebody tries to start another one.
pub(super) fn switch_tried(dir: &Path, network: &str) -> Option<String> {
    tried(dir, &dir.join(switch_log(network)))
}

/// What is said of a task that nobody does, if somebody tries to have it done again.
pub(super) fn task_tried(dir: &Path, path: &Path) -> Option<String> {
    tried(dir, &path.with_extension("log"))
}

fn tried(dir: &Path, log: &Path) -> Option<String> {
    way_out::is_there(dir).then(|| match fs::read_to_string(log).unwrap_or_default().trim() {
        "" => "another one is being started".to_owned(),
        why => format!("another one cannot be started yet ({why})"),
    })
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::{Receiver, channel};

    use super::*;

    /// Watches over what ends whenever it is told to, with these outcomes of its starts.
    fn ward(log: &Path, ends: Receiver<()>, mut starts: Vec<Result<Option<Child>, String>>) -> Ward {
        starts.reverse();
        let starts = Arc::new(Mutex::new(starts));
        let left = Arc::clone(&starts);
        Ward {
            log: log.to_owned(),
            alive: Box::new(move || !left.lock().unwrap().is_empty()),
            wait: Box::new(move || ends.recv().map_err(|_| io::ErrorKind::NotFound.into())),
            start: Box::new(move || starts.lock().unwrap().pop().unwrap()),
            pause: Duration::from_millis(1),
        }
    }

    #[test]
    fn it_is_tried_until_it_succeeds_and_said_why_not() {
        let dir = tempfile::tempdir().unwrap();
        let log = dir.path().join("log");
        let sleeper = std::process::Command::new("sleep").arg("0").spawn().unwrap();
        let pid = rustix::process::Pid::from_child(&sleeper);
        let (end, ends) = channel();
        let starts = vec![Err("no room".into()), Ok(Some(sleeper)), Err("no more".into())];
        let ward = ward(&log, ends, starts);
        let work = thread::spawn(move || ward.keep());
        end.send(()).unwrap();
        let said = |expected: &str| {
            let deadline = Instant::now() + Duration::from_secs(30);
            while fs::read_to_string(&log).unwrap_or_default() != expected {
                assert!(Instant::now() < deadline, "not `{expected}`");
                thread::yield_now();
            }
        };
        said("no room");
        end.send(()).unwrap();
        said("");
        end.send(()).unwrap();
        said("no more");
        // The machine is gone when the next one ends; what was started is buried.
        end.send(()).unwrap();
        work.join().unwrap();
        assert!(rustix::process::test_kill_process(pid).is_err());
    }

    #[test]
    fn a_task_is_watched_over_until_it_is_retired() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("tcp-127.0.0.1-8080.json");
        fs::write(&path, "7").unwrap();
        let watched = Arc::new(Mutex::new(BTreeSet::from([path.clone()])));
        let is_up = Arc::new(Mutex::new(true));
        let machine = Arc::clone(&is_up);
        let machine = Box::new(move || *machine.lock().unwrap());
        let ward = task(machine, "__no-such-process", path.clone(), Arc::clone(&watched));
        assert!((ward.wait)().is_err(), "nobody ever was at it");
        drop(Lock::take(&path.with_extension("lock"), "a test").unwrap().unwrap());
        (ward.wait)().unwrap();
        assert!((ward.alive)());
        *is_up.lock().unwrap() = false;
        assert!(!(ward.alive)());
        *is_up.lock().unwrap() = true;
        keepers::retire(&path).unwrap();
        assert!(!(ward.alive)());
        assert!(watched.lock().unwrap().is_empty(), "nobody would watch over the next one of that name");
    }

    #[test]
    fn what_a_machine_does_not_have_is_not_watched() {
        let dir = tempfile::tempdir().unwrap();
        watch(dir.path(), &[dir.path().join("no-network")]);
        shares(dir.path()).keep();
        switch(dir.path(), &dir.path().join("no-network")).unwrap().keep();
    }
}
