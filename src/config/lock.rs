//! `Vagrantfile.lock`: its text, read and written.

use std::ffi::OsString;
use std::ops::Range;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use toml::Spanned;

use super::error::ConfigError;
use super::machines::is_box_name;
use super::read::{self, ReadError};
use super::report::{Problems, brief};
use crate::model::{LockedBox, LockedKernel, Locks, content_digest, timestamp};

/// Version of the form.
const VERSION: u32 = 1;
const RENEW: &str = "`rvm lock --update` writes it anew; `git checkout` brings back what was committed";
const HEAD: &str = "\
# Written by rvm: the boxes and kernels of this project. Commit it, so that they are the same on every desk.
# `rvm lock --update` renews it, `rvm lock --check` checks it.
";

/// The lock file that belongs to a configuration file: beside it, with `.lock` behind its name.
pub fn lock_file(file: &Path) -> PathBuf {
    let mut name = OsString::from(file.file_name().unwrap_or_default());
    name.push(".lock");
    file.with_file_name(name)
}

/// Reads a lock file; `None` where there is none.
///
/// # Errors
/// All that is wrong in it, with its place.
pub fn read_locks(path: &Path) -> Result<Option<Locks>, ConfigError> {
    match read::text(path) {
        Ok(text) => parse(path, &text).map(Some),
        Err(ReadError::Io(error)) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(ReadError::Io(source)) => Err(ConfigError::Unreadable { file: path.to_owned(), source }),
        Err(ReadError::NotAFile(what)) => Err(ConfigError::NotAFile { file: path.to_owned(), what }),
        Err(ReadError::TooLarge) => Err(whole(path, None, "this file is larger than 1 MiB")),
        Err(ReadError::NotText { line, .. }) => Err(whole(path, Some(line), "this file is not UTF-8 text")),
    }
}

fn whole(path: &Path, line: Option<usize>, message: &str) -> ConfigError {
    let mut problems = Problems::new(path, "");
    problems.add_elsewhere(path, line, message, RENEW);
    ConfigError::Invalid(problems.into_report())
}

