//! Copying a file or a folder into the guest, as the login user.

use std::fs;
use std::io::{self, PipeWriter, Read, Write};
use std::path::Path;
use std::time::Duration;

use super::content::{Entry, EntryKind, open};
use super::guest::Guest;
use super::lines::Lines;
use crate::model::Cancel;
use crate::ssh::{ExecStatus, Input, SshError, quote};

/// What both scripts begin with: `$1` is the destination; `~/` and relative paths start at home.
const PRELUDE: &str = r#"
LC_ALL=C; export LC_ALL
dest=$1
case $dest in
  '~') dest=$HOME ;;
  '~/'*) dest=$HOME/${dest#'~/'} ;;
  /*) ;;
  *) dest=$HOME/$dest ;;
esac
may_not() { echo "rvm: cannot write to $1" >&2; exit 220; }
"#;

/// `$2`: the file's own name; `$3`: its size; `$4`: its mode. A file that is there is replaced in
/// one move, so that it is never half there.
const FILE: &str = r#"
case $dest in */) mkdir -p -- "$dest" || may_not "$dest" ;; esac
if [ -d "$dest" ]; then dest=${dest%/}/$2; fi
dir=$(dirname -- "$dest")
mkdir -p -- "$dir" || may_not "$dir"
[ ! -d "$dest" ] || may_not "$dest, which is a folder"
tmp=$(mktemp "$dir/.rvm-upload.XXXXXX") || may_not "$dir"
trap 'rm -f -- "$tmp"' EXIT
trap 'exit 129' HUP INT PIPE TERM
cat >"$tmp" || exit 1
[ "$(wc -c <"$tmp")" -eq "$3" ] || { echo 'rvm: the file did not arrive whole' >&2; exit 1; }
chmod "$4" "$tmp" && mv -f -- "$tmp" "$dest" || exit 1
trap - EXIT
exit 223
"#;

/// Standard input is a tar archive. `-o`: everything belongs to the login user, root included.
const FOLDER: &str = r#"
command -v tar >/dev/null || { echo 'rvm: the guest has no tar' >&2; exit 1; }
mkdir -p -- "$dest" && [ -w "$dest" ] || may_not "$dest"
cd -- "$dest" && tar -xpof - || exit 1
exit 223
"#;

/// Exit code of a complete copy; see `bootstrap.sh` for why it is not 0.
const SUCCESS: i32 = 223;

/// Exit code when the destination cannot be written.
const DENIED: i32 = 220;

/// How an upload ended.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Ended {
    /// With this code, 0 for success.
    Code(ExecStatus),
    /// The login user may not write there.
    Denied,
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
    pub source: &'a Path,
    pub destination: &'a str,
    pub lines: &'a mut Lines<'b>,
    pub cancel: &'a Cancel,
    pub timeout: Option<Duration>,
}

impl Upload<'_, '_> {
    /// Copies a file.
    pub fn file(&mut self, mode: u32) -> Result<Ended, UploadError> {
        let (file, meta) = open(self.source).map_err(UploadError::Source)?;
        let name = self.source.file_name().unwrap_or_default().to_string_lossy();
        let arguments = format!("{} {} {mode:o}", quote(&name), meta.len());
        let mut reader = file.take(meta.len());
        self.exec(FILE, &arguments, &mut reader)
    }

    /// Copies what is in a folder. Nothing that is there is removed.
    pub fn folder(&mut self, entries: &[Entry]) -> Result<Ended, UploadError> {
        let (mut reader, writer) = io::pipe().map_err(UploadError::Source)?;
        let source = self.source;
        std::thread::scope(|scope| {
            let packer = scope.spawn(move || pack(source, entries, writer));
            let result = self.exec(FOLDER, "", &mut reader);
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

    fn exec(&mut self, script: &str, arguments: &str, reader: &mut dyn Read) -> Result<Ended, UploadError> {
        let script = quote(&format!("{PRELUDE}{script}"));
        let command = format!("sh -c {script} rvm {} {arguments}", quote(self.destination));
        let mut out = |stream, data: &[u8]| self.lines.take(stream, data);
        let result = self.guest.exec(&command, Input::Reader(reader), &mut out, self.cancel, self.timeout);
        self.lines.flush();
        Ok(match result? {
            ExecStatus { code: SUCCESS, .. } => Ended::Code(ExecStatus::of_code(0)),
            ExecStatus { code: DENIED, .. } => Ended::Denied,
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
fn pack(root: &Path, entries: &[Entry], writer: PipeWriter) -> io::Result<()> {
    let mut archive = tar::Builder::new(io::BufWriter::with_capacity(64 << 10, writer));
    for entry in entries {
        let mut header = tar::Header::new_gnu();
        header.set_mode(entry.mode);
        header.set_uid(0);
        header.set_gid(0);
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
                let mut file = Exactly { inner: file, left: meta.len() };
                archive.append_data(&mut header, &entry.path, &mut file)?;
            }
            EntryKind::Other => {}
        }
    }
    archive.into_inner()?.flush()
}

/// As many bytes as the header promised: a file that grows is cut, one that shrinks is an error.
struct Exactly<R> {
    inner: R,
    left: u64,
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
