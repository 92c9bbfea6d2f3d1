//! Copying a file or a folder into the guest: as the login user, or as root who gives it to somebody.

use std::fs;
use std::io::{self, PipeWriter, Read, Write};
use std::path::Path;
use std::time::Duration;

use super::content::{Entry, EntryKind, folder_mode, open};
use super::guest::Guest;
use super::lines::Lines;
use crate::model::{Cancel, FileCopy, Stream};
use crate::ssh::{ExecStatus, Input, Put, PutKind, SshError, in_guest};

/// Prints the numbers of a user and a group: `$2` and `$3`, names or numbers, or `-`. Whoever gives to a user
/// gives to that user's group, if none is named; what nobody is named for is root's.
const IDS: &str = r#"
LC_ALL=C; export LC_ALL
die() { echo "there is no $1"; exit 1; }
case $2 in
  -) u=0 ;;
  *[!0-9]*) u=$(id -u "$2" 2>/dev/null) || die "user $2" ;;
  *) u=$2 ;;
esac
case $3 in
  -) case $2 in -) g=0 ;; *) g=$(id -g "$2" 2>/dev/null) || die "user $2, whose group it could be" ;; esac ;;
  *[!0-9]*)
    g=$({ getent group "$3" || grep "^$3:" /etc/group; } 2>/dev/null | head -n 1 | cut -d: -f3)
    [ -n "$g" ] || die "group $3" ;;
  *) g=$3 ;;
esac
echo "ids $u $g"
"#;

/// Longest answer to it that is looked at.
const MAX_ANSWER: usize = 4 << 10;

/// How an upload ended.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Ended {
    /// With this code, 0 for success.
    Code(ExecStatus),
    /// It may not be written there.
    Denied,
    /// The guest has no such user or group; in its own words.
    Nobody(String),
}

