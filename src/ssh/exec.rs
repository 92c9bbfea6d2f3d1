//! Commands in the guest.

use std::io::Read;

/// What a command gets on its standard input.
pub enum Input<'a> {
    /// Nothing: end of file at once.
    None,
    /// These bytes, then end of file.
    Bytes(&'a [u8]),
    /// These bytes; then it stays open until the command ends, so that the command can tell
    /// by the end of file that we are gone.
    HeldOpen(&'a [u8]),
    /// All that can be read, then end of file. Reads may block for a moment (a file), not for long.
    Reader(&'a mut dyn Read),
}

/// How a command ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExecStatus {
    /// Exit code; `128` when a signal ended it.
    pub code: i32,
    /// Name of the signal that ended it, without `SIG`.
    pub signal: Option<String>,
}
