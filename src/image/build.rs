//! Building a box: packages, root disk, kernel, initrd.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use super::mirror::{KEYRING, Mirror};
use super::recipe::{AGENT, ASSEMBLE, FETCH_KERNEL, Recipe};
use super::record::{INITRD, ROOT_DISK, Record, VMLINUX};
use super::rootless::{self, Rights};
use super::tool::{Tool, require};
use super::{ImageError, Settings, initrd, kernel, locked, modules};
use crate::model::{Cancel, Event, LockedBox, Reporter, content_digest};
use crate::state::store;

/// Where large temporary files go: passable for every user id, and on a disk.
const SCRATCH: &str = "/var/tmp";

/// One build of one box.
pub(super) struct Build<'a> {
    pub recipe: &'a Recipe,
    pub settings: &'a Settings,
    /// The box is to come out as this one did.
    pub locked: Option<&'a LockedBox>,
    /// A folder of our own, on the file system of the store.
    pub work: &'a Path,
    pub report: &'a dyn Reporter,
    pub cancel: &'a Cancel,
}

impl Build<'_> {
    /// Builds the box into a folder inside `work`, flushed to disk, and returns that folder.
    pub(super) fn run(&self) -> Result<PathBuf, ImageError> {
        let rights = rootless::check(&self.doing())?;
        self.progress(0, "choosing a mirror");
        let mirror = self.mirror()?;
        self.write_guest_files(&mirror)?;
        let lines = match self.locked {
            None => mirror.lines(self.recipe.suite),
            Some(locked) => {
                self.progress(1, "looking for its packages");
                let source = locked::source(locked, &mirror, self.settings, self.work, self.cancel)?;
                if let Some(text) = source.note {
                    self.report.event(Event::Detail { machine: None, text });
                }
                source.lines
            }
        };
        self.fetch_packages(lines)?;
        self.assemble(rights)?;
        self.progress(95, "preparing the kernel");
        let made = self.finish(&mirror)?;
        self.progress(100, "done");
        Ok(made)
    }

    fn doing(&self) -> String {
        format!("build box {}", self.recipe.name)
    }

    fn progress(&self, done: u64, detail: &str) {
        self.report.event(Event::Progress {
            task: format!("building box {}", self.recipe.name),
            detail: detail.to_owned(),
            done,
            total: 100,
        });
    }

    /// A security archive that was only guessed is asked for first: without it the build would
    /// fail where it could go on.
    fn mirror(&self) -> Result<Mirror, ImageError> {
        let mut mirror = Mirror::choose(self.settings.mirror.as_deref(), Path::new("/etc/apt"))?;
        let Some(url) = mirror.security.clone().filter(|_| mirror.guessed) else { return Ok(mirror) };
        let helper = Path::new("/usr/lib/apt/apt-helper");
        let mut tool = Tool::new("look for the security archive", helper);
        let index = format!("{url}/dists/{}-security/InRelease", self.recipe.suite);
        tool.command().args(["download-file", &index]).arg(self.work.join("InRelease"));
        match tool.run(self.cancel, |_| ()) {
            Ok(()) => Ok(mirror),
            Err(ImageError::Tool { .. }) => {
                let text = format!("{} has no security archive beside it: the box gets none", mirror.main);
                self.report.event(Event::Warning { machine: None, text });
                mirror.security = None;
                Ok(mirror)
            }
            Err(other) => Err(other),
        }
    }

    fn write_guest_files(&self, mirror: &Mirror) -> Result<(), ImageError> {
        let guest = self.work.join("guest");
        store::create_private_dir(&guest).map_err(ImageError::io("create", &guest))?;
        let write =
            |path: PathBuf, data: &[u8]| fs::write(&path, data).map_err(ImageError::io("write", &path));
        for (name, text) in self.recipe.files {
            write(guest.join(name), text.as_bytes())?;
        }
        write(guest.join("agent"), AGENT)?;
        write(guest.join("recipe"), self.recipe.script.as_bytes())?;
        write(guest.join("debian.sources"), mirror.sources_file(self.recipe.suite).as_bytes())?;
        write(self.work.join("assemble.sh"), ASSEMBLE.as_bytes())
    }

    fn fetch_packages(&self, lines: Vec<String>) -> Result<(), ImageError> {
        let doing = self.doing();
        if !Path::new(KEYRING).exists() {
            let (tool, package) = (KEYRING.to_owned(), "debian-archive-keyring");
            return Err(ImageError::MissingTool { doing, tool, package });
        }
        let mut tool = Tool::new(&doing, &require("mmdebstrap", "mmdebstrap", &doing)?);
        let scratch = self.settings.scratch.as_deref().unwrap_or(Path::new(SCRATCH));
        // The hook is given as text: a user of the namespace could not read it in the store.
        let hook = if self.recipe.variant == "extract" { "extract-hook" } else { "customize-hook" };
        tool.command()
            .env("TMPDIR", scratch)
            .current_dir("/")
            .arg(format!("--variant={}", self.recipe.variant))
            .arg(format!("--include={}", self.recipe.packages.join(",")))
            .args(["--architectures=amd64", "--format=tar", "--verbose", "--dpkgopt=force-unsafe-io"])
            // A recipe keeps the package lists in the box, or removes them.
            .arg("--skip=cleanup/apt/lists")
            .arg(format!("--{hook}={FETCH_KERNEL}"));
        if let Some(locked) = self.locked {
            tool.command()
                .env("SOURCE_DATE_EPOCH", locked.snapshot.to_string())
                .arg(format!("--setup-hook={}", locked::pin_hook(locked)))
                .arg(format!("--{hook}={}", locked::unpin_hook()));
        }
        tool.command().arg(self.recipe.suite).arg(self.work.join("packages.tar")).args(lines);
        let mut meter = Meter::default();
        tool.run(self.cancel, |line| {
            if let Some((done, detail)) = meter.mmdebstrap(line) {
                self.progress(done, &detail);
            }
        })
    }

    fn assemble(&self, rights: Rights) -> Result<(), ImageError> {
        let doing = self.doing();
        require("mke2fs", "e2fsprogs", &doing)?;
        let mut tool = rootless::as_root(rights, &doing)?;
        tool.command()
            .arg("sh")
            .arg(self.work.join("assemble.sh"))
            .arg(self.work)
            .arg(self.recipe.size.to_string());
        let mut done = 78;
        tool.run(self.cancel, |line| {
            if let Some(stage) = line.strip_prefix("stage ") {
                done += 3;
                self.progress(done, stage);
            }
        })
    }

    /// Puts together what belongs to the box in a folder of its own.
    fn finish(&self, mirror: &Mirror) -> Result<PathBuf, ImageError> {
        let (out, made) = (self.work.join("out"), self.work.join("box"));
        store::create_private_dir(&made).map_err(ImageError::io("create", &made))?;
        let read = |name: &str| fs::read(out.join(name)).map_err(ImageError::io("read", out.join(name)));
        let text = |name: &str| read(name).map(|data| String::from_utf8_lossy(&data).into_owned());

        let kernel_version = text("version")?.trim().to_owned();
        let vmlinux = kernel::unpack_bzimage(&read("vmlinuz")?)
            .map_err(|what| ImageError::NotAKernel { path: out.join("vmlinuz"), what })?;
        write_read_only(&made.join(VMLINUX), &vmlinux)?;
        let loaded =
            modules::collect(&out.join("modules"), &kernel_version, initrd::REQUIRED, initrd::WANTED)?;
        write_read_only(&made.join(INITRD), &initrd::build(&read("busybox")?, &loaded))?;

        let root_disk = made.join(ROOT_DISK);
        fs::rename(out.join(ROOT_DISK), &root_disk).map_err(ImageError::io("move", &root_disk))?;
        seal(&root_disk)?;

        let packages = parse_packages(&text("packages")?);
        let recipe = self.recipe.digest();
        let digest = content_digest(&recipe, &packages);
        if let Some(locked) = self.locked.filter(|locked| locked.digest != digest) {
            let differences = locked::differences(&locked.packages, &packages);
            return Err(ImageError::BuiltDifferently {
                name: locked.name.clone(),
                differences: locked::named(&differences),
            });
        }
        let created = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_secs());
        let record = Record {
            name: self.recipe.name.to_owned(),
            digest,
            recipe,
            suite: self.recipe.suite.to_owned(),
            mirror: mirror.main.clone(),
            size: self.recipe.size,
            default_disk: self.recipe.default_disk,
            created,
            snapshot: self.locked.map_or(created, |locked| locked.snapshot),
            kernel_version,
            default_user: "vagrant".to_owned(),
            agent: true,
            agent_ssh: true,
            packages,
        };
        record.write(&made)?;
        Ok(made)
    }
}

