//! The addresses of a machine behind its passt, and the resolvers that it is told.

use std::net::{IpAddr, Ipv4Addr};

use ipnet::{IpNet, Ipv4Net};

use super::routes;

/// Where systemd-resolved keeps the addresses that its own resolver asks.
const UPSTREAM: &str = "/run/systemd/resolve/resolv.conf";
const RESOLV_CONF: &str = "/etc/resolv.conf";
/// Networks of which a machine is put into the first that is not in its way; the one that users of other
/// hypervisors expect is tried first.
const SUBNETS: [[u8; 4]; 3] = [[10, 0, 2, 0], [10, 0, 3, 0], [192, 168, 127, 0]];
/// Their length.
const PREFIX: u8 = 24;
/// Host numbers of the gateway, which is the host, and of the machine.
const GATEWAY: u32 = 2;
const GUEST: u32 = 15;

/// The name by which a guest finds its host.
pub const HOST_NAME: &str = "host.rvm.internal";

/// Addresses on the card that leads out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NatAddresses {
    /// The machine's.
    pub guest: Ipv4Addr,
    /// The gateway's: what is sent there reaches 127.0.0.1 of the host.
    pub gateway: Ipv4Addr,
    /// Length of their prefix.
    pub prefix: u8,
}

impl NatAddresses {
    /// Those of a machine that is in private networks with the subnets `private`.
    pub fn choose(private: &[IpNet]) -> Self {
        Self::choose_from(private, &|net| routes::overlapping(net).is_some())
    }

    /// `routed`: whether the host finds somebody there, whom the gateway would hide.
    fn choose_from(private: &[IpNet], routed: &dyn Fn(&IpNet) -> bool) -> Self {
        let nets = SUBNETS.map(|base| Ipv4Net::new(base.into(), PREFIX).unwrap_or_default());
        let clashes = |net: &Ipv4Net| {
            private.iter().any(|other| {
                other.contains(&IpAddr::V4(net.network())) || IpNet::V4(*net).contains(&other.network())
            })
        };
        let free = |net: &&Ipv4Net| !clashes(net);
        let best = nets.iter().filter(free).find(|net| !routed(&IpNet::V4(**net)));
        let net = best.or_else(|| nets.iter().find(free)).or(nets.first()).copied().unwrap_or_default();
        let host = |number: u32| Ipv4Addr::from(u32::from(net.network()) | number);
        Self { guest: host(GUEST), gateway: host(GATEWAY), prefix: PREFIX }
    }
}

/// Resolvers to be told to a machine that does not reach this host's loopback addresses, where all those of
/// `resolv.conf` are such: the ones that systemd-resolved asks itself. None: passt finds some by itself,
/// or there are none.
pub(super) fn resolvers_beyond_loopback() -> Vec<IpAddr> {
    let read = |path| nameservers(&std::fs::read_to_string(path).unwrap_or_default());
    let reachable =
        |list: Vec<IpAddr>| -> Vec<IpAddr> { list.into_iter().filter(|ip| !ip.is_loopback()).collect() };
    match reachable(read(RESOLV_CONF)).is_empty() {
        true => reachable(read(UPSTREAM)),
        false => Vec::new(),
    }
}

/// The addresses after `nameserver` (resolv.conf(5)); those with a zone mean nothing to a guest.
fn nameservers(text: &str) -> Vec<IpAddr> {
    let address = |line: &str| line.trim_start().strip_prefix("nameserver")?.trim().parse().ok();
    text.lines().filter_map(address).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_machine_is_put_where_nothing_is_in_its_way() {
        let choose = |private: &[&str], routed: &str| {
            let private: Vec<IpNet> = private.iter().map(|net| net.parse().unwrap()).collect();
            let routed: Option<IpNet> = routed.parse().ok();
            let addresses = NatAddresses::choose_from(&private, &|net| Some(*net) == routed);
            (addresses.guest.to_string(), addresses.gateway.to_string())
        };
        let at = |guest: &str, gateway: &str| (guest.to_owned(), gateway.to_owned());
        assert_eq!(choose(&["fd10::/64"], ""), at("10.0.2.15", "10.0.2.2"));
        assert_eq!(choose(&[], "10.0.2.0/24"), at("10.0.3.15", "10.0.3.2"));
        assert_eq!(choose(&["10.0.0.0/16"], ""), at("192.168.127.15", "192.168.127.2"));
        // A neighbour that is hidden is better than a private network that is.
        assert_eq!(choose(&["10.0.0.0/16"], "192.168.127.0/24"), at("192.168.127.15", "192.168.127.2"));
        assert_eq!(choose(&["10.0.0.0/8", "192.168.0.0/16"], ""), at("10.0.2.15", "10.0.2.2"));
    }

    #[test]
    fn resolvers_of_a_file() {
        let text = "# nameserver 1.1.1.1\nnameserver 127.0.0.53\n nameserver  ::1 \nnameserver fe80::1%eth0\nsearch x\n";
        assert_eq!(nameservers(text), ["127.0.0.53".parse::<IpAddr>().unwrap(), "::1".parse().unwrap()]);
    }
}
