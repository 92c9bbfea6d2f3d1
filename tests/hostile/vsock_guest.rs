//! A guest before a socket device in a few lines, and the host behind it.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpListener};
use std::os::fd::OwnedFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::Duration;

use rustix::net::sockopt;
use rvm::vmm::virtio::vsock::{BUFFER, Counters, Vsock};
use rvm::vmm::{self, VsockForward, VsockPort, VsockService};

use crate::driver::*;

pub const RX: usize = 0;
pub const TX: usize = 1;
pub const CID: u64 = 3;
pub const HOST: u64 = 2;
/// A port of the host on which a [`Desk`] answers, and one where nobody does.
pub const OPEN: u32 = 1000;
pub const CLOSED: u32 = 1001;
/// The guest's port that a TCP socket of the host leads to.
pub const LED: u32 = 222;
/// The guest's port in most tests.
pub const OWN: u32 = 5000;

pub const REQUEST: u16 = 1;
pub const RESPONSE: u16 = 2;
pub const RST: u16 = 3;
pub const SHUTDOWN: u16 = 4;
pub const RW: u16 = 5;
pub const CREDIT_UPDATE: u16 = 6;
pub const CREDIT_REQUEST: u16 = 7;

pub const HEADER: usize = 44;
pub const PATIENCE: Duration = Duration::from_secs(20);
/// Where receive buffers are, and how large.
pub const BUFFERS: u64 = HIGH_START;
pub const BUFFER_LEN: u32 = 4096;

/// Hands the host's ends of new connections to the test.
#[derive(Debug)]
struct Desk(Sender<UnixStream>);

impl VsockService for Desk {
    fn connect(&mut self, guest_port: u32) -> io::Result<OwnedFd> {
        if guest_port == 13 {
            return Err(io::ErrorKind::PermissionDenied.into());
        }
        let (ours, theirs) = UnixStream::pair()?;
        let _ = self.0.send(theirs);
        Ok(ours.into())
    }
}

/// A packet's header as this side writes it down.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Packet {
    pub src_cid: u64,
    pub dst_cid: u64,
    pub src_port: u32,
    pub dst_port: u32,
    pub len: u32,
    pub kind: u16,
    pub op: u16,
    pub flags: u32,
    pub buf_alloc: u32,
    pub fwd_cnt: u32,
}

impl Packet {
    /// From the guest's port to the host's.
    pub fn new(op: u16, own: u32, port: u32) -> Self {
        Self {
            src_cid: CID,
            dst_cid: HOST,
            src_port: own,
            dst_port: port,
            len: 0,
            kind: 1,
            op,
            flags: 0,
            buf_alloc: 1 << 20,
            fwd_cnt: 0,
        }
    }

    pub fn bytes(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        bytes.extend(self.src_cid.to_le_bytes());
        bytes.extend(self.dst_cid.to_le_bytes());
        bytes.extend(self.src_port.to_le_bytes());
        bytes.extend(self.dst_port.to_le_bytes());
        bytes.extend(self.len.to_le_bytes());
        bytes.extend(self.kind.to_le_bytes());
        bytes.extend(self.op.to_le_bytes());
        bytes.extend(self.flags.to_le_bytes());
        bytes.extend(self.buf_alloc.to_le_bytes());
        bytes.extend(self.fwd_cnt.to_le_bytes());
        bytes
    }

    pub fn parse(bytes: &[u8]) -> Self {
        let number = |at: usize, len: usize| {
            let mut word = [0; 8];
            word[..len].copy_from_slice(&bytes[at..at + len]);
            u64::from_le_bytes(word)
        };
        Self {
            src_cid: number(0, 8),
            dst_cid: number(8, 8),
            src_port: number(16, 4) as u32,
            dst_port: number(20, 4) as u32,
            len: number(24, 4) as u32,
            kind: number(28, 2) as u16,
            op: number(30, 2) as u16,
            flags: number(32, 4) as u32,
            buf_alloc: number(36, 4) as u32,
            fwd_cnt: number(40, 4) as u32,
        }
    }
}

/// A guest before a socket device, and the host behind it.
pub struct Rig {
    pub driver: Driver,
    pub desk: Receiver<UnixStream>,
    pub counters: Arc<Counters>,
    /// Where the host's programs connect.
    pub door: std::path::PathBuf,
    /// Where they are led to [`LED`].
    pub address: SocketAddr,
    pub _folder: tempfile::TempDir,
    /// Receive buffers in the ring.
    pub posted: u16,
}

pub fn rig(size: u16) -> Rig {
    let folder = tempfile::tempdir().unwrap();
    let door = folder.path().join("v.sock");
    let (sender, desk) = channel();
    let port = VsockPort { port: OPEN, service: Box::new(Desk(sender)) };
    let listener = Some(UnixListener::bind(&door).unwrap().into());
    let tcp = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = tcp.local_addr().unwrap();
    // The device's own times are longer than a test's patience.
    let second = Duration::from_secs(1);
    sockopt::set_tcp_keepidle(&tcp, second).unwrap();
    sockopt::set_tcp_keepintvl(&tcp, second).unwrap();
    sockopt::set_socket_keepalive(&tcp, true).unwrap();
    let forwards = vec![VsockForward { listener: tcp.into(), guest_port: LED }];
    let device = Vsock::new(vmm::Vsock { cid: CID as u32, ports: vec![port], listener, forwards }).unwrap();
    let counters = device.counters();
    let driver = Driver::started(device, size, 0);
    Rig { driver, desk, counters, door, address, _folder: folder, posted: 0 }
}

