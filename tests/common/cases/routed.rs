//! Private networks with a router between them: who reaches whom, by which name, and who does not.
use super::{MICRO, compile};
use crate::common::{Project, Run};

/// Two networks with one machine in both; `lone` is in a network of its own.
const ROUTED: &str = r#"
[[network]]
name = "front"
subnet = ["10.81.0.0/24", "fd81::/64"]
mtu = 9000

[[network]]
name = "back"
subnet = ["10.82.0.0/24", "fd82::/64"]

[[machine]]
name = "web"
hostname = "shop.example"
network = [{ private = "front", ip = ["10.81.0.5", "fd81::5"] }]

[[machine.provision]]
shell = "ip route add 10.82.0.0/24 via 10.81.0.1 && ip -6 route add fd82::/64 via fd81::1"

[[machine]]
name = "router"
network = [
  { private = "front", ip = ["10.81.0.1", "fd81::1"] },
  { private = "back", ip = ["10.82.0.1", "fd82::1"] },
]

[[machine.provision]]
shell = "echo 1 >/proc/sys/net/ipv4/ip_forward && echo 1 >/proc/sys/net/ipv6/conf/all/forwarding"

[[machine]]
name = "db"
network = [{ private = "back", ip = "dhcp" }]

[[machine.provision]]
shell = '''
ip route add 10.81.0.0/24 via 10.82.0.1 && ip -6 route add fd81::/64 via fd82::1
echo "$(hostname) over TCP" >/tmp/index.html
httpd -p 8000 -h /tmp && httpd -p '[::]:8001' -h /tmp
'''

[[machine]]
name = "lone"
network = [{ private = "alone" }]
"#;

/// TCP, UDP, IPv4 and IPv6 by name, over a router between two networks; a machine elsewhere reaches none
/// of them.
pub fn machines_find_each_other_by_name_over_a_router(provider: &str) {
    let project = Project::new(provider, &format!("{MICRO}{ROUTED}"));
    compile(&project, "peer");
    project.rvm(&["up"]).ok().says("10.82.0.2").says("db.back");
    let ssh = |name: &str, command: &str| project.rvm(&["ssh", name, "-c", command]);

    let fetch = |name: &str, url: &str| ssh(name, &format!("wget -q -T 20 -O- http://{url}/"));
    for host in ["db:8000", "db.back:8000", "10.82.0.2:8000"] {
        fetch("web", host).ok().says("db over TCP");
    }
    let v6 = ssh("web", "nslookup -type=aaaa db.back | sed -n 's/^Address: //p'").ok().stdout;
    assert!(v6.starts_with("fd82::"), "{v6}");
    fetch("web", &format!("[{}]:8001", v6.trim())).ok().says("db over TCP");
    fetch("router", "db:8000").ok().says("db over TCP");
    exchanged(&project, v6.trim());
    // UDP there and back over the router, to the resolver of the other network.
    ssh("db", "nslookup -type=a web.front 10.81.0.254").ok().says("10.81.0.5");
    // The way leads over the router, which says so.
    for (trace, router, end) in
        [("traceroute", "10.81.0.1", "10.82.0.2"), ("traceroute6", "fd81::1", v6.trim())]
    {
        ssh("web", &format!("sudo busybox {trace} -n -q 1 -w 20 -m 4 {end}")).ok().says(router).says(end);
    }
    let v6_by_name = "sudo ping -6 -c 1 -W 20 db.back && wget -q -T 20 -O- http://db.back:8001/";
    ssh("web", v6_by_name).ok().says(v6.trim()).says("db over TCP");
    // Host names, in full and in part, from the network behind the router.
    for name in ["shop.example", "shop", "web.front"] {
        ssh("db", &format!("ping -4 -c 1 -W 20 {name} || sudo ping -4 -c 1 -W 20 {name}"))
            .ok()
            .says("10.81.0.5");
    }
    assert_eq!(ssh("web", "cat /sys/class/net/eth1/mtu").ok().stdout.trim(), "9000");
    ssh("router", "sudo ping -c 1 -W 20 -s 8900 web").ok().says("8908 bytes from");
    // Other names are left to the resolver of the host.
    let resolvers = ssh("web", "cat /etc/resolv.conf").ok().stdout;
    assert_eq!(resolvers.lines().filter(|line| line.starts_with("nameserver")).count(), 2, "{resolvers}");

    nobody_answers(&project);

    let web = project.machine("web");
    assert_eq!(web["networks"][0]["addresses"][1], "fd81::5");
    project.rvm(&["destroy", "-f"]).ok();
    let left = std::fs::read_dir(project.home.join("networks")).unwrap().count();
    assert_eq!(left, 0, "a network without machines is left");
}

