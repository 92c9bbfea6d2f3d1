//! The ports of a switch, and which frame goes where.

use std::io;
use std::net::IpAddr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::io::Errno;
use rustix::net::{RecvFlags, recv};

use super::guard::Guard;
use super::outbox::{MAX_FRAME, Outbox, PREFIX, frame_end};
use super::spec::{Counters, Member, PortStatus, Spec, Zone, link_local};
use super::station::{MAC, Station};

/// Most members of a network.
const MOST_PORTS: usize = 256;
/// Most projects that have names in a network.
const MOST_ZONES: usize = 64;
/// Bytes that are taken from one machine before the others have their turn.
const TURN: usize = 128 * 1024;
/// The station, as a source of frames.
const STATION: u64 = 0;

/// Why a machine is cut off.
#[derive(Debug, thiserror::Error)]
pub enum Gone {
    /// It closed its end.
    #[error("it closed the connection")]
    Closed,
    /// What it sent is no frame, so the next one cannot be found.
    #[error("it sent a frame of {0} bytes")]
    BadLength(usize),
    /// The host says so.
    #[error(transparent)]
    Io(#[from] io::Error),
}

/// A connected machine.
#[derive(Debug)]
struct Port {
    /// Never given again.
    number: u64,
    member: Member,
    socket: OwnedFd,
    /// Received bytes; they begin with a frame's length.
    input: Vec<u8>,
    filled: usize,
    outbox: Outbox,
    counters: Counters,
    gone: Option<Gone>,
}

/// All that a switch knows.
#[derive(Debug)]
pub struct Table {
    station: Station,
    ports: Vec<Port>,
    zones: Vec<Zone>,
    next: u64,
}

/// Where a frame goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum To {
    /// That port, by its place.
    One(usize),
    All,
    Station,
    Nobody,
}

impl Table {
    /// Without a member yet.
    pub fn new(spec: Spec) -> Self {
        Table { station: Station::new(spec), ports: Vec::new(), zones: Vec::new(), next: STATION + 1 }
    }

    /// Takes a machine in, in place of an older connection of the same machine.
    pub fn join(&mut self, member: Member, socket: OwnedFd) -> Result<(), String> {
        self.ports.retain(|port| port.member.id != member.id);
        if self.ports.len() >= MOST_PORTS {
            return Err(format!("the network has {MOST_PORTS} machines already"));
        }
        if member.mac[0] & 1 != 0 || member.mac == MAC {
            return Err("a machine cannot have that Ethernet address".into());
        }
        for port in &self.ports {
            let (name, other) = (&port.member.machine, &port.member);
            if other.mac == member.mac {
                return Err(format!("machine `{name}` has that Ethernet address"));
            }
            if let Some(ip) = member.addresses.iter().find(|ip| other.addresses.contains(ip)) {
                return Err(format!("machine `{name}` has the address {ip}"));
            }
        }
        if let Some(ip) = member.addresses.iter().find(|ip| self.station.owns(**ip)) {
            return Err(format!("the network itself answers at {ip}"));
        }
        let (number, counters) = (self.next, Counters::default());
        self.next += 1;
        let (input, outbox) = (vec![0; TURN], Outbox::default());
        self.ports.push(Port { number, member, socket, input, filled: 0, outbox, counters, gone: None });
        Ok(())
    }

    /// Takes the names of an owner, in place of older ones; none: it has left.
    pub fn names(&mut self, zone: Zone) -> Result<(), String> {
        self.zones.retain(|other| other.owner != zone.owner);
        if zone.records.is_empty() && zone.reverse.is_empty() && zone.domains.is_empty() {
            return Ok(());
        }
        if self.zones.len() >= MOST_ZONES {
            // Those of projects that have no machine here any more.
            self.zones.retain(|zone| self.ports.iter().any(|port| port.member.owner == zone.owner));
        }
        if self.zones.len() >= MOST_ZONES {
            return Err(format!("{MOST_ZONES} projects have names in this network already"));
        }
        self.zones.push(zone);
        Ok(())
    }

    /// Nobody is there.
    pub fn is_empty(&self) -> bool {
        self.ports.is_empty()
    }

    /// Who is there.
    pub fn status(&self) -> Vec<PortStatus> {
        let status = |port: &Port| {
            let Member { id, machine, .. } = port.member.clone();
            PortStatus { id, machine, counters: port.counters }
        };
        self.ports.iter().map(status).collect()
    }

    /// The sockets, in the order of the ports, and whether something waits for each.
    pub fn sockets(&self) -> impl Iterator<Item = (BorrowedFd<'_>, bool)> {
        self.ports.iter().map(|port| (port.socket.as_fd(), !port.outbox.is_empty()))
    }

    /// Sends what waits for the port at that place.
    pub fn flush(&mut self, at: usize) {
        if let Some(port) = self.ports.get_mut(at)
            && let Err(error) = port.outbox.flush(&port.socket)
        {
            port.gone = Some(error.into());
        }
    }

