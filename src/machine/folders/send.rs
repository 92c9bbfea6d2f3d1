//! A copy without rsync at either end: what differs by size, time, permissions or owner goes as an archive,
//! what the host does not have is removed. The guest says what it has; that decides what is sent and what is
//! removed in that very guest, and nothing else.

use std::collections::{HashMap, HashSet};
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::time::Duration;

use super::exclude::Excluded;
use super::inside::Root;
use super::remote::{Fault, Remote};
use super::tree::{self, Entry, Kind, LeftOut, Tree};
use super::{Job, Sent};
use crate::ssh::{Input, SshError};

/// `$1`: the folder. Names, each behind it a NUL; an empty one; then a line for each of them. If something
/// comes or goes in between, their numbers differ.
const LIST: &str = r#"
cd -- "$1" || exit 220
find . -print0 || exit 220
printf '\0'
find . -print0 | xargs -0 stat -c '%f %s %Y %u %g' 2>/dev/null
exit 223
"#;

/// `$1`: the folder. Names of files, each behind it a NUL.
const REMOVE: &str = r#"
cd -- "$1" && xargs -0 rm -f -- || exit 220
exit 223
"#;

/// The same for folders; one that holds something that is not to be removed stays.
const REMOVE_FOLDERS: &str = r#"
cd -- "$1" || exit 220
xargs -0 rmdir -- 2>/dev/null
exit 223
"#;

/// `$1`: the folder.
const UNPACK: &str = r#"
command -v tar >/dev/null || fail "the guest has no tar"
cd -- "$1" || exit 220
tar -xpf - && exit 223
# Not every tar says why a file was cut short.
left=$(df -Pk . | sed -n '2s/.* \([0-9][0-9]*\)  *[0-9][0-9]*% .*/\1/p')
[ "${left:-64}" -ge 64 ] || echo 'No space left on device' >&2
exit 220
"#;

/// Longest list that is taken from a guest, in bytes: two million names or so.
const LISTING: usize = 256 << 20;
/// Most names in it, however short: each takes 100 bytes more to be looked up.
const NAMES: usize = 4 << 20;
/// How often a list is asked for while the folder changes.
const TRIES: usize = 3;
/// A guest that lists a million files on a busy host takes its time.
const LIST_TIMEOUT: Duration = Duration::from_secs(600);
/// Types of files in a mode (stat(2)).
const TYPE: u32 = libc::S_IFMT;

/// What the guest has of one name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Have {
    mode: u32,
    size: u64,
    mtime: i64,
    owner: (u32, u32),
}

/// What is to be done in the guest.
#[derive(Debug, Default)]
struct Todo<'t> {
    send: Vec<&'t Entry>,
    /// Files, then folders from the inside out; relative to the top.
    remove: Vec<&'t [u8]>,
    remove_folders: Vec<&'t [u8]>,
}

/// Makes the guest's folder like that of the host. `owner`: numbers in the guest. `progress` hears bytes
/// done and in all.
pub(super) fn send(
    remote: &Remote<'_>,
    job: &Job<'_>,
    owner: (u32, u32),
    progress: &(dyn Fn(u64, u64) + Sync),
) -> Result<Sent, Fault> {
    let excluded = Excluded::new(job.exclude, job.hidden);
    let unreadable = |error: io::Error| Fault::Said(format!("cannot read {}: {error}", job.host.display()));
    // What is read and what is sent lies in this very folder, whatever becomes of its path.
    let root = Root::open(job.host).map_err(unreadable)?;
    let secrets = root.of_several_names(job.hidden);
    let tree = tree::read(&root, &excluded, &secrets, remote.cancel).map_err(unreadable)?;
    let mut tree = tree.ok_or(SshError::Cancelled)?;
    let mut left_out = std::mem::take(&mut tree.left_out);
    let listing = list(remote, job.guest)?;
    let have = parse(&listing).ok_or_else(|| Fault::Said("its folder does not come to rest".into()))?;
    // Of what could not be read nothing is known: perhaps it is there.
    let delete = job.delete && left_out.is_empty();
    let todo = compare(&tree, &have, &excluded, owner, delete);
    remove(remote, job.guest, REMOVE, &todo.remove)?;
    remove(remote, job.guest, REMOVE_FOLDERS, &todo.remove_folders)?;
    let mut sent = Sent { removed: todo.remove.len() + todo.remove_folders.len(), ..Sent::default() };
    if !todo.send.is_empty() {
        let packer = Packer {
            root: &root,
            owner,
            left_out: &mut left_out,
            sent: &mut sent,
            progress,
            total: total(&todo.send),
        };
        pack_and_send(remote, job, &todo.send, packer)?;
    }
    if job.delete && !delete {
        sent.warnings.push("nothing was removed in the guest, because not all could be read".into());
    }
    sent.warnings.extend(left_out.into_lines().into_iter().map(|line| format!("not copied: {line}")));
    Ok(sent)
}

