//! The guest's agent hears of what the host changes, and is helped to make events of it.

use std::io::{Read, Write};
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::UnixStream;
use std::process::Command;
use std::thread::JoinHandle;
use std::time::Duration;

use super::*;
use crate::vmm::virtio::fs::Feed;

/// The agent's groups (`guest/agent/changes.rs`).
const LOOK: u32 = 0x7276_6d00;
const MAKE: u32 = LOOK + 1;
const REMOVE_FILE: u32 = LOOK + 2;
const REMOVE_FOLDER: u32 = LOOK + 3;

/// The agent.
struct Agent {
    feed: Feed,
    stream: UnixStream,
    telling: Option<JoinHandle<()>>,
}

impl Agent {
    fn of(guest: &mut Guest) -> Self {
        let feed = Feed::new().unwrap();
        guest.server.tell(&feed, "tag");
        let (mut stream, theirs) = UnixStream::pair().unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        stream.write_all(&[1]).unwrap();
        feed.connect(theirs).unwrap();
        let telling = feed.clone();
        let telling = Some(std::thread::spawn(move || telling.run().unwrap()));
        // What it is greeted with says that it is heard.
        let mut greeting = [1; 2];
        stream.read_exact(&mut greeting).unwrap();
        assert_eq!(greeting, [0, 0]);
        Self { feed, stream, telling }
    }

    /// The next message, answered: what, the number of the file that left, the path.
    fn next(&mut self) -> (String, u64, String) {
        let mut message = Vec::new();
        while !message.ends_with(b"\0\0") || message == b"\0\0" {
            if message == b"\0\0" {
                message.clear();
            }
            let mut byte = [0];
            self.stream.read_exact(&mut byte).unwrap();
            message.push(byte[0]);
        }
        self.stream.write_all(b"\0").unwrap();
        let text = String::from_utf8(message).unwrap();
        let fields: Vec<&str> = text.trim_end_matches('\0').split('\0').collect();
        let [what, left, tag, path] = fields[..] else { panic!("{fields:?}") };
        assert_eq!(tag, "tag");
        (what.to_owned(), left.parse().unwrap(), path.to_owned())
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        self.feed.quit();
        self.telling.take().unwrap().join().unwrap();
    }
}

impl Guest {
    /// Another process does something in the shared folder; gives what the agent hears first.
    fn host(&mut self, agent: &mut Agent, script: &str) -> (String, u64, String) {
        self.host_quietly(script);
        agent.next()
    }

    fn host_quietly(&mut self, script: &str) {
        let status = Command::new("sh").args(["-ec", script]).current_dir(self.share()).status().unwrap();
        assert!(status.success(), "{script}: {status}");
        while !self.server.hear() {}
    }

    /// Asks as a user of that group.
    fn as_group<T>(&mut self, group: u32, ask: impl FnOnce(&mut Self) -> T) -> T {
        self.group = group;
        let answer = ask(self);
        self.group = 0;
        answer
    }

    fn mknod(&mut self, parent: u64, name: &str) -> Result<Seen, i32> {
        let mut body = Answer::default();
        body.u32(libc::S_IFREG | 0o644).u32(0).u32(0).u32(0).raw(&string(name));
        self.call(op::MKNOD, parent, body.bytes()).map(|answer| entry(&answer))
    }

    fn rmdir(&mut self, parent: u64, name: &str) -> Result<(), i32> {
        self.call(op::RMDIR, parent, &string(name)).map(drop)
    }
}

fn heard(what: &str, left: u64, path: &str) -> (String, u64, String) {
    (what.to_owned(), left, path.to_owned())
}

