//! Which walls this host has, tried on a thread that ends afterwards.

use std::io;
use std::thread;

use super::seccomp::Filter;
use super::{Error, Policy, Report, Role, close_files};

/// Puts up what the kernel has to give, on a thread of its own: the calling process stays as it is.
///
/// # Errors
/// Those of [`enter`](super::enter).
pub fn probe() -> Result<Report, Error> {
    let failed = |source| Error::System { what: "thread", source };
    let thread = thread::Builder::new().name("sandbox-probe".into()).spawn(|| {
        let filter = Filter::of_process(Role::default()).map_err(Error::Filters)?;
        let landlock = close_files(&Policy::default())?;
        Ok(Report { landlock, no_seccomp: filter.enter_thread().err() })
    });
    let panicked = |_| failed(io::Error::other("it panicked"));
    thread.map_err(failed)?.join().map_err(panicked)?
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_caller_stays_free() {
        let report = probe().unwrap();
        assert!(report.no_seccomp.is_none(), "{report:?}");
        std::fs::read("/proc/self/status").unwrap();
    }
}
