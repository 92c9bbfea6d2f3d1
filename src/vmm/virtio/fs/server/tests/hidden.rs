//! Names that the guest is not to know.

use std::os::unix::fs::symlink;

use super::*;
use crate::vmm::virtio::fs::server::abi::set::SIZE;

fn refused(result: Result<(), i32>) {
    assert_eq!(result, Err(libc::EACCES));
}

/// Nothing of a hidden file is to be found, made or changed at a name in a folder that the guest knows.
fn assert_closed(guest: &mut Guest, folder: u64, name: &str) {
    let plain = guest.lookup(ROOT, "plain").unwrap().node;
    assert_eq!(guest.lookup(folder, name), Err(libc::ENOENT), "{name}");
    for plus in [false, true] {
        let listed = guest.list(folder, plus, 4096).unwrap();
        assert!(!listed.iter().any(|(found, _)| found == name.as_bytes()), "{name}: {listed:?}");
    }
    refused(guest.create(folder, name, 0o644).map(drop));
    refused(guest.mkdir(folder, name).map(drop));
    refused(guest.symlink(folder, name, "x").map(drop));
    refused(guest.link(plain, folder, name).map(drop));
    refused(guest.unlink(folder, name));
    refused(guest.call(op::RMDIR, folder, &string(name)).map(drop));
    refused(guest.rename((folder, name), (ROOT, "shown"), 0));
    refused(guest.rename((ROOT, "plain"), (folder, name), 0));
    refused(guest.rename((ROOT, "plain"), (folder, name), libc::RENAME_EXCHANGE));
}

/// A share with a file `plain`, in which `deploy/.env` is hidden.
fn with_deploy() -> Guest {
    let mut guest = Guest::new();
    std::fs::write(guest.path("plain"), "PLAIN=1").unwrap();
    guest.server.hide(Path::new("deploy/.env"));
    guest
}

fn make_deploy(guest: &Guest) {
    std::fs::create_dir(guest.path("deploy")).unwrap();
    std::fs::write(guest.path("deploy/.env"), "SECRET=1").unwrap();
    std::fs::write(guest.path("deploy/other"), "o").unwrap();
}

#[test]
fn what_is_hidden_is_not_found_not_listed_and_not_made() {
    let mut guest = Guest::new();
    std::fs::create_dir(guest.path("sub")).unwrap();
    for name in [".env", "sub/.env", "sub/plain", "plain"] {
        std::fs::write(guest.path(name), "SECRET=1").unwrap();
    }
    for path in [".env", "sub/later", "no/such/folder", ""] {
        guest.server.hide(Path::new(path));
    }
    let sub = guest.lookup(ROOT, "sub").unwrap().node;
    // The same name elsewhere is another one.
    assert_eq!(guest.lookup(sub, ".env").unwrap().size, 8);
    for plus in [false, true] {
        let names: Vec<Vec<u8>> =
            guest.list(ROOT, plus, 4096).unwrap().into_iter().map(|(name, _)| name).collect();
        assert_eq!(names, [&b"."[..], b"..", b"plain", b"sub"]);
    }
    assert_closed(&mut guest, ROOT, ".env");
    assert_closed(&mut guest, sub, "later");
    // Some file systems would take it for the same.
    assert_closed(&mut guest, ROOT, ".ENV");
    assert_eq!(std::fs::read(guest.path(".env")).unwrap(), b"SECRET=1");
}

#[test]
fn a_folder_that_is_made_later_or_anew_hides_it_too() {
    let mut guest = with_deploy();
    for _ in 0..3 {
        make_deploy(&guest);
        let deploy = guest.lookup(ROOT, "deploy").unwrap().node;
        assert_eq!(guest.list(deploy, true, 4096).unwrap().len(), 3);
        assert_closed(&mut guest, deploy, ".env");
        assert_eq!(std::fs::read(guest.path("deploy/.env")).unwrap(), b"SECRET=1");
        // As a checkout of another branch, and of this one again.
        std::fs::remove_dir_all(guest.path("deploy")).unwrap();
    }
    // The guest makes the folder itself.
    let deploy = guest.mkdir(ROOT, "deploy").unwrap().node;
    assert_closed(&mut guest, deploy, ".env");
    guest.call(op::RMDIR, ROOT, &string("deploy")).unwrap();
    let again = guest.mkdir(ROOT, "deploy").unwrap().node;
    assert_closed(&mut guest, again, ".env");
}

