//! What the system's `ssh` needs to know.

use std::net::IpAddr;
use std::path::PathBuf;

/// One `Host` block of an ssh_config file. All paths absolute.
#[derive(Debug, Clone)]
pub struct ConfigEntry {
    /// The name that is typed after `ssh`.
    pub host: String,
    /// Address.
    pub hostname: IpAddr,
    /// Port.
    pub port: u16,
    /// Login user.
    pub user: String,
    /// File with the pinned host key.
    pub known_hosts: PathBuf,
    /// Private key files.
    pub identities: Vec<PathBuf>,
    /// Whether a password may be asked for.
    pub password: bool,
}

/// The line of a known_hosts file that pins `key` (an OpenSSH public line), with its line end.
#[allow(clippy::todo, unused_variables)]
pub fn known_hosts_line(host: IpAddr, port: u16, key: &str) -> String {
    todo!()
}

/// The block in ssh_config(5) syntax.
#[allow(clippy::todo, unused_variables)]
pub fn render_config(entry: &ConfigEntry) -> String {
    todo!()
}
