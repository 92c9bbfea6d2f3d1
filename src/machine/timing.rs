//! How the time of a boot divides: between the guest's kernel, its user space and SSH.
//!
//! The host sees when the guest was let run, when its SSH server spoke and when the login was
//! done. Only the guest knows when its kernel started the first program: the kernel writes that
//! into its log (`Run … as init process`, `init/main.c`), with the time since it began.

use std::time::{Duration, Instant};

use super::Machines;
use crate::model::{Cancel, Event, Phase, Stream};
use crate::ssh::{BootStage, Input, Session};

/// Prints the guest's time since its kernel began, then the kernel's line about its first program.
/// Reading the log may take root.
const QUESTION: &str =
    "cat /proc/uptime; { dmesg || sudo -n dmesg; } 2>/dev/null | grep -m 1 'Run .* as init process'";

/// A guest that does not answer within this time is not asked further.
const PATIENCE: Duration = Duration::from_secs(10);

/// Bytes of the answer that are kept; a good one has about 80.
const ANSWER: usize = 1024;

/// `/proc/uptime` counts hundredths of a second.
const UPTIME_STEP: Duration = Duration::from_millis(10);

/// What is seen of a boot, or of a login to a machine that ran already.
pub(super) struct Boot {
    started: bool,
    begin: Instant,
    banner: Option<Instant>,
}

impl Boot {
    /// Begins now; `started`: the guest has just been let run.
    pub fn begin(started: bool) -> Self {
        Boot { started, begin: Instant::now(), banner: None }
    }

    /// A stage is reached now.
    pub fn saw(&mut self, stage: BootStage) {
        if stage >= BootStage::Banner {
            self.banner.get_or_insert_with(Instant::now);
        }
    }

    /// The phases up to `end`. `init`: when the guest started its first program, if it says so.
    fn phases(&self, end: Instant, init: Option<Instant>) -> Vec<(Phase, Instant, Instant)> {
        if !self.started {
            return vec![(Phase::Ssh, self.begin, end)];
        }
        let Some(banner) = self.banner else { return vec![(Phase::Boot, self.begin, end)] };
        let ssh = (Phase::Ssh, banner, end);
        match init.filter(|init| (self.begin..=banner).contains(init)) {
            Some(init) => {
                vec![(Phase::Kernel, self.begin, init), (Phase::UserSpace, init, banner), ssh]
            }
            None => vec![(Phase::Boot, self.begin, banner), ssh],
        }
    }
}

impl Machines<'_> {
    /// Reports how the wait for SSH divides. With a session, the guest is asked what only it knows.
    pub(super) fn tell_boot(&self, name: &str, boot: &Boot, session: Option<&Session>) {
        let end = Instant::now();
        let init = session.filter(|_| boot.started).and_then(|session| {
            let _watch = self.time(name, Phase::Ask);
            ask(session, boot.begin, &self.cancel)
        });
        for (phase, began, ended) in boot.phases(end, init) {
            let took = ended.saturating_duration_since(began);
            self.report.event(Event::Timed { machine: name.into(), phase, began, took });
        }
    }
}

/// When the guest started its first program, by the host's clock. What the guest says cannot be
/// checked, only kept within what is possible.
fn ask(session: &Session, begin: Instant, cancel: &Cancel) -> Option<Instant> {
    let mut answer = Vec::new();
    let mut heard = None;
    let mut out = |stream, data: &[u8]| {
        if stream == Stream::Stdout {
            heard.get_or_insert_with(Instant::now);
            let room = ANSWER.saturating_sub(answer.len());
            answer.extend(data.iter().take(room));
        }
    };
    // A guest without these programs is timed less finely; that is no failure of the boot.
    session.exec(QUESTION, Input::None, &mut out, cancel, Some(PATIENCE)).ok()?;
    let clock = GuestClock::parse(&String::from_utf8_lossy(&answer))?;
    // The kernel began at most one step of its clock before the guest was let run.
    let zero = heard?.checked_sub(clock.uptime)?.max(begin.checked_sub(UPTIME_STEP)?);
    Some((zero + clock.init).max(begin))
}

