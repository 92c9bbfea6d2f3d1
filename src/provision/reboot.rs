//! Reboots of the guest: asked for, awaited, or found out.

use std::time::{Duration, Instant};

use super::ProvisionError;
use super::guest::Facts;
use super::runner::Runner;
use crate::model::Step;
use crate::ssh::{Input, SshError, WaitError, quote};

/// Orders the reboot, then stays until the connection goes: that is how its beginning is seen.
const REBOOT: &str = r#"
PATH=$PATH:/usr/sbin:/sbin
reboot || exit
cat >/dev/null
"#;

/// Stays until the connection goes, or its input ends.
const STAY: &str = "cat >/dev/null";

/// How long one look whether the connection goes may last. Longer would be of no use: a guest that is
/// reset closes nothing, and only a new connection shows that it is another one.
const LOOK: Duration = Duration::from_secs(3);

/// Between two tries with a guest that answers and cannot be used: it is on its way down or up.
const REST: Duration = Duration::from_millis(250);

impl Runner<'_> {
    /// Reboots the guest, whose boot is `boot` now, and waits until it is back.
    pub(super) fn reboot(&mut self, step: &Step, boot: &str) -> Result<(), ProvisionError> {
        let sudo = if self.root(step)? { "sudo -n " } else { "" };
        self.detail("Rebooting the guest.");
        let command = format!("{sudo}sh -c {}", quote(REBOOT));
        let context = self.context;
        let mut said = Vec::new();
        let mut out = |_, data: &[u8]| {
            if said.len() < 1024 {
                said.extend_from_slice(data);
            }
        };
        let result = context.guest.exec(&command, Input::HeldOpen(&[]), &mut out, context.cancel, Some(LOOK));
        let broken = match result {
            Ok(status) if status.timed_out || status.code == 0 || status.code > 128 => false,
            Ok(status) => {
                let said = super::lines::harmless(String::from_utf8_lossy(&said).trim());
                let why = format!("`reboot` failed in the guest with exit code {}: {said}", status.code);
                return Err(self.unable(step, why, None));
            }
            Err(SshError::Cancelled) => return Err(self.cut(step, SshError::Cancelled)),
            Err(_) => true,
        };
        if !self.has_rebooted(step, boot, context.boot_timeout, broken)? {
            let why = format!(
                "the guest was told to reboot and runs on, {} s later",
                context.boot_timeout.as_secs()
            );
            return Err(self.unable(step, why, None));
        }
        self.detail("The guest is back.");
        Ok(())
    }

    /// Whether the guest is another one than that of `boot` within `doubt`. Waits for one that is down.
    /// Afterwards there is a connection. `broken`: there is none now.
    pub(super) fn has_rebooted(
        &mut self,
        step: &Step,
        boot: &str,
        doubt: Duration,
        mut broken: bool,
    ) -> Result<bool, ProvisionError> {
        let context = self.context;
        let deadline = Instant::now() + doubt;
        loop {
            if broken {
                self.reconnect(step)?;
            }
            match Facts::gather(context.guest, context.cancel) {
                Ok(Ok(facts)) => {
                    broken = false;
                    let another = facts.boot != boot;
                    self.facts = Some(facts);
                    if another {
                        return Ok(true);
                    }
                }
                Err(SshError::Cancelled) => return Err(self.cut(step, SshError::Cancelled)),
                // It is going down this moment.
                Ok(Err(_)) | Err(_) => broken = true,
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() && !broken {
                return Ok(false);
            }
            if !broken {
                broken = self.stay(step, left.min(LOOK))?;
            }
        }
    }

    /// Looks for `time` whether the connection breaks; whether it did.
    fn stay(&self, step: &Step, time: Duration) -> Result<bool, ProvisionError> {
        let (guest, cancel) = (self.context.guest, self.context.cancel);
        match guest.exec(STAY, Input::HeldOpen(&[]), &mut |_, _| (), cancel, Some(time)) {
            Ok(status) if status.timed_out => Ok(false),
            // Ended by somebody else: the guest shuts down.
            Ok(_) if cancel.wait(REST) => Err(self.cut(step, SshError::Cancelled)),
            Ok(_) => Ok(false),
            Err(SshError::Cancelled) => Err(self.cut(step, SshError::Cancelled)),
            Err(_) => Ok(true),
        }
    }

    /// Connects anew, as soon as the guest lets us in.
    pub(super) fn reconnect(&mut self, step: &Step) -> Result<(), ProvisionError> {
        let context = self.context;
        let deadline = Instant::now() + context.boot_timeout;
        (self.facts, self.stale) = (None, false);
        loop {
            match context.guest.reconnect(context.cancel) {
                Ok(()) => return Ok(()),
                Err(WaitError::Ssh(SshError::Cancelled)) => {
                    return Err(self.cut(step, SshError::Cancelled));
                }
                // A guest that shuts down lets nobody in any more, and one that boots not yet.
                Err(WaitError::Ssh(SshError::AuthFailed { .. }))
                    if Instant::now() < deadline && !context.cancel.wait(REST) => {}
                Err(source) => {
                    return Err(ProvisionError::GuestGone {
                        machine: context.machine.to_owned(),
                        step: step.name.clone(),
                        source: Box::new(source),
                    });
                }
            }
        }
    }
}
