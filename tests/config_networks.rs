//! `[[network]]` and `[[machine.network]]`: what they give, and how mistakes in them are told.

use std::net::IpAddr;

use rvm::config::{self, ConfigError};
use rvm::model::{Card, HostCard, HostInterface, Project};

fn load(text: &str) -> Result<Project, ConfigError> {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("Vagrantfile"), format!("box = \"micro\"\n{text}")).unwrap();
    config::load(&dir.path().join("Vagrantfile"), &|_| None)
}

/// Message and line of each problem.
fn told(text: &str) -> Vec<String> {
    let error = load(text).expect_err("the file must be refused");
    error.problems().iter().map(|p| format!("{}: {}", p.line.unwrap(), p.message)).collect()
}

fn card(network: &str, addresses: &[&str], dhcp: bool) -> Card {
    let addresses = addresses.iter().map(|ip| ip.parse::<IpAddr>().unwrap()).collect();
    Card { network: network.into(), addresses, dhcp }
}

#[test]
fn networks_and_places_in_them() {
    let project = load(
        r#"
[[network]]
name = "front"
subnet = ["10.1.0.0/24", "fd01::/64"]
mtu = 9000

[[network]]
name = "lab"
shared = true
dhcp = false

[[machine]]
name = "web"
count = 2
network = [
  { private = "front", ip = "10.1.0.{i+10}" },
  { private = "back" },
]

[[machine]]
name = "db"

[[machine.network]]
private = "back"
ip = ["10.2.7.5/20", "fd02::5"]

[[machine.network]]
private = "front"
ip = "dhcp"

[[machine.network]]
private = "lab"
"#,
    )
    .unwrap();
    let subnets: Vec<(String, String)> = project
        .networks
        .iter()
        .map(|n| (n.name.clone(), n.subnets.iter().map(ToString::to_string).collect::<Vec<_>>().join(" ")))
        .collect();
    let wanted = [("front", "10.1.0.0/24 fd01::/64"), ("lab", ""), ("back", "10.2.0.0/20 fd02::/64")];
    assert_eq!(subnets, wanted.map(|(name, nets)| (name.to_owned(), nets.to_owned())));
    let settings =
        |at: usize| (project.networks[at].shared, project.networks[at].dhcp, project.networks[at].mtu);
    assert_eq!((settings(0), settings(1)), ((false, true, 9000), (true, false, 1500)));
    assert_eq!(project.machines[0].cards, [card("front", &["10.1.0.11"], false), card("back", &[], false)]);
    assert_eq!(project.machines[1].cards[0], card("front", &["10.1.0.12"], false));
    assert_eq!(
        project.machines[2].cards,
        [card("back", &["10.2.7.5", "fd02::5"], false), card("front", &[], true), card("lab", &[], false)]
    );
}

#[test]
fn cards_in_networks_of_the_host() {
    let project = load(
        r#"
[[machine]]
name = "web"
network = [
  { bridge = "br0" },
  { private = "back" },
  { bridge = "br-1.x_y", ip = ["192.0.2.5/25", "fd03::5"] },
  { tap = "tap0", ip = "192.0.2.6" },
  { tap = "tap1", ip = ["fd04::6", "dhcp"] },
]
"#,
    )
    .unwrap();
    let card = |to: HostInterface, addresses: &[&str], dhcp| HostCard {
        to,
        addresses: addresses.iter().map(|net| net.parse().unwrap()).collect(),
        dhcp,
    };
    let (bridge, tap) =
        (|name: &str| HostInterface::Bridge(name.into()), |name: &str| HostInterface::Tap(name.into()));
    assert_eq!(
        project.machines[0].host_cards,
        [
            card(bridge("br0"), &[], true),
            card(bridge("br-1.x_y"), &["192.0.2.5/25", "fd03::5/64"], false),
            card(tap("tap0"), &["192.0.2.6/24"], false),
            card(tap("tap1"), &["fd04::6/64"], true),
        ]
    );
    assert_eq!(project.machines[0].cards.len(), 1);
}

