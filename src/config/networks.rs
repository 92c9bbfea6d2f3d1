//! `[[network]]` at the top of the file, `[[machine.network]]` in a machine.

use std::collections::HashMap;
use std::net::IpAddr;
use std::ops::Range;

use ipnet::IpNet;

use crate::model::{Card, HostCard, HostInterface, Network, unusable};

use super::host_cards::HostClaims;
use super::keys::Place;
use super::report::brief;
use super::vars::Text;
use super::walk::{Reader, Sp, Table};

/// Longest name: names of machines below it stay well below the limit of a host name.
const LONGEST_NAME: usize = 32;
/// Private networks of one machine; it has a limited number of places for devices.
const MOST_CARDS: usize = 8;
/// The subnet of an address without a prefix length, as in Vagrant.
pub(super) const DEFAULT_PREFIX: (u8, u8) = (24, 64);
/// Prefix lengths of subnets: room for two machines and the network itself, and no half of all addresses.
const PREFIXES: (std::ops::RangeInclusive<u8>, std::ops::RangeInclusive<u8>) = (8..=29, 16..=125);
pub(super) const MTU: (u64, u64) = (1280, 65520);
/// Domains that the rest of the world uses: a network of this name would hide them from its machines.
const WORLD: &[&str] = &[
    "ai",
    "app",
    "arpa",
    "biz",
    "cloud",
    "co",
    "com",
    "de",
    "dev",
    "edu",
    "eu",
    "gov",
    "info",
    "int",
    "io",
    "local",
    "localhost",
    "me",
    "mil",
    "net",
    "online",
    "org",
    "site",
    "tech",
    "uk",
    "us",
    "xyz",
];

/// A `[[machine.network]]` as it stands.
#[derive(Debug, Clone)]
pub(super) struct RawCard {
    /// The network, and where that is said.
    pub(super) to: Sp<To>,
    /// Addresses with the prefix length that is written behind them.
    pub(super) addresses: Vec<Sp<(IpAddr, Option<u8>)>>,
    pub(super) dhcp: bool,
}

/// Which network a card is in.
#[derive(Debug, Clone)]
pub(super) enum To {
    /// A private one, by its name.
    Private(String),
    /// One of the host's.
    Host(HostInterface),
}

/// The networks so far, and who has which address.
#[derive(Default)]
pub(super) struct Networks {
    list: Vec<Known>,
    /// Who has which TAP interface, and which address outside the private networks.
    pub(super) host: HostClaims,
}

struct Known {
    network: Network,
    /// Where each subnet is said, in the order of `network.subnets`.
    subnets: Vec<usize>,
    /// A `[[network]]` says which subnets there are.
    declared: bool,
    taken: HashMap<IpAddr, (String, usize)>,
}

impl Networks {
    fn get(&mut self, name: &str) -> Option<&mut Known> {
        self.list.iter_mut().find(|known| known.network.name == name)
    }

    /// All of them.
    pub fn into_list(self) -> Vec<Network> {
        self.list.into_iter().map(|known| known.network).collect()
    }
}

