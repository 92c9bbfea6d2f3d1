//! Starting threads inside the sandbox.
//!
//! A thread inherits the filters of the one that starts it, and a virtual CPU starts the workers of
//! devices when their driver is ready. So that a virtual CPU need not be allowed all that a worker
//! may do, one thread that never touches the guest starts all others.

use std::collections::BTreeMap;
use std::io;
use std::sync::OnceLock;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::{Builder, JoinHandle};

use vmm_sys_util::signal::block_signal;

use super::seccomp::Filter;
use super::tables::{self, Table};
use super::{Error, Role};

/// Bytes of a thread's stack. Less than a huge page, or the host could back each with one.
const STACK: usize = 256 << 10;

/// The thread that starts all others. It has no table of its own: they inherit its filter, so it can have none
/// below what they may do together, which is the process's.
pub(super) const SPAWNER: &str = "spawner";

/// Where threads are asked for, once the process is in its sandbox.
static INSIDE: OnceLock<Sender<Job>> = OnceLock::new();

/// A thread to be started.
struct Job {
    name: String,
    body: Box<dyn FnOnce() + Send>,
    started: Sender<io::Result<JoinHandle<()>>>,
}

/// Starts a thread. In a process with a sandbox it gets the filter of its kind before anything else,
/// and without a row for its name in `tables.rs` it is not started.
///
/// # Errors
/// When the host gives no thread, or the sandbox has no table for one of that name.
pub fn spawn(name: &str, body: impl FnOnce() + Send + 'static) -> io::Result<JoinHandle<()>> {
    let Some(jobs) = INSIDE.get() else {
        return builder(name).spawn(body);
    };
    let (started, result) = channel();
    let job = Job { name: name.to_owned(), body: Box::new(body), started };
    let gone = || io::Error::other("the thread that starts others is gone");
    jobs.send(job).map_err(|_| gone())?;
    result.recv().map_err(|_| gone())?
}

fn builder(name: &str) -> Builder {
    Builder::new().name(name.to_owned()).stack_size(STACK)
}

/// Whether the process is in its sandbox.
pub fn is_inside() -> bool {
    INSIDE.get().is_some()
}

/// Starts the thread that starts others, and puts filters on all threads, and on the calling one that
/// of its role. Gives why not where the kernel has no filters.
pub(super) fn enter(role: Role) -> Result<Option<io::Error>, Error> {
    let failed = |source| Error::System { what: "system call filters", source };
    let no_clone3 = Filter::no_clone3().map_err(Error::Filters)?;
    let process = Filter::of_process(role).map_err(Error::Filters)?;
    let own = Filter::of(table_of(role, role.kind()).map_err(failed)?).map_err(Error::Filters)?;
    let (jobs, queue) = channel();
    let (ready, filtered) = channel();
    let spawner = move || {
        // Without an answer there is nothing to serve.
        if let Ok(filtered) = filtered.recv() {
            Spawner { role, filtered, filters: BTreeMap::new() }.serve(&queue);
        }
    };
    builder(SPAWNER).spawn(spawner).map_err(failed)?;
    let missing = match no_clone3.enter_process().and_then(|()| process.enter_process()) {
        Ok(()) => None,
        // What kernels say that were built without.
        Err(error) if matches!(error.raw_os_error(), Some(libc::ENOSYS | libc::EINVAL)) => Some(error),
        Err(error) => return Err(failed(error)),
    };
    if missing.is_none() {
        own.enter_thread().map_err(failed)?;
    }
    _ = ready.send(missing.is_none());
    _ = INSIDE.set(jobs);
    Ok(missing)
}

fn table_of(role: Role, thread: &str) -> io::Result<&'static Table> {
    tables::kind_of(role, thread)
        .ok_or_else(|| io::Error::other(format!("the sandbox has no table for a thread `{thread}`")))
}

/// The thread that starts others.
struct Spawner {
    role: Role,
    /// Whether the host's kernel has filters.
    filtered: bool,
    /// Those that were wanted so far, by the kind of thread.
    filters: BTreeMap<&'static str, Filter>,
}

impl Spawner {
    fn serve(&mut self, queue: &Receiver<Job>) {
        // For the threads that were there before, which wait for them: their handlers are not for those
        // that run guests. It fails for no signal that there is.
        for signal in [libc::SIGINT, libc::SIGTERM, libc::SIGHUP] {
            _ = block_signal(signal);
        }
        while let Ok(Job { name, body, started }) = queue.recv() {
            // Who asked waits for the answer.
            _ = started.send(self.start(name, body));
        }
    }

    fn start(&mut self, name: String, body: Box<dyn FnOnce() + Send>) -> io::Result<JoinHandle<()>> {
        let filter = self.filter(&name)?;
        let thread = builder(&name);
        thread.spawn(move || {
            confine(filter.as_ref(), &name);
            body();
        })
    }

    /// What a thread of that name has to put on.
    fn filter(&mut self, name: &str) -> io::Result<Option<Filter>> {
        let table = table_of(self.role, name)?;
        let filter = match self.filters.get(table.thread) {
            Some(filter) => filter.clone(),
            None => {
                let filter = Filter::of(table).map_err(io::Error::other)?;
                self.filters.insert(table.thread, filter.clone());
                filter
            }
        };
        Ok(self.filtered.then_some(filter))
    }
}

/// Puts a filter on this thread. The process had one put on before, so it can be; a thread that yet has
/// none must not run.
fn confine(filter: Option<&Filter>, thread: &str) {
    if let Some(Err(error)) = filter.map(Filter::enter_thread) {
        let text = format!("sandbox: cannot confine thread {thread}: {error}\n");
        _ = rustix::io::write(rustix::stdio::stderr(), text.as_bytes());
        std::process::abort();
    }
}
