//! Running the programs of a build: their output, their end, and a Ctrl-C in between.

use std::collections::VecDeque;
use std::io::Read;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process_group};

use super::ImageError;
use crate::model::{Cancel, each_line, program_in};

/// Users' PATH often lacks the `sbin` folders.
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
/// So many last lines of a failed program are shown.
const TAIL: usize = 15;
/// After this time a program that was asked to end is killed.
const GRACE: Duration = Duration::from_secs(10);
/// Between two looks at whether the program has ended, or is to.
const SLICE: Duration = Duration::from_millis(100);
/// After its end, what it printed may still be on the way for as long as this.
const LINGER: Duration = Duration::from_secs(1);

/// Finds `program`, or says which package has it. `doing` completes "cannot …".
pub(super) fn require(program: &str, package: &'static str, doing: &str) -> Result<PathBuf, ImageError> {
    program_in(program, PATH).ok_or_else(|| ImageError::MissingTool {
        doing: doing.to_owned(),
        tool: program.to_owned(),
        package,
    })
}

/// A program to be run.
#[derive(Debug)]
pub(super) struct Tool {
    doing: String,
    name: String,
    command: Command,
}

impl Tool {
    /// `program` is a name from [`require`]. It ends together with this process.
    pub(super) fn new(doing: impl Into<String>, program: &Path) -> Tool {
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "TERM", "--"]).arg(program);
        // A group of its own: a Ctrl-C in the terminal reaches it through us, in good order.
        command.env("PATH", PATH).env("LC_ALL", "C.UTF-8").process_group(0);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let name = program.file_name().unwrap_or_default().to_string_lossy().into_owned();
        Tool { doing: doing.into(), name, command }
    }

    /// For arguments, variables and the folder.
    pub(super) fn command(&mut self) -> &mut Command {
        &mut self.command
    }

    /// Runs it to its end; `line` gets each line that it prints, on either stream.
    pub(super) fn run(mut self, cancel: &Cancel, mut line: impl FnMut(&str)) -> Result<(), ImageError> {
        if cancel.is_cancelled() {
            return Err(ImageError::Cancelled { doing: self.doing });
        }
        let mut child = self.command.spawn().map_err(ImageError::io("run", &self.name))?;
        let (send, lines) = channel();
        // Both threads end with their pipes.
        if let Some(out) = child.stdout.take() {
            forward(out, send.clone());
        }
        if let Some(err) = child.stderr.take() {
            forward(err, send);
        }
        let mut tail = VecDeque::new();
        let status = follow(&mut child, &lines, cancel, &mut |text: String| {
            line(&text);
            if tail.len() == TAIL {
                tail.pop_front();
            }
            tail.push_back(text);
        });
        let status = status.map_err(ImageError::io("wait for", &self.name))?;
        if status.success() {
            return Ok(());
        }
        if cancel.is_cancelled() {
            return Err(ImageError::Cancelled { doing: self.doing });
        }
        let tail = Vec::from(tail).join("\n");
        Err(ImageError::Tool { doing: self.doing, tool: self.name, status: status.to_string(), tail })
    }
}

/// Sends each line until the stream ends or nobody listens.
fn forward(stream: impl Read + Send + 'static, to: Sender<String>) {
    std::thread::spawn(move || each_line(stream, |line| to.send(line).is_ok()));
}

fn follow(
    child: &mut Child,
    lines: &Receiver<String>,
    cancel: &Cancel,
    line: &mut dyn FnMut(String),
) -> std::io::Result<ExitStatus> {
    let (mut asked, mut ended): (Option<Instant>, _) = (None, None);
    let mut heard = Instant::now();
    loop {
        let mut closed = false;
        match lines.recv_timeout(SLICE) {
            Ok(text) => {
                line(text);
                heard = Instant::now();
            }
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => {
                closed = true;
                // A program may close its streams and go on.
                if ended.is_none() {
                    std::thread::sleep(Duration::from_millis(20));
                }
            }
        }
        if ended.is_none() {
            ended = child.try_wait()?;
        }
        // Something that it left behind may hold the streams open for ever.
        if let Some(status) = ended.filter(|_| closed || heard.elapsed() >= LINGER) {
            return Ok(status);
        }
        match asked {
            None if cancel.is_cancelled() => {
                signal(child, Signal::TERM);
                asked = Some(Instant::now());
            }
            Some(since) if since.elapsed() > GRACE => {
                signal(child, Signal::KILL);
                return child.wait();
            }
            _ => {}
        }
    }
}

/// To the whole group. One that is gone needs no signal.
fn signal(child: &Child, signal: Signal) {
    if let Some(pid) = i32::try_from(child.id()).ok().and_then(Pid::from_raw) {
        let _ = kill_process_group(pid, signal);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str) -> Tool {
        let mut tool = Tool::new("try a script", Path::new("/bin/sh"));
        tool.command().args(["-c", script]);
        tool
    }

    #[test]
    fn lines_of_both_streams_arrive() {
        let mut lines = Vec::new();
        shell("echo a; echo b >&2; printf c").run(&Cancel::new(), |l| lines.push(l.to_owned())).unwrap();
        lines.sort();
        assert_eq!(lines, ["a", "b", "c"]);
    }

    #[test]
    fn a_failure_shows_the_last_lines() {
        let error = shell("seq 1 50; exit 3").run(&Cancel::new(), |_| ()).unwrap_err();
        let ImageError::Tool { status, tail, tool, .. } = error else { panic!("{error}") };
        assert_eq!((status.as_str(), tool.as_str()), ("exit status: 3", "sh"));
        assert!(tail.starts_with("36\n") && tail.ends_with("\n50"), "{tail}");
    }

    #[test]
    fn cancel_ends_the_whole_group() {
        let cancel = Cancel::new();
        let error = shell("echo on; sleep 4343 & sleep 4343; wait")
            .run(&cancel.clone(), |_| cancel.cancel())
            .unwrap_err();
        assert!(matches!(error, ImageError::Cancelled { .. }), "{error}");
        assert!(matches!(shell("true").run(&cancel, |_| ()), Err(ImageError::Cancelled { .. })));
    }

    #[test]
    fn what_stays_behind_holds_nothing_up() {
        let mut pid = String::new();
        shell("sleep 4343 & echo $!").run(&Cancel::new(), |line| line.clone_into(&mut pid)).unwrap();
        assert!(Command::new("kill").arg(pid).status().unwrap().success(), "it was to stay");
    }

    #[test]
    fn a_missing_program_is_named_with_its_package() {
        assert!(program_in("sh", PATH).is_some());
        assert!(program_in("sh", "/nonexistent:/etc").is_none());
        let error = require("no-such-tool", "its-package", "build a box").unwrap_err();
        assert_eq!(error.to_string(), "cannot build a box: `no-such-tool` is not installed");
        assert!(error.hint().unwrap().contains("apt install its-package"));
    }
}
