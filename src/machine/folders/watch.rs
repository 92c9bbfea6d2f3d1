//! `rvm rsync-auto`: copies follow the host as it changes.

use std::fs;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, TrySendError, sync_channel};
use std::time::{Duration, Instant};

use notify::{EventKind, RecommendedWatcher, RecursiveMode, Watcher as _};

use super::exclude::Excluded;
use super::inside::Root;
use super::{FolderError, Telling};
use crate::machine::record::Record;
use crate::machine::{MachineError, Machines, SshInfo};
use crate::model::{Folder, FolderKind, Machine, Project};
use crate::ssh::Session;

/// Changes come in swarms: a copy is made when there was none for so long.
const QUIET: Duration = Duration::from_millis(100);
/// And no later than this after the first one.
const LATEST: Duration = Duration::from_secs(1);
/// Between two looks whether the user lost patience.
const SLICE: Duration = Duration::from_millis(200);
/// Between two looks whether the machine is still there.
const LOOK: Duration = Duration::from_secs(2);

/// Most changes that wait while a copy is made. Where there are more, all may have changed.
const WAITING: usize = 4096;

/// What happened in one of the watched folders, by its number.
type Happened = (usize, notify::Result<notify::Event>);

/// A folder of the host that is watched, without what is left out of its copy.
struct Watched {
    root: PathBuf,
    excluded: Excluded,
    watcher: RecommendedWatcher,
    /// More happened than could wait.
    missed: Arc<AtomicBool>,
}

impl Watched {
    fn new(number: usize, folder: &Folder, to: SyncSender<Happened>) -> Result<Option<Watched>, FolderError> {
        let FolderKind::Copied { host, exclude, watch: true, .. } = &folder.kind else { return Ok(None) };
        let root = fs::canonicalize(&host.path).unwrap_or_else(|_| host.path.clone());
        let missed = Arc::new(AtomicBool::new(false));
        let full = Arc::clone(&missed);
        // It must not wait: who listens may be waiting for this very thread, to watch one more folder.
        let handler = move |event| match to.try_send((number, event)) {
            Err(TrySendError::Full(_)) => full.store(true, Ordering::Relaxed),
            // Nobody listens any more: it is about to end.
            Ok(()) | Err(TrySendError::Disconnected(_)) => {}
        };
        let watcher = notify::recommended_watcher(handler).map_err(|error| trouble(&root, &error))?;
        Ok(Some(Watched { root, excluded: Excluded::new(exclude, &host.hidden), watcher, missed }))
    }

    /// Watches a folder and those in it. What goes meanwhile needs no watching.
    fn watch(&mut self, folder: &Path) -> Result<(), FolderError> {
        // By its descriptor: a guest that shares the folder may put links where folders were.
        let top = Root::open(&self.root);
        let top = top.map_err(|why| FolderError::Watch { path: self.root.clone(), why: why.to_string() })?;
        let mut open = vec![folder.to_owned()];
        while let Some(folder) = open.pop() {
            match self.watcher.watch(&folder, RecursiveMode::NonRecursive) {
                Ok(()) => {}
                Err(error) if is_gone(&error) && folder != self.root => continue,
                Err(error) => return Err(trouble(&folder, &error)),
            }
            let Ok(names) = top.folders(folder.strip_prefix(&self.root).unwrap_or(&folder)) else { continue };
            let folders = names.into_iter().map(|name| folder.join(name));
            open.extend(folders.filter(|path| !self.is_excluded(path, true)));
        }
        Ok(())
    }

    /// Watches the whole again: some of what happened is not known.
    fn watch_all(&mut self) -> Result<(), FolderError> {
        let root = self.root.clone();
        self.watch(&root)
    }

    fn is_excluded(&self, path: &Path, folder: bool) -> bool {
        let inside = path.strip_prefix(&self.root).unwrap_or(path);
        self.excluded.is_within(inside.as_os_str().as_bytes(), folder)
    }

