//! Steps that are run again, take too long, reboot the guest, or print what nobody may see or much.

mod provision_support;

use std::fs;
use std::time::Duration;

use provision_support::{Local, Userland, file, shell, shell_with, step};
use rvm::model::{Event, ProvisionChoice, Step, StepKind};
use rvm::provision::ProvisionError;

fn names(list: &[&str]) -> Vec<String> {
    list.iter().map(|name| (*name).to_owned()).collect()
}

fn warnings(local: &Local) -> Vec<String> {
    let events = local.seen.0.lock().unwrap();
    let text = |event: &Event| match event {
        Event::Warning { text, .. } => Some(text.clone()),
        _ => None,
    };
    events.iter().filter_map(text).collect()
}

#[test]
fn a_step_is_run_again_as_often_as_it_says() {
    let local = Local::new(Userland::busybox());
    let third_time = "echo try >>log; [ $(wc -l <log) -ge 3 ] || exit 9";
    let steps = [Step { retries: 2, ..shell("flaky", third_time) }];
    assert_eq!(local.run(&steps).unwrap().ran, names(&["flaky"]));
    let said = warnings(&local);
    assert_eq!(said.len(), 2, "{said:?}");
    assert!(said[0].contains("exit code 9: try 2 of 3") && said[1].contains("try 3 of 3"), "{said:?}");
    let kept = local.logs().read("flaky").unwrap().unwrap();
    assert_eq!(kept.matches("exit code 9").count(), 2, "{kept}");
    assert!(kept.ends_with("--- succeeded\n"), "{kept}");

    fs::write(local.at("log"), "").unwrap();
    let steps = [Step { retries: 1, ..shell("hopeless", "echo try >>log; exit 9") }];
    let error = local.run(&steps).unwrap_err();
    assert!(matches!(error, ProvisionError::StepFailed { code: 9, .. }), "{error:?}");
    assert_eq!(fs::read_to_string(local.at("log")).unwrap(), "try\ntry\n");
    // What cannot run is not tried again.
    let steps = [Step { retries: 5, ..step("p", StepKind::Packages { names: names(&["git"]) }) }];
    local.seen.0.lock().unwrap().clear();
    assert!(matches!(local.run(&steps).unwrap_err(), ProvisionError::StepUnable { .. }));
    assert!(warnings(&local).is_empty());
}

#[test]
fn a_step_whose_time_is_up_has_ended_with_all_of_its_processes() {
    for userland in Userland::all() {
        let local = Local::new(userland);
        // Deaf to TERM, and so is its child.
        let script = "trap '' TERM; sleep 4242 & echo $! >pid; echo begun; wait; sleep 4242; echo not here";
        let steps = [Step { timeout: Some(Duration::from_secs(1)), ..shell("slow", script) }];
        let error = local.run(&steps).unwrap_err();
        assert!(matches!(error, ProvisionError::StepTimedOut { .. }), "{error:?}");
        assert_eq!(error.to_string(), "step `slow` of machine `web` did not end within 1 s and was ended");
        let pid = fs::read_to_string(local.at("pid")).unwrap();
        let line = fs::read_to_string(format!("/proc/{}/cmdline", pid.trim())).unwrap_or_default();
        assert!(!line.contains("4242"), "{}: the child still runs", local.userland.name());
        let output = local.output();
        assert!(output[0] == "begun" && !output.contains(&"not here".to_owned()), "{output:?}");
    }
}

#[test]
fn a_step_that_ends_in_time_is_not_held_up() {
    let local = Local::new(Userland::dash());
    let steps = [Step { timeout: Some(Duration::from_secs(3600)), ..shell("quick", "echo done") }];
    local.run(&steps).unwrap();
    assert_eq!(local.output(), ["done"]);
}

#[test]
fn output_of_a_sensitive_step_is_neither_shown_nor_kept() {
    let local = Local::new(Userland::busybox());
    let steps = [
        Step { sensitive: true, ..shell("quiet", "echo token-from-the-guest; echo more >&2; exit 3") },
        shell("after", "true"),
    ];
    let error = local.run(&steps).unwrap_err();
    assert!(matches!(error, ProvisionError::StepFailed { code: 3, .. }), "{error:?}");
    assert_eq!(local.output(), names(&[]));
    let kept = local.logs().read("quiet").unwrap().unwrap();
    assert!(!kept.contains("token") && !kept.contains("more\n") && kept.contains("sensitive"), "{kept}");
}

#[test]
fn what_a_step_prints_is_kept_masked_and_bounded() {
    let mut local = Local::new(Userland::busybox());
    local.secrets = names(&["s3cr3t-value"]);
    let env = [("PW", "s3cr3t-value")];
    local.run(&[shell_with("pw", "echo \"pw $PW\"; printf '\\033[2Jplain\\n' >&2", &[], &env)]).unwrap();
    let mut lines: Vec<String> =
        local.logs().read("pw").unwrap().unwrap().lines().map(str::to_owned).collect();
    lines.sort();
    assert_eq!(lines, ["--- succeeded", "plain", "pw ***"]);

    let script = "echo the beginning; head -c 3000000 /dev/urandom; yes 'a line of some length' | head -n 200000; echo the end";
    local.run(&[shell("much", script)]).unwrap();
    let kept = local.logs().read("much").unwrap().unwrap();
    assert!(kept.len() < (1 << 20) + 200, "{}", kept.len());
    assert!(kept.starts_with("the beginning\n") && kept.ends_with("the end\n--- succeeded\n"));
    assert_eq!(kept.matches(" bytes left out …]").count(), 1);
    assert!(!kept.contains(|c: char| c.is_control() && c != '\t' && c != '\n'));
    assert_eq!(local.logs().names().unwrap(), ["much", "pw"]);
}

