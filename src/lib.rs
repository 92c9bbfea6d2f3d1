//! `rvm`: declares virtual machines in one TOML `Vagrantfile`, boots them on a KVM
//! hypervisor of its own and provisions them over SSH.
//!
//! Data flows one way: `cli → config → plan → machine → provider → vmm`, with
//! `provision` beside `provider`. The rooms and the edges allowed between them are
//! drawn in `docs/architecture.md`; `tests/layering.rs` fails on any other import.

// The fuzz targets use six of the rooms; building the others would take most of a short fuzz.
#[cfg(not(fuzzing))]
pub mod cli;
pub mod config;
pub mod image;
pub mod import;
#[cfg(not(fuzzing))]
pub mod machine;
pub mod model;
pub mod net;
#[cfg(not(fuzzing))]
pub mod plan;
#[cfg(not(fuzzing))]
pub mod provider;
#[cfg(not(fuzzing))]
pub mod provision;
#[cfg(not(fuzzing))]
pub mod ssh;
pub mod state;
pub mod vmm;
