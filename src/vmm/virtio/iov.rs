//! Vectored system calls straight from and to guest memory, without a copy in between.
#![allow(unsafe_code)]

use std::io;
use std::marker::PhantomData;
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, BorrowedFd, IntoRawFd, OwnedFd};

use vm_memory::VolatileSlice;

/// Pieces that one system call takes; Linux allows 1024. The longest chain of a queue of 256 and a
/// header of our own fit in one call.
pub(super) const MAX_PIECES: usize = 272;

/// The pieces of one system call, in order. Lives on the stack; only what is filled is initialised.
pub(super) struct IoVecs<'a> {
    raw: [MaybeUninit<libc::iovec>; MAX_PIECES],
    count: usize,
    memory: PhantomData<&'a [u8]>,
}

impl<'a> IoVecs<'a> {
    /// No pieces.
    pub(super) fn new() -> Self {
        Self { raw: [const { MaybeUninit::uninit() }; MAX_PIECES], count: 0, memory: PhantomData }
    }

    /// Appends guest memory; false when the call is full.
    fn push(&mut self, slice: &VolatileSlice<'a>) -> bool {
        // Guest memory is one mapping for its whole life, so the guard guards nothing here.
        self.push_raw(slice.ptr_guard_mut().as_ptr(), slice.len())
    }

    /// Appends bytes that are only read: for the calls that send.
    pub(super) fn push_bytes(&mut self, bytes: &'a [u8]) -> bool {
        self.push_raw(bytes.as_ptr().cast_mut(), bytes.len())
    }

    /// Appends the first `limit` bytes of `slices` without their first `skip`, as many as fit.
    fn push_part(&mut self, slices: &[VolatileSlice<'a>], mut skip: usize, mut limit: usize) {
        for slice in slices {
            let Ok(rest) = slice.offset(skip) else {
                skip -= slice.len();
                continue;
            };
            skip = 0;
            let Ok(part) = rest.subslice(0, rest.len().min(limit)) else { break };
            if !part.is_empty() && !self.push(&part) {
                break;
            }
            limit -= part.len();
        }
    }

    /// Appends `slices` without their first `skip` bytes, as many as fit.
    pub(super) fn push_from(&mut self, slices: &[VolatileSlice<'a>], mut skip: usize) {
        for slice in slices {
            let Ok(rest) = slice.offset(skip) else {
                skip -= slice.len();
                continue;
            };
            skip = 0;
            if !rest.is_empty() && !self.push(&rest) {
                break;
            }
        }
    }

    fn push_raw(&mut self, base: *mut u8, len: usize) -> bool {
        let Some(slot) = self.raw.get_mut(self.count) else { return false };
        slot.write(libc::iovec { iov_base: base.cast(), iov_len: len });
        self.count += 1;
        true
    }

    fn as_ptr(&self) -> *const libc::iovec {
        self.raw.as_ptr().cast()
    }

    /// `sendmsg(2)` that neither blocks nor raises SIGPIPE; gives the number of bytes taken.
    pub(super) fn send(&self, socket: BorrowedFd<'_>) -> io::Result<usize> {
        // SAFETY: all-zero bytes are a valid `msghdr`: null pointers with zero lengths.
        let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
        message.msg_iov = self.as_ptr().cast_mut();
        message.msg_iovlen = self.count as _;
        let flags = libc::MSG_NOSIGNAL | libc::MSG_DONTWAIT;
        // SAFETY: the first `count` entries are initialised and describe memory that lives for
        // `'a`; sending only reads it.
        bytes(unsafe { libc::sendmsg(socket.as_raw_fd(), &message, flags) })
    }

    /// `preadv(2)`; gives the number of bytes read.
    fn read(&self, file: BorrowedFd<'_>, offset: libc::off64_t) -> io::Result<usize> {
        // SAFETY: the first `count` entries are initialised and describe guest memory, which is
        // borrowed for the call and of which no Rust reference exists.
        bytes(unsafe { libc::preadv64(file.as_raw_fd(), self.as_ptr(), self.count as libc::c_int, offset) })
    }

    /// `writev(2)`; gives the number of bytes taken.
    pub(super) fn write(&self, file: BorrowedFd<'_>) -> io::Result<usize> {
        // SAFETY: as for `send`.
        bytes(unsafe { libc::writev(file.as_raw_fd(), self.as_ptr(), self.count as libc::c_int) })
    }
}

/// A part of what `slices` hold: so many bytes behind the first `skip`.
#[derive(Clone, Copy)]
pub(super) struct Part<'s, 'm> {
    /// All of it.
    pub(super) slices: &'s [VolatileSlice<'m>],
    /// Bytes that lie before the part.
    pub(super) skip: usize,
    /// Bytes in the part.
    pub(super) len: usize,
}

/// Fills `part` from `file` at `offset`.
///
/// # Errors
/// `UnexpectedEof` when the file ends before, else what the system says.
pub(super) fn read_at(file: BorrowedFd<'_>, part: Part<'_, '_>, offset: u64) -> io::Result<()> {
    transfer(part, offset, io::ErrorKind::UnexpectedEof, |iov, offset| iov.read(file, offset))
}

/// Writes `part` to `file` at `offset`.
///
/// # Errors
/// What the system says.
pub(super) fn write_at(file: BorrowedFd<'_>, part: Part<'_, '_>, offset: u64) -> io::Result<()> {
    let call = |iov: &IoVecs<'_>, offset| {
        // SAFETY: the first `count` entries are initialised and describe guest memory, which is
        // borrowed for the call; writing to a file only reads it.
        bytes(unsafe { libc::pwritev64(file.as_raw_fd(), iov.as_ptr(), iov.count as libc::c_int, offset) })
    };
    transfer(part, offset, io::ErrorKind::WriteZero, call)
}

