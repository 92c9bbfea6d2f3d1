//! `rvm network`: the private networks of this user.

use std::path::PathBuf;

use clap::{Args, Subcommand};
use serde_json::{Value, json};

use super::app::App;
use super::json::VERSION;
use super::ui::table::table;
use super::{DONE, Json, Outcome};
use crate::net::NetworkStatus;

/// Words of `rvm network`.
#[derive(Debug, Subcommand)]
pub enum NetworkVerb {
    /// Show the private networks and who is in them
    List(ListArgs),
}

/// Words of `rvm network list`.
#[derive(Debug, Args)]
pub struct ListArgs {
    #[command(flatten)]
    pub(super) json: Json,
}

/// Runs the sub-verb.
pub fn run(app: &App, verb: &NetworkVerb) -> Outcome {
    let NetworkVerb::List(_) = verb;
    let networks = app.machines()?.all_networks()?;
    if app.json {
        let list: Vec<Value> = networks.iter().map(document).collect();
        app.ui.json(&json!({ "version": VERSION, "networks": list }));
    } else {
        app.ui.result(&text(&networks));
    }
    Ok(DONE)
}

fn document(network: &NetworkStatus) -> Value {
    let connected = network.switch.iter().flat_map(|(_, ports)| ports);
    let members: Vec<Value> = network
        .members
        .iter()
        .map(|member| {
            let port = connected.clone().find(|port| port.id == member.id);
            json!({
                "machine": member.machine,
                "id": member.id,
                "directory": member.owner,
                "addresses": member.addresses,
                "connected": port.is_some(),
                "frames": port.map(|port| &port.counters),
            })
        })
        .collect();
    json!({
        "id": network.id,
        "name": network.spec.name,
        "directory": network.project.as_ref().map(|path| path.display().to_string()),
        "subnets": network.spec.subnets,
        "mtu": network.spec.mtu,
        "dhcp": network.spec.dhcp,
        "pid": network.switch.as_ref().map(|(pid, _)| pid),
        "members": members,
    })
}

fn text(networks: &[NetworkStatus]) -> String {
    if networks.is_empty() {
        return "There are no private networks. `[[machine.network]]` in a Vagrantfile makes one.".into();
    }
    let mut rows = Vec::new();
    for network in networks {
        let subnets: Vec<String> = network.spec.subnets.iter().map(ToString::to_string).collect();
        let whose = network.project.clone().unwrap_or_else(|| PathBuf::from("shared"));
        let ports = network.switch.as_ref().map(|(_, ports)| ports.as_slice()).unwrap_or_default();
        let mut first = true;
        for member in &network.members {
            let addresses: Vec<String> = member.addresses.iter().map(ToString::to_string).collect();
            let state = match ports.iter().any(|port| port.id == member.id) {
                true => "connected",
                false => "not connected",
            };
            let show = |text: String| if first { text } else { String::new() };
            rows.push(vec![
                show(network.spec.name.clone()),
                show(subnets.join(" ")),
                member.machine.clone(),
                addresses.join(" "),
                state.into(),
                show(whose.display().to_string()),
            ]);
            first = false;
        }
    }
    table(&["network", "subnet", "machine", "addresses", "state", "project"], &rows).trim_end().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::net::switch::{Counters, Member, PortStatus, Spec};

    #[test]
    fn the_list() {
        let member = |id: &str, ip: &str| Member {
            id: id.into(),
            machine: format!("m{id}"),
            owner: "/p".into(),
            mac: [2; 6],
            addresses: vec![ip.parse().unwrap()],
        };
        let subnets = vec!["10.10.0.0/24".parse().unwrap()];
        let port = PortStatus { id: "1".into(), machine: "m1".into(), counters: Counters::default() };
        let network = NetworkStatus {
            id: "0123456789abcdef".into(),
            spec: Spec { name: "backend".into(), subnets, dhcp: true, mtu: 1500 },
            project: Some("/p".into()),
            members: vec![member("1", "10.10.0.5"), member("2", "10.10.0.6")],
            switch: Some((42, vec![port])),
        };
        insta::assert_snapshot!(text(&[network]), @r"
        network  subnet        machine  addresses  state          project
        -----------------------------------------------------------------
        backend  10.10.0.0/24  m1       10.10.0.5  connected      /p
                               m2       10.10.0.6  not connected
        ");
        assert!(text(&[]).contains("no private networks"));
    }
}
