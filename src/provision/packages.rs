//! Package managers of guests.

use super::guest::Facts;

/// A package manager: how it is recognised, what names it takes, how it installs.
pub(super) trait PackageManager {
    /// The program that shows that it is there.
    fn program(&self) -> &'static str;

    /// Whether the word can be a package's name, as this manager spells them.
    fn takes(&self, name: &str) -> bool;

    /// A script for `sh`, run as root, that installs the packages `"$@"`. It leaves alone what is
    /// installed.
    fn script(&self) -> &'static str;
}

/// Debian's and Ubuntu's.
struct Apt;

impl PackageManager for Apt {
    fn program(&self) -> &'static str {
        "apt-get"
    }

    /// Debian Policy sections 5.6.1 (names) and 5.6.12 (versions), with `name:arch`, `name=version`.
    fn takes(&self, name: &str) -> bool {
        name.len() <= 200
            && name.starts_with(|c: char| c.is_ascii_lowercase() || c.is_ascii_digit())
            && name.chars().all(|c| c.is_ascii_alphanumeric() || ".+:=~_-".contains(c))
    }

    fn script(&self) -> &'static str {
        include_str!("apt.sh")
    }
}

/// The guest's package manager; `None` when it has none that is known.
pub(super) fn detect(facts: &Facts) -> Option<&'static dyn PackageManager> {
    const KNOWN: [&dyn PackageManager; 1] = [&Apt];
    KNOWN.into_iter().find(|manager| facts.has(manager.program()))
}

/// A package manager that is there but not served yet.
pub(super) fn unserved(facts: &Facts) -> Option<&'static str> {
    ["apk", "dnf", "pacman", "zypper"].into_iter().find(|program| facts.has(program))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_names_of_packages_are_taken() {
        for good in ["git", "g++", "libc6:amd64", "nginx=1.22.1-9+deb12u1", "7zip", "python3.11", "a=1:2~Rc1"]
        {
            assert!(Apt.takes(good), "{good}");
        }
        for bad in ["", "-y", "a b", "a;b", "$(x)", "a'", "a\n", "../a.deb", "Git", "a*", "grüße"] {
            assert!(!Apt.takes(bad), "{bad}");
        }
    }
}
