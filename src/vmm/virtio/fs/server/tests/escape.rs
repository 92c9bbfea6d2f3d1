//! Ways out of the share, and around what it forbids.

use std::os::unix::fs::{FileTypeExt, MetadataExt, symlink};
use std::sync::atomic::{AtomicBool, Ordering};

use super::*;

/// A folder beside the share with a secret in it, and what is in it afterwards.
fn with_secret(guest: &Guest) -> PathBuf {
    let outside = guest.outer.path().join("outside");
    std::fs::create_dir(&outside).unwrap();
    std::fs::write(outside.join("secret"), "s").unwrap();
    outside
}

fn assert_untouched(outside: &Path) {
    let names: Vec<_> = std::fs::read_dir(outside).unwrap().map(|e| e.unwrap().file_name()).collect();
    assert_eq!(names, ["secret"]);
    assert_eq!(std::fs::read(outside.join("secret")).unwrap(), b"s");
}

#[test]
fn no_name_leads_up_or_down_or_from_the_root() {
    let mut guest = Guest::new();
    let outside = with_secret(&guest);
    std::fs::create_dir(guest.path("sub")).unwrap();
    std::fs::write(guest.path("sub/file"), "f").unwrap();
    let absolute = outside.join("secret");
    let sub = guest.lookup(ROOT, "sub").unwrap().node;
    let file = guest.lookup(sub, "file").unwrap().node;
    let long = "n".repeat(256);
    let names =
        ["", ".", "..", "../outside", "../outside/secret", "sub/file", "/", "/etc", "./sub", "sub/", &long];
    for name in names.into_iter().map(Path::new).chain([absolute.as_path()]) {
        for parent in [ROOT, sub] {
            let expected = if name == Path::new(&long) { libc::ENAMETOOLONG } else { libc::EINVAL };
            let text = name.to_str().unwrap();
            let failed = |result: Result<(), i32>| assert_eq!(result, Err(expected), "{text:?}");
            failed(guest.lookup(parent, name).map(drop));
            failed(guest.create(parent, name, 0o644).map(drop));
            failed(guest.mkdir(parent, name).map(drop));
            failed(guest.symlink(parent, text, "x").map(drop));
            failed(guest.unlink(parent, text));
            failed(guest.call(op::RMDIR, parent, &string(name)).map(drop));
            failed(guest.rename((sub, "file"), (parent, text), 0));
            failed(guest.rename((parent, text), (sub, "new"), 0));
            failed(guest.link(file, parent, text).map(drop));
        }
    }
    assert_eq!(std::fs::read(guest.path("sub/file")).unwrap(), b"f");
    assert_untouched(&outside);
}

