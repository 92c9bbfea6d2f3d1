//! Folders and volumes, end to end on the provider `qemu`.

use std::io::{BufRead, BufReader};
use std::process::Stdio;
use std::time::{Duration, Instant};

use rustix::process::Signal;

use crate::common::Project;
use crate::common::cases::MICRO;

/// One machine with one of each; what outlives what.
#[test]
fn copies_memory_volumes_and_the_project_folder() {
    let provider = "qemu";
    let file = |more: &str| {
        format!(
            "{MICRO}[[folder]]\nhost = \"src\"\nguest = \"/srv/it's app\"\ntype = \"rsync\"\nexclude = [\"*.log\"]\n\
             [[folder]]\nguest = \"/srv/it's app/cache\"\ntype = \"tmpfs\"\nsize = \"8MiB\"\nowner = \"vagrant\"\n\
             [[volume]]\nname = \"data\"\nsize = \"32MiB\"\n\
             [[disk]]\nvolume = \"data\"\nmount = \"/srv/data\"\n{more}"
        )
    };
    let project = Project::new(provider, &file(""));
    project.write("src/main.c", "one");
    project.write("src/sub/it's \"odd\" $HOME", "two");
    project.write("src/noise.log", "three");
    project.rvm(&["up"]).ok().says("2 files").says("the guest has no rsync").says("Volume `data` is new");
    let app = "/srv/it\\'s\\ app";
    assert_eq!(
        project.ssh(&format!("cat {app}/main.c {app}/sub/*; stat -c %U:%G {app}/main.c")),
        "onetwovagrant:vagrant"
    );
    project.rvm(&["ssh", "-c", &format!("test -e {app}/noise.log")]).code(1);
    let mounted = project.ssh("grep cache /proc/self/mounts");
    assert!(mounted.contains("tmpfs") && mounted.contains("size=8192k"), "{mounted}");
    project.ssh(&format!("echo quick >{app}/cache/file; echo kept | sudo tee /srv/data/file; sync"));
    assert_eq!(project.ssh("grep -c '^rvm-tmpfs' /etc/fstab"), "1");

    project.write(".env", "TOKEN=hunter2\n");
    project.write("seen", "");
    project
        .rvm(&["ssh", "-c", "ls -a /vagrant; cat /vagrant/.env; echo x >/vagrant/.env"])
        .code(1)
        .says("seen")
        .says_not(".env\n")
        .says_not("hunter2");
    // The project folder is the very one, both ways, and there again when the guest reboots by itself.
    project.write("note", "from the host");
    assert_eq!(
        project.ssh("cat /vagrant/note && echo from the guest >/vagrant/note && stat -c %U /vagrant/note"),
        "from the hostvagrant"
    );
    assert_eq!(std::fs::read_to_string(project.root.join("note")).unwrap(), "from the guest\n");

    // What is there is not brought anew; what changed is, when asked for.
    project.write("src/main.c", "changed");
    project.rvm(&["up"]).ok().says("Running already").says_not("up to date");
    assert_eq!(project.ssh(&format!("cat {app}/main.c")), "one");
    project.ssh(&format!("touch {app}/stray {app}/own.log"));
    project.rvm(&["rsync"]).ok().says("1 file").says("1 removed");
    assert_eq!(project.ssh(&format!("cat {app}/main.c; ls {app}")), "changedcache\nmain.c\nown.log\nsub");
    assert_eq!(project.ssh(&format!("cat {app}/cache/file")), "quick", "what is mounted in it stays");

    // The folder in memory leaves the file, and the guest.
    project.vagrantfile(
        provider,
        &file("[[folder]]\nguest = \"/srv/more\"\ntype = \"tmpfs\"\n")
            .replace("/srv/it's app/cache", "/srv/other"),
    );
    project
        .rvm(&["plan", "--exit-code"])
        .code(2)
        .says("folder /srv/more")
        .says("- folder /srv/it's app/cache");
    project.rvm(&["up"]).ok().says("/srv/more is in memory");
    project.rvm(&["plan", "--exit-code"]).ok();
    let fstab = project.ssh("cat /etc/fstab; grep -c ' tmpfs .*rvm\\|^rvm-tmpfs' /proc/self/mounts");
    assert!(fstab.contains("/srv/more") && !fstab.contains("cache") && fstab.ends_with("\n2"), "{fstab}");

    a_server_that_dies(&project);

    let boot = "cat /proc/sys/kernel/random/boot_id";
    let before = project.ssh(boot);
    // The connection may be gone before the command's exit code comes back.
    project.rvm(&["ssh", "-c", "sudo reboot"]);
    let deadline = Instant::now() + Duration::from_secs(120);
    loop {
        let run = project.rvm(&["ssh", "-c", boot]);
        if run.code == 0 && run.stdout.trim() != before {
            break;
        }
        assert!(Instant::now() < deadline, "the guest does not come back");
        std::thread::sleep(Duration::from_millis(300));
    }
    assert_eq!(project.ssh("grep -c ' virtiofs \\|^rvm-tmpfs' /proc/self/mounts"), "3");
    assert_eq!(project.ssh("cat /vagrant/note"), "from the guest");

    follows_changes(&project, app);
    a_server_that_nobody_replaces(&project);

    project.rvm(&["volume", "remove", "-f", "data"]).code(1).says("E0351").says("default in");
    project.rvm(&["volume", "list"]).ok().says("default (running)");
    let list = project.json("volume-list", &["volume", "list"]);
    assert_eq!(list["volumes"][0]["machines"][0]["machine"], "default");
    project.rvm(&["destroy", "-f"]).ok().says("Volume `data` is kept");
    project.rvm(&["up"]).ok().says_not("Volume `data` is new");
    assert_eq!(project.ssh("cat /srv/data/file"), "kept");
    project.rvm(&["destroy", "-f"]).ok();
    project.rvm(&["volume", "remove", "data"]).code(1).says("-f` does not ask");
    project.rvm(&["volume", "remove", "-f", "data"]).ok();
    assert_eq!(std::fs::read_dir(project.home.join("volumes")).unwrap().count(), 0);
}

