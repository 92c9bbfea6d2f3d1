//! Kernel files: what can be booted as it is, and what is unpacked first.

use std::fs::{self, File};
use std::io::Read;
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

use super::ImageError;
use super::unpack::unpack;
use crate::model::hex;
use crate::state::{Layout, store};

/// No kernel is larger, packed or not.
const MAX_KERNEL: usize = 512 << 20;

/// The ELF to boot for the kernel at `path`: the file itself when it is one; the unpacked
/// payload, kept in the store by the digest of the file, when it is a bzImage.
pub fn vmlinux_of(layout: &Layout, path: &Path) -> Result<PathBuf, ImageError> {
    let data = read_kernel(path)?;
    if is_elf(&data) {
        return Ok(path.to_owned());
    }
    let folder = layout.kernels().join(format!("unpacked-{}", hex(&Sha256::digest(&data))));
    let vmlinux = folder.join("vmlinux");
    if vmlinux.is_file() {
        return Ok(vmlinux);
    }
    let elf = unpack_bzimage(&data).map_err(|what| ImageError::NotAKernel { path: path.to_owned(), what })?;
    store::create_private_dir(&folder).map_err(ImageError::io("create", &folder))?;
    // Written under another name and renamed: two who do it at once write the same bytes.
    store::write(&vmlinux, &elf).map_err(ImageError::io("write", &vmlinux))?;
    Ok(vmlinux)
}

fn read_kernel(path: &Path) -> Result<Vec<u8>, ImageError> {
    let fail = || ImageError::io("read kernel", path);
    let meta = fs::metadata(path).map_err(fail())?;
    let wrong = |what: &str| ImageError::NotAKernel { path: path.to_owned(), what: what.to_owned() };
    if !meta.is_file() {
        return Err(wrong("it is not a regular file"));
    }
    if meta.len() > MAX_KERNEL as u64 {
        return Err(wrong("it is larger than 512 MiB"));
    }
    let mut data = Vec::new();
    File::open(path).and_then(|f| f.take(MAX_KERNEL as u64).read_to_end(&mut data)).map_err(fail())?;
    Ok(data)
}

/// Whether it is a 64-bit little-endian ELF executable (System V gABI, chapter 4, "ELF
/// header"): class 2, data encoding 1, type `ET_EXEC` or `ET_DYN`.
fn is_elf(data: &[u8]) -> bool {
    data.starts_with(b"\x7fELF\x02\x01") && matches!(data.get(16..18), Some([2 | 3, 0]))
}

/// The ELF inside a bzImage. `Err` says what is wrong, as a fragment.
///
/// Offsets are those of the setup header in `Documentation/arch/x86/boot.rst`.
pub(super) fn unpack_bzimage(data: &[u8]) -> Result<Vec<u8>, String> {
    const SETUP_SECTS: usize = 0x1f1;
    const BOOT_FLAG: usize = 0x1fe;
    const MAGIC: usize = 0x202;
    const VERSION: usize = 0x206;
    const PAYLOAD_OFFSET: usize = 0x248;
    const PAYLOAD_LENGTH: usize = 0x24c;

    if data.get(BOOT_FLAG..BOOT_FLAG + 2) != Some(&[0x55, 0xaa])
        || data.get(MAGIC..MAGIC + 4) != Some(b"HdrS")
    {
        return Err("it is neither a 64-bit ELF nor a bzImage".into());
    }
    let byte = |at: usize| data.get(at).copied().unwrap_or(0);
    let word = |at: usize| u32::from_le_bytes([byte(at), byte(at + 1), byte(at + 2), byte(at + 3)]) as usize;
    // Boot protocol 2.08 (Linux 2.6.26) brought the two payload fields.
    if u16::from_le_bytes([byte(VERSION), byte(VERSION + 1)]) < 0x208 {
        return Err("it is a bzImage of a boot protocol older than 2.08".into());
    }
    // 0 means 4, for old boot loaders' sake.
    let setup_sects = match byte(SETUP_SECTS) {
        0 => 4,
        n => usize::from(n),
    };
    let start = (setup_sects + 1) * 512 + word(PAYLOAD_OFFSET);
    let payload = data
        .get(start..start.saturating_add(word(PAYLOAD_LENGTH)))
        .ok_or("it is a bzImage that is cut short")?;
    let elf = unpack(payload, MAX_KERNEL)?;
    if is_elf(&elf) { Ok(elf) } else { Err("it is a bzImage that holds no 64-bit ELF".into()) }
}

