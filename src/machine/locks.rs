//! What the projects' lock files pin, and what there is to be pinned.

use std::collections::BTreeMap;

use super::record::Record;
use super::{MachineError, Machines};
use crate::image::{ImageError, Kernel};
use crate::model::{KernelChoice, LockedBox, LockedKernel, Locks, Machine, Project};
use crate::provision::Stamps;

impl Machines<'_> {
    /// The box of a machine as its project pins it.
    pub(super) fn locked_box(&self, project: &Project, machine: &Machine) -> Option<&LockedBox> {
        self.locks.get(&project.root)?.boxes.get(&machine.box_name)
    }

    /// Versions that packages of steps are locked in.
    pub(super) fn pins(&self, project: &Project, record: &Record) -> Option<&BTreeMap<String, String>> {
        self.locks.get(&project.root)?.packages.get(&record.image.as_ref()?.name)
    }

    /// Refuses a kernel that is another one than the project pins.
    pub(super) fn check_kernel(
        &self,
        project: &Project,
        choice: KernelChoice,
        kernel: &Kernel,
    ) -> Result<(), MachineError> {
        let locked = self.locks.get(&project.root).and_then(|locks| locks.fast.as_ref());
        let Some(locked) = locked.filter(|_| choice == KernelChoice::Fast) else { return Ok(()) };
        let found = self.fast_lock(kernel);
        if *locked == found {
            return Ok(());
        }
        let text = |kernel: &LockedKernel| format!("{} ({})", kernel.version, kernel.digest);
        Err(ImageError::OtherKernel { locked: text(locked), found: text(&found) }.into())
    }

    fn fast_lock(&self, kernel: &Kernel) -> LockedKernel {
        LockedKernel { digest: self.images.fast_digest(), version: kernel.version.clone() }
    }

    /// What the machines of a project that exist were made from. Boxes that the store has no more are
    /// left out.
    pub fn resolved(&self, project: &Project) -> Result<Locks, MachineError> {
        let mut locks = Locks::default();
        for machine in &project.machines {
            let Some(record) = self.look_for(&project.root, &machine.name)? else { continue };
            let image = record.image.filter(|image| record.made && image.name == machine.box_name);
            let Some(image) = image else { continue };
            if !locks.boxes.contains_key(&image.name)
                && let Some(image) = self.images.find_exactly(&image.name, &image.digest)?
            {
                locks.boxes.insert(image.name.clone(), image.lock());
            }
            // Those of a machine that was made from another box than the locked one are of its time.
            let of_locked =
                self.locked_box(project, machine).is_none_or(|locked| locked.digest == image.digest);
            let installed = Stamps::look(&self.layout.machine(&record.id))?;
            if of_locked && !installed.installed().is_empty() {
                let packages = locks.packages.entry(image.name.clone()).or_default();
                for (name, version) in installed.installed() {
                    packages.entry(name.clone()).or_insert_with(|| version.clone());
                }
            }
            if record.applied.kernel == KernelChoice::Fast
                && let Some(kernel) = self.images.find_kernel(None, KernelChoice::Fast)?
            {
                locks.fast = Some(self.fast_lock(&kernel));
            }
        }
        Ok(locks)
    }

    /// What a project needs: from `kept` where that has it, else as its machines were made, else as the
    /// store has it or builds it now; built anew where `renew` says so of a box.
    pub fn resolve(
        &self,
        project: &Project,
        kept: &Locks,
        renew: &dyn Fn(&str) -> bool,
    ) -> Result<Locks, MachineError> {
        let made = self.resolved(project)?;
        let mut locks = Locks::default();
        for machine in &project.machines {
            let name = &machine.box_name;
            if !locks.boxes.contains_key(name) {
                let known = kept.boxes.get(name).or(made.boxes.get(name)).filter(|_| !renew(name)).cloned();
                let locked = match known {
                    Some(locked) => locked,
                    None if renew(name) => self.images.renew_box(name, self.report, &self.cancel)?.lock(),
                    None => self.images.ensure_box(name, None, self.report, &self.cancel)?.lock(),
                };
                locks.boxes.insert(name.clone(), locked);
                if !renew(name) {
                    let mut packages = kept.packages.get(name).cloned().unwrap_or_default();
                    for (package, version) in made.packages.get(name).into_iter().flatten() {
                        packages.entry(package.clone()).or_insert_with(|| version.clone());
                    }
                    if !packages.is_empty() {
                        locks.packages.insert(name.clone(), packages);
                    }
                }
            }
            if machine.kernel == KernelChoice::Fast && locks.fast.is_none() {
                locks.fast = match &kept.fast {
                    Some(fast) if !renew("fast") => Some(fast.clone()),
                    _ => Some(self.fast_lock(&self.images.ensure_fast(self.report, &self.cancel)?)),
                };
            }
        }
        Ok(locks)
    }
}
