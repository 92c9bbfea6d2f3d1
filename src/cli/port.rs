//! `rvm port`: which port of the host leads where.

use std::net::{IpAddr, Ipv4Addr};
use std::ops::RangeInclusive;

use clap::{Args, Subcommand};
use serde_json::json;

use super::app::App;
use super::error::CliError;
use super::json::{Port, VERSION};
use super::{DONE, Json, Outcome};
use super::{ssh, target};
use crate::machine::follow::{Followed, MOST};
use crate::machine::{MachineError, OpenPort, PortOrigin, State, Status};
use crate::model::{Code, Forward, PortRun, Protocol};
use crate::net::PortError;

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
    /// Forward more ports of a running machine, until it ends
    Add(WordsArgs),
    /// End forwards that `rvm port add` made
    Remove(WordsArgs),
}

/// Words of `rvm port add` and `rvm port remove`.
#[derive(Debug, Args)]
#[command(
    after_help = "For example: rvm port add web 8080:80, rvm port add 9000-9009:80-89, rvm port add dns 5353:53/udp,\n\
    rvm port remove web 8080, rvm port remove dns 5353/udp\n\
    Traffic takes the way of `rvm ssh` and reaches what listens on 127.0.0.1 in the guest. A guest that \
    reboots is connected to again. Ports of the Vagrantfile are faster."
)]
struct WordsArgs {
    /// Machine or id, needed where the project has several; then [ADDRESS:]HOST:GUEST to add, HOST to remove,
    /// both also as ranges and with /udp
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
    let run = parse(word)?;
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
    let added = machines.add_forwards(project, &machine.name, &run, ssh::words(&info));
    added.map_err(|error| {
        let hint = match &error {
            MachineError::Port(PortError::Taken { port, .. }) => {
                format!("`ss -tulpn | grep :{port}` shows who has it; choose another port of the host")
            }
            MachineError::Port(PortError::Several(_)) => "choose other ports of the host".into(),
            _ => return CliError::from(error),
        };
        CliError::from(error).hint(hint)
    })?;
    app.ui.note(&format!("Port {run} of {} until it ends.", machine.name));
    Ok(DONE)
}

fn remove(app: &App, args: &WordsArgs) -> Outcome {
    let (name, word) = args.split();
    let (host, protocol) = protocol_of(word);
    let Some((host, protocol)) = ports_of(host).zip(protocol) else {
        return Err(CliError::usage(format!("`{word}` is no port of the host"))
            .hint("for example `rvm port remove web 8080`, or `9000-9009`, or `5353/udp`"));
    };
    let machines = app.machines()?;
    let target = target::resolve_one(app, &machines, &name, "port remove")?;
    let status = target.status(&machines)?;
    let count = machines.remove_forwards(&status, &host, protocol)?;
    if count > 0 {
        let what =
            if host.len() == 1 { format!("Port {word}") } else { format!("{count} of the ports {word}") };
        let verb = if count == 1 { "leads" } else { "lead" };
        app.ui.note(&format!("{what} of the host {verb} to {} no more.", target.name));
        return Ok(DONE);
    }
    let error = CliError::failed(
        Code::NoSuchPort,
        format!("`rvm port add` has not added port {word} to {}", target.name),
    );
    let is_meant = |port: &&OpenPort| host.contains(&port.forward.host);
    let (same, other): (Vec<&OpenPort>, Vec<&OpenPort>) =
        status.ports.iter().filter(is_meant).partition(|port| port.forward.protocol == protocol);
    Err(match (same.first().map(|port| port.origin), other.first()) {
        (Some(PortOrigin::Followed), _) => {
            error.hint("a program of the guest listens there, and the Vagrantfile says `auto_forward`")
        }
        (Some(_), _) => error.hint("it is one of the Vagrantfile: take it out there, and `rvm reload`"),
        (None, Some(port)) => {
            let protocol = port.forward.protocol.as_str();
            error.hint(format!(
                "there is one for {protocol}: `rvm port remove {} {word}/{protocol}`",
                target.name
            ))
        }
        (None, None) => error.hint("`rvm port` shows those that there are"),
    })
}

/// Ports of one word. Each costs a socket on the host.
const MOST_IN_RANGE: usize = 256;

/// A port, or a range of them.
fn ports_of(word: &str) -> Option<RangeInclusive<u16>> {
    let (first, last) = word.split_once('-').unwrap_or((word, word));
    let port = |text: &str| text.parse::<u16>().ok().filter(|port| *port > 0);
    let ports = port(first)?..=port(last)?;
    (1..=MOST_IN_RANGE).contains(&ports.len()).then_some(ports)
}

/// A word without `/tcp` or `/udp`, and the protocol.
fn protocol_of(word: &str) -> (&str, Option<Protocol>) {
    match word.rsplit_once('/') {
        None => (word, Some(Protocol::Tcp)),
        Some((word, name)) => {
            (word, [Protocol::Tcp, Protocol::Udp].into_iter().find(|protocol| protocol.as_str() == name))
        }
    }
}

