//! One connection: its states, its credit in both directions, and the bytes that wait for the host.

use std::collections::VecDeque;
use std::num::Wrapping;
use std::os::fd::OwnedFd;

use rustix::io::Errno;
use rustix::net::{RecvFlags, SendFlags, Shutdown, recv, send, shutdown};
use vmm_sys_util::epoll::EventSet;

use super::BUFFER;
use super::packet::{HOST_CID, Header, SHUTDOWN_BOTH, SHUTDOWN_RECEIVE, SHUTDOWN_SEND, TYPE_STREAM, op};
use crate::vmm::virtio::chain::Chain;

/// Longest first line of a program of the host, with its line feed.
const GREETING: usize = 32;

/// Both ends of a connection; the addresses are always the guest's and the host's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Key {
    pub(super) guest_port: u32,
    pub(super) host_port: u32,
}

impl Key {
    /// A header from the host to the guest with address `cid`.
    pub(super) fn header(self, cid: u64, op: u16) -> Header {
        Header {
            src_cid: HOST_CID,
            dst_cid: cid,
            src_port: self.host_port,
            dst_port: self.guest_port,
            kind: TYPE_STREAM,
            op,
            ..Header::default()
        }
    }
}

/// What is to become of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verdict {
    /// It goes on.
    Keep,
    /// It ends, and the guest is told by a RST.
    Reset,
    /// It ends, and the guest knows or never knew.
    Forget,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// The host's program has not said yet what it wants.
    Greeting,
    /// The guest was asked, or is about to be.
    Asking {
        /// The request is in the guest's hands.
        sent: bool,
    },
    /// Bytes flow.
    Open,
}

/// What the guest is to be told when it has a buffer.
#[derive(Debug, Default)]
struct Pending {
    response: bool,
    credit: bool,
    ask_credit: bool,
    /// Flags of a shutdown that the guest does not know of.
    shutdown: u32,
}

/// A connection between a socket of the host and one of the guest.
#[derive(Debug)]
pub(super) struct Connection {
    key: Key,
    state: State,
    /// The host's program said where it wants to go, and is told once it is there.
    is_told: bool,
    socket: OwnedFd,
    pending: Pending,
    /// It waits for its turn to send to the guest. The table's, not ours.
    pub(super) queued: bool,

    /// The socket may have bytes for the guest.
    may_read: bool,
    /// The host sends no more.
    at_end: bool,
    /// What is in the socket is the last.
    last: bool,
    /// The host neither sends nor receives any more.
    hung_up: bool,
    /// Sent to the guest; what of it has left the guest's buffer; how large that is.
    sent: Wrapping<u32>,
    guest_forwarded: Wrapping<u32>,
    guest_buffer: u32,
    /// The guest was asked for credit and has not given any.
    asked: bool,

    /// The socket may take bytes from the guest.
    may_write: bool,
    /// Bytes that it did not take yet.
    buffer: VecDeque<u8>,
    /// Received from the guest; what of it the socket took; what the guest knows of that.
    received: Wrapping<u32>,
    forwarded: Wrapping<u32>,
    told: Wrapping<u32>,
    /// Flags of the shutdowns that the guest sent.
    guest_shutdown: u32,
    /// The host knows that the guest sends no more.
    closed: bool,
}

/// What [`Connection::next`] has for the guest: the data is in the buffer that it was given.
pub(super) struct Outgoing {
    pub(super) header: Header,
    /// And then?
    pub(super) verdict: Verdict,
}

impl Connection {
    fn new(key: Key, socket: OwnedFd, state: State) -> Self {
        Self {
            key,
            state,
            is_told: state == State::Greeting,
            socket,
            pending: Pending::default(),
            queued: false,
            may_read: true,
            at_end: false,
            last: false,
            hung_up: false,
            sent: Wrapping(0),
            guest_forwarded: Wrapping(0),
            guest_buffer: 0,
            asked: false,
            may_write: true,
            buffer: VecDeque::new(),
            received: Wrapping(0),
            forwarded: Wrapping(0),
            told: Wrapping(0),
            guest_shutdown: 0,
            closed: false,
        }
    }

    /// One that the guest asked for by `request` and the host has accepted.
    pub(super) fn accepted(request: &Header, socket: OwnedFd) -> Self {
        let key = Key { guest_port: request.src_port, host_port: request.dst_port };
        let mut new = Self::new(key, socket, State::Open);
        new.pending.response = true;
        new.guest_buffer = request.buf_alloc;
        new
    }

