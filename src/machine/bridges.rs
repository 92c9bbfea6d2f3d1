//! Cards of machines in networks of the host's: TAP interfaces, which are there, or which are made for a bridge.
//!
//! They are made by `ip`, with the very words that an administrator would use, and with the rights of this
//! user: who lacks them is told the words.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use rustix::process::getuid;
use thiserror::Error;

use super::record::Record;
use super::{MachineError, Machines};
use crate::image::SeedNetwork;
use crate::model::{Code, HostInterface, Machine};
use crate::provider::{self, Tap};

/// What the kernel tells of interfaces.
const INTERFACES: &str = "/sys/class/net";
/// Most bytes of an IP packet on such a card: what Ethernet carries.
const MTU: u16 = 1500;

/// Why a machine gets no card in a network of the host's.
#[derive(Debug, Error)]
pub enum BridgeError {
    /// There is no bridge of that name.
    #[error("this host has no bridge `{bridge}`")]
    NoBridge {
        /// Its name.
        bridge: String,
    },
    /// There is no TAP interface of that name.
    #[error("this host has no TAP interface `{tap}`")]
    NoTap {
        /// Its name.
        tap: String,
        /// Who is to own it.
        user: u32,
    },
    /// It is somebody else's.
    #[error("the TAP interface `{tap}` is not this user's")]
    Foreign {
        /// Its name.
        tap: String,
        /// Who is to own it.
        user: u32,
    },
    /// It could not be made or put to the bridge.
    #[error("cannot give bridge `{bridge}` another port: {text}")]
    Refused {
        /// Name of the bridge.
        bridge: String,
        /// Name of the interface.
        tap: String,
        /// Who is to own it.
        user: u32,
        /// What `ip` said.
        text: String,
    },
}

impl BridgeError {
    /// Its stable code (`docs/errors.md`).
    pub fn code(&self) -> Code {
        match self {
            BridgeError::NoBridge { .. } | BridgeError::NoTap { .. } => Code::NoInterface,
            BridgeError::Foreign { .. } | BridgeError::Refused { .. } => Code::InterfaceRefused,
        }
    }

    /// What to do next.
    pub fn hint(&self) -> String {
        match self {
            BridgeError::NoBridge { .. } => {
                "`ip link show type bridge` lists those that there are; an administrator makes one".into()
            }
            BridgeError::NoTap { tap, user } => {
                format!(
                    "an administrator makes it once, until this host restarts: `sudo {}`",
                    words(&add(tap, *user))
                )
            }
            BridgeError::Foreign { tap, user } => format!(
                "an administrator makes it anew: `sudo ip link delete {tap} && sudo {}`",
                words(&add(tap, *user))
            ),
            BridgeError::Refused { bridge, tap, user, .. } => format!(
                "that needs CAP_NET_ADMIN. Or an administrator runs once, until this host restarts, \
                 `sudo {} && sudo {}`, and the Vagrantfile says `tap = \"{tap}\"` instead of `bridge`",
                words(&add(tap, *user)),
                words(&enslave(tap, bridge))
            ),
        }
    }
}

/// Words of the command that makes an interface.
fn add(tap: &str, user: u32) -> Vec<String> {
    let user = user.to_string();
    ["ip", "tuntap", "add", "dev", tap, "mode", "tap", "user", &user].map(String::from).to_vec()
}

/// Words of the command that makes it a port of a bridge.
fn enslave(tap: &str, bridge: &str) -> Vec<String> {
    ["ip", "link", "set", "dev", tap, "master", bridge, "up"].map(String::from).to_vec()
}

fn words(command: &[String]) -> String {
    command.join(" ")
}

/// How the names of a machine's interfaces begin.
fn prefix_of(id: &str) -> String {
    format!("rvm{}", id.get(..8).unwrap_or(id))
}

/// The name of the interface of a machine's card at that place, which no other machine has.
fn interface_of(id: &str, place: usize) -> String {
    format!("{}{place}", prefix_of(id))
}

/// Whether an interface was made for that machine.
fn is_of(name: &str, id: &str) -> bool {
    let place = name.strip_prefix(&prefix_of(id));
    id.len() >= 8 && place.is_some_and(|place| !place.is_empty() && place.bytes().all(|b| b.is_ascii_digit()))
}

/// The Ethernet address of a card.
fn mac(id: &str, to: &HostInterface) -> [u8; 6] {
    provider::mac_in(id, &to.to_string())
}

