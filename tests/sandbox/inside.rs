//! The way into a process of its own.

use std::io::{BufRead, BufReader, Read};
use std::os::unix::process::CommandExt;
use std::process::{Child, ChildStdout, Command, Output, Stdio};

/// Which part of a test the process is to play. No test sees it set but in such a process.
const PART: &str = "RVM_TEST_INSIDE";
/// What the process says when it waits to be looked at.
const READY: &str = "inside and ready";

/// The part that this process plays; `None` in the test itself.
pub fn part() -> Option<String> {
    std::env::var(PART).ok()
}

/// This program again, to play `part` of `test`.
fn command(test: &str, part: &str) -> Command {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args([test, "--exact", "--nocapture", "--test-threads=1"]).env(PART, part).stdin(Stdio::null());
    // A backtrace opens files; the process of a machine has an empty environment.
    command.env_remove("RUST_BACKTRACE").env_remove("RUST_LIB_BACKTRACE");
    // A machine's process says so before its first thread, which the harness has started long before.
    command.env("MALLOC_ARENA_MAX", "1");
    command
}

/// Plays `part` of `test` to its end.
pub fn play(test: &str, part: &str) -> Output {
    command(test, part).output().unwrap()
}

/// Everything that a process printed.
pub fn text(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

/// A process that waits in its sandbox.
pub struct Held {
    child: Child,
    stdout: BufReader<ChildStdout>,
}

impl Held {
    /// Plays `part` of `test` until it calls [`hold`]. Root plays it in a group that is not root's, so
    /// that files of the process show whose they are.
    pub fn start(test: &str, part: &str) -> Held {
        let mut command = command(test, part);
        if rustix::process::geteuid().is_root() {
            command.gid(65534);
        }
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let mut stdout = BufReader::new(child.stdout.take().unwrap());
        let ready = stdout.by_ref().lines().map_while(Result::ok).any(|line| line.contains(READY));
        assert!(ready, "the process does not get as far as into its sandbox");
        Held { child, stdout }
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        // An end of file lets it go.
        drop(self.child.stdin.take());
        let mut rest = String::new();
        let read = self.stdout.read_to_string(&mut rest);
        let status = self.child.wait().unwrap();
        assert!(status.success() || std::thread::panicking(), "{status}, {read:?}: {rest}");
    }
}

/// In the process: says that it may be looked at, and waits until it was.
pub fn hold() {
    println!("{READY}");
    std::io::stdin().read_line(&mut String::new()).unwrap();
}
