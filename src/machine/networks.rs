//! The private networks of a machine: its places, what its guest is told, its connections.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use super::record::Record;
use super::{MachineError, Machines, guard};
use crate::image::SeedNetwork;
use crate::model::{Card, Machine, Network, Project};
use crate::net::switch::Zone;
use crate::net::{self, Applicant, Lost, NetworkStatus, Networks, Seat};
use crate::provider;

/// A machine's place in a private network, as its record has it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Place {
    /// Name of the network.
    pub network: String,
    /// Its id.
    pub id: String,
    /// Addresses of the machine in it, with the lengths of their prefixes.
    pub addresses: Vec<IpNet>,
}

/// Who has which addresses: by machine and network.
type Addresses = BTreeMap<(String, String), Vec<IpAddr>>;

impl Machines<'_> {
    fn networks(&self) -> Networks<'_> {
        Networks { root: self.layout.networks(), exe: &self.exe, cancel: &self.cancel }
    }

    /// All private networks of this user.
    pub fn all_networks(&self) -> Result<Vec<NetworkStatus>, MachineError> {
        Ok(self.networks().list()?)
    }

    /// Takes the machine's places in its networks, and gives up those that the file does not name any more.
    pub(super) fn take_seats(
        &self,
        project: &Project,
        machine: &Machine,
        record: &mut Record,
    ) -> Result<Vec<Seat>, MachineError> {
        let dir = self.layout.machine(&record.id);
        let mut seats: Vec<Seat> = Vec::new();
        for (place, card) in machine.cards.iter().enumerate() {
            let network = network_of(project, card);
            let id = net::network_id(&project.root, &network);
            let applicant = Applicant {
                project: &project.root,
                machine: &machine.name,
                id: &record.id,
                mac: provider::mac_in(&record.id, &id),
                socket: &dir.join(provider::card_socket(place)),
                avoid: &declared(project, &card.network),
            };
            seats.push(self.networks().reserve(&network, card, &applicant)?);
        }
        for (at, seat) in seats.iter().enumerate() {
            let earlier = seats.iter().take(at);
            let clash = earlier.flat_map(|other| overlap(other, seat)).next();
            if let Some((other, subnet)) = clash {
                return Err(MachineError::Overlap { machine: machine.name.clone(), other, subnet });
            }
        }
        let keep: Vec<String> = seats.iter().map(|seat| seat.network.clone()).collect();
        self.networks().release(&record.id, &keep)?;
        record.places = seats.iter().map(place_of).collect();
        for place in &record.places {
            let addresses: Vec<String> = place.addresses.iter().map(|net| net.addr().to_string()).collect();
            let name = format!("{}.{}", machine.name, place.network);
            self.detail(
                &machine.name,
                format!("Network {}: {} as {name}.", place.network, addresses.join(" and ")),
            );
        }
        Ok(seats)
    }

    /// Connects a machine that has started to its switches, and tells those of the whole project its names.
    pub(super) fn connect_seats(
        &self,
        project: &Project,
        machine: &Machine,
        seats: &[Seat],
    ) -> Result<(), MachineError> {
        if machine.cards.is_empty() {
            return Ok(());
        }
        let addresses = self.addresses(project)?;
        for seat in seats {
            self.networks().connect(seat, zone(project, &seat.spec.name, &addresses))?;
        }
        for network in &project.networks {
            let id = net::network_id(&project.root, network);
            if !seats.iter().any(|seat| seat.network == id) {
                self.networks().tell_names(&id, zone(project, &network.name, &addresses))?;
            }
        }
        Ok(())
    }

    /// Connects a machine that runs to networks that lost it: their switch was killed.
    pub(super) fn mend_networks(&self, record: &Record) -> Result<(), MachineError> {
        if record.places.is_empty() {
            return Ok(());
        }
        for network in self.networks().mend(&record.id)? {
            self.warn(&record.name, format!("it was cut off from network {network}, and is connected again"));
        }
        Ok(())
    }

    /// What is said of a machine that runs and is cut off from a network, where that can be told.
    pub(super) fn cut_off(&self, record: &Record) -> Option<String> {
        if record.places.is_empty() {
            return None;
        }
        let dir = self.layout.machine(&record.id);
        let lost = self.networks().lost(&record.id).unwrap_or_default();
        let said = lost.iter().map(|Lost { id, network, why }| match why {
            None => {
                let more = guard::switch_tried(&dir, id).map(|more| format!(", and {more}"));
                format!("network {network}: its switch has ended{}", more.unwrap_or_default())
            }
            Some(why) => format!("network {network}: its switch has closed the connection ({why})"),
        });
        let all: Vec<String> = said.collect();
        (!all.is_empty()).then(|| format!("it is cut off from {}", all.join(", and from ")))
    }

    /// Gives up all places of a machine that is no more.
    pub(super) fn leave_networks(&self, id: &str) -> Result<(), MachineError> {
        Ok(self.networks().release(id, &[])?)
    }

    /// What is known of the addresses of the project's machines: those that they have, else those that the
    /// file gives them.
    fn addresses(&self, project: &Project) -> Result<Addresses, MachineError> {
        let mut all = Addresses::new();
        for machine in &project.machines {
            for card in machine.cards.iter().filter(|card| !card.addresses.is_empty()) {
                all.insert((machine.name.clone(), card.network.clone()), card.addresses.clone());
            }
        }
        for network in &project.networks {
            let id = net::network_id(&project.root, network);
            for (machine, addresses) in self.networks().addresses_of(&id, &project.root)? {
                all.insert((machine, network.name.clone()), addresses);
            }
        }
        Ok(all)
    }
}

