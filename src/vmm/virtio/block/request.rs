//! One block request, from its chain to its status byte (virtio 1.2, section 5.2.6).

use std::io;
use std::time::Duration;

use vm_memory::{Bytes, VolatileSlice};

use super::counters::Counters;
use super::image::Image;
use super::{MAX_DISCARD_SECTORS, MAX_RANGES, MAX_ZERO_SECTORS, SECTOR, SERIAL_LEN};
use crate::vmm::virtio::chain::Chain;
use crate::vmm::virtio::iov::Part;
use crate::vmm::virtio::worker::{Handler, Stopping};

/// Request types.
const IN: u32 = 0;
const OUT: u32 = 1;
const FLUSH: u32 = 4;
const GET_ID: u32 = 8;
const DISCARD: u32 = 11;
const WRITE_ZEROES: u32 = 13;

/// Status bytes.
const OK: u8 = 0;
const IOERR: u8 = 1;
const UNSUPP: u8 = 2;

/// Bytes of a request's header: type, reserved, sector.
const HEADER_LEN: usize = 16;
/// Bytes of one range of a discard or write-zeroes request: sector, count, flags.
const RANGE_LEN: usize = 16;
/// Bytes that are read or written between two looks at the order to stop. What Linux asks for at once is
/// less.
const PIECE: usize = 4 << 20;
/// The same for bytes that are discarded or zeroed, a multiple of every cluster size.
const RANGE_PIECE: u64 = 64 << 20;
/// How long a queue is quiet before space that was discarded goes back to the host, unless a flush comes
/// first. Who trims a file system sends one discard after the other, and each time is a sync.
const QUIET: Duration = Duration::from_millis(500);
/// Flag of a range: write-zeroes may give the space back.
const UNMAP: u32 = 1;

/// What requests work on.
pub(super) struct Target<'a> {
    /// The image.
    pub(super) image: &'a Image,
    /// Refuse what changes it.
    pub(super) read_only: bool,
    /// Sync after each write, for a driver that has no way to ask for it.
    pub(super) write_through: bool,
    /// What GET_ID answers.
    pub(super) serial: [u8; SERIAL_LEN],
    /// Where what is carried is counted, and which queue this is.
    pub(super) meter: (&'a Counters, u16),
    /// The order to stop, which a long request looks at.
    pub(super) stopping: Stopping,
    /// An input or output error was logged; the rest are not.
    pub(super) logged: bool,
}

/// Why a request failed.
enum Failure {
    /// The request makes no sense or the image refused.
    Io(io::Error),
    /// The device does not do that.
    Unsupported,
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

impl<'m> Handler<'m> for Target<'_> {
    /// Carries out the request in `chain` and writes its status; gives the number of bytes
    /// written. A chain without a byte for the status is returned as it came.
    fn handle(&mut self, chain: &mut Chain<'m>) -> u32 {
        let Some(status) = chain.take_last_byte() else { return 0 };
        let (code, written) = match self.perform(chain) {
            Ok(written) => (OK, written),
            Err(Failure::Unsupported) => (UNSUPP, 0),
            Err(Failure::Io(error)) => {
                self.log(&error);
                (IOERR, 0)
            }
        };
        if status.write_obj(code, 0).is_err() {
            return 0;
        }
        // A chain holds less than 4 GiB, so this fits.
        u32::try_from(written + 1).unwrap_or(u32::MAX)
    }

    fn tidy_after(&self) -> Option<Duration> {
        self.image.is_untidy().then_some(QUIET)
    }

    fn tidy_up(&mut self) {
        if let Err(error) = self.image.sync() {
            self.log(&error);
        }
    }
}

