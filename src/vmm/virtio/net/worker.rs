//! The thread behind a network card: frames from the back-end to the guest and the other way.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use virtio_queue::Queue;
use vm_memory::GuestMemoryMmap;
use vmm_sys_util::epoll::EventSet;
use vmm_sys_util::eventfd::EventFd;

use super::backend::Backend;
use super::batch::{Batch, Fate};
use super::pairs::Pairs;
use super::receive::{Delivery, Receiver};
use super::stream::Down;
use super::{F_MRG_RXBUF, NAME, Shared};
use crate::vmm::virtio::chain::Chain;
use crate::vmm::virtio::device::Interrupt;
use crate::vmm::virtio::queue::{Fault, Ring};
use crate::vmm::virtio::worker::{Events, Source, WorkerError, give_up};

/// Queue numbers in a pair (virtio 1.2, section 5.1.2), which serve as event tokens too.
pub(super) const RX: u16 = 0;
pub(super) const TX: u16 = 1;
const BACKEND: u64 = 2;
const LISTENER: u64 = 3;
const WAKE: u64 = 4;
/// Frames in one direction before the other one, and the order to stop, get a look.
const BUDGET: usize = 64;
/// Most bytes in a chain. Receive buffers are a few pages each, but nothing says so.
const BYTE_LIMIT: u32 = 1 << 30;

/// What the worker takes over from the device.
pub(super) struct Setup {
    pub(super) mem: GuestMemoryMmap,
    pub(super) features: u64,
    pub(super) rx: (Queue, EventFd),
    pub(super) tx: (Queue, EventFd),
    pub(super) interrupt: Interrupt,
    pub(super) mac: [u8; 6],
    /// Which pair of queues it is, of which.
    pub(super) pair: u16,
    pub(super) pairs: Arc<Pairs>,
}

/// Moves frames until told to stop or the driver breaks the rules.
pub(super) fn run(events: &Events, setup: &Setup, backend: &mut Backend, shared: &Shared) {
    let mut work = || -> Result<(), WorkerError> {
        let rx = Ring::new(&setup.mem, &setup.rx.0, setup.features, BYTE_LIMIT)?;
        let tx = Ring::new(&setup.mem, &setup.tx.0, setup.features, BYTE_LIMIT)?;
        events.watch(&setup.rx.1, u64::from(RX), EventSet::IN)?;
        events.watch(&setup.tx.1, u64::from(TX), EventSet::IN)?;
        if let Some(wake) = setup.pairs.wake(setup.pair.into()) {
            events.watch(wake, WAKE, EventSet::IN)?;
        }
        watch_link(events, backend)?;
        if let Some(listener) = backend.listener() {
            events.watch(&Source(listener), LISTENER, EventSet::IN)?;
        }
        let mergeable = setup.features & F_MRG_RXBUF != 0;
        let mut worker = Worker {
            receiver: Receiver::new(rx, mergeable),
            chain: tx.new_chain(),
            tx,
            batch: Batch::new(setup.features, !backend.takes_headers()),
            backend,
            shared,
            setup,
            rx_state: Rx::Work,
            tx_state: Tx::Work,
            called: false,
        };
        let result = worker.work(events);
        worker.backend.keep_tail(&worker.batch);
        result
    };
    if let Err(error) = work() {
        give_up(NAME, &error, &setup.interrupt);
    }
}

/// Has the events of what carries frames reported, if it is there.
fn watch_link(events: &Events, backend: &Backend) -> io::Result<()> {
    let any = EventSet::IN | EventSet::OUT | EventSet::READ_HANG_UP;
    backend.link().map_or(Ok(()), |link| events.watch(&Source(link), BACKEND, any))
}

/// What reception waits for.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Rx {
    /// Nothing: there may be frames and buffers.
    Work,
    /// Frames from the back-end.
    Frames,
    /// Buffers from the driver.
    Buffers,
}

/// What transmission waits for.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Tx {
    /// Nothing: there may be frames.
    Work,
    /// Frames from the driver.
    Frames,
    /// Room in the back-end.
    Room,
}

struct Worker<'m, 'a> {
    receiver: Receiver<'m>,
    tx: Ring<'m>,
    chain: Chain<'m>,
    batch: Batch<'m>,
    backend: &'a mut Backend,
    shared: &'a Shared,
    setup: &'a Setup,
    rx_state: Rx,
    tx_state: Tx,
    /// A new link waits to be taken.
    called: bool,
}

impl Worker<'_, '_> {
    fn work(&mut self, events: &Events) -> Result<(), WorkerError> {
        loop {
            let idle = self.rx_state != Rx::Work && self.tx_state != Tx::Work;
            if !events.wait(idle, |token, set| self.note(token, set))? {
                return Ok(());
            }
            if std::mem::take(&mut self.called) && self.backend.accept() {
                watch_link(events, self.backend)?;
                self.rx_state = Rx::Work;
                self.tx_state = Tx::Work;
            }
            if self.rx_state == Rx::Work {
                self.rx_state = self.receive()?;
            }
            if self.tx_state == Tx::Work {
                self.tx_state = self.transmit()?;
            }
        }
    }

