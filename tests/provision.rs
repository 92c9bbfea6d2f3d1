//! Provision steps, run by dash and by busybox's shell on this host.

mod provision_support;

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::time::{Duration, Instant};

use provision_support::{Local, RECONNECT, Userland, file, shell, shell_with};
use rvm::model::{Event, Exclude, FileCopy, ProvisionChoice, RunPolicy, Script, Step, StepKind};
use rvm::provision::{Outcome, ProvisionError};

fn names(list: &[&str]) -> Vec<String> {
    list.iter().map(|name| (*name).to_owned()).collect()
}

/// Temporary folders that steps with this word leave behind.
fn leftovers(mark: &str) -> Vec<String> {
    ["/dev/shm", "/tmp"]
        .into_iter()
        .flat_map(|dir| fs::read_dir(dir).into_iter().flatten())
        .map(|entry| entry.unwrap().path().display().to_string())
        .filter(|path| {
            path.contains("/rvm.")
                && fs::read_to_string(format!("{path}/script")).is_ok_and(|s| s.contains(mark))
        })
        .collect()
}

#[test]
fn a_script_gets_its_arguments_and_variables_unchanged() {
    let odd = "a 'b' \"c\" $HOME `id` \\n \\\\ * \t|é\u{81}あ\u{1}\u{7f}";
    let lines = "first\n\n second \n\nend\n\n";
    for userland in Userland::all() {
        let local = Local::new(userland);
        let script = "printf '<%s>' \"$#\" \"$@\" \"$ODD\" \"$LINES_\" \"$EMPTY\" >seen\n";
        let env = [("ODD", odd), ("LINES_", lines), ("EMPTY", "")];
        local.run(&[shell_with("s", script, &[odd, "", lines, "-n"], &env)]).unwrap();
        let seen = fs::read_to_string(local.at("seen")).unwrap();
        let expected = format!("<4><{odd}><><{lines}><-n><{odd}><{lines}><>");
        assert_eq!(seen, expected, "{}", local.userland.name());
    }
}

#[test]
fn no_value_is_in_a_command_line_or_left_in_a_file() {
    for userland in Userland::all() {
        let mut local = Local::new(userland);
        local.secrets = names(&["s3cr3t-value"]);
        let script = "# own-mark\ntr '\\0' ' ' </proc/$$/cmdline; ps ax 2>/dev/null | grep -c s3cr3t-val[u]e\n\
                      echo \"pw is $DB_PASSWORD\"; printf 's3cr3t-'; sleep 0.1; printf 'value!'";
        local.run(&[shell_with("s", script, &[], &[("DB_PASSWORD", "s3cr3t-value")])]).unwrap();
        let output = local.output();
        assert!(output.contains(&"pw is ***".to_owned()), "{output:?}");
        assert_eq!(output.last().unwrap(), "***!");
        assert!(!output.concat().contains("s3cr3t"), "{output:?}");
        assert!(output.iter().any(|line| line.ends_with('0')), "{output:?}");
        assert!(local.commands.borrow().iter().all(|command| !command.contains("s3cr3t")));
        assert_eq!(leftovers("own-mark"), names(&[]));
        let kept = [local.machine_dir.path().to_owned(), local.machine_dir.path().join("steps")];
        let files = kept.iter().flat_map(|dir| fs::read_dir(dir).unwrap()).map(|entry| entry.unwrap().path());
        let files: Vec<_> = files.filter(|path| path.is_file()).collect();
        assert_eq!(files.len(), 3, "stamps, their key, the output: {files:?}");
        for file in files {
            assert!(!String::from_utf8_lossy(&fs::read(file).unwrap()).contains("s3cr3t"));
        }
    }
}

#[test]
fn a_script_that_reads_its_input_reads_nothing() {
    for userland in Userland::all() {
        let local = Local::new(userland);
        local.run(&[shell("s", "cat; read line || echo none; echo after")]).unwrap();
        assert_eq!(local.output(), ["none", "after"]);
    }
}

