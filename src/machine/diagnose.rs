//! Why a guest did not come up: judged by how far it came and by what its console says.

use std::fmt;

use crate::model::Code;
use crate::ssh::{BootStage, SshError, WaitError};

/// The likely cause of a boot that failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BootCause {
    /// Nothing on the console says why: it may just be slow.
    Slow,
    /// The machine's process ended.
    Ended,
    /// The guest's kernel panicked.
    Panic,
    /// It found no root file system.
    NoRoot,
    /// It ran out of memory.
    NoMemory,
    /// It got no address.
    NoNetwork,
    /// It is up, and no SSH server answers.
    NoSshServer,
    /// Its console is empty.
    Silent,
    /// The SSH server refused us.
    Login,
    /// The SSH server is not the guest that was made.
    HostKey,
    /// It fell into its emergency mode.
    Emergency,
    /// Its file system is damaged or full.
    FileSystem,
    /// SSH failed in another way, which has a code of its own.
    Ssh(Code),
}

impl BootCause {
    /// Its stable code (`docs/errors.md`).
    pub fn code(self) -> Code {
        match self {
            BootCause::Slow => Code::BootTimeout,
            BootCause::Ended => Code::BootEnded,
            BootCause::Panic => Code::BootPanic,
            BootCause::NoRoot => Code::BootNoRoot,
            BootCause::NoMemory => Code::BootNoMemory,
            BootCause::NoNetwork => Code::BootNoNetwork,
            BootCause::NoSshServer => Code::BootNoSshServer,
            BootCause::Silent => Code::BootSilent,
            BootCause::Login => Code::BootLogin,
            BootCause::HostKey => Code::BootHostKey,
            BootCause::Emergency => Code::BootEmergency,
            BootCause::FileSystem => Code::BootFileSystem,
            BootCause::Ssh(code) => code,
        }
    }

    /// What to type next.
    pub(super) fn next(self, name: &str) -> String {
        match self {
            BootCause::Slow => format!(
                "`rvm up {name}` goes on waiting; a larger `boot_timeout` waits longer at once; `rvm logs {name}` \
                 shows the whole console, `rvm console {name}` logs in without SSH"
            ),
            BootCause::NoSshServer | BootCause::NoNetwork => format!(
                "`rvm console {name}` logs in without network: look at `ip addr` and at the SSH server's log there"
            ),
            BootCause::NoMemory => format!("give it more `memory`, then `rvm reload {name}`"),
            BootCause::NoRoot | BootCause::FileSystem => format!(
                "`rvm logs {name}` shows the whole console; `rvm destroy {name}` and `rvm up {name}` make its disk anew"
            ),
            BootCause::Emergency => format!(
                "`rvm logs {name}` says which unit failed, `rvm console {name}` looks into it (often a line of /etc/fstab)"
            ),
            _ => format!("`rvm logs {name}` shows the whole console"),
        }
    }
}

impl fmt::Display for BootCause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            BootCause::Slow => "nothing on its console says why; it may just be slow",
            BootCause::Ended => "the virtual machine ended",
            BootCause::Panic => "the guest's kernel panicked",
            BootCause::NoRoot => "the guest found no root file system",
            BootCause::NoMemory => "the guest ran out of memory",
            BootCause::NoNetwork => "the guest got no network address",
            BootCause::NoSshServer => {
                "the guest is up, but no SSH server answers: none runs, or its network has no address"
            }
            BootCause::Silent => {
                "its console is empty: the kernel does not run, or has no console=ttyS0 on its command line"
            }
            BootCause::Login => "its SSH server refuses the user name, the key or the password",
            BootCause::HostKey => "another SSH server answers, or the guest made a new host key",
            BootCause::Emergency => "the guest fell into its emergency mode",
            BootCause::FileSystem => "the guest's file system is damaged or full",
            BootCause::Ssh(_) => "the SSH connection failed",
        })
    }
}

/// A cause, and the line of the console that shows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Diagnosis {
    pub cause: BootCause,
    pub line: Option<String>,
}

