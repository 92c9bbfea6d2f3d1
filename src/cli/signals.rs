//! Ctrl-C and SIGTERM.

use std::io;
use std::sync::Arc;
use std::thread;

use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

use super::ui::Ui;
use crate::model::Cancel;

/// A third signal ends the process at once. That is safe too: every change survives SIGKILL.
const PATIENCE: u32 = 3;

/// From now on the first SIGINT, SIGTERM or SIGHUP sets `cancel`, so that the work ends at the
/// next safe point.
///
/// # Errors
/// When the handlers cannot be installed.
pub fn watch(cancel: Cancel, ui: Arc<Ui>) -> io::Result<()> {
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