impl Target<'_> {
    fn log(&mut self, error: &io::Error) {
        if !self.logged {
            tracing::warn!(%error, "disk request failed; further failures are not logged");
            self.logged = true;
        }
    }

    fn perform(&mut self, chain: &mut Chain<'_>) -> Result<usize, Failure> {
        let mut header = [0; HEADER_LEN];
        if !chain.read_exact(&mut header) {
            return Err(invalid("request without a whole header"));
        }
        let sector = le64(&header, 8);
        match le32(&header, 0) {
            IN => {
                let (offset, len) = self.span(sector, chain.writable(), chain.readable())?;
                self.pieces(chain.writable(), len, offset, |image, part, at| image.read(part, at))?;
                self.meter.0.add_read(self.meter.1, len);
                Ok(len)
            }
            OUT => {
                self.writable()?;
                let (offset, len) = self.span(sector, chain.readable(), chain.writable())?;
                self.pieces(chain.readable(), len, offset, |image, part, at| image.write(part, at))?;
                self.meter.0.add_written(self.meter.1, len);
                self.wrote()
            }
            FLUSH => {
                if !chain.readable().is_empty() || !chain.writable().is_empty() {
                    return Err(invalid("flush with data"));
                }
                // Nothing was written to a read-only image.
                if !self.read_only {
                    self.image.sync()?;
                }
                Ok(0)
            }
            GET_ID => {
                if chain.writable_len() < SERIAL_LEN {
                    return Err(invalid("no room for the serial"));
                }
                Ok(chain.write(&self.serial))
            }
            DISCARD => {
                self.ranges(chain, MAX_DISCARD_SECTORS, 0, |image, offset, len, _| image.discard(offset, len))
            }
            WRITE_ZEROES => self.ranges(chain, MAX_ZERO_SECTORS, UNMAP, |image, offset, len, flags| {
                image.write_zeroes(offset, len, flags & UNMAP != 0)
            }),
            _ => Err(Failure::Unsupported),
        }
    }

    /// Reads or writes `len` bytes, piece by piece; fails when the order to stop comes in between.
    fn pieces<'m>(
        &self,
        slices: &[VolatileSlice<'m>],
        len: usize,
        offset: u64,
        carry: impl Fn(&Image, Part<'_, 'm>, u64) -> io::Result<()>,
    ) -> Result<(), Failure> {
        let mut skip = 0;
        while skip < len {
            let part = Part { slices, skip, len: (len - skip).min(PIECE) };
            carry(self.image, part, offset + skip as u64)?;
            skip += part.len;
            self.go_on(skip < len)?;
        }
        Ok(())
    }

    /// Fails if there is `more` to do and the order to stop came.
    fn go_on(&self, more: bool) -> Result<(), Failure> {
        if more && self.stopping.is_set() {
            return Err(Failure::Io(io::Error::other("stopped in the middle of a request")));
        }
        Ok(())
    }

    fn writable(&self) -> Result<(), Failure> {
        if self.read_only { Err(invalid("write to a read-only disk")) } else { Ok(()) }
    }

    fn wrote(&self) -> Result<usize, Failure> {
        if self.write_through {
            self.image.sync()?;
        }
        Ok(0)
    }

    /// Checks the data of a read or write; gives its offset and length in bytes.
    fn span(
        &self,
        sector: u64,
        data: &[VolatileSlice<'_>],
        other: &[VolatileSlice<'_>],
    ) -> Result<(u64, usize), Failure> {
        let len: usize = data.iter().map(VolatileSlice::len).sum();
        if !other.is_empty() || !(len as u64).is_multiple_of(SECTOR) {
            return Err(invalid("data of the wrong direction or length"));
        }
        Ok((self.locate(sector, len as u64)?, len))
    }

    /// Offset in bytes of `len` bytes at `sector`, if the disk has them.
    fn locate(&self, sector: u64, len: u64) -> Result<u64, Failure> {
        let offset = sector.checked_mul(SECTOR).ok_or_else(|| invalid("sector out of range"))?;
        match offset.checked_add(len) {
            Some(end) if end <= self.image.size() => Ok(offset),
            _ => Err(invalid("access beyond the end of the disk")),
        }
    }

    /// Carries out a discard or write-zeroes request. All ranges are checked before the first is
    /// touched.
    fn ranges(
        &mut self,
        chain: &mut Chain<'_>,
        max_sectors: u32,
        known_flags: u32,
        apply: impl Fn(&Image, u64, u64, u32) -> io::Result<()>,
    ) -> Result<usize, Failure> {
        self.writable()?;
        let len = chain.readable_len();
        if len == 0 || !len.is_multiple_of(RANGE_LEN) || len / RANGE_LEN > MAX_RANGES {
            return Err(invalid("list of ranges of the wrong length"));
        }
        let mut ranges = [(0, 0, 0); MAX_RANGES];
        for range in ranges.iter_mut().take(len / RANGE_LEN) {
            let mut bytes = [0; RANGE_LEN];
            if !chain.read_exact(&mut bytes) {
                return Err(invalid("list of ranges ends early"));
            }
            let (count, flags) = (le32(&bytes, 8), le32(&bytes, 12));
            if flags & !known_flags != 0 {
                return Err(Failure::Unsupported);
            }
            if count > max_sectors {
                return Err(invalid("range is too long"));
            }
            let bytes_len = u64::from(count) * SECTOR;
            *range = (self.locate(le64(&bytes, 0), bytes_len)?, bytes_len, flags);
        }
        for &(mut offset, mut len, flags) in ranges.iter().filter(|range| range.1 > 0) {
            while len > 0 {
                self.go_on(true)?;
                // To the next multiple, so that no cluster is cut in two.
                let piece = len.min(RANGE_PIECE - offset % RANGE_PIECE);
                apply(self.image, offset, piece, flags)?;
                (offset, len) = (offset + piece, len - piece);
            }
        }
        self.wrote()
    }
}

fn invalid(why: &'static str) -> Failure {
    Failure::Io(io::Error::new(io::ErrorKind::InvalidInput, why))
}

fn le32(bytes: &[u8], at: usize) -> u32 {
    bytes.get(at..).and_then(|rest| rest.first_chunk()).map_or(0, |word| u32::from_le_bytes(*word))
}

fn le64(bytes: &[u8], at: usize) -> u64 {
    bytes.get(at..).and_then(|rest| rest.first_chunk()).map_or(0, |word| u64::from_le_bytes(*word))
}