    /// One that a program of the host has begun; it has no key yet.
    pub(super) fn greeting(socket: OwnedFd) -> Self {
        Self::new(Key { guest_port: 0, host_port: 0 }, socket, State::Greeting)
    }

    /// One that a program of the host has begun where there is nothing to be said; it has no key yet.
    pub(super) fn leading(socket: OwnedFd) -> Self {
        Self { is_told: false, ..Self::greeting(socket) }
    }

    pub(super) fn socket(&self) -> &OwnedFd {
        &self.socket
    }

    /// The key, once there is one.
    pub(super) fn key(&self) -> Option<Key> {
        (self.state != State::Greeting).then_some(self.key)
    }

    /// Notes what the socket reports.
    pub(super) fn note(&mut self, set: EventSet) {
        let gone = set.intersects(EventSet::HANG_UP | EventSet::ERROR);
        self.hung_up |= gone;
        self.last |= gone || set.contains(EventSet::READ_HANG_UP);
        self.may_read |= gone || set.intersects(EventSet::IN | EventSet::READ_HANG_UP);
        self.may_write |= gone || set.contains(EventSet::OUT);
    }

    /// Reads the first line of a program of the host: the port of the guest, once it is all there.
    pub(super) fn greet(&mut self) -> Result<Option<u32>, Verdict> {
        if self.state != State::Greeting {
            return Ok(None);
        }
        let mut line = [0; GREETING];
        // What follows the line is for the guest and stays in the socket.
        let count = match recv(&self.socket, &mut line, RecvFlags::PEEK | RecvFlags::DONTWAIT) {
            Ok((count, _)) => count,
            Err(Errno::AGAIN | Errno::INTR) => return Ok(None),
            Err(_) => return Err(Verdict::Forget),
        };
        let held = line.get(..count).unwrap_or_default();
        let Some(end) = held.iter().position(|byte| *byte == b'\n') else {
            let whole = self.last || count == 0 || count == GREETING;
            return if whole { Err(Verdict::Forget) } else { Ok(None) };
        };
        let port = held.get(..end).and_then(wanted_port).ok_or(Verdict::Forget)?;
        let mut consumed = [0; GREETING];
        let line = consumed.get_mut(..=end).unwrap_or_default();
        match recv(&self.socket, line, RecvFlags::DONTWAIT) {
            Ok((count, _)) if count == end + 1 => Ok(Some(port)),
            _ => Err(Verdict::Forget),
        }
    }

    /// The guest is to be asked for a connection with this key.
    pub(super) fn ask(&mut self, key: Key) {
        self.key = key;
        self.state = State::Asking { sent: false };
    }

    /// A packet of the guest's that is no RST; its data is what is left to read in `chain`.
    pub(super) fn take(&mut self, header: &Header, chain: &mut Chain<'_>, scratch: &mut [u8]) -> Verdict {
        if !self.take_credit(header) {
            return Verdict::Reset;
        }
        match (self.state, header.op) {
            (State::Asking { sent: true }, op::RESPONSE) => self.answered(),
            (State::Open, op::RW) => self.take_data(header.len, chain, scratch),
            (State::Open, op::SHUTDOWN) => self.take_shutdown(header.flags),
            (State::Open, op::CREDIT_UPDATE) => Verdict::Keep,
            (State::Open, op::CREDIT_REQUEST) => {
                self.pending.credit = true;
                Verdict::Keep
            }
            _ => Verdict::Reset,
        }
    }

    /// Takes in what the guest says about its buffer; false when that cannot be.
    fn take_credit(&mut self, header: &Header) -> bool {
        let progress = Wrapping(header.fwd_cnt) - self.guest_forwarded;
        if progress > self.sent - self.guest_forwarded {
            return false;
        }
        self.guest_forwarded = Wrapping(header.fwd_cnt);
        self.guest_buffer = header.buf_alloc;
        if self.credit() > 0 {
            (self.asked, self.pending.ask_credit) = (false, false);
        }
        true
    }

    /// Bytes that the guest has room for.
    fn credit(&self) -> u32 {
        self.guest_buffer.saturating_sub((self.sent - self.guest_forwarded).0)
    }

    /// The guest took the connection: so the host's program is told.
    fn answered(&mut self) -> Verdict {
        self.state = State::Open;
        if !self.is_told {
            return Verdict::Keep;
        }
        let line = format!("OK {}\n", self.key.host_port);
        match send(&self.socket, line.as_bytes(), SendFlags::DONTWAIT | SendFlags::NOSIGNAL) {
            Ok(count) if count == line.len() => Verdict::Keep,
            _ => Verdict::Reset,
        }
    }

