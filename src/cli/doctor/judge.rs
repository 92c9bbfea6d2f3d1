//! What the facts mean, and what mends them. No I/O.

use super::host::{Facts, Kvm, Passt, Probe};
use crate::cli::ui::table::bytes;
use crate::provider::walls::Walls;

/// Oldest QEMU whose microvm machine boots our guests (Debian 12 has it).
const QEMU_WANTED: (u32, u32) = (7, 2);
/// Room for a Debian box, the files of its build, and a machine, in bytes.
const SPACE_WANTED: u64 = 4 << 30;

/// What lets users make user namespaces.
const ALLOW_NAMESPACES: &str = "sudo sysctl -w kernel.unprivileged_userns_clone=1 user.max_user_namespaces=15000 \
                                kernel.apparmor_restrict_unprivileged_userns=0   (those of the three that there are)";

/// How a check went.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mark {
    /// Fine.
    Good,
    /// Missing, with a consequence.
    Bad,
    /// Not needed, or a matter of taste.
    Note,
}

impl Mark {
    /// The sign before the line.
    pub fn sign(self) -> char {
        match self {
            Mark::Good => '✓',
            Mark::Bad => '✗',
            Mark::Note => '–',
        }
    }

    /// Its colour: green, red, none.
    pub fn color(self) -> &'static str {
        match self {
            Mark::Good => "\x1b[32m",
            Mark::Bad => "\x1b[31m",
            Mark::Note => "",
        }
    }
}

/// One line of the report.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Check {
    /// What was looked at.
    pub name: &'static str,
    /// How it went.
    pub mark: Mark,
    /// What it means.
    pub text: String,
    /// A command, or what to do.
    pub fix: Option<String>,
}

/// The report.
#[derive(Debug, Clone)]
pub struct Verdict {
    /// All checks.
    pub checks: Vec<Check>,
    /// The `kvm` provider can run machines.
    pub kvm: bool,
    /// The `qemu` provider can run machines.
    pub qemu: bool,
    /// The end of the report, in plain words.
    pub conclusion: String,
}

/// Judges.
pub fn judge(facts: &Facts) -> Verdict {
    let checks = vec![
        kvm(facts),
        speed(facts),
        qemu(facts),
        passt(facts),
        program(facts, "ssh", "openssh-client", "serves `rvm ssh`", "`rvm ssh` works only with -c"),
        box_tools(facts),
        user_ids(facts),
        space(facts),
        huge_pages(facts),
        walls(facts),
        machines(facts),
        kernel_build(facts),
        ansible(facts),
    ];
    let good = |name: &str| checks.iter().any(|check| check.name == name && check.mark == Mark::Good);
    // What all machines need, whoever runs them.
    let all = matches!(facts.passt, Passt::Starts { .. }) && facts.walls.is_ok();
    let (kvm, qemu) = (good("/dev/kvm") && good("guest speed") && all, good("qemu") && all);
    let boxes = good("box tools") && good("user ids");
    Verdict { kvm, qemu, conclusion: conclusion(kvm, qemu, boxes), checks }
}

fn conclusion(kvm: bool, qemu: bool, boxes: bool) -> String {
    let mut text = String::from(match (kvm, qemu) {
        (true, true) => "This host runs machines with kvm (the default) and with qemu.",
        (true, false) => "This host runs machines with kvm.",
        (false, true) => {
            "This host runs machines with qemu by software emulation, several times slower than kvm. \
             rvm chooses it by itself."
        }
        (false, false) => "This host cannot run machines yet: see the lines with ✗.",
    });
    if !boxes {
        text.push_str(" It cannot make boxes yet.");
    }
    text
}

fn check(name: &'static str, mark: Mark, text: impl Into<String>) -> Check {
    Check { name, mark, text: text.into(), fix: None }
}

fn bad(name: &'static str, text: impl Into<String>, fix: impl Into<String>) -> Check {
    Check { name, mark: Mark::Bad, text: text.into(), fix: Some(fix.into()) }
}

fn install(packages: &str) -> String {
    format!("sudo apt install {packages}")
}

fn kvm(facts: &Facts) -> Check {
    let name = "/dev/kvm";
    match &facts.kvm {
        Kvm::Open => check(name, Mark::Good, "opens for this user"),
        Kvm::Denied if facts.user.in_kvm_group => bad(
            name,
            "this user is in group kvm, but this login began before that",
            "log out and in again, or work in a shell of `newgrp kvm`",
        ),
        Kvm::Denied => bad(
            name,
            "this user may not open it",
            format!("sudo usermod -aG kvm {}   (then log out and in again)", facts.user.name),
        ),
        Kvm::Missing { module: Some(module) } => bad(
            name,
            "is not there, though the processor can virtualise",
            format!("sudo modprobe {module}   (if that fails: switch virtualisation on in the firmware)"),
        ),
        Kvm::Missing { module: None } => bad(
            name,
            "is not there, and the processor shows no virtualisation",
            "switch it on in the firmware; inside a virtual machine: switch on nested virtualisation outside",
        ),
        Kvm::Broken(why) => bad(name, format!("cannot be opened: {why}"), "see `sudo dmesg | grep -i kvm`"),
    }
}