/// What the guest has, as it says it.
fn list(remote: &Remote<'_>, guest: &str) -> Result<Vec<u8>, Fault> {
    for _ in 0..TRIES {
        let mut answer = Vec::new();
        let (mut whole, mut names) = (true, 0);
        let mut keep = |data: &[u8]| {
            names += data.iter().filter(|byte| **byte == 0).count();
            whole &= answer.len() + data.len() <= LISTING && names <= NAMES;
            if whole {
                answer.extend_from_slice(data);
            }
        };
        remote.run(LIST, &[guest], Input::None, &mut keep, Some(LIST_TIMEOUT))?;
        if !whole {
            return Err(Fault::Said("there is too much in it to be compared".into()));
        }
        if parse(&answer).is_some() {
            return Ok(answer);
        }
    }
    Ok(Vec::new())
}

/// Names without their `./`, and what each is; `None` where the two lists do not fit together.
fn parse(answer: &[u8]) -> Option<HashMap<&[u8], Have>> {
    let end = answer.windows(2).position(|pair| pair == b"\0\0")?;
    let (names, lines) = (answer.get(..end)?, answer.get(end + 2..)?);
    if !lines.ends_with(b"\n") {
        return None;
    }
    let mut have = HashMap::new();
    let mut lines = lines.split(|byte| *byte == b'\n').filter(|line| !line.is_empty());
    for name in names.split(|byte| *byte == 0) {
        let line = std::str::from_utf8(lines.next()?).ok()?;
        let mut words = line.split(' ');
        let mode = u32::from_str_radix(words.next()?, 16).ok()?;
        let size = words.next()?.parse().ok()?;
        let mtime = words.next()?.parse().ok()?;
        let owner = (words.next()?.parse().ok()?, words.next()?.parse().ok()?);
        match name.strip_prefix(b"./") {
            Some(name) => drop(have.insert(name, Have { mode, size, mtime, owner })),
            None if name == b"." => {}
            None => return None,
        }
    }
    lines.next().is_none().then_some(have)
}

fn compare<'t>(
    tree: &'t Tree,
    have: &HashMap<&'t [u8], Have>,
    excluded: &Excluded,
    owner: (u32, u32),
    delete: bool,
) -> Todo<'t> {
    let mut todo = Todo::default();
    let mut wanted: HashSet<&[u8]> = HashSet::new();
    let mut replaced: HashSet<&[u8]> = HashSet::new();
    for entry in &tree.entries {
        let path = entry.path.as_os_str().as_bytes();
        match have.get(path) {
            None => todo.send.push(entry),
            Some(have) if have.mode & TYPE != kind_of(&entry.kind) => {
                replaced.insert(path);
                todo.send.push(entry);
            }
            Some(have) => {
                if !is_same(entry, have, owner) {
                    todo.send.push(entry);
                }
                wanted.insert(path);
                continue;
            }
        }
        if !replaced.contains(path) {
            wanted.insert(path);
        }
    }
    for (path, have) in have {
        let gives_way = || {
            let ends = path.iter().enumerate().filter(|(_, byte)| **byte == b'/').map(|(at, _)| at);
            let mut above = ends.filter_map(|at| path.get(..at));
            replaced.contains(path) || above.any(|folder| replaced.contains(folder))
        };
        if wanted.contains(path) || !(delete || (!replaced.is_empty() && gives_way())) {
            continue;
        }
        let folder = have.mode & TYPE == libc::S_IFDIR;
        if excluded.is_within(path, folder) {
            continue;
        }
        match folder {
            true => todo.remove_folders.push(path),
            false => todo.remove.push(path),
        }
    }
    todo.remove.sort_unstable();
    // What is in a folder comes after it in the order of names.
    todo.remove_folders.sort_unstable_by(|a, b| b.cmp(a));
    todo
}

fn kind_of(kind: &Kind) -> u32 {
    match kind {
        Kind::Folder => libc::S_IFDIR,
        Kind::File { .. } => libc::S_IFREG,
        Kind::Link { .. } => libc::S_IFLNK,
    }
}

