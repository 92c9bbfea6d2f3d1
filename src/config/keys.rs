//! The keys of the file. `docs/config.md` describes each of them; a test compares the two.

/// Keys of one machine; at the top of the file they are the defaults of all machines.
pub(super) const MACHINE: &[&str] = &[
    "box",
    "cpus",
    "nested",
    "memory",
    "disk",
    "hostname",
    "provider",
    "kernel",
    "boot_timeout",
    "halt_timeout",
    "groups",
    "autostart",
    "message",
    "port",
    "ready",
    "provision",
];
/// Keys that stand only at the top of the file.
pub(super) const TOP_ONLY: &[&str] = &["rvm_version", "env_file", "network", "machine", "hook"];
/// Keys that stand only in a `[[machine]]`.
pub(super) const MACHINE_ONLY: &[&str] = &["name", "count", "network", "primary", "depends_on"];
/// Keys of a `[[disk]]`.
pub(super) const DISK: &[&str] = &["name", "size", "filesystem", "image", "format", "mount", "read_only"];
/// Keys of a `[[port]]`.
pub(super) const PORT: &[&str] = &["guest", "host", "host_ip", "protocol", "auto_correct"];
/// Keys of a `[[ready]]`.
pub(super) const READY: &[&str] = &["port", "command", "file", "timeout"];
/// Keys of a `[[network]]` at the top of the file.
pub(super) const NETWORK: &[&str] = &["name", "subnet", "shared", "dhcp", "mtu"];
/// Keys of a `[[machine.network]]`.
pub(super) const CARD: &[&str] = &["private", "ip"];
/// Keys of a `[[provision]]`.
pub(super) const STEP: &[&str] = &[
    "name",
    "run",
    "env",
    "shell",
    "path",
    "args",
    "privileged",
    "packages",
    "file",
    "reboot",
    "retries",
    "timeout",
    "sensitive",
];
/// Keys of a `[[hook]]`.
pub(super) const HOOK: &[&str] = &[
    "before",
    "after",
    "on",
    "machines",
    "on_error",
    "name",
    "shell",
    "path",
    "args",
    "privileged",
    "env",
    "timeout",
];
/// Keys of `file = { … }` in a step.
pub(super) const FILE: &[&str] = &["source", "destination"];

/// What people write who know Vagrant, Compose or Lima, and what it is called here.
const OTHER_NAMES: &[(&str, &str)] = &[
    ("image", "box"),
    ("cpu", "cpus"),
    ("mem", "memory"),
    ("ram", "memory"),
    ("host_name", "hostname"),
    ("disks", "disk"),
    ("volume", "disk"),
    ("volumes", "disk"),
    ("mount_point", "mount"),
    ("mountpoint", "mount"),
    ("readonly", "read_only"),
    ("fs", "filesystem"),
    ("fstype", "filesystem"),
    ("ports", "port"),
    ("forwarded_port", "port"),
    ("forwarded_ports", "port"),
    ("networks", "network"),
    ("private_network", "network"),
    ("cidr", "subnet"),
    ("subnets", "subnet"),
    ("ip_address", "ip"),
    ("ips", "ip"),
    ("machines", "machine"),
    ("vm", "machine"),
    ("define", "machine"),
    ("replicas", "count"),
    ("scale", "count"),
    ("instances", "count"),
    ("group", "groups"),
    ("tags", "groups"),
    ("auto_start", "autostart"),
    ("dependsOn", "depends_on"),
    ("needs", "depends_on"),
    ("requires", "depends_on"),
    ("healthcheck", "ready"),
    ("probe", "ready"),
    ("probes", "ready"),
    ("post_up_message", "message"),
    ("hooks", "hook"),
    ("trigger", "hook"),
    ("triggers", "hook"),
    ("provisions", "provision"),
    ("provisioner", "provision"),
    ("provisioners", "provision"),
    ("steps", "provision"),
    ("step", "provision"),
    ("graceful_halt_timeout", "halt_timeout"),
    ("inline", "shell"),
    ("script", "path"),
    ("package", "packages"),
    ("environment", "env"),
    ("guest_port", "guest"),
    ("host_port", "host"),
    ("address", "host_ip"),
    ("proto", "protocol"),
    ("src", "source"),
    ("dst", "destination"),
    ("dest", "destination"),
    ("type", "shell"),
];

/// Which kind of table a key stands in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Place {
    /// The top of the file.
    Top,
    /// `[[machine]]`.
    Machine,
    /// `[[disk]]`.
    Disk,
    /// `[[port]]`.
    Port,
    /// `[[ready]]`.
    Ready,
    /// `[[network]]`.
    Network,
    /// `[[machine.network]]`.
    Card,
    /// `[[provision]]`.
    Step,
    /// `[[hook]]`.
    Hook,
    /// `file = { … }`.
    File,
}

