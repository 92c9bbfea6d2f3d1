use super::*;
use crate::model::{DiskSource, Protocol};

fn machine() -> Machine {
    Machine { cpus: 2, ..Machine::new("web", "debian/13") }
}

fn login() -> LoginMark {
    LoginMark { user: "vagrant".into(), key: None, password: None }
}

fn made(applied: Applied) -> Made {
    Made { applied, provider: Some(ProviderKind::Qemu), digest: Some("a".repeat(64)), login: Some(login()) }
}

fn planned(machine: &Machine, login: &LoginMark, observed: &Observed) -> Plan {
    up(Wanted { machine, login, digest: None }, observed)
}

/// The changes of a machine that runs, as `text: how`.
fn running(was: &Machine, is: &Machine, live: &Live) -> Vec<String> {
    let plan = planned(is, &login(), &Observed::Running(made(Applied::of(was)), live.clone()));
    assert_eq!(plan.actions, [Action::Connect]);
    plan.changes.iter().map(|change| format!("{change}: {}", change.how.as_str())).collect()
}

fn disk(size: u64) -> ExtraDisk {
    let source = DiskSource::New { size, filesystem: true };
    ExtraDisk { name: "data".into(), source, mount: Some("/srv/data".into()), read_only: false }
}

fn forward(host: u16, guest: u16) -> Forward {
    let host_ip = std::net::IpAddr::from([127, 0, 0, 1]);
    Forward { guest, host, host_ip, protocol: Protocol::Tcp, auto_correct: false }
}

#[test]
fn half_made_is_made_again() {
    for observed in [Observed::Absent, Observed::HalfMade] {
        let plan = planned(&machine(), &login(), &observed);
        assert_eq!(plan, Plan { actions: vec![Action::Create, Action::Start], changes: vec![] });
    }
}

#[test]
fn a_machine_that_is_as_the_file_says_has_no_changes() {
    let full = Machine { disks: vec![disk(5 << 30)], ports: vec![forward(8080, 80)], ..machine() };
    assert_eq!(running(&full, &full, &Live::default()), Vec::<String>::new());
    let observed = Observed::Stopped(made(Applied::of(&full)));
    assert_eq!(planned(&full, &login(), &observed), Plan { actions: vec![Action::Start], changes: vec![] });
}

#[test]
fn every_difference_names_old_and_new_and_what_applies_it() {
    let was = Machine { disk: Some(4 << 30), ports: vec![forward(8080, 80)], ..machine() };
    let is = Machine {
        box_name: "debian/12".into(),
        cpus: 4,
        nested: true,
        memory: 2 << 30,
        disk: None,
        disks: vec![disk(5 << 30)],
        hostname: "shop".into(),
        provider: Some(ProviderKind::Kvm),
        kernel: KernelChoice::Fast,
        ports: vec![forward(8081, 80)],
        ssh: crate::model::Ssh { port: Some(2200), ..Default::default() },
        ..machine()
    };
    assert_eq!(
        running(&was, &is, &Live::default()),
        [
            "box debian/13 → debian/12: recreate",
            "cpus 2 → 4: reload",
            "nested false → true: reload",
            "memory 1024 MiB → 2048 MiB: reload",
            "disk 4096 MiB → as the box has it: recreate",
            "hostname web → shop: reload",
            "provider qemu → kvm: reload",
            "kernel stock → fast: reload",
            "ssh.port any → 2200: reload",
            "disk data 5120 MiB at /srv/data is new: reload",
            "port 127.0.0.1:8080 → 80 is not in the file any more: reload",
            "port 127.0.0.1:8081 → 80 is new: reload",
        ]
    );
}

#[test]
fn a_stopped_machine_takes_all_but_what_its_disk_was_made_from() {
    let is = Machine { cpus: 4, box_name: "debian/12".into(), ports: vec![forward(1, 2)], ..machine() };
    let plan = planned(&is, &login(), &Observed::Stopped(made(Applied::of(&machine()))));
    let how: Vec<How> = plan.changes.iter().map(|change| change.how).collect();
    assert_eq!(how, [How::Recreate, How::Live, How::Live]);
    assert_eq!(plan.pending().count(), 1);
}