fn speed(facts: &Facts) -> Check {
    let name = "guest speed";
    match &facts.probe {
        None => check(name, Mark::Note, "not measured without /dev/kvm"),
        Some(Err(why)) => bad(
            name,
            format!("the probe guest did not run: {why}"),
            "see `sudo dmesg | grep -i kvm`; until then rvm takes qemu",
        ),
        Some(Ok(Probe { loop_ns, exit_ns, full_speed: true })) => {
            let exit_us = exit_ns / 1000.0;
            let text =
                format!("guest kernels run at full speed ({loop_ns:.1} ns a loop, {exit_us:.1} µs an exit)");
            check(name, Mark::Good, text)
        }
        Some(Ok(Probe { loop_ns, full_speed: false, .. })) => bad(
            name,
            format!(
                "this /dev/kvm emulates guest kernels ({loop_ns:.0} ns a loop, where 0.3 to 3 are usual): \
                 no stock kernel boots on it"
            ),
            "nothing inside this host mends it: whoever runs this host has to give it a real KVM",
        ),
    }
}

fn qemu(facts: &Facts) -> Check {
    let name = "qemu";
    let package = install("qemu-system-x86");
    let (major, minor) = QEMU_WANTED;
    match facts.qemu {
        None => bad(name, "qemu-system-x86_64 is not installed: no machine runs where KVM cannot", package),
        Some(None) => bad(name, "qemu-system-x86_64 does not tell its version", package),
        Some(Some(found)) if found < QEMU_WANTED => {
            let text = format!("version {}.{} is too old: {major}.{minor} is needed", found.0, found.1);
            bad(name, text, package)
        }
        Some(Some((major, minor))) => {
            check(name, Mark::Good, format!("version {major}.{minor}, for hosts whose KVM does not serve"))
        }
    }
}

fn program(facts: &Facts, name: &'static str, package: &str, purpose: &str, without: &str) -> Check {
    if facts.programs.contains(&name) {
        check(name, Mark::Good, purpose)
    } else {
        bad(name, format!("is not installed: {without}"), install(package))
    }
}

fn passt(facts: &Facts) -> Check {
    let name = "passt";
    match &facts.passt {
        Passt::Missing => bad(name, "is not installed: no machine runs", install(name)),
        Passt::Fails(why) => bad(
            name,
            format!("does not start, so no machine runs: {why}"),
            match why.contains("user namespace") {
                true => format!("{ALLOW_NAMESPACES}; in a container or a chroot, whoever runs it has to allow them"),
                false => "`passt --foreground` says more".into(),
            },
        ),
        Passt::Starts { is_old: false } => check(name, Mark::Good, "gives machines a network, without root"),
        Passt::Starts { is_old: true } => Check {
            name,
            mark: Mark::Note,
            text: "is older than August 2024: a connection from a guest on which nobody answers for 24 s breaks, \
                   as a long upload over plain HTTP"
                .into(),
            fix: Some("a newer one, such as that of Debian 13; docs/network.md tells more".into()),
        },
    }
}

fn missing<'a>(facts: &Facts, wanted: &[(&str, &'a str)]) -> Vec<&'a str> {
    wanted.iter().filter(|(program, _)| !facts.programs.contains(program)).map(|(_, p)| *p).collect()
}

fn box_tools(facts: &Facts) -> Check {
    let name = "box tools";
    let wanted = [
        ("mmdebstrap", "mmdebstrap"),
        ("newuidmap", "uidmap"),
        ("unshare", "util-linux"),
        ("mke2fs", "e2fsprogs"),
        ("dpkg-deb", "dpkg"),
    ];
    let packages = missing(facts, &wanted);
    if packages.is_empty() {
        return check(name, Mark::Good, "mmdebstrap, uidmap and e2fsprogs make boxes, without root");
    }
    let text = format!("{} missing: boxes cannot be made", packages.join(", "));
    bad(name, text, install(&packages.join(" ")))
}