impl Place {
    /// For messages: "unknown key `x` …".
    pub fn within(self) -> &'static str {
        match self {
            Place::Top => "at the top of the file",
            Place::Machine => "in a machine",
            Place::Disk => "in a disk",
            Place::Port => "in a port",
            Place::Ready => "in a readiness check",
            Place::Network => "in a network",
            Place::Card => "in a machine's network",
            Place::Step => "in a provision step",
            Place::Hook => "in a hook",
            Place::File => "in `file`",
        }
    }

    /// The keys that may stand here.
    pub fn keys(self) -> impl Iterator<Item = &'static str> {
        let (own, shared): (&[&str], &[&str]) = match self {
            Place::Top => (TOP_ONLY, MACHINE),
            Place::Machine => (MACHINE_ONLY, MACHINE),
            Place::Disk => (DISK, &[]),
            Place::Port => (PORT, &[]),
            Place::Ready => (READY, &[]),
            Place::Network => (NETWORK, &[]),
            Place::Card => (CARD, &[]),
            Place::Step => (STEP, &[]),
            Place::Hook => (HOOK, &[]),
            Place::File => (FILE, &[]),
        };
        own.iter().chain(shared).copied()
    }
}

/// What to do about a key that does not belong where it is.
pub(super) fn help_for(key: &str, place: Place) -> String {
    let here = |name: &str| place.keys().any(|known| known == name);
    let other = OTHER_NAMES.iter().find(|(other, _)| key.eq_ignore_ascii_case(other));
    if let Some((_, name)) = other.filter(|(_, name)| here(name)) {
        return match *name {
            "machine" | "disk" | "port" | "ready" | "network" | "provision" | "hook" => {
                format!("it is written `[[{name}]]` here")
            }
            "shell" if key == "type" => {
                "the kind follows from the key: `shell`, `path`, `packages` or `file`".into()
            }
            _ => format!("it is called `{name}` here"),
        };
    }
    if let Some(near) = super::suggest::nearest(key, place.keys()) {
        return format!("did you mean `{near}`?");
    }
    // Keys after a `[[provision]]` header are part of it: an easy mistake to make.
    let belongs = [
        (Place::Top, "above the first `[[…]]` of the file"),
        (Place::Machine, "in a `[[machine]]`"),
        (Place::Disk, "in a `[[disk]]`"),
        (Place::Port, "in a `[[port]]`"),
        (Place::Step, "in a `[[provision]]`"),
        (Place::Ready, "in a `[[ready]]`"),
        (Place::Network, "in a `[[network]]` at the top of the file"),
        (Place::Card, "in a `[[machine.network]]`"),
    ];
    let home = belongs.iter().find(|(home, _)| *home != place && home.keys().any(|known| known == key));
    match home {
        Some((_, home)) => format!("`{key}` belongs {home}"),
        None => format!("known here: {}", place.keys().collect::<Vec<_>>().join(", ")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_of_help() {
        assert_eq!(help_for("memroy", Place::Top), "did you mean `memory`?");
        assert_eq!(help_for("ram", Place::Machine), "it is called `memory` here");
        assert_eq!(help_for("ports", Place::Top), "it is written `[[port]]` here");
        assert_eq!(help_for("box", Place::Step), "`box` belongs above the first `[[…]]` of the file");
        assert_eq!(help_for("guest", Place::Top), "`guest` belongs in a `[[port]]`");
        assert_eq!(help_for("zzzzzz", Place::File), "known here: source, destination");
        assert!(help_for("type", Place::Step).starts_with("the kind follows"));
    }

    #[test]
    fn other_names_lead_to_real_keys_and_are_none_themselves() {
        let places = [
            Place::Top,
            Place::Machine,
            Place::Disk,
            Place::Port,
            Place::Ready,
            Place::Network,
            Place::Card,
            Place::Step,
            Place::Hook,
            Place::File,
        ];
        for (other, name) in OTHER_NAMES {
            assert!(places.iter().any(|place| place.keys().any(|key| key == *name)), "{name}");
            let same = places
                .iter()
                .any(|place| place.keys().any(|key| key == *other) && place.keys().any(|k| k == *name));
            assert!(!same, "{other}");
        }
    }

    #[test]
    fn the_reference_describes_every_key() {
        let reference = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/config.md");
        let text = std::fs::read_to_string(reference).unwrap();
        for key in
            [TOP_ONLY, MACHINE_ONLY, MACHINE, DISK, PORT, READY, NETWORK, CARD, STEP, HOOK, FILE].concat()
        {
            let row = format!("| `{key}` |");
            assert!(text.contains(&row), "docs/config.md has no row for `{key}`");
        }
    }
}
