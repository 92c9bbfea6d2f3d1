//! A server dies, and another one takes over under the same guest.

use super::*;

impl Guest {
    /// The next server; the guest does not notice.
    fn server_dies(&mut self) {
        self.server = Server::open(&self.share(), false, OWNER, &Budget::of_files(100)).unwrap();
        self.server.take_over();
    }
}

#[test]
fn the_guest_finds_all_files_by_the_numbers_that_it_has() {
    let mut guest = Guest::new();
    let folder = guest.mkdir(ROOT, "folder").unwrap().node;
    let (file, _) = guest.create(folder, "file", 0o644).unwrap();
    guest.server_dies();
    // It begins from the one that it knows, and goes down.
    assert_eq!(guest.getattr(folder).unwrap_err(), libc::ESTALE);
    assert_eq!(guest.lookup(ROOT, "folder").unwrap().node, folder);
    assert_eq!(guest.lookup(folder, "file").unwrap(), file);
    let handle = guest.open(file.node, libc::O_RDWR).unwrap();
    guest.write(handle, 0, b"more", libc::O_RDWR).unwrap();
    assert_eq!(std::fs::read(guest.path("folder/file")).unwrap(), b"more");
    guest.forget(file.node, 100);
    guest.forget(u64::MAX, 1);
}

#[test]
fn what_was_open_is_nothing_else_now() {
    let mut guest = Guest::new();
    let (old, handle) = guest.create(ROOT, "old", 0o644).unwrap();
    for _ in 0..3 {
        guest.server_dies();
        let (_, other) = guest.create(ROOT, "other", 0o644).unwrap();
        assert_ne!(other, handle);
        assert_eq!(guest.write(handle, 0, b"lost", libc::O_RDWR).unwrap_err(), libc::EBADF);
        assert_eq!(guest.read(handle, 0, 10).unwrap_err(), libc::EBADF);
        assert_eq!(guest.release(handle).unwrap_err(), libc::EBADF);
    }
    assert_eq!(guest.getattr(old.node).unwrap_err(), libc::ESTALE);
    assert!(std::fs::read(guest.path("other")).unwrap().is_empty());
}
