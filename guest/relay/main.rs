//! What carries datagrams within a guest, for UDP ports that `rvm port add` forwards: `rvm` sends it over
//! a connection of the ssh client and talks to it there, at standard input and output.
//!
//! Once it is at work it says [`READY`]. From then on messages go both ways, all numbers big-endian:
//!
//!     flow (2 bytes)  port (2)  length (2)  that many bytes
//!
//! A datagram of a new flow opens a socket to `port` of 127.0.0.1; what comes back at it belongs to that
//! flow. A length of 0xffff, with nothing behind it, ends the flow. It ends with its standard input.
//!
//! One program without libraries, the C library included, so that it runs in every guest: the system calls
//! and layouts are those of Linux on x86-64.
#![no_std]
#![no_main]

mod system;

use system::{call, exit, syscall};

/// `src/machine/datagrams.rs` waits for that.
const READY: &[u8] = b"rvm relay 1\n";
/// Flows at once, by their numbers.
const FLOWS: usize = 128;
const HEADER: usize = 6;
/// Instead of a length.
const OVER: usize = 0xffff;
/// Longest message.
const LONGEST: usize = HEADER + OVER;

const AF_INET: u16 = 2;
const SOCK_DGRAM: usize = 2;
const SOCK_CLOEXEC: usize = 0o2_000_000;
const MSG_DONTWAIT: usize = 0x40;
const POLLIN: i16 = 1;
const INPUT: usize = 0;
const OUTPUT: usize = 1;

/// `struct pollfd`; the kernel passes over one whose `fd` is negative.
#[repr(C)]
#[derive(Clone, Copy)]
struct Poll {
    fd: i32,
    events: i16,
    revents: i16,
}

/// `struct sockaddr_in`.
#[repr(C)]
struct Address {
    family: u16,
    port: [u8; 2],
    ip: [u8; 4],
    zero: [u8; 8],
}

/// A flow's socket, if it has one, and the port that it leads to.
#[derive(Clone, Copy)]
struct Flow {
    socket: Option<usize>,
    port: [u8; 2],
}

fn main() -> ! {
    let mut flows = [Flow { socket: None, port: [0; 2] }; FLOWS];
    let (mut input, mut held) = ([0u8; 2 * LONGEST], 0);
    let mut message = [0u8; LONGEST];
    write(READY);
    loop {
        let mut polls = [Poll { fd: -1, events: POLLIN, revents: 0 }; FLOWS + 1];
        for (poll, flow) in polls.iter_mut().zip(&flows) {
            poll.fd = flow.socket.map_or(-1, |socket| socket as i32);
        }
        polls[FLOWS].fd = INPUT as i32;
        syscall([call::POLL, polls.as_mut_ptr() as usize, polls.len(), usize::MAX, 0, 0, 0]);
        for (number, (poll, flow)) in polls.iter().zip(&flows).enumerate() {
            if poll.revents != 0 {
                answer(number, flow, &mut message);
            }
        }
        if polls[FLOWS].revents == 0 {
            continue;
        }
        let room = input.get_mut(held..).unwrap_or_default();
        let count = syscall([call::READ, INPUT, room.as_mut_ptr() as usize, room.len(), 0, 0, 0]);
        match usize::try_from(count) {
            Ok(0) => exit(0),
            Ok(count) => held += count,
            Err(_) => exit(1),
        }
        let mut at = 0;
        while let Some(len) = take(input.get(at..held).unwrap_or_default(), &mut flows) {
            at += len;
        }
        for to in 0..held - at {
            if let (Some(byte), Some(place)) = (input.get(at + to).copied(), input.get_mut(to)) {
                *place = byte;
            }
        }
        held -= at;
    }
}

/// Does what the first message says, if all of it is there; how long it was.
fn take(bytes: &[u8], flows: &mut [Flow; FLOWS]) -> Option<usize> {
    let (&[f0, f1, p0, p1, l0, l1], rest) = bytes.split_first_chunk::<HEADER>()?;
    let len = u16::from_be_bytes([l0, l1]) as usize;
    let flow = flows.get_mut(u16::from_be_bytes([f0, f1]) as usize);
    if len == OVER {
        if let Some(flow) = flow {
            close(flow);
        }
        return Some(HEADER);
    }
    let datagram = rest.get(..len)?;
    if let Some(flow) = flow {
        if flow.socket.is_none() {
            flow.port = [p0, p1];
            flow.socket = open([p0, p1]);
        }
        if let Some(socket) = flow.socket {
            // One that is lost is lost, as on any network.
            let start = datagram.as_ptr() as usize;
            syscall([call::SENDTO, socket, start, datagram.len(), MSG_DONTWAIT, 0, 0]);
        }
    }
    Some(HEADER + len)
}

fn close(flow: &mut Flow) {
    if let Some(socket) = flow.socket.take() {
        syscall([call::CLOSE, socket, 0, 0, 0, 0, 0]);
    }
}

fn open(port: [u8; 2]) -> Option<usize> {
    let socket = syscall([call::SOCKET, AF_INET as usize, SOCK_DGRAM | SOCK_CLOEXEC, 0, 0, 0, 0]);
    let socket = usize::try_from(socket).ok()?;
    let to = Address { family: AF_INET, port, ip: [127, 0, 0, 1], zero: [0; 8] };
    let start = core::ptr::from_ref(&to) as usize;
    if syscall([call::CONNECT, socket, start, size_of::<Address>(), 0, 0, 0]) < 0 {
        syscall([call::CLOSE, socket, 0, 0, 0, 0, 0]);
        return None;
    }
    Some(socket)
}

/// Passes one datagram on that has come for a flow. That nobody listens is an error of the socket's, which
/// ends with being read.
fn answer(number: usize, flow: &Flow, message: &mut [u8; LONGEST]) {
    let Some(socket) = flow.socket else { return };
    let Some((header, room)) = message.split_first_chunk_mut::<HEADER>() else { return };
    let count = syscall([call::RECVFROM, socket, room.as_mut_ptr() as usize, room.len(), MSG_DONTWAIT, 0, 0]);
    let Ok(count) = usize::try_from(count) else { return };
    let ([f0, f1], [p0, p1], [l0, l1]) =
        ((number as u16).to_be_bytes(), flow.port, (count as u16).to_be_bytes());
    *header = [f0, f1, p0, p1, l0, l1];
    write(message.get(..HEADER + count).unwrap_or_default());
}

/// Writes all of it, or ends: then nobody reads any more.
fn write(mut bytes: &[u8]) {
    while !bytes.is_empty() {
        let count = syscall([call::WRITE, OUTPUT, bytes.as_ptr() as usize, bytes.len(), 0, 0, 0]);
        match usize::try_from(count) {
            Ok(count) => bytes = bytes.get(count..).unwrap_or_default(),
            Err(_) => exit(1),
        }
    }
}
