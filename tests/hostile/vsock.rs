//! The socket device: what it carries, and what it is made of.

use std::io::{self, Read, Write};
use std::net::Shutdown;
use std::os::fd::OwnedFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::mpsc::channel;

use rvm::vmm::virtio::vsock::{BUFFER, Vsock};
use rvm::vmm::{self, VsockPort, VsockService};

use crate::driver::*;
use crate::vsock_guest::*;

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
    let device = Vsock::new(vmm::Vsock { cid: 3, ports: vec![], listener, forwards: vec![] }).unwrap();
    let mut program = UnixStream::connect(&door).unwrap();
    program.write_all(b"CONNECT 7\n").unwrap();
    let counters = device.counters();
    let driver = Driver::started(device, 16, 0);
    let address = "127.0.0.1:0".parse().unwrap();
    let mut rig = Rig { driver, desk: channel().1, counters, door, address, _folder: folder, posted: 0 };
    assert_eq!(rig.expect(REQUEST).0.dst_port, 7);
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
        let error =
            Vsock::new(vmm::Vsock { cid, ports: vec![], listener: None, forwards: vec![] }).unwrap_err();
        assert!(error.to_string().contains("context identifier"), "{error}");
    }
    let twice = vmm::Vsock { cid: 3, ports: vec![port(), port()], listener: None, forwards: vec![] };
    assert!(Vsock::new(twice).unwrap_err().to_string().contains("port 1"));
    let (socket, _other) = UnixStream::pair().unwrap();
    let deaf = vmm::Vsock { cid: 3, ports: vec![], listener: Some(socket.into()), forwards: vec![] };
    assert!(Vsock::new(deaf).unwrap_err().to_string().contains("listen"));
}
