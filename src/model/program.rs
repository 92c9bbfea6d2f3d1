//! Where programs of the host are.

use std::path::PathBuf;

/// The program of that name in the first folder of `path`, a value of `PATH`, that has it.
pub fn program_in(name: &str, path: &str) -> Option<PathBuf> {
    std::env::split_paths(path).map(|dir| dir.join(name)).find(|file| file.is_file())
}