#[test]
fn a_folder_that_the_host_moves_takes_its_hidden_names_with_it() {
    let mut guest = with_deploy();
    make_deploy(&guest);
    let deploy = guest.lookup(ROOT, "deploy").unwrap().node;
    assert_closed(&mut guest, deploy, ".env");
    std::fs::rename(guest.path("deploy"), guest.path("old")).unwrap();
    // Whatever the guest puts in its place, and however often.
    for _ in 0..40 {
        let new = guest.mkdir(ROOT, "deploy").unwrap().node;
        assert_eq!(guest.lookup(new, ".env"), Err(libc::ENOENT));
        guest.call(op::RMDIR, ROOT, &string("deploy")).unwrap();
    }
    let old = guest.lookup(ROOT, "old").unwrap().node;
    assert_eq!(old, deploy);
    assert_closed(&mut guest, old, ".env");
    make_deploy(&guest);
    let new = guest.lookup(ROOT, "deploy").unwrap().node;
    assert_closed(&mut guest, new, ".env");
    assert_closed(&mut guest, old, ".env");
}

#[test]
fn a_guest_cannot_change_where_a_hidden_name_is() {
    let mut guest = Guest::new();
    std::fs::create_dir_all(guest.path("a/deploy")).unwrap();
    std::fs::create_dir(guest.path("mine")).unwrap();
    std::fs::write(guest.path("mine/.env"), "PLANTED=1").unwrap();
    std::fs::write(guest.path("a/deploy/.env"), "SECRET=1").unwrap();
    guest.server.hide(Path::new("a/deploy/.env"));
    let a = guest.lookup(ROOT, "a").unwrap().node;
    let mine = guest.lookup(ROOT, "mine").unwrap().node;
    let planted = guest.lookup(mine, ".env").unwrap().node;
    let busy = |result: Result<(), i32>| assert_eq!(result, Err(libc::EBUSY));
    for (parent, name) in [(ROOT, "a"), (a, "deploy")] {
        busy(guest.rename((parent, name), (ROOT, "x"), 0));
        busy(guest.rename((ROOT, "mine"), (parent, name), 0));
        busy(guest.rename((ROOT, "mine"), (parent, name), libc::RENAME_EXCHANGE));
        busy(guest.rename((parent, name), (ROOT, "mine"), libc::RENAME_EXCHANGE));
        busy(guest.unlink(parent, name));
        assert_eq!(guest.call(op::RMDIR, parent, &string(name)).unwrap_err(), libc::ENOTEMPTY);
    }
    // The host has removed it: nothing but an empty folder takes its place.
    std::fs::remove_dir_all(guest.path("a")).unwrap();
    busy(guest.rename((ROOT, "mine"), (ROOT, "a"), 0));
    busy(guest.symlink(ROOT, "a", "mine").map(drop));
    busy(guest.link(planted, ROOT, "a").map(drop));
    busy(guest.create(ROOT, "a", 0o644).map(drop));
    let a = guest.mkdir(ROOT, "a").unwrap().node;
    busy(guest.rename((ROOT, "mine"), (a, "deploy"), 0));
    busy(guest.symlink(a, "deploy", "../mine").map(drop));
    let deploy = guest.mkdir(a, "deploy").unwrap().node;
    refused(guest.link(planted, deploy, ".env").map(drop));
    refused(guest.rename((mine, ".env"), (deploy, ".env"), 0));
    assert!(!guest.path("a/deploy/.env").exists());
    // The same names elsewhere are free.
    guest.mkdir(mine, "a").unwrap();
    guest.rename((mine, "a"), (mine, "deploy"), 0).unwrap();
    guest.rename((mine, "deploy"), (deploy, "deploy"), 0).unwrap();
}

