//! A qcow2 file as somebody else left it, opened, and read and written where it opens.

use libfuzzer_sys::arbitrary::{Result, Unstructured};
use rvm::vmm::{Backing, Disk, DiskFormat};

use crate::rig;

/// Bytes of the input that say what to do with the disk; the rest is the disk.
const DRIVER: usize = 96;

pub fn run(u: &mut Unstructured<'_>) -> Result<()> {
    let driver = u.bytes(DRIVER.min(u.len()))?;
    let path = rig::file("disk.qcow2", u.peek_bytes(u.len()).unwrap_or_default());
    let backing = Some(Backing { path: rig::file("base.raw", &[0x5a; 0x1_0000]) });
    let format = DiskFormat::Qcow2 { backing };
    let disk = Disk { path, format, read_only: false, serial: "fuzz".into() };
    super::block::requests(&disk, &mut Unstructured::new(driver))
}
