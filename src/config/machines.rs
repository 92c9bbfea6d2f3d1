//! The machines of the file, each with the layers of keys that hold for it.

use std::borrow::Cow;
use std::collections::{BTreeSet, HashMap};
use std::ops::Range;

use crate::model::Machine;

use super::claims::PortOwners;
use super::disks::ImageOwners;
use super::index::Turn;
use super::keys::Place;
use super::layer::{Layer, Stack};
use super::networks::RawCard;
use super::ports::MOST_PORTS;
use super::profiles::Profiles;
use super::relations::Member;
use super::report::brief;
use super::vars::Text;
use super::walk::{Reader, Sp, Table};

/// The name of the machine of a file that declares none.
const ONLY_MACHINE: &str = "default";
/// Machines of one file; what a large cluster on one host would need, several times over.
const MOST_MACHINES: u32 = 256;

/// A machine of the file before its layers are laid over each other.
struct Named {
    name: Text,
    /// Its header; `None` for the one machine of a file that declares none.
    header: Option<Range<usize>>,
    /// Its `box` or the default is there, if perhaps a wrong one.
    has_box: bool,
    /// The outer layers give it a host name that has been told to be wrong.
    shared_hostname: bool,
    /// Its cards beside the first.
    cards: Vec<RawCard>,
}

/// The machines so far, and what only one of them can have.
#[derive(Default)]
struct Merged {
    list: Vec<Machine>,
    /// For each name of `list` and those that lack a box: its place among the others.
    members: Vec<Member>,
    ports: PortOwners,
    images: ImageOwners,
    /// Host name to machine.
    hostnames: HashMap<String, String>,
    /// Name to where it is said.
    names: HashMap<String, usize>,
    /// Groups and families without a machine, because their `count` is 0.
    empty: BTreeSet<String>,
    /// A machine is missing because something is wrong with it.
    incomplete: bool,
}

/// The profile of a machine.
struct Chosen<'p> {
    layer: Option<Cow<'p, Layer>>,
    /// It has a box, or it is wrong and so may have one.
    has_box: bool,
}

/// What holds for all machines.
struct Outer<'r, 't> {
    top: &'r Table<'t>,
    layer: Layer,
    /// `{i}` stands in it, so that it is read anew for each copy.
    counted: bool,
    profiles: Profiles<'t>,
    /// Its host name would be that of several machines.
    shared_hostname: bool,
}