/// Where that program listens.
const PORT: u16 = 7007;
/// A question for each protocol and family, of as many tries as `$tries` says, to `$to`.
const ASK: &str = "for kind in udp tcp; do for family in 4 6; do \
    /vagrant/peer ask $kind $family $to $port $from-$kind-$family $tries; done; done";

fn asked(project: &Project, machine: &str, to: &str, tries: u32) -> Run {
    let command = format!("from={machine}; to={to}; port={PORT}; tries={tries}; {ASK}");
    project.rvm(&["ssh", machine, "-c", &command])
}

/// What two machines send to each other by name arrives, and is answered: by both protocols, in both families and
/// directions. The one that is asked sees the other's own address.
fn exchanged(project: &Project, db_v6: &str) {
    for machine in ["web", "db", "lone"] {
        let serve = format!("/vagrant/peer serve {PORT} {machine} >/tmp/heard 2>&1 </dev/null");
        project.rvm(&["ssh", machine, "-c", &serve]).ok();
    }
    for (from, v4, v6, to, host) in [
        ("web", "10.81.0.5", "fd81::5", "db", "db.back"),
        ("db", "10.82.0.2", db_v6, "web", "web.front"),
        ("db", "10.82.0.2", db_v6, "web", "shop.example"),
    ] {
        let line = |kind: &str, family: u32| {
            let address = if family == 4 { format!("::ffff:{v4}") } else { v6.to_owned() };
            format!("{to} heard {from}-{kind}-{family} from {address}\n")
        };
        let answers = [line("udp", 4), line("udp", 6), line("tcp", 4), line("tcp", 6)].concat();
        assert_eq!(asked(project, from, host, 10).ok().stdout, answers);
    }
}

/// A machine of another network knows the names, and what it sends gets no further than its own network: not even
/// where it looks for the others on its own card. What it asks with and whom it asks is at work all the while.
fn nobody_answers(project: &Project) {
    let lone = |command: &str| project.rvm(&["ssh", "lone", "-c", command]);
    lone("sudo ping -c 1 -W 2 10.81.0.5").code(1);
    lone("wget -q -T 3 -O- http://db:8000/").code(1);
    lone("for net in 10.81.0.0/16 10.82.0.0/16 fd81::/16 fd82::/16; do sudo ip route add $net dev eth1 || exit; done").ok();
    let taken = || {
        let list = project.json("network-list", &["network", "list"]);
        let networks = list["networks"].as_array().unwrap();
        let alone = networks.iter().find(|network| network["name"] == "alone").unwrap();
        alone["members"][0]["frames"]["received"].as_u64().unwrap()
    };
    for command in [
        "ping -c 1 -W 2 10.81.0.5",
        "ping -6 -c 1 -W 2 fd81::5",
        "busybox arping -c 1 -w 2 -I eth1 10.81.0.5",
    ] {
        lone(&format!("sudo {command}")).code(1).says_not("1 packets received");
    }
    let before = taken();
    let run = asked(project, "lone", "db.back", 1).code(1).says("udp: ").says("tcp: ");
    assert_eq!(run.stdout, "", "somebody answers");
    assert!(taken() > before, "nothing was sent");
    lone("nslookup -type=a db 10.81.0.254").code(1);

    asked(project, "lone", "localhost", 1).ok().says("lone heard lone-udp-4").says("lone heard lone-tcp-6");
    asked(project, "web", "db.back", 10).ok();
    for (machine, other) in [("db", "web-udp-4"), ("web", "db-udp-4")] {
        let run = project.rvm(&["ssh", machine, "-c", "cat /tmp/heard"]);
        run.ok().says(other).says_not("lone");
    }
}
