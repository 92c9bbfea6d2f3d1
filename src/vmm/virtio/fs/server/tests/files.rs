//! What works.

use std::ffi::OsStr;
use std::os::unix::fs::{MetadataExt, PermissionsExt};

use super::*;

#[test]
fn a_file_is_made_written_read_and_removed() {
    let mut guest = Guest::new();
    let (seen, handle) = guest.create(ROOT, "file", 0o640).unwrap();
    assert_eq!((seen.mode, seen.owner), (libc::S_IFREG | 0o640, OWNER));
    assert_eq!(guest.write(handle, 3, b"data", 0).unwrap(), 4);
    assert_eq!(std::fs::read(guest.path("file")).unwrap(), b"\0\0\0data");
    assert_eq!(guest.read(handle, 0, 100).unwrap(), b"\0\0\0data");
    assert_eq!(guest.read(handle, 5, 1).unwrap(), b"t");
    assert_eq!(guest.read(handle, 100, 100).unwrap(), b"");
    assert_eq!(guest.getattr(seen.node).unwrap().size, 7);
    let mut sync = Answer::default();
    sync.u64(handle).u32(0).u32(0);
    guest.call(op::FSYNC, seen.node, sync.bytes()).unwrap();
    guest.call(op::FLUSH, seen.node, &[sync.bytes(), &[0; 8]].concat()).unwrap();
    guest.unlink(ROOT, "file").unwrap();
    assert!(!guest.path("file").exists());
    // What is open is still there: all that programs do with temporary files.
    assert_eq!(guest.read(handle, 3, 100).unwrap(), b"data");
    assert_eq!(guest.getattr(seen.node).unwrap().size, 7);
    assert_eq!(guest.setattr(seen.node, abi::set::MODE, 0, 0o600).unwrap().mode & 0o777, 0o600);
    guest.release(handle).unwrap();
    assert_eq!(guest.getattr(seen.node).unwrap_err(), libc::ESTALE);
    assert_eq!(guest.lookup(ROOT, "file").unwrap_err(), libc::ENOENT);
}

/// Only where the host says something when a file is closed has the guest to ask.
#[test]
fn the_end_of_writing_is_told_where_it_means_something() {
    let mut guest = Guest::new();
    let (file, _) = guest.create(ROOT, "file", 0o644).unwrap();
    let quiet = |guest: &mut Guest, flags: i32| {
        let body = [flags.to_le_bytes(), [0; 4]].concat();
        let answer = guest.call(op::OPEN, file.node, &body).unwrap();
        u32::from_le_bytes(answer[8..12].try_into().unwrap()) & abi::OPEN_NOFLUSH != 0
    };
    let stat = system::stat_of(guest.server.nodes.root()).unwrap();
    let device = (stat.stx_dev_major, stat.stx_dev_minor);
    guest.server.local = Some(device);
    assert!(quiet(&mut guest, libc::O_RDONLY) && quiet(&mut guest, libc::O_WRONLY));
    // Of a network, or mounted somewhere in the share.
    for local in [None, Some((device.0, device.1 + 1))] {
        guest.server.local = local;
        assert!(quiet(&mut guest, libc::O_RDONLY) && !quiet(&mut guest, libc::O_RDWR));
    }
}

#[test]
fn large_transfers_go_through_whole() {
    let mut guest = Guest::new();
    let (_, handle) = guest.create(ROOT, "file", 0o644).unwrap();
    let data: Vec<u8> = (0..1 << 20).map(|n: u32| (n / 7) as u8).collect();
    assert_eq!(guest.write(handle, 0, &data, 0).unwrap(), 1 << 20);
    assert!(guest.read(handle, 0, 1 << 20).unwrap() == data);
    // More than was agreed on.
    assert_eq!(guest.write(handle, 0, &vec![0; (1 << 20) + 1], 0).unwrap_err(), libc::EINVAL);
    assert_eq!(guest.read(handle, 0, u32::MAX).unwrap().len(), 1 << 20);
}

