//! `up`, `reload`, `provision`.

use std::path::Path;

use super::boot::{DISK, HOST_KEY, LOGIN_KEY};
use super::inventory::password;
use super::record::Record;
use super::timing::Boot;
use super::{MachineError, Machines, UpOptions, UpOutcome, console, way_in};
use crate::image::{self, BoxImage, Kernel};
use crate::model::{Cancel, Machine, Nat, Phase, Project, ProvisionChoice, Step, StepKind};
use crate::net;
use crate::plan::{Action, Applied, Change};
use crate::provision;
use crate::ssh::{self, Session};
use crate::state::store;

impl Machines<'_> {
    /// Creates what is missing, starts it, waits for SSH, runs the steps. What an `up` that was
    /// cut off left behind is finished or made again.
    pub fn up(
        &self,
        project: &Project,
        machine: &Machine,
        options: &UpOptions,
    ) -> Result<UpOutcome, MachineError> {
        let _lock = self.lock(&project.root, &machine.name, "up")?;
        self.up_locked(project, machine, options)
    }

    /// Stops and starts again with the file as it is now.
    pub fn reload(
        &self,
        project: &Project,
        machine: &Machine,
        force: bool,
        options: &UpOptions,
    ) -> Result<UpOutcome, MachineError> {
        let _lock = self.lock(&project.root, &machine.name, "reload")?;
        let record = self.lookup(&project.root, &machine.name)?;
        let record = record.ok_or_else(|| MachineError::NotCreated(machine.name.clone()))?;
        {
            let _watch = self.time(&machine.name, Phase::Halt);
            self.halt_locked(&record, force, machine.halt_timeout)?;
        }
        self.up_locked(project, machine, options)
    }

    /// Runs steps on a running machine.
    pub fn provision(
        &self,
        project: &Project,
        machine: &Machine,
        with: &ProvisionChoice,
    ) -> Result<UpOutcome, MachineError> {
        let _lock = self.lock(&project.root, &machine.name, "provision")?;
        let mut record = self.running(&project.root, &machine.name)?;
        let session =
            self.wait_ssh(&project.login_for(&machine.name), &mut record, machine.boot_timeout, &mut |_| ())?;
        let (outcome, session) = self.run_steps(project, machine, &record, session, with, true)?;
        self.finish(project, machine, &record, session, with, !outcome.ran.is_empty())?;
        Ok(outcome)
    }

    fn up_locked(
        &self,
        project: &Project,
        machine: &Machine,
        options: &UpOptions,
    ) -> Result<UpOutcome, MachineError> {
        let watch = self.time(&machine.name, Phase::Plan);
        let mut record = self.lookup(&project.root, &machine.name)?;
        let (plan, _) = self.compare(project, machine, record.as_ref())?;
        drop(watch);
        for change in plan.pending() {
            self.warn(&machine.name, format!("{change}: {}", change.how.remedy(&machine.name)));
        }
        if plan.actions.contains(&Action::Start) {
            // A host that cannot run it says so before a box is built for it.
            let choice = self.provider_for(
                options.provider.or(machine.provider),
                record.as_ref().and_then(|record| record.provider),
            )?;
            way_in::check_provider(machine, choice.kind)?;
            if machine.nat != Nat::None {
                net::passt::check(&self.path)?;
            }
        }
        let mut was_running = false;
        for action in &plan.actions {
            self.check_cancel(&machine.name)?;
            match action {
                Action::Create => record = Some(self.create(project, machine, record.take())?),
                Action::Start => {
                    let Some(record) = record.as_mut() else { continue };
                    self.tell_applied(&machine.name, &plan);
                    self.start_action(project, machine, record, options)?;
                }
                Action::Connect => {
                    was_running = true;
                    self.stage(&machine.name, "Running already.".into());
                    let Some(record) = record.as_mut() else { continue };
                    self.tell_provider(record, options);
                    self.apply_live(project, machine, record, &plan, options)?;
                    // Before there is somebody again who does that by itself.
                    self.mend_shares(record);
                    self.mend_networks(record)?;
                    self.mend_nat(record)?;
                    self.mend_forwards(record);
                }
            }
        }
        let mut record = record.ok_or_else(|| MachineError::NotCreated(machine.name.clone()))?;
        if record.client != machine.ssh.client {
            record.client = machine.ssh.client.clone();
            self.save(&record)?;
        }
        let pending: Vec<Change> = plan.pending().cloned().collect();
        let in_place = was_running && self.folders_in_place(machine, &record);
        if in_place && options.provision == ProvisionChoice::Skip && machine.ready.is_empty() {
            self.follow_ports(project, machine, &record, options)?;
            return Ok(UpOutcome { was_running, pending, ran: Vec::new(), skipped: Vec::new() });
        }
        let mut boot = Boot::begin(!was_running);
        let session = self.wait_ssh(
            &project.login_for(&machine.name),
            &mut record,
            machine.boot_timeout,
            &mut |stage| boot.saw(stage),
        );
        self.tell_boot(&machine.name, &boot, session.as_ref().ok().filter(|_| options.timings));
        let session = session?;
        self.follow_ports(project, machine, &record, options)?;
        if !was_running {
            self.tell_ready(&record);
            self.check_mounts(machine, &session)?;
        }
        self.place_folders(machine, &mut record, &session, !was_running, options.ssh_words)?;
        let (outcome, session) =
            self.run_steps(project, machine, &record, session, &options.provision, was_running)?;
        self.finish(project, machine, &record, session, &options.provision, !outcome.ran.is_empty())?;
        Ok(UpOutcome { pending, ..outcome })
    }

    /// After its steps: the machine counts as up when it is ready.
    fn finish(
        &self,
        project: &Project,
        machine: &Machine,
        record: &Record,
        session: Session,
        choice: &ProvisionChoice,
        stale: bool,
    ) -> Result<(), MachineError> {
        if machine.ready.is_empty() {
            return Ok(());
        }
        if *choice == ProvisionChoice::Skip {
            let stamps = provision::Stamps::load(&self.layout.machine(&record.id))?;
            let due = provision::decide(&machine.steps, &ProvisionChoice::Auto, &stamps)?;
            if due.into_iter().any(provision::Decision::runs) {
                let text = "Whether it is ready is not tried: steps that it needs were left out.";
                self.detail(&machine.name, text.into());
                return Ok(());
            }
        }
        // One from before the steps would not see the groups that they put its user into.
        let mut first = Some(session).filter(|_| !stale);
        self.wait_until_ready(machine, &project.masker, &mut || match first.take() {
            Some(session) => Ok(session),
            None => self.connect(&project.login_for(&machine.name), record),
        })
    }

    /// Makes folder, keys and disk. The record says `made` only when all of it is there, so a
    /// kill at any point is noticed by the next `up`, which begins anew in the same folder.
    fn create(
        &self,
        project: &Project,
        machine: &Machine,
        half: Option<Record>,
    ) -> Result<Record, MachineError> {
        let watch = self.time(&machine.name, Phase::Box);
        let image = self.images.ensure_box(
            &machine.box_name,
            self.locked_box(project, machine),
            &self.for_machine(&machine.name),
            &self.cancel,
        )?;
        drop(watch);
        self.check_cancel(&machine.name)?;
        let _watch = self.time(&machine.name, Phase::Disk);
        self.stage(&machine.name, format!("Creating from box {}.", machine.box_name));
        let applied = Applied { folders: Vec::new(), ..Applied::of(machine) };
        let mut record = match half {
            Some(half) => Record { applied, ..half },
            None => Record::new(&machine.name, &project.root, &project.file, applied)?,
        };
        record.image = Some(BoxImage { packages: Vec::new(), ..image.clone() });
        let dir = self.layout.machine(&record.id);
        store::create_private_dir(&dir).map_err(|e| MachineError::file("create", &dir, e))?;
        self.save(&record)?;
        self.point(&record)?;
        self.fill(machine, &image, &dir)?;
        record.made = true;
        self.save(&record)?;
        Ok(record)
    }

    fn fill(&self, machine: &Machine, image: &BoxImage, dir: &Path) -> Result<(), MachineError> {
        for name in [LOGIN_KEY, HOST_KEY, DISK] {
            let path = dir.join(name);
            store::remove(&path).map_err(|e| MachineError::file("remove", &path, e))?;
        }
        console::clear(dir).map_err(|e| MachineError::file("clear the console log in", dir, e))?;
        ssh::keys::generate(&dir.join(LOGIN_KEY), &format!("rvm {}", machine.name))?;
        ssh::keys::generate(&dir.join(HOST_KEY), &format!("rvm host {}", machine.name))?;
        image::create_overlay(image, &dir.join(DISK), machine.disk.unwrap_or(image.default_disk))?;
        Ok(())
    }

    fn start_action(
        &self,
        project: &Project,
        machine: &Machine,
        record: &mut Record,
        options: &UpOptions,
    ) -> Result<(), MachineError> {
        let kernel = self.kernel(machine, record)?;
        self.check_kernel(project, machine.kernel, &kernel)?;
        self.check_cancel(&machine.name)?;
        self.stage(&machine.name, format!("Starting with kernel {}.", kernel.version));
        self.start(project, machine, record, options.provider, &kernel)?;
        let (cpus, memory) = (machine.cpus, machine.memory >> 20);
        let provider = record.provider.map_or("", |p| p.as_str());
        self.detail(
            &machine.name,
            format!("{cpus} CPU, {memory} MiB, provider {provider}. Waiting for SSH."),
        );
        Ok(())
    }

    /// The kernel for the box that the machine's disk was made from, also when the file says
    /// another box by now.
    fn kernel(&self, machine: &Machine, record: &Record) -> Result<Kernel, MachineError> {
        let _watch = self.time(&machine.name, Phase::KernelImage);
        let image = record.image.as_ref().ok_or_else(|| MachineError::NotCreated(machine.name.clone()))?;
        let report = self.for_machine(&machine.name);
        Ok(self.images.ensure_kernel(image, machine.kernel, &report, &self.cancel)?)
    }

    fn tell_ready(&self, record: &Record) {
        if let Some(addr) = record.ssh {
            self.detail(&record.name, format!("SSH answers: {}@{addr}", record.user));
        }
    }

    fn run_steps(
        &self,
        project: &Project,
        machine: &Machine,
        record: &Record,
        session: Session,
        choice: &ProvisionChoice,
        was_running: bool,
    ) -> Result<(UpOutcome, Session), MachineError> {
        let dir = self.layout.machine(&record.id);
        let mut stamps = provision::Stamps::load(&dir)?;
        let target = self.target(&project.login_for(&machine.name), record)?;
        let connect = |_: &Cancel| self.connect_when_up(&target, record, machine.boot_timeout, &mut |_| ());
        let link = provision::Link::new(session, &connect);
        let playbook = |step: &Step| matches!(step.kind, StepKind::Ansible(_));
        let inventory = match machine.steps.iter().any(playbook) {
            true => self.inventory_text(project)?,
            false => String::new(),
        };
        let context = provision::Context {
            machine: &machine.name,
            guest: &link,
            report: self.report,
            masker: &project.masker,
            cancel: &self.cancel,
            logs: &provision::StepLogs::of(&dir),
            host: provision::HostSide {
                dir: &project.root,
                inventory: &inventory,
                password: password(&project.login),
            },
            pins: self.pins(project, record),
            locked: self.locked,
            boot_timeout: machine.boot_timeout,
        };
        let choice = choice.known_to(&machine.steps);
        let outcome = provision::run(&context, &machine.steps, &choice, &mut stamps)?;
        let outcome =
            UpOutcome { was_running, pending: Vec::new(), ran: outcome.ran, skipped: outcome.skipped };
        match link.into_session() {
            Some(session) => Ok((outcome, session)),
            None => Ok((outcome, self.connect(&project.login_for(&machine.name), record)?)),
        }
    }
}
