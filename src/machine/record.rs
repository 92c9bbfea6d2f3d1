//! What is known of a machine between commands: `machine.json` in its folder, and a pointer
//! to it in the project's `.rvm` folder.

use std::fs;
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

use super::folders::Accounts;
use super::{MachineError, Machines, Place};
use crate::image::BoxImage;
use crate::model::{Folder, Forward, ProviderKind, SshClient, hex};
use crate::net::NatAddresses;
use crate::plan::{Applied, LoginMark};
use crate::state::store;

const RECORD: &str = "machine.json";

/// Changes when an older rvm could misread a record.
const VERSION: u32 = 1;

/// One machine. Never a secret, never the state: that is asked of the live process.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Record {
    /// Format of this file.
    pub(super) version: u32,
    /// 32 hex digits.
    pub id: String,
    /// Name in the project.
    pub name: String,
    /// Folder of the project.
    pub project: PathBuf,
    /// Its configuration file.
    pub file: PathBuf,
    /// Unix time, seconds.
    pub created: u64,
    /// Keys and disk are complete.
    pub made: bool,
    /// It was started at least once.
    pub started: bool,
    /// It was reached over SSH at least once: its host key is in place.
    pub reached: bool,
    /// What the file said at the last start.
    pub applied: Applied,
    /// The box below its disk (without the list of its packages); `None` until that is known.
    pub image: Option<BoxImage>,
    /// What ran it last.
    pub provider: Option<ProviderKind>,
    /// Ports of the last start, without the SSH one.
    pub ports: Vec<Forward>,
    /// Places in private networks since the last start.
    #[serde(default)]
    pub places: Vec<Place>,
    /// Its addresses behind passt since the last start; records of an older rvm do not say.
    #[serde(default)]
    pub nat: Option<NatAddresses>,
    /// passt maps the guest's memory since the last start.
    #[serde(default)]
    pub vhost_user: bool,
    /// Where SSH answered after the last start.
    pub ssh: Option<SocketAddr>,
    /// Login user of the last start.
    pub user: String,
    /// Private key of the last start.
    pub identity: Option<PathBuf>,
    /// What the ssh client is told since the last `up`.
    #[serde(default)]
    pub client: SshClient,
    /// Whom the seed of the last start lets in; records of an older rvm do not say.
    #[serde(default)]
    pub login: Option<LoginMark>,
    /// Folders of the host that the virtual machine was last started with.
    #[serde(default)]
    pub shares: Vec<Folder>,
    /// What the guest said of the owners of such folders.
    #[serde(default)]
    pub accounts: Accounts,
}

impl Record {
    /// A record for a machine that is about to be made.
    pub(super) fn new(
        name: &str,
        project: &Path,
        file: &Path,
        applied: Applied,
    ) -> Result<Record, MachineError> {
        let mut bytes = [0; 16];
        getrandom::fill(&mut bytes).map_err(|e| MachineError::Random(io::Error::other(e)))?;
        Ok(Record {
            version: VERSION,
            id: hex(&bytes),
            name: name.into(),
            project: project.into(),
            file: file.into(),
            created: SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs()),
            made: false,
            started: false,
            reached: false,
            applied,
            image: None,
            provider: None,
            ports: Vec::new(),
            places: Vec::new(),
            client: SshClient::default(),
            nat: None,
            vhost_user: false,
            ssh: None,
            user: String::new(),
            identity: None,
            login: None,
            shares: Vec::new(),
            accounts: Accounts::new(),
        })
    }
}

/// Whether a folder's name is that of a machine.
fn is_id(name: &str) -> bool {
    name.len() == 32 && name.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
}

