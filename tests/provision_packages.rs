//! `packages` steps with package managers that note what they are told.

mod provision_support;

use std::fs;

use provision_support::{Local, Userland, packages};
use rvm::model::{Event, Step};
use rvm::provision::{ProvisionError, Stamps};

#[test]
fn packages_need_a_package_manager() {
    let local = Local::new(Userland::busybox());
    let error = local.run(&[packages("p", &["git"])]).unwrap_err();
    assert!(error.to_string().contains("no package manager"), "{error}");
    local.userland.add_program("zypper", "#!/bin/sh\n");
    let error = local.run(&[packages("p", &["git"])]).unwrap_err();
    assert!(error.to_string().contains("`zypper`"), "{error}");
    local.run(&[packages("nothing", &[])]).unwrap();
}

/// A Debian of which `installed` are there; `apt-get` notes its words in `apt.log`.
fn debian(local: &Local, installed: &str, apt_get: &str) {
    local.userland.add_program("sudo", "#!/bin/sh\nshift\n[ \"$1\" != -H ] || shift\nexec \"$@\"\n");
    local.userland.add_program(
        "dpkg-query",
        &format!("#!/bin/sh\nfor name; do :; done\ncase \" {installed} \" in *\" $name \"*) echo 'ii 1.0' ;; *) exit 1 ;; esac\n"),
    );
    let log = local.at("apt.log");
    local
        .userland
        .add_program("apt-get", &format!("#!/bin/sh\necho \"$*\" >>{}\n{apt_get}\n", log.display()));
}

#[test]
fn only_missing_packages_are_installed() {
    for userland in Userland::all() {
        let local = Local::new(userland);
        debian(&local, "git curl", "");
        let log = || fs::read_to_string(local.at("apt.log")).unwrap_or_default();
        local.run(&[packages("there", &["git", "curl=1.0"])]).unwrap();
        assert_eq!(log(), "");
        assert_eq!(local.output(), ["already installed: git curl=1.0"]);
        local.run(&[packages("new", &["git", "nginx", "curl=2.0"])]).unwrap();
        let install = log();
        let install = install.lines().find(|line| line.contains("install")).unwrap().to_owned();
        assert!(install.ends_with("install nginx curl=2.0"), "{install}");
        assert!(install.contains("DPkg::Lock::Timeout=120"), "{install}");
        let error = local.run(&[packages("bad", &["git", "-o=x"])]).unwrap_err();
        assert!(error.to_string().contains("`-o=x` is not a package name"), "{error}");
    }
}

/// `apt-get` with a mirror of one version, which installs and tells what it would install, as Debian's does.
fn mirror(local: &Local, version: &str) {
    let home = local.home.path().display();
    debian(
        local,
        "",
        &format!(
            "case \"$*\" in
              *' -s '*) echo 'Inst libnginx [0.9] ({version} Debian:13/stable [amd64])'
                        echo 'Inst nginx ({version} Debian:13/stable [all]) []'
                        echo 'Conf nginx ({version} Debian:13/stable [all])' ;;
              *install*) for word; do case $word in Dir::Etc::Preferences=*) cp \"${{word#*=}}\" {home}/pins ;; esac; done
                         printf 'installed nginx {version}\\ninstalled libnginx {version}\\n' >{home}/new ;;
            esac"
        ),
    );
    // Of one package it says whether it is there, without one what there is.
    let query = format!(
        "#!/bin/sh\ncase \"$*\" in *Status-Status*) echo 'installed base 1.0'; echo 'config-files gone 1'; cat {home}/new 2>/dev/null; true ;; \
         *) exit 1 ;; esac\n"
    );
    local.userland.add_program("dpkg-query", &query);
}

#[test]
fn versions_are_kept_and_those_that_are_locked_are_asked_for() {
    for userland in Userland::all() {
        let mut local = Local::new(userland);
        mirror(&local, "1.26-1");
        local.run(&[packages("p", &["nginx"])]).unwrap();
        let stamps = Stamps::look(local.machine_dir.path()).unwrap();
        let installed: Vec<_> = stamps.installed().iter().map(|(n, v)| format!("{n} {v}")).collect();
        assert_eq!(
            installed,
            ["libnginx 1.26-1", "nginx 1.26-1"],
            "what was there before is not of the step"
        );
        assert!(!local.at("pins").exists(), "nothing is locked");

        // Another desk, to begin with one with a mirror that has what is locked.
        local.pins = Some(stamps.installed().clone());
        local.pins.as_mut().unwrap().insert("other".into(), "7".into());
        local.run(&[packages("same", &["nginx"])]).unwrap();
        let pins = fs::read_to_string(local.at("pins")).unwrap();
        assert!(pins.contains("\nPackage: nginx\nPin: version 1.26-1\nPin-Priority: 1001\n"), "{pins}");
        assert_eq!(pins.matches("Package: ").count(), 3);
        local.output();
        mirror(&local, "1.28-1");
        let error = local.run(&[packages("gone", &["nginx"])]).unwrap_err();
        assert!(error.to_string().contains("the mirror has not what Vagrantfile.lock holds"), "{error}");
        assert!(error.hint().unwrap().contains("rvm lock --update"));
        let told = local.output();
        for name in ["nginx", "libnginx"] {
            assert!(
                told.contains(&format!("{name} is locked as 1.26-1, and the mirror has 1.28-1")),
                "{told:?}"
            );
        }
        let log = fs::read_to_string(local.at("apt.log")).unwrap();
        assert!(log.lines().last().unwrap().contains(" -s "), "nothing is installed: {log}");
        assert!(log.contains("update"), "it was looked for in fresh lists");
        // What the file says of a version counts more than what is locked.
        local.pins = Some([("nginx".to_owned(), "1.26-1".to_owned())].into());
        local.run(&[packages("said", &["nginx=1.28-1"])]).unwrap();
    }
}