fn is_same(entry: &Entry, have: &Have, owner: (u32, u32)) -> bool {
    let mode = have.mode & 0o7777 == entry.mode;
    have.owner == owner
        && match &entry.kind {
            Kind::Folder => mode,
            Kind::File { size } => mode && *size == have.size && entry.mtime == have.mtime,
            // Its target is not known of the guest's; its time is, where that guest's tar sets it.
            Kind::Link { target } => {
                target.as_os_str().len() as u64 == have.size && entry.mtime == have.mtime
            }
        }
}

fn remove(remote: &Remote<'_>, guest: &str, script: &str, paths: &[&[u8]]) -> Result<(), Fault> {
    if paths.is_empty() {
        return Ok(());
    }
    let mut names = Vec::new();
    for path in paths {
        names.extend_from_slice(b"./");
        names.extend_from_slice(path);
        names.push(0);
    }
    remote.run(script, &[guest], Input::Bytes(&names), &mut |_| (), None)
}

fn pack_and_send(
    remote: &Remote<'_>,
    job: &Job<'_>,
    entries: &[&Entry],
    packer: Packer<'_>,
) -> Result<(), Fault> {
    let (mut reader, writer) = io::pipe().map_err(|e| Fault::Said(e.to_string()))?;
    std::thread::scope(|scope| {
        let packer = scope.spawn(move || packer.pack(entries, writer));
        let input = Input::Reader(&mut reader);
        let result = remote.run(UNPACK, &[job.guest], input, &mut |_| (), None);
        // A packer that still writes learns that nobody reads any more.
        drop(reader);
        let packed = packer.join().unwrap_or_else(|_| Err(io::Error::other("the packer failed")));
        match packed {
            Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
                Err(Fault::Said(format!("cannot read {}: {error}", job.host.display())))
            }
            _ => result,
        }
    })
}

fn total(entries: &[&Entry]) -> u64 {
    let sizes = entries.iter().map(|entry| match entry.kind {
        Kind::File { size } => size,
        _ => 0,
    });
    sizes.fold(0, u64::saturating_add)
}

struct Packer<'a> {
    root: &'a Root,
    owner: (u32, u32),
    left_out: &'a mut LeftOut,
    sent: &'a mut Sent,
    progress: &'a (dyn Fn(u64, u64) + Sync),
    total: u64,
}

impl Packer<'_> {
    fn pack(mut self, entries: &[&Entry], writer: impl Write) -> io::Result<()> {
        let mut archive = tar::Builder::new(io::BufWriter::with_capacity(64 << 10, writer));
        for entry in entries {
            self.add(&mut archive, entry)?;
        }
        archive.into_inner()?.flush()?;
        (self.progress)(self.total, self.total);
        Ok(())
    }

    fn add<W: Write>(&mut self, archive: &mut tar::Builder<W>, entry: &Entry) -> io::Result<()> {
        let mut header = tar::Header::new_gnu();
        header.set_mode(entry.mode);
        header.set_uid(self.owner.0.into());
        header.set_gid(self.owner.1.into());
        header.set_mtime(u64::try_from(entry.mtime).unwrap_or(0));
        header.set_size(0);
        match &entry.kind {
            Kind::Folder => {
                header.set_entry_type(tar::EntryType::Directory);
                archive.append_data(&mut header, &entry.path, io::empty())?;
            }
            Kind::Link { target } => {
                header.set_entry_type(tar::EntryType::Symlink);
                // Word for word where it fits; the library tidies paths.
                match header.set_link_name_literal(target.as_os_str().as_bytes()) {
                    Ok(()) => archive.append_data(&mut header, &entry.path, io::empty())?,
                    Err(_) => archive.append_link(&mut header, &entry.path, target)?,
                }
                self.sent.files += 1;
            }
            Kind::File { .. } => {
                let Some((file, size)) = self.open(entry)? else { return Ok(()) };
                header.set_entry_type(tar::EntryType::Regular);
                header.set_size(size);
                let mut data = Padded { file, left: size, was_short: false };
                let done = self.sent.bytes;
                let told = Told { inner: &mut data, done, total: self.total, progress: self.progress };
                archive.append_data(&mut header, &entry.path, told)?;
                if data.was_short {
                    // Its time is the old one: the next copy notices.
                    self.left_out.add(&entry.path, "it became shorter while it was read");
                }
                self.sent.files += 1;
                self.sent.bytes = done.saturating_add(size);
            }
        }
        Ok(())
    }

    /// A file and its size now; `None` where there is none any more, or none that may be read.
    fn open(&mut self, entry: &Entry) -> io::Result<Option<(File, u64)>> {
        let file = match self.root.file(&entry.path) {
            Ok(file) => file,
            Err(error) => {
                if error.kind() != io::ErrorKind::NotFound {
                    self.left_out.add(&entry.path, &error.to_string());
                }
                return Ok(None);
            }
        };
        let meta = file.metadata()?;
        Ok(meta.is_file().then(|| (file, meta.size())))
    }
}

