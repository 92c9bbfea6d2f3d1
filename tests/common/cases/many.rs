//! Several machines of one file: their order, their readiness, a failure among them.

use std::fs;
use std::path::PathBuf;
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::Signal;

use super::MICRO;
use crate::common::{Project, files, machines};

/// `web` needs `db`, which counts as up some time after its steps; `lone` needs nobody, and is broken
/// until `mended` is there.
const THREE: &str = r#"
[[machine]]
name = "web"
depends_on = ["db"]
message = "the web is up"

[[machine.provision]]
name = "look"
shell = "echo web >> /etc/e2e-web"

[[machine]]
name = "db"
groups = ["back"]
primary = true

[[machine.provision]]
name = "serve"
run = "always"
shell = "(sleep 5; mkdir -p /tmp/up; exec busybox httpd -p 5432 -h /tmp/up) </dev/null >/dev/null 2>&1 &"

[[machine.ready]]
port = 5432

[[machine.ready]]
file = "/tmp/up"

[[machine]]
name = "lone"
groups = ["back"]
autostart = false

[[machine.provision]]
name = "break"
shell = "echo this is broken; exit 3"
"#;

/// A dependency is brought up and ready first, a failure strands nobody else, and down it goes the
/// other way round.
pub fn machines_that_need_each_other(provider: &str) {
    let project = Project::new(provider, &format!("{MICRO}{THREE}"));
    let run = project.rvm(&["up", "web", "lone"]).code(1);
    let run =
        run.says("needed too").says("db (for web)").says("1 of 3 machines failed").says("the web is up");
    let at = |part: &str| {
        run.stdout.find(part).unwrap_or_else(|| panic!("`{part}` was not printed:\n{}", run.stdout))
    };
    assert!(at("db: Waiting for port 5432") < at("db: Machine is up"));
    assert!(at("db: Machine is up") < at("web: Creating from box"));
    assert!(at("lone: this is broken") < at("machine  rvm up"), "the summary is last");
    assert!(run.stderr.contains("`lone`"), "{}", run.stderr);
    for name in ["web", "db", "lone"] {
        assert_eq!(project.state(name), "running", "{name}");
    }
    // The primary one is meant where none is named.
    assert_eq!(project.ssh("hostname"), "db");

    // `/^d/` and a group name machines; what depends on others is stopped before them.
    let run = project.rvm(&["halt", "/^(web|db)$/"]).ok();
    assert!(
        run.stdout.find("web: Machine stopped").unwrap() < run.stdout.find("db: Halting").unwrap(),
        "{run:?}"
    );
    assert_eq!(project.state("lone"), "running");
    project.rvm(&["destroy", "-f", "back"]).ok().says("lone").says("db").says_not("web");

    // A dependency that does not become ready keeps what needs it from being started, and says why.
    let never = THREE.replace("port = 5432", "command = \"echo not yet; exit 9\"\ntimeout = \"4s\"");
    project.vagrantfile(provider, &format!("{MICRO}{never}"));
    let up = project.start(&["up"]);
    wait("no machine is started", || !project.pids().is_empty());
    // Ctrl-C leaves all of them in a state that is told.
    up.signal(Signal::INT);
    up.wait().code(130).says("interrupted; it is running").says("not begun; it is poweroff");
    let up = project.start(&["up"]);
    let owner = format!("rvm up db (pid {})", up.pid());
    let owned = |path: &PathBuf| fs::read_to_string(path).is_ok_and(|text| text == owner);
    wait("the machine is not taken", || files(&project.home.join("locks")).iter().any(owned));
    project.vagrantfile(provider, &format!("# edited meanwhile\n{MICRO}{never}"));
    let run = up.wait().code(1).says("machine `db` runs but is not ready").says("was edited meanwhile");
    let run = run.says("command `echo not yet; exit 9`").says("it ended with 9").says("| not yet");
    run.says("web: warning: skipped: it depends on db").says_not("lone");
    assert_eq!((project.state("web").as_str(), project.state("db").as_str()), ("poweroff", "running"));
    the_project_is_gone(&project);
}

#[track_caller]
fn wait(otherwise: &str, mut done: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(120);
    while !done() {
        assert!(Instant::now() < deadline, "{otherwise}");
        thread::sleep(Duration::from_millis(20));
    }
}

/// What is left of a project whose folder was moved away is told as it is, and removed by its ids.
fn the_project_is_gone(project: &Project) {
    fs::rename(&project.root, project.root.with_extension("moved")).unwrap();
    fs::create_dir(&project.root).unwrap();
    project.rvm(&["status"]).code(2);
    let all = machines(&project.rvm(&["global-status", "--json"]).ok());
    let states: Vec<_> =
        all.iter().map(|m| (m["name"].as_str().unwrap(), m["state"].as_str().unwrap())).collect();
    assert_eq!(states, [("db", "running"), ("web", "poweroff")]);
    let ids: Vec<&str> = all.iter().map(|machine| &machine["id"].as_str().unwrap()[..7]).collect();
    project.rvm(&["up", ids[0]]).code(2).says("no Vagrantfile");
    project.rvm(&[&["destroy", "-f"], ids.as_slice()].concat()).ok().says("Machine destroyed");
    assert!(machines(&project.rvm(&["global-status", "--json"]).ok()).is_empty());
    assert!(project.pids().is_empty());
}
