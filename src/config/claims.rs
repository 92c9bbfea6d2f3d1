//! What only one machine of a project, or one step of a machine, can have.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::ops::Range;

use crate::model::{Forward, Protocol, Step};

use super::index::Turn;
use super::steps::RawStep;
use super::walk::{Reader, Sp};

/// Who has which port of the host.
#[derive(Default)]
pub(super) struct PortOwners {
    /// For each address the machine, and where that is said.
    owners: HashMap<(u16, Protocol), BTreeMap<IpAddr, (String, usize)>>,
    /// Places that were told to clash: two ranges do so in many ports.
    told: HashSet<(usize, usize)>,
}

impl Reader<'_> {
    /// Notes a host port that an earlier forward of the project has, unless this one may move.
    pub fn claim_port(&mut self, port: &Sp<Forward>, machine: &str, taken: &mut PortOwners) {
        self.claim(
            port,
            machine,
            taken,
            [
                "give each copy its own, such as `host = \"{i+8000}\"`, or set `auto_correct = true`",
                "choose another `host`, or set `auto_correct = true` to let this one move",
            ],
        );
    }

    /// The same for the port that leads to SSH.
    pub fn claim_ssh_port(&mut self, port: &Sp<u16>, machine: &str, taken: &mut PortOwners) {
        let forward = Sp { value: Forward::ssh(port.value), span: port.span.clone() };
        self.claim(
            &forward,
            machine,
            taken,
            [
                "give each copy its own, such as `port = \"{i+2200}\"`",
                "choose another `port`, or leave it out: any free one is taken",
            ],
        );
    }

    /// `help`: for copies of one machine, and for others.
    fn claim(&mut self, port: &Sp<Forward>, machine: &str, taken: &mut PortOwners, help: [&str; 2]) {
        const ANY: [IpAddr; 2] = [IpAddr::V4(Ipv4Addr::UNSPECIFIED), IpAddr::V6(Ipv6Addr::UNSPECIFIED)];
        let Forward { host, host_ip, protocol, auto_correct, .. } = port.value;
        let owners = taken.owners.entry((host, protocol)).or_default();
        // An address that stands for all of them meets every other one.
        let owner = match host_ip.is_unspecified() {
            true => owners.values().next(),
            false => owners.get(&host_ip).or_else(|| ANY.iter().find_map(|any| owners.get(any))),
        };
        if let Some((owner, at)) = owner.filter(|_| !auto_correct) {
            if !taken.told.insert((*at, port.span.start)) {
                return;
            }
            let line = self.problems.line_of(*at);
            let message = format!("this port of the host already leads to `{owner}` (line {line})");
            let own_copy = *at == port.span.start && matches!(self.vars.turn, Turn::Number(_));
            self.wrong(&port.span, message, help[usize::from(!own_copy)]);
        } else {
            owners.entry(host_ip).or_insert_with(|| (machine.to_owned(), port.span.start));
        }
    }

    /// Notes a host name that an earlier machine of the project has.
    pub fn claim_hostname(
        &mut self,
        hostname: &str,
        machine: &str,
        place: &Range<usize>,
        taken: &mut HashMap<String, String>,
    ) {
        if let Some(first) = taken.get(hostname) {
            let message = format!("the machines `{first}` and `{machine}` have the same host name");
            let help = match self.vars.turn {
                Turn::Number(_) => "give each its own `hostname`, such as `\"web-{i}.example\"`",
                _ => "give each its own `hostname`",
            };
            self.wrong(place, message, help);
        } else {
            taken.insert(hostname.to_owned(), machine.to_owned());
        }
    }

    /// Names from kind and position where the file gives none; each is there once.
    pub fn name_steps<'s>(&mut self, raw: impl Iterator<Item = &'s RawStep> + Clone) -> Vec<Step> {
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
