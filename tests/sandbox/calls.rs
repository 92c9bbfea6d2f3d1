//! System calls.
#![allow(unsafe_code)]

use std::io::Write;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use rvm::vmm::BoundedLog;
use rvm::vmm::sandbox::{EXIT_STATUS, Policy, Role, Violation, enter, prepare, spawn};

use crate::inside::{part, play, text};

/// All kinds of threads that are started, and those that enter the sandbox themselves.
const STARTED: [&str; 14] = [
    "vcpu0",
    "virtio-blk",
    "virtio-net",
    "virtio-rng",
    "virtio-balloon",
    "virtio-vsock",
    "virtio-console",
    "virtio-fs",
    "agent",
    "control",
    "control-client",
    "console",
    "attach",
    "stop",
];
const ENTERING: [&str; 4] = ["main", "supervisor", "switch", "share"];

/// Makes a system call with harmless arguments.
fn call(number: libc::c_long, arguments: [libc::c_long; 4]) -> libc::c_long {
    let [a, b, c, d] = arguments;
    // SAFETY: the tests pass numbers and null pointers only, which the kernel refuses by itself.
    unsafe { libc::syscall(number, a, b, c, d) }
}

/// What no thread of a machine's process may do, by name.
fn forbidden(name: &str) -> libc::c_long {
    let executable = libc::c_long::from(libc::PROT_READ | libc::PROT_EXEC);
    // The first process of the system.
    let parent = 1;
    match name {
        "socket" => call(libc::SYS_socket, [libc::AF_INET.into(), libc::SOCK_STREAM.into(), 0, 0]),
        "unix socket" => call(libc::SYS_socket, [libc::AF_UNIX.into(), libc::SOCK_STREAM.into(), 0, 0]),
        "open" => call(libc::SYS_openat, [libc::AT_FDCWD.into(), 0, 0, 0]),
        "execve" => call(libc::SYS_execve, [0; 4]),
        "ptrace" => call(libc::SYS_ptrace, [libc::PTRACE_ATTACH.into(), parent, 0, 0]),
        "process_vm_readv" => call(libc::SYS_process_vm_readv, [parent, 0, 0, 0]),
        "fork" => call(libc::SYS_clone, [libc::SIGCHLD.into(), 0, 0, 0]),
        "kill" => call(libc::SYS_kill, [parent, 0, 0, 0]),
        "tgkill" => call(libc::SYS_tgkill, [parent, parent, 0, 0]),
        "mprotect" => call(libc::SYS_mprotect, [0, 4096, executable, 0]),
        "mmap" => call(libc::SYS_mmap, [0, 4096, executable, libc::MAP_ANONYMOUS.into()]),
        // TIOCSTI: types into a terminal.
        "ioctl" => call(libc::SYS_ioctl, [0, 0x5412, 0, 0]),
        "prctl" => call(libc::SYS_prctl, [libc::PR_SET_DUMPABLE.into(), 1, 0, 0]),
        "bpf" => call(libc::SYS_bpf, [0; 4]),
        "unlink" => call(libc::SYS_unlinkat, [libc::AT_FDCWD.into(), 0, 0, 0]),
        other => panic!("no such case: {other}"),
    }
}

const FORBIDDEN: [(&str, libc::c_long); 15] = [
    ("socket", libc::SYS_socket),
    ("unix socket", libc::SYS_socket),
    ("open", libc::SYS_openat),
    ("execve", libc::SYS_execve),
    ("ptrace", libc::SYS_ptrace),
    ("process_vm_readv", libc::SYS_process_vm_readv),
    ("fork", libc::SYS_clone),
    ("kill", libc::SYS_kill),
    ("tgkill", libc::SYS_tgkill),
    ("mprotect", libc::SYS_mprotect),
    ("mmap", libc::SYS_mmap),
    ("ioctl", libc::SYS_ioctl),
    ("prctl", libc::SYS_prctl),
    ("bpf", libc::SYS_bpf),
    ("unlink", libc::SYS_unlinkat),
];

/// The role of a process that has such threads.
fn role_of(kind: &str) -> Role {
    match kind {
        "supervisor" | "console" | "attach" => Role::Supervisor,
        "switch" => Role::Switch,
        "share" => Role::Share,
        "virtio-fs" => Role::SharingHypervisor,
        _ => Role::Hypervisor,
    }
}

/// Enters as the thread `kind` would, or starts one of that kind, and lets it do `work`.
fn within(kind: &str, work: impl FnOnce() + Send + 'static) {
    prepare().unwrap();
    let report = enter(&Policy { role: role_of(kind), ..Policy::default() }).unwrap();
    assert!(report.no_seccomp.is_none(), "this host has no system call filters: {report:?}");
    if ENTERING.contains(&kind) {
        work();
    } else {
        spawn(kind, work).unwrap().join().unwrap();
    }
}

