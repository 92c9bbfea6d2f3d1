//! The projects of `examples/`, brought up as they stand with the small box and looked into.

use std::path::{Path, PathBuf};

use crate::common::{Project, Run, files};

/// What makes an example small enough for a test.
const SMALL: &str = "BOX=micro\nMEMORY=128MiB\nNODE_MEMORY=128MiB\n";

/// A copy of an example on the provider `qemu`, with `env` as its ENV file.
fn example(name: &str, env: &str) -> Project {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("examples").join(name);
    let text = std::fs::read_to_string(folder.join("Vagrantfile")).unwrap();
    let project = Project::new("qemu", &text);
    for file in files(&folder) {
        let inside = file.strip_prefix(&folder).unwrap();
        if inside != Path::new("Vagrantfile") {
            project.write(inside.to_str().unwrap(), &std::fs::read_to_string(&file).unwrap());
        }
    }
    project.write(".env", &format!("{SMALL}{env}"));
    project
}

/// What a command in that machine prints.
#[track_caller]
fn inside(project: &Project, machine: &str, command: &str) -> String {
    project.rvm(&["ssh", machine, "-c", command]).ok().stdout.trim_end().to_owned()
}

/// `rvm` with a variable in its environment.
#[track_caller]
fn with(project: &Project, (name, value): (&str, &str), args: &[&str]) -> Run {
    let output = project.command(args).env(name, value).output().unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
    let code = output.status.code().unwrap_or(-1);
    Run {
        command: format!("{name}={value} rvm {args:?}"),
        code,
        stdout: text(output.stdout),
        stderr: text(output.stderr),
    }
}

#[test]
fn cluster_has_numbered_nodes() {
    let project = example("cluster", "NODES=2\n");
    project.rvm(&["up", "node"]).ok().says("PLAY RECAP");
    assert_eq!(inside(&project, "node-01", "cat /etc/role"), "leader");
    for (number, name) in [(1, "node-01"), (2, "node-02")] {
        assert_eq!(inside(&project, name, "hostname; cat /etc/node"), format!("{name}\nnode {number}"));
        assert!(project.machine(name)["ports"][0]["guest"] == 6443);
        assert_eq!(inside(&project, name, "cat /etc/cluster"), "example: node-01 node-02");
        let address = format!("172.30.8.{}", number + 100);
        assert_eq!(project.machine(name)["networks"][0]["addresses"][0], address.as_str());
    }
}

#[test]
fn systems_are_chosen_by_a_variable() {
    let project = example("systems", "");
    for system in ["trixie", "bookworm", "micro"] {
        with(&project, ("SYSTEM", system), &["validate"]).ok().says(system);
    }
    with(&project, ("SYSTEM", "micro"), &["up"]).ok();
    let family = with(&project, ("SYSTEM", "micro"), &["ssh", "micro", "-c", "hostname; cat /etc/family"]);
    assert_eq!(family.ok().stdout, "micro\nbusybox\n");
    with(&project, ("SYSTEM", "micro"), &["destroy", "-f"]).ok();
}

#[test]
fn steps_run_when_they_are_asked_for() {
    let project = example("steps", "TOOL_VERSION=1.22.4\n");
    project.rvm(&["up"]).ok();
    assert_eq!(project.ssh("cat /opt/tool/version /opt/tool/steps"), "tool 1.22.4\nset-up\ninstall-tool");
    project.rvm(&["provision", "--provision-with", "test"]).ok().says("all tests passed");
    assert_eq!(project.ssh("tail -n 1 /opt/tool/steps"), "test --verbose");
    project.rvm(&["up"]).ok();
    assert_eq!(project.ssh("cat /tmp/reports"), "report by vagrant\nreport by vagrant");
    assert_eq!(project.ssh("wc -l < /opt/tool/steps").trim(), "3", "no other step ran again");
}

#[test]
fn box_from_env_has_its_disks() {
    let project = example("box-from-env", "CPUS=1\nDISK=1GiB\nDATA=64MiB\n");
    project.rvm(&["up"]).ok();
    assert_eq!(project.machine("default")["box"], "micro");
    let kib = |path: &str| {
        project.ssh(&format!("df -k {path} | awk 'NR == 2 {{print $2}}'")).parse::<u64>().unwrap()
    };
    assert!(kib("/") > 900_000, "the root file system has {} KiB", kib("/"));
    assert!((32_000..66_000).contains(&kib("/srv/data")), "the data disk has {} KiB", kib("/srv/data"));
}

#[test]
fn roles_share_their_defaults() {
    let project = example("roles", "SERVERS=1\nDEV_CPUS=1\n");
    project.rvm(&["up"]).ok();
    let states = |project: &Project| ["dev", "server-1", "client-1"].map(|name| project.state(name));
    assert_eq!(states(&project), ["running", "not_created", "not_created"]);
    // It is the primary machine.
    assert_eq!(project.ssh("hostname; cat /etc/common; test ! -e /etc/role"), "dev\ncommon");
    project.rvm(&["up", "server", "client"]).ok();
    assert_eq!(inside(&project, "server-1", "cat /etc/common /etc/role"), "common\nserver 1");
    assert_eq!(inside(&project, "client-1", "cat /etc/common /etc/role"), "common\nclient");
}

