//! Private networks: what a killed switch costs. `e2e_qemu.rs` has who reaches whom, by which name.

use super::MICRO;
use crate::common::Project;

const PAIR: &str = r#"
[[machine]]
name = "one"
network = [{ private = "pair", ip = "10.81.0.5/24" }]

[[machine]]
name = "two"
nat = "closed"
network = [{ private = "pair" }]
"#;

/// The process that carries the frames is killed: another one takes over. Both are killed: the next `up`
/// connects the machines again, as it does one whose passt was killed.
pub fn two_machines_and_a_killed_switch(provider: &str) {
    let project = Project::new(provider, &format!("{MICRO}{PAIR}"));
    project.rvm(&["up"]).ok();
    let reaches = || project.rvm(&["ssh", "two", "-c", "sudo ping -c 1 -W 60 one"]).ok();
    reaches().says("10.81.0.5");
    // The one without a way out knows the network's resolver only.
    for (name, has_more) in [("one", true), ("two", false)] {
        let resolvers = project.rvm(&["ssh", name, "-c", "cat /etc/resolv.conf"]).ok().stdout;
        let found = resolvers.lines().filter(|line| line.starts_with("nameserver")).count();
        assert_eq!(found > 1, has_more, "{name}: {resolvers}");
    }
    let list = project.json("network-list", &["network", "list"]);
    assert!(list["networks"][0]["members"][0]["frames"]["received"].is_number(), "{list}");
    let kill = |word: &str, folder: &str| {
        let pids = project.pids_of(word, folder);
        assert!(!pids.is_empty(), "no process {word}");
        for pid in pids {
            let pid = rustix::process::Pid::from_raw(pid).unwrap();
            rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
        }
    };
    kill("__switch-ports", "networks");
    let came_back = "for n in 1 2 3 4 5 6 7 8 9; do sudo ping -c 1 -W 10 one && exit; done; exit 1";
    project.rvm(&["ssh", "two", "-c", came_back]).ok();
    // The way out of a machine comes back by itself.
    project.kill_passt("one");
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(60);
    while project.rvm(&["ssh", "one", "-c", "echo $((6 * 7))"]).code != 0 {
        assert!(std::time::Instant::now() < deadline, "no other passt was started");
    }
    // Without the process that brings it back, `status` says that it is gone, and `up` mends it.
    let folder = format!("machines/{}", project.machine("one")["id"].as_str().unwrap());
    kill("__nat", &folder);
    project.kill_passt("one");
    project.rvm(&["status", "one"]).ok().says("its passt has ended").says("rvm up one");
    project.rvm(&["up", "one"]).ok().says("another one was started");
    project.rvm(&["ssh", "one", "-c", "echo $((6 * 7))"]).ok().says("42");
    project.rvm(&["status", "one"]).ok().says_not("its passt has ended");
    kill("__switch", "networks");
    project.rvm(&["up", "two"]).ok().says("connected again");
    reaches();
    project.rvm(&["halt"]).ok();
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(60);
    while !(project.pids_of("__switch", "networks").is_empty()
        && project.pids_of("__nat", "machines").is_empty())
    {
        assert!(
            std::time::Instant::now() < deadline,
            "the switch, or who keeps passt, outlives the machines"
        );
        std::thread::sleep(std::time::Duration::from_millis(100));
    }
}
