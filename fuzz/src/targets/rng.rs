//! The entropy source with chains good and bad.

use libfuzzer_sys::arbitrary::{Result, Unstructured};
use rvm::vmm::virtio::rng::Rng;

use crate::rig::{Rig, readable, writable};

pub fn run(u: &mut Unstructured<'_>) -> Result<()> {
    let Some(mut rig) = Rig::start(Rng::new(), u)? else { return Ok(()) };
    for _ in 0..u.int_in_range(1..=6)? {
        let mut bufs = Vec::new();
        if u.ratio(1, 8)? {
            bufs.push(readable(vec![7; 16]));
        }
        bufs.push(writable(u.int_in_range(0..=0x2_0000)?));
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
