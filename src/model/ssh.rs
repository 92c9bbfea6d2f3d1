//! How to log in to machines, and what the system's ssh client is told beside it.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::{Project, Secret};

/// How to log in to the machines of a project.
#[derive(Debug, Clone)]
pub struct Login {
    /// User name; `vagrant` unless `RVM_SSH_USER` says otherwise.
    pub user: String,
    /// `RVM_SSH_PASSWORD`.
    pub password: Option<Secret>,
    /// `RVM_SSH_KEY`: absolute path of a private key. `None`: the machine's own key.
    pub key: Option<PathBuf>,
}

impl Default for Login {
    fn default() -> Self {
        Login { user: "vagrant".into(), password: None, key: None }
    }
}

/// `[ssh]` of one machine.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Ssh {
    /// Login user of this machine, before that of the project.
    pub user: Option<String>,
    /// Port of 127.0.0.1 on the host that leads to SSH, this one and no other; `None`: any free one.
    pub port: Option<u16>,
    /// For the system's ssh client.
    pub client: SshClient,
}

/// What the system's ssh client is told beside where the machine is.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SshClient {
    /// Keys of the user's agent can be used in the guest.
    pub forward_agent: bool,
    /// Programs of the guest show windows on the user's X server.
    pub forward_x11: bool,
    /// Ask a silent guest whether it is there.
    pub keep_alive: bool,
    /// More lines for ssh_config(5), `Keyword value`: never one of those that `rvm` writes itself, and
    /// never more than a line.
    pub options: Vec<String>,
}

/// A guest that is asked every 15 s and does not answer 4 times is given up.
const ALIVE: [&str; 2] = ["ServerAliveInterval 15", "ServerAliveCountMax 4"];

impl SshClient {
    /// All of it as lines of ssh_config(5).
    pub fn lines(&self) -> Vec<String> {
        let mut lines = Vec::new();
        let mut add = |wanted: bool, list: &[&str]| {
            lines.extend(list.iter().filter(|_| wanted).map(|line| (*line).to_owned()));
        };
        add(self.forward_agent, &["ForwardAgent yes"]);
        add(self.forward_x11, &["ForwardX11 yes"]);
        add(self.keep_alive, &ALIVE);
        lines.extend(self.options.iter().cloned());
        lines
    }
}

impl Project {
    /// How to log in to that machine.
    pub fn login_for(&self, machine: &str) -> Login {
        let user = self.machines.iter().find(|m| m.name == machine).and_then(|m| m.ssh.user.clone());
        let mut login = self.login.clone();
        if let Some(user) = user {
            login.user = user;
        }
        login
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_for_the_client() {
        assert!(SshClient::default().lines().is_empty());
        let client = SshClient {
            forward_agent: true,
            forward_x11: true,
            keep_alive: true,
            options: vec!["Compression yes".into()],
        };
        assert_eq!(
            client.lines(),
            [
                "ForwardAgent yes",
                "ForwardX11 yes",
                "ServerAliveInterval 15",
                "ServerAliveCountMax 4",
                "Compression yes"
            ]
        );
    }
}