#[test]
fn interpreters() {
    let local = Local::new(Userland::dash());
    local.run(&[shell("bash", "echo ${BASH_VERSION:+bash}")]).unwrap();
    local.run(&[shell("perl", "#!/usr/bin/perl -w\nprint \"perl @ARGV\\n\";")]).unwrap();
    local.run(&[shell_with("env", "#!/usr/bin/env  perl\nprint \"@ARGV\\n\"", &["a b", "c"], &[])]).unwrap();
    local.run(&[shell("sh", "#!/bin/sh -e\nfalse\necho not here")]).unwrap_err();
    assert_eq!(local.output(), ["bash", "perl ", "a b c"]);
    let error = local.run(&[shell("none", "#!/no/such/interpreter\n")]).unwrap_err();
    assert!(matches!(error, ProvisionError::StepFailed { code: 127 | 126, .. }), "{error}");
    // Without bash, sh runs it.
    let local = Local::new(Userland::busybox());
    local.run(&[shell("sh", "echo \"${BASH_VERSION:-no bash}\"")]).unwrap();
    assert_eq!(local.output(), ["no bash"]);
}

#[test]
fn a_script_file_may_be_a_program_or_have_windows_line_ends() {
    let local = Local::new(Userland::dash());
    let path = |path: &str, args: &[&str]| {
        let (script, args) = (Script::Path(path.into()), names(args));
        let kind = StepKind::Shell { script, args, privileged: false };
        Step { run: RunPolicy::Always, ..Step::new("s", kind) }
    };
    local.run(&[path("/bin/echo", &["from", "a program"])]).unwrap();
    let windows = local.at("windows.sh");
    fs::write(&windows, "#!/bin/sh\r\nif true; then\r\n  echo fine\r\nfi\r\n").unwrap();
    local.run(&[path(windows.to_str().unwrap(), &[])]).unwrap();
    let events = local.seen.0.lock().unwrap().clone();
    assert!(events.iter().any(|e| matches!(e, Event::Detail { text, .. } if text.contains("Windows"))));
    assert_eq!(local.output(), ["from a program", "fine"]);
}

#[test]
fn exit_codes_are_those_of_the_script() {
    for userland in Userland::all() {
        let local = Local::new(userland);
        for (script, expected) in
            [("exit 1", 1), ("exit 42", 42), ("exit 255", 255), ("kill -9 $$", 137), ("exit 223", 221)]
        {
            match local.run(&[shell("s", script)]).unwrap_err() {
                ProvisionError::StepFailed { code, .. } => assert_eq!(code, expected),
                other => panic!("{other:?}"),
            }
        }
        local.run(&[shell("s", "exit 0")]).unwrap();
        local.run(&[shell("empty", "")]).unwrap();
    }
}

#[test]
fn a_failed_step_is_where_the_next_run_goes_on() {
    let local = Local::new(Userland::busybox());
    let steps = [
        shell("one", "echo one >>log"),
        shell("two", "echo two >>log; [ -e mended ]"),
        shell("three", "echo three >>log"),
    ];
    let error = local.run(&steps).unwrap_err();
    assert_eq!(error.to_string(), "step `two` of machine `web` failed with exit code 1");
    let hint = error.hint().unwrap();
    assert!(hint.contains("rvm ssh web") && hint.contains("rvm up web"), "{hint}");
    let log = || fs::read_to_string(local.at("log")).unwrap();
    assert_eq!(log(), "one\ntwo\n");
    fs::write(local.at("mended"), "").unwrap();
    let outcome = local.run(&steps).unwrap();
    assert_eq!(outcome, Outcome { ran: names(&["two", "three"]), skipped: names(&["one"]) });
    let outcome = local.run(&steps).unwrap();
    assert_eq!(outcome, Outcome { ran: Vec::new(), skipped: names(&["one", "two", "three"]) });
    assert_eq!(log(), "one\ntwo\ntwo\nthree\n");
}

