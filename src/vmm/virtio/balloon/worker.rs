//! The thread behind the balloon.

use virtio_queue::{Queue, QueueT};
use vm_memory::GuestMemoryMmap;
use vmm_sys_util::epoll::EventSet;
use vmm_sys_util::eventfd::EventFd;

use super::control::Shared;
use super::pages::Pages;
use super::{DEFLATE, INFLATE, MAX_PFNS, NAME, Stats};
use crate::vmm::virtio::Error;
use crate::vmm::virtio::chain::Chain;
use crate::vmm::virtio::device::Interrupt;
use crate::vmm::virtio::queue::{Fault, Ring, SetupError};
use crate::vmm::virtio::worker::{Events, WorkerError, give_up};

/// Requests of one queue before the others, and the order to stop, get a look.
const BATCH: u16 = 16;
/// The token of a wish for statistics; queues have their numbers.
const ASK: u64 = 64;
/// Most bytes in a request that holds page numbers or statistics.
const SMALL: u32 = (MAX_PFNS * 4) as u32;

/// What a queue is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// Numbers of pages that the guest does without.
    Inflate,
    /// Numbers of pages that it takes back.
    Deflate,
    /// One buffer with statistics, which comes back when new ones are wanted.
    Stats,
    /// Free pages.
    Report,
}

impl Kind {
    /// Most bytes in a chain.
    fn byte_limit(self) -> u32 {
        if self == Self::Report { u32::MAX } else { SMALL }
    }
}

/// What the worker takes over from the device.
pub(super) struct Setup {
    mem: GuestMemoryMmap,
    features: u64,
    queues: Vec<(u16, Kind, Queue, EventFd)>,
    pub(super) interrupt: Interrupt,
}

impl Setup {
    /// Takes those of `queues` that `kinds` gives a meaning and the driver made ready.
    ///
    /// # Errors
    /// [`Error::Queue`] when one is not ready that every balloon has.
    pub(super) fn new(
        mem: GuestMemoryMmap,
        features: u64,
        queues: Vec<(Queue, EventFd)>,
        kinds: &[(usize, Kind)],
        interrupt: Interrupt,
    ) -> Result<Self, Error> {
        let mut taken = Vec::with_capacity(kinds.len());
        for (index, (queue, kick)) in queues.into_iter().enumerate() {
            let kind = kinds.iter().find(|(number, _)| *number == index).map(|(_, kind)| *kind);
            match kind {
                Some(kind) if queue.ready() => taken.push((index as u16, kind, queue, kick)),
                _ if index == INFLATE || index == DEFLATE => {
                    return Err(Error::Queue { index, source: SetupError::NotReady });
                }
                _ => {}
            }
        }
        Ok(Self { mem, features, queues: taken, interrupt })
    }

    /// Whether there is a queue of that kind.
    pub(super) fn has(&self, kind: Kind) -> bool {
        self.queues.iter().any(|queue| queue.1 == kind)
    }
}

/// Serves the queues until told to stop or the driver breaks the rules.
pub(super) fn run(events: &Events, setup: &Setup, shared: &Shared) {
    let work = || -> Result<(), WorkerError> {
        let mut sides = Vec::with_capacity(setup.queues.len());
        for (number, kind, queue, kick) in &setup.queues {
            let ring = Ring::new(&setup.mem, queue, setup.features, kind.byte_limit())?;
            events.watch(kick, u64::from(*number), EventSet::IN)?;
            let chain = ring.new_chain();
            sides.push(Side { number: *number, kind: *kind, ring, chain, awake: true, held: None });
        }
        events.watch(&shared.ask, ASK, EventSet::IN)?;
        Worker { sides, pages: Pages::new(&setup.mem), setup, shared }.work(events)
    };
    if let Err(error) = work() {
        shared.silent();
        give_up(NAME, &error, &setup.interrupt);
    }
}

/// One queue.
struct Side<'m> {
    number: u16,
    kind: Kind,
    ring: Ring<'m>,
    chain: Chain<'m>,
    /// There may be something to do.
    awake: bool,
    /// The buffer for statistics, while it waits to be wanted.
    held: Option<u16>,
}

struct Worker<'m> {
    sides: Vec<Side<'m>>,
    pages: Pages,
    setup: &'m Setup,
    shared: &'m Shared,
}

impl Worker<'_> {
    fn work(&mut self, events: &Events) -> Result<(), WorkerError> {
        loop {
            let idle = !self.sides.iter().any(|side| side.awake);
            let sides = &mut self.sides;
            let woken = |token, _| {
                for side in sides.iter_mut() {
                    side.awake |=
                        token == u64::from(side.number) || (token == ASK && side.kind == Kind::Stats);
                }
            };
            if !events.wait(idle, woken)? {
                return Ok(());
            }
            for side in self.sides.iter_mut().filter(|side| side.awake) {
                side.awake = side.serve(&mut self.pages, self.setup, self.shared)?;
            }
        }
    }
}

impl Side<'_> {
    /// Up to [`BATCH`] requests; true when there may be more.
    fn serve(&mut self, pages: &mut Pages, setup: &Setup, shared: &Shared) -> Result<bool, Fault> {
        self.ring.disable_kicks()?;
        let mut more = true;
        for _ in 0..BATCH {
            if !self.ring.pop(&mut self.chain)? {
                more = false;
                break;
            }
            self.handle(pages, setup, shared)?;
        }
        if self.held.is_some() && shared.take_wish() {
            self.return_held()?;
        }
        if self.ring.publish()? {
            setup.interrupt.used(self.number);
        }
        Ok(more || self.ring.enable_kicks()?)
    }

    fn handle(&mut self, pages: &mut Pages, setup: &Setup, shared: &Shared) -> Result<(), Fault> {
        match self.kind {
            Kind::Inflate => shared.count(pages.inflate(&mut self.chain, &setup.mem)),
            // Nothing was taken away that has to be given back: the host fills pages as they are used.
            Kind::Deflate => {}
            Kind::Report => shared.count(pages.report(&self.chain)),
            Kind::Stats => {
                shared.answer(Stats::read(&mut self.chain));
                self.return_held()?;
                self.held = Some(self.chain.head());
                return Ok(());
            }
        }
        self.ring.push(self.chain.head(), 0)
    }

    fn return_held(&mut self) -> Result<(), Fault> {
        match self.held.take() {
            Some(head) => self.ring.push(head, 0),
            None => Ok(()),
        }
    }
}
