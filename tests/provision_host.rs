//! Steps that run on this host.

mod provision_support;

use std::fs;
use std::path::Path;
use std::time::Duration;

use provision_support::{Seen, shell, shell_with};
use rvm::model::{Cancel, Event, Masker, Script, Step, StepKind};
use rvm::provision::{Host, ProvisionError, StepLogs};

struct Project {
    dir: tempfile::TempDir,
    seen: Seen,
    cancel: Cancel,
}

impl Project {
    fn new() -> Project {
        Project { dir: tempfile::tempdir().unwrap(), seen: Seen::default(), cancel: Cancel::new() }
    }

    fn run(&self, step: &Step) -> Result<(), ProvisionError> {
        let vars = [("RVM_MACHINE".to_owned(), "web".to_owned())];
        let host = Host {
            machine: "web",
            report: &self.seen,
            masker: &Masker::new(["s3cr3t-value"]),
            cancel: &self.cancel,
            logs: Some(&self.logs()),
            dir: self.dir.path(),
            vars: &vars,
        };
        host.run(step)
    }

    fn logs(&self) -> StepLogs {
        StepLogs::of(&self.dir.path().join("machine"))
    }

    fn output(&self) -> Vec<String> {
        let line = |event| match event {
            Event::Output { line, .. } => Some(line),
            _ => None,
        };
        std::mem::take(&mut *self.seen.0.lock().unwrap()).into_iter().filter_map(line).collect()
    }
}

fn is_running(pid: &Path) -> bool {
    let pid = fs::read_to_string(pid).unwrap();
    fs::read_to_string(format!("/proc/{}/cmdline", pid.trim())).is_ok_and(|line| line.contains("4343"))
}

#[test]
fn a_script_gets_its_folder_arguments_and_variables_and_no_input() {
    let project = Project::new();
    let script = "pwd; echo \"$RVM_MACHINE $# $1 $PW\"; cat; echo err >&2; tr '\\0' ' ' </proc/$$/cmdline";
    project.run(&shell_with("s", script, &["a b"], &[("PW", "s3cr3t-value")])).unwrap();
    let output = project.output();
    let here = fs::canonicalize(project.dir.path()).unwrap().display().to_string();
    assert!(output.contains(&here) && output.contains(&"web 1 a b ***".to_owned()), "{output:?}");
    assert!(output.contains(&"err".to_owned()), "{output:?}");
    assert!(!output.last().unwrap().contains("RVM_MACHINE"), "the script is on no command line: {output:?}");
    let kept = project.logs().read("s").unwrap().unwrap();
    assert!(kept.contains("web 1 a b ***") && !kept.contains("s3cr3t"), "{kept}");
}

#[test]
fn what_a_quick_script_prints_is_never_lost() {
    let project = Project::new();
    for round in 0..100 {
        project.run(&shell("s", "echo one; echo two >&2; echo three")).unwrap();
        let mut output = project.output();
        output.sort();
        assert_eq!(output, ["one", "three", "two"], "round {round}");
    }
}

#[test]
fn a_script_file_runs_by_its_interpreter_where_it_lies() {
    let project = Project::new();
    let path = project.dir.path().join("tool.pl");
    fs::write(&path, "#!/usr/bin/perl -w\nprint \"$0 @ARGV\\n\";").unwrap();
    let kind =
        StepKind::Shell { script: Script::Path(path.clone()), args: vec!["x".into()], privileged: true };
    project.run(&Step::new("perl", kind)).unwrap();
    assert_eq!(project.output(), [format!("{} x", path.display())]);
}

#[test]
fn a_failure_has_its_exit_code() {
    let project = Project::new();
    for (script, expected) in [("exit 7", 7), ("kill -9 $$", 137)] {
        match project.run(&shell("s", script)).unwrap_err() {
            ProvisionError::StepFailed { code, .. } => assert_eq!(code, expected),
            other => panic!("{other:?}"),
        }
    }
    let error = project.run(&shell("s", "#!/no/such/program\n")).unwrap_err();
    assert!(error.to_string().contains("`/no/such/program` cannot be started"), "{error}");
}

#[test]
fn one_that_hangs_is_ended_with_all_of_its_processes() {
    let project = Project::new();
    let pid = project.dir.path().join("pid");
    let script = "trap '' TERM; sleep 4343 & echo $! >pid; echo begun; wait; sleep 4343";
    let step = Step { timeout: Some(Duration::from_secs(1)), ..shell("hangs", script) };
    let error = project.run(&step).unwrap_err();
    assert!(matches!(error, ProvisionError::StepTimedOut { .. }), "{error:?}");
    assert!(!is_running(&pid), "the child still runs");
    assert_eq!(project.output(), ["begun"]);
}

#[test]
fn ctrl_c_ends_it() {
    let project = Project::new();
    let pid = project.dir.path().join("pid");
    let (cancel, file) = (project.cancel.clone(), pid.clone());
    let trigger = std::thread::spawn(move || {
        while fs::read_to_string(&file).unwrap_or_default().is_empty() {
            std::thread::sleep(Duration::from_millis(10));
        }
        cancel.cancel();
    });
    let error = project.run(&shell("long", "sleep 4343 & echo $! >pid; wait")).unwrap_err();
    trigger.join().unwrap();
    assert!(error.is_interrupt(), "{error:?}");
    assert!(!is_running(&pid), "the child still runs");
}

#[test]
fn a_program_left_in_the_background_does_not_hold_it_up() {
    let project = Project::new();
    project.run(&shell("daemon", "sleep 4343 & echo $! >pid; echo done")).unwrap();
    let pid = fs::read_to_string(project.dir.path().join("pid")).unwrap();
    std::process::Command::new("kill").arg(pid.trim()).status().unwrap();
    assert_eq!(project.output(), ["done"]);
}
