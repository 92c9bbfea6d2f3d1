//! Scripts and programs on this host: hooks, and steps after all machines.

use std::io::{self, Read};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, Signal, kill_process_group, pidfd_open, test_kill_process_group};

use super::content::{self, Content};
use super::lines::Lines;
use super::output::Output;
use super::shell::{Start, start_of};
use super::{ProvisionError, StepLogs, tries};
use crate::model::{Cancel, Masker, Reporter, Script, Step, StepKind, Stream};
use crate::ssh::SshError;

/// Between two looks at the clock and at Ctrl-C.
const SLICE: Duration = Duration::from_millis(50);

/// How long what an ended program left behind may hold its output.
const LINGER: Duration = Duration::from_secs(2);

/// How long a program that is told to end gets before it is killed.
const PATIENCE: Duration = Duration::from_secs(3);

/// What a step on the host works with.
pub struct Host<'a> {
    /// Whom it is about, for messages: a machine, or the project.
    pub machine: &'a str,
    /// Takes events.
    pub report: &'a dyn Reporter,
    /// Masks secrets in all that is reported.
    pub masker: &'a Masker,
    /// Ends it.
    pub cancel: &'a Cancel,
    /// Keeps what it prints, where there is a place for it.
    pub logs: Option<&'a StepLogs>,
    /// Its working folder: the project.
    pub dir: &'a Path,
    /// Variables beside those of the step.
    pub vars: &'a [(String, String)],
}

impl Host<'_> {
    /// Runs a shell step on the host, as the user, until it ends or its time is up; then its process
    /// group is ended.
    pub fn run(&self, step: &Step) -> Result<(), ProvisionError> {
        self.tries(step, &|output| self.script(step, output))
    }

    /// Tries as often as the step says; what is printed goes to one output.
    pub(super) fn tries(
        &self,
        step: &Step,
        once: &dyn Fn(&Output<'_>) -> Result<(), ProvisionError>,
    ) -> Result<(), ProvisionError> {
        let output = Output::begin(self.machine, self.report, self.masker, self.logs, step);
        let mut failures = 0;
        let result = loop {
            match once(&output) {
                Err(error) if failures < step.retries && error.may_pass() => {
                    failures += 1;
                    let pause = tries::announce(
                        self.machine,
                        self.report,
                        self.masker,
                        &output,
                        step,
                        failures,
                        &error,
                    );
                    if self.cancel.wait(pause) {
                        break Err(self.cut(step));
                    }
                }
                result => break result,
            }
        };
        match &result {
            Ok(()) => output.note("succeeded"),
            Err(error) => output.note(&error.to_string()),
        }
        output.end();
        result
    }

    pub(super) fn script(&self, step: &Step, output: &Output<'_>) -> Result<(), ProvisionError> {
        let StepKind::Shell { script, args, .. } = &step.kind else {
            return Err(self.unable(step, "only scripts run on the host".into()));
        };
        let Content::Script(text) = content::read_for(step)? else {
            return Err(self.unable(step, "its script was not read".into()));
        };
        let start = start_of(&text).map_err(|why| self.unable(step, why))?;
        // A script of the file lies in a folder that only this user may enter, not on a command line.
        let folder =
            tempfile::tempdir().map_err(|e| self.unable(step, format!("no temporary folder: {e}")))?;
        let path = match script {
            Script::Path(path) => path.clone(),
            Script::Inline(_) => {
                let path = folder.path().join("script");
                let written = crate::state::store::write(&path, &text);
                written.map_err(|e| self.unable(step, format!("its script cannot be stored: {e}")))?;
                path
            }
        };
        let mut command = match start {
            Start::Shell => {
                Command::new(if Path::new("/bin/bash").exists() { "/bin/bash" } else { "/bin/sh" })
            }
            Start::Interpreter(program, argument) => {
                let mut command = Command::new(program);
                command.args(Some(argument).filter(|argument| !argument.is_empty()));
                command
            }
            Start::Direct => Command::new(&path),
        };
        if start_of(&text) != Ok(Start::Direct) {
            command.arg(&path);
        }
        command.args(args);
        self.drive(step, command, output)
    }

    /// Runs a program; what it prints goes to `output`.
    pub(super) fn drive(
        &self,
        step: &Step,
        mut command: Command,
        output: &Output<'_>,
    ) -> Result<(), ProvisionError> {
        // The password that logs in to the machines is no step's.
        command.current_dir(self.dir).env_remove("RVM_SSH_PASSWORD").process_group(0);
        command.envs(self.vars.iter().map(|(name, value)| (name, value)));
        command.envs(step.env.iter().map(|(name, value)| (name, value.expose())));
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        match command.spawn() {
            Ok(child) => self.watch(step, child, output),
            Err(error) => {
                let program = command.get_program().to_string_lossy().into_owned();
                let why = match error.kind() {
                    io::ErrorKind::NotFound => "it is not installed on this host".to_owned(),
                    _ => error.to_string(),
                };
                Err(self.unable(step, format!("`{program}` cannot be started: {why}")))
            }
        }
    }

    fn watch(&self, step: &Step, mut child: Child, output: &Output<'_>) -> Result<(), ProvisionError> {
        let (send, receive) = mpsc::channel();
        let pipes: [(Stream, Option<Box<dyn Read + Send>>); 2] = [
            (Stream::Stdout, child.stdout.take().map(|pipe| Box::new(pipe) as Box<dyn Read + Send>)),
            (Stream::Stderr, child.stderr.take().map(|pipe| Box::new(pipe) as Box<dyn Read + Send>)),
        ];
        for (stream, pipe) in pipes.into_iter().filter_map(|(stream, pipe)| Some((stream, pipe?))) {
            let send = send.clone();
            // It ends with the pipe, or at the first chunk that nobody takes.
            std::thread::spawn(move || pump(stream, pipe, &send));
        }
        drop(send);
        let show = |stream: Stream, line| output.line(stream, line);
        let mut lines = Lines::new(self.masker, &show);
        let begin = Instant::now();
        let mut heard = begin;
        let mut ended: Option<ExitStatus> = None;
        let mut closed = false;
        let status = loop {
            match receive.recv_timeout(SLICE) {
                Ok((stream, data)) => {
                    lines.take(stream, &data);
                    heard = Instant::now();
                }
                Err(RecvTimeoutError::Timeout) => {}
                // Both outputs have ended and all of them was taken, perhaps before the program ended.
                Err(RecvTimeoutError::Disconnected) => {
                    closed = true;
                    if ended.is_none() {
                        wait_for_end(&child);
                    }
                }
            }
            if ended.is_none() {
                ended = child
                    .try_wait()
                    .map_err(|e| self.unable(step, format!("it cannot be waited for: {e}")))?;
            }
            if let Some(status) = ended.filter(|_| closed || heard.elapsed() >= LINGER) {
                break status;
            }
            let late = step.timeout.is_some_and(|timeout| begin.elapsed() >= timeout);
            if ended.is_none() && (late || self.cancel.is_cancelled()) {
                end_group(&mut child);
                lines.flush();
                return Err(match late {
                    true => ProvisionError::StepTimedOut {
                        machine: self.machine.to_owned(),
                        step: step.name.clone(),
                        after: step.timeout.unwrap_or_default(),
                    },
                    false => self.cut(step),
                });
            }
        };
        lines.flush();
        match status.code() {
            Some(0) => Ok(()),
            code => Err(ProvisionError::StepFailed {
                machine: self.machine.to_owned(),
                step: step.name.clone(),
                code: code.unwrap_or_else(|| 128 + status.signal().unwrap_or_default()),
                signal: status.signal().map(|signal| signal.to_string()),
            }),
        }
    }

    fn cut(&self, step: &Step) -> ProvisionError {
        let (machine, step) = (self.machine.to_owned(), step.name.clone());
        ProvisionError::StepCut { machine, step, source: Box::new(SshError::Cancelled) }
    }

    fn unable(&self, step: &Step, why: String) -> ProvisionError {
        ProvisionError::StepUnable {
            machine: self.machine.to_owned(),
            step: step.name.clone(),
            why: self.masker.mask(&why),
            hint: None,
        }
    }
}

