//! Where steps run.

use std::time::Duration;

use crate::model::{Cancel, Stream};
use crate::ssh::{ExecStatus, Input, Session, SshError};

/// Runs commands in a guest: [`Session`], or a fake in tests.
pub trait Guest {
    /// As [`Session::exec`].
    fn exec(
        &self,
        command: &str,
        input: Input<'_>,
        out: &mut dyn FnMut(Stream, &[u8]),
        cancel: &Cancel,
        timeout: Option<Duration>,
    ) -> Result<ExecStatus, SshError>;
}

impl Guest for Session {
    fn exec(
        &self,
        command: &str,
        input: Input<'_>,
        out: &mut dyn FnMut(Stream, &[u8]),
        cancel: &Cancel,
        timeout: Option<Duration>,
    ) -> Result<ExecStatus, SshError> {
        Session::exec(self, command, input, out, cancel, timeout)
    }
}
