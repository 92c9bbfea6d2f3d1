//! `rvm graph`: what the file declares, as text or as a picture. Looks at no machine.

mod svg;
#[cfg(test)]
mod tests;
mod text;

use std::collections::BTreeMap;
use std::path::PathBuf;

use clap::Args;
use serde_json::{Value, json};

use super::app::App;
use super::error::CliError;
use super::json::{Port, VERSION};
use super::{DONE, Json, Outcome};
use crate::model::{Card, Code, Machine, Network, Project};
use crate::plan::in_order;
use crate::state::store;

/// Words of `rvm graph`.
#[derive(Debug, Args)]
pub struct GraphArgs {
    /// Draw it into this file; `-` prints the picture
    #[arg(long, value_name = "FILE", conflicts_with = "json")]
    svg: Option<PathBuf>,
    #[command(flatten)]
    pub(super) json: Json,
}

/// A project, as it is drawn.
struct Graph<'a> {
    project: &'a Project,
    /// In the order in which they come up, else in that of the file, each with its stage: machines of one
    /// stage need only those of earlier ones. From 0.
    machines: Vec<(&'a Machine, usize)>,
}

impl<'a> Graph<'a> {
    fn of(project: &'a Project) -> Graph<'a> {
        let mut stages: BTreeMap<&str, usize> = BTreeMap::new();
        let mut machines = Vec::new();
        for machine in in_order(&project.machines) {
            let needed = machine.depends_on.iter().filter_map(|name| stages.get(name.as_str()));
            let stage = needed.max().map_or(0, |stage| stage + 1);
            stages.insert(&machine.name, stage);
            machines.push((machine, stage));
        }
        // What comes up together stands together.
        machines.sort_by_key(|(_, stage)| *stage);
        Graph { project, machines }
    }

    /// The names of each stage; just one where nothing depends on anything.
    fn stages(&self) -> Vec<Vec<&'a str>> {
        let mut stages: Vec<Vec<&str>> = Vec::new();
        for (machine, stage) in &self.machines {
            if stages.len() <= *stage {
                stages.resize_with(stage + 1, Vec::new);
            }
            if let Some(names) = stages.get_mut(*stage) {
                names.push(&machine.name);
            }
        }
        stages
    }

    /// Who is in a network.
    fn members(&self, network: &'a Network) -> impl Iterator<Item = (&'a Machine, &'a Card)> {
        self.machines.iter().flat_map(move |(machine, _)| {
            let cards = machine.cards.iter().filter(move |card| card.network == network.name);
            cards.map(move |card| (*machine, card))
        })
    }

    fn document(&self) -> Value {
        let machine = |(machine, stage): &(&Machine, usize)| {
            let ports: Vec<Port> = machine.ports.iter().map(Port::from).collect();
            let cards = machine.cards.iter().map(
                |card| json!({ "network": card.network, "addresses": card.addresses, "dhcp": card.dhcp }),
            );
            json!({
                "name": machine.name,
                "box": machine.box_name,
                "cpus": machine.cpus,
                "memory": machine.memory,
                "groups": machine.groups,
                "primary": machine.primary,
                "autostart": machine.autostart,
                "stage": stage,
                "depends_on": machine.depends_on,
                "ports": ports,
                "networks": cards.collect::<Vec<_>>(),
                "host_networks": machine.host_cards.iter().map(|card| card.to.to_string()).collect::<Vec<_>>(),
            })
        };
        let network = |network: &Network| {
            json!({
                "name": network.name,
                "subnets": network.subnets,
                "shared": network.shared,
                "dhcp": network.dhcp,
                "mtu": network.mtu,
            })
        };
        json!({
            "version": VERSION,
            "directory": self.project.root.display().to_string(),
            "machines": self.machines.iter().map(machine).collect::<Vec<_>>(),
            "networks": self.project.networks.iter().map(network).collect::<Vec<_>>(),
        })
    }
}

/// Processors and memory, as people say them.
fn size(machine: &Machine) -> String {
    let cpus = if machine.cpus == 1 { "1 CPU".to_owned() } else { format!("{} CPUs", machine.cpus) };
    format!("{cpus}, {}", crate::plan::mebibytes(machine.memory))
}

/// Draws what the file says.
pub fn run(app: &App, args: &GraphArgs) -> Outcome {
    let project = app.project()?;
    let graph = Graph::of(&project);
    match &args.svg {
        _ if app.json => app.ui.json(&graph.document()),
        None => app.ui.result(text::text(&graph).trim_end()),
        Some(path) if path.as_os_str() == "-" => app.ui.result(svg::draw(&graph).trim_end()),
        Some(path) => {
            let path = app.cwd()?.join(path);
            store::write_shared(&path, svg::draw(&graph).as_bytes()).map_err(|error| {
                CliError::failed(Code::WriteFile, format!("cannot write {}", path.display())).because(&error)
            })?;
            app.ui.note(&format!("The picture is in {}.", path.display()));
        }
    }
    Ok(DONE)
}
