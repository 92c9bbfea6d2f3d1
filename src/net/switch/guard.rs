//! What a machine may send: from its own addresses, and nothing that only the network itself says.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use smoltcp::wire::{
    ArpOperation, ArpPacket, ArpRepr, EthernetAddress, EthernetFrame, EthernetProtocol, IpProtocol,
    Ipv4Packet, Ipv6Packet,
};

/// Extension headers of an IPv6 packet that are looked behind; no honest packet has more.
const MOST_HEADERS: usize = 8;
/// Tags of VLANs that are looked behind (IEEE 802.1ad has two). Linux takes any number of those of VLAN 0 off.
const MOST_TAGS: usize = 2;
/// EtherTypes of a tag (IEEE 802.1Q, table 9-1).
const TAGS: [u16; 2] = [0x8100, 0x88a8];
/// From here on the field is an EtherType, below it is a length (IEEE 802.3, clause 3.2.6).
const FIRST_ETHERTYPE: u16 = 0x600;
/// What is between a length and an EtherType, without the organisation (IEEE 802.2; RFC 1042).
const SNAP: [u8; 3] = [0xaa, 0xaa, 3];
/// Where servers of DHCP send from (RFC 2131, section 4.1; RFC 8415, section 7.2).
const DHCP_SERVER: u16 = 67;
const DHCPV6_SERVER: u16 = 547;
/// Types of ICMPv6 messages (RFC 4861, section 4).
const ROUTER_ADVERTISEMENT: u8 = 134;
const NEIGHBOUR_SOLICITATION: u8 = 135;
const NEIGHBOUR_ADVERTISEMENT: u8 = 136;
const REDIRECT: u8 = 137;

/// Who asks, and who has which address.
pub(super) struct Guard<'a> {
    /// Ethernet address of the sender.
    pub mac: [u8; 6],
    /// Whether an address belongs to somebody else.
    pub foreign: &'a dyn Fn(IpAddr) -> bool,
    /// DHCP and router advertisements are the network's own.
    pub services: bool,
}

impl Guard<'_> {
    /// Whether this frame may go on.
    pub fn admits(&self, frame: &[u8]) -> bool {
        let Ok(frame) = EthernetFrame::new_checked(frame) else { return false };
        let (from, to) = (frame.src_addr(), frame.dst_addr());
        // What bridges keep to themselves (IEEE 802.1D, table 7-10).
        let reserved = matches!(to.0, [0x01, 0x80, 0xc2, 0, 0, 0..=0x0f]);
        if from.0 != self.mac || to.0 == self.mac || reserved {
            return false;
        }
        match behind_tags(frame.ethertype().into(), frame.payload()) {
            None => false,
            Some((EthernetProtocol::Arp, payload)) => self.admits_arp(payload),
            Some((EthernetProtocol::Ipv4, payload)) => self.admits_ipv4(payload),
            Some((EthernetProtocol::Ipv6, payload)) => self.admits_ipv6(payload),
            Some((EthernetProtocol::Unknown(_), _)) => true,
        }
    }

    fn is_foreign(&self, ip: impl Into<IpAddr>) -> bool {
        (self.foreign)(ip.into())
    }

    fn admits_arp(&self, payload: &[u8]) -> bool {
        let parsed = ArpPacket::new_checked(payload).and_then(|packet| ArpRepr::parse(&packet));
        let Ok(ArpRepr::EthernetIpv4 {
            operation,
            source_hardware_addr: EthernetAddress(mac),
            source_protocol_addr: source,
            target_protocol_addr: target,
            ..
        }) = parsed
        else {
            return false;
        };
        // A probe for an address that somebody has would make its owner give it up (RFC 5227).
        let probe = source == Ipv4Addr::UNSPECIFIED && operation == ArpOperation::Request;
        mac == self.mac && !self.is_foreign(source) && !(probe && self.is_foreign(target))
    }

    fn admits_ipv4(&self, payload: &[u8]) -> bool {
        let Ok(packet) = Ipv4Packet::new_checked(payload) else { return false };
        if self.is_foreign(packet.src_addr()) {
            return false;
        }
        let begins = packet.next_header() == IpProtocol::Udp && packet.frag_offset() == 0;
        !(self.services && begins && source_port(packet.payload()) == Some(DHCP_SERVER))
    }

    fn admits_ipv6(&self, payload: &[u8]) -> bool {
        let Ok(packet) = Ipv6Packet::new_checked(payload) else { return false };
        let source = packet.src_addr();
        if self.is_foreign(source) {
            return false;
        }
        match behind_headers(packet.next_header(), packet.payload()) {
            Behind::TooMuch => false,
            Behind::Later => true,
            Behind::Upper(IpProtocol::Udp, udp) => {
                !(self.services && source_port(udp) == Some(DHCPV6_SERVER))
            }
            Behind::Upper(IpProtocol::Icmpv6, icmp) => self.admits_icmpv6(source, icmp),
            Behind::Upper(..) => true,
        }
    }

    fn admits_icmpv6(&self, source: Ipv6Addr, icmp: &[u8]) -> bool {
        // Both kinds of neighbour discovery have the address that they are about there (RFC 4861, 4.3, 4.4).
        let target = icmp.get(8..).and_then(|rest| rest.first_chunk::<16>());
        let is_fine = target.is_some_and(|octets| !self.is_foreign(Ipv6Addr::from(*octets)));
        match icmp.first() {
            None => false,
            Some(&(ROUTER_ADVERTISEMENT | REDIRECT)) => !self.services,
            Some(&NEIGHBOUR_ADVERTISEMENT) => is_fine,
            // Asked by nobody: whether an address is free. Its owner would give it up.
            Some(&NEIGHBOUR_SOLICITATION) if source.is_unspecified() => is_fine,
            Some(_) => true,
        }
    }
}

