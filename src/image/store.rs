//! The boxes of a user.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use super::build::Build;
use super::recipe::Recipe;
use super::record::{INITRD, VMLINUX, read_box};
use super::{BoxImage, ImageError, Kernel, Settings, fast, rootless};
use crate::model::{Cancel, Event, KernelChoice, LockedBox, Reporter};
use crate::state::{Layout, Lock, store};

/// Beginning of the names of folders in which something is being built.
const BUILDING: &str = ".build-";

/// Finds boxes and kernels, and builds those that are missing.
#[derive(Debug, Clone)]
pub struct Store {
    layout: Layout,
    settings: Settings,
    /// Why builds of this process failed, by box: who waited for one does not try the same again.
    failures: Arc<Mutex<BTreeMap<String, String>>>,
}

impl Store {
    /// The store at `layout`; nothing is created yet.
    pub fn new(layout: Layout, settings: Settings) -> Self {
        Store { layout, settings, failures: Arc::default() }
    }

    /// The box `name`, built now when it is not there; as `locked`, where that is given. Waits while
    /// another process builds it.
    pub fn ensure_box(
        &self,
        name: &str,
        locked: Option<&LockedBox>,
        report: &dyn Reporter,
        cancel: &Cancel,
    ) -> Result<BoxImage, ImageError> {
        if let Some(image) = self.find_box_as(name, locked)? {
            return Ok(image);
        }
        let recipe = Recipe::find(name)?;
        if let Some(locked) = locked {
            self.check_recipe(locked)?;
        }
        let (_lock, waited) = self.lock(name, report, cancel)?;
        // Whoever had the lock may have built it, or tried to.
        if let Some(image) = self.find_box_as(name, locked)? {
            return Ok(image);
        }
        let failures = || self.failures.lock().unwrap_or_else(|e| e.into_inner());
        if let Some(why) = failures().get(name).filter(|_| waited) {
            return Err(ImageError::FailedBefore { name: name.to_owned(), why: why.clone() });
        }
        let built = self.build(recipe, locked, report, cancel);
        if let Err(error) = &built {
            failures().insert(name.to_owned(), error.to_string());
        }
        built
    }

    /// Whether a locked box is one that this rvm can build, as far as its recipe goes.
    pub fn check_recipe(&self, locked: &LockedBox) -> Result<(), ImageError> {
        if Recipe::find(&locked.name)?.digest() == locked.recipe {
            return Ok(());
        }
        let digest = locked.digest.get(..12).unwrap_or(&locked.digest).to_owned();
        Err(ImageError::OtherRecipe { name: locked.name.clone(), digest })
    }

    /// The box `name`, built anew with the packages that the mirror has now, also where the store has
    /// one. Machines that were made from that one keep it.
    pub fn renew_box(
        &self,
        name: &str,
        report: &dyn Reporter,
        cancel: &Cancel,
    ) -> Result<BoxImage, ImageError> {
        let recipe = Recipe::find(name)?;
        let (_lock, _) = self.lock(name, report, cancel)?;
        self.build(recipe, None, report, cancel)
    }

    /// The box `name` as the present recipe makes it, the one with the latest packages; `None` when it
    /// was not built yet.
    pub fn find_box(&self, name: &str) -> Result<Option<BoxImage>, ImageError> {
        let recipe = Recipe::find(name)?;
        let dir = self.folder_of(recipe);
        let first = match fs::symlink_metadata(&dir) {
            Ok(_) => Some(read_box(name, &dir)?),
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(error) => return Err(ImageError::io("look at", &dir)(error)),
        };
        let digest = recipe.digest();
        let others = self.all_of(name)?.into_iter().filter(|image| image.recipe == digest);
        Ok(first.into_iter().chain(others).max_by_key(|image| image.snapshot))
    }

    /// The box `name` as it is `locked`, else as [`Store::find_box`] finds it.
    pub fn find_box_as(
        &self,
        name: &str,
        locked: Option<&LockedBox>,
    ) -> Result<Option<BoxImage>, ImageError> {
        match locked {
            None => self.find_box(name),
            Some(locked) => self.find_exactly(name, &locked.digest),
        }
    }

    /// The box `name` with that digest, of whatever recipe.
    pub fn find_exactly(&self, name: &str, digest: &str) -> Result<Option<BoxImage>, ImageError> {
        Ok(self.all_of(name)?.into_iter().find(|image| image.digest == digest))
    }

