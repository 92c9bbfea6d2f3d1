//! What a project has pinned: the content of its lock file.

use std::collections::BTreeMap;

use sha2::{Digest, Sha256};

/// The boxes and kernels that a project's machines are made from, on every desk.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Locks {
    /// By name.
    pub boxes: BTreeMap<String, LockedBox>,
    /// The kernel of `kernel = "fast"`.
    pub fast: Option<LockedKernel>,
    /// What `packages` steps have installed in machines of a box, by its name: names and versions.
    pub packages: BTreeMap<String, BTreeMap<String, String>>,
}

/// One box.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LockedBox {
    /// Such as `debian/13`.
    pub name: String,
    /// Of its recipe and packages: [`content_digest`].
    pub digest: String,
    /// Digest of its recipe: only an rvm with this recipe can build it.
    pub recipe: String,
    /// Release of the distribution.
    pub suite: String,
    /// The state of the distribution that it was built from, in seconds since 1970 (UTC).
    pub snapshot: u64,
    /// Release of its kernel.
    pub kernel: String,
    /// Names and versions of its packages, sorted.
    pub packages: Vec<(String, String)>,
}

/// A kernel that rvm builds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LockedKernel {
    /// Of the script and the configuration that it is built with.
    pub digest: String,
    /// Its release.
    pub version: String,
}

/// SHA-256 (hex) of a box: equal on two hosts that built the same recipe from the same packages. The
/// bytes of the image do not count: times and random identifiers differ.
pub fn content_digest(recipe: &str, packages: &[(String, String)]) -> String {
    let mut hash = Sha256::new();
    hash.update(recipe);
    for (name, version) in packages {
        hash.update(format!("\n{name} {version}"));
    }
    super::hex(&hash.finalize())
}

/// Seconds since 1970 as snapshot.debian.org writes times, such as `20261125T101500Z`. Days become dates
/// as in Howard Hinnant's "chrono-Compatible Low-Level Date Algorithms".
pub fn timestamp(seconds: u64) -> String {
    let (days, rest) = (seconds / 86_400, seconds % 86_400);
    let z = days + 719_468;
    let (era, day_of_era) = (z / 146_097, z % 146_097);
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month + 2) / 5 + 1;
    let month = if month < 10 { month + 3 } else { month - 9 };
    let year = year_of_era + era * 400 + u64::from(month <= 2);
    format!("{year:04}{month:02}{day:02}T{:02}{:02}{:02}Z", rest / 3600, rest / 60 % 60, rest % 60)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_digest_is_that_of_recipe_and_packages() {
        let packages = [("a".to_owned(), "1".to_owned()), ("b".to_owned(), "2".to_owned())];
        let digest = content_digest("r", &packages);
        assert_eq!(digest.len(), 64);
        assert_ne!(digest, content_digest("s", &packages));
        assert_ne!(digest, content_digest("r", &packages[..1]));
    }
}
