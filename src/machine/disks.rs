//! The disks of a machine beside its root disk.

use std::path::{Path, PathBuf};
use std::time::Duration;

use super::record::Record;
use super::{MachineError, Machines};
use crate::image::{self, SeedDisk};
use crate::model::{DiskSource, ExtraDisk, ImageFormat, Machine, Stream};
use crate::provider::DiskSpec;
use crate::ssh::{Input, Session};

/// Where the guest says what became of its disks, one a line: name, then `ok` or the trouble.
const REPORT: &str = "cat /run/rvm-disks 2>/dev/null; true";
/// It is a short file.
const REPORT_TIMEOUT: Duration = Duration::from_secs(30);
/// More of it than any guest of ours writes.
const REPORT_LIMIT: usize = 16 << 10;

/// The file of a disk that was made for a machine.
fn file_of(dir: &Path, name: &str) -> PathBuf {
    dir.join(format!("disk-{name}.raw"))
}

impl Machines<'_> {
    /// Makes the disks that are not there yet, grows those that the file says are larger, and looks
    /// at the images that are the user's own. The machine does not run.
    pub(super) fn extra_disks(
        &self,
        machine: &Machine,
        record: &Record,
        dir: &Path,
    ) -> Result<Vec<DiskSpec>, MachineError> {
        let mut specs = Vec::with_capacity(machine.disks.len());
        for disk in &machine.disks {
            let (path, format) = match &disk.source {
                DiskSource::New { size, filesystem } => {
                    let path = file_of(dir, &disk.name);
                    let what = format!("Disk `{}`", disk.name);
                    let label = filesystem.then_some(disk.name.as_str());
                    self.made_disk(&machine.name, &what, &path, *size, label)?;
                    (path, ImageFormat::Raw)
                }
                DiskSource::Volume(volume) => (self.volume_disk(record, disk, volume)?, ImageFormat::Raw),
                DiskSource::Image { path, format } => {
                    image::check_image(path, *format)?;
                    (path.clone(), *format)
                }
            };
            let serial = disk.name.clone();
            specs.push(DiskSpec { path, format, backing: None, read_only: disk.read_only, serial });
        }
        Ok(specs)
    }

    /// Makes or grows the disk at `path`. `what` begins a sentence; with a `label` a new one has a file system.
    pub(super) fn made_disk(
        &self,
        machine: &str,
        what: &str,
        path: &Path,
        size: u64,
        label: Option<&str>,
    ) -> Result<(), MachineError> {
        let mebibytes = size >> 20;
        let meta = match std::fs::symlink_metadata(path) {
            Ok(meta) => meta,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                self.detail(machine, format!("{what} is new: {mebibytes} MiB."));
                return Ok(image::create_disk(path, size, label, &self.cancel)?);
            }
            Err(error) => return Err(MachineError::file("examine", path, error)),
        };
        let has = image::grow_disk(path, size)?;
        if has > size {
            let text = format!(
                "{what} has {} MiB, the file says {mebibytes} MiB: it is not made smaller",
                has >> 20
            );
            self.warn(machine, text);
        } else if meta.len() < size {
            self.detail(machine, format!("{what} grows to {mebibytes} MiB."));
        }
        Ok(())
    }

    /// Warns of each disk that the guest did not mount where the file says.
    pub(super) fn check_mounts(&self, machine: &Machine, session: &Session) -> Result<(), MachineError> {
        if machine.disks.iter().all(|disk| disk.mount.is_none()) {
            return Ok(());
        }
        let mut report = Vec::new();
        let mut keep = |stream: Stream, bytes: &[u8]| {
            if stream == Stream::Stdout && report.len() < REPORT_LIMIT {
                report.extend_from_slice(bytes);
            }
        };
        session
            .exec(REPORT, Input::None, &mut keep, &self.cancel, Some(REPORT_TIMEOUT))
            .map_err(MachineError::Ssh)?;
        let report = String::from_utf8_lossy(&report);
        for text in troubles(&machine.disks, &report) {
            self.warn(&machine.name, text);
        }
        Ok(())
    }
}

/// What is to be said of the disks, given the guest's report.
fn troubles(disks: &[ExtraDisk], report: &str) -> Vec<String> {
    let mut found = Vec::new();
    for disk in disks {
        let Some(mount) = &disk.mount else { continue };
        let mut lines = report.lines().filter_map(|line| line.split_once(' '));
        let trouble = match lines.find(|(name, _)| *name == disk.name) {
            Some((_, "ok")) => continue,
            Some((_, trouble)) => trouble.chars().filter(|c| !c.is_control()).take(300).collect(),
            None => "its box was made by an older rvm; mount it in a step, or `rvm destroy` and `rvm up`"
                .to_owned(),
        };
        found.push(format!("disk `{}` is not mounted at {mount}: {trouble}", disk.name));
    }
    found
}

/// What the guest is told: disks in the order in which they are mounted.
pub(super) fn seed_disks(disks: &[ExtraDisk]) -> Vec<SeedDisk> {
    let mut list: Vec<SeedDisk> = disks
        .iter()
        .filter_map(|disk| {
            Some(SeedDisk {
                name: disk.name.clone(),
                mount: disk.mount.clone()?,
                read_only: disk.read_only,
                ours: matches!(disk.source, DiskSource::New { .. } | DiskSource::Volume(_)),
            })
        })
        .collect();
    // A place comes before those below it.
    list.sort_by(|a, b| a.mount.cmp(&b.mount));
    list
}

#[cfg(test)]
mod tests {
    use super::*;

    fn disk(name: &str, mount: Option<&str>) -> ExtraDisk {
        ExtraDisk {
            name: name.into(),
            source: DiskSource::New { size: 16 << 20, filesystem: true },
            mount: mount.map(str::to_owned),
            read_only: false,
        }
    }

    #[test]
    fn disk_that_is_not_mounted_is_told() {
        let disks = [disk("a", Some("/a")), disk("b", None), disk("c", Some("/c")), disk("d", Some("/d"))];
        let found = troubles(&disks, "a ok\nc it is not there\x1b[1m\n");
        assert_eq!(found.len(), 2);
        assert_eq!(found[0], "disk `c` is not mounted at /c: it is not there[1m");
        assert!(found[1].contains("older rvm"));
    }

    #[test]
    fn outer_places_are_mounted_first() {
        let disks = [disk("c", Some("/a/b")), disk("b", None), disk("a", Some("/a"))];
        let names: Vec<_> = seed_disks(&disks).into_iter().map(|disk| disk.name).collect();
        assert_eq!(names, ["a", "c"]);
    }
}
