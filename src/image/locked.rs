//! Building a box again as it was locked: which of its packages the mirror still has, and where the
//! rest can come from.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use super::mirror::{KEYRING, Mirror};
use super::tool::Tool;
use super::unpack::unpack;
use super::{ImageError, Settings};
use crate::model::{Cancel, LockedBox, timestamp};

/// Debian's archive of all that its mirrors ever had, for hosts that have none of their own.
const SNAPSHOTS: &str = "http://snapshot.debian.org/archive";
/// Downloads a file; part of apt.
const HELPER: &str = "/usr/lib/apt/apt-helper";
/// No list of packages is larger, unpacked.
const MAX_INDEX: usize = 512 << 20;
/// So many packages that are missing are named.
const NAMED: usize = 5;

/// Where the packages of a locked box come from.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Source {
    /// Lines of sources.list(5).
    pub lines: Vec<String>,
    /// For people, where it is not the mirror.
    pub note: Option<String>,
}

/// Finds where all the packages of `locked` can be had: at the `mirror`, else in the archive of
/// snapshots. Names those that the mirror lacks when neither has them.
pub(super) fn source(
    locked: &LockedBox,
    mirror: &Mirror,
    settings: &Settings,
    work: &Path,
    cancel: &Cancel,
) -> Result<Source, ImageError> {
    let mut available = BTreeSet::new();
    for url in indexes(mirror, &locked.suite) {
        available.extend(parse_index(&fetch(&url, work, cancel)?));
    }
    let missing: Vec<String> = locked
        .packages
        .iter()
        .filter(|package| !available.contains(*package))
        .map(|(name, version)| format!("{name} {version}"))
        .collect();
    if missing.is_empty() {
        return Ok(Source { lines: mirror.lines(&locked.suite), note: None });
    }
    let base = settings.snapshots.as_deref().unwrap_or(SNAPSHOTS).trim_end_matches('/');
    let time = timestamp(locked.snapshot);
    let lines = snapshot_lines(base, &time, &locked.suite);
    // Asked for first: without it the build would fail a minute later, and say less.
    match fetch(&format!("{base}/debian/{time}/dists/{}/InRelease", locked.suite), work, cancel) {
        Ok(_) => {
            let note =
                format!("{} has not all of its packages any more: taken from {base}, {time}", mirror.main);
            Ok(Source { lines, note: Some(note) })
        }
        Err(error @ ImageError::Cancelled { .. }) => Err(error),
        Err(_) => Err(ImageError::PackagesGone {
            name: locked.name.clone(),
            mirror: mirror.main.clone(),
            snapshots: base.to_owned(),
            missing: named(&missing),
        }),
    }
}

/// The first of a list, and how many more there are.
pub(super) fn named(list: &[String]) -> String {
    let mut text = list.iter().take(NAMED).cloned().collect::<Vec<_>>().join(", ");
    if list.len() > NAMED {
        text.push_str(&format!(" and {} more", list.len() - NAMED));
    }
    text
}

/// Lists of the packages of the mirror.
fn indexes(mirror: &Mirror, suite: &str) -> Vec<String> {
    let index = |url: &str, suite: &str| format!("{url}/dists/{suite}/main/binary-amd64/Packages.xz");
    let mut urls = vec![index(&mirror.main, suite), index(&mirror.main, &format!("{suite}-updates"))];
    urls.extend(mirror.security.iter().map(|url| index(url, &format!("{suite}-security"))));
    urls
}

/// One line for each suite. Its files are signed, and older than their signatures are meant to last.
fn snapshot_lines(base: &str, time: &str, suite: &str) -> Vec<String> {
    let line = |archive: &str, suite: &str| {
        format!("deb [signed-by={KEYRING} check-valid-until=no] {base}/{archive}/{time} {suite} main")
    };
    vec![
        line("debian", suite),
        line("debian", &format!("{suite}-updates")),
        line("debian-security", &format!("{suite}-security")),
    ]
}

fn fetch(url: &str, work: &Path, cancel: &Cancel) -> Result<Vec<u8>, ImageError> {
    let path = work.join("fetched");
    let mut tool = Tool::new(format!("fetch {url}"), Path::new(HELPER));
    tool.command().args(["download-file", url]).arg(&path);
    tool.run(cancel, |_| ())?;
    let data = fs::read(&path).map_err(ImageError::io("read", &path))?;
    fs::remove_file(&path).map_err(ImageError::io("remove", &path))?;
    if !url.ends_with(".xz") {
        return Ok(data);
    }
    unpack(&data, MAX_INDEX).map_err(|what| ImageError::Tool {
        doing: format!("read {url}"),
        tool: "xz".into(),
        status: "damaged data".into(),
        tail: what,
    })
}

/// Names and versions in a list of packages (deb822(5)). Nothing of it is believed: what is wrong here
/// fails when apt, which checks signatures, builds the box.
fn parse_index(data: &[u8]) -> Vec<(String, String)> {
    let text = String::from_utf8_lossy(data);
    let mut found = Vec::new();
    let mut name = None;
    for line in text.lines() {
        if let Some(value) = line.strip_prefix("Package: ") {
            name = Some(value.trim().to_owned());
        } else if let Some(value) = line.strip_prefix("Version: ")
            && let Some(name) = name.take()
        {
            found.push((name, value.trim().to_owned()));
        }
    }
    found
}

