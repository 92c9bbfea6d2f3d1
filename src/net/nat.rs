//! The addresses of a machine behind its passt.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::{IpNet, Ipv4Net};
use serde::{Deserialize, Serialize};
use smoltcp::phy::ChecksumCapabilities;
use smoltcp::wire::{
    ArpOperation, ArpPacket, ArpRepr, EthernetAddress, EthernetFrame, EthernetProtocol, EthernetRepr,
    Icmpv6Packet, Icmpv6Repr, IpProtocol, Ipv6Packet, Ipv6Repr,
};

use super::{routes, switch};

/// Networks of which a machine is put into the first that is not in its way; the one that users of other
/// hypervisors expect is tried first.
const SUBNETS: [[u8; 4]; 3] = [[10, 0, 2, 0], [10, 0, 3, 0], [192, 168, 127, 0]];
/// Their length.
const PREFIX: u8 = 24;
/// Host numbers of the gateway, which is the host, and of the machine.
const GATEWAY: u32 = 2;
const GUEST: u32 = 15;

/// The name by which a guest finds its host.
pub const HOST_NAME: &str = "host.rvm.internal";

/// Addresses on the card that leads out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct NatAddresses {
    /// The machine's.
    pub guest: Ipv4Addr,
    /// The gateway's: what is sent there reaches 127.0.0.1 of the host.
    pub gateway: Ipv4Addr,
    /// Length of their prefix.
    pub prefix: u8,
}

impl NatAddresses {
    /// Those of a machine that is in private networks with the subnets `private`.
    pub fn choose(private: &[IpNet]) -> Self {
        Self::choose_from(private, &|net| routes::overlapping(net).is_some())
    }

    /// `routed`: whether the host finds somebody there, whom the gateway would hide.
    fn choose_from(private: &[IpNet], routed: &dyn Fn(&IpNet) -> bool) -> Self {
        let nets = SUBNETS.map(|base| Ipv4Net::new(base.into(), PREFIX).unwrap_or_default());
        let clashes = |net: &Ipv4Net| {
            private.iter().any(|other| {
                other.contains(&IpAddr::V4(net.network())) || IpNet::V4(*net).contains(&other.network())
            })
        };
        let free = |net: &&Ipv4Net| !clashes(net);
        let best = nets.iter().filter(free).find(|net| !routed(&IpNet::V4(**net)));
        let net = best.or_else(|| nets.iter().find(free)).or(nets.first()).copied().unwrap_or_default();
        let host = |number: u32| Ipv4Addr::from(u32::from(net.network()) | number);
        Self { guest: host(GUEST), gateway: host(GATEWAY), prefix: PREFIX }
    }
}

/// Frames, each behind its length, upon which a machine says its Ethernet address: an ARP probe for `guest`
/// (RFC 5227, section 2.1.1), and, for one that has another address, an echo request to all IPv6 nodes. They
/// leave no trace in it.
pub fn call_out(guest: Ipv4Addr) -> Vec<u8> {
    let arp = ArpRepr::EthernetIpv4 {
        operation: ArpOperation::Request,
        source_hardware_addr: CALLER,
        source_protocol_addr: Ipv4Addr::UNSPECIFIED,
        target_hardware_addr: EthernetAddress([0; 6]),
        target_protocol_addr: guest,
    };
    let mut frames = framed(EthernetAddress::BROADCAST, EthernetProtocol::Arp, arp.buffer_len(), |bytes| {
        arp.emit(&mut ArpPacket::new_unchecked(bytes));
    });
    let from = switch::link_local(CALLER.0);
    let all = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);
    let echo = Icmpv6Repr::EchoRequest { ident: 1, seq_no: 1, data: b"rvm" };
    let packet = Ipv6Repr {
        src_addr: from,
        dst_addr: all,
        next_header: IpProtocol::Icmpv6,
        payload_len: echo.buffer_len(),
        hop_limit: 255,
    };
    let len = packet.buffer_len() + echo.buffer_len();
    // The Ethernet address of that group (RFC 2464, section 7).
    let group = EthernetAddress([0x33, 0x33, 0, 0, 0, 1]);
    frames.extend(framed(group, EthernetProtocol::Ipv6, len, |bytes| {
        let mut ipv6 = Ipv6Packet::new_unchecked(bytes);
        packet.emit(&mut ipv6);
        let mut icmp = Icmpv6Packet::new_unchecked(ipv6.payload_mut());
        echo.emit(&from, &all, &mut icmp, &ChecksumCapabilities::default());
    }));
    frames
}

/// Locally administered, and nobody's.
const CALLER: EthernetAddress = EthernetAddress([0x02, 0, 0, 0, 0, 1]);

/// A frame behind its length, with `len` bytes that `emit` writes.
fn framed(to: EthernetAddress, kind: EthernetProtocol, len: usize, emit: impl FnOnce(&mut [u8])) -> Vec<u8> {
    let head = EthernetRepr { src_addr: CALLER, dst_addr: to, ethertype: kind };
    let mut frame = vec![0; head.buffer_len() + len];
    let mut packet = EthernetFrame::new_unchecked(&mut frame);
    head.emit(&mut packet);
    emit(packet.payload_mut());
    let len = u32::try_from(frame.len()).unwrap_or_default().to_be_bytes();
    [&len[..], &frame].concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_machine_is_put_where_nothing_is_in_its_way() {
        let choose = |private: &[&str], routed: &str| {
            let private: Vec<IpNet> = private.iter().map(|net| net.parse().unwrap()).collect();
            let routed: Option<IpNet> = routed.parse().ok();
            let addresses = NatAddresses::choose_from(&private, &|net| Some(*net) == routed);
            (addresses.guest.to_string(), addresses.gateway.to_string())
        };
        let at = |guest: &str, gateway: &str| (guest.to_owned(), gateway.to_owned());
        assert_eq!(choose(&["fd10::/64"], ""), at("10.0.2.15", "10.0.2.2"));
        assert_eq!(choose(&[], "10.0.2.0/24"), at("10.0.3.15", "10.0.3.2"));
        assert_eq!(choose(&["10.0.0.0/16"], ""), at("192.168.127.15", "192.168.127.2"));
        // A neighbour that is hidden is better than a private network that is.
        assert_eq!(choose(&["10.0.0.0/16"], "192.168.127.0/24"), at("192.168.127.15", "192.168.127.2"));
        assert_eq!(choose(&["10.0.0.0/8", "192.168.0.0/16"], ""), at("10.0.2.15", "10.0.2.2"));
    }

    #[test]
    fn a_machine_is_called_by_both_families() {
        let frames = call_out([10, 0, 2, 15].into());
        assert_eq!(frames[..4], [0, 0, 0, 42]);
        assert_eq!(frames[4..10], [255; 6]);
        assert_eq!(frames[16..26], [8, 6, 0, 1, 8, 0, 6, 4, 0, 1], "an ARP request for an IPv4 address");
        assert_eq!(frames[32..36], [0; 4], "of nobody");
        assert_eq!(frames[42..46], [10, 0, 2, 15]);
        let second = &frames[46..];
        assert_eq!(usize::from(second[3]) + 4, second.len());
        let ipv6 = Ipv6Packet::new_checked(&second[18..]).unwrap();
        let icmp = Icmpv6Packet::new_checked(ipv6.payload()).unwrap();
        let caps = ChecksumCapabilities::default();
        let echo = Icmpv6Repr::parse(&ipv6.src_addr(), &ipv6.dst_addr(), &icmp, &caps).unwrap();
        assert!(matches!(echo, Icmpv6Repr::EchoRequest { .. }), "{echo:?}");
    }
}
