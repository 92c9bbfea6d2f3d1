//! The network's own station: answers ARP, neighbour discovery, pings, DHCP and DNS. It keeps no state:
//! an answer goes to the card that the question came from.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;
use smoltcp::phy::ChecksumCapabilities;
use smoltcp::wire::{
    ArpOperation, ArpPacket, ArpRepr, EthernetAddress, EthernetFrame, EthernetProtocol, EthernetRepr,
    Icmpv4Packet, Icmpv4Repr, Icmpv6Packet, Icmpv6Repr, IpProtocol, Ipv4Packet, Ipv4Repr, Ipv6Packet,
    Ipv6Repr, NdiscNeighborFlags, NdiscRepr, UDP_HEADER_LEN, UdpPacket, UdpRepr,
};

use super::dhcp;
use super::dns::{self, Names};
use super::spec::{Member, Spec, Zone, link_local};
use crate::model;

/// Its Ethernet address, the same in each network: locally administered, `rvm` and a number.
pub(super) const MAC: [u8; 6] = [0x02, b'r', b'v', b'm', 0, 1];

const DNS: u16 = 53;
const DHCP: u16 = 67;
const DHCP_CLIENT: u16 = 68;
const HOP_LIMIT: u8 = 64;
/// Neighbour discovery comes from the link itself (RFC 4861, section 7.1).
const UNFORWARDED: u8 = 255;

/// A station with its addresses.
#[derive(Debug)]
pub(super) struct Station {
    spec: Spec,
    v4: Option<Ipv4Addr>,
    v6: Option<Ipv6Addr>,
}

impl Station {
    /// That of the network.
    pub fn new(spec: Spec) -> Self {
        let mut station = Station { v4: None, v6: None, spec };
        for subnet in &station.spec.subnets {
            match model::station(subnet) {
                IpAddr::V4(v4) => station.v4 = Some(v4),
                IpAddr::V6(v6) => station.v6 = Some(v6),
            }
        }
        station
    }

    /// Whether the network gives addresses itself.
    pub fn serves_dhcp(&self) -> bool {
        self.spec.dhcp
    }

    /// Whether this is one of its addresses.
    pub fn owns(&self, ip: IpAddr) -> bool {
        match ip {
            IpAddr::V4(v4) => self.v4 == Some(v4),
            IpAddr::V6(v6) => self.v6 == Some(v6) || v6 == link_local(MAC),
        }
    }

    /// The answer to a frame of `member`, if it is one for the station. `zones` are all names.
    pub fn answer(&self, frame: &[u8], member: &Member, zones: &[Zone]) -> Option<Vec<u8>> {
        let frame = EthernetFrame::new_checked(frame).ok()?;
        match frame.ethertype() {
            EthernetProtocol::Arp => self.arp(frame.payload(), member),
            EthernetProtocol::Ipv4 => self.ipv4(frame.payload(), member, zones),
            EthernetProtocol::Ipv6 => self.ipv6(frame.payload(), member, zones),
            EthernetProtocol::Unknown(_) => None,
        }
    }

    fn arp(&self, payload: &[u8], member: &Member) -> Option<Vec<u8>> {
        let packet = ArpPacket::new_checked(payload).ok()?;
        let ArpRepr::EthernetIpv4 {
            operation: ArpOperation::Request,
            source_hardware_addr,
            source_protocol_addr,
            target_protocol_addr,
            ..
        } = ArpRepr::parse(&packet).ok()?
        else {
            return None;
        };
        if self.v4 != Some(target_protocol_addr) {
            return None;
        }
        let reply = ArpRepr::EthernetIpv4 {
            operation: ArpOperation::Reply,
            source_hardware_addr: EthernetAddress(MAC),
            source_protocol_addr: target_protocol_addr,
            target_hardware_addr: source_hardware_addr,
            target_protocol_addr: source_protocol_addr,
        };
        Some(ethernet(member, EthernetProtocol::Arp, reply.buffer_len(), |buffer| {
            reply.emit(&mut ArpPacket::new_unchecked(buffer));
        }))
    }