#[test]
fn from_a_step_on_all_run_again() {
    let local = Local::new(Userland::busybox());
    let steps = [shell("a", "echo a >>log"), shell("b", "echo b >>log"), shell("c", "echo c >>log")];
    local.run(&steps).unwrap();
    let outcome = local.run_chosen(&steps, &ProvisionChoice::From("b".into())).unwrap();
    assert_eq!((outcome.ran, outcome.skipped), (names(&["b", "c"]), names(&["a"])));
    assert_eq!(fs::read_to_string(local.at("log")).unwrap(), "a\nb\nc\nb\nc\n");
    let error = local.run_chosen(&steps, &ProvisionChoice::From("d".into())).unwrap_err();
    assert_eq!(error.hint().unwrap(), "there are: a, b, c");
}

/// A guest with a boot id of its own, in `boot`, and a `reboot` that makes another one.
fn bootable() -> Local {
    let local = Local::new(Userland::dash());
    fs::write(local.at("boot"), "boot-0\n").unwrap();
    let home = local.home.path().display().to_string();
    local.userland.add_program(
        "cat",
        &format!(
            "#!/bin/sh\ncase $1 in */boot_id) exec /bin/cat {home}/boot ;; *) exec /bin/cat \"$@\" ;; esac\n"
        ),
    );
    local.userland.add_program(
        "reboot",
        &format!("#!/bin/sh\necho rebooted >>{home}/log; echo boot-$$ >{home}/boot; : >{home}/connection-lost\nkill -9 $PPID\n"),
    );
    local.userland.add_program("sudo", "#!/bin/sh\nshift\n[ \"$1\" != -H ] || shift\nexec \"$@\"\n");
    local
}

fn log(local: &Local) -> String {
    fs::read_to_string(local.at("log")).unwrap_or_default()
}

#[test]
fn a_reboot_is_a_step() {
    let local = bootable();
    let steps = [shell("a", "echo a >>log"), step("again", StepKind::Reboot), shell("b", "echo b >>log")];
    let steps = steps.map(|step| Step { reboot: matches!(step.kind, StepKind::Reboot), ..step });
    assert_eq!(local.run(&steps).unwrap().ran, names(&["a", "again", "b"]));
    assert_eq!(log(&local), "a\nrebooted\nb\n");
    assert_eq!(local.run(&steps).unwrap().ran, names(&[]), "it is stamped like any other");
}

#[test]
fn a_script_may_be_followed_by_a_reboot_or_make_it_itself() {
    let local = bootable();
    local.run(&[Step { reboot: true, ..shell("after", "echo script >>log") }]).unwrap();
    assert_eq!(log(&local), "script\nrebooted\n");
    fs::remove_file(local.at("log")).unwrap();
    local.run(&[Step { reboot: true, ..shell("itself", "echo script >>log; reboot; sleep 60") }]).unwrap();
    assert_eq!(log(&local), "script\nrebooted\n");
    // One that fails is not followed by a reboot.
    fs::remove_file(local.at("log")).unwrap();
    let error = local.run(&[Step { reboot: true, ..shell("fails", "exit 5") }]).unwrap_err();
    assert!(matches!(error, ProvisionError::StepFailed { code: 5, .. }), "{error:?}");
    assert_eq!(log(&local), "");
}

#[test]
fn a_reboot_that_nobody_announced_is_said_to_be_one() {
    let local = bootable();
    let error = local.run(&[shell("surprise", "reboot; sleep 60")]).unwrap_err();
    assert!(matches!(error, ProvisionError::GuestRebooted { .. }), "{error:?}");
    assert!(error.hint().unwrap().contains("reboot = true"), "{error:?}");
    // With a second try it may pass: what it wanted is there after the reboot.
    let script = "[ ! -e seen ] || exit 0; : >seen; reboot; sleep 60";
    local.run(&[Step { retries: 1, ..shell("twice", script) }]).unwrap();
}

#[test]
fn a_reboot_that_does_not_happen_fails() {
    let local = bootable();
    local.userland.add_program("reboot", "#!/bin/sh\necho 'not today' >&2; exit 4\n");
    let steps = [Step { reboot: true, ..step("again", StepKind::Reboot) }];
    let error = local.run(&steps).unwrap_err();
    assert!(
        error.to_string().ends_with("`reboot` failed in the guest with exit code 4: not today"),
        "{error}"
    );
}

#[test]
fn a_connection_that_breaks_without_a_reboot_is_no_reboot() {
    let local = bootable();
    let error = local.run(&[shell("cut", ": >connection-lost")]).unwrap_err();
    assert!(matches!(error, ProvisionError::StepCut { .. }), "{error:?}");
    let source = local.at("source");
    fs::write(&source, "x").unwrap();
    // A second try has a connection again.
    let script = "[ ! -e seen ] || exit 0; : >seen; : >connection-lost";
    local.run(&[Step { retries: 1, ..shell("again", script) }, file("file", &source, "there")]).unwrap();
    assert!(local.at("there").exists());
}
