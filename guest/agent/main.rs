//! `/usr/lib/rvm/agent`: what a guest tells its host and takes from it, over a virtio socket.
//!
//!     agent ready      says `up 1` to the host once the machine has an address, then serves the host
//!     agent serve      serves standard input, for trying out
//!
//! It is started when the SSH server listens. It serves lines: `poweroff` switches the machine off
//! as its own command does, `time N` sets the clock to N ns since 1970 (UTC). Other lines are
//! ignored, so that a newer host can say more. A process of its own hears of [`changes`] in shared folders. Without a
//! socket device, or without a host that listens, both end quietly.
//!
//! Where the kernel's command line asks for it, it leads the host to the SSH server, too (`ssh.rs`).
//!
//! Without libraries, the C library included, so that it runs in every box: the system calls
//! and layouts are those of Linux on x86-64.
#![no_std]
#![no_main]

mod changes;
mod ssh;

use core::arch::{asm, global_asm};
use core::ffi::c_char;

/// Version of what is said here.
const HELLO: &[u8] = b"up 1\n";
/// The host, and its port for agents (`docs/box.md`).
const HOST_CID: u32 = 2;
const HOST_PORT: u32 = 1;
/// Ports below 1024 are root's, so that the host knows that it speaks to the system.
const OWN_PORTS: core::ops::RangeInclusive<u32> = 1..=16;
const ANY_CID: u32 = u32::MAX;
/// Longest line that is understood.
const LINE: usize = 64;

/// System call numbers (`arch/x86/entry/syscalls/syscall_64.tbl`).
mod call {
    pub const READ: usize = 0;
    pub const WRITE: usize = 1;
    pub const OPEN: usize = 2;
    pub const CLOSE: usize = 3;
    pub const NANOSLEEP: usize = 35;
    pub const SOCKET: usize = 41;
    pub const CONNECT: usize = 42;
    pub const SENDTO: usize = 44;
    pub const SHUTDOWN: usize = 48;
    pub const BIND: usize = 49;
    pub const LISTEN: usize = 50;
    pub const SETSOCKOPT: usize = 54;
    pub const FORK: usize = 57;
    pub const EXECVE: usize = 59;
    pub const EXIT: usize = 60;
    pub const WAIT4: usize = 61;
    pub const SETFSGID: usize = 123;
    pub const CLOCK_SETTIME: usize = 227;
    pub const OPENAT: usize = 257;
    pub const MKDIRAT: usize = 258;
    pub const MKNODAT: usize = 259;
    pub const UNLINKAT: usize = 263;
    pub const SYMLINKAT: usize = 266;
    pub const UTIMENSAT: usize = 280;
    pub const ACCEPT4: usize = 288;
    pub const OPEN_BY_HANDLE_AT: usize = 304;
    pub const STATX: usize = 332;
    pub const FSOPEN: usize = 430;
    pub const FSCONFIG: usize = 431;
    pub const FSMOUNT: usize = 432;
    pub const FSPICK: usize = 433;
    pub const OPENAT2: usize = 437;
}

const AF_VSOCK: usize = 40;
const AF_NETLINK: usize = 16;
const SOCK_STREAM: usize = 1;
const SOCK_RAW: usize = 3;
const SOCK_CLOEXEC: usize = 0o2_000_000;
const EINTR: isize = -4;

global_asm!(
    ".globl _start",
    "_start:",
    "xor ebp, ebp",
    "mov rdi, rsp",
    "and rsp, -16",
    "call {entry}",
    "ud2",
    entry = sym entry,
);

/// `stack` is what the kernel leaves: the number of arguments, then pointers to them.
extern "C" fn entry(stack: *const usize) -> ! {
    // SAFETY: the kernel puts at least the count there, and as many pointers to C strings.
    let verb =
        unsafe { if *stack < 2 { b"" as &[u8] } else { text(*(stack.add(2) as *const *const c_char)) } };
    match verb {
        b"ready" => start(),
        b"serve" => serve(0),
        _ => exit(2),
    }
    exit(0)
}

/// The bytes of a C string.
unsafe fn text<'a>(start: *const c_char) -> &'a [u8] {
    let mut len = 0;
    // SAFETY: the caller gives a string that ends with a zero and lives as long as the process. Volatile,
    // because the compiler would make it a call of `strlen`, which is not here.
    unsafe {
        while core::ptr::read_volatile(start.add(len)) != 0 {
            len += 1;
        }
        core::slice::from_raw_parts(start.cast(), len)
    }
}

/// `struct sockaddr_vm` (`linux/vm_sockets.h`).
#[repr(C)]
struct VmAddress {
    family: u16,
    reserved: u16,
    port: u32,
    cid: u32,
    zero: [u8; 4],
}

impl VmAddress {
    fn new(cid: u32, port: u32) -> Self {
        VmAddress { family: AF_VSOCK as u16, reserved: 0, port, cid, zero: [0; 4] }
    }
}

