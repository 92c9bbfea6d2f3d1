//! Disks that outlive machines: one folder each, `$RVM_HOME/volumes/ID`, with the disk and what is known of
//! it. Which machines have one is in their own records.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use thiserror::Error;

use super::record::Record;
use super::{MachineError, Machines};
use crate::model::{Code, DiskSource, ExtraDisk, Volume, hex};
use crate::state::{Lock, store};

/// The disk of a volume, in its folder.
const DISK: &str = "disk.raw";
/// What is known of it.
const ABOUT: &str = "volume.json";
/// Changes when an older rvm could misread it.
const VERSION: u32 = 1;

/// `volume.json`.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct About {
    version: u32,
    name: String,
    /// Folder of its project; `None`: it belongs to all that share it.
    project: Option<PathBuf>,
    /// Unix time, seconds.
    created: u64,
}

/// A volume as it is now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VolumeStatus {
    /// 16 hex digits.
    pub id: String,
    /// Its name.
    pub name: String,
    /// Folder of its project; `None`: projects share it.
    pub project: Option<PathBuf>,
    /// In bytes.
    pub size: u64,
    /// What it takes of the host's disk, in bytes.
    pub used: u64,
    /// Unix time, seconds.
    pub created: u64,
    /// Machines that have it, whether they run or not.
    pub users: Vec<VolumeUser>,
}

/// A machine that has a volume.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VolumeUser {
    /// 32 hex digits.
    pub id: String,
    /// Its name.
    pub name: String,
    /// Folder of its project.
    pub project: PathBuf,
    /// It runs.
    pub running: bool,
    /// It cannot write to the volume.
    pub read_only: bool,
}

impl std::fmt::Display for VolumeUser {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} in {}", self.name, self.project.display())
    }
}

/// Why a volume cannot be used or removed.
#[derive(Debug, Error)]
pub enum VolumeError {
    /// A machine that runs writes it, or this one would.
    #[error("volume `{volume}` is in use by machine {user}, which runs")]
    InUse {
        /// Which.
        volume: String,
        /// Who has it.
        user: Box<VolumeUser>,
    },
    /// Machines have it.
    #[error("cannot remove volume `{volume}`: {users} {have} it", users = list(.users), have = if .users.len() == 1 { "has" } else { "have" })]
    Attached {
        /// Which.
        volume: String,
        /// Who has it.
        users: Vec<VolumeUser>,
    },
    /// There is none of that name.
    #[error("there is no volume `{0}`")]
    Unknown(String),
}

