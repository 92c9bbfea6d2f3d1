//! What can go wrong between the folder that a command starts in and a checked project.

use std::path::PathBuf;

use super::report::Report;
use crate::model::{Code, Problem};

/// Why there is no [`Project`](crate::model::Project).
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// No folder from here upward has a configuration file.
    #[error("no {name} found in {} or any folder above it", start.display())]
    NotFound {
        /// The file name, or both names, looked for.
        name: String,
        /// Where the search began.
        start: PathBuf,
    },
    /// A folder has a TOML file under both names.
    #[error("both Vagrantfile and Vagrantfile.toml are in {}", folder.display())]
    Ambiguous {
        /// The folder.
        folder: PathBuf,
    },
    /// The file cannot be read.
    #[error("cannot read {}", file.display())]
    Unreadable {
        /// The file.
        file: PathBuf,
        /// What the operating system said.
        #[source]
        source: std::io::Error,
    },
    /// There is something of that name, but it is not a file.
    #[error("{} is {what}, not a file", file.display())]
    NotAFile {
        /// The path.
        file: PathBuf,
        /// `a folder`, `a device`, …
        what: &'static str,
    },
    /// The file can be read, and something in it, or in the ENV file, is wrong.
    #[error("{0}")]
    Invalid(Report),
}

impl ConfigError {
    /// What is wrong inside the files, for machine-readable output; empty where the
    /// file itself is not there or cannot be read (then `Display` says it all).
    pub fn problems(&self) -> &[Problem] {
        match self {
            ConfigError::Invalid(report) => report.problems(),
            _ => &[],
        }
    }

    /// Its stable code (`docs/errors.md`).
    pub fn code(&self) -> Code {
        match self {
            ConfigError::NotFound { .. } => Code::NoVagrantfile,
            ConfigError::Ambiguous { .. } => Code::TwoVagrantfiles,
            ConfigError::Unreadable { .. } => Code::UnreadableConfig,
            ConfigError::NotAFile { .. } => Code::ConfigNotAFile,
            ConfigError::Invalid(_) => Code::InvalidConfig,
        }
    }

    /// The full text for people, with causes and hints; `color` adds terminal styles.
    pub fn render(&self, color: bool) -> String {
        if let ConfigError::Invalid(report) = self {
            return report.render(color);
        }
        let (red, off) = if color { ("\u{1b}[1;31m", "\u{1b}[0m") } else { ("", "") };
        let mut text =
            format!("{red}error[{}]{off}: {}", self.code(), super::report::printable(&self.to_string()));
        if let ConfigError::Unreadable { source, .. } = self {
            text.push_str(&format!(": {source}"));
        }
        if let Some(hint) = self.hint() {
            text.push_str(&format!("\n  = help: {hint}"));
        }
        text
    }

    /// What to do next. The problems inside a file carry their own.
    pub fn hint(&self) -> Option<String> {
        match self {
            ConfigError::NotFound { .. } => {
                Some("run `rvm init` to write one here, or change to the folder of your project".into())
            }
            ConfigError::Ambiguous { .. } => Some("keep one of the two and remove the other".into()),
            ConfigError::Unreadable { source, .. } if source.kind() == std::io::ErrorKind::NotFound => {
                Some("run `rvm init` to write one, or correct the name or the link".into())
            }
            ConfigError::Unreadable { .. } => Some("check that the file may be read by you".into()),
            ConfigError::NotAFile { .. } => Some("move it away and run `rvm init`".into()),
            ConfigError::Invalid(_) => None,
        }
    }
}
