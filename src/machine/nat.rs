//! A machine's way out: its passt, the forwarded ports, and what becomes of them when passt is killed.
//!
//! The machine's process listens at a socket for whoever carries its frames. So passt can be started anew
//! under a guest that runs.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::io::Write;
use std::net::{IpAddr, Ipv4Addr};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;

use super::record::Record;
use super::{MachineError, Machines};
use crate::model::{Forward, Machine, Phase, Protocol, port_runs};
use crate::net::{self, NatAddresses, NetError, passt};
use crate::plan::forward_text;
use crate::state::Lock;
use crate::vmm::control;

/// Where a machine's first card listens for its passt, in the machine's folder.
const SOCKET: &str = "nat.sock";
/// Vagrant's port for SSH; another one is taken when it is not free.
const SSH_PORT: u16 = 2222;
/// How often the ports are chosen anew when another process takes one between the choice and
/// the moment passt listens.
const PORT_TRIES: u32 = 5;
/// What is said of a machine that runs without its passt.
const CUT_OFF: &str = "it is cut off from the network: its passt has ended";

/// The socket for a machine's process, and a connection to it for passt.
pub(super) fn nat_socket(dir: &Path) -> Result<(UnixListener, UnixStream), MachineError> {
    let path = dir.join(SOCKET);
    let both = control::bind(&path).and_then(|listener| Ok((listener, control::connect(&path)?)));
    both.map_err(|e| MachineError::file("create", &path, e))
}

/// What is wrong with the network of a machine that runs, where it can be told: nobody listens at its
/// port for SSH.
pub(super) fn trouble(record: &Record) -> Option<String> {
    let listens = net::somebody_listens(record.ssh?)?;
    (!listens).then(|| CUT_OFF.to_owned())
}

impl Machines<'_> {
    /// Chooses host ports, the SSH one first, and has passt listen on them.
    pub(super) fn open_ports(
        &self,
        machine: &Machine,
        addresses: &NatAddresses,
        peer: &UnixStream,
    ) -> Result<Vec<Forward>, MachineError> {
        let _watch = self.time(&machine.name, Phase::Network);
        let ssh = Forward {
            guest: 22,
            host: SSH_PORT,
            host_ip: IpAddr::V4(Ipv4Addr::LOCALHOST),
            protocol: Protocol::Tcp,
            auto_correct: true,
        };
        // The declared ports choose first: the one for SSH gives way to them.
        let wanted: Vec<Forward> = machine.ports.iter().cloned().chain([ssh]).collect();
        let mut tries = 0;
        // Another `up` that is at this very place takes other ports, until passt has these.
        let mut held: HashMap<(u16, Protocol), Lock> = HashMap::new();
        loop {
            let mut reserve = |port, protocol| match held.entry((port, protocol)) {
                Entry::Occupied(_) => true,
                Entry::Vacant(entry) => match self.reserve_port(port, protocol) {
                    Some(lock) => {
                        entry.insert(lock);
                        true
                    }
                    None => false,
                },
            };
            let mut chosen = net::choose(&wanted, &mut reserve)?;
            chosen.rotate_right(1);
            match passt::start(machine.nat, addresses, &chosen, peer) {
                Ok(()) => return Ok(chosen),
                Err(NetError::PortRace(_)) if tries < PORT_TRIES => tries += 1,
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// `None` when another `up` of this user has it at this moment.
    pub(super) fn reserve_port(&self, port: u16, protocol: Protocol) -> Option<Lock> {
        let path = self.layout.lock_file(&format!("port-{}-{port}", protocol.as_str()));
        Lock::try_acquire(&path, "rvm up").ok().and_then(Result::ok)
    }

    pub(super) fn tell_ports(&self, name: &str, declared: &[Forward], actual: &[Forward]) {
        let (kept, moved): (Vec<_>, Vec<_>) =
            declared.iter().zip(actual).partition(|(declared, actual)| declared.host == actual.host);
        for (declared, actual) in moved {
            let text = format!("Port {} was taken: {}.", declared.host, forward_text(actual));
            self.warn(name, text);
        }
        let kept: Vec<Forward> = kept.into_iter().map(|(_, actual)| actual.clone()).collect();
        for run in port_runs(&kept) {
            self.detail(name, format!("Port {run}."));
        }
    }

    /// Starts passt anew for a machine that runs and whose passt was killed. Connections of the guest to
    /// the world are lost; the guest itself notices nothing.
    pub(super) fn mend_nat(&self, record: &Record) -> Result<(), MachineError> {
        let (Some(_), Some(addresses), Some(ssh)) = (trouble(record), record.nat, record.ssh) else {
            return Ok(());
        };
        let path = self.layout.machine(&record.id).join(SOCKET);
        let mut peer = control::connect(&path).map_err(|e| MachineError::file("connect to", &path, e))?;
        // passt learns the guest's Ethernet address from what it sends, and would not reach it before.
        peer.write_all(&net::call_out(addresses.guest))
            .map_err(|e| MachineError::file("write to", &path, e))?;
        let ssh = Forward {
            guest: 22,
            host: ssh.port(),
            host_ip: ssh.ip(),
            protocol: Protocol::Tcp,
            auto_correct: false,
        };
        let forwards: Vec<Forward> = [ssh].into_iter().chain(record.ports.iter().cloned()).collect();
        passt::start(record.applied.nat, &addresses, &forwards, &peer)?;
        self.warn(&record.name, format!("{CUT_OFF}; another one was started"));
        Ok(())
    }
}
