//! A packed kernel as somebody else left it.

use libfuzzer_sys::arbitrary::{Result, Unstructured};
use rvm::image::kernel::vmlinux_of;
use rvm::state::Layout;

use crate::rig;

pub fn run(u: &mut Unstructured<'_>) -> Result<()> {
    let packed = rig::file("vmlinuz", u.peek_bytes(u.len()).unwrap_or_default());
    let home = rig::folder().join("home");
    if let Ok(elf) = vmlinux_of(&Layout::at(home.clone()), &packed) {
        assert!(std::fs::read(elf).unwrap().starts_with(b"\x7fELF"));
        // Each kernel that is unpacked is kept: here the folder would grow for ever.
        let _ = std::fs::remove_dir_all(&home);
    }
    Ok(())
}
