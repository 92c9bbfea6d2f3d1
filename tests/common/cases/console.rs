//! The console.

use std::io::{Read, Write};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{self, Receiver};
use std::thread;
use std::time::{Duration, Instant};

use super::{MICRO, programs};
use crate::common::{Project, binary};

/// How long a guest may take to do something.
const PATIENCE: Duration = Duration::from_secs(120);

/// `rvm console` on a terminal of its own.
struct Terminal {
    child: Child,
    keys: ChildStdin,
    output: Receiver<Vec<u8>>,
    seen: String,
}

impl Terminal {
    fn attach(project: &Project) -> Terminal {
        // Its size, and where it can be changed.
        let line = format!("tty >tty; stty rows 33 columns 111; exec {} console", binary().display());
        // script(1) makes the terminal.
        let mut child = Command::new("script")
            .args(["--quiet", "--flush", "--return", "--command", &line, "/dev/null"])
            .current_dir(&project.root)
            .env("RVM_HOME", &project.home)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let (keys, mut stdout) = (child.stdin.take().unwrap(), child.stdout.take().unwrap());
        let (sender, output) = mpsc::channel();
        thread::spawn(move || {
            let mut bytes = [0; 4096];
            while let Ok(count @ 1..) = stdout.read(&mut bytes) {
                let _ = sender.send(bytes[..count].to_vec());
            }
        });
        Terminal { child, keys, output, seen: String::new() }
    }

    fn type_in(&mut self, text: &str) {
        self.keys.write_all(text.as_bytes()).unwrap();
        self.keys.flush().unwrap();
    }

    /// Waits until the guest's terminal has as many rows and columns. Nothing else is to be typed.
    #[track_caller]
    fn has_size(&mut self, size: &str) {
        self.type_in(&format!(
            "until [ \"$(stty size)\" = '{size}' ]; do sleep 0.2; done; echo has $((6 * 7))\r"
        ));
        self.sees("has 42");
    }

    /// Waits until that is on the screen, behind what was waited for before.
    #[track_caller]
    fn sees(&mut self, text: &str) {
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(at) = self.seen.find(text) {
                self.seen.drain(..at + text.len());
                return;
            }
            let left = deadline.saturating_duration_since(Instant::now());
            match self.output.recv_timeout(left) {
                Ok(bytes) => self.seen.push_str(&String::from_utf8_lossy(&bytes)),
                Err(error) => panic!("`{text}` does not come ({error}): {:?}", self.seen),
            }
        }
    }

    #[track_caller]
    fn ends_with(mut self, code: i32) {
        assert_eq!(self.child.wait().unwrap().code(), Some(code));
    }
}

/// Attach, be logged in, run a command, detach; two at once; the end of the machine.
pub fn console_of_a_machine(provider: &str) {
    let project = Project::new(provider, MICRO);
    project.rvm(&["console"]).code(1).says("not created");
    project.rvm(&["up"]).ok();
    // Machines are dear, and this one has nothing to do.
    programs::programs_are_as_if_they_ran_here(&project);
    programs::files_go_both_ways(&project);
    let mut first = Terminal::attach(&project);
    first.sees("Ctrl-] detaches");
    first.type_in("echo \"$(id -un) has $((40 + 2))\"\r");
    first.sees("vagrant has 42");
    if provider == "kvm" {
        first.has_size("33 111");
        let tty = std::fs::read_to_string(project.root.join("tty")).unwrap();
        project.run("stty", &["-F", tty.trim_end(), "rows", "40", "columns", "132"]).ok();
        first.has_size("40 132");
    }
    // Somebody else, in a pipe, sees what was there, and is seen.
    let mut piped = project.command(&["console"]);
    let mut piped = piped.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    piped.stdin.take().unwrap().write_all(b"echo pipe $((1 + 1))\n").unwrap();
    let output = piped.wait_with_output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && text.contains("has 42") && text.contains("pipe 2"), "{text}");
    first.sees("pipe 2");
    // Ctrl-C is for the guest; Ctrl-] is for us.
    first.type_in("echo sleeping $((2 * 5)); sleep 1000\r");
    first.sees("sleeping 10");
    first.type_in("\x03");
    first.type_in("echo still $((3 + 4))\r");
    first.sees("still 7");
    first.type_in("\x1d");
    first.sees("Detached");
    first.ends_with(0);
    assert_eq!(project.state("default"), "running");

    let mut last = Terminal::attach(&project);
    last.sees("still 7");
    project.rvm(&["halt"]).ok();
    last.sees("has ended");
    last.ends_with(0);
    project.rvm(&["console"]).code(1).says("poweroff");
}
