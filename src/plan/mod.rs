//! What `up` has to do: the declared machine compared with the one that exists. Pure.

mod compare;
mod folders;
mod order;
#[cfg(test)]
mod tests;

use serde::{Deserialize, Serialize};

pub use compare::{
    Change, How, LoginMark, Subject, card_text, describe, forward_text, host_card_text, mebibytes, only_in,
};
pub use folders::folder_text;
pub use order::in_order;

use crate::model::{
    Card, ExtraDisk, Folder, Forward, HostCard, KernelChoice, Machine, Nat, NatBackend, ProviderKind,
};

/// What a machine was made from and last started with; kept in its record.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Applied {
    /// Box of its disk.
    pub box_name: String,
    /// Size of its disk as declared, bytes.
    pub disk: Option<u64>,
    /// Disks beside the root disk.
    #[serde(default)]
    pub disks: Vec<ExtraDisk>,
    /// Folders that are in place in the guest.
    #[serde(default)]
    pub folders: Vec<Folder>,
    /// Virtual CPUs.
    pub cpus: u8,
    /// Virtual machines inside it.
    #[serde(default)]
    pub nested: bool,
    /// Memory, bytes.
    pub memory: u64,
    /// Host name.
    pub hostname: String,
    /// Kernel.
    pub kernel: KernelChoice,
    /// Provider that the file forces.
    pub provider: Option<ProviderKind>,
    /// Ports as declared, before `auto_correct`.
    pub ports: Vec<Forward>,
    /// Port for SSH as declared.
    #[serde(default)]
    pub ssh_port: Option<u16>,
    /// Where its first card leads to.
    #[serde(default)]
    pub nat: Nat,
    /// By what that card and passt reach each other.
    #[serde(default)]
    pub nat_backend: NatBackend,
    /// Cards in private networks.
    #[serde(default)]
    pub cards: Vec<Card>,
    /// Cards in networks of the host's.
    #[serde(default)]
    pub host_cards: Vec<HostCard>,
}

impl Applied {
    /// What `machine` declares, of what a machine is made from or started with.
    pub fn of(machine: &Machine) -> Applied {
        // Every field is named, so that a new key cannot be forgotten here: it either belongs to a
        // machine that runs (then it goes into `Applied` and `compare::changes`), or every command
        // reads it anew from the file (then it is passed over).
        let Machine {
            name: _,
            box_name,
            cpus,
            nested,
            memory,
            disk,
            disks,
            folders,
            absent: _,
            hostname,
            provider,
            kernel,
            ssh,
            ports,
            auto_forward: _,
            nat,
            nat_backend,
            cards,
            host_cards,
            steps: _,
            boot_timeout: _,
            halt_timeout: _,
            groups: _,
            primary: _,
            autostart: _,
            depends_on: _,
            ready: _,
            message: _,
        } = machine;
        Applied {
            box_name: box_name.clone(),
            disk: *disk,
            disks: disks.clone(),
            folders: folders.clone(),
            cpus: *cpus,
            nested: *nested,
            memory: *memory,
            hostname: hostname.clone(),
            kernel: *kernel,
            provider: *provider,
            ports: ports.clone(),
            ssh_port: ssh.port,
            nat: *nat,
            nat_backend: *nat_backend,
            cards: cards.clone(),
            host_cards: host_cards.clone(),
        }
    }
}

impl Applied {
    /// What holds of the machine once it has been started with what `machine` declares: its box and its
    /// root disk stay, and so do disks that would have to be made smaller or formatted anew.
    pub fn after_start(&self, machine: &Machine) -> Applied {
        let mut now = Applied::of(machine);
        now.box_name = self.box_name.clone();
        now.disk = self.disk;
        // Folders are brought there once the guest lets us in; copies are made at each start.
        now.folders = self.folders.iter().filter(|folder| !folder.is_copied()).cloned().collect();
        for disk in &mut now.disks {
            if let Some(old) =
                self.disks.iter().find(|old| old.name == disk.name && compare::shrinks(old, disk))
            {
                disk.source = old.source.clone();
            }
        }
        now
    }
}

/// What exists of a machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Observed {
    /// Nothing.
    Absent,
    /// An `up` was cut off while it made the disk and the keys.
    HalfMade,
    /// Made, not running.
    Stopped(Made),
    /// Running.
    Running(Made, Live),
}

/// A machine that was made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Made {
    /// What it was made from and last started with.
    pub applied: Applied,
    /// What ran it last; `None` before its first start.
    pub provider: Option<ProviderKind>,
    /// Digest of its box; `None` where its record does not say.
    pub digest: Option<String>,
    /// Whom it lets in; `None` where its record does not say.
    pub login: Option<LoginMark>,
}

/// What can be changed of a machine while it runs.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Live {
    /// Most memory in bytes that it can be given without a new start; `None`: it cannot be changed.
    pub memory: Option<u64>,
    /// TCP ports of the host can be opened.
    pub ports: bool,
    /// Ports that were opened while it ran: they can be closed.
    pub opened: Vec<Forward>,
    /// Folders of the host that its guest can mount.
    pub shares: Vec<Folder>,
}

/// One thing to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// Make its folder, keys and disk, from scratch.
    Create,
    /// Start it and wait for SSH.
    Start,
    /// Connect to what runs already.
    Connect,
}

/// What `up` does, in order; provisioning follows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    /// In order.
    pub actions: Vec<Action>,
    /// How the machine that exists differs from the file.
    pub changes: Vec<Change>,
}

impl Plan {
    /// What `up` does not apply.
    pub fn pending(&self) -> impl Iterator<Item = &Change> {
        self.changes.iter().filter(|change| change.how != How::Live)
    }
}

/// What is wanted of a machine.
#[derive(Debug, Clone, Copy)]
pub struct Wanted<'a> {
    /// As the file declares it.
    pub machine: &'a Machine,
    /// Whom it is to let in.
    pub login: &'a LoginMark,
    /// Digest of the box that the project's lock file pins.
    pub digest: Option<&'a str>,
}

/// The plan for `up`.
pub fn up(wanted: Wanted<'_>, observed: &Observed) -> Plan {
    match observed {
        Observed::Absent | Observed::HalfMade => {
            Plan { actions: vec![Action::Create, Action::Start], changes: Vec::new() }
        }
        Observed::Stopped(made) => {
            Plan { actions: vec![Action::Start], changes: compare::changes(made, wanted, None) }
        }
        Observed::Running(made, live) => {
            let changes = compare::changes(made, wanted, Some(live));
            Plan { actions: vec![Action::Connect], changes }
        }
    }
}
