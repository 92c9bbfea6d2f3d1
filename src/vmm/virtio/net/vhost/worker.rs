//! The thread beside a card whose frames another process carries: it hands the queues over, takes them back,
//! and sees to it that another process can take them when the first is gone.

use std::os::fd::AsRawFd;
use std::sync::atomic::Ordering;

use virtio_queue::{Queue, QueueT};
use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};
use vmm_sys_util::epoll::EventSet;
use vmm_sys_util::eventfd::EventFd;

use super::peer::{Peer, PeerError, Ring};
use super::{BACKEND, Link, NAME, QUEUES, Shared};
use crate::vmm::virtio::device::Interrupt;
use crate::vmm::virtio::worker::{Events, Source, WorkerError, give_up};
use crate::vmm::virtio::{error_text, new_event};

/// Event tokens; those below are queues, of which the peer has used buffers.
const ERROR: u64 = 64;
const PEER: u64 = 65;
const LISTENER: u64 = 66;
/// Offset of the index in the used ring (virtio 1.2, section 2.7.8).
const USED_INDEX: u64 = 2;

/// What the worker takes over from the device.
pub(super) struct Setup {
    pub(super) mem: GuestMemoryMmap,
    pub(super) features: u64,
    pub(super) queues: [(Queue, EventFd); QUEUES],
    pub(super) interrupt: Interrupt,
}

/// What happened since the last look.
#[derive(Default)]
struct News {
    used: [bool; QUEUES],
    broken: bool,
    gone: bool,
    called: bool,
}

/// Has a peer serve the queues until told to stop or the driver breaks the rules.
pub(super) fn run(events: &Events, setup: &Setup, link: &mut Link, shared: &Shared) {
    let mut work = || -> Result<(), WorkerError> {
        // What the peer signals goes to the guest without us, or reaches it through us.
        let mut calls = Vec::with_capacity(QUEUES);
        for index in 0..QUEUES {
            let call = match setup.interrupt.lend(index as u16) {
                Some(call) => call,
                None => {
                    let call = new_event()?;
                    events.watch(&call, index as u64, EventSet::IN)?;
                    call
                }
            };
            calls.push(call);
        }
        let error = new_event()?;
        events.watch(&error, ERROR, EventSet::IN)?;
        if let Some(listener) = &link.listener {
            events.watch(&Source(listener.as_raw_fd()), LISTENER, EventSet::IN)?;
        }
        Worker { events, setup, link: &mut *link, shared, calls, error, fresh: true }.work()
    };
    if let Err(error) = work() {
        give_up(NAME, &error, &setup.interrupt);
    }
    if let Some(peer) = &link.peer
        && let Err(error) = peer.stop(QUEUES as u32)
    {
        link.lose(&error, shared, &setup.interrupt);
    }
}

struct Worker<'a> {
    events: &'a Events,
    setup: &'a Setup,
    link: &'a mut Link,
    shared: &'a Shared,
    calls: Vec<EventFd>,
    error: EventFd,
    /// No peer has had the queues yet.
    fresh: bool,
}

impl Worker<'_> {
    fn work(&mut self) -> Result<(), WorkerError> {
        self.hand_over()?;
        loop {
            let mut news = News::default();
            let note = |token, set: EventSet| match token {
                ERROR => news.broken = true,
                PEER => {
                    let gone = EventSet::READ_HANG_UP | EventSet::HANG_UP | EventSet::ERROR;
                    news.gone |= set.intersects(gone);
                }
                LISTENER => news.called = true,
                queue => {
                    if let Some(used) = news.used.get_mut(queue as usize) {
                        *used = true;
                    }
                }
            };
            if !self.events.wait(true, note)? {
                return Ok(());
            }
            for (queue, _) in (0..).zip(news.used).filter(|(_, used)| *used) {
                self.setup.interrupt.used(queue);
            }
            if news.broken {
                return Err(WorkerError::BackEnd);
            }
            if news.gone && self.link.peer.take().is_some() {
                tracing::warn!("the network back-end is gone; the link of the guest is down");
                self.shared.set_link(false, &self.setup.interrupt);
            }
            if news.called && self.link.accept(self.setup.features & BACKEND, self.shared) {
                self.hand_over()?;
            }
        }
    }

    /// Gives the queues to the peer, if there is one, from where the last one left them.
    fn hand_over(&mut self) -> Result<(), WorkerError> {
        let Some(peer) = &self.link.peer else { return Ok(()) };
        self.events.watch(peer, PEER, EventSet::IN | EventSet::READ_HANG_UP)?;
        match self.start(peer) {
            Ok(()) => self.shared.set_link(true, &self.setup.interrupt),
            Err(error) => self.link.lose(&error, self.shared, &self.setup.interrupt),
        }
        self.fresh = false;
        Ok(())
    }

    fn start(&self, peer: &Peer) -> Result<(), PeerError> {
        let Setup { mem, features, queues, .. } = self.setup;
        let mut rings = Vec::with_capacity(QUEUES);
        for ((queue, kick), call) in queues.iter().zip(&self.calls) {
            // Cards use buffers in order, so what was not used yet begins at the same place in both rings.
            let used = GuestAddress(queue.used_ring() + USED_INDEX);
            let base = if self.fresh { 0 } else { mem.read_obj::<u16>(used).map_or(0, u16::from_le) };
            rings.push(Ring { queue, base, kick, call, error: &self.error });
        }
        peer.start(mem, *features, &rings)?;
        for ring in rings {
            // Buffers may be there for which nobody was listening.
            let _ = ring.kick.write(1);
        }
        Ok(())
    }
}

impl Link {
    /// Takes the connection that came last, in place of an older one, if whoever is there can serve what
    /// the driver agreed to; whether there is a new one.
    fn accept(&mut self, agreed: u64, shared: &Shared) -> bool {
        let mut last = None;
        while let Some((socket, _)) = self.listener.as_ref().and_then(|listener| listener.accept().ok()) {
            last = Some(socket);
        }
        let Some(socket) = last else { return false };
        // The older one may still be at work on the queues.
        if let Some(peer) = self.peer.take()
            && peer.stop(QUEUES as u32).is_err()
        {
            self.part(peer, shared);
        }
        if self.stray {
            return false;
        }
        let peer = Peer::greet(socket, &self.table).and_then(|peer| match agreed & !peer.features() {
            0 => Ok(peer),
            _ => Err(PeerError::Lacks { what: "features that the one before it had" }),
        });
        match peer {
            Ok(peer) => self.peer = Some(peer),
            Err(error) => {
                tracing::warn!(error = %error_text(&error), "another network back-end is of no use")
            }
        }
        self.peer.is_some()
    }

    fn lose(&mut self, error: &PeerError, shared: &Shared, interrupt: &Interrupt) {
        tracing::warn!(error = %error_text(error), "the network back-end is given up; the link of the guest is down");
        if let Some(peer) = self.peer.take() {
            self.part(peer, shared);
        }
        shared.set_link(false, interrupt);
    }

    /// Leaves a peer that did not do as it was told and may be at work on the queues.
    fn part(&mut self, peer: Peer, shared: &Shared) {
        if !peer.part() {
            tracing::error!("the network back-end neither stops nor hangs up");
            self.stray = true;
            (shared.on_stray)();
        }
    }
}

impl Shared {
    /// Takes the link up or down, and says so.
    fn set_link(&self, up: bool, interrupt: &Interrupt) {
        if self.up.swap(up, Ordering::SeqCst) != up {
            interrupt.config_changed();
        }
    }
}
