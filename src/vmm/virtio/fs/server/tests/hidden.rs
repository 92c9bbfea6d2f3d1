//! Names that the guest is not to know.

use super::*;

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
    let plain = guest.lookup(ROOT, "plain").unwrap().node;
    assert_eq!(guest.lookup(ROOT, ".env"), Err(libc::ENOENT));
    // The same name elsewhere is another one.
    assert_eq!(guest.lookup(sub, ".env").unwrap().size, 8);
    for plus in [false, true] {
        let names: Vec<Vec<u8>> =
            guest.list(ROOT, plus, 4096).unwrap().into_iter().map(|(name, _)| name).collect();
        assert_eq!(names, [&b"."[..], b"..", b"plain", b"sub"]);
    }
    // Nor can it be made, moved, replaced or removed.
    let refused = |result: Result<(), i32>| assert_eq!(result, Err(libc::EACCES));
    refused(guest.create(sub, "later", 0o644).map(drop));
    refused(guest.mkdir(sub, "later").map(drop));
    refused(guest.symlink(sub, "later", "x").map(drop));
    refused(guest.link(plain, sub, "later").map(drop));
    refused(guest.unlink(ROOT, ".env"));
    refused(guest.rename((ROOT, ".env"), (ROOT, "shown"), 0));
    refused(guest.rename((ROOT, "plain"), (ROOT, ".env"), 0));
    refused(guest.rename((ROOT, "plain"), (ROOT, ".env"), libc::RENAME_EXCHANGE));
    assert_eq!(std::fs::read(guest.path(".env")).unwrap(), b"SECRET=1");
    // A folder that is moved takes its hidden names with it.
    guest.rename((ROOT, "sub"), (ROOT, "moved"), 0).unwrap();
    std::fs::write(guest.path("moved/later"), "x").unwrap();
    assert_eq!(guest.lookup(sub, "later"), Err(libc::ENOENT));
}