#[test]
fn a_forbidden_call_ends_the_process_and_is_named() {
    const TEST: &str = "calls::a_forbidden_call_ends_the_process_and_is_named";
    if let Some(part) = part() {
        let (kind, name) = part.split_once('/').unwrap();
        let name = name.to_owned();
        within(kind, move || println!("it went through: {}", forbidden(&name)));
        return;
    }
    for kind in STARTED.iter().chain(&ENTERING) {
        // All of them where the guest is nearest and where most is allowed, else the first three.
        let cases = if ["vcpu0", "main"].contains(kind) { FORBIDDEN.len() } else { 3 };
        for (name, number) in FORBIDDEN.into_iter().take(cases) {
            let output = play(TEST, &format!("{kind}/{name}"));
            assert_eq!(output.status.code(), Some(EXIT_STATUS), "{kind}, {name}: {}", text(&output));
            let found = Violation::find(&String::from_utf8_lossy(&output.stderr))
                .unwrap_or_else(|| panic!("{kind}, {name}: it is not said:\n{}", text(&output)));
            assert_eq!(i64::from(found.call), number, "{kind}, {name}");
            // A test's own thread has the name of the test.
            assert!(found.thread == *kind || ENTERING.contains(kind), "{kind}, {name}: {found:?}");
        }
    }
}

/// What the C library and Rust do by themselves is let through for all kinds.
#[test]
fn threads_live_in_their_tables() {
    const TEST: &str = "calls::threads_live_in_their_tables";
    if let Some(kind) = part() {
        within(&kind, live);
        return;
    }
    for kind in STARTED.iter().chain(&ENTERING) {
        let output = play(TEST, kind);
        assert!(output.status.success(), "{kind}: {}", text(&output));
    }
}

/// Memory of all sizes, locks, time, random numbers, a panic.
fn live() {
    let mut blocks: Vec<Vec<u8>> = (4..25).map(|shift| vec![1; 1 << shift]).collect();
    blocks.iter_mut().for_each(|block| block.extend_from_within(..));
    blocks.iter_mut().for_each(Vec::shrink_to_fit);
    drop(blocks);
    let lock = Arc::new(Mutex::new(0));
    *lock.lock().unwrap() += 1;
    std::thread::sleep(Duration::from_millis(1));
    let map = std::collections::HashMap::from([(1, 2)]);
    assert_eq!(map.get(&1), Some(&2));
    let mut key = [0; 16];
    getrandom::fill(&mut key).unwrap();
    assert!(std::panic::catch_unwind(|| panic!("on purpose")).is_err());
    let notify = rustix::event::eventfd(0, rustix::event::EventfdFlags::CLOEXEC).unwrap();
    rustix::io::write(notify.try_clone().unwrap(), &1u64.to_ne_bytes()).unwrap();
}

/// The console's log is written by the thread on which the guest touches its serial port, and moved by
/// it when it is full.
#[test]
fn a_full_console_log_is_moved_from_inside() {
    const TEST: &str = "calls::a_full_console_log_is_moved_from_inside";
    if let Some(part) = part() {
        let (kind, path) = part.split_once(':').unwrap();
        prepare().unwrap();
        let mut log = BoundedLog::open(Path::new(path), 1000).unwrap();
        enter(&Policy { role: role_of(kind), ..Policy::default() }).unwrap();
        let work = move || (0..25).for_each(|_| log.write_all(&[b'x'; 100]).unwrap());
        spawn(kind, work).unwrap().join().unwrap();
        return;
    }
    for kind in ["vcpu0", "console"] {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("log");
        let output = play(TEST, &format!("{kind}:{}", path.display()));
        assert!(output.status.success(), "{kind}: {}", text(&output));
        let len = |name: &str| std::fs::metadata(folder.path().join(name)).unwrap().len();
        assert_eq!((len("log"), len("log.1")), (500, 1000), "{kind}");
    }
}

#[test]
fn a_thread_without_a_table_is_not_started() {
    const TEST: &str = "calls::a_thread_without_a_table_is_not_started";
    if part().is_some() {
        within("main", || {
            // One that there is not, and one of another process.
            for name in ["virtio-unknown", "attach"] {
                let error = spawn(name, || println!("it runs")).unwrap_err();
                assert!(error.to_string().contains(&format!("`{name}`")), "{error}");
            }
            assert!(enter(&Policy::default()).is_err(), "nobody enters twice");
        });
        return;
    }
    let output = play(TEST, "main");
    assert!(output.status.success(), "{}", text(&output));
    assert!(!text(&output).contains("it runs"));
}
