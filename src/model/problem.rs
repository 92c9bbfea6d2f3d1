//! Something that is wrong with a file, and where.

use std::ops::Range;
use std::path::PathBuf;

use serde::Serialize;

/// One thing that is wrong with a configuration or ENV file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Problem {
    /// The file it is in.
    pub file: PathBuf,
    /// Line, from 1; `None` where it is about the file as a whole.
    pub line: Option<usize>,
    /// Column in characters, from 1.
    pub column: Option<usize>,
    /// What is wrong.
    pub message: String,
    /// What to write instead.
    pub help: Option<String>,
    /// The line itself and what to underline in it (bytes). Never a line of an ENV file.
    #[serde(skip)]
    pub excerpt: Option<(String, Range<usize>)>,
}

/// A folder of a machine that the host does not have: nothing is wrong with the file, and only what uses the
/// folder fails.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Absent {
    /// Where the folder is in the guest.
    pub guest: String,
    /// It is a copy of the host's.
    pub copied: bool,
    /// Why it cannot be used, with the line that names it.
    pub problem: Problem,
}
