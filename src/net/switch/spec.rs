//! What a switch is told: its network, its members, their names. Plain data, which travels as JSON.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv6Addr};

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

/// The network that a switch serves.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Spec {
    /// Its name, the domain of its members.
    pub name: String,
    /// At most one of each family.
    pub subnets: Vec<IpNet>,
    /// It answers DHCP; members may not, nor call themselves routers.
    pub dhcp: bool,
    /// Most bytes of an IP packet.
    pub mtu: u16,
}

/// A machine's card in the network.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Member {
    /// Id of the machine: one card in each network.
    pub id: String,
    /// Name of the machine, for people.
    pub machine: String,
    /// Whose names it hears first: its project.
    pub owner: String,
    /// Its Ethernet address. It sends from no other.
    pub mac: [u8; 6],
    /// Its addresses. Nobody else sends from them.
    pub addresses: Vec<IpAddr>,
}

/// The names of one owner.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Zone {
    /// Whose.
    pub owner: String,
    /// Names in lower case without a dot at the end, and their addresses.
    pub records: BTreeMap<String, Vec<IpAddr>>,
    /// Domains of which all names are in `records`.
    pub domains: Vec<String>,
    /// The name of each address.
    pub reverse: BTreeMap<IpAddr, String>,
}

/// What a command asks a switch.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Request {
    /// Take in a member; its socket comes along.
    Join(Member),
    /// From now on these are the names of that owner.
    Names(Zone),
    /// Say who is there.
    Status,
    /// End, whoever is there.
    End,
}

/// What it answers.
#[derive(Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reply {
    /// Why it was not done.
    pub error: Option<String>,
    /// Process of the switch.
    pub pid: u32,
    /// Who is there.
    pub ports: Vec<PortStatus>,
}

/// A port of a switch.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PortStatus {
    /// Id of the machine.
    pub id: String,
    /// Its name.
    pub machine: String,
    /// Frames and what became of them.
    pub counters: Counters,
}

/// Frames of one port.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counters {
    /// Taken from the machine.
    pub received: u64,
    /// Bytes of those.
    pub received_bytes: u64,
    /// Given to the machine, or waiting to be.
    pub sent: u64,
    /// Not given to it, because it reads too slowly.
    pub dropped: u64,
    /// Not taken from it: another's addresses, or what only the network itself may send.
    pub refused: u64,
}

/// The link-local IPv6 address that is made from an Ethernet address (RFC 4291, appendix A).
pub fn link_local(mac: [u8; 6]) -> Ipv6Addr {
    let [a, b, c, d, e, f] = mac;
    let word = |high: u8, low: u8| u16::from_be_bytes([high, low]);
    Ipv6Addr::new(0xfe80, 0, 0, 0, word(a ^ 2, b), word(c, 0xff), word(0xfe, d), word(e, f))
}