#[test]
fn what_the_host_does_is_told() {
    let mut guest = Guest::new();
    let agent = &mut Agent::of(&mut guest);
    guest.host_quietly("mkdir sub other; echo 1 >sub/known");
    assert_eq!([agent.next(), agent.next()], [heard("d", 0, "sub"), heard("d", 0, "other")]);
    let sub = guest.lookup(ROOT, "sub").unwrap().node;
    let known = guest.lookup(sub, "known").unwrap().node;

    assert_eq!(guest.host(agent, "echo 2 >>sub/known"), heard("m", 0, "sub/known"));
    assert_eq!(guest.host(agent, "chmod 600 sub/known"), heard("a", 0, "sub/known"));
    // How editors save, and what they leave no trace of.
    assert_eq!(
        guest.host(agent, "echo 3 >sub/.tmp; mv sub/.tmp sub/known"),
        heard("rfs", known, "sub/known")
    );
    assert_eq!(guest.host(agent, "echo 1 >sub/new"), heard("fm", 0, "sub/new"));
    // A program of the guest was faster.
    guest.host_quietly("true");
    let known = guest.lookup(sub, "known").unwrap().node;
    assert_eq!(guest.host(agent, "echo 2 >>sub/known"), heard("m", 0, "sub/known"));
    assert_eq!(guest.host(agent, "rm sub/known"), heard("rs", known, "sub/known"));
    // What was never looked at, and links, and what is neither.
    assert_eq!(guest.host(agent, "rm sub/new"), heard("r", 0, "sub/new"));
    assert_eq!(guest.host(agent, "ln -s nowhere link"), heard("l", 0, "link"));
    assert_eq!(guest.host(agent, "mkfifo pipe"), heard("o", 0, "pipe"));
    // Nobody in the guest knows that folder, so nobody watches it.
    guest.host_quietly("echo 1 >other/file");
    guest.host_quietly("mv sub moved");
    assert_eq!([agent.next(), agent.next()], [heard("Rs", sub, "sub"), heard("d", 0, "moved")]);
    let moved = guest.lookup(ROOT, "moved").unwrap().node;
    assert_eq!(moved, sub);
    assert_eq!(guest.host(agent, "echo 1 >moved/file"), heard("fm", 0, "moved/file"));
    assert_eq!(guest.host(agent, "rmdir other 2>/dev/null || rm -r other"), heard("R", 0, "other"));
}

#[test]
fn what_the_guest_does_is_not_told() {
    let mut guest = Guest::new();
    let agent = &mut Agent::of(&mut guest);
    let folder = guest.mkdir(ROOT, "folder").unwrap().node;
    let (file, handle) = guest.create(folder, "file", 0o644).unwrap();
    guest.write(handle, 0, b"text", 0).unwrap();
    guest.setattr(file.node, abi::set::MODE, 0, 0o600).unwrap();
    guest.setattr(file.node, abi::set::SIZE, 2, 0).unwrap();
    guest.symlink(folder, "link", "file").unwrap();
    guest.link(file.node, folder, "hard").unwrap();
    guest.rename((folder, "file"), (ROOT, "moved"), 0).unwrap();
    guest.unlink(folder, "hard").unwrap();
    guest.unlink(folder, "link").unwrap();
    guest.rmdir(ROOT, "folder").unwrap();
    guest.unlink(ROOT, "moved").unwrap();
    // What it removed is new when the host makes it.
    assert_eq!(guest.host(agent, ": >moved"), heard("f", 0, "moved"));
}

#[test]
fn what_is_hidden_is_not_told() {
    let mut guest = Guest::new();
    guest.host_quietly("echo secret >.env; ln .env copy; : >end");
    guest.server.hide(Path::new(".env"));
    let agent = &mut Agent::of(&mut guest);
    guest.host_quietly("echo more >>.env; mv .env .old; mv .old .env; chmod 600 copy; echo more >>copy");
    assert_eq!(guest.host(agent, "chmod 600 end"), heard("a", 0, "end"));
}

