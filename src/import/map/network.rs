//! `config.vm.network`, `config.vm.synced_folder`.

use std::net::IpAddr;

use super::super::draft::{Out, Table};
use super::super::eval::{Lines, Opt};
use super::super::value::Value;
use super::{Mapper, boolean, find, number, string};

impl Mapper<'_, '_> {
    pub(super) fn network(&mut self, scope: usize, args: &[Value], options: &[Opt], at: Lines) {
        match args.first().and_then(Value::as_word) {
            Some("forwarded_port") => {
                if let Err(why) = self.forwarded_port(scope, options, at) {
                    self.lost(at, why);
                }
            }
            Some("private_network") => self.lost(at, "private networks are not there yet"),
            Some("public_network") => self.lost(at, "bridged networks are not there"),
            _ => self.lost(at, "a network of a kind that is not known"),
        }
    }

    fn forwarded_port(&mut self, scope: usize, options: &[Opt], at: Lines) -> Result<(), String> {
        let get = |key: &str| find(options, key).map(|opt| &opt.value);
        if get("id").and_then(Value::as_word) == Some("ssh") {
            self.needless(at, "every machine has a way to SSH of its own");
            return Ok(());
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

    pub(super) fn folder(&mut self, options: &[Opt], at: Lines) {
        let disabled = find(options, "disabled").is_some_and(|opt| opt.value == Value::Bool(true));
        match disabled {
            true => self.needless(at, "no folder is shared unless one asks for it"),
            false => self.lost(at, "shared folders are not there yet; a `file` step copies one"),
        }
    }
}
