//! A private network: a switch in user space, which is a process of its own (`rvm __switch DIR`).
//!
//! Machines are connected by UNIX stream sockets that carry frames behind a length of 4 bytes, as those of
//! passt do. Their Ethernet addresses are known, because `rvm` chose them, so nothing is learned and nothing
//! can be taught: a frame for an address that no member has goes nowhere. `docs/network.md` draws it all.

mod client;
mod dhcp;
mod dns;
mod guard;
pub(super) mod outbox;
pub mod process;
mod spec;
mod station;
mod table;

pub use client::{Client, ClientError};
pub(super) use spec::link_local;
pub use spec::{Counters, Member, PortStatus, Reply, Request, Spec, Zone};
/// For the fuzzer: what parses the frames of guests.
pub use table::{Gone, Table};
