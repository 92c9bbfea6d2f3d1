//! The console: a guest and somebody attached who both send what they like.

use std::io::{Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};

use libfuzzer_sys::arbitrary::{Result, Unstructured};
use rvm::vmm::attach::{Size, wire};
use rvm::vmm::virtio::console::Console;

use crate::rig::{Rig, folder, rarely, readable, writable};

const RX: usize = 0;
const TX: usize = 1;

pub fn run(u: &mut Unstructured<'_>) -> Result<()> {
    let path = folder().join("console.sock");
    let _ = std::fs::remove_file(&path);
    let console = Console::new(UnixListener::bind(&path).unwrap()).unwrap();
    let Some(mut rig) = Rig::start(console, u)? else { return Ok(()) };
    let mut peer = UnixStream::connect(&path).unwrap();
    peer.set_nonblocking(true).unwrap();
    let result = talk(&mut rig, &mut peer, u);
    rig.kick(TX as u32);
    // Whether anybody reads or not, what the guest prints is taken.
    rig.settle(TX);
    rig.reset();
    let _ = peer.read(&mut [0; 1 << 16]);
    result
}

fn talk(rig: &mut Rig, peer: &mut UnixStream, u: &mut Unstructured<'_>) -> Result<()> {
    for _ in 0..u.int_in_range(1..=8)? {
        let len = *u.choose(&[0, 1, 3, 60, 4096, 70_000])?;
        match u.int_in_range(0..=3)? {
            0 => rig.offer(u, RX, &[writable(len)])?,
            // Questions to the terminal among it, cut anywhere.
            1 => rig.offer(u, TX, &[readable(b"ab\x1b[6n\x1b]11;?\x07\x9c".repeat(len / 16 + 1))])?,
            2 => {
                let printed = u.bytes(u.len().min(64))?;
                rig.offer(u, TX, &[readable(printed)])?;
            }
            _ => {
                let mut frames = Vec::new();
                wire::push_size(&mut frames, Size { columns: u.arbitrary()?, rows: u.arbitrary()? });
                wire::push_input(&mut frames, &vec![b'x'; len]);
                if rarely(u) {
                    frames.truncate(u.int_in_range(0..=frames.len())?);
                    frames.extend(u.bytes(u.len().min(8))?);
                }
                let _ = peer.write_all(&frames);
            }
        }
        if u.arbitrary()? {
            rig.kick(u.int_in_range(0..=1)?);
        }
    }
    Ok(())
}