impl Reader<'_> {
    /// All machines of the file, checked against each other.
    pub fn machines(&mut self, top: &Table<'_>) -> Vec<Machine> {
        let mut merged = Merged::default();
        let profiles = self.profiles(top);
        let Some(declared) = top.raw("machine") else {
            let layer = self.layer(top);
            let profile = self.profile(None, top, &profiles);
            let name = Text::plain(ONLY_MACHINE);
            let has_box = top.raw("box").is_some() || profile.has_box;
            let only = Named { name, header: None, has_box, shared_hostname: false, cards: Vec::new() };
            let layers = std::iter::once(&layer).chain(profile.layer.as_deref()).collect();
            self.merge(only, &Stack(layers), &mut merged);
            return merged.list;
        };
        (self.vars.turn, self.vars.counted) = (Turn::Any, false);
        let layer = self.layer(top);
        let counted = std::mem::take(&mut self.vars.counted);
        self.vars.turn = Turn::Uncounted;
        let mut tables = Vec::new();
        for table in self.tables(top, "machine", Place::Machine) {
            let count = self.count(&table);
            tables.push((table, count));
        }
        let total = tables.iter().map(|(_, count)| count.unwrap_or(1)).sum::<u32>();
        if total == 0 && declared.get_ref().as_array().is_some_and(|list| list.len() == tables.len()) {
            let help = match tables.is_empty() {
                true => "remove it, or add a `[[machine]]`",
                false => "one of them needs a `count` of 1 or more",
            };
            self.wrong(&declared.span(), "this file declares no machine", help);
        } else if total > MOST_MACHINES {
            let message = format!("this file declares {total} machines");
            self.wrong(&declared.span(), message, format!("at most {MOST_MACHINES} are accepted"));
            return Vec::new();
        }
        let shared = layer.hostname.as_ref().filter(|_| total > 1 && !counted);
        if let Some(hostname) = shared {
            let help = "give each `[[machine]]` its own, or none: its name serves";
            self.wrong(&hostname.span, "several machines cannot share one `hostname`", help);
        }
        let shared_hostname = shared.is_some();
        let outer = Outer { top, layer, counted, profiles, shared_hostname };
        for (table, count) in &tables {
            self.copies(table, *count, &outer, &mut merged);
        }
        let Merged { mut list, members, empty, incomplete, .. } = merged;
        let waits = self.relate(&members, &empty, !incomplete);
        let mut members: HashMap<&str, (&Member, Vec<String>)> =
            members.iter().map(|member| member.name.value.as_str()).zip(members.iter().zip(waits)).collect();
        for machine in &mut list {
            if let Some((member, waits)) = members.remove(machine.name.as_str()) {
                machine.depends_on = waits;
                machine.primary = member.primary.is_some();
            }
        }
        list
    }

    /// The profile of a machine, as it reads for the copy at hand.
    fn profile<'p>(
        &mut self,
        machine: Option<&Table<'_>>,
        top: &Table<'_>,
        profiles: &'p Profiles<'_>,
    ) -> Chosen<'p> {
        let (layer, has_box) = match self.chosen(machine, top, profiles) {
            None => (None, false),
            Some(None) => (None, true),
            Some(Some(profile)) => {
                let layer = match profile.counted {
                    true => Cow::Owned(self.layer(&profile.table)),
                    false => Cow::Borrowed(&profile.layer),
                };
                (Some(layer), profile.table.raw("box").is_some())
            }
        };
        Chosen { layer, has_box }
    }

    /// How many copies of a machine there are to be; `None`: just itself.
    fn count(&mut self, table: &Table<'_>) -> Option<u32> {
        table.raw("count")?;
        let count = self.number(table, "count", 0, u64::from(MOST_MACHINES));
        // What is wrong has been noted; one copy finds what else is.
        Some(count.and_then(|count| u32::try_from(count.value).ok()).unwrap_or(1))
    }

    /// Reads a `[[machine]]` once for each of its copies.
    fn copies(&mut self, table: &Table<'_>, count: Option<u32>, outer: &Outer<'_, '_>, merged: &mut Merged) {
        let turns: Vec<Turn> = match count {
            None => vec![Turn::Uncounted],
            Some(0) => vec![Turn::Any],
            Some(count) => (1..=count).map(Turn::Number).collect(),
        };
        for turn in turns {
            let before = self.problems.count();
            self.vars.turn = turn;
            self.one_machine(table, count, outer, merged);
            // What is wrong with one copy is mostly wrong with all.
            if self.problems.count() > before {
                merged.incomplete |= count.is_some_and(|count| turn != Turn::Number(count));
                break;
            }
        }
        self.vars.turn = Turn::Uncounted;
    }

    fn one_machine(
        &mut self,
        table: &Table<'_>,
        count: Option<u32>,
        outer: &Outer<'_, '_>,
        merged: &mut Merged,
    ) {
        let again = if outer.counted { Some(self.layer(outer.top)) } else { None };
        let shared = again.as_ref().unwrap_or(&outer.layer);
        let name = self.machine_name(table, merged);
        let layer = self.layer(table);
        let profile = self.profile(Some(table), outer.top, &outer.profiles);
        let has_box = outer.top.raw("box").is_some() || table.raw("box").is_some() || profile.has_box;
        let primary = self.boolean(table, "primary").unwrap_or(false);
        let waits = self.texts(table, "depends_on", "[\"db\"]").unwrap_or_default();
        let profile = profile.layer.as_deref();
        let stack = Stack([Some(shared), profile, Some(&layer)].into_iter().flatten().collect());
        let mut groups: Vec<Sp<Text>> = stack.all(|layer| &layer.groups).cloned().collect();
        let primary = table.key_span("primary").filter(|_| primary);
        if let (Some(span), Some(count @ 2..)) = (&primary, count) {
            let message = format!("only one machine can be primary, and this one has {count} copies");
            self.wrong(span, message, "give the primary one a `[[machine]]` of its own");
        }
        let family = count.and_then(|_| self.family(table));
        if count == Some(0) {
            groups.extend(family);
            merged.empty.extend(groups.into_iter().map(|group| group.value.value));
            return;
        }
        let cards = self.cards(table);
        let Some(name) = name else {
            merged.incomplete = true;
            return;
        };
        merged.members.push(Member { name: name.clone(), groups, family, waits, primary });
        let shared_hostname = outer.shared_hostname
            && [Some(&layer), profile].into_iter().flatten().all(|layer| layer.hostname.is_none());
        let header = Some(table.span.clone());
        let named = Named { name, header, has_box, shared_hostname, cards };
        self.merge(named, &stack, merged);
    }

    /// The name that all copies of a machine share, where there is one.
    fn family(&mut self, table: &Table<'_>) -> Option<Sp<Text>> {
        let turn = std::mem::replace(&mut self.vars.turn, Turn::Family);
        let name = self.text(table, "name", "\"web\"");
        self.vars.turn = turn;
        let mut name = name?;
        for text in [&mut name.value.value, &mut name.value.shown] {
            *text = text.replace("--", "-").trim_matches('-').to_owned();
        }
        Some(name).filter(|name| is_label(&name.value.value))
    }

    fn machine_name(&mut self, table: &Table<'_>, merged: &mut Merged) -> Option<Text> {
        if table.raw("name").is_none() {
            self.wrong(&table.span, "this machine has no `name`", "add `name = \"web\"`");
            return None;
        }
        self.vars.counted = false;
        let mut name = self.text(table, "name", "\"web\"")?;
        if let (Turn::Number(i), false) = (self.vars.turn, self.vars.counted) {
            for text in [&mut name.value.value, &mut name.value.shown] {
                text.push_str(&format!("-{i}"));
            }
        }
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
        // A `count` of 0 makes no machine that could have the name.
        if self.vars.turn == Turn::Any {
            return Some(name.value);
        }
        if let Some(first) = merged.names.insert(name.value.value.clone(), name.span.start) {
            let message = if first == name.span.start {
                format!("several copies of this machine are called {:?}", brief(&name.value.shown))
            } else {
                let line = self.problems.line_of(first);
                format!("a machine called {:?} is already on line {line}", brief(&name.value.shown))
            };
            self.wrong(&name.span, message, "give each machine a name of its own");
            return None;
        }
        Some(name.value)
    }

    /// Adds a machine with its layers applied.
    fn merge(&mut self, named: Named, stack: &Stack<'_>, into: &mut Merged) {
        let Named { name, header, has_box, shared_hostname, cards } = named;
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
        if let Some(port) = stack.pick(|layer| layer.ssh.port.as_ref()) {
            self.claim_ssh_port(port, shown, &mut into.ports);
        }
        if let Some(port) = ports.clone().nth(MOST_PORTS) {
            let message = format!("more than {MOST_PORTS} ports lead to the machine `{shown}`");
            self.wrong(&port.span, message, "forward fewer; `rvm proxy` reaches them all");
        }
        let disks = self.merge_disks(shown, stack.all(|layer| &layer.disks.extra), &mut into.images);
        let layers = stack.0.iter().map(|layer| &layer.folders);
        let (folders, absent) = self.merge_folders(shown, layers, &disks, header.as_ref());
        let given = stack.pick(|layer| layer.hostname.as_ref());
        let hostname = given.map_or_else(|| name.value.clone(), |hostname| hostname.value.clone());
        let place = given.map(|hostname| hostname.span.clone()).or(header);
        if let Some(place) = place.filter(|_| !shared_hostname) {
            self.claim_hostname(&hostname, shown, &place, &mut into.hostnames);
        }
        let member = into.members.last();
        let named = member.iter().flat_map(|member| member.groups.iter().chain(&member.family));
        let mut groups: Vec<String> = Vec::new();
        for group in named.map(|group| &group.value.value) {
            if !groups.contains(group) {
                groups.push(group.clone());
            }
        }
        let (cards, host_cards) = self.attach(&cards, shown);
        let nat_backend = stack.pick(|layer| layer.nat_backend.as_ref());
        let nat = self.check_nat(stack, nat_backend);
        // Without a box the file is refused anyway.
        let Some(box_name) = stack.pick(|layer| layer.box_name.as_ref()) else { return };
        let base = Machine::new(name.value, box_name.value.clone());
        into.list.push(Machine {
            cpus: stack.pick(|layer| layer.cpus).unwrap_or(base.cpus),
            nested: stack.pick(|layer| layer.nested).unwrap_or(base.nested),
            memory: stack.pick(|layer| layer.memory).unwrap_or(base.memory),
            disk: stack.pick(|layer| layer.disks.root),
            disks,
            folders,
            absent,
            hostname,
            provider: stack.pick(|layer| layer.provider),
            kernel: stack.pick(|layer| layer.kernel).unwrap_or_default(),
            ssh: stack.ssh(),
            ports: ports.map(|port| port.value.clone()).collect(),
            auto_forward: stack.pick(|layer| layer.auto_forward).unwrap_or(base.auto_forward),
            nat,
            nat_backend: nat_backend.map(|backend| backend.value).unwrap_or_default(),
            cards,
            host_cards,
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
