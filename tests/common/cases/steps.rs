//! Provision steps and the secrets that they get.

use std::fs;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use super::MICRO;
use crate::common::Project;

const STEPS: &str = r#"
[[provision]]
name = "first"
shell = "echo first >> /etc/e2e-log"

[[provision]]
name = "needs-a-file"
shell = """
echo try >> /etc/e2e-log
test -e /etc/e2e-ready || { echo "there is no file" >&2; exit 7; }
"""

[[provision]]
name = "last"
shell = "echo last >> /etc/e2e-log"
"#;

/// A step that fails leaves the machine up; the next `up` goes on with that step.
pub fn a_failed_step_is_where_the_next_up_resumes(provider: &str) {
    let project = Project::new(provider, &format!("{MICRO}{STEPS}"));
    project.rvm(&["up"]).code(1).says("needs-a-file").says("there is no file").says("7");
    assert_eq!(project.state("default"), "running");
    project.ssh("sudo touch /etc/e2e-ready");
    project.rvm(&["up"]).ok().says("last");
    assert_eq!(project.ssh("cat /etc/e2e-log"), "first\ntry\ntry\nlast");
    project.rvm(&["up"]).ok();
    assert_eq!(project.ssh("wc -l < /etc/e2e-log").trim(), "4");
}

const KINDS: &str = r#"
[[provision]]
name = "script"
path = "scripts/greet.sh"
args = ["two words", "$HOME", "it's"]

[[provision]]
name = "plain-user"
privileged = false
shell = "id -un > /tmp/e2e-user"

[[provision]]
name = "copy"
file = { source = "data", destination = "/tmp/e2e-data" }

[[provision]]
name = "give"
file = { source = "tree", destination = "/srv/e2e", owner = "root", group = "vagrant", mode = "0640", exclude = ["*.log"] }

[[provision]]
name = "each-time"
run = "always"
shell = "echo again >> /etc/e2e-always"

[[provision]]
name = "clock"
shell = "date -s 1999-12-31 >/dev/null; date +%Y > /etc/e2e-year; echo more >> /etc/e2e-clock"

[[provision]]
name = "by-hand"
run = "never"
shell = "echo asked >> /etc/e2e-never"

[[hook]]
after = ["up", "provision"]
on = "guest"
shell = "echo by $(id -un) >> /etc/e2e-hooks"

[[hook]]
before = "destroy"
on = "guest"
privileged = false
shell = "echo \"$(hostname) says farewell to $(id -un)\""
"#;

/// Scripts with arguments, files, the user they run as, and when they run.
pub fn kinds_of_steps_and_when_they_run(provider: &str) {
    let project = Project::new(provider, &format!("{MICRO}{KINDS}"));
    project.write(
        "scripts/greet.sh",
        "#!/bin/sh\nprintf '%s|' \"$@\" > /etc/e2e-args\nid -un >> /etc/e2e-args\n",
    );
    let data = "first line\nzero \u{0} byte, ümlaut\n".repeat(5000);
    project.write("data", &data);
    for name in ["tree/kept", "tree/sub/kept", "tree/sub/x.log"] {
        project.write(name, "x");
    }
    project.rvm(&["up"]).ok().says("plain-user");
    assert_eq!(
        project.ssh("cd /srv/e2e && find . | sort | xargs stat -c '%n %a %U:%G'"),
        ". 750 root:vagrant\n./kept 640 root:vagrant\n./sub 750 root:vagrant\n./sub/kept 640 root:vagrant"
    );
    assert_eq!(project.ssh("cat /etc/e2e-args"), "two words|$HOME|it's|root");
    assert_eq!(project.ssh("cat /tmp/e2e-user"), "vagrant");
    assert_eq!(project.rvm(&["ssh", "-c", "cat /tmp/e2e-data"]).ok().stdout, data);

    let counts = "cat /etc/e2e-always | wc -l; cat /etc/e2e-never 2>/dev/null | wc -l";
    assert_eq!(project.ssh(counts).split_whitespace().collect::<Vec<_>>(), ["1", "0"]);
    project.rvm(&["up"]).ok();
    assert_eq!(project.ssh(counts).split_whitespace().collect::<Vec<_>>(), ["2", "0"]);
    // What has succeeded is not a matter of clocks: the guest's was set back within a step.
    assert_eq!(project.ssh("cat /etc/e2e-year /etc/e2e-clock"), "1999\nmore");
    project.rvm(&["provision", "--provision-with", "by-hand"]).ok();
    assert_eq!(project.ssh(counts).split_whitespace().collect::<Vec<_>>(), ["2", "1"]);
    project.rvm(&["up", "--no-provision"]).ok();
    assert_eq!(project.ssh(counts).split_whitespace().collect::<Vec<_>>(), ["2", "1"]);
    project.rvm(&["provision", "--provision-with", "nobody"]).code(2).says("nobody");
    assert_eq!(project.ssh("sort /etc/e2e-hooks | uniq -c | tr -s ' '"), " 4 by root");
    // A step whose content changed has not succeeded yet.
    project.vagrantfile(provider, &format!("{MICRO}{}", KINDS.replace("it's", "changed")));
    project.rvm(&["up"]).ok();
    assert_eq!(project.ssh("cat /etc/e2e-args"), "two words|$HOME|changed|root");
    project.rvm(&["destroy", "-f"]).ok().says("default says farewell to vagrant");
}