/// What a console says, from the most telling to the least. Lower case; a line shows a cause when it
/// holds all words of one group.
const SIGNS: &[(BootCause, &[&[&str]])] = &[
    (
        BootCause::NoRoot,
        &[
            &["unable to mount root fs"],
            &["cannot open root device"],
            &["gave up waiting for root"],
            &["alert!", "does not exist"],
            &["rvm: there is no root disk"],
            &["rvm: cannot mount"],
            &["rvm: the kernel command line has no root="],
        ],
    ),
    (
        BootCause::NoMemory,
        &[
            &["out of memory: kill"],
            &["out of memory and no killable"],
            &["deadlocked on memory"],
            &["invoked oom-killer"],
            &["initramfs unpacking failed", "write error"],
        ],
    ),
    (
        BootCause::FileSystem,
        &[
            &["unexpected inconsistency"],
            &["ext4-fs error"],
            &["xfs", "corruption"],
            &["btrfs", "corrupt"],
            &["no space left on device"],
            &["i/o error, dev vd"],
        ],
    ),
    (BootCause::Panic, &[&["kernel panic"], &["unable to handle kernel"], &["bug: unable to handle"]]),
    (
        BootCause::Emergency,
        &[
            &["emergency mode"],
            &["entering rescue mode"],
            &["dropping to a shell"],
            &["cannot open access to console"],
        ],
    ),
    (
        BootCause::NoNetwork,
        &[
            &["no lease"],
            &["no working leases"],
            &["no dhcpoffers received"],
            &["timed out", "network"],
            &["failed to start", "network"],
            &["dhcp", "timed out"],
        ],
    ),
    (
        BootCause::NoSshServer,
        &[
            &["failed to start", "ssh"],
            &["no hostkeys available"],
            &["sshd", "failed"],
            &["dropbear", "failed"],
        ],
    ),
    // The guest waits for somebody to log in: all that was to start has started.
    (BootCause::NoSshServer, &[&["login:"]]),
];

/// Longest line that is quoted, in characters.
const QUOTED: usize = 160;

/// Judges by the error of the wait and the console's lines, oldest first, free of control characters.
pub(super) fn judge(error: &WaitError, console: &[String]) -> Diagnosis {
    let stage = match error {
        WaitError::Ssh(SshError::AuthFailed { .. }) => return plain(BootCause::Login),
        WaitError::Ssh(SshError::HostKeyMismatch { .. }) => return plain(BootCause::HostKey),
        WaitError::Ssh(error) => return plain(BootCause::Ssh(error.code())),
        WaitError::VmEnded { stage } | WaitError::TimedOut { stage, .. } => *stage,
    };
    // A server that spoke was started, by a guest that has its address.
    let spoke = stage >= BootStage::Banner;
    let ended = matches!(error, WaitError::VmEnded { .. });
    for (cause, groups) in SIGNS {
        if matches!(cause, BootCause::NoNetwork | BootCause::NoSshServer) && (spoke || ended) {
            continue;
        }
        if let Some(line) = console.iter().rev().find(|line| shows(line, groups)) {
            return Diagnosis { cause: *cause, line: Some(line.trim().chars().take(QUOTED).collect()) };
        }
    }
    plain(match ended {
        true => BootCause::Ended,
        false if console.is_empty() => BootCause::Silent,
        false => BootCause::Slow,
    })
}

fn plain(cause: BootCause) -> Diagnosis {
    Diagnosis { cause, line: None }
}