/// Fills at most `limit` bytes of `slices` behind the first `skip` from `file` at `offset`; gives the
/// number of bytes, fewer where the file ends or fails.
///
/// # Errors
/// What the system says, if nothing was read before.
pub(super) fn read_up_to(
    file: BorrowedFd<'_>,
    slices: &[VolatileSlice<'_>],
    skip: usize,
    limit: usize,
    offset: u64,
) -> io::Result<usize> {
    transfer_up_to(slices, skip, limit, offset, |iov, offset| iov.read(file, offset))
}

/// Writes the first `limit` bytes of `slices` to `file` at `offset`, or to its end with `append`; gives
/// the number of bytes, fewer where the file fails.
///
/// # Errors
/// What the system says, if nothing was written before.
pub(super) fn write_up_to(
    file: BorrowedFd<'_>,
    slices: &[VolatileSlice<'_>],
    limit: usize,
    offset: u64,
    append: bool,
) -> io::Result<usize> {
    let flags = if append { libc::RWF_APPEND } else { 0 };
    transfer_up_to(slices, 0, limit, offset, |iov, offset| {
        let count = iov.count as libc::c_int;
        // SAFETY: as in `write_at`.
        bytes(unsafe { libc::pwritev2(file.as_raw_fd(), iov.as_ptr(), count, offset, flags) })
    })
}

/// Repeats `call` until `limit` bytes are through or it moves no more.
fn transfer_up_to(
    slices: &[VolatileSlice<'_>],
    skip: usize,
    limit: usize,
    offset: u64,
    call: impl Fn(&IoVecs<'_>, i64) -> io::Result<usize>,
) -> io::Result<usize> {
    let mut done = 0;
    while done < limit {
        let mut iov = IoVecs::new();
        iov.push_part(slices, skip + done, limit - done);
        let position = offset.checked_add(done as u64).and_then(|at| i64::try_from(at).ok());
        match position.ok_or(io::ErrorKind::InvalidInput.into()).and_then(|position| call(&iov, position)) {
            Ok(0) => break,
            Ok(count) => done += count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) if done == 0 => return Err(error),
            Err(_) => break,
        }
    }
    Ok(done)
}

/// Closes a descriptor and hears what its file system has to say.
///
/// # Errors
/// What the system says; it is closed all the same.
pub(super) fn close(file: OwnedFd) -> io::Result<()> {
    // SAFETY: the descriptor is ours and is given up with this.
    match unsafe { libc::close(file.into_raw_fd()) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Repeats `call` until all of `part` is through; `stuck` is the error when it moves nothing.
fn transfer(
    part: Part<'_, '_>,
    offset: u64,
    stuck: io::ErrorKind,
    call: impl Fn(&IoVecs<'_>, i64) -> io::Result<usize>,
) -> io::Result<()> {
    let mut done = 0;
    while done < part.len {
        let mut iov = IoVecs::new();
        iov.push_part(part.slices, part.skip + done, part.len - done);
        let position = offset.checked_add(done as u64).and_then(|at| i64::try_from(at).ok());
        let position = position.ok_or(io::ErrorKind::InvalidInput)?;
        match call(&iov, position) {
            Ok(0) => return Err(stuck.into()),
            Ok(count) => done += count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

fn bytes(result: isize) -> io::Result<usize> {
    usize::try_from(result).map_err(|_| io::Error::last_os_error())
}
