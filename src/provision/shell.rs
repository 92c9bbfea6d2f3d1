//! Running a script in the guest.
//!
//! The command line is always the same: variables, arguments and the script travel over
//! standard input, so that no process list of either side shows them.

use std::time::Duration;

use super::guest::Guest;
use super::lines::Lines;
use crate::model::{Cancel, Secret};
use crate::ssh::{ExecStatus, Input, SshError, quote};

/// Reads what [`Job::wire`] writes, and runs it.
const BOOTSTRAP: &str = include_str!("bootstrap.sh");

/// The bootstrap's exit code when the script ended with 0.
const SUCCESS: i32 = 223;

/// The bootstrap's exit code when it could not start the script; it has said why.
const NOT_STARTED: i32 = 222;

/// How to start a script.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Start {
    /// By `bash` where there is one, else `sh`.
    Shell,
    /// By the interpreter of its first line, with at most one argument, as the kernel does
    /// (execve(2), "Interpreter scripts"). Not by the kernel, as the temporary folder may be
    /// mounted `noexec`.
    Interpreter(String, String),
    /// It is a program.
    Direct,
}

/// A script with all that it gets.
pub(super) struct Job<'a> {
    pub script: &'a [u8],
    pub args: &'a [String],
    pub env: &'a [(String, Secret)],
    /// Through `sudo`.
    pub sudo: bool,
}

/// How a script ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Ended {
    /// With this code, 0 for success.
    Code(ExecStatus),
    /// It was ended, with all of its processes: its time was up.
    TimedOut,
    /// It was never started; the guest has said why on its standard error.
    NotStarted,
    /// The command ended, and nothing says how the script did.
    Unknown,
}

/// Why a job cannot be sent at all.
#[derive(Debug, thiserror::Error)]
pub(super) enum JobError {
    #[error("{0}")]
    Unfit(String),
    #[error(transparent)]
    Ssh(#[from] SshError),
}

impl Job<'_> {
    /// Runs it; its output goes to `lines`.
    pub fn run(
        &self,
        guest: &dyn Guest,
        lines: &mut Lines<'_>,
        cancel: &Cancel,
        timeout: Option<Duration>,
    ) -> Result<Ended, JobError> {
        let wire = self.wire().map_err(JobError::Unfit)?;
        let sudo = if self.sudo { "sudo -n -H " } else { "" };
        let command = format!("{sudo}sh -c {} rvm", quote(BOOTSTRAP));
        let mut out = |stream, data: &[u8]| lines.take(stream, data);
        let result = guest.exec(&command, Input::HeldOpen(&wire), &mut out, cancel, timeout);
        lines.flush();
        Ok(match result? {
            ExecStatus { timed_out: true, .. } => Ended::TimedOut,
            ExecStatus { code: SUCCESS, .. } => Ended::Code(ExecStatus::of_code(0)),
            ExecStatus { code: NOT_STARTED, .. } => Ended::NotStarted,
            ExecStatus { code: 0, signal: None, .. } => Ended::Unknown,
            status => Ended::Code(status),
        })
    }

    /// All that goes over standard input; the error says what cannot be sent.
    fn wire(&self) -> Result<Vec<u8>, String> {
        let (start, script) = (start_of(self.script)?, self.script);
        let mut wire = Vec::with_capacity(script.len() + 4096);
        put(&mut wire, &self.env.len().to_string());
        put(&mut wire, &(self.env.len() + self.args.len()).to_string());
        for (name, value) in self.env {
            if !is_name(name) {
                return Err(format!("`{name}` cannot be the name of a variable"));
            }
            if value.expose().contains('\0') {
                return Err(format!("the value of `{name}` contains a NUL byte"));
            }
            put(&mut wire, &format!("{name}={}", value.expose()));
        }
        for arg in self.args {
            if arg.contains('\0') {
                return Err("an argument contains a NUL byte".into());
            }
            put(&mut wire, arg);
        }
        let (how, interpreter, argument) = match &start {
            Start::Shell => ("shell", "", ""),
            Start::Direct => ("direct", "", ""),
            Start::Interpreter(program, argument) => ("interpreter", program.as_str(), argument.as_str()),
        };
        for word in [how, interpreter, argument, &script.len().to_string()] {
            put(&mut wire, word);
        }
        wire.extend_from_slice(script);
        Ok(wire)
    }
}

/// Adds a word: the count of its lines, and the lines.
fn put(wire: &mut Vec<u8>, word: &str) {
    wire.extend_from_slice(format!("{}\n{word}\n", word.split('\n').count()).as_bytes());
}

/// What POSIX allows as the name of a variable in a shell.
fn is_name(name: &str) -> bool {
    name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
        && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_')
}

