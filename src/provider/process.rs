//! The process of one virtual machine: `rvm __vm DIR`, started by [`super::start`].
//!
//! Standard input is the socket to which passt connects, or the host's SSH clients where the machine has no card for
//! passt; standard output takes one line of JSON as soon as
//! the guest runs (or cannot), standard error goes to `vm.log` in the machine's folder. Before the
//! guest runs, the process shuts itself in ([`sandbox`]).

use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::process::ExitCode;

use rustix::process::setsid;
use rustix::stdio::stdin;
use serde::{Deserialize, Serialize};

use super::launch::{CONTROL_SOCKET, ENDED, LOCK, SPEC};
use super::{EndReason, Ended, Engine, ProviderError, VmSpec, kvm, qemu};
use crate::model::ProviderKind;
use crate::state::{Lock, Starter, store};
use crate::vmm::control;
use crate::vmm::sandbox;

/// What the process says once, on standard output.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Report {
    /// The guest runs, and the control socket answers.
    Ready,
    /// It does not.
    Error {
        /// A sentence with its causes.
        message: String,
        /// What to do next.
        hint: Option<String>,
        /// The stable code.
        code: String,
    },
}

/// Runs the machine in folder `dir` until its guest is gone.
pub fn main(dir: &Path) -> ExitCode {
    // A session of its own: Ctrl-C and the end of the terminal are not for this process.
    // It fails only for a process that leads its group already, which is as good.
    let _ = setsid();
    let prepared = sandbox::prepare().and_then(|()| Ok((Starter::take()?, take_net()?)));
    let (mut starter, net) = match prepared.map_err(ProviderError::Spawn) {
        Ok(both) => both,
        Err(error) => {
            eprintln!("{}", chain(&error));
            return ExitCode::FAILURE;
        }
    };
    match run(dir, net, &mut starter) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let message = chain(&error);
            eprintln!("{message}");
            let code = error.code().to_string();
            tell(&mut starter, &Report::Error { message, hint: error.hint(), code });
            ExitCode::FAILURE
        }
    }
}

fn run(dir: &Path, net: OwnedFd, starter: &mut Starter) -> Result<(), ProviderError> {
    let file = |action, name| {
        let path = dir.join(name);
        move |source| ProviderError::File { action, path, source }
    };
    // Held as long as this process lives: how others know that the machine runs.
    let _lock = lock(&dir.join(LOCK)).map_err(file("lock", LOCK))?;
    let record = store::create_empty(&dir.join(ENDED)).map_err(file("create", ENDED))?;
    let result = run_locked(dir, net, starter);
    let ended = match &result {
        Ok(reason) => Ended { reason: *reason, message: None },
        Err(error) => Ended { reason: EndReason::Failed, message: Some(chain(error)) },
    };
    store::fill_json(&record, &ended).map_err(file("write", ENDED))?;
    result.map(drop)
}

fn run_locked(dir: &Path, net: OwnedFd, starter: &mut Starter) -> Result<EndReason, ProviderError> {
    let file = |action, name| {
        let path = dir.join(name);
        move |source| ProviderError::File { action, path, source }
    };
    let spec: VmSpec = store::read_json(&dir.join(SPEC))
        .and_then(|spec| spec.ok_or_else(|| io::ErrorKind::NotFound.into()))
        .map_err(file("read", SPEC))?;
    store::remove(&dir.join(CONTROL_SOCKET)).map_err(file("remove", CONTROL_SOCKET))?;
    let engine: &dyn Engine = match spec.provider {
        ProviderKind::Kvm => &kvm::Kvm,
        ProviderKind::Qemu => &qemu::Qemu,
    };
    let running = engine.start(dir, &spec, net)?;
    let listener = control::bind(&dir.join(CONTROL_SOCKET)).map_err(file("create", CONTROL_SOCKET))?;
    // All that the machine needs is open. What follows opens no file and needs no right. The socket
    // stays when we end: nobody listens to it then, and the next start replaces it.
    let report = sandbox::enter(&running.policy());
    for missing in report.map_err(ProviderError::Sandbox)?.missing() {
        eprintln!("sandbox: {missing}");
    }
    let server = control::serve(listener, running.target()).map_err(ProviderError::Spawn)?;
    tell(starter, &Report::Ready);
    let result = running.wait();
    let word = match &result {
        Ok(reason) => format!("{reason:?}").to_lowercase(),
        Err(_) => "failed".into(),
    };
    server.finish(&word);
    result
}

/// Takes the machine's lock.
fn lock(path: &Path) -> io::Result<Lock> {
    let lock = Lock::take(path, "virtual machine")?;
    lock.ok_or_else(|| io::Error::new(io::ErrorKind::ResourceBusy, "this machine runs already"))
}

/// Takes the network socket that is standard input; `/dev/null` takes its place.
fn take_net() -> io::Result<OwnedFd> {
    let net = rustix::io::fcntl_dupfd_cloexec(stdin(), 3)?;
    let null = File::options().read(true).write(true).open("/dev/null")?;
    rustix::stdio::dup2_stdin(&null)?;
    Ok(net)
}

/// One line for the command that started this process.
fn tell(starter: &mut Starter, report: &Report) {
    let mut line = serde_json::to_string(report).unwrap_or_default();
    line.push('\n');
    starter.tell(&line);
}

/// An error with all its causes, in one line.
pub(super) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(": ");
        text.push_str(&error.to_string());
        cause = error.source();
    }
    text
}
