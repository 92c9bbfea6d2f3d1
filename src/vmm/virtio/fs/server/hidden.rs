//! Names of the shared folder that do not exist for the guest.

use std::ffi::{CStr, CString};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;

use super::Server;
use super::system::{self, Identity, check_name};

/// Each by the folder that it is in, so that it stays hidden when that folder is moved.
pub(super) type Hidden = Vec<(Identity, CString)>;

impl Server {
    /// Hides a path, relative to the shared folder, whether there is a file or not: the guest finds nothing there,
    /// and can put nothing there. Of a folder that is not there nothing is hidden.
    pub fn hide(&mut self, path: &Path) {
        let mut names = path.iter().filter_map(|name| CString::new(name.as_bytes()).ok()).collect::<Vec<_>>();
        let Some(last) = names.pop() else { return };
        let mut folder = self.nodes.root().clone();
        for name in names {
            let flags = OFlags::PATH | OFlags::DIRECTORY;
            let Ok(next) = system::open_in(&folder, &name, flags, Mode::empty()) else { return };
            folder = next.into();
        }
        if let Ok(stat) = system::stat_of(&folder) {
            self.hidden.push((Identity::of(&stat), last));
        }
    }

    /// Whether that name in a folder is hidden.
    pub(super) fn is_hidden(&self, parent: u64, name: &CStr) -> bool {
        let mut named = self.hidden.iter().filter(|(_, hidden)| hidden.as_c_str() == name).peekable();
        named.peek().is_some()
            && self.nodes.identity(parent).is_some_and(|folder| named.any(|(hidden, _)| *hidden == folder))
    }

    /// Refuses what is no name, and a hidden one, for requests that change something.
    ///
    /// # Errors
    /// As [`check_name`]; `EACCES`.
    pub(super) fn allowed<'n>(&self, parent: u64, name: &'n CStr) -> Result<&'n CStr, Errno> {
        let name = check_name(name)?;
        if self.is_hidden(parent, name) { Err(Errno::ACCESS) } else { Ok(name) }
    }
}
