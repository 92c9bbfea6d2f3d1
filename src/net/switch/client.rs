//! Asking a switch from outside it.

use std::io::{self, IoSlice, Read, Write};
use std::mem::MaybeUninit;
use std::net::Shutdown;
use std::os::fd::BorrowedFd;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};
use thiserror::Error;

use super::spec::{Reply, Request};
use crate::vmm::control;

/// Where a switch answers, in the folder of its network.
pub(super) const SOCKET: &str = "switch.sock";
/// A live switch answers at once; one that is stopped or swapped out gets this long.
const ANSWER: Duration = Duration::from_secs(5);
/// Longest answer.
const MOST_BYTES: u64 = 1 << 20;

/// Why a switch did not do something.
#[derive(Debug, Error)]
pub enum ClientError {
    /// Nobody answers.
    #[error("the switch does not answer")]
    Io(#[from] io::Error),
    /// It says why not.
    #[error("{0}")]
    Refused(String),
}

/// A connection for one question.
#[derive(Debug)]
pub struct Client(UnixStream);

impl Client {
    /// To the switch of the network in `dir`.
    ///
    /// # Errors
    /// `NotFound` or `ConnectionRefused` when there is none.
    pub fn connect(dir: &Path) -> io::Result<Self> {
        let stream = control::connect(&dir.join(SOCKET))?;
        stream.set_read_timeout(Some(ANSWER))?;
        stream.set_write_timeout(Some(ANSWER))?;
        Ok(Self(stream))
    }

    /// Asks; `socket` goes along.
    ///
    /// # Errors
    /// [`ClientError::Refused`] when the switch does not do it.
    pub fn ask(mut self, request: &Request, socket: Option<BorrowedFd<'_>>) -> Result<Reply, ClientError> {
        let mut line = serde_json::to_vec(request).map_err(io::Error::other)?;
        line.push(b'\n');
        if let Some(socket) = socket {
            self.send_socket(socket)?;
        }
        self.0.write_all(&line)?;
        self.0.shutdown(Shutdown::Write)?;
        let mut answer = Vec::new();
        (&self.0).take(MOST_BYTES).read_to_end(&mut answer)?;
        if answer.is_empty() {
            return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into());
        }
        let reply: Reply = serde_json::from_slice(&answer).map_err(io::Error::other)?;
        match reply.error {
            Some(error) => Err(ClientError::Refused(error)),
            None => Ok(reply),
        }
    }

    /// A descriptor needs a byte to travel with: white space, as far as JSON is concerned.
    fn send_socket(&self, socket: BorrowedFd<'_>) -> io::Result<()> {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        let descriptors = [socket];
        if !control.push(SendAncillaryMessage::ScmRights(&descriptors)) {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        sendmsg(&self.0, &[IoSlice::new(b" ")], &mut control, SendFlags::NOSIGNAL)?;
        Ok(())
    }
}