#[test]
fn links_are_shown_and_never_followed() {
    let mut guest = Guest::new();
    let outside = with_secret(&guest);
    std::fs::write(guest.path("inside"), "i").unwrap();
    let targets = ["../outside", "../outside/secret", "/etc/passwd", "/", "inside", "/proc/self/root"];
    for (number, target) in targets.into_iter().enumerate() {
        let name = format!("link{number}");
        let link = guest.symlink(ROOT, &name, target).unwrap();
        assert_eq!(link.mode & libc::S_IFMT, libc::S_IFLNK);
        assert_eq!(guest.call(op::READLINK, link.node, &[]).unwrap(), target.as_bytes());
        // Not as a folder on the way.
        for file in ["secret", "passwd"] {
            assert_eq!(guest.lookup(link.node, file).unwrap_err(), libc::ENOTDIR);
        }
        assert_eq!(guest.create(link.node, "new", 0o644).unwrap_err(), libc::ENOTDIR);
        assert_eq!(guest.call(op::OPENDIR, link.node, &[0; 8]).unwrap_err(), libc::ENOTDIR);
        // Not as a file.
        for flags in [libc::O_RDONLY, libc::O_RDWR, libc::O_WRONLY | libc::O_TRUNC, libc::O_PATH] {
            assert_eq!(guest.open(link.node, flags).unwrap_err(), libc::EACCES);
        }
        let mut create = Answer::default();
        create.u32((libc::O_WRONLY | libc::O_TRUNC).cast_unsigned()).u32(0o644).u64(0).raw(&string(&name));
        assert_eq!(guest.call(op::CREATE, ROOT, create.bytes()).unwrap_err(), libc::EEXIST);
        assert_eq!(guest.setattr(link.node, super::abi::set::MODE, 0, 0o777).unwrap_err(), libc::EOPNOTSUPP);
        assert_eq!(guest.setattr(link.node, super::abi::set::SIZE, 0, 0).unwrap_err(), libc::EACCES);
        // Times are the link's own.
        let all = super::abi::set::ATIME | super::abi::set::MTIME;
        guest.setattr(link.node, all, 0, 0).unwrap();
        assert_eq!(std::fs::symlink_metadata(guest.path(&name)).unwrap().mtime(), 0);
        // One more name of the link is a name of the link.
        let again = guest.link(link.node, ROOT, &format!("again{number}")).unwrap();
        assert_eq!((again.node, again.mode), (link.node, link.mode));
    }
    assert_ne!(std::fs::metadata(outside.join("secret")).unwrap().mtime(), 0);
    assert_eq!(std::fs::read(guest.path("inside")).unwrap(), b"i");
    assert_untouched(&outside);
}

/// The host, or another guest of the same folder, puts a link where a folder or a file was, between two
/// requests: the guest still holds the number of what was there.
#[test]
fn a_folder_that_becomes_a_link_leads_nowhere() {
    let mut guest = Guest::new();
    let outside = with_secret(&guest);
    std::fs::create_dir_all(guest.path("a/b")).unwrap();
    std::fs::write(guest.path("a/b/secret"), "mine").unwrap();
    let a = guest.lookup(ROOT, "a").unwrap().node;
    let b = guest.lookup(a, "b").unwrap().node;
    let secret = guest.lookup(b, "secret").unwrap().node;
    let deep = |guest: &mut Guest| {
        [
            guest.lookup(b, "secret").map(drop),
            guest.open(secret, libc::O_RDWR).map(drop),
            guest.create(b, "new", 0o644).map(drop),
            guest.unlink(b, "secret"),
        ]
    };
    std::fs::rename(guest.path("a/b"), guest.path("a/old")).unwrap();
    symlink(&outside, guest.path("a/b")).unwrap();
    // As long as the folder is open, it is that folder.
    guest.lookup(b, "secret").unwrap();
    guest.mkdir(b, "made").unwrap();
    assert!(guest.path("a/old/made").exists());
    // Then each request walks anew.
    guest.server.nodes.close_folders();
    assert_eq!(deep(&mut guest), [Err(libc::ESTALE); 4]);
    std::fs::remove_file(guest.path("a/b")).unwrap();
    std::fs::rename(guest.path("a"), guest.path("gone")).unwrap();
    symlink("../outside", guest.path("a")).unwrap();
    guest.server.nodes.close_folders();
    assert_eq!(deep(&mut guest), [Err(libc::ESTALE); 4]);
    // The file itself becomes a link.
    std::fs::write(guest.path("file"), "f").unwrap();
    let file = guest.lookup(ROOT, "file").unwrap().node;
    std::fs::remove_file(guest.path("file")).unwrap();
    symlink("../outside/secret", guest.path("file")).unwrap();
    assert_eq!(guest.open(file, libc::O_RDWR | libc::O_TRUNC).unwrap_err(), libc::ESTALE);
    assert_eq!(guest.getattr(file).unwrap_err(), libc::ESTALE);
    assert_eq!(guest.setattr(file, super::abi::set::MODE, 0, 0o777).unwrap_err(), libc::ESTALE);
    assert_eq!(guest.link(file, ROOT, "copy").unwrap_err(), libc::ESTALE);
    assert_untouched(&outside);
}

