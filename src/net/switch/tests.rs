//! The switch over socket pairs: who hears what, and what a hostile machine cannot do.

use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::unix::net::UnixStream;

use smoltcp::phy::ChecksumCapabilities;
use smoltcp::wire::{
    ArpOperation, ArpPacket, ArpRepr, EthernetAddress, EthernetFrame, Icmpv6Packet, Icmpv6Repr, IpProtocol,
    Ipv4Packet, Ipv4Repr, Ipv6Packet, Ipv6Repr, NdiscRepr, UdpPacket, UdpRepr,
};

use super::*;

const PEER: u16 = 0x88b5;

fn mac(n: u8) -> [u8; 6] {
    [2, 0, 0, 0, 0, n]
}

fn member(n: u8) -> Member {
    Member {
        id: format!("id{n}"),
        machine: format!("m{n}"),
        owner: "p".into(),
        mac: mac(n),
        addresses: vec![IpAddr::from([10, 10, 0, n]), format!("fd10::{n:x}").parse().unwrap()],
    }
}

fn frame(to: [u8; 6], from: [u8; 6], kind: u16, payload: &[u8]) -> Vec<u8> {
    [&to[..], &from, &kind.to_be_bytes(), payload].concat()
}

fn data(to: [u8; 6], from: u8, payload: &[u8]) -> Vec<u8> {
    frame(to, mac(from), PEER, payload)
}

struct Net {
    table: Table,
    ends: Vec<UnixStream>,
    /// Frames that were not received as a whole yet.
    rests: [Vec<u8>; 256],
}

impl Net {
    fn new(machines: u8) -> Net {
        let subnets = vec!["10.10.0.0/24".parse().unwrap(), "fd10::/64".parse().unwrap()];
        let spec = Spec { name: "backend".into(), subnets, dhcp: true, mtu: 1500 };
        let mut net = Net { table: Table::new(spec), ends: Vec::new(), rests: [const { Vec::new() }; 256] };
        for n in 1..=machines {
            net.join(member(n)).unwrap();
        }
        net
    }

    fn join(&mut self, member: Member) -> Result<(), String> {
        let (ours, theirs) = UnixStream::pair().unwrap();
        theirs.set_nonblocking(true).unwrap();
        self.table.join(member, ours.into())?;
        self.ends.push(theirs);
        Ok(())
    }

    fn raw(&mut self, from: u8, bytes: &[u8]) {
        self.ends[usize::from(from) - 1].write_all(bytes).unwrap();
    }

    /// Machine `from` sends a frame, and the switch serves everybody.
    fn send(&mut self, from: u8, frame: &[u8]) {
        self.raw(from, &u32::try_from(frame.len()).unwrap().to_be_bytes());
        self.raw(from, frame);
        self.turn();
    }

    fn turn(&mut self) {
        for at in 0..self.ends.len() {
            self.table.serve(at);
            self.table.flush(at);
        }
    }

    /// What machine `at` has received since it was last asked.
    fn heard(&mut self, at: u8) -> Vec<Vec<u8>> {
        let (mut bytes, mut chunk) = (std::mem::take(&mut self.rests[usize::from(at)]), vec![0; 1 << 18]);
        while let Ok(count @ 1..) = self.ends[usize::from(at) - 1].read(&mut chunk) {
            bytes.extend_from_slice(&chunk[..count]);
        }
        let (mut frames, mut start) = (Vec::new(), 0);
        while let Some(end) = frame_end(&bytes, start) {
            frames.push(bytes[start + PREFIX..end].to_vec());
            start = end;
        }
        self.rests[usize::from(at)] = bytes.split_off(start);
        frames
    }

    fn counters(&self, at: usize) -> Counters {
        self.table.status()[at].counters
    }

    fn gone(&mut self) -> Vec<String> {
        let mut gone = Vec::new();
        self.table.sweep(|member, why| gone.push(format!("{}: {why}", member.machine)));
        gone
    }
}

