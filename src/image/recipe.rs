//! What the built-in boxes are made of.

use sha2::{Digest, Sha256};

use super::{ImageError, initrd};
use crate::model::hex;

/// How a box is made. Every field counts towards its digest.
#[derive(Debug, Clone, Copy)]
pub(super) struct Recipe {
    pub name: &'static str,
    /// Release of Debian.
    pub suite: &'static str,
    /// `minbase` installs the packages and what makes a Debian; `extract` only unpacks them.
    pub variant: &'static str,
    pub packages: &'static [&'static str],
    /// Sets up the root file system from the packages; see `host/assemble.sh`.
    pub script: &'static str,
    /// Files that go into the box, by the names that the script uses.
    pub files: &'static [(&'static str, &'static str)],
    /// Size of the root disk image in bytes: the smallest machine disk.
    pub size: u64,
    /// Size in bytes of a machine's disk where the project does not say.
    pub default_disk: u64,
}

/// Changes with what is not in the scripts, such as the layout of a box's folder.
const FORMAT: &str = "rvm box 1";
const GIB: u64 = 1 << 30;

const DEBIAN_PACKAGES: &[&str] = &[
    "systemd-sysv",
    "systemd-resolved",
    "systemd-timesyncd",
    "dbus",
    "udev",
    "kmod",
    "e2fsprogs",
    "openssh-server",
    "sudo",
    "iproute2",
    "iputils-ping",
    "netbase",
    "ca-certificates",
    "curl",
    "less",
    "procps",
];

const RECIPES: &[Recipe] = &[
    debian("debian/13", "trixie"),
    debian("debian/12", "bookworm"),
    Recipe {
        name: "micro",
        suite: "trixie",
        variant: "extract",
        packages: &["dropbear-bin", "sudo", "libpam-modules", "e2fsprogs"],
        script: include_str!("host/micro.sh"),
        files: MICRO_FILES,
        size: 64 << 20,
        default_disk: GIB,
    },
];

/// Names of the boxes that can be built.
pub fn known_boxes() -> impl Iterator<Item = &'static str> {
    RECIPES.iter().map(|recipe| recipe.name)
}

const fn debian(name: &'static str, suite: &'static str) -> Recipe {
    Recipe {
        name,
        suite,
        variant: "minbase",
        packages: DEBIAN_PACKAGES,
        script: include_str!("host/debian.sh"),
        files: DEBIAN_FILES,
        size: 2 * GIB,
        default_disk: 10 * GIB,
    }
}

/// Makes the disk of a box; runs on the host.
pub(super) const ASSEMBLE: &str = include_str!("host/assemble.sh");
/// Fetches the kernel; runs on the host, called by mmdebstrap.
pub(super) const FETCH_KERNEL: &str = include_str!("host/fetch-kernel.sh");

/// The program that tells the host that a guest is up: `guest/agent`, compiled by `build.rs`.
pub(super) const AGENT: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/agent"));
/// What counts of it for a digest: another compiler makes no other box.
const AGENT_SOURCE: [&str; 3] = [
    include_str!("../../guest/agent/main.rs"),
    include_str!("../../guest/agent/changes.rs"),
    include_str!("../../guest/agent/ssh.rs"),
];

const SEED: (&str, &str) = ("seed.sh", include_str!("guest/seed.sh"));

const CONSOLE_LOGIN: (&str, &str) = ("console-login.sh", include_str!("guest/console-login.sh"));

const DEBIAN_FILES: &[(&str, &str)] = &[
    SEED,
    CONSOLE_LOGIN,
    ("hvc0-getty.conf", include_str!("guest/hvc0-getty.conf")),
    ("rvm-seed.service", include_str!("guest/rvm-seed.service")),
    ("rvm-agent.service", include_str!("guest/rvm-agent.service")),
    ("80-rvm.network", include_str!("guest/80-rvm.network")),
    ("50-rvm.conf", include_str!("guest/50-rvm.conf")),
    ("60-rvm-apt.conf", include_str!("guest/60-rvm-apt.conf")),
];

