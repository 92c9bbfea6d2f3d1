//! The host's side: what guests can connect to, and where the host connects to them.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags};
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, sockopt};

use super::error::VsockError;
use crate::vmm::{Vsock as Spec, VsockPort, VsockService};

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

impl VsockPort {
    /// The UNIX socket `<base>_<port>`, where a program listens already: the name that other
    /// hypervisors use, too. It is opened now, so that a sandbox without paths can be put on later.
    ///
    /// # Errors
    /// [`VsockError::Socket`] when there is no such file.
    pub fn unix(base: &Path, port: u32) -> Result<Self, VsockError> {
        let mut path = base.as_os_str().to_owned();
        path.push(format!("_{port}"));
        let path = PathBuf::from(path);
        match rustix::fs::open(&path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty()) {
            Ok(file) => Ok(Self { port, service: Box::new(UnixService { file }) }),
            Err(error) => Err(VsockError::Socket { path, source: error.into() }),
        }
    }
}

/// A program that listens at a UNIX socket.
#[derive(Debug)]
struct UnixService {
    file: OwnedFd,
}

impl VsockService for UnixService {
    fn connect(&mut self, _guest_port: u32) -> io::Result<OwnedFd> {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let socket = rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
        let address = SocketAddrUnix::new(format!("/proc/self/fd/{}", self.file.as_raw_fd()))?;
        // A program that does not accept has a full queue: then this says so and does not wait.
        rustix::net::connect(&socket, &address)?;
        Ok(socket)
    }
}