fn place_of(seat: &Seat) -> Place {
    Place { network: seat.spec.name.clone(), id: seat.network.clone(), addresses: seat.addresses() }
}

/// The network of a card. One that the file does not declare has all defaults.
fn network_of(project: &Project, card: &Card) -> Network {
    let found = project.networks.iter().find(|network| network.name == card.network);
    found.cloned().unwrap_or_else(|| Network::new(&card.network))
}

/// Addresses that the file gives to machines in a network.
fn declared(project: &Project, network: &str) -> BTreeSet<IpAddr> {
    let cards = project.machines.iter().flat_map(|machine| &machine.cards);
    cards.filter(|card| card.network == network).flat_map(|card| card.addresses.clone()).collect()
}

fn overlap(other: &Seat, seat: &Seat) -> Option<(String, IpNet)> {
    let clash = |a: &IpNet, b: &IpNet| a.contains(&b.network()) || b.contains(&a.network());
    let subnet = seat.spec.subnets.iter().find(|a| other.spec.subnets.iter().any(|b| clash(a, b)))?;
    Some((other.spec.name.clone(), *subnet))
}

/// The names by which a machine is found: its own, its host name, and the first part of that.
fn names_of(machine: &Machine) -> Vec<String> {
    let first = machine.hostname.split('.').next().unwrap_or_default();
    let mut names: Vec<String> = Vec::new();
    for name in [machine.name.as_str(), machine.hostname.as_str(), first] {
        let name = name.to_ascii_lowercase();
        if !names.contains(&name) {
            names.push(name);
        }
    }
    names
}

/// The names of the project as machines in the network `view` hear them: without a domain a name is that of
/// a machine there, else that of one elsewhere, to which there may be a router.
fn zone(project: &Project, view: &str, addresses: &Addresses) -> Zone {
    let mut zone = Zone { owner: net::owner(&project.root), ..Zone::default() };
    // In a shared network there are names of others, which its own resolver knows.
    let known = project.networks.iter().filter(|network| network.name == view || !network.shared);
    zone.domains = known.map(|network| network.name.clone()).collect();
    // The name of a machine counts more than the host name of another one.
    let all = project.machines.iter().map(|machine| (machine, names_of(machine)));
    let own = all.clone().filter_map(|(machine, names)| Some((machine, names.first()?.clone())));
    let more = all.flat_map(|(machine, names)| names.into_iter().skip(1).map(move |name| (machine, name)));
    for (machine, name) in own.chain(more) {
        let places: Vec<(&String, &Vec<IpAddr>)> =
            machine.cards.iter().filter_map(|card| place(addresses, machine, &card.network)).collect();
        for (network, found) in &places {
            zone.records.entry(format!("{name}.{network}")).or_insert_with(|| (*found).clone());
            for ip in *found {
                zone.reverse.entry(*ip).or_insert_with(|| format!("{}.{network}", machine.name));
            }
        }
        let here = places.iter().find(|(network, _)| *network == view);
        let heard: Vec<IpAddr> = match here {
            Some((_, found)) => (*found).clone(),
            None => places.iter().flat_map(|(_, found)| found.iter().copied()).collect(),
        };
        if !heard.is_empty() {
            zone.records.entry(name).or_insert(heard);
        }
    }
    zone
}

fn place<'a>(all: &'a Addresses, machine: &Machine, network: &str) -> Option<(&'a String, &'a Vec<IpAddr>)> {
    let ((_, network), found) = all.get_key_value(&(machine.name.clone(), network.to_owned()))?;
    Some((network, found))
}

