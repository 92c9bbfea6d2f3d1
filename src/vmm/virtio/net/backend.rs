//! Where frames go to and come from.

use std::os::fd::{AsRawFd, RawFd};

use super::batch::Batch;
use super::error::NetError;
use super::stream::{Down, Stream};
use super::tap::Tap;
use crate::vmm::NetBackend;

/// The host's end of a network card.
#[derive(Debug)]
pub(super) enum Backend {
    Stream(Stream),
    Tap(Tap),
}

impl Backend {
    pub(super) fn new(backend: NetBackend) -> Result<Self, NetError> {
        Ok(match backend {
            NetBackend::Stream(socket) => Self::Stream(Stream::new(socket)?),
            NetBackend::Tap(name) => Self::Tap(Tap::open(&name)?),
        })
    }

    /// Notes that there is something to read, the last if the peer hung up.
    pub(super) fn set_readable(&mut self, hung_up: bool) {
        match self {
            Self::Stream(stream) => stream.set_readable(hung_up),
            Self::Tap(tap) => tap.set_readable(),
        }
    }

    /// The next received frame, which stays the next until it is consumed.
    pub(super) fn peek(&mut self) -> Result<Option<&[u8]>, Down> {
        match self {
            Self::Stream(stream) => stream.peek(),
            Self::Tap(tap) => tap.peek(),
        }
    }

    /// Drops the frame that [`peek`](Self::peek) showed.
    pub(super) fn consume(&mut self) {
        match self {
            Self::Stream(stream) => stream.consume(),
            Self::Tap(tap) => tap.consume(),
        }
    }

    /// Sends what the back-end takes; false when it is full.
    pub(super) fn send(&mut self, batch: &mut Batch<'_>) -> Result<bool, Down> {
        match self {
            Self::Stream(stream) => stream.send(batch),
            Self::Tap(tap) => tap.send(batch),
        }
    }

    /// Keeps the rest of a frame that is sent in part.
    pub(super) fn keep_tail(&mut self, batch: &Batch<'_>) {
        if let Self::Stream(stream) = self {
            stream.keep_tail(batch);
        }
    }
}

impl AsRawFd for Backend {
    fn as_raw_fd(&self) -> RawFd {
        match self {
            Self::Stream(stream) => stream.as_fd().as_raw_fd(),
            Self::Tap(tap) => tap.as_fd().as_raw_fd(),
        }
    }
}
