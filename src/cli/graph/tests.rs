use super::*;
use crate::model::{Forward, Login, Masker, Protocol};

fn project(root: &str) -> Project {
    let machine = |name: &str, needs: &[&str]| Machine {
        depends_on: needs.iter().map(|need| need.to_string()).collect(),
        ..Machine::new(name, "debian/13")
    };
    let card = |addresses: &[&str], dhcp| Card {
        network: "backend".into(),
        addresses: addresses.iter().map(|ip| ip.parse().unwrap()).collect(),
        dhcp,
    };
    let port = Forward {
        guest: 80,
        host: 8080,
        host_ip: [127, 0, 0, 1].into(),
        protocol: Protocol::Tcp,
        auto_correct: false,
    };
    let proxy = Machine { ports: vec![port], primary: true, cpus: 2, ..machine("proxy", &["web", "db"]) };
    let web =
        Machine { cards: vec![card(&[], true)], groups: vec!["front".into()], ..machine("web", &["db"]) };
    let db = Machine { cards: vec![card(&["10.10.0.5", "fd10::5"], false)], ..machine("db", &[]) };
    let lone = Machine { autostart: false, box_name: "a<b".into(), ..machine("lone", &[]) };
    let subnets = vec!["10.10.0.0/24".parse().unwrap(), "fd10::/64".parse().unwrap()];
    let mut networks = vec![Network { subnets, mtu: 9000, ..Network::new("backend") }, Network::new("empty")];
    networks[1].dhcp = false;
    Project {
        root: root.into(),
        file: format!("{root}/Vagrantfile").into(),
        machines: vec![proxy, web, db, lone],
        login: Login::default(),
        masker: Masker::default(),
        hooks: Vec::new(),
        networks,
        after_all: Vec::new(),
    }
}

#[test]
fn the_text() {
    insta::assert_snapshot!(text::text(&Graph::of(&project("/p"))), @r"
    Order: db, lone → web → proxy

    db  debian/13, 1 CPU, 1024 MiB
      └ network  backend: 10.10.0.5, fd10::5
    lone  a<b, 1 CPU, 1024 MiB, not started by itself
    web  debian/13, 1 CPU, 1024 MiB
      ├ groups   front
      ├ needs    db
      └ network  backend: dhcp
    proxy  debian/13, 2 CPUs, 1024 MiB, primary
      ├ needs    web, db
      └ port     127.0.0.1:8080 → 80

    network backend  10.10.0.0/24, fd10::/64, MTU 9000
      ├ db       10.10.0.5, fd10::5
      └ web      dhcp

    network empty  no DHCP
    ");
}

#[test]
fn one_machine_has_no_order() {
    let mut project = project("/p");
    project.machines = vec![Machine::new("default", "micro")];
    project.networks.clear();
    assert_eq!(text::text(&Graph::of(&project)), "default  micro, 1 CPU, 1024 MiB\n");
}

#[test]
fn the_picture() {
    let project = project("/home/me/<shop>&\"co\u{1}");
    let picture = svg::draw(&Graph::of(&project));
    assert_eq!(picture, svg::draw(&Graph::of(&project)), "the same twice");
    assert!(picture.contains(">&lt;shop&gt;&amp;&quot;co\u{fffd}</text>"), "{picture}");
    assert!(picture.contains(">a&lt;b</text>") && picture.contains(">8080 → 80</text>"), "{picture}");
    // An arc for each need, a line for each card, a bar for each network, a box for each machine.
    let count = |part: &str| picture.matches(part).count();
    assert_eq!((count("class=\"d\""), count("class=\"a\"")), (3, 3));
    assert_eq!((count("class=\"c\""), count("class=\"n\"")), (2, 2));
    assert_eq!((count("class=\"m\""), count("class=\"o\"")), (3, 1));
    assert_eq!(count("<"), count(">"));
}

/// Boxes and bars lie within the picture, and no box on another, whatever the project has.
#[test]
fn nothing_overlaps() {
    let mut project = project("/p");
    for number in 0..40 {
        let name = format!("m{number}-{}", "x".repeat(number % 50));
        let needs = project.machines.iter().step_by(3).map(|machine| machine.name.clone()).collect();
        let cards = project.machines[2].cards.clone();
        project.machines.push(Machine { depends_on: needs, cards, ..Machine::new(name, "micro") });
    }
    let picture = svg::draw(&Graph::of(&project));
    let number = |line: &str, name: &str| -> f64 {
        line.split_once(&format!(" {name}=\"")).unwrap().1.split('"').next().unwrap().parse().unwrap()
    };
    let whole = picture.lines().next().unwrap();
    let (width, height) = (number(whole, "width"), number(whole, "height"));
    let boxes = picture.lines().filter(|line| line.starts_with("<rect class="));
    let mut edge = 0.0;
    for line in boxes {
        assert!(number(line, "x") > edge, "{line}");
        edge = number(line, "x") + number(line, "width");
        assert!(edge < width && number(line, "y") + number(line, "height") < height, "{line}");
    }
    assert!(edge > 40.0);
}
