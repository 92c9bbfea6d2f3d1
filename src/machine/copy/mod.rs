//! Files between the host and a machine that runs, over SSH.
//!
//! Nothing that the guest says decides where on the host something is written: names at the top are those
//! that the user typed, and the archive of a folder is unpacked by `unpack.rs`, which trusts none of it.

mod unpack;

use std::fs::{self, File};
use std::io::{self, PipeWriter, Read, Write};
use std::os::fd::BorrowedFd;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use super::{MachineError, Machines};
use crate::model::{Project, Stream};
use crate::ssh::{ExecStatus, Input, Put, PutKind, Session, in_guest};

/// How something is copied.
#[derive(Debug, Clone, Copy, Default)]
pub struct CopyOptions {
    /// Folders, too, with all that is in them.
    pub recursive: bool,
    /// As root of the guest.
    pub sudo: bool,
}

/// What of the host is copied into a guest.
#[derive(Debug, Clone, Copy)]
pub enum From<'a> {
    /// A file or folder.
    Path(&'a Path),
    /// What comes from there, up to its end.
    Stream(BorrowedFd<'a>),
}

/// Where on the host a guest's file goes.
pub enum To<'a> {
    /// A file or folder; into it, where it is a folder that exists.
    Path(&'a Path),
    /// As it comes.
    Stream(&'a mut dyn FnMut(&[u8])),
}

/// `$1`: the login user's home, where `~/` and relative paths start; `$2`: the path; `$3`: `r` for folders
/// too. The first line of the output says what follows.
const GET: &str = r#"
LC_ALL=C; export LC_ALL
path=$2
case $path in
  '~' | '') path=$1 ;;
  '~/'*) path=$1/${path#'~/'} ;;
  /*) ;;
  *) path=$1/$path ;;
esac
fail() { echo "$*" >&2; exit 220; }
if [ -d "$path" ]; then
  [ "$3" = r ] || exit 221
  command -v tar >/dev/null || fail "the guest has no tar"
  cd -- "$path" && echo folder && tar -cf - . || exit 220
  exit 223
fi
[ -e "$path" ] || fail "there is no $path"
[ -r "$path" ] || fail "$path may not be read by $(id -un)"
echo "file $(stat -c %a -- "$path" 2>/dev/null || echo 644)"
cat -- "$path" || exit 220
exit 223
"#;

/// Exit codes of [`GET`]: done; a folder without leave for folders. Never 0, which a connection that went away
/// looks like.
const DONE: i32 = 223;
const FOLDER: i32 = 221;
/// Longest complaint of the guest that is kept, in bytes.
const COMPLAINT: usize = 2 << 10;
/// Longest first line of [`GET`].
const HEAD: usize = 64;

impl Machines<'_> {
    /// Copies into the guest: to `to` there, or into it where it is a folder.
    ///
    /// # Errors
    /// [`MachineError::Copy`] with the side that refused; those of SSH.
    pub fn copy_in(
        &self,
        project: &Project,
        name: &str,
        from: From<'_>,
        to: &str,
        options: CopyOptions,
    ) -> Result<(), MachineError> {
        let session = self.session(project, name)?;
        let put = CopyIn { machines: self, session: &session, what: format!("{name}:{to}"), to, options };
        put.copy(from).map_err(|error| self.lost(project, name, error))
    }

    /// Copies out of the guest. Gives what was left out, and why.
    ///
    /// # Errors
    /// As [`Machines::copy_in`].
    pub fn copy_out(
        &self,
        project: &Project,
        name: &str,
        from: &str,
        to: To<'_>,
        options: CopyOptions,
    ) -> Result<Vec<String>, MachineError> {
        let session = self.session(project, name)?;
        let result = self.get(&session, &format!("{name}:{from}"), from, to, options);
        result.map_err(|error| self.lost(project, name, error))
    }

    fn get(
        &self,
        session: &Session,
        what: &str,
        from: &str,
        to: To<'_>,
        options: CopyOptions,
    ) -> Result<Vec<String>, MachineError> {
        let flag = if options.recursive { "r" } else { "-" };
        let command = in_guest(GET, &[from.to_owned(), flag.to_owned()], options.sudo);
        let mut complaint = Vec::new();
        let mut receiver = Receiver::new(name_of(from), to);
        let mut out = |stream, data: &[u8]| match stream {
            Stream::Stdout => receiver.take(data),
            Stream::Stderr => keep(&mut complaint, data),
        };
        let result = session.exec(&command, Input::None, &mut out, &self.cancel, None);
        let received = receiver.finish(matches!(&result, Ok(ExecStatus { code: DONE, .. })));
        match (result?, received) {
            (ExecStatus { code: DONE, .. }, Ok(left_out)) => Ok(left_out),
            (ExecStatus { code: FOLDER, .. }, _) => Err(folder(what)),
            (_, Err(why)) => Err(MachineError::copy(what, why)),
            (status, Ok(_)) => Err(refused(what, &status, &complaint)),
        }
    }
}

/// A copy into a guest.
struct CopyIn<'a> {
    machines: &'a Machines<'a>,
    session: &'a Session,
    what: String,
    to: &'a str,
    options: CopyOptions,
}

impl CopyIn<'_> {
    fn copy(&self, from: From<'_>) -> Result<(), MachineError> {
        let path = match from {
            From::Stream(fd) => {
                return self.send(PutKind::File { size: None, mode: 0o644 }, "", Input::Live(fd));
            }
            From::Path(path) => path,
        };
        let unreadable = |e: io::Error| MachineError::copy(&path.display().to_string(), e.to_string());
        let file = File::open(path).map_err(unreadable)?;
        let meta = file.metadata().map_err(unreadable)?;
        let absolute = fs::canonicalize(path).map_err(unreadable)?;
        // `.` and `..` have no name of their own.
        let name = path.file_name().or(absolute.file_name()).unwrap_or_default().to_string_lossy();
        if meta.is_dir() {
            if !self.options.recursive {
                return Err(folder(&path.display().to_string()));
            }
            return self.folder(path, &name);
        }
        let mode = meta.permissions().mode() & 0o777;
        match meta.is_file() {
            true => {
                let kind = PutKind::File { size: Some(meta.len()), mode };
                self.send(kind, &name, Input::Reader(&mut file.take(meta.len())))
            }
            // A pipe has no size.
            false => {
                let kind = PutKind::File { size: None, mode };
                self.send(kind, &name, Input::Live(std::os::fd::AsFd::as_fd(&file)))
            }
        }
    }

    fn folder(&self, path: &Path, name: &str) -> Result<(), MachineError> {
        let failed = |e: io::Error| MachineError::copy(&path.display().to_string(), e.to_string());
        let (mut reader, writer) = io::pipe().map_err(failed)?;
        std::thread::scope(|scope| {
            let packer = scope.spawn(move || pack(path, writer));
            let sent = self.send(PutKind::Folder { mode: None }, name, Input::Reader(&mut reader));
            // A packer that still writes learns that nobody reads any more.
            drop(reader);
            let packed = packer.join().unwrap_or_else(|_| Err(io::Error::other("the packer failed")));
            match packed {
                Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(failed(error)),
                _ => sent,
            }
        })
    }

    fn send(&self, kind: PutKind, name: &str, input: Input<'_>) -> Result<(), MachineError> {
        let mut complaint = Vec::new();
        let mut out = |_, data: &[u8]| keep(&mut complaint, data);
        let put = Put { path: self.to, kind, name, parents: false, owner: None, sudo: self.options.sudo };
        let status = self.session.exec(&put.command(), input, &mut out, &self.machines.cancel, None)?;
        if status.code == Put::DONE { Ok(()) } else { Err(refused(&self.what, &status, &complaint)) }
    }
}

/// The archive of a folder, without its own name.
fn pack(path: &Path, writer: PipeWriter) -> io::Result<()> {
    let mut archive = tar::Builder::new(io::BufWriter::with_capacity(64 << 10, writer));
    archive.follow_symlinks(false);
    archive.append_dir_all(".", path)?;
    archive.into_inner()?.flush()
}

/// Takes what [`GET`] sends.
struct Receiver<'a> {
    name: String,
    head: Vec<u8>,
    state: State<'a>,
}

enum State<'a> {
    /// The first line is not whole yet.
    Begin(To<'a>),
    Stream(&'a mut dyn FnMut(&[u8])),
    File {
        file: tempfile::NamedTempFile,
        to: std::path::PathBuf,
        mode: u32,
    },
    Folder(unpack::Unpacker),
    Failed(String),
}

impl<'a> Receiver<'a> {
    fn new(name: String, to: To<'a>) -> Self {
        Receiver { name, head: Vec::new(), state: State::Begin(to) }
    }

    fn take(&mut self, data: &[u8]) {
        let result = match &mut self.state {
            State::Begin(_) => {
                self.head.extend_from_slice(data);
                return self.begin();
            }
            State::Stream(out) => {
                out(data);
                Ok(())
            }
            State::File { file, .. } => file.write_all(data),
            State::Folder(unpacker) => unpacker.write(data),
            State::Failed(_) => Ok(()),
        };
        if let Err(error) = result {
            self.state = State::Failed(error.to_string());
        }
    }

    /// Reads the first line, as soon as it is there.
    fn begin(&mut self) {
        let end = self.head.iter().take(HEAD).position(|byte| *byte == b'\n');
        let Some(end) = end else {
            if self.head.len() >= HEAD {
                self.state = State::Failed("the guest's answer is not understood".into());
            }
            return;
        };
        let rest = self.head.split_off(end + 1);
        let line = String::from_utf8_lossy(&self.head).trim().to_owned();
        let state = std::mem::replace(&mut self.state, State::Failed(String::new()));
        self.state = match state {
            State::Begin(to) => {
                opened(&line, to, &self.name).unwrap_or_else(|error| State::Failed(error.to_string()))
            }
            other => other,
        };
        self.take(&rest);
    }

    /// Puts what was received in its place, if it is whole.
    fn finish(self, whole: bool) -> Result<Vec<String>, String> {
        match self.state {
            State::Failed(why) => Err(why),
            State::Folder(unpacker) => unpacker.finish().map_err(|e| e.to_string()),
            State::File { file, to, mode } if whole => {
                let mode = fs::Permissions::from_mode(mode);
                file.as_file().set_permissions(mode).map_err(|e| e.to_string())?;
                file.persist(&to).map_err(|e| format!("cannot write {}: {}", to.display(), e.error))?;
                Ok(Vec::new())
            }
            _ => Ok(Vec::new()),
        }
    }
}

fn opened<'a>(line: &str, to: To<'a>, name: &str) -> io::Result<State<'a>> {
    let (kind, mode) = line.split_once(' ').unwrap_or((line, "644"));
    let to = match (kind, to) {
        ("file", To::Stream(out)) => return Ok(State::Stream(out)),
        ("folder", To::Stream(_)) => return Err(io::Error::other("a folder cannot be printed")),
        ("file" | "folder", To::Path(path)) if path.is_dir() => path.join(name),
        ("file" | "folder", To::Path(path)) => path.to_owned(),
        _ => return Err(io::Error::other("the guest's answer is not understood")),
    };
    if kind == "folder" {
        return unpack::Unpacker::new(&to).map(State::Folder);
    }
    let folder = to.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let file = tempfile::Builder::new().prefix(".rvm-copy.").tempfile_in(folder)?;
    // No set-user-id from a guest; the owner can always read what was copied.
    let mode = u32::from_str_radix(mode, 8).unwrap_or(0o644) & 0o755 | 0o400;
    Ok(State::File { file, to, mode })
}

/// The last part of the path that the user typed; what cannot be a name is none.
fn name_of(path: &str) -> String {
    let name = path.trim_end_matches('/').rsplit('/').next().unwrap_or_default();
    if matches!(name, "" | "." | ".." | "~") { "files".into() } else { name.to_owned() }
}

fn keep(complaint: &mut Vec<u8>, data: &[u8]) {
    let room = COMPLAINT.saturating_sub(complaint.len()).min(data.len());
    complaint.extend_from_slice(data.get(..room).unwrap_or_default());
}

fn folder(what: &str) -> MachineError {
    MachineError::Copy {
        what: what.into(),
        why: "it is a folder".into(),
        hint: Some("-r copies folders, too".into()),
    }
}

fn refused(what: &str, status: &ExecStatus, complaint: &[u8]) -> MachineError {
    let text = String::from_utf8_lossy(complaint);
    let text = text.trim().trim_start_matches("rvm: ");
    let why = match (text.is_empty(), status.code) {
        (false, _) => text.to_owned(),
        (true, 0) => "the guest went away".into(),
        (true, code) => format!("the guest's shell ended with exit code {code}"),
    };
    let hint = text.contains("ermission denied").then(|| "--sudo copies as root of the guest".to_owned());
    MachineError::Copy { what: what.into(), why, hint }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_come_from_what_the_user_typed() {
        let names = ["/etc/hosts", "/etc/", "logs", "/", "a/..", "~", "~/x"].map(name_of);
        assert_eq!(names, ["hosts", "etc", "logs", "files", "files", "files", "x"]);
    }

    #[test]
    fn a_file_takes_its_place_only_when_it_is_whole() {
        let dir = tempfile::tempdir().unwrap();
        for whole in [false, true] {
            let path = dir.path().join("got");
            let mut receiver = Receiver::new("x".into(), To::Path(&path));
            for piece in [&b"fi"[..], b"le 4755\nda", b"ta\n"] {
                receiver.take(piece);
            }
            receiver.finish(whole).unwrap();
            assert_eq!(path.exists(), whole);
        }
        assert_eq!(fs::read(dir.path().join("got")).unwrap(), b"data\n");
        assert_eq!(fs::metadata(dir.path().join("got")).unwrap().permissions().mode() & 0o7777, 0o755);
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1, "nothing half is left");
    }

    #[test]
    fn an_answer_that_makes_no_sense_writes_nothing() {
        let dir = tempfile::tempdir().unwrap();
        for text in [&b"sesame\nopen"[..], &[b'x'; 100], b"file", b""] {
            let mut receiver = Receiver::new("x".into(), To::Path(dir.path()));
            receiver.take(text);
            let _ = receiver.finish(true);
            assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
        }
    }
}