    /// Takes in what happened.
    fn note(&mut self, token: u64, set: EventSet) {
        if token == u64::from(RX) && self.rx_state == Rx::Buffers {
            self.rx_state = Rx::Work;
        }
        if token == u64::from(TX) && self.tx_state == Tx::Frames {
            self.tx_state = Tx::Work;
        }
        self.called |= token == LISTENER;
        if token == WAKE {
            self.backend.set_readable(false);
            (self.rx_state, self.tx_state) = (Rx::Work, Tx::Work);
        }
        if token == BACKEND {
            let gone = EventSet::HANG_UP | EventSet::ERROR;
            let hung_up = set.intersects(EventSet::READ_HANG_UP | gone);
            if hung_up || set.contains(EventSet::IN) {
                self.backend.set_readable(hung_up);
                if self.rx_state == Rx::Frames {
                    self.rx_state = Rx::Work;
                }
            }
            if set.intersects(EventSet::OUT | gone) && self.tx_state == Tx::Room {
                self.tx_state = Tx::Work;
            }
        }
    }

    /// Whether frames go this way: neither is the link down nor does the driver do without this pair.
    fn is_open(&self) -> bool {
        self.shared.is_up() && self.setup.pairs.is_active(self.setup.pair.into())
    }

    /// The back-end does not work. A pair that was switched off meanwhile need not.
    fn failed(&self, error: &Down) {
        if self.setup.pairs.is_active(self.setup.pair.into()) {
            self.shared.link_down(error, &self.setup.interrupt);
        }
    }

    /// Raises the interrupt of one of the two queues.
    fn interrupt(&self, queue: u16) {
        self.setup.interrupt.used(2 * self.setup.pair + queue);
    }

    /// Gives the guest up to [`BUDGET`] frames and one interrupt.
    fn receive(&mut self) -> Result<Rx, Fault> {
        let mut next = Rx::Work;
        let (mut bytes, mut down) = (0, None);
        self.receiver.ring.disable_kicks()?;
        for _ in 0..BUDGET {
            let frame = match self.is_open().then(|| self.backend.peek()).transpose() {
                Ok(frame) => frame.flatten(),
                Err(error) => {
                    down = Some(error);
                    None
                }
            };
            let Some((header, frame)) = frame else {
                next = Rx::Frames;
                break;
            };
            match self.receiver.deliver(header, frame)? {
                Delivery::Done => {
                    bytes += frame.len() as u64;
                    count(&self.shared.counters.received);
                }
                Delivery::Dropped => count(&self.shared.counters.receive_dropped),
                Delivery::NoBuffers => {
                    next = Rx::Buffers;
                    break;
                }
                Delivery::Later => break,
            }
            self.backend.consume();
        }
        if let Some(error) = down {
            self.failed(&error);
        }
        // Once for all of them.
        self.shared.counters.received_bytes.fetch_add(bytes, Ordering::Relaxed);
        if self.receiver.ring.publish()? {
            self.interrupt(RX);
        }
        if next == Rx::Buffers && self.receiver.ring.enable_kicks()? {
            next = Rx::Work;
        }
        Ok(next)
    }

    /// Takes up to [`BUDGET`] frames of the guest's and sends what the back-end takes; one
    /// interrupt.
    fn transmit(&mut self) -> Result<Tx, Fault> {
        self.tx.disable_kicks()?;
        let emptied = self.gather()?;
        let mut next = Tx::Work;
        match self.backend.send(&mut self.batch) {
            Ok(true) => {}
            Ok(false) => next = Tx::Room,
            Err(error) => {
                self.failed(&error);
                self.batch.drop_all();
            }
        }
        let (tx, counters, mut result) = (&mut self.tx, &self.shared.counters, Ok(()));
        let mut bytes = 0;
        self.batch.take_done(|head, fate| {
            if result.is_ok() {
                result = tx.push(head, 0);
            }
            match fate {
                Fate::Sent(len) => {
                    bytes += len as u64;
                    count(&counters.sent);
                }
                Fate::Dropped => count(&counters.send_dropped),
            }
        });
        // Once for all of them.
        counters.sent_bytes.fetch_add(bytes, Ordering::Relaxed);
        result?;
        if self.tx.publish()? {
            self.interrupt(TX);
        }
        if next == Tx::Work && emptied && !self.tx.enable_kicks()? {
            next = Tx::Frames;
        }
        Ok(next)
    }

    /// Moves frames from the ring to the batch; true when the ring ran empty.
    fn gather(&mut self) -> Result<bool, Fault> {
        let mut emptied = false;
        for _ in 0..BUDGET {
            if !self.batch.has_room() {
                break;
            }
            if !self.tx.pop(&mut self.chain)? {
                emptied = true;
                break;
            }
            if !self.is_open() || self.batch.add(&mut self.chain, &self.setup.mac).is_err() {
                self.tx.push(self.chain.head(), 0)?;
                count(&self.shared.counters.send_dropped);
            }
        }
        Ok(emptied)
    }
}

fn count(counter: &AtomicU64) {
    counter.fetch_add(1, Ordering::Relaxed);
}