/// What a frame carries behind its tags, for whoever receives it may take those off: a tag of VLAN 0 is as
/// good as none (IEEE 802.1Q, clause 6.9). `None`: more of them than anybody sends, or cut short.
fn behind_tags(mut kind: u16, mut rest: &[u8]) -> Option<(EthernetProtocol, &[u8])> {
    for _ in 0..=MOST_TAGS {
        if kind < FIRST_ETHERTYPE {
            let Some([_, _, _, high, low]) = rest.strip_prefix(&SNAP).and_then(|rest| rest.first_chunk())
            else {
                return Some((kind.into(), rest));
            };
            (kind, rest) = (u16::from_be_bytes([*high, *low]), rest.get(SNAP.len() + 5..)?);
        }
        if !TAGS.contains(&kind) {
            return Some((kind.into(), rest));
        }
        let [_, _, high, low] = rest.first_chunk()?;
        (kind, rest) = (u16::from_be_bytes([*high, *low]), rest.get(4..)?);
    }
    None
}

fn source_port(udp: &[u8]) -> Option<u16> {
    udp.first_chunk::<2>().map(|port| u16::from_be_bytes(*port))
}

/// What follows the extension headers of an IPv6 packet.
enum Behind<'p> {
    Upper(IpProtocol, &'p [u8]),
    /// A later fragment: no header begins there. Neighbour discovery is never taken from fragments
    /// (RFC 6980).
    Later,
    /// More than anybody sends, or cut short.
    TooMuch,
}

