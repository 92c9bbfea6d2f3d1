//! What `up` has to do: the declared machine compared with the one that exists. Pure.

use serde::{Deserialize, Serialize};

use crate::model::{Card, DiskSource, ExtraDisk, Forward, KernelChoice, Machine, ProviderKind};

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
    /// Cards in private networks.
    #[serde(default)]
    pub cards: Vec<Card>,
}

impl Applied {
    /// What `machine` declares.
    pub fn of(machine: &Machine) -> Applied {
        Applied {
            box_name: machine.box_name.clone(),
            disk: machine.disk,
            disks: machine.disks.clone(),
            cpus: machine.cpus,
            nested: machine.nested,
            memory: machine.memory,
            hostname: machine.hostname.clone(),
            kernel: machine.kernel,
            provider: machine.provider,
            ports: machine.ports.clone(),
            cards: machine.cards.clone(),
        }
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
    Stopped(Applied),
    /// Running.
    Running(Applied),
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
    /// What the file says and `up` does not apply: one clause each, with the command that does.
    pub pending: Vec<String>,
}

/// The plan for `up`.
pub fn up(machine: &Machine, observed: &Observed) -> Plan {
    let wanted = Applied::of(machine);
    match observed {
        Observed::Absent | Observed::HalfMade => {
            Plan { actions: vec![Action::Create, Action::Start], pending: Vec::new() }
        }
        // The rest is read anew at each start.
        Observed::Stopped(applied) => {
            Plan { actions: vec![Action::Start], pending: needs_destroy(applied, &wanted) }
        }
        Observed::Running(applied) => {
            let mut pending = needs_destroy(applied, &wanted);
            pending.extend(needs_reload(applied, &wanted));
            Plan { actions: vec![Action::Connect], pending }
        }
    }
}

fn needs_destroy(applied: &Applied, wanted: &Applied) -> Vec<String> {
    let mut pending = Vec::new();
    if applied.box_name != wanted.box_name {
        let (old, new) = (&applied.box_name, &wanted.box_name);
        pending.push(format!("box is {old}, the file says {new}: `rvm destroy` and `rvm up` make it anew"));
    }
    if applied.disk != wanted.disk {
        pending.push("disk size differs from the file: `rvm destroy` and `rvm up` make it anew".into());
    }
    pending
}

fn needs_reload(applied: &Applied, wanted: &Applied) -> Vec<String> {
    let mut changed = Vec::new();
    let mut note = |name: &str, old: String, new: String| {
        if old != new {
            changed.push(format!("{name} {old}, the file says {new}: `rvm reload` applies it"));
        }
    };
    note("cpus", applied.cpus.to_string(), wanted.cpus.to_string());
    note("nested", applied.nested.to_string(), wanted.nested.to_string());
    note("memory", mebibytes(applied.memory), mebibytes(wanted.memory));
    note("hostname", applied.hostname.clone(), wanted.hostname.clone());
    note("kernel", applied.kernel.as_str().into(), wanted.kernel.as_str().into());
    note("disks", disks(&applied.disks), disks(&wanted.disks));
    note("ports", ports(&applied.ports), ports(&wanted.ports));
    note("networks", cards(&applied.cards), cards(&wanted.cards));
    changed
}

fn mebibytes(bytes: u64) -> String {
    format!("{} MiB", bytes >> 20)
}

fn disks(list: &[ExtraDisk]) -> String {
    let word = |disk: &ExtraDisk| {
        let source = match &disk.source {
            DiskSource::New { size, .. } => mebibytes(*size),
            DiskSource::Image { path, .. } => path.display().to_string(),
        };
        let mount = disk.mount.as_ref().map(|mount| format!(" at {mount}")).unwrap_or_default();
        let read_only = if disk.read_only { ", read-only" } else { "" };
        format!("{} ({source}{mount}{read_only})", disk.name)
    };
    let words: Vec<String> = list.iter().map(word).collect();
    if words.is_empty() { "none".into() } else { words.join(" ") }
}

fn ports(list: &[Forward]) -> String {
    let words: Vec<String> = list
        .iter()
        .map(|f| format!("{}:{}→{}/{}", f.host_ip, f.host, f.guest, f.protocol.as_str()))
        .collect();
    if words.is_empty() { "none".into() } else { words.join(" ") }
}

fn cards(list: &[Card]) -> String {
    let word = |card: &Card| {
        let mut words: Vec<String> = card.addresses.iter().map(ToString::to_string).collect();
        words.extend(card.dhcp.then(|| "dhcp".to_owned()));
        if words.is_empty() {
            card.network.clone()
        } else {
            format!("{} ({})", card.network, words.join(", "))
        }
    };
    let words: Vec<String> = list.iter().map(word).collect();
    if words.is_empty() { "none".into() } else { words.join(" ") }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn machine() -> Machine {
        Machine { cpus: 2, ..Machine::new("web", "debian/13") }
    }

    #[test]
    fn half_made_is_made_again() {
        for observed in [Observed::Absent, Observed::HalfMade] {
            assert_eq!(up(&machine(), &observed).actions, [Action::Create, Action::Start]);
        }
    }

    #[test]
    fn a_stopped_machine_takes_what_a_start_can_apply() {
        let applied = Applied { cpus: 1, ..Applied::of(&machine()) };
        let plan = up(&machine(), &Observed::Stopped(applied));
        assert_eq!(plan, Plan { actions: vec![Action::Start], pending: vec![] });
    }

    #[test]
    fn a_changed_disk_waits_for_a_reload() {
        let disk = ExtraDisk {
            name: "data".into(),
            source: DiskSource::New { size: 5 << 30, filesystem: true },
            mount: Some("/srv/data".into()),
            read_only: false,
        };
        let wanted = Machine { disks: vec![disk], ..machine() };
        let plan = up(&wanted, &Observed::Running(Applied::of(&machine())));
        assert_eq!(
            plan.pending,
            ["disks none, the file says data (5120 MiB at /srv/data): `rvm reload` applies it"]
        );
        let stopped = up(&wanted, &Observed::Stopped(Applied::of(&machine())));
        assert_eq!(stopped, Plan { actions: vec![Action::Start], pending: vec![] });
    }

    #[test]
    fn a_changed_file_is_never_passed_over_in_silence() {
        let applied = Applied { cpus: 1, box_name: "debian/12".into(), ..Applied::of(&machine()) };
        let plan = up(&machine(), &Observed::Running(applied));
        assert_eq!(plan.actions, [Action::Connect]);
        assert_eq!(plan.pending.len(), 2);
        assert!(plan.pending[0].contains("rvm destroy"));
        assert!(plan.pending[1].contains("cpus 1, the file says 2: `rvm reload`"));
    }
}
