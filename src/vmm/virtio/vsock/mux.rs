//! All connections of a guest: whose packet is whose, and who sends next.

use std::collections::{HashMap, VecDeque};
use std::io;
use std::os::fd::{AsFd, AsRawFd, RawFd};
use std::sync::atomic::{AtomicU64, Ordering};

use vmm_sys_util::epoll::EventSet;

use super::connection::{Connection, Key, Verdict};
use super::host::Host;
use super::packet::{HEADER_LEN, HOST_CID, Header, TYPE_STREAM, op};
use super::{Counters, MAX_CONNECTIONS, MAX_RESETS};
use crate::vmm::virtio::chain::Chain;
use crate::vmm::virtio::worker::Events;

/// Bytes that are moved at once.
const SCRATCH: usize = 16 * 1024;
/// Programs of the host that are accepted before others get a turn.
const ACCEPTS: usize = 16;
/// Where the host's own ports for its connections to the guest begin: above all that guests ask for.
const FIRST_PORT: u32 = 1 << 30;
/// Tokens of connections are at least this; the worker has those below.
const TOKENS: u64 = 1 << 16;

/// A place for a connection. The number grows with each, so that an event for the last one is not
/// taken for one of its successor.
#[derive(Debug, Default)]
struct Slot {
    generation: u32,
    connection: Option<Connection>,
}

/// The connections of one life of a device.
pub(super) struct Mux<'h> {
    cid: u64,
    host: &'h mut Host,
    events: &'h Events,
    counters: &'h Counters,
    slots: Vec<Slot>,
    free: Vec<u16>,
    by_key: HashMap<Key, u16>,
    /// Slots that have something for the guest, in order of their turns.
    ready: VecDeque<u16>,
    /// Refusals of packets that belong to no connection.
    resets: VecDeque<Header>,
    scratch: Vec<u8>,
    next_port: u32,
    /// Programs of the host may be waiting to be accepted.
    may_accept: bool,
    /// One could not be, perhaps for lack of descriptors.
    is_short: bool,
}

impl<'h> Mux<'h> {
    /// No connections; all memory but the connections' buffers is had here.
    pub(super) fn new(cid: u32, host: &'h mut Host, events: &'h Events, counters: &'h Counters) -> Self {
        let may_accept = !host.doors().is_empty();
        Self {
            cid: cid.into(),
            host,
            events,
            counters,
            slots: (0..MAX_CONNECTIONS).map(|_| Slot::default()).collect(),
            free: (0..MAX_CONNECTIONS as u16).rev().collect(),
            by_key: HashMap::with_capacity(MAX_CONNECTIONS),
            ready: VecDeque::with_capacity(MAX_CONNECTIONS),
            resets: VecDeque::with_capacity(MAX_RESETS),
            scratch: vec![0; SCRATCH],
            next_port: FIRST_PORT,
            may_accept,
            is_short: false,
        }
    }

    /// The descriptors of all listeners.
    pub(super) fn listeners(&self) -> impl Iterator<Item = RawFd> {
        self.host.doors().iter().map(|door| door.as_fd().as_raw_fd())
    }

    /// Notes that a program of the host connected.
    pub(super) fn set_acceptable(&mut self) {
        self.may_accept = true;
    }

    /// Notes that something happened: who could not be accepted may be now. No listener tells of the same one again.
    pub(super) fn try_again(&mut self) {
        self.may_accept |= self.is_short;
    }

    /// Whether [`accept`](Self::accept) has something to do.
    pub(super) fn may_accept(&self) -> bool {
        self.may_accept
    }

    /// Takes in programs of the host, a few at a time. Those beyond the limit are closed.
    pub(super) fn accept(&mut self) {
        let (mut more, mut refusal) = (false, None);
        for at in 0..self.host.doors().len() {
            match self.accept_at(at) {
                Ok(may_be) => more |= may_be,
                Err(error) => refusal = Some(error),
            }
        }
        if let Some(error) = refusal.as_ref().filter(|_| !self.is_short) {
            tracing::warn!(%error, "vsock: cannot take a connection of the host's");
        }
        (self.may_accept, self.is_short) = (more, refusal.is_some());
    }

