//! Starts `passt` for one machine.

use std::io;
use std::net::Ipv4Addr;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Command, Stdio};

use rustix::process::{Pid, PidfdFlags, pidfd_open};
use serde::{Deserialize, Serialize};
use thiserror::Error;

use super::nat::NatAddresses;
use super::resolvers::Dns;
use crate::model::{Code, Forward, Nat, Protocol, program_in};

/// Why a machine has no network.
#[derive(Debug, Error)]
pub enum NetError {
    /// No `passt` in the search path.
    #[error("cannot start `passt`, which connects machines to the network")]
    Missing(#[source] io::Error),
    /// A socket pair or a process could not be had.
    #[error("cannot set up the network")]
    Io(#[source] io::Error),
    /// It could not listen on a port, though the port was free a moment ago.
    #[error("passt could not listen on the forwarded ports: {0}")]
    PortRace(String),
    /// A card was to be one whose queues passt works on by itself.
    #[error("`nat_backend` cannot be \"vhost-user\" here: {0}")]
    NoVhostUser(&'static str),
    /// It ended with an error of its own.
    #[error("passt gave up: {0}")]
    Failed(String),
}

impl NetError {
    /// Its stable code (`docs/errors.md`).
    pub fn code(&self) -> Code {
        match self {
            NetError::Missing(_) => Code::NoPasst,
            NetError::Io(_) => Code::NetworkSetup,
            NetError::PortRace(_) => Code::PortRace,
            NetError::NoVhostUser(_) => Code::NoVhostUser,
            NetError::Failed(_) => Code::PasstFailed,
        }
    }

    /// What to do next.
    pub fn hint(&self) -> Option<String> {
        match self {
            NetError::Missing(_) => {
                Some("install it: `sudo apt install passt`; `rvm doctor` checks the rest".into())
            }
            NetError::Io(_) => None,
            NetError::PortRace(_) => {
                let text = "`ss -tulpn` shows who has them: end that and run the command again, or have rvm choose \
                            others (`auto_correct = true`; `rvm reload` of a machine that runs)";
                Some(text.into())
            }
            NetError::NoVhostUser(_) => Some(
                "leave `nat_backend` out, and rvm takes what there is; vhost-user takes the provider `kvm` and \
                 a passt of November 2024 or later, as Debian 13 has it"
                    .into(),
            ),
            NetError::Failed(_) => Some("`rvm doctor` checks what passt needs".into()),
        }
    }
}

/// passt closes or replaces 0 to 2 when it goes to the background: the socket moves to 3.
/// `"$@"` keeps every argument one word.
const LAUNCH: &str = r#"exec passt "$@" 3<&0 </dev/null"#;

/// Whether the installed passt can work on a guest's memory by itself (vhost-user).
pub fn has_vhost_user() -> bool {
    has_option(Path::new("passt"), "--vhost-user") == Some(true)
}

/// Whether that passt takes an option, as its help says: its version says nothing where a distribution built
/// it. `None` where it does not run.
pub fn has_option(passt: &Path, option: &str) -> Option<bool> {
    let help = Command::new(passt).arg("--help").stdin(Stdio::null()).output().ok()?;
    // Some versions print it as an error.
    Some([help.stdout, help.stderr].iter().any(|text| describes(text, option)))
}

fn describes(help: &[u8], option: &str) -> bool {
    String::from_utf8_lossy(help).lines().any(|line| line.split_whitespace().next() == Some(option))
}

/// Starts it with these forwards, all of them bound when this returns: the process that we start goes to the
/// background only then. A caller that takes in orphans can wait for its end. Its frames, each behind its length in 4
/// bytes, big-endian, go over `peer`; it ends as soon as nobody has the other end.
///
/// # Errors
/// [`NetError::PortRace`] when it cannot listen on all ports; then it listens on none.
pub fn start(
    way: Nat,
    addresses: &NatAddresses,
    forwards: &[Forward],
    dns: &Dns,
    peer: &UnixStream,
    vhost_user: bool,
) -> Result<(), NetError> {
    let leads = || has_option(Path::new("passt"), "--dns-host") == Some(true);
    let peer = peer.try_clone().map_err(NetError::Io)?;
    let output = Command::new("sh")
        .args(["-c", LAUNCH, "passt"])
        .args(vhost_user.then_some("--vhost-user"))
        .args(arguments(way, addresses, forwards))
        .args(dns.words(way, addresses.gateway, leads))
        .stdin(Stdio::from(OwnedFd::from(peer)))
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .and_then(|child| child.wait_with_output())
        .map_err(NetError::Io)?;
    if output.status.success() {
        return Ok(());
    }
    Err(explain(output.status.code(), &String::from_utf8_lossy(&output.stderr)))
}

/// Whether it is in one of the folders of `path`, the value of `PATH`: to be known before anything is made.
pub fn check(path: &str) -> Result<(), NetError> {
    program_in("passt", path).map(drop).ok_or_else(|| NetError::Missing(io::ErrorKind::NotFound.into()))
}

/// The command line, without secrets: ports and switches.
fn arguments(way: Nat, addresses: &NatAddresses, forwards: &[Forward]) -> Vec<String> {
    let mut args: Vec<String> = ["--quiet", "--fd", "3"].map(String::from).to_vec();
    let NatAddresses { guest, gateway, prefix } = addresses;
    match way {
        Nat::Open => {
            args.extend(["-a".into(), guest.to_string(), "-n".into(), prefix.to_string()]);
            args.extend(["-g".into(), gateway.to_string()]);
        }
        // It has the host's own address then, so that it reaches what listens there only if it changes its own.
        Nat::NoHost => args.push("--no-map-gw".into()),
        // What the guest begins leaves from a loopback address, from where no route leads out. IPv6 has no
        // other loopback address than the one that programs of the host trust.
        // It is not started for a machine without a card for it.
        Nat::Closed | Nat::None => {
            args.extend(["-4", "--no-map-gw", "--no-icmp", "--no-dhcp-dns"].map(String::from));
            args.extend(["-o".into(), NOWHERE.to_string()]);
        }
    }
    for forward in forwards {
        args.push(if forward.protocol == Protocol::Tcp { "-t" } else { "-u" }.into());
        args.push(word(forward));
    }
    args
}

fn word(forward: &Forward) -> String {
    format!("{}/{}:{}", forward.host_ip, forward.host, forward.guest)
}

/// A passt in the background.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Running {
    pid: i32,
    /// Clock ticks from the host's start to its own (proc(5), `starttime`): numbers are given again.
    started: u64,
}

impl Running {
    /// The one with this forward that is a child of this process. `None` where there is none, or where the
    /// kernel shows no processes that shut themselves in.
    pub fn child(forward: &Forward) -> Option<Self> {
        let (word, parent) = (word(forward), std::process::id());
        let mut numbers = std::fs::read_dir("/proc").ok()?.flatten();
        numbers.find_map(|entry| {
            let pid = entry.file_name().to_str()?.parse().ok()?;
            let (of, started) = parent_and_start(pid)?;
            let cmdline = std::fs::read(entry.path().join("cmdline")).ok()?;
            (of == parent && is_passt(&cmdline, &word)).then_some(Self { pid, started })
        })
    }

    /// It, to wait for its end; `None` once it has ended.
    pub fn open(&self) -> Option<OwnedFd> {
        let process = pidfd_open(Pid::from_raw(self.pid)?, PidfdFlags::empty()).ok()?;
        // Whose number it was when it was opened, it is until it is closed.
        (parent_and_start(self.pid)?.1 == self.started).then_some(process)
    }
}

fn is_passt(cmdline: &[u8], word: &str) -> bool {
    let mut words = cmdline.split(|byte| *byte == 0);
    words.next() == Some(b"passt") && words.any(|other| other == word.as_bytes())
}

/// Of a process that has not ended: fields 4 and 22 of its line (proc(5)), counted behind its name, which may hold
/// anything.
fn parent_and_start(pid: i32) -> Option<(u32, u64)> {
    let line = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let mut fields = line.rsplit_once(')')?.1.split_whitespace();
    if fields.next()? == "Z" {
        return None;
    }
    let parent = fields.next()?.parse().ok()?;
    Some((parent, fields.nth(17)?.parse().ok()?))
}

/// Not 127.0.0.1, from where some programs of the host would take it for one of theirs.
const NOWHERE: Ipv4Addr = Ipv4Addr::new(127, 82, 86, 77);

fn explain(code: Option<i32>, stderr: &str) -> NetError {
    // What a shell says of a program that is not there (POSIX: 127 not found, 126 not executable).
    if matches!(code, Some(126 | 127)) {
        return NetError::Missing(io::ErrorKind::NotFound.into());
    }
    let noise = |line: &&str| {
        !line.trim().is_empty()
            && !["syslog", "Started as root", "run as root"].iter().any(|noise| line.contains(noise))
    };
    let text = stderr.lines().filter(noise).collect::<Vec<_>>().join("; ");
    failure(if text.is_empty() { format!("exit status {code:?}") } else { text })
}

/// What kind of error it is of which passt says that.
pub fn failure(text: String) -> NetError {
    // Older versions say only that they could not have the port; of the reasons that newer ones give, one is a race.
    match text.contains("Failed to bind any port") || text.contains("Address already in use") {
        true => NetError::PortRace(text),
        false => NetError::Failed(text),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::event::{PollFd, PollFlags};

    #[test]
    fn arguments_name_address_and_ports() {
        let tcp = Forward {
            guest: 22,
            host: 2222,
            host_ip: [127, 0, 0, 1].into(),
            protocol: Protocol::Tcp,
            auto_correct: true,
        };
        let udp = Forward { guest: 53, host: 5353, protocol: Protocol::Udp, ..tcp.clone() };
        let addresses =
            NatAddresses::choose(&["10.0.2.0/24".parse().unwrap(), "10.0.3.0/24".parse().unwrap()]);
        let args = arguments(Nat::Open, &addresses, &[tcp, udp]).join(" ");
        let expected = "--quiet --fd 3 -a 192.168.127.15 -n 24 -g 192.168.127.2 \
                        -t 127.0.0.1/2222:22 -u 127.0.0.1/5353:53";
        assert_eq!(args, expected);
        assert_eq!(arguments(Nat::NoHost, &addresses, &[]).join(" "), "--quiet --fd 3 --no-map-gw");
        let args = arguments(Nat::Closed, &addresses, &[]).join(" ");
        assert_eq!(args, "--quiet --fd 3 -4 --no-map-gw --no-icmp --no-dhcp-dns -o 127.82.86.77");
    }

    #[test]
    fn a_passt_is_known_again() {
        use std::os::unix::process::CommandExt;
        let forward = Forward { host_ip: [127, 0, 0, 9].into(), ..Forward::ssh(2222) };
        let start = |name: &str, word: &str| {
            let mut command = Command::new("sh");
            command.arg0(name).args(["-c", "read -r line; :", word]).stdin(Stdio::piped()).spawn().unwrap()
        };
        let mut others = [start("sh", "127.0.0.9/2222:22"), start("passt", "127.0.0.9/2223:22")];
        assert_eq!(Running::child(&forward), None);
        let mut child = start("passt", "127.0.0.9/2222:22");
        let found = Running::child(&forward).unwrap();
        assert_eq!(found.pid, i32::try_from(child.id()).unwrap());
        assert!(found.open().is_some());
        assert!(
            Running { started: found.started + 1, ..found }.open().is_none(),
            "the number is another's now"
        );
        for child in others.iter_mut().chain([&mut child]) {
            child.kill().unwrap();
        }
        let process = pidfd_open(Pid::from_raw(found.pid).unwrap(), PidfdFlags::empty()).unwrap();
        rustix::event::poll(&mut [PollFd::new(&process, PollFlags::IN)], None).unwrap();
        assert!(found.open().is_none(), "it has ended, and is not buried");
        for child in others.iter_mut().chain([&mut child]) {
            child.wait().unwrap();
        }
        assert!(found.open().is_none());
    }

    #[test]
    fn help_says_what_it_can_do() {
        let describes = |help| describes(help, "--vhost-user");
        assert!(describes(b"Usage:\n  --vhost-user\t\tEnable vhost-user mode\n"));
        assert!(!describes(b"  -s, --socket PATH\n only meaningful for --vhost-user mode\n"));
    }

    #[test]
    fn failures_are_told_apart() {
        assert!(matches!(explain(Some(127), "sh: 1: exec: passt: not found"), NetError::Missing(_)));
        for race in [
            "Failed to bind any port for '-t 127.0.0.1/2222:22', exiting",
            "Failed to bind port 2222 (Address already in use) for option '-t 127.0.0.1/2222:22'",
        ] {
            assert!(matches!(explain(Some(1), race), NetError::PortRace(_)), "{race}");
        }
        // Another try would end the same way.
        for other in [
            "Failed to bind port 80 (Permission denied) for option '-t 127.0.0.1/80:80'",
            "Can't bind IPv4 TCP socket address: Cannot assign requested address",
            "Invalid option '--outbound-bind'",
        ] {
            assert!(matches!(explain(Some(1), other), NetError::Failed(text) if text == other), "{other}");
        }
        let text = "Don't run as root. Changing to nobody...\nboom\n";
        assert!(matches!(explain(Some(1), text), NetError::Failed(t) if t == "boom"));
    }
}
