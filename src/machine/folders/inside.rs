//! What lies in a folder of the host, reached from that open folder and by no link: a guest that shares the folder may
//! put links in it, also while it is read.

use std::ffi::{CStr, OsStr, OsString};
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags, ResolveFlags, openat2, statat};
use rustix::io::Errno;

/// What is open is never inherited, a link or somebody's terminal, and never waited for.
const ALWAYS: OFlags = OFlags::CLOEXEC.union(OFlags::NOFOLLOW).union(OFlags::NOCTTY).union(OFlags::NONBLOCK);
/// For a folder that is to be listed.
const FOLDER: OFlags = OFlags::RDONLY.union(OFlags::DIRECTORY).union(ALWAYS);
/// No step of a path leads elsewhere.
const BENEATH: ResolveFlags =
    ResolveFlags::BENEATH.union(ResolveFlags::NO_MAGICLINKS).union(ResolveFlags::NO_SYMLINKS);

/// A folder of the host that is open.
#[derive(Debug)]
pub(super) struct Root(OwnedFd);

impl Root {
    /// Opens it. `path` is one without links: where there is one now, it came since the path was resolved.
    ///
    /// # Errors
    /// What the system says; a link in the path.
    pub fn open(path: &Path) -> io::Result<Self> {
        let resolve = ResolveFlags::NO_MAGICLINKS | ResolveFlags::NO_SYMLINKS;
        // That flag would say of a link that it is no folder.
        let flags = FOLDER.difference(OFlags::NOFOLLOW);
        match openat2(rustix::fs::CWD, path, flags, Mode::empty(), resolve) {
            Ok(folder) => Ok(Self(folder)),
            Err(Errno::LOOP) => Err(io::Error::other("it, or a folder above it, was replaced by a link")),
            Err(error) => Err(error.into()),
        }
    }

    /// Opens a folder in it, to be listed; of an empty path, itself once more.
    ///
    /// # Errors
    /// What the system says; `ELOOP` for a link on the way.
    pub fn folder(&self, inside: &Path) -> io::Result<OwnedFd> {
        let inside = if inside.as_os_str().is_empty() { Path::new(".") } else { inside };
        Ok(openat2(&self.0, inside, FOLDER, Mode::empty(), BENEATH)?)
    }

    /// Opens a file in it, or whatever has taken its place; neither is waited for.
    ///
    /// # Errors
    /// As [`folder`](Self::folder).
    pub fn file(&self, inside: &Path) -> io::Result<File> {
        Ok(openat2(&self.0, inside, OFlags::RDONLY | ALWAYS, Mode::empty(), BENEATH)?.into())
    }

    /// The names of the folders in one of its folders.
    ///
    /// # Errors
    /// As [`folder`](Self::folder).
    pub fn folders(&self, inside: &Path) -> io::Result<Vec<OsString>> {
        let mut found = Vec::new();
        let mut entries = Dir::new(self.folder(inside)?)?;
        while let Some(entry) = entries.next() {
            let entry = entry?;
            let name = entry.file_name();
            let kind = match entry.file_type() {
                FileType::Unknown => statat(entries.fd()?, name, AtFlags::SYMLINK_NOFOLLOW)
                    .map_or(FileType::Unknown, |stat| FileType::from_raw_mode(stat.st_mode)),
                kind => kind,
            };
            if kind == FileType::Directory && !matches!(name.to_bytes(), b"." | b"..") {
                found.push(OsStr::from_bytes(name.to_bytes()).to_owned());
            }
        }
        Ok(found)
    }

    /// Those of some files in it that have other names, too: device and number of each.
    pub fn of_several_names(&self, paths: &[PathBuf]) -> Vec<(u64, u64)> {
        let look = |path: &PathBuf| {
            let folder = self.folder(path.parent()?).ok()?;
            let stat = statat(folder, path.file_name()?, AtFlags::SYMLINK_NOFOLLOW).ok()?;
            let is_file = FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile;
            (is_file && stat.st_nlink > 1).then_some((stat.st_dev, stat.st_ino))
        };
        paths.iter().filter_map(look).collect()
    }
}

impl AsFd for Root {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// Opens a folder by its name in another one, to be listed.
///
/// # Errors
/// What the system says; `ELOOP` and `ENOTDIR` for what is no folder.
pub(super) fn folder_in(folder: impl AsFd, name: &CStr) -> io::Result<OwnedFd> {
    Ok(openat2(folder, name, FOLDER, Mode::empty(), BENEATH)?)
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn no_link_is_followed_wherever_it_is() {
        let dir = tempfile::tempdir().unwrap();
        let top = dir.path().canonicalize().unwrap();
        fs::create_dir_all(top.join("src/a")).unwrap();
        fs::write(top.join("src/a/file"), "mine").unwrap();
        fs::write(top.join("secret"), "theirs").unwrap();
        symlink("..", top.join("src/up")).unwrap();
        symlink("a/file", top.join("src/link")).unwrap();
        let root = Root::open(&top.join("src")).unwrap();
        root.file(Path::new("a/file")).unwrap();
        root.folder(Path::new("a")).unwrap();
        root.folder(Path::new("")).unwrap();
        for path in ["up/secret", "../secret", "link", "a/../../secret", "/etc/passwd"] {
            assert!(root.file(Path::new(path)).is_err(), "{path}");
        }
        assert!(root.folder(Path::new("up")).is_err() && folder_in(&root, c"up").is_err());
        folder_in(&root, c"a").unwrap();
        // The folder itself becomes a link.
        fs::rename(top.join("src"), top.join("old")).unwrap();
        symlink("old", top.join("src")).unwrap();
        let error = Root::open(&top.join("src")).unwrap_err().to_string();
        assert!(error.contains("replaced by a link"), "{error}");
        assert!(Root::open(&top.join("src/a")).is_err());
        root.file(Path::new("a/file")).unwrap();
    }
}
