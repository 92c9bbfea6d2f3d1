//! Up, halt, destroy and what is shown of a machine in between.

use std::io::{Read, Write};

use super::MICRO;
use crate::common::{Project, fetch, free_port, machines, shapes};

const COUNTING: &str = r#"
[[provision]]
name = "count"
shell = "echo run >> /etc/e2e-count"
"#;

/// The whole life of one machine, with Vagrant's states, and no step run twice.
pub fn life_of_a_machine(provider: &str) {
    let project = Project::new(provider, &format!("{MICRO}{COUNTING}"));
    assert_eq!(project.state("default"), "not_created");
    project.rvm(&["ssh", "-c", "true"]).code(1);

    project.rvm(&["up", "--timings=times"]).ok().says("count").says("user space");
    timings(&project, provider);
    let machine = project.machine("default");
    assert_eq!(machine["state"], "running");
    assert_eq!(machine["provider"], provider);
    assert_eq!(machine["box"], "micro");
    project.rvm(&["status"]).ok().says("running").says(provider);
    ssh_and_ids(&project, machine["id"].as_str().unwrap());

    for_scripts(&project);
    what_it_takes(&project, provider);

    project.rvm(&["up"]).ok();
    assert_eq!(project.ssh("cat /etc/e2e-count"), "run");

    let (hosts, listed) = (project.home.join("ssh_config"), || {
        let text = std::fs::read_to_string(project.home.join("ssh_config")).unwrap();
        text.matches("\nHost ").count()
    });
    let mode = std::os::unix::fs::PermissionsExt::mode(&hosts.metadata().unwrap().permissions());
    assert_eq!((mode & 0o777, listed()), (0o600, 1));
    let include = project.rvm(&["ssh-config", "--include"]).ok();
    assert_eq!(include.stdout, format!("Include {}\n", hosts.display()));
    project.write("user.conf", &include.stdout);
    // The project's folder is called `project`.
    let run = project.run("ssh", &["-F", "user.conf", "default.project", "echo by the line"]);
    assert_eq!(run.ok().stdout, "by the line\n");

    project.rvm(&["halt"]).ok();
    assert_eq!(listed(), 0);
    assert_eq!(project.state("default"), "poweroff");
    project.rvm(&["halt"]).ok();
    project.rvm(&["up"]).ok();
    assert_eq!(project.ssh("cat /etc/e2e-count"), "run", "the disk is kept and no step runs twice");
    project.rvm(&["provision"]).ok();
    assert_eq!(project.ssh("wc -l < /etc/e2e-count").trim(), "2");
    project.rvm(&["reload"]).ok();
    assert_eq!(project.ssh("wc -l < /etc/e2e-count").trim(), "2");

    project.rvm(&["destroy"]).code(1).says("-f");
    project.rvm(&["destroy", "-f"]).ok();
    assert_eq!(project.state("default"), "not_created");
    let all = machines(&project.rvm(&["global-status", "--json"]).ok());
    assert!(all.is_empty(), "{all:?}");
    let left = std::fs::read_dir(project.home.join("machines")).map(Iterator::count).unwrap_or(0);
    assert_eq!(left, 0, "files of a destroyed machine are left");
    assert!(project.pids().is_empty());
    project.rvm(&["destroy", "-f"]).ok();
}

/// What a machine that runs is for scripts: documents of their documented shapes, and lines.
fn for_scripts(project: &Project) {
    let status = project.json("machines", &["status"]);
    assert!(status["machines"][0]["memory"]["given"].is_number(), "{status}");
    project.json("machines", &["global-status"]);
    assert_eq!(project.json("port", &["port"])["ports"][0]["guest"], 22);
    assert!(project.json("ssh-config", &["ssh-config"])["hosts"][0]["identity_file"].is_string());
    assert_eq!(project.json("plan", &["plan"])["machines"][0]["action"], "connect");
    assert!(project.json("box-list", &["box", "list"])["boxes"][0]["packages"].is_number());
    assert!(project.json("lock", &["lock", "--check"])["boxes"][0]["in_store"].is_boolean());
    assert!(!project.json("logs", &["logs"])["text"].as_str().unwrap().is_empty());
    assert_eq!(project.json("logs", &["logs", "--step", "count"])["step"], "count");
    let port = project.status()[0]["ssh"]["port"].to_string();
    project.rvm(&["--machine-readable", "status"]).ok().says(",default,state,running\n");
    project.rvm(&["--machine-readable", "port"]).ok().says(&format!(",default,forwarded_port,22,{port}\n"));
    project
        .rvm(&["--machine-readable", "ssh-config"])
        .ok()
        .says(",default,ssh-config,Host default\\n  HostName");
}