#[test]
fn an_append_goes_to_the_end_that_the_host_knows() {
    let mut guest = Guest::new();
    let (_, handle) = guest.create(ROOT, "log", 0o644).unwrap();
    guest.write(handle, 0, b"guest\n", libc::O_APPEND).unwrap();
    std::fs::write(guest.path("log"), "guest\nhost\n").unwrap();
    guest.write(handle, 6, b"more\n", libc::O_APPEND).unwrap();
    assert_eq!(std::fs::read(guest.path("log")).unwrap(), b"guest\nhost\nmore\n");
}

#[test]
fn names_are_bytes() {
    let mut guest = Guest::new();
    let names: [&[u8]; 3] = [b"\xff\xfe", "naïve ☃".as_bytes(), b" \n\t\\*"];
    for name in names {
        let name = OsStr::from_bytes(name);
        guest.create(ROOT, name, 0o644).unwrap();
        assert!(guest.path(name).exists());
        guest.lookup(ROOT, name).unwrap();
    }
    let listed = guest.list(ROOT, false, 4096).unwrap();
    for name in names {
        assert!(listed.iter().any(|(listed, _)| listed == name));
    }
}

#[test]
fn a_large_folder_is_listed_whole_whatever_the_buffer() {
    let mut guest = Guest::new();
    let mut expected = vec![b".".to_vec(), b"..".to_vec()];
    for number in 0..2500 {
        let name = format!("{number}{}", "x".repeat(number % 200));
        std::fs::write(guest.path(&name), "").unwrap();
        expected.push(name.into_bytes());
    }
    expected.sort();
    for size in [600, 4096, 70_000, 1 << 20] {
        for plus in [false, true] {
            let names = guest.list(ROOT, plus, size).unwrap();
            let told = names.iter().filter(|(_, node)| *node != 0).count();
            assert_eq!(told, if plus { 2500 } else { 0 });
            assert!(names.into_iter().map(|(name, _)| name).eq(expected.iter().cloned()), "{plus} {size}");
        }
    }
    assert_eq!(guest.list(ROOT, false, 20).unwrap_err(), libc::EINVAL);
    // Each was told of four times.
    let node = guest.list(ROOT, true, 4096).unwrap()[2].1;
    guest.forget(node, 4);
    guest.getattr(node).unwrap();
    guest.forget(node, 1);
    assert_eq!(guest.getattr(node).unwrap_err(), libc::ESTALE);
}

#[test]
fn owners_are_the_right_ones_on_both_sides() {
    let mut guest = Guest::new();
    std::fs::write(guest.path("mine"), "").unwrap();
    assert_eq!(guest.lookup(ROOT, "mine").unwrap().owner, OWNER);
    let (made, _) = guest.create(ROOT, "made", 0o644).unwrap();
    let on_host = std::fs::metadata(guest.path("made")).unwrap();
    assert_eq!(on_host.uid(), rustix::process::geteuid().as_raw());
    // What the guest's root wants is done as far as it can be: it stays whose it is.
    assert_eq!(guest.setattr(made.node, 1 << 1 | 1 << 2, 0, 0).unwrap().owner, OWNER);
    // A file of somebody else, which only root can make.
    if rustix::process::geteuid().is_root() {
        std::os::unix::fs::chown(guest.path("mine"), Some(4321), Some(4321)).unwrap();
        assert_eq!(guest.lookup(ROOT, "mine").unwrap().owner, (NOBODY, NOBODY));
        std::os::unix::fs::chown(guest.path("mine"), None, Some(0)).unwrap();
        assert_eq!(guest.lookup(ROOT, "mine").unwrap().owner, (NOBODY, OWNER.1));
    }
}

