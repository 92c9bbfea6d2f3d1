//! The socket device: what it carries, and guests that break its rules.

use std::io::{self, Read, Write};
use std::net::Shutdown;
use std::os::fd::OwnedFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::atomic::Ordering;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use rvm::vmm::virtio::vsock::{BUFFER, Counters, MAX_CONNECTIONS, MAX_RESETS, Vsock, VsockError};
use rvm::vmm::{self, VsockPort, VsockService};

use crate::driver::*;

const RX: usize = 0;
const TX: usize = 1;
const CID: u64 = 3;
const HOST: u64 = 2;
/// A port of the host on which a [`Desk`] answers, and one where nobody does.
const OPEN: u32 = 1000;
const CLOSED: u32 = 1001;
/// The guest's port in most tests.
const OWN: u32 = 5000;

const REQUEST: u16 = 1;
const RESPONSE: u16 = 2;
const RST: u16 = 3;
const SHUTDOWN: u16 = 4;
const RW: u16 = 5;
const CREDIT_UPDATE: u16 = 6;
const CREDIT_REQUEST: u16 = 7;

const HEADER: usize = 44;
const PATIENCE: Duration = Duration::from_secs(20);
/// Where receive buffers are, and how large.
const BUFFERS: u64 = HIGH_START;
const BUFFER_LEN: u32 = 4096;

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
struct Packet {
    src_cid: u64,
    dst_cid: u64,
    src_port: u32,
    dst_port: u32,
    len: u32,
    kind: u16,
    op: u16,
    flags: u32,
    buf_alloc: u32,
    fwd_cnt: u32,
}

