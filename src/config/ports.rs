//! `[[port]]`: ports of the host that lead into a machine.

use std::net::{IpAddr, Ipv4Addr};
use std::ops::RangeInclusive;

use crate::model::{Forward, Protocol};

use super::report::brief;
use super::walk::{Reader, Sp, Table};

const PROTOCOLS: [(&str, Protocol); 2] = [("tcp", Protocol::Tcp), ("udp", Protocol::Udp)];
/// Ports of one range. Each costs a socket on the host.
const MOST_IN_RANGE: u64 = 256;
/// Ports of one machine: while they are chosen each is an open file, of which a process has 1,024.
pub(super) const MOST_PORTS: usize = 512;

impl Reader<'_> {
    /// One `[[port]]`: a forward for each port of its range, all with the place of `host`.
    pub fn ports(&mut self, table: &Table<'_>) -> Vec<Sp<Forward>> {
        let guest = self.port_range(table, "guest", 80);
        let host = self.port_range(table, "host", 8080);
        let host_ip = self.host_ip(table);
        let protocol = self.choice(table, "protocol", &PROTOCOLS).map(|p| p.value).unwrap_or_default();
        let auto_correct = self.boolean(table, "auto_correct").unwrap_or(false);
        let (Some(guest), Some(host), Some(host_ip)) = (guest, host, host_ip) else { return Vec::new() };
        let (wanted, given) = (guest.value.len(), host.value.len());
        if wanted != given {
            let message = format!("`guest` has {} and `host` has {}", count(wanted), count(given));
            let start = usize::from(*host.value.start());
            // What a variable stands for is not shown.
            let is_plain = self.problems.text_of(&host.span).is_some_and(|text| !text.contains('{'));
            let help = match (start + wanted - 1, wanted) {
                _ if !is_plain => "give each port of the guest one of the host".into(),
                (end, 2..) if end <= usize::from(u16::MAX) => format!("write `host = \"{start}-{end}\"`"),
                (_, 1) => format!("write `host = {start}`"),
                _ => "give each port of the guest one of the host".into(),
            };
            self.wrong(&host.span, message, help);
            return Vec::new();
        }
        let forward = |(guest, port)| Sp {
            value: Forward { guest, host: port, host_ip, protocol, auto_correct },
            span: host.span.clone(),
        };
        guest.value.zip(host.value.clone()).map(forward).collect()
    }

    fn port_range(&mut self, table: &Table<'_>, key: &str, example: u16) -> Option<Sp<RangeInclusive<u16>>> {
        if table.raw(key).is_none() {
            let help = format!("add `{key} = {example}`");
            self.wrong(&table.span, format!("this port has no `{key}`"), help);
            return None;
        }
        let port = |number: u64| u16::try_from(number).ok().filter(|port| *port > 0);
        let wanted = format!(
            "a whole number from 1 to 65535, or a range of at most {MOST_IN_RANGE} such as \"8000-8010\""
        );
        let from_text = |text: &str| {
            let (first, last) = text.split_once('-').unwrap_or((text, text));
            let number = |text: &str| text.trim().parse().ok().and_then(port);
            let (first, last) = (number(first)?, number(last)?);
            let fits = first <= last && u64::from(last - first) < MOST_IN_RANGE;
            fits.then_some(first..=last)
        };
        self.scalar(table, key, &wanted, |number| port(number).map(|port| port..=port), from_text)
    }

    /// The address of this host to listen on. Whether the host has it is known when it is tried.
    fn host_ip(&mut self, table: &Table<'_>) -> Option<IpAddr> {
        if table.raw("host_ip").is_none() {
            return Some(Ipv4Addr::LOCALHOST.into());
        }
        let ip = self.text(table, "host_ip", "\"127.0.0.1\"")?;
        let parsed: Option<IpAddr> = ip.value.value.trim().parse().ok();
        let is_of_a_host = |ip: &IpAddr| match ip {
            IpAddr::V4(v4) => !v4.is_multicast() && !v4.is_broadcast(),
            IpAddr::V6(v6) => !v6.is_multicast(),
        };
        let fine = parsed.filter(is_of_a_host);
        if fine.is_none() {
            let message = format!("`host_ip` cannot be {:?}", brief(&ip.value.shown));
            let help = "write an IP address of this host, such as \"127.0.0.1\" or \"0.0.0.0\"";
            self.wrong(&ip.span, message, help);
        }
        fine
    }
}

fn count(ports: usize) -> String {
    if ports == 1 { "one port".into() } else { format!("{ports} ports") }
}
