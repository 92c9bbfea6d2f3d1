//! The host's side: what guests can connect to, and where the host connects to them.

use std::io;
use std::os::fd::OwnedFd;

use rustix::net::{SocketFlags, SocketType, sockopt};

use super::error::VsockError;
use crate::vmm::{Vsock as Spec, VsockPort};

/// Ports that guests can reach, and the socket for connections to the guest.
#[derive(Debug)]
pub(super) struct Host {
    ports: Vec<VsockPort>,
    listener: Option<OwnedFd>,
}

impl Host {
    /// Checks all that is to be had from the host.
    pub(super) fn new(spec: Spec) -> Result<Self, VsockError> {
        for (at, VsockPort { port, .. }) in spec.ports.iter().enumerate() {
            if spec.ports.iter().take(at).any(|earlier| earlier.port == *port) {
                return Err(VsockError::Port { port: *port });
            }
        }
        if let Some(listener) = &spec.listener {
            check_listener(listener).map_err(VsockError::NotAListener)?;
        }
        Ok(Self { ports: spec.ports, listener: spec.listener })
    }

    /// A connection to `port` for a guest that comes from `guest_port`; it does not block.
    pub(super) fn connect(&mut self, port: u32, guest_port: u32) -> io::Result<OwnedFd> {
        let known = self.ports.iter_mut().find(|known| known.port == port);
        let socket = known.ok_or(io::ErrorKind::ConnectionRefused)?.service.connect(guest_port)?;
        rustix::io::ioctl_fionbio(&socket, true)?;
        Ok(socket)
    }

    /// Where the host's programs connect.
    pub(super) fn listener(&self) -> Option<&OwnedFd> {
        self.listener.as_ref()
    }

    /// Takes the next program that connected; `None` when there is none.
    pub(super) fn accept(&self) -> Option<io::Result<OwnedFd>> {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        match rustix::net::accept_with(self.listener.as_ref()?, flags) {
            Ok(socket) => Some(Ok(socket)),
            Err(rustix::io::Errno::AGAIN) => None,
            Err(error) => Some(Err(error.into())),
        }
    }
}

fn check_listener(listener: &OwnedFd) -> io::Result<()> {
    if sockopt::socket_type(listener)? != SocketType::STREAM || !sockopt::socket_acceptconn(listener)? {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    Ok(rustix::io::ioctl_fionbio(listener, true)?)
}
