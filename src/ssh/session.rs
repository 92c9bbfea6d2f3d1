//! A logged-in connection: TCP, handshake, host key, login.

use std::net::{Shutdown, SocketAddr, TcpStream};
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use rustix::net::{AddressFamily, SocketFlags, SocketType, sockopt};
use ssh_key::{HashAlg, PublicKey};
use ssh2::{ErrorCode, MethodType};

use super::limits::{Limits, Stop, writable};
use super::{BootStage, ExecStatus, Input, SshError, Target, exec, keys, methods};
use crate::model::{Cancel, Stream};

/// Host key algorithms in the order we like them. The pinned keys are Ed25519; the others let
/// a wrong server show its key, so that the error can name it.
const HOST_KEY_ALGORITHMS: &str =
    "ssh-ed25519,ecdsa-sha2-nistp256,ecdsa-sha2-nistp384,ecdsa-sha2-nistp521,rsa-sha2-512,rsa-sha2-256";

/// Seconds between keepalive requests.
const KEEPALIVE: u32 = 15;

/// A logged-in connection to a guest whose host key was verified. For one thread.
pub struct Session {
    pub(super) ssh: ssh2::Session,
    // The same socket as the session's: to wait for it, and to cut it.
    pub(super) socket: TcpStream,
    addr: SocketAddr,
}

/// How long the parts of one try may take.
#[derive(Debug, Clone, Copy)]
pub(super) struct Patience {
    /// From the TCP connection to the server's first words.
    pub banner: Duration,
    /// From there to the end of the login.
    pub login: Duration,
}

impl Session {
    /// Connects, verifies the host key, logs in; each once, all within `timeout`.
    pub fn connect(target: &Target, timeout: Duration, cancel: &Cancel) -> Result<Session, SshError> {
        let limits =
            Limits { deadline: Instant::now().checked_add(timeout), stop: &|| cancel.is_cancelled() };
        Session::attempt(target, Patience { banner: timeout, login: timeout }, limits, &mut |_| ())
    }

    /// One try. `on_stage` hears of each stage that is reached.
    pub(super) fn attempt(
        target: &Target,
        patience: Patience,
        limits: Limits<'_>,
        on_stage: &mut dyn FnMut(BootStage),
    ) -> Result<Session, SshError> {
        let pinned = keys::parse_public(&target.host_key, "the pinned host key")?;
        let socket = connect_tcp(target.addr, limits.until(Instant::now() + patience.banner))?;
        on_stage(BootStage::Connected);
        let mut session = Session::start(socket, target.addr)?;
        session.handshake(patience, limits, on_stage)?;
        session.verify(&pinned)?;
        on_stage(BootStage::HostKey);
        session.login(target, limits.until(Instant::now() + patience.login))?;
        session.ssh.set_keepalive(true, KEEPALIVE);
        on_stage(BootStage::Ready);
        Ok(session)
    }

    /// Runs a command (by the login user's shell, without a terminal) until its output ends
    /// and its exit code is known. Output goes to `out` as it comes.
    ///
    /// When `timeout` has passed, a command whose input is [`Input::HeldOpen`] sees its end and has 25 s
    /// to end by itself; then the result says so. Others are cut off at once.
    ///
    /// After an error the session is of no further use: connect anew.
    ///
    /// The library cannot tell "exit code 0" from "the server never said": a server that ends a
    /// command without a code looks like success. Steps therefore report success by a code of
    /// their own (`provision`).
    pub fn exec(
        &self,
        command: &str,
        input: Input<'_>,
        out: &mut dyn FnMut(Stream, &[u8]),
        cancel: &Cancel,
        timeout: Option<Duration>,
    ) -> Result<ExecStatus, SshError> {
        exec::run(self, command, input, out, exec::Bounds { cancel, timeout, linger: None })
    }

    /// As [`Session::exec`], but the command counts as ended, even when something that it left
    /// in the background still holds its output, as soon as it ended with an exit code other
    /// than 0 and nothing was printed for `linger`.
    pub fn exec_until_exit(
        &self,
        command: &str,
        input: Input<'_>,
        out: &mut dyn FnMut(Stream, &[u8]),
        cancel: &Cancel,
        timeout: Option<Duration>,
        linger: Duration,
    ) -> Result<ExecStatus, SshError> {
        exec::run(self, command, input, out, exec::Bounds { cancel, timeout, linger: Some(linger) })
    }