impl Reader<'_> {
    /// The `[[network]]` tables.
    pub fn declare_networks(&mut self, top: &Table<'_>) {
        for table in self.tables(top, "network", Place::Network) {
            self.declare_network(&table);
        }
    }

    fn declare_network(&mut self, table: &Table<'_>) {
        if table.raw("name").is_none() {
            self.wrong(&table.span, "this network has no `name`", "add `name = \"backend\"`");
            return;
        }
        let Some(name) = self.text(table, "name", "\"backend\"").and_then(|name| self.network_name(name))
        else {
            return;
        };
        if self.networks.get(&name.value).is_some() {
            let message = format!("a network called {:?} is declared already", brief(&name.value));
            self.wrong(&name.span, message, "give each network a name of its own");
            return;
        }
        let base = Network::new(name.value);
        let shared = self.boolean(table, "shared").unwrap_or(base.shared);
        let dhcp = self.boolean(table, "dhcp").unwrap_or(base.dhcp);
        let mtu = self.number(table, "mtu", MTU.0, MTU.1).and_then(|mtu| u16::try_from(mtu.value).ok());
        let mut known = Known {
            network: Network { shared, dhcp, mtu: mtu.unwrap_or(base.mtu), ..base },
            subnets: Vec::new(),
            declared: table.raw("subnet").is_some(),
            taken: HashMap::new(),
        };
        for text in self.one_or_more(table, "subnet", "\"10.10.0.0/24\"").0 {
            let Some(subnet) = self.subnet(&text) else { continue };
            self.add_subnet(&mut known, subnet, &text.span);
        }
        self.networks.list.push(known);
    }

    fn network_name(&mut self, name: Sp<Text>) -> Option<Sp<String>> {
        let text = name.value.value.as_str();
        if text.len() > LONGEST_NAME || !super::machines::is_label(text) {
            let message = format!("a network cannot be called {:?}", brief(&name.value.shown));
            let help = "use a to z, 0 to 9 and `-`, beginning and ending with a letter or digit, at most 32";
            self.wrong(&name.span, message, help);
            return None;
        }
        if WORLD.contains(&text) {
            let message = format!("a network cannot be called {:?}", brief(&name.value.shown));
            let help = format!(
                "its name is the domain of its machines: the real names below `.{text}` would be hidden; \
                 choose another, such as \"{text}net\""
            );
            self.wrong(&name.span, message, help);
            return None;
        }
        Some(name.map(|text| text.value))
    }

    fn subnet(&mut self, text: &Sp<Text>) -> Option<IpNet> {
        let shown = brief(&text.value.shown);
        let Ok(net) = text.value.value.parse::<IpNet>() else {
            let help = "write an address and a prefix length, such as \"10.10.0.0/24\" or \"fd10::/64\"";
            self.wrong(&text.span, format!("{shown:?} is not a subnet"), help);
            return None;
        };
        if net.addr() != net.network() {
            let message = format!("{shown:?} is an address in a subnet");
            self.wrong(&text.span, message, format!("the subnet itself is \"{}\"", net.trunc()));
            return None;
        }
        self.check_subnet(net, &text.span).then_some(net)
    }

    fn check_subnet(&mut self, net: IpNet, span: &Range<usize>) -> bool {
        let range = if net.addr().is_ipv4() { PREFIXES.0 } else { PREFIXES.1 };
        if !range.contains(&net.prefix_len()) {
            let message = format!("a subnet cannot have the prefix length {}", net.prefix_len());
            let help = format!("it can be from {} to {}", range.start(), range.end());
            self.wrong(span, message, help);
            return false;
        }
        let why = match net.network() {
            IpAddr::V4(v4) if v4.is_loopback() => "these are loopback addresses",
            IpAddr::V4(v4) if v4.is_link_local() => "these are link-local addresses",
            IpAddr::V4(v4) if v4.is_multicast() || v4.octets()[0] >= 240 => "no machine can have these",
            IpAddr::V4(v4) if v4.octets()[0] == 0 => "no machine can have these",
            IpAddr::V6(v6) if v6.is_multicast() => "no machine can have these",
            IpAddr::V6(v6) if v6.is_unicast_link_local() => "these are link-local addresses",
            IpAddr::V6(v6) if v6.segments()[..6] == [0; 6] => "these are reserved addresses",
            _ => return true,
        };
        let help = "choose private ones, such as \"10.10.0.0/24\" or \"fd10::/64\"";
        self.wrong(span, format!("a private network cannot have the subnet {net}: {why}"), help);
        false
    }

    /// Adds a subnet, unless another one of its family or one that overlaps is there.
    fn add_subnet(&mut self, known: &mut Known, subnet: IpNet, span: &Range<usize>) {
        let family = |net: &IpNet| net.addr().is_ipv4();
        if known.network.subnets.iter().any(|other| family(other) == family(&subnet)) {
            let message = format!("network `{}` has a subnet of this family already", known.network.name);
            self.wrong(span, message, "a network has one IPv4 and one IPv6 subnet; declare another network");
            return;
        }
        let overlap = self.networks.list.iter().find_map(|other| {
            let at = other.network.subnets.iter().position(|net| overlaps(net, &subnet))?;
            let (net, start) = (other.network.subnets.get(at)?, other.subnets.get(at)?);
            Some((other.network.name.clone(), *net, *start))
        });
        if let Some((other, net, start)) = overlap {
            let line = self.problems.line_of(start);
            let message = format!("{subnet} overlaps {net} of network `{other}` (line {line})");
            self.wrong(span, message, "give each network addresses of its own");
            return;
        }
        known.network.subnets.push(subnet);
        known.subnets.push(span.start);
    }

    /// The `[[machine.network]]` tables.
    pub fn cards(&mut self, machine: &Table<'_>) -> Vec<RawCard> {
        let tables = self.tables(machine, "network", Place::Card);
        tables.iter().filter_map(|table| self.card(table)).collect()
    }

    fn card(&mut self, table: &Table<'_>) -> Option<RawCard> {
        let given = ["private", "bridge", "tap"].into_iter().filter(|key| table.raw(key).is_some());
        let to = match given.collect::<Vec<_>>().as_slice() {
            ["bridge"] => {
                self.interface(table, "bridge", "\"br0\"")?.map(|name| To::Host(HostInterface::Bridge(name)))
            }
            ["tap"] => {
                self.interface(table, "tap", "\"tap0\"")?.map(|name| To::Host(HostInterface::Tap(name)))
            }
            [] => {
                let help = "add `private = \"backend\"`; the way out to the world is there without a word";
                self.wrong(&table.span, "nothing says which network this is", help);
                return None;
            }
            [first, second, ..] => {
                let message = format!("`{first}` and `{second}` are two networks");
                self.wrong(&table.span, message, "give each a `[[machine.network]]` of its own");
                return None;
            }
            _ => {
                let name = self.text(table, "private", "\"backend\"");
                name.and_then(|name| self.network_name(name))?.map(To::Private)
            }
        };
        let mut card = RawCard { to, addresses: Vec::new(), dhcp: false };
        let mut fine = true;
        for text in self.one_or_more(table, "ip", "\"10.10.0.5\"").0 {
            if text.value.value == "dhcp" {
                card.dhcp = true;
                continue;
            }
            match self.address(&text) {
                Some(address) => card.addresses.push(Sp { value: address, span: text.span }),
                None => fine = false,
            }
        }
        let v4 = card.addresses.iter().filter(|address| address.value.0.is_ipv4()).count();
        if v4 > 1 || card.addresses.len() - v4 > 1 || (card.dhcp && v4 > 0) {
            let span = table.raw("ip").map_or(table.span.clone(), |value| value.span());
            let help = "write one IPv4 address or \"dhcp\", and one IPv6 address";
            self.wrong(&span, "a machine has one address of each family in a network", help);
            return None;
        }
        fine.then_some(card)
    }

    fn address(&mut self, text: &Sp<Text>) -> Option<(IpAddr, Option<u8>)> {
        let value = text.value.value.as_str();
        let parsed = match value.split_once('/') {
            Some(_) => value.parse::<IpNet>().ok().map(|net| (net.addr(), Some(net.prefix_len()))),
            None => value.parse().ok().map(|ip| (ip, None)),
        };
        if parsed.is_none() {
            let message = format!("{:?} is not an IP address", brief(&text.value.shown));
            let help = "write one such as \"10.10.0.5\", \"10.10.0.5/24\" or \"fd10::5\", or \"dhcp\"";
            self.wrong(&text.span, message, help);
        }
        parsed
    }

    /// Puts a machine into its networks.
    pub fn attach(&mut self, cards: &[RawCard], machine: &str) -> (Vec<Card>, Vec<HostCard>) {
        let mut attached: Vec<Card> = Vec::new();
        let mut of_host: Vec<HostCard> = Vec::new();
        for raw in cards {
            if attached.len() + of_host.len() == MOST_CARDS {
                let message = format!("machine `{machine}` is in more than {MOST_CARDS} networks");
                self.wrong(&raw.to.span, message, "a machine has no room for more");
                break;
            }
            let name = match &raw.to.value {
                To::Private(name) => name,
                To::Host(to) => {
                    let card = self.host_card(raw, to, machine, &of_host);
                    of_host.extend(card);
                    continue;
                }
            };
            if attached.iter().any(|card| card.network == *name) {
                let message = format!("machine `{machine}` is in network `{name}` already");
                self.wrong(&raw.to.span, message, "one card in each network is enough");
                continue;
            }
            // Out of the list meanwhile: its subnets are compared with those of the others.
            let at = self.networks.list.iter().position(|known| known.network.name == *name);
            let mut known = match at {
                Some(at) => self.networks.list.remove(at),
                None => Known {
                    network: Network::new(name),
                    subnets: Vec::new(),
                    declared: false,
                    taken: HashMap::new(),
                },
            };
            for address in &raw.addresses {
                self.claim_address(&mut known, address, machine);
            }
            self.networks.list.insert(at.unwrap_or(self.networks.list.len()), known);
            let addresses = raw.addresses.iter().map(|address| address.value.0).collect();
            attached.push(Card { network: name.clone(), addresses, dhcp: raw.dhcp });
        }
        (attached, of_host)
    }

    fn claim_address(&mut self, known: &mut Known, address: &Sp<(IpAddr, Option<u8>)>, machine: &str) {
        let (ip, prefix) = address.value;
        let span = &address.span;
        let name = known.network.name.clone();
        let family = |net: &&IpNet| net.addr().is_ipv4() == ip.is_ipv4();
        if !known.network.subnets.iter().any(|net| family(&net)) {
            if known.declared {
                let word = if ip.is_ipv4() { "IPv4" } else { "IPv6" };
                let message = format!("network `{name}` has no {word} subnet");
                self.wrong(span, message, format!("add one to `subnet` of network `{name}`"));
                return;
            }
            let default = if ip.is_ipv4() { DEFAULT_PREFIX.0 } else { DEFAULT_PREFIX.1 };
            let Ok(net) = IpNet::new(ip, prefix.unwrap_or(default)) else { return };
            let net = net.trunc();
            if !self.check_subnet(net, span) {
                return;
            }
            self.add_subnet(known, net, span);
        }
        let Some(at) = known.network.subnets.iter().position(|net| family(&net)) else { return };
        let Some(subnet) = known.network.subnets.get(at).copied() else { return };
        let said = known.subnets.get(at).map_or_else(String::new, |start| self.problems.line_of(*start));
        if let Some(prefix) = prefix.filter(|prefix| *prefix != subnet.prefix_len()) {
            let message =
                format!("the subnet of network `{name}` is {subnet} (line {said}), not a /{prefix}");
            self.wrong(span, message, "leave the prefix length out here");
            return;
        }
        if let Some(why) = unusable(&subnet, ip) {
            let message = format!("a machine cannot have the address {ip} in network `{name}`: {why}");
            self.wrong(span, message, format!("choose another of {subnet} (line {said})"));
            return;
        }
        if let Some((owner, start)) = known.taken.get(&ip) {
            let line = self.problems.line_of(*start);
            let message = format!("machine `{owner}` has the address {ip} already (line {line})");
            self.wrong(span, message, "give each machine an address of its own");
            return;
        }
        known.taken.insert(ip, (machine.to_owned(), span.start));
    }
}

fn overlaps(a: &IpNet, b: &IpNet) -> bool {
    a.contains(&b.network()) || b.contains(&a.network())
}