/// As where the host makes a folder beside the old one and then moves it there.
#[test]
fn what_was_found_before_it_was_hidden_is_not_opened() {
    let mut guest = with_deploy();
    std::fs::create_dir(guest.path("new")).unwrap();
    std::fs::write(guest.path("new/.env"), "SECRET=1").unwrap();
    let new = guest.lookup(ROOT, "new").unwrap().node;
    let file = guest.lookup(new, ".env").unwrap().node;
    let handle = guest.open(file, libc::O_RDWR).unwrap();
    guest.release(handle).unwrap();
    std::fs::rename(guest.path("new"), guest.path("deploy")).unwrap();
    for flags in [libc::O_RDONLY, libc::O_WRONLY, libc::O_RDWR | libc::O_TRUNC] {
        refused(guest.open(file, flags).map(drop));
    }
    refused(guest.setattr(file, SIZE, 0, 0).map(drop));
    refused(guest.link(file, ROOT, "more").map(drop));
    assert_closed(&mut guest, new, ".env");
    assert_eq!(std::fs::read(guest.path("deploy/.env")).unwrap(), b"SECRET=1");
}

/// The host has a link on the way, and lets it point elsewhere later.
#[test]
fn links_of_the_host_lead_to_what_is_hidden() {
    let mut guest = with_deploy();
    for folder in ["one", "other"] {
        std::fs::create_dir(guest.path(folder)).unwrap();
        std::fs::write(guest.path(folder).join(".env"), "SECRET=1").unwrap();
    }
    for folder in ["one", "other"] {
        symlink(folder, guest.path("deploy")).unwrap();
        let node = guest.lookup(ROOT, folder).unwrap().node;
        assert_closed(&mut guest, node, ".env");
        // The guest cannot let it point elsewhere.
        assert_eq!(guest.unlink(ROOT, "deploy"), Err(libc::EBUSY));
        std::fs::remove_file(guest.path("deploy")).unwrap();
    }
}

#[test]
fn another_name_of_a_hidden_file_is_hidden() {
    let mut guest = with_deploy();
    // Known to the guest before, under a name that stays.
    std::fs::write(guest.path("before"), "B").unwrap();
    let before = guest.lookup(ROOT, "before").unwrap().node;
    make_deploy(&guest);
    std::fs::hard_link(guest.path("deploy/.env"), guest.path("copy")).unwrap();
    assert_eq!(guest.lookup(ROOT, "copy"), Err(libc::ENOENT));
    for plus in [false, true] {
        let listed = guest.list(ROOT, plus, 4096).unwrap();
        assert!(!listed.iter().any(|(name, _)| name == b"copy"), "{listed:?}");
        assert!(listed.iter().any(|(name, _)| name == b"before"));
    }
    refused(guest.create(ROOT, "copy", 0o644).map(drop));
    assert_eq!(std::fs::read(guest.path("copy")).unwrap(), b"SECRET=1");
    std::fs::remove_file(guest.path("deploy/.env")).unwrap();
    guest.lookup(ROOT, "copy").unwrap();
    std::fs::hard_link(guest.path("before"), guest.path("deploy/.env")).unwrap();
    for flags in [libc::O_RDONLY, libc::O_WRONLY, libc::O_RDWR | libc::O_TRUNC] {
        refused(guest.open(before, flags).map(drop));
    }
    refused(guest.setattr(before, SIZE, 0, 0).map(drop));
    refused(guest.link(before, ROOT, "more").map(drop));
    assert_eq!(std::fs::read(guest.path("deploy/.env")).unwrap(), b"B");
    // Files with several names are files like others.
    let plain = guest.lookup(ROOT, "plain").unwrap().node;
    guest.link(plain, ROOT, "plain too").unwrap();
    guest.lookup(ROOT, "plain too").unwrap();
    guest.open(plain, libc::O_RDWR).unwrap();
}
