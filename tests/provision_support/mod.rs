//! A guest that is this host: commands run by a chosen `sh`, with a home folder of their own.
#![allow(dead_code)]

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::io::{self, Read, Write};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Mutex, mpsc};
use std::time::{Duration, Instant};

use rvm::model::{
    Cancel, Event, FileCopy, Masker, ProvisionChoice, Reporter, Script, Secret, Step, StepKind, Stream,
};
use rvm::provision::{self, Context, Guest, HostSide, Outcome, ProvisionError, Stamps, StepLogs};
use rvm::ssh::{ExecStatus, Input, SshError, WaitError};

/// A folder for `PATH` in which `sh` is busybox or dash, and the rest fits it.
pub struct Userland {
    dir: tempfile::TempDir,
    name: &'static str,
}

impl Userland {
    /// Both that guests have: busybox with nothing else, and dash with this host's programs but
    /// `sudo` and the package manager.
    pub fn all() -> [Userland; 2] {
        [Userland::busybox(), Userland::dash()]
    }

    pub fn busybox() -> Userland {
        let dir = tempfile::tempdir().unwrap();
        let busybox = ["/bin/busybox", "/usr/bin/busybox"].into_iter().find(|path| Path::new(path).exists());
        let busybox = busybox.expect("the tests need the package busybox");
        let list = Command::new(busybox).arg("--list").output().unwrap();
        for applet in String::from_utf8(list.stdout).unwrap().lines() {
            std::os::unix::fs::symlink(busybox, dir.path().join(applet)).unwrap();
        }
        Userland { dir, name: "busybox" }
    }

    pub fn dash() -> Userland {
        let dir = tempfile::tempdir().unwrap();
        let link = |from: &Path, to: &str| std::os::unix::fs::symlink(from, dir.path().join(to));
        link(Path::new("/bin/dash"), "sh").unwrap();
        for entry in ["/usr/bin", "/bin"].into_iter().flat_map(|bin| std::fs::read_dir(bin).unwrap()) {
            let path = entry.unwrap().path();
            let name = path.file_name().unwrap().to_str().unwrap();
            if !["sh", "sudo", "apt-get", "dpkg-query", "apk", "dnf", "rpm", "pacman", "zypper"]
                .contains(&name)
            {
                // Many are in both folders.
                let _ = link(&path, name);
            }
        }
        Userland { dir, name: "dash" }
    }

    /// A program of ours in front of all others.
    pub fn add_program(&self, name: &str, text: &str) {
        use std::os::unix::fs::PermissionsExt;
        let path = self.dir.path().join(name);
        let _ = std::fs::remove_file(&path);
        std::fs::write(&path, text).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
    }

    pub fn name(&self) -> &'static str {
        self.name
    }
}

/// The guest, what it was told to run, and what was reported.
pub struct Local {
    pub userland: Userland,
    pub home: tempfile::TempDir,
    pub machine_dir: tempfile::TempDir,
    pub commands: RefCell<Vec<String>>,
    pub seen: Seen,
    pub secrets: Vec<String>,
    pub cancel: Cancel,
    pub pins: Option<BTreeMap<String, String>>,
    pub locked: bool,
}

/// Stands among the commands where the guest was connected to anew.
pub const RECONNECT: &str = "(reconnect)";

#[derive(Default)]
pub struct Seen(pub Mutex<Vec<Event>>);

impl Reporter for Seen {
    fn event(&self, event: Event) {
        self.0.lock().unwrap().push(event);
    }
}

impl Local {
    pub fn new(userland: Userland) -> Local {
        Local {
            userland,
            home: tempfile::tempdir().unwrap(),
            machine_dir: tempfile::tempdir().unwrap(),
            commands: RefCell::default(),
            seen: Seen::default(),
            secrets: Vec::new(),
            cancel: Cancel::new(),
            pins: None,
            locked: false,
        }
    }

    pub fn run(&self, steps: &[Step]) -> Result<Outcome, ProvisionError> {
        self.run_chosen(steps, &ProvisionChoice::Auto)
    }

    pub fn run_chosen(&self, steps: &[Step], choice: &ProvisionChoice) -> Result<Outcome, ProvisionError> {
        let mut stamps = Stamps::load(self.machine_dir.path()).unwrap();
        let masker = Masker::new(self.secrets.iter().map(String::as_str));
        let context = Context {
            machine: "web",
            guest: self,
            report: &self.seen,
            masker: &masker,
            cancel: &self.cancel,
            logs: &self.logs(),
            host: HostSide { dir: self.home.path(), inventory: "", password: None },
            pins: self.pins.as_ref(),
            locked: self.locked,
            boot_timeout: Duration::from_secs(20),
        };
        provision::run(&context, steps, choice, &mut stamps)
    }