/// Does `work` while another thread has two files change places all the time, also where `work` fails.
pub fn while_they_change_places<T>(one: &Path, other: &Path, work: impl FnOnce() -> T) -> T {
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                let flags = rustix::fs::RenameFlags::EXCHANGE;
                rustix::fs::renameat_with(rustix::fs::CWD, one, rustix::fs::CWD, other, flags).unwrap();
            }
        });
        let done = std::panic::catch_unwind(std::panic::AssertUnwindSafe(work));
        stop.store(true, Ordering::Relaxed);
        done.unwrap_or_else(|cause| std::panic::resume_unwind(cause))
    })
}

/// Somebody swaps a folder and a link for as long as the guest asks.
#[test]
fn a_race_of_renames_is_never_won() {
    let mut guest = Guest::new();
    let outside = with_secret(&guest);
    std::fs::create_dir(guest.path("folder")).unwrap();
    symlink(&outside, guest.path("link")).unwrap();
    let (folder, link) = (guest.path("folder"), guest.path("link"));
    let mut found = 0;
    while_they_change_places(&folder, &link, || {
        for _ in 0..5_000 {
            let Ok(seen) = guest.lookup(ROOT, "folder") else { continue };
            found += u32::from(guest.list(seen.node, false, 4096).is_ok());
            if let Ok(secret) = guest.lookup(seen.node, "secret") {
                panic!("the race is won: {secret:?}");
            }
            guest.forget(seen.node, 1);
        }
    });
    // Not for want of trying.
    assert!(found > 0);
    assert_untouched(&outside);
}

/// The same with a file and a link to the secret: nothing that changes a file by its number, or by its name, reaches
/// what the link points to.
#[test]
fn a_race_for_a_file_is_never_won() {
    let mut guest = Guest::new();
    let outside = with_secret(&guest);
    let secret = outside.join("secret");
    let before = std::fs::metadata(&secret).unwrap();
    std::fs::create_dir(guest.path("sub")).unwrap();
    std::fs::write(guest.path("sub/file"), "mine").unwrap();
    symlink(&secret, guest.path("sub/link")).unwrap();
    let sub = guest.lookup(ROOT, "sub").unwrap().node;
    let (file, link) = (guest.path("sub/file"), guest.path("sub/link"));
    let mut opened = 0;
    while_they_change_places(&file, &link, || {
        for round in 0..3_000 {
            let Ok(seen) = guest.lookup(sub, "file") else { continue };
            if let Ok(handle) = guest.open(seen.node, libc::O_RDWR | libc::O_TRUNC) {
                opened += 1;
                guest.write(handle, 0, b"mine", 0).unwrap();
                guest.release(handle).unwrap();
            }
            let _ = guest.setattr(seen.node, super::abi::set::MODE, 0, 0o777);
            let _ = guest.setattr(seen.node, super::abi::set::SIZE, 0, 0);
            let _ = guest.setattr(seen.node, super::abi::set::ATIME | super::abi::set::MTIME, 0, 0);
            if let Ok(more) = guest.link(seen.node, ROOT, "more") {
                // The link itself may get another name, what it points to may not.
                let kind = std::fs::symlink_metadata(guest.path("more")).unwrap();
                assert_ne!(kind.ino(), before.ino());
                guest.unlink(ROOT, "more").unwrap();
                guest.forget(more.node, 1);
            }
            if let Ok((made, handle)) = guest.create(sub, "file", 0o644) {
                guest.write(handle, 0, b"mine", 0).unwrap();
                guest.release(handle).unwrap();
                guest.forget(made.node, 1);
            }
            guest.forget(seen.node, 1);
            if round % 7 == 0 {
                guest.server.nodes.close_folders();
            }
        }
    });
    // Not for want of trying.
    assert!(opened > 0);
    let after = std::fs::metadata(&secret).unwrap();
    let told = |meta: &std::fs::Metadata| (meta.mode(), meta.mtime(), meta.nlink());
    assert_eq!(told(&after), told(&before));
    assert_untouched(&outside);
}

