//! Kills, interrupts, two commands at once, broken files: nothing is lost, and the next
//! command goes on.

use std::fs;
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

use super::MICRO;
use crate::common::Project;

/// `kill -9` of the machine's process is seen as such, and `up` recovers with the disk as it was.
pub fn a_killed_machine_is_aborted_and_up_recovers(provider: &str) {
    let project = Project::new(provider, MICRO);
    project.rvm(&["up"]).ok();
    project.ssh("echo kept | sudo tee /etc/e2e-kept; sync");
    let pid = i32::try_from(project.machine("default")["pid"].as_u64().unwrap()).unwrap();
    kill_process(Pid::from_raw(pid).unwrap(), Signal::KILL).unwrap();
    project.wait_state("default", "aborted");
    project.rvm(&["ssh", "-c", "true"]).code(1);
    project.rvm(&["up"]).ok();
    assert_eq!(project.ssh("cat /etc/e2e-kept"), "kept");
    assert_eq!(project.state("default"), "running");
}

/// Ctrl-C, and then kill -9, at growing times into `up`: it ends by it, and the last `up` ends
/// well.
pub fn an_up_cut_off_anywhere_is_finished_by_the_next(provider: &str) {
    let steps = "[[provision]]\nname = \"slow\"\nshell = \"sleep 2; echo done >> /etc/e2e-slow\"\n";
    let project = Project::new(provider, &format!("{MICRO}{steps}"));
    for (signal, code) in [(Signal::INT, 130), (Signal::KILL, 128 + 9)] {
        for delay in [30, 150, 600, 1500, 3000] {
            let up = project.start(&["up"]);
            thread::sleep(Duration::from_millis(delay));
            up.signal(signal);
            let run = up.wait();
            // The step alone takes longer than all but the last.
            assert!(run.code == code || delay == 3000 && run.code == 0, "after {delay} ms: {run:?}");
            project.status();
        }
        project.rvm(&["up"]).ok();
        assert_eq!(project.ssh("cat /etc/e2e-slow").lines().last(), Some("done"));
        assert_eq!(project.pids().len(), 1, "one machine is one process");
        project.rvm(&["destroy", "-f"]).ok();
    }
}

/// The second of two `up` waits, says for whom, and finds the work done.
pub fn two_ups_at_once_wait_for_each_other(provider: &str) {
    let steps = "[[provision]]\nname = \"once\"\nshell = \"sleep 3; echo run >> /etc/e2e-once\"\n";
    let project = Project::new(provider, &format!("{MICRO}{steps}"));
    let first = project.start(&["up"]);
    let deadline = Instant::now() + Duration::from_secs(60);
    while project.pids().is_empty() {
        assert!(Instant::now() < deadline, "the first `up` starts nothing");
        thread::sleep(Duration::from_millis(20));
    }
    let second = project.start(&["up"]);
    let pid = first.pid().to_string();
    first.wait().ok();
    second.wait().ok().says("wait").says("up").says(&pid);
    assert_eq!(project.ssh("cat /etc/e2e-once"), "run");
}

/// Files that are not what they should be get an error that names them.
pub fn broken_files_are_named(provider: &str) {
    let project = Project::new(provider, MICRO);
    project.rvm(&["up"]).ok();
    project.rvm(&["halt"]).ok();
    let disk = project.machine_dir("default").join("disk.qcow2");
    let whole = fs::read(&disk).unwrap();
    fs::write(&disk, &whole[..100]).unwrap();
    project.rvm(&["up"]).code(1).says("disk.qcow2");
    assert_eq!(project.state("default"), "poweroff");
    fs::write(&disk, &whole).unwrap();
    project.rvm(&["up"]).ok();
    project.rvm(&["halt"]).ok();

    // A backing file that the box is not must never be read: the guest could have written it.
    let mut forged = whole.clone();
    let offset = usize::try_from(u64::from_be_bytes(whole[8..16].try_into().unwrap())).unwrap();
    let size = usize::try_from(u32::from_be_bytes(whole[16..20].try_into().unwrap())).unwrap();
    let secret = project.home.join("secret");
    fs::write(&secret, b"SECRET".repeat(1 << 16)).unwrap();
    let name = format!("{:/>size$}", secret.display());
    assert_eq!(name.len(), size, "the name in the header is too short for this test");
    assert_eq!(fs::read(&name).unwrap()[..6], *b"SECRET");
    forged[offset..offset + size].copy_from_slice(name.as_bytes());
    fs::write(&disk, &forged).unwrap();
    // It runs from the box, as if nothing were wrong with the header.
    project.rvm(&["up"]).ok();
    assert_eq!(project.ssh("sudo head -c 6 /dev/vda | grep -c SECRET || true"), "0");
    fs::write(&disk, &whole).unwrap();
}

/// A disk that is full is named, and room for it is all that the next `up` needs.
pub fn a_full_disk_is_named(provider: &str) {
    let project = Project::new(provider, MICRO);
    let machines = project.home.join("machines");
    fs::create_dir_all(&machines).unwrap();
    let binary = crate::common::binary();
    // A file system of 64 KiB for the machines, in a mount namespace that ends with the command.
    let script = format!(
        "mount -t tmpfs -o size=64k tmpfs '{}' && exec '{}' up",
        machines.display(),
        binary.display()
    );
    let run = project.run("unshare", &["--map-root-user", "--mount", "sh", "-c", &script]);
    run.code(1).says("no space left");
    project.rvm(&["up"]).ok();
}
