//! How to log in: `RVM_SSH_USER`, `RVM_SSH_PASSWORD` and `RVM_SSH_KEY`.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use crate::model::{Login, Secret};

use super::vars::PASSWORD;
use super::walk::Reader;

const USER: &str = "RVM_SSH_USER";
/// What [`is_user`] takes.
pub(super) const USER_HELP: &str =
    "use letters, digits, `.`, `_` and `-`, beginning with a letter or `_`, at most 32";
const KEY: &str = "RVM_SSH_KEY";

impl Reader<'_> {
    /// The login that the ENV file or the environment gives; an empty value counts as none.
    pub fn login(&mut self) -> Login {
        let mut login = Login::default();
        if let Some(user) = self.credential(USER) {
            if is_user(&user) {
                login.user = user;
            } else {
                self.wrong_credential(USER, "is not the name of a user", USER_HELP);
            }
        }
        login.password = self.credential(PASSWORD).map(|password| {
            self.vars.keep_secret(PASSWORD, &password);
            Secret::new(password)
        });
        login.key = self.credential(KEY).and_then(|key| self.key_file(&key));
        login
    }

    fn credential(&mut self, name: &str) -> Option<String> {
        self.vars.get(name).map(|found| found.value).filter(|value| !value.is_empty())
    }

    /// The private key, if it is one that `ssh` would take: there, and for its owner alone.
    fn key_file(&mut self, given: &str) -> Option<PathBuf> {
        let from_env_file = self.vars.environment(KEY).is_none();
        let env_file = self.vars.file().place(KEY).filter(|_| from_env_file);
        let folder = env_file.and_then(|(path, _)| path.parent()).unwrap_or(&self.root).to_owned();
        let path = match given.strip_prefix("~/") {
            None => folder.join(given),
            Some(rest) => match self.vars.environment("HOME") {
                Some(home) => Path::new(&home).join(rest),
                None => {
                    self.wrong_credential(
                        KEY,
                        "begins with `~/`, but `HOME` is not set",
                        "write the whole path",
                    );
                    return None;
                }
            },
        };
        let shown = path.display();
        let metadata = match std::fs::metadata(&path) {
            Ok(metadata) => metadata,
            Err(error) => {
                let help = "name a private key; relative paths start at the folder of the ENV file";
                self.wrong_credential(KEY, &format!("names {shown}: {error}"), help);
                return None;
            }
        };
        let mode = metadata.permissions().mode() & 0o777;
        if !metadata.is_file() {
            self.wrong_credential(KEY, &format!("names {shown}, which is not a file"), "name a private key");
            return None;
        }
        if mode & 0o077 != 0 {
            let fault = format!("names {shown}, which others may read or change (mode {mode:04o})");
            self.wrong_credential(KEY, &fault, &format!("run `chmod 600 {shown}`"));
            return None;
        }
        Some(path)
    }

    fn wrong_credential(&mut self, name: &str, fault: &str, help: &str) {
        let overridden = self.vars.environment(name).is_some();
        let place = self.vars.file().place(name).filter(|_| !overridden);
        match place.map(|(path, line)| (path.to_owned(), line)) {
            Some((path, line)) => {
                self.problems.add_elsewhere(&path, Some(line), format!("`{name}` {fault}"), help);
            }
            None => self.problems.add_whole(format!("`{name}` of the environment {fault}"), help),
        }
    }
}

/// What `useradd` takes in Debian and elsewhere; never something that `ssh` takes for an option.
pub(super) fn is_user(name: &str) -> bool {
    name.len() <= 32
        && name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
        && name.chars().all(|c| c.is_ascii_alphanumeric() || "._-".contains(c))
}

#[cfg(test)]
mod tests {
    use super::is_user;

    #[test]
    fn user_names() {
        assert!(["vagrant", "_apt", "a.b-c_D9"].into_iter().all(is_user));
        assert!(!["", "-oProxyCommand=x", "a b", "1a", "a@b", &"a".repeat(33)].into_iter().any(is_user));
    }
}
