//! Which ways to log in a server offers.
//!
//! `ssh2::Session::auth_methods` panics when the server sends a list that is not UTF-8, and the
//! server is a guest, whom we do not trust: so the C function is called here.
#![allow(unsafe_code)]

use std::ffi::{CStr, CString};

/// Longest list that is passed on.
const MAX_LEN: usize = 200;

/// The comma-separated list, `Ok(None)` when it has not come yet (the session is non-blocking),
/// `Err` when the server sends none.
pub(super) fn offered(session: &ssh2::Session, user: &str) -> Result<Option<String>, ssh2::Error> {
    let user = CString::new(user)?;
    let length = user.as_bytes().len() as libc::c_uint;
    let mut raw = session.raw();
    // SAFETY: the session is alive and locked, and `user` is a string of `length` bytes that
    // outlives the call.
    let list = unsafe { libssh2_sys::libssh2_userauth_list(&mut *raw, user.as_ptr(), length) };
    if list.is_null() {
        drop(raw);
        return match ssh2::Error::last_session_error(session) {
            Some(error) if super::session::would_block(&error) => Ok(None),
            Some(error) => Err(error),
            None => Ok(Some(String::new())),
        };
    }
    // SAFETY: the library returns a zero-terminated string that lives until the next call on
    // this session, which cannot come while `raw` holds its lock.
    let list = unsafe { CStr::from_ptr(list) };
    let printable = |c: &char| c.is_ascii_graphic();
    Ok(Some(list.to_string_lossy().chars().filter(printable).take(MAX_LEN).collect()))
}