fn start() {
    let changes = changes::start();
    let ssh = ssh::is_wanted().then(ssh::start);
    match ssh {
        // The host comes by no network card, so there is nothing to be waited for.
        Some(_) => ready(|| ()),
        None => ready(wait_for_address),
    }
    // An init that watches over this process ends the others with it.
    for child in [changes, ssh.unwrap_or_default()] {
        if child > 0 {
            syscall([call::WAIT4, child, 0, 0, 0, 0, 0]);
        }
    }
}

/// Says that the machine is up, once `wait` returns, and serves the host.
fn ready(wait: impl Fn()) {
    while let Some(host) = connect(HOST_PORT) {
        wait();
        let hello = [call::WRITE, host, HELLO.as_ptr() as usize, HELLO.len(), 0, 0, 0];
        if syscall(hello) == HELLO.len() as isize {
            serve(host);
        }
        // All connections end when the machine is saved and resumed.
        syscall([call::CLOSE, host, 0, 0, 0, 0, 0]);
        pause();
    }
}

/// A connection to that port of the host; `None` where no host listens.
fn connect(port: u32) -> Option<usize> {
    let socket = syscall([call::SOCKET, AF_VSOCK, SOCK_STREAM | SOCK_CLOEXEC, 0, 0, 0, 0]);
    let host = usize::try_from(socket).ok()?;
    let bind = |port| on_address(call::BIND, host, &VmAddress::new(ANY_CID, port));
    // The port of the last connection may be taken for a while.
    let connected = OWN_PORTS.into_iter().any(|own| bind(own) >= 0)
        && on_address(call::CONNECT, host, &VmAddress::new(HOST_CID, port)) >= 0;
    if !connected {
        syscall([call::CLOSE, host, 0, 0, 0, 0, 0]);
    }
    connected.then_some(host)
}

/// A second, so that a host that closes each connection costs nothing.
fn pause() {
    let second: [u64; 2] = [1, 0];
    syscall([call::NANOSLEEP, second.as_ptr() as usize, 0, 0, 0, 0, 0]);
}

/// `bind(2)` or `connect(2)`.
fn on_address<T>(call: usize, socket: usize, address: &T) -> isize {
    let len = size_of::<T>();
    syscall([call, socket, core::ptr::from_ref(address) as usize, len, 0, 0, 0])
}

/// `struct sockaddr_nl`, and the request for all IPv4 addresses (`rtnetlink(7)`).
#[repr(C)]
struct NetlinkAddress {
    family: u16,
    pad: u16,
    pid: u32,
    groups: u32,
}

const RTMGRP_IPV4_IFADDR: u32 = 0x10;
const RTM_NEWADDR: u16 = 20;
/// `nlmsghdr` (length, RTM_GETADDR, REQUEST | DUMP, sequence, port) and `ifaddrmsg` (AF_INET).
const GET_ADDRESSES: [u8; 24] = [24, 0, 0, 0, 22, 0, 1, 3, 1, 0, 0, 0, 0, 0, 0, 0, 2, 0, 0, 0, 0, 0, 0, 0];

/// Returns once an interface has an IPv4 address that others can reach: an SSH server may listen
/// long before. Where the kernel does not say, nothing is waited for.
fn wait_for_address() {
    let socket = syscall([call::SOCKET, AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, 0, 0, 0, 0]);
    let Ok(socket) = usize::try_from(socket) else { return };
    // Bound first: an address that comes between the two is seen twice, not never.
    let bound = NetlinkAddress { family: AF_NETLINK as u16, pad: 0, pid: 0, groups: RTMGRP_IPV4_IFADDR };
    let (request, len) = (GET_ADDRESSES.as_ptr() as usize, GET_ADDRESSES.len());
    if on_address(call::BIND, socket, &bound) >= 0
        && syscall([call::SENDTO, socket, request, len, 0, 0, 0]) >= 0
    {
        let mut buffer = [0u8; 8192];
        while let Some(messages) = receive(socket, &mut buffer)
            && !has_address(messages)
        {}
    }
    syscall([call::CLOSE, socket, 0, 0, 0, 0, 0]);
}

/// What comes next from a file or socket; `None` at the end and on errors.
fn receive(from: usize, buffer: &mut [u8]) -> Option<&[u8]> {
    let read = [call::READ, from, buffer.as_mut_ptr() as usize, buffer.len(), 0, 0, 0];
    let count = loop {
        match syscall(read) {
            EINTR => {}
            count => break usize::try_from(count).ok()?,
        }
    };
    buffer.get(..count).filter(|bytes| !bytes.is_empty())
}

/// Whether a message among these announces an address of global scope.
fn has_address(mut messages: &[u8]) -> bool {
    const HEADER: usize = 16;
    const SCOPE: usize = HEADER + 3;
    const SCOPE_UNIVERSE: u8 = 0;
    while let Some(header) = messages.first_chunk::<HEADER>() {
        let [l0, l1, l2, l3, t0, t1, ..] = *header;
        let len = u32::from_ne_bytes([l0, l1, l2, l3]) as usize;
        let kind = u16::from_ne_bytes([t0, t1]);
        if kind == RTM_NEWADDR && messages.get(SCOPE) == Some(&SCOPE_UNIVERSE) {
            return true;
        }
        messages = messages.get(len.max(HEADER).next_multiple_of(4)..).unwrap_or_default();
    }
    false
}