/// Nothing writes to a part of a box any more, and it is on the disk.
fn seal(path: &Path) -> Result<(), ImageError> {
    let file = fs::File::open(path).map_err(ImageError::io("open", path))?;
    file.set_permissions(fs::Permissions::from_mode(0o444))
        .and_then(|()| file.sync_all())
        .map_err(ImageError::io("flush", path))
}

fn write_read_only(path: &Path, data: &[u8]) -> Result<(), ImageError> {
    fs::write(path, data).map_err(ImageError::io("write", path))?;
    seal(path)
}

/// `name<TAB>version` lines, sorted, each once.
fn parse_packages(text: &str) -> Vec<(String, String)> {
    let pair =
        |line: &str| line.split_once('\t').map(|(name, version)| (name.to_owned(), version.to_owned()));
    let mut packages: Vec<_> = text.lines().filter_map(pair).collect();
    packages.sort();
    packages.dedup();
    packages
}

/// Tells from mmdebstrap's lines how far it is, in percent of the whole build.
#[derive(Debug, Default)]
struct Meter {
    done: u64,
    /// Where the present stage began, and what it has installed since.
    stage: u64,
    packages: u64,
}

impl Meter {
    fn mmdebstrap(&mut self, line: &str) -> Option<(u64, String)> {
        const STAGES: &[(&str, u64, &str)] = &[
            ("I: running apt-get update", 3, "fetching the package lists"),
            ("I: downloading packages with apt", 8, "fetching packages"),
            ("I: extracting archives", 20, "unpacking packages"),
            ("I: installing essential packages", 25, "installing the base"),
            ("I: installing remaining packages", 35, "installing packages"),
            ("I: running --extract-hook", 50, "fetching the kernel"),
            ("I: running --customize-hook", 68, "fetching the kernel"),
            ("I: creating tarball", 74, "packing"),
        ];
        if let Some((_, done, detail)) = STAGES.iter().find(|(prefix, ..)| line.starts_with(prefix)) {
            (self.stage, self.packages) = (*done, 0);
            self.done = self.done.max(*done);
            return Some((self.done, (*detail).to_owned()));
        }
        // dpkg's own words, about 130 for the base and 230 after it.
        let package = line.strip_prefix("Setting up ").or_else(|| line.strip_prefix("Unpacking "))?;
        self.packages += 1;
        let name = package.split([' ', ':']).next().unwrap_or_default();
        self.done = self.done.max((self.stage + self.packages / 8).min(67));
        Some((self.done, format!("installing {name}")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn progress_only_grows() {
        let mut lines = vec!["I: automatically chosen mode: root", "I: running apt-get update...", "noise"];
        lines.push("I: installing essential packages...");
        lines.extend(std::iter::repeat_n("Unpacking libc6:amd64 (2.41) ...", 100));
        lines.push("I: installing remaining packages inside the chroot...");
        lines.extend(std::iter::repeat_n("Setting up sudo (1.9) ...", 400));
        lines.extend(["I: running --customize-hook in shell: sh -c '…'", "I: creating tarball..."]);
        let mut meter = Meter::default();
        let steps: Vec<_> = lines.iter().filter_map(|line| meter.mmdebstrap(line)).collect();
        assert_eq!(steps.first().unwrap(), &(3, "fetching the package lists".into()));
        assert_eq!(steps.last().unwrap(), &(74, "packing".into()));
        assert!(steps.iter().any(|(_, detail)| detail == "installing libc6"));
        assert!(steps.windows(2).all(|pair| pair[0].0 <= pair[1].0));
    }

    #[test]
    fn packages_come_sorted_and_once() {
        let packages = parse_packages("b\t2\na\t1\nb\t2\nnoise\n");
        assert_eq!(packages, [("a".into(), "1".into()), ("b".into(), "2".into())]);
    }
}
