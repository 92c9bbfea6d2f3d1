//! What a forbidden system call does: say which one it was, and end the process.
#![allow(unsafe_code)]

use std::io;

use vmm_sys_util::signal::register_signal_handler;

/// Exit status of a process that was stopped: 128 and the number of SIGSYS, as shells count.
pub const EXIT_STATUS: i32 = 128 + libc::SIGSYS;

const START: &[u8] = b"sandbox: system call ";
const MIDDLE: &[u8] = b" by thread ";
const END: &[u8] = b" is forbidden; the process ends here\n";

/// A forbidden system call, as the process that made it has written down.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Violation {
    /// Its number on x86-64.
    pub call: u32,
    /// Name of the thread that made it.
    pub thread: String,
}

impl std::fmt::Display for Violation {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { call, thread } = self;
        write!(f, "the machine's process was stopped by its sandbox: system call {call} (thread {thread})")
    }
}

impl Violation {
    /// Finds it in what the process wrote to standard error.
    pub fn find(log: &str) -> Option<Self> {
        let part = |text| std::str::from_utf8(text).unwrap_or_default();
        log.lines().rev().find_map(|line| {
            let (call, rest) = line.strip_prefix(part(START))?.split_once(part(MIDDLE))?;
            let thread = rest.strip_suffix(part(END).trim_end())?.to_owned();
            Some(Self { call: call.parse().ok()?, thread })
        })
    }
}

/// From now on a forbidden system call is said on standard error and ends the process.
///
/// # Errors
/// When the signal cannot be handled.
pub(super) fn catch() -> io::Result<()> {
    register_signal_handler(libc::SIGSYS, stop).map_err(|e| io::Error::from_raw_os_error(e.errno()))
}

/// Bytes of the longest line: 21 and 10 digits, 11 and 15 of a name, 38.
const LINE: usize = 128;

/// Runs on the thread that made the call, in the middle of anything: no allocation, no locks, and
/// only system calls that every table has.
extern "C" fn stop(_: libc::c_int, info: *mut libc::siginfo_t, _: *mut libc::c_void) {
    /// Offset of `si_syscall` (`struct siginfo`, `asm-generic/siginfo.h`: three numbers, padding, the
    /// address of the call, its number).
    const CALL: usize = 24;
    let at = info.cast::<u8>().wrapping_add(CALL).cast::<u32>();
    // SAFETY: the kernel gives a `siginfo` of 128 bytes that lives as long as the handler runs, and
    // for SIGSYS there is an aligned number at that offset.
    let call = unsafe { at.read() };
    let mut name = [0u8; 16];
    // SAFETY: PR_GET_NAME writes 16 bytes, with a zero at the end.
    unsafe { libc::prctl(libc::PR_GET_NAME, name.as_mut_ptr()) };
    let name = name.split(|byte| *byte == 0).next().unwrap_or_default();
    let mut line = Line { bytes: [0; LINE], len: 0 };
    line.add(START);
    line.add_number(call);
    line.add(MIDDLE);
    line.add(name);
    line.add(END);
    // SAFETY: `len` never exceeds the bytes that there are.
    unsafe { libc::write(libc::STDERR_FILENO, line.bytes.as_ptr().cast(), line.len) };
    // SAFETY: ends the process at once, which needs nothing of its state.
    unsafe { libc::_exit(EXIT_STATUS) };
}

struct Line {
    bytes: [u8; LINE],
    len: usize,
}

impl Line {
    fn add(&mut self, text: &[u8]) {
        for byte in text {
            if let Some(place) = self.bytes.get_mut(self.len) {
                *place = *byte;
                self.len += 1;
            }
        }
    }

    fn add_number(&mut self, number: u32) {
        let mut unit = 1_000_000_000;
        while unit > 0 {
            if number >= unit || unit == 1 {
                self.add(&[b'0' + (number / unit % 10) as u8]);
            }
            unit /= 10;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(call: u32, name: &[u8]) -> String {
        let mut line = Line { bytes: [0; LINE], len: 0 };
        line.add(START);
        line.add_number(call);
        line.add(MIDDLE);
        line.add(name);
        line.add(END);
        String::from_utf8(line.bytes[..line.len].to_vec()).unwrap()
    }

    #[test]
    fn what_is_written_is_found() {
        for call in [0, 9, 10, 41, 435, 1_000_000_000, u32::MAX] {
            let log = format!("before\n{}after\n", line(call, b"virtio-net"));
            let found = Violation::find(&log).unwrap();
            assert_eq!(found, Violation { call, thread: "virtio-net".into() }, "{log}");
        }
        assert!(line(u32::MAX, b"fifteen letters").len() <= LINE);
        assert_eq!(Violation::find("sandbox: system call x by thread y is forbidden\n"), None);
        assert_eq!(Violation::find(""), None);
    }
}