/// What the guest says of its clock.
#[derive(Debug, PartialEq, Eq)]
struct GuestClock {
    /// Since its kernel began, now.
    uptime: Duration,
    /// Since its kernel began, when the first program was started.
    init: Duration,
}

impl GuestClock {
    /// Reads `123.45 100.00` and `[    0.123456] Run /init as init process`.
    fn parse(answer: &str) -> Option<Self> {
        let mut lines = answer.lines();
        let uptime = seconds(lines.next()?.split_whitespace().next()?)?;
        let stamp = lines.next()?.trim_start().strip_prefix('[')?.split(']').next()?;
        let init = seconds(stamp.trim())?;
        (init <= uptime + UPTIME_STEP).then_some(GuestClock { uptime, init })
    }
}

/// A number of seconds as a guest writes it; nothing that no clock shows.
fn seconds(text: &str) -> Option<Duration> {
    let plain = text.bytes().all(|b| b.is_ascii_digit() || b == b'.');
    text.parse().ok().filter(|_| plain).and_then(|value| Duration::try_from_secs_f64(value).ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(begin: Instant, ms: u64) -> Instant {
        begin + Duration::from_millis(ms)
    }

    fn booted() -> (Boot, Instant) {
        let begin = Instant::now();
        (Boot { started: true, begin, banner: Some(at(begin, 900)) }, begin)
    }

    #[test]
    fn a_boot_divides_into_kernel_user_space_and_ssh() {
        let (boot, begin) = booted();
        let phases = boot.phases(at(begin, 1000), Some(at(begin, 300)));
        assert_eq!(
            phases,
            [
                (Phase::Kernel, begin, at(begin, 300)),
                (Phase::UserSpace, at(begin, 300), at(begin, 900)),
                (Phase::Ssh, at(begin, 900), at(begin, 1000)),
            ]
        );
    }

    #[test]
    fn a_guest_that_says_nothing_or_the_impossible_is_not_divided() {
        let (boot, begin) = booted();
        for init in [None, Some(at(begin, 901))] {
            let phases = boot.phases(at(begin, 1000), init);
            assert_eq!(
                phases,
                [(Phase::Boot, begin, at(begin, 900)), (Phase::Ssh, at(begin, 900), at(begin, 1000))]
            );
        }
    }

    #[test]
    fn a_boot_that_fails_and_a_login_without_one() {
        let begin = Instant::now();
        let failed = Boot { started: true, begin, banner: None };
        assert_eq!(failed.phases(at(begin, 5), None), [(Phase::Boot, begin, at(begin, 5))]);
        let running = Boot { started: false, begin, banner: Some(at(begin, 1)) };
        assert_eq!(running.phases(at(begin, 5), Some(begin)), [(Phase::Ssh, begin, at(begin, 5))]);
    }

    #[test]
    fn only_the_first_words_of_the_server_count() {
        let mut boot = Boot::begin(true);
        boot.saw(BootStage::Connected);
        assert_eq!(boot.banner, None);
        boot.saw(BootStage::Banner);
        let first = boot.banner;
        boot.saw(BootStage::Ready);
        assert!(first.is_some() && boot.banner == first);
    }

    #[test]
    fn the_clock_of_a_guest() {
        let parse = GuestClock::parse;
        let clock = parse("6.21 5.10\n[    0.512345] Run /init as init process\n").unwrap();
        assert_eq!(clock.uptime, Duration::from_millis(6210));
        assert_eq!(clock.init, Duration::from_micros(512_345));
        for wrong in [
            "",
            "6.21 5.10\n",
            "x\n[ 0.5] Run /init as init process",
            "6.21\nRun /init as init process",
            "6.21\n[ 6.3] later than now",
            "6.21\n[ -1] before the beginning",
            "1e400 1\n[ 0.5] x",
            "inf\n[ 0.5] x",
            "NaN\n[ 0.5] x",
            "99999999999999999999999999\n[ 0.5] x",
        ] {
            assert_eq!(parse(wrong), None, "{wrong:?}");
        }
    }
}