    fn ipv4(&self, payload: &[u8], member: &Member, zones: &[Zone]) -> Option<Vec<u8>> {
        let packet = Ipv4Packet::new_checked(payload).ok()?;
        let ip = Ipv4Repr::parse(&packet, &ChecksumCapabilities::default()).ok()?;
        let own = self.v4?;
        // Questions are short: none comes in fragments.
        if packet.more_frags() || packet.frag_offset() != 0 {
            return None;
        }
        if ip.next_header == IpProtocol::Udp {
            return self.udp_v4(&ip, packet.payload(), own, member, zones);
        }
        if ip.dst_addr != own || ip.next_header != IpProtocol::Icmp {
            return None;
        }
        let caps = ChecksumCapabilities::default();
        let icmp = Icmpv4Packet::new_checked(packet.payload()).ok()?;
        let Icmpv4Repr::EchoRequest { ident, seq_no, data } = Icmpv4Repr::parse(&icmp, &caps).ok()? else {
            return None;
        };
        let echo = Icmpv4Repr::EchoReply { ident, seq_no, data };
        let header = reply_v4(own, ip.src_addr, IpProtocol::Icmp, echo.buffer_len());
        Some(ipv4(member, &header, |buffer| echo.emit(&mut Icmpv4Packet::new_unchecked(buffer), &caps)))
    }

    fn udp_v4(
        &self,
        ip: &Ipv4Repr,
        payload: &[u8],
        own: Ipv4Addr,
        member: &Member,
        zones: &[Zone],
    ) -> Option<Vec<u8>> {
        let (from, data) = udp(payload, ip.src_addr.into(), ip.dst_addr.into())?;
        match from.dst_port {
            DHCP if self.spec.dhcp && [own, Ipv4Addr::BROADCAST].contains(&ip.dst_addr) => {
                let answer = dhcp::answer(data, &self.spec, member, own)?;
                let ports = UdpRepr { src_port: DHCP, dst_port: DHCP_CLIENT };
                Some(udp_reply(member, own.into(), answer.to.into(), ports, &answer.message))
            }
            DNS if ip.dst_addr == own => {
                let answer = self.dns(data, member, zones)?;
                let ports = UdpRepr { src_port: DNS, dst_port: from.src_port };
                Some(udp_reply(member, own.into(), ip.src_addr.into(), ports, &answer))
            }
            _ => None,
        }
    }

    fn ipv6(&self, payload: &[u8], member: &Member, zones: &[Zone]) -> Option<Vec<u8>> {
        let packet = Ipv6Packet::new_checked(payload).ok()?;
        let ip = Ipv6Repr::parse(&packet).ok()?;
        let caps = ChecksumCapabilities::default();
        match ip.next_header {
            IpProtocol::Udp if self.owns(ip.dst_addr.into()) => {
                let (from, data) = udp(packet.payload(), ip.src_addr.into(), ip.dst_addr.into())?;
                let answer = (from.dst_port == DNS).then(|| self.dns(data, member, zones)).flatten()?;
                let ports = UdpRepr { src_port: DNS, dst_port: from.src_port };
                Some(udp_reply(member, ip.dst_addr.into(), ip.src_addr.into(), ports, &answer))
            }
            IpProtocol::Icmpv6 => {
                let icmp = Icmpv6Packet::new_checked(packet.payload()).ok()?;
                match Icmpv6Repr::parse(&ip.src_addr, &ip.dst_addr, &icmp, &caps).ok()? {
                    Icmpv6Repr::EchoRequest { ident, seq_no, data } if self.owns(ip.dst_addr.into()) => {
                        let echo = Icmpv6Repr::EchoReply { ident, seq_no, data };
                        Some(icmpv6(member, ip.dst_addr, ip.src_addr, HOP_LIMIT, &echo))
                    }
                    Icmpv6Repr::Ndisc(NdiscRepr::NeighborSolicit { target_addr, .. })
                        if ip.hop_limit == UNFORWARDED && self.owns(target_addr.into()) =>
                    {
                        Some(advertise(member, target_addr, ip.src_addr))
                    }
                    _ => None,
                }
            }
            _ => None,
        }
    }

    fn dns(&self, query: &[u8], member: &Member, zones: &[Zone]) -> Option<Vec<u8>> {
        let others: Vec<&Zone> = zones.iter().filter(|zone| zone.owner != member.owner).collect();
        let local = |ip: IpAddr| self.spec.subnets.iter().any(|net: &IpNet| net.contains(&ip));
        let own = zones.iter().find(|zone| zone.owner == member.owner);
        dns::answer(query, &Names { own, others: &others, local: &local })
    }
}

