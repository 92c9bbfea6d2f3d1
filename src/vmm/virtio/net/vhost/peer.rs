//! The protocol by which a process is given a card's queues (vhost-user), as far as a network card needs it.
//!
//! Source: `docs/interop/vhost-user.rst` of QEMU; the numbers are the `vhost` crate's. Its own front-end waits
//! without limit for who does not answer, which would hold up a virtual CPU that resets the card. What comes
//! from the peer is answers of a length that is known before; anything else ends the connection.
#![allow(unsafe_code)]

use std::fs::File;
use std::io::{self, IoSlice};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::net::{
    RecvFlags, SendAncillaryBuffer, SendAncillaryMessage, SendFlags, Shutdown, recv, sendmsg, shutdown,
};
use vhost::vhost_user::message::{
    FrontendReq as Request, VhostUserProtocolFeatures, VhostUserVirtioFeatures,
};
use virtio_queue::{Queue, QueueT};
use vm_memory::{GuestAddress, GuestMemoryBackend, GuestMemoryMmap, GuestMemoryRegion};
use vmm_sys_util::eventfd::EventFd;

/// How long the peer may take for one answer.
const PATIENCE: Duration = Duration::from_secs(5);
/// How long it may take to hang up then.
const PARTING: Duration = Duration::from_secs(5);
/// Bytes of the header: request, flags, length of what follows.
const HEADER: usize = 12;
/// Flags: version 1; an answer; an answer is wanted where none belongs to the request.
const VERSION: u32 = 1;
const REPLY: u32 = 1 << 2;
const NEED_REPLY: u32 = 1 << 3;
/// Descriptors in one message: a region of memory each, and guests have two at most.
const MAX_FDS: usize = 8;

/// A feature of the protocol, not of the device: requests about single queues are understood.
const PROTOCOL_FEATURES: u64 = VhostUserVirtioFeatures::PROTOCOL_FEATURES.bits();
/// Feature of the protocol: each request is answered.
const REPLY_ACK: u64 = VhostUserProtocolFeatures::REPLY_ACK.bits();

/// Why a peer is of no use.
#[derive(Debug, thiserror::Error)]
pub enum PeerError {
    /// The connection is gone or the host cannot serve.
    #[error("{request:?} to the network back-end")]
    Io {
        /// What was asked.
        request: Request,
        /// Why there is no answer.
        #[source]
        source: io::Error,
    },
    /// It answered what nobody asked.
    #[error("the network back-end does not answer {request:?} as the vhost-user protocol has it")]
    Answer {
        /// What was asked.
        request: Request,
    },
    /// It refused.
    #[error("the network back-end refuses {request:?}: {code}")]
    Refused {
        /// What was asked.
        request: Request,
        /// Its word for why.
        code: u64,
    },
    /// It lacks something that cannot be done without.
    #[error("the network back-end lacks {what}")]
    Lacks {
        /// What.
        what: &'static str,
    },
    /// It was told to stop, and may not have.
    #[error("a network back-end is still at work on guest memory")]
    Stray,
    /// The memory of this machine is its own.
    #[error("guest memory is not shared with the network back-end")]
    NotShared,
}

/// A region of guest memory as the protocol describes it.
#[derive(Debug, Clone)]
struct Region {
    /// Guest-physical start, length, address in this process, offset in the file.
    words: [u64; 4],
    file: Arc<File>,
}

/// A queue that the peer is to work on.
pub(super) struct Ring<'a> {
    pub(super) queue: &'a Queue,
    /// Entry of the available ring to begin with.
    pub(super) base: u16,
    /// What the driver signals.
    pub(super) kick: &'a EventFd,
    /// What the peer signals for used buffers.
    pub(super) call: &'a EventFd,
    /// What it signals when the driver breaks the rules.
    pub(super) error: &'a EventFd,
}

/// The memory of a guest as it is told to peers.
#[derive(Debug, Clone)]
pub(super) struct Table {
    regions: Vec<Region>,
}

impl Table {
    /// # Errors
    /// [`PeerError::NotShared`].
    pub(super) fn of(mem: &GuestMemoryMmap) -> Result<Self, PeerError> {
        let region = |region: &vm_memory::GuestRegionMmap| {
            let place = region.file_offset()?;
            let host = region.as_ptr() as u64;
            let words = [region.start_addr().0, region.len(), host, place.start()];
            Some(Region { words, file: place.arc().clone() })
        };
        let regions: Option<Vec<_>> = mem.iter().map(region).collect();
        regions.map(|regions| Self { regions }).ok_or(PeerError::NotShared)
    }
}

/// A process that carries frames of the card.
#[derive(Debug)]
pub(super) struct Peer {
    socket: UnixStream,
    features: u64,
    /// It answers each request.
    acknowledges: bool,
}

