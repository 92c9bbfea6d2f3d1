//! Answers to DHCP (RFC 2131): each member gets the address that is its own, and no other.

use std::net::{IpAddr, Ipv4Addr};

use ipnet::{IpNet, Ipv4Net};
use smoltcp::wire::{DhcpMessageType, DhcpOption, DhcpPacket, DhcpRepr};

use super::spec::{Member, Spec};

/// How long an address is lent, in seconds. It is the member's for as long as the member is there.
const LEASE: u32 = 24 * 3600;
/// Options (RFC 2132) that the library has no field for.
const DOMAIN_NAME: u8 = 15;
const INTERFACE_MTU: u8 = 26;
/// Clients may drop messages that are shorter (RFC 1542, section 2.1).
const SHORTEST: usize = 300;

/// A message for a member, and where it is to go.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Answer {
    pub to: Ipv4Addr,
    pub message: Vec<u8>,
}

/// The answer to a message from `member`, if there is one.
pub(super) fn answer(message: &[u8], spec: &Spec, member: &Member, station: Ipv4Addr) -> Option<Answer> {
    let packet = DhcpPacket::new_checked(message).ok()?;
    let request = DhcpRepr::parse(&packet).ok()?;
    let subnet = spec.subnets.iter().find_map(|net| match net {
        IpNet::V4(net) => Some(*net),
        IpNet::V6(_) => None,
    })?;
    let own = member.addresses.iter().find_map(|ip| match ip {
        IpAddr::V4(v4) => Some(*v4),
        IpAddr::V6(_) => None,
    })?;
    // Relays and cards that hide behind a member are not served.
    if request.client_hardware_address.0 != member.mac || request.relay_agent_ip != Ipv4Addr::UNSPECIFIED {
        return None;
    }
    let mine = request.server_identifier.is_none_or(|server| server == station);
    let kind = match request.message_type {
        DhcpMessageType::Discover => DhcpMessageType::Offer,
        DhcpMessageType::Inform => DhcpMessageType::Ack,
        DhcpMessageType::Request if mine => {
            let wanted = request.requested_ip.unwrap_or(request.client_ip);
            if wanted == own { DhcpMessageType::Ack } else { DhcpMessageType::Nak }
        }
        _ => return None,
    };
    reply(&request, kind, own, subnet, station, spec)
}

fn reply(
    request: &DhcpRepr<'_>,
    kind: DhcpMessageType,
    own: Ipv4Addr,
    subnet: Ipv4Net,
    station: Ipv4Addr,
    spec: &Spec,
) -> Option<Answer> {
    let refused = kind == DhcpMessageType::Nak;
    let lends = !refused && request.message_type != DhcpMessageType::Inform;
    let mtu = spec.mtu.to_be_bytes();
    let options = [
        DhcpOption { kind: DOMAIN_NAME, data: spec.name.as_bytes() },
        DhcpOption { kind: INTERFACE_MTU, data: &mtu },
    ];
    let reply = DhcpRepr {
        message_type: kind,
        transaction_id: request.transaction_id,
        secs: 0,
        client_hardware_address: request.client_hardware_address,
        client_ip: if refused { Ipv4Addr::UNSPECIFIED } else { request.client_ip },
        your_ip: if lends { own } else { Ipv4Addr::UNSPECIFIED },
        server_ip: Ipv4Addr::UNSPECIFIED,
        // There is none: a private network leads nowhere.
        router: None,
        subnet_mask: (!refused).then(|| subnet.netmask()),
        relay_agent_ip: Ipv4Addr::UNSPECIFIED,
        broadcast: request.broadcast,
        requested_ip: None,
        client_identifier: request.client_identifier,
        server_identifier: Some(station),
        parameter_request_list: None,
        dns_servers: (!refused).then(|| [station].into_iter().collect()),
        max_size: None,
        lease_duration: lends.then_some(LEASE),
        renew_duration: None,
        rebind_duration: None,
        additional_options: if refused { &[] } else { &options },
    };
    let mut message = vec![0; reply.buffer_len()];
    reply.emit(&mut DhcpPacket::new_unchecked(message.as_mut_slice())).ok()?;
    message.resize(message.len().max(SHORTEST), 0);
    let to = match request.client_ip {
        // RFC 2131, section 4.1: who has no address yet is told so that it hears it in any case.
        ip if ip == Ipv4Addr::UNSPECIFIED || refused => Ipv4Addr::BROADCAST,
        ip => ip,
    };
    Some(Answer { to, message })
}

#[cfg(test)]
mod tests {
    use super::*;
    use smoltcp::wire::EthernetAddress;

    const MAC: [u8; 6] = [2, 0, 0, 0, 0, 1];
    const STATION: Ipv4Addr = Ipv4Addr::new(10, 10, 0, 254);
    const OWN: Ipv4Addr = Ipv4Addr::new(10, 10, 0, 5);