/// What is said of folders that are not served.
const UNSERVED: &str = "serves its shared folders has ended";

/// The process that serves the project folder is killed, and another one takes over: the guest finds what it knew, and
/// what is mounted below.
fn a_server_that_dies(project: &Project) {
    project.write("deep/er/file", "one");
    project.ssh("sudo mkdir /vagrant/deep/mount && sudo mount -t tmpfs below /vagrant/deep/mount");
    project.ssh("cat /vagrant/deep/er/file && echo below >/vagrant/deep/mount/file");
    for round in 1..=2 {
        project.kill("__share", "machines");
        let work = format!(
            "cat /vagrant/deep/er/file && echo {round} >/vagrant/deep/er/new && cat /vagrant/deep/mount/file"
        );
        assert_eq!(project.ssh(&work), "onebelow");
        assert_eq!(std::fs::read_to_string(project.root.join("deep/er/new")).unwrap(), format!("{round}\n"));
    }
    project.rvm(&["status"]).ok().says_not(UNSERVED);
    project.ssh("sudo umount /vagrant/deep/mount && rm -r /vagrant/deep");
    assert!(!project.root.join("deep").exists());
    let log = std::fs::read_to_string(project.machine_dir("default").join("vm.log")).unwrap();
    assert!(log.contains("shared folders: the process that serves them ended with signal: 9"), "{log}");
}

/// Without the process that would replace it, `status` says so, and `up` does.
fn a_server_that_nobody_replaces(project: &Project) {
    project.kill("__nat", "machines");
    project.kill("__share", "machines");
    let deadline = Instant::now() + Duration::from_secs(10);
    while project.machine("default")["cause"].is_null() {
        assert!(Instant::now() < deadline, "nobody says that the folders are not served");
        std::thread::sleep(Duration::from_millis(50));
    }
    project.rvm(&["status"]).ok().says(UNSERVED).says("`rvm up default`").says("`rvm reload -f default`");
    project.rvm(&["up"]).ok().says(UNSERVED).says("another one was started");
    assert_eq!(project.ssh("cat /vagrant/note"), "from the guest");
    project.rvm(&["status"]).ok().says_not(UNSERVED);
}

/// `rvm rsync-auto` copies what changes, ends well at Ctrl-C, and by itself with the machine.
fn follows_changes(project: &Project, app: &str) {
    let watch = || {
        let mut child = project.command(&["rsync-auto"]).stdout(Stdio::piped()).spawn().unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let ready = lines.find(|line| line.as_ref().unwrap().contains("Watching for"));
        assert!(ready.is_some(), "it does not watch");
        (child, lines)
    };
    let (mut child, mut lines) = watch();
    project.write("src/new/deep/file", "fresh");
    let told = lines.find(|line| line.as_ref().unwrap().contains("up to date"));
    assert!(told.is_some_and(|line| line.unwrap().contains("1 file")));
    assert_eq!(project.ssh(&format!("cat {app}/new/deep/file")), "fresh");
    rustix::process::kill_process(rustix::process::Pid::from_child(&child), Signal::INT).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(0));

    let (mut child, _lines) = watch();
    project.rvm(&["halt", "-f"]).ok();
    let deadline = Instant::now() + Duration::from_secs(60);
    let status = loop {
        if let Some(status) = child.try_wait().unwrap() {
            break status;
        }
        assert!(Instant::now() < deadline, "it watches on without a machine");
        std::thread::sleep(Duration::from_millis(100));
    };
    assert_eq!(status.code(), Some(1));
    project.rvm(&["up"]).ok();
}
