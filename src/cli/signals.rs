//! Ctrl-C and SIGTERM.

use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, LazyLock};
use std::thread;

use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

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

/// From now on the first SIGINT, SIGTERM or SIGHUP sets `cancel`, so that the work ends at the
/// next safe point.
///
/// # Errors
/// When the handlers cannot be installed.
pub fn watch(cancel: Cancel, ui: Arc<Ui>) -> io::Result<()> {
    for signal in [SIGINT, SIGTERM, SIGHUP] {
        signal_hook::flag::register(signal, Arc::clone(&ARRIVED))?;
    }
    let mut signals = Signals::new([SIGINT, SIGTERM, SIGHUP])?;
    thread::Builder::new().name("signals".into()).spawn(move || {
        for (count, _) in (1..).zip(signals.forever()) {
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
