//! What exists and how it is: asked of the live processes.

use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use super::boot::KNOWN_HOSTS;
use super::follow::Followed;
use super::record::Record;
use super::{MachineError, Machines, OpenPort, PortOrigin, SshInfo, State, Status};
use super::{console, follow, forwards, nat, schedule};
use crate::model::{Forward, Login, Machine, Project};
use crate::provider::{self, EndReason, Ended};
use crate::provision::StepLogs;
use crate::ssh::Session;
use crate::vmm::control::Usage;

/// How long a guest that runs already may take to let us in for one command.
const CONNECT: Duration = Duration::from_secs(30);

/// How long a machine that closes its console may take to end.
const ENDING: Duration = Duration::from_secs(2);

impl Status {
    /// Of a machine that was not made; `declared` is what the file says of it.
    pub(super) fn absent(project: &Path, name: &str, declared: Option<&Machine>) -> Status {
        Status {
            id: None,
            name: name.to_owned(),
            provider: declared.and_then(|machine| machine.provider),
            state: State::NotCreated,
            project: project.to_owned(),
            box_name: declared.map(|machine| machine.box_name.clone()).unwrap_or_default(),
            pid: None,
            ports: Vec::new(),
            places: Vec::new(),
            ssh: None,
            uptime: None,
            cause: None,
            remedy: None,
        }
    }
}