impl Rig {
    /// Offers one receive buffer.
    pub fn post(&mut self) {
        let size = self.driver.queues[RX].size;
        let slot = self.driver.queues[RX].next_descriptor % size;
        let at = BUFFERS + u64::from(slot) * u64::from(BUFFER_LEN);
        self.driver.submit(RX, &[writable(at, BUFFER_LEN)]);
        self.posted += 1;
    }

    /// The next packet for the guest, with its data.
    pub fn next(&mut self) -> (Packet, Vec<u8>) {
        if self.posted == 0 {
            self.post();
        }
        let used = self.driver.used(RX);
        self.taken(used)
    }

    /// A packet for the guest that is there already; it needs a buffer.
    pub fn arrived(&mut self) -> Option<(Packet, Vec<u8>)> {
        let used = self.driver.poll_used(RX)?;
        Some(self.taken(used))
    }

    fn taken(&mut self, (head, len): (u16, u32)) -> (Packet, Vec<u8>) {
        self.posted -= 1;
        let at = BUFFERS + u64::from(head) * u64::from(BUFFER_LEN);
        let bytes = self.driver.get(at, len as usize);
        let packet = Packet::parse(&bytes);
        assert_eq!(len as usize, HEADER + packet.len as usize);
        (packet, bytes[HEADER..].to_vec())
    }

    /// The next packet has to have this operation.
    pub fn expect(&mut self, op: u16) -> (Packet, Vec<u8>) {
        let (packet, data) = self.next();
        assert_eq!(packet.op, op, "{packet:?}");
        assert_eq!((packet.src_cid, packet.dst_cid, packet.kind), (HOST, CID, 1));
        (packet, data)
    }

    /// Nothing is for the guest. Refusals come first, each at once: of two buffers, a packet that was
    /// waiting would have the second one.
    pub fn quiet(&mut self) {
        while self.posted < 2 {
            self.post();
        }
        for port in [7, 8] {
            self.send(&Packet::new(CREDIT_REQUEST, 9, port), &[]);
        }
        for port in [7, 8] {
            let (packet, _) = self.expect(RST);
            assert_eq!((packet.src_port, packet.dst_port), (port, 9), "something else was sent");
        }
    }

    /// Sends a packet with data and waits until the device has taken it.
    pub fn send(&mut self, packet: &Packet, data: &[u8]) {
        let mut bytes = packet.bytes();
        bytes.extend(data);
        self.driver.put(DATA, &bytes);
        assert_eq!(self.driver.transact(TX, &[readable(DATA, bytes.len() as u32)]), 0);
    }

    pub fn data(&mut self, own: u32, port: u32, data: &[u8]) {
        self.send(&Packet { len: data.len() as u32, ..Packet::new(RW, own, port) }, data);
    }

    /// Connects the guest's port to the open port of the host.
    pub fn connect(&mut self, own: u32) -> UnixStream {
        self.send(&Packet::new(REQUEST, own, OPEN), &[]);
        let (packet, _) = self.expect(RESPONSE);
        assert_eq!((packet.src_port, packet.dst_port), (OPEN, own));
        assert_eq!((packet.buf_alloc, packet.fwd_cnt), (BUFFER, 0));
        self.peer()
    }

    /// The host's end of the connection that was made last.
    pub fn peer(&mut self) -> UnixStream {
        let peer = self.desk.recv_timeout(PATIENCE).unwrap();
        peer.set_read_timeout(Some(PATIENCE)).unwrap();
        peer
    }

    /// A program of the host that says its first line.
    pub fn program(&self, line: &str) -> UnixStream {
        let mut program = UnixStream::connect(&self.door).unwrap();
        program.set_read_timeout(Some(PATIENCE)).unwrap();
        // One that is not wanted may be closed already.
        let _ = program.write_all(line.as_bytes());
        program
    }

    pub fn refused(&mut self, packet: &Packet) {
        self.send(packet, &[]);
        let (answer, _) = self.next();
        let mirrored = (packet.dst_cid, packet.src_cid, packet.dst_port, packet.src_port, packet.kind);
        assert_eq!(answer.op, RST, "{packet:?}");
        assert_eq!((answer.src_cid, answer.dst_cid, answer.src_port, answer.dst_port, answer.kind), mirrored);
    }
}

pub fn read(peer: &mut UnixStream, len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    peer.read_exact(&mut bytes).unwrap();
    bytes
}

pub fn line(peer: &mut UnixStream) -> String {
    let mut line = Vec::new();
    while line.last() != Some(&b'\n') {
        line.extend(read(peer, 1));
    }
    String::from_utf8(line).unwrap()
}

/// The connection is over, at once or after what was on its way.
pub fn assert_ended(peer: &mut UnixStream) {
    match peer.read(&mut [0; 1]) {
        Ok(count) => assert_eq!(count, 0),
        Err(error) => assert_eq!(error.kind(), io::ErrorKind::ConnectionReset),
    }
}

pub fn pattern(len: usize) -> Vec<u8> {
    (0..len).map(|at| (at * 7 + at / 256) as u8).collect()
}