/// Only what says how to read the rest.
#[derive(Deserialize)]
struct Version {
    version: Option<Spanned<u32>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawFile {
    #[serde(rename = "version")]
    _version: u32,
    #[serde(rename = "rvm")]
    _rvm: String,
    #[serde(default, rename = "box")]
    boxes: Vec<Spanned<RawBox>>,
    kernel: Option<RawKernels>,
    #[serde(default)]
    packages: Vec<RawPackages>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawPackages {
    r#box: Spanned<String>,
    versions: Vec<Spanned<String>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawBox {
    name: Spanned<String>,
    digest: Spanned<String>,
    recipe: Spanned<String>,
    suite: Spanned<String>,
    snapshot: Spanned<String>,
    kernel: Spanned<String>,
    packages: Vec<Spanned<String>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawKernels {
    fast: Option<RawKernel>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawKernel {
    digest: Spanned<String>,
    version: Spanned<String>,
}

fn parse(path: &Path, text: &str) -> Result<Locks, ConfigError> {
    let mut problems = Problems::new(path, text);
    let file = match deserialize(text) {
        Ok(file) => file,
        Err((span, message)) => {
            problems.add(&span, message, RENEW);
            return Err(ConfigError::Invalid(problems.into_report()));
        }
    };
    let mut locks = Locks::default();
    for raw in file.boxes {
        let span = raw.span();
        let locked = locked_box(raw.into_inner(), &mut problems);
        if locks.boxes.contains_key(&locked.name) {
            problems.add(&span, format!("box `{}` is locked twice", brief(&locked.name)), RENEW);
        }
        locks.boxes.insert(locked.name.clone(), locked);
    }
    for raw in file.packages {
        let place = raw.r#box.span();
        let name = checked(raw.r#box, is_box_name, "the name of a box", &mut problems);
        let versions = packages(raw.versions, &mut problems).into_iter().collect();
        if locks.packages.insert(name.clone(), versions).is_some() {
            problems.add(&place, format!("packages of box `{}` are locked twice", brief(&name)), RENEW);
        }
    }
    if let Some(fast) = file.kernel.and_then(|kernels| kernels.fast) {
        let digest = checked(fast.digest, is_digest, "16 or 64 hexadecimal digits", &mut problems);
        let version = checked(fast.version, is_release, "the release of a kernel", &mut problems);
        locks.fast = Some(LockedKernel { digest, version });
    }
    match problems.is_empty() {
        true => Ok(locks),
        false => Err(ConfigError::Invalid(problems.into_report())),
    }
}

fn deserialize(text: &str) -> Result<RawFile, (Range<usize>, String)> {
    let told = |error: toml::de::Error| {
        (error.span().unwrap_or(0..0), format!("this lock file is damaged: {}", error.message()))
    };
    let head: Version = toml::from_str(text).map_err(told)?;
    match head.version {
        Some(version) if *version.get_ref() != VERSION => {
            let message =
                format!("this lock file has version {}; this rvm knows version {VERSION}", version.get_ref());
            Err((version.span(), message))
        }
        _ => toml::from_str(text).map_err(told),
    }
}

fn locked_box(raw: RawBox, problems: &mut Problems) -> LockedBox {
    let before = problems.count();
    let place = raw.digest.span();
    let name = checked(raw.name, is_box_name, "the name of a box", problems);
    let digest = checked(raw.digest, is_digest, "64 hexadecimal digits", problems);
    let recipe = checked(raw.recipe, is_digest, "64 hexadecimal digits", problems);
    let suite = checked(raw.suite, is_suite, "a release such as `trixie`", problems);
    let time = |text: &str| seconds(text).is_some();
    let snapshot = checked(raw.snapshot, time, "a time such as `20261125T101500Z`", problems);
    let kernel = checked(raw.kernel, is_release, "the release of a kernel", problems);
    let packages = packages(raw.packages, problems);
    if problems.count() == before && content_digest(&recipe, &packages) != digest {
        let message = format!("the digest of box `{name}` does not fit its recipe and packages");
        let help = format!("it was edited by hand, or merged; `rvm lock --update {name}` locks the box anew");
        problems.add(&place, message, help);
    }
    LockedBox { name, digest, recipe, suite, snapshot: seconds(&snapshot).unwrap_or(0), kernel, packages }
}

/// `name version` each, sorted.
fn packages(raw: Vec<Spanned<String>>, problems: &mut Problems) -> Vec<(String, String)> {
    let mut packages = Vec::with_capacity(raw.len());
    for package in raw {
        let span = package.span();
        match package.get_ref().split_once(' ').filter(|(name, version)| is_package(name, version)) {
            Some((name, version)) => packages.push((name.to_owned(), version.to_owned())),
            None => {
                let message = format!("`{}` is no package with its version", brief(package.get_ref()));
                problems.add(&span, message, RENEW);
            }
        }
    }
    packages.sort();
    packages
}

fn checked(
    value: Spanned<String>,
    is_right: impl Fn(&str) -> bool,
    what: &str,
    problems: &mut Problems,
) -> String {
    if !is_right(value.get_ref()) {
        problems.add(&value.span(), format!("`{}` is not {what}", brief(value.get_ref())), RENEW);
    }
    value.into_inner()
}

fn is_digest(text: &str) -> bool {
    matches!(text.len(), 16 | 64) && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
}

fn is_suite(text: &str) -> bool {
    (1..=40).contains(&text.len()) && text.bytes().all(|b| matches!(b, b'a'..=b'z' | b'0'..=b'9' | b'-'))
}

/// Letters, digits and `.+~_-`.
fn is_release(text: &str) -> bool {
    (1..=100).contains(&text.len())
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || b".+~_-".contains(&b))
}

/// Debian Policy sections 5.6.1 (names, here with `:arch`) and 5.6.12 (versions). They reach a shell
/// script and apt's preferences: nothing else may pass.
fn is_package(name: &str, version: &str) -> bool {
    let fits = |text: &str, more: &[u8]| {
        (1..=200).contains(&text.len())
            && text.bytes().next().is_some_and(|b| b.is_ascii_alphanumeric())
            && text.bytes().all(|b| b.is_ascii_alphanumeric() || more.contains(&b))
    };
    fits(name, b"+.-_:") && fits(version, b".+:~-")
}

/// The text of a lock file: the same for the same locks. `rvm`: the version that writes it.
pub fn render_locks(locks: &Locks, rvm: &str) -> String {
    let mut text = format!("{HEAD}version = {VERSION}\nrvm = \"{rvm}\"\n");
    for locked in locks.boxes.values() {
        let LockedBox { name, digest, recipe, suite, snapshot, kernel, packages } = locked;
        text.push_str(&format!(
            "\n[[box]]\nname = \"{name}\"\ndigest = \"{digest}\"\nrecipe = \"{recipe}\"\nsuite = \"{suite}\"\n\
             snapshot = \"{}\"\nkernel = \"{kernel}\"\npackages = [\n",
            timestamp(*snapshot)
        ));
        for (name, version) in packages {
            text.push_str(&format!("    \"{name} {version}\",\n"));
        }
        text.push_str("]\n");
    }
    for (name, packages) in locks.packages.iter().filter(|(_, packages)| !packages.is_empty()) {
        text.push_str(&format!("\n[[packages]]\nbox = \"{name}\"\nversions = [\n"));
        for (name, version) in packages {
            text.push_str(&format!("    \"{name} {version}\",\n"));
        }
        text.push_str("]\n");
    }
    if let Some(LockedKernel { digest, version }) = &locks.fast {
        text.push_str(&format!("\n[kernel.fast]\ndigest = \"{digest}\"\nversion = \"{version}\"\n"));
    }
    text
}

/// What [`timestamp`] wrote; `None` for what is no time from 1970 to 2999.
fn seconds(text: &str) -> Option<u64> {
    let digits = |range: Range<usize>| -> Option<u64> {
        let part = text.get(range)?;
        part.bytes().all(|b| b.is_ascii_digit()).then(|| part.parse().ok())?
    };
    if text.len() != 16 || text.get(8..9) != Some("T") || text.get(15..) != Some("Z") {
        return None;
    }
    let (year, month, day) = (digits(0..4)?, digits(4..6)?, digits(6..8)?);
    let (hour, minute, second) = (digits(9..11)?, digits(11..13)?, digits(13..15)?);
    let in_range = (1970..3000).contains(&year)
        && (1..=12).contains(&month)
        && (1..=31).contains(&day)
        && hour < 24
        && minute < 60
        && second < 60;
    if !in_range {
        return None;
    }
    let year = if month <= 2 { year - 1 } else { year };
    let (era, year_of_era) = (year / 400, year % 400);
    let shifted = if month > 2 { month - 3 } else { month + 9 };
    let day_of_year = (153 * shifted + 2) / 5 + day - 1;
    let day_of_era = year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year;
    let days = (era * 146_097 + day_of_era).checked_sub(719_468)?;
    Some(days * 86_400 + hour * 3600 + minute * 60 + second)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn locks() -> Locks {
        let packages: Vec<_> =
            [("libc6", "2.41-12"), ("sudo", "1.9.16p2-3")].map(|(n, v)| (n.to_owned(), v.to_owned())).into();
        let recipe = "a".repeat(64);
        let locked = LockedBox {
            name: "debian/13".into(),
            digest: content_digest(&recipe, &packages),
            recipe,
            suite: "trixie".into(),
            snapshot: 1_795_601_700,
            kernel: "6.12.48+deb13-cloud-amd64".into(),
            packages,
        };
        let fast = LockedKernel { digest: "656799cbc8df457c".into(), version: "6.12.117".into() };
        let steps = [("nginx-light".to_owned(), "1.26.3-3+deb13u1".to_owned())].into();
        Locks {
            boxes: [(locked.name.clone(), locked)].into(),
            fast: Some(fast),
            packages: [("debian/13".to_owned(), steps)].into(),
        }
    }

    /// What is wrong with that text, with its line.
    fn faults(text: &str) -> Vec<(usize, String)> {
        match parse(Path::new("/p/Vagrantfile.lock"), text) {
            Err(ConfigError::Invalid(report)) => {
                report.problems().iter().map(|p| (p.line.unwrap_or(0), p.message.clone())).collect()
            }
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn what_is_written_is_read_again() {
        let text = render_locks(&locks(), "0.1.0");
        assert_eq!(parse(Path::new("/x"), &text).unwrap(), locks());
        assert_eq!(render_locks(&parse(Path::new("/x"), &text).unwrap(), "0.1.0"), text);
        let none = Locks::default();
        assert_eq!(parse(Path::new("/x"), &render_locks(&none, "9")).unwrap(), none);
    }

    #[test]
    fn its_name_follows_that_of_the_file() {
        assert_eq!(lock_file(Path::new("/p/Vagrantfile")), Path::new("/p/Vagrantfile.lock"));
        assert_eq!(lock_file(Path::new("/p/Vagrantfile.toml")), Path::new("/p/Vagrantfile.toml.lock"));
    }

    #[test]
    fn a_hand_edited_file_is_told_with_its_line() {
        let text = render_locks(&locks(), "0.1.0");
        let line = |part: &str| text.lines().position(|line| line.contains(part)).unwrap() + 1;
        let edited = faults(&text.replace("sudo 1.9.16p2-3", "sudo 1.9.17"));
        let expected = "the digest of box `debian/13` does not fit its recipe and packages";
        assert_eq!(edited, [(line("digest = \""), expected.to_owned())]);
        for (from, to, said) in [
            ("sudo 1.9.16p2-3", "sudo $(reboot)", "is no package"),
            ("sudo 1.9.16p2-3", "sudo", "is no package"),
            ("sudo 1.9.16p2-3", "-o 1", "is no package"),
            ("nginx-light 1.26.3-3+deb13u1", "nginx-light $(reboot)", "is no package"),
            ("suite = \"trixie\"", "suite = \"../x\"", "is not a release"),
            ("20261125T", "20261325T", "is not a time"),
            ("name = \"debian/13\"", "name = \"../13\"", "is not the name of a box"),
            ("6.12.117", "6.12 117", "is not the release of a kernel"),
            ("\"656799cbc8df457c\"", "\"xyz\"", "is not 16 or 64"),
        ] {
            let found = faults(&text.replace(from, to));
            let at = line(from);
            assert!(found.iter().any(|(l, text)| *l == at && text.contains(said)), "{from}: {found:?}");
        }
    }

    #[test]
    fn damage_is_an_error_and_no_panic() {
        let text = render_locks(&locks(), "0.1.0");
        for (damaged, line) in [
            ("version = 2\nbeyond = true\n".to_owned(), 1),
            ("rvm = \"1\"\n".to_owned(), 1),
            (text.replace("rvm =", "rmv ="), 4),
            (format!("{text}<<<<<<< HEAD\n"), text.lines().count() + 1),
            (text.replace("packages = [", "packages = 1 # ["), 0),
        ] {
            let found = faults(&damaged);
            assert!(line == 0 || found.first().is_some_and(|(at, _)| *at == line), "{damaged}: {found:?}");
        }
        let twice = format!(
            "{text}{}",
            text.split_once("\n[[box]]")
                .map(|(_, rest)| { format!("\n[[box]]{}", rest.split("\n[kernel").next().unwrap()) })
                .unwrap()
        );
        assert!(faults(&twice)[0].1.contains("locked twice"), "{:?}", faults(&twice));
    }

    #[test]
    fn times() {
        for (text, expected) in [
            ("19700101T000000Z", 0),
            ("20000229T123456Z", 951_827_696),
            ("20261125T101500Z", 1_795_601_700),
            ("29991231T235959Z", 32_503_679_999),
        ] {
            assert_eq!(seconds(text), Some(expected), "{text}");
            assert_eq!(timestamp(expected), text);
        }
        for wrong in ["", "20261125T101500", "2026-11-25T10:15Z", "20261125T241500Z", "+0261125T101500Z"] {
            assert_eq!(seconds(wrong), None, "{wrong}");
        }
    }

    proptest::proptest! {
        #[test]
        fn no_text_makes_it_panic(text in ".{0,200}", at in 0usize..500, cut in 0usize..600) {
            let mut whole = render_locks(&locks(), "0.1.0");
            if whole.is_char_boundary(at.min(whole.len())) {
                whole.insert_str(at.min(whole.len()), &text);
            }
            let cut = cut.min(whole.len());
            if whole.is_char_boundary(cut) {
                whole.truncate(cut);
            }
            let _ = parse(Path::new("/x"), &whole);
        }
    }
}
