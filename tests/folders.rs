//! Copies of folders, over real SSH servers on loopback: this host is its own guest.

mod ssh_support;

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use rvm::machine::MachineError;
use rvm::machine::folders::{FolderError, Job, Route, Sent, Ways, copy};
use rvm::model::{Cancel, Owner};
use rvm::ssh::Session;
use ssh_support::Server;

/// A folder of the host, and where its copy goes.
struct Place {
    server: Server,
    session: Session,
    dir: tempfile::TempDir,
    ssh: Route,
    exclude: Vec<String>,
}

/// What one copy is to be like.
#[derive(Default)]
struct Wish {
    guest: Option<PathBuf>,
    keep: bool,
    owner: Option<Owner>,
}

/// How copies are made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    Rsync,
    Own,
}

impl Place {
    fn new() -> Place {
        let server = Server::sshd("");
        let session = server.connect();
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("host")).unwrap();
        let known = server.dir().join("known_hosts");
        let line = rvm::ssh::known_hosts_line(server.addr.ip(), server.addr.port(), &server.host_key);
        fs::write(&known, line).unwrap();
        let option = |text: String| ["-o".to_owned(), text];
        let ssh = [
            option(format!("Port {}", server.addr.port())),
            option(format!("UserKnownHostsFile {}", known.display())),
            option("StrictHostKeyChecking yes".into()),
            option(format!("IdentityFile \"{}\"", server.key().display())),
            option("IdentitiesOnly yes".into()),
            option(format!("User {}", ssh_support::user_name())),
        ];
        let words = ssh.into_iter().flatten().chain(["127.0.0.1".to_owned()]).collect();
        let ssh = Route { words, files: vec![known, server.key()] };
        Place { server, session, dir, ssh, exclude: Vec::new() }
    }

    fn host(&self) -> PathBuf {
        self.dir.path().join("host")
    }

    /// With what a shell would take for something else.
    fn guest(&self) -> PathBuf {
        self.dir.path().join("guest it's $HOME")
    }

    fn write(&self, name: impl AsRef<OsStr>, text: &str) {
        let path = self.host().join(Path::new(name.as_ref()));
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    fn try_copy(&self, way: Way, wish: &Wish) -> Result<Sent, MachineError> {
        let (host, guest) = (self.host(), wish.guest.clone().unwrap_or(self.guest()));
        let hidden = [PathBuf::from(".env")];
        let job = Job {
            host: &host,
            guest: guest.to_str().unwrap(),
            exclude: &self.exclude,
            hidden: &hidden,
            delete: !wish.keep,
            owner: wish.owner.as_ref(),
        };
        let ways = match way {
            Way::Rsync => Ways { path: "/usr/local/bin:/usr/bin:/bin", ssh: Some(&self.ssh) },
            Way::Own => Ways { path: "/nowhere", ssh: Some(&self.ssh) },
        };
        let sent = copy(&self.session, "web", &job, ways, &|_, _| (), &Cancel::new())?;
        assert_eq!(sent.without.is_none(), way == Way::Rsync, "{sent:?}\n{}", self.server.log());
        Ok(sent)
    }

    fn copy(&self, way: Way) -> Sent {
        self.try_copy(way, &Wish::default()).unwrap_or_else(|error| panic!("{way:?}: {error}"))
    }
}

/// The package rsync is one of those that the tests need.
const WAYS: [Way; 2] = [Way::Rsync, Way::Own];

/// What there is below a folder: permissions, and the content or target.
fn tree(root: &Path) -> BTreeMap<PathBuf, String> {
    let mut found = BTreeMap::new();
    let mut open = vec![root.to_owned()];
    while let Some(folder) = open.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            let meta = fs::symlink_metadata(&path).unwrap();
            let mode = meta.permissions().mode() & 0o7777;
            let what = if meta.is_symlink() {
                format!("link to {}", fs::read_link(&path).unwrap().display())
            } else if meta.is_dir() {
                open.push(path.clone());
                format!("folder {mode:o}")
            } else {
                let text = String::from_utf8_lossy(&fs::read(&path).unwrap()).into_owned();
                format!("file {mode:o} {} {text}", meta.mtime())
            };
            found.insert(path.strip_prefix(root).unwrap().to_owned(), what);
        }
    }
    found
}

#[test]
fn a_copy_is_like_its_original_and_the_second_one_sends_nothing() {
    for way in WAYS {
        let place = Place::new();
        place.write("a/b/file", "content");
        place.write("empty", "");
        place.write("it's $HOME; \"x\"\nline", "odd");
        place.write("-rf", "dash");
        place.write(OsStr::from_bytes(b"caf\xe9"), "no UTF-8");
        place.write(format!("{}/{}", "long".repeat(30), "name".repeat(50)), "long");
        fs::create_dir(place.host().join("hollow")).unwrap();
        fs::set_permissions(place.host().join("empty"), fs::Permissions::from_mode(0o750)).unwrap();
        symlink("a/b/file", place.host().join("link")).unwrap();
        symlink("../outside/./x", place.host().join("loose")).unwrap();
        symlink("/".to_owned() + &"deep/".repeat(40), place.host().join("far")).unwrap();
        let sent = place.copy(way);
        assert_eq!(sent.warnings, Vec::<String>::new(), "{way:?}");
        assert_eq!(tree(&place.host()), tree(&place.guest()), "{way:?}");
        let sent = place.copy(way);
        assert_eq!((sent.files, sent.removed), (0, 0), "{way:?}: {sent:?}");
    }
}

