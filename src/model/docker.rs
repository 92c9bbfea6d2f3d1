//! What a step with `docker` brings about.

use std::path::PathBuf;

use super::Secret;

/// Images that are to be there, and containers that are to run.
#[derive(Debug, Clone, Default)]
pub struct Docker {
    /// Archives of `docker save` on the host, absolute paths.
    pub archives: Vec<PathBuf>,
    /// Images to be had from a registry, where the guest lacks them.
    pub images: Vec<String>,
    /// Containers, in this order.
    pub containers: Vec<Container>,
    /// Containers that this step made and that are no longer among them are removed.
    pub remove: bool,
}

/// A container that is to run.
#[derive(Debug, Clone)]
pub struct Container {
    /// Its name; unique in the guest.
    pub name: String,
    /// The image that it is made from.
    pub image: String,
    /// As `docker run --publish` takes them.
    pub ports: Vec<String>,
    /// Names and values; the names are those that a shell takes.
    pub env: Vec<(String, Secret)>,
    /// As `docker run --volume` takes them.
    pub volumes: Vec<String>,
    /// The program and its arguments; empty: what the image says. They are seen in the guest's process
    /// list: no secrets.
    pub command: Vec<String>,
    /// When the engine starts it again.
    pub restart: Restart,
    /// The network that it is in; made where it is missing. `None`: the engine's own.
    pub network: Option<String>,
    /// Further options of `docker run`; no secrets.
    pub options: Vec<String>,
}

/// When the engine starts a container again that has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Restart {
    /// Never.
    No,
    /// When it failed.
    OnFailure,
    /// Always.
    Always,
    /// Always, and after a boot only if it was not stopped by hand.
    #[default]
    UnlessStopped,
}

impl Restart {
    /// As the engine calls it.
    pub fn as_str(self) -> &'static str {
        match self {
            Restart::No => "no",
            Restart::OnFailure => "on-failure",
            Restart::Always => "always",
            Restart::UnlessStopped => "unless-stopped",
        }
    }
}
