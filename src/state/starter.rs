//! What a detached process tells the command that started it, once.

use std::fs::File;
use std::io::{self, Write};

use rustix::stdio::{dup2_stdout, stdout};

/// The command that waits at the other end of standard output.
pub struct Starter(Option<File>);

impl Starter {
    /// Takes standard output; `/dev/null` takes its place, for nobody reads what comes later.
    ///
    /// # Errors
    /// When there is no descriptor left, or no `/dev/null`.
    pub fn take() -> io::Result<Self> {
        let output = rustix::io::fcntl_dupfd_cloexec(stdout(), 3)?;
        let null = File::options().read(true).write(true).open("/dev/null")?;
        dup2_stdout(&null)?;
        Ok(Self(Some(output.into())))
    }

    /// One that hears by way of that file.
    #[cfg(test)]
    pub(crate) fn of(file: File) -> Self {
        Self(Some(file))
    }

    /// Whether it has been told nothing yet.
    pub fn waits(&self) -> bool {
        self.0.is_some()
    }

    /// Says it, the first time, and hangs up, which tells the starter that nothing follows.
    pub fn tell(&mut self, text: &str) {
        if let Some(mut output) = self.0.take() {
            // It may be gone: that is no reason for this process to end.
            let _ = output.write_all(text.as_bytes());
        }
    }
}