const MICRO_FILES: &[(&str, &str)] = &[
    SEED,
    CONSOLE_LOGIN,
    ("micro-console.sh", include_str!("guest/micro-console.sh")),
    ("micro-inittab", include_str!("guest/micro-inittab")),
    ("micro-rcS.sh", include_str!("guest/micro-rcS.sh")),
    ("micro-rcK.sh", include_str!("guest/micro-rcK.sh")),
    ("micro-power.sh", include_str!("guest/micro-power.sh")),
    ("micro-udhcpc.sh", include_str!("guest/micro-udhcpc.sh")),
];

impl Recipe {
    /// The recipe of that name.
    pub(super) fn find(name: &str) -> Result<&'static Recipe, ImageError> {
        RECIPES.iter().find(|recipe| recipe.name == name).ok_or_else(|| ImageError::UnknownBox {
            name: name.to_owned(),
            known: RECIPES.iter().map(|recipe| recipe.name).collect(),
        })
    }

    /// SHA-256 (hex) of all that decides how the box comes out, but for the packages' versions.
    pub(super) fn digest(&self) -> String {
        let mut parts =
            vec![FORMAT, self.name, self.suite, self.variant, self.script, ASSEMBLE, FETCH_KERNEL];
        parts.extend(AGENT_SOURCE);
        let sizes = format!("{} {}", self.size, self.default_disk);
        parts.push(&sizes);
        parts.extend(self.packages);
        parts.extend(self.files.iter().flat_map(|(name, text)| [*name, *text]));
        parts.extend(initrd::INGREDIENTS.iter().flat_map(|list| list.iter().copied()));
        let mut hash = Sha256::new();
        for part in parts {
            hash.update((part.len() as u64).to_le_bytes());
            hash.update(part);
        }
        hex(&hash.finalize())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn digests_tell_recipes_apart() {
        let digests: std::collections::BTreeSet<_> = RECIPES.iter().map(Recipe::digest).collect();
        assert_eq!(digests.len(), RECIPES.len());
        let changed = Recipe { packages: &["busybox-static"], ..*Recipe::find("micro").unwrap() };
        assert_ne!(changed.digest(), Recipe::find("micro").unwrap().digest());
    }

    #[test]
    fn an_unknown_box_names_the_known() {
        let error = Recipe::find("ubuntu/24.04").unwrap_err();
        assert_eq!(error.to_string(), "there is no box `ubuntu/24.04`");
        assert_eq!(error.hint().unwrap(), "boxes that can be built: debian/13, debian/12, micro");
    }

    /// What the start script of `micro` writes for such lines of the seed.
    fn resolvers(networks: &str) -> Option<String> {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("rvm-networks"), networks).unwrap();
        let script = include_str!("guest/micro-rcS.sh");
        let part = script.split("# The first resolvers").nth(1).unwrap().split("for card in").next().unwrap();
        let part = format!("#{}", part.replace("/run/", &format!("{}/", dir.path().display())));
        let status = std::process::Command::new("sh").args(["-euc", &part]).status().unwrap();
        assert!(status.success(), "{part}");
        std::fs::read_to_string(dir.path().join("resolv.conf")).ok()
    }

    #[test]
    fn networks_without_resolvers_are_asked_nothing() {
        let private =
            "02:00:00:00:00:01 1500 static no-routers 10.1.0.5/24 10.1.0.254,fd01::1 back,front -\n";
        let bridge = "02:00:00:00:00:02 1500 static routers 10.97.0.5/24 - - -\n";
        assert_eq!(resolvers(bridge), None);
        let both = Some("search back front\nnameserver 10.1.0.254\n".to_owned());
        assert_eq!(resolvers(&format!("{private}{bridge}")), both);
        assert_eq!(resolvers(&format!("{bridge}{private}")), both);
        assert_eq!(resolvers(&private.repeat(3)).unwrap().lines().count(), 3);
    }

    #[test]
    fn scripts_are_valid_shell() {
        let scripts = RECIPES.iter().map(|recipe| recipe.script).chain([ASSEMBLE, FETCH_KERNEL]);
        let guest = RECIPES.iter().flat_map(|recipe| recipe.files);
        let guest = guest.filter(|(name, _)| name.ends_with(".sh")).map(|(_, text)| *text);
        for script in scripts.chain(guest).chain([initrd::INIT]) {
            let status = std::process::Command::new("sh").args(["-n", "-c", script]).status().unwrap();
            assert!(status.success(), "{script}");
        }
    }
}
