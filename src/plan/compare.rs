//! How a machine differs from what the file says, one difference at a time.

use std::fmt;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::{Applied, Live, Made, Wanted};
use crate::model::{Card, DiskSource, ExtraDisk, Forward, HostCard, HostInterface, PortRun, port_runs};

/// Who a machine's seed lets in; kept in its record. The password is there as a keyed digest only.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LoginMark {
    /// Login user.
    pub user: String,
    /// Private key of the ENV file; `None`: the machine's own.
    pub key: Option<PathBuf>,
    /// Digest of the password, with the machine's own key.
    pub password: Option<String>,
}

/// What applies a difference.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum How {
    /// `rvm up`: to the machine that runs, or as it starts it.
    Live,
    /// `rvm reload`: the guest has to start anew.
    Reload,
    /// `rvm destroy` and `rvm up`: the disk has to be made anew.
    Recreate,
}

impl How {
    /// The word used in documents.
    pub fn as_str(self) -> &'static str {
        match self {
            How::Live => "up",
            How::Reload => "reload",
            How::Recreate => "recreate",
        }
    }

    /// The command that applies it to the machine of that name, as a clause.
    pub fn remedy(self, machine: &str) -> String {
        match self {
            How::Live => format!("`rvm up {machine}` applies it"),
            How::Reload => format!("`rvm reload {machine}` applies it"),
            How::Recreate => format!("`rvm destroy {machine}` and `rvm up {machine}` make it anew"),
        }
    }
}

/// What differs. `Display` is the key of the file, or near to it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Subject {
    /// The box that its disk was made from.
    Box,
    /// Size of the root disk.
    RootDisk,
    /// A disk beside it, by name.
    Disk(String),
    /// A folder, by its place in the guest.
    Folder(String),
    /// Virtual CPUs.
    Cpus,
    /// Virtual machines inside it.
    Nested,
    /// Memory.
    Memory,
    /// Host name.
    Hostname,
    /// Kernel.
    Kernel,
    /// What runs it.
    Provider,
    /// A forwarded port.
    Port,
    /// The port for SSH.
    SshPort,
    /// Where its first card leads to.
    Nat,
    /// By what that card and passt reach each other.
    NatBackend,
    /// A card in a private network, by the network's name.
    Network(String),
    /// Login user.
    User,
    /// Key of the login user.
    Key,
    /// Password of the login user: its values are never told.
    Password,
}

impl fmt::Display for Subject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Subject::Box => "box",
            Subject::RootDisk => "disk",
            Subject::Disk(name) => return write!(f, "disk {name}"),
            Subject::Folder(guest) => return write!(f, "folder {guest}"),
            Subject::Cpus => "cpus",
            Subject::Nested => "nested",
            Subject::Memory => "memory",
            Subject::Hostname => "hostname",
            Subject::Kernel => "kernel",
            Subject::Provider => "provider",
            Subject::Port => "port",
            Subject::SshPort => "ssh.port",
            Subject::Nat => "nat",
            Subject::NatBackend => "nat_backend",
            Subject::Network(name) => return write!(f, "network {name}"),
            Subject::User => "RVM_SSH_USER",
            Subject::Key => "RVM_SSH_KEY",
            Subject::Password => "RVM_SSH_PASSWORD",
        })
    }
}

/// One difference between a machine and the file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    /// What differs.
    pub subject: Subject,
    /// How it is, for people; `None` where there is nothing yet, or where it is secret.
    pub old: Option<String>,
    /// How the file wants it; `None` where it wants it gone, or where it is secret.
    pub new: Option<String>,
    /// What applies it.
    pub how: How,
}

impl fmt::Display for Change {
    /// Such as `memory 1024 MiB → 2048 MiB`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.subject, self.values())
    }
}

impl Change {
    /// Old and new value, such as `1024 MiB → 2048 MiB`.
    pub fn values(&self) -> String {
        match (&self.old, &self.new) {
            (Some(old), Some(new)) => format!("{old} → {new}"),
            (None, Some(new)) => format!("{new} is new"),
            (Some(old), None) => format!("{old} is not in the file any more"),
            (None, None) => "has changed".into(),
        }
    }
}

