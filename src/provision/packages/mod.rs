//! Package managers of guests: one script each, with the same manners. What is installed stays as it
//! is, nothing is asked, a lock is waited for up to two minutes, and a mirror that cannot be reached is
//! told from a package that there is not.

use super::guest::Facts;

/// A package manager: how it is recognised, what names it takes, how it installs.
pub(super) trait PackageManager {
    /// The program that shows that it is there.
    fn program(&self) -> &'static str;

    /// Whether the word can be a package's name, as this manager spells them.
    fn takes(&self, name: &str) -> bool;

    /// A command that lists what is installed: a line with name, blank and version each. `None`: versions
    /// are not locked with this manager.
    fn list(&self) -> Option<&'static str> {
        None
    }

    /// The packages that are a container engine with the client `docker`.
    fn engine(&self) -> &'static [&'static str];

    /// A script for `sh`, run as root, that installs the packages `"$@"`. It leaves alone what is
    /// installed, and ends with [`UNREACHABLE`] when a mirror cannot be reached.
    fn script(&self) -> &'static str;
}

/// Exit code of a script that would have to install something in another version than the locked one.
pub(super) const NOT_AS_LOCKED: i32 = 218;

/// Exit code of a script that would have to install something that is not locked, where all has to be.
pub(super) const NOT_LOCKED: i32 = 217;

/// Exit code of a script that could not reach a mirror.
pub(super) const UNREACHABLE: i32 = 219;

/// Whether it is a word of these characters that begins with a letter or digit.
fn is_word(name: &str, first: fn(&char) -> bool, others: &str) -> bool {
    name.len() <= 200
        && name.chars().next().is_some_and(|c| first(&c))
        && name.chars().all(|c| c.is_ascii_alphanumeric() || others.contains(c))
}

/// Whether these can be the name of a package and its version (Debian Policy sections 5.6.1 and 5.6.12).
pub(super) fn is_version(name: &str, version: &str) -> bool {
    is_word(name, |c| c.is_ascii_alphanumeric(), "+.-")
        && is_word(version, |c| c.is_ascii_alphanumeric(), ".+:~-")
}

/// Debian's and Ubuntu's.
struct Apt;

impl PackageManager for Apt {
    fn program(&self) -> &'static str {
        "apt-get"
    }

    /// Debian Policy sections 5.6.1 (names) and 5.6.12 (versions), with `name:arch`, `name=version`.
    fn takes(&self, name: &str) -> bool {
        is_word(name, |c| c.is_ascii_lowercase() || c.is_ascii_digit(), ".+:=~_-")
    }

    fn list(&self) -> Option<&'static str> {
        Some(r"dpkg-query -W -f '${db:Status-Status} ${Package} ${Version}\n' | sed -n 's/^installed //p'")
    }

    /// Newer releases have the client in a package of its own, which this one recommends.
    fn engine(&self) -> &'static [&'static str] {
        &["docker.io"]
    }

    fn script(&self) -> &'static str {
        include_str!("apt.sh")
    }
}

/// Alpine's.
struct Apk;

impl PackageManager for Apk {
    fn program(&self) -> &'static str {
        "apk"
    }

    /// With `name=version`, `name~prefix` and `name@repository`.
    fn takes(&self, name: &str) -> bool {
        is_word(name, char::is_ascii_alphanumeric, ".+=~@_-")
    }

    fn engine(&self) -> &'static [&'static str] {
        &["docker"]
    }

    fn script(&self) -> &'static str {
        include_str!("apk.sh")
    }
}

/// Fedora's and that of its relatives.
struct Dnf;

impl PackageManager for Dnf {
    fn program(&self) -> &'static str {
        "dnf"
    }

    /// With `name=version` for `name-version`, and `name.arch`.
    fn takes(&self, name: &str) -> bool {
        is_word(name, char::is_ascii_alphanumeric, ".+:=~^_-")
    }

    /// Fedora's name for it.
    fn engine(&self) -> &'static [&'static str] {
        &["moby-engine"]
    }

    fn script(&self) -> &'static str {
        include_str!("dnf.sh")
    }
}

/// Arch Linux's.
struct Pacman;

impl PackageManager for Pacman {
    fn program(&self) -> &'static str {
        "pacman"
    }

    /// With `name=version`, as far as a mirror still has it.
    fn takes(&self, name: &str) -> bool {
        is_word(name, char::is_ascii_alphanumeric, ".+:=@_-")
    }

    fn engine(&self) -> &'static [&'static str] {
        &["docker"]
    }

    fn script(&self) -> &'static str {
        include_str!("pacman.sh")
    }
}

/// The guest's package manager; `None` when it has none that is known.
pub(super) fn detect(facts: &Facts) -> Option<&'static dyn PackageManager> {
    const KNOWN: [&dyn PackageManager; 4] = [&Apt, &Apk, &Dnf, &Pacman];
    KNOWN.into_iter().find(|manager| facts.has(manager.program()))
}

/// A package manager that is there but not served yet.
pub(super) fn unserved(facts: &Facts) -> Option<&'static str> {
    ["zypper"].into_iter().find(|program| facts.has(program))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_that_a_lock_file_takes() {
        for (name, version) in [("g++", "4:14.2.0-1"), ("libssl3t64", "3.5.1-1+deb13u1"), ("a", "1~rc1")] {
            assert!(is_version(name, version), "{name} {version}");
        }
        for (name, version) in
            [("a", ""), ("", "1"), ("a", "1 2"), ("a", "1\""), ("a\n", "1"), ("a", "1=2"), ("-a", "1")]
        {
            assert!(!is_version(name, version), "{name:?} {version:?}");
        }
    }

    #[test]
    fn only_names_of_packages_are_taken() {
        for good in ["git", "g++", "libc6:amd64", "nginx=1.22.1-9+deb12u1", "7zip", "python3.11", "a=1:2~Rc1"]
        {
            assert!(Apt.takes(good), "{good}");
        }
        for bad in ["", "-y", "a b", "a;b", "$(x)", "a'", "a\n", "../a.deb", "Git", "a*", "grüße"] {
            assert!(!Apt.takes(bad), "{bad}");
        }
        let others: [&dyn PackageManager; 3] = [&Apk, &Dnf, &Pacman];
        for manager in others {
            for good in ["git", "nginx=1.26.2-r0", "NetworkManager", "gtk+3.0", "python3.11"] {
                assert!(manager.takes(good), "{}: {good}", manager.program());
            }
            for bad in
                ["", "-y", "--root", "!git", "a b", "a;b", "$(x)", "a*", "@group", "../a", "a/b", "a\n"]
            {
                assert!(!manager.takes(bad), "{}: {bad}", manager.program());
            }
        }
    }
}
