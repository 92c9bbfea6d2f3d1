//! Where programs of a guest listen, as a shell there tells it from the kernel's tables (`follow.rs`). What it says is
//! not trusted.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::model::Protocol;

/// What is run in the guest: each second it looks at the kernel's tables, and says a line where what it looks for has
/// changed. A line is due every ten seconds all the same: writing it fails once nobody is connected any more, which ends
/// the loop. States are those of include/net/tcp_states.h: 0A is LISTEN, 07 is that of a UDP socket that talks to nobody
/// in particular.
///
/// A UDP socket says nowhere that it waits to be asked. One that does has a port that its program chose; one that asks
/// gets any of those that the kernel gives away, and is gone soon. So it counts with a port from 1024 on that is none of
/// these, in the second look that finds it.
pub(super) const WATCH: &str = "last=-; was=; n=0; while :; do \
    now=$(sed -n 's/^ *[0-9]*: \\([0-9A-F]*:[0-9A-F]*\\) [0-9A-F]*:0000 0A .*/\\1/p' /proc/net/tcp /proc/net/tcp6 \
    2>/dev/null | sort -u | tr '\\n' ' '); \
    is=$(sed -n 's/^ *[0-9]*: \\([0-9A-F]*:[0-9A-F]*\\) 0*:0000 07 .*/\\1/p' /proc/net/udp /proc/net/udp6 \
    2>/dev/null | sort -u); \
    if [ -n \"$is\" ] && [ -n \"$was\" ] && range=$(cat /proc/sys/net/ipv4/ip_local_port_range); then \
    low=${range%%[!0-9]*}; high=${range##*[!0-9]}; \
    now=\"$now$(printf '%s\\n' \"$was\" \"$is\" | sort | uniq -d | while IFS=: read -r ip port; do p=$((0x$port)); \
    if [ $p -ge 1024 ] && { [ $p -lt $low ] || [ $p -gt $high ]; }; then printf 'udp:%s:%s ' $ip $port; fi; done)\"; \
    fi; was=$is; n=$((n + 1)); \
    if [ \"$now\" != \"$last\" ] || [ $n -ge 10 ]; then echo \"$now\" || exit; last=$now; n=0; fi; sleep 1; done";

/// Where a program of the guest listens.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Listener {
    pub(super) protocol: Protocol,
    pub(super) port: u16,
    /// `None`: `localhost` reaches it.
    pub(super) at: Option<IpAddr>,
}

/// What [`WATCH`] says: who listens on any address or on loopback, where that can be led to.
pub(super) fn listeners(line: &str) -> BTreeSet<Listener> {
    line.split_ascii_whitespace().filter_map(listener).collect()
}

fn listener(word: &str) -> Option<Listener> {
    let (protocol, word) = match word.strip_prefix("udp:") {
        Some(word) => (Protocol::Udp, word),
        None => (Protocol::Tcp, word),
    };
    let (ip, port) = word.split_once(':')?;
    let port = u16::from_str_radix(port, 16).ok()?;
    let ip = address(ip)?.to_canonical();
    let is_local = ip.is_unspecified() || ip == IpAddr::from(Ipv4Addr::LOCALHOST);
    let at = match protocol {
        _ if is_local => None,
        Protocol::Tcp if ip == IpAddr::from(Ipv6Addr::LOCALHOST) => None,
        Protocol::Tcp if ip.is_loopback() => Some(ip),
        // `guest/relay` leads to 127.0.0.1, and nobody else.
        _ => return None,
    };
    Some(Listener { protocol, port, at })
}

/// An address in words of four bytes as the guest's processor stores them: little-endian.
fn address(digits: &str) -> Option<IpAddr> {
    let mut bytes = Vec::new();
    for at in (0..digits.len()).step_by(8) {
        let word = u32::from_str_radix(digits.get(at..at + 8)?, 16).ok()?;
        bytes.extend(word.to_le_bytes());
    }
    match bytes.len() {
        4 => Some(IpAddr::from(<[u8; 4]>::try_from(bytes).ok()?)),
        16 => Some(IpAddr::from(<[u8; 16]>::try_from(bytes).ok()?)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{BufRead, BufReader};
    use std::net::{TcpListener, UdpSocket};
    use std::process::{Command, Stdio};

    fn tcp(port: u16, at: Option<IpAddr>) -> Listener {
        Listener { protocol: Protocol::Tcp, port, at }
    }

    fn udp(port: u16) -> Listener {
        Listener { protocol: Protocol::Udp, port, at: None }
    }

    #[test]
    fn what_a_guest_says_is_taken_apart() {
        let line = "0100007F:1F90 00000000:0016 3500007F:2714 0F02000A:1F91 \
                    00000000000000000000000000000000:0BB8 00000000000000000000000001000000:0BB9 \
                    0000000000000000FFFF00000100007F:0BBA x:1 0100007F:10000 01:1 :1 0100007F \u{e4}\u{f6}\u{fc}\u{df}:1 \
                    udp:0100007F:1F90 udp:00000000:14E9 udp:00000000000000000000000000000000:1B5F \
                    udp:3500007F:2714 udp:00000000000000000000000001000000:0BB9 udp:0F02000A:1F91 udp:x:1 udp: udp:udp:1\n";
        let expected = [
            tcp(22, None),
            tcp(3000, None),
            tcp(3001, None),
            tcp(3002, None),
            tcp(8080, None),
            tcp(10004, Some(IpAddr::from([127, 0, 0, 53]))),
            udp(8080),
            udp(5353),
            udp(7007),
        ];
        assert_eq!(listeners(line), BTreeSet::from(expected));
        assert!(listeners("").is_empty());
    }

    /// A UDP socket with a port that its program may have chosen.
    fn chosen() -> UdpSocket {
        let range = std::fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range").unwrap();
        let (low, _) = range.split_once('\t').unwrap();
        let below = 1024..low.parse::<u16>().unwrap();
        below.rev().find_map(|port| UdpSocket::bind(("127.0.0.1", port)).ok()).unwrap()
    }

    /// The script on this host: who listens is said, and who only asks is not.
    #[test]
    fn the_script_says_who_listens() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let (server, asks) = (chosen(), chosen());
        asks.connect(server.local_addr().unwrap()).unwrap();
        let given = UdpSocket::bind("127.0.0.1:0").unwrap();
        let wanted =
            [tcp(listener.local_addr().unwrap().port(), None), udp(server.local_addr().unwrap().port())];
        let not = [&asks, &given].map(|socket| udp(socket.local_addr().unwrap().port()));
        let mut child = Command::new("sh").args(["-c", WATCH]).stdout(Stdio::piped()).spawn().unwrap();
        let mut reader = BufReader::new(child.stdout.take().unwrap());
        let mut lines = 0;
        let mut next = || {
            // There is one every ten seconds at least, and that of a change within two.
            lines += 1;
            assert!(lines < 100, "it does not say who listens");
            let mut line = String::new();
            assert_ne!(reader.read_line(&mut line).unwrap(), 0);
            let said = listeners(&line);
            assert!(!said.contains(&not[0]) && !said.contains(&not[1]), "{line}");
            said
        };
        let first = next();
        assert!(first.contains(&wanted[0]) && !first.contains(&wanted[1]), "a UDP socket takes two looks");
        while !next().contains(&wanted[1]) {}
        drop((listener, server));
        loop {
            let said = next();
            if !said.contains(&wanted[0]) && !said.contains(&wanted[1]) {
                break;
            }
        }
        child.kill().unwrap();
        child.wait().unwrap();
    }
}