    /// Whether there may be more of them at that door.
    fn accept_at(&mut self, at: usize) -> io::Result<bool> {
        for _ in 0..ACCEPTS {
            let Some(door) = self.host.doors().get(at) else { return Ok(false) };
            let guest_port = door.guest_port;
            match door.accept() {
                Some(Ok(socket)) => {
                    let Some(guest_port) = guest_port else {
                        self.insert(Connection::greeting(socket));
                        continue;
                    };
                    if let Some(slot) = self.insert(Connection::leading(socket)) {
                        let verdict = self.ask(slot, guest_port);
                        self.settle(slot, verdict);
                    }
                }
                Some(Err(error)) => return Err(error),
                None => return Ok(false),
            }
        }
        Ok(true)
    }

    /// Takes in what the socket of a connection reports.
    pub(super) fn event(&mut self, token: u64, set: EventSet) {
        let slot = (token % TOKENS) as u16;
        let Some(place) = self.slots.get_mut(usize::from(slot)) else { return };
        if token / TOKENS != 1 + u64::from(place.generation) {
            return;
        }
        let Some(connection) = &mut place.connection else { return };
        connection.note(set);
        let verdict = match connection.greet() {
            Ok(None) => connection.flush(),
            Ok(Some(guest_port)) => self.ask(slot, guest_port),
            Err(verdict) => verdict,
        };
        self.settle(slot, verdict);
    }

    /// Gives a greeted connection its key.
    fn ask(&mut self, slot: u16, guest_port: u32) -> Verdict {
        // One turn more than there are connections finds a port that is free.
        for _ in 0..=MAX_CONNECTIONS {
            let key = Key { guest_port, host_port: self.next_port };
            self.next_port = self.next_port.checked_add(1).unwrap_or(FIRST_PORT);
            if self.by_key.contains_key(&key) {
                continue;
            }
            let Some(connection) = self.connection(slot) else { break };
            connection.ask(key);
            self.by_key.insert(key, slot);
            return Verdict::Keep;
        }
        Verdict::Forget
    }

    /// Takes a packet of the guest's.
    pub(super) fn take(&mut self, chain: &mut Chain<'_>) {
        let mut bytes = [0; HEADER_LEN];
        let whole = chain.read_exact(&mut bytes);
        let header = Header::parse(&bytes);
        if !whole || header.src_cid != self.cid {
            return count(&self.counters.dropped);
        }
        let key = Key { guest_port: header.src_port, host_port: header.dst_port };
        let ours = header.kind == TYPE_STREAM && header.dst_cid == HOST_CID;
        let slot = if ours { self.by_key.get(&key).copied() } else { None };
        match (slot, header.op) {
            (Some(slot), op::RST) => self.settle(slot, Verdict::Forget),
            (Some(slot), _) => {
                let Some(connection) =
                    self.slots.get_mut(usize::from(slot)).and_then(|place| place.connection.as_mut())
                else {
                    return;
                };
                let verdict = connection.take(&header, chain, &mut self.scratch);
                self.settle(slot, verdict);
            }
            // Two sides that refuse each other's refusals would never end.
            (None, op::RST) => {}
            (None, op::REQUEST) if ours => self.admit(&header),
            (None, _) => self.refuse(header.reset()),
        }
    }

    /// Lets the guest connect, if the port is listed, its service answers and there is room.
    fn admit(&mut self, request: &Header) {
        let connected = match self.free.is_empty() {
            true => Err(io::ErrorKind::QuotaExceeded.into()),
            false => self.host.connect(request.dst_port, request.src_port),
        };
        let slot = match connected {
            Ok(socket) => self.insert(Connection::accepted(request, socket)),
            Err(error) => {
                tracing::debug!(%error, port = request.dst_port, "vsock: a connection is refused");
                None
            }
        };
        match slot {
            Some(slot) => self.touch(slot),
            None => self.refuse(request.reset()),
        }
    }