/// What a machine that works takes from the host.
fn what_it_takes(project: &Project, provider: &str) {
    let work =
        project.start(&["ssh", "-c", "dd if=/dev/vda bs=1M count=64 2>/dev/null | sha256sum; sleep 3"]);
    let top = project.json("top", &["top", "-i", "3"]);
    work.wait().ok();
    let machine = &top["machines"][0];
    assert!(machine["cpu_percent"].as_f64().unwrap() > 0.5, "{top}");
    let memory = &machine["memory"];
    assert_eq!(memory["given"], 128 << 20);
    let rss = memory["rss"].as_u64().unwrap();
    assert!((16 << 20..1 << 30).contains(&rss), "{top}");
    assert!(machine["disk"]["read"].as_u64().unwrap() > 1 << 20, "{top}");
    if provider == "kvm" {
        assert!(memory["used"].as_u64().unwrap() > 1 << 20, "{top}");
        assert!(machine["net"]["received"].as_u64().unwrap() > 1000, "{top}");
        assert!(machine["net"]["sent"].as_u64().unwrap() > 1000, "{top}");
    } else {
        assert!(memory["pss"].as_u64().unwrap() <= rss, "{top}");
    }
    project.rvm(&["top", "--all", "--once", "-i", "0.2"]).ok().says("default  running");
}

/// The chart of a first `up` has every phase once, in order, and none beyond the whole.
fn timings(project: &Project, provider: &str) {
    let read = |name: &str| std::fs::read_to_string(project.root.join("times").join(name)).unwrap();
    assert!(read("default.svg").starts_with("<svg"));
    let chart: serde_json::Value = serde_json::from_str(&read("default.json")).unwrap();
    shapes::check("timings", &chart);
    assert_eq!((chart["completed"].as_bool(), chart["provider"].as_str()), (Some(true), Some(provider)));
    let phases = chart["phases"].as_array().unwrap();
    let names: Vec<&str> = phases.iter().map(|phase| phase["phase"].as_str().unwrap()).collect();
    let expected = [
        "config",
        "wait",
        "plan",
        "box",
        "disk",
        "kernel_image",
        "probe",
        "seed",
        "network",
        "vmm",
        "kernel",
        "user_space",
        "ssh",
        "ask",
        "folders",
        "step",
    ];
    assert_eq!(names, expected);
    let number = |value: &serde_json::Value| value.as_f64().unwrap();
    let spent: f64 = phases.iter().map(|phase| number(&phase["duration_ms"])).sum();
    let (total, other) = (number(&chart["total_ms"]), number(&chart["other_ms"]));
    assert!((spent + other - total).abs() < 1.0, "{spent} + {other} is not {total}");
    let kernel = phases.iter().find(|phase| phase["phase"] == "kernel").unwrap();
    assert!(number(&kernel["duration_ms"]) > 1.0, "{chart}");
}

/// Exit codes, both streams, the system's ssh client; ids work from any folder.
fn ssh_and_ids(project: &Project, id: &str) {
    let run = project.rvm(&["ssh", "-c", "echo out; echo err >&2; exit 3"]).code(3);
    assert_eq!(run.stdout, "out\n");
    assert!(run.stderr.contains("err"), "{run:?}");
    let bytes = project.rvm(&["ssh", "-c", "seq 1 20000"]).ok().stdout;
    assert_eq!(bytes.lines().count(), 20_000);
    assert_eq!(bytes.lines().last(), Some("20000"));

    let config = project.rvm(&["ssh-config"]).ok().stdout;
    project.write("ssh.conf", &config);
    let run = project.run("ssh", &["-F", "ssh.conf", "default", "echo through the client"]);
    assert_eq!(run.ok().stdout, "through the client\n");

    let listed = machines(&project.rvm(&["global-status", "--json"]).ok());
    assert_eq!(listed.len(), 1);
    assert_eq!(listed[0]["directory"], project.root.to_str().unwrap());
    project.rvm(&["global-status"]).ok().says(&id[..7]).says("running");
    let mut elsewhere = project.command(&["status", "--json", &id[..7]]);
    let output = elsewhere.current_dir("/").output().unwrap();
    assert!(String::from_utf8_lossy(&output.stdout).contains("running"), "{output:?}");
}

