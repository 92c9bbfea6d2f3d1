//! Frames over a TAP interface of the host.
#![allow(unsafe_code)]

use std::ffi::CString;
use std::fs::{File, OpenOptions};
use std::io::{self, Read};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::os::unix::fs::OpenOptionsExt;

use super::batch::Batch;
use super::error::NetError;
use super::stream::Down;
use super::{ETHERNET_HEADER, HEADER_LEN, MAX_FRAME};

/// Requests of `tun(4)` (`linux/if_tun.h`).
const TUNSETIFF: libc::c_ulong = 0x4004_54ca;
const TUNSETOFFLOAD: libc::c_ulong = 0x4004_54d0;
const TUNSETVNETHDRSZ: libc::c_ulong = 0x4004_54d8;

/// The header before each frame that we send: no offloads, whatever the guest wrote.
const PLAIN: [u8; HEADER_LEN] = [0; HEADER_LEN];

/// A TAP interface.
#[derive(Debug)]
pub(super) struct Tap {
    file: File,
    buffer: Vec<u8>,
    /// Bytes of the header and frame in `buffer`; 0 when there is none.
    held: usize,
    readable: bool,
}

impl Tap {
    /// Attaches to the interface `name`, which has to be there.
    pub(super) fn open(name: &str) -> Result<Self, NetError> {
        let missing = || NetError::NoInterface { name: name.to_owned() };
        let interface = CString::new(name).map_err(|_| missing())?;
        if interface.as_bytes().is_empty() || interface.as_bytes_with_nul().len() > libc::IFNAMSIZ {
            return Err(missing());
        }
        let device = |source| NetError::TunDevice { name: name.to_owned(), source };
        let mut options = OpenOptions::new();
        options.read(true).write(true).custom_flags(libc::O_NONBLOCK);
        // SAFETY: the name is a valid C string for the whole call.
        if unsafe { libc::if_nametoindex(interface.as_ptr()) } == 0 {
            return Err(missing());
        }
        let file = options.open("/dev/net/tun").map_err(device)?;
        attach(&file, &interface).map_err(|source| NetError::Attach { name: name.to_owned(), source })?;
        Ok(Self { file, buffer: vec![0; HEADER_LEN + MAX_FRAME], held: 0, readable: true })
    }

    pub(super) fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }

    /// Notes that the interface has something to read.
    pub(super) fn set_readable(&mut self) {
        self.readable = true;
    }

    /// The next frame, which stays the next until it is consumed.
    pub(super) fn peek(&mut self) -> Result<Option<&[u8]>, Down> {
        while self.held < HEADER_LEN + ETHERNET_HEADER {
            if !self.readable {
                return Ok(None);
            }
            match self.file.read(&mut self.buffer) {
                Ok(0) => return Err(Down::Closed),
                Ok(count) => self.held = count,
                Err(error) => match error.kind() {
                    io::ErrorKind::WouldBlock => self.readable = false,
                    io::ErrorKind::Interrupted => {}
                    _ => return Err(Down::Io(error)),
                },
            }
        }
        Ok(self.buffer.get(HEADER_LEN..self.held))
    }

    /// Drops the frame that [`peek`](Self::peek) showed.
    pub(super) fn consume(&mut self) {
        self.held = 0;
    }

    /// Sends what the interface takes, one frame a call; false when it is full.
    pub(super) fn send(&mut self, batch: &mut Batch<'_>) -> Result<bool, Down> {
        while !batch.is_empty() {
            let sent = batch.frame_pieces(&PLAIN).write(self.file.as_fd());
            match sent {
                Ok(_) => batch.skip_frame(),
                Err(error) => match (error.kind(), error.raw_os_error()) {
                    (io::ErrorKind::Interrupted, _) => {}
                    (io::ErrorKind::WouldBlock, _) => return Ok(false),
                    // The interface went away.
                    (_, Some(libc::EBADFD | libc::ENODEV)) => return Err(Down::Io(error)),
                    // It is down, or did not like this frame.
                    _ => batch.skip_frame(),
                },
            }
        }
        Ok(true)
    }
}

/// Makes `file` the interface's device end: frames without protocol information, each behind a
/// virtio header of [`HEADER_LEN`] bytes, no offloads.
fn attach(file: &File, interface: &CString) -> io::Result<()> {
    // SAFETY: all-zero bytes are a valid `ifreq`.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (to, from) in request.ifr_name.iter_mut().zip(interface.as_bytes()) {
        *to = from.cast_signed();
    }
    request.ifr_ifru.ifru_flags = (libc::IFF_TAP | libc::IFF_NO_PI | libc::IFF_VNET_HDR) as libc::c_short;
    // SAFETY: the descriptor is open and the request reads and writes one `ifreq`.
    check(unsafe { libc::ioctl(file.as_raw_fd(), TUNSETIFF, &mut request) })?;
    let size = HEADER_LEN as libc::c_int;
    // SAFETY: the descriptor is open and the request reads one int.
    check(unsafe { libc::ioctl(file.as_raw_fd(), TUNSETVNETHDRSZ, &size) })?;
    // SAFETY: the descriptor is open and the request takes a number.
    check(unsafe { libc::ioctl(file.as_raw_fd(), TUNSETOFFLOAD, 0) })
}

fn check(result: libc::c_int) -> io::Result<()> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}