impl Machines<'_> {
    /// State of a declared machine.
    pub fn status(&self, project: &Project, name: &str) -> Result<Status, MachineError> {
        let declared = project.machines.iter().find(|machine| machine.name == name);
        match self.lookup(&project.root, name)? {
            Some(record) => self.status_of_record(record),
            None => Ok(Status::absent(&project.root, name, declared)),
        }
    }

    /// Id of a machine of a project; `None` when it is not created. Asks no process.
    pub fn id_of(&self, project: &Path, name: &str) -> Result<Option<String>, MachineError> {
        Ok(self.lookup(project, name)?.map(|record| record.id))
    }

    /// What the memory of a running machine costs the host and what its guest says about it; `None`
    /// when it does not run or its process does not say. Takes longer than its status.
    pub fn usage(&self, status: &Status) -> Option<Usage> {
        // A process that did not say its number answers no second question.
        let id = status.id.as_ref().filter(|_| status.state == State::Running && status.pid.is_some())?;
        provider::usage(&self.layout.machine(id))
    }

    /// What `auto_forward` does for a machine that runs.
    pub fn followed(&self, status: &Status) -> Followed {
        let dir = status.id.as_ref().map(|id| self.layout.machine(id));
        dir.map(|dir| follow::followed(&dir)).unwrap_or_default()
    }

    /// State of a machine by full id.
    pub fn status_of(&self, id: &str) -> Result<Status, MachineError> {
        let record = self.record(id)?.ok_or_else(|| MachineError::NotCreated(id.into()))?;
        self.status_of_record(record)
    }

    /// All machines of this user, sorted by project and name. One whose record cannot be read is
    /// reported as a warning and left out.
    pub fn all(&self) -> Result<Vec<Status>, MachineError> {
        let asked = schedule::at_once(&self.ids()?, |id| match self.record(id) {
            Ok(Some(record)) => self.status_of_record(record).map(Some),
            // An `up` is making it this moment, or was killed doing so: `prune` tells them apart.
            Ok(None) => Ok(None),
            Err(error) => {
                self.warn(id.get(..7).unwrap_or(id), format!("{error}; `rvm destroy {id}` removes it"));
                Ok(None)
            }
        });
        let mut list = Vec::new();
        for status in asked {
            list.extend(status?);
        }
        list.sort_by(|a, b| (&a.project, &a.name).cmp(&(&b.project, &b.name)));
        Ok(list)
    }

    /// Removes what interrupted commands left behind: machines that were never finished. Machines
    /// with a disk are never touched. Returns what was removed.
    pub fn prune(&self) -> Result<Vec<Status>, MachineError> {
        self.empty_trash()?;
        let mut removed = Vec::new();
        for id in self.ids()? {
            let Ok(Some(record)) = self.record(&id) else { continue };
            if record.made {
                continue;
            }
            // Somebody may be making it right now: then it is not ours to take.
            let path = self.lock_path(&record.project, &record.name);
            let Ok(Ok(_lock)) = crate::state::Lock::try_acquire(&path, "rvm global-status --prune") else {
                continue;
            };
            let status = self.status_of_record(record.clone())?;
            self.unpoint(&record);
            self.discard(&id)?;
            removed.push(status);
        }
        Ok(removed)
    }

    /// Full id for an id or a prefix of it; `Ok(None)`: no such machine; several are an error.
    pub fn find(&self, prefix: &str) -> Result<Option<String>, MachineError> {
        if prefix.len() < 2 || !prefix.bytes().all(|b| b.is_ascii_hexdigit()) {
            return Ok(None);
        }
        let prefix = prefix.to_ascii_lowercase();
        let mut ids: Vec<String> = self.ids()?.into_iter().filter(|id| id.starts_with(&prefix)).collect();
        match ids.len() {
            0 | 1 => Ok(ids.pop()),
            _ => {
                ids.sort();
                Err(MachineError::Ambiguous { prefix, ids })
            }
        }
    }

    /// How to log in to a running machine.
    pub fn ssh_info(&self, project: &Project, name: &str) -> Result<SshInfo, MachineError> {
        let record = self.running(&project.root, name)?;
        let declared = project.machines.iter().find(|machine| machine.name == name);
        let client = declared.map_or_else(|| record.client.clone(), |machine| machine.ssh.client.clone());
        self.login_info(Record { client, ..record })
    }

    /// All running machines of this user with how to log in to them, by project and name. One whose record
    /// cannot be read is left out.
    pub fn ssh_hosts(&self) -> Result<Vec<(Status, SshInfo)>, MachineError> {
        let asked = schedule::at_once(&self.ids()?, |id| {
            let record = self.record(id).ok().flatten().filter(|record| record.reached)?;
            let status = self.status_of_record(record.clone()).ok()?;
            let info = self.login_info(record).ok()?;
            (status.state == State::Running).then_some((status, info))
        });
        let mut list: Vec<(Status, SshInfo)> = asked.into_iter().flatten().collect();
        list.sort_by(|(a, _), (b, _)| (&a.project, &a.name).cmp(&(&b.project, &b.name)));
        Ok(list)
    }

    pub(super) fn login_info(&self, record: Record) -> Result<SshInfo, MachineError> {
        let addr = record.ssh.ok_or_else(|| MachineError::NotRunning(record.name.clone()))?;
        let known_hosts = self.layout.machine(&record.id).join(KNOWN_HOSTS);
        Ok(SshInfo {
            name: record.name,
            host: addr.ip(),
            port: addr.port(),
            user: record.user,
            identity: record.identity,
            known_hosts,
            client: record.client,
        })
    }

    /// A connection to the guest of a machine that is up already.
    pub(super) fn connect(&self, login: &Login, record: &Record) -> Result<Session, MachineError> {
        Ok(Session::connect(&self.target(login, record)?, CONNECT, &self.cancel)?)
    }

    /// The serial console log of a machine, oldest first.
    pub fn console_log(&self, id: &str) -> Result<Vec<u8>, MachineError> {
        let dir = self.layout.machine(id);
        console::whole(&dir).map_err(|e| MachineError::file("read the console log in", &dir, e))
    }

    /// What a provision step printed when it ran last, masked; `None` when it has not run. Of much only
    /// the beginning and the end.
    pub fn step_log(&self, id: &str, step: &str) -> Result<Option<String>, MachineError> {
        let dir = self.layout.machine(id);
        StepLogs::of(&dir)
            .read(step)
            .map_err(|e| MachineError::file("read what its steps printed in", &dir, e))
    }

    /// Names of the steps whose output is kept.
    pub fn step_logs(&self, id: &str) -> Result<Vec<String>, MachineError> {
        let dir = self.layout.machine(id);
        StepLogs::of(&dir).names().map_err(|e| MachineError::file("read what its steps printed in", &dir, e))
    }

    /// Attaches to the console of a running machine; `vmm::attach::wire` is spoken there.
    pub fn console(&self, status: &Status) -> Result<UnixStream, MachineError> {
        let id = status.id.as_ref().ok_or_else(|| MachineError::NotCreated(status.name.clone()))?;
        Ok(provider::console(&self.layout.machine(id))?)
    }

    /// Whether a machine that ran has ended, or does within moments.
    pub fn has_ended(&self, status: &Status) -> Result<bool, MachineError> {
        match &status.id {
            Some(id) => Ok(provider::wait_ended(&self.layout.machine(id), ENDING)?),
            None => Ok(true),
        }
    }

    pub(super) fn running(&self, project: &Path, name: &str) -> Result<Record, MachineError> {
        let record = self.lookup(project, name)?.ok_or_else(|| MachineError::NotCreated(name.into()))?;
        match self.is_running(&record)? {
            true => Ok(record),
            false => Err(MachineError::NotRunning(name.into())),
        }
    }

    pub(super) fn is_running(&self, record: &Record) -> Result<bool, MachineError> {
        match provider::live(&self.layout.machine(&record.id)) {
            Ok(live) => Ok(live.is_some()),
            // It holds its lock and does not answer: it is there.
            Err(provider::ProviderError::Control(_)) => Ok(true),
            Err(error) => Err(error.into()),
        }
    }

    /// What is wrong with a machine that runs, and what mends it.
    fn troubles(&self, dir: &Path, record: &Record) -> Option<(String, String)> {
        let name = &record.name;
        let said =
            [nat::trouble(dir, record), self.cut_off(record), forwards::trouble(dir), follow::trouble(dir)];
        let (mut causes, mut remedy) = (Vec::new(), format!("`rvm up {name}` mends that."));
        causes.extend(said.into_iter().flatten());
        // What mends this mends all.
        if let Some((cause, more)) = self.unserved(record) {
            causes.push(cause);
            remedy = more;
        }
        (!causes.is_empty()).then(|| (causes.join(", and "), remedy))
    }

    pub(super) fn status_of_record(&self, record: Record) -> Result<Status, MachineError> {
        let dir = self.layout.machine(&record.id);
        let (mut cause, mut remedy) = (None, None);
        let (state, live) = match provider::live(&dir) {
            Ok(Some(live)) => {
                (cause, remedy) = self.troubles(&dir, &record).unzip();
                (State::Running, Some(live))
            }
            Err(provider::ProviderError::Control(_)) => (State::Running, None),
            Err(error) => return Err(error.into()),
            Ok(None) if !record.made => (State::Preparing, None),
            Ok(None) if !record.started => (State::Poweroff, None),
            Ok(None) => match provider::ended(&dir)? {
                Some(Ended { reason: EndReason::Poweroff | EndReason::Stopped, .. }) => {
                    (State::Poweroff, None)
                }
                ended => {
                    cause = ended.and_then(|ended| ended.message);
                    (State::Aborted, None)
                }
            },
        };
        let declared = |forward: &Forward| record.applied.ports.contains(forward);
        let of = |forward: Forward, other: PortOrigin| OpenPort {
            origin: if declared(&forward) { PortOrigin::File } else { other },
            forward,
        };
        let mut ports: Vec<OpenPort> =
            record.ports.iter().map(|forward| of(forward.clone(), PortOrigin::Corrected)).collect();
        if state == State::Running {
            ports.extend(forwards::added(&dir).into_iter().map(|forward| of(forward, PortOrigin::Added)));
            let followed = follow::followed(&dir).open.into_iter();
            ports.extend(followed.map(|forward| OpenPort { forward, origin: PortOrigin::Followed }));
        }
        Ok(Status {
            id: Some(record.id),
            name: record.name,
            provider: record.provider,
            state,
            project: record.project,
            box_name: record.applied.box_name,
            pid: live.as_ref().map(|l| l.pid),
            ports,
            places: record.places,
            ssh: record.ssh,
            uptime: live.map(|l| l.uptime),
            cause,
            remedy,
        })
    }
}