#[test]
fn changes_follow_and_what_is_gone_goes() {
    for way in WAYS {
        let place = Place::new();
        for name in ["same", "longer", "touched", "to-folder", "gone", "sub/gone", "to-file/in"] {
            place.write(name, "x");
        }
        place.copy(way);
        let host = place.host();
        place.write("longer", "xyz");
        let file = fs::File::options().write(true).open(host.join("touched")).unwrap();
        file.set_modified(std::time::SystemTime::UNIX_EPOCH).unwrap();
        fs::remove_file(host.join("gone")).unwrap();
        fs::remove_dir_all(host.join("sub")).unwrap();
        fs::remove_file(host.join("to-folder")).unwrap();
        place.write("to-folder/in", "now a folder");
        fs::remove_dir_all(host.join("to-file")).unwrap();
        place.write("to-file", "now a file");
        // What the guest made of its own goes too, also what would lead out of the folder.
        let outside = place.dir.path().join("outside");
        fs::create_dir(&outside).unwrap();
        fs::write(outside.join("precious"), "").unwrap();
        fs::create_dir(place.guest().join("build")).unwrap();
        fs::write(place.guest().join("build/made there"), "").unwrap();
        symlink(&outside, place.guest().join("leads out")).unwrap();
        let sent = place.copy(way);
        assert_eq!(tree(&host), tree(&place.guest()), "{way:?}");
        assert!(sent.files >= 3 && sent.removed >= 4, "{way:?}: {sent:?}");
        assert!(outside.join("precious").exists());
    }
}

#[test]
fn what_is_left_out_is_neither_copied_nor_removed() {
    for way in WAYS {
        let mut place = Place::new();
        place.exclude = ["*.o", "/target/", "docs/*.tmp"].map(str::to_owned).into();
        for name in ["a.o", "target/x", "sub/target/x", "docs/a.tmp", ".env", "sub/.env", ".rvm/id", "file"] {
            place.write(name, "x");
        }
        fs::create_dir_all(place.guest().join("target")).unwrap();
        fs::write(place.guest().join("target/of the guest"), "").unwrap();
        fs::write(place.guest().join("own.o"), "").unwrap();
        fs::write(place.guest().join("stray"), "").unwrap();
        place.copy(way);
        let names: Vec<_> = tree(&place.guest()).into_keys().map(|p| p.display().to_string()).collect();
        let expected = [
            "docs",
            "file",
            "own.o",
            "sub",
            "sub/.env",
            "sub/target",
            "sub/target/x",
            "target",
            "target/of the guest",
        ];
        assert_eq!(names, expected, "{way:?}");
    }
}

#[test]
fn without_delete_the_guest_keeps_what_is_its_own() {
    for way in WAYS {
        let place = Place::new();
        place.write("file", "x");
        fs::create_dir_all(place.guest().join("own")).unwrap();
        let sent = place.try_copy(way, &Wish { keep: true, ..Wish::default() }).unwrap();
        assert_eq!(sent.removed, 0);
        assert!(place.guest().join("own").is_dir() && place.guest().join("file").exists(), "{way:?}");
    }
}

#[test]
fn the_owner_has_it_or_is_named_as_missing() {
    if !rustix::process::geteuid().is_root() {
        eprintln!("not run: only root gives files away");
        return;
    }
    for way in WAYS {
        let place = Place::new();
        place.write("sub/file", "x");
        let owner = |user: &str, group: Option<&str>| {
            let owner = Owner { user: user.into(), group: group.map(str::to_owned) };
            Wish { owner: Some(owner), ..Wish::default() }
        };
        place.try_copy(way, &owner("daemon", Some("12345"))).unwrap();
        for name in ["", "sub", "sub/file"] {
            let meta = fs::metadata(place.guest().join(name)).unwrap();
            assert_eq!((meta.uid(), meta.gid()), (1, 12345), "{way:?}: {name}");
        }
        let error = place.try_copy(way, &owner("no-such-user", None)).unwrap_err();
        assert!(error.to_string().contains("the guest has no user or group no-such-user"), "{error}");
    }
}

#[test]
fn a_folder_of_the_host_that_vanished_removes_nothing_in_the_guest() {
    for way in WAYS {
        let place = Place::new();
        place.write("file", "x");
        place.copy(way);
        let host = place.host();
        fs::remove_dir_all(&host).unwrap();
        let gone = place.try_copy(way, &Wish::default()).unwrap_err();
        assert!(matches!(gone, MachineError::Folder(FolderError::Host { .. })), "{gone}");
        fs::write(&host, "").unwrap();
        let error = place.try_copy(way, &Wish::default()).unwrap_err().to_string();
        assert!(error.ends_with("it is not a folder"), "{error}");
        assert!(place.guest().join("file").exists());
    }
}

