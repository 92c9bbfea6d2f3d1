//! The control protocol of a running machine: one JSON object a line, over a UNIX socket.
//!
//! | request | answer |
//! |---|---|
//! | `{"op":"status"}` | `{"ok":true,"version":1,"state":"running","pid":…,"uptime_ms":…,"cpus":…,"memory":…}` |
//! | `{"op":"power_button"}` | `{"ok":true}` |
//! | `{"op":"power_off"}` | `{"ok":true}` |
//! | `{"op":"stop"}` | `{"ok":true}` |
//! | `{"op":"usage"}` | `{"ok":true,"usage":{"memory":…,"resident":…,"balloon":…,"guest":{…},"traffic":{…}}}` |
//! | `{"op":"balloon","bytes":N}` | `{"ok":true}` |
//! | `{"op":"wait"}` | `{"ok":true,"reason":"…"}`, when the machine has ended |
//! | `{"op":"wait_up"}` | `{"ok":true}`, when the guest says that it is up |
//! | anything else | `{"ok":false,"error":"…"}` |
//!
//! A request may carry `"version":1`; another version is refused. A connection takes any number
//! of requests, one after the other. A line has at most [`MAX_LINE`] bytes; a client that sends
//! more, or is silent for [`IDLE`], is disconnected. Whatever a client does, the machine goes on.

mod client;
mod server;
mod socket;

use std::io;
use std::time::Duration;

use serde::{Deserialize, Serialize};

pub use crate::vmm::virtio::balloon::Stats;
pub use client::Client;
pub use server::{Server, serve};
pub use socket::{bind, connect};

/// Version of the protocol.
pub const VERSION: u32 = 1;
/// Longest line in bytes, with its line feed.
pub const MAX_LINE: usize = 64 << 10;
/// Connections served at the same time; one more is told so and closed.
pub const MAX_CONNECTIONS: usize = 32;
/// How long a connection may be silent between requests, or within one.
pub const IDLE: Duration = Duration::from_secs(30);

/// What a machine does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    /// The guest runs, or is about to.
    Running,
    /// The machine was told to stop.
    Stopping,
    /// The machine has ended; its process is cleaning up.
    Ended,
}

/// What a machine is and does.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Status {
    /// What it does.
    pub state: State,
    /// Process id of whoever runs it.
    pub pid: u32,
    /// Milliseconds since it was put together; resets of the guest do not count.
    pub uptime_ms: u64,
    /// Virtual CPUs.
    pub cpus: u8,
    /// Guest memory in bytes.
    pub memory: u64,
}

/// What a guest's memory costs the host, and what the guest has moved. Sizes are in bytes.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Usage {
    /// What the guest was given.
    pub memory: u64,
    /// What the host holds for that at the moment.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resident: Option<u64>,
    /// What the guest is asked to give back.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub balloon_target: Option<u64>,
    /// What it has given back for that, as it says.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub balloon: Option<u64>,
    /// What it says about its memory, where it says anything.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub guest: Option<Stats>,
    /// What its devices have carried, where that is counted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub traffic: Option<Traffic>,
}

/// Bytes that a machine's devices have carried since it was started, resets included. `None`: not counted.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Traffic {
    /// Read from all disks.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub disk_read: Option<u64>,
    /// Written to them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub disk_written: Option<u64>,
    /// Received by all network cards.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub net_received: Option<u64>,
    /// Sent by them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub net_sent: Option<u64>,
}

/// A machine as the protocol sees it.
pub trait Target: Send + Sync {
    /// What it is and does.
    fn status(&self) -> Status;

    /// Presses the power button: a guest that heeds it shuts down.
    ///
    /// # Errors
    /// When the machine cannot be asked any more.
    fn power_button(&self) -> io::Result<()>;

    /// Asks the guest to shut down by the surest way that there is at the moment.
    ///
    /// # Errors
    /// When the machine cannot be asked any more.
    fn power_off(&self) -> io::Result<()> {
        self.power_button()
    }

    /// Ends the machine at once.
    ///
    /// # Errors
    /// When the machine cannot be reached any more.
    fn stop(&self) -> io::Result<()>;

    /// What its memory costs. Takes longer than [`Self::status`].
    ///
    /// # Errors
    /// When that cannot be told.
    fn usage(&self) -> io::Result<Usage>;

    /// Asks the guest to give `bytes` of memory back, in all.
    ///
    /// # Errors
    /// When it has less, or no balloon.
    fn set_balloon(&self, bytes: u64) -> io::Result<()>;

    /// Waits until the guest says that it is up, at most `time`; whether it has.
    ///
    /// # Errors
    /// `Unsupported` when it has no way to say so.
    fn wait_up(&self, _time: Duration) -> io::Result<bool> {
        Err(io::Error::new(io::ErrorKind::Unsupported, "this machine does not hear from its guest"))
    }
}

/// One line from a client.
#[derive(Debug, Serialize, Deserialize)]
struct Request {
    op: Op,
    #[serde(default = "current")]
    version: u32,
    /// For [`Op::Balloon`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    bytes: Option<u64>,
}

impl Request {
    /// One that needs nothing but its name.
    fn of(op: Op) -> Self {
        Self { op, version: VERSION, bytes: None }
    }
}

fn current() -> u32 {
    VERSION
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Op {
    Status,
    PowerButton,
    PowerOff,
    Stop,
    Usage,
    Balloon,
    Wait,
    WaitUp,
}

/// One line from the server.
#[derive(Debug, Default, Serialize, Deserialize)]
struct Reply {
    ok: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    version: Option<u32>,
    #[serde(flatten, skip_serializing_if = "Option::is_none")]
    status: Option<Status>,
    #[serde(skip_serializing_if = "Option::is_none")]
    usage: Option<Usage>,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<String>,
}

impl Reply {
    fn done() -> Self {
        Self { ok: true, ..Self::default() }
    }

    fn status(status: Status) -> Self {
        Self { version: Some(VERSION), status: Some(status), ..Self::done() }
    }

    fn usage(usage: Usage) -> Self {
        Self { usage: Some(usage), ..Self::done() }
    }

    fn ended(reason: &str) -> Self {
        Self { reason: Some(reason.to_owned()), ..Self::done() }
    }

    fn refused(error: impl ToString) -> Self {
        Self { error: Some(error.to_string()), ..Self::default() }
    }
}

#[cfg(test)]
mod tests;
