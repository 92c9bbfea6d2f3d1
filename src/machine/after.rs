//! Steps after all machines.

use super::inventory::password;
use super::{MachineError, Machines};
use crate::model::{AfterAll, Cancel, Machine, Project, ProvisionChoice, RunPolicy, Side, Step};
use crate::provision::{self, Digest, Host, HostSide, Link, Parts, ProvisionError, Stamps, StepLogs, Why};

/// Before the name of such a step in the stamps of a machine: a step of the machine may have the same.
const STAMP: &str = "after all: ";

/// For whom such a step speaks, where it is for no single machine. No machine has a blank in its name.
const ALL: &str = "after all";

/// What became of a step after all machines.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AfterOutcome {
    /// It ran.
    Ran,
    /// It has succeeded before, on just these machines, or was not chosen.
    NotDue,
    /// These of its machines do not run: it has to wait.
    Waits(Vec<String>),
}

/// What would become of such a step.
#[derive(Debug)]
pub struct AfterPreview<'a> {
    /// The step.
    pub after: &'a AfterAll,
    /// Whether it runs, and why; `Err` where its files cannot be read: `up` would fail.
    pub why: Result<Why, MachineError>,
}

impl Machines<'_> {
    /// What would become of a step after all machines once they run: looked at without a lock.
    pub fn preview_after<'a>(
        &self,
        project: &Project,
        after: &'a AfterAll,
    ) -> Result<AfterPreview<'a>, MachineError> {
        let step = Step { name: format!("{STAMP}{}", after.step.name), ..after.step.clone() };
        let mut whys = Vec::new();
        for name in &after.machines {
            let record = self.look_for(&project.root, name)?;
            // A machine that was never made has no folder and so no stamps.
            let stamps = Stamps::look(&self.layout.machine(record.map_or(String::new(), |r| r.id).as_str()))?;
            match provision::why(&step, &stamps) {
                Ok(why) => whys.push(why),
                Err(error) => return Ok(AfterPreview { after, why: Err(error.into()) }),
            }
        }
        Ok(AfterPreview { after, why: Ok(together(whys)) })
    }

    /// Runs a step after all machines, if it is due and its machines run. It is stamped in the folder of
    /// each of them, so that one that is made anew gets it again.
    pub fn after_all(
        &self,
        project: &Project,
        after: &AfterAll,
        choice: &ProvisionChoice,
    ) -> Result<AfterOutcome, MachineError> {
        let step = &after.step;
        let forced = match (choice, step.run) {
            (ProvisionChoice::Skip, _) => return Ok(AfterOutcome::NotDue),
            (ProvisionChoice::With(names), _) if !names.iter().any(|name| step.is_called(name)) => {
                return Ok(AfterOutcome::NotDue);
            }
            (ProvisionChoice::With(_), _) => true,
            (_, RunPolicy::Never) => return Ok(AfterOutcome::NotDue),
            (ProvisionChoice::Force, _) | (_, RunPolicy::Always) => true,
            (ProvisionChoice::Auto | ProvisionChoice::From(_), RunPolicy::Once) => false,
        };
        // Two commands at once: the second finds the stamps of the first.
        let _lock = self.lock(&project.root, ALL, "up")?;
        let mut folders = Vec::new();
        let mut down = Vec::new();
        for name in &after.machines {
            match self.running(&project.root, name) {
                Ok(record) => folders.push((name, self.layout.machine(&record.id))),
                Err(MachineError::NotCreated(_) | MachineError::NotRunning(_)) => down.push(name.clone()),
                Err(error) => return Err(error),
            }
        }
        if !down.is_empty() {
            return Ok(AfterOutcome::Waits(down));
        }
        let stamp = format!("{STAMP}{}", step.name);
        let mut stamps: Vec<(Stamps, Digest, Parts)> = Vec::new();
        for (_, dir) in &folders {
            let own = Stamps::load(dir)?;
            let (digest, parts) = provision::digest(step, &own)?;
            stamps.push((own, digest, parts));
        }
        let done =
            |(stamps, digest, _): &(Stamps, Digest, Parts)| stamps.matches(&stamp, digest) == Some(true);
        if !forced && stamps.iter().all(done) {
            return Ok(AfterOutcome::NotDue);
        }
        for (stamps, ..) in &mut stamps {
            stamps.forget(&stamp)?;
        }
        self.stage(ALL, format!("{} ({})", step.name, step.kind.type_name()));
        match after.side {
            Side::Host => {
                let logs = folders.first().map(|(_, dir)| StepLogs::of(dir));
                self.after_on_host(project, after, logs.as_ref())?;
            }
            Side::Guest => {
                for ((name, _), (stamps, ..)) in folders.iter().zip(&mut stamps) {
                    let Some(machine) = project.machines.iter().find(|m| m.name == **name) else { continue };
                    stamps.add_installed(self.after_in_guest(project, machine, after)?);
                }
            }
        }
        for (stamps, digest, parts) in &mut stamps {
            stamps.record_with(&stamp, digest, std::mem::take(parts))?;
        }
        Ok(AfterOutcome::Ran)
    }

    fn after_on_host(
        &self,
        project: &Project,
        after: &AfterAll,
        logs: Option<&StepLogs>,
    ) -> Result<(), MachineError> {
        let inventory = self.inventory_text(project)?;
        let vars = [
            ("RVM_MACHINES", after.machines.join(" ")),
            ("RVM_PROJECT", project.root.to_string_lossy().into_owned()),
        ];
        let host = Host {
            machine: ALL,
            report: self.report,
            masker: &project.masker,
            cancel: &self.cancel,
            logs,
            dir: &project.root,
            vars: &vars.map(|(name, value)| (name.to_owned(), value)),
        };
        let side = HostSide { dir: &project.root, inventory: &inventory, password: password(&project.login) };
        let result = provision::run_on_host(&host, &side, &after.step);
        result.map_err(|source| failed(after, source))
    }

    fn after_in_guest(
        &self,
        project: &Project,
        machine: &Machine,
        after: &AfterAll,
    ) -> Result<Vec<(String, String)>, MachineError> {
        let mut record = self.running(&project.root, &machine.name)?;
        let session =
            self.wait_ssh(&project.login_for(&machine.name), &mut record, machine.boot_timeout, &mut |_| ())?;
        let target = self.target(&project.login_for(&machine.name), &record)?;
        let connect = |_: &Cancel| self.connect_when_up(&target, &record, machine.boot_timeout, &mut |_| ());
        self.step_in_guest(project, machine, &record, &Link::new(session, &connect), &after.step)
            .map_err(|source| failed(after, source))
    }
}

/// Why a step runs that is stamped in several folders.
fn together(whys: Vec<Why>) -> Why {
    // One that is new for a machine runs on all of them.
    let rank = |why: &Why| match why {
        Why::New => 0,
        Why::Changed(_) => 1,
        Why::Always | Why::Never | Why::Done => 2,
    };
    whys.into_iter().min_by_key(rank).unwrap_or(Why::Never)
}

fn failed(after: &AfterAll, source: ProvisionError) -> MachineError {
    ProvisionError::AfterAll { step: after.step.name.clone(), source: Box::new(source) }.into()
}