    fn refuse(&mut self, reset: Header) {
        if self.resets.len() < MAX_RESETS {
            self.resets.push_back(reset);
        } else {
            count(&self.counters.resets_dropped);
        }
    }

    /// Whether there is something for the guest, as far as is known.
    pub(super) fn has_packets(&self) -> bool {
        !self.resets.is_empty() || !self.ready.is_empty()
    }

    /// Writes the next packet for the guest to `chain`, which has room for a header and more; gives its
    /// length, 0 when there was none after all.
    pub(super) fn write_next(&mut self, chain: &mut Chain<'_>) -> u32 {
        if let Some(reset) = self.resets.pop_front() {
            return chain.write(&reset.bytes()) as u32;
        }
        let room = chain.writable_len().saturating_sub(HEADER_LEN);
        // Each has one turn here, so this ends.
        while let Some(slot) = self.ready.pop_front() {
            let Some(connection) =
                self.slots.get_mut(usize::from(slot)).and_then(|place| place.connection.as_mut())
            else {
                continue;
            };
            connection.queued = false;
            let Some(outgoing) = connection.next(self.cid, room, &mut self.scratch) else { continue };
            let header = outgoing.header;
            let data = self.scratch.get(..header.len as usize).unwrap_or_default();
            let written = chain.write(&header.bytes()) + chain.write(data);
            self.settle(slot, outgoing.verdict);
            return written as u32;
        }
        0
    }

    fn connection(&mut self, slot: u16) -> Option<&mut Connection> {
        self.slots.get_mut(usize::from(slot))?.connection.as_mut()
    }

    /// Puts a connection into the table; `None`, and it is closed, when that is full.
    fn insert(&mut self, connection: Connection) -> Option<u16> {
        let slot = self.free.pop()?;
        let place = self.slots.get_mut(usize::from(slot))?;
        place.generation = place.generation.wrapping_add(1);
        let token = (1 + u64::from(place.generation)) * TOKENS + u64::from(slot);
        let any = EventSet::IN | EventSet::OUT | EventSet::READ_HANG_UP;
        if let Err(error) = self.events.watch(connection.socket(), token, any) {
            tracing::warn!(%error, "vsock: cannot wait for a connection");
            self.free.push(slot);
            return None;
        }
        if let Some(key) = connection.key() {
            self.by_key.insert(key, slot);
        }
        place.connection = Some(connection);
        Some(slot)
    }

    /// Does what was decided about a connection.
    fn settle(&mut self, slot: u16, verdict: Verdict) {
        if verdict == Verdict::Keep {
            return self.touch(slot);
        }
        let gone = self.slots.get_mut(usize::from(slot)).and_then(|place| place.connection.take());
        let Some(connection) = gone else { return };
        self.free.push(slot);
        if connection.queued {
            self.ready.retain(|other| *other != slot);
        }
        let Some(key) = connection.key() else { return };
        self.by_key.remove(&key);
        if verdict == Verdict::Reset {
            self.refuse(key.header(self.cid, op::RST));
        }
    }

    /// Gives a connection its turn, if it has something for the guest.
    fn touch(&mut self, slot: u16) {
        if let Some(connection) = self.connection(slot)
            && !connection.queued
            && connection.has_packet()
        {
            connection.queued = true;
            self.ready.push_back(slot);
        }
    }
}

/// A socket by number, for the event loop.
pub(super) struct Source(pub(super) RawFd);

impl AsRawFd for Source {
    fn as_raw_fd(&self) -> RawFd {
        self.0
    }
}

fn count(counter: &AtomicU64) {
    counter.fetch_add(1, Ordering::Relaxed);
}