    /// Whether what happened changes the copy. New folders are watched from now on.
    fn takes(&mut self, event: notify::Result<notify::Event>) -> Result<bool, FolderError> {
        let event = match event {
            Ok(event) => event,
            Err(error) if is_gone(&error) => return Ok(true),
            Err(error) => return Err(trouble(&self.root, &error)),
        };
        if event.need_rescan() {
            self.watch_all()?;
            return Ok(true);
        }
        if matches!(event.kind, EventKind::Access(_)) {
            return Ok(false);
        }
        let mut counts = false;
        for path in event.paths {
            let folder = fs::symlink_metadata(&path).is_ok_and(|meta| meta.is_dir());
            if self.is_excluded(&path, folder) {
                continue;
            }
            counts = true;
            if folder && !matches!(event.kind, EventKind::Modify(notify::event::ModifyKind::Metadata(_))) {
                self.watch(&path)?;
            }
        }
        Ok(counts)
    }
}

fn is_gone(error: &notify::Error) -> bool {
    match &error.kind {
        notify::ErrorKind::PathNotFound => true,
        notify::ErrorKind::Io(error) => error.kind() == io::ErrorKind::NotFound,
        _ => false,
    }
}

fn trouble(path: &Path, error: &notify::Error) -> FolderError {
    let why = match &error.kind {
        notify::ErrorKind::MaxFilesWatch => {
            "the limit of watches of this user (fs.inotify.max_user_watches) is reached".to_owned()
        }
        notify::ErrorKind::Io(error) if error.raw_os_error() == Some(libc::EMFILE) => {
            "the limit of watchers of this user (fs.inotify.max_user_instances) is reached".to_owned()
        }
        notify::ErrorKind::Io(error) => error.to_string(),
        _ => error.to_string(),
    };
    FolderError::Watch { path: path.into(), why }
}

/// Whether more happened than could wait, since it was asked last.
fn have_missed(watched: &[(usize, Watched)]) -> bool {
    // Each of them is asked.
    watched.iter().filter(|(_, folder)| folder.missed.swap(false, Ordering::Relaxed)).count() > 0
}

/// Waits for changes; gives the numbers of the folders that have some, sorted, or nothing when `slice` is over.
fn changes(
    watched: &mut [(usize, Watched)],
    events: &Receiver<Happened>,
    slice: Duration,
) -> Result<Vec<usize>, FolderError> {
    let mut changed: Vec<usize> = Vec::new();
    let mut first: Option<Instant> = None;
    loop {
        let wait = match first {
            None => slice,
            Some(first) if first.elapsed() >= LATEST => break,
            Some(_) => QUIET,
        };
        match events.recv_timeout(wait) {
            // Nobody is told of what could not wait but by what did.
            Ok(_) if have_missed(watched) => {
                while events.try_recv().is_ok() {}
                // All of that happened before what follows.
                have_missed(watched);
                for (number, folder) in watched.iter_mut() {
                    folder.watch_all()?;
                    changed.push(*number);
                }
                first = first.or_else(|| Some(Instant::now()));
            }
            Ok((number, event)) => {
                let Some((_, folder)) = watched.iter_mut().find(|(known, _)| *known == number) else {
                    continue;
                };
                if folder.takes(event)? {
                    first = first.or_else(|| Some(Instant::now()));
                    changed.push(number);
                } else if first.is_none() {
                    return Ok(Vec::new());
                }
            }
            Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => break,
        }
    }
    changed.sort_unstable();
    changed.dedup();
    Ok(changed)
}

