//! The keys of the file: the one place that says which there are and of what kind. The reader
//! takes from it what it does not know, `schema` makes the schema of it, and a test compares
//! `docs/config.md`, which says what each means, with it.

use super::kinds::Kind;
use super::{disks, folders, networks, shares};

/// A key and what its value is. What it means is said in `docs/config.md`.
#[derive(Debug, Clone, Copy)]
pub(super) struct Key {
    /// Its name.
    pub name: &'static str,
    /// What its value is.
    pub kind: Kind,
}

const fn key(name: &'static str, kind: Kind) -> Key {
    Key { name, kind }
}

const PORT_NUMBER: Kind = Kind::Number(1, 65535);

/// Keys of one machine; at the top of the file they are the defaults of all machines.
const MACHINE: &[Key] = &[
    key("box", Kind::Text),
    key("cpus", Kind::Share(shares::CPUS.0, shares::CPUS.1)),
    key("nested", Kind::Boolean),
    key("memory", Kind::SizeOrShare { least: shares::MEMORY.0, most: shares::MEMORY.1 }),
    key(
        "disk",
        Kind::SizeOrTables { least: disks::ROOT_SIZE.0, most: disks::ROOT_SIZE.1, tables: Place::Disk },
    ),
    key("folder", Kind::SwitchOrTables(Place::Folder)),
    key("hostname", Kind::Text),
    key("provider", Kind::Word(&["kvm", "qemu"])),
    key("kernel", Kind::Word(&["stock", "fast"])),
    key("boot_timeout", Kind::Time),
    key("halt_timeout", Kind::Time),
    key("groups", Kind::Texts),
    key("autostart", Kind::Boolean),
    key("message", Kind::Text),
    key("ssh", Kind::Table(Place::Ssh)),
    key("port", Kind::Tables(Place::Port)),
    key("auto_forward", Kind::Boolean),
    key("nat", Kind::Word(&["open", "no-host", "closed", "none"])),
    key("nat_backend", Kind::Word(&["auto", "stream", "vhost-user"])),
    key("ready", Kind::Tables(Place::Ready)),
    key("provision", Kind::Tables(Place::Step)),
];
/// Keys that stand only at the top of the file.
const TOP_ONLY: &[Key] = &[
    key("rvm_version", Kind::Text),
    key("include", Kind::OneOrMoreTexts),
    key("env_file", Kind::OneOrMoreTexts),
    key("vars", Kind::Variables),
    key("profiles", Kind::Named(Place::Profile)),
    key("network", Kind::Tables(Place::Network)),
    key("volume", Kind::Tables(Place::Volume)),
    key("machine", Kind::Tables(Place::Machine)),
    key("hook", Kind::Tables(Place::Hook)),
    key("after_all", Kind::Tables(Place::AfterAll)),
];
/// Keys that stand at the top of the file and in a machine, but not in a profile.
const NOT_IN_PROFILE: &[Key] = &[key("profile", Kind::Text)];
/// Keys that stand only in a `[[machine]]`.
const MACHINE_ONLY: &[Key] = &[
    key("name", Kind::Text),
    key("count", Kind::Number(0, 256)),
    key("network", Kind::Tables(Place::Card)),
    key("primary", Kind::Boolean),
    key("depends_on", Kind::Texts),
];
/// Keys of a `[[disk]]`.
const DISK: &[Key] = &[
    key("name", Kind::Text),
    key("size", Kind::Size { least: disks::SIZE.0, most: disks::SIZE.1, bare: false }),
    key("filesystem", Kind::Word(&["ext4", "none"])),
    key("mount", Kind::Text),
    key("volume", Kind::Text),
    key("image", Kind::Text),
    key("format", Kind::Word(&["raw", "qcow2"])),
    key("read_only", Kind::Boolean),
];
/// Keys of `[ssh]`.
const SSH: &[Key] = &[
    key("user", Kind::Text),
    key("port", PORT_NUMBER),
    key("forward_agent", Kind::Boolean),
    key("forward_x11", Kind::Boolean),
    key("keep_alive", Kind::Boolean),
    key("options", Kind::Texts),
];
/// Keys of a `[[folder]]`.
const FOLDER: &[Key] = &[
    key("guest", Kind::Text),
    key("host", Kind::Text),
    key("type", Kind::Word(&["virtiofs", "rsync", "tmpfs"])),
    key("readonly", Kind::Boolean),
    key("owner", Kind::Text),
    key("exclude", Kind::Texts),
    key("delete", Kind::Boolean),
    key("watch", Kind::Boolean),
    key("create", Kind::Boolean),
    key("size", Kind::Size { least: folders::SIZE.0, most: folders::SIZE.1, bare: false }),
    key("options", Kind::Texts),
    key("disabled", Kind::Boolean),
];
/// Keys of a `[[volume]]`.
const VOLUME: &[Key] = &[
    key("name", Kind::Text),
    key("size", Kind::Size { least: disks::SIZE.0, most: disks::SIZE.1, bare: false }),
    key("filesystem", Kind::Word(&["ext4", "none"])),
    key("shared", Kind::Boolean),
];
/// Keys of a `[[port]]`.
const PORT: &[Key] = &[
    key("guest", Kind::Ports),
    key("host", Kind::Ports),
    key("host_ip", Kind::Text),
    key("protocol", Kind::Word(&["tcp", "udp"])),
    key("auto_correct", Kind::Boolean),
];
/// Keys of a `[[ready]]`.
const READY: &[Key] = &[
    key("port", PORT_NUMBER),
    key("command", Kind::Script),
    key("file", Kind::Text),
    key("timeout", Kind::Time),
];
/// Keys of a `[[network]]` at the top of the file.
const NETWORK: &[Key] = &[
    key("name", Kind::Text),
    key("subnet", Kind::OneOrMoreTexts),
    key("shared", Kind::Boolean),
    key("dhcp", Kind::Boolean),
    key("mtu", Kind::Number(networks::MTU.0, networks::MTU.1)),
];
/// Keys of a `[[machine.network]]`.
const CARD: &[Key] = &[
    key("private", Kind::Text),
    key("bridge", Kind::Text),
    key("tap", Kind::Text),
    key("ip", Kind::OneOrMoreTexts),
];
/// Keys of a `[[provision]]`.
const STEP: &[Key] = &[
    key("shell", Kind::Script),
    key("path", Kind::Text),
    key("args", Kind::Texts),
    key("privileged", Kind::Boolean),
    key("packages", Kind::Texts),
    key("file", Kind::Table(Place::File)),
    key("ansible", Kind::Text),
    key("extra_vars", Kind::AnyTable),
    key("limit", Kind::Text),
    key("tags", Kind::Texts),
    key("skip_tags", Kind::Texts),
    key("become", Kind::Boolean),
    key("docker", Kind::Table(Place::Docker)),
    key("reboot", Kind::Boolean),
    key("retries", Kind::Number(0, 100)),
    key("timeout", Kind::Time),
    key("sensitive", Kind::Boolean),
    key("name", Kind::Text),
    key("run", Kind::Word(&["once", "always", "never"])),
    key("env", Kind::Texts),
];
/// Keys of a `[[hook]]`.
const HOOK: &[Key] = &[
    key("before", Kind::OneOrMoreTexts),
    key("after", Kind::OneOrMoreTexts),
    key("on", Kind::Word(&["host", "guest"])),
    key("shell", Kind::Script),
    key("path", Kind::Text),
    key("args", Kind::Texts),
    key("privileged", Kind::Boolean),
    key("env", Kind::Texts),
    key("timeout", Kind::Time),
    key("on_error", Kind::Word(&["halt", "continue"])),
    key("machines", Kind::Texts),
    key("name", Kind::Text),
];
/// Keys of an `[[after_all]]` beside those of a step.
const AFTER_ALL: &[Key] = &[key("on", Kind::Word(&["host", "guest"])), key("machines", Kind::Texts)];
/// Keys of `file = { … }` in a step.
const FILE: &[Key] = &[
    key("source", Kind::Text),
    key("destination", Kind::Text),
    key("exclude", Kind::Texts),
    key("owner", Kind::Text),
    key("group", Kind::Text),
    key("mode", Kind::Text),
];
/// Keys of `docker = { … }` in a step.
const DOCKER: &[Key] = &[
    key("images", Kind::Texts),
    key("archives", Kind::Texts),
    key("container", Kind::Tables(Place::Container)),
    key("remove", Kind::Boolean),
];
/// Keys of a `[[provision.docker.container]]`.
const CONTAINER: &[Key] = &[
    key("name", Kind::Text),
    key("image", Kind::Text),
    key("ports", Kind::Texts),
    key("env", Kind::Variables),
    key("volumes", Kind::Texts),
    key("command", Kind::Texts),
    key("restart", Kind::Word(&["no", "on-failure", "always", "unless-stopped"])),
    key("network", Kind::Text),
    key("options", Kind::Texts),
];

