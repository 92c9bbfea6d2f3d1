//! Hooks around commands, for one machine.

use std::time::Duration;

use super::inventory::password;
use super::record::Record;
use super::{MachineError, Machines};
use crate::model::{Cancel, Hook, Hooked, Machine, Project, Side, Step};
use crate::provision::{self, Host, HostSide, Link, ProvisionError, StepLogs};

/// How long the guest of a machine that runs may take to let a hook in.
const CONNECT: Duration = Duration::from_secs(60);

impl Machines<'_> {
    /// Runs a hook for a machine. `Ok(false)`: it belongs into a guest that does not run. The machine is
    /// not locked meanwhile: a hook may call `rvm` itself.
    pub fn hook(
        &self,
        project: &Project,
        machine: &Machine,
        hook: &Hook,
        command: Hooked,
    ) -> Result<bool, MachineError> {
        let when = format!("{} {}", hook.moment.as_str(), command.as_str());
        let record = self.lookup(&project.root, &machine.name)?;
        let logs = record.as_ref().map(|record| StepLogs::of(&self.layout.machine(&record.id)));
        let result = match hook.side {
            Side::Host => {
                let text = |path: &std::path::Path| path.to_string_lossy().into_owned();
                let vars = [
                    ("RVM_HOOK", when.clone()),
                    ("RVM_COMMAND", command.as_str().to_owned()),
                    ("RVM_MACHINE", machine.name.clone()),
                    ("RVM_ID", record.as_ref().map(|record| record.id.clone()).unwrap_or_default()),
                    ("RVM_PROJECT", text(&project.root)),
                ];
                let host = Host {
                    machine: &machine.name,
                    report: self.report,
                    masker: &project.masker,
                    cancel: &self.cancel,
                    logs: logs.as_ref(),
                    dir: &project.root,
                    vars: &vars.map(|(name, value)| (name.to_owned(), value)),
                };
                host.run(&hook.step)
            }
            Side::Guest => {
                let Some(record) = record.filter(|record| self.is_running(record).unwrap_or(true)) else {
                    return Ok(false);
                };
                let target = self.target(&project.login_for(&machine.name), &record)?;
                let connect = |_: &Cancel| self.connect_when_up(&target, &record, CONNECT, &mut |_| ());
                let session = match connect(&self.cancel) {
                    Ok(session) => session,
                    Err(error) => return Err(self.boot_error(&record, CONNECT, &error)),
                };
                self.step_in_guest(project, machine, &record, &Link::new(session, &connect), &hook.step)
                    .map(drop)
            }
        };
        result.map(|()| true).map_err(|source| {
            let (machine, hook) = (machine.name.clone(), hook.step.name.clone());
            ProvisionError::Hook { machine, hook, when, source: Box::new(source) }.into()
        })
    }

    /// Runs a step that is none of the machine's own in its guest, not stamped. Gives the packages that it has
    /// installed.
    pub(super) fn step_in_guest(
        &self,
        project: &Project,
        machine: &Machine,
        record: &Record,
        guest: &Link<'_>,
        step: &Step,
    ) -> Result<Vec<(String, String)>, ProvisionError> {
        let context = provision::Context {
            machine: &machine.name,
            guest,
            report: self.report,
            masker: &project.masker,
            cancel: &self.cancel,
            logs: &StepLogs::of(&self.layout.machine(&record.id)),
            host: HostSide { dir: &project.root, inventory: "", password: password(&project.login) },
            pins: self.pins(project, record),
            locked: self.locked,
            boot_timeout: machine.boot_timeout,
        };
        provision::run_step(&context, step)
    }
}