/// The guest itself moves a folder up and down while it names things in it: whatever becomes of the way, it ends in
/// the share.
#[test]
fn a_folder_that_moves_takes_nobody_out() {
    let mut guest = Guest::new();
    let outside = with_secret(&guest);
    std::fs::create_dir_all(guest.path("a/b/c")).unwrap();
    let a = guest.lookup(ROOT, "a").unwrap().node;
    let b = guest.lookup(a, "b").unwrap().node;
    let c = guest.lookup(b, "c").unwrap().node;
    guest.rename((b, "c"), (ROOT, "c"), 0).unwrap();
    for name in ["..", "../..", "../outside", "../../outside/secret"] {
        assert_eq!(guest.lookup(c, name).unwrap_err(), libc::EINVAL, "{name}");
    }
    // Into itself, over what is above it, and out by exchange.
    guest.rename((ROOT, "c"), (b, "c"), 0).unwrap();
    assert_eq!(guest.rename((ROOT, "a"), (c, "a"), 0).unwrap_err(), libc::EINVAL);
    assert_eq!(guest.rename((ROOT, "a"), (ROOT, ".."), 0).unwrap_err(), libc::EINVAL);
    assert_eq!(
        guest.rename((b, "c"), (ROOT, "../outside"), libc::RENAME_EXCHANGE).unwrap_err(),
        libc::EINVAL
    );
    // `..` in a listing is a name, and no file that the guest is told of.
    let listed = guest.list(c, true, 4096).unwrap();
    assert_eq!(listed, [(b".".to_vec(), 0), (b"..".to_vec(), 0)]);
    assert_untouched(&outside);
}

#[test]
fn what_was_never_told_or_is_forgotten_is_not_there() {
    let mut guest = Guest::new();
    std::fs::write(guest.path("file"), "f").unwrap();
    let file = guest.lookup(ROOT, "file").unwrap().node;
    let handle = guest.open(file, libc::O_RDONLY).unwrap();
    for node in [0, 7, file + 1, u64::MAX] {
        assert_eq!(guest.getattr(node).unwrap_err(), libc::ESTALE);
        assert_eq!(guest.lookup(node, "file").unwrap_err(), libc::ESTALE);
        assert_eq!(guest.open(node, 0).unwrap_err(), libc::ESTALE);
        guest.forget(node, u64::MAX);
    }
    for other in [0, handle + 1, u64::MAX] {
        assert_eq!(guest.read(other, 0, 1).unwrap_err(), libc::EBADF);
        assert_eq!(guest.write(other, 0, b"x", 0).unwrap_err(), libc::EBADF);
        assert_eq!(guest.release(other).unwrap_err(), libc::EBADF);
    }
    // A handle to read is none to write, and none of a folder.
    assert_eq!(guest.write(handle, 0, b"x", 0).unwrap_err(), libc::EBADF);
    assert_eq!(guest.call(op::READDIR, file, &[0; 40]).unwrap_err(), libc::EBADF);
    guest.forget(file, 1);
    assert_eq!(guest.open(file, 0).unwrap_err(), libc::ESTALE);
    assert_eq!(std::fs::read(guest.path("file")).unwrap(), b"f");
}

