//! `config.vm.network`.

use std::collections::HashSet;
use std::net::{IpAddr, Ipv4Addr};

use super::super::draft::{Out, Table};
use super::super::eval::{Lines, Opt};
use super::super::value::Value;
use super::settings::tidy_name;
use super::{Mapper, boolean, find, number, string};

/// Subnets that were seen, and the addresses in them.
#[derive(Default)]
pub(super) struct Subnets {
    list: Vec<String>,
    taken: HashSet<IpAddr>,
}

impl Subnets {
    /// What the network of a subnet is called: `private`, `private-2`, …
    fn name_of(&mut self, subnet: &str) -> String {
        let known = self.list.iter().position(|known| known == subnet);
        let index = known.unwrap_or_else(|| {
            self.list.push(subnet.to_owned());
            self.list.len() - 1
        });
        if index == 0 { "private".to_owned() } else { format!("private-{}", index + 1) }
    }

    /// Whether nobody has the address yet.
    fn take(&mut self, address: IpAddr) -> bool {
        self.taken.insert(address)
    }
}

/// The bits of an IPv4 netmask.
fn prefix_of(value: &Value) -> Result<u32, String> {
    let wrong = || "a netmask such as 255.255.255.0 is needed here".to_owned();
    let mask = match value {
        Value::Int(bits) => {
            return u32::try_from(*bits).ok().filter(|bits| (8..=29).contains(bits)).ok_or_else(wrong);
        }
        other => other.as_word().ok_or_else(wrong)?,
    };
    let mask: u32 = mask.parse::<Ipv4Addr>().map_err(|_| wrong())?.into();
    let bits = mask.leading_ones();
    let whole = mask.count_ones() == bits && (8..=29).contains(&bits);
    if whole { Ok(bits) } else { Err(wrong()) }
}

/// A name for the subnet that an address is in.
fn subnet(address: IpAddr, prefix: u32) -> String {
    match address {
        IpAddr::V4(address) => {
            let mask = u32::MAX.checked_shl(32 - prefix.min(32)).unwrap_or(0);
            format!("{}/{prefix}", Ipv4Addr::from(u32::from(address) & mask))
        }
        IpAddr::V6(address) => format!("{:x?}/64", address.segments().get(..4)),
    }
}

impl Mapper<'_, '_> {
    pub(super) fn network(&mut self, scope: usize, args: &[Value], options: &[Opt], at: Lines) {
        match args.first().and_then(Value::as_word) {
            Some("forwarded_port") => {
                if let Err(why) = self.forwarded_port(scope, options, at) {
                    self.lost(at, why);
                }
            }
            Some("private_network") => {
                if let Err(why) = self.private_network(scope, options, at) {
                    self.lost(at, why);
                }
            }
            Some("public_network") => self.lost(
                at,
                "a bridged network: `bridge` of a `[[machine.network]]` names a bridge of this host",
            ),
            _ => self.lost(at, "a network of a kind that is not known"),
        }
    }

    fn forwarded_port(&mut self, scope: usize, options: &[Opt], at: Lines) -> Result<(), String> {
        let get = |key: &str| find(options, key).map(|opt| &opt.value);
        if get("id").and_then(Value::as_word) == Some("ssh") {
            return self.ssh_port(scope, options, at);
        }
        if let Some(disabled) = get("disabled")
            && boolean(disabled)?
        {
            return Ok(());
        }
        let port = |key: &str| {
            let value = get(key).ok_or_else(|| format!("a port without `{key}`"))?;
            number(value, 1, 65_535)
        };
        let mut entries = vec![("guest", port("guest")?), ("host", port("host")?)];
        match get("host_ip") {
            // Where nothing is said, Vagrant listens on all addresses, and rvm on loopback.
            None | Some(Value::Nil) => {}
            Some(value) => {
                let address = value.as_word().map(str::to_owned);
                let fine = address.as_ref().is_none_or(|ip| ip.parse::<IpAddr>().is_ok());
                match (fine, address.as_deref()) {
                    (_, Some("127.0.0.1" | "localhost")) => {}
                    (true, _) => entries.push(("host_ip", string(value)?)),
                    (false, _) => return Err("`host_ip` is no address".into()),
                }
            }
        }
        match get("protocol").map(|value| (value, value.as_word())) {
            None | Some((_, Some("tcp"))) => {}
            Some((_, Some("udp"))) => entries.push(("protocol", Out::Str("udp".into()))),
            Some(_) => return Err("a protocol is `tcp` or `udp`".into()),
        }
        if let Some(value) = get("auto_correct")
            && boolean(value)?
        {
            entries.push(("auto_correct", Out::Bool(true)));
        }
        for opt in options {
            let known = ["guest", "host", "host_ip", "protocol", "auto_correct", "id", "disabled"]
                .contains(&opt.key.as_str());
            if !known {
                self.lost(opt.at, format!("`{}` of a port has no counterpart", opt.key));
            }
        }
        self.add(scope, Table { kind: "port", entries, at });
        Ok(())
    }