/// What people write who know Vagrant, Compose or Lima, and what it is called here.
const OTHER_NAMES: &[(&str, &str)] = &[
    ("image", "box"),
    ("variables", "vars"),
    ("includes", "include"),
    ("imports", "include"),
    ("env_files", "env_file"),
    ("dotenv", "env_file"),
    ("cpu", "cpus"),
    ("mem", "memory"),
    ("ram", "memory"),
    ("host_name", "hostname"),
    ("disks", "disk"),
    ("folders", "folder"),
    ("synced_folder", "folder"),
    ("synced_folders", "folder"),
    ("mounts", "folder"),
    ("volumes", "volume"),
    ("mount_point", "mount"),
    ("mountpoint", "mount"),
    ("readonly", "read_only"),
    ("read_only", "readonly"),
    ("ro", "readonly"),
    ("mount_options", "options"),
    ("rsync__exclude", "exclude"),
    ("excludes", "exclude"),
    ("rsync__auto", "watch"),
    ("auto", "watch"),
    ("fs", "filesystem"),
    ("fstype", "filesystem"),
    ("username", "user"),
    ("agent_forwarding", "forward_agent"),
    ("forward_x", "forward_x11"),
    ("ssh_options", "options"),
    ("extra_args", "options"),
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
    ("playbook", "ansible"),
    ("containers", "container"),
    ("services", "container"),
    ("restart_policy", "restart"),
    ("publish", "ports"),
    ("mounts", "volumes"),
    ("cmd", "command"),
    ("script", "path"),
    ("package", "packages"),
    ("environment", "env"),
    ("guest_port", "guest"),
    ("host_port", "host"),
    ("address", "host_ip"),
    ("proto", "protocol"),
    ("guest_ports", "guest"),
    ("host_ports", "host"),
    ("guestPort", "guest"),
    ("hostPort", "host"),
    ("hostIP", "host_ip"),
    ("src", "source"),
    ("dst", "destination"),
    ("dest", "destination"),
    ("source", "host"),
    ("src", "host"),
    ("destination", "guest"),
    ("target", "guest"),
    ("dst", "guest"),
    ("type", "shell"),
];