#[test]
fn a_machine_of_another_box_than_the_locked_one_is_told() {
    let (machine, login) = (machine(), login());
    let observed = Observed::Stopped(made(Applied::of(&machine)));
    let with = |digest: &str| {
        let plan = up(Wanted { machine: &machine, login: &login, digest: Some(digest) }, &observed);
        plan.changes.iter().map(|change| (change.to_string(), change.how)).collect::<Vec<_>>()
    };
    assert_eq!(with(&"a".repeat(64)), []);
    let text = "box debian/13 (aaaaaaaaaaaa) → debian/13 (bbbbbbbbbbbb)".to_owned();
    assert_eq!(with(&"b".repeat(64)), [(text, How::Recreate)]);
}

#[test]
fn a_start_leaves_box_and_root_disk() {
    let is = Machine { box_name: "debian/12".into(), disk: Some(1 << 33), cpus: 4, ..machine() };
    let now = Applied::of(&machine()).after_start(&is);
    assert_eq!((now.box_name.as_str(), now.disk, now.cpus), ("debian/13", None, 4));
}

#[test]
fn memory_is_live_up_to_what_the_machine_was_started_with() {
    let live = &Live { memory: Some(1 << 30), ..Live::default() };
    let is = |memory| Machine { memory, ..machine() };
    assert_eq!(running(&machine(), &is(1 << 29), live), ["memory 1024 MiB → 512 MiB: up"]);
    assert_eq!(running(&is(1 << 29), &machine(), live), ["memory 512 MiB → 1024 MiB: up"]);
    assert_eq!(running(&machine(), &is(1 << 31), live), ["memory 1024 MiB → 2048 MiB: reload"]);
}

#[test]
fn ports_are_opened_live_and_those_that_were_opened_so_are_closed_live() {
    let live = &Live { ports: true, opened: vec![forward(8080, 80)], ..Live::default() };
    let with = |ports: &[Forward]| Machine { ports: ports.to_vec(), ..machine() };
    let udp = Forward { protocol: Protocol::Udp, ..forward(53, 53) };
    assert_eq!(
        running(&machine(), &with(&[forward(8080, 80), udp]), live),
        ["port 127.0.0.1:8080 → 80 is new: up", "port 127.0.0.1:53 → 53/udp is new: up"]
    );
    assert_eq!(
        running(&with(&[forward(8080, 80), forward(8081, 81)]), &machine(), live),
        [
            "port 127.0.0.1:8080 → 80 is not in the file any more: up",
            "port 127.0.0.1:8081 → 81 is not in the file any more: reload"
        ]
    );
    // What may happen to a port that is taken says nothing about one that was had.
    let corrected = Forward { auto_correct: true, ..forward(8080, 80) };
    assert_eq!(running(&with(&[forward(8080, 80)]), &with(&[corrected]), live), Vec::<String>::new());
}

#[test]
fn cards_of_networks_are_compared_one_by_one() {
    let card = |network: &str, ip: u8| Card {
        network: network.into(),
        addresses: vec![std::net::IpAddr::from([10, 0, 3, ip])],
        dhcp: false,
    };
    let was = Machine { cards: vec![card("back", 2), card("front", 2)], ..machine() };
    let is = Machine { cards: vec![card("front", 3), card("new", 2)], ..machine() };
    assert_eq!(
        running(&was, &is, &Live::default()),
        [
            "network back 10.0.3.2 is not in the file any more: reload",
            "network front 10.0.3.2 → 10.0.3.3: reload",
            "network new 10.0.3.2 is new: reload"
        ]
    );
}