#[test]
fn what_is_no_file_is_not_opened() {
    let mut guest = Guest::new();
    let fifo = |guest: &mut Guest, name: &str, kind: u32| {
        let mut body = Answer::default();
        body.u32(kind | 0o666).u32(0x0103).u32(0).u32(0).raw(&string(name));
        guest.call(op::MKNOD, ROOT, body.bytes()).map(|answer| entry(&answer))
    };
    let pipe = fifo(&mut guest, "pipe", libc::S_IFIFO).unwrap();
    let socket = fifo(&mut guest, "socket", libc::S_IFSOCK).unwrap();
    fifo(&mut guest, "file", libc::S_IFREG).unwrap();
    for kind in [libc::S_IFCHR, libc::S_IFBLK, libc::S_IFDIR, libc::S_IFLNK, 0] {
        assert_eq!(fifo(&mut guest, "device", kind).unwrap_err(), libc::EPERM);
    }
    assert!(std::fs::symlink_metadata(guest.path("pipe")).unwrap().file_type().is_fifo());
    // Both would wait, or fail in other ways.
    for node in [pipe.node, socket.node] {
        for flags in [libc::O_RDONLY, libc::O_WRONLY, libc::O_RDWR] {
            assert_eq!(guest.open(node, flags).unwrap_err(), libc::EACCES);
        }
    }
    assert_eq!(guest.create(ROOT, "pipe", 0o644).unwrap_err(), libc::EEXIST);
    guest.setattr(pipe.node, super::abi::set::MODE, 0, 0o600).unwrap();
    assert_eq!(std::fs::symlink_metadata(guest.path("pipe")).unwrap().mode() & 0o7777, 0o600);
}

#[test]
fn a_share_for_reading_is_not_changed() {
    let mut guest = Guest::with(true, MANY, MAX_HANDLES);
    std::fs::write(guest.path("file"), "f").unwrap();
    std::fs::create_dir(guest.path("sub")).unwrap();
    let file = guest.lookup(ROOT, "file").unwrap().node;
    let handle = guest.open(file, libc::O_RDONLY).unwrap();
    assert_eq!(guest.read(handle, 0, 10).unwrap(), b"f");
    let refused = |result: Result<(), i32>| assert_eq!(result, Err(libc::EROFS));
    for flags in [libc::O_WRONLY, libc::O_RDWR, libc::O_RDONLY | libc::O_TRUNC] {
        refused(guest.open(file, flags).map(drop));
    }
    refused(guest.create(ROOT, "file", 0o644).map(drop));
    refused(guest.create(ROOT, "new", 0o644).map(drop));
    refused(guest.mkdir(ROOT, "new").map(drop));
    refused(guest.symlink(ROOT, "new", "x").map(drop));
    refused(guest.link(file, ROOT, "new").map(drop));
    refused(guest.rename((ROOT, "file"), (ROOT, "new"), 0));
    refused(guest.unlink(ROOT, "file"));
    refused(guest.call(op::RMDIR, ROOT, &string("sub")).map(drop));
    refused(guest.call(op::MKNOD, ROOT, &[0; 20]).map(drop));
    refused(guest.write(handle, 0, b"x", 0).map(drop));
    refused(guest.call(op::FALLOCATE, file, &[0; 32]).map(drop));
    refused(guest.call(op::COPY_FILE_RANGE, file, &[0; 56]).map(drop));
    for valid in [super::abi::set::MODE, super::abi::set::SIZE, super::abi::set::MTIME, 0] {
        refused(guest.setattr(file, valid, 0, 0).map(drop));
    }
    assert_eq!(std::fs::read(guest.path("file")).unwrap(), b"f");
    assert_eq!(std::fs::read_dir(guest.share()).unwrap().count(), 2);
}

#[test]
fn no_program_runs_as_somebody_else() {
    let mut guest = Guest::new();
    let (file, _) = guest.create(ROOT, "program", 0o6755).unwrap();
    let mode = |guest: &Guest, name: &str| std::fs::metadata(guest.path(name)).unwrap().mode() & 0o7777;
    assert_eq!(mode(&guest, "program"), 0o755);
    let seen = guest.setattr(file.node, super::abi::set::MODE, 0, 0o7711).unwrap();
    assert_eq!((mode(&guest, "program"), seen.mode & 0o7777), (0o1711, 0o1711));
}
