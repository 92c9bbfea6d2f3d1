//! Which ports of the host are free.

use std::net::{IpAddr, SocketAddr, TcpListener, UdpSocket};
use std::ops::RangeInclusive;

use thiserror::Error;

use crate::model::{Code, Forward, Protocol};

/// Where `auto_correct` looks for another port first: Vagrant's `usable_port_range`.
const USABLE: RangeInclusive<u16> = 2200..=2250;
/// And then, below the ports that Linux gives to outgoing connections.
const BEYOND: RangeInclusive<u16> = 22000..=23999;

/// Why a port cannot be had.
#[derive(Debug, Error)]
pub enum PortError {
    /// Somebody listens there.
    #[error("port {port}/{protocol} on {ip} is taken", protocol = .protocol.as_str())]
    Taken {
        /// Host address.
        ip: IpAddr,
        /// Host port.
        port: u16,
        /// Protocol.
        protocol: Protocol,
    },
    /// The host says no, for another reason.
    #[error("cannot listen on {ip} port {port}/{protocol}", protocol = .protocol.as_str())]
    Refused {
        /// Host address.
        ip: IpAddr,
        /// Host port.
        port: u16,
        /// Protocol.
        protocol: Protocol,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// `auto_correct` found nothing.
    #[error(
        "port {port} is taken, and no port from {} to {} or from {} to {} is free on {ip}",
        USABLE.start(), USABLE.end(), BEYOND.start(), BEYOND.end()
    )]
    NoneLeft {
        /// Host address.
        ip: IpAddr,
        /// The port that was wanted.
        port: u16,
    },
    /// Several of them.
    #[error("{} ports cannot be had: {}", .0.len(), listed(.0))]
    Several(Vec<PortError>),
}

/// Ports that a message names.
const MOST_LISTED: usize = 8;

fn listed(errors: &[PortError]) -> String {
    let mut text: Vec<String> = errors.iter().take(MOST_LISTED).map(ToString::to_string).collect();
    text.extend((errors.len() > MOST_LISTED).then(|| "…".to_owned()));
    text.join("; ")
}

impl PortError {
    /// Its stable code (`docs/errors.md`).
    pub fn code(&self) -> Code {
        match self {
            PortError::Taken { .. } => Code::PortTaken,
            PortError::Refused { .. } => Code::PortRefused,
            PortError::NoneLeft { .. } => Code::NoPortLeft,
            PortError::Several(errors) => errors.first().map_or(Code::PortTaken, PortError::code),
        }
    }

    /// What to do next.
    pub fn hint(&self) -> Option<String> {
        Some(match self {
            PortError::Several(errors) => return errors.first()?.hint(),
            PortError::Taken { port, .. } => format!(
                "`ss -tulpn | grep :{port}` shows who has it; choose another `host` port or set `auto_correct = true` \
                 (the `port` of `[ssh]`: choose another, or leave it out)"
            ),
            PortError::Refused { port, source, .. }
                if source.kind() == std::io::ErrorKind::PermissionDenied =>
            {
                format!(
                    "ports below 1024 need rights that this user lacks: choose a `host` port above 1023 instead of {port}"
                )
            }
            PortError::Refused { ip, .. } => {
                format!("is {ip} an address of this host? `ip addr` lists them; `host_ip` chooses one")
            }
            PortError::NoneLeft { .. } => {
                "halt machines that are not needed, or choose a `host` port yourself".into()
            }
        })
    }
}

/// Listens for TCP connections.
pub fn listen(ip: IpAddr, port: u16) -> Result<TcpListener, PortError> {
    // Linux' TCP listener of std sets SO_REUSEADDR: connections in TIME_WAIT do not count as taken.
    TcpListener::bind(SocketAddr::new(ip, port)).map_err(|source| refusal(ip, port, Protocol::Tcp, source))
}

/// Tries to listen, for a moment.
fn try_listen(ip: IpAddr, port: u16, protocol: Protocol) -> Result<(), PortError> {
    match protocol {
        Protocol::Tcp => listen(ip, port).map(drop),
        Protocol::Udp => UdpSocket::bind(SocketAddr::new(ip, port))
            .map(drop)
            .map_err(|source| refusal(ip, port, protocol, source)),
    }
}

fn refusal(ip: IpAddr, port: u16, protocol: Protocol, source: std::io::Error) -> PortError {
    match source.kind() {
        std::io::ErrorKind::AddrInUse => PortError::Taken { ip, port, protocol },
        _ => PortError::Refused { ip, port, protocol, source },
    }
}

/// Whether a program listens for TCP connections at this address, or at all addresses of its family;
/// `None` where the kernel does not say.
pub fn somebody_listens(addr: SocketAddr) -> Option<bool> {
    let table = if addr.is_ipv4() { "/proc/net/tcp" } else { "/proc/net/tcp6" };
    Some(std::fs::read_to_string(table).ok()?.lines().skip(1).any(|line| is_listener(line, addr)))
}

/// A line of `/proc/net/tcp` (`proc_net_tcp.txt` of the kernel): `sl local remote state …`, addresses in
/// words of four bytes as the processor stores them.
fn is_listener(line: &str, addr: SocketAddr) -> bool {
    const LISTEN: &str = "0A";
    let mut words = line.split_whitespace().skip(1);
    let (Some(local), _, Some(LISTEN)) = (words.next(), words.next(), words.next()) else { return false };
    let Some((ip, port)) = local.rsplit_once(':') else { return false };
    let bytes: Vec<u8> = match addr.ip() {
        IpAddr::V4(v4) => v4.octets().to_vec(),
        IpAddr::V6(v6) => v6.octets().to_vec(),
    };
    let words = bytes.as_chunks::<4>().0;
    let wanted: String = words.iter().map(|word| format!("{:08X}", u32::from_ne_bytes(*word))).collect();
    let is_any = ip.len() == wanted.len() && ip.bytes().all(|byte| byte == b'0');
    u16::from_str_radix(port, 16) == Ok(addr.port()) && (is_any || ip == wanted)
}

