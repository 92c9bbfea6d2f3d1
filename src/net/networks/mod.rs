//! The private networks of this user: which there are, who has which address in them, and their switches.
//!
//! A network has a folder. Its state is one file, changed only under its lock; the switch holds another
//! lock for as long as it lives.

mod addresses;
mod choice;
mod error;
mod switching;
#[cfg(test)]
mod tests;

use std::collections::BTreeSet;
use std::io;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::switch::{Client, Member, PortStatus, Request, Spec, Zone};
use crate::model::{Cancel, Card, Network, hex, station};
use crate::state::{Lock, store};
use crate::vmm::control;

pub use error::NetworkError;
use error::file;
pub(super) use switching::rejoin;
pub use switching::{Lost, Mended, wait_switch_ended};

/// The state of a network, in its folder.
const STATE: &str = "network.json";
/// Held while the state changes.
const CHANGES: &str = "changes.lock";
/// Held by the switch.
pub(super) const LOCK: &str = "switch.lock";
/// Format of the state.
const VERSION: u32 = 1;

/// A network as it is kept.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct State {
    version: u32,
    spec: Spec,
    /// The project that it belongs to; `None`: those that name it.
    project: Option<PathBuf>,
    seats: Vec<Seated>,
    zones: Vec<Zone>,
}

/// A member, whether it runs or not.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Seated {
    member: Member,
    /// Its project.
    project: PathBuf,
    /// Where its card listens for the switch while it runs.
    socket: PathBuf,
    /// The addresses that the file names; the others were chosen.
    declared: Vec<IpAddr>,
}

/// A machine's place in a network.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Seat {
    /// Id of the network.
    pub network: String,
    /// What its switch is told.
    pub member: Member,
    /// The network.
    pub spec: Spec,
}

impl Seat {
    /// Its addresses with the lengths of their prefixes.
    pub fn addresses(&self) -> Vec<IpNet> {
        let with_prefix = |ip: &IpAddr| {
            let subnet = self.spec.subnets.iter().find(|net| net.contains(ip))?;
            IpNet::new(*ip, subnet.prefix_len()).ok()
        };
        self.member.addresses.iter().filter_map(with_prefix).collect()
    }

    /// Where the network's own resolver answers.
    pub fn resolvers(&self) -> Vec<IpAddr> {
        self.spec.subnets.iter().map(station).collect()
    }
}

/// Who wants a place in a network.
#[derive(Debug)]
pub struct Applicant<'a> {
    /// Folder of the project.
    pub project: &'a Path,
    /// Name of the machine.
    pub machine: &'a str,
    /// Its id.
    pub id: &'a str,
    /// Ethernet address of the card.
    pub mac: [u8; 6],
    /// Where the card listens for the switch.
    pub socket: &'a Path,
    /// Addresses of this network that the project's file gives to other machines.
    pub avoid: &'a BTreeSet<IpAddr>,
}

/// A network as it is now.
#[derive(Debug, Clone)]
pub struct NetworkStatus {
    /// 16 hex digits.
    pub id: String,
    /// What it is.
    pub spec: Spec,
    /// The project that it belongs to; `None` for a shared one.
    pub project: Option<PathBuf>,
    /// Its members, running or not.
    pub members: Vec<Member>,
    /// Process of its switch and those that are connected, when there is one.
    pub switch: Option<(u32, Vec<PortStatus>)>,
}

/// All networks of a store.
#[derive(Debug)]
pub struct Networks<'a> {
    /// Where their folders are.
    pub root: PathBuf,
    /// The rvm binary, to start switches from.
    pub exe: &'a Path,
    /// Ends waits.
    pub cancel: &'a Cancel,
}

/// Id of a network: the same for each machine of the project, and for all projects where it is shared.
pub fn network_id(project: &Path, network: &Network) -> String {
    let owner = if network.shared { &b"shared"[..] } else { project.as_os_str().as_encoded_bytes() };
    let digest = Sha256::digest([owner, b"\0", network.name.as_bytes()].concat());
    hex(&digest[..8])
}

