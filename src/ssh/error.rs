//! What can go wrong on the way to a command in the guest.

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use thiserror::Error;

use crate::model::Code;

/// Why something over SSH, or with its keys, failed.
#[derive(Debug, Error)]
pub enum SshError {
    /// No TCP connection.
    #[error("cannot connect to {addr}")]
    Connect {
        /// Where to.
        addr: SocketAddr,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The connection stands, but no SSH server spoke.
    #[error("no SSH server answers at {addr}")]
    NoBanner {
        /// Where.
        addr: SocketAddr,
        /// Why, where it is more than silence.
        #[source]
        source: Option<ssh2::Error>,
    },
    /// A server spoke, but no secure channel came of it.
    #[error("the SSH handshake with {addr} failed")]
    Handshake {
        /// With whom.
        addr: SocketAddr,
        /// Why.
        #[source]
        source: ssh2::Error,
    },
    /// The server is not the guest we made.
    #[error("the host key of {addr} is {got}, not the pinned {expected}")]
    HostKeyMismatch {
        /// Which server.
        addr: SocketAddr,
        /// Fingerprint of the pinned key.
        expected: String,
        /// Fingerprint of the key that the server showed.
        got: String,
    },
    /// The server let us in by none of our means.
    #[error(
        "{addr} refused to log in `{user}` by {}; it takes: {offered}",
        if tried.is_empty() { "no key and no password".to_owned() } else { tried.join(", ") }
    )]
    AuthFailed {
        /// Which server.
        addr: SocketAddr,
        /// Login user.
        user: String,
        /// What was tried: `key PATH`, `password`.
        tried: Vec<String>,
        /// Methods that the server offers, comma-separated.
        offered: String,
    },
    /// The connection broke, or the guest fell silent.
    #[error("lost the connection to the guest while {doing}")]
    Lost {
        /// What was going on.
        doing: &'static str,
        /// Why, where the library knows.
        #[source]
        source: Option<ssh2::Error>,
    },
    /// The library failed in another way.
    #[error("SSH failed while {doing}")]
    Protocol {
        /// What was going on.
        doing: &'static str,
        /// Why.
        #[source]
        source: ssh2::Error,
    },
    /// What was to be sent to the guest could not be read on the host.
    #[error("cannot read what is to be sent to the guest")]
    Input {
        /// Why.
        #[source]
        source: io::Error,
    },
    /// It took longer than allowed.
    #[error("no end after {} s of {doing}", after.as_secs())]
    TimedOut {
        /// What was going on.
        doing: &'static str,
        /// The limit.
        after: Duration,
    },
    /// Ctrl-C.
    #[error("interrupted")]
    Cancelled,
    /// A key file cannot be read or written.
    #[error("cannot access key file {path}")]
    KeyFile {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A key file, or a key line, is none that we understand.
    #[error("{what} is not an SSH key that rvm can use: {why}")]
    BadKey {
        /// Path of the file, or what the line is for.
        what: String,
        /// Why.
        why: String,
    },
    /// The private key asks for a passphrase.
    #[error("private key {path} is encrypted")]
    EncryptedKey {
        /// The file.
        path: PathBuf,
    },
    /// Others may read the private key.
    #[error("private key {path} has mode {mode:04o}: others may read it")]
    OpenPermissions {
        /// The file.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
}

impl SshError {
    /// Its stable code (`docs/errors.md`).
    pub fn code(&self) -> Code {
        match self {
            SshError::Connect { .. } => Code::SshConnect,
            SshError::NoBanner { .. } => Code::SshSilent,
            SshError::Handshake { .. } => Code::SshHandshake,
            SshError::HostKeyMismatch { .. } => Code::HostKeyMismatch,
            SshError::AuthFailed { .. } => Code::LoginRefused,
            SshError::Lost { .. } => Code::ConnectionLost,
            SshError::Protocol { .. } => Code::SshProtocol,
            SshError::Input { .. } => Code::SshInput,
            SshError::TimedOut { .. } => Code::SshTimedOut,
            SshError::Cancelled => Code::Interrupted,
            SshError::KeyFile { .. } => Code::KeyFile,
            SshError::BadKey { .. } => Code::BadKey,
            SshError::EncryptedKey { .. } => Code::EncryptedKey,
            SshError::OpenPermissions { .. } => Code::OpenKey,
        }
    }

    /// What to do next, where there is something to do.
    pub fn hint(&self) -> Option<String> {
        match self {
            SshError::OpenPermissions { path, .. } => Some(format!("run `chmod 600 {}`", path.display())),
            SshError::EncryptedKey { .. } => Some(
                "remove the passphrase from a copy (`ssh-keygen -p`), or leave RVM_SSH_KEY out: \
                 each machine has a key of its own"
                    .into(),
            ),
            SshError::AuthFailed { .. } => Some(
                "check RVM_SSH_USER, RVM_SSH_PASSWORD and RVM_SSH_KEY in the ENV file; they are put into a \
                 machine when it is created"
                    .into(),
            ),
            SshError::HostKeyMismatch { .. } => Some(
                "another server may listen on that port, or the guest made new host keys; \
                 `rvm destroy` and `rvm up` make the machine anew"
                    .into(),
            ),
            _ => None,
        }
    }

    /// Whether it ended by Ctrl-C.
    pub fn is_interrupt(&self) -> bool {
        matches!(self, SshError::Cancelled)
    }
}
