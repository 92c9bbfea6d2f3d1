//! Private networks: what a killed switch costs. `e2e_qemu.rs` has who reaches whom, by which name.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use super::MICRO;
use crate::common::{Project, free_port};

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
    reached_from_the_host(&project, "two", "one.pair");
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
    project.rvm(&["port", "one"]).ok().says("its passt has ended");
    project.rvm(&["up", "one"]).ok().says("another one was started");
    project.rvm(&["ssh", "one", "-c", "echo $((6 * 7))"]).ok().says("42");
    project.rvm(&["status", "one"]).ok().says_not("its passt has ended");
    kill("__switch", "networks");
    project.rvm(&["status", "two"]).ok().says("cut off from network pair").says("rvm up two");
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

/// A connection to a port of this host, where a command listens that was started a moment ago.
fn connected(port: u16) -> TcpStream {
    let deadline = Instant::now() + Duration::from_secs(60);
    loop {
        match TcpStream::connect(("127.0.0.1", port)) {
            Ok(stream) => {
                stream.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
                return stream;
            }
            Err(error) => assert!(Instant::now() < deadline, "nobody listens at {port}: {error}"),
        }
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// The first words of an SSH server at the other end.
fn greeting(mut stream: TcpStream) -> [u8; 4] {
    let mut words = [0; 4];
    stream.read_exact(&mut words).unwrap();
    words
}

/// `rvm forward` and `rvm proxy` by way of `through` lead to the SSH server of `name`.
fn reached_from_the_host(project: &Project, through: &str, name: &str) {
    let server = 22_u16;
    let (forwarded, socks) = (free_port(), free_port());
    let forward = project.start(&["forward", through, &format!("{forwarded}:{name}:{server}")]);
    assert_eq!(&greeting(connected(forwarded)), b"SSH-");
    project.rvm(&["forward", through, &format!("{forwarded}:{name}:{server}")]).code(1).says("taken");
    let proxy = project.start(&["proxy", through, "--port", &socks.to_string()]);
    let mut stream = connected(socks);
    // Version 5, one way to log in: none (RFC 1928, section 3).
    stream.write_all(&[5, 1, 0]).unwrap();
    let mut answer = [0; 2];
    stream.read_exact(&mut answer).unwrap();
    assert_eq!(answer, [5, 0]);
    // Connect to a name, which the machine looks up (section 4); the answer has an IPv4 address.
    let len = u8::try_from(name.len()).unwrap();
    let request = [&[5, 1, 0, 3, len][..], name.as_bytes(), &server.to_be_bytes()].concat();
    stream.write_all(&request).unwrap();
    let mut answer = [0; 10];
    stream.read_exact(&mut answer).unwrap();
    assert_eq!(answer[..2], [5, 0], "not connected");
    assert_eq!(&greeting(stream), b"SSH-");
    for (command, port) in [(forward, forwarded), (proxy, socks)] {
        command.signal(rustix::process::Signal::INT);
        command.wait().says("until Ctrl-C");
        assert!(TcpStream::connect(("127.0.0.1", port)).is_err(), "somebody listens at {port} still");
    }
}
