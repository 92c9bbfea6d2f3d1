//! The network card: a guest and peers that send what they like, over one pair of queues or two.

use std::io::{Read, Write};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;

use libfuzzer_sys::arbitrary::{Result, Unstructured};
use rvm::vmm::virtio::net::Net;

use crate::rig::{Rig, mostly, readable, writable};

pub const MAC: [u8; 6] = [2, 0, 0, 0, 0, 1];
/// Bytes of the header in front of a frame.
const HEADER: usize = 12;
const F_CTRL_VQ: u64 = 1 << 17;
const F_MQ: u64 = 1 << 22;
/// Class and command that choose the number of pairs.
const PAIRS_SET: [u8; 2] = [4, 0];
/// IPv4, IPv6, ARP, a VLAN tag, and what is for experiments.
const TYPES: [u16; 5] = [0x0800, 0x86dd, 0x0806, 0x8100, 0x88b5];

pub fn run(u: &mut Unstructured<'_>) -> Result<()> {
    let count = u.int_in_range(1..=2)?;
    let mut peers = Vec::new();
    let mut sockets = Vec::new();
    for _ in 0..count {
        let (ours, peer) = UnixStream::pair().unwrap();
        peer.set_nonblocking(true).unwrap();
        peers.push(peer);
        sockets.push(ours.into());
    }
    let card = Net::over_sockets(MAC, sockets).unwrap();
    let Some(mut rig) = Rig::start(card, u)? else { return Ok(()) };
    let result = talk(&mut rig, &mut peers, u);
    // Where there are two, the second works if both were agreed on, else the third queue may be for control.
    let served: &[usize] = match (count == 2 && rig.agreed(F_MQ), count == 2 && rig.agreed(F_CTRL_VQ)) {
        (true, true) => &[1, 3, 4],
        (true, false) => &[1, 3],
        (false, true) => &[1, 2],
        (false, false) => &[1],
    };
    for queue in served {
        rig.kick(*queue as u32);
    }
    for peer in &mut peers {
        // The card has what it needs to be done with the frame that it is in the middle of.
        let mut sink = vec![0; 1 << 18];
        while peer.read(&mut sink).is_ok_and(|count| count > 0) {}
        let _ = peer.shutdown(Shutdown::Both);
    }
    for queue in served {
        rig.settle(*queue);
    }
    rig.reset();
    result
}

fn talk(rig: &mut Rig, peers: &mut [UnixStream], u: &mut Unstructured<'_>) -> Result<()> {
    for _ in 0..u.int_in_range(1..=8)? {
        let pair = u.int_in_range(0..=peers.len() - 1)?;
        match u.int_in_range(0..=3)? {
            0 => {
                let len = *u.choose(&[0, 13, 14, 60, 100, 1514, 4000])?;
                rig.offer(u, 2 * pair, &[writable(HEADER + len)])?;
            }
            1 => {
                let frame = [header(u)?, frame(u)?].concat();
                rig.offer(u, 2 * pair + 1, &[readable(frame)])?;
            }
            2 => {
                let frame = frame(u)?;
                let length = mostly(u, frame.len() as u64) as u32;
                let _ = peers[pair].write_all(&[&length.to_be_bytes()[..], &frame].concat());
            }
            _ if peers.len() > 1 => command(rig, u)?,
            _ => {}
        }
        if u.arbitrary()? {
            rig.kick(u.int_in_range(0..=2 * peers.len() as u32)?);
        }
    }
    Ok(())
}

/// What a driver asks for: nothing, a checksum or segments where they may be, or anything.
fn header(u: &mut Unstructured<'_>) -> Result<Vec<u8>> {
    Ok(match u.int_in_range(0..=3)? {
        0 => vec![0; HEADER],
        3 => u.arbitrary::<[u8; HEADER]>()?.into(),
        kind => {
            let start = *u.choose(&[14, 34, 54, 18, 38])?;
            let offset = *u.choose(&[6, 16, 2])?;
            let (start, offset) = (mostly(u, start) as u16, mostly(u, offset) as u16);
            let segments = [1, 4, 0x81, 0x84, 3, 5];
            let gso = if kind == 2 { *u.choose(&segments)? } else { 0 };
            let size = if kind == 2 { u.int_in_range(0..=2000u16)? } else { 0 };
            let length = mostly(u, u64::from(start) + 20) as u16;
            let mut header = vec![1, gso];
            header.extend([length, size, start, offset, 0].map(u16::to_le_bytes).concat());
            header
        }
    })
}

/// A frame of the card's, with what the input has in it; then zeros, so that it may be long.
fn frame(u: &mut Unstructured<'_>) -> Result<Vec<u8>> {
    let mut frame = u.arbitrary::<[u8; 6]>()?.to_vec();
    let mut source = MAC;
    source[5] = mostly(u, 1) as u8;
    frame.extend(source);
    frame.extend(u.choose(&TYPES)?.to_be_bytes());
    let payload = u.int_in_range(0..=80)?;
    frame.extend(u.bytes(payload.min(u.len()))?);
    let len = *u.choose(&[0, 13, 14, 60, 100, 1514, 4000])?;
    if u.ratio(1, 2)? {
        frame.resize(len, 0);
    }
    Ok(frame)
}

/// A command for the control queue, which is wherever the driver agreed to.
fn command(rig: &mut Rig, u: &mut Unstructured<'_>) -> Result<()> {
    let mut command = PAIRS_SET.map(|byte| mostly(u, byte.into()) as u8).to_vec();
    let pairs = u.int_in_range(0..=3)?;
    command.extend((mostly(u, pairs) as u16).to_le_bytes());
    let len = mostly(u, 4) as usize;
    command.resize(len.min(100), 0);
    let queue = if rig.agreed(F_MQ) { 4 } else { 2 };
    rig.offer(u, queue, &[readable(command), writable(1)])
}
