//! The distributions: each box with each kernel boots to SSH, and is a whole system.

use std::net::UdpSocket;
use std::time::{Duration, Instant};

use crate::common::{Project, free_udp_ports};

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

/// The host's clock is one of the guest's, a module of the distribution's kernel, where KVM can give time and counter
/// of the host together.
fn host_clock(project: &Project, provider: &str) {
    let clock = std::fs::read_to_string("/sys/devices/system/clocksource/clocksource0/current_clocksource");
    if provider == "kvm" && clock.is_ok_and(|clock| clock.trim() == "tsc") {
        let name = "sudo modprobe ptp_kvm 2>/dev/null; cat /sys/class/ptp/ptp0/clock_name";
        assert_eq!(project.ssh(name), "KVM virtual PTP");
    }
}

fn boots(provider: &str, version: &str, kernel: &str) {
    let project = Project::new(provider, &file(&format!("debian/{version}"), kernel, ""));
    project.rvm(&["up"]).ok();
    look(&project, version, kernel);
    host_clock(&project, provider);
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

/// Says what it hears, behind the number of its port, at two ports.
const ECHO: &str = r#"
[[provision]]
shell = """
for port in 5300 5301; do
  systemd-run --unit=echo-$port perl -MIO::Socket::INET -e '
    $s = IO::Socket::INET->new(Proto => "udp", LocalPort => $ARGV[0]) or die $!;
    while ($s->recv($d, 65536)) { $s->send("$ARGV[0] $d") }' $port
done
"""
"#;

/// Sends to a UDP port of this host until an answer comes back, which must be that of `server`.
fn asks(port: u16, server: u16) {
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    socket.connect(("127.0.0.1", port)).unwrap();
    socket.set_read_timeout(Some(Duration::from_secs(1))).unwrap();
    let deadline = Instant::now() + Duration::from_secs(60);
    loop {
        let mut answer = [0; 2048];
        match socket.send(&[b'x'; 1000]).and_then(|_| socket.recv(&mut answer)) {
            Ok(len) => {
                assert_eq!(len, 1005);
                assert!(answer.starts_with(server.to_string().as_bytes()), "the answer of another server");
                return;
            }
            Err(error) => assert!(Instant::now() < deadline, "no answer at {port}: {error}"),
        }
    }
}

/// Debian 13, our kernel. Datagrams: through ports of the file, through ones that are added while it runs, and
/// through one that the file gets then.
pub fn debian_13_fast(provider: &str) {
    let [host, next, _] = free_udp_ports();
    let port = |guest: &str, host: &str| {
        format!("[[port]]\nguest = \"{guest}\"\nhost = \"{host}\"\nprotocol = \"udp\"\n")
    };
    let of_file = port("5300-5301", &format!("{host}-{next}"));
    let config = |ports: &str| file("debian/13", "fast", &format!("{ports}{ECHO}"));
    let project = Project::new(provider, &config(&of_file));
    project.rvm(&["up"]).ok();
    look(&project, "13", "fast");
    asks(host, 5300);
    asks(next, 5301);

    let [first, second, third] = free_udp_ports();
    project.rvm(&["port", "add", &format!("{first}-{second}:5300-5301/udp")]).ok();
    project.rvm(&["port"]).ok().says(&format!("5301/udp (guest) => {second} (host), added"));
    asks(first, 5300);
    asks(second, 5301);
    project.rvm(&["port", "remove", &first.to_string()]).code(1).says("/udp");
    project.rvm(&["port", "remove", &format!("{first}/udp")]).ok();
    UdpSocket::bind(("127.0.0.1", first)).expect("the port of the host is free again");
    asks(second, 5301);
    project.vagrantfile(provider, &config(&format!("{of_file}{}", port("5300", &third.to_string()))));
    project.rvm(&["up"]).ok().says("5300/udp is open");
    asks(third, 5300);

    project.rvm(&["halt"]).ok().says_not("switching off");
    assert_eq!(project.state("default"), "poweroff");
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
    // What is locked by now is all that there may be.
    let more = format!("{step}[[provision]]\nname = \"more\"\npackages = [\"jq\"]\n");
    project.vagrantfile(provider, &file("debian/13", "stock", &more));
    project.rvm(&["up", "--locked"]).code(1).says("\n    default: jq ").says("is not locked");
    project.rvm(&["ssh", "-c", "dpkg-query -W jq"]).code(1);
    project.rvm(&["halt"]).ok();
}
