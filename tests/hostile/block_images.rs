//! Images that are refused, and who may hold one.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use imago::file::File as Storage;
use imago::qcow2::Qcow2;
use imago::raw::Raw;
use imago::{DenyImplicitOpenGate, FormatAccess, FormatCreateBuilder, FormatDriverBuilder};
use rvm::vmm::virtio::Error;
use rvm::vmm::virtio::block::{Block, DiskError};
use rvm::vmm::{Backing, Disk, DiskFormat};
use tempfile::TempDir;

use crate::block::{FLUSH, IN, OK, OUT, disk, numbered, raw_file, request};
use crate::driver::*;

fn open_file(path: &Path) -> Storage {
    let file = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path);
    Storage::try_from(file.unwrap()).unwrap()
}

/// Makes an empty qcow2 image of `size` bytes whose header names `backing`.
fn make_qcow2(path: &Path, size: u64, backing: Option<&Path>) {
    let mut builder = Qcow2::<Storage>::create_builder(open_file(path)).size(size);
    if let Some(backing) = backing {
        builder = builder.backing(backing.to_str().unwrap().to_owned(), "raw".to_owned());
    }
    builder.create().unwrap();
}

/// An overlay of `size` bytes and its raw backing file of 256 KiB.
pub fn chain_of_images(folder: &TempDir, size: u64) -> (PathBuf, Backing) {
    let (overlay, backing) = (folder.path().join("overlay.qcow2"), folder.path().join("base.raw"));
    std::fs::write(&backing, numbered(512)).unwrap();
    make_qcow2(&overlay, size, Some(&backing));
    (overlay, Backing { path: backing })
}

/// What the image holds, by a reader of its own.
pub fn read_qcow2(path: &Path, backing: &Path, offset: u64, len: usize) -> Vec<u8> {
    let raw = Raw::builder(Storage::try_from(File::open(backing).unwrap()).unwrap())
        .open(DenyImplicitOpenGate::default())
        .unwrap();
    let image = Qcow2::<Storage>::builder(Storage::try_from(File::open(path).unwrap()).unwrap())
        .backing(Some(FormatAccess::new(raw)))
        .data_file(None)
        .open(DenyImplicitOpenGate::default())
        .unwrap();
    let mut bytes = vec![0; len];
    FormatAccess::new(image).read(&mut bytes, offset).unwrap();
    bytes
}

fn refused(disk: &Disk) -> DiskError {
    match Block::open(disk) {
        Err(Error::Disk(error)) => error,
        Err(other) => panic!("{other}"),
        Ok(_) => panic!("{} was opened", disk.path.display()),
    }
}

fn qcow2(path: &Path) -> Disk {
    disk(path, DiskFormat::Qcow2 { backing: None })
}

#[test]
fn raw_size_has_to_be_sectors() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("odd");
    std::fs::write(&path, [0; 1000]).unwrap();
    let error = refused(&disk(&path, DiskFormat::Raw));
    assert!(matches!(error, DiskError::Unaligned { size: 1000, .. }), "{error:?}");
    assert!(error.to_string().contains("1000 bytes"));
    std::fs::write(&path, []).unwrap();
    assert!(matches!(refused(&disk(&path, DiskFormat::Raw)), DiskError::Empty { .. }));
}

#[test]
fn what_is_no_file_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let missing = folder.path().join("missing");
    assert!(matches!(refused(&disk(&missing, DiskFormat::Raw)), DiskError::Open { .. }));
    let read_only = Disk { read_only: true, ..disk(folder.path(), DiskFormat::Raw) };
    assert!(matches!(refused(&read_only), DiskError::NotAFile { .. }));
    let null = disk(Path::new("/dev/null"), DiskFormat::Raw);
    assert!(matches!(refused(&null), DiskError::NotAFile { .. }));
}

#[test]
fn raw_image_is_not_qcow2() {
    let folder = tempfile::tempdir().unwrap();
    let error = refused(&qcow2(&raw_file(&folder)));
    assert!(matches!(error, DiskError::NotQcow2 { .. }), "{error:?}");
    assert!(error.hint().unwrap().contains("raw"));
    let empty = folder.path().join("empty");
    std::fs::write(&empty, []).unwrap();
    assert!(matches!(refused(&qcow2(&empty)), DiskError::NotQcow2 { .. }));
}

#[test]
fn truncated_qcow2_is_refused_wherever_it_ends() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("disk.qcow2");
    make_qcow2(&path, 4 << 20, None);
    {
        let mut driver = Driver::started(Block::open(&qcow2(&path)).unwrap(), 64, 0);
        driver.put(DATA + 0x1000, &[9; 4096]);
        for sector in [0, 2048, 4096] {
            let data = [readable(DATA + 0x1000, 4096)];
            assert_eq!(request(&mut driver, OUT, sector, &data), (OK, 1));
        }
        assert_eq!(request(&mut driver, FLUSH, 0, &[]), (OK, 1));
    }
    let whole = std::fs::read(&path).unwrap();
    assert!(Block::open(&qcow2(&path)).is_ok());
    // The last cluster may be short, but the start of each thing that is referred to must be there.
    let last = (whole.len() - 1) / 65536 * 65536;
    for len in [4, 71, 72, 4096, 65536, 2 * 65536, 3 * 65536, 4 * 65536, last - 65536, last] {
        std::fs::write(&path, &whole[..len]).unwrap();
        let error = refused(&qcow2(&path));
        assert!(matches!(error, DiskError::Truncated { .. }), "{len}: {error:?}");
        assert!(error.hint().is_some());
    }
    std::fs::write(&path, &whole).unwrap();
    assert!(Block::open(&qcow2(&path)).is_ok());
}

