//! Cards on a bridge of the host, in a network namespace of the test's own.

use std::io::Read;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use super::MICRO;
use crate::common::Project;

/// A bridge where the host is 10.97.0.1, and a default route, for which passt looks before it starts. The file
/// with the host's resolvers is `$1`, and they may be at three addresses.
const HOST: &str = "mount -t sysfs sysfs /sys && mount --bind \"$1\" /etc/resolv.conf && ip link set lo up && \
    for ip in 192.0.2.53/32 198.51.100.53/32 2001:db8::53/128; do ip addr add $ip dev lo || exit; done && ip link add br0 type bridge && ip addr add 10.97.0.1/24 dev br0 && \
    ip link set br0 up && ip route add default via 10.97.0.254 && \
    ip addr add fd97::1/64 dev br0 nodad && ip route add default via fd97::fe dev br0 && echo ready && exec sleep infinity";

/// A network namespace, and the rights to administer it.
struct Namespace(Child);

impl Namespace {
    fn new(resolv_conf: &Path) -> Namespace {
        let mut command = Command::new("unshare");
        command
            .args(["-r", "-n", "-m", "sh", "-c", HOST, "sh"])
            .arg(resolv_conf)
            .stdin(Stdio::null())
            .stdout(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let mut said = [0; 5];
        child.stdout.take().unwrap().read_exact(&mut said).expect("the namespace cannot be set up");
        Namespace(child)
    }

    /// What is to stand before a command that runs there, in the folder `dir`.
    fn words(&self, dir: &Path) -> Vec<String> {
        let (pid, dir) = (self.0.id().to_string(), dir.to_string_lossy());
        let enter = ["nsenter", "--preserve-credentials", "-U", "-n", "-m", "-t", &pid, "env", "-C", &dir];
        enter.map(String::from).to_vec()
    }

    /// The same without the rights.
    fn words_without_rights(&self, dir: &Path) -> Vec<String> {
        let drop = ["setpriv", "--bounding-set", "-net_admin", "--inh-caps", "-net_admin"];
        [self.words(dir), drop.map(String::from).to_vec()].concat()
    }
}

/// A resolver at `$ARGV[0]` that knows one address for every name: the second word.
const RESOLVER: &str = r#"use IO::Socket::IP; my ($at, $ip) = @ARGV;
my $s = IO::Socket::IP->new(LocalHost => $at, LocalPort => 53, Proto => "udp") or die "$at: $@";
$| = 1; print "ready"; while (defined $s->recv(my $q, 512)) {
$s->send(substr($q, 0, 2) . "\x81\x80" . substr($q, 4, 2) . "\0\1\0\0\0\0" . substr($q, 12) .
"\xc0\x0c\0\1\0\1\0\0\0\1\0\4" . pack("C4", split /[.]/, $ip)) }"#;

/// A process that is ended with its value.
struct Server(Child);

impl Namespace {
    fn resolver(&self, at: &str, ip: &str) -> Server {
        let words = self.words(Path::new("/"));
        let mut command = Command::new(&words[0]);
        command.args(&words[1..]).args(["perl", "-e", RESOLVER, at, ip]);
        let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().unwrap();
        let mut said = [0; 5];
        child.stdout.take().unwrap().read_exact(&mut said).expect("no resolver");
        Server(child)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// With the rights a machine is put to a bridge, and the host reaches it there. Without, the error says what an
/// administrator runs, after which it works without.
pub fn a_machine_on_a_bridge(provider: &str) {
    let files = tempfile::tempdir().unwrap();
    let resolv_conf = files.path().join("resolv.conf");
    std::fs::write(&resolv_conf, "nameserver 192.0.2.53\n").unwrap();
    let namespace = Namespace::new(&resolv_conf);
    let file = |to: &str| {
        format!(
            "{MICRO}[[machine]]\nname = \"web\"\nnetwork = [{{ {to}, ip = \"10.97.0.5/24\" }}]\n\
             [[machine.port]]\nguest = 22\nhost = 2022\nhost_ip = \"::1\"\n"
        )
    };
    let mut project = Project::new(provider, &file("bridge = \"none0\""));
    let inside = |program: &str| {
        let words =
            [namespace.words(Path::new("/")), vec!["sh".into(), "-c".into(), program.into()]].concat();
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        printed(&words)
    };
    project.before = namespace.words(&project.root);
    project.rvm(&["up"]).code(1).says("no bridge `none0`");
    // What the host reaches there would be hidden from the machine.
    project.vagrantfile(provider, &file("private = \"back\""));
    project.rvm(&["up"]).code(1).says("10.97.0.0/24").says("br0");
    project.vagrantfile(provider, &file("bridge = \"br0\""));
    project.before = namespace.words_without_rights(&project.root);
    let refused = project.rvm(&["up"]).code(1).says("bridge `br0`").says("an administrator runs once");
    let text = refused.text();
    let commands = text.split('`').find(|part| part.starts_with("sudo ip tuntap add")).expect("no command");
    let commands = commands.replace("sudo ", "");

    // A neighbour of the host, without a port that is forwarded.
    let greets = "bash -c 'exec 3<>/dev/tcp/10.97.0.5/22 && head -c 4 <&3'";
    project.before = namespace.words(&project.root);
    project.rvm(&["up"]).ok().says("Network bridge br0: by rvm");
    assert_eq!(inside(greets), "SSH-");
    project.rvm(&["ssh", "-c", "ping -c 1 -W 20 10.97.0.1 || sudo ping -c 1 -W 20 10.97.0.1"]).ok();
    // Out and in by IPv6.
    let far = namespace.resolver("2001:db8::53", "203.0.113.6");
    project.rvm(&["ssh", "-c", "nslookup -type=a host.example 2001:db8::53"]).ok().says("203.0.113.6");
    drop(far);
    // A passt learns the guest's own IPv6 address from what it sends; an old one hears who speaks first only once it has been spoken to.
    let greets_by_v6 = "bash -c 'exec 3<>/dev/tcp/::1/2022 && echo SSH-2.0-x >&3 && head -c 4 <&3' || :";
    let deadline = Instant::now() + Duration::from_secs(60);
    while inside(greets_by_v6) != "SSH-" {
        assert!(Instant::now() < deadline, "nobody answers at ::1");
    }
    // The bridge has no resolver, and the lines of `/etc/resolv.conf` are those of who leads out.
    project.rvm(&["ssh", "-c", "cat /etc/resolv.conf"]).ok().says("nameserver 192.0.2.53").says_not(" -");
    another_resolver(&project, &namespace, &resolv_conf);
    project.rvm(&["destroy", "-f"]).ok();
    assert_eq!(inside("ip -br link show type tun"), "", "an interface is left");

    inside(&commands);
    let tap = commands.split(' ').nth(4).unwrap();
    project.vagrantfile(provider, &file(&format!("tap = \"{tap}\"")));
    project.before = namespace.words_without_rights(&project.root);
    project.rvm(&["up"]).ok();
    assert_eq!(inside(greets), "SSH-");
}

/// The host is in another network now, or a VPN began: the guest asks whom it was told, and hears the new one.
fn another_resolver(project: &Project, namespace: &Namespace, resolv_conf: &Path) {
    let asks = || {
        let command = "grep -q 192.0.2.53 /etc/resolv.conf && nslookup -type=a host.example 192.0.2.53";
        project.rvm(&["ssh", "-c", command])
    };
    let first = namespace.resolver("192.0.2.53", "203.0.113.1");
    asks().ok().says("203.0.113.1");
    drop(first);
    let _second = namespace.resolver("198.51.100.53", "203.0.113.2");
    std::fs::write(resolv_conf, "nameserver 198.51.100.53\n").unwrap();
    let deadline = Instant::now() + Duration::from_secs(90);
    while !asks().text().contains("203.0.113.2") {
        assert!(Instant::now() < deadline, "the guest does not reach the host's new resolver");
    }
}

/// What a program prints, which must succeed.
fn printed(words: &[&str]) -> String {
    let output = Command::new(words[0]).args(&words[1..]).stdin(Stdio::null()).output().unwrap();
    assert!(output.status.success(), "{words:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).trim().to_owned()
}
