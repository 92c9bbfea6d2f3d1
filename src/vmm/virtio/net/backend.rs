//! Where frames go to and come from.

use std::io;
use std::os::fd::{AsRawFd, RawFd};

use super::batch::Batch;
use super::error::NetError;
use super::offload::{self, F_CSUM, F_GUEST_CSUM};
use super::served::Served;
use super::stream::{Down, Stream};
use super::tap::{Tap, TapQueue};
use super::{HEADER_LEN, PeerError};
use crate::vmm::NetBackend;

/// A received frame, and how the guest is to take it.
pub(super) type Incoming<'a> = ([u8; HEADER_LEN], &'a [u8]);

/// The host's end of a network card.
#[derive(Debug)]
pub(super) enum Backend {
    Stream(Stream),
    Tap(Tap),
    Served(Served),
}

impl Backend {
    /// One for each pair of queues that there can be, `most` at most.
    pub(super) fn open(backend: NetBackend, most: usize) -> Result<Vec<Self>, NetError> {
        Ok(match backend {
            NetBackend::Stream(socket) => vec![Self::Stream(Stream::new(socket)?)],
            NetBackend::Tap(name) => Tap::open(&name, most)?.into_iter().map(Self::Tap).collect(),
            NetBackend::Listen(listener) => vec![Self::Served(Served::new(listener, true)?)],
            NetBackend::Neighbours(listener) => vec![Self::Served(Served::new(listener, false)?)],
            // That card is another one.
            NetBackend::VhostUser(_) => return Err(NetError::BackEnd(PeerError::NotShared)),
        })
    }

    /// What has the host use this one of several, if it can choose.
    pub(super) fn switch(&self) -> io::Result<Option<TapQueue>> {
        match self {
            Self::Tap(tap) => tap.switch().map(Some),
            Self::Stream(_) | Self::Served(_) => Ok(None),
        }
    }

    /// Notes that there is something to read, the last if the peer hung up.
    pub(super) fn set_readable(&mut self, hung_up: bool) {
        match self {
            Self::Stream(stream) => stream.set_readable(hung_up),
            Self::Tap(tap) => tap.set_readable(),
            Self::Served(served) => served.set_readable(hung_up),
        }
    }

    /// Feature bits that only some back-ends can serve.
    pub(super) fn features(&self) -> u64 {
        match self {
            // None is longer than the MTU: older versions of passt lose their place in the stream when a
            // read ends within one.
            Self::Served(served) if !served.is_maker() => F_CSUM,
            // Frames come whole and with their checksums, from the process of this host that made them and
            // over a socket that loses nothing, so the guest need not look at them.
            Self::Stream(_) | Self::Served(_) => F_CSUM | F_GUEST_CSUM,
            Self::Tap(_) => offload::HOST | offload::GUEST,
        }
    }

    /// Notes what the driver takes; before the first frame of an activation.
    pub(super) fn set_features(&mut self, features: u64) -> io::Result<()> {
        match self {
            Self::Stream(stream) => stream.set_features(features),
            Self::Tap(tap) => tap.set_features(features)?,
            Self::Served(served) => served.set_features(features),
        }
        Ok(())
    }

    /// Whether it takes unfinished checksums and frames that are to be cut up, as the header says.
    pub(super) fn takes_headers(&self) -> bool {
        matches!(self, Self::Tap(_))
    }

    /// The next received frame, which stays the next until it is consumed.
    pub(super) fn peek(&mut self) -> Result<Option<Incoming<'_>>, Down> {
        match self {
            Self::Stream(stream) => stream.peek(),
            Self::Tap(tap) => tap.peek(),
            Self::Served(served) => Ok(served.peek()),
        }
    }

    /// Drops the frame that [`peek`](Self::peek) showed.
    pub(super) fn consume(&mut self) {
        match self {
            Self::Stream(stream) => stream.consume(),
            Self::Tap(tap) => tap.consume(),
            Self::Served(served) => served.consume(),
        }
    }

    /// Sends what the back-end takes; false when it is full.
    pub(super) fn send(&mut self, batch: &mut Batch<'_>) -> Result<bool, Down> {
        match self {
            Self::Stream(stream) => stream.send(batch),
            Self::Tap(tap) => tap.send(batch),
            Self::Served(served) => Ok(served.send(batch)),
        }
    }

    /// Keeps the rest of a frame that is sent in part.
    pub(super) fn keep_tail(&mut self, batch: &Batch<'_>) {
        match self {
            Self::Stream(stream) => stream.keep_tail(batch),
            Self::Tap(_) => {}
            Self::Served(served) => served.keep_tail(batch),
        }
    }

    /// What carries frames, if it is there already.
    pub(super) fn link(&self) -> Option<RawFd> {
        match self {
            Self::Stream(stream) => Some(stream.as_fd().as_raw_fd()),
            Self::Tap(tap) => Some(tap.as_fd().as_raw_fd()),
            Self::Served(served) => served.link(),
        }
    }

    /// Where another link may come from.
    pub(super) fn listener(&self) -> Option<RawFd> {
        match self {
            Self::Stream(_) | Self::Tap(_) => None,
            Self::Served(served) => Some(served.listener()),
        }
    }

    /// Takes a new link; whether there is one.
    pub(super) fn accept(&mut self) -> bool {
        match self {
            Self::Stream(_) | Self::Tap(_) => false,
            Self::Served(served) => served.accept(),
        }
    }
}
