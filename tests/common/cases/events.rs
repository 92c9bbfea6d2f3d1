//! What the host changes in a shared folder is an event of the guest's inotify.

use std::fs;
use std::io::{BufRead, BufReader};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;
use std::process::{Child, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

use super::compile;
use crate::common::Project;

/// A program in the guest that watches places.
struct Watcher {
    child: Child,
    lines: Receiver<String>,
}

impl Watcher {
    fn start(project: &Project, places: &str) -> Self {
        // Its end is that of the connection.
        let command = format!("/vagrant/events {places}");
        let mut child = project
            .command(&["ssh", "-c", &command])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let (told, lines) = channel();
        let output = BufReader::new(child.stdout.take().unwrap());
        std::thread::spawn(move || output.lines().map_while(Result::ok).try_for_each(|line| told.send(line)));
        let mut watcher = Self { child, lines };
        watcher.until("watching");
        watcher
    }

    /// All that it says up to that line, which is left out.
    #[track_caller]
    fn until(&mut self, last: &str) -> Vec<String> {
        let mut all = Vec::new();
        loop {
            match self.lines.recv_timeout(Duration::from_secs(120)) {
                Ok(line) if line == last => return all,
                Ok(line) => all.push(line),
                Err(error) => panic!("no `{last}` ({error}), but {all:#?}"),
            }
        }
    }
}

impl Drop for Watcher {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// `fixed` is a folder that is shared for reading, at /srv/fixed.
pub(super) fn changes_are_events(project: &Project, fixed: &Path) {
    compile(project, "events");
    let root = &project.root;
    fs::create_dir(root.join("seen")).unwrap();
    fs::create_dir(root.join("seen/kept")).unwrap();
    project.write("seen/file", "1");
    project.ssh("cat /vagrant/seen/file /srv/fixed/file");
    let places = "/vagrant/seen /vagrant/seen/file /srv/fixed /vagrant/seen/kept";
    let mut watcher = Watcher::start(project, places);
    let mut becomes = |last: &str| watcher.until(last);

    project.write("seen/file", "12");
    becomes("/vagrant/seen/file modify -");
    assert_eq!(project.ssh("cat /vagrant/seen/file; stat -c ' %s' /vagrant/seen/file"), "12 2");
    fs::set_permissions(root.join("seen/file"), fs::Permissions::from_mode(0o600)).unwrap();
    becomes("/vagrant/seen/file attrib -");
    fs::create_dir(root.join("seen/folder")).unwrap();
    becomes("/vagrant/seen create folder folder");
    symlink("file", root.join("seen/link")).unwrap();
    becomes("/vagrant/seen create link");
    fs::remove_dir(root.join("seen/folder")).unwrap();
    becomes("/vagrant/seen delete folder folder");
    // One that is watched, and another one in its place.
    fs::remove_dir(root.join("seen/kept")).unwrap();
    becomes("/vagrant/seen/kept gone -");
    assert_eq!(project.ssh("ls /vagrant/seen"), "file\nlink");
    fs::create_dir(root.join("seen/kept")).unwrap();
    becomes("/vagrant/seen create folder kept");

    // How editors save. Who watches the old file hears of its end.
    project.write("seen/new", "123");
    becomes("/vagrant/seen create new");
    fs::rename(root.join("seen/new"), root.join("seen/file")).unwrap();
    let all = becomes("/vagrant/seen/file gone -");
    for event in ["delete new", "delete file", "create file"] {
        assert!(all.contains(&format!("/vagrant/seen {event}")), "{event}: {all:#?}");
    }
    assert_eq!(project.ssh("cat /vagrant/seen/file"), "123");

    // A folder for reading is no other.
    fs::write(fixed.join("file"), "fixed, and longer").unwrap();
    becomes("/srv/fixed modify file");
    fs::write(fixed.join("more"), "").unwrap();
    becomes("/srv/fixed create more");
    fs::remove_file(fixed.join("more")).unwrap();
    becomes("/srv/fixed delete more");
    project.rvm(&["ssh", "-c", "touch /srv/fixed/file"]).code(1).says("Read-only");

    // What the guest does is one event, and not heard again when it comes round by the host.
    let before = fs::metadata(root.join("seen/file")).unwrap();
    project.ssh("cd /vagrant/seen; echo 1 >own; rm own; mkdir -p sub; echo 2 >sub/own");
    project.write("seen/end", "");
    let all = becomes("/vagrant/seen create end");
    let own: Vec<&String> =
        all.iter().filter(|line| line.ends_with(" own") || line.ends_with(" sub")).collect();
    let once = ["create own", "modify own", "delete own", "create folder sub"];
    assert_eq!(own, once.map(|event| format!("/vagrant/seen {event}")).each_ref(), "{all:#?}");
    let after = fs::metadata(root.join("seen/file")).unwrap();
    assert_eq!(after.modified().unwrap(), before.modified().unwrap(), "the host's file is as it was");
    drop(watcher);
    project.ssh("rm -r /vagrant/seen /vagrant/events");
    fs::write(fixed.join("file"), "fixed").unwrap();
}