#[test]
fn a_frame_goes_to_whom_it_is_for() {
    let mut net = Net::new(3);
    let frame = data(mac(2), 1, b"for two");
    net.send(1, &frame);
    assert_eq!(net.heard(2), [frame]);
    assert!(net.heard(1).is_empty() && net.heard(3).is_empty());
    for to in [[0xff; 6], [0x33, 0x33, 0, 0, 0, 1]] {
        let frame = data(to, 1, b"for all");
        net.send(1, &frame);
        assert_eq!((net.heard(2), net.heard(3)), (vec![frame.clone()], vec![frame]));
        assert!(net.heard(1).is_empty(), "it does not hear itself");
    }
    net.send(1, &data(mac(9), 1, b"for nobody"));
    assert!(net.heard(2).is_empty() && net.heard(3).is_empty());
}

#[test]
fn frames_may_come_in_pieces_and_be_large() {
    let mut net = Net::new(2);
    let mut sent = Vec::new();
    for len in [0, 46, 1500, 9000, MAX_FRAME - 14] {
        sent.push(data(mac(2), 1, &vec![7; len]));
    }
    let mut heard = Vec::new();
    for frame in &sent {
        let bytes = [&u32::try_from(frame.len()).unwrap().to_be_bytes()[..], frame].concat();
        for piece in bytes.chunks(4099) {
            net.raw(1, piece);
            net.turn();
            heard.extend(net.heard(2));
        }
    }
    assert_eq!(heard, sent);
}

#[test]
fn nobody_sends_as_another() {
    let mut net = Net::new(3);
    net.send(1, &data(mac(2), 3, b"as three"));
    let arp = |mac: [u8; 6], ip: [u8; 4]| {
        [&[0, 1, 8, 0, 6, 4, 0, 2][..], &mac, &ip, &super::tests::mac(2), &[10, 10, 0, 2]].concat()
    };
    net.send(1, &frame(mac(2), mac(1), 0x0806, &arp(mac(1), [10, 10, 0, 3])));
    net.send(1, &frame(mac(2), mac(1), 0x0806, &arp(mac(1), [10, 10, 0, 254])));
    assert!(net.heard(2).is_empty());
    assert_eq!(net.counters(0).refused, 3);
    let own = frame(mac(2), mac(1), 0x0806, &arp(mac(1), [10, 10, 0, 1]));
    net.send(1, &own);
    assert_eq!(net.heard(2), [own]);
}

#[test]
fn who_does_not_read_holds_up_nobody() {
    let mut net = Net::new(3);
    let flood = data(mac(3), 1, &[0; 1500]);
    for _ in 0..3000 {
        net.send(1, &flood);
    }
    assert!(net.counters(2).dropped > 0, "the flood was not one");
    let frame = data(mac(2), 1, b"on time");
    net.send(1, &frame);
    assert_eq!(net.heard(2), [frame]);
    // Another's frame has its place among those that wait.
    let frame = data(mac(3), 2, b"not pushed out");
    net.send(2, &frame);
    let mut heard = Vec::new();
    loop {
        let more = net.heard(3);
        if more.is_empty() {
            break;
        }
        heard.extend(more);
        net.turn();
    }
    assert!(heard.contains(&frame));
}

#[test]
fn a_machine_that_breaks_the_stream_is_cut_off_alone() {
    let mut net = Net::new(3);
    net.raw(1, &[0xff; 8]);
    net.turn();
    assert_eq!(net.gone(), ["m1: it sent a frame of 4294967295 bytes"]);
    net.ends.remove(0);
    net.ends.insert(0, UnixStream::pair().unwrap().0);
    let status = net.table.status();
    assert_eq!(status.iter().map(|port| port.machine.as_str()).collect::<Vec<_>>(), ["m2", "m3"]);
    drop(net.ends.remove(2));
    net.table.serve(1);
    assert_eq!(net.gone(), ["m3: it closed the connection"]);
}