#[test]
fn folders_that_were_forgotten_are_watched_no_more() {
    let mut guest = Guest::new();
    let agent = &mut Agent::of(&mut guest);
    let many = 3000;
    guest.host_quietly(&format!("mkdir -p deep/er; cd deep/er; seq {many} | xargs mkdir"));
    let deep = guest.lookup(ROOT, "deep").unwrap().node;
    let deeper = guest.lookup(deep, "er").unwrap().node;
    assert_eq!(agent.next(), heard("d", 0, "deep"));
    // So that most cannot be found by their folder when they are forgotten.
    let nodes: Vec<u64> =
        (1..=many).map(|name| guest.lookup(deeper, name.to_string()).unwrap().node).collect();
    assert_eq!(guest.server.watched(), 1 + 2 + many);
    guest.host_quietly("mv deep away");
    assert_eq!([agent.next(), agent.next()], [heard("Rs", deep, "deep"), heard("d", 0, "away")]);
    nodes.iter().skip(1).for_each(|node| guest.forget(*node, 1));
    assert_eq!(guest.server.watched(), 1 + 2 + 1);
    // The kernel, too, was told: those that it watches to no end are few.
    assert!(guest.server.watched_to_no_end() < many / 2);
    guest.lookup(ROOT, "away").unwrap();
    assert_eq!(guest.host(agent, ": >away/er/1/file"), heard("f", 0, "away/er/1/file"));
    guest.host_quietly(": >away/er/2/file");
    assert_eq!(guest.host(agent, ": >end"), heard("f", 0, "end"));
}

/// The guest forgets a folder long after another one has its name.
#[test]
fn a_folder_that_was_replaced_is_watched() {
    let mut guest = Guest::new();
    let agent = &mut Agent::of(&mut guest);
    guest.host_quietly("mkdir folder");
    assert_eq!(agent.next(), heard("d", 0, "folder"));
    let old = guest.lookup(ROOT, "folder").unwrap().node;
    assert_eq!(guest.host(agent, "rmdir folder; mkdir folder"), heard("Rds", old, "folder"));
    let new = guest.lookup(ROOT, "folder").unwrap().node;
    assert_ne!(new, old);
    guest.forget(old, 1);
    assert_eq!(guest.host(agent, ": >folder/file"), heard("f", 0, "folder/file"));
    // One that the guest itself removes, and has again.
    guest.unlink(new, "file").unwrap();
    guest.rmdir(ROOT, "folder").unwrap();
    let third = guest.mkdir(ROOT, "folder").unwrap().node;
    guest.forget(new, 1);
    assert_eq!(guest.server.watched_to_no_end(), 1, "the one that the host removed");
    assert_ne!(third, new);
    assert_eq!(guest.host(agent, ": >folder/file"), heard("f", 0, "folder/file"));
}

#[test]
fn a_guest_that_begins_again_is_told_again() {
    let mut guest = Guest::new();
    let agent = &mut Agent::of(&mut guest);
    guest.host_quietly("mkdir sub");
    assert_eq!(agent.next(), heard("d", 0, "sub"));
    guest.lookup(ROOT, "sub").unwrap();
    guest.start();
    guest.host_quietly(": >sub/file");
    assert_eq!(guest.host(agent, ": >end"), heard("f", 0, "end"));
}

