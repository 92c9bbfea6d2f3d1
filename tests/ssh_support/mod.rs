//! A private sshd or dropbear on a free loopback port, for as long as the value lives.
#![allow(dead_code)]

use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Mutex;
use std::time::{Duration, Instant};

use rustix::process::Signal;
use rvm::model::{Cancel, Stream};
use rvm::ssh::{self, Input, Session, Target, keys};

pub struct Server {
    child: Child,
    dir: tempfile::TempDir,
    pub addr: SocketAddr,
    pub host_key: String,
}

impl Server {
    /// OpenSSH's sshd. `extra` are more lines of its configuration.
    pub fn sshd(extra: &str) -> Server {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        let host = keys::generate(&at("host"), "host").unwrap();
        let user = keys::generate(&at("id"), "test").unwrap();
        std::fs::write(at("authorized"), format!("{}\n", user.public_line)).unwrap();
        let addr = free_address();
        // As root, sshd insists on its folder for privilege separation.
        if rustix::process::geteuid().is_root() {
            std::fs::create_dir_all("/run/sshd").unwrap();
        }
        let config = format!(
            "ListenAddress 127.0.0.1\nPort {}\nHostKey {}\nAuthorizedKeysFile {}\nPidFile none\n\
             StrictModes no\nUsePAM no\nPermitRootLogin yes\nPasswordAuthentication yes\n\
             KbdInteractiveAuthentication no\nMaxStartups 100\n{extra}\n",
            addr.port(),
            at("host").display(),
            at("authorized").display(),
        );
        std::fs::write(at("config"), config).unwrap();
        let child = Command::new("/usr/sbin/sshd")
            .args(["-D", "-e", "-f"])
            .arg(at("config"))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(std::fs::File::create(at("log")).unwrap())
            .spawn()
            .expect("the tests need the package openssh-server");
        Server { child, dir, addr, host_key: host.public_line }
    }

    /// Dropbear, with a home folder of its own for root, which is mounted for it alone. `None`
    /// where it is not installed or we may not mount.
    pub fn dropbear() -> Option<Server> {
        let may_mount = || Command::new("unshare").args(["-m", "true"]).stderr(Stdio::null()).status();
        if !Path::new("/usr/sbin/dropbear").exists() || !may_mount().is_ok_and(|status| status.success()) {
            return None;
        }
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        let user = keys::generate(&at("id"), "test").unwrap();
        std::fs::create_dir_all(at("home/.ssh")).unwrap();
        std::fs::write(at("home/.ssh/authorized_keys"), format!("{}\n", user.public_line)).unwrap();
        let made =
            Command::new("dropbearkey").args(["-t", "ed25519", "-f"]).arg(at("host")).output().unwrap();
        let text = String::from_utf8(made.stdout).unwrap();
        let host_key = text.lines().find(|line| line.starts_with("ssh-ed25519 ")).unwrap().to_owned();
        let addr = free_address();
        let child = Command::new("unshare")
            .args([
                "-m",
                "sh",
                "-c",
                "mount --bind \"$1\" ~ && exec dropbear -F -E -r \"$2\" -p \"$3\" -P /dev/null",
                "sh",
            ])
            .arg(at("home"))
            .arg(at("host"))
            .arg(addr.to_string())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(std::fs::File::create(at("log")).unwrap())
            .spawn()
            .unwrap();
        Some(Server { child, dir, addr, host_key })
    }

    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    pub fn key(&self) -> PathBuf {
        self.dir().join("id")
    }

    pub fn target(&self) -> Target {
        Target {
            addr: self.addr,
            user: user_name(),
            password: None,
            keys: vec![self.key()],
            host_key: self.host_key.clone(),
        }
    }

    pub fn connect(&self) -> Session {
        self.connect_with(&Cancel::new())
    }

    pub fn connect_with(&self, cancel: &Cancel) -> Session {
        let deadline = Instant::now() + Duration::from_secs(30);
        match ssh::wait_ready(&self.target(), deadline, &mut || true, &mut |_| (), cancel) {
            Ok(session) => session,
            Err(error) => panic!("{error:?}\n{}", self.log()),
        }
    }

    pub fn log(&self) -> String {
        std::fs::read_to_string(self.dir().join("log")).unwrap_or_default()
    }

    /// Ends the server with all its connections, as a vanished guest would.
    pub fn kill(&mut self) {
        // Stopped first: a client that connects anew at once must not find it still there.
        signal(self.child.id(), Signal::STOP);
        for pid in children_of(self.child.id()) {
            // Not the commands that it runs: in a guest that lives on they clean up by themselves.
            for grandchild in children_of(pid).into_iter().filter(|pid| is_server(*pid)) {
                signal(grandchild, Signal::KILL);
            }
            signal(pid, Signal::KILL);
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.kill();
    }
}

fn is_server(pid: u32) -> bool {
    let name = std::fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
    ["sshd", "sshd-session", "dropbear"].contains(&name.trim())
}

fn signal(pid: u32, signal: Signal) {
    if let Some(pid) = rustix::process::Pid::from_raw(pid as i32) {
        let _ = rustix::process::kill_process(pid, signal);
    }
}

pub fn children_of(pid: u32) -> Vec<u32> {
    let path = format!("/proc/{pid}/task/{pid}/children");
    let text = std::fs::read_to_string(path).unwrap_or_default();
    text.split_whitespace().filter_map(|word| word.parse().ok()).collect()
}

/// A loopback address whose port was free a moment ago, and that no other test of this program has got: its server may
/// not listen yet.
pub fn free_address() -> SocketAddr {
    static GIVEN: Mutex<Vec<u16>> = Mutex::new(Vec::new());
    let mut given = GIVEN.lock().unwrap();
    loop {
        let address = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().local_addr().unwrap();
        if !given.contains(&address.port()) {
            given.push(address.port());
            return address;
        }
    }
}

/// The user who runs the tests.
pub fn user_name() -> String {
    let output = Command::new("id").arg("-un").output().unwrap();
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

/// What a command printed and how it ended.
pub struct Ran {
    pub code: i32,
    pub signal: Option<String>,
    pub stdout: Vec<u8>,
    pub stderr: Vec<u8>,
}

pub fn exec(session: &Session, command: &str, input: Input<'_>) -> Ran {
    let mut ran = Ran { code: 0, signal: None, stdout: Vec::new(), stderr: Vec::new() };
    let mut out = |stream, data: &[u8]| match stream {
        Stream::Stdout => ran.stdout.extend_from_slice(data),
        Stream::Stderr => ran.stderr.extend_from_slice(data),
    };
    let status = session.exec(command, input, &mut out, &Cancel::new(), None).unwrap();
    Ran { code: status.code, signal: status.signal, ..ran }
}