/// Which kind of table a key stands in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Place {
    /// The top of the file.
    Top,
    /// `[[machine]]`.
    Machine,
    /// `[profiles.NAME]`.
    Profile,
    /// `[[disk]]`.
    Disk,
    /// `[ssh]`.
    Ssh,
    /// `[[folder]]`.
    Folder,
    /// `[[volume]]`.
    Volume,
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
    /// `[[after_all]]`.
    AfterAll,
    /// `file = { … }`.
    File,
    /// `docker = { … }`.
    Docker,
    /// `[[provision.docker.container]]`.
    Container,
}

impl Place {
    /// All kinds of tables, the top of the file first.
    pub const ALL: &[Place] = &[
        Place::Top,
        Place::Machine,
        Place::Profile,
        Place::Disk,
        Place::Ssh,
        Place::Folder,
        Place::Volume,
        Place::Port,
        Place::Ready,
        Place::Network,
        Place::Card,
        Place::Step,
        Place::Hook,
        Place::AfterAll,
        Place::File,
        Place::Docker,
        Place::Container,
    ];

    /// For messages: "unknown key `x` …".
    pub fn within(self) -> &'static str {
        match self {
            Place::Top => "at the top of the file",
            Place::Machine => "in a machine",
            Place::Profile => "in a profile",
            Place::Disk => "in a disk",
            Place::Ssh => "in `ssh`",
            Place::Folder => "in a folder",
            Place::Volume => "in a volume",
            Place::Port => "in a port",
            Place::Ready => "in a readiness check",
            Place::Network => "in a network",
            Place::Card => "in a machine's network",
            Place::Step => "in a provision step",
            Place::Hook => "in a hook",
            Place::AfterAll => "in a step after all machines",
            Place::File => "in `file`",
            Place::Docker => "in `docker`",
            Place::Container => "in a container",
        }
    }

    /// Its name in the schema.
    pub fn name(self) -> &'static str {
        match self {
            Place::Top => "top",
            Place::Machine => "machine",
            Place::Profile => "profile",
            Place::Disk => "disk",
            Place::Ssh => "ssh",
            Place::Folder => "folder",
            Place::Volume => "volume",
            Place::Port => "port",
            Place::Ready => "ready",
            Place::Network => "network",
            Place::Card => "card",
            Place::Step => "provision",
            Place::Hook => "hook",
            Place::AfterAll => "after_all",
            Place::File => "file",
            Place::Docker => "docker",
            Place::Container => "container",
        }
    }

    /// The tables of `docs/config.md` (`<!-- keys: NAME -->`) that describe its keys.
    pub fn reference(self) -> Vec<&'static str> {
        match self {
            Place::Top => vec!["top", "machine"],
            Place::Profile => vec!["machine"],
            Place::AfterAll => vec!["after_all", "provision"],
            _ => vec![self.name()],
        }
    }

    /// The keys that may stand here, as the reference has them.
    pub fn described(self) -> impl Iterator<Item = &'static Key> {
        let parts: &[&[Key]] = match self {
            Place::Top => &[TOP_ONLY, NOT_IN_PROFILE, MACHINE],
            Place::Machine => &[MACHINE_ONLY, NOT_IN_PROFILE, MACHINE],
            Place::Profile => &[MACHINE],
            Place::Disk => &[DISK],
            Place::Ssh => &[SSH],
            Place::Folder => &[FOLDER],
            Place::Volume => &[VOLUME],
            Place::Port => &[PORT],
            Place::Ready => &[READY],
            Place::Network => &[NETWORK],
            Place::Card => &[CARD],
            Place::Step => &[STEP],
            Place::Hook => &[HOOK],
            Place::AfterAll => &[AFTER_ALL, STEP],
            Place::File => &[FILE],
            Place::Docker => &[DOCKER],
            Place::Container => &[CONTAINER],
        };
        parts.iter().copied().flatten()
    }

    /// The names of the keys that may stand here.
    pub fn keys(self) -> impl Iterator<Item = &'static str> {
        self.described().map(|key| key.name)
    }
}

