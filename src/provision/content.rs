//! What a step carries: read once, so that what is stamped is what ran.

use std::fs::{self, File, Metadata};
use std::io::{self, Read};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use super::docker::{self, Archive};
use super::stamps::Hash;
use super::{Digest, ProvisionError, Stamps};
use crate::model::{Exclude, FileCopy, Script, Step, StepKind};

/// Largest script in bytes; it is held in memory. Larger things are uploaded by a `file` step.
const MAX_SCRIPT: u64 = 16 << 20;

/// Deepest folder below an uploaded one.
const MAX_DEPTH: usize = 64;

/// What a step carries.
#[derive(Debug)]
pub(super) enum Content {
    /// A script.
    Script(Vec<u8>),
    /// Nothing: what the step says is all.
    Nothing,
    /// A file.
    File {
        /// Permission bits.
        mode: u32,
    },
    /// Archives of images.
    Archives(Vec<Archive>),
    /// A folder's entries, each folder before what is in it.
    Folder(Vec<Entry>),
}

/// Something in an uploaded folder.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Entry {
    /// Below the folder.
    pub path: PathBuf,
    /// Permission bits.
    pub mode: u32,
    pub kind: EntryKind,
}

/// What an entry is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum EntryKind {
    Folder,
    File,
    /// A symbolic link and where it leads.
    Link(PathBuf),
    /// A socket, pipe or device: it cannot be uploaded.
    Other,
}

/// Reads a step's content and makes its digest.
pub(super) fn load(step: &Step, stamps: &Stamps) -> Result<(Content, Digest), ProvisionError> {
    let path = source_of(step);
    let fail = |source| ProvisionError::Source { step: step.name.clone(), path, source };
    let read = || {
        let content = read(&step.kind)?;
        let mut result = Ok(());
        let digest = stamps.digest(|hash| result = fill(step, &content, hash));
        result.map(|()| (content, digest))
    };
    read().map_err(fail)
}

/// Reads a step's content, where no digest is needed.
pub(super) fn read_for(step: &Step) -> Result<Content, ProvisionError> {
    let path = source_of(step);
    read(&step.kind).map_err(|source| ProvisionError::Source { step: step.name.clone(), path, source })
}

fn source_of(step: &Step) -> PathBuf {
    match &step.kind {
        StepKind::Shell { script: Script::Path(path), .. } => path.clone(),
        StepKind::File(copy) => copy.source.clone(),
        StepKind::Docker(docker) => docker.archives.first().cloned().unwrap_or_default(),
        StepKind::Ansible(ansible) => ansible.playbook.clone(),
        _ => PathBuf::new(),
    }
}

fn read(kind: &StepKind) -> io::Result<Content> {
    match kind {
        StepKind::Shell { script: Script::Inline(text), .. } => {
            Ok(Content::Script(text.clone().into_bytes()))
        }
        StepKind::Shell { script: Script::Path(path), .. } => {
            let (file, meta) = open(path)?;
            let mut data = Vec::new();
            if meta.len() <= MAX_SCRIPT {
                file.take(MAX_SCRIPT + 1).read_to_end(&mut data)?;
            }
            if meta.len() > MAX_SCRIPT || data.len() as u64 > MAX_SCRIPT {
                return Err(io::Error::new(io::ErrorKind::FileTooLarge, "a script has at most 16 MiB"));
            }
            Ok(Content::Script(data))
        }
        StepKind::Packages { .. } | StepKind::Reboot => Ok(Content::Nothing),
        StepKind::Ansible(ansible) => {
            let (file, meta) = open(&ansible.playbook)?;
            let mut data = Vec::new();
            file.take(MAX_SCRIPT + 1).read_to_end(&mut data)?;
            match meta.len() <= MAX_SCRIPT && data.len() as u64 <= MAX_SCRIPT {
                true => Ok(Content::Script(data)),
                false => Err(io::Error::new(io::ErrorKind::FileTooLarge, "a playbook has at most 16 MiB")),
            }
        }
        StepKind::File(copy) => files(copy),
        StepKind::Docker(docker) => {
            let named = |path: &PathBuf| {
                let at =
                    |error: io::Error| io::Error::new(error.kind(), format!("{}: {error}", path.display()));
                docker::read(path).map_err(at)
            };
            docker.archives.iter().map(named).collect::<io::Result<_>>().map(Content::Archives)
        }
    }
}

