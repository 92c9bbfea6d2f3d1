use std::io::Write;

use tempfile::NamedTempFile;

use super::*;
use crate::vmm::layout::{HOLE_END, ZERO_PAGE};
use crate::vmm::memory::{Memory, Sharing};

const MIB: u64 = 1 << 20;

/// An ELF header with one segment of 16 bytes at `paddr` that takes `memsz` in memory.
fn elf(paddr: u64, memsz: u64) -> Vec<u8> {
    let mut image = vec![0; 64 + 56];
    image[..6].copy_from_slice(&[0x7f, b'E', b'L', b'F', 2, 1]);
    image[18] = 62;
    image[24..32].copy_from_slice(&paddr.to_le_bytes());
    image[32] = 64; // e_phoff
    image[54] = 56; // e_phentsize
    image[56] = 1; // e_phnum
    let phdr = &mut image[64..];
    phdr[0] = 1; // PT_LOAD
    phdr[8] = 120; // p_offset
    phdr[24..32].copy_from_slice(&paddr.to_le_bytes());
    phdr[32] = 16; // p_filesz
    phdr[40..48].copy_from_slice(&memsz.to_le_bytes());
    image.extend_from_slice(b"0123456789abcdef");
    image
}

fn file(bytes: &[u8]) -> NamedTempFile {
    let mut file = NamedTempFile::new().unwrap();
    file.write_all(bytes).unwrap();
    file
}

fn boot(mem: &Memory, kernel: &[u8], initrd: Option<&[u8]>, cmdline: &str) -> Result<GuestAddress, Error> {
    let (kernel, initrd) = (file(kernel), initrd.map(file));
    let images = Images::open(kernel.path(), initrd.as_ref().map(|f| f.path()))?;
    load(mem.guest(), &images, cmdline, 0xe_0000)
}

#[test]
fn kernel_initrd_and_command_line_are_where_the_zero_page_says() {
    let mem = Memory::new(32 * MIB, Sharing::Private).unwrap();
    let entry = boot(&mem, &elf(16 * MIB, 4096), Some(&[7; 5000]), "quiet").unwrap();
    assert_eq!(entry.0, 16 * MIB);
    let mut text = [0; 16];
    mem.guest().read_slice(&mut text, entry).unwrap();
    assert_eq!(&text, b"0123456789abcdef");

    let word = |at| mem.guest().read_obj::<u32>(GuestAddress(ZERO_PAGE + at)).unwrap();
    assert_eq!(word(0x202), 0x5372_6448, "magic");
    let (image, size) = (u64::from(word(0x218)), word(0x21c));
    assert_eq!((image, size), (32 * MIB - 8192, 5000));
    assert_eq!(mem.guest().read_obj::<u8>(GuestAddress(image + 4999)).unwrap(), 7);
    let mut line = [0; 6];
    mem.guest().read_slice(&mut line, GuestAddress(u64::from(word(0x228)))).unwrap();
    assert_eq!(&line, b"quiet\0");
    assert_eq!(word(0x70), 0xe_0000, "acpi_rsdp_addr");
}

#[test]
fn the_memory_map_has_the_hole() {
    let mem = Memory::new(4608 * MIB, Sharing::Private).unwrap();
    let map = linux::e820(mem.guest());
    let ram: Vec<_> = map.iter().filter(|e| e.2 == 1).map(|e| (e.0, e.0 + e.1)).collect();
    assert_eq!(ram, [(0, 0x9_fc00), (MIB, HOLE), (HOLE_END, HOLE_END + 1536 * MIB)]);
    for pair in map.windows(2) {
        assert!(pair[0].0 + pair[0].1 <= pair[1].0, "entries overlap or are out of order");
    }
}