impl Peer {
    /// Greets whoever is at the other end and gives it the guest's memory; it touches nothing yet.
    ///
    /// # Errors
    /// [`PeerError`].
    pub(super) fn greet(socket: UnixStream, table: &Table) -> Result<Self, PeerError> {
        let mut peer = Self { socket, features: 0, acknowledges: false };
        peer.features = peer.ask(Request::GET_FEATURES)?;
        if peer.features & PROTOCOL_FEATURES == 0 {
            return Err(PeerError::Lacks { what: "the features of the vhost-user protocol" });
        }
        let protocol = peer.ask(Request::GET_PROTOCOL_FEATURES)? & REPLY_ACK;
        peer.tell(Request::SET_PROTOCOL_FEATURES, &protocol.to_le_bytes(), &[])?;
        peer.acknowledges = protocol != 0;
        peer.tell(Request::SET_OWNER, &[], &[])?;
        let count = table.regions.len() as u64;
        let words = [count].into_iter().chain(table.regions.iter().flat_map(|region| region.words));
        let payload: Vec<u8> = words.flat_map(u64::to_le_bytes).collect();
        let files: Vec<_> = table.regions.iter().map(|region| region.file.as_fd()).collect();
        peer.tell(Request::SET_MEM_TABLE, &payload, &files)?;
        Ok(peer)
    }

    /// Features of the device that it can serve.
    pub(super) fn features(&self) -> u64 {
        self.features
    }

