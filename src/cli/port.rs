//! `rvm port`: which port of the host leads where.

use clap::Args;
use serde_json::json;

use super::app::App;
use super::error::CliError;
use super::json::{Port, VERSION};
use super::target;
use super::{DONE, Json, Outcome};
use crate::machine::{State, Status};
use crate::model::{Forward, Protocol};

/// The guest's SSH port.
const SSH_PORT: u16 = 22;

/// Words of `rvm port`.
#[derive(Debug, Args)]
pub struct PortArgs {
    /// Machine or id; needed where the project has several
    #[arg(value_name = "NAME")]
    name: Option<String>,
    /// Print just the host's port that leads to this port of the guest
    #[arg(long, value_name = "PORT", value_parser = clap::value_parser!(u16).range(1..))]
    guest: Option<u16>,
    #[command(flatten)]
    pub(super) json: Json,
}

/// Prints the ports of a running machine, as they are after `auto_correct`.
pub fn run(app: &App, args: &PortArgs) -> Outcome {
    let machines = app.machines()?;
    let target = target::resolve_one(app, &machines, &args.name, "port")?;
    let status = target.status(&machines)?;
    if status.state != State::Running {
        let state = super::status::word(status.state);
        return Err(CliError::failed(format!("cannot show the ports of {}: it is {state}", target.name))
            .hint(format!("`rvm up {}` starts it", target.name)));
    }
    let mut ports = all_ports(&status);
    if let Some(guest) = args.guest {
        ports.retain(|port| port.guest == guest);
        if ports.is_empty() {
            return Err(CliError::failed(format!(
                "no port of the host leads to port {guest} of {}",
                target.name
            ))
            .hint("`rvm port` shows those that there are"));
        }
    }
    if app.json {
        let list: Vec<Port> = ports.iter().map(Port::from).collect();
        app.ui.json(&json!({ "version": VERSION, "machine": target.name, "ports": list }));
    } else {
        app.ui.result(&text(&ports, args.guest.is_some()));
    }
    Ok(DONE)
}

fn all_ports(status: &Status) -> Vec<Forward> {
    let ssh = status.ssh.map(|at| Forward {
        guest: SSH_PORT,
        host: at.port(),
        host_ip: at.ip(),
        protocol: Protocol::Tcp,
        auto_correct: true,
    });
    ssh.into_iter().chain(status.ports.iter().cloned()).collect()
}

fn text(ports: &[Forward], bare: bool) -> String {
    if bare {
        return ports.iter().map(|p| p.host.to_string()).collect::<Vec<_>>().join("\n");
    }
    if ports.is_empty() {
        return "No port is forwarded.".into();
    }
    let lines = ports.iter().map(|port| {
        let protocol = if port.protocol == Protocol::Udp { "/udp" } else { "" };
        let host = std::net::SocketAddr::new(port.host_ip, port.host);
        // Vagrant's form, with the address only where it is not the usual one.
        if port.host_ip.is_loopback() {
            format!("{:>6}{protocol} (guest) => {} (host)", port.guest, port.host)
        } else {
            format!("{:>6}{protocol} (guest) => {host} (host)", port.guest)
        }
    });
    lines.collect::<Vec<_>>().join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::{IpAddr, Ipv4Addr};

    fn forward(guest: u16, host: u16, protocol: Protocol, ip: Ipv4Addr) -> Forward {
        Forward { guest, host, host_ip: IpAddr::V4(ip), protocol, auto_correct: false }
    }

    #[test]
    fn the_look_of_vagrant() {
        let ports = [
            forward(22, 2222, Protocol::Tcp, Ipv4Addr::LOCALHOST),
            forward(53, 5353, Protocol::Udp, Ipv4Addr::UNSPECIFIED),
        ];
        assert_eq!(
            text(&ports, false),
            "    22 (guest) => 2222 (host)\n    53/udp (guest) => 0.0.0.0:5353 (host)"
        );
        assert_eq!(text(&ports[..1], true), "2222");
        assert_eq!(text(&[], false), "No port is forwarded.");
    }
}
