//! Scripts that set up folders in a guest, run as its root.

use std::time::Duration;

use crate::model::{Cancel, Owner, Stream};
use crate::ssh::{Input, Session, SshError, quote};

/// What every script begins with. `numbers USER GROUP` sets `uid` and `gid`; without a group it is the
/// user's own.
const PRELUDE: &str = r#"
PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin; export PATH
LC_ALL=C; export LC_ALL
umask 022
fail() { echo "$*" >&2; exit 220; }
numbers() {
  case $1 in *[!0-9]*) uid=$(id -u "$1" 2>/dev/null) || return 1 ;; *) uid=$1 ;; esac
  case $2 in
    '') gid=$(id -g "$1" 2>/dev/null) || gid=$uid ;;
    *[!0-9]*)
      gid=
      while IFS=: read -r name _ number _; do [ "$name" != "$2" ] || gid=$number; done </etc/group
      [ -n "$gid" ] || gid=$(getent group "$2" 2>/dev/null | cut -d: -f3)
      [ -n "$gid" ] || return 1 ;;
    *) gid=$2 ;;
  esac
}
"#;

/// Runs the script `$1` with the words behind it as root.
const AS_ROOT: &str = r#"if [ "$(id -u)" = 0 ]; then exec sh -c "$@"; fi; exec sudo -n sh -c "$@""#;

/// A script's way to say that it came to its end: never 0, which a connection that went away looks like.
pub(super) const DONE: i32 = 223;
/// Longest complaint of the guest that is kept, in bytes.
const COMPLAINT: usize = 2 << 10;

/// Why a script did not do what it was to do.
#[derive(Debug)]
pub(super) enum Fault {
    /// The connection, or a wish to stop.
    Ssh(SshError),
    /// What the guest, or we, have to say about it.
    Said(String),
}

impl From<SshError> for Fault {
    fn from(error: SshError) -> Self {
        Fault::Ssh(error)
    }
}

/// A guest in which scripts are run.
#[derive(Clone, Copy)]
pub(super) struct Remote<'a> {
    pub session: &'a Session,
    pub cancel: &'a Cancel,
}

impl Remote<'_> {
    /// Runs a script with its words; `out` gets its standard output.
    pub fn run(
        &self,
        script: &str,
        words: &[&str],
        input: Input<'_>,
        out: &mut dyn FnMut(&[u8]),
        timeout: Option<Duration>,
    ) -> Result<(), Fault> {
        let mut complaint = Vec::new();
        let mut sort = |stream, data: &[u8]| match stream {
            Stream::Stdout => out(data),
            Stream::Stderr => {
                let room = COMPLAINT.saturating_sub(complaint.len()).min(data.len());
                complaint.extend_from_slice(data.get(..room).unwrap_or_default());
            }
        };
        let words = std::iter::once("rvm").chain(words.iter().copied()).map(quote);
        let words = words.collect::<Vec<_>>().join(" ");
        let script = quote(&format!("{PRELUDE}{script}"));
        let command = format!("sh -c {} rvm {script} {words}", quote(AS_ROOT));
        let status = self.session.exec(&command, input, &mut sort, self.cancel, timeout)?;
        if status.code == DONE {
            return Ok(());
        }
        let text = printable(&String::from_utf8_lossy(&complaint));
        Err(Fault::Said(match (text.is_empty(), status.code) {
            (false, _) => text,
            (true, 0) => "the guest went away".into(),
            (true, code) => format!("the guest's shell ended with exit code {code}"),
        }))
    }

    /// The same for a script that says little: what it printed, at most `limit` bytes.
    pub fn ask(
        &self,
        script: &str,
        words: &[&str],
        limit: usize,
        timeout: Duration,
    ) -> Result<String, Fault> {
        let mut answer = Vec::new();
        let mut keep = |data: &[u8]| {
            let room = limit.saturating_sub(answer.len()).min(data.len());
            answer.extend_from_slice(data.get(..room).unwrap_or_default());
        };
        self.run(script, words, Input::None, &mut keep, Some(timeout))?;
        Ok(String::from_utf8_lossy(&answer).into_owned())
    }
}

/// User and group of an owner, as scripts take them; empty: the login user.
pub(super) fn owner_words(owner: Option<&Owner>) -> [&str; 2] {
    match owner {
        Some(owner) => [&owner.user, owner.group.as_deref().unwrap_or_default()],
        None => ["", ""],
    }
}

/// What a guest said, as it may stand in a message: its lines joined, no control characters.
pub(super) fn printable(text: &str) -> String {
    let lines = text.lines().map(|line| line.chars().filter(|c| !c.is_control()).collect::<String>());
    let lines: Vec<String> = lines.map(|line| line.trim().to_owned()).filter(|l| !l.is_empty()).collect();
    lines.join("; ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_guest_says_steers_no_terminal() {
        assert_eq!(printable("one\n\n \x1b[2Jtwo \r\n"), "one; [2Jtwo");
    }

    /// This host's shell stands in for a guest's.
    #[test]
    fn accounts_become_numbers() {
        let of = |user: &str, group: &str| {
            let script = format!("{PRELUDE}numbers \"$1\" \"$2\" || exit 1; echo $uid $gid");
            let output =
                std::process::Command::new("sh").args(["-c", &script, "x", user, group]).output().unwrap();
            String::from_utf8(output.stdout).unwrap().trim().to_owned()
        };
        assert_eq!(of("root", ""), "0 0");
        assert_eq!(of("12345", ""), "12345 12345");
        assert_eq!(of("12345", "678"), "12345 678");
        assert_eq!(of("root", "daemon"), "0 1");
        assert_eq!((of("nobody-of-that-name", ""), of("root", "no-such-group")), ("".into(), "".into()));
    }
}
