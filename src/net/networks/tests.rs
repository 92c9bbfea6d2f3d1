use super::*;

const OF_SHARED: &str = "10.77.0.0/24";

/// A store with no networks yet, and what asks it.
struct Store {
    dir: tempfile::TempDir,
    cancel: Cancel,
}

impl Store {
    fn new() -> Store {
        Store { dir: tempfile::tempdir().unwrap(), cancel: Cancel::new() }
    }

    fn networks(&self) -> Networks<'_> {
        Networks {
            root: self.dir.path().join("networks"),
            exe: Path::new("/nonexistent"),
            cancel: &self.cancel,
        }
    }

    fn reserve(
        &self,
        network: &Network,
        (project, machine): (&str, &str),
        ip: &[&str],
    ) -> Result<Vec<String>, NetworkError> {
        let addresses = ip.iter().map(|ip| ip.parse().unwrap()).collect();
        let card = Card { network: network.name.clone(), addresses, dhcp: false };
        let applicant = Applicant {
            project: Path::new(project),
            machine,
            id: &format!("{project} {machine}"),
            mac: [2, 0, 0, 0, 0, 1],
            socket: Path::new("/nonexistent"),
            avoid: &BTreeSet::from(["10.77.0.2".parse().unwrap()]),
        };
        let seat = self.networks().reserve(network, &card, &applicant)?;
        Ok(seat.member.addresses.iter().map(IpAddr::to_string).collect())
    }
}

fn shared() -> Network {
    Network { subnets: vec![OF_SHARED.parse().unwrap()], shared: true, ..Network::new("lab") }
}

#[test]
fn an_address_of_another_projects_machine_is_refused() {
    let (store, lab) = (Store::new(), shared());
    assert_eq!(store.reserve(&lab, ("/a", "db"), &["10.77.0.5"]).unwrap(), ["10.77.0.5"]);
    let error = store.reserve(&lab, ("/b", "web"), &["10.77.0.5"]).unwrap_err();
    let NetworkError::Taken { network, machine, project, .. } = &error else { panic!("{error}") };
    assert_eq!((network.as_str(), machine.as_str(), project.as_path()), ("lab", "db", Path::new("/a")));
    assert!(error.to_string().contains("10.77.0.5"), "{error}");
    // In a network of its own it can have it.
    let own = Network { shared: false, ..lab };
    assert_eq!(store.reserve(&own, ("/b", "web"), &["10.77.0.5"]).unwrap(), ["10.77.0.5"]);
}

#[test]
fn an_address_that_was_chosen_gives_way_to_one_that_is_named() {
    let (store, lab) = (Store::new(), shared());
    // 10.77.0.2 is another's by the file.
    assert_eq!(store.reserve(&lab, ("/a", "db"), &[]).unwrap(), ["10.77.0.3"]);
    assert_eq!(store.reserve(&lab, ("/a", "db"), &[]).unwrap(), ["10.77.0.3"], "it keeps it");
    assert_eq!(store.reserve(&lab, ("/b", "web"), &["10.77.0.3"]).unwrap(), ["10.77.0.3"]);
    assert_eq!(store.reserve(&lab, ("/a", "db"), &[]).unwrap(), ["10.77.0.4"]);
    store.networks().release("/a db", &[]).unwrap();
    store.networks().release("/b web", &[]).unwrap();
    assert!(store.networks().list().unwrap().is_empty(), "a network without machines is left");
}

#[test]
fn a_network_that_is_full_says_so() {
    let store = Store::new();
    let small = Network { subnets: vec!["10.77.0.0/29".parse().unwrap()], ..Network::new("lab") };
    // Of eight addresses two are nobody's, one is the network's, one a router's, and one another's by the file.
    for machine in ["a", "b", "c"] {
        store.reserve(&small, ("/a", machine), &[]).unwrap();
    }
    let error = store.reserve(&small, ("/a", "d"), &[]).unwrap_err();
    assert!(matches!(error, NetworkError::Full { .. }), "{error}");
}

#[test]
fn networks_without_a_subnet_get_different_ones() {
    let store = Store::new();
    let subnet = |name: &str| {
        store.reserve(&Network::new(name), ("/a", "db"), &[]).unwrap();
        let list = store.networks().list().unwrap();
        list.iter().find(|network| network.spec.name == name).unwrap().spec.subnets.clone()
    };
    let (one, two) = (subnet("one"), subnet("two"));
    assert_ne!(one, two);
    assert_eq!(subnet("one"), one);
    let space: IpNet = "10.128.0.0/9".parse().unwrap();
    assert!(space.contains(&one[0]) && space.contains(&two[0]), "{one:?} {two:?}");
}
