//! Frames over a TAP interface of the host.
#![allow(unsafe_code)]

use std::ffi::CString;
use std::fs::{File, OpenOptions};
use std::io::{self, Read};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::os::unix::fs::OpenOptionsExt;

use super::backend::Incoming;
use super::batch::Batch;
use super::error::NetError;
use super::offload::{F_GUEST_CSUM, F_GUEST_ECN, F_GUEST_TSO4, F_GUEST_TSO6, incoming};
use super::stream::Down;
use super::{ETHERNET_HEADER, HEADER_LEN, MAX_FRAME};

/// Requests of `tun(4)` (`linux/if_tun.h`).
const TUNSETIFF: libc::c_ulong = 0x4004_54ca;
const TUNSETOFFLOAD: libc::c_ulong = 0x4004_54d0;
const TUNSETVNETHDRSZ: libc::c_ulong = 0x4004_54d8;
const TUNSETQUEUE: libc::c_ulong = 0x4004_54d9;

/// Offloads of `TUNSETOFFLOAD` and the features that stand for them.
const OFFLOADS: [(u64, libc::c_ulong); 4] =
    [(F_GUEST_CSUM, 0x01), (F_GUEST_TSO4, 0x02), (F_GUEST_TSO6, 0x04), (F_GUEST_ECN, 0x08)];

/// A TAP interface.
#[derive(Debug)]
pub(super) struct Tap {
    file: File,
    /// What the driver agreed to take.
    features: u64,
    buffer: Vec<u8>,
    /// Bytes of the header and frame in `buffer`; 0 when there is none.
    held: usize,
    readable: bool,
}

impl Tap {
    /// Attaches to the interface `name`, which has to be there: `count` times, so that each has a queue of its
    /// own, if it was made for several queues, else once.
    pub(super) fn open(name: &str, count: usize) -> Result<Vec<Self>, NetError> {
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
        let open = |flags| {
            let file = options.open("/dev/net/tun").map_err(device)?;
            attach(&file, &interface, flags)
                .map_err(|source| NetError::Attach { name: name.to_owned(), source })?;
            Ok(Self::over(file))
        };
        match open(libc::IFF_MULTI_QUEUE) {
            Ok(first) => {
                let others = (1..count).map(|_| open(libc::IFF_MULTI_QUEUE));
                [Ok(first)].into_iter().chain(others).collect()
            }
            // What an interface says that was made for one.
            Err(NetError::Attach { source, .. }) if source.raw_os_error() == Some(libc::EINVAL) => {
                Ok(vec![open(0)?])
            }
            Err(error) => Err(error),
        }
    }

    /// What has the interface use this queue, or not.
    pub(super) fn switch(&self) -> io::Result<TapQueue> {
        Ok(TapQueue(self.file.try_clone()?))
    }

    /// Sends and receives over `file`, each frame in one call and behind a virtio header.
    fn over(file: File) -> Self {
        Self { file, features: 0, buffer: vec![0; HEADER_LEN + MAX_FRAME], held: 0, readable: true }
    }

    /// Has the interface leave to the guest what its driver takes over.
    pub(super) fn set_features(&mut self, features: u64) -> io::Result<()> {
        self.features = features;
        let wanted = OFFLOADS.iter().filter(|(feature, _)| features & feature != 0);
        // Without checksums there are no segments (linux/if_tun.h).
        let checksums = features & F_GUEST_CSUM != 0;
        let offloads = if checksums { wanted.fold(0, |all, (_, offload)| all | offload) } else { 0 };
        // SAFETY: the descriptor is open and the request takes a number.
        check(unsafe { libc::ioctl(self.file.as_raw_fd(), TUNSETOFFLOAD, offloads) })
    }

    pub(super) fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }

    /// Notes that the interface has something to read.
    pub(super) fn set_readable(&mut self) {
        self.readable = true;
    }

    /// The next frame, which stays the next until it is consumed. Frames that no driver could take,
    /// and those that ask for what this one does not do, are skipped.
    pub(super) fn peek(&mut self) -> Result<Option<Incoming<'_>>, Down> {
        loop {
            let header = self.buffer.get(..self.held).and_then(|held| held.first_chunk());
            let clean = header.and_then(|header| incoming(header, self.features));
            if let Some(header) = clean.filter(|_| self.held >= HEADER_LEN + ETHERNET_HEADER) {
                return Ok(self.buffer.get(HEADER_LEN..self.held).map(|frame| (header, frame)));
            }
            self.held = 0;
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
    }

    /// Drops the frame that [`peek`](Self::peek) showed.
    pub(super) fn consume(&mut self) {
        self.held = 0;
    }

    /// Sends what the interface takes, one frame a call; false when it is full.
    pub(super) fn send(&mut self, batch: &mut Batch<'_>) -> Result<bool, Down> {
        while !batch.is_empty() {
            let sent = batch.frame_pieces().write(self.file.as_fd());
            match sent {
                Ok(_) => batch.frame_sent(),
                Err(error) => match (error.kind(), error.raw_os_error()) {
                    (io::ErrorKind::Interrupted, _) => {}
                    (io::ErrorKind::WouldBlock, _) => return Ok(false),
                    // The interface went away.
                    (_, Some(libc::EBADFD | libc::ENODEV)) => return Err(Down::Io(error)),
                    // It is down, or did not like this frame.
                    _ => batch.drop_frame(),
                },
            }
        }
        Ok(true)
    }
}

