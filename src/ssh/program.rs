//! A program in the guest with its arguments as they are: no shell reads them, its end is known for
//! sure, and signals reach it.
//!
//! A small script starts it. It says the program's process group and how the program ended on its standard
//! error, behind a word that is made for this one run; those lines are taken out again here. So "ended
//! with 0" is never mistaken for "the guest went away", and a Ctrl-C can follow over another connection.

use std::time::Duration;

use super::{Input, Session, SshError};
use crate::model::{Cancel, Stream, hex};

/// What to run.
#[derive(Debug, Clone, Copy)]
pub struct Program<'a> {
    /// The program, looked for in the guest's `PATH`, and its arguments; not empty.
    pub argv: &'a [String],
    /// Where; `None`: the login user's home.
    pub dir: Option<&'a str>,
}

/// `$1`: the script below. Signals go to a process group: where the SSH server makes none for its
/// commands (dropbear), `setsid` does. It does not fork there, because this shell leads no group.
const GROUP: &str = r#"
inner=$1; shift
leads() { [ "$3" = "$$" ]; }
if { read -r s </proc/$$/stat; } 2>/dev/null && ! leads ${s##*) } && command -v setsid >/dev/null; then
  exec setsid sh -c "$inner" rvm "$@"
fi
exec sh -c "$inner" rvm "$@"
"#;

/// `$1`: the word; `$2`: the folder; then the program. A trap that does something is not passed on, so that
/// signals end the program and leave this shell to tell of it. It ends with [`TOLD`] itself, so that what the
/// program left in the background does not hold us up. Its own words ("Terminated") are nobody's business.
const RUN: &str = r#"
word=$1 dir=$2; shift 2
exec 3>&2 2>/dev/null
printf '%s pid %s\n' "$word" "$$" >&3
trap : HUP INT QUIT TERM USR1 USR2
if [ -n "$dir" ]; then cd -- "$dir" 2>&3; fi && (exec 2>&3 3>&-; exec "$@")
printf '%s end %s\n' "$word" "$?" >&3
exit 223
"#;

/// Exit code of the script when it has told how the program ended.
const TOLD: i32 = 223;

/// How long output that something in the background holds open may be silent.
const LINGER: Duration = Duration::from_secs(1);

/// A guest that is asked to pass on a signal answers within this.
const PATIENCE: Duration = Duration::from_secs(10);

impl Session {
    /// Runs a program without a terminal; its output goes to `out` as it comes. `started` hears the process
    /// group that [`Session::signal`] takes. Gives the exit code, 128 and the signal's number when a signal
    /// ended it.
    ///
    /// # Errors
    /// As [`Session::exec`]; [`SshError::Lost`] also when the guest never said how the program ended.
    pub fn run(
        &self,
        program: Program<'_>,
        input: Input<'_>,
        out: &mut dyn FnMut(Stream, &[u8]),
        started: &mut dyn FnMut(u32),
        cancel: &Cancel,
    ) -> Result<i32, SshError> {
        let word = word()?;
        let words = [RUN, &word, program.dir.unwrap_or_default()];
        let words = words.into_iter().chain(program.argv.iter().map(String::as_str)).map(quote);
        let command = format!("sh -c {} rvm {}", quote(GROUP), words.collect::<Vec<_>>().join(" "));
        let mut told = Told::new(&word);
        let mut sort = |stream, data: &[u8]| match stream {
            Stream::Stdout => out(stream, data),
            Stream::Stderr => told.take(data, &mut |data| out(Stream::Stderr, data), started),
        };
        let status = self.exec_until_exit(&command, input, &mut sort, cancel, None, LINGER)?;
        told.finish(&mut |data| out(Stream::Stderr, data));
        match told.code {
            Some(code) => Ok(code),
            // No POSIX shell, or none at all: what it said is on standard error.
            None if told.group.is_none() && !matches!(status.code, 0 | TOLD) => Ok(status.code),
            None => Err(SshError::Lost { doing: "a program ran in it", source: None }),
        }
    }

    /// Sends a signal, `INT` or another name without `SIG`, to the process group `group`.
    ///
    /// # Errors
    /// As [`Session::exec`].
    pub fn signal(&self, group: u32, name: &str, cancel: &Cancel) -> Result<(), SshError> {
        let command = format!("kill -s {name} -- -{group} 2>/dev/null || kill -s {name} {group}");
        self.exec(&command, Input::None, &mut |_, _| (), cancel, Some(PATIENCE)).map(drop)
    }
}

/// One word for a POSIX shell, whatever is in it.
pub fn quote(word: &str) -> String {
    format!("'{}'", word.replace('\'', r"'\''"))
}

/// A word that no output holds by chance.
fn word() -> Result<String, SshError> {
    let mut bytes = [0; 16];
    getrandom::fill(&mut bytes).map_err(|e| SshError::Input { source: std::io::Error::other(e) })?;
    Ok(format!("rvm-{}", hex(&bytes)))
}

/// Longest line behind the word; more than that is output of somebody who knows it.
const LONGEST: usize = 40;

/// Takes the script's lines out of standard error.
struct Told {
    word: Vec<u8>,
    /// What may still become a line of the script.
    held: Vec<u8>,
    group: Option<u32>,
    code: Option<i32>,
}

impl Told {
    fn new(word: &str) -> Self {
        Told { word: word.as_bytes().to_vec(), held: Vec::new(), group: None, code: None }
    }

    fn take(&mut self, data: &[u8], out: &mut dyn FnMut(&[u8]), started: &mut dyn FnMut(u32)) {
        self.held.extend_from_slice(data);
        loop {
            let Some(at) = find(&self.held, &self.word) else {
                let keep = self.begun();
                let rest = self.held.split_off(self.held.len() - keep);
                emit(&self.held, out);
                self.held = rest;
                return;
            };
            let behind = self.held.get(at + self.word.len()..).unwrap_or_default();
            let Some(end) = behind.iter().take(LONGEST).position(|byte| *byte == b'\n') else {
                if behind.len() < LONGEST {
                    // The rest of the line is on its way.
                    let rest = self.held.split_off(at);
                    emit(&self.held, out);
                    self.held = rest;
                } else {
                    emit(&self.held, out);
                    self.held.clear();
                }
                return;
            };
            let line = String::from_utf8_lossy(behind.get(..end).unwrap_or_default()).into_owned();
            emit(self.held.get(..at).unwrap_or_default(), out);
            self.held.drain(..at + self.word.len() + end + 1);
            match line.trim().split_once(' ') {
                Some(("pid", text)) if self.group.is_none() => {
                    self.group = text.parse().ok().filter(|group| *group > 1);
                    self.group.into_iter().for_each(&mut *started);
                }
                Some(("end", text)) => self.code = text.parse().ok().filter(|code| (0..=255).contains(code)),
                _ => {}
            }
        }
    }

    /// How many bytes at the end may be the beginning of the word.
    fn begun(&self) -> usize {
        let most = self.word.len().min(self.held.len());
        (0..=most).rev().find(|count| self.word.starts_with(last(&self.held, *count))).unwrap_or(0)
    }

    fn finish(&mut self, out: &mut dyn FnMut(&[u8])) {
        emit(&self.held, out);
        self.held.clear();
    }
}

fn emit(data: &[u8], out: &mut dyn FnMut(&[u8])) {
    if !data.is_empty() {
        out(data);
    }
}

fn last(data: &[u8], count: usize) -> &[u8] {
    data.get(data.len() - count..).unwrap_or_default()
}

fn find(data: &[u8], word: &[u8]) -> Option<usize> {
    data.windows(word.len()).position(|window| window == word)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Feeds `text` in pieces of `size`; gives what passes, the group and the code.
    fn told(text: &[u8], size: usize) -> (Vec<u8>, Option<u32>, Option<i32>) {
        let mut told = Told::new("rvm-0123");
        let (mut passed, mut group) = (Vec::new(), None);
        for piece in text.chunks(size) {
            told.take(piece, &mut |data| passed.extend_from_slice(data), &mut |g| group = Some(g));
        }
        told.finish(&mut |data| passed.extend_from_slice(data));
        (passed, group, told.code)
    }

    #[test]
    fn lines_of_the_script_are_taken_out_wherever_they_are_cut() {
        let text = b"motd\nrvm-0123 pid 77\nan error\xff without an end of line rvm-012rvm-0123 end 143\n";
        for size in 1..text.len() {
            let (passed, group, code) = told(text, size);
            assert_eq!(passed, b"motd\nan error\xff without an end of line rvm-012", "{size}");
            assert_eq!((group, code), (Some(77), Some(143)), "{size}");
        }
    }

    #[test]
    fn output_that_only_looks_like_it_passes() {
        for text in
            [&b"rvm-0"[..], b"rvm-0123", b"rvm-0123 pid and then a text that is longer than such a line is\n"]
        {
            let (passed, group, code) = told(text, 3);
            assert_eq!((passed.as_slice(), group, code), (text, None, None));
        }
        let (_, group, code) = told(b"rvm-0123 pid 1\nrvm-0123 pid -5\nrvm-0123 end 256\n", 9);
        assert_eq!((group, code), (None, None), "no signal goes to everybody");
    }

    #[test]
    fn what_passes_is_not_held_back() {
        let mut told = Told::new("rvm-0123");
        let mut passed = Vec::new();
        told.take(b"Password: ", &mut |data| passed.extend_from_slice(data), &mut |_| ());
        assert_eq!(passed, b"Password: ");
    }
}