fn user_ids(facts: &Facts) -> Check {
    let name = "user ids";
    let user = &facts.user;
    if user.is_root {
        return check(name, Mark::Good, "root needs no subordinate ids (nor does anything here need root)");
    }
    if !user.namespaces {
        return bad(
            name,
            "this kernel forbids user namespaces: boxes cannot be made without root",
            ALLOW_NAMESPACES,
        );
    }
    if !user.has_subids {
        return bad(
            name,
            "this user has no subordinate ids: boxes cannot be made without root",
            format!("sudo usermod --add-subuids 100000-165535 --add-subgids 100000-165535 {}", user.name),
        );
    }
    check(name, Mark::Good, "subordinate ids and user namespaces are there")
}

fn space(facts: &Facts) -> Check {
    let name = "disk space";
    match &facts.free {
        None => check(name, Mark::Note, "could not be told"),
        Some((free, at)) if *free < SPACE_WANTED => {
            let (free, wanted) = (bytes(*free), bytes(SPACE_WANTED));
            let text = format!("{free} free in {}: a Debian box and a machine want {wanted}", at.display());
            bad(name, text, "free some, or set RVM_HOME to a folder with more room")
        }
        Some((free, at)) => check(name, Mark::Good, format!("{} free in {}", bytes(*free), at.display())),
    }
}

fn huge_pages(facts: &Facts) -> Check {
    let name = "huge pages";
    match facts.huge_pages.as_deref() {
        Some(word @ ("always" | "madvise")) => {
            check(name, Mark::Good, format!("`{word}`: guest memory may be backed by huge pages"))
        }
        Some(word) => Check {
            name,
            mark: Mark::Note,
            text: format!("`{word}`: guests start and run somewhat slower"),
            fix: Some("echo madvise | sudo tee /sys/kernel/mm/transparent_hugepage/enabled".into()),
        },
        None => check(name, Mark::Note, "this kernel has none: guests start and run somewhat slower"),
    }
}

fn walls(facts: &Facts) -> Check {
    let name = "sandbox";
    let walls = match &facts.walls {
        Ok(walls) => walls,
        Err(why) => {
            let text = format!("a machine's process cannot be shut in, so no machine runs: {why}");
            return bad(
                name,
                text,
                "docs/security.md tells what it takes; a newer kernel of the host has it",
            );
        }
    };
    let held = held(walls);
    if !walls.missing.is_empty() {
        let fix = match walls.landlock {
            None => "boot the host's kernel, 5.13 or newer, with `lsm=` and landlock in its list",
            Some(_) => "a newer kernel of the host has the rest",
        };
        let text =
            format!("{}; machines run all the same. The rest stands: {held}", walls.missing.join("; "));
        return Check { name, mark: Mark::Note, text, fix: Some(fix.into()) };
    }
    check(name, Mark::Good, format!("tried on a process as a machine's: {held}"))
}

/// What was found to hold.
fn held(walls: &Walls) -> String {
    let rights = &walls.rights;
    let mut held = Vec::new();
    held.extend(walls.landlock.map(|version| format!("files closed (Landlock {version})")));
    for (holds, text) in [
        (rights.seccomp, "system calls filtered (seccomp)"),
        (rights.no_capabilities, "no capabilities"),
        (rights.no_new_privileges, "none to be had (no_new_privs)"),
        (walls.core == Some(0), "no core dump"),
        (walls.locked == Some(0), "no locked memory"),
        (walls.file_size.is_some(), "no file larger than its disks"),
        (walls.inherited == 0, "no descriptor inherited"),
    ] {
        held.extend(holds.then(|| text.to_owned()));
    }
    held.extend(walls.files.map(|most| format!("at most {most} descriptors")));
    held.push(format!("environment: {}", walls.environment.join(", ")));
    held.join(", ")
}

fn machines(facts: &Facts) -> Check {
    let (name, running) = ("machines", &facts.running);
    let open: Vec<String> = running
        .iter()
        .filter(|machine| !machine.rights.are_none())
        .map(|machine| format!("{} (process {})", machine.machine, machine.pid))
        .collect();
    match (running.len(), open.is_empty()) {
        (0, _) => check(name, Mark::Good, "none runs"),
        (1, true) => check(name, Mark::Good, "one runs, shut in"),
        (count, true) => check(name, Mark::Good, format!("{count} run, all shut in")),
        (count, false) => Check {
            name,
            mark: Mark::Note,
            text: format!("of {count} that run, not shut in as a new one would be: {}", open.join(", ")),
            fix: Some("`rvm reload` starts them anew".into()),
        },
    }
}