fn files(copy: &FileCopy) -> io::Result<Content> {
    let source = &copy.source;
    if !fs::metadata(source)?.is_dir() {
        let (_, meta) = open(source)?;
        return Ok(Content::File { mode: copy.mode.unwrap_or(mode(&meta)) });
    }
    let mut entries = Vec::new();
    list(source, Path::new(""), 0, &copy.exclude, &mut entries)?;
    if let Some(mode) = copy.mode {
        for entry in &mut entries {
            entry.mode = if entry.kind == EntryKind::Folder { folder_mode(mode) } else { mode };
        }
    }
    Ok(Content::Folder(entries))
}

/// What a folder gets for the `mode` of files: who may read it may enter it.
pub(super) fn folder_mode(mode: u32) -> u32 {
    mode | (mode & 0o444) >> 2
}

/// Opens a regular file; opening a pipe would wait for its other end.
pub(super) fn open(path: &Path) -> io::Result<(File, Metadata)> {
    if !fs::metadata(path)?.is_file() {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "it is neither a file nor a folder"));
    }
    let file = File::open(path)?;
    let meta = file.metadata()?;
    Ok((file, meta))
}

fn mode(meta: &Metadata) -> u32 {
    meta.permissions().mode() & 0o7777
}

fn list(
    root: &Path,
    below: &Path,
    depth: usize,
    exclude: &Exclude,
    entries: &mut Vec<Entry>,
) -> io::Result<()> {
    if depth > MAX_DEPTH {
        return Err(io::Error::other(format!("folders are nested deeper than {MAX_DEPTH}")));
    }
    let at =
        |error: io::Error, path: &Path| io::Error::new(error.kind(), format!("{}: {error}", path.display()));
    let folder = root.join(below);
    let names = fs::read_dir(&folder)
        .and_then(|all| all.map(|e| e.map(|e| e.file_name())).collect::<io::Result<Vec<_>>>());
    let mut names = names.map_err(|e| at(e, below))?;
    // The order of a folder is accidental; the digest must not be.
    names.sort();
    for name in names {
        let path = below.join(&name);
        let full = root.join(&path);
        let meta = fs::symlink_metadata(&full).map_err(|e| at(e, &path))?;
        let kind = match meta.file_type() {
            kind if kind.is_dir() => EntryKind::Folder,
            kind if kind.is_file() => EntryKind::File,
            kind if kind.is_symlink() => EntryKind::Link(fs::read_link(&full).map_err(|e| at(e, &path))?),
            _ => EntryKind::Other,
        };
        let descend = kind == EntryKind::Folder;
        if exclude.covers(&path, descend) {
            continue;
        }
        entries.push(Entry { path: path.clone(), mode: mode(&meta), kind });
        if descend {
            list(root, &path, depth + 1, exclude, entries)?;
        }
    }
    Ok(())
}