#[test]
fn changed_content_runs_again_and_a_failed_rerun_does_not_count_as_done() {
    let local = Local::new(Userland::busybox());
    let ran = |steps: &[Step], choice: &ProvisionChoice| local.run_chosen(steps, choice).unwrap().ran;
    let auto = ProvisionChoice::Auto;
    let before = [shell_with("a", "true", &[], &[("PW", "one")])];
    let after = [shell_with("a", "true", &[], &[("PW", "two")])];
    assert_eq!(ran(&before, &auto), names(&["a"]));
    assert_eq!(ran(&before, &auto), names(&[]));
    assert_eq!(ran(&after, &auto), names(&["a"]));
    assert_eq!(ran(&after, &ProvisionChoice::Force), names(&["a"]));
    let flaky = [shell("flaky", "[ ! -e broken ]")];
    assert_eq!(ran(&flaky, &auto), names(&["flaky"]));
    fs::write(local.at("broken"), "").unwrap();
    assert!(local.run_chosen(&flaky, &ProvisionChoice::Force).is_err());
    fs::remove_file(local.at("broken")).unwrap();
    assert_eq!(ran(&flaky, &auto), names(&["flaky"]));
}

#[test]
fn a_missing_script_is_found_before_anything_runs() {
    let local = Local::new(Userland::busybox());
    let mut missing = shell("b", "");
    missing.kind = StepKind::Shell {
        script: Script::Path("/no/such/script.sh".into()),
        args: Vec::new(),
        privileged: false,
    };
    let error = local.run(&[shell("a", "echo ran >log"), missing]).unwrap_err();
    assert!(error.to_string().contains("/no/such/script.sh"), "{error}");
    assert!(!local.at("log").exists());
}

#[test]
fn a_step_ends_with_the_run_that_started_it() {
    for userland in Userland::all() {
        let local = Local::new(userland);
        let cancel = local.cancel.clone();
        let pid_file = local.at("pid");
        let trigger = std::thread::spawn(move || {
            let begin = Instant::now();
            while !pid_file.exists() && begin.elapsed() < Duration::from_secs(20) {
                std::thread::sleep(Duration::from_millis(10));
            }
            cancel.cancel();
        });
        // The child of the script must go as well, and files of the step with it.
        let script = "# other-mark\nsleep 77 & echo $! >pid.new; mv pid.new pid; wait; echo not here";
        let error = local.run(&[shell("s", script)]).unwrap_err();
        trigger.join().unwrap();
        assert!(error.is_interrupt(), "{error:?}");
        let pid = fs::read_to_string(local.at("pid")).unwrap();
        let stat = fs::read_to_string(format!("/proc/{}/cmdline", pid.trim())).unwrap_or_default();
        assert!(!stat.contains("77"), "the child still runs");
        assert_eq!(leftovers("other-mark"), names(&[]));
        assert!(!local.output().concat().contains("not here"));
    }
}

#[test]
fn a_daemon_that_a_step_starts_outlives_it() {
    for userland in Userland::all() {
        let local = Local::new(userland);
        local.run(&[shell("s", "sleep 5 >/dev/null 2>&1 </dev/null & echo $! >pid")]).unwrap();
        let pid = fs::read_to_string(local.at("pid")).unwrap();
        let proc = format!("/proc/{}/cmdline", pid.trim());
        assert!(fs::read_to_string(proc).unwrap().contains("sleep"));
        std::process::Command::new("kill").arg(pid.trim()).status().unwrap();
    }
}

#[test]
fn much_and_binary_output_arrives_as_lines() {
    let local = Local::new(Userland::busybox());
    let script = "head -c 3000000 /dev/urandom; echo; seq 1 20000; printf 'last'";
    local.run(&[shell("s", script)]).unwrap();
    let output = local.output();
    let numbers: Vec<_> = output.iter().filter(|l| l.len() < 6 && l.parse::<u32>().is_ok()).collect();
    assert!(numbers.len() >= 20_000, "{}", numbers.len());
    assert_eq!(output.last().unwrap(), "last");
    assert!(output.iter().all(|line| !line.contains(|c: char| c.is_control() && c != '\t')));
}

