//! Provision steps over a real SSH connection.

mod provision_support;
mod ssh_support;

use std::fs;
use std::time::{Duration, Instant};

use provision_support::{Seen, file, shell};
use rvm::model::{Cancel, Event, Masker, ProvisionChoice, Step};
use rvm::provision::{self, Context, HostSide, Link, Outcome, ProvisionError, Stamps, StepLogs};
use rvm::ssh::{self, Session, Target, WaitError};
use ssh_support::Server;

struct Run {
    machine_dir: tempfile::TempDir,
    seen: Seen,
    cancel: Cancel,
}

impl Run {
    fn new() -> Run {
        Run { machine_dir: tempfile::tempdir().unwrap(), seen: Seen::default(), cancel: Cancel::new() }
    }

    fn run(&self, target: &Target, steps: &[Step]) -> Result<Outcome, ProvisionError> {
        let connect = |cancel: &Cancel| -> Result<Session, WaitError> {
            let deadline = Instant::now() + Duration::from_secs(5);
            ssh::wait_ready(target, deadline, &mut || true, &mut |_| (), cancel)
        };
        let link = Link::new(connect(&Cancel::new()).unwrap(), &connect);
        let mut stamps = Stamps::load(self.machine_dir.path()).unwrap();
        let context = Context {
            machine: "web",
            guest: &link,
            report: &self.seen,
            masker: &Masker::default(),
            cancel: &self.cancel,
            logs: &StepLogs::of(self.machine_dir.path()),
            host: HostSide { dir: self.machine_dir.path(), inventory: "", password: None },
            pins: None,
            locked: false,
            boot_timeout: Duration::from_secs(20),
        };
        provision::run(&context, steps, &ProvisionChoice::Auto, &mut stamps)
    }

    fn printed(&self, text: &str) -> bool {
        let events = self.seen.0.lock().unwrap();
        events.iter().any(|event| matches!(event, Event::Output { line, .. } if line == text))
    }
}

fn servers() -> Vec<Server> {
    [Some(Server::sshd("")), Server::dropbear()].into_iter().flatten().collect()
}

fn is_running(pid: &str) -> bool {
    fs::read_to_string(format!("/proc/{}/cmdline", pid.trim())).is_ok_and(|line| line.contains("sleep"))
}

#[test]
fn steps_succeed_fail_and_go_on() {
    for server in servers() {
        let (target, run) = (server.target(), Run::new());
        let mark = server.dir().join("mark");
        let steps = [
            shell("one", "echo out; echo err >&2"),
            shell("two", &format!("[ -e {} ] || exit 41", mark.display())),
        ];
        let error = run.run(&target, &steps).unwrap_err();
        assert!(matches!(error, ProvisionError::StepFailed { code: 41, .. }), "{error:?}");
        assert!(run.printed("out") && run.printed("err"));
        fs::write(mark, "").unwrap();
        let outcome = run.run(&target, &steps).unwrap();
        assert_eq!((outcome.ran, outcome.skipped), (vec!["two".to_owned()], vec!["one".to_owned()]));
    }
}

#[test]
fn a_background_process_that_holds_the_output_does_not_hold_up_the_step() {
    for server in servers() {
        let (target, run) = (server.target(), Run::new());
        let pid = server.dir().join("pid");
        let script = format!("sleep 4343 & echo $! >{}; echo done", pid.display());
        run.run(&target, &[shell("daemon", &script), shell("next", "echo next")]).unwrap();
        assert!(run.printed("done") && run.printed("next"));
        let pid = fs::read_to_string(pid).unwrap();
        assert!(is_running(&pid));
        std::process::Command::new("kill").arg(pid.trim()).status().unwrap();
    }
}