/// What the guest is told of its cards.
pub(super) fn seed_networks(project: &Project, machine: &Machine, seats: &[Seat]) -> Vec<SeedNetwork> {
    let elsewhere = |name: &String| !machine.cards.iter().any(|card| card.network == *name);
    let mut other: Vec<String> = project.networks.iter().map(|network| network.name.clone()).collect();
    other.retain(elsewhere);
    let hostnames: Vec<String> = project
        .machines
        .iter()
        .filter(|other| !other.cards.is_empty() && other.hostname.contains('.'))
        .map(|other| other.hostname.clone())
        .collect();
    let card = |(at, seat): (usize, &Seat)| {
        let mut search = vec![seat.spec.name.clone()];
        let mut domains = Vec::new();
        // The first network stands for all that this machine has no card in.
        if at == 0 {
            search.extend(other.iter().cloned());
            domains.clone_from(&hostnames);
        }
        SeedNetwork {
            mac: seat.member.mac,
            mtu: seat.spec.mtu,
            dhcp: machine.cards.get(at).is_some_and(|card| card.dhcp),
            routers: !seat.spec.dhcp,
            addresses: seat.addresses().into_iter().filter(|net| !is_leased(machine, at, net)).collect(),
            resolvers: seat.resolvers(),
            search,
            domains,
        }
    };
    seats.iter().enumerate().map(card).collect()
}

/// Whether the guest gets this address by DHCP.
fn is_leased(machine: &Machine, at: usize, net: &IpNet) -> bool {
    machine.cards.get(at).is_some_and(|card| card.dhcp) && net.addr().is_ipv4()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Login, Masker};

    fn project() -> Project {
        let card = |network: &str, ip: &str| Card {
            network: network.into(),
            addresses: vec![ip.parse().unwrap()],
            dhcp: false,
        };
        let mut web = Machine::new("web", "micro");
        web.hostname = "shop.example".into();
        web.cards = vec![card("front", "10.1.0.5")];
        let mut router = Machine::new("router", "micro");
        router.cards = vec![card("front", "10.1.0.1"), card("back", "10.2.0.1")];
        let mut db = Machine::new("db", "micro");
        db.cards = vec![card("back", "10.2.0.5")];
        Project {
            root: "/p".into(),
            file: "/p/Vagrantfile".into(),
            machines: vec![web, router, db],
            hooks: Vec::new(),
            after_all: Vec::new(),
            networks: vec![Network::new("front"), Network::new("back")],
            login: Login::default(),
            masker: Masker::default(),
        }
    }

    fn addresses(project: &Project) -> Addresses {
        let cards = project.machines.iter().flat_map(|m| m.cards.iter().map(|c| (m.name.clone(), c.clone())));
        cards.map(|(name, card)| ((name, card.network), card.addresses)).collect()
    }

    #[test]
    fn names_are_heard_from_where_one_is() {
        let project = project();
        let zone = |view: &str| zone(&project, view, &addresses(&project));
        let heard = |view: &str, name: &str| {
            let found = zone(view).records.get(name).cloned().unwrap_or_default();
            found.iter().map(IpAddr::to_string).collect::<Vec<_>>().join(" ")
        };
        assert_eq!(heard("front", "router"), "10.1.0.1");
        assert_eq!(heard("back", "router"), "10.2.0.1");
        assert_eq!(heard("front", "router.back"), "10.2.0.1");
        assert_eq!(heard("front", "db"), "10.2.0.5", "behind the router");
        assert_eq!(heard("back", "shop"), "10.1.0.5");
        assert_eq!(heard("back", "shop.example"), "10.1.0.5");
        assert_eq!(heard("back", "shop.example.front"), "10.1.0.5");
        assert_eq!(heard("front", "db.front"), "");
        assert_eq!(zone("front").reverse[&"10.2.0.1".parse::<IpAddr>().unwrap()], "router.back");
        assert_eq!(zone("front").domains, ["front", "back"]);
    }

    #[test]
    fn names_of_a_shared_network_are_left_to_it() {
        let mut project = project();
        project.networks[1].shared = true;
        let domains = |view: &str| zone(&project, view, &addresses(&project)).domains;
        assert_eq!(domains("front"), ["front"], "another project may have a machine there");
        assert_eq!(domains("back"), ["front", "back"]);
    }

    #[test]
    fn a_machine_counts_more_than_a_host_name() {
        let mut project = project();
        project.machines[0].hostname = "db.example".into();
        let zone = zone(&project, "back", &addresses(&project));
        assert_eq!(zone.records["db"], ["10.2.0.5".parse::<IpAddr>().unwrap()]);
    }
}
