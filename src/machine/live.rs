//! A machine compared with the file, and what can be applied to it while it runs.

use super::boot::login_mark;
use super::record::Record;
use super::{MachineError, Machines, UpOptions, folders, forwards};
use crate::model::{Forward, Machine, Project, ProviderKind, port_runs};
use crate::plan::{self, Change, How, Live, Made, Observed, Plan, Subject, Wanted, mebibytes};
use crate::provider;
use crate::provision::Stamps;

impl Machines<'_> {
    /// What `up` has to do, and the machine's stamps. Writes nothing.
    pub(super) fn compare(
        &self,
        project: &Project,
        machine: &Machine,
        record: Option<&Record>,
    ) -> Result<(Plan, Stamps), MachineError> {
        // A machine that was never made has no folder and so no stamps.
        let dir = self.layout.machine(record.map_or("", |record| &record.id));
        let stamps = Stamps::look(&dir)?;
        let login = login_mark(&project.login_for(&machine.name), &stamps);
        let folders = folders::wanted(machine, record.and_then(|record| record.provider));
        let machine = &Machine { folders, ..machine.clone() };
        let observed = self.observe(machine, record)?;
        let digest = self.locked_box(project, machine).map(|locked| locked.digest.as_str());
        Ok((plan::up(Wanted { machine, login: &login, digest }, &observed), stamps))
    }

    fn observe(&self, machine: &Machine, record: Option<&Record>) -> Result<Observed, MachineError> {
        let Some(record) = record else { return Ok(Observed::Absent) };
        if !record.made {
            return Ok(Observed::HalfMade);
        }
        let made = Made {
            applied: record.applied.clone(),
            provider: record.provider,
            digest: record.image.as_ref().map(|image| image.digest.clone()),
            login: record.login.clone(),
        };
        Ok(match self.is_running(record)? {
            true => Observed::Running(made, self.live_of(machine, record)),
            false => Observed::Stopped(made),
        })
    }

    fn live_of(&self, machine: &Machine, record: &Record) -> Live {
        let differs = machine.memory != record.applied.memory;
        let memory = if differs { self.most_memory(record) } else { None };
        let opened = forwards::added(&self.layout.machine(&record.id));
        Live { memory, ports: record.identity.is_some(), opened, shares: record.shares.clone() }
    }

    /// What the machine was started with, where its balloon can take some of it away and give it back:
    /// its guest has a driver for it.
    fn most_memory(&self, record: &Record) -> Option<u64> {
        if record.provider != Some(ProviderKind::Kvm) {
            return None;
        }
        let usage = provider::usage(&self.layout.machine(&record.id))?;
        usage.balloon_target?;
        usage.guest?;
        Some(usage.memory)
    }

    /// Applies what `plan` says can be applied to a machine that runs, and records each. A port that
    /// cannot be had is told, and stays a difference.
    pub(super) fn apply_live(
        &self,
        project: &Project,
        machine: &Machine,
        record: &mut Record,
        plan: &Plan,
        options: &UpOptions,
    ) -> Result<(), MachineError> {
        let is_live = |change: &&Change| change.how == How::Live;
        if let Some(change) = plan.changes.iter().filter(is_live).find(|c| c.subject == Subject::Memory) {
            self.apply_memory(machine, record, change)?;
        }
        if plan.changes.iter().filter(is_live).any(|change| change.subject == Subject::Port) {
            self.apply_ports(project, machine, record, options)?;
        }
        Ok(())
    }

    fn apply_ports(
        &self,
        project: &Project,
        machine: &Machine,
        record: &mut Record,
        options: &UpOptions,
    ) -> Result<(), MachineError> {
        let name = &machine.name;
        let dir = self.layout.machine(&record.id);
        let opened = forwards::added(&dir);
        let mut gone = plan::only_in(&record.applied.ports, &machine.ports);
        gone.retain(|forward| plan::only_in(std::slice::from_ref(forward), &opened).is_empty());
        for run in port_runs(&gone) {
            let status = self.status_of_record(record.clone())?;
            let last = run.first.host.saturating_add(run.count.saturating_sub(1));
            self.remove_forwards(&status, &(run.first.host..=last), run.first.protocol)?;
            let closed: Vec<Forward> = run.forwards().collect();
            record
                .applied
                .ports
                .retain(|port| !plan::only_in(std::slice::from_ref(port), &closed).is_empty());
            self.save(record)?;
            self.detail(name, format!("Applied: port {run} is closed."));
        }
        let Some(words) = options.ssh_words else { return Ok(()) };
        for run in port_runs(&plan::only_in(&machine.ports, &record.applied.ports)) {
            let added = self
                .ssh_info(project, name)
                .and_then(|info| self.add_forwards(project, name, &run, words(&info)));
            match added {
                Ok(()) => {
                    record.applied.ports.extend(run.forwards());
                    self.save(record)?;
                    self.detail(name, format!("Applied: port {run} is open."));
                }
                Err(error) => {
                    self.warn(name, format!("port {run}: {error}: {}", How::Reload.remedy(name)));
                }
            }
        }
        Ok(())
    }

    fn apply_memory(
        &self,
        machine: &Machine,
        record: &mut Record,
        change: &Change,
    ) -> Result<(), MachineError> {
        // Asked a moment ago; a machine that ended since then is noticed here.
        let most = self.most_memory(record);
        let most = most.ok_or_else(|| MachineError::NotRunning(machine.name.clone()))?;
        let back = most.saturating_sub(machine.memory);
        provider::set_balloon(&self.layout.machine(&record.id), back)?;
        record.applied.memory = machine.memory;
        self.save(record)?;
        let how = match back {
            0 => "the guest has all of it again".to_owned(),
            back => format!("the guest gives {} back as it can spare them", mebibytes(back)),
        };
        self.detail(&machine.name, format!("Applied: {change}; {how}."));
        Ok(())
    }

    /// Says what a start applies.
    pub(super) fn tell_applied(&self, name: &str, plan: &Plan) {
        for change in plan.changes.iter().filter(|change| change.how == How::Live) {
            self.detail(name, format!("Changed: {change}."));
        }
    }

    /// `--provider` cannot move a machine that runs.
    pub(super) fn tell_provider(&self, record: &Record, options: &UpOptions) {
        if let (Some(asked), Some(runs)) = (options.provider, record.provider)
            && asked != runs
        {
            let name = &record.name;
            let text = format!(
                "runs with provider {runs}: `rvm halt {name}` and `rvm up {name} --provider {asked}` change that"
            );
            self.warn(name, text);
        }
    }
}
