//! One file a target. A new one is a file here and a line in [`ALL`].

mod block;
mod bzimage;
mod chain;
mod config;
mod control;
mod elf;
mod mmio;
mod net;
mod qcow2;
mod rng;
mod serial;

use crate::Target;

/// Every target by name; `scripts/fuzz.sh` reads the names from here.
pub const ALL: &[(&str, Target)] = &[
    ("block", block::run),
    ("bzimage", bzimage::run),
    ("chain", chain::run),
    ("config", config::run),
    ("control", control::run),
    ("elf", elf::run),
    ("mmio", mmio::run),
    ("net", net::run),
    ("qcow2", qcow2::run),
    ("rng", rng::run),
    ("serial", serial::run),
];