#[test]
fn a_cancelled_step_ends_in_the_guest_too() {
    for server in servers() {
        let (target, run) = (server.target(), Run::new());
        let pid = server.dir().join("pid");
        let (cancel, file) = (run.cancel.clone(), pid.clone());
        let trigger = std::thread::spawn(move || {
            while fs::read_to_string(&file).unwrap_or_default().is_empty() {
                std::thread::sleep(Duration::from_millis(10));
            }
            cancel.cancel();
        });
        let script = format!("sleep 4343 & echo $! >{}; wait", pid.display());
        let error = run.run(&target, &[shell("long", &script)]).unwrap_err();
        assert!(error.is_interrupt(), "{error:?}");
        trigger.join().unwrap();
        let pid = fs::read_to_string(pid).unwrap();
        let begin = Instant::now();
        while is_running(&pid) {
            assert!(begin.elapsed() < Duration::from_secs(120), "the step still runs in the guest");
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

#[test]
fn a_connection_that_breaks_leaves_the_step_unstamped() {
    let mut server = Server::sshd("");
    let (target, run) = (server.target(), Run::new());
    let begun = server.dir().join("begun");
    let script = format!("echo >{}; sleep 5", begun.display());
    let steps = [shell("first", "true"), shell("cut", &script)];
    let error = std::thread::scope(|scope| {
        let (run, steps) = (&run, &steps);
        let worker = scope.spawn(|| run.run(&target, steps).unwrap_err());
        while !begun.exists() {
            std::thread::sleep(Duration::from_millis(10));
        }
        server.kill();
        worker.join().unwrap()
    });
    assert!(matches!(error, ProvisionError::GuestGone { .. }), "{error:?}");
    assert!(error.hint().unwrap().contains("rvm up web"));
    let stamps = fs::read_to_string(run.machine_dir.path().join("steps.json")).unwrap();
    assert!(stamps.contains("first") && !stamps.contains("cut"), "{stamps}");
}

#[test]
fn large_files_and_folders_arrive_whole() {
    for server in servers() {
        let (target, run) = (server.target(), Run::new());
        let tree = server.dir().join("tree");
        fs::create_dir_all(tree.join("a/b")).unwrap();
        let data: Vec<u8> =
            (0..30_000_000_u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
        fs::write(tree.join("a/big"), &data).unwrap();
        for i in 0..300 {
            fs::write(tree.join(format!("a/b/{i}")), format!("file {i}")).unwrap();
        }
        let dest = server.dir().join("dest");
        let at = |name: &str| dest.join(name).display().to_string();
        run.run(&target, &[file("tree", &tree, &at("tree")), file("file", &tree.join("a/big"), &at("big"))])
            .unwrap();
        assert!(fs::read(dest.join("tree/a/big")).unwrap() == data);
        assert!(fs::read(dest.join("big")).unwrap() == data);
        assert_eq!(fs::read_to_string(dest.join("tree/a/b/299")).unwrap(), "file 299");
    }
}

#[test]
fn a_step_whose_time_is_up_ends_in_the_guest_and_the_connection_stays() {
    for server in servers() {
        let (target, run) = (server.target(), Run::new());
        let pid = server.dir().join("pid");
        let script = format!("trap '' TERM; sleep 60 & echo $! >{}; wait; sleep 60", pid.display());
        let slow = Step { timeout: Some(Duration::from_secs(1)), ..shell("slow", &script) };
        let error = run.run(&target, std::slice::from_ref(&slow)).unwrap_err();
        assert!(matches!(error, ProvisionError::StepTimedOut { .. }), "{error:?}");
        assert!(!is_running(&fs::read_to_string(&pid).unwrap()), "the step still runs in the guest");
        // The next try, on the same connection, is in time, on a busy host too.
        fs::remove_file(&pid).unwrap();
        let script = format!("[ ! -e {0} ] || exit 0; : >{0}; exec sleep 60", pid.display());
        let again = Step { timeout: Some(Duration::from_secs(10)), retries: 1, ..shell("again", &script) };
        run.run(&target, &[again, shell("after", "echo after")]).unwrap();
        assert!(run.printed("after"));
    }
}