impl Machines<'_> {
    pub(super) fn save(&self, record: &Record) -> Result<(), MachineError> {
        let path = self.layout.machine(&record.id).join(RECORD);
        store::write_json(&path, record).map_err(|e| MachineError::file("write", &path, e))
    }

    /// The record of that id; `None` when there is no such machine.
    pub(super) fn record(&self, id: &str) -> Result<Option<Record>, MachineError> {
        let path = self.layout.machine(id).join(RECORD);
        let record: Option<Record> =
            store::read_json(&path).map_err(|e| MachineError::file("read", &path, e))?;
        match record {
            Some(record) if record.version != VERSION => {
                Err(MachineError::Version { path, version: record.version })
            }
            other => Ok(other),
        }
    }

    /// Ids of all machines, in no order.
    pub(super) fn ids(&self) -> Result<Vec<String>, MachineError> {
        let dir = self.layout.machines();
        let entries = match fs::read_dir(&dir) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(MachineError::file("list", &dir, error)),
        };
        let names = entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
        Ok(names.filter(|name| is_id(name)).collect())
    }

    fn pointers(&self, project: &Path) -> PathBuf {
        self.dot_dir.clone().unwrap_or_else(|| project.join(".rvm")).join("machines")
    }

    fn pointer(&self, project: &Path, name: &str) -> PathBuf {
        self.pointers(project).join(name).join("id")
    }

    /// Names of the machines that the project points to, sorted: those too that its file declares no more.
    pub(super) fn pointed(&self, project: &Path) -> Vec<String> {
        let entries = fs::read_dir(self.pointers(project)).into_iter().flatten().flatten();
        let mut names: Vec<String> =
            entries.filter_map(|entry| entry.file_name().into_string().ok()).collect();
        names.sort();
        names
    }

    /// Whether the project that a record names is where it was, so that another one with the same pointer
    /// is a copy of it.
    fn is_there_still(&self, record: &Record) -> bool {
        match &self.dot_dir {
            None => self.pointer(&record.project, &record.name).exists(),
            // The pointers are not in the project's folder: they say nothing of where that is.
            Some(_) => record.file.exists(),
        }
    }

    /// What is known of all machines. Records that cannot be read are `global-status`' business.
    pub(super) fn records(&self) -> Result<Vec<Record>, MachineError> {
        Ok(self.ids()?.iter().filter_map(|id| self.record(id).ok().flatten()).collect())
    }

    /// Leaves the id where a project that is moved takes it along.
    pub(super) fn point(&self, record: &Record) -> Result<(), MachineError> {
        let path = self.pointer(&record.project, &record.name);
        let dir = path.parent().unwrap_or(&path);
        let write = || fs::create_dir_all(dir).and_then(|()| store::write(&path, record.id.as_bytes()));
        // The last machine of the project may be destroyed meanwhile, and take the folders away.
        let written = match write() {
            Err(error) if error.kind() == io::ErrorKind::NotFound => write(),
            result => result,
        };
        written.map_err(|e| MachineError::file("write", &path, e))
    }

    /// Takes the pointer away, and the folders above it once they are empty.
    pub(super) fn unpoint(&self, record: &Record) {
        let path = self.pointer(&record.project, &record.name);
        let _ = fs::remove_file(&path);
        // Folders that still hold something stay: remove_dir refuses them.
        for dir in path.ancestors().skip(1).take(3) {
            if fs::remove_dir(dir).is_err() {
                break;
            }
        }
    }

    /// The machine of that project and name. The pointer finds it at once, also after the project
    /// was moved, which its record then learns; without one (`.rvm` deleted) all records are looked
    /// through.
    pub(super) fn lookup(&self, project: &Path, name: &str) -> Result<Option<Record>, MachineError> {
        let Some(mut record) = self.look_for(project, name)? else { return Ok(None) };
        if record.project != project {
            record.project = project.into();
            self.save(&record)?;
        }
        Ok(Some(record))
    }

    /// The same without writing anything: the record of a moved project still names the old folder.
    pub(super) fn look_for(&self, project: &Path, name: &str) -> Result<Option<Record>, MachineError> {
        let pointed = fs::read_to_string(self.pointer(project, name)).unwrap_or_default();
        let pointed = pointed.trim();
        if is_id(pointed)
            && let Some(record) = self.record(pointed)?
            && record.name == name
            // Moved, unless the old folder still points to it: then this one is a copy.
            && (record.project == project || !self.is_there_still(&record))
        {
            return Ok(Some(record));
        }
        for id in self.ids()? {
            // A record that cannot be read belongs to nobody we know; `global-status` shows it.
            if let Ok(Some(record)) = self.record(&id)
                && record.project == project
                && record.name == name
            {
                return Ok(Some(record));
            }
        }
        Ok(None)
    }
}