/// `[ADDRESS:]HOST:GUEST[/PROTOCOL]`, both as ports or as ranges of one length.
fn parse(word: &str) -> Result<PortRun, CliError> {
    let wrong = || {
        CliError::usage(format!("`{word}` is not [ADDRESS:]HOST:GUEST")).hint(
            "for example 8080:80, 0.0.0.0:8080:80, [::1]:8080:80, 9000-9009:80-89, 5353:53/udp; \
             at most 256 ports at once",
        )
    };
    let (ports, protocol) = protocol_of(word);
    let protocol = protocol.ok_or_else(wrong)?;
    let (rest, guest) = ports.rsplit_once(':').ok_or_else(wrong)?;
    let (host_ip, host) = match rest.rsplit_once(':') {
        Some((address, host)) => {
            let bare = address.strip_prefix('[').and_then(|a| a.strip_suffix(']')).unwrap_or(address);
            (bare.parse().map_err(|_| wrong())?, host)
        }
        None => (IpAddr::V4(Ipv4Addr::LOCALHOST), rest),
    };
    let (host, guest) = ports_of(host).zip(ports_of(guest)).ok_or_else(wrong)?;
    if host.len() != guest.len() {
        return Err(wrong());
    }
    let count = u16::try_from(host.len()).map_err(|_| wrong())?;
    let (host, guest) = (*host.start(), *guest.start());
    Ok(PortRun { first: Forward { guest, host, host_ip, protocol, auto_correct: false }, count })
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
    if let Some(cause) = &status.cause {
        app.ui.warn(&format!("{}: {cause}. {}", target.name, status.remedy.as_deref().unwrap_or_default()));
    }
    let Followed { mut passed_over, beyond, silent, .. } = machines.followed(&status);
    passed_over.retain(|forward| args.guest.is_none_or(|guest| forward.guest == guest));
    if !passed_over.is_empty() {
        app.ui.warn(&told_passed_over(&target.name, &passed_over));
    }
    if beyond > 0 {
        app.ui.warn(&told_beyond(&target.name, beyond));
    }
    if let Some(why) = silent {
        app.ui.warn(&format!(
            "{}: nothing goes through the UDP ports that `auto_forward` opens: the program that carries datagrams does not \
             run in the guest ({why}). It is tried again every few seconds.",
            target.name
        ));
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

/// Ports that a message names.
const MOST_LISTED: usize = 8;

fn told_passed_over(name: &str, ports: &[Forward]) -> String {
    let named = ports.iter().take(MOST_LISTED);
    let mut words: Vec<String> =
        named.map(|port| format!("{}/{}", port.guest, port.protocol.as_str())).collect();
    words.extend((ports.len() > MOST_LISTED).then(|| "…".to_owned()));
    format!(
        "{name}: a program of the guest listens at {}, which `auto_forward` passes over: the same port of 127.0.0.1 cannot be \
         had, and is tried every ten seconds. `ss -tulpn` shows who has it; `rvm port add` leads there from another one.",
        words.join(", ")
    )
}

fn told_beyond(name: &str, count: usize) -> String {
    let ports = if count == 1 { "port" } else { "ports" };
    format!(
        "{name}: programs of the guest listen at {count} more {ports}, which `auto_forward` passes over: it leads {MOST} in at \
         most. `rvm port add` leads to one more."
    )
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
        let first = Forward { guest: 80, host: 8080, host_ip, protocol: Protocol::Tcp, auto_correct };
        let run = PortRun { first, count: 1 };
        assert_eq!(parse("8080:80").unwrap(), run);
        assert_eq!(parse("8080:80/tcp").unwrap(), run);
        assert_eq!(parse("0.0.0.0:8080:80").unwrap().first.host_ip, IpAddr::from([0, 0, 0, 0]));
        assert_eq!(parse("[::1]:8080:80").unwrap().first.host_ip.to_string(), "::1");
        assert_eq!(parse("9000-9009:80-89/udp").unwrap().to_string(), "127.0.0.1:9000-9009 → 80-89/udp");
        assert_eq!(parse("1-256:1-256").unwrap().count, 256);
        for bad in [
            "",
            "80",
            "0:80",
            "80:0",
            "x:80",
            "x:1:2",
            "8080:80/sctp",
            "8080:80/",
            "1:2:3:4",
            "1-2:80",
            "2-1:2-1",
            "1-257:1-257",
            "1-:1-",
            "65535-65536:1-2",
        ] {
            assert!(parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn ports_that_are_passed_over_are_told_of() {
        let port = |number, protocol| forward(number, number, protocol, Ipv4Addr::LOCALHOST);
        let mut ports = vec![port(3000, Protocol::Tcp), port(5353, Protocol::Udp)];
        assert!(told_passed_over("web", &ports).contains("listens at 3000/tcp, 5353/udp, which"));
        ports.extend((4000..4100).map(|number| port(number, Protocol::Tcp)));
        let text = told_passed_over("web", &ports);
        assert!(text.contains("4005/tcp, …, which"), "{text}");
        assert!(told_beyond("web", 1).contains("listen at 1 more port, which"));
        assert!(told_beyond("web", 2).contains("listen at 2 more ports, which"));
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
