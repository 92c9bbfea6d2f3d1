//! Which modules of a kernel package the first stage loads, and in which order.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::path::{Component, Path};

use super::ImageError;
use super::unpack::unpack;

/// No module is larger when unpacked.
const MAX_MODULE: usize = 64 << 20;
/// How distributions pack modules; the first is not packed.
const SUFFIXES: [&str; 4] = ["", ".xz", ".zst", ".gz"];

/// A module, ready to be loaded.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Module {
    /// Its name with `.ko`, unique.
    pub file: String,
    /// The ELF object.
    pub content: Vec<u8>,
}

/// The modules `required`, and those of `wanted` that the kernel has, with all that they
/// depend on, each after its dependencies. `tree` is `/lib/modules/VERSION` of the package:
/// its `modules.order` and `modules.builtin` come from the kernel's build
/// (`Documentation/kbuild/kbuild.rst`), the dependencies from the modules themselves. What is
/// built into the kernel is left out.
pub(super) fn collect(
    tree: &Path,
    version: &str,
    required: &[&str],
    wanted: &[&str],
) -> Result<Vec<Module>, ImageError> {
    let read = |name: &str| {
        let path = tree.join(name);
        fs::read_to_string(&path).map_err(ImageError::io("read", &path))
    };
    let (order, builtin) = (read("modules.order")?, read("modules.builtin")?);
    let mut collector = Collector {
        tree,
        version,
        paths: order.lines().map(|path| (name_of(path), path)).collect(),
        builtin: builtin.lines().map(name_of).collect(),
        seen: BTreeSet::new(),
        modules: Vec::new(),
    };
    for name in required {
        collector.add(&name_of(name))?;
    }
    for name in wanted.iter().map(|name| name_of(name)) {
        if collector.paths.contains_key(&name) {
            collector.add(&name)?;
        }
    }
    Ok(collector.modules)
}

struct Collector<'a> {
    tree: &'a Path,
    version: &'a str,
    paths: BTreeMap<String, &'a str>,
    builtin: BTreeSet<String>,
    seen: BTreeSet<String>,
    modules: Vec<Module>,
}

impl Collector<'_> {
    /// Adds `name` after what it needs. A module is loaded once, so that a circle ends.
    fn add(&mut self, name: &str) -> Result<(), ImageError> {
        if self.builtin.contains(name) || !self.seen.insert(name.to_owned()) {
            return Ok(());
        }
        let missing = || ImageError::NoModule { version: self.version.to_owned(), module: name.to_owned() };
        let path = self.paths.get(name).ok_or_else(missing)?;
        let content = load(self.tree, path)?;
        for dependency in dependencies(&content) {
            self.add(&dependency)?;
        }
        self.modules.push(Module { file: format!("{name}.ko"), content });
        Ok(())
    }
}

/// `kernel/drivers/char/hw_random/virtio-rng.ko` → `virtio_rng`.
fn name_of(path: &str) -> String {
    let file = path.rsplit('/').next().unwrap_or(path);
    let stem = file.split_once(".ko").map_or(file, |(stem, _)| stem);
    stem.replace('-', "_")
}

/// Reads the module whose unpacked path is `path`.
fn load(tree: &Path, path: &str) -> Result<Vec<u8>, ImageError> {
    let full = tree.join(path);
    let fail = |what: String| ImageError::NotAKernel { path: full.clone(), what };
    if !Path::new(path).components().all(|c| matches!(c, Component::Normal(_))) {
        return Err(fail("`modules.order` leads out of its folder".into()));
    }
    for suffix in SUFFIXES {
        let file = tree.join(format!("{path}{suffix}"));
        let data = match fs::read(&file) {
            Ok(data) => data,
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            Err(error) => return Err(ImageError::io("read", &file)(error)),
        };
        let content = if suffix.is_empty() { data } else { unpack(&data, MAX_MODULE).map_err(&fail)? };
        if !content.starts_with(b"\x7fELF") {
            return Err(fail("it is not a kernel module".into()));
        }
        return Ok(content);
    }
    Err(ImageError::io("read", &full)(io::ErrorKind::NotFound.into()))
}

/// The modules that a module names in its section `.modinfo`: `depends=a,b`, ended by a zero.
fn dependencies(module: &[u8]) -> Vec<String> {
    const KEY: &[u8] = b"\0depends=";
    let Some(at) = module.windows(KEY.len()).position(|window| window == KEY) else { return Vec::new() };
    let value = module.get(at + KEY.len()..).unwrap_or_default().split(|byte| *byte == 0).next();
    let names = String::from_utf8_lossy(value.unwrap_or_default()).into_owned();
    names.split(',').filter(|name| !name.is_empty()).map(name_of).collect()
}

#[cfg(test)]
mod tests {
    use super::super::unpack::tests::{gzip, xz};
    use super::*;

    fn object(depends: &str) -> Vec<u8> {
        format!("\x7fELF code\0license=GPL\0depends={depends}\0name=x\0").into_bytes()
    }

    fn tree() -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        let write = |path: &str, data: &[u8]| {
            let path = dir.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, data).unwrap();
        };
        let order = "kernel/a/virtio-rng.ko\nkernel/b/virtio.ko\nkernel/c/virtio_ring.ko\n../../evil.ko\nkernel/gone.ko\n";
        write("modules.order", order.as_bytes());
        write("modules.builtin", b"kernel/fs/ext4/ext4.ko\n");
        write("kernel/a/virtio-rng.ko.xz", &xz(&object("virtio,ext4,virtio_ring")));
        write("kernel/b/virtio.ko.gz", &gzip(&object("virtio-ring")));
        write("kernel/c/virtio_ring.ko", &object(""));
        dir
    }

    #[test]
    fn dependencies_come_first_and_once() {
        let dir = tree();
        let modules =
            collect(dir.path(), "6", &["ext4", "virtio_rng"], &["no_such", "virtio", "ext4"]).unwrap();
        let files: Vec<_> = modules.iter().map(|m| m.file.as_str()).collect();
        assert_eq!(files, ["virtio_ring.ko", "virtio.ko", "virtio_rng.ko"]);
        assert_eq!(modules[1].content, object("virtio-ring"));
    }

    #[test]
    fn a_required_module_that_is_not_there_is_named() {
        let dir = tree();
        let error = collect(dir.path(), "6.1", &["virtio_blk"], &[]).unwrap_err();
        assert_eq!(error.to_string(), "kernel 6.1 has no module `virtio_blk`, built in or not");
        fs::write(dir.path().join("kernel/c/virtio_ring.ko"), object("nothing_like_it")).unwrap();
        let error = collect(dir.path(), "6.1", &["virtio"], &[]).unwrap_err();
        assert!(error.to_string().contains("`nothing_like_it`"), "{error}");
    }

    #[test]
    fn circles_end() {
        let dir = tree();
        fs::write(dir.path().join("kernel/c/virtio_ring.ko"), object("virtio_rng")).unwrap();
        assert_eq!(collect(dir.path(), "6", &["virtio"], &[]).unwrap().len(), 3);
    }

    #[test]
    fn paths_stay_inside_and_contents_are_checked() {
        let dir = tree();
        assert!(collect(dir.path(), "6", &["evil"], &[]).unwrap_err().to_string().contains("leads out"));
        assert!(collect(dir.path(), "6", &["gone"], &[]).unwrap_err().to_string().contains("gone.ko"));
        fs::write(dir.path().join("kernel/c/virtio_ring.ko"), b"text").unwrap();
        assert!(collect(dir.path(), "6", &["virtio"], &[]).is_err());
    }
}
