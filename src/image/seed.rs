//! What a guest reads at boot to learn who it is.

use std::net::IpAddr;
use std::path::Path;

use ipnet::IpNet;

use super::ImageError;
use super::iso::{IsoFile, iso_image};
use crate::model::{Secret, mac_text};
use crate::state::store;

/// The identity of a machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Seed {
    /// Changes when the machine is made anew; stays over reboots.
    pub instance_id: String,
    /// Host name.
    pub hostname: String,
    /// Who logs in: gets the keys, and sudo without a password.
    pub user: String,
    /// Lines as in `authorized_keys`.
    pub authorized_keys: Vec<String>,
    /// Of the user's password; `None`: no login by password. See [`super::hash_password`].
    pub password_hash: Option<Secret>,
    /// The SSH host key to use, so that the host knows it before the first login.
    pub host_key: Option<HostKey>,
    /// Disks to mount, in this order.
    pub disks: Vec<SeedDisk>,
    /// Names that are looked up nowhere, and their addresses.
    pub hosts: Vec<(IpAddr, String)>,
    /// Ethernet address of the card that leads out to the world, if there is one.
    pub mac: Option<[u8; 6]>,
    /// Cards in private networks.
    pub networks: Vec<SeedNetwork>,
}

/// A card in a private network.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SeedNetwork {
    /// Its Ethernet address, by which the guest knows it.
    pub mac: [u8; 6],
    /// Most bytes of an IP packet.
    pub mtu: u16,
    /// Ask for an IPv4 address by DHCP.
    pub dhcp: bool,
    /// Believe machines that call themselves routers.
    pub routers: bool,
    /// Addresses with the lengths of their prefixes.
    pub addresses: Vec<IpNet>,
    /// Who knows the names of the network.
    pub resolvers: Vec<IpAddr>,
    /// Domains in which names without a dot are looked up, asked of these resolvers.
    pub search: Vec<String>,
    /// More domains and names to ask of them.
    pub domains: Vec<String>,
}

/// A disk that a guest mounts at each boot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SeedDisk {
    /// Its serial number.
    pub name: String,
    /// An absolute path without white space.
    pub mount: String,
    /// Mount it so.
    pub read_only: bool,
    /// [`create_disk`](super::create_disk) made it: ext4, and grown with the disk.
    pub ours: bool,
}

/// An SSH host key pair of type ed25519.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostKey {
    /// Private half in OpenSSH's own (PEM-like) format.
    pub private_openssh: Secret,
    /// Public half: one line.
    pub public_openssh: String,
}

/// Writes the seed disk to `path` (mode 0600): an ISO 9660 image with label `CIDATA`, as
/// cloud-init's NoCloud source reads it. `docs/box.md` lists its files.
pub fn write_seed(path: &Path, seed: &Seed) -> Result<(), ImageError> {
    check(seed)?;
    let file = |name, mode, content: String| IsoFile { name, mode, content: content.into_bytes() };
    let mut files = vec![
        file("meta-data", 0o444, meta_data(seed)),
        file("user-data", 0o400, user_data(seed)),
        // The same facts as plain files, for guests without a YAML parser.
        file("instance-id", 0o444, line(&seed.instance_id)),
        file("hostname", 0o444, line(&seed.hostname)),
        file("user", 0o444, line(&seed.user)),
        file("authorized_keys", 0o444, seed.authorized_keys.iter().map(|key| line(key)).collect()),
    ];
    if !seed.disks.is_empty() {
        files.push(file("disks", 0o444, seed.disks.iter().map(disk_line).collect()));
    }
    if !seed.hosts.is_empty() {
        files.push(file("hosts", 0o444, seed.hosts.iter().map(host_line).collect()));
    }
    if !seed.networks.is_empty() {
        files.push(file("network-config", 0o444, network_config(seed)));
        files.push(file("networks", 0o444, seed.networks.iter().map(network_line).collect()));
    }
    if let Some(hash) = &seed.password_hash {
        files.push(file("password_hash", 0o400, line(hash.expose())));
    }
    if let Some(key) = &seed.host_key {
        files.push(file("host_key", 0o400, line(key.private_openssh.expose())));
        files.push(file("host_key.pub", 0o444, line(&key.public_openssh)));
    }
    store::write(path, &iso_image("CIDATA", &files)).map_err(ImageError::io("write seed disk", path))
}

