//! Rights, limits and descriptors: looked at from outside, as anybody can.
#![allow(unsafe_code)]

use std::fs;
use std::os::unix::fs::{FileExt, MetadataExt};

use rustix::fs::FallocateFlags;
use rvm::vmm::sandbox::{LOGS, MAX_FILES, Policy, Role, enter, prepare, spawn};

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
        enter(&Policy { largest_file: Some(0), ..Policy::default() }).unwrap();
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
    assert_eq!(limit("Max locked memory"), ["0", "0"]);
    assert_eq!(limit("Max file size"), [LOGS.to_string(), LOGS.to_string()]);

    // Of a process that may be looked into, these files are its own user's and group's.
    let meta = fs::metadata(format!("{proc}/status")).unwrap();
    assert_eq!((meta.uid(), meta.gid()), (0, 0), "others of the same user can look into it");
    let status = fs::read_to_string(format!("{proc}/status")).unwrap();
    assert_eq!(field(&status, "Umask"), "0077");
}

/// A process that was broken into cannot fill the host's disk by way of its own images. What a guest
/// gets to see of it is an error of its disk; the signal that the kernel sends ends nobody.
#[test]
fn no_file_grows_beyond_the_largest_image() {
    const TEST: &str = "rights::no_file_grows_beyond_the_largest_image";
    const MOST: u64 = LOGS + 4096;
    if let Some(path) = part() {
        prepare().unwrap();
        let file = fs::File::options().write(true).open(path).unwrap();
        enter(&Policy { largest_file: Some(MOST), ..Policy::default() }).unwrap();
        let write = move || {
            // What fits of a write is written.
            assert_eq!(file.write_at(&[1; 100], MOST - 10).unwrap(), 10);
            let refused = |result: std::io::Result<()>| {
                assert_eq!(result.unwrap_err().raw_os_error(), Some(libc::EFBIG));
            };
            refused(file.write_at(&[1; 100], MOST).map(drop));
            refused(file.write_all_at(&[1; 100], MOST - 10));
            refused(file.set_len(MOST + 1));
            refused(rustix::fs::fallocate(&file, FallocateFlags::empty(), 0, MOST + 1).map_err(Into::into));
            file.write_all_at(&[2; 100], 0).unwrap();
        };
        spawn("virtio-blk", write).unwrap().join().unwrap();
        return;
    }
    let file = tempfile::NamedTempFile::new().unwrap();
    let output = play(TEST, file.path().to_str().unwrap());
    assert!(output.status.success(), "{}", text(&output));
    assert_eq!(file.as_file().metadata().unwrap().len(), MOST);
}

/// What a guest makes in the folders that it shares is as large as it likes.
#[test]
fn files_of_a_share_have_no_limit() {
    const TEST: &str = "rights::files_of_a_share_have_no_limit";
    if let Some(folder) = part() {
        prepare().unwrap();
        let file = fs::File::create(format!("{folder}/file")).unwrap();
        let (role, writable) = (Role::SharingHypervisor, vec![folder.into()]);
        enter(&Policy { role, writable, largest_file: Some(0), ..Policy::default() }).unwrap();
        spawn("virtio-fs", move || file.set_len(LOGS + 1).unwrap()).unwrap().join().unwrap();
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let output = play(TEST, folder.path().to_str().unwrap());
    assert!(output.status.success(), "{}", text(&output));
    assert_eq!(fs::metadata(folder.path().join("file")).unwrap().len(), LOGS + 1);
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