fn kernel_build(facts: &Facts) -> Check {
    let name = "kernel build";
    let wanted = [
        ("gcc", "gcc"),
        ("make", "make"),
        ("flex", "flex"),
        ("bison", "bison"),
        ("bc", "bc"),
        ("perl", "perl"),
        ("xz", "xz-utils"),
        ("ld", "binutils"),
    ];
    let packages = missing(facts, &wanted);
    if packages.is_empty() {
        return check(name, Mark::Good, "`kernel = \"fast\"` can be built");
    }
    Check {
        name,
        mark: Mark::Note,
        text: format!("{} missing: needed only for `kernel = \"fast\"`", packages.join(", ")),
        fix: Some(install(&format!("{} libelf-dev", packages.join(" ")))),
    }
}

fn ansible(facts: &Facts) -> Check {
    let name = "ansible";
    if facts.programs.contains(&"ansible-playbook") {
        return check(name, Mark::Good, "runs `ansible` steps");
    }
    Check {
        name,
        mark: Mark::Note,
        text: "is not installed: needed only for `ansible` steps".into(),
        fix: Some(install("ansible-core")),
    }
}

#[cfg(test)]
mod tests {
    use super::super::host::{PROGRAMS, Shut, User};
    use super::*;
    use crate::provider::walls::Rights;

    fn none() -> Rights {
        Rights { seccomp: true, no_new_privileges: true, no_capabilities: true }
    }

    fn walls() -> Walls {
        Walls {
            landlock: Some(7),
            rights: none(),
            core: Some(0),
            files: Some(1024),
            file_size: Some(64 << 20),
            locked: Some(0),
            inherited: 0,
            environment: vec!["PATH".into()],
            missing: vec![],
        }
    }

    fn healthy() -> Facts {
        Facts {
            kvm: Kvm::Open,
            probe: Some(Ok(Probe { loop_ns: 1.4, exit_ns: 40_000.0, full_speed: true })),
            qemu: Some(Some((7, 2))),
            passt: Passt::Starts { is_old: false },
            programs: PROGRAMS.to_vec(),
            user: User { name: "me".into(), has_subids: true, namespaces: true, ..User::default() },
            free: Some((50 << 30, "/home/me".into())),
            huge_pages: Some("madvise".into()),
            walls: Ok(walls()),
            running: vec![Shut { machine: "web".into(), pid: 7, rights: none() }],
        }
    }

