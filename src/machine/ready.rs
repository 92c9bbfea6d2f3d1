//! Readiness: what a machine's `ready` asks for, tried in the guest until it holds.

use std::time::{Duration, Instant};

use super::{MachineError, Machines};
use crate::model::{Cancel, Check, Machine, Masker, Phase, Probe, Stream};
use crate::provision::Guest;
use crate::ssh::{Input, SshError, quote};

/// Shortest and longest pause between two tries.
const PAUSE: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(2));

/// One try gets no longer: a command that hangs may be one that a later try finds done. A guest that is
/// emulated on a busy host needs some seconds for a program.
const ONE_TRY: Duration = Duration::from_secs(30);

/// And no less: the last look is one at the end of the timeout.
const LAST_TRY: Duration = Duration::from_secs(1);

/// Exit code that says for certain that a check held: a server may end a command without any code, which
/// looks like 0.
const HOLDS: i32 = 219;

/// Bytes of the last try's output that are kept: its end.
const OUTPUT: usize = 4 << 10;

/// Lines of it that an error shows.
const LINES: usize = 10;

/// How one try ended, where the guest could be asked.
#[derive(Debug, PartialEq, Eq)]
enum Try {
    Holds,
    /// Not, and why: a sentence, then the lines of its output.
    Not(String),
}

impl Machines<'_> {
    /// Waits until every probe of a machine that runs has held once, one after the other. `connect`
    /// gives a new connection to its guest where the one before is of no more use.
    pub(super) fn wait_until_ready<G: Guest>(
        &self,
        machine: &Machine,
        masker: &Masker,
        connect: &mut dyn FnMut() -> Result<G, MachineError>,
    ) -> Result<(), MachineError> {
        if machine.ready.is_empty() {
            return Ok(());
        }
        let _watch = self.time(&machine.name, Phase::Ready);
        let mut guest = None;
        for probe in &machine.ready {
            self.wait_for(machine, probe, masker, &mut guest, connect)?;
        }
        Ok(())
    }

    fn wait_for<G: Guest>(
        &self,
        machine: &Machine,
        probe: &Probe,
        masker: &Masker,
        guest: &mut Option<G>,
        connect: &mut dyn FnMut() -> Result<G, MachineError>,
    ) -> Result<(), MachineError> {
        let words = masker.mask(&describe(&probe.check));
        let began = Instant::now();
        let mut pause = PAUSE.0;
        let mut last = None;
        loop {
            let left = probe.timeout.saturating_sub(began.elapsed());
            let result = match guest.take().map_or_else(&mut *connect, Ok) {
                Ok(session) => {
                    let result = attempt(&session, &probe.check, left.clamp(LAST_TRY, ONE_TRY), &self.cancel);
                    // After an error a connection is of no more use.
                    *guest = Some(session).filter(|_| result.is_ok());
                    result.map_err(MachineError::from)
                }
                Err(error) => Err(error),
            };
            let now = match result {
                Ok(Try::Holds) => return Ok(()),
                Ok(Try::Not(why)) => masker.mask(&why),
                Err(error) if error.is_interrupt() => return Err(self.stopped(&machine.name)),
                // What the end of the time cut off says less than the try before it.
                Err(MachineError::Ssh(SshError::TimedOut { after, .. })) => last
                    .take()
                    .filter(|_| left < ONE_TRY)
                    .unwrap_or_else(|| format!("it did not answer within {:.1} s", after.as_secs_f64())),
                // A guest that restarts itself or its network loses the connection.
                Err(MachineError::Ssh(error)) if may_pass(&error) => masker.mask(&error.to_string()),
                Err(error) => return Err(error),
            };
            if pause == PAUSE.0 {
                self.stage(&machine.name, format!("Waiting for {words}."));
            }
            let left = probe.timeout.saturating_sub(began.elapsed());
            if left.is_zero() {
                let (name, timeout) = (machine.name.clone(), probe.timeout);
                return Err(MachineError::NotReady { name, probe: words, timeout, last: now });
            }
            last = Some(now);
            if self.cancel.wait(pause.min(left)) {
                return Err(self.stopped(&machine.name));
            }
            pause = (pause * 3 / 2).min(PAUSE.1);
        }
    }

    fn stopped(&self, name: &str) -> MachineError {
        MachineError::Interrupted(format!("machine `{name}` runs: `rvm up {name}` waits for it again"))
    }
}

