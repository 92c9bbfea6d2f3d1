//! Where this host itself has a way to: a private network must not hide that from its machines.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;

/// Shorter prefixes stand for "all the rest", as those of a VPN that takes everything (0.0.0.0/1) or all
/// private addresses (10.0.0.0/8): such a route leads out, and hides no network in particular.
const NARROWEST_WAY_OUT: (u8, u8) = (8, 16);

/// The route of this host that overlaps `net`, and its interface. Default routes and those that stand for
/// one do not count.
pub(super) fn overlapping(net: &IpNet) -> Option<(IpNet, String)> {
    // Without /proc there is nothing to compare with.
    let text = match net {
        IpNet::V4(_) => std::fs::read_to_string("/proc/net/route"),
        IpNet::V6(_) => std::fs::read_to_string("/proc/net/ipv6_route"),
    };
    let text = text.unwrap_or_default();
    let parse = if net.addr().is_ipv4() { parse_v4 } else { parse_v6 };
    text.lines().filter_map(parse).find(|(route, device)| device != "lo" && hides(net, route))
}

/// Whether machines in `net` would look there for what this host finds by `route`.
fn hides(net: &IpNet, route: &IpNet) -> bool {
    let widest = if net.addr().is_ipv4() { NARROWEST_WAY_OUT.0 } else { NARROWEST_WAY_OUT.1 };
    let overlaps = route.contains(&net.network()) || net.contains(&route.network());
    overlaps && route.prefix_len() > widest
}

/// `Iface Destination Gateway Flags RefCnt Use Metric Mask …`, numbers as the processor stores them.
fn parse_v4(line: &str) -> Option<(IpNet, String)> {
    let words: Vec<&str> = line.split_whitespace().collect();
    let address = |at: usize| {
        let bits = u32::from_str_radix(words.get(at)?, 16).ok()?;
        Some(Ipv4Addr::from(bits.to_ne_bytes()))
    };
    let net = IpNet::with_netmask(IpAddr::V4(address(1)?), IpAddr::V4(address(7)?)).ok()?;
    Some((net, (*words.first()?).to_owned()))
}

/// `destination prefix source prefix next-hop metric refcnt use flags device`.
fn parse_v6(line: &str) -> Option<(IpNet, String)> {
    let words: Vec<&str> = line.split_whitespace().collect();
    let bits = u128::from_str_radix(words.first()?, 16).ok()?;
    let prefix = u8::from_str_radix(words.get(1)?, 16).ok()?;
    let net = IpNet::new(IpAddr::V6(Ipv6Addr::from(bits)), prefix).ok()?;
    Some((net, (*words.get(9)?).to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wide_route_is_a_way_out() {
        let hides = |net: &str, route: &str| hides(&net.parse().unwrap(), &route.parse().unwrap());
        assert!(hides("10.10.0.0/24", "10.10.0.0/16") && hides("10.0.0.0/8", "10.9.0.0/24"));
        assert!(hides("fd10::/64", "fd10::/48"));
        for (net, route) in [
            ("10.10.0.0/24", "0.0.0.0/0"),
            ("10.10.0.0/24", "0.0.0.0/1"),
            ("10.10.0.0/24", "10.0.0.0/8"),
            ("10.10.0.0/24", "10.11.0.0/16"),
            ("fd10::/64", "::/0"),
            ("fd10::/64", "8000::/1"),
        ] {
            assert!(!hides(net, route), "{net} {route}");
        }
    }

    #[test]
    fn lines_of_the_kernel_are_understood() {
        let line = "eth0\t000200C0\t00000000\t0001\t0\t0\t0\t00FFFFFF\t0\t0\t0";
        assert_eq!(parse_v4(line).unwrap(), ("192.0.2.0/24".parse().unwrap(), "eth0".into()));
        assert!(parse_v4("Iface\tDestination\tGateway \tFlags\tRefCnt\tUse\tMetric\tMask").is_none());
        let line = "fd100000000000000000000000000000 40 00000000000000000000000000000000 00 \
                    00000000000000000000000000000000 00000100 00000001 00000000 00000001     eth1";
        assert_eq!(parse_v6(line).unwrap(), ("fd10::/64".parse().unwrap(), "eth1".into()));
        assert!(parse_v4("").is_none() && parse_v6("x").is_none());
    }
}
