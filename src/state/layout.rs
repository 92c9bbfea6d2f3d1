//! Where things are kept.

use std::path::{Path, PathBuf};

use thiserror::Error;

use crate::model::Code;

/// The user's store, `$RVM_HOME`.
///
/// ```text
/// boxes/NAME/DIGEST/…      images and their kernels (room `image`)
/// kernels/…                kernels built or unpacked once (room `image`)
/// machines/ID/…            one folder a machine: record, disk, keys, sockets, logs
/// networks/ID/…            one folder a private network: its members, socket, log (room `net`)
/// volumes/ID/…             one folder a volume: its disk (room `machine`)
/// locks/…                  lock files
/// ssh_config               the machines that run, for ~/.ssh/config (room `cli`)
/// ```
#[derive(Debug, Clone)]
pub struct Layout {
    home: PathBuf,
}

/// Why there is no store.
#[derive(Debug, Error)]
pub enum LayoutError {
    /// Neither `RVM_HOME`, `XDG_DATA_HOME` nor `HOME` is set.
    #[error("cannot tell where to keep machines: neither RVM_HOME nor XDG_DATA_HOME nor HOME is set")]
    NoHome,
    /// A path that must be absolute is not.
    #[error("{name} must be an absolute path, not `{value}`")]
    Relative {
        /// Name of the variable.
        name: &'static str,
        /// Its value.
        value: String,
    },
}

impl LayoutError {
    /// Its stable code (`docs/errors.md`).
    pub fn code(&self) -> Code {
        match self {
            LayoutError::NoHome => Code::NoHome,
            LayoutError::Relative { .. } => Code::RelativeHome,
        }
    }
}

impl Layout {
    /// The store at `home`, an absolute path; nothing is created yet.
    pub fn at(home: impl Into<PathBuf>) -> Self {
        Layout { home: home.into() }
    }

    /// The store that the environment names: `RVM_HOME`, else `rvm` in the XDG data folder
    /// (XDG Base Directory Specification). `var` reads the environment.
    pub fn from_env(var: impl Fn(&str) -> Option<String>) -> Result<Self, LayoutError> {
        let absolute = |name: &'static str| match var(name).filter(|v| !v.is_empty()) {
            Some(value) if Path::new(&value).is_absolute() => Ok(Some(PathBuf::from(value))),
            Some(value) => Err(LayoutError::Relative { name, value }),
            None => Ok(None),
        };
        if let Some(home) = absolute("RVM_HOME")? {
            return Ok(Layout { home });
        }
        // The specification says to ignore a relative XDG path.
        if let Ok(Some(data)) = absolute("XDG_DATA_HOME") {
            return Ok(Layout { home: data.join("rvm") });
        }
        match absolute("HOME")? {
            Some(home) => Ok(Layout { home: home.join(".local/share/rvm") }),
            None => Err(LayoutError::NoHome),
        }
    }

    /// `$RVM_HOME` itself.
    pub fn home(&self) -> &Path {
        &self.home
    }

    /// Boxes.
    pub fn boxes(&self) -> PathBuf {
        self.home.join("boxes")
    }

    /// Kernels that were built or unpacked.
    pub fn kernels(&self) -> PathBuf {
        self.home.join("kernels")
    }

    /// All machines.
    pub fn machines(&self) -> PathBuf {
        self.home.join("machines")
    }

    /// One machine, by its full id.
    pub fn machine(&self, id: &str) -> PathBuf {
        self.machines().join(id)
    }

    /// All private networks.
    pub fn networks(&self) -> PathBuf {
        self.home.join("networks")
    }

    /// All volumes.
    pub fn volumes(&self) -> PathBuf {
        self.home.join("volumes")
    }

    /// Lock file of that name.
    pub fn lock_file(&self, name: &str) -> PathBuf {
        self.home.join("locks").join(format!("{name}.lock"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn env<'a>(pairs: &'a [(&'a str, &'a str)]) -> impl Fn(&str) -> Option<String> + 'a {
        move |name| pairs.iter().find(|(n, _)| *n == name).map(|(_, v)| (*v).to_owned())
    }

    #[test]
    fn order_of_variables() {
        let all = [("RVM_HOME", "/r"), ("XDG_DATA_HOME", "/x"), ("HOME", "/h")];
        assert_eq!(Layout::from_env(env(&all)).unwrap().home(), Path::new("/r"));
        assert_eq!(Layout::from_env(env(&all[1..])).unwrap().home(), Path::new("/x/rvm"));
        assert_eq!(Layout::from_env(env(&all[2..])).unwrap().home(), Path::new("/h/.local/share/rvm"));
        assert!(matches!(Layout::from_env(env(&[])), Err(LayoutError::NoHome)));
    }

    #[test]
    fn relative_home_is_refused() {
        let result = Layout::from_env(env(&[("RVM_HOME", "here")]));
        assert!(matches!(result, Err(LayoutError::Relative { name: "RVM_HOME", .. })));
    }
}
