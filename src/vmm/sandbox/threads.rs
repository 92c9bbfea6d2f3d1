//! Starting threads inside the sandbox.
//!
//! A thread inherits the filters of the one that starts it, and a virtual CPU starts the workers of
//! devices when their driver is ready. So that a virtual CPU need not be allowed all that a worker
//! may do, one thread that never touches the guest starts all others.

use std::io;
use std::sync::OnceLock;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::{Builder, JoinHandle};

use vmm_sys_util::signal::block_signal;

use super::seccomp::Filters;
use super::tables;

/// Bytes of a thread's stack. Less than a huge page, or the host could back each with one.
const STACK: usize = 256 << 10;

/// What is set once the process is in its sandbox.
struct Inside {
    jobs: Sender<Job>,
    /// `None` where the host's kernel has no filters.
    filters: Option<Filters>,
}

static INSIDE: OnceLock<Inside> = OnceLock::new();

/// A thread to be started.
struct Job {
    name: String,
    kind: &'static str,
    body: Box<dyn FnOnce() + Send>,
    started: Sender<io::Result<JoinHandle<()>>>,
}

/// Starts a thread. In a process with a sandbox it gets the filter of its kind before anything else,
/// and without a row for its name in `tables.rs` it is not started.
///
/// # Errors
/// When the host gives no thread, or the sandbox has no table for one of that name.
pub fn spawn(name: &str, body: impl FnOnce() + Send + 'static) -> io::Result<JoinHandle<()>> {
    let Some(inside) = INSIDE.get() else {
        return builder(name).spawn(body);
    };
    let table = tables::kind_of(name)
        .ok_or_else(|| io::Error::other(format!("the sandbox has no table for a thread `{name}`")))?;
    let (started, result) = channel();
    let job = Job { name: name.to_owned(), kind: table.thread, body: Box::new(body), started };
    let gone = || io::Error::other("the thread that starts others is gone");
    inside.jobs.send(job).map_err(|_| gone())?;
    result.recv().map_err(|_| gone())?
}

fn builder(name: &str) -> Builder {
    Builder::new().name(name.to_owned()).stack_size(STACK)
}

/// Whether the process is in its sandbox.
pub(super) fn is_inside() -> bool {
    INSIDE.get().is_some()
}

/// Starts the thread that starts others, and puts filters on all threads, and on the calling one that
/// of kind `own`. Gives why not where the kernel has no filters.
pub(super) fn enter(filters: Filters, own: &str) -> io::Result<Option<io::Error>> {
    let (jobs, queue) = channel();
    builder("spawner").spawn(move || serve(&queue))?;
    let missing = match filters.enter_process() {
        Ok(()) => None,
        // What kernels say that were built without.
        Err(error) if matches!(error.raw_os_error(), Some(libc::ENOSYS | libc::EINVAL)) => Some(error),
        Err(error) => return Err(error),
    };
    if missing.is_none() {
        filters.enter_thread(own)?;
    }
    let filters = missing.is_none().then_some(filters);
    _ = INSIDE.set(Inside { jobs, filters });
    Ok(missing)
}

fn serve(queue: &Receiver<Job>) {
    // For the threads that were there before, which wait for them: their handlers are not for those
    // that run guests. It fails for no signal that there is.
    for signal in [libc::SIGINT, libc::SIGTERM, libc::SIGHUP] {
        _ = block_signal(signal);
    }
    while let Ok(Job { name, kind, body, started }) = queue.recv() {
        let thread = builder(&name).spawn(move || {
            confine(kind);
            body();
        });
        // Who asked waits for the answer.
        _ = started.send(thread);
    }
}

/// Puts the filter of `kind` on this thread. The process had one put on before, so it can be; a
/// thread that yet has none must not run.
fn confine(kind: &str) {
    let filters = INSIDE.get().and_then(|inside| inside.filters.as_ref());
    if let Some(Err(error)) = filters.map(|filters| filters.enter_thread(kind)) {
        let text = format!("sandbox: cannot confine thread {kind}: {error}\n");
        _ = rustix::io::write(rustix::stdio::stderr(), text.as_bytes());
        std::process::abort();
    }
}
