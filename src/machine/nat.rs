//! A machine's way out: the choice of its forwarded ports, and what is said of them when passt is gone.
//!
//! The machine's process listens at a socket for whoever carries its frames. So passt can be started anew
//! under a guest that runs, by the process that keeps it (`way_out.rs`).

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::net::SocketAddr;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};

use super::record::Record;
use super::way_out::{self, Kept, SOCKET, State, Task, Waiting};
use super::{MachineError, Machines};
use crate::model::{Forward, Machine, Nat, NatBackend, Phase, Protocol, ProviderKind, port_runs};
use crate::net::{self, NatAddresses, NetError, passt};
use crate::plan::forward_text;
use crate::state::Lock;
use crate::vmm::control;
use crate::vmm::memory::shared_huge_pages;

/// Vagrant's port for SSH; another one is taken when it is not free.
pub(super) const SSH_PORT: u16 = 2222;
/// How often the ports are chosen anew when another process takes one between the choice and
/// the moment passt listens.
pub(super) const PORT_TRIES: u32 = 5;
/// What is said of a machine that runs without its passt.
const CUT_OFF: &str = "it is cut off from the network: its passt has ended";

/// The socket for a machine's process, at which passt connects.
pub(super) fn nat_socket(dir: &Path) -> Result<UnixListener, MachineError> {
    let path = dir.join(SOCKET);
    control::bind(&path).map_err(|e| MachineError::file("create", &path, e))
}

/// What is wrong with the way out of a machine that runs.
#[derive(Debug, PartialEq, Eq)]
enum Trouble {
    /// There is no passt, or none that can be found; what is said of it.
    CutOff(String),
    /// There is one, and nobody who would start the next.
    Unkept,
}

fn trouble_of(dir: &Path, record: &Record) -> Option<Trouble> {
    let ssh = record.ssh?;
    if record.applied.nat == Nat::None {
        // It has no passt; what else it has is watched over all the same.
        return (!way_out::is_there(dir)).then_some(Trouble::Unkept);
    }
    let listens = || net::somebody_listens(ssh);
    let cut_off = |more: String| Some(Trouble::CutOff(format!("{CUT_OFF}{more}")));
    match way_out::kept(dir) {
        Kept::Tried(why) => cut_off(format!(", and another one cannot be started yet ({why})")),
        Kept::Well if listens()? => None,
        Kept::Well => cut_off(", and another one is being started".to_owned()),
        Kept::ByNobody(Some(true)) => Some(Trouble::Unkept),
        Kept::ByNobody(Some(false)) if listens()? => {
            cut_off(format!(", and another program listens at {ssh}"))
        }
        // Who listens there may be passt.
        Kept::ByNobody(None) if listens()? => None,
        Kept::ByNobody(_) => cut_off(String::new()),
    }
}

/// What is wrong with the network of the machine in `dir`, which runs, where it can be told: it has no passt.
pub(super) fn trouble(dir: &Path, record: &Record) -> Option<String> {
    match trouble_of(dir, record)? {
        Trouble::CutOff(what) => Some(what),
        Trouble::Unkept => None,
    }
}

fn ssh_forward(ssh: SocketAddr) -> Forward {
    Forward { host_ip: ssh.ip(), ..Forward::ssh(ssh.port()) }
}

/// Whether passt is to map the guest's memory.
pub(super) fn vhost_user(machine: &Machine, provider: ProviderKind) -> Result<bool, MachineError> {
    let wish = (machine.nat, machine.nat_backend, provider);
    Ok(maps_memory(wish, &passt::has_vhost_user, &shared_huge_pages)?)
}

/// The same on a host whose passt and memory are such.
fn maps_memory(
    (nat, backend, provider): (Nat, NatBackend, ProviderKind),
    can: &dyn Fn() -> bool,
    huge_pages: &dyn Fn() -> bool,
) -> Result<bool, NetError> {
    let cannot = |why| Err(NetError::NoVhostUser(why));
    match (backend, provider) {
        (NatBackend::Stream, _) | (NatBackend::Auto, ProviderKind::Qemu) => Ok(false),
        // What is sent to loopback addresses is dropped by who carries the frames, which we would not.
        (NatBackend::Auto, _) if nat != Nat::Open => Ok(false),
        (NatBackend::VhostUser, _) if nat != Nat::Open => {
            cannot("`nat` is not \"open\", and rvm would not see the frames")
        }
        (NatBackend::VhostUser, ProviderKind::Qemu) => cannot("QEMU is not asked to do that"),
        (NatBackend::VhostUser, ProviderKind::Kvm) if !can() => {
            cannot("the installed passt has no such mode")
        }
        (NatBackend::VhostUser, ProviderKind::Kvm) => Ok(true),
        // Without huge pages a guest starts later and runs slower, whatever its network gains.
        (NatBackend::Auto, ProviderKind::Kvm) => Ok(huge_pages() && can()),
    }
}

