//! `rvm __nat`, for a machine that has no passt.

use std::fs;
use std::io::Read;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use rvm::state::Lock;

/// It says at once that it is at work, needs nothing that leads out, and ends with the machine, of which it leaves nothing.
#[test]
fn without_a_way_out_it_waits_for_the_machines_end() {
    let dir = tempfile::tempdir().unwrap();
    let task = dir.path().join("nat.json");
    fs::write(
        &task,
        r#"{"way":"none","addresses":{"guest":"10.0.2.15","gateway":"10.0.2.2","prefix":24},"forwards":[]}"#,
    )
    .unwrap();
    let machine = Lock::take(&dir.path().join("vm.lock"), "a machine").unwrap().unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_rvm"));
    // No passt is to be found there.
    command.args(["__nat".as_ref(), dir.path()]).env_clear().env("PATH", dir.path());
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let mut said = String::new();
    child.stdout.take().unwrap().read_to_string(&mut said).unwrap();
    assert_eq!(said, "ready");
    assert!(Lock::holder(&dir.path().join("nat.lock")).unwrap().is_some());
    // The machine was started; what may come of it is looked for.
    drop(child.stdin.take());
    let folder = dir.path().join("forwards");
    let deadline = Instant::now() + Duration::from_secs(60);
    while !folder.is_dir() {
        assert!(Instant::now() < deadline, "it does not look for what may come of the machine");
        assert!(child.try_wait().unwrap().is_none(), "it ended before its machine");
        std::thread::yield_now();
    }
    drop(machine);
    assert!(child.wait().unwrap().success());
    assert!(!task.exists());
}