/// What to do about a key that does not belong where it is.
pub(super) fn help_for(key: &str, place: Place) -> String {
    let here = |name: &str| place.keys().any(|known| known == name);
    let other = OTHER_NAMES.iter().find(|(other, name)| key.eq_ignore_ascii_case(other) && here(name));
    if let Some((_, name)) = other {
        return match *name {
            "machine" | "disk" | "folder" | "volume" | "port" | "ready" | "network" | "provision"
            | "hook"
                if place != Place::Container =>
            {
                format!("it is written `[[{name}]]` here")
            }
            "shell" if key == "type" => {
                "the kind follows from the key: `shell`, `path`, `packages`, `file`, `ansible` or `docker`"
                    .into()
            }
            _ => format!("it is called `{name}` here"),
        };
    }
    if key == "volume" && matches!(place, Place::Machine | Place::Profile) {
        return "declare it at the top of the file; a `[[disk]]` here takes it, with `volume = \"NAME\"`"
            .into();
    }
    if let Some(near) = super::suggest::nearest(key, place.keys()) {
        return format!("did you mean `{near}`?");
    }
    // Keys after a `[[provision]]` header are part of it: an easy mistake to make.
    let belongs = [
        (Place::Top, "above the first `[[…]]` of the file"),
        (Place::Machine, "in a `[[machine]]`"),
        (Place::Disk, "in a `[[disk]]`"),
        (Place::Ssh, "in `[ssh]`"),
        (Place::Port, "in a `[[port]]`"),
        (Place::Folder, "in a `[[folder]]`"),
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
        assert_eq!(
            help_for("zzzzzz", Place::File),
            "known here: source, destination, exclude, owner, group, mode"
        );
        assert!(help_for("type", Place::Step).starts_with("the kind follows"));
    }

    #[test]
    fn other_names_lead_to_real_keys_and_are_none_themselves() {
        let places = Place::ALL;
        for (other, name) in OTHER_NAMES {
            assert!(places.iter().any(|place| place.keys().any(|key| key == *name)), "{name}");
            let same = places
                .iter()
                .any(|place| place.keys().any(|key| key == *other) && place.keys().any(|k| k == *name));
            assert!(!same, "{other}");
        }
    }
}
