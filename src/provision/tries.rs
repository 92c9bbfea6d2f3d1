//! Runs one step, again where the file says so, until it has succeeded or failed for good.

use std::time::Duration;

use super::content::Content;
use super::output::Output;
use super::runner::{Fault, Runner};
use super::{Context, ProvisionError};
use crate::model::{Event, Masker, Reporter, Step};
use crate::ssh::SshError;

/// Shortest and longest pause before a step is run again: what failed for want of something that is
/// coming (a mirror, a lock) gets a little time.
const PAUSE: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(10));

/// Exit codes, as shells count them, of what was ended by the HUP or TERM of a guest that shuts down.
const HUNG_UP: [i32; 2] = [129, 143];

/// How long a guest whose connection broke may still answer before that was no reboot.
const DOUBT: Duration = Duration::from_secs(5);

/// Says that a step is going to be tried again after its `failures`th failure; gives the pause before.
pub(super) fn announce(
    machine: &str,
    report: &dyn Reporter,
    masker: &Masker,
    output: &Output<'_>,
    step: &Step,
    failures: u32,
    error: &ProvisionError,
) -> Duration {
    let pause = PAUSE.0.saturating_mul(1 << failures.min(8).saturating_sub(1)).min(PAUSE.1);
    let (next, all) = (failures.saturating_add(1), step.retries.saturating_add(1));
    let text = format!("{error}: try {next} of {all} in {} s", pause.as_secs());
    output.note(&text);
    report.event(Event::Warning { machine: Some(machine.to_owned()), text: masker.mask(&text) });
    pause
}

impl Runner<'_> {
    /// Runs a step, with its retries; what it prints is shown and kept.
    pub fn run(&mut self, step: &Step, content: &Content) -> Result<(), ProvisionError> {
        let Context { machine, report, masker, logs, .. } = *self.context;
        let output = Output::begin(machine, report, masker, Some(logs), step);
        let result = self.tries(step, content, &output);
        match &result {
            Ok(()) => output.note("succeeded"),
            Err(error) => output.note(&error.to_string()),
        }
        output.end();
        result
    }

    fn tries(&mut self, step: &Step, content: &Content, output: &Output<'_>) -> Result<(), ProvisionError> {
        let mut failures = 0;
        loop {
            let error = match self.attempt(step, content, output) {
                Ok(()) => return Ok(()),
                Err(error) if failures >= step.retries || !error.may_pass() => return Err(error),
                Err(error) => error,
            };
            failures += 1;
            let Context { machine, report, masker, .. } = *self.context;
            let pause = announce(machine, report, masker, output, step, failures, &error);
            if self.context.cancel.wait(pause) {
                return Err(self.cut(step, SshError::Cancelled));
            }
        }
    }

    /// One try. Afterwards there is a connection again, unless the guest is gone.
    fn attempt(&mut self, step: &Step, content: &Content, output: &Output<'_>) -> Result<(), ProvisionError> {
        let boot = self.facts(step)?.boot;
        let timed_out = |step: &Step, machine: &str| ProvisionError::StepTimedOut {
            machine: machine.to_owned(),
            step: step.name.clone(),
            after: step.timeout.unwrap_or_default(),
        };
        let (error, broken) = match self.once(step, content, output) {
            Ok(()) if step.reboot => return self.reboot(step, &boot),
            Ok(()) => return Ok(()),
            Err(Fault::TimedOut) => return Err(timed_out(step, self.context.machine)),
            // An upload, or a guest that could not even end the step: the connection took it along.
            Err(Fault::Broken(SshError::TimedOut { .. })) => {
                self.reconnect(step)?;
                return Err(timed_out(step, self.context.machine));
            }
            Err(Fault::Broken(error)) if error.is_interrupt() => return Err(self.cut(step, error)),
            Err(Fault::Broken(error)) => {
                self.detail("The connection to the guest broke: waiting for it.");
                (self.cut(step, error), true)
            }
            Err(Fault::NoCode) => {
                let why = "it ended without an exit code: did the guest shut down?".into();
                (self.unable(step, why, None), false)
            }
            Err(Fault::Error(error)) => match &error {
                ProvisionError::StepFailed { code, .. } if HUNG_UP.contains(code) => (error, false),
                _ => return Err(error),
            },
        };
        match (self.has_rebooted(step, &boot, DOUBT, broken)?, step.reboot) {
            (false, _) => Err(error),
            (true, true) => {
                self.detail("The guest is back.");
                Ok(())
            }
            (true, false) => Err(ProvisionError::GuestRebooted {
                machine: self.context.machine.to_owned(),
                step: step.name.clone(),
            }),
        }
    }
}
