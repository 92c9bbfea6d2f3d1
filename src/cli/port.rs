//! `rvm port`: which port of the host leads where.

use std::net::{IpAddr, Ipv4Addr};

use clap::{Args, Subcommand};
use serde_json::json;

use super::app::App;
use super::error::CliError;
use super::json::{Port, VERSION};
use super::{DONE, Json, Outcome};
use super::{ssh, target};
use crate::machine::{OpenPort, PortOrigin, State, Status};
use crate::model::{Code, Forward, Protocol};

/// The guest's SSH port.
const SSH_PORT: u16 = 22;

/// Words of `rvm port`.
#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true)]
pub struct PortArgs {
    #[command(subcommand)]
    verb: Option<PortVerb>,
    /// Machine or id; needed where the project has several
    #[arg(value_name = "NAME")]
    name: Option<String>,
    /// Print just the host's port that leads to this port of the guest
    #[arg(long, value_name = "PORT", value_parser = clap::value_parser!(u16).range(1..))]
    guest: Option<u16>,
    #[command(flatten)]
    pub(super) json: Json,
}

/// Words of `rvm port VERB`.
#[derive(Debug, Subcommand)]
enum PortVerb {
    /// Forward one more TCP port of a running machine, until it ends
    Add(WordsArgs),
    /// End a forward that `rvm port add` made
    Remove(WordsArgs),
}

/// Words of `rvm port add` and `rvm port remove`.
#[derive(Debug, Args)]
#[command(after_help = "For example: rvm port add web 8080:80, rvm port remove web 8080\n\
    A connection takes the way of `rvm ssh` and reaches what listens on 127.0.0.1 in the guest. A guest that \
    reboots is connected to again. Ports of the Vagrantfile are faster, and there is UDP for them.")]
struct WordsArgs {
    /// Machine or id, needed where the project has several; then [ADDRESS:]HOST:GUEST to add, HOST to remove
    #[arg(value_name = "[NAME] PORT", required = true, num_args = 1..=2)]
    words: Vec<String>,
}

impl WordsArgs {
    fn split(&self) -> (Option<String>, &str) {
        match self.words.as_slice() {
            [name, port, ..] => (Some(name.clone()), port),
            [port] => (None, port),
            [] => (None, ""),
        }
    }
}

fn add(app: &App, args: &WordsArgs) -> Outcome {
    let (name, word) = args.split();
    let forward = parse(word)?;
    let machines = app.machines()?;
    let target = target::resolve_one(app, &machines, &name, "port add")?;
    let (project, machine) = target.declaration()?;
    let info = machines.ssh_info(project, &machine.name)?;
    if info.identity.is_none() {
        return Err(CliError::failed(
            Code::NotForwarded,
            format!("cannot forward a port to {}: it is logged in to by password", machine.name),
        )
        .hint("add it to the Vagrantfile and `rvm reload`, or use a key"));
    }
    machines.add_forward(project, &machine.name, &forward, ssh::words(&info))?;
    app.ui.note(&format!("{} of {} until it ends.", one(&forward).trim_start(), machine.name));
    Ok(DONE)
}

fn remove(app: &App, args: &WordsArgs) -> Outcome {
    let (name, word) = args.split();
    let Some(host) = port_of(word.trim_end_matches("/tcp")) else {
        return Err(CliError::usage(format!("`{word}` is no port of the host"))
            .hint("for example `rvm port remove web 8080`"));
    };
    let machines = app.machines()?;
    let target = target::resolve_one(app, &machines, &name, "port remove")?;
    let status = target.status(&machines)?;
    if machines.remove_forward(&status, host, Protocol::Tcp)? {
        app.ui.note(&format!("Port {host} of the host leads to {} no more.", target.name));
        return Ok(DONE);
    }
    let error = CliError::failed(
        Code::NoSuchPort,
        format!("`rvm port add` has not added port {host} to {}", target.name),
    );
    let found = status.ports.iter().find(|port| port.forward.host == host);
    Err(match found.map(|port| port.origin) {
        Some(PortOrigin::Followed) => {
            error.hint("a program of the guest listens there, and the Vagrantfile says `auto_forward`")
        }
        Some(_) => error.hint("it is one of the Vagrantfile: take it out there, and `rvm reload`"),
        None => error.hint("`rvm port` shows those that there are"),
    })
}

fn port_of(text: &str) -> Option<u16> {
    text.parse().ok().filter(|port| *port > 0)
}

/// `[ADDRESS:]HOST:GUEST`.
fn parse(word: &str) -> Result<Forward, CliError> {
    let wrong = || {
        CliError::usage(format!("`{word}` is not HOST:GUEST"))
            .hint("for example `8080:80`, or `0.0.0.0:8080:80`; an IPv6 address stands in brackets")
    };
    let (word, protocol) = match word.rsplit_once('/') {
        Some((word, "tcp")) => (word, Protocol::Tcp),
        Some((_, "udp")) => {
            return Err(CliError::usage("a UDP port cannot be added to a running machine")
                .hint("add it to the Vagrantfile, with `protocol = \"udp\"`, and `rvm reload`"));
        }
        Some(_) => return Err(wrong()),
        None => (word, Protocol::Tcp),
    };
    let (rest, guest) = word.rsplit_once(':').ok_or_else(wrong)?;
    let (address, host) = match rest.rsplit_once(':') {
        Some((address, host)) => {
            let bare = address.strip_prefix('[').and_then(|a| a.strip_suffix(']')).unwrap_or(address);
            (bare.parse().map_err(|_| wrong())?, host)
        }
        None => (IpAddr::V4(Ipv4Addr::LOCALHOST), rest),
    };
    let (host, guest) = (port_of(host).ok_or_else(wrong)?, port_of(guest).ok_or_else(wrong)?);
    Ok(Forward { guest, host, host_ip: address, protocol, auto_correct: false })
}

