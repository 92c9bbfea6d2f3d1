//! Where steps run, and what is to be known about it.

use std::time::Duration;

use std::cell::RefCell;

use crate::model::{Cancel, Stream};
use crate::ssh::{ExecStatus, Input, Session, SshError, WaitError, quote};

/// Runs commands in a guest: [`Link`], or a fake in tests.
pub trait Guest {
    /// Runs a command by the login user's shell, without a terminal. Output goes to `out` as it
    /// comes. A process that the command left in the background does not hold it up, if the
    /// command's own exit code is not 0.
    ///
    /// When `timeout` has passed a command with [`Input::HeldOpen`] sees the end of its input and gets
    /// time to end ([`ExecStatus::timed_out`]); others are cut off.
    fn exec(
        &self,
        command: &str,
        input: Input<'_>,
        out: &mut dyn FnMut(Stream, &[u8]),
        cancel: &Cancel,
        timeout: Option<Duration>,
    ) -> Result<ExecStatus, SshError>;

    /// Connects anew: needed after an error of [`Guest::exec`]. Waits for a guest that boots. Fails where
    /// there is but one connection.
    fn reconnect(&self, _cancel: &Cancel) -> Result<(), WaitError> {
        Err(SshError::Lost { doing: "connecting again", source: None }.into())
    }
}

/// A guest over SSH that can be connected to again.
pub struct Link<'a> {
    session: RefCell<Option<Session>>,
    connect: &'a dyn Fn(&Cancel) -> Result<Session, WaitError>,
}

impl<'a> Link<'a> {
    /// Begins with `session`; `connect` makes further ones, and waits for a guest that boots.
    pub fn new(session: Session, connect: &'a dyn Fn(&Cancel) -> Result<Session, WaitError>) -> Self {
        Link { session: RefCell::new(Some(session)), connect }
    }

    /// The connection that stands; `None` when the last try to make one failed.
    pub fn into_session(self) -> Option<Session> {
        self.session.into_inner()
    }
}

/// How long an ended step's output may be silent before nobody waits for more. What the step
/// itself printed is there sooner, on a loaded host, too.
const LINGER: Duration = Duration::from_secs(2);

impl Guest for Session {
    fn exec(
        &self,
        command: &str,
        input: Input<'_>,
        out: &mut dyn FnMut(Stream, &[u8]),
        cancel: &Cancel,
        timeout: Option<Duration>,
    ) -> Result<ExecStatus, SshError> {
        self.exec_until_exit(command, input, out, cancel, timeout, LINGER)
    }
}

impl Guest for Link<'_> {
    fn exec(
        &self,
        command: &str,
        input: Input<'_>,
        out: &mut dyn FnMut(Stream, &[u8]),
        cancel: &Cancel,
        timeout: Option<Duration>,
    ) -> Result<ExecStatus, SshError> {
        match &*self.session.borrow() {
            Some(session) => Guest::exec(session, command, input, out, cancel, timeout),
            None => Err(SshError::Lost { doing: "running a command", source: None }),
        }
    }

    fn reconnect(&self, cancel: &Cancel) -> Result<(), WaitError> {
        // The old one goes first: a guest that is full of connections must not refuse the new one.
        self.session.replace(None);
        self.session.replace(Some((self.connect)(cancel)?));
        Ok(())
    }
}

/// How root is had in the guest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Root {
    /// The login user is root.
    Already,
    /// Through `sudo`, without a password.
    Sudo,
    /// `sudo` is there but refuses; what it said.
    Refused(String),
    /// There is no `sudo`.
    Missing,
}

/// What is to be known about a guest before steps run in it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Facts {
    pub user: String,
    pub root: Root,
    /// Another one after each boot.
    pub boot: String,
    /// Which of the programs that [`PROBE`] looks for are there.
    pub programs: Vec<String>,
}

/// Prints one fact a line. `sudo` says on standard error why it refuses.
const PROBE: &str = r#"
echo "user $(id -un)"
echo "uid $(id -u)"
echo "boot $(cat /proc/sys/kernel/random/boot_id)"
for c in apt-get apk dnf pacman zypper tar; do
  if command -v "$c" >/dev/null 2>&1; then echo "has $c"; fi
done
if [ "$(id -u)" = 0 ]; then echo "root already"
elif ! command -v sudo >/dev/null 2>&1; then echo "root missing"
elif m=$(sudo -n true 2>&1); then echo "root sudo"
else echo "root refused $(echo "$m" | head -n 1)"; fi
echo "end facts"
"#;

/// Longest answer to the probe that is looked at.
const MAX_ANSWER: usize = 16 << 10;

impl Facts {
    /// Asks the guest. `Ok(Err(text))` when it does not answer as it should.
    pub fn gather(guest: &dyn Guest, cancel: &Cancel) -> Result<Result<Facts, String>, SshError> {
        let mut answer = Vec::new();
        let mut out = |stream, data: &[u8]| {
            if stream == Stream::Stdout && answer.len() < MAX_ANSWER {
                answer.extend_from_slice(data);
            }
        };
        let command = format!("sh -c {}", quote(PROBE));
        guest.exec(&command, Input::None, &mut out, cancel, Some(Duration::from_secs(120)))?;
        Ok(Facts::parse(&String::from_utf8_lossy(&answer)))
    }

    fn parse(answer: &str) -> Result<Facts, String> {
        let fact = |name: &str| {
            answer.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' ')).map(str::to_owned)
        };
        let unclear = || "its shell does not answer as a POSIX shell does".to_owned();
        if fact("end").as_deref() != Some("facts") {
            return Err(unclear());
        }
        let boot = fact("boot").unwrap_or_default();
        let root = fact("root").ok_or_else(unclear)?;
        let root = match root.split_once(' ').unwrap_or((&root, "")) {
            ("already", _) => Root::Already,
            ("sudo", _) => Root::Sudo,
            ("missing", _) => Root::Missing,
            ("refused", why) => Root::Refused(super::lines::harmless(why)),
            _ => return Err(unclear()),
        };
        let programs = answer.lines().filter_map(|line| line.strip_prefix("has ")).map(str::to_owned);
        let user = fact("user").ok_or_else(unclear)?;
        Ok(Facts { user, root, boot, programs: programs.collect() })
    }

    pub fn has(&self, program: &str) -> bool {
        self.programs.iter().any(|name| name == program)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn facts_are_read() {
        let facts = Facts::parse("user vagrant\nuid 1000\nhas apt-get\nroot sudo\nend facts\n").unwrap();
        assert_eq!(facts.root, Root::Sudo);
        assert!(facts.has("apt-get") && !facts.has("apk") && facts.user == "vagrant");
        let facts = Facts::parse("user v\nroot refused sudo: a password is required\nend facts\n").unwrap();
        assert_eq!(facts.root, Root::Refused("sudo: a password is required".into()));
    }

    #[test]
    fn an_answer_that_is_cut_or_strange_is_none() {
        for answer in ["", "user v\nroot sudo\n", "user v\nend facts\n", "root what\nuser v\nend facts\n"] {
            assert!(Facts::parse(answer).is_err(), "{answer:?}");
        }
    }

    #[test]
    fn quoting() {
        assert_eq!(quote("a b"), "'a b'");
        assert_eq!(quote("it's $x"), r"'it'\''s $x'");
    }
}