#[test]
fn damaged_qcow2_headers_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("disk.qcow2");
    make_qcow2(&path, 4 << 20, None);
    let whole = std::fs::read(&path).unwrap();
    // Field and value: version, cluster bits, encryption, L1 size, L1 offset, refcount table.
    let fields: [(usize, &[u8]); 9] = [
        (4, &9u32.to_be_bytes()),
        (20, &8u32.to_be_bytes()),
        (20, &63u32.to_be_bytes()),
        (32, &2u32.to_be_bytes()),
        (36, &u32::MAX.to_be_bytes()),
        (40, &u64::MAX.to_be_bytes()),
        (40, &(u64::MAX - 65535).to_be_bytes()),
        (48, &(1u64 << 40).to_be_bytes()),
        (72, &(1u64 << 60).to_be_bytes()),
    ];
    for (at, value) in fields {
        let mut image = whole.clone();
        image[at..at + value.len()].copy_from_slice(value);
        std::fs::write(&path, &image).unwrap();
        let error = refused(&qcow2(&path));
        let expected = matches!(error, DiskError::Truncated { .. } | DiskError::Qcow2 { .. });
        assert!(expected, "{at}: {error:?}");
    }
}

/// Bytes of an image at a place.
fn patched(whole: &[u8], patches: &[(usize, u64)]) -> Vec<u8> {
    let mut image = whole.to_owned();
    for &(at, value) in patches {
        image[at..at + 8].copy_from_slice(&value.to_be_bytes());
    }
    image
}

fn cause(path: &Path) -> String {
    let error = refused(&qcow2(path));
    assert!(matches!(error, DiskError::Qcow2 { .. }), "{error:?}");
    std::error::Error::source(&error).unwrap().to_string()
}

#[test]
fn features_that_nobody_knows_are_refused_by_name() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("disk.qcow2");
    make_qcow2(&path, 4 << 20, None);
    let whole = std::fs::read(&path).unwrap();
    for (bit, why) in [
        (0, "not closed"),
        (1, "damaged"),
        (2, "another file"),
        (3, "compressed"),
        (4, "subclusters"),
        (5, "nobody knows"),
        (63, "nobody knows"),
    ] {
        std::fs::write(&path, patched(&whole, &[(72, 1 << bit)])).unwrap();
        let said = cause(&path);
        assert!(said.contains(why), "{bit}: {said}");
    }
}

/// One table of 2 MiB that four million entries name would be 8 TiB to read.
#[test]
fn a_table_is_read_once_and_tables_have_an_end() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("disk.qcow2");
    // Two tables of 512 MiB each, both used.
    make_qcow2(&path, 1 << 30, None);
    {
        let mut driver = Driver::started(Block::open(&qcow2(&path)).unwrap(), 64, 0);
        for sector in [0, (512 << 20) / 512] {
            assert_eq!(request(&mut driver, OUT, sector, &[readable(DATA + 0x1000, 512)]), (OK, 1));
        }
    }
    let whole = std::fs::read(&path).unwrap();
    let be64 = |at: usize| u64::from_be_bytes(whole[at..at + 8].try_into().unwrap());
    let l1 = be64(40) as usize;
    for shift in [0, 512, 32768] {
        std::fs::write(&path, patched(&whole, &[(l1 + 8, be64(l1) + shift)])).unwrap();
        assert!(cause(&path).contains("the same mapping table"), "{shift}");
    }
    // What lies behind the tables of the disk is not read, whatever it names.
    let mut image = patched(&whole, &[(l1 + 16, be64(l1)), (l1 + 24, 1 << 50)]);
    image[36..40].copy_from_slice(&4u32.to_be_bytes());
    std::fs::write(&path, image).unwrap();
    assert!(Block::open(&qcow2(&path)).is_ok());

    // Tables of holes in clusters of 2 MiB, each a place of its own.
    const BIG: u64 = 2 << 20;
    let tables = (8 << 30) / BIG + 1;
    let mut image = patched(&whole[..104], &[(24, 1 << 60), (40, BIG), (48, 2 * BIG)]);
    image[20..24].copy_from_slice(&21u32.to_be_bytes());
    image[36..40].copy_from_slice(&(1u32 << 21).to_be_bytes());
    image[56..60].copy_from_slice(&1u32.to_be_bytes());
    let file = File::create(&path).unwrap();
    file.set_len((tables + 20) * BIG).unwrap();
    file.write_all_at(&image, 0).unwrap();
    let entries: Vec<u8> = (0..tables).flat_map(|table| ((table + 16) * BIG).to_be_bytes()).collect();
    file.write_all_at(&entries, BIG).unwrap();
    assert!(cause(&path).contains("too large"));
}