#[test]
fn what_is_not_a_kernel_is_named() {
    let mem = Memory::new(32 * MIB, Sharing::Private).unwrap();
    let mut elf32 = elf(16 * MIB, 16);
    elf32[4] = 1;
    let mut arm = elf(16 * MIB, 16);
    arm[18] = 183;
    let mut headerless = elf(16 * MIB, 16);
    headerless[56] = 0;
    let mut astray = elf(16 * MIB, 16);
    astray[24..32].copy_from_slice(&(20 * MIB).to_le_bytes());
    for (bytes, want) in [
        (&b""[..], "empty"),
        (b"hello, this is no kernel", "something else"),
        (b"MZ", "bzImage"),
        (b"#!/bin/sh", "script"),
        (&[0x1f, 0x8b, 8], "gzip"),
        (&elf32, "32-bit"),
        (&arm, "another processor"),
        (&headerless, "program headers"),
        (&astray, "outside its own"),
    ] {
        let err = boot(&mem, bytes, None, "").unwrap_err();
        assert!(matches!(&err, Error::NotAKernel { found, .. } if found.contains(want)), "{want}: {err}");
        assert!(err.hint().is_some());
    }
}

#[test]
fn a_kernel_cut_short_at_any_byte_is_an_error() {
    let mem = Memory::new(32 * MIB, Sharing::Private).unwrap();
    let whole = elf(16 * MIB, 4096);
    for len in 1..whole.len() {
        assert!(boot(&mem, &whole[..len], None, "").is_err(), "{len} bytes");
    }
    let err = boot(&mem, &whole[..130], None, "").unwrap_err();
    assert!(matches!(err, Error::Truncated { len: 130, needs: 136, .. }), "{err}");
    assert!(boot(&mem, &whole, None, "").is_ok());
}

#[test]
fn segments_must_lie_in_ram() {
    let mem = Memory::new(32 * MIB, Sharing::Private).unwrap();
    for (paddr, memsz) in [
        (32 * MIB, 16),
        (16 * MIB, 17 * MIB),
        (0x1000, 16),
        (u64::MAX - 8, 16),
        (16 * MIB, u64::MAX - 16 * MIB),
        (HOLE, 16),
    ] {
        let err = boot(&mem, &elf(paddr, memsz), None, "").unwrap_err();
        assert!(matches!(err, Error::OutsideRam { .. }), "{paddr:#x}+{memsz:#x}: {err}");
    }
}

#[test]
fn an_initrd_must_fit_behind_the_kernel() {
    let mem = Memory::new(16 * MIB, Sharing::Private).unwrap();
    let kernel = elf(15 * MIB, MIB - 8192);
    assert!(boot(&mem, &kernel, Some(&[0; 8192]), "").is_ok());
    let err = boot(&mem, &kernel, Some(&[0; 8193]), "").unwrap_err();
    assert!(matches!(err, Error::InitrdTooLarge { len: 8193, room: 8192, .. }), "{err}");
}

#[test]
fn missing_files_and_folders_are_named() {
    let mem = Memory::new(16 * MIB, Sharing::Private).unwrap();
    let folder = tempfile::tempdir().unwrap();
    for path in [folder.path().join("none"), folder.path().to_owned()] {
        let err = Images::open(&path, None).and_then(|images| load(mem.guest(), &images, "", 0)).unwrap_err();
        assert!(matches!(err, Error::Read { what: "kernel", .. }), "{err}");
    }
    let kernel = file(&elf(15 * MIB, 16));
    let err = Images::open(kernel.path(), Some(folder.path()))
        .and_then(|images| load(mem.guest(), &images, "", 0))
        .unwrap_err();
    assert!(matches!(err, Error::Read { what: "initrd", .. }), "{err}");
}

#[test]
fn an_overlong_command_line_is_refused() {
    let mem = Memory::new(16 * MIB, Sharing::Private).unwrap();
    let err = boot(&mem, &elf(15 * MIB, 16), None, &"x".repeat(3000)).unwrap_err();
    assert!(matches!(err, Error::CmdlineTooLong { .. }), "{err}");
}
