//! Private networks: what a killed switch costs, and who shares one. `routed.rs` has who reaches whom, by which name.

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

/// The process that carries the frames is killed: another one takes over. Both are killed: the machines' keepers
/// start a new switch. They are killed, too: the next `up` does, as it starts another passt.
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
    project.kill("__switch-ports", "networks");
    let came_back = "for n in 1 2 3 4 5 6 7 8 9; do sudo ping -c 1 -W 10 one && exit; done; exit 1";
    project.rvm(&["ssh", "two", "-c", came_back]).ok();
    a_way_out_comes_back(&project);
    // So does a switch that has nobody left who watches.
    project.kill("__switch", "networks");
    project.rvm(&["ssh", "two", "-c", came_back]).ok();
    project.rvm(&["status", "two"]).ok().says_not("cut off");
    // Without those who bring it back, `status` says that it is gone, and `up` mends it.
    project.kill("__nat", "machines");
    project.kill("__switch", "networks");
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

/// A network of two projects, whose machines may have different providers: they find each other by name, and no
/// address is given twice. What one project leaves is the other's still.
pub fn two_projects_in_one_network(first: &str, second: &str) {
    let file = |name: &str, ip: &str| {
        format!(
            "{MICRO}[[network]]\nname = \"lab\"\nshared = true\nsubnet = \"10.83.0.0/24\"\n\
             [[machine]]\nname = \"{name}\"\nnetwork = [{{ private = \"lab\", ip = \"{ip}\" }}]\n"
        )
    };
    let one = Project::new(first, &file("web", "10.83.0.5"));
    let mut two = Project::new(second, &file("db", "10.83.0.5"));
    two.home.clone_from(&one.home);
    one.rvm(&["up"]).ok();
    two.rvm(&["up"]).code(1).says("10.83.0.5").says("web");
    two.vagrantfile(second, &file("db", "10.83.0.6"));
    two.rvm(&["up"]).ok();
    for (project, machine, other, address) in
        [(&one, "web", "db", "10.83.0.6"), (&two, "db", "web", "10.83.0.5")]
    {
        for name in [other, &format!("{other}.lab")] {
            let command = format!("sudo ping -c 1 -W 60 {name} && nc -w 60 {name} 22 </dev/null | head -c 4");
            project.rvm(&["ssh", machine, "-c", &command]).ok().says(address).says("SSH-");
        }
    }
    let members = |project: &Project| {
        let list = project.json("network-list", &["network", "list"]);
        let members = list["networks"][0]["members"].as_array().unwrap().clone();
        members.iter().map(|member| member["machine"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    assert_eq!((members(&one).len(), members(&two).len()), (2, 2));
    one.rvm(&["destroy", "-f"]).ok();
    assert_eq!(members(&two), ["db"]);
    two.rvm(&["ssh", "-c", "nslookup -type=a web.lab 10.83.0.254"]).code(1);
    two.rvm(&["ssh", "-c", "nslookup -type=a db.lab 10.83.0.254"]).ok().says("10.83.0.6");
}

/// passt is killed: another one is started. So is who does that: `up` puts another one in its place, before passt is
/// gone or after, and says so when a program has taken the machine's port meanwhile.
fn a_way_out_comes_back(project: &Project) {
    let answers = || project.rvm(&["ssh", "one", "-c", "echo $((6 * 7))"]);
    let comes_back = || {
        let deadline = Instant::now() + Duration::from_secs(60);
        while answers().code != 0 {
            assert!(Instant::now() < deadline, "no other passt was started");
        }
    };
    let one = project.machine("one");
    let folder = format!("machines/{}", one["id"].as_str().unwrap());
    let port = u16::try_from(one["ssh"]["port"].as_u64().unwrap()).unwrap();
    project.kill_passt("one");
    comes_back();

    project.kill("__nat", &folder);
    project.rvm(&["status", "one"]).ok().says_not("cut off");
    project.rvm(&["up", "one"]).ok().says("another one was started").says_not("cut off");
    project.rvm(&["up", "one"]).ok().says_not("another one was started");
    project.kill_passt("one");
    comes_back();

    // Without the process that brings it back, `status` says that it is gone, and `up` mends it.
    project.kill("__nat", &folder);
    project.kill_passt("one");
    project.rvm(&["status", "one"]).ok().says("its passt has ended").says("rvm up one");
    let squatter = std::net::TcpListener::bind(("127.0.0.1", port)).unwrap();
    project.rvm(&["status", "one"]).ok().says("its passt has ended").says("another program listens");
    project.rvm(&["port", "one"]).ok().says("its passt has ended");
    project.rvm(&["up", "one"]).code(1).says("could not listen");
    project.rvm(&["status", "one"]).ok().says("another one cannot be started yet");
    drop(squatter);
    project.rvm(&["up", "one"]).ok();
    answers().ok().says("42");
    project.rvm(&["status", "one"]).ok().says_not("its passt has ended");
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
