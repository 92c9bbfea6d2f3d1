//! What can be tested without a virtual machine: records, pointers, locks, states.

use std::fs;
use std::io::{BufRead, BufReader, ErrorKind, Read};
use std::path::{Path, PathBuf};
use std::sync::{Condvar, Mutex};
use std::time::Duration;

use super::record::Record;
use super::{MachineError, Machines, State, schedule};
use crate::image::{Settings, Store};
use crate::model::{Cancel, Machine, Silent};
use crate::plan::Applied;
use crate::state::{Layout, Lock, store};
use crate::vmm::control;

/// Machines that are kept in `home` and report to nobody.
pub(super) fn machines_in(home: &Path) -> Machines<'static> {
    let layout = Layout::at(home);
    Machines {
        images: Store::new(layout.clone(), Settings::default()),
        layout,
        report: &Silent,
        cancel: Cancel::new(),
        exe: PathBuf::from("/nonexistent"),
        path: String::new(),
        locks: Default::default(),
        locked: false,
        default_provider: None,
        lock_timeout: None,
        dot_dir: None,
    }
}

struct World {
    dir: tempfile::TempDir,
}

impl World {
    fn new() -> World {
        World { dir: tempfile::tempdir().unwrap() }
    }

    fn machines(&self) -> Machines<'static> {
        machines_in(&self.dir.path().join("home"))
    }

    fn project(&self, name: &str) -> PathBuf {
        let project = self.dir.path().join(name);
        fs::create_dir_all(&project).unwrap();
        project
    }

    /// A machine as `up` leaves it after it made the disk.
    fn made(&self, project: &Path, name: &str) -> Record {
        let machines = self.machines();
        let mut record = Record::new(name, project, &project.join("Vagrantfile"), applied()).unwrap();
        record.made = true;
        store::create_private_dir(&machines.layout.machine(&record.id)).unwrap();
        machines.save(&record).unwrap();
        machines.point(&record).unwrap();
        record
    }
}

fn applied() -> Applied {
    Applied::of(&Machine { memory: 1 << 28, ..Machine::new("default", "micro") })
}

#[test]
fn a_machine_is_found_without_its_pointer() {
    let world = World::new();
    let project = world.project("p");
    let record = world.made(&project, "web");
    fs::remove_dir_all(project.join(".rvm")).unwrap();
    assert_eq!(world.machines().lookup(&project, "web").unwrap().unwrap().id, record.id);
    assert!(world.machines().lookup(&project, "db").unwrap().is_none());
}

#[test]
fn a_moved_project_keeps_its_machine_and_a_copied_one_has_none() {
    let world = World::new();
    let (old, new, copy) = (world.project("old"), world.dir.path().join("new"), world.project("copy"));
    let record = world.made(&old, "web");
    fs::rename(&old, &new).unwrap();
    let found = world.machines().lookup(&new, "web").unwrap().unwrap();
    assert_eq!((found.id.as_str(), &found.project), (record.id.as_str(), &new));

    fs::create_dir_all(copy.join(".rvm/machines/web")).unwrap();
    fs::write(copy.join(".rvm/machines/web/id"), &record.id).unwrap();
    assert!(world.machines().lookup(&copy, "web").unwrap().is_none());
    assert_eq!(world.machines().lookup(&new, "web").unwrap().unwrap().project, new);
}

