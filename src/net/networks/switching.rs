//! The switch of a network: started, asked, told, ended, and started anew.

use std::fs::OpenOptions;
use std::io::{self, Read};
use std::os::fd::AsFd;
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use super::{LOCK, NetworkError, Networks, STATE, Seat, State, file, read_state};
use crate::net::switch::process::READY;
use crate::net::switch::{Client, ClientError, PortStatus, Request, Zone};
use crate::state::Lock;
use crate::vmm::control;

/// What a switch complains of.
const LOG: &str = "switch.log";
/// How often a switch that ended while it was asked is started anew.
const TRIES: u32 = 3;
/// What is asked of the kernel for frames on their way to a machine; it may give less.
const SEND_BUFFER: usize = 1 << 20;

/// A network that a machine was cut off from, and is no more.
#[derive(Debug)]
pub struct Mended {
    /// Its name.
    pub network: String,
    /// Its switch, if it was started for that.
    pub switch: Option<Child>,
}

/// Waits for the end of the switch of the network in `dir`.
///
/// # Errors
/// `NotFound` where there never was one.
pub fn wait_switch_ended(dir: &Path) -> io::Result<()> {
    Lock::wait(&dir.join(LOCK))
}

impl Networks<'_> {
    pub(super) fn running(&self, id: &str) -> Option<Vec<PortStatus>> {
        let reply = Client::connect(&self.dir(id)).ok()?.ask(&Request::Status, None).ok()?;
        Some(reply.ports)
    }

    /// Ends a switch that has no machine but the one that is about to start, and waits for it.
    pub(super) fn end_switch(&self, id: &str) -> Result<(), NetworkError> {
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
        self.tell_switch(id, zone);
        Ok(())
    }

    pub(super) fn tell_switch(&self, id: &str, zone: Zone) {
        if let Ok(client) = Client::connect(&self.dir(id)) {
            // One that ends in this moment needs no names.
            let _ = client.ask(&Request::Names(zone), None);
        }
    }

    /// Starts the switch unless it answers; what was started.
    fn ensure_switch(&self, dir: &Path, name: &str) -> Result<Option<Child>, NetworkError> {
        if Client::connect(dir)
            .and_then(|client| client.ask(&Request::Status, None).map_err(io::Error::other))
            .is_ok()
        {
            return Ok(None);
        }
        // One that is about to end holds it for a moment.
        drop(Lock::acquire(&dir.join(LOCK), "rvm up", self.cancel, |_| ())?);
        let failed = |text: String| NetworkError::Start { network: name.into(), text };
        let log = dir.join(LOG);
        let mut options = OpenOptions::new();
        let output = options.create(true).write(true).truncate(true).mode(0o600).open(&log);
        let mut child = Command::new(self.exe)
            .arg0("rvm")
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
            return Ok(Some(child));
        }
        let _ = child.wait();
        Err(failed(std::fs::read_to_string(&log).unwrap_or_default().trim_end().to_owned()))
    }

    /// Connects machines that run and whose switch is gone; which networks needed it.
    pub fn mend(&self, machine: &str) -> Result<Vec<String>, NetworkError> {
        let mut mended = Vec::new();
        for id in self.ids() {
            mended.extend(self.mend_one(&id, machine)?.map(|mended| mended.network));
        }
        Ok(mended)
    }

    /// The same for one network; `None` when the machine has not lost it, or has it again meanwhile.
    pub fn mend_one(&self, id: &str, machine: &str) -> Result<Option<Mended>, NetworkError> {
        if self.lost_one(id, machine)?.is_none() {
            return Ok(None);
        }
        let _lock = self.change(id, "up")?;
        // Somebody may have been here before.
        let Some((state, _)) = self.lost_one(id, machine)? else { return Ok(None) };
        let switch = self.ensure_switch(&self.dir(id), &state.spec.name)?;
        // What does not run cannot be connected, and says so nowhere.
        let _ = join_all(&self.dir(id), &state, None);
        Ok(Some(Mended { network: state.spec.name, switch }))
    }

    /// The networks that a machine which runs is cut off from.
    pub fn lost(&self, machine: &str) -> Result<Vec<Lost>, NetworkError> {
        let mut lost = Vec::new();
        for id in self.ids() {
            let Some((state, has_switch)) = self.lost_one(&id, machine)? else { continue };
            let seat = state.seats.iter().find(|seat| seat.member.id == machine);
            let why = seat.filter(|_| has_switch).map(|seat| self.last_words(&id, &seat.member.machine));
            lost.push(Lost { network: state.spec.name, id, why });
        }
        Ok(lost)
    }

    /// What a switch said when it last lost a machine of that name.
    pub(super) fn last_words(&self, id: &str, machine: &str) -> String {
        let log = std::fs::read_to_string(self.dir(id).join(LOG)).unwrap_or_default();
        let words = |line: &str| Some(line.strip_prefix(machine)?.strip_prefix(" left: ")?.to_owned());
        log.lines().rev().find_map(words).unwrap_or_else(|| "it has no connection".into())
    }

    /// A network, if `machine` is a member and its switch does not have it connected; whether there is that switch.
    fn lost_one(&self, id: &str, machine: &str) -> Result<Option<(State, bool)>, NetworkError> {
        let Some(state) = self.state(id)? else { return Ok(None) };
        if !state.seats.iter().any(|seat| seat.member.id == machine) {
            return Ok(None);
        }
        let ports = self.running(id);
        let is_connected = ports.iter().flatten().any(|port| port.id == machine);
        Ok((!is_connected).then_some((state, ports.is_some())))
    }
}

/// A network that has lost a machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lost {
    /// Its name.
    pub network: String,
    /// Its id.
    pub id: String,
    /// Why its switch has closed the connection; `None`: there is no switch.
    pub why: Option<String>,
}

/// Connects all machines that run to a switch that is new; what went wrong.
pub(in crate::net) fn rejoin(dir: &Path) -> Vec<String> {
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
    let has_seat = |zone: &&Zone| state.seats.iter().any(|seat| seat.member.owner == zone.owner);
    for zone in state.zones.iter().filter(has_seat) {
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
