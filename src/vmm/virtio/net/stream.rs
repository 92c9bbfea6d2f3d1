//! Frames over a stream socket, each behind its length: what passt and QEMU's `-netdev stream`
//! speak.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::net::{RecvFlags, SendFlags, Shutdown, SocketType, recv, send, shutdown, sockopt};

use super::backend::Incoming;
use super::batch::{Batch, PREFIX};
use super::error::NetError;
use super::offload::{F_GUEST_CSUM, PLAIN, VALID};
use super::{ETHERNET_HEADER, HEADER_LEN, MAX_FRAME};

/// Bytes of received data that are kept: the longest frame, and room to read many short ones at
/// once.
const BUFFER: usize = 128 * 1024;
/// What is asked of the kernel for bytes on their way out; it may give less.
const SEND_BUFFER: usize = 1024 * 1024;
/// How long a frame that is half through may take when the card is dropped.
const SETTLE: Duration = Duration::from_secs(1);

/// Why a back-end carries no more frames.
#[derive(Debug, thiserror::Error)]
pub(super) enum Down {
    /// The peer closed its end.
    #[error("the network back-end closed the connection")]
    Closed,
    /// What it sent is no frame, so the next one cannot be found.
    #[error("the network back-end sent a frame of {0} bytes")]
    BadLength(usize),
    /// The host says so.
    #[error("the network back-end failed")]
    Io(#[source] io::Error),
}

/// A stream of frames.
#[derive(Debug)]
pub(super) struct Stream {
    socket: OwnedFd,
    /// How the guest is to take what is received.
    header: [u8; HEADER_LEN],
    /// Received bytes are `buffer[start..end]`; they begin with a frame's length.
    buffer: Vec<u8>,
    start: usize,
    end: usize,
    /// There may be more to read.
    readable: bool,
    /// The peer is gone: what is to be read ends, and no event will say so again.
    hung_up: bool,
    /// The rest of a frame that was sent in part when a worker was stopped. It has to go out before
    /// anything else.
    tail: Vec<u8>,
}

impl Stream {
    /// Checks that `socket` is what it should be.
    pub(super) fn new(socket: OwnedFd) -> Result<Self, NetError> {
        let not_a_stream = |error: rustix::io::Errno| NetError::NotAStream(error.into());
        if sockopt::socket_type(&socket).map_err(not_a_stream)? != SocketType::STREAM {
            return Err(NetError::NotAStream(io::ErrorKind::InvalidInput.into()));
        }
        rustix::net::getpeername(&socket).map_err(not_a_stream)?;
        // A small buffer costs speed, nothing else.
        let _ = sockopt::set_socket_send_buffer_size(&socket, SEND_BUFFER);
        Ok(Self::accepted(socket))
    }

    /// A socket that is known to be one.
    pub(super) fn accepted(socket: OwnedFd) -> Self {
        Self {
            socket,
            header: PLAIN,
            buffer: vec![0; BUFFER],
            start: 0,
            end: 0,
            readable: true,
            hung_up: false,
            tail: vec![],
        }
    }

    pub(super) fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }

    /// Notes what the driver takes: whether it wants to be told that checksums are right.
    pub(super) fn set_features(&mut self, features: u64) {
        self.header = if features & F_GUEST_CSUM != 0 { VALID } else { PLAIN };
    }

    /// Notes that the socket has something to read, the last if the peer hung up.
    pub(super) fn set_readable(&mut self, hung_up: bool) {
        self.readable = true;
        self.hung_up |= hung_up;
    }

