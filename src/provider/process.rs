//! The process of one virtual machine: `rvm __vm DIR`, started by [`super::start`].
//!
//! Standard input is the network socket, standard output takes one line of JSON as soon as
//! the guest runs (or cannot), standard error goes to `vm.log` in the machine's folder.

use std::io::{self, Write};
use std::os::fd::OwnedFd;
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::launch::{CONTROL_SOCKET, ENDED, LOCK, SPEC};
use super::{CONSOLE_SOCKET, EndReason, Ended, Engine, ProviderError, VmSpec, kvm, qemu};
use crate::model::{Cancel, ProviderKind};
use crate::state::{Lock, store};
use crate::vmm::control;

/// What the process says once, on standard output.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Report {
    /// The guest runs, and the control socket answers.
    Ready,
    /// It does not: a sentence with its causes.
    Error(String),
}

/// Runs the machine in folder `dir` until its guest is gone.
pub fn main(dir: &Path) -> ExitCode {
    // A session of its own: Ctrl-C and the end of the terminal are not for this process.
    // It fails only for a process that leads its group already, which is as good.
    let _ = rustix::process::setsid();
    let (ended, code) = match run(dir) {
        Ok(reason) => (Ended { reason, message: None }, ExitCode::SUCCESS),
        Err(error) => {
            let message = chain(&error);
            eprintln!("{message}");
            tell(&Report::Error(message.clone()));
            (Ended { reason: EndReason::Failed, message: Some(message) }, ExitCode::FAILURE)
        }
    };
    if let Err(error) = store::write_json(&dir.join(ENDED), &ended) {
        eprintln!("cannot write {ENDED}: {error}");
    }
    code
}

fn run(dir: &Path) -> Result<EndReason, ProviderError> {
    let file = |action, name| {
        let path = dir.join(name);
        move |source| ProviderError::File { action, path, source }
    };
    // Held as long as this process lives: how others know that the machine runs.
    let _lock = lock(&dir.join(LOCK)).map_err(file("lock", LOCK))?;
    let spec: VmSpec = store::read_json(&dir.join(SPEC))
        .and_then(|spec| spec.ok_or_else(|| io::ErrorKind::NotFound.into()))
        .map_err(file("read", SPEC))?;
    store::remove(&dir.join(ENDED)).map_err(file("remove", ENDED))?;
    store::remove(&dir.join(CONTROL_SOCKET)).map_err(file("remove", CONTROL_SOCKET))?;
    let net = take_stdin().map_err(ProviderError::Spawn)?;
    let engine: &dyn Engine = match spec.provider {
        ProviderKind::Kvm => &kvm::Kvm,
        ProviderKind::Qemu => &qemu::Qemu,
    };
    let running = engine.start(dir, &spec, net)?;
    let listener = control::bind(&dir.join(CONTROL_SOCKET)).map_err(file("create", CONTROL_SOCKET))?;
    let server = control::serve(listener, running.target()).map_err(ProviderError::Spawn)?;
    tell(&Report::Ready);
    let result = running.wait();
    let word = match &result {
        Ok(reason) => format!("{reason:?}").to_lowercase(),
        Err(_) => "failed".into(),
    };
    server.finish(&word);
    let _ = store::remove(&dir.join(CONTROL_SOCKET));
    let _ = store::remove(&dir.join(CONSOLE_SOCKET));
    result
}

/// Takes the machine's lock. Somebody who asks for its holder has it for a moment.
fn lock(path: &Path) -> io::Result<Lock> {
    for _ in 0..50 {
        if let Ok(lock) = Lock::try_acquire(path, "virtual machine")? {
            return Ok(lock);
        }
        Cancel::new().wait(Duration::from_millis(20));
    }
    Err(io::Error::new(io::ErrorKind::ResourceBusy, "this machine runs already"))
}

/// The network socket that the starter left on standard input; `/dev/null` takes its place.
fn take_stdin() -> io::Result<OwnedFd> {
    let socket = rustix::io::fcntl_dupfd_cloexec(rustix::stdio::stdin(), 3)?;
    let null = std::fs::File::open("/dev/null")?;
    rustix::stdio::dup2_stdin(&null)?;
    Ok(socket)
}

/// Says it and closes standard output, which tells the starter that nothing follows.
fn tell(report: &Report) {
    let mut line = serde_json::to_string(report).unwrap_or_default();
    line.push('\n');
    // The starter may be gone: that is no reason for the machine to end.
    let _ = io::stdout().write_all(line.as_bytes()).and_then(|()| io::stdout().flush());
    if let Ok(null) = std::fs::OpenOptions::new().write(true).open("/dev/null") {
        let _ = rustix::stdio::dup2_stdout(&null);
    }
}

/// An error with all its causes, in one line.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(": ");
        text.push_str(&error.to_string());
        cause = error.source();
    }
    text
}
