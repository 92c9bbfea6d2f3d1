//! The private networks of this user: which there are, who has which address in them, and their switches.
//!
//! A network has a folder. Its state is one file, changed only under its lock; the switch holds another
//! lock for as long as it lives.

mod addresses;
mod error;

use std::collections::BTreeSet;
use std::fs::OpenOptions;
use std::io::{self, Read};
use std::net::IpAddr;
use std::os::fd::AsFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::routes;
use super::switch::process::READY;
use super::switch::{Client, ClientError, Member, PortStatus, Request, Spec, Zone};
use crate::model::{Cancel, Card, Network, hex, station};
use crate::state::{Lock, store};
use crate::vmm::control;

pub use error::NetworkError;
use error::file;

/// The state of a network, in its folder.
const STATE: &str = "network.json";
/// Held while the state changes.
const CHANGES: &str = "changes.lock";
/// Held by the switch.
pub(super) const LOCK: &str = "switch.lock";
/// What the switch complains of.
const LOG: &str = "switch.log";
/// Format of the state.
const VERSION: u32 = 1;
/// How often a switch that ended while it was asked is started anew.
const TRIES: u32 = 3;
/// What is asked of the kernel for frames on their way to a machine; it may give less.
const SEND_BUFFER: usize = 1 << 20;

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
        Ok(Lock::acquire(&self.dir(id).join(CHANGES), &format!("rvm {verb}"), self.cancel, |_| ())?)
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
        let running: Vec<String> = self.running(&id).into_iter().flatten().map(|port| port.id).collect();
        let addresses = addresses::choose(&spec, card, applicant, before.as_ref(), &mut seats, &running)?;
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

    /// What the network is to be: as the file says, unless others use it otherwise.
    fn spec_for(
        &self,
        id: &str,
        network: &Network,
        old: Option<&State>,
        applicant: &Applicant<'_>,
    ) -> Result<Spec, NetworkError> {
        let mut spec = Spec {
            name: network.name.clone(),
            subnets: network.subnets.clone(),
            dhcp: network.dhcp,
            mtu: network.mtu,
        };
        if spec.subnets.is_empty() {
            spec.subnets = match old {
                Some(old) => old.spec.subnets.clone(),
                None => {
                    vec![self.free_subnet(id).ok_or_else(|| NetworkError::NoSubnet(network.name.clone()))?]
                }
            };
        }
        let running = self.running(id);
        if let Some(old) = old.filter(|old| old.spec != spec) {
            if running.as_ref().is_some_and(|ports| ports.iter().any(|port| port.id != applicant.id)) {
                let (now, wanted) = (describe(&old.spec), describe(&spec));
                return Err(NetworkError::InUse { network: network.name.clone(), now, wanted });
            }
            self.end_switch(id)?;
        }
        if running.is_none_or(|ports| ports.is_empty()) {
            let clash =
                spec.subnets.iter().find_map(|net| routes::overlapping(net).map(|route| (*net, route)));
            if let Some((subnet, (route, device))) = clash {
                return Err(NetworkError::HostRoute { network: network.name.clone(), subnet, route, device });
            }
        }
        Ok(spec)
    }

    /// A subnet that nobody has: derived from the network's id, so that it mostly stays the same.
    fn free_subnet(&self, id: &str) -> Option<IpNet> {
        let taken: Vec<IpNet> = self
            .ids()
            .iter()
            .filter_map(|id| self.state(id).ok()?)
            .flat_map(|state| state.spec.subnets)
            .collect();
        let start = u64::from_str_radix(id, 16).unwrap_or_default();
        // 10.128.0.0/9 in subnets of 256.
        (0..1 << 15).find_map(|step| {
            let number = (start.wrapping_add(step) % (1 << 15)) as u32;
            let base = u32::from_be_bytes([10, 128, 0, 0]) + (number << 8);
            let net = IpNet::new(IpAddr::from(base.to_be_bytes()), 24).ok()?;
            let clashes = |other: &IpNet| other.contains(&net.network()) || net.contains(&other.network());
            (!taken.iter().any(clashes) && routes::overlapping(&net).is_none()).then_some(net)
        })
    }

    fn running(&self, id: &str) -> Option<Vec<PortStatus>> {
        let reply = Client::connect(&self.dir(id)).ok()?.ask(&Request::Status, None).ok()?;
        Some(reply.ports)
    }

    /// Ends a switch that has no machine but the one that is about to start, and waits for it.
    fn end_switch(&self, id: &str) -> Result<(), NetworkError> {
        let path = self.dir(id).join(LOCK);
        if let Ok(client) = Client::connect(&self.dir(id)) {
            let _ = client.ask(&Request::End, None);
        }
        Lock::acquire(&path, "rvm up", self.cancel, |_| ()).map(drop).map_err(NetworkError::Lock)
    }

    /// Connects a machine that runs to its network, whose switch is started if need be.
    pub fn connect(&self, seat: &Seat, zone: Zone) -> Result<(), NetworkError> {
        let id = &seat.network;
        let dir = self.dir(id);
        let _lock = self.change(id, "up")?;
        let path = dir.join(STATE);
        let mut state =
            self.state(id)?.ok_or(io::ErrorKind::NotFound).map_err(|e| file("read", &path)(e.into()))?;
        state.zones.retain(|other| other.owner != zone.owner);
        state.zones.push(zone);
        self.save(id, &state)?;
        let connect = |source| NetworkError::Connect {
            network: seat.spec.name.clone(),
            machine: seat.member.machine.clone(),
            source,
        };
        let mut tries = 0;
        loop {
            self.ensure_switch(&dir, &seat.spec.name)?;
            match join_all(&dir, &state, Some(&seat.member.id)) {
                // It ended in this moment, because its last machine had gone.
                Err(ClientError::Io(_)) if tries < TRIES => tries += 1,
                result => return result.map(drop).map_err(connect),
            }
        }
    }

    /// Tells a network, if it is there, the names of a project.
    pub fn tell_names(&self, id: &str, zone: Zone) -> Result<(), NetworkError> {
        if self.state(id)?.is_none() {
            return Ok(());
        }
        let _lock = self.change(id, "up")?;
        let Some(mut state) = self.state(id)? else { return Ok(()) };
        state.zones.retain(|other| other.owner != zone.owner);
        state.zones.push(zone.clone());
        self.save(id, &state)?;
        if let Ok(client) = Client::connect(&self.dir(id)) {
            // One that ends in this moment needs no names.
            let _ = client.ask(&Request::Names(zone), None);
        }
        Ok(())
    }

    /// Starts the switch unless it answers.
    fn ensure_switch(&self, dir: &Path, name: &str) -> Result<(), NetworkError> {
        if Client::connect(dir)
            .and_then(|client| client.ask(&Request::Status, None).map_err(io::Error::other))
            .is_ok()
        {
            return Ok(());
        }
        // One that is about to end holds it for a moment.
        drop(Lock::acquire(&dir.join(LOCK), "rvm up", self.cancel, |_| ())?);
        let failed = |text: String| NetworkError::Start { network: name.into(), text };
        let log = dir.join(LOG);
        let mut options = OpenOptions::new();
        let output = options.create(true).write(true).truncate(true).mode(0o600).open(&log);
        let mut child = Command::new(self.exe)
            .arg("__switch")
            .arg(dir)
            .env_clear()
            .current_dir("/")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::from(output.map_err(file("create", &log))?))
            .spawn()
            .map_err(|error| failed(error.to_string()))?;
        let mut said = String::new();
        if let Some(stdout) = child.stdout.take() {
            let _ = stdout.take(64).read_to_string(&mut said);
        }
        if said == READY {
            return Ok(());
        }
        let _ = child.wait();
        Err(failed(std::fs::read_to_string(&log).unwrap_or_default().trim_end().to_owned()))
    }

    /// Connects machines that run and whose switch is gone; which networks needed it.
    pub fn mend(&self, machine: &str) -> Result<Vec<String>, NetworkError> {
        let mut mended = Vec::new();
        for id in self.ids() {
            let Some(state) = self.state(&id)? else { continue };
            let is_member = state.seats.iter().any(|seat| seat.member.id == machine);
            let connected =
                || self.running(&id).is_some_and(|ports| ports.iter().any(|port| port.id == machine));
            if !is_member || connected() {
                continue;
            }
            let _lock = self.change(&id, "up")?;
            self.ensure_switch(&self.dir(&id), &state.spec.name)?;
            // What does not run cannot be connected, and says so nowhere.
            let _ = join_all(&self.dir(&id), &state, None);
            mended.push(state.spec.name);
        }
        Ok(mended)
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
            let lock = self.change(&id, "destroy")?;
            let Some(mut state) = self.state(&id)? else { continue };
            state.seats.retain(|seat| seat.member.id != machine);
            if !state.seats.is_empty() {
                self.save(&id, &state)?;
                continue;
            }
            // Its switch ends by itself; what it holds open does not need the folder.
            drop(lock);
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

/// Connects all machines that run to a switch that is new; what went wrong.
pub(super) fn rejoin(dir: &Path) -> Vec<String> {
    let joined = read_state(dir).map_err(io::Error::other).and_then(|state| {
        let state = state.ok_or(io::ErrorKind::NotFound)?;
        join_all(dir, &state, None).map_err(io::Error::other)
    });
    joined.err().map(|error| error.to_string()).into_iter().collect()
}

/// Connects to the switch in `dir` each machine that runs and is not connected; that of id `must` has to
/// be among them.
fn join_all(dir: &Path, state: &State, must: Option<&str>) -> Result<(), ClientError> {
    let connected = Client::connect(dir)?.ask(&Request::Status, None)?.ports;
    for zone in &state.zones {
        Client::connect(dir)?.ask(&Request::Names(zone.clone()), None)?;
    }
    for seat in &state.seats {
        let needed = must == Some(seat.member.id.as_str());
        if !needed && connected.iter().any(|port| port.id == seat.member.id) {
            continue;
        }
        let socket = match control::connect(&seat.socket) {
            Ok(socket) => socket,
            // It does not run.
            Err(_) if !needed => continue,
            Err(error) => return Err(ClientError::Refused(format!("its card does not answer: {error}"))),
        };
        // A small buffer costs speed, nothing else.
        let _ = rustix::net::sockopt::set_socket_send_buffer_size(&socket, SEND_BUFFER);
        let joined = Client::connect(dir)?.ask(&Request::Join(seat.member.clone()), Some(socket.as_fd()));
        if needed {
            joined?;
        }
    }
    Ok(())
}

fn describe(spec: &Spec) -> String {
    let subnets: Vec<String> = spec.subnets.iter().map(IpNet::to_string).collect();
    let dhcp = if spec.dhcp { "" } else { " without DHCP" };
    format!("{} (MTU {}){dhcp}", subnets.join(" and "), spec.mtu)
}
