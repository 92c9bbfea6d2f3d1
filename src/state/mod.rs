//! Files that outlive a command: where they are, how they are written, who holds them.
//!
//! Every write goes through [`store`], so that a crash at any point leaves either the
//! old file or the new one. Locks are `flock`s: the kernel drops them with the process.

pub mod child;
pub mod inherited;
mod layout;
mod lock;
mod respawn;
mod starter;
pub mod store;

pub use layout::{Layout, LayoutError};
pub use lock::{Lock, LockError};
pub use respawn::Respawn;
pub use starter::Starter;
