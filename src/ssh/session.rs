//! A logged-in connection.

use std::time::Duration;

use super::{ExecStatus, Input, SshError, Target};
use crate::model::{Cancel, Stream};

/// A logged-in connection to a guest whose host key was verified. For one thread.
pub struct Session;

#[allow(clippy::todo, unused_variables)]
impl Session {
    /// Connects, verifies the host key, logs in; each once, all within `timeout`.
    pub fn connect(target: &Target, timeout: Duration, cancel: &Cancel) -> Result<Session, SshError> {
        todo!()
    }

    /// Runs a command (by the login user's shell, without a terminal) until its output ends
    /// and its exit code is known. Output goes to `out` as it comes.
    pub fn exec(
        &self,
        command: &str,
        input: Input<'_>,
        out: &mut dyn FnMut(Stream, &[u8]),
        cancel: &Cancel,
        timeout: Option<Duration>,
    ) -> Result<ExecStatus, SshError> {
        todo!()
    }
}