/// The host port for each of `wanted`, in order. A taken one is an error, or, with
/// `auto_correct`, replaced by the lowest free port of 2200 to 2250 (Vagrant's range) or 22000 to 23999.
/// Those given to earlier entries count as taken. All that cannot be had are told at once.
///
/// `reserve` is asked for each port before it is tried; what it refuses counts as taken, and what it
/// grants is nobody else's until the caller says so. Whoever does not ask it may still be faster.
pub fn choose(
    wanted: &[Forward],
    reserve: &mut dyn FnMut(u16, Protocol) -> bool,
) -> Result<Vec<Forward>, PortError> {
    let mut chosen: Vec<Forward> = Vec::with_capacity(wanted.len());
    let mut errors = Vec::new();
    for forward in wanted {
        let given = |port: u16| chosen.iter().any(|c| c.host == port && c.protocol == forward.protocol);
        let (ip, protocol) = (forward.host_ip, forward.protocol);
        let mut try_port = |port: u16| match given(port) || !reserve(port, protocol) {
            true => Err(PortError::Taken { ip, port, protocol }),
            false => try_listen(ip, port, protocol),
        };
        let host = match try_port(forward.host) {
            Err(PortError::Taken { port, .. }) if forward.auto_correct => {
                let free = USABLE.chain(BEYOND).find(|p| try_port(*p).is_ok());
                free.ok_or(PortError::NoneLeft { ip, port })
            }
            tried => tried.map(|()| forward.host),
        };
        match host {
            Ok(host) => chosen.push(Forward { host, ..forward.clone() }),
            Err(error) => errors.push(error),
        }
    }
    match (errors.pop(), errors.is_empty()) {
        (None, _) => Ok(chosen),
        (Some(only), true) => Err(only),
        (Some(last), false) => {
            errors.push(last);
            Err(PortError::Several(errors))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn forward(host: u16, auto_correct: bool) -> Forward {
        let host_ip = IpAddr::from([127, 0, 0, 1]);
        Forward { guest: 80, host, host_ip, protocol: Protocol::Tcp, auto_correct }
    }

    #[test]
    fn a_taken_port_is_an_error_or_is_replaced() {
        let held = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = held.local_addr().unwrap().port();
        let error = choose(&[forward(port, false)], &mut |_, _| true).unwrap_err();
        assert!(matches!(error, PortError::Taken { port: p, .. } if p == port));
        assert!(error.hint().unwrap().contains("auto_correct"));
        let chosen = choose(&[forward(port, true), forward(port, true)], &mut |_, _| true).unwrap();
        assert!(USABLE.contains(&chosen[0].host));
        assert!(USABLE.contains(&chosen[1].host));
        assert_ne!(chosen[0].host, chosen[1].host);
    }

    #[test]
    fn ports_that_somebody_reserved_count_as_taken() {
        let free = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let mut others = |port: u16, _| port != free && port != 2200;
        let refused = choose(&[forward(free, false)], &mut others);
        assert!(matches!(refused, Err(PortError::Taken { .. })));
        let moved = choose(&[forward(free, true)], &mut others).unwrap();
        assert!((2201..=2250).contains(&moved[0].host));
        let mut beyond = |port: u16, _| port != free && port > 2250;
        let moved = choose(&[forward(free, true)], &mut beyond).unwrap();
        assert!(BEYOND.contains(&moved[0].host), "Vagrant's range is for some fifty machines");
    }

    #[test]
    fn all_ports_that_cannot_be_had_are_told_at_once() {
        let wanted: Vec<Forward> = (40000..40020).map(|port| forward(port, false)).collect();
        let error = choose(&wanted, &mut |port, _| port == 40000).unwrap_err();
        let text = error.to_string();
        assert!(text.starts_with("19 ports cannot be had: port 40001/tcp on 127.0.0.1 is taken; "), "{text}");
        assert!(text.contains("40008/tcp") && text.ends_with("; …"), "{text}");
        assert_eq!(error.code(), Code::PortTaken);
        assert!(error.hint().unwrap().contains("auto_correct"));
    }

    #[test]
    fn who_listens_is_found() {
        for address in ["127.0.0.1:0", "0.0.0.0:0", "[::1]:0"] {
            let Ok(listener) = TcpListener::bind(address) else { continue };
            let port = listener.local_addr().unwrap().port();
            let ip = if address.starts_with('[') { "::1" } else { "127.0.0.1" };
            let addr = SocketAddr::new(ip.parse().unwrap(), port);
            assert_eq!(somebody_listens(addr), Some(true), "{address}");
            drop(listener);
            assert_eq!(somebody_listens(addr), Some(false), "{address}");
        }
        let line =
            "   0: 0100007F:08AE 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 1";
        assert_eq!(is_listener(line, "127.0.0.1:2222".parse().unwrap()), cfg!(target_endian = "little"));
        assert!(!is_listener(line, "127.0.0.2:2222".parse().unwrap()));
        assert!(!is_listener(&line.replace("0A", "01"), "127.0.0.1:2222".parse().unwrap()), "connected");
    }

    #[test]
    fn an_address_of_another_host_is_refused() {
        let mut foreign = forward(8080, true);
        foreign.host_ip = IpAddr::from([192, 0, 2, 1]);
        let error = choose(&[foreign], &mut |_, _| true).unwrap_err();
        assert!(matches!(error, PortError::Refused { .. }));
        assert!(error.hint().unwrap().contains("192.0.2.1"));
    }
}
