//! The block device on a raw disk: requests good and bad.

use libfuzzer_sys::arbitrary::{Result, Unstructured};
use rvm::vmm::virtio::block::Block;
use rvm::vmm::{Disk, DiskFormat};

use crate::rig::{self, Buf, Rig, mostly, rarely, readable, writable};

/// Sectors of the disk.
const SECTORS: u64 = 128;
const IN: u64 = 0;
const OUT: u64 = 1;
const DISCARD: u64 = 11;
const WRITE_ZEROES: u64 = 13;

pub fn run(u: &mut Unstructured<'_>) -> Result<()> {
    let path = rig::file("disk.raw", &[0x5a; SECTORS as usize * 512]);
    let disk = Disk { path, format: DiskFormat::Raw, read_only: u.ratio(1, 8)?, serial: "fuzz".into() };
    requests(&disk, u)
}

/// A few requests to a disk.
pub fn requests(disk: &Disk, u: &mut Unstructured<'_>) -> Result<()> {
    let Ok(device) = Block::open(disk) else { return Ok(()) };
    let Some(mut rig) = Rig::start(device, u)? else { return Ok(()) };
    for _ in 0..u.int_in_range(1..=6)? {
        let bufs = request(u)?;
        rig.offer(u, 0, &bufs)?;
        if u.arbitrary()? {
            rig.kick(0);
        }
    }
    rig.kick(0);
    rig.settle(0);
    rig.reset();
    Ok(())
}

/// Header, data and room for the status.
fn request(u: &mut Unstructured<'_>) -> Result<Vec<Buf>> {
    let kind = *u.choose(&[IN, OUT, 4, 8, DISCARD, WRITE_ZEROES])?;
    let sector = u.int_in_range(0..=SECTORS)?;
    let kind = mostly(u, kind);
    let header = [(kind & 0xffff_ffff).to_le_bytes(), mostly(u, sector).to_le_bytes()].concat();
    let mut bufs = vec![readable(header)];
    let len = u.int_in_range(0..=16usize)? * if rarely(u) { 100 } else { 512 };
    match kind {
        OUT => bufs.push(readable(vec![0xa5; len])),
        DISCARD | WRITE_ZEROES => {
            for _ in 0..u.int_in_range(0..=3)? {
                let (first, count) = (u.int_in_range(0..=SECTORS)?, u.int_in_range(0..=SECTORS)?);
                let range = mostly(u, first).to_le_bytes();
                let (count, flags) = (mostly(u, count) as u32, mostly(u, 0) as u32);
                bufs.push(readable([&range[..], &count.to_le_bytes(), &flags.to_le_bytes()].concat()));
            }
        }
        _ => bufs.push(writable(len)),
    }
    bufs.push(writable(usize::from(!rarely(u))));
    Ok(bufs)
}