    fn find<'a>(verdict: &'a Verdict, name: &str) -> &'a Check {
        verdict.checks.iter().find(|check| check.name == name).unwrap()
    }

    #[test]
    fn a_healthy_host() {
        let verdict = judge(&healthy());
        assert!(verdict.kvm && verdict.qemu);
        assert!(verdict.checks.iter().all(|c| c.mark == Mark::Good && c.fix.is_none()), "{verdict:?}");
    }

    #[test]
    fn permission_is_mended_by_the_group_or_a_new_login() {
        let mut facts = Facts { kvm: Kvm::Denied, probe: None, ..healthy() };
        let verdict = judge(&facts);
        assert!(!verdict.kvm && verdict.qemu);
        assert!(find(&verdict, "/dev/kvm").fix.as_ref().unwrap().starts_with("sudo usermod -aG kvm me"));
        assert_eq!(find(&verdict, "guest speed").mark, Mark::Note);
        facts.user.in_kvm_group = true;
        assert!(find(&judge(&facts), "/dev/kvm").fix.as_ref().unwrap().contains("log out"));
    }

    #[test]
    fn a_kvm_in_name_only_is_told_apart() {
        let probe = Some(Ok(Probe { loop_ns: 1200.0, exit_ns: 5000.0, full_speed: false }));
        let verdict = judge(&Facts { probe, ..healthy() });
        assert!(!verdict.kvm && verdict.qemu);
        assert!(find(&verdict, "guest speed").text.contains("1200 ns"));
        assert!(verdict.conclusion.contains("software emulation"));
    }

    #[test]
    fn no_kvm_at_all() {
        let fix = |module| {
            let verdict = judge(&Facts { kvm: Kvm::Missing { module }, probe: None, ..healthy() });
            find(&verdict, "/dev/kvm").fix.clone().unwrap()
        };
        assert!(fix(Some("kvm_amd")).starts_with("sudo modprobe kvm_amd"));
        assert!(fix(None).contains("firmware"));
    }

    #[test]
    fn without_passt_nothing_runs() {
        let verdict = judge(&Facts { passt: Passt::Missing, ..healthy() });
        assert!(!verdict.kvm && !verdict.qemu);
        assert_eq!(find(&verdict, "passt").fix.as_deref(), Some("sudo apt install passt"));
        let why = "Couldn't create user namespace: Operation not permitted".to_owned();
        let verdict = judge(&Facts { passt: Passt::Fails(why.clone()), ..healthy() });
        assert!(!verdict.kvm && !verdict.qemu);
        let found = find(&verdict, "passt");
        assert!(found.text.ends_with(&why) && found.fix.as_ref().unwrap().contains("userns"), "{found:?}");
    }

    #[test]
    fn an_old_passt_runs_machines_and_is_told() {
        let verdict = judge(&Facts { passt: Passt::Starts { is_old: true }, ..healthy() });
        assert!(verdict.kvm && verdict.qemu);
        assert!(find(&verdict, "passt").text.contains("older"));
    }

    #[test]
    fn old_or_missing_qemu() {
        for qemu in [None, Some(None), Some(Some((6, 9)))] {
            let verdict = judge(&Facts { qemu, ..healthy() });
            assert!(verdict.kvm && !verdict.qemu);
            assert_eq!(find(&verdict, "qemu").mark, Mark::Bad);
        }
        assert!(judge(&Facts { qemu: Some(Some((10, 0))), ..healthy() }).qemu);
    }

    #[test]
    fn what_boxes_need() {
        let mut facts = healthy();
        facts.programs.retain(|program| !["mmdebstrap", "newuidmap"].contains(program));
        facts.user.has_subids = false;
        let verdict = judge(&facts);
        assert_eq!(find(&verdict, "box tools").fix.as_deref(), Some("sudo apt install mmdebstrap uidmap"));
        assert!(find(&verdict, "user ids").fix.as_ref().unwrap().contains("--add-subuids"));
        assert!(verdict.kvm && verdict.conclusion.contains("cannot make boxes"));
    }

    #[test]
    fn missing_walls_are_said_and_forbid_nothing() {
        let missing = vec!["files stay open".into()];
        let walls = Ok(Walls { landlock: None, missing, ..walls() });
        let verdict = judge(&Facts { walls, ..healthy() });
        let check = find(&verdict, "sandbox");
        assert_eq!(check.mark, Mark::Note);
        assert!(check.text.contains("files stay open") && check.fix.as_ref().unwrap().contains("landlock"));
        assert!(verdict.kvm && verdict.qemu);
    }

    #[test]
    fn walls_that_hold_are_named_and_no_others() {
        let text = find(&judge(&healthy()), "sandbox").text.clone();
        let all =
            "Landlock 7,seccomp,no cap,no_new_privs,no core,no locked,no file larger,inherited,1024,PATH";
        let all: Vec<&str> = all.split(',').collect();
        assert!(all.iter().all(|word| text.contains(word)), "{text}");
        let (rights, environment) = (Rights::default(), walls().environment);
        let walls = Walls { rights, environment, inherited: 1, landlock: Some(7), ..Walls::default() };
        let text = find(&judge(&Facts { walls: Ok(walls), ..healthy() }), "sandbox").text.clone();
        assert!(!all[1..9].iter().any(|word| text.contains(word)), "{text}");
    }

    #[test]
    fn without_walls_nothing_runs() {
        let verdict = judge(&Facts { walls: Err("cannot set up the sandbox: signal".into()), ..healthy() });
        assert!(!verdict.kvm && !verdict.qemu);
        assert!(find(&verdict, "sandbox").text.contains("signal"));
    }

    #[test]
    fn machines_that_are_not_shut_in_are_named() {
        assert_eq!(find(&judge(&healthy()), "machines").text, "one runs, shut in");
        let free = Shut { machine: "db".into(), pid: 8, rights: Rights { seccomp: false, ..none() } };
        let running = vec![healthy().running[0].clone(), free];
        let verdict = judge(&Facts { running, ..healthy() });
        let check = find(&verdict, "machines");
        assert!(check.text.contains("db (process 8)") && !check.text.contains("web"), "{}", check.text);
        assert!(verdict.kvm && verdict.qemu);
    }

    #[test]
    fn ansible_is_for_those_who_use_it() {
        let mut facts = healthy();
        facts.programs.retain(|program| *program != "ansible-playbook");
        let verdict = judge(&facts);
        let check = find(&verdict, "ansible");
        assert_eq!((check.mark, check.fix.as_deref()), (Mark::Note, Some("sudo apt install ansible-core")));
        assert!(verdict.kvm && verdict.qemu);
    }

    #[test]
    fn little_space_and_no_huge_pages() {
        let free = Some((1 << 30, "/x".into()));
        let verdict = judge(&Facts { free, huge_pages: Some("never".into()), ..healthy() });
        assert_eq!(find(&verdict, "disk space").mark, Mark::Bad);
        assert_eq!(find(&verdict, "huge pages").mark, Mark::Note);
    }
}