#[test]
fn joining() {
    let mut net = Net::new(2);
    assert_eq!(
        net.join(Member { mac: mac(1), ..member(7) }).unwrap_err(),
        "machine `m1` has that Ethernet address"
    );
    let taken = Member { addresses: member(2).addresses, ..member(7) };
    assert_eq!(net.join(taken).unwrap_err(), "machine `m2` has the address 10.10.0.2");
    let station = Member { addresses: vec!["10.10.0.254".parse().unwrap()], ..member(7) };
    assert!(net.join(station).is_err());
    assert!(net.join(Member { mac: [3, 0, 0, 0, 0, 1], ..member(7) }).is_err(), "a group is no machine");
    // The same machine again, after its card lost the switch.
    net.join(member(1)).unwrap();
    assert_eq!(net.table.status().len(), 2);
    let mut many = Net::new(200);
    for n in 0..200_u8 {
        let extra = Member { id: format!("x{n}"), mac: [2, 1, 0, 0, 0, n], addresses: vec![], ..member(1) };
        let joined = many.join(extra);
        assert_eq!(joined.is_ok(), usize::from(n) < MOST_PORTS - 200, "{n}");
    }
}

/// A datagram from machine 1.
fn udp(to_mac: [u8; 6], from: IpAddr, to: IpAddr, ports: (u16, u16), data: &[u8]) -> Vec<u8> {
    let caps = ChecksumCapabilities::default();
    let len = 8 + data.len();
    let mut packet = match (from, to) {
        (IpAddr::V4(src_addr), IpAddr::V4(dst_addr)) => {
            let next_header = IpProtocol::Udp;
            let repr = Ipv4Repr { src_addr, dst_addr, next_header, payload_len: len, hop_limit: 64 };
            let mut bytes = vec![0; 20 + len];
            repr.emit(&mut Ipv4Packet::new_unchecked(&mut bytes), &caps);
            bytes
        }
        (IpAddr::V6(src_addr), IpAddr::V6(dst_addr)) => {
            let next_header = IpProtocol::Udp;
            let repr = Ipv6Repr { src_addr, dst_addr, next_header, payload_len: len, hop_limit: 64 };
            let mut bytes = vec![0; 40 + len];
            repr.emit(&mut Ipv6Packet::new_unchecked(&mut bytes));
            bytes
        }
        _ => unreachable!(),
    };
    let at = packet.len() - len;
    let repr = UdpRepr { src_port: ports.0, dst_port: ports.1 };
    let mut udp = UdpPacket::new_unchecked(&mut packet[at..]);
    repr.emit(&mut udp, &from.into(), &to.into(), data.len(), |p| p.copy_from_slice(data), &caps);
    frame(to_mac, mac(1), if from.is_ipv4() { 0x0800 } else { 0x86dd }, &packet)
}