const SECRET: &str = "hunter2-e2e-5d41402abc4b2a76";
const SECRETIVE: &str = r#"
[[provision]]
name = "with"
env = ["DB_PASSWORD"]
shell = """
echo "the value is <$DB_PASSWORD>"
echo "and again: $DB_PASSWORD" >&2
printf %s "$DB_PASSWORD" | sha256sum | cut -c1-64 > /etc/e2e-sum
sleep 1
"""

[[provision]]
name = "without"
shell = "echo \"<${DB_PASSWORD:-none}>\" > /etc/e2e-without; env >> /etc/e2e-without"
"#;

/// A value of `.env` reaches the step that names it and is found nowhere else: not in another
/// step, not in what is printed, not in a command line of this host, not in a file of the store.
pub fn a_secret_reaches_only_the_step_that_names_it(provider: &str) {
    let project = Project::new(provider, &format!("{MICRO}{SECRETIVE}"));
    project.write(".env", &format!("DB_PASSWORD={SECRET}\nDB_NAME=shop\n"));
    let (done, leaked) = (AtomicBool::new(false), AtomicBool::new(false));
    thread::scope(|scope| {
        scope.spawn(|| {
            while !done.load(Ordering::Relaxed) {
                if seen_in_command_lines(SECRET) {
                    leaked.store(true, Ordering::Relaxed);
                }
                thread::sleep(Duration::from_millis(20));
            }
        });
        let run = project.rvm(&["up", "-v"]);
        done.store(true, Ordering::Relaxed);
        run.ok().says("the value is <").says("and again: ").says_not(SECRET);
    });
    assert!(!leaked.load(Ordering::Relaxed), "the secret was in a command line");

    project.write("expected", SECRET);
    let sum = project.run("sha256sum", &["expected"]).ok().stdout;
    assert_eq!(project.ssh("cat /etc/e2e-sum"), sum.split_whitespace().next().unwrap());
    fs::remove_file(project.root.join("expected")).unwrap();
    let without = project.ssh("cat /etc/e2e-without");
    assert!(without.starts_with("<none>") && !without.contains(SECRET), "{without}");

    project.rvm(&["halt"]).ok();
    // grep finds nothing: exit code 1. The disk of the guest is among the files.
    let pattern = project.root.join("pattern");
    fs::write(&pattern, SECRET).unwrap();
    let folders = ["machines", "locks"].map(|name| project.home.join(name));
    let kept = project.root.join(".rvm");
    let mut words = vec!["-rlaF", "-f", pattern.to_str().unwrap(), kept.to_str().unwrap()];
    words.extend(folders.iter().filter(|dir| dir.exists()).filter_map(|dir| dir.to_str()));
    project.run("grep", &words).code(1);
    // The search itself is sound: it finds what is there.
    fs::write(project.home.join("machines/planted"), format!("x{SECRET}y")).unwrap();
    project.run("grep", &words).code(0).says("planted");
    fs::remove_file(project.home.join("machines/planted")).unwrap();
}

/// Whether a process of this host has the secret among its arguments.
fn seen_in_command_lines(secret: &str) -> bool {
    let entries = fs::read_dir("/proc").unwrap().flatten();
    entries
        .map(|entry| fs::read(entry.path().join("cmdline")).unwrap_or_default())
        .any(|line| String::from_utf8_lossy(&line).contains(secret))
}

const REBOOTS: &str = r#"
[[provision]]
name = "before"
shell = "echo before the reboot; cat /proc/sys/kernel/random/boot_id >> /etc/e2e-boots"

[[provision]]
reboot = true

[[provision]]
name = "itself"
shell = "cat /proc/sys/kernel/random/boot_id >> /etc/e2e-boots; reboot; sleep 300"
reboot = true

[[provision]]
name = "too slow"
shell = "cat /proc/sys/kernel/random/boot_id >> /etc/e2e-boots; echo begun; sleep 4242; echo not here"
timeout = "3s"
"#;

/// A guest that reboots between steps and within one; a step that is ended when its time is up; and
/// what they printed.
pub fn steps_that_reboot_and_steps_that_take_too_long(provider: &str) {
    let project = Project::new(provider, &format!("{MICRO}{REBOOTS}"));
    project.rvm(&["up"]).code(1).says("`too slow`").says("within 3 s").says("begun").says_not("not here");
    let boots = project.ssh("sort -u /etc/e2e-boots | wc -l; wc -l < /etc/e2e-boots");
    assert_eq!(boots.split_whitespace().collect::<Vec<_>>(), ["3", "3"]);
    assert_eq!(project.ssh("pgrep -f 'slee[p] 4242' | wc -l").trim(), "0");
    project.rvm(&["logs", "--step", "before"]).ok().says("before the reboot").says("succeeded");
    project.rvm(&["logs", "--step", "too slow"]).ok().says("begun").says("within 3 s");
    project.rvm(&["logs", "--step", "after"]).code(2).says("too slow");
    project.rvm(&["provision", "--from", "too slow"]).code(1).says("step 1 of 1");
}
