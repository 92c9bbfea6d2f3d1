//! The thread behind a device, and what it waits for.

use std::io;
use std::os::fd::{AsRawFd, RawFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use virtio_queue::{Queue, QueueT};
use vm_memory::GuestMemoryMmap;
use vmm_sys_util::epoll::{ControlOperation, Epoll, EpollEvent, EventSet};
use vmm_sys_util::eventfd::EventFd;

use super::chain::Chain;
use super::device::Interrupt;
use super::queue::{Fault, Ring, SetupError};
use super::{Error, error_text, new_event};
use crate::vmm::sandbox;

/// Events fetched at once. Only the socket device has more sources; the rest comes with the next call.
const MAX_EVENTS: usize = 8;
/// Requests at most before an interrupt.
const BATCH: u16 = 16;
/// The token of a single queue's kick.
const KICK: u64 = 0;
/// The token of the order to stop; devices number their own from 0.
const STOP: u64 = u64::MAX;

/// A running worker; dropping it stops and joins it.
#[derive(Debug)]
pub(super) struct Worker {
    stop: EventFd,
    stopping: Stopping,
    thread: Option<JoinHandle<()>>,
}

impl Worker {
    /// Starts `body` on a thread of its own. It has to return soon after [`Events::wait`] is false.
    /// What it may do has to be in the sandbox's table for threads of the name `device`.
    pub(super) fn spawn(
        device: &'static str,
        body: impl FnOnce(Events) + Send + 'static,
    ) -> Result<Self, Error> {
        let stop = new_event().map_err(Error::EventFd)?;
        let stopping = Stopping::default();
        let events = Events::new(&stop, stopping.clone()).map_err(Error::EventFd)?;
        let thread = sandbox::spawn(device, move || body(events))
            .map_err(|source| Error::Thread { device, source })?;
        Ok(Self { stop, stopping, thread: Some(thread) })
    }

    /// Tells it to stop and does not wait: for those who stop several at once.
    pub(super) fn tell_to_stop(&self) {
        self.stopping.0.store(true, Ordering::Relaxed);
        let _ = self.stop.write(1);
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        self.tell_to_stop();
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("a virtio worker panicked");
        }
    }
}

/// Whether a worker was told to stop: for those who are in the middle of something long and wait for
/// nothing.
#[derive(Clone, Debug, Default)]
pub(super) struct Stopping(Arc<AtomicBool>);

impl Stopping {
    /// Whether it was.
    pub(super) fn is_set(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

/// A descriptor by number, for [`Events::watch`].
pub(super) struct Source(pub(super) RawFd);

impl AsRawFd for Source {
    fn as_raw_fd(&self) -> RawFd {
        self.0
    }
}

/// What a worker waits for: edges of its own sources, and the order to stop.
pub(super) struct Events {
    epoll: Epoll,
    stopping: Stopping,
}

/// Why [`Events::wait_up_to`] came back.
enum Woken {
    /// The order to stop.
    Stop,
    /// Something happened.
    Event,
    /// Nothing did.
    Nothing,
}

impl Events {
    fn new(stop: &EventFd, stopping: Stopping) -> io::Result<Self> {
        let epoll = Epoll::new()?;
        let event = EpollEvent::new(EventSet::IN, STOP);
        epoll.ctl(ControlOperation::Add, stop.as_raw_fd(), event)?;
        Ok(Self { epoll, stopping })
    }

    /// The same order to stop as [`wait`](Self::wait) gives, to be looked at without a system call.
    pub(super) fn stopping(&self) -> Stopping {
        self.stopping.clone()
    }

    /// Watches `source` under the number `token`. Only edges are reported, so that a kick costs no
    /// read of its event; the worker remembers what it did not finish.
    pub(super) fn watch(&self, source: &impl AsRawFd, token: u64, set: EventSet) -> io::Result<()> {
        let event = EpollEvent::new(set | EventSet::EDGE_TRIGGERED, token);
        self.epoll.ctl(ControlOperation::Add, source.as_raw_fd(), event)
    }

    /// Reports what happened since the last call to `on`, after something did if `block` is set.
    /// False is the order to stop.
    pub(super) fn wait(&self, block: bool, on: impl FnMut(u64, EventSet)) -> io::Result<bool> {
        let limit = if block { None } else { Some(Duration::ZERO) };
        Ok(!matches!(self.wait_up_to(limit, on)?, Woken::Stop))
    }

    /// The same, for so long at most; without a limit until something happened.
    fn wait_up_to(&self, limit: Option<Duration>, mut on: impl FnMut(u64, EventSet)) -> io::Result<Woken> {
        let mut events = [EpollEvent::default(); MAX_EVENTS];
        let timeout = limit.map_or(-1, |limit| i32::try_from(limit.as_millis()).unwrap_or(i32::MAX));
        let count = loop {
            match self.epoll.wait(timeout, &mut events) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                result => break result?,
            }
        };
        let mut woken = if count == 0 { Woken::Nothing } else { Woken::Event };
        for event in events.iter().take(count) {
            match event.data() {
                STOP => woken = Woken::Stop,
                token => on(token, event.event_set()),
            }
        }
        Ok(woken)
    }
}

/// How [`serve`] is to treat its queue.
pub(super) struct Options {
    /// Feature bits that were agreed on.
    pub(super) features: u64,
    /// Most bytes in one chain.
    pub(super) byte_limit: u32,
    /// The device, for the log.
    pub(super) name: &'static str,
}

/// The first `N` queues of a device that needs them all.
pub(super) fn ready_queues<const N: usize>(
    queues: Vec<(Queue, EventFd)>,
) -> Result<[(Queue, EventFd); N], Error> {
    let ready = queues.iter().take_while(|(queue, _)| queue.ready()).count();
    let not_ready = Error::Queue { index: ready, source: SetupError::NotReady };
    if ready < N {
        return Err(not_ready);
    }
    let first: Vec<_> = queues.into_iter().take(N).collect();
    first.try_into().map_err(|_| not_ready)
}

/// What [`serve`] does with a queue. A closure handles requests and has nothing to do besides.
pub(super) trait Handler<'m> {
    /// Carries out a request; gives the number of bytes that it wrote to the chain.
    fn handle(&mut self, chain: &mut Chain<'m>) -> u32;

    /// How long the queue has to be quiet until [`tidy_up`](Self::tidy_up), if there is something to do.
    fn tidy_after(&self) -> Option<Duration> {
        None
    }

    /// What can wait until there is nothing else to do.
    fn tidy_up(&mut self) {}
}

impl<'m, F: FnMut(&mut Chain<'m>) -> u32> Handler<'m> for F {
    fn handle(&mut self, chain: &mut Chain<'m>) -> u32 {
        self(chain)
    }
}