#[test]
fn files_are_copied_with_mode_and_replaced_as_a_whole() {
    for userland in Userland::all() {
        let local = Local::new(userland);
        let host = tempfile::tempdir().unwrap();
        let source = host.path().join("app's conf");
        let data: Vec<u8> = (0..700_000_u32).map(|i| (i % 251) as u8).collect();
        fs::write(&source, &data).unwrap();
        fs::set_permissions(&source, fs::Permissions::from_mode(0o751)).unwrap();
        let there = |path: &str| {
            let meta = fs::metadata(local.at(path)).unwrap();
            assert_eq!(meta.permissions().mode() & 0o7777, 0o751, "{path}");
            assert!(fs::read(local.at(path)).unwrap() == data, "{path}");
        };
        let absolute = local.at("abs/x y");
        fs::create_dir(local.at("folder")).unwrap();
        fs::write(local.at("old"), "old").unwrap();
        local
            .run(&[
                file("new parents", &source, "a/b $(id) 'c'/d"),
                file("home", &source, "~/in-home"),
                file("absolute", &source, absolute.to_str().unwrap()),
                file("into a folder", &source, "folder"),
                file("into a new folder", &source, "fresh/"),
                file("over a file", &source, "old"),
                file("dash", &source, "-rf"),
            ])
            .unwrap();
        for path in
            ["a/b $(id) 'c'/d", "in-home", "abs/x y", "folder/app's conf", "fresh/app's conf", "old", "-rf"]
        {
            there(path);
        }
        assert_eq!(local.output(), names(&[]));
        let left = fs::read_dir(local.home.path()).unwrap().map(|e| e.unwrap().file_name());
        assert!(left.into_iter().all(|name| !name.to_string_lossy().contains("rvm-put")));
    }
}

#[test]
fn folders_are_copied_with_modes_and_links() {
    for userland in Userland::all() {
        let local = Local::new(userland);
        let host = tempfile::tempdir().unwrap();
        let source = host.path().join("tree");
        fs::create_dir_all(source.join("sub/deep")).unwrap();
        let long = "long".repeat(40);
        fs::write(source.join("sub/deep").join(&long), "far down").unwrap();
        fs::write(source.join("run.sh"), "#!/bin/sh\n").unwrap();
        fs::set_permissions(source.join("run.sh"), fs::Permissions::from_mode(0o755)).unwrap();
        fs::set_permissions(source.join("sub"), fs::Permissions::from_mode(0o750)).unwrap();
        symlink("../run.sh", source.join("sub/link")).unwrap();
        symlink("/etc/passwd", source.join("absolute link")).unwrap();
        fs::create_dir(local.at("dest")).unwrap();
        fs::write(local.at("dest/kept"), "kept").unwrap();
        fs::set_permissions(local.at("dest"), fs::Permissions::from_mode(0o711)).unwrap();
        let steps = [file("new", &source, "fresh/sub"), file("merge", &source, "~/dest")];
        local.run(&steps).unwrap();
        for dest in ["fresh/sub", "dest"] {
            let at = |path: &str| local.at(dest).join(path);
            assert_eq!(fs::read_to_string(at("sub/deep").join(&long)).unwrap(), "far down");
            let mode = |path: &str| fs::metadata(at(path)).unwrap().permissions().mode() & 0o7777;
            assert_eq!((mode("run.sh"), mode("sub")), (0o755, 0o750));
            assert_eq!(fs::read_link(at("sub/link")).unwrap().to_str(), Some("../run.sh"));
            assert_eq!(fs::read_link(at("absolute link")).unwrap().to_str(), Some("/etc/passwd"));
        }
        // What was there stays, and so does the folder's own mode.
        assert_eq!(fs::read_to_string(local.at("dest/kept")).unwrap(), "kept");
        assert_eq!(fs::metadata(local.at("dest")).unwrap().permissions().mode() & 0o7777, 0o711);
        assert_eq!(local.run(&steps).unwrap().ran, names(&[]));
        fs::write(source.join("run.sh"), "#!/bin/sh\ntrue\n").unwrap();
        assert_eq!(local.run(&steps).unwrap().ran, names(&["new", "merge"]));
    }
}