    /// All whole boxes of that name.
    fn all_of(&self, name: &str) -> Result<Vec<BoxImage>, ImageError> {
        if !is_box_name(name) {
            return Ok(Vec::new());
        }
        let dir = self.layout.boxes().join(name);
        let folders = folders(&dir)?.into_iter().filter(|folder| is_digest(folder));
        // A broken one is as good as none here, unless it is the one that is wanted: then it is built
        // again, and the broken one is told of.
        Ok(folders.filter_map(|folder| read_box(name, &dir.join(folder)).ok()).collect())
    }

    /// The right to build a box, and whether another build was waited for.
    fn lock(&self, name: &str, report: &dyn Reporter, cancel: &Cancel) -> Result<(Lock, bool), ImageError> {
        let owner = format!("the build of box {name}");
        let mut waited = false;
        let lock = Lock::acquire(&self.lock_file(name), &owner, cancel, |holder| {
            waited = true;
            report.event(Event::Stage { machine: None, text: format!("waiting for {holder}") });
        })?;
        Ok((lock, waited))
    }

    /// The kernel for machines of `image`; the fast one is built now when it is not there.
    pub fn ensure_kernel(
        &self,
        image: &BoxImage,
        choice: KernelChoice,
        report: &dyn Reporter,
        cancel: &Cancel,
    ) -> Result<Kernel, ImageError> {
        match choice {
            KernelChoice::Stock => Ok(stock(image)),
            KernelChoice::Fast => fast::ensure(&self.layout, &self.settings, report, cancel),
        }
    }

    /// The fast kernel, built now when it is not there.
    pub fn ensure_fast(&self, report: &dyn Reporter, cancel: &Cancel) -> Result<Kernel, ImageError> {
        fast::ensure(&self.layout, &self.settings, report, cancel)
    }

    /// What the fast kernel is built from, as a lock file names it.
    pub fn fast_digest(&self) -> String {
        fast::digest()
    }

    /// The kernel for machines of `image`, if the store has it.
    pub fn find_kernel(
        &self,
        image: Option<&BoxImage>,
        choice: KernelChoice,
    ) -> Result<Option<Kernel>, ImageError> {
        match choice {
            KernelChoice::Stock => Ok(image.map(stock)),
            KernelChoice::Fast => fast::find(&self.layout),
        }
    }

    /// All boxes of the store by name, those of former recipes among them. A broken one is an
    /// error that names it.
    pub fn list(&self) -> Result<Vec<BoxImage>, ImageError> {
        let boxes = self.layout.boxes();
        let mut found = Vec::new();
        for first in folders(&boxes)? {
            for second in folders(&boxes.join(&first))? {
                if is_digest(&second) {
                    found.push(read_box(&first, &boxes.join(&first).join(&second))?);
                    continue;
                }
                let name = format!("{first}/{second}");
                for digest in folders(&boxes.join(&name))?.iter().filter(|d| is_digest(d)) {
                    found.push(read_box(&name, &boxes.join(&name).join(digest))?);
                }
            }
        }
        found.sort_by(|a, b| (&a.name, a.created).cmp(&(&b.name, b.created)));
        Ok(found)
    }

    /// Removes all that the store has of the box `name`, broken or not. Whether a machine
    /// still needs it is for the caller to know.
    pub fn remove(&self, name: &str) -> Result<(), ImageError> {
        let gone = || ImageError::NotInStore { name: name.to_owned() };
        if !is_box_name(name) {
            return Err(gone());
        }
        let dir = self.layout.boxes().join(name);
        // `debian` alone is a folder too, but no box.
        if !folders(&dir)?.iter().any(|folder| is_digest(folder) || folder.starts_with(BUILDING)) {
            return Err(gone());
        }
        let path = self.lock_file(name);
        let lock = Lock::try_acquire(&path, &format!("the removal of box {name}"));
        let _lock = lock
            .map_err(ImageError::io("lock", &path))?
            .map_err(|holder| ImageError::Busy { name: name.to_owned(), holder })?;
        rootless::remove(&dir)
    }

    fn lock_file(&self, name: &str) -> PathBuf {
        self.layout.lock_file(&format!("box-{}", name.replace('/', "-")))
    }

    fn folder_of(&self, recipe: &Recipe) -> PathBuf {
        let digest = recipe.digest();
        let short = digest.get(..DIGEST_LENGTH).unwrap_or(&digest).to_owned();
        self.layout.boxes().join(recipe.name).join(short)
    }