    fn take_data(&mut self, len: u32, chain: &mut Chain<'_>, scratch: &mut [u8]) -> Verdict {
        let room = BUFFER.saturating_sub((self.received - self.forwarded).0);
        let mut left = len as usize;
        if self.guest_shutdown & SHUTDOWN_SEND != 0 || len > room || left > chain.readable_len() {
            return Verdict::Reset;
        }
        self.received += len;
        while left > 0 {
            let step = left.min(scratch.len());
            let Some(piece) = scratch.get_mut(..step) else { return Verdict::Reset };
            if !chain.read_exact(piece) {
                return Verdict::Reset;
            }
            left -= step;
            let sent = match self.forward(piece) {
                Ok(sent) => sent,
                Err(verdict) => return verdict,
            };
            self.keep(piece.get(sent..).unwrap_or_default());
        }
        self.tell_credit();
        Verdict::Keep
    }

    /// Gives the socket what it takes of `bytes`, which come after all that is kept.
    fn forward(&mut self, bytes: &[u8]) -> Result<usize, Verdict> {
        let mut sent = 0;
        while self.buffer.is_empty() && self.may_write && sent < bytes.len() {
            let rest = bytes.get(sent..).unwrap_or_default();
            match send(&self.socket, rest, SendFlags::DONTWAIT | SendFlags::NOSIGNAL) {
                Ok(count) => sent += count,
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => self.may_write = false,
                Err(_) => return Err(Verdict::Reset),
            }
        }
        self.forwarded += sent as u32;
        Ok(sent)
    }

    /// Keeps what the socket did not take. The guest's credit keeps that within [`BUFFER`].
    fn keep(&mut self, bytes: &[u8]) {
        if !bytes.is_empty() {
            if self.buffer.capacity() == 0 {
                self.buffer.reserve_exact(BUFFER as usize);
            }
            self.buffer.extend(bytes);
        }
    }

    /// Gives the socket what it takes of what is kept.
    pub(super) fn flush(&mut self) -> Verdict {
        while self.may_write && !self.buffer.is_empty() {
            let (front, _) = self.buffer.as_slices();
            match send(&self.socket, front, SendFlags::DONTWAIT | SendFlags::NOSIGNAL) {
                Ok(count) => {
                    self.buffer.drain(..count);
                    self.forwarded += count as u32;
                }
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => self.may_write = false,
                Err(_) => return Verdict::Reset,
            }
        }
        self.tell_credit();
        self.pass_shutdown()
    }

    /// Sees to it that a guest hears of room in our buffer before it has to stop.
    fn tell_credit(&mut self) {
        let unknown = (self.received - self.told).0;
        self.pending.credit |= self.told != self.forwarded && unknown >= BUFFER / 2;
    }

    fn take_shutdown(&mut self, flags: u32) -> Verdict {
        self.guest_shutdown |= flags & SHUTDOWN_BOTH;
        if self.guest_shutdown & SHUTDOWN_RECEIVE != 0 {
            let _ = shutdown(&self.socket, Shutdown::Read);
        }
        self.pass_shutdown()
    }

    /// Tells the host that the guest sends no more, once all it sent is through.
    fn pass_shutdown(&mut self) -> Verdict {
        if self.guest_shutdown & SHUTDOWN_SEND == 0 || !self.buffer.is_empty() {
            return Verdict::Keep;
        }
        if self.guest_shutdown == SHUTDOWN_BOTH {
            return Verdict::Reset;
        }
        if !self.closed {
            self.closed = true;
            let _ = shutdown(&self.socket, Shutdown::Write);
        }
        Verdict::Keep
    }

    /// Whether there is something for the guest, as far as is known.
    pub(super) fn has_packet(&self) -> bool {
        match self.state {
            State::Greeting => false,
            State::Asking { sent } => !sent || self.is_left(),
            State::Open => {
                let Pending { response, credit, ask_credit, shutdown } = self.pending;
                let readable = self.wants_data() && self.may_read && (self.credit() > 0 || !self.asked);
                response || credit || ask_credit || shutdown != 0 || readable || self.is_over()
            }
        }
    }

    /// Whether bytes of the host's are still of use.
    fn wants_data(&self) -> bool {
        !self.at_end && self.guest_shutdown & SHUTDOWN_RECEIVE == 0
    }

