//! The running machines of a project as an inventory.

use super::{MachineError, Machines};
use crate::model::{Login, Project, Secret};
use crate::ssh::{self, ConfigEntry, InventoryHost};

impl Machines<'_> {
    /// The machines of a project that run, in the order of its file.
    pub fn inventory(&self, project: &Project) -> Result<Vec<InventoryHost>, MachineError> {
        let mut hosts = Vec::new();
        for machine in &project.machines {
            let info = match self.ssh_info(project, &machine.name) {
                Ok(info) => info,
                Err(MachineError::NotCreated(_) | MachineError::NotRunning(_)) => continue,
                Err(error) => return Err(error),
            };
            let entry = ConfigEntry {
                host: info.name,
                hostname: info.host,
                port: info.port,
                user: info.user,
                known_hosts: info.known_hosts,
                identities: info.identity.into_iter().collect(),
                password: false,
                options: Vec::new(),
            };
            hosts.push(InventoryHost { entry, groups: machine.groups.clone() });
        }
        Ok(hosts)
    }

    /// The same as text, for steps that run on the host.
    pub(super) fn inventory_text(&self, project: &Project) -> Result<String, MachineError> {
        Ok(ssh::render_inventory(&self.inventory(project)?))
    }
}

/// The password that logs in, where no key of the user's does.
pub(super) fn password(login: &Login) -> Option<&Secret> {
    login.password.as_ref().filter(|_| login.key.is_none())
}