fn shows(line: &str, groups: &[&[&str]]) -> bool {
    let line = line.to_ascii_lowercase();
    groups.iter().any(|words| words.iter().all(|word| line.contains(word)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(text: &str) -> Vec<String> {
        text.lines().map(str::to_owned).collect()
    }

    fn timed_out(stage: BootStage) -> WaitError {
        WaitError::TimedOut { stage, last: None }
    }

    fn cause(error: &WaitError, console: &str) -> BootCause {
        judge(error, &lines(console)).cause
    }

    /// Ends of consoles as kernels, initial RAM disks and init systems print them.
    #[test]
    fn consoles_say_why() {
        let cases = [
            (
                "[    1.1] VFS: Cannot open root device \"vda1\" or unknown-block(0,0): error -6\n\
                 [    1.2] Kernel panic - not syncing: VFS: Unable to mount root fs on unknown-block(0,0)\n\
                 [    1.3] Rebooting in 1 seconds..",
                BootCause::NoRoot,
            ),
            (
                "Gave up waiting for root file system device.  Common problems:\n(initramfs) ",
                BootCause::NoRoot,
            ),
            ("rvm: there is no root disk LABEL=root\nrvm: disks here: vda vdb", BootCause::NoRoot),
            (
                "[    3.9] Out of memory: Killed process 170 (systemd-journal) total-vm:29000kB\n\
                 [    4.0] Kernel panic - not syncing: System is deadlocked on memory",
                BootCause::NoMemory,
            ),
            ("[    0.5] Initramfs unpacking failed: write error", BootCause::NoMemory),
            (
                "[    2.0] Kernel panic - not syncing: Attempted to kill init! exitcode=0x0000000b",
                BootCause::Panic,
            ),
            ("[    0.9] BUG: unable to handle page fault for address: ffffc90000000000", BootCause::Panic),
            (
                "/dev/vda1: UNEXPECTED INCONSISTENCY; RUN fsck MANUALLY.\n\
                 You are in emergency mode. After logging in, type \"journalctl -xb\"",
                BootCause::FileSystem,
            ),
            ("[   12.0] EXT4-fs error (device vda1): ext4_lookup:1785: inode #2", BootCause::FileSystem),
            ("Welcome to emergency mode! After logging in,", BootCause::Emergency),
            (
                "[FAILED] Failed to start systemd-networkd-wait-online.service - Wait for Network\n\
                 Debian GNU/Linux 13 web ttyS0\n\nweb login: ",
                BootCause::NoNetwork,
            ),
            ("udhcpc: no lease, failing", BootCause::NoNetwork),
            ("[FAILED] Failed to start ssh.service - OpenBSD Secure Shell server.", BootCause::NoSshServer),
            ("sshd: no hostkeys available -- exiting.", BootCause::NoSshServer),
            ("Debian GNU/Linux 13 web ttyS0\n\nweb login: ", BootCause::NoSshServer),
            ("[    0.3] virtio_blk virtio1: [vda] 8388608 512-byte logical blocks", BootCause::Slow),
            ("", BootCause::Silent),
        ];
        for (console, expected) in cases {
            assert_eq!(cause(&timed_out(BootStage::Connected), console), expected, "{console}");
        }
    }

    #[test]
    fn the_line_that_shows_it_is_quoted_not_at_any_length() {
        let console = format!("ok\nKernel panic - not syncing: {}\nRebooting", "x".repeat(5000));
        let line = judge(&timed_out(BootStage::Connected), &lines(&console)).line.unwrap();
        assert!(line.starts_with("Kernel panic") && line.len() == QUOTED, "{line}");
    }

    #[test]
    fn the_stage_rules_out_what_cannot_be() {
        let console = "web login: ";
        assert_eq!(cause(&timed_out(BootStage::Banner), console), BootCause::Slow);
        let ended = WaitError::VmEnded { stage: BootStage::Connected };
        assert_eq!(cause(&ended, console), BootCause::Ended);
        assert_eq!(cause(&ended, "Kernel panic - not syncing: no"), BootCause::Panic);
    }

    #[test]
    fn what_ssh_says_counts_more_than_the_console() {
        let addr = ([127, 0, 0, 1], 2222).into();
        let refused =
            SshError::AuthFailed { addr, user: "u".into(), tried: vec![], offered: "publickey".into() };
        assert_eq!(cause(&refused.into(), "Kernel panic"), BootCause::Login);
        let other = SshError::HostKeyMismatch { addr, expected: "SHA256:a".into(), got: "SHA256:b".into() };
        assert_eq!(cause(&other.into(), ""), BootCause::HostKey);
        let key = SshError::EncryptedKey { path: "/k".into() };
        assert_eq!(cause(&key.into(), "").code(), Code::EncryptedKey);
    }
}