fn fill(step: &Step, content: &Content, hash: &mut Hash) -> io::Result<()> {
    hash.field(b"rvm provision step, version 1");
    hash.field(step.kind.type_name().as_bytes());
    let mut env: Vec<_> = step.env.iter().collect();
    env.sort_by(|a, b| a.0.cmp(&b.0));
    hash.number(env.len() as u64);
    for (name, value) in env {
        hash.field(name.as_bytes());
        hash.field(value.expose().as_bytes());
    }
    let list = |hash: &mut Hash, words: &[String]| {
        hash.number(words.len() as u64);
        words.iter().for_each(|word| hash.field(word.as_bytes()));
    };
    match &step.kind {
        StepKind::Shell { args, privileged, .. } => {
            list(hash, args);
            hash.number(u64::from(*privileged));
        }
        StepKind::Packages { names } => list(hash, names),
        StepKind::Reboot => {}
        StepKind::Ansible(ansible) => {
            list(hash, &ansible.args);
            list(hash, &ansible.tags);
            list(hash, &ansible.skip_tags);
            list(hash, ansible.limit.as_slice());
            hash.number(u64::from(ansible.become_root));
            hash.field(ansible.extra_vars.expose().as_bytes());
        }
        StepKind::Docker(docker) => {
            list(hash, &docker.images);
            list(hash, &docker.containers.iter().map(docker::digest).collect::<Vec<_>>());
            hash.number(u64::from(docker.remove));
        }
        StepKind::File(copy) => {
            hash.field(copy.destination.as_bytes());
            // A file may land in an existing folder, under its own name.
            hash.field(copy.source.file_name().unwrap_or_default().as_bytes());
            // Modes and what is left out show in the content.
            for (name, word) in [("owner", &copy.owner), ("group", &copy.group)] {
                if let Some(word) = word {
                    hash.field(name.as_bytes());
                    hash.field(word.as_bytes());
                }
            }
        }
    }
    match (content, &step.kind) {
        (Content::Script(data), _) => hash.field(data),
        (Content::Archives(archives), _) => archives.iter().for_each(|a| hash.field(a.digest.as_bytes())),
        (Content::File { mode }, StepKind::File(copy)) => {
            hash.number(u64::from(*mode));
            file(&copy.source, hash)?;
        }
        (Content::Folder(entries), StepKind::File(copy)) => {
            for entry in entries {
                fill_entry(&copy.source, entry, hash)?;
            }
        }
        _ => {}
    }
    Ok(())
}

fn fill_entry(root: &Path, entry: &Entry, hash: &mut Hash) -> io::Result<()> {
    hash.field(entry.path.as_os_str().as_bytes());
    hash.number(u64::from(entry.mode));
    match &entry.kind {
        EntryKind::Folder => hash.number(1),
        EntryKind::File => {
            hash.number(2);
            file(&root.join(&entry.path), hash)?;
        }
        EntryKind::Link(target) => {
            hash.number(3);
            hash.field(target.as_os_str().as_bytes());
        }
        EntryKind::Other => hash.number(4),
    }
    Ok(())
}