/// Does what the lines from `from` say, until they end.
fn serve(from: usize) {
    let mut line = [0u8; LINE];
    // One more than fits stands for a line that is too long.
    let mut len = 0;
    let mut buffer = [0u8; LINE];
    while let Some(bytes) = receive(from, &mut buffer) {
        for &byte in bytes {
            if byte == b'\n' {
                obey(line.get(..len).unwrap_or_default());
                len = 0;
                continue;
            }
            if let Some(place) = line.get_mut(len) {
                *place = byte;
            }
            len = (len + 1).min(LINE + 1);
        }
    }
}

fn obey(line: &[u8]) {
    if line == b"poweroff" {
        power_off();
    } else if let Some(time) = line.strip_prefix(b"time ")
        && let Some(nanoseconds) = number(time)
    {
        set_time(nanoseconds);
    }
}

fn number(digits: &[u8]) -> Option<u64> {
    if digits.is_empty() {
        return None;
    }
    digits.iter().try_fold(0u64, |value, digit| {
        let digit = digit.checked_sub(b'0').filter(|digit| *digit < 10)?;
        value.checked_mul(10)?.checked_add(digit.into())
    })
}

fn set_time(nanoseconds: u64) {
    const CLOCK_REALTIME: usize = 0;
    const SECOND: u64 = 1_000_000_000;
    let time = [nanoseconds / SECOND, nanoseconds % SECOND];
    syscall([call::CLOCK_SETTIME, CLOCK_REALTIME, time.as_ptr() as usize, 0, 0, 0, 0]);
}

/// Runs the guest's own command, which ends programs and file systems in order.
fn power_off() {
    let path = c"/sbin/poweroff".as_ptr();
    let arguments = [path, core::ptr::null()];
    let environment: [*const c_char; 1] = [core::ptr::null()];
    match syscall([call::FORK, 0, 0, 0, 0, 0, 0]) {
        0 => {
            let (argv, envp) = (arguments.as_ptr() as usize, environment.as_ptr() as usize);
            syscall([call::EXECVE, path as usize, argv, envp, 0, 0, 0]);
            exit(127)
        }
        child if child > 0 => {
            syscall([call::WAIT4, child as usize, 0, 0, 0, 0, 0]);
        }
        _ => {}
    }
}

fn exit(code: usize) -> ! {
    loop {
        syscall([call::EXIT, code, 0, 0, 0, 0, 0]);
    }
}

/// A system call: its number and up to six arguments; what the kernel answers.
fn syscall([number, a, b, c, d, e, f]: [usize; 7]) -> isize {
    let result: isize;
    // SAFETY: the arguments are numbers, or addresses of values that the callers keep for the call
    // and that are as long as they say.
    unsafe {
        asm!(
            "syscall",
            inlateout("rax") number as isize => result,
            in("rdi") a,
            in("rsi") b,
            in("rdx") c,
            in("r10") d,
            in("r8") e,
            in("r9") f,
            lateout("rcx") _,
            lateout("r11") _,
        );
    }
    result
}

/// What the compiler calls for itself where there is no C library.
mod memory {
    use core::arch::asm;

    #[unsafe(no_mangle)]
    unsafe extern "C" fn memcpy(to: *mut u8, from: *const u8, len: usize) -> *mut u8 {
        // SAFETY: the caller keeps the contract of `memcpy`.
        unsafe {
            asm!("rep movsb", inout("rcx") len => _, inout("rdi") to => _, inout("rsi") from => _);
        }
        to
    }

    #[unsafe(no_mangle)]
    unsafe extern "C" fn memset(to: *mut u8, byte: i32, len: usize) -> *mut u8 {
        // SAFETY: the caller keeps the contract of `memset`.
        unsafe {
            asm!("rep stosb", inout("rcx") len => _, inout("rdi") to => _, in("al") byte as u8);
        }
        to
    }

    #[unsafe(no_mangle)]
    unsafe extern "C" fn memcmp(a: *const u8, b: *const u8, len: usize) -> i32 {
        for at in 0..len {
            // SAFETY: the caller gives `len` bytes at both places.
            let (a, b) =
                unsafe { (core::ptr::read_volatile(a.add(at)), core::ptr::read_volatile(b.add(at))) };
            if a != b {
                return i32::from(a) - i32::from(b);
            }
        }
        0
    }

    #[unsafe(no_mangle)]
    unsafe extern "C" fn bcmp(a: *const u8, b: *const u8, len: usize) -> i32 {
        // SAFETY: the caller keeps the contract of `bcmp`, which asks no more than `memcmp`.
        unsafe { memcmp(a, b, len) }
    }
}

#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    exit(101)
}
