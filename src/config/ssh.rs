//! `[ssh]`: the login user, and what the system's ssh client is told.

use crate::model::{Ssh, SshClient};

use super::keys::Place;
use super::layer::Stack;
use super::login::{USER_HELP, is_user};
use super::report::brief;
use super::walk::{Reader, Sp, Table};

/// Keywords that `rvm` writes itself (ssh_config(5) takes the first of a keyword), or that end a block.
const OURS: [&str; 11] = [
    "Host",
    "Match",
    "Include",
    "HostName",
    "User",
    "Port",
    "UserKnownHostsFile",
    "StrictHostKeyChecking",
    "PasswordAuthentication",
    "IdentityFile",
    "IdentitiesOnly",
];

/// `[ssh]` as it stands in one table.
#[derive(Debug, Clone, Default)]
pub(super) struct RawSsh {
    user: Option<String>,
    pub port: Option<Sp<u16>>,
    forward_agent: Option<bool>,
    forward_x11: Option<bool>,
    keep_alive: Option<bool>,
    options: Vec<String>,
}

impl Reader<'_> {
    /// `[ssh]` of a table; all of it is optional.
    pub fn ssh(&mut self, table: &Table<'_>) -> RawSsh {
        let Some(value) = table.raw("ssh") else { return RawSsh::default() };
        let Some(entries) = value.get_ref().as_table() else {
            self.wrong(&value.span(), "`ssh` is no table", "write `ssh = { user = \"admin\" }`, or `[ssh]`");
            return RawSsh::default();
        };
        let ssh = self.open(entries, value.span(), Place::Ssh);
        let user = self.text(&ssh, "user", "\"admin\"").and_then(|user| {
            let fine = is_user(&user.value.value);
            if !fine {
                let message = format!("{:?} is not the name of a user", brief(&user.value.shown));
                self.wrong(&user.span, message, USER_HELP);
            }
            fine.then_some(user.value.value)
        });
        let port = self.number(&ssh, "port", 1, 65_535).and_then(|port| {
            let value = u16::try_from(port.value).ok()?;
            Some(Sp { value, span: port.span })
        });
        RawSsh {
            user,
            port,
            forward_agent: self.boolean(&ssh, "forward_agent"),
            forward_x11: self.boolean(&ssh, "forward_x11"),
            keep_alive: self.boolean(&ssh, "keep_alive"),
            options: self.client_options(&ssh),
        }
    }

    fn client_options(&mut self, ssh: &Table<'_>) -> Vec<String> {
        let mut options = Vec::new();
        for option in self.texts(ssh, "options", "[\"Compression yes\"]").unwrap_or_default() {
            let text = option.value.value.trim();
            let (keyword, rest) = text.split_once([' ', '\t', '=']).unwrap_or((text, ""));
            let is_keyword = !keyword.is_empty() && keyword.chars().all(|c| c.is_ascii_alphanumeric());
            if !is_keyword || rest.trim().is_empty() || text.contains(char::is_control) {
                let message = format!("{:?} is no option of the ssh client", brief(&option.value.shown));
                let help = "write a keyword of ssh_config(5) and its value, such as \"Compression yes\"";
                self.wrong(&option.span, message, help);
            } else if let Some(ours) = OURS.iter().find(|ours| ours.eq_ignore_ascii_case(keyword)) {
                let help = match *ours {
                    "User" => "it is the key `user`",
                    "Port" => "the host's port that leads there is the key `port`",
                    "IdentityFile" => "name the key in the ENV file: RVM_SSH_KEY",
                    _ => "it is what leads to the machine and to no other",
                };
                self.wrong(&option.span, format!("rvm writes `{ours}` itself"), help);
            } else {
                options.push(text.to_owned());
            }
        }
        options
    }
}

impl Stack<'_> {
    /// `[ssh]` of the machine: the innermost value of each key, all options.
    pub fn ssh(&self) -> Ssh {
        let flag = |get: fn(&RawSsh) -> Option<bool>| self.pick(|layer| get(&layer.ssh)).unwrap_or_default();
        Ssh {
            user: self.pick(|layer| layer.ssh.user.clone()),
            port: self.pick(|layer| layer.ssh.port.as_ref()).map(|port| port.value),
            client: SshClient {
                forward_agent: flag(|ssh| ssh.forward_agent),
                forward_x11: flag(|ssh| ssh.forward_x11),
                keep_alive: flag(|ssh| ssh.keep_alive),
                options: self.all(|layer| &layer.ssh.options).cloned().collect(),
            },
        }
    }
}