fn file(path: &Path, hash: &mut Hash) -> io::Result<()> {
    let (file, meta) = open(path)?;
    hash.begin_field(meta.len());
    let mut reader = file.take(meta.len());
    let mut buffer = vec![0; 64 << 10];
    loop {
        match reader.read(&mut buffer)? {
            0 => return Ok(()),
            count => hash.raw(buffer.get(..count).unwrap_or_default()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Secret;

    fn step(kind: StepKind, env: &[(&str, &str)]) -> Step {
        let env = env.iter().map(|(n, v)| ((*n).to_owned(), Secret::new(*v))).collect();
        Step { env, ..Step::new("s", kind) }
    }

    fn shell(script: Script, args: &[&str], privileged: bool) -> StepKind {
        StepKind::Shell { script, args: args.iter().map(|a| (*a).to_owned()).collect(), privileged }
    }

    #[test]
    fn everything_that_matters_changes_the_digest() {
        let dir = tempfile::tempdir().unwrap();
        let stamps = Stamps::load(dir.path()).unwrap();
        let digest = |step: Step| load(&step, &stamps).unwrap().1;
        let inline = |text: &str| Script::Inline(text.into());
        let packages =
            |names: &[&str]| StepKind::Packages { names: names.iter().map(|n| (*n).to_owned()).collect() };
        let digests = [
            digest(step(shell(inline("a"), &[], true), &[])),
            digest(step(shell(inline("b"), &[], true), &[])),
            digest(step(shell(inline("a"), &["x"], true), &[])),
            digest(step(shell(inline("a"), &[], false), &[])),
            digest(step(shell(inline("a"), &[], true), &[("A", "1")])),
            digest(step(shell(inline("a"), &[], true), &[("A", "2")])),
            digest(step(packages(&["a", "b"]), &[])),
            digest(step(packages(&["ab"]), &[])),
        ];
        for (i, one) in digests.iter().enumerate() {
            assert!(digests.iter().skip(i + 1).all(|other| other != one), "{i}");
        }
        let script = dir.path().join("a.sh");
        fs::write(&script, "a").unwrap();
        // Where the script is kept, and the order of names, do not matter.
        assert_eq!(digest(step(shell(Script::Path(script), &[], true), &[])), digests[0]);
        assert_eq!(
            digest(step(shell(inline("a"), &[], true), &[("A", "1"), ("B", "2")])),
            digest(step(shell(inline("a"), &[], true), &[("B", "2"), ("A", "1")]))
        );
    }

    #[test]
    fn files_and_folders_are_digested_by_content_mode_and_links() {
        let dir = tempfile::tempdir().unwrap();
        let stamps = Stamps::load(dir.path()).unwrap();
        let source = dir.path().join("tree");
        fs::create_dir_all(source.join("sub")).unwrap();
        fs::write(source.join("sub/a"), "1").unwrap();
        std::os::unix::fs::symlink("/nowhere", source.join("link")).unwrap();
        let kind = |source: PathBuf| StepKind::File(Box::new(FileCopy::new(source, "d")));
        let digest = || load(&step(kind(source.clone()), &[]), &stamps).unwrap().1;
        let mut seen = vec![digest()];
        assert_eq!(digest(), seen[0]);
        let changes: [&dyn Fn(); 4] = [
            &|| fs::write(source.join("sub/a"), "2").unwrap(),
            &|| fs::set_permissions(source.join("sub/a"), fs::Permissions::from_mode(0o755)).unwrap(),
            &|| fs::create_dir(source.join("empty")).unwrap(),
            &|| {
                fs::remove_file(source.join("link")).unwrap();
                std::os::unix::fs::symlink("/elsewhere", source.join("link")).unwrap();
            },
        ];
        for change in changes {
            change();
            let now = digest();
            assert!(!seen.contains(&now));
            seen.push(now);
        }
        let copy = |set: fn(&mut FileCopy)| {
            let mut copy = FileCopy::new(source.clone(), "d");
            set(&mut copy);
            load(&step(StepKind::File(Box::new(copy)), &[]), &stamps).unwrap().1
        };
        let now = digest();
        assert_eq!(copy(|_| ()), now);
        assert_ne!(copy(|copy| copy.owner = Some("www-data".into())), now);
        assert_ne!(copy(|copy| copy.group = Some("www-data".into())), now);
        assert_ne!(copy(|copy| copy.mode = Some(0o640)), now);
        // What is left out is as if it were not there.
        let without = copy(|copy| copy.exclude = Exclude::new(["sub/"]).unwrap());
        assert_ne!(without, now);
        fs::write(source.join("sub/b"), "1").unwrap();
        assert_eq!(copy(|copy| copy.exclude = Exclude::new(["sub/"]).unwrap()), without);
        assert_eq!(folder_mode(0o640), 0o750);
        let file = || load(&step(kind(source.join("sub/a")), &[]), &stamps).unwrap().1;
        let before = file();
        fs::write(source.join("sub/a"), "3").unwrap();
        assert_ne!(file(), before);
    }

    #[test]
    fn what_cannot_be_read_is_an_error_that_names_step_and_path() {
        let dir = tempfile::tempdir().unwrap();
        let stamps = Stamps::load(dir.path()).unwrap();
        let missing = dir.path().join("missing.sh");
        let big = dir.path().join("big");
        File::create(&big).unwrap().set_len(MAX_SCRIPT + 1).unwrap();
        let scripts = [missing.clone(), big, "/dev/zero".into(), dir.path().to_owned()];
        let steps = scripts.into_iter().map(|path| shell(Script::Path(path), &[], true));
        let files = [missing, "/dev/null".into()];
        let steps = steps.chain(files.map(|source| StepKind::File(Box::new(FileCopy::new(source, "d")))));
        for kind in steps {
            let error = load(&step(kind, &[]), &stamps).unwrap_err();
            assert!(matches!(error, ProvisionError::Source { .. }), "{error:?}");
        }
    }
}
