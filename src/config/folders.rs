//! `[[folder]]`, and `folder = false`: folders of the host in a guest, copies of them, and folders in memory.

use std::ops::Range;
use std::path::{Component, Path, PathBuf};

use toml::de::DeValue;

use crate::model::{Absent, ExtraDisk, Folder, FolderKind, HostFolder, Owner, PROJECT_FOLDER, Problem};

use super::disks::{NEEDED, VIRTUAL};
use super::keys::Place;
use super::report::brief;
use super::steps::unusable;
use super::units::MIB;
use super::walk::{Reader, Sp, Table};

/// Folders of one machine.
const MOST_FOLDERS: usize = 32;
/// Devices of one machine have a limited number of places.
const MOST_SHARED: usize = 8;
/// Longest path in a guest, in bytes.
const LONGEST: usize = 1024;
/// Sizes of a folder in memory.
pub(super) const SIZE: (u64, u64) = (MIB, 1024 * 1024 * MIB);
/// What is not copied where the file does not say.
const EXCLUDE: &[&str] = &[".git/"];

/// The word of `type`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Type {
    Shared,
    Copied,
    Memory,
}

const TYPES: [(&str, Type); 3] =
    [("virtiofs", Type::Shared), ("rsync", Type::Copied), ("tmpfs", Type::Memory)];
/// The keys that only some types have.
const ONLY: &[(&str, &[Type])] = &[
    ("host", &[Type::Shared, Type::Copied]),
    ("create", &[Type::Shared, Type::Copied]),
    ("readonly", &[Type::Shared]),
    ("exclude", &[Type::Copied]),
    ("delete", &[Type::Copied]),
    ("watch", &[Type::Copied]),
    ("size", &[Type::Memory]),
    ("options", &[Type::Shared, Type::Memory]),
];

/// A `[[folder]]`.
#[derive(Debug, Clone)]
pub(super) struct Entry {
    /// Where it is in the guest.
    place: Sp<String>,
    /// `None`: none is to be there.
    folder: Option<Folder>,
    /// Why the host's cannot be used.
    problem: Option<Problem>,
}

/// What a table says of folders.
#[derive(Debug, Clone, Default)]
pub(super) struct Folders {
    /// `folder = false`, `folder = true`.
    pub switch: Option<bool>,
    /// The `[[folder]]`s.
    pub list: Vec<Entry>,
}