impl Networks<'_> {
    fn dir(&self, id: &str) -> PathBuf {
        self.root.join(id)
    }

    fn change(&self, id: &str, verb: &str) -> Result<Lock, NetworkError> {
        let path = self.dir(id).join(CHANGES);
        loop {
            let lock = Lock::acquire(&path, &format!("rvm {verb}"), self.cancel, |_| ())?;
            // Else the network was removed while we waited.
            if lock.is_at(&path) {
                return Ok(lock);
            }
        }
    }

    fn state(&self, id: &str) -> Result<Option<State>, NetworkError> {
        read_state(&self.dir(id))
    }

    fn save(&self, id: &str, state: &State) -> Result<(), NetworkError> {
        let path = self.dir(id).join(STATE);
        store::write_json(&path, state).map_err(file("write", &path))
    }

    /// Ids of all networks.
    fn ids(&self) -> Vec<String> {
        let entries = std::fs::read_dir(&self.root).into_iter().flatten().flatten();
        let mut ids: Vec<String> = entries.filter_map(|entry| entry.file_name().into_string().ok()).collect();
        ids.retain(|id| self.dir(id).join(STATE).exists());
        ids.sort();
        ids
    }

    /// Reserves a place: the addresses that the card names, and for each family of the network that it does
    /// not name one that is free. What a machine had before it gets again.
    pub fn reserve(
        &self,
        network: &Network,
        card: &Card,
        applicant: &Applicant<'_>,
    ) -> Result<Seat, NetworkError> {
        let id = network_id(applicant.project, network);
        let _lock = self.change(&id, "up")?;
        let old = self.state(&id)?;
        let spec = self.spec_for(&id, network, old.as_ref(), applicant)?;
        let (mut seats, zones) = old.map(|old| (old.seats, old.zones)).unwrap_or_default();
        let before = seats.iter().position(|seat| seat.member.id == applicant.id).map(|at| seats.remove(at));
        // One that has lost its switch runs all the same.
        let runs = |seat: &Seated| control::connect(&seat.socket).is_ok();
        let addresses = addresses::choose(&spec, card, applicant, before.as_ref(), &mut seats, &runs)?;
        let member = Member {
            id: applicant.id.into(),
            machine: applicant.machine.into(),
            owner: owner(applicant.project),
            mac: applicant.mac,
            addresses,
        };
        seats.push(Seated {
            member: member.clone(),
            project: applicant.project.into(),
            socket: applicant.socket.into(),
            declared: card.addresses.clone(),
        });
        let project = (!network.shared).then(|| applicant.project.to_owned());
        self.save(&id, &State { version: VERSION, spec: spec.clone(), project, seats, zones })?;
        Ok(Seat { network: id, member, spec })
    }

    /// Gives up a machine's places, but for those in the networks `keep`. A network without a member is
    /// gone.
    pub fn release(&self, machine: &str, keep: &[String]) -> Result<(), NetworkError> {
        for id in self.ids() {
            if keep.contains(&id) {
                continue;
            }
            let Ok(Some(state)) = self.state(&id) else { continue };
            if !state.seats.iter().any(|seat| seat.member.id == machine) {
                continue;
            }
            let _lock = self.change(&id, "destroy")?;
            if let Some(mut state) = self.state(&id)? {
                state.seats.retain(|seat| seat.member.id != machine);
                // The names of a project go with its last machine.
                let stays = |zone: &Zone| state.seats.iter().any(|seat| seat.member.owner == zone.owner);
                let (zones, gone): (Vec<Zone>, Vec<Zone>) = state.zones.drain(..).partition(stays);
                state.zones = zones;
                if !state.seats.is_empty() {
                    self.save(&id, &state)?;
                    for Zone { owner, .. } in gone {
                        self.tell_switch(&id, Zone { owner, ..Zone::default() });
                    }
                    continue;
                }
            }
            // Its switch ends by itself; what it holds open does not need the folder. Whoever waits for the lock
            // sees that it is gone.
            store::remove(&self.dir(&id)).map_err(file("remove", &self.dir(&id)))?;
        }
        Ok(())
    }

    /// Addresses that members of a project have in a network, by the name of the machine.
    pub fn addresses_of(&self, id: &str, project: &Path) -> Result<Vec<(String, Vec<IpAddr>)>, NetworkError> {
        let seats = self.state(id)?.map(|state| state.seats).unwrap_or_default();
        let of_project = seats.into_iter().filter(|seat| seat.project == project);
        Ok(of_project.map(|seat| (seat.member.machine, seat.member.addresses)).collect())
    }

    /// All networks, sorted by project and name.
    pub fn list(&self) -> Result<Vec<NetworkStatus>, NetworkError> {
        let mut list = Vec::new();
        for id in self.ids() {
            let Some(State { spec, project, seats, .. }) = self.state(&id)? else { continue };
            let members = seats.into_iter().map(|seat| seat.member).collect();
            let asked = Client::connect(&self.dir(&id)).ok();
            let reply = asked.and_then(|client| client.ask(&Request::Status, None).ok());
            let switch = reply.map(|reply| (reply.pid, reply.ports));
            list.push(NetworkStatus { id, spec, project, members, switch });
        }
        list.sort_by(|a, b| (&a.project, &a.spec.name).cmp(&(&b.project, &b.spec.name)));
        Ok(list)
    }
}

/// Whose names a machine hears first.
pub fn owner(project: &Path) -> String {
    project.to_string_lossy().into_owned()
}

fn read_state(dir: &Path) -> Result<Option<State>, NetworkError> {
    let path = dir.join(STATE);
    let state: Option<State> = store::read_json(&path).map_err(file("read", &path))?;
    match state {
        Some(state) if state.version != VERSION => {
            Err(NetworkError::Version { path, version: state.version })
        }
        other => Ok(other),
    }
}

/// The network in `dir`.
pub(super) fn spec_of(dir: &Path) -> io::Result<Spec> {
    let state = read_state(dir).map_err(io::Error::other)?;
    Ok(state.ok_or(io::ErrorKind::NotFound)?.spec)
}