/// All differences, in the order of the keys in `docs/config.md`. `live`: what can be done to it while
/// it runs; `None` for a machine that does not run.
pub(super) fn changes(made: &Made, wanted: Wanted<'_>, live: Option<&Live>) -> Vec<Change> {
    let (login, pinned) = (wanted.login, wanted.digest);
    let wanted = &Applied::of(wanted.machine);
    let mut list = Vec::new();
    let applied = &made.applied;
    let mut note = |subject, old: String, new: String, how| {
        if old != new {
            list.push(Change { subject, old: Some(old), new: Some(new), how });
        }
    };
    note(Subject::Box, applied.box_name.clone(), wanted.box_name.clone(), How::Recreate);
    if let (Some(old), Some(new)) = (made.digest.as_deref(), pinned)
        && applied.box_name == wanted.box_name
    {
        let text = |digest: &str| format!("{} ({})", wanted.box_name, digest.get(..12).unwrap_or(digest));
        note(Subject::Box, text(old), text(new), How::Recreate);
    }
    note(Subject::Cpus, applied.cpus.to_string(), wanted.cpus.to_string(), How::Reload);
    note(Subject::Nested, applied.nested.to_string(), wanted.nested.to_string(), How::Reload);
    let largest = live.and_then(|live| live.memory);
    let memory = if largest.is_some_and(|most| wanted.memory <= most) { How::Live } else { How::Reload };
    note(Subject::Memory, mebibytes(applied.memory), mebibytes(wanted.memory), memory);
    let size = |bytes: Option<u64>| bytes.map_or("as the box has it".into(), mebibytes);
    note(Subject::RootDisk, size(applied.disk), size(wanted.disk), How::Recreate);
    note(Subject::Hostname, applied.hostname.clone(), wanted.hostname.clone(), How::Reload);
    if let (Some(old), Some(new)) = (made.provider, wanted.provider) {
        note(Subject::Provider, old.to_string(), new.to_string(), How::Reload);
    }
    note(Subject::Kernel, applied.kernel.as_str().into(), wanted.kernel.as_str().into(), How::Reload);
    let port = |port: Option<u16>| port.map_or("any".to_owned(), |port| port.to_string());
    note(Subject::SshPort, port(applied.ssh_port), port(wanted.ssh_port), How::Reload);
    note(Subject::Nat, applied.nat.as_str().into(), wanted.nat.as_str().into(), How::Reload);
    let (old, new) = (applied.nat_backend.as_str(), wanted.nat_backend.as_str());
    note(Subject::NatBackend, old.into(), new.into(), How::Reload);
    disks(&applied.disks, &wanted.disks, &mut list);
    super::folders::folders(&applied.folders, &wanted.folders, live, &mut list);
    forwards(&applied.ports, &wanted.ports, live, &mut list);
    cards(&applied.cards, &wanted.cards, &mut list);
    host_cards(&applied.host_cards, &wanted.host_cards, &mut list);
    if let Some(old) = &made.login {
        logins(old, login, &mut list);
    }
    if live.is_none() {
        // All but the disk is read anew as it starts.
        for change in list.iter_mut().filter(|change| change.how == How::Reload) {
            change.how = How::Live;
        }
    }
    list
}

fn disks(old: &[ExtraDisk], new: &[ExtraDisk], list: &mut Vec<Change>) {
    let find = |disks: &[ExtraDisk], name: &str| disks.iter().find(|disk| disk.name == name).cloned();
    for disk in old {
        let subject = Subject::Disk(disk.name.clone());
        match find(new, &disk.name) {
            None => list.push(Change { subject, old: Some(describe(disk)), new: None, how: How::Reload }),
            Some(now) if now != *disk => {
                let how = if shrinks(disk, &now) { How::Recreate } else { How::Reload };
                list.push(Change { subject, old: Some(describe(disk)), new: Some(describe(&now)), how });
            }
            Some(_) => {}
        }
    }
    for disk in new.iter().filter(|disk| find(old, &disk.name).is_none()) {
        let subject = Subject::Disk(disk.name.clone());
        list.push(Change { subject, old: None, new: Some(describe(disk)), how: How::Reload });
    }
}

/// A disk of ours that exists is never made smaller, nor formatted anew.
pub(super) fn shrinks(old: &ExtraDisk, new: &ExtraDisk) -> bool {
    match (&old.source, &new.source) {
        (
            DiskSource::New { size: had, filesystem: formatted },
            DiskSource::New { size: wants, filesystem: format },
        ) => wants < had || formatted != format,
        _ => false,
    }
}

/// A disk beside the root disk, for people.
pub fn describe(disk: &ExtraDisk) -> String {
    let mut text = match &disk.source {
        DiskSource::New { size, filesystem: true } => mebibytes(*size),
        DiskSource::New { size, filesystem: false } => format!("{} without a file system", mebibytes(*size)),
        DiskSource::Volume(volume) => format!("volume {}, {}", volume.name, mebibytes(volume.size)),
        DiskSource::Image { path, .. } => path.display().to_string(),
    };
    if let Some(mount) = &disk.mount {
        text.push_str(&format!(" at {mount}"));
    }
    if disk.read_only {
        text.push_str(", read-only");
    }
    text
}

