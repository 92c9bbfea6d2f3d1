//! What `up` would do: looked at without a lock, and without changing anything.

use std::path::Path;

use super::record::Record;
use super::{MachineError, Machines, Status, way_in};
use crate::image::{self, BoxImage};
use crate::model::{DiskSource, Forward, Machine, Project, ProviderKind};
use crate::net;
use crate::plan::{Action, Change};
use crate::provision::{self, Stamps, Why};
use crate::state::Lock;

/// What `up` would do to one machine.
#[derive(Debug)]
pub struct Preview {
    /// How it is now.
    pub status: Status,
    /// What would be done, in order.
    pub actions: Vec<Action>,
    /// How it differs from the file.
    pub changes: Vec<Change>,
    /// What it would be started from and with; `None` where it runs.
    pub start: Option<Start>,
    /// What would become of its steps.
    pub steps: Vec<StepPreview>,
    /// Why `up` would fail.
    pub problems: Vec<MachineError>,
    /// Who works on it right now: then what was seen may be out of date.
    pub busy: Option<String>,
}

/// What a machine would be started from and with.
#[derive(Debug, Default)]
pub struct Start {
    /// The box, where it has to be made and the store has the box.
    pub image: Option<BoxImage>,
    /// Release of the kernel, where the store has it.
    pub kernel: Option<String>,
    /// What would run it.
    pub provider: Option<ProviderKind>,
    /// Each declared port, with the port of the host that it would get.
    pub ports: Vec<(Forward, Forward)>,
}

/// What would become of a step.
#[derive(Debug)]
pub struct StepPreview {
    /// Its name, masked.
    pub name: String,
    /// Its type.
    pub kind: &'static str,
    /// Whether it runs, and why.
    pub why: Why,
}

/// A machine of the project that the file no longer declares.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Undeclared {
    /// 32 hex digits.
    pub id: String,
    /// What it was called.
    pub name: String,
}