impl Reader<'_> {
    /// `folder = false`, or `[[folder]]`.
    pub fn folders(&mut self, table: &Table<'_>) -> Folders {
        let mut folders = Folders::default();
        match table.raw("folder").map(|value| value.get_ref()) {
            Some(DeValue::Array(_) | DeValue::Table(_)) => {}
            _ => {
                folders.switch = self.boolean(table, "folder");
                return folders;
            }
        }
        for table in self.tables(table, "folder", Place::Folder) {
            let Some(entry) = self.folder(&table) else { continue };
            let Entry { place, .. } = &entry;
            if let Some(first) = folders.list.iter().find(|first| first.place.value == place.value) {
                let line = self.problems.line_of(first.place.span.start);
                let message = format!("another folder is at {:?} already (line {line})", brief(&place.value));
                self.wrong(&place.span, message, "give each folder a `guest` of its own");
            }
            folders.list.push(entry);
        }
        folders
    }

    fn folder(&mut self, table: &Table<'_>) -> Option<Entry> {
        if table.raw("guest").is_none() {
            let help = "add `guest = \"/srv/app\"`";
            self.wrong(&table.span, "nothing says where in the guest this folder is to be", help);
        }
        if self.boolean(table, "disabled") == Some(true) {
            let place = self.guest_path(table, Type::Shared)?;
            return Some(Entry { place, folder: None, problem: None });
        }
        let kind = match table.raw("type") {
            Some(_) => self.choice(table, "type", &TYPES)?.value,
            None => Type::Shared,
        };
        let mut fine = true;
        for (key, types) in ONLY.iter().filter(|(_, types)| !types.contains(&kind)) {
            if let Some(span) = table.key_span(key) {
                let word = |kind: &Type| TYPES.iter().find(|(_, known)| known == kind).map_or("", |t| t.0);
                let those: Vec<String> = types.iter().map(|kind| format!("`{}`", word(kind))).collect();
                let message = format!("a folder of type `{}` has no `{key}`", word(&kind));
                self.wrong(&span, message, format!("it is for {}", those.join(" and ")));
                fine = false;
            }
        }
        let guest = self.guest_path(table, kind);
        let owner = match table.raw("owner") {
            Some(_) => Some(self.owner(table)?),
            None => None,
        };
        let options = self.mount_options(table);
        let mut problem = None;
        let kind = match kind {
            Type::Memory => Some(FolderKind::Memory { size: self.memory_size(table) }),
            Type::Shared => self.host_folder(table, &mut problem).map(|host| FolderKind::Shared {
                host,
                read_only: self.boolean(table, "readonly").unwrap_or(false),
                implied: false,
            }),
            Type::Copied => {
                let exclude = self.patterns(table);
                let delete = self.boolean(table, "delete").unwrap_or(true);
                let watch = self.boolean(table, "watch").unwrap_or(true);
                let host = self.host_folder(table, &mut problem);
                host.zip(exclude).map(|(host, exclude)| FolderKind::Copied { host, exclude, delete, watch })
            }
        };
        let (place, kind, options) = (guest?, kind?, options?);
        let folder = Folder { guest: place.value.clone(), kind, owner, options };
        fine.then_some(Entry { place, folder: Some(folder), problem })
    }

    fn memory_size(&mut self, table: &Table<'_>) -> Option<u64> {
        self.size(table, "size", None, SIZE).map(|size| size.value)
    }

    /// The path without a slash at its end.
    fn guest_path(&mut self, table: &Table<'_>, kind: Type) -> Option<Sp<String>> {
        let given = self.text(table, "guest", "\"/srv/app\"")?;
        let text = given.value.value.as_str();
        let path = text.trim_end_matches('/');
        let plain = |part: &str| !matches!(part, "" | "." | "..") && !part.chars().any(char::is_control);
        let is_path = text.starts_with('/') && path.len() <= LONGEST && path.split('/').skip(1).all(plain);
        // A home holds the keys by which rvm logs in.
        let is_home = Path::new(path).parent() == Some(Path::new("/home"));
        let needed = NEEDED.contains(&path) && !(kind == Type::Memory && matches!(path, "/tmp"));
        let is_virtual = VIRTUAL.iter().any(|place| Path::new(path).starts_with(place));
        let fault = match () {
            () if !path.is_empty() && !is_path => {
                Some(("is not a path of the guest", "write a path from `/` on, without `.` and `..`"))
            }
            () if path.is_empty() || needed || is_virtual => {
                Some(("holds what the machine needs itself", "choose another place, such as \"/srv/app\""))
            }
            () if is_home => {
                let help = "rvm logs in with keys that are in there; a folder in it is fine, such as \
                            \"/home/vagrant/app\"";
                Some(("is somebody's home", help))
            }
            () => None,
        };
        match fault {
            None => {
                let path = path.to_owned();
                Some(given.map(|_| path))
            }
            Some((fault, help)) => {
                self.wrong(&given.span, format!("{:?} {fault}", brief(&given.value.shown)), help);
                None
            }
        }
    }

    /// One that is not there, or is no folder, is nothing that is wrong with the file: `problem` says so to those
    /// who use it.
    fn host_folder(&mut self, table: &Table<'_>, problem: &mut Option<Problem>) -> Option<HostFolder> {
        if table.raw("host").is_none() {
            let help = "add `host = \".\"` for the folder of the Vagrantfile";
            self.wrong(&table.span, "nothing says which folder of this host this is", help);
            return None;
        }
        let create = self.boolean(table, "create").unwrap_or(false);
        let given = self.text(table, "host", "\"src\"")?;
        let path = self.named_path(&given, "folder")?;
        let shown = brief(&given.value.shown);
        let fault = match std::fs::metadata(&path) {
            Ok(meta) if meta.is_dir() => None,
            Ok(_) => Some((format!("{shown:?} is not a folder"), "name the folder that it is in".to_owned())),
            Err(error) if create && error.kind() == std::io::ErrorKind::NotFound => None,
            Err(error) => {
                let (message, mut help) = unusable(&given, "folder", &path, &error);
                if error.kind() == std::io::ErrorKind::NotFound {
                    help.push_str("; `create = true` makes it");
                }
                Some((message, help))
            }
        };
        *problem = fault.and_then(|(message, help)| self.problems.problem(&given.span, message, help));
        let path = real(&path);
        if path.parent().is_none() {
            self.wrong(&given.span, format!("{shown:?} is all of this host"), "name a folder in it");
            return None;
        }
        Some(self.of_host(path, create))
    }

    /// A folder of the host, with what is to be kept from the guest.
    fn of_host(&self, path: PathBuf, create: bool) -> HostFolder {
        let default = self.root.join(super::load::DEFAULT_ENV_FILE);
        let files = std::iter::once(&default).chain(&self.vars.file().paths);
        // Where one is a link, its target is no more to be seen than it is. It is the same for all machines.
        let names = self.env_names.get_or_init(|| files.flat_map(|file| [tidy(file), real(file)]).collect());
        let inside = |file: &PathBuf| file.strip_prefix(&path).ok().map(Path::to_owned);
        let mut hidden: Vec<PathBuf> = names.iter().filter_map(inside).collect();
        hidden.sort();
        hidden.dedup();
        HostFolder { path, create, hidden }
    }

    /// Patterns as `rsync --exclude` takes them.
    fn patterns(&mut self, table: &Table<'_>) -> Option<Vec<String>> {
        if table.raw("exclude").is_none() {
            return Some(EXCLUDE.iter().map(|&pattern| pattern.to_owned()).collect());
        }
        let mut patterns = Vec::new();
        let given = self.texts(table, "exclude", "[\"target/\", \"*.o\"]")?;
        let count = given.len();
        for pattern in given {
            let text = pattern.value.value.as_str();
            let fault = match text {
                _ if text.trim_matches('/').is_empty() => Some("fits everything or nothing"),
                "!" => Some("is a rule of rsync, not a pattern"),
                _ if text.starts_with("+ ") || text.starts_with("- ") => {
                    Some("is a rule of rsync, not a pattern")
                }
                _ if text.len() > LONGEST || text.chars().any(char::is_control) => {
                    Some("cannot be a pattern of names")
                }
                _ => None,
            };
            match fault {
                None => patterns.push(text.to_owned()),
                Some(fault) => {
                    let help = "write one such as \"target/\", \"*.o\" or \"/build\" (only at the top)";
                    let message = format!("{:?} {fault}", brief(&pattern.value.shown));
                    self.wrong(&pattern.span, message, help);
                }
            }
        }
        (patterns.len() == count).then_some(patterns)
    }

    fn owner(&mut self, table: &Table<'_>) -> Option<Owner> {
        let given = self.text(table, "owner", "\"www-data\"")?;
        let text = given.value.value.as_str();
        let (user, group) = match text.split_once(':') {
            Some((user, group)) => (user, Some(group)),
            None => (text, None),
        };
        if is_account(user) && group.is_none_or(is_account) {
            let owner = Owner { user: user.to_owned(), group: group.map(str::to_owned) };
            return Some(owner);
        }
        let help = "write a user of the guest, or user and group, such as \"www-data\" or \"1000:1000\"";
        let message = format!("`owner` cannot be {:?}", brief(&given.value.shown));
        self.wrong(&given.span, message, help);
        None
    }

    fn mount_options(&mut self, table: &Table<'_>) -> Option<Vec<String>> {
        if table.raw("options").is_none() {
            return Some(Vec::new());
        }
        let given = self.texts(table, "options", "[\"noatime\"]")?;
        let mut options = Vec::new();
        for option in &given {
            let text = option.value.value.as_str();
            let plain = |c: char| c.is_ascii_alphanumeric() || "._:=+-".contains(c);
            if !text.is_empty() && text.len() <= 64 && text.chars().all(plain) {
                options.push(text.to_owned());
            } else {
                let message = format!("{:?} is not an option of `mount`", brief(&option.value.shown));
                self.wrong(&option.span, message, "write one word each, such as \"noexec\"");
            }
        }
        (options.len() == given.len()).then_some(options)
    }

    /// All folders of a machine, and which of them the host does not have: those of inner layers take the place
    /// of outer ones that are at the same place, and the project folder is among them unless somebody says no.
    pub fn merge_folders<'l>(
        &mut self,
        machine: &str,
        layers: impl Iterator<Item = &'l Folders>,
        disks: &[ExtraDisk],
        header: Option<&Range<usize>>,
    ) -> (Vec<Folder>, Vec<Absent>) {
        let mut found: Vec<Entry> = Vec::new();
        let mut implied = true;
        for layer in layers {
            if let Some(switch) = layer.switch {
                implied = switch;
                if !switch {
                    found.clear();
                }
            }
            for entry in &layer.list {
                found.retain(|other| other.place.value != entry.place.value);
                found.push(entry.clone());
            }
        }
        for Entry { place, .. } in &found {
            implied &= place.value != PROJECT_FOLDER;
            let disk = disks.iter().find(|disk| disk.mount.as_ref() == Some(&place.value));
            if let Some(disk) = disk {
                let message =
                    format!("disk `{}` of machine `{}` is mounted there", disk.name, brief(machine));
                self.wrong(&place.span, message, "give each a place of its own");
            }
        }
        implied &= disks.iter().all(|disk| disk.mount.as_deref() != Some(PROJECT_FOLDER));
        let last = found.last().map(|entry| entry.place.span.clone());
        let (mut folders, mut absent) = (Vec::new(), Vec::new());
        for Entry { folder, problem, .. } in found {
            let Some(folder) = folder else { continue };
            if let Some(problem) = problem {
                absent.push(Absent { guest: folder.guest.clone(), copied: folder.is_copied(), problem });
            }
            folders.push(folder);
        }
        if implied && self.root.parent().is_some() {
            let host = self.of_host(self.root.clone(), false);
            let kind = FolderKind::Shared { host, read_only: false, implied: true };
            folders.push(Folder { guest: PROJECT_FOLDER.into(), kind, owner: None, options: Vec::new() });
        }
        let shared = folders.iter().filter(|folder| folder.is_shared()).count();
        if let Some(span) = last.as_ref().or(header)
            && (shared > MOST_SHARED || folders.len() > MOST_FOLDERS)
        {
            let message = format!(
                "machine `{}` has {} folders, {shared} of them of type `virtiofs`",
                brief(machine),
                folders.len()
            );
            let help = format!("at most {MOST_FOLDERS} are accepted, {MOST_SHARED} of type `virtiofs`");
            self.wrong(span, message, help);
        }
        // A place comes before those in it.
        folders.sort_by(|a, b| a.guest.cmp(&b.guest));
        (folders, absent)
    }
}