#[test]
fn something_seems_to_be_made_only_once_and_nothing_is() {
    for read_only in [false, true] {
        let mut guest = Guest::with(read_only, MANY, MAX_HANDLES);
        let _agent = Agent::of(&mut guest);
        guest.host_quietly("echo text >file; mkdir folder; ln -s file link");
        let before = |guest: &Guest, name: &str| {
            let meta = std::fs::symlink_metadata(guest.path(name)).unwrap();
            (meta.ino(), meta.mode(), meta.ctime_nsec())
        };
        let all = ["file", "folder", "link"].map(|name| before(&guest, name));
        for name in ["file", "folder", "link"] {
            assert_eq!(guest.as_group(MAKE, |guest| guest.lookup(ROOT, name)).unwrap_err(), libc::ENOENT);
        }
        let file = guest.as_group(MAKE, |guest| guest.mknod(ROOT, "file")).unwrap();
        let folder = guest.as_group(MAKE, |guest| guest.mkdir(ROOT, "folder")).unwrap();
        let link = guest.as_group(MAKE, |guest| guest.symlink(ROOT, "link", ".")).unwrap();
        for (name, made) in [("file", file), ("folder", folder), ("link", link)] {
            assert_eq!(guest.lookup(ROOT, name).unwrap(), made);
            // From now on it is known, and there.
            assert_eq!(guest.as_group(MAKE, |guest| guest.lookup(ROOT, name)).unwrap(), made);
        }
        assert_eq!(["file", "folder", "link"].map(|name| before(&guest, name)), all);
        // One of another kind would never be forgotten.
        let files = guest.server.known();
        guest.host_quietly("mkfifo pipe");
        for group in [MAKE, LOOK] {
            assert_eq!(guest.as_group(group, |guest| guest.mknod(ROOT, "pipe")).unwrap_err(), libc::EEXIST);
            assert_eq!(guest.as_group(group, |guest| guest.mkdir(ROOT, "pipe")).unwrap_err(), libc::EEXIST);
        }
        assert_eq!(guest.server.known(), files);
        // What went meanwhile is not made.
        assert_eq!(guest.as_group(MAKE, |guest| guest.mknod(ROOT, "gone")).unwrap_err(), libc::ENOENT);
        assert_eq!(guest.as_group(MAKE, |guest| guest.mkdir(ROOT, "gone")).unwrap_err(), libc::ENOENT);
        assert!(!guest.path("gone").exists());
    }
}

#[test]
fn something_seems_to_be_removed_and_nothing_is() {
    for read_only in [false, true] {
        let mut guest = Guest::with(read_only, MANY, MAX_HANDLES);
        let agent = &mut Agent::of(&mut guest);
        guest.host_quietly("echo text >file; echo text >stays");
        assert_eq!([agent.next(), agent.next()], [heard("fm", 0, "file"), heard("fm", 0, "stays")]);
        for name in ["file", "stays"] {
            guest.lookup(ROOT, name).unwrap();
        }
        assert!(guest.host(agent, "rm file").0.starts_with('r'));
        // The guest still believes that it is there, gives that up, and finds what is to be removed.
        let remove = |guest: &mut Guest| guest.unlink(ROOT, "file");
        assert_eq!(guest.as_group(REMOVE_FILE, remove).unwrap_err(), libc::EINTR);
        let ghost = guest.as_group(REMOVE_FILE, |guest| guest.lookup(ROOT, "file")).unwrap();
        assert_eq!((ghost.mode & libc::S_IFMT, ghost.size), (libc::S_IFREG, 0));
        guest.as_group(REMOVE_FILE, remove).unwrap();
        assert_eq!(guest.lookup(ROOT, "file").unwrap_err(), libc::ENOENT);
        assert_eq!(guest.getattr(ghost.node).unwrap_err(), libc::ESTALE);
        let folder = guest.as_group(REMOVE_FOLDER, |guest| guest.lookup(ROOT, "folder")).unwrap();
        assert_ne!(folder.node, ghost.node);
        assert_eq!(folder.mode & libc::S_IFMT, libc::S_IFDIR);
        // A ghost is that of one name, and once.
        let remove_folder = |name| move |guest: &mut Guest| guest.rmdir(ROOT, name);
        assert_eq!(guest.as_group(REMOVE_FOLDER, remove_folder("other")).unwrap_err(), libc::EINTR);
        assert_eq!(guest.as_group(REMOVE_FOLDER, remove_folder("folder")).unwrap_err(), libc::EINTR);
        // What is there stays there.
        let known = guest.lookup(ROOT, "stays").unwrap();
        let remove = |guest: &mut Guest| guest.unlink(ROOT, "stays");
        assert_eq!(guest.as_group(REMOVE_FILE, |guest| guest.lookup(ROOT, "stays")).unwrap(), known);
        assert_eq!(guest.as_group(REMOVE_FILE, remove).unwrap_err(), libc::EBUSY);
        assert!(guest.path("stays").exists());
    }
}