#[test]
fn states_come_from_what_is_there() {
    let world = World::new();
    let machines = world.machines();
    let mut record = world.made(&world.project("p"), "web");
    let dir = machines.layout.machine(&record.id);
    let state = || machines.status_of(&record.id.clone()).unwrap().state;
    assert_eq!(state(), State::Poweroff, "made, never started");
    record.started = true;
    machines.save(&record).unwrap();
    assert_eq!(state(), State::Aborted, "started, and its process left no word");
    fs::write(dir.join("ended.json"), r#"{"reason":"poweroff","message":null}"#).unwrap();
    assert_eq!(state(), State::Poweroff);
    fs::write(dir.join("ended.json"), r#"{"reason":"failed","message":"x"}"#).unwrap();
    assert_eq!(state(), State::Aborted);
}

#[test]
fn destroy_leaves_nothing_behind() {
    let world = World::new();
    let project = world.project("p");
    let record = world.made(&project, "web");
    let machines = world.machines();
    machines.destroy(&record.id).unwrap();
    assert!(!project.join(".rvm").exists());
    assert_eq!(fs::read_dir(machines.layout.machines()).unwrap().count(), 0);
    assert!(matches!(machines.destroy(&record.id), Err(MachineError::NotCreated(_))));
}

#[test]
fn prune_takes_only_what_was_never_finished() {
    let world = World::new();
    let machines = world.machines();
    let keep = world.made(&world.project("p"), "web");
    let half = Record { made: false, ..world.made(&world.project("q"), "db") };
    machines.save(&half).unwrap();
    fs::create_dir(machines.layout.machines().join(".trash-x")).unwrap();
    let removed = machines.prune().unwrap();
    assert_eq!(removed.len(), 1);
    assert_eq!(removed[0].state, State::Preparing);
    assert_eq!(machines.ids().unwrap(), [keep.id]);
    assert!(!machines.layout.machines().join(".trash-x").exists());
}

#[test]
fn an_id_prefix_finds_one_machine_or_says_which_fit() {
    let world = World::new();
    let machines = world.machines();
    let project = world.project("p");
    for (name, id) in [("a", "abc0"), ("b", "abc1")] {
        let id = format!("{id}{}", "0".repeat(28));
        let record = Record { id: id.clone(), ..Record::new(name, &project, &project, applied()).unwrap() };
        store::create_private_dir(&machines.layout.machine(&id)).unwrap();
        machines.save(&record).unwrap();
    }
    assert!(machines.find("abc1").unwrap().unwrap().starts_with("abc1"));
    assert_eq!(machines.find("ffff").unwrap(), None);
    assert_eq!(machines.find("not-hex").unwrap(), None);
    assert!(matches!(machines.find("abc"), Err(MachineError::Ambiguous { ids, .. }) if ids.len() == 2));
}

#[test]
fn a_record_of_another_version_is_not_read() {
    let world = World::new();
    let machines = world.machines();
    let record = Record { version: 99, ..world.made(&world.project("p"), "web") };
    machines.save(&record).unwrap();
    assert!(matches!(machines.status_of(&record.id), Err(MachineError::Version { version: 99, .. })));
}

#[test]
fn a_port_is_reserved_by_one_up_at_a_time() {
    use crate::model::Protocol::{Tcp, Udp};
    let world = World::new();
    let machines = world.machines();
    let held = machines.reserve_port(8080, Tcp);
    assert!(held.is_some());
    assert!(machines.reserve_port(8080, Tcp).is_none());
    assert!(machines.reserve_port(8080, Udp).is_some() && machines.reserve_port(8081, Tcp).is_some());
    drop(held);
    assert!(machines.reserve_port(8080, Tcp).is_some());
}

/// All of them are asked before any of them answers, and the answer of one that hangs is that it is there.
#[test]
fn machines_that_hang_are_asked_at_the_same_time() {
    const COUNT: usize = 8;
    let world = World::new();
    let machines = world.machines();
    let project = world.project("p");
    let (asked, moved) = (Mutex::new(0), Condvar::new());
    let made: Vec<Record> = (0..COUNT).map(|number| world.made(&project, &format!("m{number}"))).collect();
    std::thread::scope(|scope| {
        let mut locks = Vec::new();
        for record in &made {
            let dir = machines.layout.machine(&record.id);
            locks.push(Lock::try_acquire(&dir.join("vm.lock"), "virtual machine").unwrap().unwrap());
            let listener = control::bind(&dir.join("control.sock")).unwrap();
            let (asked, moved) = (&asked, &moved);
            scope.spawn(move || {
                let (mut stream, _) = listener.accept().unwrap();
                BufReader::new(&stream).read_line(&mut String::new()).unwrap();
                *asked.lock().unwrap() += 1;
                moved.notify_all();
                let patience = Duration::from_secs(60);
                let count = asked.lock().unwrap();
                let (_count, time) =
                    moved.wait_timeout_while(count, patience, |count| *count < COUNT).unwrap();
                assert!(!time.timed_out(), "not all are asked");
                // Whoever asks still waits for the answer: it has not given up on one to ask the next.
                stream.set_nonblocking(true).unwrap();
                assert_eq!(stream.read(&mut [0]).unwrap_err().kind(), ErrorKind::WouldBlock);
            });
        }
        let list = machines.all().unwrap();
        let states: Vec<_> = list.iter().map(|status| (status.state, status.pid)).collect();
        assert_eq!(states, vec![(State::Running, None); COUNT]);
    });
}

#[test]
fn a_machine_outlives_the_folder_of_its_project() {
    let world = World::new();
    let (machines, project) = (world.machines(), world.project("p"));
    let record = world.made(&project, "web");
    fs::remove_dir_all(&project).unwrap();
    let list = machines.all().unwrap();
    assert_eq!((list.len(), list[0].state, &list[0].project), (1, State::Poweroff, &project));
    assert!(!machines.halt(&record.id, false, None).unwrap());
    machines.destroy(&record.id).unwrap();
    assert!(machines.all().unwrap().is_empty());
    assert!(!project.exists(), "nothing is made where the project was");
}

#[test]
fn two_projects_of_one_name_have_nothing_in_common() {
    let world = World::new();
    let machines = world.machines();
    let (one, other) = (world.project("a/shop"), world.project("b/shop"));
    let (first, second) = (world.made(&one, "web"), world.made(&other, "web"));
    let _busy = machines.lock(&one, "web", "up").unwrap();
    machines.destroy(&second.id).unwrap();
    assert_eq!(machines.id_of(&one, "web").unwrap(), Some(first.id));
    assert_eq!(machines.id_of(&other, "web").unwrap(), None);
}

#[test]
fn patience_with_another_command_ends() {
    let world = World::new();
    let project = world.project("p");
    let record = world.made(&project, "web");
    let other = world.machines();
    let lock = other.lock(&project, "web", "up").unwrap();
    let machines = Machines { lock_timeout: Some(Duration::ZERO), ..world.machines() };
    let error = machines.destroy(&record.id).unwrap_err();
    assert_eq!(error.to_string(), "machine `web` is in use");
    let cause = std::error::Error::source(&error).unwrap().to_string();
    assert!(cause.starts_with("rvm up web (pid ") && cause.contains("did not finish within 0 s"), "{cause}");
    // Another machine of the project is nobody's.
    machines.lock(&project, "db", "up").unwrap();
    drop(lock);
    machines.destroy(&record.id).unwrap();
}

#[test]
fn many_are_destroyed_at_the_same_time() {
    let world = World::new();
    let (machines, project) = (world.machines(), world.project("p"));
    let made: Vec<Record> = (0..24).map(|number| world.made(&project, &format!("m{number}"))).collect();
    for result in schedule::at_once(&made, |record| machines.destroy(&record.id)) {
        result.unwrap();
    }
    assert!(!project.join(".rvm").exists());
    assert_eq!(fs::read_dir(machines.layout.machines()).unwrap().count(), 0);
}
