//! Networks of machines: what the file declares of them.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

/// Where a machine's first card leads to. The forwarded ports lead in whichever way it has a card.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Nat {
    /// Wherever this host reaches, and to what listens on the host's own loopback addresses.
    #[default]
    Open,
    /// Not to this host's loopback addresses.
    NoHost,
    /// Nowhere: the guest is answered, and reaches nobody in the world.
    Closed,
    /// Nowhere, because there is no such card: the host comes in by a virtio socket.
    None,
}

impl Nat {
    /// The word of the file.
    pub fn as_str(self) -> &'static str {
        match self {
            Nat::Open => "open",
            Nat::NoHost => "no-host",
            Nat::Closed => "closed",
            Nat::None => "none",
        }
    }
}

/// By what a machine's first card and its passt reach each other.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum NatBackend {
    /// The better one on this host.
    #[default]
    Auto,
    /// A socket, over which frames go.
    Stream,
    /// The guest's memory, which passt maps (vhost-user).
    VhostUser,
}

impl NatBackend {
    /// The word of the file.
    pub fn as_str(self) -> &'static str {
        match self {
            NatBackend::Auto => "auto",
            NatBackend::Stream => "stream",
            NatBackend::VhostUser => "vhost-user",
        }
    }
}

/// A network that machines of a project share, and nobody else.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Network {
    /// A label of a host name, at most 32 characters, unique in its project: the domain of the names
    /// of its machines, too.
    pub name: String,
    /// At most one of each family, without host bits. Without any, `rvm` chooses an IPv4 one.
    pub subnets: Vec<IpNet>,
    /// Other projects of this user that name it join the same network.
    pub shared: bool,
    /// The network itself answers DHCP, and no machine may.
    pub dhcp: bool,
    /// Most bytes of an IP packet, 1280 to 65520.
    pub mtu: u16,
}

impl Network {
    /// A network of this name with every default of `docs/config.md`.
    pub fn new(name: impl Into<String>) -> Network {
        Network { name: name.into(), subnets: Vec::new(), shared: false, dhcp: true, mtu: 1500 }
    }
}

/// A machine's card in a private network.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Card {
    /// Name of the network.
    pub network: String,
    /// Its addresses, at most one of each family; a family of the network's that has none here gets one.
    pub addresses: Vec<IpAddr>,
    /// The guest asks for its IPv4 address by DHCP instead of being told.
    pub dhcp: bool,
}

/// A machine's card in a network of the host's, which others are in, too.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HostCard {
    /// Where its frames go.
    pub to: HostInterface,
    /// Its addresses with the lengths of their prefixes, at most one of each family.
    pub addresses: Vec<IpNet>,
    /// The guest asks for its IPv4 address by DHCP.
    pub dhcp: bool,
}

/// An interface of the host, by its name: 1 to 15 of ASCII letters, digits, `.`, `_` and `-`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum HostInterface {
    /// A bridge, which gets a TAP interface as another port.
    Bridge(String),
    /// A TAP interface that is there and that this user may open.
    Tap(String),
}

impl HostInterface {
    /// Its name.
    pub fn name(&self) -> &str {
        match self {
            HostInterface::Bridge(name) | HostInterface::Tap(name) => name,
        }
    }
}

impl fmt::Display for HostInterface {
    /// As in the file: `bridge br0`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            HostInterface::Bridge(name) => write!(f, "bridge {name}"),
            HostInterface::Tap(name) => write!(f, "tap {name}"),
        }
    }
}

/// The address of a subnet at which the network itself answers: the last one that a machine could have.
pub fn station(subnet: &IpNet) -> IpAddr {
    match subnet {
        IpNet::V4(net) => IpAddr::V4(Ipv4Addr::from(u32::from(net.broadcast()).saturating_sub(1))),
        IpNet::V6(net) => IpAddr::V6(Ipv6Addr::from(u128::from(net.broadcast()))),
    }
}

/// Why a machine cannot have an address of a subnet.
pub fn unusable(subnet: &IpNet, address: IpAddr) -> Option<&'static str> {
    let first_of_all = address == subnet.network();
    match (subnet, address) {
        _ if !subnet.contains(&address) => Some("it is outside the subnet"),
        (IpNet::V4(_), _) if first_of_all => Some("it is the address of the network as a whole"),
        (IpNet::V6(_), _) if first_of_all => Some("it is the address of the subnet's routers"),
        (IpNet::V4(net), IpAddr::V4(v4)) if v4 == net.broadcast() => Some("it is the broadcast address"),
        _ if address == station(subnet) => Some("the network itself answers there"),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_that_machines_cannot_have() {
        let v4: IpNet = "10.10.0.0/24".parse().unwrap();
        let v6: IpNet = "fd10::/64".parse().unwrap();
        let usable = |net: &IpNet, ip: &str| unusable(net, ip.parse().unwrap()).is_none();
        assert!(usable(&v4, "10.10.0.1") && usable(&v4, "10.10.0.253") && usable(&v6, "fd10::1"));
        for ip in ["10.10.0.0", "10.10.0.254", "10.10.0.255", "10.10.1.1", "fd10::1"] {
            assert!(!usable(&v4, ip), "{ip}");
        }
        for ip in ["fd10::", "fd10::ffff:ffff:ffff:ffff", "fd11::1", "10.10.0.1"] {
            assert!(!usable(&v6, ip), "{ip}");
        }
        assert_eq!(station(&v4).to_string(), "10.10.0.254");
        assert_eq!(station(&v6).to_string(), "fd10::ffff:ffff:ffff:ffff");
    }
}