    /// Whoever asked for the guest waits for it no more. Of a TCP connection that was closed no more is to be seen
    /// than the end of what its program sends.
    fn is_left(&self) -> bool {
        self.hung_up || (self.last && !self.is_told)
    }

    /// Nobody at the host is left, and all that was there is through or not wanted.
    fn is_over(&self) -> bool {
        self.hung_up && !self.wants_data()
    }

    /// The next packet for the guest with address `cid`; `room`, not 0, is for the data, which is put into
    /// `scratch`.
    pub(super) fn next(&mut self, cid: u64, room: usize, scratch: &mut [u8]) -> Option<Outgoing> {
        let (op, flags, len, verdict) = self.next_op(room, scratch)?;
        self.pending.credit = false;
        self.told = self.forwarded;
        let header = Header {
            flags,
            len: len as u32,
            buf_alloc: BUFFER,
            fwd_cnt: self.forwarded.0,
            ..self.key.header(cid, op)
        };
        Some(Outgoing { header, verdict })
    }

    /// Operation, flags, bytes of data, and what follows.
    fn next_op(&mut self, room: usize, scratch: &mut [u8]) -> Option<(u16, u32, usize, Verdict)> {
        let packet = |op| Some((op, 0, 0, Verdict::Keep));
        match self.state {
            State::Greeting => return None,
            State::Asking { sent: false } => {
                self.state = State::Asking { sent: true };
                return packet(op::REQUEST);
            }
            State::Asking { sent: true } if self.is_left() => return Some((op::RST, 0, 0, Verdict::Forget)),
            State::Asking { sent: true } => return None,
            State::Open => {}
        }
        if std::mem::take(&mut self.pending.response) {
            return packet(op::RESPONSE);
        }
        if self.wants_data() && self.may_read {
            let limit = room.min(self.credit() as usize).min(scratch.len());
            match scratch.get_mut(..limit).filter(|piece| !piece.is_empty()) {
                None if !self.asked => self.pending.ask_credit = true,
                None => {}
                Some(piece) => match self.read(piece) {
                    Ok(0) => {}
                    Ok(count) => return Some((op::RW, 0, count, Verdict::Keep)),
                    Err(verdict) => return Some((op::RST, 0, 0, verdict)),
                },
            }
        }
        if self.is_over() {
            return Some((op::SHUTDOWN, SHUTDOWN_BOTH, 0, Verdict::Forget));
        }
        match std::mem::take(&mut self.pending.shutdown) {
            0 => {}
            flags => return Some((op::SHUTDOWN, flags, 0, Verdict::Keep)),
        }
        if std::mem::take(&mut self.pending.ask_credit) {
            self.asked = true;
            return packet(op::CREDIT_REQUEST);
        }
        if self.pending.credit { packet(op::CREDIT_UPDATE) } else { None }
    }

    /// Reads bytes for the guest; 0 when there are none now or never again.
    fn read(&mut self, piece: &mut [u8]) -> Result<usize, Verdict> {
        loop {
            match recv(&self.socket, &mut *piece, RecvFlags::DONTWAIT) {
                Ok((0, _)) => {
                    self.at_end = true;
                    self.pending.shutdown |= SHUTDOWN_SEND;
                    return Ok(0);
                }
                Ok((count, _)) => {
                    self.sent += count as u32;
                    return Ok(count);
                }
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => {
                    self.may_read = false;
                    return Ok(0);
                }
                Err(_) => return Err(Verdict::Forget),
            }
        }
    }
}

/// The port in `CONNECT <port>`.
fn wanted_port(line: &[u8]) -> Option<u32> {
    let line = std::str::from_utf8(line).ok()?;
    let port = line.strip_suffix('\r').unwrap_or(line).strip_prefix("CONNECT ")?;
    port.bytes().all(|byte| byte.is_ascii_digit()).then(|| port.parse().ok())?
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn first_lines_are_strict() {
        assert_eq!(wanted_port(b"CONNECT 52"), Some(52));
        assert_eq!(wanted_port(b"CONNECT 4294967295\r"), Some(u32::MAX));
        for line in [
            "CONNECT",
            "CONNECT ",
            "CONNECT +1",
            "CONNECT 4294967296",
            "connect 1",
            "CONNECT 1 ",
            " CONNECT 1",
        ] {
            assert_eq!(wanted_port(line.as_bytes()), None, "{line}");
        }
        assert_eq!(wanted_port(b"CONNECT \xff"), None);
    }
}
