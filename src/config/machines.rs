//! The defaults at the top of the file, the machines, and how one is laid over the other.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::ops::Range;
use std::time::Duration;

use crate::model::{Forward, KernelChoice, Machine, Protocol, ProviderKind, Step};

use super::disks::{Disks, ImageOwners};
use super::keys::Place;
use super::report::brief;
use super::steps::RawStep;
use super::units::MIB;
use super::vars::Text;
use super::walk::{Reader, Sp, Table};

/// The name of the machine of a file that declares none.
const ONLY_MACHINE: &str = "default";
/// Machines of one file; what a large cluster on one host would need, several times over.
const MOST_MACHINES: usize = 256;
const MEMORY: (u64, u64) = (64 * MIB, 1024 * 1024 * MIB);
const PROVIDERS: [(&str, ProviderKind); 2] = [("kvm", ProviderKind::Kvm), ("qemu", ProviderKind::Qemu)];
const KERNELS: [(&str, KernelChoice); 2] = [("stock", KernelChoice::Stock), ("fast", KernelChoice::Fast)];

/// The keys of one machine as they stand; at the top of the file, those of all.
#[derive(Clone, Default)]
struct Layer {
    box_name: Option<Sp<String>>,
    cpus: Option<u8>,
    nested: Option<bool>,
    memory: Option<u64>,
    disks: Disks,
    hostname: Option<Sp<String>>,
    provider: Option<ProviderKind>,
    kernel: Option<KernelChoice>,
    boot_timeout: Option<Duration>,
    halt_timeout: Option<Duration>,
    ports: Vec<Sp<Forward>>,
    steps: Vec<RawStep>,
}

/// A machine of the file before the defaults are applied.
struct Named {
    name: String,
    /// The name as messages may show it.
    shown: String,
    /// Its header; `None` for the one machine of a file that declares none.
    header: Option<Range<usize>>,
    /// Its `box` or the default is there, if perhaps a wrong one.
    has_box: bool,
    layer: Layer,
}

/// Who has a host port: for each address the machine, and where that is said.
type PortOwners = HashMap<(u16, Protocol), BTreeMap<IpAddr, (String, usize)>>;

/// The machines so far, and what only one of them can have.
#[derive(Default)]
struct Merged {
    list: Vec<Machine>,
    ports: PortOwners,
    images: ImageOwners,
    /// Host name to machine.
    hostnames: HashMap<String, String>,
}