fn query(name: &str) -> Vec<u8> {
    let mut query = vec![0, 1, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
    for label in name.split('.') {
        query.push(u8::try_from(label.len()).unwrap());
        query.extend(label.bytes());
    }
    query.extend([0, 0, 1, 0, 1]);
    query
}

#[test]
fn the_station_answers() {
    let mut net = Net::new(2);
    let mut zone = Zone { owner: "p".into(), ..Zone::default() };
    zone.records.insert("m2".into(), member(2).addresses);
    net.table.names(zone).unwrap();
    let (v4, v6): (Ipv4Addr, Ipv6Addr) =
        ([10, 10, 0, 254].into(), "fd10::ffff:ffff:ffff:ffff".parse().unwrap());

    let ask = [&[0, 1, 8, 0, 6, 4, 0, 1][..], &mac(1), &[10, 10, 0, 1], &[0; 6], &v4.octets()].concat();
    net.send(1, &frame([0xff; 6], mac(1), 0x0806, &ask));
    let reply = net.heard(1).remove(0);
    let ethernet = EthernetFrame::new_checked(&reply).unwrap();
    let arp = ArpRepr::parse(&ArpPacket::new_checked(ethernet.payload()).unwrap()).unwrap();
    let ArpRepr::EthernetIpv4 { operation, source_hardware_addr, source_protocol_addr, .. } = arp else {
        panic!()
    };
    assert_eq!((operation, source_protocol_addr), (ArpOperation::Reply, v4));
    assert_eq!(source_hardware_addr, EthernetAddress(MAC));
    net.heard(2);

    for (from, to) in [(member(1).addresses[0], IpAddr::V4(v4)), (member(1).addresses[1], IpAddr::V6(v6))] {
        net.send(1, &udp(MAC, from, to, (5000, 53), &query("m2")));
        let reply = net.heard(1).remove(0);
        assert_eq!(reply[reply.len() - 4..], [10, 10, 0, 2]);
        let mut broken = udp(MAC, from, to, (5000, 53), &query("m2"));
        *broken.last_mut().unwrap() ^= 1;
        net.send(1, &broken);
        assert!(net.heard(1).is_empty(), "a wrong checksum");
        net.send(1, &udp(MAC, from, to, (5000, 54), &query("m2")));
        assert!(net.heard(1).is_empty(), "another port");
    }

    let source: Ipv6Addr = "fd10::1".parse().unwrap();
    let group: Ipv6Addr = "ff02::1:ffff:ffff".parse().unwrap();
    let solicit = Icmpv6Repr::Ndisc(NdiscRepr::NeighborSolicit { target_addr: v6, lladdr: None });
    let len = solicit.buffer_len();
    let ip = Ipv6Repr {
        src_addr: source,
        dst_addr: group,
        next_header: IpProtocol::Icmpv6,
        payload_len: len,
        hop_limit: 255,
    };
    let mut packet = vec![0; 40 + len];
    ip.emit(&mut Ipv6Packet::new_unchecked(&mut packet));
    let caps = ChecksumCapabilities::default();
    solicit.emit(&source, &group, &mut Icmpv6Packet::new_unchecked(&mut packet[40..]), &caps);
    net.send(1, &frame([0x33, 0x33, 0xff, 0xff, 0xff, 0xff], mac(1), 0x86dd, &packet));
    let reply = net.heard(1).remove(0);
    assert_eq!((reply[54], &reply[62..78]), (136, &v6.octets()[..]));
    assert_eq!(reply[80..86], MAC);
}

#[test]
fn a_project_that_has_left_has_no_names() {
    let mut net = Net::new(2);
    let mut zone = Zone { owner: "p".into(), ..Zone::default() };
    zone.records.insert("m2".into(), member(2).addresses);
    let ask = udp(MAC, member(1).addresses[0], [10, 10, 0, 254].into(), (5000, 53), &query("m2"));
    // The response code, behind 14, 20 and 8 bytes of other headers (RFC 1035, section 4.1.1).
    let code = |net: &mut Net| {
        net.send(1, &ask);
        net.heard(1).remove(0)[14 + 20 + 8 + 3] & 15
    };
    net.table.names(zone).unwrap();
    assert_eq!(code(&mut net), 0);
    net.table.names(Zone { owner: "p".into(), ..Zone::default() }).unwrap();
    assert_eq!(code(&mut net), 5, "refused");
}

/// Whatever is sent to the station and to others: nobody is cut off, nothing panics.
#[test]
fn garbage_is_dropped() {
    use proptest::prelude::*;
    use proptest::test_runner::TestRunner;

    let kinds = prop_oneof![Just(0x0800_u16), Just(0x0806), Just(0x86dd), any::<u16>()];
    let to = prop_oneof![Just(MAC), Just([0xff; 6]), Just(mac(2)), any::<[u8; 6]>()];
    let from = prop_oneof![9 => Just(mac(1)), 1 => any::<[u8; 6]>()];
    // Frames that are right but for some bytes reach further than noise.
    let right = udp(MAC, member(1).addresses[0], [10, 10, 0, 254].into(), (68, 67), &[1; 300]);
    let right6 = udp(MAC, member(1).addresses[1], "fd10::1".parse().unwrap(), (1, 53), &query("m2"));
    let noise = (kinds, to, from, prop::collection::vec(any::<u8>(), 0..400))
        .prop_map(|(kind, to, from, payload)| frame(to, from, kind, &payload));
    let near =
        (prop_oneof![Just(right), Just(right6)], prop::collection::vec((14..90_usize, any::<u8>()), 1..5))
            .prop_map(|(mut frame, changes)| {
                for (at, byte) in changes {
                    let at = at % frame.len();
                    frame[at] = byte;
                }
                frame
            });
    let mut runner = TestRunner::deterministic();
    runner
        .run(&prop_oneof![noise, near], |frame| {
            let mut net = Net::new(2);
            net.send(1, &frame);
            net.heard(1);
            net.heard(2);
            prop_assert!(net.gone().is_empty());
            Ok(())
        })
        .unwrap();
}
