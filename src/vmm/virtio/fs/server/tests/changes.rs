//! The host changes what the guest knows.

use std::time::{Duration, SystemTime};

use super::*;

#[test]
fn what_the_host_writes_is_read() {
    let mut guest = Guest::new();
    std::fs::write(guest.path("file"), "one").unwrap();
    let file = guest.lookup(ROOT, "file").unwrap().node;
    let handle = guest.open(file, libc::O_RDONLY).unwrap();
    std::fs::write(guest.path("file"), "three").unwrap();
    assert_eq!(guest.read(handle, 0, 100).unwrap(), b"three");
    assert_eq!(guest.getattr(file).unwrap().size, 5);
}

/// How editors save: another file takes the name. The guest's number is of the old one, and it has to
/// look again.
#[test]
fn a_file_that_was_replaced_is_another() {
    let mut guest = Guest::new();
    std::fs::write(guest.path("file"), "old").unwrap();
    let old = guest.lookup(ROOT, "file").unwrap().node;
    std::fs::write(guest.path("new"), "new one").unwrap();
    std::fs::rename(guest.path("new"), guest.path("file")).unwrap();
    assert_eq!(guest.getattr(old).unwrap_err(), libc::ESTALE);
    assert_eq!(guest.open(old, libc::O_RDONLY).unwrap_err(), libc::ESTALE);
    assert_eq!(guest.open(old, libc::O_RDWR | libc::O_TRUNC).unwrap_err(), libc::ESTALE);
    let new = guest.lookup(ROOT, "file").unwrap();
    assert_ne!(new.node, old);
    assert_eq!(new.size, 7);
}

/// File systems give the number of a file that is gone to the next one.
#[test]
fn a_number_that_is_used_again_is_another_file() {
    let mut guest = Guest::new();
    let mut nodes = Vec::new();
    for round in 0..50 {
        let name = format!("file{round}");
        std::fs::write(guest.path(&name), "").unwrap();
        nodes.push(guest.lookup(ROOT, &name).unwrap().node);
        std::fs::remove_file(guest.path(&name)).unwrap();
    }
    let distinct: std::collections::HashSet<_> = nodes.iter().collect();
    assert_eq!(distinct.len(), nodes.len());
}

#[test]
fn what_is_cached_is_kept_only_while_it_is_the_same() {
    let mut guest = Guest::new();
    let long_ago = SystemTime::now() - Duration::from_secs(1000);
    std::fs::write(guest.path("file"), "one").unwrap();
    let touch = |guest: &Guest| {
        std::fs::File::options()
            .write(true)
            .open(guest.path("file"))
            .unwrap()
            .set_modified(long_ago)
            .unwrap();
    };
    touch(&guest);
    let file = guest.lookup(ROOT, "file").unwrap().node;
    let keeps = |guest: &mut Guest| guest.open_flags(file) & abi::OPEN_KEEP_CACHE != 0;
    // Its status changed a moment ago, so the next change could get the same time.
    assert!(!keeps(&mut guest));
    assert!(!keeps(&mut guest));
    let stamp = |seconds: i64| nodes::Stamp { size: 3, modified: (seconds, 0), changed: (seconds, 0) };
    assert!(!guest.server.nodes.stamp(file, Some(stamp(1))));
    assert!(guest.server.nodes.stamp(file, Some(stamp(1))));
    assert!(!guest.server.nodes.stamp(file, Some(stamp(2))));
    assert!(!guest.server.nodes.stamp(file, None));
    assert!(!guest.server.nodes.stamp(file, None));
}

#[test]
fn a_share_that_vanishes_is_an_error_and_no_more() {
    let mut guest = Guest::new();
    std::fs::create_dir(guest.path("sub")).unwrap();
    std::fs::write(guest.path("sub/file"), "f").unwrap();
    let sub = guest.lookup(ROOT, "sub").unwrap().node;
    let file = guest.lookup(sub, "file").unwrap().node;
    let handle = guest.open(file, libc::O_RDWR).unwrap();
    std::fs::remove_dir_all(guest.share()).unwrap();
    assert_eq!(guest.lookup(ROOT, "sub").unwrap_err(), libc::ESTALE);
    assert_eq!(guest.create(ROOT, "new", 0o644).unwrap_err(), libc::ESTALE);
    assert_eq!(guest.lookup(sub, "file").unwrap_err(), libc::ESTALE);
    assert_eq!(guest.open(file, libc::O_RDONLY).unwrap_err(), libc::ESTALE);
    // What is open is the host's file system's to keep.
    assert_eq!(guest.read(handle, 0, 10).unwrap(), b"f");
    guest.getattr(ROOT).unwrap();
    // Another folder of that name is not the one that was shared.
    std::fs::create_dir(guest.share()).unwrap();
    assert_eq!(guest.create(ROOT, "new", 0o644).unwrap_err(), libc::ESTALE);
}

#[test]
fn a_guest_that_boots_again_begins_again() {
    let mut guest = Guest::new();
    let (file, handle) = guest.create(ROOT, "file", 0o644).unwrap();
    guest.start();
    assert_eq!(guest.getattr(file.node).unwrap_err(), libc::ESTALE);
    assert_eq!(guest.read(handle, 0, 1).unwrap_err(), libc::EBADF);
    assert_eq!(guest.lookup(ROOT, "file").unwrap().node, file.node);
    guest.call(op::DESTROY, 0, &[]).unwrap();
    assert_eq!(guest.lookup(ROOT, "file").unwrap_err(), libc::EIO);
}