    fn start(socket: TcpStream, addr: SocketAddr) -> Result<Session, SshError> {
        let io = |source| SshError::Connect { addr, source };
        // Without it each small packet waits for the one before it to be acknowledged.
        socket.set_nodelay(true).map_err(io)?;
        let protocol = |source| SshError::Protocol { doing: "preparing a session", source };
        let mut ssh = ssh2::Session::new().map_err(protocol)?;
        ssh.method_pref(MethodType::HostKey, HOST_KEY_ALGORITHMS).map_err(protocol)?;
        ssh.set_tcp_stream(socket.try_clone().map_err(io)?);
        ssh.set_blocking(false);
        Ok(Session { ssh, socket, addr })
    }

    fn handshake(
        &mut self,
        patience: Patience,
        limits: Limits<'_>,
        on_stage: &mut dyn FnMut(BootStage),
    ) -> Result<(), SshError> {
        let addr = self.addr;
        let mut bound = limits.until(Instant::now() + patience.banner);
        let mut spoke = false;
        loop {
            let result = self.ssh.handshake();
            if !spoke && self.ssh.banner_bytes().is_some() {
                spoke = true;
                bound = limits.until(Instant::now() + patience.login);
                on_stage(BootStage::Banner);
            }
            match result {
                Ok(()) => return Ok(()),
                Err(error) if would_block(&error) => {}
                Err(source) if spoke => return Err(SshError::Handshake { addr, source }),
                Err(source) => return Err(SshError::NoBanner { addr, source: Some(source) }),
            }
            bound.wait(&self.socket, self.wants_to_write()).map_err(|stop| match stop {
                Stop::Asked => SshError::Cancelled,
                Stop::Deadline if spoke => {
                    SshError::TimedOut { doing: "the SSH handshake", after: patience.login }
                }
                Stop::Deadline => SshError::NoBanner { addr, source: None },
            })?;
        }
    }

    fn verify(&self, pinned: &PublicKey) -> Result<(), SshError> {
        let blob = pinned
            .to_bytes()
            .map_err(|e| SshError::BadKey { what: "the pinned host key".into(), why: e.to_string() })?;
        let shown = self.ssh.host_key().map(|(key, _)| key);
        if shown == Some(blob.as_slice()) {
            return Ok(());
        }
        let got = match shown.map(PublicKey::from_bytes) {
            Some(Ok(key)) => key.fingerprint(HashAlg::Sha256).to_string(),
            Some(Err(_)) => "one of an unknown kind".into(),
            None => "missing".into(),
        };
        let expected = pinned.fingerprint(HashAlg::Sha256).to_string();
        Err(SshError::HostKeyMismatch { addr: self.addr, expected, got })
    }

    fn login(&self, target: &Target, limits: Limits<'_>) -> Result<(), SshError> {
        const DOING: &str = "logging in";
        let mut tried = Vec::new();
        let offered = self.drive(limits, DOING, || methods::offered(&self.ssh, &target.user).transpose())?;
        for path in &target.keys {
            if self.ssh.authenticated() {
                return Ok(());
            }
            let key = keys::load_private(path)?;
            let result = self.drive(limits, DOING, || {
                pending(self.ssh.userauth_pubkey_memory(&target.user, None, &key, None))
            });
            tried.push(format!("key {}{}", path.display(), refusal(result)?));
        }
        if let (false, Some(password)) = (self.ssh.authenticated(), &target.password) {
            let result = self.drive(limits, DOING, || {
                pending(self.ssh.userauth_password(&target.user, password.expose()))
            });
            tried.push(format!("password{}", refusal(result)?));
        }
        if self.ssh.authenticated() {
            return Ok(());
        }
        Err(SshError::AuthFailed { addr: self.addr, user: target.user.clone(), tried, offered })
    }

