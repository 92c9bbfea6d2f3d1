//! The walls around a machine's process, looked at while it runs. `tests/sandbox` tries them from
//! inside.

use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use super::MICRO;
use crate::common::Project;

const SECURITY: &str = include_str!("../../../docs/security.md");

/// Every thread is confined, nothing is inherited, and the host had all walls to give.
pub fn a_running_machine_is_shut_in(provider: &str) {
    let project = Project::new(provider, MICRO);
    let mut up = project.command(&["up"]);
    let up = up.env("E2E_SECRET", "not for machines").status().unwrap();
    assert!(up.success());
    let pids = project.pids();
    let [pid] = pids.as_slice() else { panic!("one machine is one process, not {pids:?}") };
    let process = PathBuf::from(format!("/proc/{pid}"));

    let mut names = Vec::new();
    for task in fs::read_dir(process.join("task")).unwrap() {
        let status = fs::read_to_string(task.unwrap().path().join("status")).unwrap();
        let name = field(&status, "Name");
        // The first one has the name of the program.
        let kind = name.trim_end_matches(|c: char| c.is_ascii_digit());
        let is_described = SECURITY.contains(&format!("| `{kind}` |"));
        assert!(
            is_described || field(&status, "Pid") == pid.to_string(),
            "docs/security.md has no row {kind}"
        );
        names.push(name.to_owned());
        confined(&status);
        for set in ["CapInh", "CapPrm", "CapEff", "CapAmb"] {
            assert_eq!(field(&status, set), "0000000000000000", "{set} in\n{status}");
        }
        // With kvm it serves the project folder, too, where files get the permissions that the guest says.
        let umask = if provider == "kvm" { "0000" } else { "0077" };
        assert_eq!(field(&status, "Umask"), umask);
    }
    let expected = match provider {
        "kvm" => ["vcpu0", "virtio-blk", "virtio-net", "control", "spawner"].as_slice(),
        _ => ["console", "control", "spawner"].as_slice(),
    };
    for name in expected {
        assert!(names.iter().any(|found| found == name), "no thread {name} in {names:?}");
    }
    let limits = fs::read_to_string(process.join("limits")).unwrap();
    let core = limits.lines().find(|line| line.starts_with("Max core file size")).unwrap();
    assert_eq!(core.split_whitespace().skip(4).take(2).collect::<Vec<_>>(), ["0", "0"], "{core}");

    let size = limits.lines().find(|line| line.starts_with("Max file size")).unwrap();
    // With kvm it serves the project folder, too, whose files are as large as the guest likes.
    let most = if provider == "kvm" { "unlimited" } else { "67108864" };
    assert_eq!(size.split_whitespace().skip(3).take(2).collect::<Vec<_>>(), [most, most], "{size}");

    let log = fs::read_to_string(project.machine_dir("default").join("vm.log")).unwrap();
    // An old Landlock closes files and leaves TCP, say; none at all leaves files open.
    assert!(!log.contains("stay open"), "a wall is missing on this host:\n{log}");
    looked_into(&process, &project);
    let told: serde_json::Value = serde_json::from_str(&project.rvm(&["doctor", "--json"]).stdout).unwrap();
    let rights = serde_json::json!([{
        "machine": "default",
        "pid": pid,
        "seccomp": true,
        "no_new_privileges": true,
        "no_capabilities": true,
    }]);
    assert_eq!(told["running"], rights);
    if provider == "qemu" {
        qemu_is_confined(&process);
    }
}

fn field<'a>(status: &'a str, name: &str) -> &'a str {
    let line = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
    line.unwrap_or_else(|| panic!("no `{name}` in\n{status}")).trim()
}

fn confined(status: &str) {
    assert_eq!(field(status, "Seccomp"), "2", "{status}");
    assert_eq!(field(status, "NoNewPrivs"), "1", "{status}");
}

/// What only root sees: others of the same user cannot look into the process.
fn looked_into(process: &Path, project: &Project) {
    let environment = fs::read(process.join("environ"));
    if !rustix::process::geteuid().is_root() {
        assert_eq!(environment.unwrap_err().kind(), ErrorKind::PermissionDenied);
        return;
    }
    let environment = String::from_utf8_lossy(&environment.unwrap()).into_owned();
    let names: Vec<&str> = environment.split('\0').filter_map(|pair| Some(pair.split_once('=')?.0)).collect();
    assert_eq!(names, ["PATH"], "its environment");

    let folders =
        ["machines", "boxes", "kernels"].map(|name| project.home.join(name).canonicalize().unwrap());
    // It is shared, as /vagrant.
    let shared = project.root.canonicalize().unwrap();
    for entry in fs::read_dir(process.join("fd")).unwrap() {
        let Ok(target) = fs::read_link(entry.unwrap().path()) else { continue };
        let text = target.to_string_lossy();
        // The list of its own descriptors: how the server of the folder changes the permissions of a file.
        let own = process.join("fd");
        let known = ["/dev/kvm", "/dev/null"].contains(&&*text)
            || target == own
            || ["socket:", "anon_inode:", "pidfd:"].iter().any(|kind| text.starts_with(kind))
            // The guest's memory, which QEMU hands to who serves the folder: kept for the next one.
            || text.starts_with("/memfd:memory-backend-memfd")
            || target == shared
            || folders.iter().any(|folder| target.starts_with(folder));
        assert!(known, "an open descriptor of {text}");
    }
}

fn qemu_is_confined(process: &Path) {
    let pid = process.file_name().unwrap().to_string_lossy().into_owned();
    let children = fs::read_to_string(process.join("task").join(pid).join("children")).unwrap();
    // QEMU itself, and the process that serves the project folder.
    let mut names: Vec<String> = Vec::new();
    for child in children.split_whitespace() {
        let status = fs::read_to_string(format!("/proc/{child}/status")).unwrap();
        confined(&status);
        names.push(field(&status, "Name").to_owned());
    }
    assert!(names.len() == 2 && names.iter().any(|name| name.starts_with("qemu")), "{names:?}");
}
