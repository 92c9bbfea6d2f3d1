//! The archive of a guest's folder, unpacked on the host. The guest made it, so nothing in it is believed.

use std::fs;
use std::io::{self, PipeWriter, Read, Write};
use std::path::{Component, Path, PathBuf};
use std::thread::JoinHandle;

/// Things left out that are named; more are counted.
const NAMED: usize = 20;

/// Unpacks on a thread of its own what is written to it.
pub(super) struct Unpacker {
    writer: PipeWriter,
    thread: JoinHandle<io::Result<Vec<String>>>,
}

impl Unpacker {
    /// Into the folder `to`, which is made where it is not there.
    pub fn new(to: &Path) -> io::Result<Self> {
        fs::create_dir_all(to)?;
        let root = fs::canonicalize(to)?;
        let (reader, writer) = io::pipe()?;
        let thread =
            std::thread::Builder::new().name("unpack".into()).spawn(move || unpack(reader, &root))?;
        Ok(Unpacker { writer, thread })
    }

    /// Takes more of the archive.
    pub fn write(&mut self, data: &[u8]) -> io::Result<()> {
        match self.writer.write_all(data) {
            // The thread says why it stopped reading.
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
            result => result,
        }
    }

    /// Waits for the end; gives what was left out.
    pub fn finish(self) -> io::Result<Vec<String>> {
        drop(self.writer);
        self.thread.join().unwrap_or_else(|_| Err(io::Error::other("unpacking failed")))
    }
}

fn unpack(mut reader: impl Read, root: &Path) -> io::Result<Vec<String>> {
    let mut left_out = Vec::new();
    let mut more = 0_usize;
    let mut archive = tar::Archive::new(&mut reader);
    archive.set_preserve_permissions(false);
    archive.set_overwrite(true);
    for entry in archive.entries()? {
        let mut entry = entry?;
        let path = entry.path()?.into_owned();
        let link = entry.link_name()?.map(|link| link.into_owned());
        let reason = match check(&path, entry.header().entry_type(), link.as_deref()) {
            // Also refuses to write through links that are there already.
            None if entry.unpack_in(root)? => None,
            None => Some("it leads out of the folder"),
            reason => reason,
        };
        if let Some(reason) = reason {
            match left_out.len() < NAMED {
                true => left_out.push(format!("{}: {reason}", path.display())),
                false => more += 1,
            }
        }
    }
    if more > 0 {
        left_out.push(format!("{more} more"));
    }
    // What follows the end mark is of no use, but who sends it must not be left hanging.
    io::copy(&mut reader, &mut io::sink())?;
    Ok(left_out)
}

/// Why an entry is left out; `None`: it is fine.
fn check(path: &Path, kind: tar::EntryType, link: Option<&Path>) -> Option<&'static str> {
    let plain = |part: Component<'_>| matches!(part, Component::Normal(_) | Component::CurDir);
    if !path.components().all(plain) {
        return Some("its name leads out of the folder");
    }
    match (kind, link) {
        (tar::EntryType::Regular | tar::EntryType::Continuous | tar::EntryType::Directory, _) => None,
        (tar::EntryType::GNUSparse, _) => None,
        (tar::EntryType::Symlink, Some(link)) if stays_inside(path, link) => None,
        // The target of a hard link is named from the top.
        (tar::EntryType::Link, Some(link)) if link.components().all(plain) => None,
        (tar::EntryType::Symlink | tar::EntryType::Link, _) => Some("the link leads out of the folder"),
        _ => Some("it is neither file nor folder nor link"),
    }
}

/// Whether a link at `path` with that target names something below the top.
fn stays_inside(path: &Path, link: &Path) -> bool {
    let mut depth = PathBuf::from(path).components().filter(|c| matches!(c, Component::Normal(_))).count();
    depth = depth.saturating_sub(1);
    for part in link.components() {
        match part {
            Component::Normal(_) => depth += 1,
            Component::CurDir => {}
            Component::ParentDir if depth > 0 => depth -= 1,
            _ => return false,
        }
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An archive of entries with any name, as only a hostile guest makes them.
    fn archive(entries: &[(&str, tar::EntryType, &str)]) -> Vec<u8> {
        let mut archive = tar::Builder::new(Vec::new());
        for (name, kind, content) in entries {
            let mut header = tar::Header::new_gnu();
            header.as_old_mut().name[..name.len()].copy_from_slice(name.as_bytes());
            header.set_entry_type(*kind);
            header.set_mode(0o4755);
            let links = matches!(kind, tar::EntryType::Symlink | tar::EntryType::Link);
            if links {
                header.as_old_mut().linkname[..content.len()].copy_from_slice(content.as_bytes());
            }
            let data = if links { "" } else { content };
            header.set_size(data.len() as u64);
            header.set_cksum();
            archive.append(&header, data.as_bytes()).unwrap();
        }
        archive.into_inner().unwrap()
    }

    #[test]
    fn a_hostile_archive_writes_nothing_outside() {
        use tar::EntryType::{Block, Fifo, Link, Regular, Symlink};
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().join("to");
        fs::create_dir(&root).unwrap();
        fs::write(dir.path().join("secret"), "host").unwrap();
        let data = archive(&[
            ("../up", Regular, "x"),
            ("/abs", Regular, "x"),
            ("a/../../up2", Regular, "x"),
            ("out", Symlink, "/etc"),
            ("out2", Symlink, "../.."),
            ("d/ok", Symlink, "../fine"),
            ("hard", Link, "../secret"),
            ("hard2", Link, "/etc/passwd"),
            ("here", Symlink, "d"),
            ("here/inside", Regular, "x"),
            ("dev", Block, ""),
            ("pipe", Fifo, ""),
            ("fine", Regular, "content"),
        ]);
        let left_out = unpack(data.as_slice(), &root).unwrap();
        assert_eq!(left_out.len(), 9, "{left_out:?}");
        assert_eq!(fs::read_to_string(root.join("fine")).unwrap(), "content");
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 2, "something was written outside");
        assert!(fs::symlink_metadata(root.join("out")).is_err() && !root.join("hard").exists());
        use std::os::unix::fs::PermissionsExt;
        assert_eq!(fs::metadata(root.join("fine")).unwrap().permissions().mode() & 0o7000, 0);
    }

    #[test]
    fn a_link_that_is_there_already_is_not_followed_out() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().join("to");
        fs::create_dir(&root).unwrap();
        std::os::unix::fs::symlink(dir.path(), root.join("old")).unwrap();
        let data = archive(&[("old/x", tar::EntryType::Regular, "x")]);
        // Left out or an error: either way nothing is written.
        let _ = unpack(data.as_slice(), &fs::canonicalize(&root).unwrap());
        assert!(!dir.path().join("x").exists());
    }

    #[test]
    fn a_torn_archive_is_an_error() {
        let data = archive(&[("a", tar::EntryType::Regular, "content")]);
        let dir = tempfile::tempdir().unwrap();
        assert!(unpack(&data[..515], dir.path()).is_err());
        assert!(unpack(&[b'x'; 2000][..], dir.path()).is_err());
    }
}
