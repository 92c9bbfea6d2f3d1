//! The one place that writes state files.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::Path;

use serde::Serialize;
use serde::de::DeserializeOwned;

/// What to do next when something of the store or the project cannot be read or written.
pub fn remedy(error: &io::Error) -> Option<String> {
    let text = match error.kind() {
        io::ErrorKind::PermissionDenied => {
            "it has to belong to you: `ls -ld` shows whose it and its folders are (a `sudo rvm` may have made them); \
             RVM_HOME chooses another folder for machines and boxes"
        }
        io::ErrorKind::ReadOnlyFilesystem => {
            "nothing can be written there; RVM_HOME chooses another folder for machines and boxes"
        }
        io::ErrorKind::NotADirectory => {
            "a part of this path is a file and no folder: move it away, or let RVM_HOME name a folder"
        }
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
            "free some space (`rvm box list` and `rvm global-status` show what takes it), then run it again"
        }
        _ => return None,
    };
    Some(text.into())
}

/// Creates a folder and its parents, readable by the owner only (mode 0700).
/// Folders that exist are left as they are.
pub fn create_private_dir(path: &Path) -> io::Result<()> {
    fs::DirBuilder::new().recursive(true).mode(0o700).create(path)
}

/// Replaces `path` by `data` (mode 0600): temporary file, flush, rename, flush of the folder.
/// A crash leaves the old file or the new one.
pub fn write(path: &Path, data: &[u8]) -> io::Result<()> {
    replace(path, data, 0o600)
}

fn replace(path: &Path, data: &[u8], mode: u32) -> io::Result<()> {
    let dir = path.parent().ok_or_else(|| io::Error::new(io::ErrorKind::InvalidInput, "no parent folder"))?;
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let temporary = dir.join(format!(".{name}.{}.tmp", std::process::id()));
    let result = write_new(&temporary, data, mode).and_then(|()| fs::rename(&temporary, path));
    if let Err(error) = result {
        // The error that matters is the first one; a leftover is overwritten next time.
        let _ = fs::remove_file(&temporary);
        return Err(error);
    }
    File::open(dir)?.sync_all()
}

/// The same for a file that belongs to the user's project: readable by whom the user's mask lets.
pub fn write_shared(path: &Path, data: &[u8]) -> io::Result<()> {
    replace(path, data, 0o666)
}

/// Makes `path` an empty file (mode 0600) for [`fill_json`]: for a process that will have no right to
/// any path when it knows what to write.
pub fn create_empty(path: &Path) -> io::Result<File> {
    OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(path)
}

/// Writes `value` to a file of [`create_empty`]. A crash leaves it empty, or whole.
pub fn fill_json<T: Serialize>(mut file: &File, value: &T) -> io::Result<()> {
    let mut data = serde_json::to_vec_pretty(value).map_err(io::Error::other)?;
    data.push(b'\n');
    file.write_all(&data)?;
    file.sync_all()
}

fn write_new(path: &Path, data: &[u8], mode: u32) -> io::Result<()> {
    let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(mode).open(path)?;
    file.write_all(data)?;
    file.sync_all()
}

/// [`write`]s `value` as JSON that a person can read.
pub fn write_json<T: Serialize>(path: &Path, value: &T) -> io::Result<()> {
    let mut data = serde_json::to_vec_pretty(value).map_err(io::Error::other)?;
    data.push(b'\n');
    write(path, &data)
}

/// Reads a file made by [`write_json`] or [`fill_json`]; `None` when there is none, or an empty one. A
/// file that does not parse is an error of kind `InvalidData` that names the path.
pub fn read_json<T: DeserializeOwned>(path: &Path) -> io::Result<Option<T>> {
    let data = match fs::read(path) {
        Ok(data) if data.is_empty() => return Ok(None),
        Ok(data) => data,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    serde_json::from_slice(&data)
        .map(Some)
        .map_err(|e| io::Error::new(io::ErrorKind::InvalidData, format!("{}: {e}", path.display())))
}

/// Removes a file or a folder with all it holds; one that is not there is fine.
pub fn remove(path: &Path) -> io::Result<()> {
    let result = match fs::symlink_metadata(path) {
        Ok(meta) if meta.is_dir() => fs::remove_dir_all(path),
        Ok(_) => fs::remove_file(path),
        Err(error) => Err(error),
    };
    match result {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn what_to_do_about_a_file_that_is_not_ours() {
        let hint = |kind: io::ErrorKind| remedy(&kind.into()).unwrap_or_default();
        assert!(hint(io::ErrorKind::PermissionDenied).contains("`sudo rvm`"));
        assert!(hint(io::ErrorKind::ReadOnlyFilesystem).contains("RVM_HOME"));
        assert!(hint(io::ErrorKind::StorageFull).contains("free some space"));
        assert_eq!(hint(io::ErrorKind::NotFound), "");
    }

    #[test]
    fn write_replaces_and_is_private() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.json");
        write_json(&path, &1).unwrap();
        write_json(&path, &vec![1, 2]).unwrap();
        assert_eq!(read_json::<Vec<i32>>(&path).unwrap(), Some(vec![1, 2]));
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    #[test]
    fn missing_is_none_and_broken_is_an_error_with_its_path() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.json");
        assert_eq!(read_json::<i32>(&path).unwrap(), None);
        fs::write(&path, b"{").unwrap();
        let error = read_json::<i32>(&path).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::InvalidData);
        assert!(error.to_string().contains("a.json"));
    }

    #[test]
    fn what_is_filled_later_is_none_until_then() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.json");
        fs::write(&path, "[1, 2, 3]").unwrap();
        let file = create_empty(&path).unwrap();
        assert_eq!(read_json::<Vec<i32>>(&path).unwrap(), None);
        fill_json(&file, &vec![4]).unwrap();
        assert_eq!(read_json::<Vec<i32>>(&path).unwrap(), Some(vec![4]));
    }

    #[test]
    fn remove_takes_files_folders_and_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x");
        remove(&path).unwrap();
        fs::create_dir_all(path.join("y")).unwrap();
        remove(&path).unwrap();
        assert!(!path.exists());
    }
}