/// A hook of mmdebstrap that has apt take exactly these versions (apt_preferences(5)); names and versions
/// were checked when the lock file was read.
pub(super) fn pin_hook(locked: &LockedBox) -> String {
    let mut pins = locked.packages.clone();
    // The kernel comes by a package that only names it and has its version.
    let kernel = format!("linux-image-{}", locked.kernel);
    if let Some((_, version)) = locked.packages.iter().find(|(name, _)| *name == kernel) {
        pins.push(("linux-image-cloud-amd64".to_owned(), version.clone()));
    }
    let mut text = format!("mkdir -p \"$1/etc/apt/preferences.d\"\ncat >\"$1/{PREFERENCES}\" <<'END'\n");
    for (name, version) in pins {
        text.push_str(&format!("Package: {name}\nPin: version {version}\nPin-Priority: 1001\n\n"));
    }
    text.push_str("END\n");
    text
}

/// A hook of mmdebstrap that removes what [`pin_hook`] wrote.
pub(super) fn unpin_hook() -> String {
    format!("rm -f \"$1/{PREFERENCES}\"")
}

const PREFERENCES: &str = "etc/apt/preferences.d/rvm-lock";

/// What the packages of a box that was built differ in from those that were locked.
pub(super) fn differences(locked: &[(String, String)], built: &[(String, String)]) -> Vec<String> {
    let has = |list: &[(String, String)], package| list.contains(package);
    let of = |list: &[(String, String)], name: &str| {
        list.iter().find(|(n, _)| n == name).map(|(_, version)| version.clone())
    };
    let mut found: Vec<String> = locked
        .iter()
        .filter(|package| !has(built, package))
        .map(|(name, version)| match of(built, name) {
            Some(got) => format!("{name} {version} (got {got})"),
            None => format!("{name} {version} (got none)"),
        })
        .collect();
    found.extend(
        built
            .iter()
            .filter(|(name, _)| of(locked, name).is_none())
            .map(|(name, version)| format!("{name} {version} (not locked)")),
    );
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pair(name: &str, version: &str) -> (String, String) {
        (name.to_owned(), version.to_owned())
    }

    fn locked() -> LockedBox {
        LockedBox {
            name: "debian/13".into(),
            digest: "d".into(),
            recipe: "r".into(),
            suite: "trixie".into(),
            snapshot: 1_795_601_700,
            kernel: "6.12.48+deb13-cloud-amd64".into(),
            packages: vec![
                pair("linux-image-6.12.48+deb13-cloud-amd64", "6.12.48-1"),
                pair("sudo", "1:1.9~p2-3"),
            ],
        }
    }

    #[test]
    fn lists_of_packages_are_read() {
        let text = "Package: sudo\nArchitecture: amd64\nVersion: 1.9\nDescription: Version: x\n\n\
                    Version: 3\nPackage: a\nVersion: 1:2-3 \n Version: no\n";
        assert_eq!(parse_index(text.as_bytes()), [pair("sudo", "1.9"), pair("a", "1:2-3")]);
        assert_eq!(parse_index(b"\xff\xfe"), []);
    }

    #[test]
    fn where_packages_come_from() {
        let lines = snapshot_lines("http://s/archive", "20261125T101500Z", "trixie");
        assert_eq!(
            lines[2],
            format!(
                "deb [signed-by={KEYRING} check-valid-until=no] \
                 http://s/archive/debian-security/20261125T101500Z trixie-security main"
            )
        );
        let mirror = Mirror { main: "http://m/debian".into(), security: None, guessed: false };
        assert_eq!(
            indexes(&mirror, "trixie"),
            [
                "http://m/debian/dists/trixie/main/binary-amd64/Packages.xz",
                "http://m/debian/dists/trixie-updates/main/binary-amd64/Packages.xz"
            ]
        );
    }

    #[test]
    fn the_pins_are_a_valid_script_and_name_the_kernel_twice() {
        let hook = pin_hook(&locked());
        assert!(hook.contains("Package: sudo\nPin: version 1:1.9~p2-3\nPin-Priority: 1001\n"), "{hook}");
        assert!(hook.contains("Package: linux-image-cloud-amd64\nPin: version 6.12.48-1\n"), "{hook}");
        let dir = tempfile::tempdir().unwrap();
        let run = |script: &str| {
            let words = ["-c", script, "sh"];
            assert!(std::process::Command::new("sh").args(words).arg(dir.path()).status().unwrap().success());
        };
        run(&hook);
        let written = fs::read_to_string(dir.path().join(PREFERENCES)).unwrap();
        assert_eq!(written.matches("Pin-Priority: 1001").count(), 3);
        run(&unpin_hook());
        assert!(!dir.path().join(PREFERENCES).exists());
    }

    #[test]
    fn what_came_out_differently_is_named() {
        let built =
            [pair("linux-image-6.12.48+deb13-cloud-amd64", "6.12.48-1"), pair("sudo", "2"), pair("x", "1")];
        assert_eq!(differences(&locked().packages, &built), ["sudo 1:1.9~p2-3 (got 2)", "x 1 (not locked)"]);
        assert_eq!(differences(&locked().packages, &built[..1]), ["sudo 1:1.9~p2-3 (got none)"]);
        assert_eq!(differences(&built, &built), Vec::<String>::new());
        let many: Vec<String> = (0..9).map(|n| n.to_string()).collect();
        assert_eq!(named(&many), "0, 1, 2, 3, 4 and 4 more");
    }
}
