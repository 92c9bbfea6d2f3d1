//! Files that whoever started this process left open.
#![allow(unsafe_code)]

/// Keeps them from the processes that we start. Those of a machine live long, and a lock (`flock FILE rvm up`) or
/// the other end of a pipe would be theirs as long. A kernel before 5.11 cannot do it, and then it is not done.
pub fn keep_to_ourselves() {
    const FIRST: libc::c_uint = 3;
    // SAFETY: the call takes numbers, and sets a flag of descriptors. None is closed, and no memory is touched.
    let _ = unsafe { libc::close_range(FIRST, libc::c_uint::MAX, libc::CLOSE_RANGE_CLOEXEC as libc::c_int) };
}
