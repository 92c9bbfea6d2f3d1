//! SSH to a guest: keys, a session with a pinned host key, commands, waiting for the boot.
//!
//! Everything is non-blocking underneath and ends within about 100 ms of a [`Cancel`].

pub mod keys;

mod config;
mod error;
mod exec;
mod inventory;
mod limits;
mod methods;
mod program;
mod put;
mod session;
mod wait;

use std::net::SocketAddr;
use std::path::PathBuf;

use crate::model::Secret;

pub use config::{ConfigEntry, config_word, known_hosts_line, render_config};
pub use error::SshError;
pub use exec::{ExecStatus, Input};
pub use inventory::{InventoryHost, inventory_json, render_inventory};
pub use program::{Program, quote};
pub use put::{Put, PutKind, in_guest};
pub use session::Session;
pub use wait::{BootStage, WaitError, wait_ready};

/// Whom to log in to, as whom, and how the server proves itself.
#[derive(Debug, Clone)]
pub struct Target {
    /// Where the server is reached.
    pub addr: SocketAddr,
    /// Login user.
    pub user: String,
    /// Tried after the keys.
    pub password: Option<Secret>,
    /// Private key files, tried in this order.
    pub keys: Vec<PathBuf>,
    /// The pinned host key as an OpenSSH public line (`ssh-ed25519 AAAA… comment`).
    pub host_key: String,
}
