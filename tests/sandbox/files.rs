//! Files and the network.

use std::fs::{self, File};
use std::io::ErrorKind;
use std::net::TcpStream;
use std::path::Path;

use rvm::vmm::sandbox::{Landlock, Policy, close_files, probe};

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

/// What `rvm doctor` says of this host is what the tests here find.
#[test]
fn the_probe_finds_the_walls_and_leaves_the_process_free() {
    let report = probe().unwrap();
    assert!(report.missing().is_empty() || matches!(report.landlock, Landlock::Partial { .. }), "{report:?}");
    File::open("/etc/passwd").unwrap();
}
