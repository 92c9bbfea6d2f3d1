//! Rights, limits and descriptors: looked at from outside, as anybody can.
#![allow(unsafe_code)]

use std::fs;
use std::os::unix::fs::MetadataExt;

use rvm::vmm::sandbox::{MAX_FILES, Policy, enter, prepare, spawn};

use crate::inside::{Held, hold, part, play, text};

/// Fields of a `status` file in `/proc`.
fn field<'a>(status: &'a str, name: &str) -> &'a str {
    let line = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
    line.unwrap_or_else(|| panic!("no `{name}` in\n{status}")).trim()
}

#[test]
fn no_thread_has_rights_and_none_can_get_any() {
    const TEST: &str = "rights::no_thread_has_rights_and_none_can_get_any";
    if part().is_some() {
        prepare().unwrap();
        enter(&Policy::default()).unwrap();
        let (release, held) = std::sync::mpsc::channel::<()>();
        let (started, runs) = std::sync::mpsc::channel::<()>();
        let wait = move || {
            // From here on it has its name.
            _ = started.send(());
            _ = held.recv();
        };
        let thread = spawn("vcpu0", wait).unwrap();
        runs.recv().unwrap();
        hold();
        drop(release);
        thread.join().unwrap();
        return;
    }
    let held = Held::start(TEST, "hold");
    let proc = format!("/proc/{}", held.pid());
    let mut names = Vec::new();
    for task in fs::read_dir(format!("{proc}/task")).unwrap() {
        let status = fs::read_to_string(task.unwrap().path().join("status")).unwrap();
        names.push(field(&status, "Name").to_owned());
        // The thread of the test harness was there before, as those of `rvm boot` are.
        let before = *names.last().unwrap() != "vcpu0" && *names.last().unwrap() != "spawner";
        assert_eq!(field(&status, "Seccomp"), "2", "{status}");
        assert_eq!(field(&status, "NoNewPrivs"), "1", "{status}");
        if !before || !rustix::process::geteuid().is_root() {
            for set in ["CapInh", "CapPrm", "CapEff", "CapAmb"] {
                assert_eq!(field(&status, set), "0000000000000000", "{set} in {status}");
            }
        }
    }
    assert!(names.iter().any(|name| name == "vcpu0") && names.iter().any(|name| name == "spawner"));

    let limits = fs::read_to_string(format!("{proc}/limits")).unwrap();
    let limit = |name: &str| {
        let line = limits.lines().find_map(|line| line.strip_prefix(name)).unwrap();
        line.split_whitespace().take(2).map(str::to_owned).collect::<Vec<_>>()
    };
    assert_eq!(limit("Max core file size"), ["0", "0"]);
    let files = limit("Max open files");
    assert!(files.iter().all(|most| most.parse::<u64>().unwrap() <= MAX_FILES), "{files:?}");

    // Of a process that may be looked into, these files are its own user's and group's.
    let meta = fs::metadata(format!("{proc}/status")).unwrap();
    assert_eq!((meta.uid(), meta.gid()), (0, 0), "others of the same user can look into it");
    let status = fs::read_to_string(format!("{proc}/status")).unwrap();
    assert_eq!(field(&status, "Umask"), "0077");
}

#[test]
fn inherited_descriptors_are_closed() {
    const TEST: &str = "rights::inherited_descriptors_are_closed";
    const NUMBER: i32 = 77;
    if part().is_some() {
        let is_open = || fs::read_link(format!("/proc/self/fd/{NUMBER}")).is_ok();
        assert!(is_open(), "it was not inherited: this test tests nothing");
        prepare().unwrap();
        assert!(!is_open());
        return;
    }
    let file = fs::File::open("/etc/passwd").unwrap();
    // SAFETY: no other test of this program uses that number, and a copy harms nobody.
    let copy = unsafe { libc::dup2(std::os::fd::AsRawFd::as_raw_fd(&file), NUMBER) };
    assert_eq!(copy, NUMBER);
    let output = play(TEST, "look");
    assert!(output.status.success(), "{}", text(&output));
}