/// A file that gives just as many bytes as its header says.
struct Padded {
    file: File,
    left: u64,
    was_short: bool,
}

impl Read for Padded {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let most = usize::try_from(self.left).unwrap_or(usize::MAX).min(buffer.len());
        let Some(buffer) = buffer.get_mut(..most).filter(|buffer| !buffer.is_empty()) else { return Ok(0) };
        let mut count = match self.was_short {
            true => 0,
            false => self.file.read(buffer)?,
        };
        if count == 0 {
            self.was_short = true;
            buffer.fill(0);
            count = most;
        }
        self.left -= count as u64;
        Ok(count)
    }
}

/// Says how far it is.
struct Told<'a, R> {
    inner: R,
    done: u64,
    total: u64,
    progress: &'a (dyn Fn(u64, u64) + Sync),
}

impl<R: Read> Read for Told<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        const STEP: u64 = 1 << 20;
        let count = self.inner.read(buffer)?;
        let before = self.done / STEP;
        self.done = self.done.saturating_add(count as u64);
        if self.done / STEP != before && self.done < self.total {
            (self.progress)(self.done, self.total);
        }
        Ok(count)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OWNER: (u32, u32) = (1000, 1000);

    fn entry(path: &str, kind: Kind) -> Entry {
        Entry { path: path.into(), kind, mode: 0o644, mtime: 100 }
    }

    fn file(path: &str, size: u64) -> Entry {
        entry(path, Kind::File { size })
    }

    fn have(kind: u32, size: u64) -> Have {
        Have { mode: kind | 0o644, size, mtime: 100, owner: OWNER }
    }

    fn answer(entries: &[(&str, Have)]) -> Vec<u8> {
        let mut names = b".\0".to_vec();
        let mut lines = b"41ed 4096 100 0 0\n".to_vec();
        for (name, have) in entries {
            names.extend_from_slice(format!("./{name}\0").as_bytes());
            let Have { mode, size, mtime, owner } = have;
            lines.extend_from_slice(format!("{mode:x} {size} {mtime} {} {}\n", owner.0, owner.1).as_bytes());
        }
        [names, b"\0".to_vec(), lines].concat()
    }

    /// What is sent, removed, and removed of folders.
    fn todo(tree: Vec<Entry>, guest: &[(&str, Have)], delete: bool) -> [String; 3] {
        let tree = Tree { entries: tree, ..Tree::default() };
        let answer = answer(guest);
        let have = parse(&answer).unwrap();
        let excluded = Excluded::new(&["keep/".into(), "*.log".into()], &[]);
        let todo = compare(&tree, &have, &excluded, OWNER, delete);
        let text = |list: Vec<String>| list.join(" ");
        let names = |list: &[&[u8]]| {
            text(list.iter().map(|name| String::from_utf8_lossy(name).into_owned()).collect())
        };
        let send = text(todo.send.iter().map(|entry| entry.path.display().to_string()).collect());
        [send, names(&todo.remove), names(&todo.remove_folders)]
    }

    #[test]
    fn only_what_differs_is_sent() {
        let (reg, lnk) = (libc::S_IFREG, libc::S_IFLNK);
        let guest = [
            ("same", have(reg, 5)),
            ("size", have(reg, 6)),
            ("time", Have { mtime: 99, ..have(reg, 5) }),
            ("mode", Have { mode: reg | 0o600, ..have(reg, 5) }),
            ("owner", Have { owner: (0, 0), ..have(reg, 5) }),
            ("link", have(lnk, 3)),
            ("other-link", have(lnk, 4)),
        ];
        let mut tree: Vec<_> = ["same", "size", "time", "mode", "owner", "new"].map(|n| file(n, 5)).into();
        tree.push(entry("link", Kind::Link { target: "abc".into() }));
        tree.push(entry("other-link", Kind::Link { target: "abc".into() }));
        assert_eq!(todo(tree, &guest, true), ["size time mode owner new other-link", "", ""]);
    }

    #[test]
    fn what_the_host_does_not_have_goes_unless_it_is_left_out() {
        let (reg, dir) = (libc::S_IFREG, libc::S_IFDIR);
        let guest = [
            ("old", have(dir, 0)),
            ("old/a", have(reg, 1)),
            ("old/deep", have(dir, 0)),
            ("old/deep/b", have(reg, 1)),
            ("old/keep", have(dir, 0)),
            ("old/keep/c", have(reg, 1)),
            ("x.log", have(reg, 1)),
        ];
        assert_eq!(todo(vec![], &guest, true), ["", "old/a old/deep/b", "old/deep old"]);
        assert_eq!(todo(vec![], &guest, false), ["", "", ""]);
    }

    #[test]
    fn what_is_of_another_kind_gives_way() {
        let (reg, dir, lnk) = (libc::S_IFREG, libc::S_IFDIR, libc::S_IFLNK);
        let guest =
            [("f", have(dir, 0)), ("f/in", have(reg, 1)), ("d", have(lnk, 4)), ("other", have(reg, 1))];
        let tree = || vec![file("f", 1), entry("d", Kind::Folder), file("d/in", 1)];
        assert_eq!(todo(tree(), &guest, false), ["f d d/in", "d f/in", "f"]);
        assert_eq!(todo(tree(), &guest, true), ["f d d/in", "d f/in other", "f"]);
    }

    #[test]
    fn lists_that_do_not_fit_together_are_none() {
        let whole = answer(&[("a", have(libc::S_IFREG, 1))]);
        assert!(parse(&whole).is_some());
        for cut in 0..whole.len() - 1 {
            assert!(parse(&whole[..cut]).is_none(), "{cut}");
        }
        for text in [&b"a\0\0\x31 1 1 1 1\n"[..], b"./a\0\0zz 1 1 1 1\n", b"./a\0\0\x31 1 1 1\n", b""] {
            assert!(parse(text).is_none(), "{text:?}");
        }
        assert!(parse(&[whole, b"81a4 1 1 1 1\n".to_vec()].concat()).is_none(), "a line too many");
    }

    /// A guest that shares the folder swaps a folder and a link to the secrets of the host's user, while it is read and
    /// while it is sent.
    #[test]
    fn a_race_of_renames_sends_nothing_from_outside() {
        use crate::model::Cancel;
        use crate::vmm::virtio::fs::while_they_change_places;
        let dir = tempfile::tempdir().unwrap();
        let top = dir.path().canonicalize().unwrap();
        let (src, outside) = (top.join("src"), top.join("outside"));
        for (folder, text) in [(src.join("a"), "mine"), (outside.clone(), "theirs")] {
            std::fs::create_dir_all(&folder).unwrap();
            std::fs::write(folder.join("id_rsa"), text).unwrap();
        }
        std::fs::write(outside.join("other"), "theirs").unwrap();
        std::os::unix::fs::symlink("../outside", src.join("link")).unwrap();
        let root = Root::open(&src).unwrap();
        let excluded = Excluded::new(&[], &[]);
        let (mut folders, mut files) = (0, 0);
        while_they_change_places(&src.join("a"), &src.join("link"), || {
            for _ in 0..3_000 {
                let tree = tree::read(&root, &excluded, &[], &Cancel::new()).unwrap().unwrap();
                assert!(!tree.entries.iter().any(|entry| entry.path.ends_with("other")), "{tree:?}");
                folders += tree.entries.iter().filter(|entry| entry.path.ends_with("id_rsa")).count();
                // As if it had been found before.
                let found = [file("a/id_rsa", 4)];
                let (mut left_out, mut sent) = (LeftOut::default(), Sent::default());
                let packer = Packer {
                    root: &root,
                    owner: OWNER,
                    left_out: &mut left_out,
                    sent: &mut sent,
                    progress: &|_, _| (),
                    total: 4,
                };
                let mut archive = Vec::new();
                packer.pack(&found.each_ref(), &mut archive).unwrap();
                assert!(!archive.windows(6).any(|text| text == b"theirs"), "the race is won");
                files += sent.files;
            }
        });
        // Not for want of trying.
        assert!(folders > 0 && files > 0, "{folders} folders, {files} files");
    }

    #[test]
    fn a_file_that_becomes_shorter_still_fits_its_header() {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(b"abc").unwrap();
        io::Seek::rewind(&mut file).unwrap();
        let mut padded = Padded { file, left: 6, was_short: false };
        let mut data = Vec::new();
        padded.read_to_end(&mut data).unwrap();
        assert_eq!((data.as_slice(), padded.was_short), (&b"abc\0\0\0"[..], true));
    }
}
