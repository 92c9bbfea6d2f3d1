//! What the store knows about a box: `box.json` in its folder.

use std::path::Path;

use serde::{Deserialize, Serialize};

use super::{BoxImage, ImageError};
use crate::state::store;

/// The root disk of a box.
pub(super) const ROOT_DISK: &str = "root.ext4";
/// Its kernel, unpacked.
pub(super) const VMLINUX: &str = "vmlinux";
/// What that kernel starts from.
pub(super) const INITRD: &str = "initrd";
const FILE: &str = "box.json";

/// `box.json`. Paths are not in it: they follow from where it is.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Record {
    pub name: String,
    pub digest: String,
    pub recipe: String,
    pub suite: String,
    pub mirror: String,
    pub size: u64,
    pub default_disk: u64,
    pub created: u64,
    /// State of the distribution, in seconds since 1970; 0 in records of an older rvm: when it was built.
    #[serde(default)]
    pub snapshot: u64,
    pub kernel_version: String,
    pub default_user: String,
    /// Boxes of older recipes do not say.
    #[serde(default)]
    pub agent: bool,
    #[serde(default)]
    pub agent_ssh: bool,
    pub packages: Vec<(String, String)>,
}

impl Record {
    /// Writes it into `dir`.
    pub(super) fn write(&self, dir: &Path) -> Result<(), ImageError> {
        let path = dir.join(FILE);
        store::write_json(&path, self).map_err(ImageError::io("write", &path))
    }
}

/// The box in `dir`, which is there; an error when a part of it is not.
pub(super) fn read_box(name: &str, dir: &Path) -> Result<BoxImage, ImageError> {
    let broken = |what: String| ImageError::BrokenBox { name: name.to_owned(), dir: dir.to_owned(), what };
    let record: Record = match store::read_json(&dir.join(FILE)) {
        Ok(Some(record)) => record,
        Ok(None) => return Err(broken(format!("it has no {FILE}"))),
        Err(error) => return Err(broken(error.to_string())),
    };
    if record.name != name {
        return Err(broken(format!("{FILE} is that of box `{}`", record.name.escape_debug())));
    }
    for part in [ROOT_DISK, VMLINUX, INITRD] {
        match std::fs::metadata(dir.join(part)) {
            Ok(meta) if meta.is_file() && (part != ROOT_DISK || meta.len() == record.size) => {}
            Ok(_) => return Err(broken(format!("its {part} is not what it was"))),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                return Err(broken(format!("it has no {part}")));
            }
            Err(error) => return Err(ImageError::io("look at", dir.join(part))(error)),
        }
    }
    Ok(BoxImage {
        name: record.name,
        digest: record.digest,
        dir: dir.to_owned(),
        root_disk: dir.join(ROOT_DISK),
        size: record.size,
        default_disk: record.default_disk,
        created: record.created,
        recipe: record.recipe,
        suite: record.suite,
        snapshot: if record.snapshot == 0 { record.created } else { record.snapshot },
        kernel_version: record.kernel_version,
        default_user: record.default_user,
        agent: record.agent,
        agent_ssh: record.agent_ssh,
        mirror: record.mirror,
        packages: record.packages,
    })
}
