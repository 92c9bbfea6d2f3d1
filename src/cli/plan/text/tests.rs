use super::*;
use crate::image::ImageError;
use crate::machine::{AfterPreview, MachineError, Preview, Start, State, Status, Undeclared};
use crate::model::{Forward, Login, Masker, Project, Protocol};
use crate::plan::{Action, Subject};

fn project(machines: Vec<Machine>) -> Project {
    Project {
        root: "/p".into(),
        file: "/p/Vagrantfile".into(),
        machines,
        hooks: Vec::new(),
        after_all: Vec::new(),
        networks: vec![],
        login: Login::default(),
        masker: Masker::default(),
    }
}

fn preview(machine: &Machine, state: State, actions: &[Action]) -> Preview {
    let created = state != State::NotCreated;
    Preview {
        status: Status {
            id: created.then(|| "0123456789abcdef0123456789abcdef".into()),
            name: machine.name.clone(),
            provider: created.then_some(ProviderKind::Kvm),
            state,
            project: "/p".into(),
            box_name: machine.box_name.clone(),
            pid: None,
            ports: vec![],
            places: vec![],
            ssh: None,
            uptime: None,
            cause: None,
            remedy: None,
        },
        actions: actions.to_vec(),
        changes: vec![],
        start: (actions != [Action::Connect]).then(Start::default),
        steps: vec![],
        problems: vec![],
        busy: None,
    }
}

fn change(subject: Subject, old: Option<&str>, new: Option<&str>, how: How) -> Change {
    Change { subject, old: old.map(Into::into), new: new.map(Into::into), how }
}

fn step(name: &str, why: Why) -> StepPreview {
    StepPreview { name: name.into(), kind: "shell", why }
}

fn show(machine: &Machine, preview: Preview) -> String {
    let project = project(vec![machine.clone()]);
    let planned = Planned { project: &project, machine, preview, left_alone: !machine.autostart };
    text(&plan(vec![planned], vec![]), false)
}

fn plan<'a>(machines: Vec<Planned<'a>>, gone: Vec<Undeclared>) -> Plan<'a> {
    Plan { machines, after: Vec::new(), gone }
}