    /// Takes what the port at that place has sent, up to one turn's worth, and passes it on.
    pub fn serve(&mut self, at: usize) {
        let Some(port) = self.ports.get_mut(at) else { return };
        let mut input = std::mem::take(&mut port.input);
        let filled = match receive(&port.socket, &mut input, port.filled) {
            Ok(filled) => filled,
            Err(gone) => {
                port.gone = Some(gone);
                return;
            }
        };
        let taken = self.forward(at, input.get(..filled).unwrap_or_default());
        let Some(port) = self.ports.get_mut(at) else { return };
        match taken {
            Ok(taken) => {
                input.copy_within(taken..filled, 0);
                port.filled = filled - taken;
            }
            Err(gone) => port.gone = Some(gone),
        }
        port.input = input;
    }

    /// Removes the ports of machines that are gone, and tells of each.
    pub fn sweep(&mut self, mut tell: impl FnMut(&Member, &Gone)) {
        self.ports.retain(|port| match &port.gone {
            Some(gone) => {
                tell(&port.member, gone);
                false
            }
            None => true,
        });
    }

    /// Passes on all whole frames at the start of `input`; how many bytes they are.
    fn forward(&mut self, from: usize, input: &[u8]) -> Result<usize, Gone> {
        // Frames that follow each other to the same place go there at once.
        let (mut at, mut run) = (0, (To::Nobody, 0));
        while let Some(head) = input.get(at..).and_then(|rest| rest.first_chunk::<PREFIX>()) {
            let len = u32::from_be_bytes(*head) as usize;
            if len > MAX_FRAME {
                return Err(Gone::BadLength(len));
            }
            let Some(end) = frame_end(input, at) else { break };
            let frame = input.get(at + PREFIX..end).unwrap_or_default();
            let to = self.place(from, frame);
            if to != run.0 {
                self.deliver(from, run.0, input.get(run.1..at).unwrap_or_default());
                run = (to, at);
            }
            at = end;
        }
        self.deliver(from, run.0, input.get(run.1..at).unwrap_or_default());
        Ok(at)
    }

    /// Where a frame of that port goes.
    fn place(&mut self, from: usize, frame: &[u8]) -> To {
        let Some(port) = self.ports.get(from) else { return To::Nobody };
        let foreign = |ip: IpAddr| {
            let of = |member: &Member| member.addresses.contains(&ip) || ip == link_local(member.mac);
            self.station.owns(ip)
                || self.ports.iter().any(|other| other.number != port.number && of(&other.member))
        };
        let guard = Guard { mac: port.member.mac, foreign: &foreign, services: self.station.serves_dhcp() };
        let admitted = guard.admits(frame);
        let to = match frame.first_chunk::<6>() {
            _ if !admitted => To::Nobody,
            Some(&MAC) => To::Station,
            Some(to) if to[0] & 1 != 0 => To::All,
            Some(to) => {
                let place = self.ports.iter().position(|port| port.member.mac == *to);
                place.map_or(To::Nobody, To::One)
            }
            None => To::Nobody,
        };
        if let Some(port) = self.ports.get_mut(from) {
            port.counters.received += 1;
            port.counters.received_bytes += frame.len() as u64;
            port.counters.refused += u64::from(!admitted);
        }
        to
    }

    fn deliver(&mut self, from: usize, to: To, frames: &[u8]) {
        let Some(source) = self.ports.get(from).map(|port| port.number) else { return };
        match to {
            To::One(at) => self.give(at, source, frames),
            To::All => {
                for at in (0..self.ports.len()).filter(|at| *at != from) {
                    self.give(at, source, frames);
                }
                self.ask_station(from, frames);
            }
            To::Station => self.ask_station(from, frames),
            To::Nobody => {}
        }
    }

    fn give(&mut self, at: usize, source: u64, frames: &[u8]) {
        let Some(port) = self.ports.get_mut(at).filter(|port| port.gone.is_none()) else { return };
        match port.outbox.offer(source, frames, &port.socket) {
            Ok((taken, dropped)) => {
                port.counters.sent += taken;
                port.counters.dropped += dropped;
            }
            Err(error) => port.gone = Some(error.into()),
        }
    }

    fn ask_station(&mut self, from: usize, frames: &[u8]) {
        let mut at = 0;
        while let Some(end) = frame_end(frames, at) {
            let frame = frames.get(at + PREFIX..end).unwrap_or_default();
            at = end;
            let Some(port) = self.ports.get(from) else { return };
            let Some(answer) = self.station.answer(frame, &port.member, &self.zones) else { continue };
            let len = u32::try_from(answer.len()).unwrap_or_default();
            let answer = [&len.to_be_bytes()[..], &answer].concat();
            self.give(from, STATION, &answer);
        }
    }
}

/// One read behind the `filled` bytes of `input`; how many bytes it holds now.
fn receive(socket: &OwnedFd, input: &mut [u8], filled: usize) -> Result<usize, Gone> {
    let room = input.get_mut(filled..).unwrap_or_default();
    match recv(socket, room, RecvFlags::DONTWAIT) {
        Ok((0, _)) => Err(Gone::Closed),
        Ok((count, _)) => Ok(filled + count),
        Err(Errno::AGAIN | Errno::INTR) => Ok(filled),
        Err(error) => Err(Gone::Io(error.into())),
    }
}

#[cfg(test)]
#[path = "tests.rs"]
mod tests;
