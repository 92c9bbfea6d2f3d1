//! Machines of a private network that send what they like. Whatever it is, nobody hears a frame that is not
//! for him, or one that its sender could not have sent.

use std::io::{Read, Write};
use std::net::IpAddr;
use std::os::unix::net::UnixStream;

use libfuzzer_sys::arbitrary::{Result, Unstructured};
use rvm::net::switch::{Member, Spec, Table, Zone};

const MACHINES: u8 = 3;
/// Where the network itself answers: the last address that a machine could have.
const STATION: ([u8; 6], [u8; 4]) = ([0x02, b'r', b'v', b'm', 0, 1], [10, 10, 0, 254]);

fn mac(n: u8) -> [u8; 6] {
    [2, 0, 0, 0, 0, n]
}

fn member(n: u8) -> Member {
    let addresses = vec![IpAddr::from([10, 10, 0, n]), format!("fd10::{n}").parse().unwrap()];
    Member { id: format!("id{n}"), machine: format!("m{n}"), owner: "p".into(), mac: mac(n), addresses }
}

pub fn run(u: &mut Unstructured<'_>) -> Result<()> {
    let subnets = vec!["10.10.0.0/24".parse().unwrap(), "fd10::/64".parse().unwrap()];
    let mut table = Table::new(Spec { name: "backend".into(), subnets, dhcp: u.arbitrary()?, mtu: 1500 });
    let mut ends = Vec::new();
    for n in 1..=MACHINES {
        let (ours, theirs) = UnixStream::pair().unwrap();
        ours.set_nonblocking(true).unwrap();
        theirs.set_nonblocking(true).unwrap();
        table.join(member(n), ours.into()).unwrap();
        ends.push(theirs);
    }
    let records = [("m1", 1), ("m2.backend", 2), ("web", 3)];
    let records = records.map(|(name, n)| (name.to_owned(), member(n).addresses)).into();
    let domains = vec!["backend".into()];
    table.names(Zone { owner: "p".into(), records, domains, ..Zone::default() }).unwrap();
    for _ in 0..u.int_in_range(1..=6)? {
        let sender = u.int_in_range(1..=MACHINES)?;
        let bytes = match u.int_in_range(0..=6)? {
            // No frame at all, perhaps.
            0 => u.bytes(u.len().min(64))?.to_vec(),
            1 => framed(u.bytes(u.len().min(128))?),
            2 => {
                let to = *u.choose(&[STATION.0, mac(1), mac(2), [255; 6], [0x33, 0x33, 0, 0, 0, 1]])?;
                let kind = *u.choose(&[0x0800_u16, 0x86dd, 0x0806, 0x8100, 0x88b5])?;
                framed(&[&to[..], &mac(sender), &kind.to_be_bytes(), u.bytes(u.len().min(128))?].concat())
            }
            // With an address that may be another's, behind tags.
            3 => framed(&claim(sender, u)?),
            n => {
                // DHCP, else DNS twice as often.
                let (port, own) = if n == 4 { (67, 68) } else { (53, 40_000) };
                framed(&udp(sender, own, port, u.bytes(u.len().min(512))?))
            }
        };
        // Who is cut off has no address any more.
        let there: Vec<String> = table.status().into_iter().map(|port| port.id).collect();
        let _ = ends[usize::from(sender) - 1].write_all(&bytes);
        for at in 0..table.status().len() {
            table.serve(at);
            table.flush(at);
        }
        table.sweep(|_, _| ());
        for (at, end) in ends.iter_mut().enumerate() {
            hear(at as u8 + 1, end, &there);
        }
    }
    Ok(())
}

/// An ARP answer or an IPv4 packet for all, behind up to four tags.
fn claim(sender: u8, u: &mut Unstructured<'_>) -> Result<Vec<u8>> {
    let mut frame = [[255; 6], mac(sender)].concat();
    for _ in 0..u.int_in_range(0..=4)? {
        frame.extend(*u.choose(&[[0x81, 0], [0x88, 0xa8]])?);
        frame.extend(u.arbitrary::<[u8; 2]>()?);
    }
    let source = [10, 10, 0, *u.choose(&[1, 2, 3, 99, 254])?];
    if u.arbitrary()? {
        frame.extend([8, 6, 0, 1, 8, 0, 6, 4, 0, 2]);
        frame.extend([&mac(sender)[..], &source, &[0; 6], &[10, 10, 0, 9]].concat());
    } else {
        frame.extend([8, 0, 0x45, 0, 0, 20, 0, 0, 0, 0, 64, 6, 0, 0]);
        frame.extend([source, [10, 10, 0, 9]].concat());
    }
    Ok(frame)
}

/// The IPv4 address that a frame says it is from, as a guest sees it that takes all tags off.
fn source(frame: &[u8]) -> Option<[u8; 4]> {
    let mut rest = frame.get(12..)?;
    while let [0x81, 0, _, _, after @ ..] | [0x88, 0xa8, _, _, after @ ..] = rest {
        rest = after;
    }
    match rest {
        [8, 6, payload @ ..] => payload.get(14..)?.first_chunk().copied(),
        [8, 0, payload @ ..] => payload.get(12..)?.first_chunk().copied(),
        _ => None,
    }
}

fn framed(frame: &[u8]) -> Vec<u8> {
    [&u32::try_from(frame.len()).unwrap().to_be_bytes()[..], frame].concat()
}

/// A datagram to the station, with a right header and no checksum of its own (RFC 768).
fn udp(from: u8, own: u16, port: u16, data: &[u8]) -> Vec<u8> {
    let word = |number: usize| u16::try_from(number).unwrap().to_be_bytes();
    let mut ip =
        [&[0x45, 0][..], &word(28 + data.len()), &[0, 0, 0, 0, 64, 17, 0, 0], &[10, 10, 0, from], &STATION.1]
            .concat();
    let sum: u32 = ip.chunks(2).map(|pair| u32::from(u16::from_be_bytes([pair[0], pair[1]]))).sum();
    let sum = !((sum & 0xffff) + (sum >> 16)) as u16;
    ip[10..12].copy_from_slice(&sum.to_be_bytes());
    let head = [own.to_be_bytes(), port.to_be_bytes(), word(8 + data.len()), [0, 0]].concat();
    [&STATION.0[..], &mac(from), &[8, 0], &ip, &head, data].concat()
}

/// What a machine hears are whole frames for it, from another machine or from the network.
fn hear(n: u8, end: &mut UnixStream, there: &[String]) {
    let mut bytes = Vec::new();
    // It ends where there is no more for now.
    let _ = end.read_to_end(&mut bytes);
    let mut rest = &bytes[..];
    while let Some((len, after)) = rest.split_first_chunk::<4>() {
        let (frame, after) = after.split_at(u32::from_be_bytes(*len) as usize);
        rest = after;
        let (to, from) = (&frame[..6], &frame[6..12]);
        assert!(to == mac(n) || to[0] & 1 == 1, "{n} hears a frame for {to:x?}");
        let known = (1..=MACHINES).filter(|other| *other != n).any(|other| from == mac(other));
        assert!(known || from == STATION.0, "{n} hears {from:x?}");
        let owner = |other: &u8| from != mac(*other) && there.contains(&member(*other).id);
        let others = (1..=MACHINES).filter(owner).any(|other| source(frame) == Some([10, 10, 0, other]))
            || source(frame) == Some(STATION.1) && from != STATION.0;
        assert!(!others, "{n} hears {from:x?} as {:?}", source(frame));
    }
    assert!(rest.is_empty(), "a frame is cut off");
}
