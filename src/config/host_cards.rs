//! `bridge` and `tap` of a `[[machine.network]]`: cards in networks of the host's.

use std::collections::HashMap;
use std::net::IpAddr;

use ipnet::IpNet;

use super::networks::{DEFAULT_PREFIX, RawCard};
use super::report::brief;
use super::walk::{Reader, Sp, Table};
use crate::model::{HostCard, HostInterface};

/// Longest name of an interface (`IFNAMSIZ` of Linux, less the zero at its end).
const LONGEST_NAME: usize = 15;

/// What only one machine can have: TAP interfaces and addresses, each with the machine and the place of the
/// claim.
#[derive(Default)]
pub(super) struct HostClaims {
    taps: HashMap<String, (String, usize)>,
    addresses: HashMap<(HostInterface, IpAddr), (String, usize)>,
}

impl Reader<'_> {
    /// The name of an interface.
    pub(super) fn interface(&mut self, table: &Table<'_>, key: &str, example: &str) -> Option<Sp<String>> {
        let name = self.text(table, key, example)?;
        let text = name.value.value.as_str();
        let is_fine = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
        let is_name = (1..=LONGEST_NAME).contains(&text.len()) && text.chars().all(is_fine);
        if !is_name || text.starts_with(['.', '-']) {
            let message = format!("an interface cannot be called {:?}", brief(&name.value.shown));
            let help = format!("write the name that `ip link` shows, such as {example}");
            self.wrong(&name.span, message, help);
            return None;
        }
        Some(name.map(|text| text.value))
    }

    /// A card in a network of the host's, beside those that the machine has already.
    pub(super) fn host_card(
        &mut self,
        raw: &RawCard,
        to: &HostInterface,
        machine: &str,
        others: &[HostCard],
    ) -> Option<HostCard> {
        if others.iter().any(|card| card.to == *to) {
            let message = format!("machine `{machine}` is at {to} already");
            self.wrong(&raw.to.span, message, "one card in each network is enough");
            return None;
        }
        if let HostInterface::Tap(name) = to {
            let claim = (machine.to_owned(), raw.to.span.start);
            if let Some((owner, start)) = self.networks.host.taps.insert(name.clone(), claim) {
                let message = format!("machine `{owner}` has the TAP interface {name} already");
                let line = self.problems.line_of(start);
                self.wrong(
                    &raw.to.span,
                    format!("{message} (line {line})"),
                    "each machine needs one of its own",
                );
                return None;
            }
        }
        let mut addresses = Vec::new();
        for address in &raw.addresses {
            let (ip, prefix) = address.value;
            let default = if ip.is_ipv4() { DEFAULT_PREFIX.0 } else { DEFAULT_PREFIX.1 };
            let Ok(net) = IpNet::new(ip, prefix.unwrap_or(default)) else { continue };
            if ip.is_unspecified() || ip.is_loopback() || ip.is_multicast() {
                self.wrong(
                    &address.span,
                    format!("a machine cannot have the address {ip}"),
                    "choose another",
                );
                continue;
            }
            let claim = (machine.to_owned(), address.span.start);
            if let Some((owner, start)) = self.networks.host.addresses.insert((to.clone(), ip), claim) {
                let line = self.problems.line_of(start);
                let message = format!("machine `{owner}` has the address {ip} already (line {line})");
                self.wrong(&address.span, message, "give each machine an address of its own");
                continue;
            }
            addresses.push(net);
        }
        // Whoever is there gives addresses, as everywhere.
        let dhcp = raw.dhcp || raw.addresses.is_empty();
        Some(HostCard { to: to.clone(), addresses, dhcp })
    }
}
