//! Whether the files of a project were edited while a command worked with what they said before.

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use super::app::App;
use super::target::Target;

/// What tells one content of a file from another: inode, size, time of the last change.
type Stamp = Option<(u64, u64, i64, i64)>;

/// The files of the targets' projects as they were when the command read them.
pub struct Files(Vec<(PathBuf, Stamp)>);

impl Files {
    /// As they are now.
    pub fn of(targets: &[Target]) -> Files {
        let mut files: Vec<PathBuf> =
            targets.iter().filter_map(|target| Some(target.declaration().ok()?.0.file.clone())).collect();
        files.sort();
        files.dedup();
        let stamped = |file: PathBuf| {
            let stamp = stamp(&file);
            (file, stamp)
        };
        Files(files.into_iter().map(stamped).collect())
    }

    /// Says which of them are not as they were.
    pub fn tell(&self, app: &App, verb: &str) {
        for (file, before) in &self.0 {
            if stamp(file) != *before {
                app.ui.warn(&format!(
                    "{} was edited meanwhile; this command worked with what it said before: `rvm {verb}` \
                     again takes it as it is now",
                    file.display()
                ));
            }
        }
    }
}

fn stamp(file: &Path) -> Stamp {
    let meta = std::fs::metadata(file).ok()?;
    Some((meta.ino(), meta.len(), meta.mtime(), meta.mtime_nsec()))
}