/// Those of `list` that are not in `other`. Whether a taken port may be replaced matters only when one
/// is chosen.
pub fn only_in(list: &[Forward], other: &[Forward]) -> Vec<Forward> {
    let same = |a: &Forward, b: &Forward| Forward { auto_correct: b.auto_correct, ..a.clone() } == *b;
    list.iter().filter(|forward| !other.iter().any(|o| same(o, forward))).cloned().collect()
}

fn forwards(old: &[Forward], new: &[Forward], live: Option<&Live>, list: &mut Vec<Change>) {
    let how = |is_live: bool| if is_live { How::Live } else { How::Reload };
    let closes = |forward: &Forward| {
        how(live.is_some_and(|live| only_in(std::slice::from_ref(forward), &live.opened).is_empty()))
    };
    let opens = |_: &Forward| how(live.is_some_and(|live| live.ports));
    for (run, how) in alike(&only_in(old, new), closes) {
        list.push(Change { subject: Subject::Port, old: Some(run.to_string()), new: None, how });
    }
    for (run, how) in alike(&only_in(new, old), opens) {
        list.push(Change { subject: Subject::Port, old: None, new: Some(run.to_string()), how });
    }
}

/// Forwards that follow each other and are applied in the same way are told as one.
fn alike(list: &[Forward], how: impl Fn(&Forward) -> How) -> Vec<(PortRun, How)> {
    let same = |a: &Forward, b: &Forward| how(a) == how(b);
    let runs = list.chunk_by(same).flat_map(port_runs);
    runs.map(|run| (run.clone(), how(&run.first))).collect()
}

/// Such as `127.0.0.1:8080 → 80` or `[::1]:53 → 53/udp`.
pub fn forward_text(forward: &Forward) -> String {
    PortRun { first: forward.clone(), count: 1 }.to_string()
}

fn cards(old: &[Card], new: &[Card], list: &mut Vec<Change>) {
    let find = |cards: &[Card], name: &str| cards.iter().find(|card| card.network == name).cloned();
    let mut names: Vec<&String> = old.iter().chain(new).map(|card| &card.network).collect();
    names.sort();
    names.dedup();
    for name in names {
        let (old, new) = (find(old, name), find(new, name));
        if old != new {
            let text = |card: Option<Card>| card.as_ref().map(card_text);
            let subject = Subject::Network(name.clone());
            list.push(Change { subject, old: text(old), new: text(new), how: How::Reload });
        }
    }
}

fn host_cards(old: &[HostCard], new: &[HostCard], list: &mut Vec<Change>) {
    let find = |cards: &[HostCard], to: &HostInterface| cards.iter().find(|card| card.to == *to).cloned();
    let gone = old.iter().filter(|card| find(new, &card.to).is_none());
    for to in new.iter().chain(gone).map(|card| &card.to) {
        let (old, new) = (find(old, to), find(new, to));
        if old != new {
            let text = |card: Option<HostCard>| card.as_ref().map(host_card_text);
            let subject = Subject::Network(format!("of {to}"));
            list.push(Change { subject, old: text(old), new: text(new), how: How::Reload });
        }
    }
}

/// The addresses of a card, such as `10.0.3.2` or `dhcp`.
pub fn card_text(card: &Card) -> String {
    addresses_text(&card.addresses, card.dhcp)
}

/// The same of a card in a network of the host's, such as `192.0.2.5/24`.
pub fn host_card_text(card: &HostCard) -> String {
    addresses_text(&card.addresses, card.dhcp)
}

fn addresses_text<T: ToString>(addresses: &[T], dhcp: bool) -> String {
    let mut words: Vec<String> = addresses.iter().map(ToString::to_string).collect();
    words.extend(dhcp.then(|| "dhcp".to_owned()));
    if words.is_empty() { "an address of its own".into() } else { words.join(", ") }
}

fn logins(old: &LoginMark, new: &LoginMark, list: &mut Vec<Change>) {
    if old.user != new.user {
        let (old, new) = (Some(old.user.clone()), Some(new.user.clone()));
        list.push(Change { subject: Subject::User, old, new, how: How::Reload });
    }
    if old.key != new.key {
        let text = |key: &Option<PathBuf>| {
            Some(key.as_ref().map_or("the machine's own".into(), |path| path.display().to_string()))
        };
        let (old, new) = (text(&old.key), text(&new.key));
        list.push(Change { subject: Subject::Key, old, new, how: How::Reload });
    }
    if old.password != new.password {
        list.push(Change { subject: Subject::Password, old: None, new: None, how: How::Reload });
    }
}

/// Whole MiB, such as `1024 MiB`.
pub fn mebibytes(bytes: u64) -> String {
    format!("{} MiB", bytes >> 20)
}
