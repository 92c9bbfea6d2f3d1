//! Ctrl-C and SIGTERM.

use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::Sender;
use std::sync::{Arc, LazyLock, Mutex, MutexGuard};
use std::thread;
use std::time::{Duration, Instant};

use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator;

use super::ui::Ui;
use crate::model::Cancel;

/// A third signal ends the process at once. That is safe too: every change survives SIGKILL.
const PATIENCE: u32 = 3;

/// Set by the handler itself, before the thread that tells others has run.
static ARRIVED: LazyLock<Arc<AtomicBool>> = LazyLock::new(Arc::default);

/// Whether a signal came since [`watch`]. Who registers a wake-up first and then asks this cannot
/// miss one; the wish to stop is set a little later, by a thread.
pub fn arrived() -> bool {
    ARRIVED.load(Ordering::SeqCst)
}

/// Where signals are passed on, so many within this time leave all the same.
const HURRY: Duration = Duration::from_secs(2);

/// What is passed on to who talks to a program in a guest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Passed {
    /// The number of a signal.
    Signal(i32),
    /// The process group in the guest that it is for.
    Group(u32),
}

/// Where signals go: to our own work, or through to a program in a guest.
#[derive(Clone, Default)]
pub struct Signals(Arc<Mutex<Option<Sender<Passed>>>>);

impl Signals {
    /// As long as the result lives, signals are sent there and end nothing here.
    pub fn pass_to(&self, sender: Sender<Passed>) -> Passing {
        *self.lock() = Some(sender);
        Passing(self.clone())
    }

    fn pass(&self, signal: i32) -> bool {
        self.lock().as_ref().is_some_and(|sender| sender.send(Passed::Signal(signal)).is_ok())
    }

    fn lock(&self) -> MutexGuard<'_, Option<Sender<Passed>>> {
        self.0.lock().unwrap_or_else(|e| e.into_inner())
    }
}

/// See [`Signals::pass_to`].
pub struct Passing(Signals);

impl Drop for Passing {
    fn drop(&mut self) {
        *self.0.lock() = None;
    }
}

/// From now on the first SIGINT, SIGTERM or SIGHUP sets `cancel`, so that the work ends at the
/// next safe point; unless `signals` passes them on.
///
/// # Errors
/// When the handlers cannot be installed.
pub fn watch(cancel: Cancel, signals: Signals, ui: Arc<Ui>) -> io::Result<()> {
    for signal in [SIGINT, SIGTERM, SIGHUP] {
        signal_hook::flag::register(signal, Arc::clone(&ARRIVED))?;
    }
    let mut caught = iterator::Signals::new([SIGINT, SIGTERM, SIGHUP])?;
    thread::Builder::new().name("signals".into()).spawn(move || {
        let mut times: Vec<Instant> = Vec::new();
        let mut count = 0;
        for signal in caught.forever() {
            times.retain(|time| time.elapsed() < HURRY);
            times.push(Instant::now());
            if times.len() < PATIENCE as usize && signals.pass(signal) {
                continue;
            }
            count += 1;
            cancel.cancel();
            match count {
                1 => ui.warn("interrupted: stopping at the next safe point"),
                PATIENCE => std::process::exit(i32::from(super::error::Kind::Interrupted.exit_code())),
                _ => ui.warn("still stopping; once more to leave at once (nothing gets lost)"),
            }
        }
    })?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signals_are_passed_on_only_as_long_as_somebody_wants_them() {
        let signals = Signals::default();
        assert!(!signals.pass(SIGINT));
        let (sender, receiver) = std::sync::mpsc::channel();
        let passing = signals.pass_to(sender);
        assert!(signals.pass(SIGTERM));
        drop(passing);
        assert!(!signals.pass(SIGINT));
        assert_eq!(receiver.into_iter().collect::<Vec<_>>(), [Passed::Signal(SIGTERM)]);
    }
}