    /// Repeats a non-blocking call, `None` from which says "not yet", until it has a result.
    pub(super) fn drive<T>(
        &self,
        limits: Limits<'_>,
        doing: &'static str,
        mut call: impl FnMut() -> Option<Result<T, ssh2::Error>>,
    ) -> Result<T, SshError> {
        let begin = Instant::now();
        loop {
            match call() {
                Some(Ok(value)) => return Ok(value),
                Some(Err(error)) => return Err(classify(error, doing)),
                None => {}
            }
            limits
                .wait(&self.socket, self.wants_to_write())
                .map_err(|stop| stopped(stop, doing, begin.elapsed()))?;
        }
    }

    /// Whether a packet waits for the socket to take it.
    pub(super) fn wants_to_write(&self) -> bool {
        use ssh2::BlockDirections::{Both, Outbound};
        matches!(self.ssh.block_directions(), Both | Outbound)
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        // A polite good-bye where it costs no wait; the server also understands a closed socket.
        if writable(&self.socket) {
            let _ = self.ssh.disconnect(None, "done", None);
        }
        let _ = self.socket.shutdown(Shutdown::Both);
        // With the socket shut nothing can block, and only a blocking session frees all it has.
        self.ssh.set_blocking(true);
    }
}

/// Whether the error only says "not yet".
pub(super) fn would_block(error: &ssh2::Error) -> bool {
    error.code() == ErrorCode::Session(libssh2_sys::LIBSSH2_ERROR_EAGAIN)
}

/// The result of a non-blocking call; `None` when it has none yet.
pub(super) fn pending<T>(result: Result<T, ssh2::Error>) -> Option<Result<T, ssh2::Error>> {
    match result {
        Err(error) if would_block(&error) => None,
        other => Some(other),
    }
}

/// Whether the connection is gone, or something else went wrong.
pub(super) fn classify(error: ssh2::Error, doing: &'static str) -> SshError {
    use libssh2_sys as raw;
    match error.code() {
        ErrorCode::Session(
            raw::LIBSSH2_ERROR_SOCKET_DISCONNECT
            | raw::LIBSSH2_ERROR_SOCKET_SEND
            | raw::LIBSSH2_ERROR_SOCKET_RECV
            | raw::LIBSSH2_ERROR_BAD_SOCKET,
        ) => SshError::Lost { doing, source: Some(error) },
        _ => SshError::Protocol { doing, source: error },
    }
}

pub(super) fn stopped(stop: Stop, doing: &'static str, after: Duration) -> SshError {
    match stop {
        Stop::Asked => SshError::Cancelled,
        Stop::Deadline => SshError::TimedOut { doing, after },
    }
}

/// What to add to the name of a means of login that was refused; other failures stay errors.
fn refusal(result: Result<(), SshError>) -> Result<String, SshError> {
    use libssh2_sys::{LIBSSH2_ERROR_AUTHENTICATION_FAILED, LIBSSH2_ERROR_PUBLICKEY_UNVERIFIED};
    match result {
        Ok(()) => Ok(String::new()),
        Err(SshError::Protocol { source, .. }) => match source.code() {
            ErrorCode::Session(LIBSSH2_ERROR_AUTHENTICATION_FAILED | LIBSSH2_ERROR_PUBLICKEY_UNVERIFIED) => {
                Ok(String::new())
            }
            _ => Ok(format!(" ({})", source.message())),
        },
        Err(error) => Err(error),
    }
}

/// A TCP connection, without the minutes that a plain `connect` may block for.
fn connect_tcp(addr: SocketAddr, limits: Limits<'_>) -> Result<TcpStream, SshError> {
    let fail = |source: std::io::Error| SshError::Connect { addr, source };
    let family = if addr.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
    let socket: OwnedFd =
        rustix::net::socket_with(family, SocketType::STREAM, flags, None).map_err(|e| fail(e.into()))?;
    match rustix::net::connect(&socket, &addr) {
        Ok(()) | Err(rustix::io::Errno::INPROGRESS | rustix::io::Errno::INTR) => {}
        Err(error) => return Err(fail(error.into())),
    }
    let socket = TcpStream::from(socket);
    while !writable(&socket) {
        limits.wait(&socket, true).map_err(|stop| match stop {
            Stop::Asked => SshError::Cancelled,
            Stop::Deadline => fail(std::io::ErrorKind::TimedOut.into()),
        })?;
    }
    match sockopt::socket_error(&socket) {
        Ok(Ok(())) => Ok(socket),
        Ok(Err(error)) | Err(error) => Err(fail(error.into())),
    }
}
