//! The distributions: each box with each kernel boots to SSH, and is a whole system.

use crate::common::Project;

fn file(system: &str, kernel: &str, more: &str) -> String {
    format!(
        "box = \"{system}\"\nkernel = \"{kernel}\"\ncpus = 2\nmemory = \"512MiB\"\ndisk = \"4GiB\"\n\
         hostname = \"guest\"\n{more}"
    )
}

/// Looks at a system that is up: version, kernel, failed units, processors, the grown disk.
fn look(project: &Project, version: &str, kernel: &str) {
    let run = project.ssh(
        "systemctl is-system-running --wait >/dev/null; systemctl --failed --no-legend --plain; \
         . /etc/os-release; echo version=$VERSION_ID; echo kernel=$(uname -r); echo cpus=$(nproc); \
         echo name=$(hostname); echo disk=$(df -m --output=size / | tail -n 1); \
         echo lookup=$(getent hosts guest | head -n 1 | wc -l)",
    );
    let lines: Vec<&str> = run.lines().collect();
    let value = |name: &str| {
        let line = lines.iter().find_map(|line| line.strip_prefix(name));
        line.unwrap_or_else(|| panic!("no {name} in:\n{run}")).trim()
    };
    assert!(lines[0].starts_with("version="), "units failed:\n{run}");
    assert_eq!(value("version="), version);
    let release = value("kernel=");
    let wanted = if kernel == "fast" { "-rvm" } else { "-cloud-amd64" };
    assert!(release.ends_with(wanted), "kernel {release}");
    assert_eq!((value("cpus="), value("name="), value("lookup=")), ("2", "guest", "1"));
    let megabytes: u32 = value("disk=").parse().unwrap();
    assert!((3500..=4096).contains(&megabytes), "the root file system has {megabytes} MiB");
}

fn boots(provider: &str, version: &str, kernel: &str) {
    let project = Project::new(provider, &file(&format!("debian/{version}"), kernel, ""));
    project.rvm(&["up"]).ok();
    look(&project, version, kernel);
    project.rvm(&["halt"]).ok().says_not("switching off");
    assert_eq!(project.state("default"), "poweroff");
}

/// Debian 12, the distribution's kernel.
pub fn debian_12_stock(provider: &str) {
    boots(provider, "12", "stock");
}

/// Debian 12, our kernel.
pub fn debian_12_fast(provider: &str) {
    boots(provider, "12", "fast");
}

/// Debian 13, our kernel.
pub fn debian_13_fast(provider: &str) {
    boots(provider, "13", "fast");
}

/// Debian 13, the distribution's kernel. Before it is let up in time, it is given too little: the
/// error shows how far it came. Then packages are installed.
pub fn debian_13_stock_late_then_with_packages(provider: &str) {
    let step = "[[provision]]\nname = \"tools\"\npackages = [\"tree\"]\n";
    let project = Project::new(provider, &file("debian/13", "stock", &format!("boot_timeout = 1\n{step}")));
    project.rvm(&["up"]).code(1).says("1 s").says("console");
    assert_eq!(project.state("default"), "running");
    project.rvm(&["logs"]).ok();
    project.vagrantfile(provider, &file("debian/13", "stock", step));
    project.rvm(&["up"]).ok().says("tools");
    look(&project, "13", "stock");
    assert!(project.ssh("tree --version").starts_with("tree v"));
    project.rvm(&["up"]).ok();
    project.rvm(&["halt"]).ok();
}
