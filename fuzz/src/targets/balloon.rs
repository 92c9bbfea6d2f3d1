//! The balloon: lists of pages, reports and statistics as a guest likes them.

use libfuzzer_sys::arbitrary::{Result, Unstructured};
use rvm::vmm::virtio::balloon::Balloon;

use crate::rig::{HIGH_END, Rig, readable, writable};

const INFLATE: usize = 0;
const QUEUES: usize = 5;
const PAGE: u64 = 4096;
/// Pages in which neither rings nor buffers lie.
const SPARE: std::ops::Range<u64> = 0x80..0x100;

pub fn run(u: &mut Unstructured<'_>) -> Result<()> {
    let balloon = Balloon::new(HIGH_END).unwrap();
    let control = balloon.control();
    let Some(mut rig) = Rig::start(balloon, u)? else { return Ok(()) };
    let result = give(&mut rig, u);
    rig.kick(INFLATE as u32);
    rig.settle(INFLATE);
    control.set_target(u.arbitrary().unwrap_or(0));
    let usage = control.usage(std::time::Duration::ZERO);
    assert!(usage.given_back % PAGE == 0);
    rig.reset();
    result
}

fn give(rig: &mut Rig, u: &mut Unstructured<'_>) -> Result<()> {
    for _ in 0..u.int_in_range(1..=8)? {
        let queue = u.int_in_range(0..=QUEUES - 1)?;
        let buf = match u.int_in_range(0..=2)? {
            // What is given away may hold the rings: then nothing is owed to the driver any more.
            0 => {
                let mut list = Vec::new();
                for _ in 0..u.int_in_range(0..=40)? {
                    let good = u.int_in_range(SPARE.start..=SPARE.end - 1)?;
                    let page = rig.or_wrong(u, good);
                    list.extend((page as u32).to_le_bytes());
                }
                readable(list)
            }
            1 => readable(u.bytes(u.len().min(170))?),
            _ => writable(u.int_in_range(0..=3 * PAGE as usize)?),
        };
        rig.offer(u, queue, &[buf])?;
        if u.arbitrary()? {
            rig.kick(queue as u32);
        }
    }
    Ok(())
}
