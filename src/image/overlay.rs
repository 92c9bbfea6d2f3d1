//! Machine disks: qcow2 files that record what differs from the box.

use std::fs;
use std::io;
use std::path::Path;

use imago::file::File;
use imago::qcow2::Qcow2;
use imago::{DenyImplicitOpenGate, FormatCreateBuilder, FormatDriverBuilder};
use imago::{Storage, StorageCreateOptions, StorageOpenOptions};

use super::qcow2::inspect;
use super::{BoxImage, ImageError};

/// Creates at `path` a qcow2 disk of `size` bytes (rounded up to a multiple of 64 KiB) whose
/// content is the box until it is written to. The box is recorded by its absolute path. Fails
/// when `path` exists or when `size` is below that of the box.
pub fn create_overlay(backing: &BoxImage, path: &Path, size: u64) -> Result<(), ImageError> {
    const GRANULE: u64 = 64 << 10;
    if size < backing.size {
        return Err(ImageError::DiskTooSmall { name: backing.name.clone(), size, box_size: backing.size });
    }
    let fail = |source| ImageError::Io { doing: "create disk", path: path.to_owned(), source };
    let invalid = |what: &str| fail(io::Error::new(io::ErrorKind::InvalidInput, what.to_owned()));
    let size = size.checked_next_multiple_of(GRANULE).ok_or_else(|| invalid("its size is out of range"))?;
    let root_disk = backing
        .root_disk
        .to_str()
        .ok_or_else(|| invalid("the path of its box is not UTF-8, as qcow2 needs it"))?;
    let file =
        File::create_open(StorageCreateOptions::new().filename(path).overwrite(false)).map_err(fail)?;
    let created = Qcow2::<File>::create_builder(file)
        .size(size)
        .backing(root_disk.to_owned(), "raw".to_owned())
        .create()
        .and_then(|()| fs::File::open(path)?.sync_all());
    if let Err(source) = created {
        // The first error is the one that matters.
        let _ = fs::remove_file(path);
        return Err(fail(source));
    }
    Ok(())
}