    /// Builds beside, and renames what is whole. The lock is held. The first box of a recipe has the
    /// recipe's folder, others have one by their content.
    fn build(
        &self,
        recipe: &Recipe,
        locked: Option<&LockedBox>,
        report: &dyn Reporter,
        cancel: &Cancel,
    ) -> Result<BoxImage, ImageError> {
        let mut dir = self.folder_of(recipe);
        let parent = self.layout.boxes().join(recipe.name);
        store::create_private_dir(&parent).map_err(ImageError::io("create", &parent))?;
        // Left by builds that were killed: with the lock in hand nobody uses them.
        for folder in folders(&parent)?.iter().filter(|folder| folder.starts_with(BUILDING)) {
            rootless::remove(&parent.join(folder))?;
        }
        let work = parent.join(format!("{BUILDING}{}", std::process::id()));
        store::create_private_dir(&work).map_err(ImageError::io("create", &work))?;
        let settings = &self.settings;
        let made = Build { recipe, settings, locked, work: &work, report, cancel }.run().and_then(|made| {
            let image = read_box(recipe.name, &made)?;
            if let Some(there) = self.find_exactly(recipe.name, &image.digest)? {
                dir = there.dir;
                return Ok(());
            }
            if locked.is_some() || dir.exists() {
                dir = parent.join(image.digest.get(..DIGEST_LENGTH).unwrap_or(&image.digest));
                // A broken one of this content may be in the way.
                rootless::remove(&dir)?;
            }
            fast::flush_folder(&made)?;
            fs::rename(&made, &dir).map_err(ImageError::io("move", &dir))?;
            fast::flush_folder(&parent)
        });
        let removed = rootless::remove(&work);
        made?;
        removed?;
        read_box(recipe.name, &dir)
    }
}

/// The kernel that came with a box.
fn stock(image: &BoxImage) -> Kernel {
    Kernel {
        vmlinux: image.dir.join(VMLINUX),
        initrd: Some(image.dir.join(INITRD)),
        version: image.kernel_version.clone(),
        cmdline: "root=LABEL=rvm-root rw".to_owned(),
    }
}

/// So many digits of a recipe's digest name the folder of a box.
const DIGEST_LENGTH: usize = 16;

fn is_digest(name: &str) -> bool {
    name.len() == DIGEST_LENGTH && name.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b))
}

/// One or two words of letters, digits, `.`, `_` and `-`, none beginning with a dot.
fn is_box_name(name: &str) -> bool {
    let word = |word: &str| {
        !word.is_empty()
            && !word.starts_with('.')
            && word.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-".contains(&b))
    };
    name.split('/').count() <= 2 && name.split('/').all(word)
}

/// Names of the folders in `dir`; none when it is not there.
fn folders(dir: &Path) -> Result<Vec<String>, ImageError> {
    let fail = || ImageError::io("read folder", dir);
    let entries = match fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(fail()(error)),
    };
    let mut names = Vec::new();
    for entry in entries {
        let entry = entry.map_err(fail())?;
        if entry.file_type().map_err(fail())?.is_dir() {
            names.extend(entry.file_name().into_string());
        }
    }
    Ok(names)
}

#[cfg(test)]
mod tests {
    use super::super::record::{ROOT_DISK, Record};
    use super::*;
    use crate::model::Silent;

    fn store() -> (tempfile::TempDir, Store) {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::new(Layout::at(dir.path()), Settings::default());
        (dir, store)
    }

    /// A box as a build would leave it, but for its content.
    fn put(store: &Store, name: &str) -> PathBuf {
        let dir = store.folder_of(Recipe::find(name).unwrap());
        fs::create_dir_all(&dir).unwrap();
        for part in [ROOT_DISK, VMLINUX, INITRD] {
            fs::write(dir.join(part), b"1234").unwrap();
        }
        let record = Record {
            name: name.into(),
            digest: "d".into(),
            recipe: "r".into(),
            suite: "trixie".into(),
            mirror: "http://m".into(),
            size: 4,
            default_disk: 8,
            created: 1,
            snapshot: 0,
            kernel_version: "6.12".into(),
            default_user: "vagrant".into(),
            agent: true,
            agent_ssh: true,
            packages: vec![],
        };
        record.write(&dir).unwrap();
        dir
    }