#[test]
fn with_locked_nothing_is_installed_that_is_not_in_the_lock_file() {
    for userland in Userland::all() {
        let mut local = Local::new(userland);
        mirror(&local, "1.26-1");
        local.locked = true;
        let pins = |list: &[&str]| list.iter().map(|name| (name.to_string(), "1.26-1".to_owned())).collect();
        for (locked, missing) in [(&[][..], &["nginx", "libnginx"][..]), (&["nginx"][..], &["libnginx"][..])]
        {
            local.pins = Some(pins(locked)).filter(|_| !locked.is_empty());
            let error = local.run(&[packages("p", &["nginx"])]).unwrap_err();
            assert!(error.to_string().contains("what Vagrantfile.lock does not hold"), "{error}");
            assert!(error.hint().unwrap().contains("without --locked"));
            let told = local.output();
            for name in ["nginx", "libnginx"] {
                let line = format!("{name} 1.26-1 is not locked");
                assert_eq!(told.contains(&line), missing.contains(&name), "{told:?}");
            }
            let log = fs::read_to_string(local.at("apt.log")).unwrap();
            assert!(log.lines().last().unwrap().contains(" -s "), "nothing is installed: {log}");
        }
        // What the file says itself is as good as locked; what comes along with it is not.
        local.pins = Some(pins(&["libnginx"]));
        local.run(&[packages("said", &["nginx=1.26-1"])]).unwrap();
        // A mirror that has it no more.
        local.pins = Some(pins(&["nginx", "libnginx"]));
        local.run(&[packages("all", &["nginx"])]).unwrap();
        mirror(&local, "1.28-1");
        let error = local.run(&[packages("gone", &["nginx"])]).unwrap_err();
        assert!(error.to_string().contains("the mirror has not what Vagrantfile.lock holds"), "{error}");
    }
}

#[test]
fn package_managers_that_lock_nothing_say_so_where_all_has_to_be_locked() {
    let mut local = with("apk", "case \"$*\" in info*) exit 1 ;; esac");
    local.locked = true;
    local.run(&[packages("p", &["git"])]).unwrap();
    let warned = |event: &Event| matches!(event, Event::Warning { text, .. } if text.contains("not locked with `apk`"));
    assert!(local.seen.0.lock().unwrap().iter().any(warned));
}

#[test]
fn a_package_that_is_not_found_is_looked_for_in_fresh_lists() {
    let local = Local::new(Userland::busybox());
    let updated = local.at("updated");
    let apt_get = format!(
        "case \"$*\" in *update) : >{0} ;; *) [ -e {0} ] || {{ echo 'E: Unable to locate package' >&2; exit 100; }} ;; esac",
        updated.display()
    );
    debian(&local, "", &apt_get);
    local.run(&[packages("p", &["nginx"])]).unwrap();
    assert!(updated.exists());
    // A package that there is not fails, with the exit code of apt-get.
    debian(&local, "", "case \"$*\" in *update) ;; *) exit 100 ;; esac");
    let error = local.run(&[packages("q", &["nginx"])]).unwrap_err();
    assert!(matches!(error, ProvisionError::StepFailed { code: 100, .. }), "{error:?}");
}

#[test]
fn a_mirror_that_cannot_be_reached_is_told_from_a_package_that_there_is_not() {
    let local = Local::new(Userland::busybox());
    let resolving = "echo \"Temporary failure resolving 'deb.example'\" >&2; exit 100";
    debian(&local, "", &format!("case \"$*\" in *update) {resolving} ;; *) exit 100 ;; esac"));
    let error = local.run(&[packages("p", &["nginx"])]).unwrap_err();
    assert!(matches!(error, ProvisionError::MirrorUnreachable { manager: "apt-get", .. }), "{error:?}");
    assert!(error.hint().unwrap().contains("online"));
    // It may be there the next time.
    let once = local.at("once");
    let flaky =
        format!("case \"$*\" in *update) [ -e {0} ] || {{ : >{0}; {resolving}; }} ;; esac", once.display());
    debian(&local, "", &flaky);
    local.run(&[Step { retries: 1, ..packages("q", &["nginx"]) }]).unwrap();
}