/// Checks that the disk at `path` is a qcow2 that is whole, and that the box behind it is there
/// and no larger than the disk. Reads the tables only, not the data.
pub fn check_overlay(path: &Path) -> Result<(), ImageError> {
    let bad = |what: String| ImageError::BadDisk { path: path.to_owned(), what };
    let mut file = fs::File::open(path).map_err(ImageError::io("open disk", path))?;
    let found = inspect(&mut file).map_err(|error| match error.kind() {
        // What the checks themselves say, or a read beyond the end.
        io::ErrorKind::InvalidData => bad(error.to_string()),
        io::ErrorKind::UnexpectedEof => bad("it is cut short".into()),
        _ => ImageError::io("read disk", path)(error),
    })?;
    // What reads it later must be able to open it as well.
    File::open(StorageOpenOptions::new().filename(path))
        .and_then(|file| Qcow2::<File>::builder(file).backing(None).open(DenyImplicitOpenGate::default()))
        .map(drop)
        .map_err(|error| bad(error.to_string()))?;
    let Some(backing) = found.backing else { return Ok(()) };
    let meta = fs::metadata(&backing).map_err(ImageError::io("open the box behind a disk:", &backing))?;
    if meta.len() > found.size {
        return Err(bad(format!("the box behind it, {}, is larger than it", backing.display())));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Seek, SeekFrom, Write};
    use std::path::PathBuf;

    const BOX_SIZE: u64 = 3 << 20;

    fn box_in(dir: &Path) -> BoxImage {
        let root_disk = dir.join("root.ext4");
        fs::write(&root_disk, vec![7; BOX_SIZE as usize]).unwrap();
        BoxImage { name: "micro".into(), size: BOX_SIZE, root_disk, ..BoxImage::default() }
    }

    fn overlay(dir: &Path) -> PathBuf {
        let path = dir.join("disk.qcow2");
        create_overlay(&box_in(dir), &path, 10 << 20).unwrap();
        path
    }

    #[test]
    fn a_new_disk_shows_the_box() {
        let dir = tempfile::tempdir().unwrap();
        let path = overlay(dir.path());
        check_overlay(&path).unwrap();
        assert!(fs::metadata(&path).unwrap().len() < 1 << 20);
        let disk = Qcow2::<File>::builder_path(&path)
            .write(true)
            .open(imago::PermissiveImplicitOpenGate::default())
            .unwrap();
        let disk = imago::FormatAccess::new(disk);
        assert_eq!(disk.size(), 10 << 20);
        let mut buffer = vec![0; 4096];
        disk.read(&mut buffer[..], BOX_SIZE - 2048).unwrap();
        assert!(buffer[..2048].iter().all(|b| *b == 7) && buffer[2048..].iter().all(|b| *b == 0));
        disk.write(&vec![9; 65536][..], 0).unwrap();
        disk.flush().unwrap();
        drop(disk);
        check_overlay(&path).unwrap();
    }

    #[test]
    fn size_is_checked_and_nothing_overwritten() {
        let dir = tempfile::tempdir().unwrap();
        let image = box_in(dir.path());
        let path = dir.path().join("disk.qcow2");
        let error = create_overlay(&image, &path, BOX_SIZE - 1).unwrap_err();
        assert!(
            matches!(error, ImageError::DiskTooSmall { size, box_size: BOX_SIZE, .. } if size < BOX_SIZE)
        );
        assert!(!path.exists());
        assert!(create_overlay(&image, &path, u64::MAX).is_err());
        fs::write(&path, b"precious").unwrap();
        assert!(create_overlay(&image, &path, 10 << 20).is_err());
        assert_eq!(fs::read(&path).unwrap(), b"precious");
    }

    fn problem(path: &Path) -> String {
        match check_overlay(path).unwrap_err() {
            ImageError::BadDisk { what, .. } => what,
            other => panic!("{other}"),
        }
    }

    #[test]
    fn damage_is_found() {
        let dir = tempfile::tempdir().unwrap();
        let path = overlay(dir.path());
        let whole = fs::read(&path).unwrap();
        for length in [0, 3, 50, 104, 4096, whole.len() / 2] {
            fs::write(&path, &whole[..length]).unwrap();
            assert!(problem(&path).contains("cut short"), "{length}");
        }
        fs::write(&path, vec![0; 100_000]).unwrap();
        assert!(problem(&path).contains("not a qcow2"));
        let patched = |at: u64, bytes: &[u8]| {
            fs::write(&path, &whole).unwrap();
            let mut file = fs::OpenOptions::new().write(true).open(&path).unwrap();
            file.seek(SeekFrom::Start(at)).unwrap();
            file.write_all(bytes).unwrap();
            problem(&path)
        };
        assert!(patched(4, &9u32.to_be_bytes()).contains("version"));
        assert!(patched(20, &60u32.to_be_bytes()).contains("cluster"));
        assert!(patched(36, &u32::MAX.to_be_bytes()).contains("L1"));
        assert!(patched(40, &(1u64 << 40).to_be_bytes()).contains("L1"));
        assert!(patched(16, &u32::MAX.to_be_bytes()).contains("backing"));
        assert!(patched(72, &2u64.to_be_bytes()).contains("damaged"));
        assert!(patched(72, &4u64.to_be_bytes()).contains("external"));
        let l1 = u64::from_be_bytes(whole[40..48].try_into().unwrap());
        assert!(patched(l1, &(1u64 << 63 | 1 << 40).to_be_bytes()).contains("cut short"));
    }

    #[test]
    fn a_box_that_is_gone_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let path = overlay(dir.path());
        fs::remove_file(dir.path().join("root.ext4")).unwrap();
        assert!(check_overlay(&path).unwrap_err().to_string().contains("root.ext4"));
        fs::File::create(dir.path().join("root.ext4")).unwrap().set_len(11 << 20).unwrap();
        assert!(problem(&path).contains("larger"));
    }
}
