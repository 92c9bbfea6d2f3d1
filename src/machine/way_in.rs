//! `nat = "none"`: a machine without a card that leads out, or in. The host's SSH clients connect to a port of the
//! host as for any other machine; there the machine's own process listens, and leads them through a virtio socket
//! to the agent in the guest.

use std::net::TcpListener;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use super::nat::{self, PORT_TRIES};
use super::way_out::{State, Task, Waiting};
use super::{MachineError, Machines};
use crate::image::BoxImage;
use crate::model::{Forward, Machine, Nat, Phase, ProviderKind};
use crate::net::{self, NatAddresses, PortError};
use crate::provider::ProviderError;
use crate::state::Lock;

/// What a machine gets that has no way out.
pub(super) struct WayIn {
    /// The port for SSH.
    pub(super) ssh: Forward,
    /// Where its process is to take connections.
    pub(super) listener: OwnedFd,
    /// For its start: who watches over what else it needs.
    pub(super) waiting: Waiting,
}

/// Whether a machine with a file like this can run on `provider`.
pub(super) fn check_provider(machine: &Machine, provider: ProviderKind) -> Result<(), MachineError> {
    match (machine.nat, provider) {
        (Nat::None, ProviderKind::Qemu) => Err(ProviderError::NoVsock.into()),
        _ => Ok(()),
    }
}

/// Whether it can run from this box.
pub(super) fn check_box(machine: &Machine, image: Option<&BoxImage>) -> Result<(), MachineError> {
    match (machine.nat, image) {
        (Nat::None, Some(image)) if !image.agent_ssh => Err(MachineError::OldAgent(machine.name.clone())),
        _ => Ok(()),
    }
}

impl Machines<'_> {
    /// Listens for SSH clients, and has a process watch over what else the machine needs. From here on nobody else can have
    /// the port.
    pub(super) fn open_way_in(
        &self,
        machine: &Machine,
        addresses: &NatAddresses,
        networks: Vec<PathBuf>,
        dir: &Path,
    ) -> Result<WayIn, MachineError> {
        let _watch = self.time(&machine.name, Phase::Network);
        let (ssh, listener) = self.listen_for_ssh(machine)?;
        let (forwards, state) = (vec![ssh.clone()], State::default());
        let (way, addresses) = (Nat::None, *addresses);
        let waiting =
            self.keep_passt(dir, &Task { way, addresses, forwards, vhost_user: false, networks, state })?;
        Ok(WayIn { ssh, listener: listener.into(), waiting })
    }

    fn listen_for_ssh(&self, machine: &Machine) -> Result<(Forward, TcpListener), MachineError> {
        let wanted = match machine.ssh.port {
            Some(port) => Forward::ssh(port),
            None => Forward { auto_correct: true, ..Forward::ssh(nat::SSH_PORT) },
        };
        let mut tries = 0;
        loop {
            let mut held: Vec<Lock> = Vec::new();
            let mut reserve = |port, protocol| {
                let lock = self.reserve_port(port, protocol);
                let is_ours = lock.is_some();
                held.extend(lock);
                is_ours
            };
            let chosen = net::choose(std::slice::from_ref(&wanted), &mut reserve)?;
            let ssh = chosen.into_iter().next().unwrap_or_else(|| wanted.clone());
            match net::listen(ssh.host_ip, ssh.host) {
                Ok(listener) => return Ok((ssh, listener)),
                // Somebody who reserves nothing was faster.
                Err(PortError::Taken { .. }) if tries < PORT_TRIES => tries += 1,
                Err(error) => return Err(error.into()),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::TcpStream;

    use super::super::tests::machines_in;
    use super::*;

    fn machine(nat: Nat) -> Machine {
        Machine { nat, ..Machine::new("alone", "micro") }
    }

    #[test]
    fn only_one_provider_leads_in_without_a_card() {
        for nat in [Nat::Open, Nat::NoHost, Nat::Closed] {
            check_provider(&machine(nat), ProviderKind::Qemu).unwrap();
        }
        check_provider(&machine(Nat::None), ProviderKind::Kvm).unwrap();
        let error = check_provider(&machine(Nat::None), ProviderKind::Qemu).unwrap_err();
        assert_eq!(error.code().to_string(), "E0711");
        assert!(error.hint().unwrap().contains("nat = \"closed\""));
    }

    #[test]
    fn a_box_whose_agent_is_older_is_refused() {
        // What the record of a machine holds that an older rvm made.
        let old = r#"{"name":"micro","digest":"d","dir":"/b","root_disk":"/b/r","size":1,"default_disk":1,
            "created":0,"kernel_version":"6","default_user":"vagrant","agent":true,"mirror":"m","packages":[]}"#;
        let old: BoxImage = serde_json::from_str(old).unwrap();
        check_box(&machine(Nat::Closed), Some(&old)).unwrap();
        let error = check_box(&machine(Nat::None), Some(&old)).unwrap_err();
        assert_eq!(error.code().to_string(), "E0313");
        assert!(error.hint().unwrap().contains("rvm destroy alone"));
        check_box(&machine(Nat::None), Some(&BoxImage { agent_ssh: true, ..old })).unwrap();
        // One that is not built yet will be.
        check_box(&machine(Nat::None), None).unwrap();
    }

    #[test]
    fn the_port_is_taken_before_the_machine_starts() {
        let dir = tempfile::tempdir().unwrap();
        let machines = machines_in(dir.path());
        let listen = |port| {
            let mut machine = machine(Nat::None);
            machine.ssh.port = port;
            machines.listen_for_ssh(&machine)
        };
        let taken = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = taken.local_addr().unwrap().port();
        let error = listen(Some(port)).unwrap_err();
        assert!(matches!(error, MachineError::Port(PortError::Taken { .. })), "{error}");
        drop(taken);
        let (ssh, _listener) = listen(Some(port)).unwrap();
        assert_eq!((ssh.host, ssh.guest), (port, 22));
        TcpStream::connect(("127.0.0.1", port)).unwrap();
        // One that may be any is another one while that is there.
        let (one, other) = (listen(None).unwrap(), listen(None).unwrap());
        assert_ne!(one.0.host, other.0.host);
        assert!(one.0.host_ip.is_loopback());
    }
}