impl Reader<'_> {
    /// All machines of the file, checked against each other.
    pub fn machines(&mut self, top: &Table<'_>) -> Vec<Machine> {
        let defaults = self.layer(top);
        let mut machines = Merged::default();
        let Some(declared) = top.raw("machine") else {
            let has_box = top.raw("box").is_some();
            let name = ONLY_MACHINE.to_owned();
            let only = Named { shown: name.clone(), name, header: None, has_box, layer: Layer::default() };
            self.merge(only, &defaults, &mut machines);
            return machines.list;
        };
        let count = declared.get_ref().as_array().map_or(1, |list| list.len());
        if count == 0 {
            self.wrong(
                &declared.span(),
                "this file declares no machine",
                "remove it, or add a `[[machine]]`",
            );
        } else if count > MOST_MACHINES {
            let message = format!("this file declares {count} machines");
            self.wrong(&declared.span(), message, format!("at most {MOST_MACHINES} are accepted"));
            return Vec::new();
        }
        if let Some(hostname) = defaults.hostname.as_ref().filter(|_| count > 1) {
            let help = "give each `[[machine]]` its own, or none: its name serves";
            self.wrong(&hostname.span, "several machines cannot share one `hostname`", help);
        }
        let mut seen = HashMap::new();
        for table in self.tables(top, "machine", Place::Machine) {
            let name = self.machine_name(&table, &mut seen);
            let layer = self.layer(&table);
            let has_box = top.raw("box").is_some() || table.raw("box").is_some();
            if let Some(name) = name {
                let Text { value: name, shown, .. } = name;
                let header = Some(table.span);
                self.merge(Named { name, shown, header, has_box, layer }, &defaults, &mut machines);
            }
        }
        machines.list
    }

    fn machine_name(&mut self, table: &Table<'_>, seen: &mut HashMap<String, usize>) -> Option<Text> {
        if table.raw("name").is_none() {
            self.wrong(&table.span, "this machine has no `name`", "add `name = \"web\"`");
            return None;
        }
        let name = self.text(table, "name", "\"web\"")?;
        if !is_label(&name.value.value) {
            let message = format!("a machine cannot be called {:?}", brief(&name.value.shown));
            let rule = "use a to z, 0 to 9 and `-`, beginning and ending with a letter or digit, at most 63";
            let help = match tidy_label(&name.value.value).filter(|_| !name.value.is_filled()) {
                Some(tidy) => format!("did you mean `{tidy}`? {rule}"),
                None => rule.to_owned(),
            };
            self.wrong(&name.span, message, help);
            return None;
        }
        if let Some(first) = seen.insert(name.value.value.clone(), name.span.start) {
            let first = self.problems.line_of(first);
            let message =
                format!("a machine called {:?} is already on line {first}", brief(&name.value.shown));
            self.wrong(&name.span, message, "give each machine a name of its own");
            return None;
        }
        Some(name.value)
    }

    fn layer(&mut self, table: &Table<'_>) -> Layer {
        let cpus = self.number(table, "cpus", 1, 64);
        Layer {
            box_name: self.box_name(table),
            cpus: cpus.and_then(|cpus| u8::try_from(cpus.value).ok()),
            nested: self.boolean(table, "nested"),
            memory: self.size(table, "memory", Some(MIB), MEMORY).map(|size| size.value),
            disks: self.disks(table),
            hostname: self.hostname(table),
            provider: self.choice(table, "provider", &PROVIDERS).map(|choice| choice.value),
            kernel: self.choice(table, "kernel", &KERNELS).map(|choice| choice.value),
            boot_timeout: self.time(table, "boot_timeout").map(|time| time.value),
            halt_timeout: self.time(table, "halt_timeout").map(|time| time.value),
            ports: {
                let tables = self.tables(table, "port", Place::Port);
                tables.iter().filter_map(|port| self.port(port)).collect()
            },
            steps: {
                let tables = self.tables(table, "provision", Place::Step);
                tables.iter().filter_map(|step| self.step(step)).collect()
            },
        }
    }

    fn box_name(&mut self, table: &Table<'_>) -> Option<Sp<String>> {
        let name = self.text(table, "box", "\"debian/13\"")?;
        if !is_box_name(&name.value.value) {
            let message = format!("{:?} is not the name of a box", brief(&name.value.shown));
            let help = "write a name such as \"debian/13\", \"debian/12\" or \"micro\"";
            self.wrong(&name.span, message, help);
            return None;
        }
        Some(name.map(|text| text.value))
    }

    fn hostname(&mut self, table: &Table<'_>) -> Option<Sp<String>> {
        const LONGEST: usize = 253;
        let name = self.text(table, "hostname", "\"web.example\"")?;
        let text = name.value.value.as_str();
        if text.len() > LONGEST || !text.split('.').all(is_label) {
            let message = format!("{:?} is not a host name", brief(&name.value.shown));
            let help = "use a to z, 0 to 9 and `-` in parts with dots between, such as \"web.example\"";
            self.wrong(&name.span, message, help);
            return None;
        }
        Some(name.map(|text| text.value))
    }

    /// Adds a machine with the defaults applied; outer ports and steps come first.
    fn merge(&mut self, named: Named, defaults: &Layer, into: &mut Merged) {
        let Named { name, shown, header, has_box, layer: own } = named;
        if !has_box {
            let message = format!("nothing says which box the machine `{shown}` starts from");
            match &header {
                Some(span) => self.wrong(span, message, "add `box = \"debian/13\"`"),
                None => self.problems.add_whole(message, "add `box = \"debian/13\"` at the top of the file"),
            }
        }
        let steps = self.name_steps(defaults.steps.iter().chain(&own.steps));
        for port in defaults.ports.iter().chain(&own.ports) {
            self.claim_port(port, &shown, &mut into.ports);
        }
        let disks = defaults.disks.extra.iter().chain(&own.disks.extra);
        let disks = self.merge_disks(&shown, disks, &mut into.images);
        let ports = defaults.ports.iter().chain(&own.ports).map(|port| port.value.clone()).collect();
        let place = own.hostname.as_ref().map(|hostname| hostname.span.clone()).or(header);
        let hostname = own.hostname.or_else(|| defaults.hostname.clone());
        let hostname = hostname.map_or_else(|| name.clone(), |hostname| hostname.value);
        let shared = defaults.hostname.as_ref().is_some_and(|shared| shared.value == hostname);
        if let Some(place) = place.filter(|_| !shared) {
            self.claim_hostname(&hostname, &shown, &place, &mut into.hostnames);
        }
        // Without a box the file is refused anyway.
        let Some(box_name) = own.box_name.or_else(|| defaults.box_name.clone()) else { return };
        let base = Machine::new(name, box_name.value);
        into.list.push(Machine {
            cpus: own.cpus.or(defaults.cpus).unwrap_or(base.cpus),
            nested: own.nested.or(defaults.nested).unwrap_or(base.nested),
            memory: own.memory.or(defaults.memory).unwrap_or(base.memory),
            disk: own.disks.root.or(defaults.disks.root),
            disks,
            hostname,
            provider: own.provider.or(defaults.provider),
            kernel: own.kernel.or(defaults.kernel).unwrap_or_default(),
            ports,
            steps,
            boot_timeout: own.boot_timeout.or(defaults.boot_timeout).unwrap_or(base.boot_timeout),
            halt_timeout: own.halt_timeout.or(defaults.halt_timeout).unwrap_or(base.halt_timeout),
            ..base
        });
    }

    /// Notes a host port that an earlier forward of the project has, unless this one may move.
    fn claim_port(&mut self, port: &Sp<Forward>, machine: &str, taken: &mut PortOwners) {
        const ANY: [IpAddr; 2] = [IpAddr::V4(Ipv4Addr::UNSPECIFIED), IpAddr::V6(Ipv6Addr::UNSPECIFIED)];
        let Forward { host, host_ip, protocol, auto_correct, .. } = port.value;
        let owners = taken.entry((host, protocol)).or_default();
        // An address that stands for all of them meets every other one.
        let owner = match host_ip.is_unspecified() {
            true => owners.values().next(),
            false => owners.get(&host_ip).or_else(|| ANY.iter().find_map(|any| owners.get(any))),
        };
        if let Some((owner, at)) = owner.filter(|_| !auto_correct) {
            let line = self.problems.line_of(*at);
            let message = format!("this port of the host already leads to `{owner}` (line {line})");
            let help = "choose another `host`, or set `auto_correct = true` to let this one move";
            self.wrong(&port.span, message, help);
        } else {
            owners.entry(host_ip).or_insert_with(|| (machine.to_owned(), port.span.start));
        }
    }

    fn claim_hostname(
        &mut self,
        hostname: &str,
        machine: &str,
        place: &Range<usize>,
        taken: &mut HashMap<String, String>,
    ) {
        if let Some(first) = taken.get(hostname) {
            let message = format!("the machines `{first}` and `{machine}` have the same host name");
            self.wrong(place, message, "give each its own `hostname`");
        } else {
            taken.insert(hostname.to_owned(), machine.to_owned());
        }
    }

    /// Names from kind and position where the file gives none; each is there once.
    fn name_steps<'s>(&mut self, raw: impl Iterator<Item = &'s RawStep> + Clone) -> Vec<Step> {
        let mut given: HashMap<&str, usize> = HashMap::new();
        for name in raw.clone().filter_map(|step| step.name.as_ref()) {
            if let Some(first) = given.insert(&name.value, name.span.start) {
                let first = self.problems.line_of(first);
                let message = format!("a step of this name is already on line {first}");
                self.wrong(&name.span, message, "give each step of a machine a name of its own");
            }
        }
        let mut taken: HashSet<String> = given.keys().map(|name| (*name).to_owned()).collect();
        let mut steps = Vec::new();
        for (index, raw) in raw.enumerate() {
            let name = match &raw.name {
                Some(name) => name.value.clone(),
                None => {
                    let mut name = format!("{}-{}", raw.step.kind.type_name(), index + 1);
                    while taken.contains(&name) {
                        name.push('x');
                    }
                    taken.insert(name.clone());
                    name
                }
            };
            steps.push(Step { name, ..raw.step.clone() });
        }
        steps
    }
}

/// `[a-z0-9]([a-z0-9-]*[a-z0-9])?`, at most 63: a label of a host name (RFC 1123, section 2.1).
pub(super) fn is_label(text: &str) -> bool {
    let word = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
    (1..=63).contains(&text.len())
        && text.starts_with(word)
        && text.ends_with(word)
        && text.chars().all(|c| word(c) || c == '-')
}

/// The label that a name with capitals, spaces or underscores was probably meant to be.
fn tidy_label(text: &str) -> Option<String> {
    let tidy: String =
        text.to_lowercase().chars().map(|c| if matches!(c, '_' | ' ' | '.') { '-' } else { c }).collect();
    is_label(&tidy).then_some(tidy)
}

/// Whether a box can have this name: one or two parts of `[a-z0-9][a-z0-9._-]*` with `/` between.
pub fn is_box_name(text: &str) -> bool {
    let part = |part: &str| {
        (1..=64).contains(&part.len())
            && part.starts_with(|c: char| c.is_ascii_lowercase() || c.is_ascii_digit())
            && part.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || "._-".contains(c))
    };
    match text.split_once('/') {
        Some((owner, name)) => part(owner) && part(name),
        None => part(text),
    }
}