    /// Lines printed since the last call, both streams.
    pub fn output(&self) -> Vec<String> {
        let events = std::mem::take(&mut *self.seen.0.lock().unwrap());
        let line = |event| match event {
            Event::Output { line, .. } => Some(line),
            _ => None,
        };
        events.into_iter().filter_map(line).collect()
    }

    pub fn logs(&self) -> StepLogs {
        StepLogs::of(self.machine_dir.path())
    }

    pub fn at(&self, path: &str) -> PathBuf {
        self.home.path().join(path)
    }

    fn command(&self, command: &str) -> Command {
        let own = self.userland.dir.path();
        let mut process = Command::new(own.join("sh"));
        process.arg("-c").arg(command).env_clear().env("PATH", own);
        process.env("HOME", self.home.path()).current_dir(self.home.path());
        process.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        process
    }
}

impl Guest for Local {
    fn exec(
        &self,
        command: &str,
        mut input: Input<'_>,
        out: &mut dyn FnMut(Stream, &[u8]),
        cancel: &Cancel,
        timeout: Option<Duration>,
    ) -> Result<ExecStatus, SshError> {
        let begin = Instant::now();
        self.commands.borrow_mut().push(command.to_owned());
        let mut child = self.command(command).spawn().unwrap();
        let mut stdin = child.stdin.take().unwrap();
        let (send, receive) = mpsc::channel();
        let pipes: [(Stream, Box<dyn Read + Send>); 2] = [
            (Stream::Stdout, Box::new(child.stdout.take().unwrap())),
            (Stream::Stderr, Box::new(child.stderr.take().unwrap())),
        ];
        for (stream, mut pipe) in pipes {
            let send = send.clone();
            std::thread::spawn(move || {
                let mut buffer = [0; 4096];
                while let Ok(count @ 1..) = pipe.read(&mut buffer) {
                    if send.send((stream, buffer[..count].to_vec())).is_err() {
                        return;
                    }
                }
            });
        }
        drop(send);
        // A command that ends early breaks the pipe, which is no error of ours.
        let _ = match &mut input {
            Input::None => Ok(0),
            Input::Bytes(data) | Input::HeldOpen(data) => stdin.write_all(data).map(|()| 0),
            Input::Reader(reader) => io::copy(reader, &mut stdin),
            Input::Live(_) => unreachable!("no step reads what comes as it comes"),
        };
        let mut stdin = matches!(input, Input::HeldOpen(_)).then_some(stdin);
        let (mut cancelled, mut timed_out) = (false, false);
        loop {
            match receive.recv_timeout(Duration::from_millis(20)) {
                Ok((stream, data)) => out(stream, &data),
                Err(mpsc::RecvTimeoutError::Timeout) => {}
                Err(mpsc::RecvTimeoutError::Disconnected) => break,
            }
            if !timed_out && stdin.is_some() && timeout.is_some_and(|timeout| begin.elapsed() >= timeout) {
                timed_out = true;
                drop(stdin.take());
            }
            if cancel.is_cancelled() && !cancelled {
                cancelled = true;
                drop(stdin.take());
            }
        }
        let status = child.wait().unwrap();
        if cancelled {
            return Err(SshError::Cancelled);
        }
        // How a guest that goes down looks from outside.
        if std::fs::remove_file(self.at("connection-lost")).is_ok() {
            return Err(SshError::Lost { doing: "testing", source: None });
        }
        let code = status.code().unwrap_or_else(|| 128 + status.signal().unwrap_or(0));
        Ok(ExecStatus { timed_out, ..ExecStatus::of_code(code) })
    }

    fn reconnect(&self, _: &Cancel) -> Result<(), WaitError> {
        self.commands.borrow_mut().push(RECONNECT.into());
        Ok(())
    }
}

pub fn step(name: &str, kind: StepKind) -> Step {
    Step::new(name, kind)
}

/// An unprivileged shell step.
pub fn shell(name: &str, script: &str) -> Step {
    shell_with(name, script, &[], &[])
}

pub fn shell_with(name: &str, script: &str, args: &[&str], env: &[(&str, &str)]) -> Step {
    let args = args.iter().map(|arg| (*arg).to_owned()).collect();
    let kind = StepKind::Shell { script: Script::Inline(script.into()), args, privileged: false };
    let env = env.iter().map(|(name, value)| ((*name).to_owned(), Secret::new(*value))).collect();
    Step { env, ..step(name, kind) }
}

pub fn file(name: &str, source: &Path, destination: &str) -> Step {
    step(name, StepKind::File(Box::new(FileCopy::new(source, destination))))
}

pub fn packages(name: &str, names: &[&str]) -> Step {
    step(name, StepKind::Packages { names: names.iter().map(|n| (*n).to_owned()).collect() })
}