#[test]
fn only_the_backing_file_that_was_named_is_opened() {
    let folder = tempfile::tempdir().unwrap();
    let (overlay, backing) = chain_of_images(&folder, 1 << 20);
    // The header names base.raw; the disk names none, so there is none.
    let mut driver = Driver::started(Block::open(&qcow2(&overlay)).unwrap(), 64, 0);
    assert_eq!(request(&mut driver, IN, 0, &[writable(DATA + 0x1000, 512)]), (OK, 513));
    assert_eq!(driver.get(DATA + 0x1000, 512), [0; 512]);
    drop(driver);
    // The disk names another one, so it is that.
    let other = folder.path().join("other.raw");
    std::fs::write(&other, [0x33; 4096]).unwrap();
    std::fs::remove_file(&backing.path).unwrap();
    let format = DiskFormat::Qcow2 { backing: Some(Backing { path: other }) };
    let mut driver = Driver::started(Block::open(&disk(&overlay, format.clone())).unwrap(), 64, 0);
    assert_eq!(request(&mut driver, IN, 0, &[writable(DATA + 0x1000, 512)]), (OK, 513));
    assert_eq!(driver.get(DATA + 0x1000, 512), [0x33; 512]);
    drop(driver);
    // A missing one is an error that names it.
    std::fs::remove_file(folder.path().join("other.raw")).unwrap();
    let error = refused(&disk(&overlay, format));
    assert!(error.to_string().contains("other.raw"), "{error}");
}

#[test]
fn image_in_another_file_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("disk.qcow2");
    let data = folder.path().join("data");
    Qcow2::<Storage>::create_builder(open_file(&path))
        .size(1 << 20)
        .data_file(data.to_str().unwrap().to_owned(), open_file(&data))
        .create()
        .unwrap();
    assert!(matches!(refused(&qcow2(&path)), DiskError::Qcow2 { .. }));
}

#[test]
fn image_is_written_by_one() {
    let folder = tempfile::tempdir().unwrap();
    let writer = disk(&raw_file(&folder), DiskFormat::Raw);
    let reader = Disk { read_only: true, ..writer.clone() };
    let first = Block::open(&writer).unwrap();
    let error = refused(&writer);
    assert!(matches!(error, DiskError::Locked { write: true, .. }), "{error:?}");
    assert!(error.hint().is_some());
    assert!(matches!(refused(&reader), DiskError::Locked { write: false, .. }));
    drop(first);
    let readers = [Block::open(&reader).unwrap(), Block::open(&reader).unwrap()];
    assert!(matches!(refused(&writer), DiskError::Locked { write: true, .. }));
    drop(readers);
    assert!(Block::open(&writer).is_ok());
}

#[test]
fn backing_file_is_shared_and_not_written_meanwhile() {
    let folder = tempfile::tempdir().unwrap();
    let (overlay, backing) = chain_of_images(&folder, 1 << 20);
    let second = folder.path().join("second.qcow2");
    std::fs::copy(&overlay, &second).unwrap();
    let format = DiskFormat::Qcow2 { backing: Some(backing.clone()) };
    let writer = disk(&backing.path, DiskFormat::Raw);
    let overlays = [
        Block::open(&disk(&overlay, format.clone())).unwrap(),
        Block::open(&disk(&second, format.clone())).unwrap(),
    ];
    assert!(matches!(refused(&writer), DiskError::Locked { .. }));
    assert!(matches!(refused(&disk(&overlay, format.clone())), DiskError::Locked { .. }));
    drop(overlays);
    let writer = Block::open(&writer).unwrap();
    assert!(matches!(refused(&disk(&overlay, format)), DiskError::Locked { .. }));
    drop(writer);
}

#[test]
fn serial_has_to_fit() {
    let folder = tempfile::tempdir().unwrap();
    let path = raw_file(&folder);
    for serial in ["123456789012345678901", "tab\t", "é"] {
        let disk = Disk { serial: serial.to_owned(), ..disk(&path, DiskFormat::Raw) };
        assert!(matches!(refused(&disk), DiskError::Serial { .. }), "{serial}");
    }
    let disk = Disk { serial: "12345678901234567890".to_owned(), ..disk(&path, DiskFormat::Raw) };
    assert!(Block::open(&disk).is_ok());
}

#[test]
fn capacity_is_what_the_image_says() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("disk.qcow2");
    make_qcow2(&path, 5 << 30, None);
    let mut driver = Driver::new(Block::open(&qcow2(&path)).unwrap(), 64);
    let mut capacity = [0; 8];
    rvm::vmm::bus::BusDevice::read(&mut driver.transport, 0x100, &mut capacity);
    assert_eq!(u64::from_le_bytes(capacity), (5 << 30) / 512);
    let mut image = [0; 4];
    File::open(&path).unwrap().read_exact_at(&mut image, 0).unwrap();
    assert_eq!(&image, b"QFI\xfb");
}
