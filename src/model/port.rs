//! Ports of the host that lead into a guest.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use serde::{Deserialize, Serialize};

/// Transport protocol of a forwarded port.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, Default)]
#[serde(rename_all = "lowercase")]
pub enum Protocol {
    /// TCP.
    #[default]
    Tcp,
    /// UDP.
    Udp,
}

impl Protocol {
    /// `tcp` or `udp`.
    pub fn as_str(self) -> &'static str {
        match self {
            Protocol::Tcp => "tcp",
            Protocol::Udp => "udp",
        }
    }
}

/// A port of the host that leads to a port of the guest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Forward {
    /// Port in the guest, 1 to 65535.
    pub guest: u16,
    /// Port on the host, 1 to 65535.
    pub host: u16,
    /// Address on the host; `127.0.0.1` unless the file says otherwise.
    pub host_ip: IpAddr,
    /// TCP or UDP.
    pub protocol: Protocol,
    /// Take another free port where `host` is taken, instead of failing.
    pub auto_correct: bool,
}

impl Forward {
    /// From that port of loopback to the guest's SSH server.
    pub fn ssh(host: u16) -> Forward {
        let host_ip = IpAddr::V4(Ipv4Addr::LOCALHOST);
        Forward { guest: 22, host, host_ip, protocol: Protocol::Tcp, auto_correct: false }
    }
}

/// Forwards whose ports follow each other, on both sides.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PortRun {
    /// That with the lowest ports.
    pub first: Forward,
    /// How many there are.
    pub count: u16,
}

impl PortRun {
    /// Each of them. Ports beyond 65535 are left out.
    pub fn forwards(&self) -> impl Iterator<Item = Forward> + '_ {
        (0..self.count).map_while(|place| {
            let Forward { guest, host, .. } = self.first;
            let (guest, host) = (guest.checked_add(place)?, host.checked_add(place)?);
            Some(Forward { guest, host, ..self.first.clone() })
        })
    }

    /// Whether `next` goes on where this ends.
    fn is_followed_by(&self, next: &Forward) -> bool {
        let Forward { guest, host, .. } = self.first;
        let place = |port: u16| port.checked_add(self.count);
        let expected = (place(guest), place(host)) == (Some(next.guest), Some(next.host));
        expected && self.first.host_ip == next.host_ip && self.first.protocol == next.protocol
    }
}

impl fmt::Display for PortRun {
    /// Such as `127.0.0.1:8080 → 80`, `[::1]:53 → 53/udp`, `127.0.0.1:9000-9010 → 8000-8010`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Forward { guest, host, host_ip, protocol, .. } = self.first;
        let to = |port: u16| match self.count {
            0 | 1 => String::new(),
            count => format!("-{}", port.saturating_add(count - 1)),
        };
        let udp = if protocol == Protocol::Udp { "/udp" } else { "" };
        write!(f, "{}{} → {guest}{}{udp}", SocketAddr::new(host_ip, host), to(host), to(guest))
    }
}

/// Forwards that follow each other as one, in the order of the list.
pub fn port_runs(list: &[Forward]) -> Vec<PortRun> {
    let mut runs: Vec<PortRun> = Vec::new();
    for forward in list {
        match runs.last_mut() {
            Some(run) if run.is_followed_by(forward) => run.count = run.count.saturating_add(1),
            _ => runs.push(PortRun { first: forward.clone(), count: 1 }),
        }
    }
    runs
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_that_follow_each_other_are_one() {
        let forward = |host, guest, protocol| Forward {
            guest,
            host,
            host_ip: IpAddr::from([127, 0, 0, 1]),
            protocol,
            auto_correct: false,
        };
        let list = [
            forward(9000, 80, Protocol::Tcp),
            forward(9001, 81, Protocol::Tcp),
            forward(9002, 82, Protocol::Tcp),
            forward(9003, 83, Protocol::Udp),
            forward(9004, 85, Protocol::Udp),
            forward(65535, 65535, Protocol::Udp),
            forward(1, 1, Protocol::Udp),
        ];
        let shown: Vec<String> = port_runs(&list).iter().map(PortRun::to_string).collect();
        let expected = [
            "127.0.0.1:9000-9002 → 80-82",
            "127.0.0.1:9003 → 83/udp",
            "127.0.0.1:9004 → 85/udp",
            "127.0.0.1:65535 → 65535/udp",
            "127.0.0.1:1 → 1/udp",
        ];
        assert_eq!(shown, expected);
        let again: Vec<Forward> = port_runs(&list).iter().flat_map(PortRun::forwards).collect();
        assert_eq!(again, list);
        let beyond = PortRun { first: forward(65535, 1, Protocol::Tcp), count: 2 };
        assert_eq!(beyond.forwards().count(), 1);
    }
}
