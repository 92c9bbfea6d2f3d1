//! A copy by the rsync of both ends, over the system's ssh client.

use std::collections::VecDeque;
use std::ffi::OsString;
use std::io::Read;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process_group};

use super::confine;
use super::exclude::Excluded;
use super::inside::Root;
use super::remote::{Fault, printable};
use super::{Job, Rsync, Sent};
use crate::model::{Cancel, Stream, each_line, program_in};
use crate::ssh::SshError;

/// Last lines of its complaint that are shown.
const TAIL: usize = 5;
/// Between two looks whether the user lost patience.
const SLICE: Duration = Duration::from_millis(100);
/// Exit codes of a copy that is not whole (rsync(1), "EXIT VALUES"): some files could not be read, or went
/// meanwhile.
const PARTIAL: [i32; 2] = [23, 24];

/// The program on this host.
pub(super) fn program(path: &str) -> Option<PathBuf> {
    program_in("rsync", path)
}

/// Exit status when a file cannot be written (rsync(1)).
const WRITE: i32 = 11;

/// What came of it.
pub(super) enum Ran {
    /// A copy.
    Sent(Sent),
    /// Nothing: rsync is not the right one for it, because of what the clause says.
    Not(&'static str),
}

/// Makes the guest's folder like that of the host.
pub(super) fn run(
    rsync: &Rsync<'_>,
    job: &Job<'_>,
    owner: (u32, u32),
    cancel: &Cancel,
) -> Result<Ran, Fault> {
    let unreadable = |error| Fault::Said(format!("cannot read {}: {error}", job.host.display()));
    let root = Root::open(job.host).map_err(unreadable)?;
    if !root.of_several_names(job.hidden).is_empty() {
        return Ok(Ran::Not("an ENV file in it has other names, too, which rsync would copy"));
    }
    let mut command = Command::new(&rsync.program);
    command.args(arguments(rsync, job, owner)?);
    // What the user's environment says of rsync is for other copies.
    command.env_clear().env("PATH", rsync.path).env("LC_ALL", "C").current_dir("/").process_group(0);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let cannot = |error: std::io::Error| Fault::Said(format!("cannot run rsync: {error}"));
    let open = confine::Open { folder: &root, files: &rsync.ssh.files };
    let Some(mut child) = confine::spawn(&mut command, open).map_err(cannot)? else {
        return Ok(Ran::Not("this kernel has no Landlock to keep rsync in the folder"));
    };
    let mut sent = Sent::default();
    let mut tail = VecDeque::new();
    let status = follow(&mut child, cancel, &mut |stream, line: &str| match stream {
        Stream::Stdout => note(&mut sent, line),
        Stream::Stderr => {
            if tail.len() == TAIL {
                tail.pop_front();
            }
            tail.push_back(line.to_owned());
        }
    });
    let status = status.map_err(cannot)?;
    if cancel.is_cancelled() {
        return Err(SshError::Cancelled.into());
    }
    let said = printable(&Vec::from(tail).join("\n"));
    match status.code() {
        Some(0) => Ok(Ran::Sent(sent)),
        Some(code) if PARTIAL.contains(&code) => {
            sent.warnings.push(format!("not all was copied: {said}"));
            Ok(Ran::Sent(sent))
        }
        // The end of the guest's rsync can overtake what it has to say.
        Some(WRITE) if said.is_empty() => Err(Fault::Said(format!(
            "rsync could not write a file in the guest and did not say why (exit status {WRITE}); \
             \"No space left on device\" is the usual cause"
        ))),
        _ if said.is_empty() => Err(Fault::Said(format!("rsync ended with {status}"))),
        _ => Err(Fault::Said(said)),
    }
}

fn arguments(rsync: &Rsync<'_>, job: &Job<'_>, owner: (u32, u32)) -> Result<Vec<OsString>, Fault> {
    let Some((host, options)) = rsync.ssh.words.split_last() else {
        return Err(Fault::Said("nothing leads to the guest".into()));
    };
    let shell = std::iter::once("ssh").chain(options.iter().map(String::as_str)).map(for_rsync);
    let shell = shell.collect::<Vec<_>>().join(" ");
    // No devices and sockets. Paths go through the connection and not through the guest's shell (-s).
    let mut list: Vec<OsString> = ["-rlptgo", "-s", "--stats", "--rsync-path"].map(OsString::from).into();
    list.push(if rsync.as_root { "rsync".into() } else { "sudo -n rsync".into() });
    list.push(format!("--chown={}:{}", owner.0, owner.1).into());
    list.extend(job.delete.then(|| "--delete".into()));
    for word in Excluded::words(job.exclude, job.hidden) {
        list.push("--exclude".into());
        list.push(word);
    }
    list.extend(["-e".into(), shell.into(), "--".into(), inside(job.host)]);
    let host = if host.contains(':') { format!("[{host}]") } else { host.clone() };
    list.push(format!("{host}:{}/", job.guest).into());
    Ok(list)
}

/// The content of a folder, not the folder.
fn inside(folder: &Path) -> OsString {
    folder.join("").into_os_string()
}

/// A word of `-e`: a quote in quotes is written twice (rsync(1)).
fn for_rsync(word: &str) -> String {
    format!("'{}'", word.replace('\'', "''"))
}

/// Takes what `--stats` says.
fn note(sent: &mut Sent, line: &str) {
    let Some((what, number)) = line.split_once(": ") else { return };
    let digits: String = number.chars().take_while(|c| *c != ' ').filter(char::is_ascii_digit).collect();
    let Ok(number) = digits.parse::<u64>() else { return };
    match what.trim() {
        "Number of regular files transferred" => sent.files = usize::try_from(number).unwrap_or(usize::MAX),
        "Number of deleted files" => sent.removed = usize::try_from(number).unwrap_or(usize::MAX),
        "Total transferred file size" => sent.bytes = number,
        _ => {}
    }
}

fn follow(
    child: &mut Child,
    cancel: &Cancel,
    line: &mut dyn FnMut(Stream, &str),
) -> std::io::Result<ExitStatus> {
    let (send, lines) = channel();
    // Both threads end with their pipes.
    if let Some(pipe) = child.stdout.take() {
        forward(Stream::Stdout, pipe, send.clone());
    }
    if let Some(pipe) = child.stderr.take() {
        forward(Stream::Stderr, pipe, send);
    }
    let lines: Receiver<(Stream, String)> = lines;
    loop {
        match lines.recv_timeout(SLICE) {
            Ok((stream, text)) => line(stream, &text),
            Err(RecvTimeoutError::Timeout) => {}
            // Its pipes are closed: it ends.
            Err(RecvTimeoutError::Disconnected) => return child.wait(),
        }
        if cancel.is_cancelled() {
            if let Some(group) = i32::try_from(child.id()).ok().and_then(Pid::from_raw) {
                // With its ssh client. One that is gone needs no signal.
                let _ = kill_process_group(group, Signal::TERM);
            }
            return child.wait();
        }
    }
}

fn forward(stream: Stream, pipe: impl Read + Send + 'static, to: Sender<(Stream, String)>) {
    std::thread::spawn(move || each_line(pipe, |line| to.send((stream, line)).is_ok()));
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::machine::folders::Route;

    #[test]
    fn words_lead_to_the_guest_and_quotes_stay() {
        let ssh = ["-o", "IdentityFile \"/m/it's\"", "::1"].map(str::to_owned);
        let ssh = Route { words: ssh.into(), files: Vec::new() };
        let rsync = Rsync { program: "rsync".into(), path: "/usr/bin", ssh: &ssh, as_root: false };
        let (exclude, hidden) = (["*.o".to_owned()], [PathBuf::from(".env")]);
        let job = Job {
            host: Path::new("/p"),
            guest: "/srv/a b",
            exclude: &exclude,
            hidden: &hidden,
            delete: true,
            owner: None,
        };
        let words = arguments(&rsync, &job, (1000, 33)).unwrap();
        let words: Vec<_> = words.iter().map(|word| word.to_str().unwrap()).collect();
        let ends = ["-e", "'ssh' '-o' 'IdentityFile \"/m/it''s\"'", "--", "/p/", "[::1]:/srv/a b/"];
        assert!(words.ends_with(&ends), "{words:?}");
        assert!(words.contains(&"--chown=1000:33") && words.contains(&"--delete"), "{words:?}");
        assert!(words.windows(2).any(|pair| pair == ["--exclude", "/.env"]), "{words:?}");
    }

    #[test]
    fn what_it_did_is_counted() {
        let mut sent = Sent::default();
        for line in [
            "Number of files: 1,234 (reg: 1,200, dir: 34)",
            "Number of deleted files: 2 (reg: 1, dir: 1)",
            "Number of regular files transferred: 1,003",
            "Total transferred file size: 12,345,678 bytes",
            "sent 1 bytes",
        ] {
            note(&mut sent, line);
        }
        assert_eq!((sent.files, sent.removed, sent.bytes), (1003, 2, 12_345_678));
    }

    #[test]
    fn a_wish_to_stop_ends_it_and_what_it_started() {
        let cancel = Cancel::new();
        let mut command = Command::new("sh");
        command.args(["-c", "echo on; sleep 60 & sleep 60"]).process_group(0);
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let status = follow(&mut child, &cancel.clone(), &mut |_, _| cancel.cancel()).unwrap();
        assert!(!status.success());
    }
}