fn line(text: &str) -> String {
    format!("{}\n", text.trim_end())
}

/// Name, access, file system and place.
fn disk_line(disk: &SeedDisk) -> String {
    let access = if disk.read_only { "ro" } else { "rw" };
    let filesystem = if disk.ours { "ext4" } else { "auto" };
    format!("{} {access} {filesystem} {}\n", disk.name, disk.mount)
}

/// As in `/etc/hosts`.
fn host_line((ip, name): &(IpAddr, String)) -> String {
    format!("{ip} {name}\n")
}

/// Ethernet address, MTU, how it gets its IPv4 address, whether it believes routers, its addresses, resolvers, search
/// domains, more domains; lists with commas, `-` for an empty one.
fn network_line(network: &SeedNetwork) -> String {
    fn list<T: ToString>(items: &[T]) -> String {
        let words: Vec<String> = items.iter().map(T::to_string).collect();
        if words.is_empty() { "-".into() } else { words.join(",") }
    }
    let SeedNetwork { mac, mtu, dhcp, routers, addresses, resolvers, search, domains } = network;
    format!(
        "{} {mtu} {} {} {} {} {} {}\n",
        mac_text(mac),
        if *dhcp { "dhcp" } else { "static" },
        if *routers { "routers" } else { "no-routers" },
        list(addresses),
        list(resolvers),
        list(search),
        list(domains)
    )
}

/// For cloud-init, in version 2 of its format: <https://cloudinit.readthedocs.io/en/latest/reference/network-config-format-v2.html>.
fn network_config(seed: &Seed) -> String {
    let mut cards = serde_json::Map::new();
    if let Some(mac) = &seed.mac {
        let out = serde_json::json!({
            "match": { "macaddress": mac_text(mac) }, "dhcp4": true, "accept-ra": true,
        });
        cards.insert("rvm".into(), out);
    }
    for (n, network) in seed.networks.iter().enumerate() {
        let card = serde_json::json!({
            "match": { "macaddress": mac_text(&network.mac) },
            "mtu": network.mtu,
            "optional": true,
            "dhcp4": network.dhcp,
            "dhcp4-overrides": { "use-dns": false, "use-routes": false },
            "accept-ra": network.routers,
            "addresses": network.addresses,
            "nameservers": { "addresses": network.resolvers, "search": network.search },
        });
        cards.insert(format!("rvm{n}"), card);
    }
    // JSON is YAML.
    format!("{}\n", serde_json::json!({ "version": 2, "ethernets": cards }))
}

/// Refuses what no guest could take, or would take for something else.
fn check(seed: &Seed) -> Result<(), ImageError> {
    let bad = |what: String| Err(ImageError::BadSeed { what });
    if !is_host_name(&seed.hostname) {
        return bad(format!("`{}` is not a host name", seed.hostname.escape_debug()));
    }
    if !is_user_name(&seed.user) {
        return bad(format!("`{}` is not a user name", seed.user.escape_debug()));
    }
    if seed.instance_id.is_empty() || !is_one_line(&seed.instance_id) {
        return bad("the instance id must be one line".into());
    }
    if !seed.authorized_keys.iter().all(|key| is_one_line(key.trim_end())) {
        return bad("a public key must be one line".into());
    }
    let is_word = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_graphic() && b != b'\\');
    let is_mount =
        |disk: &SeedDisk| is_word(&disk.name) && is_word(&disk.mount) && disk.mount.starts_with('/');
    if !seed.disks.iter().all(is_mount) {
        return bad("a disk and its mount point must each be one word".into());
    }
    let names = seed.networks.iter().flat_map(|network| network.search.iter().chain(&network.domains));
    if let Some(name) = names.chain(seed.hosts.iter().map(|(_, name)| name)).find(|name| !is_host_name(name))
    {
        return bad(format!("`{}` is not a domain", name.escape_debug()));
    }
    // A colon would begin another field of /etc/shadow.
    let is_hash =
        |hash: &str| hash.starts_with('$') && hash.bytes().all(|b| b.is_ascii_graphic() && b != b':');
    if !seed.password_hash.as_ref().is_none_or(|hash| is_hash(hash.expose())) {
        return bad("the password hash is not one".into());
    }
    let Some(key) = &seed.host_key else { return Ok(()) };
    if !is_one_line(key.public_openssh.trim_end()) {
        return bad("the public host key must be one line".into());
    }
    if !key.private_openssh.expose().starts_with("-----BEGIN OPENSSH PRIVATE KEY-----") {
        return bad("the private host key is not in OpenSSH's format".into());
    }
    Ok(())
}