/// Two machines in one file are brought up one by one or together.
pub fn two_machines_of_one_file(provider: &str) {
    let project =
        Project::new(provider, &format!("{MICRO}[[machine]]\nname = \"web\"\n[[machine]]\nname = \"db\"\n"));
    project.rvm(&["up", "web"]).ok();
    assert_eq!((project.state("web").as_str(), project.state("db").as_str()), ("running", "not_created"));
    project.rvm(&["up"]).ok();
    for name in ["web", "db"] {
        let run = project.rvm(&["ssh", name, "-c", "hostname"]).ok();
        assert_eq!(run.stdout.trim(), name);
    }
    project.rvm(&["ssh", "-c", "true"]).code(2);
    project.rvm(&["up", "nobody"]).code(2).says("nobody");
    project.rvm(&["halt", "db"]).ok();
    assert_eq!((project.state("web").as_str(), project.state("db").as_str()), ("running", "poweroff"));
    project.rvm(&["destroy", "-f"]).ok();
    assert_eq!((project.state("web").as_str(), project.state("db").as_str()), ("not_created", "not_created"));
}

const SERVER: &str = r#"
[[provision]]
name = "serve"
run = "always"
shell = """
mkdir -p /tmp/www
echo "hello from $(hostname)" > /tmp/www/index.html
busybox httpd -p 80 -h /tmp/www
"""
"#;

/// Has a guest take 127.0.0.1 for a neighbour of its first card, and undoes that.
const ESCAPE: &str = "echo 1 >/proc/sys/net/ipv4/conf/all/route_localnet; ip addr del 127.0.0.1/8 dev lo; \
    ip route del local 127.0.0.1 dev lo table local 2>/dev/null; \
    ip route del local 127.0.0.0/8 dev lo table local 2>/dev/null; ip route add 127.0.0.1/32 dev eth0";
const HOME_AGAIN: &str = "ip route del 127.0.0.1/32 dev eth0; ip addr add 127.0.0.1/8 dev lo";

/// Something that listens on 127.0.0.1 of the host, and the guest's command that asks it.
fn service() -> (std::net::TcpListener, impl Fn(&str) -> String) {
    let listener = std::net::TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let port = listener.local_addr().unwrap().port();
    let clone = listener.try_clone().unwrap();
    std::thread::spawn(move || {
        while let Ok((mut peer, _)) = clone.accept() {
            let _ = peer.read(&mut [0; 512]);
            let _ = peer.write_all(b"HTTP/1.0 200 OK\r\n\r\nhello from the host");
        }
    });
    (listener, move |host: &str| format!("wget -q -T 5 -O- http://{host}:{port}/"))
}

/// `auto_forward`: a server of the guest is reached from the host as long as it listens.
fn ports_as_they_open(project: &Project) {
    let port = free_port();
    project.ssh(&format!(
        "mkdir -p /tmp/own && echo opened > /tmp/own/index.html && httpd -p {port} -h /tmp/own"
    ));
    assert!(fetch(port).contains("opened"));
    project.rvm(&["port"]).ok().says(&format!("{port} (host), as long as the guest listens"));
    project.rvm(&["port", "remove", &port.to_string()]).code(1).says("auto_forward");
    project.ssh(&format!("kill $(ps | sed -n 's/^ *\\([0-9]*\\) .*[h]ttpd -p {port} .*/\\1/p')"));
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(60);
    while std::net::TcpStream::connect(("127.0.0.1", port)).is_ok() {
        assert!(std::time::Instant::now() < deadline, "the port stays open");
        std::thread::sleep(std::time::Duration::from_millis(200));
    }
}

/// The host fetches from forwards, the first of the file and the others added, while the guest reboots. Somebody
/// listens at that of the file all the time, nothing is heard that the guest does not say, and all lead in again when
/// it is back.
fn fetched_over_a_reboot(project: &Project, ports: &[u16]) {
    let boot = project.ssh("cat /proc/sys/kernel/random/boot_id");
    project.rvm(&["ssh", "-c", "sudo reboot"]);
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(180);
    loop {
        for (place, port) in ports.iter().enumerate() {
            let mut stream = match std::net::TcpStream::connect(("127.0.0.1", *port)) {
                Ok(stream) => stream,
                // The ssh client is started anew.
                Err(_) if place > 0 => continue,
                Err(error) => panic!("nobody listens at port {port} while the guest reboots: {error}"),
            };
            stream.set_read_timeout(Some(std::time::Duration::from_secs(1))).unwrap();
            let mut answer = [0; 7];
            let heard = stream.write_all(b"GET / HTTP/1.0\r\n\r\n").and_then(|()| stream.read(&mut answer));
            if let Ok(len) = heard {
                assert_eq!(answer[..len], b"HTTP/1."[..len], "not the guest's server");
            }
        }
        let now = project.rvm(&["ssh", "-c", "cat /proc/sys/kernel/random/boot_id"]);
        if now.code == 0 && now.stdout.trim() != boot.trim() {
            break;
        }
        assert!(std::time::Instant::now() < deadline, "the guest does not come back");
    }
    project.rvm(&["provision"]).ok();
    for port in ports {
        assert!(fetch(*port).contains("hello from default"), "{port}");
    }
}

