//! The thread behind a socket device: packets from the guest to the host and the other way.

use virtio_queue::Queue;
use vm_memory::GuestMemoryMmap;
use vmm_sys_util::epoll::EventSet;
use vmm_sys_util::eventfd::EventFd;

use super::host::Host;
use super::mux::{Mux, Source};
use super::packet::HEADER_LEN;
use super::{Counters, NAME};
use crate::vmm::virtio::chain::Chain;
use crate::vmm::virtio::device::Interrupt;
use crate::vmm::virtio::queue::{Fault, Ring};
use crate::vmm::virtio::worker::{Events, WorkerError, give_up};

/// Queue numbers (virtio 1.2, section 5.10.2), which serve as event tokens too.
const RX: u16 = 0;
const TX: u16 = 1;
const LISTENER: u64 = 3;
/// Packets in one direction before the other one, and the order to stop, get a look.
const BUDGET: usize = 64;
/// Most bytes in a chain; a driver's packets are 64 KiB at most, but nothing says so.
const BYTE_LIMIT: u32 = 1 << 30;

/// What the worker takes over from the device.
pub(super) struct Setup {
    pub(super) mem: GuestMemoryMmap,
    pub(super) features: u64,
    pub(super) rx: (Queue, EventFd),
    pub(super) tx: (Queue, EventFd),
    pub(super) interrupt: Interrupt,
    pub(super) cid: u32,
}

/// Moves packets until told to stop or the driver breaks the rules; then all connections end.
pub(super) fn run(events: &Events, setup: &Setup, host: &mut Host, counters: &Counters) {
    let mut work = || -> Result<(), WorkerError> {
        let rx = Ring::new(&setup.mem, &setup.rx.0, setup.features, BYTE_LIMIT)?;
        let tx = Ring::new(&setup.mem, &setup.tx.0, setup.features, BYTE_LIMIT)?;
        let mux = Mux::new(setup.cid, host, events, counters);
        events.watch(&setup.rx.1, u64::from(RX), EventSet::IN)?;
        events.watch(&setup.tx.1, u64::from(TX), EventSet::IN)?;
        for listener in mux.listeners() {
            events.watch(&Source(listener), LISTENER, EventSet::IN)?;
        }
        let (rx_chain, tx_chain) = (rx.new_chain(), tx.new_chain());
        let interrupt = &setup.interrupt;
        Worker { rx, rx_chain, tx, tx_chain, mux, interrupt, no_buffers: false, no_packets: false }
            .work(events)
    };
    if let Err(error) = work() {
        give_up(NAME, &error, &setup.interrupt);
    }
}

struct Worker<'m, 'a> {
    rx: Ring<'m>,
    rx_chain: Chain<'m>,
    tx: Ring<'m>,
    tx_chain: Chain<'m>,
    mux: Mux<'a>,
    interrupt: &'a Interrupt,
    /// Packets for the guest wait for its buffers.
    no_buffers: bool,
    /// The guest has sent nothing that was not taken.
    no_packets: bool,
}

impl Worker<'_, '_> {
    fn work(&mut self, events: &Events) -> Result<(), WorkerError> {
        loop {
            let idle = self.no_packets && !self.may_receive() && !self.mux.may_accept();
            if !events.wait(idle, |token, set| self.note(token, set))? {
                return Ok(());
            }
            if self.mux.may_accept() {
                self.mux.accept();
            }
            if !self.no_packets {
                self.transmit()?;
            }
            if self.may_receive() {
                self.receive()?;
            }
        }
    }

    fn may_receive(&self) -> bool {
        !self.no_buffers && self.mux.has_packets()
    }

    /// Takes in what happened.
    fn note(&mut self, token: u64, set: EventSet) {
        self.mux.try_again();
        match token {
            token if token == u64::from(RX) => self.no_buffers = false,
            token if token == u64::from(TX) => self.no_packets = false,
            LISTENER => self.mux.set_acceptable(),
            token => self.mux.event(token, set),
        }
    }

    /// Takes up to [`BUDGET`] packets of the guest's; one interrupt.
    fn transmit(&mut self) -> Result<(), Fault> {
        self.tx.disable_kicks()?;
        let mut emptied = false;
        for _ in 0..BUDGET {
            if !self.tx.pop(&mut self.tx_chain)? {
                emptied = true;
                break;
            }
            self.mux.take(&mut self.tx_chain);
            self.tx.push(self.tx_chain.head(), 0)?;
        }
        if self.tx.publish()? {
            self.interrupt.used(TX);
        }
        self.no_packets = emptied && !self.tx.enable_kicks()?;
        Ok(())
    }

    /// Gives the guest up to [`BUDGET`] packets and one interrupt.
    fn receive(&mut self) -> Result<(), Fault> {
        self.rx.disable_kicks()?;
        for _ in 0..BUDGET {
            if !self.mux.has_packets() {
                break;
            }
            if !self.rx.pop(&mut self.rx_chain)? {
                self.no_buffers = true;
                break;
            }
            let useful = self.rx_chain.readable().is_empty() && self.rx_chain.writable_len() > HEADER_LEN;
            let written = if useful { self.mux.write_next(&mut self.rx_chain) } else { 0 };
            if useful && written == 0 {
                self.rx.unpop(1);
                break;
            }
            self.rx.push(self.rx_chain.head(), written)?;
        }
        if self.rx.publish()? {
            self.interrupt.used(RX);
        }
        if self.no_buffers && self.rx.enable_kicks()? {
            self.no_buffers = false;
        }
        Ok(())
    }
}
