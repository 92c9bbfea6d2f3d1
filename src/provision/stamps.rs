//! Stamps of the steps that have succeeded, in a machine's folder.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use super::ProvisionError;
use crate::model::hex;
use crate::state::store;

const FILE: &str = "steps.json";
const KEY_FILE: &str = "stamp.key";
const VERSION: u32 = 1;

/// Block size of SHA-256 in bytes (FIPS 180-4 section 1).
const BLOCK: usize = 64;

/// Keyed hash of all that a step does. Without the machine's key file nobody can try out
/// which password belongs to it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Digest(String);

impl Digest {
    /// As hexadecimal digits.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// Digests of the parts of a step that can change alone, by their names for people.
pub type Parts = BTreeMap<String, Digest>;

/// Which steps have succeeded with which content: `steps.json`, with the key of the digests
/// beside it in `stamp.key` (mode 0600).
#[derive(Debug)]
pub struct Stamps {
    path: PathBuf,
    key: Vec<u8>,
    record: Record,
}

#[derive(Debug, Serialize, Deserialize)]
struct Record {
    version: u32,
    steps: BTreeMap<String, Stamp>,
    /// What steps have installed, by name, with the version.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    installed: BTreeMap<String, String>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
struct Stamp {
    digest: Digest,
    /// Seconds since 1970, UTC.
    when: u64,
    /// Digests of its parts by their names, to tell what changed; stamps of an older rvm have none.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    parts: Parts,
}

impl Stamps {
    /// Reads the stamps of a machine's folder; makes the key where there is none.
    pub fn load(machine_dir: &Path) -> Result<Stamps, ProvisionError> {
        Self::read(machine_dir, load_key)
    }

    /// The same without writing anything: where there is no key, digests fit no stamp. The folder may
    /// be missing.
    pub fn look(machine_dir: &Path) -> Result<Stamps, ProvisionError> {
        Self::read(machine_dir, |path| match read_key(path)? {
            Some(key) => Ok(key),
            None => new_key(),
        })
    }

    fn read(
        machine_dir: &Path,
        key_at: impl FnOnce(&Path) -> io::Result<Vec<u8>>,
    ) -> Result<Stamps, ProvisionError> {
        let path = machine_dir.join(FILE);
        let fail = |path: &Path| {
            let path = path.to_owned();
            move |source| ProvisionError::Stamps { path, source }
        };
        let record = store::read_json::<Record>(&path).map_err(fail(&path))?;
        let record =
            record.unwrap_or(Record { version: VERSION, steps: BTreeMap::new(), installed: BTreeMap::new() });
        if record.version != VERSION {
            let why = format!("its version is {}, this rvm writes {VERSION}", record.version);
            return Err(fail(&path)(io::Error::new(io::ErrorKind::InvalidData, why)));
        }
        let key_path = machine_dir.join(KEY_FILE);
        let key = key_at(&key_path).map_err(fail(&key_path))?;
        Ok(Stamps { path, key, record })
    }

    /// The digest of what `fill` puts in.
    pub fn digest(&self, fill: impl FnOnce(&mut Hash)) -> Digest {
        let mut hash = Hash::new(&self.key);
        fill(&mut hash);
        hash.finish()
    }

    /// Whether the step is stamped with this digest; `None` when it has no stamp.
    pub fn matches(&self, step: &str, digest: &Digest) -> Option<bool> {
        self.record.steps.get(step).map(|stamp| stamp.digest == *digest)
    }

    /// When the step succeeded last.
    pub fn when(&self, step: &str) -> Option<SystemTime> {
        let stamp = self.record.steps.get(step)?;
        UNIX_EPOCH.checked_add(std::time::Duration::from_secs(stamp.when))
    }

    /// Stamps a step that has succeeded, on disk before it returns.
    pub fn record(&mut self, step: &str, digest: &Digest) -> Result<(), ProvisionError> {
        self.record_with(step, digest, Parts::new())
    }

    /// The same with the digests of the step's parts.
    pub fn record_with(&mut self, step: &str, digest: &Digest, parts: Parts) -> Result<(), ProvisionError> {
        let when = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_secs());
        self.record.steps.insert(step.to_owned(), Stamp { digest: digest.clone(), when, parts });
        self.save()
    }

    /// Packages that steps have installed: names and versions.
    pub fn installed(&self) -> &BTreeMap<String, String> {
        &self.record.installed
    }

    /// Adds packages that a step has installed; the next stamp writes them.
    pub fn add_installed(&mut self, packages: impl IntoIterator<Item = (String, String)>) {
        self.record.installed.extend(packages);
    }

    /// The parts that the step succeeded with; empty where that is not known.
    pub fn parts(&self, step: &str) -> Parts {
        self.record.steps.get(step).map(|stamp| stamp.parts.clone()).unwrap_or_default()
    }

    /// Takes a step's stamp away, on disk before it returns: it is about to run again, and if
    /// that fails it must not count as done.
    pub fn forget(&mut self, step: &str) -> Result<(), ProvisionError> {
        match self.record.steps.remove(step) {
            Some(_) => self.save(),
            None => Ok(()),
        }
    }