    /// Lets it work on `rings`, which are those of the queues from 0 on and were checked.
    ///
    /// # Errors
    /// [`PeerError`]; the peer is of no use then.
    pub(super) fn start(
        &self,
        mem: &GuestMemoryMmap,
        features: u64,
        rings: &[Ring<'_>],
    ) -> Result<(), PeerError> {
        let features = features & self.features | PROTOCOL_FEATURES;
        self.tell(Request::SET_FEATURES, &features.to_le_bytes(), &[])?;
        for (index, ring) in (0u32..).zip(rings) {
            let queue = ring.queue;
            let host = |address| {
                let found = mem.get_host_address(GuestAddress(address));
                found.map(|address| address as u64).map_err(|_| PeerError::NotShared)
            };
            // Flags, and where accesses would be logged: none, nowhere.
            let areas = [queue.desc_table(), queue.used_ring(), queue.avail_ring()].map(host);
            let [table, used, avail] = areas;
            let words = [u64::from(index), table?, used?, avail?, 0];
            let address: Vec<u8> = words.into_iter().flat_map(u64::to_le_bytes).collect();
            self.tell(Request::SET_VRING_NUM, &state(index, queue.size().into()), &[])?;
            self.tell(Request::SET_VRING_BASE, &state(index, ring.base.into()), &[])?;
            self.tell(Request::SET_VRING_ADDR, &address, &[])?;
            for (request, event) in [
                (Request::SET_VRING_ERR, ring.error),
                (Request::SET_VRING_CALL, ring.call),
                (Request::SET_VRING_KICK, ring.kick),
            ] {
                self.tell(request, &u64::from(index).to_le_bytes(), &[borrow(event)])?;
            }
            // One after the other: what the guest sends may be answered as soon as it can be sent.
            self.tell(Request::SET_VRING_ENABLE, &state(index, 1), &[])?;
        }
        Ok(())
    }

    /// Stops its work on the first `count` queues: on return it touches them no more.
    ///
    /// # Errors
    /// [`PeerError`]; the peer is of no use then.
    pub(super) fn stop(&self, count: u32) -> Result<(), PeerError> {
        for index in 0..count {
            self.send(Request::GET_VRING_BASE, 0, &state(index, 0), &[])?;
            let mut answer = [0; 8];
            self.receive(Request::GET_VRING_BASE, &mut answer)?;
        }
        Ok(())
    }

    /// Hangs up and waits until the peer did, too, by which its work is at an end; whether it did. What it still
    /// answers is of no interest.
    pub(super) fn part(self) -> bool {
        let deadline = Instant::now() + PARTING;
        // Not both ways: the end of what it sends is to be seen. It fails when the peer is gone already.
        let _ = shutdown(&self.socket, Shutdown::Write);
        let mut rest = [0; 256];
        loop {
            let got = wait_for(&self.socket, deadline)
                .and_then(|()| Ok(recv(&self.socket, &mut rest, RecvFlags::DONTWAIT)?.0));
            match got {
                Ok(0) => return true,
                Ok(_) => {}
                Err(error) => match error.kind() {
                    io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted => {}
                    io::ErrorKind::ConnectionReset => return true,
                    _ => return false,
                },
            }
        }
    }

    /// Asks for a number.
    fn ask(&self, request: Request) -> Result<u64, PeerError> {
        self.send(request, 0, &[], &[])?;
        let mut answer = [0; 8];
        self.receive(request, &mut answer)?;
        Ok(u64::from_le_bytes(answer))
    }

    /// Makes a request that has no answer of its own, and waits for the word that it is done if there is one.
    fn tell(&self, request: Request, payload: &[u8], fds: &[BorrowedFd<'_>]) -> Result<(), PeerError> {
        if !self.acknowledges {
            return self.send(request, 0, payload, fds);
        }
        self.send(request, NEED_REPLY, payload, fds)?;
        let mut answer = [0; 8];
        self.receive(request, &mut answer)?;
        match u64::from_le_bytes(answer) {
            0 => Ok(()),
            code => Err(PeerError::Refused { request, code }),
        }
    }

    fn send(
        &self,
        request: Request,
        flags: u32,
        payload: &[u8],
        fds: &[BorrowedFd<'_>],
    ) -> Result<(), PeerError> {
        let failed = |source: io::Error| PeerError::Io { request, source };
        let header = [request as u32, VERSION | flags, payload.len() as u32];
        let header: Vec<u8> = header.into_iter().flat_map(u32::to_le_bytes).collect();
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_FDS))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        if !fds.is_empty() && !control.push(SendAncillaryMessage::ScmRights(fds)) {
            return Err(failed(io::ErrorKind::InvalidInput.into()));
        }
        let slices = [IoSlice::new(&header), IoSlice::new(payload)];
        // A few hundred bytes, one after the other: a socket that has no room for them is stuck.
        let sent = sendmsg(&self.socket, &slices, &mut control, SendFlags::NOSIGNAL | SendFlags::DONTWAIT);
        match sent {
            Ok(count) if count == HEADER + payload.len() => Ok(()),
            Ok(_) => Err(failed(io::ErrorKind::WriteZero.into())),
            Err(error) => Err(failed(error.into())),
        }
    }

    /// Waits for the answer to `request`, which has to be as long as `payload`.
    fn receive(&self, request: Request, payload: &mut [u8]) -> Result<(), PeerError> {
        let deadline = Instant::now() + PATIENCE;
        let mut header = [0; HEADER];
        self.fill(request, &mut header, deadline)?;
        let word = |at: usize| {
            let bytes = header.get(at..at + 4).and_then(|bytes| bytes.try_into().ok());
            bytes.map_or(0, u32::from_le_bytes)
        };
        let right = word(0) == request as u32
            && word(4) & (VERSION | REPLY) == VERSION | REPLY
            && word(8) as usize == payload.len();
        if !right {
            return Err(PeerError::Answer { request });
        }
        self.fill(request, payload, deadline)
    }

    fn fill(&self, request: Request, mut bytes: &mut [u8], deadline: Instant) -> Result<(), PeerError> {
        let failed = |source: io::Error| PeerError::Io { request, source };
        while !bytes.is_empty() {
            wait_for(&self.socket, deadline).map_err(failed)?;
            // Without room for them, descriptors that nobody asked for are closed by the kernel.
            match recv(&self.socket, &mut *bytes, RecvFlags::DONTWAIT) {
                Ok((0, _)) => return Err(failed(io::ErrorKind::UnexpectedEof.into())),
                Ok((count, _)) => bytes = bytes.get_mut(count..).unwrap_or_default(),
                Err(rustix::io::Errno::AGAIN | rustix::io::Errno::INTR) => {}
                Err(error) => return Err(failed(error.into())),
            }
        }
        Ok(())
    }
}

impl AsRawFd for Peer {
    fn as_raw_fd(&self) -> RawFd {
        self.socket.as_raw_fd()
    }
}

/// Waits until there is something to read, or nothing more will come.
fn wait_for(socket: &UnixStream, deadline: Instant) -> io::Result<()> {
    let left = deadline.saturating_duration_since(Instant::now());
    let timeout = Timespec::try_from(left).map_err(|_| io::ErrorKind::TimedOut)?;
    let mut events = [PollFd::new(socket, PollFlags::IN)];
    match poll(&mut events, Some(&timeout)) {
        Ok(0) => Err(io::ErrorKind::TimedOut.into()),
        Ok(_) | Err(rustix::io::Errno::INTR) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

/// A number for a queue.
fn state(index: u32, number: u32) -> [u8; 8] {
    (u64::from(number) << 32 | u64::from(index)).to_le_bytes()
}

fn borrow(event: &EventFd) -> BorrowedFd<'_> {
    // SAFETY: the descriptor is open as long as `event`, which stays borrowed.
    unsafe { BorrowedFd::borrow_raw(event.as_raw_fd()) }
}
