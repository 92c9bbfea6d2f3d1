//! A card that somebody connects to, as the switch of a private network does, and connects to again when
//! it had to start anew. The guest does not notice: its link stays up, and meanwhile frames are lost.

use std::io;
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::net::UnixListener;

use super::backend::Incoming;
use super::batch::Batch;
use super::error::NetError;
use super::stream::{Down, Stream};

/// A socket that is listened to, and the connection that came last.
#[derive(Debug)]
pub(super) struct Served {
    listener: UnixListener,
    stream: Option<Stream>,
    features: u64,
    is_maker: bool,
}

impl Served {
    /// `is_maker` says that whoever connects makes the frames that it sends, and their checksums.
    ///
    /// Somebody may have connected already. Only that connection gets large buffers: later the process is
    /// shut in, and may not ask for them.
    pub(super) fn new(listener: UnixListener, is_maker: bool) -> Result<Self, NetError> {
        listener.set_nonblocking(true).map_err(NetError::NotAStream)?;
        let stream = match listener.accept() {
            Ok((socket, _)) => Some(Stream::new(socket.into())?),
            Err(_) => None,
        };
        Ok(Self { listener, stream, features: 0, is_maker })
    }

    /// Whether frames come from who made them.
    pub(super) fn is_maker(&self) -> bool {
        self.is_maker
    }

    /// The socket that is listened to.
    pub(super) fn listener(&self) -> RawFd {
        self.listener.as_raw_fd()
    }

    /// The connection, while there is one.
    pub(super) fn link(&self) -> Option<RawFd> {
        self.stream.as_ref().map(|stream| stream.as_fd().as_raw_fd())
    }

    /// Takes the connection that came last, in place of an older one; whether there is a new one.
    pub(super) fn accept(&mut self) -> bool {
        let mut new = false;
        loop {
            match self.listener.accept() {
                Ok((socket, _)) => {
                    let mut stream = Stream::accepted(socket.into());
                    stream.set_features(self.features);
                    self.stream = Some(stream);
                    new = true;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => return new,
            }
        }
    }

    pub(super) fn set_features(&mut self, features: u64) {
        self.features = features;
        if let Some(stream) = &mut self.stream {
            stream.set_features(features);
        }
    }

    pub(super) fn set_readable(&mut self, hung_up: bool) {
        if let Some(stream) = &mut self.stream {
            stream.set_readable(hung_up);
        }
    }

    /// The next frame, which stays the next until it is consumed.
    pub(super) fn peek(&mut self) -> Option<Incoming<'_>> {
        let down = self.stream.as_mut()?.peek().err();
        if let Some(error) = down {
            self.hang_up(&error);
        }
        self.stream.as_mut()?.peek().ok()?
    }

    pub(super) fn consume(&mut self) {
        if let Some(stream) = &mut self.stream {
            stream.consume();
        }
    }

    /// Sends what the connection takes; false when it is full. Without one, frames are lost.
    pub(super) fn send(&mut self, batch: &mut Batch<'_>) -> bool {
        let sent = self.stream.as_mut().map(|stream| stream.send(batch));
        match sent {
            Some(Ok(sent)) => return sent,
            Some(Err(error)) => self.hang_up(&error),
            None => {}
        }
        batch.drop_all();
        true
    }

    pub(super) fn keep_tail(&mut self, batch: &Batch<'_>) {
        if let Some(stream) = &mut self.stream {
            stream.keep_tail(batch);
        }
    }

    fn hang_up(&mut self, error: &Down) {
        tracing::debug!(%error, "a network card waits for its switch");
        self.stream = None;
    }
}