fn behind_headers(mut next: IpProtocol, mut rest: &[u8]) -> Behind<'_> {
    for _ in 0..MOST_HEADERS {
        let len = match next {
            IpProtocol::HopByHop | IpProtocol::Ipv6Route | IpProtocol::Ipv6Opts => {
                let Some([_, len]) = rest.first_chunk::<2>() else { return Behind::TooMuch };
                (usize::from(*len) + 1) * 8
            }
            IpProtocol::Ipv6Frag => {
                let Some([_, _, high, low]) = rest.first_chunk::<4>() else { return Behind::TooMuch };
                if u16::from_be_bytes([*high, *low]) >> 3 != 0 {
                    return Behind::Later;
                }
                8
            }
            upper => return Behind::Upper(upper, rest),
        };
        let (Some(first), Some(behind)) = (rest.first(), rest.get(len..)) else { return Behind::TooMuch };
        (next, rest) = (IpProtocol::from(*first), behind);
    }
    Behind::TooMuch
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::Ipv4Addr;

    const ME: [u8; 6] = [2, 0, 0, 0, 0, 1];
    const OTHER: [u8; 6] = [2, 0, 0, 0, 0, 2];

    fn admits(services: bool, frame: &[u8]) -> bool {
        let foreign = |ip: IpAddr| ["10.0.0.2", "fd00::2"].iter().any(|other| ip.to_string() == *other);
        Guard { mac: ME, foreign: &foreign, services }.admits(frame)
    }

    fn frame(to: [u8; 6], from: [u8; 6], kind: u16, payload: &[u8]) -> Vec<u8> {
        [&to[..], &from, &kind.to_be_bytes(), payload].concat()
    }

    fn arp(operation: u8, mac: [u8; 6], source: [u8; 4], target: [u8; 4]) -> Vec<u8> {
        let head = [0, 1, 8, 0, 6, 4, 0, operation];
        frame([255; 6], ME, 0x0806, &[&head[..], &mac, &source, &[0; 6], &target].concat())
    }

    fn ipv4(source: Ipv4Addr, protocol: u8, payload: &[u8]) -> Vec<u8> {
        let len = u16::try_from(20 + payload.len()).unwrap().to_be_bytes();
        let head = [0x45, 0, len[0], len[1], 0, 0, 0, 0, 64, protocol, 0, 0];
        frame(OTHER, ME, 0x0800, &[&head[..], &source.octets(), &[10, 0, 0, 9], payload].concat())
    }

    fn ipv6(source: &str, next: u8, payload: &[u8]) -> Vec<u8> {
        let len = u16::try_from(payload.len()).unwrap().to_be_bytes();
        let source: Ipv6Addr = source.parse().unwrap();
        let head = [0x60, 0, 0, 0, len[0], len[1], next, 255];
        frame(OTHER, ME, 0x86dd, &[&head[..], &source.octets(), &[0xff; 16], payload].concat())
    }

    fn neighbour(kind: u8, target: &str) -> Vec<u8> {
        let target: Ipv6Addr = target.parse().unwrap();
        [&[kind, 0, 0, 0, 0, 0, 0, 0][..], &target.octets()].concat()
    }

    #[test]
    fn a_card_has_one_ethernet_address() {
        assert!(admits(true, &frame(OTHER, ME, 0x88b5, b"x")));
        assert!(!admits(true, &frame(OTHER, OTHER, 0x88b5, b"x")), "another's");
        assert!(!admits(true, &frame(OTHER, [255; 6], 0x88b5, b"x")), "a broadcast as sender");
        assert!(!admits(true, &frame(ME, ME, 0x88b5, b"x")), "to itself");
        assert!(!admits(true, &frame([1, 0x80, 0xc2, 0, 0, 0], ME, 0x88cc, b"x")), "spanning tree");
        assert!(!admits(true, &ME));
    }

    #[test]
    fn nobody_says_that_he_has_the_address_of_another() {
        assert!(admits(true, &arp(1, ME, [10, 0, 0, 1], [10, 0, 0, 2])));
        assert!(admits(true, &arp(2, ME, [10, 0, 0, 77], [10, 0, 0, 2])), "a second address of its own");
        assert!(!admits(true, &arp(2, ME, [10, 0, 0, 2], [10, 0, 0, 3])));
        assert!(!admits(true, &arp(1, OTHER, [10, 0, 0, 1], [10, 0, 0, 2])), "another's card");
        assert!(!admits(true, &arp(1, ME, [0; 4], [10, 0, 0, 2])), "a probe that would take it away");
        assert!(!admits(true, &frame([255; 6], ME, 0x0806, b"short")));
        assert!(admits(true, &ipv4(Ipv4Addr::new(10, 9, 9, 9), 6, b"from behind a router")));
        assert!(!admits(true, &ipv4(Ipv4Addr::new(10, 0, 0, 2), 6, b"")));
        assert!(!admits(true, &ipv6("fd00::2", 6, b"")));
        assert!(admits(true, &ipv6("fd00::1", 58, &neighbour(136, "fd00::1"))));
        assert!(!admits(true, &ipv6("fd00::1", 58, &neighbour(136, "fd00::2"))));
        assert!(!admits(true, &ipv6("::", 58, &neighbour(135, "fd00::2"))));
        assert!(admits(true, &ipv6("fd00::1", 58, &neighbour(135, "fd00::2"))));
        assert!(!admits(true, &ipv6("fd00::1", 58, &neighbour(136, "fd00::1")[..20])), "cut short");
    }

    /// The same frame with that before its EtherType, or instead of it.
    fn with(frame: &[u8], words: &[u8]) -> Vec<u8> {
        [&frame[..12], words, &frame[12..]].concat()
    }

    #[test]
    fn a_tag_hides_nothing() {
        let offer = [0, 67, 0, 68, 0, 8, 0, 0];
        let refused = [
            arp(2, ME, [10, 0, 0, 2], [10, 0, 0, 3]),
            arp(2, OTHER, [10, 0, 0, 1], [10, 0, 0, 3]),
            ipv4(Ipv4Addr::new(10, 0, 0, 2), 6, b""),
            ipv4(Ipv4Addr::new(10, 0, 0, 1), 17, &offer),
            ipv6("fd00::2", 6, b""),
            ipv6("fd00::1", 58, &neighbour(136, "fd00::2")),
            ipv6("fe80::1", 58, &[134, 0, 0, 0, 0, 0, 0, 0]),
        ];
        let honest = [
            arp(2, ME, [10, 0, 0, 1], [10, 0, 0, 3]),
            ipv4(Ipv4Addr::new(10, 0, 0, 1), 6, b""),
            ipv6("fd00::1", 58, &neighbour(136, "fd00::1")),
            frame(OTHER, ME, 0x88b5, b"x"),
        ];
        let tags: [&[u8]; 7] = [
            &[0x81, 0, 0, 0],
            &[0x81, 0, 0xe0, 0],
            &[0x81, 0, 0, 42],
            &[0x88, 0xa8, 0, 0],
            &[0x88, 0xa8, 0, 7, 0x81, 0, 0, 42],
            &[0, 64, 0xaa, 0xaa, 3, 0, 0, 0],
            &[0x81, 0, 0, 0, 0, 64, 0xaa, 0xaa, 3, 0, 0, 0xf8],
        ];
        for tag in tags {
            for frame in &refused {
                assert!(!admits(true, &with(frame, tag)), "{tag:x?} {frame:x?}");
            }
            for frame in &honest {
                assert!(admits(true, &with(frame, tag)), "{tag:x?} {frame:x?}");
            }
        }
        let three = [0x81, 0, 0, 0].repeat(3);
        for frame in refused.iter().chain(&honest) {
            assert!(!admits(true, &with(frame, &three)), "three tags");
        }
        for len in 14..18 {
            assert!(!admits(true, &with(&honest[1], tags[0])[..len]), "a tag that is cut short");
        }
        assert!(admits(true, &frame([255; 6], ME, 3, &[0xe0, 0xe0, 3])), "a length, and no SNAP behind it");
    }

    #[test]
    fn only_the_network_gives_addresses_unless_it_does_not() {
        let offer = [0, 67, 0, 68, 0, 8, 0, 0];
        let advert = [134, 0, 0, 0, 0, 0, 0, 0];
        let hidden = [&[58, 0, 0, 0, 0, 0, 0, 0][..], &advert].concat();
        let v6_offer = [2, 0x23, 2, 0x22, 0, 8, 0, 0];
        let frames = [
            ipv4(Ipv4Addr::new(10, 0, 0, 1), 17, &offer),
            ipv4(Ipv4Addr::new(10, 0, 0, 1), 17, &offer[..3]),
            ipv6("fe80::1", 58, &advert),
            ipv6("fe80::1", 60, &hidden),
            ipv6("fe80::1", 44, &hidden),
            ipv6("fe80::1", 17, &v6_offer),
        ];
        for frame in &frames {
            assert!(!admits(true, frame), "{frame:x?}");
            assert!(admits(false, frame), "{frame:x?}");
        }
        let deep = [[60, 0, 0, 0, 0, 0, 0, 0]; 9].concat();
        assert!(!admits(false, &ipv6("fe80::1", 60, &deep)), "no honest packet");
        assert!(!admits(false, &ipv6("fe80::1", 60, &[58])), "cut short");
        assert!(admits(true, &ipv4(Ipv4Addr::new(10, 0, 0, 1), 17, &[0, 68, 0, 67, 0, 8, 0, 0])));
    }
}
