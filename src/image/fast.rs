//! The kernel that `firmware/` builds: everything built in, made once a host.

use std::fs;
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

use super::mirror::Mirror;
use super::tool::{Tool, require};
use super::{ImageError, Kernel, Settings, rootless};
use crate::model::{Cancel, Event, Reporter, hex};
use crate::state::{Layout, Lock, store};

const SCRIPT: &str = include_str!("../../firmware/build.sh");
const CONFIG: &str = include_str!("../../firmware/kernel.config");
const TASK: &str = "building the fast kernel";

/// Without an initrd the kernel knows disks by their order only: the root disk is the first. It
/// was configured without `BLK_DEV_WRITE_MOUNTED`, and resize2fs opens the mounted root disk for
/// writing when the file system is to grow.
const CMDLINE: &str = "root=/dev/vda rw bdev_allow_write_mounted=1";

/// The fast kernel, built now when the store has none of this script and configuration.
pub(super) fn ensure(
    layout: &Layout,
    settings: &Settings,
    report: &dyn Reporter,
    cancel: &Cancel,
) -> Result<Kernel, ImageError> {
    let name = name();
    let home = layout.kernels().join(&name);
    if home.exists() {
        return read(&home);
    }
    let _lock = Lock::acquire(&layout.lock_file(&format!("kernel-{name}")), TASK, cancel, |holder| {
        report.event(Event::Stage { machine: None, text: format!("waiting for {holder}") });
    })?;
    // Whoever had the lock may have built it.
    if home.exists() {
        return read(&home);
    }
    let work = layout.kernels().join(format!(".build-{name}"));
    rootless::remove(&work)?;
    let made = build(&work, settings, report, cancel).and_then(|made| {
        fs::rename(&made, &home).map_err(ImageError::io("move", &home))?;
        flush_folder(&layout.kernels())
    });
    let removed = rootless::remove(&work);
    made?;
    removed?;
    read(&home)
}

/// The fast kernel, if the store has it.
pub(super) fn find(layout: &Layout) -> Result<Option<Kernel>, ImageError> {
    let home = layout.kernels().join(name());
    if home.exists() { read(&home).map(Some) } else { Ok(None) }
}

/// Name of its folder: what it is built from.
fn name() -> String {
    format!("fast-{}", digest())
}

/// The beginning of the digest of the script and configuration that it is built with.
pub(super) fn digest() -> String {
    let digest = hex(&Sha256::new().chain_update(SCRIPT).chain_update([0]).chain_update(CONFIG).finalize());
    digest.get(..16).unwrap_or(&digest).to_owned()
}

fn read(home: &Path) -> Result<Kernel, ImageError> {
    let vmlinux = home.join("vmlinux");
    let path = home.join("version");
    let version = fs::read_to_string(&path).map_err(ImageError::io("read", &path))?;
    fs::metadata(&vmlinux).map_err(ImageError::io("open kernel", &vmlinux))?;
    let version = version.lines().next().unwrap_or_default().to_owned();
    Ok(Kernel { vmlinux, initrd: None, version, cmdline: CMDLINE.to_owned() })
}

fn build(
    work: &Path,
    settings: &Settings,
    report: &dyn Reporter,
    cancel: &Cancel,
) -> Result<PathBuf, ImageError> {
    let progress = |done: u64, total: u64, detail: &str| {
        report.event(Event::Progress { task: TASK.to_owned(), detail: detail.to_owned(), done, total });
    };
    progress(0, 0, "starting");
    let out = work.join("out");
    store::create_private_dir(&out).map_err(ImageError::io("create", &out))?;
    let write = |name: &str, text: &str| {
        let path = work.join(name);
        fs::write(&path, text).map_err(ImageError::io("write", &path)).map(|()| path)
    };
    let script = write("build.sh", SCRIPT)?;
    let config = write("kernel.config", CONFIG)?;
    let mirror = Mirror::choose(settings.mirror.as_deref(), Path::new("/etc/apt"))?;
    let jobs = std::thread::available_parallelism().map_or(1, usize::from);
    let doing = "build the fast kernel";
    let mut tool = Tool::new(doing, &require("bash", "bash", doing)?);
    tool.command()
        .arg(script)
        .arg("--config")
        .arg(config)
        .arg("--out")
        .arg(&out)
        .arg("--work")
        .arg(work.join("source"))
        .args(["--mirror", &mirror.main, "--jobs", &jobs.to_string()]);
    tool.run(cancel, |line| {
        if let Some((done, total, detail)) = parse_progress(line) {
            progress(done, total, detail);
        }
    })?;
    for part in ["vmlinux", "version"] {
        let path = out.join(part);
        fs::File::open(&path).and_then(|file| file.sync_all()).map_err(ImageError::io("flush", &path))?;
    }
    Ok(out)
}

pub(super) fn flush_folder(path: &Path) -> Result<(), ImageError> {
    fs::File::open(path).and_then(|file| file.sync_all()).map_err(ImageError::io("flush", path))
}

/// `progress DONE TOTAL TEXT`.
fn parse_progress(line: &str) -> Option<(u64, u64, &str)> {
    let mut words = line.strip_prefix("progress ")?.splitn(3, ' ');
    let (done, total) = (words.next()?.parse().ok()?, words.next()?.parse().ok()?);
    Some((done, total, words.next().unwrap_or_default()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Silent;

    #[test]
    fn progress_lines() {
        assert_eq!(parse_progress("progress 3 2500 compiling a b"), Some((3, 2500, "compiling a b")));
        assert_eq!(parse_progress("progress 3 2500"), Some((3, 2500, "")));
        assert_eq!(parse_progress("progress x 1 y"), None);
        assert_eq!(parse_progress("kernel: text"), None);
    }

    #[test]
    fn a_cancelled_build_leaves_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let layout = Layout::at(dir.path());
        let cancel = Cancel::new();
        cancel.cancel();
        let error = ensure(&layout, &Settings::default(), &Silent, &cancel).unwrap_err();
        assert!(matches!(error, ImageError::Cancelled { .. }), "{error}");
        assert_eq!(fs::read_dir(layout.kernels()).unwrap().count(), 0);
    }
}