pub(super) fn start_of(script: &[u8]) -> Result<Start, String> {
    if script.starts_with(b"\x7fELF") {
        return Ok(Start::Direct);
    }
    let Some(rest) = script.strip_prefix(b"#!") else { return Ok(Start::Shell) };
    let line = rest.split(|byte| *byte == b'\n').next().unwrap_or_default();
    let line = std::str::from_utf8(line).map_err(|_| "its first line is not text")?.trim();
    if line.contains('\0') {
        return Err("its first line contains a NUL byte".into());
    }
    match line.split_once(char::is_whitespace) {
        _ if line.is_empty() => Ok(Start::Shell),
        None => Ok(Start::Interpreter(line.to_owned(), String::new())),
        Some((program, argument)) => Ok(Start::Interpreter(program.to_owned(), argument.trim().to_owned())),
    }
}

/// The script as shells take it, where an editor of Windows wrote it: with `\n` line ends and without a byte order
/// mark; `None` where it is so already.
pub(super) fn as_unix(script: &[u8]) -> Option<Vec<u8>> {
    match script.strip_prefix(b"\xef\xbb\xbf") {
        Some(rest) => Some(without_crlf(rest).unwrap_or_else(|| rest.to_vec())),
        None => without_crlf(script),
    }
}

fn without_crlf(script: &[u8]) -> Option<Vec<u8>> {
    let first = script.iter().position(|byte| *byte == b'\n')?;
    let crlf = first.checked_sub(1).and_then(|at| script.get(at)) == Some(&b'\r');
    if !crlf || script.contains(&0) {
        return None;
    }
    let mut out = Vec::with_capacity(script.len());
    for (at, byte) in script.iter().enumerate() {
        if !(*byte == b'\r' && script.get(at + 1) == Some(&b'\n')) {
            out.push(*byte);
        }
    }
    Some(out)
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::process::{Command, Stdio};
    use std::sync::mpsc;

    use super::*;

    #[test]
    fn how_scripts_start() {
        let start = |text: &str| start_of(text.as_bytes()).unwrap();
        assert_eq!(start("echo"), Start::Shell);
        assert_eq!(start(""), Start::Shell);
        assert_eq!(start("#!\necho"), Start::Shell);
        assert_eq!(start("#!/bin/sh"), Start::Interpreter("/bin/sh".into(), String::new()));
        assert_eq!(
            start("#! /usr/bin/env  python3 -u \nx"),
            Start::Interpreter("/usr/bin/env".into(), "python3 -u".into())
        );
        assert_eq!(start("\x7fELF\x02"), Start::Direct);
        assert!(start_of(b"#!\xff\n").is_err());
    }

    /// On a busy guest a signal can meet a process that was forked a moment ago and still has its
    /// parent's trap, which it then drops. The watcher deaf to TERM stands for that moment.
    #[test]
    fn a_script_ends_though_its_watcher_missed_a_signal() {
        let deaf =
            BOOTSTRAP.replacen("(\n  trap - EXIT HUP INT PIPE TERM", "(\n  trap '' HUP INT PIPE TERM", 1);
        assert_ne!(deaf, BOOTSTRAP);
        let mut child =
            Command::new("sh").args(["-c", &deaf, "rvm"]).stdin(Stdio::piped()).spawn().expect("sh starts");
        let mut held = child.stdin.take().unwrap();
        let job = Job { script: b"true", args: &[], env: &[], sudo: false };
        held.write_all(&job.wire().unwrap()).unwrap();
        let (ended, wait) = mpsc::channel();
        std::thread::spawn(move || ended.send(child.wait().unwrap().code()));
        assert_eq!(wait.recv_timeout(Duration::from_secs(60)), Ok(Some(SUCCESS)));
    }

    #[test]
    fn windows_line_ends_go() {
        assert_eq!(without_crlf(b"a\r\nb\rc\r\n").unwrap(), b"a\nb\rc\n");
        for kept in [&b"a\nb\r\n"[..], b"a", b"", b"\n", b"a\r\n\0"] {
            assert_eq!(as_unix(kept), None);
        }
        assert_eq!(as_unix(b"\xef\xbb\xbf#!/bin/sh\r\na\r\n").unwrap(), b"#!/bin/sh\na\n");
        assert_eq!(as_unix(b"\xef\xbb\xbfa\n").unwrap(), b"a\n");
    }

    #[test]
    fn what_a_shell_cannot_take_is_refused() {
        let job = |name: &str, value: &str, arg: &str| {
            let (env, args) = ([(name.to_owned(), Secret::new(value))], [arg.to_owned()]);
            Job { script: b"", args: &args, env: &env, sudo: false }.wire()
        };
        assert!(job("A_1", "x", "y").is_ok());
        for (name, value, arg) in
            [("1A", "", ""), ("A-B", "", ""), ("", "", ""), ("A", "\0", ""), ("A", "", "\0")]
        {
            let error = job(name, value, arg).unwrap_err();
            assert!(!error.is_empty());
        }
    }
}
