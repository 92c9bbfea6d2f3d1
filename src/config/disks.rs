//! `disk` as a size, and as `[[disk]]`: the root disk and those beside it.

use std::collections::HashMap;
use std::ops::Range;
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};

use toml::de::DeValue;

use crate::model::{DiskSource, ExtraDisk, ImageFormat, Volume};

use super::keys::Place;
use super::report::brief;
use super::units::MIB;
use super::walk::{Reader, Sp, Table};

/// The entry that sets the size of the root disk.
const ROOT: &str = "root";
/// The disk that tells a machine who it is.
const SEED: &str = "seed";
/// Longest name: an ext4 label; a disk's serial takes 20 bytes.
pub(super) const LONGEST_NAME: usize = 16;
/// Disks beside the root disk; a machine has a limited number of places for devices.
const MOST_DISKS: usize = 6;
pub(super) const ROOT_SIZE: (u64, u64) = (MIB, 64 * 1024 * 1024 * MIB);
/// A file system with a journal needs some room.
pub(super) const SIZE: (u64, u64) = (16 * MIB, 64 * 1024 * 1024 * MIB);
/// Places that a machine cannot do without.
pub(super) const NEEDED: &[&str] = &[
    "/", "/bin", "/boot", "/etc", "/home", "/lib", "/lib32", "/lib64", "/root", "/sbin", "/tmp", "/usr",
    "/var",
];
/// Places below which nothing is kept.
pub(super) const VIRTUAL: &[&str] = &["/dev", "/proc", "/run", "/sys"];
const FORMATS: [(&str, ImageFormat); 2] = [("raw", ImageFormat::Raw), ("qcow2", ImageFormat::Qcow2)];
pub(super) const FILESYSTEMS: [(&str, bool); 2] = [("ext4", true), ("none", false)];

/// Images and volumes of the project: who has each, where that is said, and whether it is only read.
pub(super) type ImageOwners = HashMap<PathBuf, (String, usize, bool)>;

/// What a table says of disks.
#[derive(Debug, Clone, Default)]
pub(super) struct Disks {
    /// Size of the root disk.
    pub root: Option<u64>,
    /// Those beside it.
    pub extra: Vec<Sp<ExtraDisk>>,
}