#[test]
fn a_destination_that_cannot_be_written_is_said_to_be_so() {
    for userland in Userland::all() {
        let local = Local::new(userland);
        let host = tempfile::tempdir().unwrap();
        let source = host.path().join("a");
        fs::write(&source, "a").unwrap();
        // Not even root makes a folder here.
        for step in [file("f", &source, "/proc/nowhere/a"), file("d", host.path(), "/proc/nowhere")] {
            let error = local.run(&[step]).unwrap_err();
            assert!(error.to_string().contains("may not write to /proc/nowhere"), "{error}");
            assert!(error.hint().unwrap().contains("owner = "));
        }
    }
}

#[test]
fn what_is_excluded_stays_at_home_and_modes_are_those_asked_for() {
    for userland in Userland::all() {
        let local = Local::new(userland);
        let host = tempfile::tempdir().unwrap();
        for path in ["node_modules/a/b", "sub/x.log", "sub/kept.log", "run.sh"] {
            fs::create_dir_all(host.path().join(path).parent().unwrap()).unwrap();
            fs::write(host.path().join(path), path).unwrap();
        }
        fs::set_permissions(host.path().join("run.sh"), fs::Permissions::from_mode(0o755)).unwrap();
        let mut copy = FileCopy::new(host.path(), "dest");
        copy.exclude = Exclude::new(["node_modules/", "*.log", "!kept.log"]).unwrap();
        copy.mode = Some(0o640);
        let steps = [Step::new("f", StepKind::File(Box::new(copy)))];
        local.run(&steps).unwrap();
        assert!(!local.at("dest/node_modules").exists() && !local.at("dest/sub/x.log").exists());
        let mode = |path: &str| fs::metadata(local.at(path)).unwrap().permissions().mode() & 0o7777;
        assert_eq!(
            ["dest", "dest/sub", "dest/run.sh", "dest/sub/kept.log"].map(mode),
            [0o750, 0o750, 0o640, 0o640]
        );
        fs::write(host.path().join("sub/x.log"), "more").unwrap();
        assert_eq!(local.run(&steps).unwrap().ran, names(&[]), "what is left out does not matter");
    }
}

#[test]
fn a_file_that_is_given_to_somebody_is_written_by_root() {
    // Debian's busybox prefers its own `id` to ours.
    let local = Local::new(Userland::dash());
    let known = "#!/bin/sh\ncase $* in -un) echo vagrant ;; -u) echo 1000 ;; '-u www') echo 33 ;; '-g www') echo 34 ;;\n\
                 '-u app') echo 500 ;; *) echo \"id: no such user\" >&2; exit 1 ;; esac\n";
    local.userland.add_program("id", known);
    local.userland.add_program("getent", "#!/bin/sh\n[ $2 = team ] && echo team:x:77:\n");
    // Only root may; what it was asked for is enough.
    local
        .userland
        .add_program("chown", "#!/bin/sh\np=${2%/}; echo \"$1 ${p##*/}\" | sed 's/rvm-put.*/tmp/' >>$LOG\n");
    let sudo = "#!/bin/sh\n[ \"$1\" = -n ] || exit 9\nshift\n[ \"$1\" != -H ] || shift\nexport LOG=LOGFILE\nexec \"$@\"\n";
    local.userland.add_program("sudo", &sudo.replace("LOGFILE", local.at("log").to_str().unwrap()));
    let host = tempfile::tempdir().unwrap();
    fs::write(host.path().join("a"), "a").unwrap();
    let give = |source: &str, owner: Option<&str>, group: Option<&str>| {
        let mut copy = FileCopy::new(host.path().join(source), "new/");
        (copy.owner, copy.group) = (owner.map(Into::into), group.map(Into::into));
        local.run(&[Step { run: RunPolicy::Always, ..Step::new("f", StepKind::File(Box::new(copy))) }])
    };
    give("a", Some("www"), None).unwrap();
    give("a", None, Some("team")).unwrap();
    give("a", Some("12"), Some("13")).unwrap();
    assert_eq!(
        fs::read_to_string(local.at("log")).unwrap(),
        "33:34 new\n33:34 .tmp\n0:77 .tmp\n12:13 .tmp\n"
    );
    assert_eq!(fs::read_to_string(local.at("new/a")).unwrap(), "a");
    for (owner, group, what) in [
        (Some("nobody-here"), None, "there is no user nobody-here"),
        (Some("www"), Some("none"), "there is no group none"),
        (Some("app"), None, "there is no user app, whose group it could be"),
    ] {
        for source in ["a", ""] {
            let error = give(source, owner, group).unwrap_err();
            assert!(error.to_string().contains(what), "{error}");
        }
    }
}