/// Without links, as far as it is there.
fn real(path: &Path) -> PathBuf {
    std::fs::canonicalize(path).unwrap_or_else(|_| tidy(path))
}

/// Without `.` and `..`, which are taken at their word: no link is followed.
fn tidy(path: &Path) -> PathBuf {
    let mut tidy = PathBuf::new();
    for part in path.components() {
        match part {
            Component::CurDir => {}
            Component::ParentDir => {
                tidy.pop();
            }
            part => tidy.push(part),
        }
    }
    tidy
}

/// The name of a user or group, or its number.
fn is_account(name: &str) -> bool {
    (1..=32).contains(&name.len())
        && name.starts_with(|c: char| c.is_ascii_alphanumeric() || c == '_')
        && name.chars().all(|c| c.is_ascii_alphanumeric() || "._-".contains(c))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_without_detours() {
        assert_eq!(tidy(Path::new("/p/./a/../b")), Path::new("/p/b"));
        assert_eq!(tidy(Path::new("/../..")), Path::new("/"));
    }

    #[test]
    fn accounts() {
        assert!(["www-data", "1000", "_apt", "a.b"].into_iter().all(is_account));
        assert!(!["", "-R", "a b", "a:b", "é", "$(x)"].into_iter().any(is_account));
    }
}
