//! What `config` would refuse, mended and noted: the file that is written is a valid one.

use std::collections::HashSet;

use super::super::draft::{Entry, Layer, Out, Table};
use super::settings::tidy_name;
use super::{Mapper, boxes};

/// Settings that go to the top of the file where all machines agree.
const SHARED: [&str; 7] = ["box", "cpus", "memory", "nested", "disk", "boot_timeout", "halt_timeout"];
/// Entries of one list, as `config` has it.
const MOST_ENTRIES: usize = 1000;
/// Disks of one machine beside the root disk, as `config` has it.
const MOST_DISKS: usize = 6;

impl Mapper<'_, '_> {
    pub(super) fn check(&mut self) {
        self.cards();
        self.place_groups();
        self.name_machines();
        self.place_hooks();
        self.share();
        self.have_a_box();
        self.one_primary();
        self.hostnames();
        self.ports();
        self.steps();
        self.disks();
        self.root_disks();
    }

    fn machines(&self) -> usize {
        self.layers.len().saturating_sub(1)
    }

    fn name_machines(&mut self) {
        let mut taken: HashSet<String> = HashSet::new();
        for index in 1..self.layers.len() {
            let Some(layer) = self.layers.get_mut(index) else { break };
            let at = layer.at;
            let name = layer.name.clone().unwrap_or_default();
            let tidy = tidy_name(&name, false);
            let mut own = tidy.clone();
            let mut number = 2;
            while !taken.insert(own.clone()) {
                own = format!("{}-{number}", tidy.chars().take(58).collect::<String>());
                number += 1;
            }
            layer.name = Some(own.clone());
            if own != name {
                self.lost(at, format!("machine names have only a to z, 0 to 9 and `-`: it is `{own}` here"));
            }
        }
    }

    /// Cards in private networks belong to machines: those at the top go to all of them.
    fn cards(&mut self) {
        let Some((top, machines)) = self.layers.split_first_mut() else { return };
        let (cards, others) =
            std::mem::take(&mut top.tables).into_iter().partition(|table| table.kind == "network");
        top.tables = others;
        let cards: Vec<Table> = cards;
        let Some(first) = cards.first() else { return };
        if machines.is_empty() {
            let at = first.at;
            self.layers.push(Layer { name: Some("default".into()), at, tables: cards, ..Layer::default() });
            return;
        }
        for machine in machines {
            let own = std::mem::take(&mut machine.tables);
            machine.tables = cards.iter().cloned().chain(own).collect();
        }
    }

    /// Moves what all machines say to the top of the file.
    fn share(&mut self) {
        for key in SHARED {
            let Some((top, machines)) = self.layers.split_first_mut() else { return };
            let Some(first) = machines.first().and_then(|machine| machine.get(key)).cloned() else {
                continue;
            };
            let all = machines.len() > 1
                && machines
                    .iter()
                    .all(|machine| machine.get(key).is_some_and(|own| own.value == first.value));
            if all {
                top.set(first);
                for machine in machines {
                    machine.entries.retain(|entry| entry.key != key);
                }
            }
        }
    }

    fn have_a_box(&mut self) {
        let Some((top, machines)) = self.layers.split_first_mut() else { return };
        let lacking = |layer: &Layer| layer.get("box").is_none();
        if lacking(top) && (machines.is_empty() || machines.iter().any(lacking)) {
            let remark = Some("the Ruby file says nothing that is known".to_owned());
            let value = Out::Str(boxes::STAND_IN.to_owned());
            top.set(Entry { key: "box", value, remark, at: (1, 1) });
            self.lost(
                (1, 1),
                format!("the file names no box that is known here: {} stands in", boxes::STAND_IN),
            );
        }
    }

    fn one_primary(&mut self) {
        let mut seen = false;
        for layer in &mut self.layers {
            let count = layer.entries.len();
            layer.entries.retain(|entry| entry.key != "primary" || !seen);
            seen |= layer.get("primary").is_some();
            if layer.entries.len() < count {
                let at = layer.at;
                self.notes.add(super::Sort::Lost, at, "one machine can be primary, and there is one already");
            }
        }
    }

    fn hostnames(&mut self) {
        let several = self.machines() > 1;
        let mut taken: HashSet<String> = self.layers.iter().filter_map(|layer| layer.name.clone()).collect();
        for index in 0..self.layers.len() {
            let Some(layer) = self.layers.get(index) else { break };
            let Some(entry) = layer.get("hostname").cloned() else { continue };
            let Out::Str(hostname) = &entry.value else { continue };
            let why = if index == 0 && several {
                Some("several machines cannot have one host name: each has its own name")
            } else if Some(hostname) == layer.name.as_ref() {
                // The name of the machine serves anyway.
                None
            } else if taken.insert(hostname.clone()) {
                continue;
            } else {
                Some("another machine has this host name")
            };
            if let Some(layer) = self.layers.get_mut(index) {
                layer.entries.retain(|entry| entry.key != "hostname");
            }
            if let Some(why) = why {
                self.lost(entry.at, why);
            }
        }
    }

