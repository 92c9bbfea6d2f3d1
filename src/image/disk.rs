//! Disks beside the root disk: new ones, and images of the user's.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Seek, SeekFrom};
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::path::Path;

use super::ImageError;
use super::qcow2::inspect;
use super::tool::{Tool, require};
use crate::model::{Cancel, ImageFormat};
use crate::state::store;

/// Makes at `path` a disk of `size` bytes: a raw, sparse file that only its owner may read. With a
/// `label` it holds an empty ext4 of that name, made by `mke2fs` before the file gets its name: what
/// exists under `path` is never formatted again.
///
/// # Errors
/// When `path` exists, or the file or its file system cannot be made.
pub fn create_disk(path: &Path, size: u64, label: Option<&str>, cancel: &Cancel) -> Result<(), ImageError> {
    let new = path.with_extension("new");
    let make = || -> Result<(), ImageError> {
        store::remove(&new).map_err(ImageError::io("remove", &new))?;
        let mut options = OpenOptions::new();
        let file = options.write(true).create_new(true).mode(0o600).open(&new);
        let file = file.map_err(ImageError::io("create disk", &new))?;
        file.set_len(size).map_err(ImageError::io("create disk", &new))?;
        if let Some(label) = label {
            make_filesystem(&new, label, cancel)?;
        }
        file.sync_all().map_err(ImageError::io("write disk", &new))?;
        // Unlike a rename, a link replaces nothing.
        fs::hard_link(&new, path).map_err(ImageError::io("create disk", path))
    };
    let result = make();
    let _ = fs::remove_file(&new);
    result
}

fn make_filesystem(path: &Path, label: &str, cancel: &Cancel) -> Result<(), ImageError> {
    let doing = "make a file system on a new disk";
    let mut mke2fs = Tool::new(doing, &require("mke2fs", "e2fsprogs", doing)?);
    mke2fs.command().args(["-q", "-F", "-t", "ext4", "-m", "1", "-L", label]);
    // The owner of `/` on it would be who runs this.
    mke2fs.command().args(["-E", "lazy_itable_init=1,root_owner=0:0"]).arg(path);
    mke2fs.run(cancel, |_| {})
}

/// Grows a disk that [`create_disk`] made to `size` bytes; gives the size that it has then, which is
/// larger than `size` where it was before. Only for a machine that does not run.
///
/// # Errors
/// When the file is not there or cannot be grown.
pub fn grow_disk(path: &Path, size: u64) -> Result<u64, ImageError> {
    let fail = || ImageError::io("grow disk", path);
    let file = OpenOptions::new().write(true).open(path).map_err(fail())?;
    let len = file.metadata().map_err(fail())?.len();
    if len < size {
        file.set_len(size).and_then(|()| file.sync_all()).map_err(fail())?;
    }
    Ok(len.max(size))
}