    /// The next frame, which stays the next until it is consumed; `None` until the socket says
    /// that there is more to read.
    pub(super) fn peek(&mut self) -> Result<Option<Incoming<'_>>, Down> {
        loop {
            if let Some(len) = self.buffered_frame()? {
                let from = self.start + PREFIX;
                return Ok(self.buffer.get(from..from + len).map(|frame| (self.header, frame)));
            }
            if !self.readable {
                return Ok(None);
            }
            self.read_more()?;
        }
    }

    /// Drops the frame that [`peek`](Self::peek) showed.
    pub(super) fn consume(&mut self) {
        if let Ok(Some(len)) = self.buffered_frame() {
            self.start += PREFIX + len;
        }
    }

    /// Sends what the socket takes; false when it is full.
    pub(super) fn send(&mut self, batch: &mut Batch<'_>) -> Result<bool, Down> {
        if !self.send_tail()? {
            return Ok(false);
        }
        while !batch.is_empty() {
            let sent = batch.stream_pieces().send(self.socket.as_fd());
            match sent {
                Ok(count) => batch.advance(count),
                Err(error) => match error.kind() {
                    io::ErrorKind::Interrupted => {}
                    io::ErrorKind::WouldBlock => return Ok(false),
                    _ => return Err(down(error)),
                },
            }
        }
        Ok(true)
    }

    /// Keeps the rest of the frame that `batch` is in the middle of: its buffers go back to the
    /// guest when the worker stops.
    pub(super) fn keep_tail(&mut self, batch: &Batch<'_>) {
        if self.tail.is_empty() {
            self.tail = batch.rest_of_frame();
        }
    }

    fn send_tail(&mut self) -> Result<bool, Down> {
        while !self.tail.is_empty() {
            match send(&self.socket, &self.tail, SendFlags::NOSIGNAL | SendFlags::DONTWAIT) {
                Ok(count) => drop(self.tail.drain(..count)),
                Err(rustix::io::Errno::INTR) => {}
                Err(rustix::io::Errno::AGAIN) => return Ok(false),
                Err(error) => return Err(down(error.into())),
            }
        }
        Ok(true)
    }

    /// Length of the frame at the front of the buffer, if all of it is there. Runts are dropped on
    /// the way.
    fn buffered_frame(&mut self) -> Result<Option<usize>, Down> {
        loop {
            let held = self.buffer.get(self.start..self.end).unwrap_or_default();
            let Some(prefix) = held.first_chunk::<PREFIX>() else { return Ok(None) };
            let len = u32::from_be_bytes(*prefix) as usize;
            if len > MAX_FRAME {
                return Err(Down::BadLength(len));
            }
            if held.len() < PREFIX + len {
                return Ok(None);
            }
            if len >= ETHERNET_HEADER {
                return Ok(Some(len));
            }
            self.start += PREFIX + len;
        }
    }

    /// One read into what is free of the buffer.
    fn read_more(&mut self) -> Result<(), Down> {
        if self.start == self.end {
            (self.start, self.end) = (0, 0);
        } else if self.buffer.len() - self.start < PREFIX + MAX_FRAME {
            self.buffer.copy_within(self.start..self.end, 0);
            (self.start, self.end) = (0, self.end - self.start);
        }
        let free = self.buffer.get_mut(self.end..).unwrap_or_default();
        let room = free.len();
        match recv(&self.socket, free, RecvFlags::DONTWAIT) {
            Ok((0, _)) => return Err(Down::Closed),
            Ok((count, _)) => {
                self.end += count;
                // A short read empties a stream; what comes later is a new event.
                self.readable = count == room || self.hung_up;
            }
            Err(rustix::io::Errno::AGAIN) => self.readable = false,
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(down(error.into())),
        }
        Ok(())
    }

    /// Brings the stream to a frame boundary both ways, for whoever uses the socket next.
    fn settle(&mut self) -> Result<(), Down> {
        let deadline = Instant::now() + SETTLE;
        while !self.send_tail()? {
            self.wait(PollFlags::OUT, deadline)?;
        }
        loop {
            while self.buffered_frame()?.is_some() {
                self.consume();
            }
            if self.start == self.end {
                return Ok(());
            }
            self.wait(PollFlags::IN, deadline)?;
            self.read_rest()?;
        }
    }

    /// Reads what is missing of the frame at the front and not a byte of the next.
    fn read_rest(&mut self) -> Result<(), Down> {
        let held = self.buffer.get(self.start..self.end).unwrap_or_default();
        let want = match held.first_chunk::<PREFIX>() {
            Some(prefix) => PREFIX + u32::from_be_bytes(*prefix) as usize,
            None => PREFIX,
        };
        self.buffer.copy_within(self.start..self.end, 0);
        (self.start, self.end) = (0, self.end - self.start);
        let missing = self.buffer.get_mut(self.end..want).unwrap_or_default();
        match recv(&self.socket, missing, RecvFlags::DONTWAIT) {
            Ok((0, _)) => Err(Down::Closed),
            Ok((count, _)) => {
                self.end += count;
                Ok(())
            }
            Err(rustix::io::Errno::AGAIN | rustix::io::Errno::INTR) => Ok(()),
            Err(error) => Err(down(error.into())),
        }
    }

    fn wait(&self, flags: PollFlags, deadline: Instant) -> Result<(), Down> {
        let left = deadline.saturating_duration_since(Instant::now());
        let timeout = Timespec::try_from(left).map_err(|_| Down::Closed)?;
        let mut fds = [PollFd::new(&self.socket, flags)];
        match poll(&mut fds, Some(&timeout)) {
            Ok(0) => Err(Down::Io(io::ErrorKind::TimedOut.into())),
            Ok(_) | Err(rustix::io::Errno::INTR) => Ok(()),
            Err(error) => Err(down(error.into())),
        }
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        // Whoever holds a duplicate of the socket would take the rest of a frame for a new one; a
        // closed connection it understands.
        if let Err(error) = self.settle() {
            tracing::debug!(%error, "closing a network stream in the middle of a frame");
            let _ = shutdown(&self.socket, Shutdown::Both);
        }
    }
}

fn down(error: io::Error) -> Down {
    match error.kind() {
        io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset => Down::Closed,
        _ => Down::Io(error),
    }
}
