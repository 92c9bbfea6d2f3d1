//! The reader of descriptor chains, on a ring in memory.

use libfuzzer_sys::arbitrary::{Result, Unstructured};
use rvm::vmm::virtio::chain::Chain;
use rvm::vmm::virtio::queue::{QueueConfig, Ring};
use rvm::vmm::virtio::{VIRTIO_F_EVENT_IDX, VIRTIO_F_INDIRECT_DESC, VIRTIO_F_VERSION_1};
use vm_memory::{Bytes, GuestAddress};

use crate::rig::{HIGH_END, HIGH_START, LOW_END, entry, memory, mostly};

const SIZE: u16 = 16;
const LIMIT: u32 = 1 << 18;
const TABLES: u64 = 0x4000;

fn table(u: &mut Unstructured<'_>, entries: u16) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    for at in 0..entries {
        let edge = *u.choose(&[0x8000, LOW_END - 64, HIGH_START, HIGH_END - 64, TABLES])?;
        let addr = edge + u64::from(u.int_in_range(0..=63u8)?);
        let addr = mostly(u, addr);
        let len = u64::from(u.int_in_range(0..=64u8)?);
        let flags = *u.choose(&[0, 1, 1, 2, 3, 3, 4, 5])?;
        let next = u.int_in_range(at.min(SIZE - 1)..=SIZE)?;
        bytes.extend(entry(addr, mostly(u, len * 16) as u32, flags, next));
    }
    Ok(bytes)
}

pub fn run(u: &mut Unstructured<'_>) -> Result<()> {
    let mem = memory();
    let put = |addr, bytes: &[u8]| mem.write_slice(bytes, GuestAddress(addr)).unwrap();
    let features = u.arbitrary::<u64>()? & (VIRTIO_F_INDIRECT_DESC | VIRTIO_F_EVENT_IDX) | VIRTIO_F_VERSION_1;
    let (descriptors, avail, used) = (0x1000, 0x2000, 0x3000);
    let config = QueueConfig { max_size: 32, size: SIZE.into(), ready: true, descriptors, avail, used };
    put(descriptors, &table(u, SIZE)?);
    put(TABLES, &table(u, 2 * SIZE)?);
    let count = u.int_in_range(0..=SIZE)?;
    put(avail + 2, &(mostly(u, count.into()) as u16).to_le_bytes());
    for slot in 0..u64::from(SIZE) {
        let head = u.int_in_range(0..=SIZE - 1)?;
        put(avail + 4 + 2 * slot, &(mostly(u, head.into()) as u16).to_le_bytes());
    }
    let mut ring = Ring::new(&mem, &config.build(&mem, features).unwrap(), features, LIMIT).unwrap();
    let mut chain = Chain::with_capacity(SIZE);
    for _ in 0..=SIZE {
        let Ok(true) = ring.pop(&mut chain) else { break };
        let (reads, writes) = (chain.readable_len(), chain.writable_len());
        assert!(reads + writes <= LIMIT as usize && chain.head() < SIZE);
        assert!(chain.readable().len() + chain.writable().len() <= 32);
        let mut buf = vec![0; u.int_in_range(0..=256)?];
        assert_eq!(chain.read_exact(&mut buf), reads >= buf.len());
        let last = chain.take_last_byte();
        assert_eq!(last.is_some(), writes > 0);
        assert_eq!(chain.writable_byte(0).is_some(), writes > 1);
        assert_eq!(chain.write(&buf), buf.len().min(writes.saturating_sub(1)));
    }
    Ok(())
}