#[test]
fn a_desk_overrides_the_project() {
    let project =
        example("overrides", "GUEST_MEMORY=128MiB\nHOST_PORT=19991\nHTTP_PROXY=http://proxy.example:3128\n");
    let local = std::fs::read_to_string(project.root.join("Vagrantfile.local.toml.example")).unwrap();
    project.write("Vagrantfile.local.toml", &local.replace("cpus = 2", "cpus = 1\nhostname = 'desk'"));
    project.write("files/debug.log", "left at home");
    let up = with(&project, ("NO_PROXY", "localhost,.here"), &["up"]).ok();
    up.says("The server is at http://127.0.0.1:19991/");
    let seen =
        project.ssh("cat /srv/app/built; ls /srv/app; stat -c %U /srv/app/app.py; cat .vimrc; hostname");
    let built = "built by vagrant with proxy '***'\napp.py\nbuilt\nvagrant\nset number\ndesk";
    assert_eq!(seen.replace("http://proxy.example:3128", "***"), built);
    assert!(project.ssh("cat /etc/profile.d/proxy.sh").ends_with("no_proxy=localhost,.here"));
}

#[test]
fn sites_are_layers() {
    let project = example("sites", "");
    project.rvm(&["up"]).ok().says("blog.sites.example");
    assert_eq!(
        project.ssh("cat /etc/sites/*"),
        "blog.sites.example A blog\ndocs.sites.example The documents\nsites.example"
    );
    assert_eq!(
        project.ssh("cat /srv/www/docs/index.html; stat -c '%U %a' /srv/www/index.html"),
        "<h1>The documents</h1>\nroot 644"
    );
    project.ssh("ping -c 1 -W 20 docs.sites.example || sudo ping -c 1 -W 20 docs.sites.example");
    assert_eq!(project.machine("www")["networks"][0]["addresses"][0], "10.88.0.10");
    project.rvm(&["provision", "--provision-with", "site docs"]).ok().says_not("site blog (shell)");
}

#[test]
fn storage_has_roles_networks_and_disks() {
    let project = example("storage", "OSDS=1\nDATA=64MiB\n");
    project.rvm(&["up"]).ok();
    assert_eq!(inside(&project, "mon0", "cat /etc/role"), "monitor 0");
    assert_eq!(inside(&project, "osd0", "cat /etc/role"), "store 0\njoined mon0");
    let networks = |name: &str| project.machine(name)["networks"].clone();
    assert_eq!(networks("mon0")[0]["addresses"], serde_json::json!(["192.168.42.10", "fd42::10"]));
    assert_eq!(networks("osd0")[1]["addresses"], serde_json::json!(["192.168.43.100"]));
    inside(&project, "osd0", "ping -6 -c 1 -W 20 mon0 || sudo ping -6 -c 1 -W 20 mon0");
    assert_eq!(inside(&project, "osd0", "cat /sys/class/net/eth2/mtu"), "9000");
    assert_eq!(
        inside(&project, "osd0", "grep -c /var/lib/store /proc/mounts; ls /dev/vd[a-z] | wc -l"),
        "1\n4"
    );
    let inventory: serde_json::Value =
        serde_json::from_str(&project.rvm(&["inventory", "--json"]).ok().stdout).unwrap();
    assert_eq!(inventory["osds"]["hosts"], serde_json::json!(["osd0"]));
    assert_eq!(inventory["mons"]["hosts"], serde_json::json!(["mon0"]));
}

#[test]
fn hooks_surround_commands_on_both_sides() {
    let project = example("hooks", "SITE_IP=192.168.50.5\n");
    with(&project, ("TAGS", "deploy"), &["up"]).ok();
    assert_eq!(std::fs::read_to_string(project.root.join("up.log")).unwrap(), "site is up\n");
    assert_eq!(project.ssh("cat /srv/played; sudo touch /srv/played"), "deploy");
    assert_eq!(project.machine("site")["networks"][0]["addresses"][0], "192.168.50.5");
    with(&project, ("TAGS", "server"), &["provision", "--provision-with", "site"]).ok();
    assert_eq!(
        project.ssh("cat /srv/played; echo second row | sudo tee -a /srv/db/rows"),
        "deploy\nserver\nsecond row"
    );
    // The hook finds this `rvm` as a user's finds theirs.
    let bin = tempfile::tempdir().unwrap();
    std::os::unix::fs::symlink(crate::common::binary(), bin.path().join("rvm")).unwrap();
    let path = format!("{}:{}", bin.path().display(), std::env::var("PATH").unwrap());
    with(&project, ("PATH", &path), &["destroy", "-f"]).ok();
    assert_eq!(std::fs::read_to_string(project.root.join("dump")).unwrap(), "first row\nsecond row\n");
}

#[test]
fn one_machine_is_set_up_by_a_long_script() {
    // What it installs, the small box has not.
    let project = example("one-machine", "BOX=debian/13\nMEMORY=768MiB\n");
    project.rvm(&["up"]).ok();
    project.ssh("make --version");
    let motd = "\"Build\" machine for C:\\projects and ${HOME}; it's all here.";
    assert_eq!(project.ssh("cat /etc/motd"), motd);
    assert_eq!(project.ssh("stat -c %U /srv/build"), "builder");
    project.rvm(&["up"]).ok();
    assert_eq!(project.ssh("wc -l < /var/log/clean.log").trim(), "2");
    crate::containers::come_about_in(&project);
}

#[test]
fn shop_reaches_its_database_by_name() {
    let env = "DB_ENGINE=plain\nDB_HOST=store\nDB_IP=10.77.0.5\nDB_NAME=shop\nDB_USER=keeper\nDB_PASSWORD='p4$$ w0rd'\n\
               WEB_HOST=front\nWEB_PORT=18080\n";
    let project = example("shop", env);
    project.rvm(&["up"]).ok().says_not("p4$$ w0rd");
    let port = project.machine("front")["ports"][0]["host"].as_u64().unwrap();
    let page = crate::common::fetch(u16::try_from(port).unwrap());
    assert!(page.contains("<h1>front: 3 articles in shop on store</h1>"), "{page}");
    let seen = inside(&project, "front", "echo shop nobody wrong | busybox nc -w 20 store.backend 5432");
    assert_eq!(seen, "access denied");
}