#[test]
fn a_guest_where_it_cannot_be_says_why() {
    for way in WAYS {
        let place = Place::new();
        place.write("file", "x");
        fs::write(place.guest(), "a file").unwrap();
        let error = place.try_copy(way, &Wish::default()).unwrap_err();
        assert!(error.to_string().contains("is not a folder there"), "{way:?}: {error}");
        assert_eq!(fs::read_to_string(place.guest()).unwrap(), "a file");
    }
}

/// A guest that shares the folder, too, swaps a folder in it and a link out of it, for as long as it is copied.
#[test]
fn a_race_of_renames_copies_nothing_from_outside() {
    let swap = |one: &Path, other: &Path| {
        let flags = rustix::fs::RenameFlags::EXCHANGE;
        rustix::fs::renameat_with(rustix::fs::CWD, one, rustix::fs::CWD, other, flags).unwrap();
    };
    for way in WAYS {
        let place = Place::new();
        let outside = place.dir.path().join("outside");
        fs::create_dir(&outside).unwrap();
        for n in 0..200 {
            place.write(format!("a/{n}"), "mine");
            fs::write(outside.join(n.to_string()), "theirs").unwrap();
        }
        symlink("../outside", place.host().join("link")).unwrap();
        // Where the link leads nowhere.
        let guest = place.dir.path().join("deep/guest");
        let wish = Wish { guest: Some(guest.clone()), ..Wish::default() };
        let (swapping, mut mine) = (AtomicBool::new(true), 0);
        std::thread::scope(|scope| {
            let stop = Stop(&swapping);
            scope.spawn(|| {
                while swapping.load(Ordering::Relaxed) {
                    swap(&place.host().join("a"), &place.host().join("link"));
                }
            });
            for _ in 0..8 {
                // What is in the way of it may make one fail.
                let _ = place.try_copy(way, &wish);
                let found = tree(&guest);
                let out = found.iter().find(|(_, what)| what.ends_with("theirs"));
                assert_eq!(out, None, "{way:?}");
                mine += found.values().filter(|what| what.ends_with("mine")).count();
            }
            drop(stop);
        });
        assert!(mine > 0, "{way:?}: not for want of trying");
    }
}

/// Ends the other thread, also where this one fails.
struct Stop<'a>(&'a AtomicBool);

impl Drop for Stop<'_> {
    fn drop(&mut self) {
        self.0.store(false, Ordering::Relaxed);
    }
}

/// A full disk on the side of the guest: a small file system of this test's own.
#[test]
fn a_full_disk_is_named() {
    use std::process::Command;
    let place = Place::new();
    place.write("large", &"x".repeat(3 << 20));
    let small = place.dir.path().join("small");
    fs::create_dir(&small).unwrap();
    let mount = |words: &[&str]| {
        Command::new(words[0]).args(&words[1..]).arg(&small).status().is_ok_and(|status| status.success())
    };
    if !mount(&["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs"]) {
        eprintln!("not run: it needs the right to mount");
        return;
    }
    let wish = Wish { guest: Some(small.join("guest")), ..Wish::default() };
    let results = WAYS.map(|way| place.try_copy(way, &wish));
    assert!(mount(&["umount"]));
    for result in results {
        let error = result.unwrap_err();
        assert!(error.to_string().contains("No space left"), "{error}");
        assert!(error.hint().unwrap().contains("disk is full"));
    }
}

#[test]
fn another_name_of_an_env_file_is_not_copied_either() {
    let place = Place::new();
    place.write(".env", "SECRET=1");
    place.write("file", "x");
    fs::hard_link(place.host().join(".env"), place.host().join("again")).unwrap();
    let hidden = [PathBuf::from(".env")];
    let (host, guest) = (place.host(), place.guest());
    let guest = guest.to_str().unwrap();
    let job = Job { host: &host, guest, exclude: &[], hidden: &hidden, delete: true, owner: None };
    let ways = Ways { path: "/usr/bin:/bin", ssh: Some(&place.ssh) };
    let sent = copy(&place.session, "web", &job, ways, &|_, _| (), &Cancel::new()).unwrap();
    assert!(sent.without.unwrap().contains("other names"), "{sent:?}");
    assert_eq!(tree(&place.guest()).into_keys().collect::<Vec<_>>(), [Path::new("file")]);
}

#[test]
fn what_cannot_be_read_is_told_and_removes_nothing() {
    let place = Place::new();
    place.write("file", "x");
    let _socket = std::os::unix::net::UnixListener::bind(place.host().join("socket")).unwrap();
    fs::create_dir_all(place.guest().join("own")).unwrap();
    let sent = place.copy(Way::Own);
    let told = sent.warnings.join("\n");
    assert!(told.contains("socket: it is neither file nor folder nor link"), "{told}");
    assert!(told.contains("nothing was removed"), "{told}");
    assert!(place.guest().join("own").exists() && place.guest().join("file").exists());
}
