//! The command line as a user meets it: words in, text and exit codes out. Nothing here needs
//! a virtual machine.

mod bad_input;
mod completion;
mod docs;
mod graph;
mod guest;
mod help;
mod hooks;
mod import;
mod init;
mod json;
#[path = "../json_support/mod.rs"]
mod json_support;
mod keeper;
mod layers;
mod lock;
mod machines;
mod plan;
mod prompt;
mod screen;
mod surroundings;
mod top;

use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

/// An empty project folder and an empty store.
struct Place {
    dir: tempfile::TempDir,
}

/// What a command left behind.
struct Ran {
    code: i32,
    stdout: String,
    stderr: String,
}

impl Place {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("project")).unwrap();
        Place { dir }
    }

    /// A project with that Vagrantfile.
    fn with(vagrantfile: impl AsRef<[u8]>) -> Self {
        let place = Place::new();
        place.write("Vagrantfile", vagrantfile);
        place
    }

    fn project(&self) -> PathBuf {
        self.dir.path().join("project")
    }

    fn home(&self) -> PathBuf {
        self.dir.path().join("home")
    }

    fn write(&self, name: &str, content: impl AsRef<[u8]>) {
        std::fs::write(self.project().join(name), content).unwrap();
    }

    /// The command, with nothing of the tester's own surroundings.
    fn command(&self, words: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_rvm"));
        command
            .args(words)
            .current_dir(self.project())
            .env_clear()
            .env("PATH", "/usr/bin:/bin")
            .env("HOME", self.dir.path())
            .env("RVM_HOME", self.home())
            .stdin(Stdio::null());
        command
    }

    fn run(&self, words: &[&str]) -> Ran {
        self.finish(self.command(words).output().unwrap())
    }

    fn finish(&self, output: Output) -> Ran {
        let text = |bytes: Vec<u8>| {
            String::from_utf8(bytes).unwrap().replace(&self.dir.path().display().to_string(), "[DIR]")
        };
        Ran { code: output.status.code().unwrap(), stdout: text(output.stdout), stderr: text(output.stderr) }
    }

    /// Runs `rvm` with these words on a terminal of its own and types `keys` once `asked` says of what is on
    /// the screen that it is time; gives the exit code and all that was on the screen.
    fn on_a_terminal(&self, words: &str, asked: fn(&[u8]) -> bool, keys: &[u8]) -> (Option<i32>, String) {
        // script(1) of util-linux opens the terminal.
        let mut child = Command::new("script")
            .args(["-qec", &format!("{} {words}", env!("CARGO_BIN_EXE_rvm")), "/dev/null"])
            .current_dir(self.project())
            .env_remove("CI")
            .env_remove("NO_COLOR")
            .env("RVM_HOME", self.home())
            .env("TERM", "xterm")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let (mut stdin, mut stdout) = (child.stdin.take().unwrap(), child.stdout.take().unwrap());
        let mut screen = Vec::new();
        let mut byte = [0];
        while !asked(&screen) {
            assert_eq!(stdout.read(&mut byte).unwrap(), 1, "{}", String::from_utf8_lossy(&screen));
            screen.extend(byte);
        }
        stdin.write_all(keys).unwrap();
        stdout.read_to_end(&mut screen).unwrap();
        (child.wait().unwrap().code(), String::from_utf8_lossy(&screen).into_owned())
    }

    /// Every file below the folder with its content.
    fn files(&self) -> Vec<(PathBuf, Vec<u8>)> {
        fn walk(dir: &Path, list: &mut Vec<(PathBuf, Vec<u8>)>) {
            for entry in std::fs::read_dir(dir).unwrap() {
                let path = entry.unwrap().path();
                if path.is_dir() {
                    walk(&path, list);
                } else {
                    let content = std::fs::read(&path).unwrap();
                    list.push((path, content));
                }
            }
        }
        let mut list = Vec::new();
        walk(self.dir.path(), &mut list);
        list.sort();
        list
    }
}