/// A page of the guest through a forwarded port; a port that is taken; the host as the guest finds it.
pub fn forwarded_ports(provider: &str) {
    let taken = std::net::TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let host = taken.local_addr().unwrap().port();
    let port = |more: &str| format!("{MICRO}[[port]]\nguest = 80\nhost = {host}\n{more}{SERVER}");
    let project = Project::new(provider, &port(""));
    project.rvm(&["up"]).code(1).says(&host.to_string()).says("auto_correct");

    project.vagrantfile(provider, &port("auto_correct = true\n"));
    project.rvm(&["up"]).ok().says(&host.to_string());
    let actual = project.machine("default")["ports"][0]["host"].as_u64().unwrap();
    assert_ne!(actual, u64::from(host));
    project.rvm(&["port"]).ok().says(&actual.to_string());
    assert!(fetch(u16::try_from(actual).unwrap()).contains("hello from default"));
    drop(taken);
    // A service of the host's loopback.
    let (service, request) = service();
    project.rvm(&["ssh", "-c", &request("host.rvm.internal")]).ok().says("hello from the host");

    let free = std::iter::repeat_with(free_port)
        .find(|port| {
            port.checked_add(1).is_some_and(|next| std::net::TcpListener::bind(("127.0.0.1", next)).is_ok())
        })
        .unwrap();
    project.vagrantfile(
        provider,
        &format!(
            "{MICRO}nat = \"no-host\"\nauto_forward = true\n[[port]]\nguest = \"80-81\"\nhost = \"{free}-{}\"\n{SERVER}",
            free + 1
        ),
    );
    project.rvm(&["reload"]).ok();
    assert!(fetch(free).contains("hello from default"));
    project.rvm(&["port"]).ok().says(&format!("=> {} (host)", free + 1));
    project.rvm(&["ssh", "-c", "grep host.rvm.internal /etc/hosts"]).code(1);
    project
        .rvm(&["ssh", "-c", &request("$(ip route | sed -n 's/^default via \\([^ ]*\\) .*/\\1/p')")])
        .code(1);
    // Not even for who is root in the guest and sends to that very address.
    let escape = format!("{ESCAPE}; {}; failed=$?; {HOME_AGAIN}; exit $failed", request("127.0.0.1"));
    project.rvm(&["ssh", "-c", &format!("sudo sh -c '{escape}'")]).code(1).says_not("hello from the host");
    drop(service);

    ports_as_they_open(&project);
    super::kept::datagrams_as_they_open(&project);

    let more = free_port();
    let word = format!("{more}:80");
    project.rvm(&["port", "add", &word]).ok();
    assert!(fetch(more).contains("hello from default"));
    project.rvm(&["port"]).ok().says(&more.to_string());
    project.rvm(&["port", "add", &word]).code(1).says("taken");
    project.rvm(&["port", "remove", &more.to_string()]).ok();
    assert!(std::net::TcpStream::connect(("127.0.0.1", more)).is_err(), "somebody listens still");
    project.rvm(&["port", "remove", &free.to_string()]).code(1).says("Vagrantfile");
    project.rvm(&["port", "add", &word]).ok();
    fetched_over_a_reboot(&project, &[free, more]);
    super::kept::ports_come_back(&project, more);
    // It ends with the machine, too.
    project.rvm(&["port", "add", &word]).ok();
    project.rvm(&["halt", "-f"]).ok();
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(60);
    while ["__forward", "__follow"].iter().any(|word| !project.pids_of(word, "machines").is_empty()) {
        assert!(std::time::Instant::now() < deadline, "the forward outlives its machine");
        std::thread::sleep(std::time::Duration::from_millis(100));
    }
}
