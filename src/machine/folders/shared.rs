//! Folders of the host that a guest sees itself: what its virtual machine is started with, and whether it is served.

use std::io;
use std::path::Path;
use std::time::Duration;

use super::{FolderError, account, mount, wanted};
use crate::machine::record::Record;
use crate::machine::{MachineError, Machines, guard};
use crate::model::{Folder, FolderKind, HostFolder, Machine, ProviderKind};
use crate::provider::{self, ShareSpec};

/// Whose files a shared folder holds where the guest has not been asked yet: the first user of a guest.
pub(super) const FIRST_USER: (u32, u32) = (1000, 1000);

/// How long a machine that ends may outlive the process that serves its folders.
const ENDING: Duration = Duration::from_millis(500);

/// What is said of a machine that runs without the process that serves its shared folders.
const UNSERVED: &str = "the process that serves its shared folders has ended";

impl Machines<'_> {
    /// What the machine is to share with its guest; makes folders of the host that are to be made. The machine does
    /// not run.
    pub(in crate::machine) fn shares(
        &self,
        machine: &Machine,
        record: &mut Record,
        provider: ProviderKind,
    ) -> Result<Vec<ShareSpec>, MachineError> {
        record.shares.clear();
        let mut specs = Vec::new();
        for folder in wanted(machine, Some(provider)) {
            let Some(host) = folder.host() else { continue };
            self.host_folder(&machine.name, &folder, host)?;
            let FolderKind::Shared { read_only, .. } = &folder.kind else { continue };
            serves(machine, &folder, provider)?;
            let source =
                std::fs::canonicalize(&host.path).map_err(|e| MachineError::file("find", &host.path, e))?;
            let owner = record.accounts.get(&account(folder.owner.as_ref())).copied();
            specs.push(ShareSpec {
                tag: mount::tag(&folder.guest),
                source,
                hidden: host.hidden.clone(),
                read_only: *read_only,
                owner: owner.unwrap_or(FIRST_USER),
            });
            record.shares.push(folder);
        }
        Ok(specs)
    }

    /// Makes the folder where it is to be made, and refuses what is none.
    pub(super) fn host_folder(
        &self,
        machine: &str,
        folder: &Folder,
        host: &HostFolder,
    ) -> Result<(), MachineError> {
        if host.create && !host.path.exists() {
            std::fs::create_dir_all(&host.path).map_err(|e| MachineError::file("create", &host.path, e))?;
            self.detail(machine, format!("Folder {} is new on this host.", host.path.display()));
        }
        Ok(check_host(machine, &folder.guest, &host.path)?)
    }

    /// Why `up` would fail because of a machine's folders.
    pub(in crate::machine) fn folder_problems(
        &self,
        machine: &Machine,
        provider: Option<ProviderKind>,
    ) -> Vec<MachineError> {
        let mut problems = Vec::new();
        for folder in wanted(machine, provider) {
            let Some(host) = folder.host().filter(|host| !host.create || host.path.exists()) else {
                continue;
            };
            let checked = check_host(&machine.name, &folder.guest, &host.path);
            problems.extend(checked.err().map(MachineError::from));
            if let Some(kind) = provider.filter(|_| folder.is_shared()) {
                problems.extend(serves(machine, &folder, kind).err().map(MachineError::from));
            }
        }
        problems
    }

    /// What is wrong with the shared folders of a machine that runs, and what mends it. The guest waits for whatever
    /// it asked of them last, also when it is to shut down.
    pub(in crate::machine) fn unserved(&self, record: &Record) -> Option<(String, String)> {
        let dir = self.layout.machine(&record.id);
        let served = record.provider != Some(ProviderKind::Qemu) || record.shares.is_empty();
        // A machine that ends loses this process a moment before its own.
        if served || !provider::shares_have_ended(&dir) || provider::wait_ended(&dir, ENDING).unwrap_or(true)
        {
            return None;
        }
        let (name, log) = (&record.name, dir.join(provider::LOG));
        let more = guard::shares_tried(&dir).map(|more| format!(", and {more}")).unwrap_or_default();
        let cause = format!("{UNSERVED}{more}; programs that use them wait ({} may say why)", log.display());
        let remedy = format!(
            "`rvm up {name}` tries to serve them again; where that fails `rvm reload -f {name}` does: it switches off hard, \
             because a guest that waits does not shut down."
        );
        Some((cause, remedy))
    }

    /// Has the shared folders of a machine that runs served again, if they are not and nobody else does it.
    pub(in crate::machine) fn mend_shares(&self, record: &Record) {
        if self.unserved(record).is_none() {
            return;
        }
        // It goes on without us.
        let started = provider::serve_shares_again(&self.layout.machine(&record.id));
        match (started, self.unserved(record)) {
            (_, None) => self.warn(&record.name, format!("{UNSERVED}; another one was started")),
            (started, Some((cause, remedy))) => {
                let why = started.err().map(|error| format!(" ({error})")).unwrap_or_default();
                self.warn(&record.name, format!("{cause}{why}; {remedy}"));
            }
        }
    }
}

/// Refuses what is no folder of the host.
pub(super) fn check_host(machine: &str, guest: &str, path: &Path) -> Result<(), FolderError> {
    let why = match std::fs::metadata(path) {
        Ok(meta) if meta.is_dir() => return Ok(()),
        Ok(_) => "it is not a folder".to_owned(),
        Err(error) if error.kind() == io::ErrorKind::NotFound => "it does not exist".to_owned(),
        Err(error) => error.to_string(),
    };
    Err(FolderError::Host { machine: machine.into(), guest: guest.into(), path: path.into(), why })
}

fn serves(machine: &Machine, folder: &Folder, provider: ProviderKind) -> Result<(), FolderError> {
    provider::serves_shares(provider).map_err(|why| FolderError::Unserved {
        machine: machine.name.clone(),
        guest: folder.guest.clone(),
        why: why.to_owned(),
    })
}