#[cfg(test)]
mod tests {
    use super::super::unpack::tests::{gzip, lz4, xz};
    use super::*;

    fn elf() -> Vec<u8> {
        let mut elf = b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0\x02\0\x3e\0".to_vec();
        elf.extend((0..50_000u32).map(|i| (i / 9) as u8));
        elf
    }

    fn bzimage(payload: &[u8]) -> Vec<u8> {
        let mut image = vec![0; 3 * 512 + 0x100];
        image[0x1f1] = 2;
        image[0x1fe..0x200].copy_from_slice(&[0x55, 0xaa]);
        image[0x202..0x206].copy_from_slice(b"HdrS");
        image[0x206..0x208].copy_from_slice(&0x20fu16.to_le_bytes());
        image[0x248..0x24c].copy_from_slice(&0x100u32.to_le_bytes());
        image[0x24c..0x250].copy_from_slice(&(payload.len() as u32).to_le_bytes());
        image.extend_from_slice(payload);
        image.extend_from_slice(&[0xee; 99]);
        image
    }

    #[test]
    fn an_elf_is_taken_as_it_is_and_a_bzimage_unpacked_once() {
        let dir = tempfile::tempdir().unwrap();
        let layout = Layout::at(dir.path().join("home"));
        let plain = dir.path().join("vmlinux");
        fs::write(&plain, elf()).unwrap();
        assert_eq!(vmlinux_of(&layout, &plain).unwrap(), plain);
        assert!(!layout.home().exists());

        for payload in [lz4(&elf()), gzip(&elf()), xz(&elf()), zstd::encode_all(&elf()[..], 1).unwrap()] {
            let packed = dir.path().join("bzImage");
            fs::write(&packed, bzimage(&payload)).unwrap();
            let unpacked = vmlinux_of(&layout, &packed).unwrap();
            assert!(unpacked.starts_with(layout.kernels()));
            assert!(fs::read(&unpacked).unwrap() == elf());
            let written = fs::metadata(&unpacked).unwrap().modified().unwrap();
            assert_eq!(vmlinux_of(&layout, &packed).unwrap(), unpacked);
            assert_eq!(fs::metadata(&unpacked).unwrap().modified().unwrap(), written);
        }
    }

    #[test]
    fn what_is_no_kernel_is_said_to_be_none() {
        let dir = tempfile::tempdir().unwrap();
        let layout = Layout::at(dir.path().join("home"));
        let message = |data: &[u8]| {
            let path = dir.path().join("k");
            fs::write(&path, data).unwrap();
            match vmlinux_of(&layout, &path).unwrap_err() {
                ImageError::NotAKernel { what, .. } => what,
                other => panic!("{other}"),
            }
        };
        assert!(message(b"").contains("neither"));
        assert!(message(&[0; 4096]).contains("neither"));
        assert!(message(b"\x7fELF\x01\x01").contains("neither"));
        assert!(message(&bzimage(&lz4(b"no elf"))).contains("no 64-bit ELF"));
        assert!(message(&bzimage(b"what is this")).contains("not known"));
        let whole = bzimage(&lz4(&elf()));
        assert!(message(&whole[..whole.len() - 500]).contains("cut short"));
        let mut hostile = whole.clone();
        hostile[0x248..0x250].fill(0xff);
        assert!(message(&hostile).contains("cut short"));
        let mut old = whole;
        old[0x206..0x208].copy_from_slice(&0x207u16.to_le_bytes());
        assert!(message(&old).contains("2.08"));
        assert!(matches!(vmlinux_of(&layout, dir.path()), Err(ImageError::NotAKernel { .. })));
        assert!(matches!(vmlinux_of(&layout, &dir.path().join("none")), Err(ImageError::Io { .. })));
    }

    proptest::proptest! {
        #[test]
        fn no_header_makes_it_panic(at in 0x1f0usize..0x260, value: u8, cut in 0usize..4000) {
            let mut image = bzimage(&lz4(&elf()));
            image[at] = value;
            image.truncate(image.len().saturating_sub(cut));
            let _ = unpack_bzimage(&image);
        }
    }
}