impl Machines<'_> {
    /// Chooses host ports, the SSH one first, and has passt listen on them.
    pub(super) fn open_ports(
        &self,
        machine: &Machine,
        addresses: &NatAddresses,
        vhost_user: bool,
        networks: Vec<PathBuf>,
        dir: &Path,
    ) -> Result<(Vec<Forward>, Waiting), MachineError> {
        let _watch = self.time(&machine.name, Phase::Network);
        // A port for SSH that may be any gives way to the declared ones; one that is declared gives way to none.
        let (fixed, any) = match machine.ssh.port {
            Some(port) => (Some(Forward::ssh(port)), None),
            None => (None, Some(Forward { auto_correct: true, ..Forward::ssh(SSH_PORT) })),
        };
        let is_last = any.is_some();
        let wanted: Vec<Forward> =
            fixed.into_iter().chain(machine.ports.iter().cloned()).chain(any).collect();
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
            if is_last {
                chosen.rotate_right(1);
            }
            let (way, networks) = (machine.nat, networks.clone());
            let (addresses, state) = (*addresses, State::default());
            let task = Task { way, addresses, forwards: chosen, vhost_user, networks, state };
            match self.keep_passt(dir, &task) {
                Ok(waiting) => return Ok((task.forwards, waiting)),
                Err(MachineError::Net(NetError::PortRace(_))) if tries < PORT_TRIES => tries += 1,
                Err(error) => return Err(error),
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

    /// Has passt started anew for a machine that runs, if it is gone, and somebody watch over the one that there
    /// is. Connections of the guest to the world are lost where there was none; the guest itself notices nothing.
    pub(super) fn mend_nat(&self, record: &Record) -> Result<(), MachineError> {
        let dir = self.layout.machine(&record.id);
        let (Some(trouble), Some(addresses), Some(ssh)) = (trouble_of(&dir, record), record.nat, record.ssh)
        else {
            return Ok(());
        };
        let forwards: Vec<Forward> =
            [ssh_forward(ssh)].into_iter().chain(record.ports.iter().cloned()).collect();
        let (way, vhost_user, state) = (record.applied.nat, record.vhost_user, way_out::state_of(&dir));
        let networks = record.places.iter().map(|place| self.layout.networks().join(&place.id)).collect();
        self.keep_passt(&dir, &Task { way, addresses, forwards, vhost_user, networks, state })?;
        if let Kept::Tried(why) = way_out::kept(&dir) {
            return Err(passt::failure(why).into());
        }
        let text = match trouble {
            Trouble::CutOff(_) => format!("{CUT_OFF}; another one was started"),
            Trouble::Unkept if way == Nat::None => {
                "the process that starts again what it needs had ended; another one was started".into()
            }
            Trouble::Unkept => {
                "the process that starts its passt again had ended; another one was started".into()
            }
        };
        self.warn(&record.name, text);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn passt_maps_the_memory_of_machines_whose_way_out_is_open() {
        use NatBackend::{Auto, Stream, VhostUser};
        use ProviderKind::{Kvm, Qemu};
        let choose = |wish, can, huge_pages| maps_memory(wish, &|| can, &|| huge_pages).ok();
        for nat in [Nat::NoHost, Nat::Closed, Nat::None] {
            assert_eq!(choose((nat, Auto, Kvm), true, true), Some(false));
            assert_eq!(choose((nat, Stream, Kvm), true, true), Some(false));
            for provider in [Kvm, Qemu] {
                assert_eq!(choose((nat, VhostUser, provider), true, true), None);
            }
        }
        assert_eq!(choose((Nat::Open, Auto, Kvm), true, true), Some(true));
        assert_eq!(choose((Nat::Open, Auto, Kvm), true, false), Some(false));
        assert_eq!(choose((Nat::Open, Auto, Kvm), false, true), Some(false));
        assert_eq!(choose((Nat::Open, Auto, Qemu), true, true), Some(false));
        assert_eq!(choose((Nat::Open, VhostUser, Kvm), true, false), Some(true));
        assert_eq!(choose((Nat::Open, VhostUser, Kvm), false, true), None);
        assert_eq!(choose((Nat::Open, VhostUser, Qemu), true, true), None);
    }
}