/// Why an upload was cut off.
#[derive(Debug, thiserror::Error)]
pub(super) enum UploadError {
    #[error("the host's file cannot be read")]
    Source(#[source] io::Error),
    #[error(transparent)]
    Ssh(#[from] SshError),
}

/// Where an upload goes, and what watches it.
pub(super) struct Upload<'a, 'b> {
    pub guest: &'a dyn Guest,
    pub copy: &'a FileCopy,
    /// Through `sudo`, where it is to belong to somebody.
    pub sudo: bool,
    pub lines: &'a mut Lines<'b>,
    pub cancel: &'a Cancel,
    pub timeout: Option<Duration>,
}

impl Upload<'_, '_> {
    /// Copies a file.
    pub fn file(&mut self, mode: u32) -> Result<Ended, UploadError> {
        let source = &self.copy.source;
        let (file, meta) = open(source).map_err(UploadError::Source)?;
        let owner = match self.owner()? {
            Ok(owner) => owner,
            Err(why) => return Ok(Ended::Nobody(why)),
        };
        let name = source.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let kind = PutKind::File { size: Some(meta.len()), mode };
        self.put(kind, &name, owner, &mut file.take(meta.len()))
    }

    /// Copies what is in a folder. Nothing that is there is removed.
    pub fn folder(&mut self, entries: &[Entry]) -> Result<Ended, UploadError> {
        let owner = match self.owner()? {
            Ok(owner) => owner,
            Err(why) => return Ok(Ended::Nobody(why)),
        };
        let (mut reader, writer) = io::pipe().map_err(UploadError::Source)?;
        let copy = self.copy;
        std::thread::scope(|scope| {
            let packer = scope.spawn(move || pack(&copy.source, entries, owner, writer));
            let kind = PutKind::Folder { mode: copy.mode.map(folder_mode) };
            let result = self.put(kind, "", owner, &mut reader);
            // A packer that still writes learns that nobody reads any more.
            drop(reader);
            let packed = packer.join().unwrap_or_else(|_| Err(io::Error::other("the packer failed")));
            match (result, packed) {
                // The guest got a torn archive, and this is why.
                (Ok(_), Err(error)) if error.kind() != io::ErrorKind::BrokenPipe => {
                    Err(UploadError::Source(error))
                }
                (result, _) => result,
            }
        })
    }

    /// Whom it is to belong to: `None` is the login user. The inner error says whom the guest does not know.
    fn owner(&self) -> Result<Result<Option<(u32, u32)>, String>, UploadError> {
        if self.copy.owner.is_none() && self.copy.group.is_none() {
            return Ok(Ok(None));
        }
        let word = |name: &Option<String>| name.clone().unwrap_or_else(|| "-".into());
        let command = in_guest(IDS, &[word(&self.copy.owner), word(&self.copy.group)], false);
        let mut answer = Vec::new();
        let mut out = |stream, data: &[u8]| {
            if stream == Stream::Stdout && answer.len() < MAX_ANSWER {
                answer.extend_from_slice(data);
            }
        };
        self.guest.exec(&command, Input::None, &mut out, self.cancel, self.timeout)?;
        let answer = String::from_utf8_lossy(&answer);
        let ids = answer.trim().strip_prefix("ids ").and_then(|ids| ids.split_once(' '));
        Ok(match ids.and_then(|(user, group)| Some((user.parse().ok()?, group.parse().ok()?))) {
            Some(ids) => Ok(Some(ids)),
            None => Err(super::lines::harmless(answer.lines().next().unwrap_or("it does not answer"))),
        })
    }

    fn put(
        &mut self,
        kind: PutKind,
        name: &str,
        owner: Option<(u32, u32)>,
        reader: &mut dyn Read,
    ) -> Result<Ended, UploadError> {
        let path = &self.copy.destination;
        let put = Put { path, kind, name, parents: true, owner, sudo: self.sudo };
        let mut out = |stream, data: &[u8]| self.lines.take(stream, data);
        let input = Input::Reader(reader);
        let result = self.guest.exec(&put.command(), input, &mut out, self.cancel, self.timeout);
        self.lines.flush();
        Ok(match result? {
            ExecStatus { code: Put::DONE, .. } => Ended::Code(ExecStatus::of_code(0)),
            ExecStatus { code: Put::DENIED, .. } => Ended::Denied,
            // The script has no way to end with 0.
            ExecStatus { code: 0, signal, .. } => {
                Ended::Code(ExecStatus { signal, ..ExecStatus::of_code(1) })
            }
            status => Ended::Code(status),
        })
    }
}

/// Writes the archive. Entries vanish or change while it is written: then it ends with an error,
/// and without the end mark.
fn pack(root: &Path, entries: &[Entry], owner: Option<(u32, u32)>, writer: PipeWriter) -> io::Result<()> {
    let (user, group) = owner.unwrap_or_default();
    let mut archive = tar::Builder::new(io::BufWriter::with_capacity(64 << 10, writer));
    for entry in entries {
        let mut header = tar::Header::new_gnu();
        header.set_mode(entry.mode);
        header.set_uid(u64::from(user));
        header.set_gid(u64::from(group));
        let full = root.join(&entry.path);
        let meta = fs::symlink_metadata(&full)?;
        let modified = meta.modified().ok().and_then(|t| t.duration_since(std::time::UNIX_EPOCH).ok());
        header.set_mtime(modified.map_or(0, |time| time.as_secs()));
        header.set_size(0);
        match &entry.kind {
            EntryKind::Folder => {
                header.set_entry_type(tar::EntryType::Directory);
                archive.append_data(&mut header, &entry.path, io::empty())?;
            }
            EntryKind::Link(target) => {
                header.set_entry_type(tar::EntryType::Symlink);
                archive.append_link(&mut header, &entry.path, target)?;
            }
            EntryKind::File => {
                let (file, meta) = open(&full)?;
                header.set_entry_type(tar::EntryType::Regular);
                header.set_size(meta.len());
                let mut file = Exactly::new(file, meta.len());
                archive.append_data(&mut header, &entry.path, &mut file)?;
            }
            EntryKind::Other => {}
        }
    }
    archive.into_inner()?.flush()
}

/// As many bytes as the header promised: a file that grows is cut, one that shrinks is an error.
pub(super) struct Exactly<R> {
    inner: R,
    left: u64,
}

impl<R: Read> Exactly<R> {
    pub fn new(inner: R, left: u64) -> Self {
        Exactly { inner, left }
    }
}

impl<R: Read> Read for Exactly<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.left == 0 {
            return Ok(0);
        }
        let room = buffer.len().min(usize::try_from(self.left).unwrap_or(usize::MAX));
        let count = self.inner.read(buffer.get_mut(..room).unwrap_or_default())?;
        if count == 0 && room > 0 {
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "a file became shorter meanwhile"));
        }
        self.left = self.left.saturating_sub(count as u64);
        Ok(count)
    }
}