/// A guest with a package manager of which we know what it is told. `body` sees its words.
fn with(manager: &str, body: &str) -> Local {
    let local = Local::new(Userland::dash());
    local.userland.add_program("sudo", "#!/bin/sh\nshift\n[ \"$1\" != -H ] || shift\nexec \"$@\"\n");
    let log = local.at("log");
    let text =
        format!("#!/bin/sh\necho \"$*\" >>{}\nhome={}\n{body}\n", log.display(), local.home.path().display());
    local.userland.add_program(manager, &text);
    local
}

fn log(local: &Local) -> Vec<String> {
    let text = fs::read_to_string(local.at("log")).unwrap_or_default();
    let _ = fs::remove_file(local.at("log"));
    text.lines().map(str::to_owned).collect()
}

#[test]
fn apk_installs_what_is_missing_and_looks_again_in_fresh_lists() {
    let installed = "case \"$*\" in 'info -q -e git') exit 0 ;; info*) exit 1 ;; esac";
    let local = with("apk", installed);
    local.run(&[packages("p", &["git", "nginx=1.26.2-r0"])]).unwrap();
    assert_eq!(log(&local).last().unwrap(), "--wait 120 --no-progress add nginx=1.26.2-r0");
    local.run(&[packages("there", &["git"])]).unwrap();
    assert_eq!(log(&local), ["info -q -e git"]);

    let stale =
        format!("{installed}\ncase \"$*\" in *add*) [ -e $home/fresh ] ;; *update) : >$home/fresh ;; esac");
    let local = with("apk", &stale);
    local.run(&[packages("p", &["nginx"])]).unwrap();
    assert_eq!(log(&local).len(), 4);

    let offline = format!(
        "{installed}\necho 'WARNING: updating https://x: temporary error (try again later)' >&2; exit 1"
    );
    let local = with("apk", &offline);
    let error = local.run(&[packages("p", &["nginx"])]).unwrap_err();
    assert!(matches!(error, ProvisionError::MirrorUnreachable { manager: "apk", .. }), "{error:?}");
    // A package that there is not.
    let local = with("apk", &format!("{installed}\ncase \"$*\" in *add*) exit 1 ;; esac"));
    let error = local.run(&[packages("p", &["nginx"])]).unwrap_err();
    assert!(matches!(error, ProvisionError::StepFailed { code: 1, .. }), "{error:?}");
}

#[test]
fn dnf_installs_what_is_missing() {
    let rpm = |local: &Local| {
        local.userland.add_program("rpm", "#!/bin/sh\n[ \"$2\" = git ] || [ \"$2\" = vim-9.1 ]\n");
    };
    let local = with("dnf", "");
    rpm(&local);
    local.run(&[packages("p", &["git", "vim=9.1", "nginx=1.26", "jq"])]).unwrap();
    let told = log(&local);
    assert!(
        told.len() == 1 && told[0].starts_with("-y ") && told[0].ends_with(" install nginx-1.26 jq"),
        "{told:?}"
    );
    local.run(&[packages("there", &["git"])]).unwrap();
    assert!(log(&local).is_empty());

    let local = with("dnf", "echo 'Curl error (6): Could not resolve host: mirrors.example' >&2; exit 1");
    rpm(&local);
    let error = local.run(&[packages("p", &["nginx"])]).unwrap_err();
    assert!(matches!(error, ProvisionError::MirrorUnreachable { manager: "dnf", .. }), "{error:?}");
    assert_eq!(log(&local).len(), 1);

    let local = with("dnf", "echo 'No match for argument: nginx' >&2; exit 1");
    rpm(&local);
    let error = local.run(&[packages("p", &["nginx"])]).unwrap_err();
    assert!(matches!(error, ProvisionError::StepFailed { code: 1, .. }), "{error:?}");
    assert!(log(&local).last().unwrap().contains("--refresh"));
}

#[test]
fn pacman_installs_what_is_missing() {
    let deps = "if [ \"$1\" = -T ]; then shift; for p; do [ \"$p\" = git ] || { echo \"$p\"; gone=1; }; done; exit ${gone:-0}; fi";
    let local = with("pacman", deps);
    local.run(&[packages("p", &["git", "nginx=1.26.2-1", "jq"])]).unwrap();
    let told = log(&local);
    assert!(told.last().unwrap().ends_with("-S --needed nginx=1.26.2-1 jq"), "{told:?}");
    assert!(told.iter().skip(1).all(|line| line.starts_with("--noconfirm ")), "{told:?}");
    local.run(&[packages("there", &["git"])]).unwrap();
    assert_eq!(log(&local), ["-T git"]);

    let local = with(
        "pacman",
        &format!("{deps}\necho 'error: failed to synchronize: Could not resolve host: m' >&2; exit 1"),
    );
    let error = local.run(&[packages("p", &["nginx"])]).unwrap_err();
    assert!(matches!(error, ProvisionError::MirrorUnreachable { manager: "pacman", .. }), "{error:?}");
    let local = with(
        "pacman",
        &format!(
            "{deps}\ncase \"$*\" in *-Sy) exit 0 ;; esac\necho 'error: target not found: nginx' >&2; exit 1"
        ),
    );
    let error = local.run(&[packages("p", &["nginx"])]).unwrap_err();
    assert!(matches!(error, ProvisionError::StepFailed { code: 1, .. }), "{error:?}");
}
