//! An ELF kernel as somebody else left it, loaded into guest memory.

use std::sync::OnceLock;

use libfuzzer_sys::arbitrary::{Result, Unstructured};
use rvm::vmm::boot;
use rvm::vmm::memory::{Memory, Sharing};

use crate::rig;

/// Memory of the guest: what the check of segments compares with.
const RAM: u64 = 16 << 20;

pub fn run(u: &mut Unstructured<'_>) -> Result<()> {
    static MEMORY: OnceLock<Memory> = OnceLock::new();
    let memory = MEMORY.get_or_init(|| Memory::new(RAM, Sharing::Private).unwrap());
    let kernel = rig::file("vmlinux", u.peek_bytes(u.len()).unwrap_or_default());
    let images = boot::Images::open(&kernel, None).unwrap();
    if let Ok(entry) = boot::load(memory.guest(), &images, "console=ttyS0", 0xe_0000) {
        assert!((1 << 20..RAM).contains(&entry.0), "entry at {:#x}", entry.0);
    }
    Ok(())
}
