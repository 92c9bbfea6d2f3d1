//! The machines of the file, each with the layers of keys that hold for it.

use std::collections::HashMap;
use std::ops::Range;

use crate::model::Machine;

use super::claims::PortOwners;
use super::disks::ImageOwners;
use super::keys::Place;
use super::layer::Stack;
use super::relations::Member;
use super::report::brief;
use super::vars::Text;
use super::walk::{Reader, Table};

/// The name of the machine of a file that declares none.
const ONLY_MACHINE: &str = "default";
/// Machines of one file; what a large cluster on one host would need, several times over.
const MOST_MACHINES: usize = 256;

/// A machine of the file before its layers are laid over each other.
struct Named {
    name: Text,
    /// Its header; `None` for the one machine of a file that declares none.
    header: Option<Range<usize>>,
    /// Its `box` or the default is there, if perhaps a wrong one.
    has_box: bool,
    /// The outer layers give it a host name that has been told to be wrong.
    shared_hostname: bool,
}

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
        let mut merged = Merged::default();
        let Some(declared) = top.raw("machine") else {
            let name = Text::plain(ONLY_MACHINE);
            let has_box = top.raw("box").is_some();
            let only = Named { name, header: None, has_box, shared_hostname: false };
            self.merge(only, &Stack(vec![&defaults]), &mut merged);
            return merged.list;
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
        let shared_hostname = defaults.hostname.as_ref().filter(|_| count > 1);
        if let Some(hostname) = shared_hostname {
            let help = "give each `[[machine]]` its own, or none: its name serves";
            self.wrong(&hostname.span, "several machines cannot share one `hostname`", help);
        }
        let mut seen = HashMap::new();
        let mut members = Vec::new();
        for table in self.tables(top, "machine", Place::Machine) {
            let name = self.machine_name(&table, &mut seen);
            let layer = self.layer(&table);
            let has_box = top.raw("box").is_some() || table.raw("box").is_some();
            let primary = self.boolean(&table, "primary").unwrap_or(false);
            let waits = self.texts(&table, "depends_on", "[\"db\"]").unwrap_or_default();
            if let Some(name) = name {
                let stack = Stack(vec![&defaults, &layer]);
                members.push(Member {
                    name: name.clone(),
                    groups: stack.all(|layer| &layer.groups).cloned().collect(),
                    waits,
                    primary: table.key_span("primary").filter(|_| primary),
                });
                let shared_hostname = shared_hostname.is_some() && layer.hostname.is_none();
                let named = Named { name, header: Some(table.span), has_box, shared_hostname };
                self.merge(named, &stack, &mut merged);
            }
        }
        let waits = self.relate(&members, members.len() == count);
        let mut members: HashMap<&str, (&Member, Vec<String>)> =
            members.iter().map(|member| member.name.value.as_str()).zip(members.iter().zip(waits)).collect();
        for machine in &mut merged.list {
            if let Some((member, waits)) = members.remove(machine.name.as_str()) {
                machine.depends_on = waits;
                machine.primary = member.primary.is_some();
            }
        }
        merged.list
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

    /// Adds a machine with its layers applied.
    fn merge(&mut self, named: Named, stack: &Stack<'_>, into: &mut Merged) {
        let Named { name, header, has_box, shared_hostname } = named;
        let shown = &name.shown;
        if !has_box {
            let message = format!("nothing says which box the machine `{shown}` starts from");
            match &header {
                Some(span) => self.wrong(span, message, "add `box = \"debian/13\"`"),
                None => self.problems.add_whole(message, "add `box = \"debian/13\"` at the top of the file"),
            }
        }
        let steps = self.name_steps(stack.all(|layer| &layer.steps));
        let ports = stack.all(|layer| &layer.ports);
        for port in ports.clone() {
            self.claim_port(port, shown, &mut into.ports);
        }
        let disks = self.merge_disks(shown, stack.all(|layer| &layer.disks.extra), &mut into.images);
        let given = stack.pick(|layer| layer.hostname.as_ref());
        let hostname = given.map_or_else(|| name.value.clone(), |hostname| hostname.value.clone());
        let place = given.map(|hostname| hostname.span.clone()).or(header);
        if let Some(place) = place.filter(|_| !shared_hostname) {
            self.claim_hostname(&hostname, shown, &place, &mut into.hostnames);
        }
        let mut groups: Vec<String> = Vec::new();
        for group in stack.all(|layer| &layer.groups) {
            if !groups.contains(&group.value.value) {
                groups.push(group.value.value.clone());
            }
        }
        // Without a box the file is refused anyway.
        let Some(box_name) = stack.pick(|layer| layer.box_name.as_ref()) else { return };
        let base = Machine::new(name.value, box_name.value.clone());
        into.list.push(Machine {
            cpus: stack.pick(|layer| layer.cpus).unwrap_or(base.cpus),
            nested: stack.pick(|layer| layer.nested).unwrap_or(base.nested),
            memory: stack.pick(|layer| layer.memory).unwrap_or(base.memory),
            disk: stack.pick(|layer| layer.disks.root),
            disks,
            hostname,
            provider: stack.pick(|layer| layer.provider),
            kernel: stack.pick(|layer| layer.kernel).unwrap_or_default(),
            ports: ports.map(|port| port.value.clone()).collect(),
            steps,
            boot_timeout: stack.pick(|layer| layer.boot_timeout).unwrap_or(base.boot_timeout),
            halt_timeout: stack.pick(|layer| layer.halt_timeout).unwrap_or(base.halt_timeout),
            groups,
            autostart: stack.pick(|layer| layer.autostart).unwrap_or(base.autostart),
            ready: stack.all(|layer| &layer.probes).cloned().collect(),
            message: stack.pick(|layer| layer.message.clone()),
            ..base
        });
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
