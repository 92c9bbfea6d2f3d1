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

    /// Where that machine's card listens while it runs.
    fn socket(&self, project: &str, machine: &str) -> PathBuf {
        self.dir.path().join(format!("{}-{machine}.sock", project.trim_start_matches('/')))
    }

    fn reserve(
        &self,
        network: &Network,
        (project, machine): (&str, &str),
        ip: &[&str],
    ) -> Result<Vec<String>, NetworkError> {
        let addresses = ip.iter().map(|ip| ip.parse().unwrap()).collect();
        let card = Card { network: network.name.clone(), addresses, dhcp: false };
        let socket = self.socket(project, machine);
        let applicant = Applicant {
            project: Path::new(project),
            machine,
            id: &format!("{project} {machine}"),
            mac: [2, 0, 0, 0, 0, 1],
            socket: &socket,
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

/// The switch is not asked: it may have been killed.
#[test]
fn an_address_of_a_machine_that_runs_is_not_given_away() {
    let (store, lab) = (Store::new(), shared());
    assert_eq!(store.reserve(&lab, ("/a", "db"), &[]).unwrap(), ["10.77.0.3"]);
    let listener = control::bind(&store.socket("/a", "db")).unwrap();
    let error = store.reserve(&lab, ("/b", "web"), &["10.77.0.3"]).unwrap_err();
    assert!(matches!(error, NetworkError::Taken { .. }), "{error}");
    drop(listener);
    assert_eq!(store.reserve(&lab, ("/b", "web"), &["10.77.0.3"]).unwrap(), ["10.77.0.3"]);
}

/// Who waits for a network's lock while it is removed gets a new one, and not the folder that is gone.
#[test]
fn a_network_that_is_removed_is_made_anew_by_whom_it_made_wait() {
    let (store, lab) = (Store::new(), shared());
    store.reserve(&lab, ("/a", "db"), &[]).unwrap();
    let id = network_id(Path::new("/a"), &lab);
    let dir = store.networks().dir(&id);
    let held = store.networks().change(&id, "destroy").unwrap();
    std::thread::scope(|scope| {
        let waiting = scope.spawn(|| store.reserve(&lab, ("/b", "web"), &[]));
        // It has the lock's file open once it waits, which no event tells; either way it must come out right.
        std::thread::sleep(std::time::Duration::from_millis(200));
        store::remove(&dir).unwrap();
        drop(held);
        waiting.join().unwrap().unwrap();
    });
    let list = store.networks().list().unwrap();
    let members: Vec<&str> = list.iter().flat_map(|it| &it.members).map(|it| it.machine.as_str()).collect();
    assert_eq!(members, ["web"], "the place was given in a folder that is gone");
}

#[test]
fn names_of_a_project_go_with_its_last_machine() {
    let (store, lab) = (Store::new(), shared());
    for (project, machine) in [("/a", "db"), ("/b", "web"), ("/b", "other")] {
        store.reserve(&lab, (project, machine), &[]).unwrap();
    }
    let networks = store.networks();
    let id = network_id(Path::new("/a"), &lab);
    for owner in ["/a", "/b"] {
        networks.tell_names(&id, Zone { owner: owner.into(), ..Zone::default() }).unwrap();
    }
    let owners = || {
        let state = store.networks().state(&id).unwrap().unwrap();
        state.zones.into_iter().map(|zone| zone.owner).collect::<Vec<_>>()
    };
    networks.release("/b web", &[]).unwrap();
    assert_eq!(owners(), ["/a", "/b"]);
    networks.release("/b other", &[]).unwrap();
    assert_eq!(owners(), ["/a"]);
}

#[test]
fn why_a_machine_is_cut_off_is_told() {
    let (store, lab) = (Store::new(), shared());
    store.reserve(&lab, ("/a", "db"), &[]).unwrap();
    let networks = store.networks();
    let lost = networks.lost("/a db").unwrap();
    let id = network_id(Path::new("/a"), &lab);
    assert_eq!(lost, [Lost { network: "lab".into(), id: id.clone(), why: None }]);
    // Somebody else's network is none of its.
    assert!(networks.mend_one(&id, "/b db").unwrap().is_none());
    let log = "db left: it closed the connection\nweb left: it sent a frame of 3 bytes\ndb left: it sent a frame of 70000 bytes\n";
    std::fs::write(networks.dir(&id).join("switch.log"), log).unwrap();
    assert_eq!(networks.last_words(&id, "db"), "it sent a frame of 70000 bytes");
    assert_eq!(networks.last_words(&id, "d"), "it has no connection");
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