fn list(users: &[VolumeUser]) -> String {
    users.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

impl VolumeError {
    /// Its stable code (`docs/errors.md`).
    pub fn code(&self) -> Code {
        match self {
            VolumeError::InUse { .. } => Code::VolumeInUse,
            VolumeError::Attached { .. } => Code::VolumeAttached,
            VolumeError::Unknown(_) => Code::NoSuchVolume,
        }
    }

    /// What to do next.
    pub fn hint(&self) -> Option<String> {
        Some(match self {
            VolumeError::InUse { user, .. } => {
                format!(
                    "`rvm halt {}` lets go of it; `read_only = true` on both lets both read it",
                    user.name
                )
            }
            VolumeError::Attached { .. } => {
                "take it out of the Vagrantfile and `rvm up`, or `rvm destroy` these machines, first".into()
            }
            VolumeError::Unknown(_) => {
                "`rvm volume list` shows all; one is made at the first `rvm up`".into()
            }
        })
    }
}

/// Which volume a project means by a name.
fn id_of(project: &Path, volume: &Volume) -> String {
    let owner = match volume.shared {
        true => Vec::new(),
        false => project.as_os_str().as_encoded_bytes().to_vec(),
    };
    let digest = Sha256::digest([owner.as_slice(), b"\0", volume.name.as_bytes()].concat());
    hex(digest.get(..8).unwrap_or_default())
}

fn volumes_of(disks: &[ExtraDisk]) -> impl Iterator<Item = (&ExtraDisk, &Volume)> {
    disks.iter().filter_map(|disk| match &disk.source {
        DiskSource::Volume(volume) => Some((disk, volume)),
        _ => None,
    })
}

impl Machines<'_> {
    /// The disk of a volume: made where it is not there yet, grown where the file says more. The machine does
    /// not run.
    pub(super) fn volume_disk(
        &self,
        record: &Record,
        disk: &ExtraDisk,
        volume: &Volume,
    ) -> Result<PathBuf, MachineError> {
        let id = id_of(&record.project, volume);
        let owner = format!("rvm up {}", record.name);
        let _lock = Lock::acquire(&self.volume_lock(&id), &owner, &self.cancel, |_| ())?;
        self.check_volume(record.project.as_path(), &record.id, disk, volume)?;
        let dir = self.layout.volumes().join(&id);
        store::create_private_dir(&dir).map_err(|e| MachineError::file("create", &dir, e))?;
        let about = dir.join(ABOUT);
        if !about.exists() {
            let project = (!volume.shared).then(|| record.project.clone());
            let created = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs());
            let fresh = About { version: VERSION, name: volume.name.clone(), project, created };
            store::write_json(&about, &fresh).map_err(|e| MachineError::file("write", &about, e))?;
        }
        let path = dir.join(DISK);
        let what = format!("Volume `{}`", volume.name);
        let label = volume.filesystem.then_some(volume.name.as_str());
        self.made_disk(&record.name, &what, &path, volume.size, label)?;
        Ok(path)
    }

    /// Refuses a volume that another machine uses that runs, unless both only read it.
    pub(super) fn check_volume(
        &self,
        project: &Path,
        own_id: &str,
        disk: &ExtraDisk,
        volume: &Volume,
    ) -> Result<(), MachineError> {
        let users = self.users_of(&id_of(project, volume), &self.records()?)?;
        let other = users
            .into_iter()
            .find(|user| user.running && user.id != own_id && !(user.read_only && disk.read_only));
        match other {
            Some(user) => {
                Err(VolumeError::InUse { volume: volume.name.clone(), user: Box::new(user) }.into())
            }
            None => Ok(()),
        }
    }

    fn volume_lock(&self, id: &str) -> PathBuf {
        self.layout.lock_file(&format!("volume-{id}"))
    }

    /// The machines among `records` that have a volume.
    fn users_of(&self, volume: &str, records: &[Record]) -> Result<Vec<VolumeUser>, MachineError> {
        let mut users = Vec::new();
        for record in records {
            let mut disks = volumes_of(&record.applied.disks);
            let Some((disk, _)) = disks.find(|(_, had)| id_of(&record.project, had) == volume) else {
                continue;
            };
            users.push(VolumeUser {
                running: self.is_running(record)?,
                read_only: disk.read_only,
                id: record.id.clone(),
                name: record.name.clone(),
                project: record.project.clone(),
            });
        }
        users.sort_by(|a, b| (&a.project, &a.name).cmp(&(&b.project, &b.name)));
        Ok(users)
    }

    /// All volumes of this user, by project and name. One of which nothing can be known is reported as a
    /// warning and left out.
    pub fn volumes(&self) -> Result<Vec<VolumeStatus>, MachineError> {
        let dir = self.layout.volumes();
        let entries = match fs::read_dir(&dir) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(MachineError::file("list", &dir, error)),
        };
        let records = self.records()?;
        let mut list = Vec::new();
        for entry in entries.flatten() {
            let id = entry.file_name().to_string_lossy().into_owned();
            if id.len() != 16 || !id.bytes().all(|byte| byte.is_ascii_hexdigit()) {
                continue;
            }
            let path = entry.path().join(ABOUT);
            let about = match store::read_json::<About>(&path) {
                Ok(Some(about)) if about.version == VERSION => about,
                Ok(None) => continue,
                Ok(Some(about)) => {
                    let version = about.version;
                    self.warn(&about.name, MachineError::Version { path, version }.to_string());
                    continue;
                }
                Err(error) => {
                    self.warn(&id, error.to_string());
                    continue;
                }
            };
            // Cut off before its disk was made, it has none.
            let meta = fs::metadata(entry.path().join(DISK)).ok();
            list.push(VolumeStatus {
                users: self.users_of(&id, &records)?,
                id,
                name: about.name,
                project: about.project,
                size: meta.as_ref().map_or(0, fs::Metadata::len),
                used: meta.map_or(0, |meta| meta.blocks().saturating_mul(512)),
                created: about.created,
            });
        }
        list.sort_by(|a, b| (&a.project, &a.name).cmp(&(&b.project, &b.name)));
        Ok(list)
    }

    /// The volume that a word means: one of the project, one that projects share, or an id or the beginning of
    /// one.
    ///
    /// # Errors
    /// [`VolumeError::Unknown`].
    pub fn volume(&self, project: Option<&Path>, word: &str) -> Result<VolumeStatus, MachineError> {
        let all = self.volumes()?;
        let own = all.iter().find(|volume| volume.name == word && volume.project.as_deref() == project);
        let own = own.filter(|_| project.is_some());
        let shared = || all.iter().find(|volume| volume.name == word && volume.project.is_none());
        let by_id = || {
            let mut fits = all.iter().filter(|volume| word.len() >= 4 && volume.id.starts_with(word));
            fits.next().filter(|_| fits.next().is_none())
        };
        let found = own.or_else(shared).or_else(by_id).cloned();
        found.ok_or_else(|| VolumeError::Unknown(word.into()).into())
    }

    /// Removes a volume and all that is on it.
    ///
    /// # Errors
    /// [`VolumeError::Attached`] where a machine that exists has it.
    pub fn remove_volume(&self, id: &str) -> Result<(), MachineError> {
        let _lock = Lock::acquire(&self.volume_lock(id), "rvm volume remove", &self.cancel, |_| ())?;
        let dir = self.layout.volumes().join(id);
        let users = self.users_of(id, &self.records()?)?;
        if !users.is_empty() {
            let about = store::read_json::<About>(&dir.join(ABOUT)).ok().flatten();
            let volume = about.map_or_else(|| id.to_owned(), |about| about.name);
            return Err(VolumeError::Attached { volume, users }.into());
        }
        // Without its record it is none any more; what is left goes with the next try.
        store::remove(&dir.join(ABOUT)).map_err(|e| MachineError::file("remove", &dir, e))?;
        store::remove(&dir).map_err(|e| MachineError::file("remove", &dir, e))
    }

    /// Says which volumes of a machine that is destroyed are still there.
    pub(super) fn tell_kept(&self, record: &Record) {
        for (_, volume) in volumes_of(&record.applied.disks) {
            if self.layout.volumes().join(id_of(&record.project, volume)).join(DISK).exists() {
                let name = &volume.name;
                let text = format!("Volume `{name}` is kept: `rvm volume remove {name}` removes it.");
                self.detail(&record.name, text);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::machines_in;
    use super::*;
    use crate::model::Machine;
    use crate::plan::Applied;

    fn volume(shared: bool) -> Volume {
        Volume { name: "data".into(), size: 16 << 20, filesystem: false, shared }
    }

    fn record(machines: &Machines<'_>, name: &str, project: &str, shared: bool) -> Record {
        let disk = ExtraDisk {
            name: "data".into(),
            source: DiskSource::Volume(volume(shared)),
            mount: None,
            read_only: false,
        };
        let machine = Machine { disks: vec![disk], ..Machine::new(name, "micro") };
        let file = Path::new(project).join("Vagrantfile");
        let record = Record::new(name, Path::new(project), &file, Applied::of(&machine)).unwrap();
        store::create_private_dir(&machines.layout.machine(&record.id)).unwrap();
        machines.save(&record).unwrap();
        record
    }

    fn disk_of(machines: &Machines<'_>, record: &Record) -> PathBuf {
        let (disk, volume) = volumes_of(&record.applied.disks).next().unwrap();
        machines.volume_disk(record, disk, volume).unwrap()
    }

    #[test]
    fn a_volume_outlives_its_machine_and_is_the_project_s_own() {
        let dir = tempfile::tempdir().unwrap();
        let machines = machines_in(dir.path());
        let web = record(&machines, "web", "/p", false);
        let path = disk_of(&machines, &web);
        fs::write(&path, vec![7; 16 << 20]).unwrap();
        let [found] = &machines.volumes().unwrap()[..] else { panic!("one") };
        assert_eq!((found.name.as_str(), found.size, found.users.len()), ("data", 16 << 20, 1));
        assert_eq!(found.project.as_deref(), Some(Path::new("/p")));
        assert!(found.users.iter().all(|user| user.name == "web" && !user.running));

        let other = record(&machines, "web", "/q", false);
        assert_ne!(disk_of(&machines, &other), path, "another project's is another one");
        assert!(matches!(
            machines.remove_volume(&found.id),
            Err(MachineError::Volume(VolumeError::Attached { .. }))
        ));
        machines.destroy(&web.id).unwrap();
        let again = record(&machines, "db", "/p", false);
        assert_eq!(disk_of(&machines, &again), path);
        assert_eq!(fs::read(&path).unwrap()[0], 7, "what is on it stays");
        machines.destroy(&again.id).unwrap();
        machines.remove_volume(&found.id).unwrap();
        assert!(!path.exists());
        assert_eq!(machines.volumes().unwrap().len(), 1);
    }

    #[test]
    fn words_for_a_volume() {
        let dir = tempfile::tempdir().unwrap();
        let machines = machines_in(dir.path());
        let own = disk_of(&machines, &record(&machines, "web", "/p", false));
        let shared = disk_of(&machines, &record(&machines, "web", "/q", true));
        assert_eq!(shared, disk_of(&machines, &record(&machines, "web", "/r", true)));
        let found = |project: Option<&str>, word: &str| {
            let volume = machines.volume(project.map(Path::new), word).ok()?;
            Some(machines.layout.volumes().join(volume.id).join(DISK))
        };
        assert_eq!(found(Some("/p"), "data"), Some(own.clone()));
        assert_eq!(found(Some("/q"), "data"), Some(shared.clone()));
        assert_eq!(found(None, "data"), Some(shared));
        let id = own.parent().unwrap().file_name().unwrap().to_str().unwrap();
        assert_eq!((found(None, &id[..6]), found(None, &id[..2])), (Some(own.clone()), None));
        assert_eq!(found(Some("/p"), "other"), None);
    }

    #[test]
    fn errors_name_who_has_it() {
        let user = VolumeUser {
            id: "0".repeat(32),
            name: "db".into(),
            project: "/p".into(),
            running: true,
            read_only: false,
        };
        let attached = VolumeError::Attached { volume: "data".into(), users: vec![user.clone(), user] };
        assert_eq!(attached.to_string(), "cannot remove volume `data`: db in /p, db in /p have it");
    }
}