/// A queue of an interface, from the side that chooses which are in use.
#[derive(Debug)]
pub(super) struct TapQueue(File);

impl TapQueue {
    /// Has the interface use it or not. One that was made for a single queue cannot be switched.
    pub(super) fn set(&self, on: bool) -> io::Result<()> {
        // SAFETY: all-zero bytes are a valid `ifreq`.
        let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
        let flags = if on { libc::IFF_ATTACH_QUEUE } else { libc::IFF_DETACH_QUEUE };
        request.ifr_ifru.ifru_flags = flags as libc::c_short;
        // SAFETY: the descriptor is open and the request reads one `ifreq`.
        check(unsafe { libc::ioctl(self.0.as_raw_fd(), TUNSETQUEUE, &request) })
    }
}

/// Makes `file` the interface's device end: frames without protocol information, each behind a
/// virtio header of [`HEADER_LEN`] bytes, no offloads yet.
fn attach(file: &File, interface: &CString, flags: libc::c_int) -> io::Result<()> {
    // SAFETY: all-zero bytes are a valid `ifreq`.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (to, from) in request.ifr_name.iter_mut().zip(interface.as_bytes()) {
        *to = from.cast_signed();
    }
    let flags = libc::IFF_TAP | libc::IFF_NO_PI | libc::IFF_VNET_HDR | flags;
    request.ifr_ifru.ifru_flags = flags as libc::c_short;
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

#[cfg(test)]
mod tests {
    use std::os::fd::OwnedFd;
    use std::os::unix::net::UnixDatagram;

    use super::super::batch::Fate;
    use super::*;

    /// A datagram socket without a peer refuses frames, as an interface that is down does.
    #[test]
    fn frames_that_the_interface_does_not_take_are_dropped() {
        let (ours, theirs) = UnixDatagram::pair().unwrap();
        let mut tap = Tap::over(File::from(OwnedFd::from(ours)));
        let fates = |tap: &mut Tap| {
            let mut batch = Batch::of_short_frames(&[&[1; 60], &[2; 14]]);
            assert!(tap.send(&mut batch).unwrap());
            let mut fates = Vec::new();
            batch.take_done(|chain, fate| fates.push((chain, fate)));
            fates
        };
        assert_eq!(fates(&mut tap), [(0, Fate::Sent(60)), (1, Fate::Sent(14))]);
        let mut got = [0; 100];
        assert_eq!(theirs.recv(&mut got).unwrap(), HEADER_LEN + 60);
        drop(theirs);
        assert_eq!(fates(&mut tap), [(0, Fate::Dropped), (1, Fate::Dropped)]);
    }

    /// A datagram socket keeps the bounds of frames as an interface does.
    #[test]
    fn frames_that_the_driver_cannot_take_are_skipped() {
        let (ours, theirs) = UnixDatagram::pair().unwrap();
        ours.set_nonblocking(true).unwrap();
        let mut tap = Tap::over(File::from(OwnedFd::from(ours)));
        let frame = |header: [u8; HEADER_LEN], number: u8| [&header[..], &[number; 60]].concat();
        let segment = [1, 1, 54, 0, 0xb4, 5, 34, 0, 16, 0, 9, 9];
        let unfinished = [1, 0, 0, 0, 0, 0, 34, 0, 6, 0, 9, 9];
        let frames = [
            frame(segment, 1),
            vec![0; HEADER_LEN - 1],
            vec![0; HEADER_LEN + ETHERNET_HEADER - 1],
            frame(unfinished, 2),
            frame([0; HEADER_LEN], 3),
        ];
        for (features, expected) in [
            (0, &[3][..]),
            (F_GUEST_CSUM, &[2, 3]),
            (F_GUEST_TSO4, &[3]),
            (F_GUEST_CSUM | F_GUEST_TSO4, &[1, 2, 3]),
        ] {
            tap.features = features;
            tap.set_readable();
            for frame in &frames {
                theirs.send(frame).unwrap();
            }
            let mut got = Vec::new();
            while let Some((header, frame)) = tap.peek().unwrap() {
                assert_eq!((frame.len(), &header[10..]), (60, &[0, 0][..]));
                got.push(frame[0]);
                tap.consume();
            }
            assert_eq!(got, expected, "{features:#x}");
        }
    }
}
