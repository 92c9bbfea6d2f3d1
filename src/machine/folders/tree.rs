//! A folder of the host as it is to be in the guest.

use std::ffi::OsStr;
use std::io;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, Dir, FileType, statat};
use rustix::io::Errno;

use super::exclude::Excluded;
use super::inside::{Root, folder_in};
use crate::model::Cancel;

/// Things left out that are named; more are counted.
const NAMED: usize = 5;

/// One thing in a folder.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Entry {
    /// Relative to the top, without `.` or `..`; need not be text.
    pub path: PathBuf,
    /// What it is.
    pub kind: Kind,
    /// Permissions, without set-user-id and its like.
    pub mode: u32,
    /// Seconds since 1970.
    pub mtime: i64,
}

/// What a thing is, as far as it is copied.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Kind {
    Folder,
    File {
        /// In bytes.
        size: u64,
    },
    Link {
        /// As it stands.
        target: PathBuf,
    },
}

/// All that is to be copied.
#[derive(Debug, Default)]
pub(super) struct Tree {
    /// A folder comes before what is in it.
    pub entries: Vec<Entry>,
    /// What cannot be copied, and why.
    pub left_out: LeftOut,
}

/// Things that were not copied.
#[derive(Debug, Default)]
pub(super) struct LeftOut {
    named: Vec<String>,
    more: usize,
}

impl LeftOut {
    /// Notes one.
    pub fn add(&mut self, path: &Path, why: &str) {
        match self.named.len() < NAMED {
            true => self.named.push(format!("{}: {why}", path.display())),
            false => self.more += 1,
        }
    }

    /// For people; empty where there are none.
    pub fn into_lines(mut self) -> Vec<String> {
        if self.more > 0 {
            self.named.push(format!("{} more", self.more));
        }
        self.named
    }

    /// Whether anything was left out.
    pub fn is_empty(&self) -> bool {
        self.named.is_empty()
    }
}

/// Reads a folder of the host, each folder in it by its name in the one above; files of those devices and numbers are
/// left out. `None`: there was a wish to stop. The top itself is not among the entries.
///
/// # Errors
/// When the top cannot be read: then nothing is known of what is in it.
pub(super) fn read(
    root: &Root,
    excluded: &Excluded,
    secrets: &[(u64, u64)],
    cancel: &Cancel,
) -> io::Result<Option<Tree>> {
    let mut tree = Tree::default();
    let mut open = vec![(PathBuf::new(), Dir::new(root.folder(Path::new(""))?)?)];
    while let Some((folder, entries)) = open.last_mut() {
        if cancel.is_cancelled() {
            return Ok(None);
        }
        let next = match entries.next() {
            None => {
                open.pop();
                continue;
            }
            Some(next) => next.and_then(|entry| Ok((entry, entries.fd()?))),
        };
        let (entry, inside) = match next {
            Ok(next) => next,
            Err(error) => {
                tree.left_out.add(folder, &io::Error::from(error).to_string());
                open.pop();
                continue;
            }
        };
        let name = entry.file_name();
        if matches!(name.to_bytes(), b"." | b"..") {
            continue;
        }
        let path = folder.join(OsStr::from_bytes(name.to_bytes()));
        // Links are not followed.
        let looked = statat(inside, name, AtFlags::SYMLINK_NOFOLLOW).and_then(|stat| {
            let target = match FileType::from_raw_mode(stat.st_mode) {
                FileType::Symlink => Some(rustix::fs::readlinkat(inside, name, Vec::new())?),
                _ => None,
            };
            Ok((stat, target))
        });
        let (stat, target) = match looked {
            Ok(looked) => looked,
            // It went while we looked.
            Err(Errno::NOENT) => continue,
            Err(error) => {
                tree.left_out.add(&path, &io::Error::from(error).to_string());
                continue;
            }
        };
        let kind = FileType::from_raw_mode(stat.st_mode);
        let is_secret = secrets.contains(&(stat.st_dev, stat.st_ino));
        if is_secret || excluded.is(path.as_os_str().as_bytes(), kind == FileType::Directory) {
            continue;
        }
        let found = match (kind, target) {
            (FileType::Directory, _) => Kind::Folder,
            (FileType::RegularFile, _) => Kind::File { size: stat.st_size.try_into().unwrap_or(0) },
            (_, Some(target)) => {
                Kind::Link { target: std::ffi::OsString::from_vec(target.into_bytes()).into() }
            }
            _ => {
                tree.left_out.add(&path, "it is neither file nor folder nor link");
                continue;
            }
        };
        if found == Kind::Folder {
            match folder_in(inside, name).and_then(|folder| Ok(Dir::new(folder)?)) {
                Ok(inside) => open.push((path.clone(), inside)),
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                Err(error) => {
                    tree.left_out.add(&path, &error.to_string());
                    continue;
                }
            }
        }
        tree.entries.push(Entry { path, kind: found, mode: stat.st_mode & 0o777, mtime: stat.st_mtime });
    }
    Ok(Some(tree))
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn opened(dir: &tempfile::TempDir) -> Root {
        Root::open(&dir.path().canonicalize().unwrap()).unwrap()
    }

    #[test]
    fn a_folder_is_read_without_what_is_left_out() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path();
        fs::create_dir_all(root.join("a/target/deep")).unwrap();
        fs::write(root.join("a/file"), "content").unwrap();
        fs::write(root.join("a/target/deep/x"), "").unwrap();
        fs::write(root.join(".env"), "SECRET=1").unwrap();
        fs::hard_link(root.join(".env"), root.join("a/again")).unwrap();
        fs::write(root.join(OsStr::from_bytes(b"caf\xe9")), "").unwrap();
        std::os::unix::fs::symlink("../outside", root.join("link")).unwrap();
        let _socket = std::os::unix::net::UnixListener::bind(root.join("socket")).unwrap();
        let excluded = Excluded::new(&["target/".into()], &[".env".into()]);
        let opened = opened(&dir);
        let secrets = opened.of_several_names(&[".env".into(), "a/file".into(), "none/.env".into()]);
        let tree = read(&opened, &excluded, &secrets, &Cancel::new()).unwrap().unwrap();
        let mut names: Vec<_> = tree.entries.iter().map(|entry| entry.path.clone()).collect();
        let place = |name: &str| names.iter().position(|path| path == Path::new(name)).unwrap();
        assert!(place("a") < place("a/file"), "a folder comes first");
        names.sort();
        assert_eq!(names.len(), 4, "{names:?}");
        let link = tree.entries.iter().find(|entry| entry.path == Path::new("link")).unwrap();
        assert_eq!(link.kind, Kind::Link { target: "../outside".into() });
        assert_eq!(tree.left_out.into_lines(), ["socket: it is neither file nor folder nor link"]);
    }

    #[test]
    fn a_folder_that_is_gone_is_an_error_and_a_wish_to_stop_none() {
        let dir = tempfile::tempdir().unwrap();
        let excluded = Excluded::new(&[], &[]);
        assert!(Root::open(&dir.path().join("gone")).is_err());
        let cancel = Cancel::new();
        cancel.cancel();
        assert!(read(&opened(&dir), &excluded, &[], &cancel).unwrap().is_none());
    }
}