    fn save(&self) -> Result<(), ProvisionError> {
        store::write_json(&self.path, &self.record)
            .map_err(|source| ProvisionError::Stamps { path: self.path.clone(), source })
    }
}

fn load_key(path: &Path) -> io::Result<Vec<u8>> {
    if let Some(key) = read_key(path)? {
        return Ok(key);
    }
    let key = new_key()?;
    store::write(path, &key)?;
    Ok(key)
}

fn read_key(path: &Path) -> io::Result<Option<Vec<u8>>> {
    match fs::read(path) {
        Ok(key) if key.len() == BLOCK => Ok(Some(key)),
        Ok(_) => Err(io::Error::new(io::ErrorKind::InvalidData, "the key is damaged")),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

fn new_key() -> io::Result<Vec<u8>> {
    let mut key = vec![0; BLOCK];
    getrandom::fill(&mut key).map_err(io::Error::other)?;
    Ok(key)
}

/// HMAC-SHA256 (RFC 2104) over fields, each with its length before it, so that no two lists of
/// fields look alike.
pub struct Hash {
    inner: Sha256,
    outer: Sha256,
}

impl Hash {
    /// `key` is one block long.
    fn new(key: &[u8]) -> Self {
        let padded = |pad: u8| {
            let block: Vec<u8> = key.iter().map(|byte| byte ^ pad).collect();
            Sha256::new_with_prefix(block)
        };
        Hash { inner: padded(0x36), outer: padded(0x5c) }
    }

    /// Adds a field.
    pub fn field(&mut self, data: &[u8]) {
        self.begin_field(data.len() as u64);
        self.raw(data);
    }

    /// Adds a number.
    pub fn number(&mut self, value: u64) {
        self.raw(&value.to_le_bytes());
    }

    /// Begins a field of `length` bytes that come in parts by [`Hash::raw`].
    pub fn begin_field(&mut self, length: u64) {
        self.number(length);
    }

    /// Adds bytes of a field that was begun.
    pub fn raw(&mut self, data: &[u8]) {
        self.inner.update(data);
    }

    fn finish(mut self) -> Digest {
        self.outer.update(self.inner.finalize());
        Digest(hex(&self.outer.finalize()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn hmac_of_rfc_4231_case_2() {
        let mut key = b"Jefe".to_vec();
        key.resize(BLOCK, 0);
        let mut hash = Hash::new(&key);
        hash.raw(b"what do ya want for nothing?");
        assert_eq!(hash.finish().0, "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843");
    }

    #[test]
    fn stamps_survive_and_say_nothing_about_secrets() {
        let dir = tempfile::tempdir().unwrap();
        let mut stamps = Stamps::load(dir.path()).unwrap();
        let digest = stamps.digest(|hash| hash.field(b"hunter2"));
        assert_eq!(stamps.matches("a", &digest), None);
        stamps.record("a", &digest).unwrap();
        let stamps = Stamps::load(dir.path()).unwrap();
        assert_eq!(stamps.matches("a", &digest), Some(true));
        assert!(stamps.when("a").unwrap() <= SystemTime::now());
        let key = dir.path().join(KEY_FILE);
        assert_eq!(fs::metadata(&key).unwrap().permissions().mode() & 0o777, 0o600);
        // Another machine's key gives another digest of the same content.
        let other = tempfile::tempdir().unwrap();
        let other = Stamps::load(other.path()).unwrap();
        assert_ne!(other.digest(|hash| hash.field(b"hunter2")), digest);
    }

    #[test]
    fn a_forgotten_stamp_stays_forgotten() {
        let dir = tempfile::tempdir().unwrap();
        let mut stamps = Stamps::load(dir.path()).unwrap();
        let digest = stamps.digest(|_| ());
        stamps.record("a", &digest).unwrap();
        stamps.forget("a").unwrap();
        assert_eq!(Stamps::load(dir.path()).unwrap().matches("a", &digest), None);
    }

    #[test]
    fn damaged_files_are_errors_that_name_them() {
        let dir = tempfile::tempdir().unwrap();
        Stamps::load(dir.path()).unwrap();
        for text in ["{", r#"{"version": 9, "steps": {}}"#] {
            fs::write(dir.path().join(FILE), text).unwrap();
            let error = Stamps::load(dir.path()).unwrap_err();
            assert!(error.to_string().contains(FILE), "{error}");
        }
        fs::remove_file(dir.path().join(FILE)).unwrap();
        fs::write(dir.path().join(KEY_FILE), "short").unwrap();
        assert!(Stamps::load(dir.path()).unwrap_err().to_string().contains(KEY_FILE));
    }

    #[test]
    fn fields_do_not_run_together() {
        let dir = tempfile::tempdir().unwrap();
        let stamps = Stamps::load(dir.path()).unwrap();
        let digest = |parts: &[&str]| stamps.digest(|h| parts.iter().for_each(|p| h.field(p.as_bytes())));
        assert_ne!(digest(&["ab", "c"]), digest(&["a", "bc"]));
    }
}
