//! The host's side: what guests can connect to, and where the host connects to them.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use rustix::net::{SocketFlags, SocketType, sockopt};

use super::error::VsockError;
use crate::vmm::{Vsock as Spec, VsockForward, VsockPort};

/// After so long without a word a TCP client's kernel is asked whether the client is still there, up to [`PROBES`] times.
/// That of one that was closed denies it once its own time is over (`tcp_fin_timeout`, a minute).
const SILENCE: Duration = Duration::from_secs(30);
const PROBE_EVERY: Duration = Duration::from_secs(10);
const PROBES: u32 = 3;

/// Where programs of the host connect.
#[derive(Debug)]
pub(super) struct Door {
    listener: OwnedFd,
    /// Where it leads; `None`: each program says that first.
    pub(super) guest_port: Option<u32>,
}

/// Ports that guests can reach, and the sockets for connections to the guest.
#[derive(Debug)]
pub(super) struct Host {
    ports: Vec<VsockPort>,
    doors: Vec<Door>,
}

impl Host {
    /// Checks all that is to be had from the host.
    pub(super) fn new(spec: Spec) -> Result<Self, VsockError> {
        for (at, VsockPort { port, .. }) in spec.ports.iter().enumerate() {
            if spec.ports.iter().take(at).any(|earlier| earlier.port == *port) {
                return Err(VsockError::Port { port: *port });
            }
        }
        let told = spec.listener.map(|listener| Door { listener, guest_port: None });
        let leading = spec.forwards.into_iter().map(|VsockForward { listener, guest_port }| {
            // Who waits for a program's next few bytes waits for those, not for a full packet.
            let _ = sockopt::set_tcp_nodelay(&listener, true);
            keep_alive(&listener);
            Door { listener, guest_port: Some(guest_port) }
        });
        let doors: Vec<Door> = told.into_iter().chain(leading).collect();
        for door in &doors {
            check_listener(&door.listener).map_err(VsockError::NotAListener)?;
        }
        Ok(Self { ports: spec.ports, doors })
    }

    /// A connection to `port` for a guest that comes from `guest_port`; it does not block.
    pub(super) fn connect(&mut self, port: u32, guest_port: u32) -> io::Result<OwnedFd> {
        let known = self.ports.iter_mut().find(|known| known.port == port);
        let socket = known.ok_or(io::ErrorKind::ConnectionRefused)?.service.connect(guest_port)?;
        rustix::io::ioctl_fionbio(&socket, true)?;
        Ok(socket)
    }

    /// Where the host's programs connect.
    pub(super) fn doors(&self) -> &[Door] {
        &self.doors
    }
}

impl AsFd for Door {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.listener.as_fd()
    }
}

impl Door {
    /// Takes the next program that connected; `None` when there is none.
    pub(super) fn accept(&self) -> Option<io::Result<OwnedFd>> {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        match rustix::net::accept_with(&self.listener, flags) {
            Ok(socket) => Some(Ok(socket)),
            Err(rustix::io::Errno::AGAIN) => None,
            Err(error) => Some(Err(error.into())),
        }
    }
}

/// Has the kernel notice TCP clients that are gone, whatever the guest does: one that was closed looks like one that has
/// ended what it sends and still reads. A listener with times of its own keeps them; those it accepts inherit them.
fn keep_alive(listener: &OwnedFd) {
    if !matches!(sockopt::socket_keepalive(listener), Ok(false)) {
        return;
    }
    let times = sockopt::set_tcp_keepidle(listener, SILENCE)
        .and_then(|()| sockopt::set_tcp_keepintvl(listener, PROBE_EVERY))
        .and_then(|()| sockopt::set_tcp_keepcnt(listener, PROBES));
    // Others than TCP's have none, and say at once that they are closed.
    if times.is_ok() {
        let _ = sockopt::set_socket_keepalive(listener, true);
    }
}

fn check_listener(listener: &OwnedFd) -> io::Result<()> {
    if sockopt::socket_type(listener)? != SocketType::STREAM || !sockopt::socket_acceptconn(listener)? {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    Ok(rustix::io::ioctl_fionbio(listener, true)?)
}