    fn request(kind: DhcpMessageType) -> DhcpRepr<'static> {
        DhcpRepr {
            message_type: kind,
            transaction_id: 77,
            secs: 0,
            client_hardware_address: EthernetAddress(MAC),
            client_ip: Ipv4Addr::UNSPECIFIED,
            your_ip: Ipv4Addr::UNSPECIFIED,
            server_ip: Ipv4Addr::UNSPECIFIED,
            router: None,
            subnet_mask: None,
            relay_agent_ip: Ipv4Addr::UNSPECIFIED,
            broadcast: false,
            requested_ip: None,
            client_identifier: None,
            server_identifier: None,
            parameter_request_list: None,
            dns_servers: None,
            max_size: None,
            lease_duration: None,
            renew_duration: None,
            rebind_duration: None,
            additional_options: &[],
        }
    }

    fn asked(request: &DhcpRepr<'_>) -> Option<Answer> {
        let mut message = vec![0; request.buffer_len()];
        request.emit(&mut DhcpPacket::new_unchecked(message.as_mut_slice())).unwrap();
        raw(&message)
    }

    fn raw(message: &[u8]) -> Option<Answer> {
        let subnets = vec!["10.10.0.0/24".parse().unwrap()];
        let spec = Spec { name: "backend".into(), subnets, dhcp: true, mtu: 1500 };
        let addresses = vec!["fd10::5".parse().unwrap(), OWN.into()];
        let (id, machine, owner) = ("i".into(), "db".into(), "p".into());
        answer(message, &spec, &Member { id, machine, owner, mac: MAC, addresses }, STATION)
    }

    /// Kind of the answer, the address that it gives, and where it goes.
    fn kind(answer: &Answer) -> (DhcpMessageType, Ipv4Addr, Ipv4Addr) {
        let packet = DhcpPacket::new_checked(&answer.message).unwrap();
        let repr = DhcpRepr::parse(&packet).unwrap();
        assert_eq!(repr.transaction_id, 77);
        assert_eq!(repr.server_identifier, Some(STATION));
        (repr.message_type, repr.your_ip, answer.to)
    }

    #[test]
    fn a_member_gets_its_own_address_and_no_other() {
        let none = Ipv4Addr::UNSPECIFIED;
        let discover = DhcpRepr { requested_ip: Some(STATION), ..request(DhcpMessageType::Discover) };
        let offer = asked(&discover).unwrap();
        assert_eq!(kind(&offer), (DhcpMessageType::Offer, OWN, Ipv4Addr::BROADCAST));
        assert!(offer.message.len() >= SHORTEST);
        let packet = DhcpPacket::new_checked(&offer.message).unwrap();
        let repr = DhcpRepr::parse(&packet).unwrap();
        assert_eq!(repr.dns_servers.unwrap()[0], STATION);
        assert_eq!((repr.router, repr.lease_duration), (None, Some(LEASE)));
        let wants = |ip| DhcpRepr { requested_ip: Some(ip), ..request(DhcpMessageType::Request) };
        assert_eq!(kind(&asked(&wants(OWN)).unwrap()).0, DhcpMessageType::Ack);
        let refused = kind(&asked(&wants(Ipv4Addr::new(10, 10, 0, 6))).unwrap());
        assert_eq!(refused, (DhcpMessageType::Nak, none, Ipv4Addr::BROADCAST));
        let renew = DhcpRepr { client_ip: OWN, ..request(DhcpMessageType::Request) };
        assert_eq!(kind(&asked(&renew).unwrap()), (DhcpMessageType::Ack, OWN, OWN));
        let inform = DhcpRepr { client_ip: OWN, ..request(DhcpMessageType::Inform) };
        assert_eq!(kind(&asked(&inform).unwrap()), (DhcpMessageType::Ack, none, OWN));
    }

    #[test]
    fn others_are_not_answered() {
        let discover = request(DhcpMessageType::Discover);
        assert!(
            asked(&DhcpRepr { client_hardware_address: EthernetAddress([2; 6]), ..discover.clone() })
                .is_none()
        );
        assert!(asked(&DhcpRepr { relay_agent_ip: OWN, ..discover.clone() }).is_none());
        let elsewhere = DhcpRepr { server_identifier: Some(OWN), ..request(DhcpMessageType::Request) };
        assert!(asked(&elsewhere).is_none());
        assert!(asked(&request(DhcpMessageType::Release)).is_none());
        let mut message = vec![0; discover.buffer_len()];
        discover.emit(&mut DhcpPacket::new_unchecked(message.as_mut_slice())).unwrap();
        for len in 0..message.len() {
            // Whatever is cut off: an answer or none, and no panic.
            let _ = raw(&message[..len]);
        }
    }
}