/// Whether a connection may succeed later that did not now.
fn may_pass(error: &SshError) -> bool {
    matches!(
        error,
        SshError::Lost { .. }
            | SshError::Connect { .. }
            | SshError::NoBanner { .. }
            | SshError::Handshake { .. }
            | SshError::Protocol { .. }
    )
}

/// A probe in words.
fn describe(check: &Check) -> String {
    match check {
        Check::Port(port) => format!("port {port}"),
        Check::Command(command) => format!("command `{}`", command.lines().next().unwrap_or_default()),
        Check::File(path) => format!("file {path}"),
    }
}

fn attempt(guest: &dyn Guest, check: &Check, timeout: Duration, cancel: &Cancel) -> Result<Try, SshError> {
    let mut output = Vec::new();
    let mut out = |_: Stream, data: &[u8]| {
        output.extend_from_slice(data);
        let surplus = output.len().saturating_sub(OUTPUT);
        output.drain(..surplus);
    };
    let status = guest.exec(&command(check), Input::None, &mut out, cancel, Some(timeout))?;
    if status.code == HOLDS {
        return Ok(Try::Holds);
    }
    let why = match (check, &status.signal) {
        (Check::Port(_), _) => "nothing listens there".into(),
        (Check::File(_), _) => "it does not exist".into(),
        (Check::Command(_), Some(signal)) => format!("it was ended by SIG{signal}"),
        (Check::Command(_), None) => format!("it ended with {}", status.code),
    };
    Ok(Try::Not(format!("{why}{}", tail(&output))))
}

/// What is run in the guest: by its login user's shell, with [`HOLDS`] where the check holds.
fn command(check: &Check) -> String {
    let script = match check {
        // Seen from the kernel's tables: a connection would be one too many for servers that count
        // those that say nothing. State 0A is LISTEN (include/net/tcp_states.h).
        Check::Port(port) => format!(
            "cat /proc/net/tcp /proc/net/tcp6 2>/dev/null | grep -Eqi '^ *[0-9]+: [0-9A-F]+:{port:04X} [0-9A-F]+:0000 0A '"
        ),
        Check::Command(command) => format!("sh -c {}", quote(command)),
        Check::File(path) => {
            let path = quote(path);
            // Not everything may be seen by the login user.
            format!("test -e {path} || sudo -n test -e {path} 2>/dev/null")
        }
    };
    // The check's own code comes back, unless it is the one that is taken.
    let verdict = format!("c=$?; [ $c = {HOLDS} ] && exit 1; [ $c = 0 ] && exit {HOLDS}; exit $c");
    format!("sh -c {}", quote(&format!("{{ {script}\n}} </dev/null; {verdict}")))
}

/// The last lines of output, each on a line of its own behind a line end.
fn tail(output: &[u8]) -> String {
    let text = String::from_utf8_lossy(output);
    let clean = |line: &str| line.chars().filter(|c| !c.is_control()).collect::<String>();
    let lines: Vec<String> = text.lines().map(clean).filter(|line| !line.trim().is_empty()).collect();
    let from = lines.len().saturating_sub(LINES);
    lines.iter().skip(from).map(|line| format!("\n  | {line}")).collect()
}

#[cfg(test)]
mod tests {
    use std::cell::{Cell, RefCell};
    use std::process::{Command, Stdio};

    use super::super::tests::machines_in;
    use super::*;
    use crate::ssh::ExecStatus;

    /// This host's own shell stands in for a guest's.
    struct Local;

    impl Guest for Local {
        fn exec(
            &self,
            command: &str,
            _: Input<'_>,
            out: &mut dyn FnMut(Stream, &[u8]),
            _: &Cancel,
            _: Option<Duration>,
        ) -> Result<ExecStatus, SshError> {
            let output = Command::new("sh").args(["-c", command]).stdin(Stdio::null()).output().unwrap();
            out(Stream::Stdout, &output.stdout);
            out(Stream::Stderr, &output.stderr);
            Ok(ExecStatus::of_code(output.status.code().unwrap()))
        }
    }

    fn local(check: Check) -> Try {
        attempt(&Local, &check, ONE_TRY, &Cancel::new()).unwrap()
    }

    #[test]
    fn a_port_that_is_listened_on() {
        for address in ["127.0.0.1:0", "[::1]:0"] {
            let Ok(listener) = std::net::TcpListener::bind(address) else { continue };
            let port = listener.local_addr().unwrap().port();
            assert_eq!(local(Check::Port(port)), Try::Holds, "{address}");
            drop(listener);
            assert_eq!(local(Check::Port(port)), Try::Not("nothing listens there".into()));
        }
    }