#[test]
fn a_disk_is_never_made_smaller_nor_formatted_again() {
    let with = |disk| Machine { disks: vec![disk], ..machine() };
    let none = &Live::default();
    let [small, large] = [disk(1 << 30), disk(5 << 30)];
    assert_eq!(
        running(&with(small.clone()), &with(large.clone()), none),
        ["disk data 1024 MiB at /srv/data → 5120 MiB at /srv/data: reload"]
    );
    assert_eq!(
        running(&with(large.clone()), &with(small.clone()), none),
        ["disk data 5120 MiB at /srv/data → 1024 MiB at /srv/data: recreate"]
    );
    // A start does not change that.
    let started = Applied::of(&with(large.clone())).after_start(&with(small.clone()));
    assert_eq!(started.disks, std::slice::from_ref(&large));
    let grown = Applied::of(&with(small.clone())).after_start(&with(large.clone()));
    assert_eq!(grown.disks, [large]);
    let source = DiskSource::New { size: 1 << 30, filesystem: false };
    let bare = ExtraDisk { source, ..small.clone() };
    assert!(running(&with(small.clone()), &with(bare), none)[0].ends_with(": recreate"));
    assert_eq!(
        running(&with(small), &machine(), none),
        ["disk data 1024 MiB at /srv/data is not in the file any more: reload"]
    );
}

#[test]
fn a_changed_password_is_told_and_never_shown() {
    let was = LoginMark { password: Some("digest-1".into()), ..login() };
    let is = LoginMark { user: "deploy".into(), key: Some("/k".into()), password: Some("digest-2".into()) };
    let made = Made { login: Some(was), ..made(Applied::of(&machine())) };
    let plan = planned(&machine(), &is, &Observed::Running(made.clone(), Live::default()));
    let texts: Vec<String> = plan.changes.iter().map(ToString::to_string).collect();
    assert_eq!(
        texts,
        [
            "RVM_SSH_USER vagrant → deploy",
            "RVM_SSH_KEY the machine's own → /k",
            "RVM_SSH_PASSWORD has changed"
        ]
    );
    assert!(!format!("{:?}", plan.changes).contains("digest"));
    // A record of an older rvm says nothing about it.
    let old = Made { login: None, ..made };
    assert_eq!(planned(&machine(), &is, &Observed::Running(old, Live::default())).changes, []);
}

#[test]
fn a_forced_provider_is_compared_with_what_runs_the_machine() {
    let forced = Machine { provider: Some(ProviderKind::Kvm), ..machine() };
    assert_eq!(running(&machine(), &forced, &Live::default()), ["provider qemu → kvm: reload"]);
    // Forced to what was chosen by itself: nothing changes.
    let same = Machine { provider: Some(ProviderKind::Qemu), ..machine() };
    assert_eq!(running(&machine(), &same, &Live::default()), Vec::<String>::new());
}

#[test]
fn machines_come_behind_those_they_depend_on() {
    let machine = |name: &str, on: &[&str]| Machine {
        depends_on: on.iter().map(|name| (*name).into()).collect(),
        ..Machine::new(name, "micro")
    };
    let names = |list: &[Machine]| -> Vec<String> {
        in_order(list).into_iter().map(|machine| machine.name.clone()).collect()
    };
    let all =
        [machine("web", &["db", "cache"]), machine("db", &[]), machine("cache", &["db"]), machine("x", &[])];
    assert_eq!(names(&all), ["db", "cache", "web", "x"]);
    assert_eq!(names(&all[..1]), ["web"], "what is not asked for is not waited for");
    assert_eq!(names(&[machine("a", &["b"]), machine("b", &["a"]), machine("c", &[])]), ["c", "a", "b"]);
}

#[test]
fn older_records_still_load() {
    let text = r#"{"box_name":"micro","disk":null,"cpus":1,"memory":268435456,"hostname":"default",
        "kernel":"stock","provider":null,"ports":[]}"#;
    let applied: Applied = serde_json::from_str(text).unwrap();
    assert_eq!(applied, Applied::of(&Machine { memory: 1 << 28, ..Machine::new("default", "micro") }));
}
