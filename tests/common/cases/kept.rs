//! Ports that were added or are followed: datagrams, and what becomes of them when who keeps them is killed. The machine is
//! one of `life.rs`.

use std::net::{TcpListener, TcpStream, UdpSocket};
use std::path::Path;
use std::time::{Duration, Instant};

use crate::common::{Project, fetch, free_port};

#[track_caller]
fn wait(otherwise: &str, mut done: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(60);
    while !done() {
        assert!(Instant::now() < deadline, "{otherwise}");
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// The ssh clients that keep ports of the project's machines.
fn clients(project: &Project) -> usize {
    let is_one = |pid: &i32| {
        let words = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        let program = words.split(|byte| *byte == 0).next().unwrap_or_default();
        Path::new(std::str::from_utf8(program).unwrap_or_default()).ends_with("ssh")
    };
    project.pids_of("ssh", "machines").iter().filter(|pid| is_one(pid)).count()
}

/// Kills the only process of that name; another one takes its place, and nothing of the first is left.
fn killed(project: &Project, name: &str, all: usize) {
    let before = project.pids_of(name, "machines");
    assert_eq!(before.len(), 1, "{name}");
    project.kill(name, "machines");
    wait(&format!("no other {name} is started"), || {
        let now = project.pids_of(name, "machines");
        now.len() == 1 && now != before
    });
    wait("there are too few or too many ssh clients", || clients(project) == all);
}

/// A port of this host that nobody has at the moment, and that no kernel gives to a program that asks.
fn port_of_a_server() -> u16 {
    let is_free = |port: &u16| {
        UdpSocket::bind(("127.0.0.1", *port)).is_ok() && TcpListener::bind(("127.0.0.1", *port)).is_ok()
    };
    (20_000..32_000).find(is_free).expect("all ports are taken")
}

/// `auto_forward`: a program of the guest that waits for datagrams is sent them, and heard, as long as it waits.
pub fn datagrams_as_they_open(project: &Project) {
    let port = port_of_a_server();
    super::compile(project, "peer");
    let server =
        project.ssh(&format!("/vagrant/peer serve {port} guest >/tmp/heard 2>&1 </dev/null; pidof peer"));
    let client = UdpSocket::bind(("127.0.0.1", 0)).unwrap();
    client.set_read_timeout(Some(Duration::from_millis(500))).unwrap();
    let mut answer = [0; 200];
    wait("nobody answers a datagram", || {
        client.send_to(b"hello", ("127.0.0.1", port)).unwrap();
        let len = client.recv(&mut answer).unwrap_or(0);
        answer[..len].starts_with(b"guest heard hello from ")
    });
    let line = format!("{port}/udp (guest) => {port} (host), as long as the guest listens");
    let list = project.rvm(&["port"]).ok().says(&line);
    let udp = list.stdout.lines().filter(|line| line.contains("/udp")).count();
    assert_eq!(udp, 1, "ports that nobody serves lead in: {list:?}");
    project.rvm(&["port", "remove", &format!("{port}/udp")]).code(1).says("auto_forward");
    project.ssh(&format!("kill {server}"));
    wait("the port stays open", || UdpSocket::bind(("127.0.0.1", port)).is_ok());
    let squatter = UdpSocket::bind(("127.0.0.1", port)).unwrap();
    let server =
        project.ssh(&format!("/vagrant/peer serve {port} guest >/dev/null 2>&1 </dev/null; pidof peer"));
    wait("a port that cannot be had is not told of", || {
        project
            .rvm(&["port"])
            .ok()
            .stderr
            .contains(&format!("listens at {port}/udp, which `auto_forward` passes over"))
    });
    project.rvm(&["port"]).ok().says(&format!("{port} (guest) => {port} (host)")).says_not("/udp (guest)");
    project.ssh(&format!("kill {server}"));
    drop(squatter);
    wait("what nobody listens at is told of", || {
        let list = project.rvm(&["port"]).ok().text();
        !list.contains("/udp") && !list.contains(&port.to_string())
    });
}

/// `added` leads to a server of the guest, and is all that was added; the ports of the guest are followed.
pub fn ports_come_back(project: &Project, added: u16) {
    let well = || {
        assert!(fetch(added).contains("hello from default"));
        wait("`status` finds fault", || !project.rvm(&["status"]).ok().text().contains("has ended"));
    };
    killed(project, "__forward", 2);
    well();
    let own = free_port();
    project.ssh(&format!("httpd -p {own} -h /tmp/www"));
    assert!(fetch(own).contains("hello from default"));
    killed(project, "__follow", 2);
    assert!(fetch(own).contains("hello from default"));

    // Without who brings it back, and with a program that has the port meanwhile.
    project.kill("__nat", "machines");
    project.kill("__forward", "machines");
    wait("the port of a process that was killed is open still", || {
        TcpStream::connect(("127.0.0.1", added)).is_err()
    });
    let squatter = TcpListener::bind(("127.0.0.1", added)).unwrap();
    project.rvm(&["status"]).ok().says(&added.to_string()).says("its process has ended").says("rvm up");
    project.rvm(&["up", "--no-provision"]).ok().says("another one cannot be started").says("in use");
    wait("`status` does not say why", || {
        project.rvm(&["status"]).ok().text().contains("another one cannot be started yet")
    });
    drop(squatter);
    well();

    // What was removed stays so, whoever comes back.
    project.rvm(&["port", "remove", &added.to_string()]).ok();
    killed(project, "__follow", 1);
    assert_eq!(project.pids_of("__forward", "machines"), [0; 0], "it was removed");
    TcpStream::connect(("127.0.0.1", added)).unwrap_err();
    project.rvm(&["port"]).ok().says_not(&format!("{added} (host)"));
}
