//! `halt` and `destroy`.

use std::io;
use std::path::Path;
use std::time::{Duration, Instant};

use super::record::Record;
use super::{MachineError, Machines};
use crate::provider;
use crate::state::store;

/// How long a guest gets that is halted by its id, where no file says it.
const HALT_TIMEOUT: Duration = Duration::from_secs(60);

/// The power button is pressed each time that so long passes: a guest that boots may miss it, and one whose
/// agent was asked may have an agent that hangs.
const PRESS_AGAIN: Duration = Duration::from_secs(5);

/// Between two looks whether the user lost patience.
const SLICE: Duration = Duration::from_millis(200);

impl Machines<'_> {
    /// Stops; `Ok(false)` when it was not running. Not forced: the guest's agent is asked, or the power
    /// button pressed where there is none, then, after `timeout` (default 60 s), hard.
    pub fn halt(&self, id: &str, force: bool, timeout: Option<Duration>) -> Result<bool, MachineError> {
        let record = self.record(id)?.ok_or_else(|| MachineError::NotCreated(id.into()))?;
        let _lock = self.lock(&record.project, &record.name, "halt")?;
        self.halt_locked(&record, force, timeout.unwrap_or(HALT_TIMEOUT))
    }

    pub(super) fn halt_locked(
        &self,
        record: &Record,
        force: bool,
        timeout: Duration,
    ) -> Result<bool, MachineError> {
        if !self.is_running(record)? {
            return Ok(false);
        }
        let dir = self.layout.machine(&record.id);
        if force {
            self.stage(&record.name, "Switching off.".into());
            provider::stop(&dir)?;
            return Ok(true);
        }
        self.stage(&record.name, "Halting.".into());
        // A process that does not answer cannot ask its guest; it is stopped hard below.
        let asked = provider::power_off(&dir);
        let mut again = Instant::now() + PRESS_AGAIN;
        let mut left = timeout;
        while asked.is_ok() && !left.is_zero() {
            if Instant::now() >= again {
                // It may have ended this moment: the next look tells.
                let _ = provider::power_button(&dir);
                again = Instant::now() + PRESS_AGAIN;
            }
            if provider::wait_ended(&dir, SLICE.min(left))? {
                return Ok(true);
            }
            left = left.saturating_sub(SLICE);
            if self.cancel.is_cancelled() {
                let text = format!(
                    "machine `{0}` was asked to halt; `rvm halt -f {0}` switches it off",
                    record.name
                );
                return Err(MachineError::Interrupted(text));
            }
        }
        let why = match asked {
            Ok(()) => format!("The guest did not halt within {} s: switching off.", timeout.as_secs()),
            Err(error) => format!("It does not answer ({error}): switching off."),
        };
        self.warn(&record.name, why);
        provider::stop(&dir)?;
        Ok(true)
    }

    /// Stops hard and removes all its files.
    pub fn destroy(&self, id: &str) -> Result<(), MachineError> {
        let Some(record) = self.record(id)? else {
            return self.remove_broken(id);
        };
        let _lock = self.lock(&record.project, &record.name, "destroy")?;
        let dir = self.layout.machine(&record.id);
        self.stage(&record.name, "Destroying.".into());
        provider::stop(&dir)?;
        self.leave_networks(id)?;
        self.leave_bridges(id);
        self.unpoint(&record);
        self.discard(id)?;
        self.tell_kept(&record);
        Ok(())
    }

    /// A folder without a record: an `up` was killed before it wrote one.
    fn remove_broken(&self, id: &str) -> Result<(), MachineError> {
        let dir = self.layout.machine(id);
        if !dir.is_dir() {
            return Err(MachineError::NotCreated(id.into()));
        }
        provider::stop(&dir)?;
        self.leave_networks(id)?;
        self.leave_bridges(id);
        self.discard(id)
    }

    /// From one moment to the next the machine is gone; its files follow, and if that is cut
    /// off, `global-status --prune` or the next `destroy` clears the rest.
    pub(super) fn discard(&self, id: &str) -> Result<(), MachineError> {
        let dir = self.layout.machine(id);
        let trash = self.layout.machines().join(format!(".trash-{id}"));
        std::fs::rename(&dir, &trash).map_err(|e| MachineError::file("remove", &dir, e))?;
        clear(&trash)?;
        // What others left is not what was asked for, and they may be at it this moment.
        let _ = self.empty_trash();
        Ok(())
    }

    pub(super) fn empty_trash(&self) -> Result<(), MachineError> {
        let machines = self.layout.machines();
        let Ok(entries) = std::fs::read_dir(&machines) else { return Ok(()) };
        for entry in entries.flatten().filter(|e| e.file_name().to_string_lossy().starts_with(".trash-")) {
            clear(&entry.path())?;
        }
        Ok(())
    }
}

/// Removes a folder that another command may be removing at the same time.
fn clear(trash: &Path) -> Result<(), MachineError> {
    loop {
        match store::remove(trash) {
            // A part of it went while it was looked at.
            Err(error) if error.kind() == io::ErrorKind::NotFound && trash.exists() => {}
            Err(error) if trash.exists() => return Err(MachineError::file("remove", trash, error)),
            _ => return Ok(()),
        }
    }
}