    /// The port for SSH: one that may move is none that is asked for.
    fn ssh_port(&mut self, scope: usize, options: &[Opt], at: Lines) -> Result<(), String> {
        let get = |key: &str| find(options, key).map(|opt| &opt.value);
        let says = |key: &str| get(key).map_or(Ok(false), boolean);
        let host = get("host").filter(|host| **host != Value::Nil);
        match host {
            Some(host) if !says("disabled")? && !says("auto_correct")? => {
                let port = number(host, 1, 65_535)?;
                self.set(scope, "ssh.port", port, at);
            }
            _ => self.needless(at, "every machine has a way to SSH of its own"),
        }
        let is_loopback = |ip: &Value| matches!(ip.as_word(), Some("127.0.0.1" | "localhost"));
        if get("host_ip").is_some_and(|ip| *ip != Value::Nil && !is_loopback(ip)) {
            self.lost(at, "SSH is had from this host alone: `host_ip` has no counterpart");
        }
        Ok(())
    }

    /// A card of the machine. Vagrant knows no names of networks: each subnet is one here.
    fn private_network(&mut self, scope: usize, options: &[Opt], at: Lines) -> Result<(), String> {
        let get = |key: &str| find(options, key).map(|opt| &opt.value);
        if get("auto_config") == Some(&Value::Bool(false)) {
            self.lost(at, "`auto_config: false`: the card gets its address here");
        }
        for opt in options {
            let known = [
                "ip",
                "type",
                "netmask",
                "auto_config",
                "name",
                "libvirt__network_name",
                "virtualbox__intnet",
            ];
            if !known.contains(&opt.key.as_str()) {
                self.needless(opt.at, format!("`{}` of a private network", opt.key));
            }
        }
        let named = ["virtualbox__intnet", "libvirt__network_name", "name"]
            .iter()
            .find_map(|key| get(key).and_then(Value::as_word))
            .map(|name| format!("net-{}", tidy_name(name, false)).chars().take(32).collect::<String>());
        let mut entries = Vec::new();
        match get("ip") {
            None => {
                let name = named.unwrap_or_else(|| self.subnets.name_of("dhcp"));
                entries.push(("private", Out::Str(name)));
                if get("type").and_then(Value::as_word) == Some("dhcp") {
                    entries.push(("ip", Out::Str("dhcp".into())));
                }
            }
            Some(value) => {
                let text = super::text(value)?;
                let address = text.by_default();
                let address: IpAddr = address
                    .parse()
                    .map_err(|_| format!("`{}` is no address", super::super::left::one_line(&address)))?;
                let (prefix, default) = match address {
                    IpAddr::V4(_) => (get("netmask").map_or(Ok(24), prefix_of)?, 24),
                    IpAddr::V6(_) => (64, 64),
                };
                if scope == 0 && self.layers.len() > 2 {
                    return Err("several machines cannot have one address".into());
                }
                let subnet = subnet(address, prefix);
                if text.as_plain().is_some() && !self.subnets.take(address) {
                    return Err("another machine has this address".into());
                }
                let name = named.unwrap_or_else(|| self.subnets.name_of(&subnet));
                entries.push(("private", Out::Str(name)));
                let mut ip = Out::filled(&text).ok_or("a `$` before a variable, which TOML cannot say")?;
                if let Out::Str(ip) = &mut ip
                    && prefix != default
                {
                    ip.push_str(&format!("/{prefix}"));
                }
                entries.push(("ip", ip));
            }
        }
        self.add(scope, Table { kind: "network", entries, at });
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn netmasks_and_subnets() {
        let bits = |mask: &str| prefix_of(&Value::text(mask));
        assert_eq!((bits("255.255.255.0"), bits("255.255.0.0")), (Ok(24), Ok(16)));
        for wrong in ["255.0.255.0", "0.0.0.0", "255.255.255.255", "x"] {
            assert!(bits(wrong).is_err(), "{wrong}");
        }
        let subnet = |address: &str, prefix: u32| subnet(address.parse().unwrap(), prefix);
        assert_eq!(subnet("10.1.2.3", 24), "10.1.2.0/24");
        assert_eq!(subnet("10.1.2.3", 8), subnet("10.9.9.9", 8));
        assert_eq!(subnet("fd00::1", 64), subnet("fd00::9", 64));
    }
}