    /// Two forwards of one host port: the later one may move.
    fn ports(&mut self) {
        let several = self.machines() > 1;
        let mut taken: HashSet<String> = self.ssh_ports(several);
        let mut moved = Vec::new();
        for (index, layer) in self.layers.iter_mut().enumerate() {
            for port in layer.tables.iter_mut().filter(|table| table.kind == "port") {
                let key = format!("{:?} {:?}", port.get("host"), port.get("protocol"));
                let shared = index == 0 && several;
                if (!taken.insert(key) || shared) && port.get("auto_correct").is_none() {
                    port.set("auto_correct", Out::Bool(true));
                    moved.push((port.at, shared));
                }
            }
        }
        for (at, shared) in moved {
            let why = match shared {
                true => "each machine has this port: `auto_correct` lets the later ones move",
                false => "another port of this host has the number: `auto_correct` lets this one move",
            };
            self.lost(at, why);
        }
    }

    /// Ports for SSH, each of one machine: as [`Mapper::ports`] tells ports apart.
    fn ssh_ports(&mut self, several: bool) -> HashSet<String> {
        let mut taken = HashSet::new();
        let mut dropped = Vec::new();
        for (index, layer) in self.layers.iter_mut().enumerate() {
            layer.entries.retain(|entry| {
                let is_port = entry.key == "ssh.port";
                let (host, protocol) = (Some(&entry.value), None::<&Out>);
                let fits =
                    !is_port || !(index == 0 && several) && taken.insert(format!("{host:?} {protocol:?}"));
                if !fits {
                    dropped.push(entry.at);
                }
                fits
            });
        }
        for at in dropped {
            self.lost(at, "several machines cannot have one port for SSH: it is any free one");
        }
        taken
    }

    /// A step of a machine cannot have the name of one at the top.
    fn steps(&mut self) {
        let name_of = |table: &Table| match table.get("name") {
            Some(Out::Str(name)) => Some(name.clone()),
            _ => None,
        };
        let is_step = |table: &&mut Table| table.kind == "provision";
        let mut at_top: HashSet<String> = HashSet::new();
        let mut renamed = Vec::new();
        for (index, layer) in self.layers.iter_mut().enumerate() {
            let mut taken = at_top.clone();
            for step in layer.tables.iter_mut().filter(is_step) {
                let Some(name) = name_of(step) else { continue };
                let mut own = name.clone();
                let mut number = 2;
                while !taken.insert(own.clone()) {
                    own = format!("{} {number}", name.chars().take(58).collect::<String>().trim_end());
                    number += 1;
                }
                if own != name {
                    step.set("name", Out::Str(own.clone()));
                    renamed.push((step.at, own));
                }
            }
            if index == 0 {
                at_top = taken;
            }
        }
        for (at, own) in renamed {
            let why =
                format!("Vagrant lets it replace the step of this name for all machines; it is `{own}` here");
            self.lost(at, why);
        }
        for layer in &mut self.layers {
            for kind in ["provision", "port"] {
                let mut count = 0;
                let mut cut = None;
                layer.tables.retain(|table| {
                    count += usize::from(table.kind == kind);
                    let fits = table.kind != kind || count <= MOST_ENTRIES;
                    if !fits {
                        cut.get_or_insert(table.at);
                    }
                    fits
                });
                if let Some(at) = cut {
                    let why = format!("more than {MOST_ENTRIES} entries of one kind");
                    self.notes.add(super::Sort::Lost, at, why);
                }
            }
        }
    }

    /// `disk = "…"` beside `[[disk]]` is one of them, called `root`.
    fn root_disks(&mut self) {
        for layer in &mut self.layers {
            if !layer.tables.iter().any(|table| table.kind == "disk") {
                continue;
            }
            let Some(size) = layer.get("disk").cloned() else { continue };
            layer.entries.retain(|entry| entry.key != "disk");
            let entries = vec![("name", Out::Str("root".into())), ("size", size.value)];
            layer.tables.insert(0, Table { kind: "disk", entries, at: size.at });
        }
    }

    fn disks(&mut self) {
        let mut shared: Vec<Out> = Vec::new();
        let mut dropped = Vec::new();
        for (index, layer) in self.layers.iter_mut().enumerate() {
            let mut taken = shared.clone();
            layer.tables.retain(|table| {
                if table.kind != "disk" {
                    return true;
                }
                let name = table.get("name").cloned().unwrap_or(Out::Bool(false));
                let fits = taken.len() < MOST_DISKS && !taken.contains(&name);
                if fits {
                    taken.push(name);
                } else {
                    dropped.push(table.at);
                }
                fits
            });
            if index == 0 {
                shared = taken;
            }
        }
        for at in dropped {
            let why = format!("a machine has at most {MOST_DISKS} disks, each with a name of its own");
            self.lost(at, why);
        }
    }
}