/// The header and the data of a datagram whose checksum is right.
fn udp(payload: &[u8], from: IpAddr, to: IpAddr) -> Option<(UdpRepr, &[u8])> {
    let packet = UdpPacket::new_checked(payload).ok()?;
    let repr = UdpRepr::parse(&packet, &from.into(), &to.into(), &ChecksumCapabilities::default()).ok()?;
    Some((repr, packet.payload()))
}

fn reply_v4(from: Ipv4Addr, to: Ipv4Addr, next_header: IpProtocol, payload_len: usize) -> Ipv4Repr {
    Ipv4Repr { src_addr: from, dst_addr: to, next_header, payload_len, hop_limit: HOP_LIMIT }
}

/// "I have that address", to who asked, or to all where nobody said who asks.
fn advertise(member: &Member, target: Ipv6Addr, asker: Ipv6Addr) -> Vec<u8> {
    let asked = !asker.is_unspecified();
    let mut flags = NdiscNeighborFlags::OVERRIDE;
    flags.set(NdiscNeighborFlags::SOLICITED, asked);
    let lladdr = Some(EthernetAddress(MAC).into());
    let advert = Icmpv6Repr::Ndisc(NdiscRepr::NeighborAdvert { flags, target_addr: target, lladdr });
    let to = if asked { asker } else { Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1) };
    icmpv6(member, target, to, UNFORWARDED, &advert)
}

fn icmpv6(member: &Member, from: Ipv6Addr, to: Ipv6Addr, hop_limit: u8, message: &Icmpv6Repr<'_>) -> Vec<u8> {
    let payload_len = message.buffer_len();
    let header =
        Ipv6Repr { src_addr: from, dst_addr: to, next_header: IpProtocol::Icmpv6, payload_len, hop_limit };
    ipv6(member, &header, |buffer| {
        let mut packet = Icmpv6Packet::new_unchecked(buffer);
        message.emit(&from, &to, &mut packet, &ChecksumCapabilities::default());
    })
}

fn udp_reply(member: &Member, from: IpAddr, to: IpAddr, ports: UdpRepr, data: &[u8]) -> Vec<u8> {
    let payload_len = UDP_HEADER_LEN + data.len();
    let write = |buffer: &mut [u8]| {
        let mut packet = UdpPacket::new_unchecked(buffer);
        let caps = ChecksumCapabilities::default();
        let fill = |payload: &mut [u8]| payload.copy_from_slice(data);
        ports.emit(&mut packet, &from.into(), &to.into(), data.len(), fill, &caps);
    };
    match (from, to) {
        (IpAddr::V4(from), IpAddr::V4(to)) => {
            ipv4(member, &reply_v4(from, to, IpProtocol::Udp, payload_len), write)
        }
        (IpAddr::V6(src_addr), IpAddr::V6(dst_addr)) => {
            let (next_header, hop_limit) = (IpProtocol::Udp, HOP_LIMIT);
            ipv6(member, &Ipv6Repr { src_addr, dst_addr, next_header, payload_len, hop_limit }, write)
        }
        _ => Vec::new(),
    }
}

fn ipv4(member: &Member, header: &Ipv4Repr, write: impl FnOnce(&mut [u8])) -> Vec<u8> {
    let len = header.buffer_len() + header.payload_len;
    ethernet(member, EthernetProtocol::Ipv4, len, |buffer| {
        let mut packet = Ipv4Packet::new_unchecked(buffer);
        header.emit(&mut packet, &ChecksumCapabilities::default());
        write(packet.payload_mut());
    })
}

fn ipv6(member: &Member, header: &Ipv6Repr, write: impl FnOnce(&mut [u8])) -> Vec<u8> {
    let len = header.buffer_len() + header.payload_len;
    ethernet(member, EthernetProtocol::Ipv6, len, |buffer| {
        let mut packet = Ipv6Packet::new_unchecked(buffer);
        header.emit(&mut packet);
        write(packet.payload_mut());
    })
}

/// A frame from the station to a member.
fn ethernet(
    member: &Member,
    ethertype: EthernetProtocol,
    len: usize,
    write: impl FnOnce(&mut [u8]),
) -> Vec<u8> {
    let header =
        EthernetRepr { src_addr: EthernetAddress(MAC), dst_addr: EthernetAddress(member.mac), ethertype };
    let mut bytes = vec![0; header.buffer_len() + len];
    let mut frame = EthernetFrame::new_unchecked(bytes.as_mut_slice());
    header.emit(&mut frame);
    write(frame.payload_mut());
    bytes
}
