//! One file a target. A new one is a file here and a line in [`ALL`].

mod balloon;
mod block;
mod bzimage;
mod chain;
mod config;
mod console;
mod control;
mod elf;
mod fs;
mod import;
mod mmio;
mod net;
mod pci;
mod qcow2;
mod rng;
mod serial;
mod switch;
mod vsock;

use crate::Target;

/// Every target by name; `scripts/fuzz.sh` reads the names from here.
pub const ALL: &[(&str, Target)] = &[
    ("balloon", balloon::run),
    ("block", block::run),
    ("bzimage", bzimage::run),
    ("chain", chain::run),
    ("config", config::run),
    ("console", console::run),
    ("control", control::run),
    ("elf", elf::run),
    ("fs", fs::run),
    ("import", import::run),
    ("mmio", mmio::run),
    ("net", net::run),
    ("pci", pci::run),
    ("qcow2", qcow2::run),
    ("rng", rng::run),
    ("serial", serial::run),
    ("switch", switch::run),
    ("vsock", vsock::run),
];
