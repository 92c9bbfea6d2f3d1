//! The thread behind a device, and what it waits for.

use std::io;
use std::os::fd::{AsRawFd, RawFd};
use std::thread::JoinHandle;

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
/// Requests between two looks at the order to stop, and at most before an interrupt.
const BATCH: u16 = 16;
/// The token of a single queue's kick.
const KICK: u64 = 0;
/// The token of the order to stop; devices number their own from 0.
const STOP: u64 = u64::MAX;

/// A running worker; dropping it stops and joins it.
#[derive(Debug)]
pub(super) struct Worker {
    stop: EventFd,
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
        let events = Events::new(&stop).map_err(Error::EventFd)?;
        let thread = sandbox::spawn(device, move || body(events))
            .map_err(|source| Error::Thread { device, source })?;
        Ok(Self { stop, thread: Some(thread) })
    }

    /// Tells it to stop and does not wait: for those who stop several at once.
    pub(super) fn tell_to_stop(&self) {
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
}

impl Events {
    fn new(stop: &EventFd) -> io::Result<Self> {
        let epoll = Epoll::new()?;
        let event = EpollEvent::new(EventSet::IN, STOP);
        epoll.ctl(ControlOperation::Add, stop.as_raw_fd(), event)?;
        Ok(Self { epoll })
    }

    /// Watches `source` under the number `token`. Only edges are reported, so that a kick costs no
    /// read of its event; the worker remembers what it did not finish.
    pub(super) fn watch(&self, source: &impl AsRawFd, token: u64, set: EventSet) -> io::Result<()> {
        let event = EpollEvent::new(set | EventSet::EDGE_TRIGGERED, token);
        self.epoll.ctl(ControlOperation::Add, source.as_raw_fd(), event)
    }

    /// Reports what happened since the last call to `on`, after something did if `block` is set.
    /// False is the order to stop.
    pub(super) fn wait(&self, block: bool, mut on: impl FnMut(u64, EventSet)) -> io::Result<bool> {
        let mut events = [EpollEvent::default(); MAX_EVENTS];
        let timeout = if block { -1 } else { 0 };
        let count = loop {
            match self.epoll.wait(timeout, &mut events) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                result => break result?,
            }
        };
        let mut go_on = true;
        for event in events.iter().take(count) {
            match event.data() {
                STOP => go_on = false,
                token => on(token, event.event_set()),
            }
        }
        Ok(go_on)
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

/// Serves the queue of that number with `handle`, which gives the number of bytes that it wrote to the
/// chain, until the order to stop comes or the driver breaks the rules.
pub(super) fn serve<'m>(
    number: u16,
    events: &Events,
    (mem, queue, kick): (&'m GuestMemoryMmap, &Queue, &EventFd),
    options: &Options,
    interrupt: &Interrupt,
    mut handle: impl FnMut(&mut Chain<'m>) -> u32,
) {
    let mut run = || -> Result<(), WorkerError> {
        let mut ring = Ring::new(mem, queue, options.features, options.byte_limit)?;
        let mut chain = ring.new_chain();
        events.watch(kick, KICK, EventSet::IN)?;
        let mut more = true;
        while events.wait(!more, |_, _| {})? {
            more = serve_batch(&mut ring, &mut chain, &mut handle)?;
            if ring.publish()? {
                interrupt.used(number);
            }
            more = more || ring.enable_kicks()?;
        }
        Ok(())
    };
    if let Err(error) = run() {
        give_up(options.name, &error, interrupt);
    }
}

/// Handles up to [`BATCH`] chains; false when the ring ran empty.
fn serve_batch<'m>(
    ring: &mut Ring<'m>,
    chain: &mut Chain<'m>,
    handle: &mut impl FnMut(&mut Chain<'m>) -> u32,
) -> Result<bool, Fault> {
    ring.disable_kicks()?;
    for _ in 0..BATCH {
        if !ring.pop(chain)? {
            return Ok(false);
        }
        let written = handle(chain);
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