#[test]
fn a_machine_that_is_not_there() {
    let host_ip = std::net::IpAddr::from([127, 0, 0, 1]);
    let port = |host| Forward { guest: 80, host, host_ip, protocol: Protocol::Tcp, auto_correct: true };
    let machine = Machine {
        hostname: "shop.example".into(),
        depends_on: vec!["db".into(), "cache".into()],
        disk: Some(20 << 30),
        ..Machine::new("web", "debian/13")
    };
    let mut preview = preview(&machine, State::NotCreated, &[Action::Create, Action::Start]);
    preview.start = Some(Start {
        provider: Some(ProviderKind::Qemu),
        ports: vec![(port(8080), port(8080)), (port(8443), port(2200))],
        ..Start::default()
    });
    preview.steps = vec![step("nginx", Why::New), step("reset", Why::Never), step("hello", Why::Always)];
    insta::assert_snapshot!(show(&machine, preview), @r"
    web: not created, will be created
        after      db, cache
      + box        debian/13, which is built first
      + hardware   1 CPU, 1024 MiB of memory
      + disk       20.0 GiB
      + hostname   shop.example
      + kernel     stock, which comes with the box
      + provider   qemu (`rvm doctor` says why not kvm)
      + port       127.0.0.1:8080 → 80
      ~ port       127.0.0.1:8443 → 80: taken, so 2200 instead
      + step       nginx (shell): has not succeeded yet
        step       hello (shell): runs each time

    `rvm up` creates 1 of 1 machine.
    ");
}

#[test]
fn a_machine_that_runs_and_differs() {
    let machine = Machine::new("db", "debian/13");
    let mut preview = preview(&machine, State::Running, &[Action::Connect]);
    preview.changes = vec![
        change(Subject::Box, Some("debian/12"), Some("debian/13"), How::Recreate),
        change(Subject::Memory, Some("1024 MiB"), Some("512 MiB"), How::Live),
        change(Subject::Port, Some("127.0.0.1:1 → 2"), None, How::Reload),
        change(Subject::Port, None, Some("127.0.0.1:3 → 4"), How::Reload),
        change(Subject::Password, None, None, How::Reload),
    ];
    preview.steps = vec![
        step("schema", Why::Changed(vec!["env DB_PASSWORD".into(), "script".into()])),
        step("old", Why::Changed(vec![])),
        step("tools", Why::Done),
    ];
    preview.busy = Some("rvm provision db (pid 7)".into());
    insta::assert_snapshot!(show(&machine, preview), @r"
    db: running, differs from the Vagrantfile
        now        `rvm provision db (pid 7)` works on it: this may be out of date
      ~ box        debian/12 → debian/13: `rvm destroy db` and `rvm up db` make it anew
      ~ memory     1024 MiB → 512 MiB: `rvm up db` applies it
      - port       127.0.0.1:1 → 2: `rvm reload db` applies it
      + port       127.0.0.1:3 → 4: `rvm reload db` applies it
      ~ RVM_SSH_PASSWORD has changed: `rvm reload db` applies it
      ~ step       schema (shell): changed since it succeeded: env DB_PASSWORD, script
      ~ step       old (shell): changed since it succeeded

    `rvm up` changes 1 of 1 machine. `rvm reload` is needed for db. `rvm destroy` and `rvm up` are needed for db.
    ");
}

#[test]
fn machines_that_need_little() {
    let machine = Machine::new("db", "micro");
    insta::assert_snapshot!(show(&machine, preview(&machine, State::Running, &[Action::Connect])), @r"
    db: running, as the Vagrantfile says

    Nothing to do.
    ");
    let mut halted = preview(&machine, State::Poweroff, &[Action::Start]);
    halted.changes = vec![change(Subject::Cpus, Some("1"), Some("2"), How::Live)];
    halted.start =
        Some(Start { kernel: Some("6.12".into()), provider: Some(ProviderKind::Kvm), ..Start::default() });
    insta::assert_snapshot!(show(&machine, halted), @r"
    db: poweroff, will be started
      ~ cpus       1 → 2
        kernel     stock, 6.12
        provider   kvm

    `rvm up` starts 1 of 1 machine.
    ");
    let lazy = Machine { autostart: false, ..machine };
    let absent = preview(&lazy, State::NotCreated, &[Action::Create, Action::Start]);
    insta::assert_snapshot!(show(&lazy, absent), @r"
    db: not created
        autostart  `rvm up` leaves it alone (autostart = false); `rvm up db` brings it up

    Nothing to do.
    ");
}

#[test]
fn what_goes_wrong_is_told_with_a_way_out() {
    let machine = Machine::new("db", "nosuch");
    let mut preview = preview(&machine, State::NotCreated, &[Action::Create, Action::Start]);
    let unknown = ImageError::UnknownBox { name: "nosuch".into(), known: vec!["micro"] };
    preview.problems = vec![MachineError::from(unknown)];
    insta::assert_snapshot!(show(&machine, preview), @r"
    db: not created, will be created
      + hardware   1 CPU, 1024 MiB of memory
      + disk       as large as the box makes it
      + kernel     stock, which comes with the box
      ! problem    there is no box `nosuch`
                   boxes that can be built: micro

    `rvm up` creates 1 of 1 machine. It would fail for 1 machine.
    ");
}

#[test]
fn colours_are_of_the_marks_and_of_nothing_from_a_file() {
    let machine = Machine::new("db", "micro");
    let mut preview = preview(&machine, State::Running, &[Action::Connect]);
    preview.changes = vec![change(Subject::Hostname, Some("a\x1b[31mb"), Some("c"), How::Reload)];
    let project = project(vec![machine.clone()]);
    let planned = Planned { project: &project, machine: &machine, preview, left_alone: false };
    let gone = Undeclared { id: "0123456789abcdef0123456789abcdef".into(), name: "old".into() };
    let text = text(&plan(vec![planned], vec![gone]), true);
    assert!(text.contains("\x1b[33m~\x1b[0m hostname   ab → c: `rvm reload db` applies it\n"), "{text:?}");
    assert!(text.contains("\x1b[31m-\x1b[0m machine    `rvm destroy 0123456` removes it\n"), "{text:?}");
    assert!(text.starts_with("\x1b[1mdb: running, differs"), "{text:?}");
}

#[test]
fn what_comes_after_all_machines() {
    use crate::model::{AfterAll, Script, Step, StepKind};
    let machine = Machine::new("web", "micro");
    let project = project(vec![machine.clone()]);
    let planned = || Planned {
        project: &project,
        machine: &machine,
        preview: preview(&machine, State::Running, &[Action::Connect]),
        left_alone: false,
    };
    let kind = StepKind::Shell { script: Script::Inline("true".into()), args: Vec::new(), privileged: true };
    let declared = AfterAll {
        side: Side::Guest,
        machines: vec!["web".into(), "db".into()],
        step: Step::new("check", kind),
    };
    let after = |why| After { project: &project, preview: AfterPreview { after: &declared, why: Ok(why) } };
    let show = |list| text(&Plan { machines: vec![planned()], after: list, gone: vec![] }, false);
    insta::assert_snapshot!(show(vec![after(Why::New), after(Why::Done)]), @r"
    web: running, as the Vagrantfile says

    after all machines
      + step       check (shell, web, db): has not succeeded yet

    `rvm up` runs what comes after all machines.
    ");
    assert!(!show(vec![after(Why::Done)]).contains("after all"));
    let plan = Plan { machines: vec![planned()], after: vec![after(Why::Always)], gone: vec![] };
    assert!(!plan.differs(), "what runs each time is no difference");
}