impl Machines<'_> {
    /// Copies the folders of a machine that runs, and again whenever they change, until there is a wish to
    /// stop. Gives how many are watched: at once, where there are none.
    ///
    /// # Errors
    /// [`MachineError::Ended`] when the machine does; a folder of the host that vanishes or cannot be
    /// watched; those of [`Machines::rsync`] at the first copy. Later ones are warnings, and the next change
    /// tries again.
    pub fn rsync_auto(
        &self,
        project: &Project,
        machine: &Machine,
        words: fn(&SshInfo) -> Vec<String>,
    ) -> Result<usize, MachineError> {
        let (send, events) = sync_channel(WAITING);
        let folders: Vec<&Folder> = machine.folders.iter().collect();
        let mut watched = Vec::new();
        for (number, folder) in folders.iter().enumerate() {
            let Some(mut one) = Watched::new(number, folder, send.clone())? else { continue };
            if let Some(host) = folder.host() {
                self.host_folder(&machine.name, folder, host)?;
            }
            // Before the first copy, so that nothing falls between.
            let root = one.root.clone();
            one.watch(&root)?;
            watched.push((number, one));
        }
        if watched.is_empty() {
            return Ok(0);
        }
        let record = self.running(&project.root, &machine.name)?;
        let mut session = None;
        let all: Vec<&Folder> =
            watched.iter().filter_map(|(number, _)| folders.get(*number).copied()).collect();
        self.follow(project, machine, &all, &mut session, words, Telling::All)?;
        let places: Vec<&str> = all.iter().map(|folder| folder.guest.as_str()).collect();
        self.stage(&machine.name, format!("Watching for {}. Ctrl-C ends.", places.join(", ")));
        let mut looked = Instant::now();
        while !self.cancel.is_cancelled() {
            let changed = changes(&mut watched, &events, SLICE)?;
            let changed: Vec<&Folder> =
                changed.iter().filter_map(|number| folders.get(*number).copied()).collect();
            if !changed.is_empty() {
                let result = self.follow(project, machine, &changed, &mut session, words, Telling::Changes);
                self.after(machine, &record, result)?;
            }
            if looked.elapsed() >= LOOK {
                self.check_there(machine, &record)?;
                looked = Instant::now();
            }
        }
        Ok(watched.len())
    }

    fn follow(
        &self,
        project: &Project,
        machine: &Machine,
        folders: &[&Folder],
        session: &mut Option<Session>,
        words: fn(&SshInfo) -> Vec<String>,
        telling: Telling,
    ) -> Result<(), MachineError> {
        let _lock = self.lock(&project.root, &machine.name, "rsync-auto")?;
        // Another command may have started it anew meanwhile.
        let mut record = self.running(&project.root, &machine.name)?;
        let connection = match session.take() {
            Some(session) => session,
            None => self.connect(&project.login_for(&machine.name), &record)?,
        };
        self.bring_all(machine, folders, &mut record, &connection, words, telling)?;
        *session = Some(connection);
        Ok(())
    }

    /// What becomes of a copy that was not made.
    fn after(
        &self,
        machine: &Machine,
        record: &Record,
        result: Result<(), MachineError>,
    ) -> Result<(), MachineError> {
        match result {
            Ok(()) => Ok(()),
            Err(error) if error.is_interrupt() && self.cancel.is_cancelled() => Ok(()),
            // It does not come back by itself.
            Err(error @ MachineError::Folder(FolderError::Host { .. })) => Err(error),
            Err(error) => {
                self.check_there(machine, record)?;
                let cause = std::error::Error::source(&error).map(|cause| format!(": {cause}"));
                let text = format!("{error}{}; the next change tries again", cause.unwrap_or_default());
                self.warn(&machine.name, text);
                Ok(())
            }
        }
    }

    fn check_there(&self, machine: &Machine, record: &Record) -> Result<(), MachineError> {
        if self.is_running(record)? {
            return Ok(());
        }
        let cause = self.status_of_record(record.clone()).ok().and_then(|status| status.cause);
        Err(MachineError::Ended { name: machine.name.clone(), cause: cause.unwrap_or_default() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::HostFolder;

    struct Place {
        dir: tempfile::TempDir,
        watched: Vec<(usize, Watched)>,
        events: Receiver<Happened>,
    }

    impl Place {
        fn new() -> Place {
            let dir = tempfile::tempdir().unwrap();
            fs::create_dir_all(dir.path().join("src/deep")).unwrap();
            fs::create_dir_all(dir.path().join("target")).unwrap();
            let host = HostFolder { path: dir.path().into(), create: false, hidden: vec![".env".into()] };
            let kind = FolderKind::Copied {
                host,
                exclude: vec!["target/".into(), "*.swp".into()],
                delete: true,
                watch: true,
            };
            let folder = Folder { guest: "/srv".into(), kind, owner: None, options: Vec::new() };
            let (send, events) = sync_channel(WAITING);
            let mut watched = Watched::new(3, &folder, send).unwrap().unwrap();
            let root = watched.root.clone();
            watched.watch(&root).unwrap();
            Place { dir, watched: vec![(3, watched)], events }
        }

        fn write(&self, name: &str) {
            fs::write(self.dir.path().join(name), "x").unwrap();
        }

        /// The next change, within a time in which any comes.
        fn next(&mut self) -> Vec<usize> {
            let begin = Instant::now();
            while begin.elapsed() < Duration::from_secs(30) {
                let changed = changes(&mut self.watched, &self.events, Duration::from_secs(10)).unwrap();
                if !changed.is_empty() {
                    return changed;
                }
            }
            panic!("no change was seen");
        }
    }

    #[test]
    fn a_change_is_seen_wherever_it_is_and_a_swarm_is_one() {
        let mut place = Place::new();
        for n in 0..20 {
            place.write(&format!("src/deep/{n}"));
        }
        assert_eq!(place.next(), [3]);
        fs::create_dir_all(place.dir.path().join("new/inner")).unwrap();
        assert_eq!(place.next(), [3]);
        place.write("new/inner/file");
        assert_eq!(place.next(), [3], "folders that are new are watched too");
        fs::rename(place.dir.path().join("new"), place.dir.path().join("moved")).unwrap();
        assert_eq!(place.next(), [3]);
        place.write("moved/inner/file");
        assert_eq!(place.next(), [3]);
        fs::remove_file(place.dir.path().join("moved/inner/file")).unwrap();
        assert_eq!(place.next(), [3]);
    }

    /// As a checkout while a large file is copied.
    #[test]
    fn more_changes_than_can_wait_are_one_change_of_everything() {
        let mut place = Place::new();
        for n in 0..WAITING {
            place.write(&format!("src/{n}"));
        }
        let missed = Arc::clone(&place.watched[0].1.missed);
        let begin = Instant::now();
        while !missed.load(Ordering::Relaxed) {
            assert!(begin.elapsed() < Duration::from_secs(60), "all of them found room");
            place.write("src/more");
            std::thread::yield_now();
        }
        fs::create_dir(place.dir.path().join("late")).unwrap();
        assert_eq!(place.next(), [3]);
        // A folder is watched though nobody was told of it.
        while !changes(&mut place.watched, &place.events, Duration::ZERO).unwrap().is_empty() {}
        place.write("late/file");
        assert_eq!(place.next(), [3]);
    }

    #[test]
    fn what_is_left_out_or_only_read_is_no_change() {
        let mut place = Place::new();
        place.write("target/a.o");
        place.write(".file.swp");
        place.write(".env");
        fs::read_dir(place.dir.path().join("src")).unwrap().for_each(drop);
        // What comes later comes after: once it is seen, all of the above has been.
        place.write("src/seen");
        let mut seen = Vec::new();
        while let Ok((_, event)) = place.events.recv_timeout(Duration::from_secs(10)) {
            let event = event.unwrap();
            let last = event.paths.iter().any(|path| path.ends_with("src/seen"));
            let counts = place.watched[0].1.takes(Ok(event)).unwrap();
            if last {
                seen.push(counts);
                break;
            }
            assert!(!counts);
        }
        assert_eq!(seen, [true]);
    }

    #[test]
    fn a_folder_that_is_gone_cannot_be_watched() {
        let mut place = Place::new();
        let root = place.watched[0].1.root.clone();
        fs::remove_dir_all(&root).unwrap();
        let error = place.watched[0].1.watch(&root).unwrap_err();
        assert!(matches!(error, FolderError::Watch { .. }), "{error}");
        // So that the folder's own end finds nothing to remove.
        fs::create_dir_all(&root).unwrap();
    }
}