#[test]
fn something_seems_to_change_and_nothing_does() {
    let mut guest = Guest::new();
    let agent = &mut Agent::of(&mut guest);
    guest.host_quietly("echo text >file");
    assert_eq!(agent.next(), heard("fm", 0, "file"));
    let file = guest.lookup(ROOT, "file").unwrap();
    let changed = |guest: &Guest| {
        let meta = std::fs::metadata(guest.path("file")).unwrap();
        (meta.mtime(), meta.mtime_nsec(), meta.ctime(), meta.ctime_nsec())
    };
    let before = changed(&guest);
    let touch = |guest: &mut Guest| guest.setattr(file.node, abi::set::MTIME, 0, 0);
    assert_eq!(guest.as_group(LOOK, touch).unwrap(), file);
    assert_eq!(changed(&guest), before);
    // What the guest was told with the look is told again, times and all, for it does not compare those.
    let look = |guest: &mut Guest| guest.call(op::GETATTR, file.node, &[0; 16]);
    let looked = guest.as_group(LOOK, look).unwrap();
    assert_eq!(guest.host(agent, "echo more >file"), heard("m", 0, "file"));
    let mut body = Answer::default();
    body.u32(abi::set::MTIME).zeros(84);
    let touched = guest.as_group(LOOK, |guest| guest.call(op::SETATTR, file.node, body.bytes())).unwrap();
    assert_eq!(touched, looked);
    assert_ne!(guest.as_group(LOOK, look).unwrap(), looked);
    // Another length it would take for its own.
    assert_eq!(guest.host(agent, "echo more >>file"), heard("m", 0, "file"));
    assert_eq!(guest.as_group(LOOK, touch).unwrap().size, 10);
    // It is told once.
    guest.as_group(LOOK, look).unwrap();
    guest.as_group(LOOK, touch).unwrap();
    // One that is no longer at its place.
    assert_eq!(guest.host(agent, "rm file"), heard("rs", file.node, "file"));
    let gone = guest.as_group(LOOK, touch).unwrap();
    assert_eq!((gone.size, gone.mode & libc::S_IFMT), (0, libc::S_IFREG));
    assert_eq!(touch(&mut guest).unwrap_err(), libc::ESTALE);
    let nobody = |guest: &mut Guest| guest.setattr(12345, abi::set::MTIME, 0, 0);
    assert_eq!(guest.as_group(LOOK, nobody).unwrap_err(), libc::ESTALE);
}

#[test]
fn nobody_is_an_agent_where_nobody_is_told() {
    let mut guest = Guest::new();
    guest.as_group(MAKE, |guest| guest.mknod(ROOT, "file")).unwrap();
    assert!(guest.path("file").exists());
    guest.as_group(REMOVE_FILE, |guest| guest.unlink(ROOT, "file")).unwrap();
    assert!(!guest.path("file").exists());
}

#[test]
fn an_agent_has_no_way_out_and_sees_nothing_hidden() {
    let mut guest = Guest::new();
    guest.host_quietly("echo secret >.env; echo secret >../outside");
    guest.server.hide(Path::new(".env"));
    let _agent = Agent::of(&mut guest);
    for group in [LOOK, MAKE, REMOVE_FILE, REMOVE_FOLDER] {
        for name in ["..", ".", "", "../outside", "a/b"] {
            let refused = |answer: Result<Seen, i32>| assert_eq!(answer.unwrap_err(), libc::EINVAL, "{name}");
            refused(guest.as_group(group, |guest| guest.lookup(ROOT, name)));
            refused(guest.as_group(group, |guest| guest.mknod(ROOT, name)));
            assert_eq!(guest.as_group(group, |guest| guest.unlink(ROOT, name)).unwrap_err(), libc::EINVAL);
        }
        assert_eq!(guest.as_group(group, |guest| guest.lookup(ROOT, ".env")).unwrap_err(), libc::ENOENT);
        assert_eq!(guest.as_group(group, |guest| guest.mknod(ROOT, ".env")).unwrap_err(), libc::EACCES);
    }
}
