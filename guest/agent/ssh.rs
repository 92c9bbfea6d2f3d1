//! Where a machine has no card that its host reaches it by: leads each connection of the host's over the virtio
//! socket to the machine's own SSH server. A process for each, so that one that is stuck is nobody else's trouble.

use super::{
    AF_VSOCK, ANY_CID, EINTR, HOST_CID, SOCK_CLOEXEC, SOCK_STREAM, VmAddress, call, exit, on_address, pause,
    receive, syscall,
};

/// The guest's port (`docs/box.md`). 22 may be systemd's own (`systemd-ssh-generator(8)`).
const PORT: u32 = 222;
/// Connections at once; more wait until one of them ends.
const MOST: usize = 64;
/// The kernel's command line has this word where the host comes this way.
const WORD: &[u8] = b"rvm.ssh=vsock";
/// Bytes that are moved at once.
const CHUNK: usize = 16 * 1024;

const AF_INET: u16 = 2;
const IPPROTO_TCP: usize = 6;
const TCP_NODELAY: usize = 1;
const SHUT_WR: usize = 1;
const SHUT_RDWR: usize = 2;
const WNOHANG: usize = 1;
const MSG_NOSIGNAL: usize = 0x4000;

/// `struct sockaddr_in` (`ip(7)`): its numbers are big-endian.
#[repr(C)]
struct InetAddress {
    family: u16,
    port: [u8; 2],
    address: [u8; 4],
    zero: [u8; 8],
}

/// Whether the host comes this way, as it says on the kernel's command line.
pub fn is_wanted() -> bool {
    let path = c"/proc/cmdline".as_ptr() as usize;
    let Ok(file) = usize::try_from(syscall([call::OPEN, path, SOCK_CLOEXEC, 0, 0, 0, 0])) else {
        return false;
    };
    // x86-64 has 2048 bytes of it at most (COMMAND_LINE_SIZE).
    let mut line = [0u8; 4096];
    let mut len = 0;
    while let Some(rest) = line.get_mut(len..)
        && let Some(more) = receive(file, rest)
    {
        len += more.len();
    }
    syscall([call::CLOSE, file, 0, 0, 0, 0, 0]);
    let words = line.get(..len).unwrap_or_default();
    words.split(|byte| byte.is_ascii_whitespace()).any(|word| word == WORD)
}

/// Starts a process that does it, and one that starts that anew where it was killed; the number of the latter, or 0 where
/// there is none.
pub fn start() -> usize {
    match syscall([call::FORK, 0, 0, 0, 0, 0, 0]) {
        0 => {
            while is_killed() {
                pause();
            }
            exit(1)
        }
        child => usize::try_from(child).unwrap_or(0),
    }
}

/// Has a process listen until it ends; whether that was not of its own accord.
fn is_killed() -> bool {
    let mut status = 0i32;
    match syscall([call::FORK, 0, 0, 0, 0, 0, 0]) {
        0 => {
            listen();
            exit(1)
        }
        child if child > 0 => {
            let place = core::ptr::from_mut(&mut status) as usize;
            while syscall([call::WAIT4, child as usize, place, 0, 0, 0, 0]) == EINTR {}
            // The low bits are the signal (`wait(2)`).
            status & 0x7f != 0
        }
        // It may be out of memory for a while.
        _ => true,
    }
}

/// Takes connections; returns where there is no such socket.
fn listen() {
    let socket = syscall([call::SOCKET, AF_VSOCK, SOCK_STREAM | SOCK_CLOEXEC, 0, 0, 0, 0]);
    let Ok(listener) = usize::try_from(socket) else { return };
    if on_address(call::BIND, listener, &VmAddress::new(ANY_CID, PORT)) < 0
        || syscall([call::LISTEN, listener, MOST, 0, 0, 0, 0]) < 0
    {
        return;
    }
    let mut children = 0;
    loop {
        // Whoever waits has to until one ends.
        while children > 0 && has_ended(if children < MOST { WNOHANG } else { 0 }) {
            children -= 1;
        }
        let mut peer = VmAddress::new(0, 0);
        let mut len = size_of::<VmAddress>() as u32;
        let (place, room) = (core::ptr::from_mut(&mut peer) as usize, core::ptr::from_mut(&mut len) as usize);
        let accept = [call::ACCEPT4, listener, place, room, SOCK_CLOEXEC, 0, 0];
        let Ok(host) = usize::try_from(syscall(accept)) else {
            // It may be out of descriptors or memory for a while.
            pause();
            continue;
        };
        // A program of the guest's own may come, where there is a way for it.
        let is_host = peer.cid == HOST_CID;
        match if is_host { syscall([call::FORK, 0, 0, 0, 0, 0, 0]) } else { -1 } {
            0 => {
                syscall([call::CLOSE, listener, 0, 0, 0, 0, 0]);
                join(host);
                exit(0)
            }
            child if child > 0 => children += 1,
            _ => {}
        }
        syscall([call::CLOSE, host, 0, 0, 0, 0, 0]);
    }
}

/// Whether a child has; with `options` 0 it is waited for.
fn has_ended(options: usize) -> bool {
    const ANY: usize = usize::MAX;
    syscall([call::WAIT4, ANY, 0, options, 0, 0, 0]) > 0
}

/// Leads one connection to the SSH server, and back, until the server has ended what it sends. Each way has a process
/// of its own: neither waits for the other.
fn join(host: usize) {
    let socket = syscall([call::SOCKET, AF_INET as usize, SOCK_STREAM | SOCK_CLOEXEC, 0, 0, 0, 0]);
    let Ok(server) = usize::try_from(socket) else { return };
    let address = InetAddress { family: AF_INET, port: [0, 22], address: [127, 0, 0, 1], zero: [0; 8] };
    if on_address(call::CONNECT, server, &address) < 0 {
        return;
    }
    let yes = 1i32;
    let option = core::ptr::from_ref(&yes) as usize;
    syscall([call::SETSOCKOPT, server, IPPROTO_TCP, TCP_NODELAY, option, size_of::<i32>(), 0]);
    match syscall([call::FORK, 0, 0, 0, 0, 0, 0]) {
        0 => {
            pass(host, server);
            exit(0)
        }
        child if child > 0 => {
            pass(server, host);
            // The server is through with a client that may never say or end anything: that must not hold a place.
            syscall([call::SHUTDOWN, host, SHUT_RDWR, 0, 0, 0, 0]);
            has_ended(0);
        }
        _ => {}
    }
}

/// Passes on what comes until its end, of which the other side hears.
fn pass(from: usize, to: usize) {
    let mut buffer = [0u8; CHUNK];
    while let Some(bytes) = receive(from, &mut buffer) {
        if !give(to, bytes) {
            // Nobody is there any more: the process of the other way hears of that.
            for socket in [from, to] {
                syscall([call::SHUTDOWN, socket, SHUT_RDWR, 0, 0, 0, 0]);
            }
            return;
        }
    }
    syscall([call::SHUTDOWN, to, SHUT_WR, 0, 0, 0, 0]);
}

/// Sends all of it; whether that could be done.
fn give(to: usize, mut bytes: &[u8]) -> bool {
    while !bytes.is_empty() {
        let count = syscall([call::SENDTO, to, bytes.as_ptr() as usize, bytes.len(), MSG_NOSIGNAL, 0, 0]);
        if count == EINTR {
            continue;
        }
        match usize::try_from(count).ok().and_then(|count| bytes.get(count..)) {
            Some(rest) => bytes = rest,
            None => return false,
        }
    }
    true
}