#[test]
fn attributes_are_set() {
    let mut guest = Guest::new();
    let (file, handle) = guest.create(ROOT, "file", 0o644).unwrap();
    assert_eq!(guest.setattr(file.node, abi::set::SIZE, 5000, 0).unwrap().size, 5000);
    assert_eq!(guest.setattr(file.node, abi::set::MODE, 0, 0o000).unwrap().mode & 0o777, 0);
    guest.setattr(file.node, abi::set::MODE, 0, 0o600).unwrap();
    let mut body = Answer::default();
    body.u32(abi::set::ATIME | abi::set::MTIME).u32(0).u64(0).u64(0).u64(0);
    body.u64(11).u64((-12i64).cast_unsigned()).u64(0).u32(5).u32(6).u32(0).zeros(20);
    guest.call(op::SETATTR, file.node, body.bytes()).unwrap();
    let meta = std::fs::metadata(guest.path("file")).unwrap();
    assert_eq!((meta.atime(), meta.atime_nsec(), meta.mtime(), meta.mtime_nsec()), (11, 5, -12, 6));
    assert_eq!(meta.permissions().mode() & 0o777, 0o600);
    let mut allocate = Answer::default();
    allocate.u64(handle).u64(0).u64(1 << 20).u32(0).u32(0);
    guest.call(op::FALLOCATE, file.node, allocate.bytes()).unwrap();
    assert_eq!(guest.getattr(file.node).unwrap().size, 1 << 20);
    let mut seek = Answer::default();
    seek.u64(handle).u64(0).u32(libc::SEEK_HOLE.cast_unsigned()).u32(0);
    guest.call(op::LSEEK, file.node, seek.bytes()).unwrap();
    let stat = guest.call(op::STATFS, ROOT, &[]).unwrap();
    assert_eq!(stat.len(), 80);
}

#[test]
fn a_file_is_copied_on_the_host() {
    let mut guest = Guest::new();
    let (_, from) = guest.create(ROOT, "from", 0o644).unwrap();
    let (node, to) = guest.create(ROOT, "to", 0o644).unwrap();
    guest.write(from, 0, b"0123456789", 0).unwrap();
    let mut body = Answer::default();
    body.u64(from).u64(2).u64(node.node).u64(to).u64(1).u64(5).u64(0);
    let answer = guest.call(op::COPY_FILE_RANGE, 0, body.bytes()).unwrap();
    assert_eq!(Args::new(&answer).u32(), Ok(5));
    assert_eq!(std::fs::read(guest.path("to")).unwrap(), b"\x0023456");
}

#[test]
fn a_moved_folder_takes_its_files_along() {
    let mut guest = Guest::new();
    let a = guest.mkdir(ROOT, "a").unwrap().node;
    let deep = guest.mkdir(a, "deep").unwrap().node;
    let (file, _) = guest.create(deep, "file", 0o644).unwrap();
    let b = guest.mkdir(ROOT, "b").unwrap().node;
    guest.rename((a, "deep"), (b, "moved"), 0).unwrap();
    guest.open(file.node, libc::O_RDONLY).unwrap();
    assert!(guest.path("b/moved/file").exists());
    guest.create(b, "other", 0o644).unwrap();
    let exists = guest.rename((b, "moved"), (b, "other"), libc::RENAME_NOREPLACE);
    assert_eq!(exists.unwrap_err(), libc::EEXIST);
    guest.rename((b, "moved"), (b, "other"), libc::RENAME_EXCHANGE).unwrap();
    guest.open(file.node, libc::O_RDONLY).unwrap();
    assert!(guest.path("b/other/file").exists());
    let whiteout = guest.rename((b, "moved"), (b, "x"), libc::RENAME_WHITEOUT);
    assert_eq!(whiteout.unwrap_err(), libc::EINVAL);
}

#[test]
fn hard_links_are_one_file() {
    let mut guest = Guest::new();
    let (file, _) = guest.create(ROOT, "one", 0o644).unwrap();
    let two = guest.link(file.node, ROOT, "two").unwrap();
    assert_eq!(two.node, file.node);
    assert_eq!(std::fs::metadata(guest.path("one")).unwrap().nlink(), 2);
    // The name by which it was last known goes; the guest looks again, by the other.
    guest.unlink(ROOT, "two").unwrap();
    assert_eq!(guest.lookup(ROOT, "one").unwrap().node, file.node);
    guest.open(file.node, libc::O_RDONLY).unwrap();
}