    #[test]
    fn a_command_counts_by_its_code_and_shows_its_last_words() {
        assert_eq!(local(Check::Command("test \"it's\" = \"it's\"".into())), Try::Holds);
        assert_eq!(local(Check::Command("exit 0".into())), Try::Holds);
        assert_eq!(local(Check::Command("# nothing".into())), Try::Holds);
        let failed = local(Check::Command("printf 'one\\n\\033two\\n' >&2; exit 7".into()));
        assert_eq!(failed, Try::Not("it ended with 7\n  | one\n  | two".into()));
        // The code that is ours is not taken from anybody else.
        assert_eq!(local(Check::Command(format!("exit {HOLDS}"))), Try::Not("it ended with 1".into()));
        assert_eq!(local(Check::Command("cat".into())), Try::Holds, "it has no input");
        let Try::Not(long) = local(Check::Command("seq 1 100000; false".into())) else { panic!() };
        assert!(long.ends_with("\n  | 100000") && long.lines().count() == LINES + 1, "{long}");
    }

    #[test]
    fn a_file_that_exists() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("it's there");
        let check = || Check::File(path.display().to_string());
        assert_eq!(local(check()), Try::Not("it does not exist".into()));
        std::fs::write(&path, "").unwrap();
        assert_eq!(local(check()), Try::Holds);
    }

    /// A guest that answers what it is told to.
    struct Script<'a>(&'a RefCell<Vec<Result<ExecStatus, SshError>>>);

    impl Guest for Script<'_> {
        fn exec(
            &self,
            _: &str,
            _: Input<'_>,
            out: &mut dyn FnMut(Stream, &[u8]),
            _: &Cancel,
            _: Option<Duration>,
        ) -> Result<ExecStatus, SshError> {
            out(Stream::Stderr, b"hunter2 is wrong\n");
            let mut answers = self.0.borrow_mut();
            if answers.is_empty() { Ok(ExecStatus::of_code(3)) } else { answers.remove(0) }
        }
    }

    fn machines() -> (tempfile::TempDir, Machines<'static>) {
        let dir = tempfile::tempdir().unwrap();
        let machines = machines_in(dir.path());
        (dir, machines)
    }

    fn machine(timeout: Duration) -> Machine {
        let ready = vec![Probe { check: Check::Command("healthy".into()), timeout }];
        Machine { ready, ..Machine::new("db", "micro") }
    }

    #[test]
    fn a_lost_connection_is_made_anew_and_the_probe_tried_again() {
        let (_dir, machines) = machines();
        let code = |code| Ok(ExecStatus::of_code(code));
        let lost = Err(SshError::Lost { doing: "x", source: None });
        let answers = RefCell::new(vec![code(1), lost, code(1), code(HOLDS)]);
        let connections = Cell::new(0);
        let mut connect = || {
            connections.set(connections.get() + 1);
            Ok(Script(&answers))
        };
        machines.wait_until_ready(&machine(ONE_TRY), &Masker::default(), &mut connect).unwrap();
        assert_eq!((connections.get(), answers.borrow().len()), (2, 0));
    }

    #[test]
    fn a_probe_that_does_not_come_true_is_named_with_its_last_words() {
        let (_dir, machines) = machines();
        let answers = RefCell::default();
        let mut connect = || Ok(Script(&answers));
        let masker = Masker::new(["hunter2"]);
        let tight = machine(Duration::from_millis(150));
        let error = machines.wait_until_ready(&tight, &masker, &mut connect).unwrap_err();
        let text = error.to_string();
        assert!(text.contains("`db`") && text.contains("command `healthy`"), "{text}");
        assert!(text.ends_with("it ended with 3\n  | *** is wrong"), "{text}");
        assert!(error.hint().unwrap().contains("rvm ssh db"));
    }

    #[test]
    fn a_wish_to_stop_ends_the_wait() {
        let (_dir, machines) = machines();
        machines.cancel.cancel();
        let answers = RefCell::default();
        let mut connect = || Ok(Script(&answers));
        let error =
            machines.wait_until_ready(&machine(ONE_TRY), &Masker::default(), &mut connect).unwrap_err();
        assert!(error.is_interrupt(), "{error}");
    }

    #[test]
    fn a_machine_without_probes_is_not_even_connected_to() {
        let (_dir, machines) = machines();
        let mut connect = || -> Result<Script<'static>, _> { panic!("nobody asks") };
        machines.wait_until_ready(&Machine::new("db", "micro"), &Masker::default(), &mut connect).unwrap();
    }
}
