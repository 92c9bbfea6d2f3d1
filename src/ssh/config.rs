//! What the system's `ssh` needs to know about a machine.

use std::fmt::Write;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

/// One `Host` block of an ssh_config file. All paths absolute.
#[derive(Debug, Clone)]
pub struct ConfigEntry {
    /// The name that is typed after `ssh`.
    pub host: String,
    /// Address.
    pub hostname: IpAddr,
    /// Port.
    pub port: u16,
    /// Login user.
    pub user: String,
    /// File with the pinned host key.
    pub known_hosts: PathBuf,
    /// Private key files.
    pub identities: Vec<PathBuf>,
    /// Whether a password may be asked for.
    pub password: bool,
    /// More lines, each a keyword and its value. None of those above counts a second time: of each keyword
    /// ssh takes the first.
    pub options: Vec<String>,
}

/// The line of a known_hosts file that pins `key` (an OpenSSH public line), with its line end.
/// The form of the host is that of sshd(8), section SSH_KNOWN_HOSTS FILE FORMAT.
pub fn known_hosts_line(host: IpAddr, port: u16, key: &str) -> String {
    let key = key.split_whitespace().take(2).collect::<Vec<_>>().join(" ");
    match port {
        22 => format!("{host} {key}\n"),
        _ => format!("[{host}]:{port} {key}\n"),
    }
}

/// The block in ssh_config(5) syntax, with Vagrant's order of keys.
pub fn render_config(entry: &ConfigEntry) -> String {
    let mut text = String::new();
    let mut line = |key: &str, value: &str| {
        // Writing to a String cannot fail.
        let _ = writeln!(text, "  {key} {value}");
    };
    line("HostName", &entry.hostname.to_string());
    line("User", &entry.user);
    line("Port", &entry.port.to_string());
    line("UserKnownHostsFile", &quoted(&entry.known_hosts));
    line("StrictHostKeyChecking", "yes");
    line("PasswordAuthentication", if entry.password { "yes" } else { "no" });
    for identity in &entry.identities {
        line("IdentityFile", &quoted(identity));
    }
    line("IdentitiesOnly", "yes");
    for option in &entry.options {
        let _ = writeln!(text, "  {option}");
    }
    let _ = writeln!(text, "  LogLevel ERROR");
    format!("Host {}\n{text}", entry.host)
}

/// A word as ssh_config takes it: blanks and quotes need quotes.
pub fn config_word(word: &str) -> String {
    match word.contains(|c: char| c.is_whitespace() || "#\"'\\".contains(c)) {
        true => format!("\"{}\"", word.replace('\\', "\\\\").replace('"', "\\\"")),
        false => word.to_owned(),
    }
}

/// A file name, in which `%` begins a token.
fn quoted(path: &Path) -> String {
    config_word(&path.to_string_lossy().replace('%', "%%"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry() -> ConfigEntry {
        ConfigEntry {
            host: "web".into(),
            hostname: "127.0.0.1".parse().unwrap(),
            port: 2222,
            user: "vagrant".into(),
            known_hosts: "/m/known hosts".into(),
            identities: vec!["/m/100%/id".into()],
            password: false,
            options: Vec::new(),
        }
    }

    #[test]
    fn the_block_has_all_that_ssh_needs() {
        assert_eq!(
            render_config(&entry()),
            "Host web\n  HostName 127.0.0.1\n  User vagrant\n  Port 2222\n  \
             UserKnownHostsFile \"/m/known hosts\"\n  StrictHostKeyChecking yes\n  \
             PasswordAuthentication no\n  IdentityFile /m/100%%/id\n  IdentitiesOnly yes\n  \
             LogLevel ERROR\n"
        );
    }

    #[test]
    fn ssh_itself_reads_the_block_as_meant() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("config");
        std::fs::write(&file, render_config(&entry())).unwrap();
        let output =
            std::process::Command::new("ssh").args(["-G", "-F"]).arg(&file).arg("web").output().unwrap();
        let text = String::from_utf8_lossy(&output.stdout).to_lowercase();
        assert!(text.contains("\nport 2222\n"), "{text}");
        assert!(text.contains("\nstricthostkeychecking true\n"), "{text}");
        assert!(text.contains("/m/known hosts"), "{text}");
        let odd = ConfigEntry {
            known_hosts: "/m/it's \"known\"\\ä".into(),
            identities: vec!["/m/\"".into(), "/m/'".into()],
            ..entry()
        };
        std::fs::write(&file, render_config(&odd)).unwrap();
        let output =
            std::process::Command::new("ssh").args(["-G", "-F"]).arg(&file).arg("web").output().unwrap();
        let text = String::from_utf8_lossy(&output.stdout);
        for line in ["userknownhostsfile /m/it's \"known\"\\ä", "identityfile /m/\"", "identityfile /m/'"] {
            assert!(text.lines().any(|have| have == line), "{line} is not in:\n{text}");
        }
    }

    #[test]
    fn options_of_the_user_come_behind_what_leads_to_the_machine() {
        let options = vec!["ForwardAgent yes".into(), "LogLevel DEBUG".into(), "Port 1".into()];
        let text = render_config(&ConfigEntry { options, ..entry() });
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("config");
        std::fs::write(&file, &text).unwrap();
        let output =
            std::process::Command::new("ssh").args(["-G", "-F"]).arg(&file).arg("web").output().unwrap();
        let read = String::from_utf8_lossy(&output.stdout).to_lowercase();
        for line in ["port 2222", "forwardagent yes", "loglevel debug"] {
            assert!(read.lines().any(|have| have == line), "{line} is not in:\n{read}");
        }
    }

    #[test]
    fn known_hosts_lines() {
        let host = "127.0.0.1".parse().unwrap();
        assert_eq!(known_hosts_line(host, 22, "ssh-ed25519 AAAA c o"), "127.0.0.1 ssh-ed25519 AAAA\n");
        assert_eq!(known_hosts_line(host, 2222, "ssh-ed25519 AAAA\n"), "[127.0.0.1]:2222 ssh-ed25519 AAAA\n");
    }
}