impl Reader<'_> {
    /// `disk = "20GiB"`, or `[[disk]]`.
    pub fn disks(&mut self, table: &Table<'_>) -> Disks {
        let mut disks = Disks::default();
        match table.raw("disk").map(|value| value.get_ref()) {
            Some(DeValue::Array(_) | DeValue::Table(_)) => {}
            _ => {
                disks.root = self.size(table, "disk", None, ROOT_SIZE).map(|size| size.value);
                return disks;
            }
        }
        let mut root = None;
        for disk in self.tables(table, "disk", Place::Disk) {
            let Some(name) = self.disk_name(&disk) else { continue };
            if name.value != ROOT {
                disks.extra.extend(self.extra_disk(&disk, name));
            } else if let Some(first) = root.replace(name.span.start) {
                self.name_is_taken(&name, first);
            } else {
                disks.root = self.root_disk(&disk);
            }
        }
        disks
    }

    /// What it says, or the name of its volume.
    fn disk_name(&mut self, disk: &Table<'_>) -> Option<Sp<String>> {
        let key = if disk.raw("name").is_none() && disk.raw("volume").is_some() { "volume" } else { "name" };
        if disk.raw(key).is_none() {
            self.wrong(&disk.span, "this disk has no `name`", "add `name = \"data\"`");
            return None;
        }
        let name = self.text(disk, key, "\"data\"")?;
        let text = name.value.value.as_str();
        if text.len() > LONGEST_NAME || !super::machines::is_label(text) {
            let message = format!("a disk cannot be called {:?}", brief(&name.value.shown));
            let help = "use a to z, 0 to 9 and `-`, beginning and ending with a letter or digit, at most 16";
            self.wrong(&name.span, message, help);
            return None;
        }
        if text == SEED {
            self.wrong(&name.span, "every machine has a disk `seed` already", "choose another name");
            return None;
        }
        Some(name.map(|text| text.value))
    }

    fn root_disk(&mut self, disk: &Table<'_>) -> Option<u64> {
        for key in Place::Disk.keys().filter(|key| !matches!(*key, "name" | "size")) {
            if let Some(span) = disk.key_span(key) {
                let message = format!("the root disk takes no `{key}`");
                self.wrong(&span, message, "it is made from the box; only its `size` can be said");
            }
        }
        if disk.raw("size").is_none() {
            self.wrong(&disk.span, "this says nothing of the root disk", "add `size = \"20GiB\"`");
        }
        self.size(disk, "size", None, ROOT_SIZE).map(|size| size.value)
    }

    fn extra_disk(&mut self, disk: &Table<'_>, name: Sp<String>) -> Option<Sp<ExtraDisk>> {
        let read_only = match disk.raw("read_only") {
            Some(_) => self.boolean(disk, "read_only"),
            None => Some(false),
        };
        let source = match (disk.raw("volume"), disk.raw("image")) {
            (Some(_), _) => self.of_volume(disk),
            (None, Some(_)) => self.existing_image(disk),
            (None, None) => self.new_disk(disk),
        };
        let mount = match disk.raw("mount") {
            Some(_) => Some(self.mount_point(disk)?),
            None => None,
        };
        let bare = match &source {
            Some(DiskSource::New { filesystem, .. } | DiskSource::Volume(Volume { filesystem, .. })) => {
                !filesystem
            }
            _ => false,
        };
        if let (true, Some(span)) = (bare, disk.key_span("mount")) {
            let help = "remove `mount`, or `filesystem = \"none\"`";
            self.wrong(&span, "a disk without a file system cannot be mounted", help);
            return None;
        }
        Some(name).and_then(|Sp { value: name, span }| {
            let value = ExtraDisk { name, source: source?, mount, read_only: read_only? };
            Some(Sp { value, span })
        })
    }

    /// Notes a key that has no meaning on this disk.
    fn not_here(&mut self, disk: &Table<'_>, key: &str, why: &str, help: &str) -> bool {
        let span = disk.key_span(key);
        if let Some(span) = &span {
            self.wrong(span, format!("`{key}` {why}"), help);
        }
        span.is_none()
    }

    fn of_volume(&mut self, disk: &Table<'_>) -> Option<DiskSource> {
        let mut fine = true;
        for key in ["size", "filesystem"] {
            let why = "is said where the volume is declared";
            fine &= self.not_here(disk, key, why, "move it to the `[[volume]]` at the top of the file");
        }
        for key in ["image", "format"] {
            let why = "is that of an image, and this disk is a `volume`";
            fine &= self.not_here(disk, key, why, &format!("remove `{key}`, or `volume`"));
        }
        let volume = self.volume_of(disk)?;
        fine.then_some(DiskSource::Volume(volume))
    }

    fn existing_image(&mut self, disk: &Table<'_>) -> Option<DiskSource> {
        let why = "is that of a new disk, and this one is an `image`";
        let mut fine = self.not_here(disk, "size", why, "remove `size`, or `image`");
        fine &= self.not_here(disk, "filesystem", why, "remove `filesystem`, or `image`");
        let given = self.text(disk, "image", "\"images/data.qcow2\"")?;
        let path = self.host_path(&given, "image");
        if disk.raw("format").is_none() {
            let help = "add `format = \"raw\"` or `format = \"qcow2\"`; it is never guessed, because a guest \
                        could write a header of its own";
            self.wrong(&given.span, "nothing says which format this image has", help);
        }
        let format = self.choice(disk, "format", &FORMATS);
        let path = path?;
        let kind = std::fs::metadata(&path).ok()?.file_type();
        if !kind.is_file() && !kind.is_block_device() {
            let message = format!("the image {:?} is not a file", brief(&given.value.shown));
            self.wrong(&given.span, message, "name a disk image, or a block device");
            return None;
        }
        let format = format?.value;
        fine.then_some(DiskSource::Image { path, format })
    }

    fn new_disk(&mut self, disk: &Table<'_>) -> Option<DiskSource> {
        let mut fine = self.not_here(
            disk,
            "format",
            "is that of an existing `image`",
            "add `image`, or remove `format`; what the guest finds on a new disk is its `filesystem`",
        );
        if let Some(span) = disk.key_span("read_only")
            && self.boolean(disk, "read_only") == Some(true)
        {
            fine = false;
            self.wrong(
                &span,
                "a new disk that is read-only stays empty",
                "add `image`, or remove `read_only`",
            );
        }
        if disk.raw("size").is_none() {
            let help = "add `size = \"10GiB\"` for a new one, `image` for one that exists, or `volume`";
            self.wrong(&disk.span, "this disk has neither `size` nor `image` nor `volume`", help);
        }
        let size = self.size(disk, "size", None, SIZE)?.value;
        let filesystem = match disk.raw("filesystem") {
            Some(_) => self.choice(disk, "filesystem", &FILESYSTEMS)?.value,
            None => true,
        };
        fine.then_some(DiskSource::New { size, filesystem })
    }

    fn mount_point(&mut self, disk: &Table<'_>) -> Option<String> {
        let given = self.text(disk, "mount", "\"/srv/data\"")?;
        let text = given.value.value.as_str();
        let path = text.strip_suffix('/').filter(|rest| !rest.is_empty()).unwrap_or(text);
        let parts = || path.split('/').skip(1);
        let plain = |part: &str| {
            !matches!(part, "" | "." | "..")
                && part.chars().all(|c| c.is_ascii_alphanumeric() || "._-+@".contains(c))
        };
        let virtual_one = VIRTUAL.iter().any(|place| Path::new(path).starts_with(place));
        let fault = if path != "/" && !(path.len() <= 255 && path.starts_with('/') && parts().all(plain)) {
            Some((
                "is not a mount point",
                "write a path from `/` on, of letters, digits and `.`, `_`, `-`, `+`, `@`",
            ))
        } else if NEEDED.contains(&path) || virtual_one {
            Some(("holds what the machine needs itself", "choose another place, such as \"/srv/data\""))
        } else {
            None
        };
        match fault {
            None => Some(path.to_owned()),
            Some((fault, help)) => {
                self.wrong(&given.span, format!("{:?} {fault}", brief(&given.value.shown)), help);
                None
            }
        }
    }

    fn name_is_taken(&mut self, name: &Sp<String>, first: usize) {
        let line = self.problems.line_of(first);
        let message = format!("a disk called {:?} is already on line {line}", brief(&name.value));
        self.wrong(&name.span, message, "give each disk of a machine a name of its own");
    }

    /// All disks of a machine, checked against each other and those of other machines.
    pub fn merge_disks<'d>(
        &mut self,
        machine: &str,
        all: impl Iterator<Item = &'d Sp<ExtraDisk>>,
        owners: &mut ImageOwners,
    ) -> Vec<ExtraDisk> {
        let mut names: HashMap<&str, usize> = HashMap::new();
        let mut mounts: HashMap<&str, usize> = HashMap::new();
        let mut disks = Vec::new();
        for Sp { value: disk, span } in all {
            if let Some(first) = names.insert(&disk.name, span.start) {
                self.name_is_taken(&Sp { value: disk.name.clone(), span: span.clone() }, first);
            }
            if let Some(mount) = &disk.mount
                && let Some(first) = mounts.insert(mount, span.start)
            {
                let line = self.problems.line_of(first);
                let message = format!("another disk is mounted at {mount:?} already (line {line})");
                self.wrong(span, message, "give each disk a `mount` of its own");
            }
            self.claim_image(disk, machine, span, owners);
            if disks.len() == MOST_DISKS {
                let message = format!("machine `{}` has more than {MOST_DISKS} disks", brief(machine));
                self.wrong(span, message, "a machine has no room for more: join some of them");
                break;
            }
            disks.push(disk.clone());
        }
        disks
    }

    /// An image that somebody writes is nobody else's.
    fn claim_image(
        &mut self,
        disk: &ExtraDisk,
        machine: &str,
        span: &Range<usize>,
        owners: &mut ImageOwners,
    ) {
        let (identity, what) = match &disk.source {
            DiskSource::Image { path, .. } => {
                (path.canonicalize().unwrap_or_else(|_| path.clone()), "image of this disk")
            }
            // No absolute path, as those of images are.
            DiskSource::Volume(volume) => (PathBuf::from(&volume.name), "volume"),
            DiskSource::New { .. } => return,
        };
        match owners.get(&identity) {
            Some((owner, first, read_only)) if !(*read_only && disk.read_only) => {
                let line = self.problems.line_of(*first);
                let message = format!("the {what} belongs to machine `{owner}` already (line {line})");
                let help = match disk.source {
                    DiskSource::Volume(_) => "two cannot write one volume: set `read_only = true` on both",
                    _ => "two cannot write one image: make a copy, or set `read_only = true` on both",
                };
                self.wrong(span, message, help);
            }
            Some(_) => {}
            None => {
                owners.insert(identity, (brief(machine), span.start, disk.read_only));
            }
        }
    }
}
