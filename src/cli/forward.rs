//! `rvm proxy` and `rvm forward`: ways from this host into the networks of a machine, for as long as
//! the command runs. The system's ssh client carries them.

use std::net::{IpAddr, Ipv4Addr};

use clap::Args;

use super::Outcome;
use super::app::App;
use super::error::CliError;
use super::{ssh, target};
use crate::model::{Forward, Protocol};
use crate::net;

/// The port of SOCKS (RFC 1928).
const SOCKS_PORT: u16 = 1080;

/// Words of `rvm proxy`.
#[derive(Debug, Args)]
#[command(after_help = "For example: curl --proxy socks5h://127.0.0.1:1080 http://db.backend:8000/\n\
    With socks5h the machine looks the names up, so private ones work.")]
pub struct ProxyArgs {
    /// Machine or id; needed where the project has several
    #[arg(value_name = "NAME")]
    name: Option<String>,
    /// Port of 127.0.0.1 to listen on
    #[arg(long, value_name = "PORT", default_value_t = SOCKS_PORT, value_parser = clap::value_parser!(u16).range(1..))]
    port: u16,
}

/// Words of `rvm forward`.
#[derive(Debug, Args)]
#[command(after_help = "For example: rvm forward web 5432:db:5432\n\
    leads 127.0.0.1:5432 to port 5432 of db, as web sees it. IPv6 addresses stand in brackets.")]
pub struct ForwardArgs {
    /// Machine or id, needed where the project has several; then LOCAL:HOST:PORT, once or more
    #[arg(value_name = "[NAME] LOCAL:HOST:PORT", required = true)]
    words: Vec<String>,
}

/// Listens as a SOCKS5 proxy.
pub fn proxy(app: &App, args: &ProxyArgs) -> Outcome {
    check_free(args.port)?;
    let words = ["-D".to_owned(), format!("127.0.0.1:{}", args.port)];
    let text = format!("socks5h://127.0.0.1:{} leads into the networks of", args.port);
    hold(app, &args.name, "proxy", &words, &text)
}

/// Listens on ports that lead to other machines.
pub fn forward(app: &App, args: &ForwardArgs) -> Outcome {
    let (names, specs): (Vec<&String>, Vec<&String>) =
        args.words.iter().partition(|word| !word.contains(':'));
    let name = match names.as_slice() {
        [] => None,
        [name] => Some((*name).clone()),
        [_, other, ..] => return Err(wrong(other)),
    };
    if specs.is_empty() {
        return Err(CliError::usage("nothing says where to").hint("`rvm forward web 5432:db:5432`"));
    }
    let mut words = Vec::new();
    for spec in &specs {
        let parsed = parse(spec).ok_or_else(|| wrong(spec))?;
        check_free(parsed.0)?;
        words.extend(["-L".to_owned(), format!("127.0.0.1:{}:{}:{}", parsed.0, parsed.1, parsed.2)]);
    }
    let list: Vec<&str> = specs.iter().map(|spec| spec.as_str()).collect();
    hold(app, &name, "forward", &words, &format!("127.0.0.1:{} by way of", list.join(" and 127.0.0.1:")))
}

fn wrong(word: &str) -> CliError {
    CliError::usage(format!("`{word}` is not LOCAL:HOST:PORT"))
        .hint("for example 5432:db:5432, or 8080:[fd10::5]:80")
}

/// Port of this host, host as the machine sees it, port there.
fn parse(spec: &str) -> Option<(u16, &str, u16)> {
    let (local, rest) = spec.split_once(':')?;
    let (host, port) = rest.rsplit_once(':')?;
    let fine = match host.strip_prefix('[').and_then(|host| host.strip_suffix(']')) {
        Some(v6) => v6.parse::<std::net::Ipv6Addr>().is_ok(),
        None => !host.is_empty() && host.chars().all(|c| c.is_ascii_alphanumeric() || "._-".contains(c)),
    };
    let port_of = |text: &str| text.parse::<u16>().ok().filter(|port| *port > 0);
    fine.then_some((port_of(local)?, host, port_of(port)?))
}

/// ssh would say it less clearly.
fn check_free(port: u16) -> Result<(), CliError> {
    let host_ip = IpAddr::V4(Ipv4Addr::LOCALHOST);
    let wanted = Forward { guest: port, host: port, host_ip, protocol: Protocol::Tcp, auto_correct: false };
    let taken = |error: net::PortError| CliError::from_error(super::Kind::Failed, error.code(), &error, None);
    net::choose(&[wanted], &mut |_, _| true)
        .map(drop)
        .map_err(|error| taken(error).hint("choose another port"))
}

/// Becomes the ssh client, which listens until it is interrupted.
fn hold(app: &App, name: &Option<String>, command: &str, words: &[String], text: &str) -> Outcome {
    let machines = app.machines()?;
    let target = target::resolve_one(app, &machines, name, command)?;
    let (project, machine) = target.declaration()?;
    let info = machines.ssh_info(project, &machine.name)?;
    app.ui.note(&format!("{text} {}, until Ctrl-C.", machine.name));
    let mut extra = vec!["-N".to_owned(), "-o".into(), "ExitOnForwardFailure yes".into()];
    extra.extend(["-o".to_owned(), "ServerAliveInterval 15".into()]);
    extra.extend_from_slice(words);
    Err(ssh::become_client(app, &info, &extra, &[]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ways_to_other_machines() {
        assert_eq!(parse("5432:db.backend:5433"), Some((5432, "db.backend", 5433)));
        assert_eq!(parse("80:[fd10::5]:81"), Some((80, "[fd10::5]", 81)));
        for bad in [
            "",
            "5432",
            "5432:db",
            "0:db:1",
            "1:db:0",
            "1::2",
            "1:[x]:2",
            "1:a b:2",
            "70000:db:1",
            "1:-o x:2",
        ] {
            assert_eq!(parse(bad), None, "{bad}");
        }
    }
}
