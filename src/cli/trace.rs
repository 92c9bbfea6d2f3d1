//! What happens inside, for those who look for a fault: `-v`, `-vv` or `RVM_LOG`.

use std::io::{self, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::MakeWriter;

use super::app;
use super::error::{CliError, Kind};
use super::ui::Ui;
use super::ui::sink::To;
use crate::model::Code;

/// Sends traces to standard error, through the screen that masks secrets. Without `-v` and
/// `RVM_LOG` nothing is traced.
pub fn start(verbose: u8, ui: Arc<Ui>) -> Result<(), CliError> {
    let filter = match (app::env("RVM_LOG"), verbose) {
        (Some(filter), _) => filter,
        (None, 0) => return Ok(()),
        (None, 1) => "rvm=debug".into(),
        (None, _) => "trace".into(),
    };
    let filter = EnvFilter::try_new(&filter).map_err(|e| {
        CliError::new(Kind::Config, Code::Variable, format!("RVM_LOG is no filter: `{filter}`"))
            .because(&e)
            .hint("examples: RVM_LOG=debug, RVM_LOG=rvm::image=trace")
    })?;
    let color = ui.color(To::Stderr);
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_ansi(color)
        .with_writer(Screen(ui))
        .try_init()
        .map_err(|e| CliError::failed(Code::Host, format!("cannot start tracing: {e}")))
}

/// Sends warnings of a process that runs for days to its standard error, which is a log file of its machine: so many
/// bytes that no guest fills the disk with them.
pub fn to_log() {
    let log = Log(Arc::new(AtomicUsize::new(LOG_LIMIT)));
    let started = tracing_subscriber::fmt()
        .with_max_level(tracing::Level::WARN)
        .with_ansi(false)
        .with_target(false)
        .with_writer(log)
        .try_init();
    // It fails only where there is one already.
    drop(started);
}

/// Bytes that a process traces in all.
const LOG_LIMIT: usize = 64 << 10;

#[derive(Clone)]
struct Log(Arc<AtomicUsize>);

impl Write for Log {
    fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        let take = |left: usize| left.checked_sub(data.len());
        if self.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, take).is_ok() {
            io::stderr().write_all(data)?;
        }
        Ok(data.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl MakeWriter<'_> for Log {
    type Writer = Log;

    fn make_writer(&self) -> Log {
        self.clone()
    }
}

#[derive(Clone)]
struct Screen(Arc<Ui>);

impl Write for Screen {
    // One call a line: that is how tracing-subscriber writes.
    fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        self.0.diagnostic(&String::from_utf8_lossy(data));
        Ok(data.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl MakeWriter<'_> for Screen {
    type Writer = Screen;

    fn make_writer(&self) -> Screen {
        self.clone()
    }
}