    #[test]
    fn a_whole_box_is_found_listed_and_removed() {
        let (_dir, store) = store();
        assert_eq!(store.find_box("micro").unwrap(), None);
        assert_eq!(store.list().unwrap(), []);
        let dir = put(&store, "micro");
        put(&store, "debian/13");
        let image = store.ensure_box("micro", None, &Silent, &Cancel::new()).unwrap();
        assert_eq!((image.size, &image.dir), (4, &dir));
        let names: Vec<_> = store.list().unwrap().into_iter().map(|image| image.name).collect();
        assert_eq!(names, ["debian/13", "micro"]);
        let kernel = store.ensure_kernel(&image, KernelChoice::Stock, &Silent, &Cancel::new()).unwrap();
        assert_eq!(kernel.cmdline, "root=LABEL=rvm-root rw");
        assert!(kernel.initrd.unwrap().is_file());
        store.remove("micro").unwrap();
        assert_eq!(store.find_box("micro").unwrap(), None);
        assert!(store.find_box("debian/13").unwrap().is_some());
    }

    #[test]
    fn a_broken_box_says_so_and_can_be_removed() {
        let (_dir, store) = store();
        for part in [ROOT_DISK, VMLINUX, INITRD, "box.json"] {
            let dir = put(&store, "debian/12");
            fs::remove_file(dir.join(part)).unwrap();
            for error in [
                store.find_box("debian/12").unwrap_err(),
                store.ensure_box("debian/12", None, &Silent, &Cancel::new()).unwrap_err(),
                store.list().unwrap_err(),
            ] {
                assert!(error.to_string().contains(part), "{error}");
                assert!(error.hint().unwrap().contains("`rvm box remove debian/12`"));
            }
            store.remove("debian/12").unwrap();
        }
        let dir = put(&store, "micro");
        fs::write(dir.join(ROOT_DISK), b"12").unwrap();
        assert!(matches!(store.find_box("micro"), Err(ImageError::BrokenBox { .. })));
        fs::write(dir.join("box.json"), b"{").unwrap();
        assert!(matches!(store.find_box("micro"), Err(ImageError::BrokenBox { .. })));
    }

    #[test]
    fn a_half_built_box_does_not_count() {
        let (_dir, store) = store();
        let work = store.layout.boxes().join("micro").join(".build-1");
        fs::create_dir_all(work.join("box")).unwrap();
        assert_eq!(store.find_box("micro").unwrap(), None);
        assert_eq!(store.list().unwrap(), []);
        store.remove("micro").unwrap();
        assert!(!work.exists());
    }

    #[test]
    fn names_lead_nowhere_else() {
        let (dir, store) = store();
        put(&store, "debian/13");
        fs::create_dir_all(dir.path().join("other/0123456789abcdef")).unwrap();
        for name in ["../other", "/etc", "", ".", "debian", "debian/", "a/b/c", "x"] {
            assert!(matches!(store.remove(name), Err(ImageError::NotInStore { .. })), "{name}");
            assert!(matches!(store.find_box(name), Err(ImageError::UnknownBox { .. })), "{name}");
        }
        assert!(dir.path().join("other/0123456789abcdef").exists());
        assert!(store.find_box("debian/13").unwrap().is_some());
    }

    #[test]
    fn a_removal_does_not_disturb_a_build() {
        let (_dir, store) = store();
        put(&store, "micro");
        let _lock = Lock::try_acquire(&store.lock_file("micro"), "the build of box micro").unwrap().unwrap();
        let error = store.remove("micro").unwrap_err();
        assert!(error.to_string().starts_with("box `micro` is in use by the build of box micro (pid "));
    }

    #[test]
    fn who_waited_for_a_build_that_failed_does_not_try_again() {
        let (_dir, store) = store();
        let lock = Lock::try_acquire(&store.lock_file("micro"), "the build of box micro").unwrap().unwrap();
        let waiting = std::sync::Barrier::new(2);
        struct Tell<'a>(&'a std::sync::Barrier);
        impl Reporter for Tell<'_> {
            fn event(&self, _: Event) {
                self.0.wait();
            }
        }
        std::thread::scope(|scope| {
            let waiter = scope.spawn(|| store.ensure_box("micro", None, &Tell(&waiting), &Cancel::new()));
            waiting.wait();
            store.failures.lock().unwrap().insert("micro".into(), "the mirror is on fire".into());
            drop(lock);
            let error = waiter.join().unwrap().unwrap_err();
            assert!(matches!(&error, ImageError::FailedBefore { why, .. } if why == "the mirror is on fire"));
        });
    }

    #[test]
    fn a_cancelled_build_leaves_nothing() {
        let (_dir, store) = store();
        let cancel = Cancel::new();
        cancel.cancel();
        let error = store.ensure_box("micro", None, &Silent, &cancel).unwrap_err();
        assert!(matches!(error, ImageError::Cancelled { .. } | ImageError::MissingTool { .. }), "{error}");
        assert_eq!(folders(&store.layout.boxes().join("micro")).unwrap(), Vec::<String>::new());
    }
}