fn pump(stream: Stream, mut pipe: Box<dyn Read + Send>, send: &mpsc::Sender<(Stream, Vec<u8>)>) {
    let mut buffer = vec![0; 64 << 10];
    loop {
        match pipe.read(&mut buffer) {
            Ok(0) => return,
            Ok(count) => {
                let data = buffer.get(..count).unwrap_or_default().to_vec();
                if send.send((stream, data)).is_err() {
                    return;
                }
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(_) => return,
        }
    }
}

/// Waits a moment for a program to end.
fn wait_for_end(child: &Child) {
    let pid = i32::try_from(child.id()).ok().and_then(Pid::from_raw);
    // Without a descriptor (an old kernel, none left) it is asked again and again.
    let Some(Ok(fd)) = pid.map(|pid| pidfd_open(pid, PidfdFlags::empty())) else { return };
    let time = Timespec { tv_sec: 0, tv_nsec: SLICE.subsec_nanos().into() };
    let _ = poll(&mut [PollFd::new(&fd, PollFlags::IN)], Some(&time));
}

/// Ends a program and all of its process group: TERM, and KILL for what is left.
fn end_group(child: &mut Child) {
    let Some(group) = i32::try_from(child.id()).ok().and_then(Pid::from_raw) else { return };
    // Errors say that there is nobody left.
    let _ = kill_process_group(group, Signal::TERM);
    let begin = Instant::now();
    while begin.elapsed() < PATIENCE {
        let _ = child.try_wait();
        if test_kill_process_group(group).is_err() {
            return;
        }
        std::thread::sleep(SLICE);
    }
    let _ = kill_process_group(group, Signal::KILL);
    let _ = child.wait();
}