impl Machines<'_> {
    /// The TAP interfaces of a machine that is about to start. Those for bridges are made where they are not
    /// there, and stay until it is destroyed.
    pub(super) fn taps(&self, machine: &Machine, record: &Record) -> Result<Vec<Tap>, MachineError> {
        let mut taps = Vec::new();
        for (place, card) in machine.host_cards.iter().enumerate() {
            let interface = match &card.to {
                HostInterface::Tap(name) => {
                    check_tap(Path::new(INTERFACES), name, getuid().as_raw())?;
                    name.clone()
                }
                HostInterface::Bridge(bridge) => {
                    let name = interface_of(&record.id, place);
                    self.join_bridge(bridge, &name)?;
                    self.detail(&machine.name, format!("Network {}: by {name}.", card.to));
                    name
                }
            };
            taps.push(Tap { mac: mac(&record.id, &card.to), interface });
        }
        Ok(taps)
    }

    fn join_bridge(&self, bridge: &str, tap: &str) -> Result<(), BridgeError> {
        let of = |name: &str| Path::new(INTERFACES).join(name);
        if !of(bridge).join("bridge").is_dir() {
            return Err(BridgeError::NoBridge { bridge: bridge.into() });
        }
        let user = getuid().as_raw();
        let refused = |text| BridgeError::Refused { bridge: bridge.into(), tap: tap.into(), user, text };
        if !of(tap).exists() {
            self.ip(&add(tap, user)).map_err(refused)?;
        }
        self.ip(&enslave(tap, bridge)).map_err(refused)
    }

    /// Runs a command of `ip`; what it said when it failed.
    fn ip(&self, command: &[String]) -> Result<(), String> {
        let [program, rest @ ..] = command else { return Ok(()) };
        // It is for all, where it is, but not every user looks there.
        let output = Command::new(program)
            .args(rest)
            .env("PATH", format!("{}:/usr/sbin:/sbin", self.path))
            .stdin(Stdio::null())
            .output();
        match output {
            Ok(output) if output.status.success() => Ok(()),
            Ok(output) => Err(String::from_utf8_lossy(&output.stderr).trim().replace('\n', "; ")),
            Err(error) => Err(format!("`ip`: {error}")),
        }
    }

    /// Removes the interfaces that were made for a machine, as far as they are there.
    pub(super) fn leave_bridges(&self, id: &str) {
        let entries = std::fs::read_dir(INTERFACES).into_iter().flatten().flatten();
        let names = entries.filter_map(|entry| entry.file_name().into_string().ok());
        for name in names.filter(|name| is_of(name, id)) {
            // Without the rights any more it stays, which harms nobody.
            let _ = self.ip(&["ip", "link", "delete", &name].map(String::from));
        }
    }
}

/// Whether a TAP interface is there and this user may open it, as the files below `interfaces` say.
fn check_tap(interfaces: &Path, name: &str, user: u32) -> Result<(), BridgeError> {
    let dir: PathBuf = interfaces.join(name);
    if !dir.join("tun_flags").exists() {
        return Err(BridgeError::NoTap { tap: name.into(), user });
    }
    let owner = std::fs::read_to_string(dir.join("owner")).unwrap_or_default();
    // -1: whoever may administer networks.
    if user != 0 && owner.trim() != user.to_string() {
        return Err(BridgeError::Foreign { tap: name.into(), user });
    }
    Ok(())
}

/// What the guest is told of its cards in networks of the host's.
pub(super) fn seed_cards(machine: &Machine, id: &str) -> Vec<SeedNetwork> {
    let card = |card: &crate::model::HostCard| SeedNetwork {
        mac: mac(id, &card.to),
        mtu: MTU,
        dhcp: card.dhcp,
        routers: true,
        addresses: card.addresses.clone(),
        resolvers: Vec::new(),
        search: Vec::new(),
        domains: Vec::new(),
    };
    machine.host_cards.iter().map(card).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_interfaces_fit() {
        let name = interface_of("0123456789abcdef", 7);
        assert_eq!(name, "rvm012345677");
        assert!(name.len() <= 15);
        assert_eq!(interface_of("ab", 1), "rvmab1");
    }

    #[test]
    fn a_machine_knows_its_interfaces() {
        for id in ["0123456789abcdef", "abcdef00789abcde"] {
            assert!([0, 7, 12].iter().all(|place| is_of(&interface_of(id, *place), id)), "{id}");
            assert!(!is_of(&interface_of("fedcba9876543210", 0), id) && !is_of(&prefix_of(id), id));
        }
        assert!(!is_of("rvm0", ""));
    }

    #[test]
    fn an_interface_is_there_and_this_users_or_the_words_that_make_it_so_are_told() {
        let dir = tempfile::tempdir().unwrap();
        let tap = dir.path().join("tap0");
        let check = |user| check_tap(dir.path(), "tap0", user);
        let missing = check(1000).unwrap_err();
        assert!(matches!(missing, BridgeError::NoTap { .. }));
        assert!(
            missing.hint().contains("`sudo ip tuntap add dev tap0 mode tap user 1000`"),
            "{}",
            missing.hint()
        );
        std::fs::create_dir(&tap).unwrap();
        std::fs::write(tap.join("tun_flags"), "0x1002\n").unwrap();
        std::fs::write(tap.join("owner"), "1000\n").unwrap();
        check(1000).unwrap();
        check(0).unwrap();
        assert!(matches!(check(1001), Err(BridgeError::Foreign { .. })));
        std::fs::write(tap.join("owner"), "-1\n").unwrap();
        assert!(matches!(check(1000), Err(BridgeError::Foreign { .. })));
    }

    #[test]
    fn who_lacks_the_rights_is_told_what_an_administrator_runs() {
        let (bridge, tap, text) =
            ("br0".to_owned(), "rvm0123".to_owned(), "Operation not permitted".to_owned());
        let hint = BridgeError::Refused { bridge, tap, user: 1000, text }.hint();
        let command = "`sudo ip tuntap add dev rvm0123 mode tap user 1000 && sudo ip link set dev rvm0123 master br0 up`";
        assert!(hint.contains(command) && hint.contains("`tap = \"rvm0123\"`"), "{hint}");
    }
}
