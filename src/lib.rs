//! `rvm`: declares virtual machines in one TOML `Vagrantfile`, boots them on a KVM
//! hypervisor of its own and provisions them over SSH.
//!
//! Data flows one way: `cli → config → plan → machine → provider → vmm`, with
//! `provision` beside `provider`. The rooms and the edges allowed between them are
//! drawn in `docs/architecture.md`; `tests/layering.rs` fails on any other import.

pub mod cli;
pub mod config;
pub mod image;
pub mod machine;
pub mod model;
pub mod net;
pub mod plan;
pub mod provider;
pub mod provision;
pub mod ssh;
pub mod state;
pub mod vmm;