#[test]
fn special_files_are_left_out_with_a_warning() {
    let local = Local::new(Userland::busybox());
    let host = tempfile::tempdir().unwrap();
    let _socket = std::os::unix::net::UnixListener::bind(host.path().join("sock")).unwrap();
    fs::write(host.path().join("a"), "a").unwrap();
    local.run(&[file("f", host.path(), "dest")]).unwrap();
    assert!(local.at("dest/a").exists() && !local.at("dest/sock").exists());
    let events = local.seen.0.lock().unwrap();
    assert!(events.iter().any(|e| matches!(e, Event::Warning { text, .. } if text.starts_with("sock "))));
}

fn privileged(name: &str, script: &str) -> Step {
    let kind = StepKind::Shell { script: Script::Inline(script.into()), args: Vec::new(), privileged: true };
    Step { kind, ..shell(name, "") }
}

/// A login user who is not root, whoever runs the tests.
fn as_user(local: &Local) {
    local.userland.add_program("id", "#!/bin/sh\ncase $1 in -un) echo vagrant ;; *) echo 1000 ;; esac\n");
}

#[test]
fn root_is_had_through_sudo_or_not_at_all() {
    // Debian's busybox prefers its own `id` to ours.
    let local = Local::new(Userland::dash());
    as_user(&local);
    let error = local.run(&[privileged("p", "true")]).unwrap_err();
    assert!(error.to_string().contains("`vagrant` has no `sudo`"), "{error}");
    assert!(error.hint().unwrap().contains("privileged = false"));
    local.userland.add_program("sudo", "#!/bin/sh\necho 'sudo: a password is required' >&2; exit 1\n");
    let error = local.run(&[privileged("p", "true")]).unwrap_err();
    assert!(error.to_string().contains("refuses `vagrant`: sudo: a password is required"), "{error}");
    local.userland.add_program(
        "sudo",
        "#!/bin/sh\n[ \"$1\" = -n ] || exit 9\nshift\n[ \"$1\" != -H ] || shift\nexport BY_SUDO=yes\nexec \"$@\"\n",
    );
    local.run(&[privileged("p", "echo by sudo: $BY_SUDO"), shell("u", "echo as user: $BY_SUDO")]).unwrap();
    assert_eq!(local.output(), ["by sudo: yes", "as user:"]);
}

/// Groups are those of the login: a user that root has put into one needs a new one.
#[test]
fn after_root_the_user_logs_in_anew() {
    let local = Local::new(Userland::dash());
    as_user(&local);
    local.userland.add_program("sudo", "#!/bin/sh\nshift\n[ \"$1\" != -H ] || shift\nexec \"$@\"\n");
    let logins = |steps: &[Step]| {
        local.commands.borrow_mut().clear();
        local.run_chosen(steps, &ProvisionChoice::Force).unwrap();
        local.commands.borrow().iter().filter(|command| *command == RECONNECT).count()
    };
    let (root, user) = (privileged("root", "true"), shell("user", "true"));
    let (root2, user2) = (privileged("root 2", "true"), shell("user 2", "true"));
    let steps = |list: &[&Step]| list.iter().map(|step| (*step).clone()).collect::<Vec<_>>();
    assert_eq!(logins(&steps(&[&user, &user2, &root, &root2])), 0);
    assert_eq!(logins(&steps(&[&root, &root2, &user, &user2])), 1);
    assert_eq!(logins(&steps(&[&root, &user, &root2, &user2])), 2);
}