/// Checks an image of the user's: that it is there, and is what it is said to be. A qcow2 image that
/// leans on another file is refused, because a guest that once wrote its header could have named any.
///
/// # Errors
/// [`ImageError::BadImage`], or [`ImageError::Io`].
pub fn check_image(path: &Path, format: ImageFormat) -> Result<(), ImageError> {
    let bad = |what: String| ImageError::BadImage { path: path.to_owned(), what };
    // Opening a FIFO would wait for its other end.
    let mut options = OpenOptions::new();
    let mut file: File = options
        .read(true)
        .custom_flags(libc::O_NONBLOCK)
        .open(path)
        .map_err(ImageError::io("open disk image", path))?;
    let kind = file.metadata().map_err(ImageError::io("open disk image", path))?.file_type();
    if !kind.is_file() && !kind.is_block_device() {
        return Err(bad("it is neither a file nor a block device".into()));
    }
    if format == ImageFormat::Raw {
        let len = file.seek(SeekFrom::End(0)).map_err(ImageError::io("read disk image", path))?;
        let whole = len > 0 && len.is_multiple_of(512);
        return if whole { Ok(()) } else { Err(bad(format!("{len} bytes are no number of sectors of 512"))) };
    }
    let found = inspect(&mut file).map_err(|error| match error.kind() {
        io::ErrorKind::InvalidData => bad(error.to_string()),
        io::ErrorKind::UnexpectedEof => bad("it is cut short, or no qcow2 file".into()),
        _ => ImageError::io("read disk image", path)(error),
    })?;
    match found.backing {
        None => Ok(()),
        Some(backing) => Err(bad(format!("it leans on another file, {}", backing.display()))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::{FileExt, MetadataExt};

    const MIB: u64 = 1 << 20;

    #[test]
    fn new_disk_is_sparse_formatted_and_never_replaced() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("disk-data.raw");
        create_disk(&path, 64 * MIB, Some("data"), &Cancel::default()).unwrap();
        let meta = fs::metadata(&path).unwrap();
        assert_eq!((meta.len(), meta.mode() & 0o777), (64 * MIB, 0o600));
        assert!(meta.blocks() * 512 < 16 * MIB);
        // The superblock of ext4 is at 1024: magic at byte 56, label at byte 120.
        let mut superblock = [0; 256];
        File::open(&path).unwrap().read_exact_at(&mut superblock, 1024).unwrap();
        assert_eq!((&superblock[56..58], &superblock[120..125]), (&[0x53, 0xef][..], &b"data\0"[..]));
        fs::write(&path, b"precious").unwrap();
        assert!(create_disk(&path, 64 * MIB, Some("data"), &Cancel::default()).is_err());
        assert_eq!(fs::read(&path).unwrap(), b"precious");
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    #[test]
    fn blank_disk_stays_blank_and_grows_but_never_shrinks() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("disk-data.raw");
        create_disk(&path, 16 * MIB, None, &Cancel::default()).unwrap();
        assert!(fs::read(&path).unwrap().iter().all(|byte| *byte == 0));
        assert_eq!(grow_disk(&path, 20 * MIB).unwrap(), 20 * MIB);
        assert_eq!(grow_disk(&path, 18 * MIB).unwrap(), 20 * MIB);
        assert_eq!(fs::metadata(&path).unwrap().len(), 20 * MIB);
        assert!(grow_disk(&dir.path().join("none"), MIB).is_err());
    }

    #[test]
    fn images_are_what_they_are_said_to_be() {
        use imago::file::File as Storage;
        use imago::qcow2::Qcow2;
        use imago::{FormatCreateBuilder, Storage as _, StorageCreateOptions};
        let dir = tempfile::tempdir().unwrap();
        let raw = dir.path().join("image.raw");
        fs::write(&raw, vec![0; 1024]).unwrap();
        let make = |name: &str, backing: bool| {
            let path = dir.path().join(name);
            let file = Storage::create_open(StorageCreateOptions::new().filename(&path)).unwrap();
            let mut builder = Qcow2::<Storage>::create_builder(file).size(MIB);
            if backing {
                builder = builder.backing(raw.to_str().unwrap().to_owned(), "raw".to_owned());
            }
            builder.create().unwrap();
            path
        };
        let (alone, leaning) = (make("alone.qcow2", false), make("leaning.qcow2", true));
        check_image(&raw, ImageFormat::Raw).unwrap();
        check_image(&alone, ImageFormat::Qcow2).unwrap();
        let says = |path: &Path, format, what: &str| {
            let error = check_image(path, format).unwrap_err().to_string();
            assert!(error.contains(what), "{error}");
        };
        says(&leaning, ImageFormat::Qcow2, "leans on another file");
        says(&raw, ImageFormat::Qcow2, "qcow2");
        says(dir.path(), ImageFormat::Raw, "neither a file");
        says(&dir.path().join("none"), ImageFormat::Raw, "none");
        fs::write(&raw, vec![0; 1000]).unwrap();
        says(&raw, ImageFormat::Raw, "1000 bytes");
    }
}