impl Packet {
    /// From the guest's port to the host's.
    fn new(op: u16, own: u32, port: u32) -> Self {
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

    fn bytes(&self) -> Vec<u8> {
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

    fn parse(bytes: &[u8]) -> Self {
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
struct Rig {
    driver: Driver,
    desk: Receiver<UnixStream>,
    counters: Arc<Counters>,
    /// Where the host's programs connect.
    door: std::path::PathBuf,
    _folder: tempfile::TempDir,
    /// Receive buffers in the ring.
    posted: u16,
}

fn rig(size: u16) -> Rig {
    let folder = tempfile::tempdir().unwrap();
    let door = folder.path().join("v.sock");
    let (sender, desk) = channel();
    let port = VsockPort { port: OPEN, service: Box::new(Desk(sender)) };
    let listener = Some(UnixListener::bind(&door).unwrap().into());
    let device = Vsock::new(vmm::Vsock { cid: CID as u32, ports: vec![port], listener }).unwrap();
    let counters = device.counters();
    let driver = Driver::started(device, size, 0);
    Rig { driver, desk, counters, door, _folder: folder, posted: 0 }
}

impl Rig {
    /// Offers one receive buffer.
    fn post(&mut self) {
        let size = self.driver.queues[RX].size;
        let slot = self.driver.queues[RX].next_descriptor % size;
        let at = BUFFERS + u64::from(slot) * u64::from(BUFFER_LEN);
        self.driver.submit(RX, &[writable(at, BUFFER_LEN)]);
        self.posted += 1;
    }

    /// The next packet for the guest, with its data.
    fn next(&mut self) -> (Packet, Vec<u8>) {
        if self.posted == 0 {
            self.post();
        }
        let (head, len) = self.driver.used(RX);
        self.posted -= 1;
        let at = BUFFERS + u64::from(head) * u64::from(BUFFER_LEN);
        let bytes = self.driver.get(at, len as usize);
        let packet = Packet::parse(&bytes);
        assert_eq!(len as usize, HEADER + packet.len as usize);
        (packet, bytes[HEADER..].to_vec())
    }

    /// The next packet has to have this operation.
    fn expect(&mut self, op: u16) -> (Packet, Vec<u8>) {
        let (packet, data) = self.next();
        assert_eq!(packet.op, op, "{packet:?}");
        assert_eq!((packet.src_cid, packet.dst_cid, packet.kind), (HOST, CID, 1));
        (packet, data)
    }

    /// Nothing is for the guest. Refusals come first, each at once: of two buffers, a packet that was
    /// waiting would have the second one.
    fn quiet(&mut self) {
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
    fn send(&mut self, packet: &Packet, data: &[u8]) {
        let mut bytes = packet.bytes();
        bytes.extend(data);
        self.driver.put(DATA, &bytes);
        assert_eq!(self.driver.transact(TX, &[readable(DATA, bytes.len() as u32)]), 0);
    }

    fn data(&mut self, own: u32, port: u32, data: &[u8]) {
        self.send(&Packet { len: data.len() as u32, ..Packet::new(RW, own, port) }, data);
    }

    /// Connects the guest's port to the open port of the host.
    fn connect(&mut self, own: u32) -> UnixStream {
        self.send(&Packet::new(REQUEST, own, OPEN), &[]);
        let (packet, _) = self.expect(RESPONSE);
        assert_eq!((packet.src_port, packet.dst_port), (OPEN, own));
        assert_eq!((packet.buf_alloc, packet.fwd_cnt), (BUFFER, 0));
        self.peer()
    }

    /// The host's end of the connection that was made last.
    fn peer(&mut self) -> UnixStream {
        let peer = self.desk.recv_timeout(PATIENCE).unwrap();
        peer.set_read_timeout(Some(PATIENCE)).unwrap();
        peer
    }

    /// A program of the host that says its first line.
    fn program(&self, line: &str) -> UnixStream {
        let mut program = UnixStream::connect(&self.door).unwrap();
        program.set_read_timeout(Some(PATIENCE)).unwrap();
        // One that is not wanted may be closed already.
        let _ = program.write_all(line.as_bytes());
        program
    }

    fn refused(&mut self, packet: &Packet) {
        self.send(packet, &[]);
        let (answer, _) = self.next();
        let mirrored = (packet.dst_cid, packet.src_cid, packet.dst_port, packet.src_port, packet.kind);
        assert_eq!(answer.op, RST, "{packet:?}");
        assert_eq!((answer.src_cid, answer.dst_cid, answer.src_port, answer.dst_port, answer.kind), mirrored);
    }
}

fn read(peer: &mut UnixStream, len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    peer.read_exact(&mut bytes).unwrap();
    bytes
}

fn line(peer: &mut UnixStream) -> String {
    let mut line = Vec::new();
    while line.last() != Some(&b'\n') {
        line.extend(read(peer, 1));
    }
    String::from_utf8(line).unwrap()
}

/// The connection is over, at once or after what was on its way.
fn assert_ended(peer: &mut UnixStream) {
    match peer.read(&mut [0; 1]) {
        Ok(count) => assert_eq!(count, 0),
        Err(error) => assert_eq!(error.kind(), io::ErrorKind::ConnectionReset),
    }
}

fn pattern(len: usize) -> Vec<u8> {
    (0..len).map(|at| (at * 7 + at / 256) as u8).collect()
}

#[test]
fn config_is_the_guests_address() {
    let mut rig = rig(16);
    let mut config = [0xff; 12];
    rvm::vmm::bus::BusDevice::read(&mut rig.driver.transport, 0x100, &mut config);
    assert_eq!(config, [3, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
}

#[test]
fn guest_reaches_the_ports_that_are_listed_and_no_other() {
    let mut rig = rig(16);
    let mut peer = rig.connect(OWN);
    rig.data(OWN, OPEN, b"hello");
    assert_eq!(read(&mut peer, 5), b"hello");
    peer.write_all(b"welcome").unwrap();
    let (packet, data) = rig.expect(RW);
    assert_eq!((packet.src_port, packet.dst_port, packet.fwd_cnt), (OPEN, OWN, 5));
    assert_eq!(data, b"welcome");
    rig.refused(&Packet::new(REQUEST, OWN, CLOSED));
    // The service says no.
    rig.refused(&Packet::new(REQUEST, 13, OPEN));
    rig.quiet();
}

#[test]
fn bytes_in_any_pieces_arrive_in_order() {
    let mut rig = rig(64);
    let mut peer = rig.connect(OWN);
    let sent = pattern(30_000);
    let mut bytes = Packet { len: 30_000, ..Packet::new(RW, OWN, OPEN) }.bytes();
    bytes.extend(&sent);
    rig.driver.put(DATA, &bytes);
    // Header and data cut at odd places.
    let cuts = [0, 1, 43, 50, 51, 20_000, bytes.len()];
    let pieces: Vec<Buf> =
        cuts.windows(2).map(|cut| readable(DATA + cut[0] as u64, (cut[1] - cut[0]) as u32)).collect();
    rig.driver.transact(TX, &pieces);
    assert_eq!(read(&mut peer, 30_000), sent);

    let writer = std::thread::spawn(move || peer.write_all(&pattern(100_000)).map(|()| peer));
    let mut received = Vec::new();
    while received.len() < 100_000 {
        received.extend(rig.expect(RW).1);
    }
    assert_eq!(received, pattern(100_000));
    writer.join().unwrap().unwrap();
}

#[test]
fn host_connects_to_the_guest() {
    let mut rig = rig(16);
    // What comes right behind the line is for the guest.
    let mut program = rig.program("CONNECT 22\nearly");
    let (request, _) = rig.expect(REQUEST);
    assert_eq!(request.dst_port, 22);
    let host_port = request.src_port;
    rig.send(&Packet::new(RESPONSE, 22, host_port), &[]);
    assert_eq!(line(&mut program), format!("OK {host_port}\n"));
    assert_eq!(rig.expect(RW).1, b"early");
    rig.data(22, host_port, b"SSH-2.0");
    assert_eq!(read(&mut program, 7), b"SSH-2.0");
    // A second one gets another port.
    let _other = rig.program("CONNECT 22\n");
    assert_ne!(rig.expect(REQUEST).0.src_port, host_port);
}

#[test]
fn first_line_may_come_in_pieces_and_nonsense_is_hung_up_on() {
    let mut rig = rig(16);
    let mut slow = rig.program("CONN");
    for nonsense in
        ["HELLO 22\n", "CONNECT x\n", "CONNECT 4294967296\n", "CONNECT 22 and no end in sight ......"]
    {
        assert_ended(&mut rig.program(nonsense));
    }
    let mut quitter = rig.program("CONNECT 2");
    quitter.shutdown(Shutdown::Write).unwrap();
    assert_ended(&mut quitter);
    slow.write_all(b"ECT 80\n").unwrap();
    assert_eq!(rig.expect(REQUEST).0.dst_port, 80);
    rig.quiet();
}

#[test]
fn guest_that_refuses_the_host_closes_its_program() {
    let mut rig = rig(16);
    let mut program = rig.program("CONNECT 22\n");
    let port = rig.expect(REQUEST).0.src_port;
    rig.send(&Packet::new(RST, 22, port), &[]);
    assert_ended(&mut program);
    // So does one that answers with anything else.
    let mut program = rig.program("CONNECT 22\n");
    let port = rig.expect(REQUEST).0.src_port;
    rig.refused(&Packet::new(RW, 22, port));
    assert_ended(&mut program);
    rig.quiet();
}

#[test]
fn program_that_leaves_before_the_answer_takes_its_request_back() {
    let mut rig = rig(16);
    let program = rig.program("CONNECT 22\n");
    let port = rig.expect(REQUEST).0.src_port;
    drop(program);
    let (packet, _) = rig.expect(RST);
    assert_eq!((packet.src_port, packet.dst_port), (port, 22));
    rig.refused(&Packet::new(RESPONSE, 22, port));
}

#[test]
fn half_closed_connections_carry_the_other_half() {
    let mut rig = rig(16);
    // The guest is done first.
    let mut peer = rig.connect(OWN);
    rig.data(OWN, OPEN, b"question");
    rig.send(&Packet { flags: 2, ..Packet::new(SHUTDOWN, OWN, OPEN) }, &[]);
    let mut question = Vec::new();
    peer.read_to_end(&mut question).unwrap();
    assert_eq!(question, b"question");
    peer.write_all(b"answer").unwrap();
    assert_eq!(rig.expect(RW).1, b"answer");
    drop(peer);
    // Whether the host's end or the end of the whole connection is seen first is a matter of time.
    let mut flags = 0;
    while flags != 3 {
        flags = rig.expect(SHUTDOWN).0.flags;
    }
    // The host is done first.
    let mut peer = rig.connect(OWN);
    peer.write_all(b"all").unwrap();
    peer.shutdown(Shutdown::Write).unwrap();
    assert_eq!(rig.expect(RW).1, b"all");
    assert_eq!(rig.expect(SHUTDOWN).0.flags, 2);
    rig.data(OWN, OPEN, b"thanks");
    assert_eq!(read(&mut peer, 6), b"thanks");
    // The guest closes; that is acknowledged by a RST.
    rig.send(&Packet { flags: 3, ..Packet::new(SHUTDOWN, OWN, OPEN) }, &[]);
    rig.expect(RST);
    assert_ended(&mut peer);
    rig.quiet();
}

#[test]
fn data_after_a_shutdown_resets_the_connection() {
    let mut rig = rig(16);
    let mut peer = rig.connect(OWN);
    rig.send(&Packet { flags: 2, ..Packet::new(SHUTDOWN, OWN, OPEN) }, &[]);
    rig.data(OWN, OPEN, b"more");
    rig.expect(RST);
    assert_ended(&mut peer);
    // A guest that wants nothing more gets nothing more.
    let mut peer = rig.connect(OWN);
    rig.send(&Packet { flags: 1, ..Packet::new(SHUTDOWN, OWN, OPEN) }, &[]);
    assert_eq!(peer.write_all(b"late").unwrap_err().kind(), io::ErrorKind::BrokenPipe);
    rig.data(OWN, OPEN, b"still");
    assert_eq!(read(&mut peer, 5), b"still");
    rig.quiet();
}

#[test]
fn peer_that_never_reads_costs_one_buffer() {
    let mut rig = rig(16);
    let peer = rig.connect(OWN);
    let mut sent = 0u32;
    // The guest keeps to its credit, which stops growing once the socket and the buffer are full.
    let mut forwarded = 0;
    let chunk = pattern(BUFFER as usize / 2);
    loop {
        while sent - forwarded <= BUFFER / 2 {
            rig.data(OWN, OPEN, &chunk);
            sent += BUFFER / 2;
        }
        rig.send(&Packet::new(CREDIT_REQUEST, OWN, OPEN), &[]);
        let (packet, _) = rig.expect(CREDIT_UPDATE);
        if packet.fwd_cnt == forwarded {
            break;
        }
        forwarded = packet.fwd_cnt;
        assert!(sent < 64 << 20, "the host takes everything");
    }
    assert!(sent - forwarded <= BUFFER);
    // One that does not keep to it is cut off.
    let room = BUFFER - (sent - forwarded);
    rig.data(OWN, OPEN, &vec![0; room as usize + 1]);
    rig.expect(RST);
    drop(peer);
    rig.quiet();
}

#[test]
fn bytes_that_waited_for_the_host_arrive_and_the_guest_hears_of_room() {
    let mut rig = rig(16);
    let mut peer = rig.connect(OWN);
    let chunk = pattern(BUFFER as usize / 2);
    let mut sent = 0u32;
    let mut forwarded = 0;
    // Until nothing moves any more.
    loop {
        while sent - forwarded <= BUFFER / 2 {
            rig.data(OWN, OPEN, &chunk);
            sent += BUFFER / 2;
        }
        rig.send(&Packet::new(CREDIT_REQUEST, OWN, OPEN), &[]);
        let (packet, _) = rig.expect(CREDIT_UPDATE);
        if packet.fwd_cnt == forwarded {
            break;
        }
        forwarded = packet.fwd_cnt;
    }
    let reader = std::thread::spawn(move || read(&mut peer, sent as usize));
    while forwarded != sent {
        forwarded = rig.expect(CREDIT_UPDATE).0.fwd_cnt;
        if forwarded != sent {
            rig.send(&Packet::new(CREDIT_REQUEST, OWN, OPEN), &[]);
        }
    }
    let received = reader.join().unwrap();
    assert!(received.chunks(chunk.len()).all(|part| part == chunk));
}

#[test]
fn guest_without_room_is_asked_and_gets_no_more_than_it_has() {
    let mut rig = rig(16);
    rig.send(&Packet { buf_alloc: 10, ..Packet::new(REQUEST, OWN, OPEN) }, &[]);
    rig.expect(RESPONSE);
    let mut peer = rig.peer();
    peer.write_all(&pattern(25)).unwrap();
    assert_eq!(rig.expect(RW).1, pattern(25)[..10]);
    rig.expect(CREDIT_REQUEST);
    rig.quiet();
    rig.send(&Packet { buf_alloc: 10, fwd_cnt: 4, ..Packet::new(CREDIT_UPDATE, OWN, OPEN) }, &[]);
    assert_eq!(rig.expect(RW).1, pattern(25)[10..14]);
    // A buffer that shrinks below what is in it is no room, and no underflow.
    rig.expect(CREDIT_REQUEST);
    rig.send(&Packet { buf_alloc: 1, fwd_cnt: 5, ..Packet::new(CREDIT_UPDATE, OWN, OPEN) }, &[]);
    rig.quiet();
    rig.send(&Packet { buf_alloc: 100, fwd_cnt: 14, ..Packet::new(CREDIT_UPDATE, OWN, OPEN) }, &[]);
    assert_eq!(rig.expect(RW).1, pattern(25)[14..]);
}

#[test]
fn credit_lies_reset_the_connection() {
    for lie in [1, 6, u32::MAX, 1 << 31] {
        let mut rig = rig(16);
        let mut peer = rig.connect(OWN);
        peer.write_all(b"12345").unwrap();
        rig.expect(RW);
        // More has left the guest's buffer than ever came into it, or it came back.
        let base = if lie == 1 {
            rig.send(&Packet { fwd_cnt: 5, ..Packet::new(CREDIT_UPDATE, OWN, OPEN) }, &[]);
            4
        } else {
            lie
        };
        rig.send(&Packet { fwd_cnt: base, ..Packet::new(CREDIT_UPDATE, OWN, OPEN) }, &[]);
        rig.expect(RST);
        assert_ended(&mut peer);
    }
}

#[test]
fn length_beyond_the_buffers_resets_the_connection() {
    for (len, there) in [(1, 0), (100, 99), (u32::MAX, 4), (BUFFER + 1, 4)] {
        let mut rig = rig(16);
        let mut peer = rig.connect(OWN);
        rig.send(&Packet { len, ..Packet::new(RW, OWN, OPEN) }, &pattern(there));
        rig.expect(RST);
        assert_ended(&mut peer);
        rig.connect(OWN);
    }
}

#[test]
fn bytes_beyond_the_length_are_ignored() {
    let mut rig = rig(16);
    let mut peer = rig.connect(OWN);
    rig.send(&Packet { len: 3, ..Packet::new(RW, OWN, OPEN) }, b"yesno");
    rig.data(OWN, OPEN, b"!");
    assert_eq!(read(&mut peer, 4), b"yes!");
}

#[test]
fn wrong_addresses_types_and_operations_are_refused() {
    let mut rig = rig(16);
    let request = Packet::new(REQUEST, OWN, OPEN);
    for dst_cid in [0, 1, 3, 4, u64::from(u32::MAX), u64::MAX, HOST | 1 << 32] {
        rig.refused(&Packet { dst_cid, ..request });
    }
    for kind in [0, 2, 3, u16::MAX] {
        rig.refused(&Packet { kind, ..request });
    }
    for op in [0, RESPONSE, SHUTDOWN, RW, CREDIT_UPDATE, CREDIT_REQUEST, 8, u16::MAX] {
        rig.refused(&Packet { op, ..request });
    }
    // On a connection they end it.
    for op in [0, REQUEST, RESPONSE, 8, u16::MAX] {
        let mut peer = rig.connect(OWN);
        rig.refused(&Packet { op, ..request });
        assert_ended(&mut peer);
    }
    assert_eq!(rig.counters.dropped.load(Ordering::Relaxed), 0);
    rig.quiet();
}

#[test]
fn packets_of_others_and_torn_headers_are_dropped() {
    let mut rig = rig(16);
    for src_cid in [0, HOST, 4, CID | 1 << 32, u64::MAX] {
        rig.send(&Packet { src_cid, ..Packet::new(REQUEST, OWN, OPEN) }, &[]);
    }
    for len in [1, 43] {
        rig.driver.transact(TX, &[readable(DATA, len)]);
    }
    rig.driver.transact(TX, &[writable(DATA, 4096)]);
    assert_eq!(rig.counters.dropped.load(Ordering::Relaxed), 8);
    rig.quiet();
    rig.connect(OWN);
}

#[test]
fn connect_flood_is_refused_beyond_the_limit() {
    let mut rig = rig(16);
    let mut peers: Vec<_> = (0..MAX_CONNECTIONS as u32).map(|at| rig.connect(OWN + at)).collect();
    for at in 0..100 {
        rig.refused(&Packet::new(REQUEST, 1 + at, OPEN));
    }
    // Nor is there room for the host.
    assert_ended(&mut rig.program("CONNECT 22\n"));
    rig.data(OWN + 255, OPEN, b"here");
    assert_eq!(read(&mut peers[255], 4), b"here");
    // One that leaves makes room for one.
    rig.send(&Packet::new(RST, OWN, OPEN), &[]);
    assert_ended(&mut peers[0]);
    let _peer = rig.connect(1);
    rig.refused(&Packet::new(REQUEST, 2, OPEN));
}

#[test]
fn reset_storm_is_bounded_and_not_answered() {
    let mut rig = rig(16);
    for at in 0..1000 {
        rig.send(&Packet::new(RST, at, OPEN), &[]);
    }
    rig.quiet();
    // Refusals that the guest does not take are dropped.
    let extra = 50;
    for at in 0..MAX_RESETS as u32 + extra {
        rig.send(&Packet::new(RW, at, OPEN), &[]);
    }
    assert_eq!(rig.counters.resets_dropped.load(Ordering::Relaxed), u64::from(extra));
    for at in 0..MAX_RESETS as u32 {
        assert_eq!(rig.expect(RST).0.dst_port, at);
    }
    rig.quiet();
}

#[test]
fn guest_that_offers_no_buffers_stops_nothing_else() {
    let mut rig = rig(16);
    rig.send(&Packet::new(REQUEST, OWN, OPEN), &[]);
    let mut peer = rig.peer();
    peer.write_all(b"waiting").unwrap();
    for _ in 0..100 {
        rig.data(OWN, OPEN, b"x");
    }
    assert_eq!(read(&mut peer, 100), [b'x'; 100]);
    rig.expect(RESPONSE);
    assert_eq!(rig.expect(RW).1, b"waiting");
}

#[test]
fn useless_receive_buffers_come_back_unused() {
    let mut rig = rig(16);
    rig.send(&Packet::new(REQUEST, OWN, OPEN), &[]);
    let _peer = rig.peer();
    for useless in [writable(BUFFERS, 43), writable(BUFFERS, 44), readable(BUFFERS, 4096)] {
        assert_eq!(rig.driver.transact(RX, &[useless]), 0);
    }
    // They moved the place of the next descriptor, and thereby its buffer.
    rig.expect(RESPONSE);
}

#[test]
fn all_connections_have_their_turn() {
    let mut rig = rig(16);
    let mut peers: Vec<_> = (0..8).map(|at| rig.connect(OWN + at)).collect();
    for peer in &mut peers {
        peer.set_nonblocking(true).unwrap();
        while peer.write(&[1; 4096]).is_ok() {}
    }
    let mut seen = [0; 8];
    for _ in 0..80 {
        let (packet, _) = rig.expect(RW);
        seen[(packet.dst_port - OWN) as usize] += 1;
    }
    assert!(seen.iter().all(|count| *count >= 5), "{seen:?}");
}

#[test]
fn reset_ends_connections_and_the_device_starts_anew() {
    let mut rig = rig(16);
    let mut peers: Vec<_> = (0..20).map(|at| rig.connect(OWN + at)).collect();
    let mut program = rig.program("CONNECT 22\n");
    rig.expect(REQUEST);
    let mut idle = rig.program("CONN");
    rig.driver.reset();
    rig.posted = 0;
    for peer in peers.iter_mut().chain([&mut program]) {
        assert_ended(peer);
    }
    // It had not been taken in yet, or it was and is gone.
    let _ = idle.write_all(b"ECT 80\n");
    rig.driver.start(0);
    let mut peer = rig.connect(OWN);
    rig.data(OWN, OPEN, b"again");
    assert_eq!(read(&mut peer, 5), b"again");
}

#[test]
fn programs_that_connect_before_the_guest_is_there_wait() {
    let folder = tempfile::tempdir().unwrap();
    let door = folder.path().join("v.sock");
    let listener = Some(UnixListener::bind(&door).unwrap().into());
    let device = Vsock::new(vmm::Vsock { cid: 3, ports: vec![], listener }).unwrap();
    let mut program = UnixStream::connect(&door).unwrap();
    program.write_all(b"CONNECT 7\n").unwrap();
    let counters = device.counters();
    let driver = Driver::started(device, 16, 0);
    let mut rig = Rig { driver, desk: channel().1, counters, door, _folder: folder, posted: 0 };
    assert_eq!(rig.expect(REQUEST).0.dst_port, 7);
}

#[test]
fn unix_sockets_of_the_host_are_opened_beforehand() {
    let folder = tempfile::tempdir().unwrap();
    let base = folder.path().join("v.sock");
    let error = VsockPort::unix(&base, OPEN).unwrap_err();
    assert!(matches!(error, VsockError::Socket { .. }));
    assert!(error.hint().unwrap().contains("v.sock_1000"));
    let path = folder.path().join(format!("v.sock_{OPEN}"));
    let listener = UnixListener::bind(&path).unwrap();
    let port = VsockPort::unix(&base, OPEN).unwrap();
    // Its name is not needed any more.
    std::fs::rename(&path, folder.path().join("moved")).unwrap();
    let device = Vsock::new(vmm::Vsock { cid: 3, ports: vec![port], listener: None }).unwrap();
    let counters = device.counters();
    let driver = Driver::started(device, 16, 0);
    let mut rig = Rig { driver, desk: channel().1, counters, door: base, _folder: folder, posted: 0 };
    rig.send(&Packet::new(REQUEST, OWN, OPEN), &[]);
    rig.expect(RESPONSE);
    let (mut peer, _) = listener.accept().unwrap();
    peer.set_read_timeout(Some(PATIENCE)).unwrap();
    rig.data(OWN, OPEN, b"hello");
    assert_eq!(read(&mut peer, 5), b"hello");
    drop(listener);
    rig.refused(&Packet::new(REQUEST, OWN + 1, OPEN));
}

#[test]
fn what_cannot_serve_is_refused_at_once() {
    #[derive(Debug)]
    struct Nobody;
    impl VsockService for Nobody {
        fn connect(&mut self, _: u32) -> io::Result<OwnedFd> {
            Err(io::ErrorKind::Unsupported.into())
        }
    }
    let port = || VsockPort { port: 1, service: Box::new(Nobody) };
    for cid in [0, 1, 2, u32::MAX] {
        let error = Vsock::new(vmm::Vsock { cid, ports: vec![], listener: None }).unwrap_err();
        assert!(error.to_string().contains("context identifier"), "{error}");
    }
    let twice = vmm::Vsock { cid: 3, ports: vec![port(), port()], listener: None };
    assert!(Vsock::new(twice).unwrap_err().to_string().contains("port 1"));
    let (socket, _other) = UnixStream::pair().unwrap();
    let deaf = vmm::Vsock { cid: 3, ports: vec![], listener: Some(socket.into()) };
    assert!(Vsock::new(deaf).unwrap_err().to_string().contains("listen"));
}

#[test]
fn driver_that_breaks_a_queue_needs_a_reset_and_the_host_is_told() {
    let mut rig = rig(16);
    let mut peer = rig.connect(OWN);
    rig.driver.describe(TX, 3, LOW_END, 64, 0, 0);
    rig.driver.offer(TX, 3);
    rig.driver.kick(TX);
    rig.driver.wait_broken();
    assert_ended(&mut peer);
    rig.driver.reset();
    rig.posted = 0;
    rig.driver.start(0);
    rig.connect(OWN);
}

/// A guest in a hurry: random packets on few ports, and nothing but its own connections suffers.
#[test]
fn random_packets_do_no_harm() {
    use proptest::prelude::*;
    use proptest::test_runner::{Config, TestRunner};

    let rig = Arc::new(Mutex::new(rig(16)));
    let packet =
        (0u16..10, 0u32..4, 0u32..3, any::<u32>(), prop_oneof![Just(0u32), any::<u32>()], 0usize..300);
    let many = prop::collection::vec(packet, 1..60);
    let mut runner = TestRunner::new(Config { cases: 64, failure_persistence: None, ..Config::default() });
    let result = runner.run(&many, |packets| {
        let mut rig = rig.lock().unwrap();
        for (op, own, port, flags, fwd_cnt, len) in packets {
            let sent = Packet {
                flags,
                fwd_cnt,
                buf_alloc: flags,
                len: len as u32 + flags % 2,
                ..Packet::new(op, own, OPEN - 1 + port)
            };
            rig.send(&sent, &pattern(len));
        }
        // What is for it is drained, and then it can still connect.
        rig.send(&Packet::new(RST, OWN, OPEN), &[]);
        rig.send(&Packet::new(REQUEST, OWN, OPEN), &[]);
        while rig.next().0.dst_port != OWN {}
        Ok(())
    });
    result.unwrap();
}
