//! The network card: a guest and a peer that both send what they like.

use std::io::{Read, Write};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;

use libfuzzer_sys::arbitrary::{Result, Unstructured};
use rvm::vmm::virtio::net::Net;
use rvm::vmm::{Net as Spec, NetBackend};

use crate::rig::{Rig, mostly, readable, writable};

const RX: usize = 0;
const TX: usize = 1;
const MAC: [u8; 6] = [2, 0, 0, 0, 0, 1];
/// Bytes of the header in front of a frame.
const HEADER: usize = 12;

pub fn run(u: &mut Unstructured<'_>) -> Result<()> {
    let (ours, mut peer) = UnixStream::pair().unwrap();
    peer.set_nonblocking(true).unwrap();
    let card = Net::new(Spec { mac: MAC, backend: NetBackend::Stream(ours.into()) }).unwrap();
    let Some(mut rig) = Rig::start(card, u)? else { return Ok(()) };
    let result = talk(&mut rig, &mut peer, u);
    rig.kick(TX as u32);
    // The card has what it needs to be done with the frame that it is in the middle of.
    let mut sink = vec![0; 1 << 18];
    while peer.read(&mut sink).is_ok_and(|count| count > 0) {}
    let _ = peer.shutdown(Shutdown::Both);
    rig.settle(TX);
    rig.reset();
    result
}

fn talk(rig: &mut Rig, peer: &mut UnixStream, u: &mut Unstructured<'_>) -> Result<()> {
    for _ in 0..u.int_in_range(1..=8)? {
        let len = *u.choose(&[0, 13, 14, 60, 100, 1514, 4000])?;
        match u.int_in_range(0..=2)? {
            0 => rig.offer(u, RX, &[writable(HEADER + len)])?,
            1 => {
                let mut frame = vec![0; HEADER + len];
                if let Some(source) = frame.get_mut(HEADER + 6..HEADER + 12) {
                    source.copy_from_slice(&MAC);
                }
                rig.offer(u, TX, &[readable(frame)])?;
            }
            _ => {
                let length = mostly(u, len as u64) as u32;
                let _ = peer.write_all(&[&length.to_be_bytes()[..], &vec![0xab; len]].concat());
            }
        }
        if u.arbitrary()? {
            rig.kick(u.int_in_range(0..=1)?);
        }
    }
    Ok(())
}
