//! Key files.

use std::path::{Path, PathBuf};

use super::SshError;

/// A key pair on disk.
#[derive(Debug, Clone)]
pub struct KeyPair {
    /// The private key file (OpenSSH format, mode 0600).
    pub private: PathBuf,
    /// The public key as one line without its line end.
    pub public_line: String,
}

/// Makes an Ed25519 key pair: `path` (mode 0600) and `path.pub`.
#[allow(clippy::todo, unused_variables)]
pub fn generate(path: &Path, comment: &str) -> Result<KeyPair, SshError> {
    todo!()
}

/// The public line of a private key file: from the `.pub` file beside it, or from itself.
/// An encrypted key is an error.
#[allow(clippy::todo, unused_variables)]
pub fn public_line_of(private: &Path) -> Result<String, SshError> {
    todo!()
}

/// Fails when anyone but the owner may read the private key file.
#[allow(clippy::todo, unused_variables)]
pub fn check_permissions(path: &Path) -> Result<(), SshError> {
    todo!()
}
