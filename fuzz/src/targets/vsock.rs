//! Sockets between guest and host: packets in any order, with any credit, from one who mostly keeps to
//! the rules.

use std::io::{self, Read};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;

use libfuzzer_sys::arbitrary::{Result, Unstructured};
use rvm::vmm::virtio::vsock::Vsock;
use rvm::vmm::{Vsock as Spec, VsockPort, VsockService};

use crate::rig::{Rig, mostly, readable, writable};

const RX: usize = 0;
const TX: usize = 1;
const GUEST: u64 = 3;
const HOST: u64 = 2;
const PORT: u32 = 7;

/// Keeps the host's ends open, and reads a little of some of them.
#[derive(Debug, Default)]
struct Service(Vec<UnixStream>);

impl VsockService for Service {
    fn connect(&mut self, port: u32) -> io::Result<OwnedFd> {
        let (ours, theirs) = UnixStream::pair()?;
        ours.set_nonblocking(true)?;
        let _ = self.0.last_mut().map(|last| last.read(&mut [0; 512]));
        // Ports that divide by three belong to hosts that hang up at once.
        if !port.is_multiple_of(3) {
            self.0.push(ours);
        }
        Ok(theirs.into())
    }
}

pub fn run(u: &mut Unstructured<'_>) -> Result<()> {
    let port = VsockPort { port: PORT, service: Box::new(Service::default()) };
    let device =
        Vsock::new(Spec { cid: GUEST as u32, ports: vec![port], listener: None, forwards: vec![] }).unwrap();
    let Some(mut rig) = Rig::start(device, u)? else { return Ok(()) };
    let result = talk(&mut rig, u);
    rig.kick(TX as u32);
    rig.settle(TX);
    rig.reset();
    result
}

fn talk(rig: &mut Rig, u: &mut Unstructured<'_>) -> Result<()> {
    for _ in 0..u.int_in_range(1..=16)? {
        let len = *u.choose(&[0, 1, 44, 100, 4096, 70_000])?;
        if u.ratio(1, 3)? {
            rig.offer(u, RX, &[writable(44 + len)])?;
        } else {
            let mut packet = Vec::with_capacity(44 + len);
            packet.extend(mostly(u, GUEST).to_le_bytes());
            packet.extend(mostly(u, HOST).to_le_bytes());
            packet.extend(u.int_in_range(1..=4u32)?.to_le_bytes());
            packet.extend((mostly(u, PORT.into()) as u32).to_le_bytes());
            packet.extend((mostly(u, len as u64) as u32).to_le_bytes());
            packet.extend((mostly(u, 1) as u16).to_le_bytes());
            packet.extend(u.int_in_range(0..=8u16)?.to_le_bytes());
            packet.extend(u.int_in_range(0..=3u32)?.to_le_bytes());
            packet.extend((mostly(u, 1 << 16) as u32).to_le_bytes());
            packet.extend((mostly(u, 0) as u32).to_le_bytes());
            packet.resize(44 + len, 0xab);
            rig.offer(u, TX, &[readable(packet)])?;
        }
        if u.arbitrary()? {
            rig.kick(u.int_in_range(0..=2)?);
        }
    }
    Ok(())
}
