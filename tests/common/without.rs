//! `nat = "none"`: a machine without a card that leads out.

use std::time::{Duration, Instant};

use crate::common::cases::MICRO;
use crate::common::{Project, fetch, free_port};

/// All that goes by SSH works, and nothing else; private networks do beside it.
#[test]
fn a_machine_without_a_card() {
    let provider = "kvm";
    let head = format!("{MICRO}nat = \"none\"\n");
    let rest = "[[folder]]\nhost = \"src\"\nguest = \"/srv/app\"\ntype = \"rsync\"\n\
                [[provision]]\nname = \"made\"\nshell = \"echo made >/etc/made\"\n\
                [[provision]]\nname = \"again\"\nreboot = true\n";
    let project = Project::new(provider, &format!("{head}{rest}"));
    project.write("src/main.c", "one");
    project.rvm(&["up", "--provider", "qemu"]).code(1).says("E0711").says("closed");
    assert_eq!(project.state("default"), "not_created");
    project.rvm(&["up"]).ok().says("2 steps ran");
    assert!(!project.machine_dir("default").join("nat.sock").exists(), "something is there for passt");

    let (cards, routes) = (project.ssh("ls /sys/class/net"), project.ssh("ip route"));
    assert_eq!((cards.as_str(), routes.as_str()), ("lo", ""));
    project.rvm(&["ssh", "-c", "wget -q -T 5 -O- http://10.0.2.2/"]).code(1).says("unreachable");

    assert_eq!(project.ssh("cat /etc/made /srv/app/main.c"), "made\none");
    project.write("src/main.c", "two");
    project.rvm(&["rsync"]).ok().says("1 file");
    project.rvm(&["exec", "--", "cmp", "/srv/app/main.c", "/etc/made"]).code(1);
    let many = (0..200_000).map(|n| format!("{n}\n")).collect::<String>();
    project.write("many", &many);
    project.rvm(&["cp", "many", "default:/tmp/many"]).ok();
    project.rvm(&["cp", "default:/tmp/many", "back"]).ok();
    assert!(std::fs::read_to_string(project.root.join("back")).unwrap() == many);
    let port = free_port();
    project.ssh("mkdir -p /tmp/www && echo by SSH >/tmp/www/index.html && httpd -p 8000 -h /tmp/www");
    project.rvm(&["port", "add", &format!("{port}:8000")]).ok();
    assert!(fetch(port).contains("by SSH"));
    project.rvm(&["port"]).ok().says("22 (guest)").says("8000 (guest)");
    // Several at once; dropbear takes five at a time that have not logged in yet.
    let all: Vec<_> = (0..4).map(|n| project.start(&["ssh", "-c", &format!("sleep 1; echo {n}")])).collect();
    for (n, run) in all.into_iter().enumerate() {
        assert_eq!(run.wait().ok().stdout.trim(), n.to_string());
    }

    project.rvm(&["provision", "--provision-with", "made"]).ok();
    let boot = project.ssh("cat /proc/sys/kernel/random/boot_id");
    project.rvm(&["ssh", "-c", "sudo reboot"]);
    let deadline = Instant::now() + Duration::from_secs(180);
    loop {
        let run = project.rvm(&["ssh", "-c", "cat /proc/sys/kernel/random/boot_id"]);
        if run.code == 0 && run.stdout.trim() != boot {
            break;
        }
        assert!(Instant::now() < deadline, "the guest does not come back");
    }

    let pair = "[[machine]]\nname = \"default\"\nnetwork = [{ private = \"back\", ip = \"10.86.0.5/24\" }]\n\
                [[machine]]\nname = \"other\"\nnetwork = [{ private = \"back\" }]\n";
    project.vagrantfile(provider, &format!("{head}{rest}{pair}"));
    project.rvm(&["reload", "default"]).ok();
    project.rvm(&["up", "other", "--no-provision"]).ok();
    let reaches = || {
        let tries = "for n in 1 2 3 4 5 6 7 8 9; do sudo ping -c 1 -W 10 default && exit; done; exit 1";
        project.rvm(&["ssh", "other", "-c", tries]).ok().says("10.86.0.5");
    };
    reaches();
    let ways = project.rvm(&["ssh", "other", "-c", "ip route | grep -c default"]).code(1);
    assert_eq!(ways.stdout.trim(), "0");
    // Who brings back a switch is not there for passt only.
    project.kill("__nat", "machines");
    project.rvm(&["status", "other"]).ok().says("running");
    project.rvm(&["up", "--no-provision"]).ok().says("starts again what it needs");
    project.kill("__switch", "networks");
    reaches();
    project.rvm(&["halt"]).ok();
    let deadline = Instant::now() + Duration::from_secs(60);
    while ["__nat", "__vm"].iter().any(|word| !project.pids_of(word, "machines").is_empty()) {
        assert!(Instant::now() < deadline, "a process outlives the machines");
        std::thread::sleep(Duration::from_millis(100));
    }
}