/// Serves the queue of that number with `handler`, until the order to stop comes or the driver breaks
/// the rules. The order is looked at after each request.
pub(super) fn serve<'m>(
    number: u16,
    events: &Events,
    (mem, queue, kick): (&'m GuestMemoryMmap, &Queue, &EventFd),
    options: &Options,
    interrupt: &Interrupt,
    mut handler: impl Handler<'m>,
) {
    let mut run = || -> Result<(), WorkerError> {
        let mut ring = Ring::new(mem, queue, options.features, options.byte_limit)?;
        let mut chain = ring.new_chain();
        events.watch(kick, KICK, EventSet::IN)?;
        let mut more = true;
        loop {
            let limit = if more { Some(Duration::ZERO) } else { handler.tidy_after() };
            match events.wait_up_to(limit, |_, _| {})? {
                Woken::Stop => return Ok(()),
                Woken::Nothing if !more => {
                    handler.tidy_up();
                    continue;
                }
                Woken::Nothing | Woken::Event => {}
            }
            more = serve_batch(&mut ring, &mut chain, &mut handler, &events.stopping)?;
            if ring.publish()? {
                interrupt.used(number);
            }
            more = more || ring.enable_kicks()?;
        }
    };
    if let Err(error) = run() {
        give_up(options.name, &error, interrupt);
    }
}

/// Handles up to [`BATCH`] chains; false when the ring ran empty.
fn serve_batch<'m>(
    ring: &mut Ring<'m>,
    chain: &mut Chain<'m>,
    handler: &mut impl Handler<'m>,
    stopping: &Stopping,
) -> Result<bool, Fault> {
    ring.disable_kicks()?;
    for _ in 0..BATCH {
        if stopping.is_set() {
            break;
        }
        if !ring.pop(chain)? {
            return Ok(false);
        }
        let written = handler.handle(chain);
        ring.push(chain.head(), written)?;
    }
    Ok(true)
}

/// Why a worker gave up before it was told to.
#[derive(Debug, thiserror::Error)]
pub(super) enum WorkerError {
    /// The driver set the queue up wrongly.
    #[error("queue set up wrongly")]
    Setup(#[from] SetupError),
    /// The driver broke the rules of a queue.
    #[error("driver broke the rules")]
    Fault(#[from] Fault),
    /// Another process works on the queue, and says so.
    #[error("driver broke the rules, says the back-end")]
    BackEnd,
    /// The host could not wait for events.
    #[error("waiting for events")]
    Events(#[from] io::Error),
}

/// Logs why a device stops and asks the driver to reset it. A device does this once an activation,
/// so the guest cannot flood the log faster than it can reset.
pub(super) fn give_up(name: &str, error: &WorkerError, interrupt: &Interrupt) {
    tracing::warn!(device = name, error = %error_text(error), "virtio device needs a reset");
    interrupt.needs_reset();
}