#[test]
fn a_way_out_that_is_not_open_is_not_left_to_vhost_user() {
    let text = r#"
nat_backend = "vhost-user"
[[machine]]
name = "a"
nat = "no-host"
[[machine]]
name = "b"
nat = "no-host"
[[machine]]
name = "c"
nat = "closed"
nat_backend = "vhost-user"
[[machine]]
name = "open"
[[machine]]
name = "d"
nat = "closed"
nat_backend = "stream"
"#;
    insta::assert_snapshot!(told(text).join("\n"), @r#"
    3: `nat_backend` cannot be "vhost-user" with `nat = "no-host"`
    13: `nat_backend` cannot be "vhost-user" with `nat = "closed"`
    "#);
}

#[test]
fn what_needs_a_card_is_refused_where_there_is_none() {
    let text = r#"
nat = "none"
[[machine]]
name = "fine"
nat_backend = "auto"
network = [{ private = "back" }]
[[machine]]
name = "a"
nat_backend = "stream"
[[machine]]
name = "b"
auto_forward = true
provider = "qemu"
[[machine]]
name = "c"
port = [{ guest = 80, host = 8080 }]
[[machine]]
name = "d"
nat = "closed"
port = [{ guest = 80, host = 8081 }]
"#;
    insta::assert_snapshot!(told(text).join("\n"), @r#"
    3: `nat = "none"` and `auto_forward` contradict each other
    3: `nat = "none"` is not for provider "qemu": without a card only a virtio socket leads in, and there is none
    10: `nat_backend` is of no use with `nat = "none"`: the machine has no such card
    17: a machine with `nat = "none"` has no card that a port could lead to
    "#);
}

#[test]
fn networks_of_the_host_that_cannot_be() {
    let text = r#"
[[machine]]
name = "a"
network = [
  { bridge = "br0", private = "x" },
  { bridge = "../br0" },
  { tap = "-tap" },
  { bridge = "a-name-too-long0" },
  { bridge = "br0", ip = "192.0.2.5" },
  { bridge = "br0" },
  { tap = "tap0", ip = "127.0.0.1" },
]
[[machine]]
name = "b"
network = [
  { bridge = "br0", ip = "192.0.2.5" },
  { tap = "tap0" },
  { bridge = "br1", ip = "192.0.2.5" },
]
"#;
    insta::assert_snapshot!(told(text).join("\n"), @r#"
    6: `private` and `bridge` are two networks
    7: an interface cannot be called "../br0"
    8: an interface cannot be called "-tap"
    9: an interface cannot be called "a-name-too-long0"
    11: machine `a` is at bridge br0 already
    12: a machine cannot have the address 127.0.0.1
    17: machine `a` has the address 192.0.2.5 already (line 10)
    18: machine `a` has the TAP interface tap0 already (line 12)
    "#);
}

#[test]
fn addresses_that_cannot_be() {
    let text = r#"
[[network]]
name = "front"
subnet = "10.1.0.0/24"

[[machine]]
name = "a"
network = [{ private = "front", ip = "10.1.1.5" }]
[[machine]]
name = "b"
network = [{ private = "front", ip = "10.1.0.0" }]
[[machine]]
name = "c"
network = [{ private = "front", ip = "10.1.0.255" }]
[[machine]]
name = "d"
network = [{ private = "front", ip = "10.1.0.254" }]
[[machine]]
name = "e"
network = [{ private = "front", ip = "10.1.0.5" }]
[[machine]]
name = "f"
network = [{ private = "front", ip = "10.1.0.5/24" }]
[[machine]]
name = "g"
network = [{ private = "front", ip = "10.1.0.7/16" }]
[[machine]]
name = "h"
network = [{ private = "front", ip = "fd01::5" }]
[[machine]]
name = "i"
network = [{ private = "front", ip = "10.1.0.300" }]
"#;
    insta::assert_snapshot!(told(text).join("\n"), @r#"
    9: a machine cannot have the address 10.1.1.5 in network `front`: it is outside the subnet
    12: a machine cannot have the address 10.1.0.0 in network `front`: it is the address of the network as a whole
    15: a machine cannot have the address 10.1.0.255 in network `front`: it is the broadcast address
    18: a machine cannot have the address 10.1.0.254 in network `front`: the network itself answers there
    24: machine `e` has the address 10.1.0.5 already (line 21)
    27: the subnet of network `front` is 10.1.0.0/24 (line 5), not a /16
    30: network `front` has no IPv6 subnet
    33: "10.1.0.300" is not an IP address
    "#);
}

#[test]
fn networks_that_cannot_be() {
    let text = r#"
[[network]]
name = "dev"
[[network]]
name = "Front"
[[network]]
name = "a"
subnet = "10.1.0.0"
[[network]]
name = "b"
subnet = "10.1.0.5/24"
[[network]]
name = "c"
subnet = ["10.1.0.0/24", "10.2.0.0/24"]
[[network]]
name = "d"
subnet = "10.1.0.0/16"
[[network]]
name = "d"
[[network]]
name = "e"
subnet = "127.0.0.0/8"
[[network]]
name = "f"
subnet = "10.3.0.0/30"
mtu = 500
[[network]]
subnet = "10.4.0.0/24"
[[network]]
name = "g"
cidr = "10.5.0.0/24"
private = "x"

[[machine]]
name = "m"
network = [
  { ip = "10.9.0.5" },
  { private = "h", ip = ["10.9.0.5", "dhcp"] },
  { private = "i", ip = "10.1.0.77" },
  { private = "j" },
  { private = "j" },
  { private = "k", ip = 5 },
]
"#;
    insta::assert_snapshot!(told(text).join("\n"), @r#"
    4: a network cannot be called "dev"
    6: a network cannot be called "Front"
    9: "10.1.0.0" is not a subnet
    12: "10.1.0.5/24" is an address in a subnet
    15: network `c` has a subnet of this family already
    18: 10.1.0.0/16 overlaps 10.1.0.0/24 of network `c` (line 15)
    20: a network called "d" is declared already
    23: a private network cannot have the subnet 127.0.0.0/8: these are loopback addresses
    26: a subnet cannot have the prefix length 30
    27: `mtu` cannot be 500
    28: this network has no `name`
    32: unknown key `cidr` in a network
    33: unknown key `private` in a network
    38: nothing says which network this is
    39: a machine has one address of each family in a network
    40: 10.1.0.0/24 overlaps 10.1.0.0/24 of network `c` (line 15)
    42: machine `m` is in network `j` already
    43: `ip` is a whole number
    "#);
}

#[test]
fn a_machine_has_room_for_so_many() {
    let cards: String = (0..9).map(|n| format!("{{ private = \"n{n}\" }},")).collect();
    let text = format!("[[machine]]\nname = \"m\"\nnetwork = [{cards}]\n");
    assert_eq!(told(&text), ["4: machine `m` is in more than 8 networks"]);
}

#[test]
fn ranges_of_ports() {
    let text = r#"
nat = "nowhere"
[[port]]
guest = "8000-8010"
host = 9000
[[port]]
guest = 8000
host = "65000-65001"
[[port]]
guest = "8010-8000"
host = "1-65535"
host_ip = "224.0.0.1"
[[port]]
guest = "100-110"
host = "7000-7010"
[[port]]
guest = "200-210"
host = "7005-7015"
"#;
    let expected = [
        "3: `nat` cannot be \"nowhere\"",
        "6: `guest` has 11 ports and `host` has one port",
        "9: `guest` has one port and `host` has 2 ports",
        "11: `guest` cannot be \"8010-8000\"",
        "12: `host` cannot be \"1-65535\"",
        "13: `host_ip` cannot be \"224.0.0.1\"",
        // Once, not once a port.
        "19: this port of the host already leads to `default` (line 16)",
    ];
    assert_eq!(told(text), expected);
    let many: String =
        (0..3).map(|n| format!("[[port]]\nguest = '1-200'\nhost = '{0}001-{0}200'\n", n + 1)).collect();
    assert_eq!(told(&many), ["10: more than 512 ports lead to the machine `default`"]);
}