/// Prints the ports of a running machine, as they are after `auto_correct`.
pub fn run(app: &App, args: &PortArgs) -> Outcome {
    match &args.verb {
        Some(PortVerb::Add(args)) => return add(app, args),
        Some(PortVerb::Remove(args)) => return remove(app, args),
        None => {}
    }
    let machines = app.machines()?;
    let target = target::resolve_one(app, &machines, &args.name, "port")?;
    let status = target.status(&machines)?;
    if status.state != State::Running {
        let state = super::status::word(status.state);
        return Err(CliError::failed(
            Code::NotRunning,
            format!("cannot show the ports of {}: it is {state}", target.name),
        )
        .hint(format!("`rvm up {}` starts it", target.name)));
    }
    let mut ports = all_ports(&status);
    if let Some(guest) = args.guest {
        ports.retain(|port| port.forward.guest == guest);
        if ports.is_empty() {
            return Err(CliError::failed(
                Code::NoSuchPort,
                format!("no port of the host leads to port {guest} of {}", target.name),
            )
            .hint("`rvm port` shows those that there are"));
        }
    }
    if app.json {
        let list: Vec<Port> = ports.iter().map(Port::from).collect();
        app.ui.json(&json!({ "version": VERSION, "machine": target.name, "ports": list }));
    } else {
        for port in &ports {
            let (guest, host) = (port.forward.guest.to_string(), port.forward.host.to_string());
            app.ui.machine(&target.name, "forwarded_port", &[&guest, &host]);
        }
        app.ui.result(&text(&ports, args.guest.is_some()));
    }
    Ok(DONE)
}

fn all_ports(status: &Status) -> Vec<OpenPort> {
    let ssh = status.ssh.map(|at| {
        let (host, host_ip) = (at.port(), at.ip());
        let protocol = Protocol::Tcp;
        let forward = Forward { guest: SSH_PORT, host, host_ip, protocol, auto_correct: true };
        OpenPort { forward, origin: PortOrigin::Ssh }
    });
    ssh.into_iter().chain(status.ports.iter().cloned()).collect()
}

fn text(ports: &[OpenPort], bare: bool) -> String {
    if bare {
        return ports.iter().map(|p| p.forward.host.to_string()).collect::<Vec<_>>().join("\n");
    }
    if ports.is_empty() {
        return "No port is forwarded.".into();
    }
    let line = |port: &OpenPort| {
        // What goes without saying is not said: Vagrant's form stays as it is.
        let why = match port.origin {
            PortOrigin::Ssh | PortOrigin::File => "",
            PortOrigin::Corrected => ", because the port of the Vagrantfile was taken",
            PortOrigin::Added => ", added until the machine ends",
            PortOrigin::Followed => ", as long as the guest listens",
        };
        format!("{}{why}", one(&port.forward))
    };
    ports.iter().map(line).collect::<Vec<_>>().join("\n")
}

fn one(port: &Forward) -> String {
    let protocol = if port.protocol == Protocol::Udp { "/udp" } else { "" };
    let host = std::net::SocketAddr::new(port.host_ip, port.host);
    // Vagrant's form, with the address only where it is not the usual one.
    if port.host_ip.is_loopback() {
        format!("{:>6}{protocol} (guest) => {} (host)", port.guest, port.host)
    } else {
        format!("{:>6}{protocol} (guest) => {host} (host)", port.guest)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    fn forward(guest: u16, host: u16, protocol: Protocol, ip: Ipv4Addr) -> Forward {
        Forward { guest, host, host_ip: IpAddr::V4(ip), protocol, auto_correct: false }
    }

    #[test]
    fn ports_to_add() {
        let (host_ip, auto_correct) = (IpAddr::from([127, 0, 0, 1]), false);
        let forward = Forward { guest: 80, host: 8080, host_ip, protocol: Protocol::Tcp, auto_correct };
        assert_eq!(parse("8080:80").unwrap(), forward);
        assert_eq!(parse("8080:80/tcp").unwrap(), forward);
        assert_eq!(parse("0.0.0.0:8080:80").unwrap().host_ip, IpAddr::from([0, 0, 0, 0]));
        assert_eq!(parse("[::1]:8080:80").unwrap().host_ip.to_string(), "::1");
        for bad in ["", "80", "0:80", "80:0", "x:80", "x:1:2", "8080:80/sctp", "8080:80/udp", "1:2:3:4"] {
            assert!(parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn the_look_of_vagrant() {
        let open = |forward, origin| OpenPort { forward, origin };
        let ports = [
            open(forward(22, 2222, Protocol::Tcp, Ipv4Addr::LOCALHOST), PortOrigin::Ssh),
            open(forward(53, 5353, Protocol::Udp, Ipv4Addr::UNSPECIFIED), PortOrigin::File),
            open(forward(80, 2200, Protocol::Tcp, Ipv4Addr::LOCALHOST), PortOrigin::Corrected),
            open(forward(3000, 3000, Protocol::Tcp, Ipv4Addr::LOCALHOST), PortOrigin::Followed),
        ];
        assert_eq!(
            text(&ports, false),
            "    22 (guest) => 2222 (host)\n    53/udp (guest) => 0.0.0.0:5353 (host)\n    \
             80 (guest) => 2200 (host), because the port of the Vagrantfile was taken\n  \
             3000 (guest) => 3000 (host), as long as the guest listens"
        );
        assert_eq!(text(&ports[..1], true), "2222");
        assert_eq!(text(&[], false), "No port is forwarded.");
    }
}
