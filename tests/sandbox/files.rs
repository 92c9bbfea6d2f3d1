//! Files and the network.

use std::fs::{self, File};
use std::io::ErrorKind;
use std::net::TcpStream;
use std::path::Path;

use rustix::fs::{AtFlags, CWD, Mode, OFlags, RenameFlags, ResolveFlags, StatxFlags, openat2};
use rustix::io::Errno;
use rvm::vmm::sandbox::{EXIT_STATUS, Landlock, Policy, Role, close_files, enter, prepare, spawn};

use crate::inside::{part, play, text};

#[test]
fn nothing_outside_the_named_folders_can_be_opened() {
    const TEST: &str = "files::nothing_outside_the_named_folders_can_be_opened";
    match part() {
        Some(folder) => try_files(Path::new(&folder)),
        None => {
            let folder = tempfile::tempdir().unwrap();
            fs::create_dir(folder.path().join("own")).unwrap();
            fs::write(folder.path().join("secret"), "s").unwrap();
            let output = play(TEST, folder.path().to_str().unwrap());
            assert!(output.status.success(), "{}", text(&output));
            assert_eq!(fs::read(folder.path().join("own/renamed")).unwrap(), b"kept");
            assert_eq!(fs::read(folder.path().join("secret")).unwrap(), b"s");
        }
    }
}

fn try_files(folder: &Path) {
    let (own, secret) = (folder.join("own"), folder.join("secret"));
    let open = File::open(&secret).unwrap();
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap();
    let landlock = close_files(&Policy { writable: vec![own.clone()], ..Policy::default() }).unwrap();
    let (Landlock::Full { abi } | Landlock::Partial { abi }) = landlock else {
        panic!("this host has no Landlock ({landlock:?}): `make test` tries it in the lab, too");
    };
    println!("Landlock version {abi}");

    let denied =
        |result: std::io::Result<()>| assert_eq!(result.unwrap_err().kind(), ErrorKind::PermissionDenied);
    denied(File::open("/etc/passwd").map(drop));
    denied(File::open(&secret).map(drop));
    denied(File::open(own.join("../secret")).map(drop));
    denied(fs::read_dir("/").map(drop));
    denied(fs::write(folder.join("new"), "x"));
    denied(fs::remove_file(&secret));
    denied(std::process::Command::new("/bin/true").status().map(drop));
    if abi >= 4 {
        denied(TcpStream::connect(port).map(drop));
        denied(std::net::TcpListener::bind("127.0.0.1:0").map(drop));
    }

    if abi >= 6 {
        let parent = rustix::process::getppid().unwrap();
        denied(rustix::process::test_kill_process(parent).map_err(Into::into));
    }

    // What is open stays usable, and the folder that was named is.
    assert_eq!(open.metadata().unwrap().len(), 1);
    fs::write(own.join("file"), "kept").unwrap();
    fs::rename(own.join("file"), own.join("renamed")).unwrap();
    fs::write(own.join("gone"), "x").unwrap();
    fs::remove_file(own.join("gone")).unwrap();
}

/// A machine with shared folders: the thread that serves them reaches those, the others nothing.
#[test]
fn only_the_thread_of_a_share_opens_files_and_only_there() {
    const TEST: &str = "files::only_the_thread_of_a_share_opens_files_and_only_there";
    if let Some(part) = part() {
        let (kind, folder) = part.split_once(':').unwrap();
        let folder = Path::new(folder).to_owned();
        prepare().unwrap();
        let (own, fixed) = (folder.join("own"), folder.join("fixed"));
        let policy = Policy {
            role: Role::SharingHypervisor,
            writable: vec![own],
            readable: vec![fixed],
            ..Policy::default()
        };
        enter(&policy).unwrap();
        spawn(kind, move || share_files(&folder)).unwrap().join().unwrap();
        return;
    }
    for kind in ["virtio-fs", "vcpu0", "virtio-blk", "control-client"] {
        let folder = tempfile::tempdir().unwrap();
        for name in ["own", "fixed"] {
            fs::create_dir(folder.path().join(name)).unwrap();
            fs::write(folder.path().join(name).join("file"), "f").unwrap();
        }
        fs::write(folder.path().join("secret"), "s").unwrap();
        let output = play(TEST, &format!("{kind}:{}", folder.path().display()));
        match kind {
            "virtio-fs" => assert!(output.status.success(), "{}", text(&output)),
            _ => assert_eq!(output.status.code(), Some(EXIT_STATUS), "{kind}: {}", text(&output)),
        }
        assert_eq!(folder.path().join("own/made").exists(), kind == "virtio-fs");
    }
}

fn share_files(folder: &Path) {
    let try_open = |name: &str, flags| {
        let mode = if flags == OFlags::RDONLY { Mode::empty() } else { Mode::from_raw_mode(0o664) };
        openat2(CWD, folder.join(name), flags, mode, ResolveFlags::empty())
    };
    let make = OFlags::WRONLY | OFlags::CREATE;
    try_open("own/file", OFlags::RDONLY).unwrap();
    let made = try_open("own/made", make).unwrap();
    // With the permissions that were asked for.
    assert_eq!(
        rustix::fs::statx(made, c"", AtFlags::EMPTY_PATH, StatxFlags::MODE).unwrap().stx_mode & 0o777,
        0o664
    );
    try_open("fixed/file", OFlags::RDONLY).unwrap();
    for (name, flags) in
        [("fixed/new", make), ("secret", OFlags::RDONLY), ("new", make), ("own/../secret", make)]
    {
        assert_eq!(try_open(name, flags).unwrap_err(), Errno::ACCESS, "{name}");
    }
    let remove = |name: &str| rustix::fs::unlinkat(CWD, folder.join(name), AtFlags::empty());
    assert_eq!(remove("secret").unwrap_err(), Errno::ACCESS);
    assert_eq!(remove("fixed/file").unwrap_err(), Errno::ACCESS);
    let rename = |from: &str, to: &str| {
        rustix::fs::renameat_with(CWD, folder.join(from), CWD, folder.join(to), RenameFlags::empty())
    };
    assert!([Errno::ACCESS, Errno::XDEV].contains(&rename("own/file", "file").unwrap_err()));
    assert!([Errno::ACCESS, Errno::XDEV].contains(&rename("secret", "own/secret").unwrap_err()));
}