impl Machines<'_> {
    /// What `up` would do to a machine. Ports in `given` go to machines before it; those that it gets
    /// are added.
    pub fn preview(
        &self,
        project: &Project,
        machine: &Machine,
        given: &mut Vec<u16>,
    ) -> Result<Preview, MachineError> {
        let record = self.look_for(&project.root, &machine.name)?;
        let (plan, stamps) = self.compare(project, machine, record.as_ref())?;
        let status = match &record {
            Some(record) => self.status_of_record(record.clone())?,
            None => Status::absent(&project.root, &machine.name, Some(machine)),
        };
        let lock = self.lock_path(&project.root, &machine.name);
        let busy = Lock::holder(&lock).map_err(|e| MachineError::file("look at", &lock, e))?;
        let mut preview = Preview {
            status,
            actions: plan.actions,
            changes: plan.changes,
            start: None,
            steps: Vec::new(),
            problems: Vec::new(),
            busy,
        };
        if !preview.runs() {
            let image = self.box_of(project, machine, record.as_ref(), &mut preview);
            let start =
                self.start_of(&project.root, machine, record.as_ref(), image, given, &mut preview.problems);
            preview.start = Some(start);
        }
        let provider = preview.start.as_ref().map_or(preview.status.provider, |start| start.provider);
        preview.problems.extend(self.folder_problems(machine, provider));
        self.steps_of(project, machine, &stamps, &mut preview);
        Ok(preview)
    }

    /// The machines of the project that its file does not declare, by name.
    pub fn undeclared(&self, project: &Project) -> Result<Vec<Undeclared>, MachineError> {
        let mut list = Vec::new();
        for record in self.records()? {
            let declared = project.machines.iter().any(|machine| machine.name == record.name);
            if record.project == project.root && !declared {
                list.push(Undeclared { id: record.id, name: record.name });
            }
        }
        list.sort_by(|a, b| (&a.name, &a.id).cmp(&(&b.name, &b.id)));
        Ok(list)
    }

    /// Those of them that the project still points to, as they are now. It looks at no other project's machines.
    pub fn left_over(&self, project: &Project) -> Result<Vec<Status>, MachineError> {
        let declared = |name: &String| project.machines.iter().any(|machine| machine.name == *name);
        let mut list = Vec::new();
        for name in self.pointed(&project.root).iter().filter(|name| !declared(name)) {
            if let Some(record) = self.look_for(&project.root, name)? {
                list.push(self.status_of_record(record)?);
            }
        }
        Ok(list)
    }

    /// The box that the machine's disk lies on, or would be made from.
    fn box_of(
        &self,
        project: &Project,
        machine: &Machine,
        record: Option<&Record>,
        preview: &mut Preview,
    ) -> Option<BoxImage> {
        if let Some(record) = record.filter(|record| record.made) {
            return record.image.clone();
        }
        let locked = self.locked_box(project, machine);
        let found = self.images.find_box_as(&machine.box_name, locked).and_then(|found| {
            match locked.filter(|_| found.is_none()) {
                Some(locked) => self.images.check_recipe(locked).map(|()| None),
                None => Ok(found),
            }
        });
        found.unwrap_or_else(|error| {
            preview.problems.push(error.into());
            None
        })
    }

    fn start_of(
        &self,
        project: &Path,
        machine: &Machine,
        record: Option<&Record>,
        image: Option<BoxImage>,
        given: &mut Vec<u16>,
        problems: &mut Vec<MachineError>,
    ) -> Start {
        let mut start = Start::default();
        match self.images.find_kernel(image.as_ref(), machine.kernel) {
            Ok(kernel) => start.kernel = kernel.map(|kernel| kernel.version),
            Err(error) => problems.push(error.into()),
        }
        match self.provider_for(machine.provider, record.and_then(|record| record.provider)) {
            Ok(choice) => {
                start.provider = Some(choice.kind);
                problems.extend(way_in::check_provider(machine, choice.kind).err());
                problems.extend(way_in::check_box(machine, image.as_ref()).err());
            }
            Err(error) => problems.push(error),
        }
        let own_id = record.map_or("", |record| &record.id);
        for disk in &machine.disks {
            let checked = match &disk.source {
                DiskSource::Image { path, format } => {
                    image::check_image(path, *format).map_err(MachineError::from)
                }
                DiskSource::Volume(volume) => self.check_volume(project, own_id, disk, volume),
                DiskSource::New { .. } => Ok(()),
            };
            problems.extend(checked.err());
        }
        for declared in &machine.ports {
            let mut free = |port, _| !given.contains(&port);
            match net::choose(std::slice::from_ref(declared), &mut free) {
                Ok(chosen) => {
                    given.extend(chosen.iter().map(|forward| forward.host));
                    start.ports.extend(chosen.into_iter().map(|chosen| (declared.clone(), chosen)));
                }
                Err(error) => problems.push(error.into()),
            }
        }
        start.image = image;
        start
    }

    fn steps_of(&self, project: &Project, machine: &Machine, stamps: &Stamps, preview: &mut Preview) {
        for step in &machine.steps {
            match provision::why(step, stamps) {
                Ok(why) => preview.steps.push(StepPreview {
                    name: project.masker.mask(&step.name),
                    kind: step.kind.type_name(),
                    why,
                }),
                Err(error) => preview.problems.push(error.into()),
            }
        }
    }
}

impl Preview {
    /// It runs already.
    pub fn runs(&self) -> bool {
        self.actions == [Action::Connect]
    }

    /// `up` would make it.
    pub fn is_new(&self) -> bool {
        self.actions.contains(&Action::Create)
    }

    /// Something is not as the file says: it does not run, differs, or has a step to run that does not
    /// run each time.
    pub fn differs(&self) -> bool {
        let steps = self.steps.iter().any(|step| step.why.runs() && step.why != Why::Always);
        !self.runs() || !self.changes.is_empty() || steps
    }
}