fn is_one_line(text: &str) -> bool {
    !text.chars().any(char::is_control)
}

/// Labels of letters, digits and inner hyphens, at most 64 bytes in all: Linux' own limit
/// (RFC 1123, section 2.1; gethostname(2)).
fn is_host_name(name: &str) -> bool {
    let label = |label: &str| {
        let bytes = label.as_bytes();
        !bytes.is_empty()
            && bytes.iter().all(|b| b.is_ascii_alphanumeric() || *b == b'-')
            && bytes.first() != Some(&b'-')
            && bytes.last() != Some(&b'-')
    };
    name.len() <= 64 && name.split('.').all(label)
}

/// What useradd(8) of Debian takes without being forced, at most 32 bytes.
fn is_user_name(name: &str) -> bool {
    let (first, rest) = name.split_at_checked(1).unwrap_or_default();
    name.len() <= 32
        && first.bytes().all(|b| b.is_ascii_lowercase() || b == b'_')
        && !first.is_empty()
        && rest.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_' || b == b'-')
}

/// `text` as a YAML string. JSON's string syntax is a subset of YAML's double-quoted one
/// (YAML 1.2, section 1.2).
fn quoted(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

fn meta_data(seed: &Seed) -> String {
    format!("instance-id: {}\nlocal-hostname: {}\n", quoted(&seed.instance_id), quoted(&seed.hostname))
}

/// For cloud-init: <https://cloudinit.readthedocs.io/en/latest/reference/modules.html>, "Users
/// and Groups", "SSH", "Set Hostname".
fn user_data(seed: &Seed) -> String {
    let mut out = String::from("#cloud-config\n");
    let mut add = |text: String| {
        out.push_str(&text);
        out.push('\n');
    };
    add(format!("hostname: {}", quoted(&seed.hostname)));
    add("manage_etc_hosts: localhost".into());
    if !seed.hosts.is_empty() {
        add("bootcmd:".into());
        add(format!("- {}", quoted("sed -i '/# rvm$/d' /etc/hosts")));
    }
    for host in &seed.hosts {
        add(format!("- {}", quoted(&format!("echo '{} # rvm' >>/etc/hosts", host_line(host).trim_end()))));
    }
    add(format!("ssh_pwauth: {}", seed.password_hash.is_some()));
    if seed.user == "root" {
        add("disable_root: false".into());
    }
    add("users:".into());
    add(format!("- name: {}", quoted(&seed.user)));
    add("  shell: /bin/bash".into());
    add("  sudo: \"ALL=(ALL) NOPASSWD:ALL\"".into());
    add(format!("  lock_passwd: {}", seed.password_hash.is_none()));
    if let Some(hash) = &seed.password_hash {
        add(format!("  hashed_passwd: {}", quoted(hash.expose())));
    }
    if !seed.authorized_keys.is_empty() {
        add("  ssh_authorized_keys:".into());
        for key in &seed.authorized_keys {
            add(format!("  - {}", quoted(key.trim_end())));
        }
    }
    if let Some(key) = &seed.host_key {
        add("ssh_deletekeys: true".into());
        add("ssh_genkeytypes: []".into());
        add("ssh_keys:".into());
        add(format!("  ed25519_private: {}", quoted(&line(key.private_openssh.expose()))));
        add(format!("  ed25519_public: {}", quoted(key.public_openssh.trim_end())));
    }
    out
}

#[cfg(test)]
mod tests {
    use super::super::iso::tests::parse;
    use super::*;
    use std::fs;
    use std::os::unix::fs::PermissionsExt;

    fn disk(name: &str, mount: &str, read_only: bool, ours: bool) -> SeedDisk {
        SeedDisk { name: name.into(), mount: mount.into(), read_only, ours }
    }

    fn network() -> SeedNetwork {
        SeedNetwork {
            mac: [2, 0, 0, 0, 0, 0xab],
            mtu: 9000,
            dhcp: false,
            routers: false,
            addresses: vec!["10.10.0.5/24".parse().unwrap(), "fd10::5/64".parse().unwrap()],
            resolvers: vec!["10.10.0.254".parse().unwrap()],
            search: vec!["backend".into(), "front".into()],
            domains: vec![],
        }
    }

    fn seed() -> Seed {
        Seed {
            instance_id: "i-\"1\": {x}".into(),
            hostname: "web-1.example".into(),
            user: "vagrant".into(),
            authorized_keys: vec![
                "ssh-ed25519 AAAA me@host: \"a\" #x 'y' \\ ünïcode\n".into(),
                "no-pty ssh-rsa BBBB - & * !".into(),
            ],
            password_hash: Some(Secret::new("$6$rounds=5000$salt$hash./")),
            hosts: vec![([10, 0, 2, 2].into(), "host.rvm.internal".into())],
            disks: vec![disk("data", "/srv/data", false, true), disk("cd", "/cd", true, false)],
            mac: Some([2, 0, 0, 0, 0, 1]),
            networks: vec![network()],
            host_key: Some(HostKey {
                private_openssh: Secret::new(
                    "-----BEGIN OPENSSH PRIVATE KEY-----\nabc\n-----END OPENSSH PRIVATE KEY-----\n",
                ),
                public_openssh: "ssh-ed25519 CCCC".into(),
            }),
        }
    }

    fn written(seed: &Seed) -> Vec<(String, usize, String)> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("seed.iso");
        write_seed(&path, seed).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        let (label, files) = parse(&fs::read(&path).unwrap());
        assert_eq!(label, "CIDATA");
        files
            .into_iter()
            .map(|(name, mode, content)| (name, mode, String::from_utf8(content).unwrap()))
            .collect()
    }

    #[test]
    fn all_that_a_guest_needs_is_there() {
        let files = written(&seed());
        let get = |name: &str| &files.iter().find(|f| f.0 == name).unwrap().2;
        assert_eq!(get("hostname"), "web-1.example\n");
        assert_eq!(get("user"), "vagrant\n");
        assert_eq!(get("disks"), "data rw ext4 /srv/data\ncd ro auto /cd\n");
        assert_eq!(get("hosts"), "10.0.2.2 host.rvm.internal\n");
        let line =
            "02:00:00:00:00:ab 9000 static no-routers 10.10.0.5/24,fd10::5/64 10.10.0.254 backend,front -\n";
        assert_eq!(get("networks"), line);
        let config: serde_json::Value = serde_json::from_str(get("network-config")).unwrap();
        assert_eq!(config["ethernets"]["rvm"]["match"]["macaddress"], "02:00:00:00:00:01");
        assert_eq!(config["ethernets"]["rvm0"]["addresses"][1], "fd10::5/64");
        assert_eq!(get("password_hash"), "$6$rounds=5000$salt$hash./\n");
        assert_eq!(get("authorized_keys").lines().count(), 2);
        assert!(get("host_key").ends_with("KEY-----\n"));
        assert_eq!(
            get("meta-data"),
            "instance-id: \"i-\\\"1\\\": {x}\"\nlocal-hostname: \"web-1.example\"\n"
        );
        let secret: Vec<_> = files.iter().filter(|f| f.1 == 0o100_400).map(|f| f.0.as_str()).collect();
        assert_eq!(secret, ["host_key", "password_hash", "user-data"]);
    }

    #[test]
    fn a_machine_that_has_no_card_is_told_of_none() {
        let files = written(&Seed { mac: None, ..seed() });
        let config = &files.iter().find(|f| f.0 == "network-config").unwrap().2;
        let config: serde_json::Value = serde_json::from_str(config).unwrap();
        let cards: Vec<&String> = config["ethernets"].as_object().unwrap().keys().collect();
        assert_eq!(cards, ["rvm0"]);
    }

    #[test]
    fn odd_characters_stay_inside_their_string() {
        let text = user_data(&seed());
        assert!(text.starts_with("#cloud-config\n"));
        for line in text.lines().skip(1) {
            let value = line.trim_start_matches([' ', '-']).split_once(": ").map_or(line, |(_, value)| value);
            let value = value.trim_start_matches("  - ");
            if value.starts_with('"') {
                serde_json::from_str::<String>(value).unwrap();
            }
        }
        let host = text.lines().find(|l| l.contains("internal")).unwrap().strip_prefix("- ").unwrap();
        let host: String = serde_json::from_str(host).unwrap();
        assert_eq!(host, "echo '10.0.2.2 host.rvm.internal # rvm' >>/etc/hosts");
        let key = text.lines().find(|l| l.contains("AAAA")).unwrap().strip_prefix("  - ").unwrap();
        let key: String = serde_json::from_str(key).unwrap();
        assert_eq!(key, "ssh-ed25519 AAAA me@host: \"a\" #x 'y' \\ ünïcode");
    }

    #[test]
    fn without_password_and_host_key() {
        let seed = Seed { password_hash: None, host_key: None, ..seed() };
        let files = written(&seed);
        assert!(files.iter().all(|f| !f.0.starts_with("host_key") && f.0 != "password_hash"));
        let text = user_data(&seed);
        assert!(text.contains("lock_passwd: true") && text.contains("ssh_pwauth: false"));
        assert!(!text.contains("ssh_keys"));
    }

    #[test]
    fn bad_values_are_refused_and_secrets_not_shown() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("seed.iso");
        let refused = |change: &dyn Fn(&mut Seed)| {
            let mut seed = seed();
            change(&mut seed);
            let error = write_seed(&path, &seed).unwrap_err();
            assert!(matches!(error, ImageError::BadSeed { .. }));
            assert!(!error.to_string().contains("hunter2"));
            assert!(!path.exists());
        };
        refused(&|s| s.hostname = "a b".into());
        refused(&|s| s.hostname = "-a".into());
        refused(&|s| s.hostname = String::new());
        refused(&|s| s.user = "ro ot".into());
        refused(&|s| s.user = "Ünï".into());
        refused(&|s| s.user = String::new());
        refused(&|s| s.instance_id = "a\nb".into());
        for mount in ["", "srv", "/a b", "/a\nb", "/a\\b"] {
            refused(&|s| s.disks = vec![disk("data", mount, false, true)]);
        }
        refused(&|s| s.disks[0].name = "a b".into());
        refused(&|s| s.networks[0].search = vec!["a\nb".into()]);
        refused(&|s| s.networks[0].domains = vec!["a b".into()]);
        refused(&|s| s.authorized_keys = vec!["a\nb".into()]);
        refused(&|s| s.password_hash = Some(Secret::new("hunter2")));
        refused(&|s| s.password_hash = Some(Secret::new("$6$hunter2:0:0")));
        refused(&|s| s.host_key.as_mut().unwrap().private_openssh = Secret::new("hunter2"));
        refused(&|s| s.host_key.as_mut().unwrap().public_openssh = "a\nb".into());
    }
}
