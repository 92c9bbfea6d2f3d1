//! A socket of the host that leads to a port of the guest, with TCP clients and hostile guests.

use std::collections::HashSet;
use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::os::fd::AsRawFd;
use std::time::Duration;

use rustix::net::sockopt;
use rvm::vmm::virtio::vsock::{MAX_CONNECTIONS, Vsock};
use rvm::vmm::{self, VsockForward};

use crate::vsock_guest::*;

/// A client of the host, and the guest's question about it.
fn client(rig: &mut Rig) -> (TcpStream, u32) {
    let client = TcpStream::connect(rig.address).unwrap();
    client.set_read_timeout(Some(PATIENCE)).unwrap();
    let (request, _) = rig.expect(REQUEST);
    assert_eq!(request.dst_port, LED);
    (client, request.src_port)
}

fn accept(rig: &mut Rig, port: u32) {
    rig.send(&Packet::new(RESPONSE, LED, port), &[]);
}

/// Over, whichever way.
fn assert_over(client: &mut TcpStream) {
    match client.read(&mut [0]) {
        Ok(count) => assert_eq!(count, 0),
        Err(error) => assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset),
    }
}

#[test]
fn a_client_is_led_to_the_port_without_a_word() {
    let mut rig = rig(16);
    let (mut one, port) = client(&mut rig);
    // What is said early waits for the guest's answer.
    one.write_all(b"hello").unwrap();
    rig.quiet();
    accept(&mut rig, port);
    assert_eq!(rig.expect(RW).1, b"hello");
    rig.data(LED, port, b"SSH-2.0-x\r\n");
    let mut banner = [0; 11];
    one.read_exact(&mut banner).unwrap();
    assert_eq!(&banner, b"SSH-2.0-x\r\n", "nothing stands before what the guest says");
    // Each has a port of its own.
    let (_two, other) = client(&mut rig);
    assert_ne!(port, other);
}

#[test]
fn both_sides_may_end_what_they_send_and_go_on_reading() {
    let mut rig = rig(16);
    let (mut one, port) = client(&mut rig);
    accept(&mut rig, port);
    one.write_all(b"last").unwrap();
    one.shutdown(Shutdown::Write).unwrap();
    assert_eq!(rig.expect(RW).1, b"last");
    assert_eq!(rig.expect(SHUTDOWN).0.flags, 2);
    rig.data(LED, port, b"answer");
    rig.send(&Packet { flags: 2, ..Packet::new(SHUTDOWN, LED, port) }, &[]);
    let mut all = Vec::new();
    one.read_to_end(&mut all).unwrap();
    assert_eq!(all, b"answer");
    rig.send(&Packet { flags: 3, ..Packet::new(SHUTDOWN, LED, port) }, &[]);
    rig.expect(RST);
}

#[test]
fn a_guest_that_does_not_want_it_ends_the_connection() {
    let mut rig = rig(16);
    let (mut one, port) = client(&mut rig);
    rig.send(&Packet::new(RST, LED, port), &[]);
    assert_over(&mut one);
    // Data in place of an answer is none.
    let (mut two, port) = client(&mut rig);
    rig.data(LED, port, b"SSH-");
    rig.expect(RST);
    assert_over(&mut two);
}

#[test]
fn a_client_that_goes_while_the_guest_is_asked_leaves_no_trace() {
    let mut rig = rig(16);
    // More than there is room for, one after the other, before a guest that never answers.
    for _ in 0..MAX_CONNECTIONS + 10 {
        let (gone, port) = client(&mut rig);
        drop(gone);
        let (reset, _) = rig.expect(RST);
        assert_eq!((reset.src_port, reset.dst_port), (port, LED));
    }
    let (mut one, port) = client(&mut rig);
    accept(&mut rig, port);
    rig.data(LED, port, b"x");
    one.read_exact(&mut [0]).unwrap();
}

#[test]
fn no_more_clients_than_there_is_room_for() {
    let mut rig = rig(16);
    let clients: Vec<_> = (0..MAX_CONNECTIONS).map(|_| client(&mut rig)).collect();
    let mut over = TcpStream::connect(rig.address).unwrap();
    over.set_read_timeout(Some(PATIENCE)).unwrap();
    assert_over(&mut over);
    rig.quiet();
    drop(clients);
    for _ in 0..MAX_CONNECTIONS {
        rig.expect(RST);
    }
    client(&mut rig);
}

#[test]
fn a_client_that_goes_later_is_noticed() {
    let mut rig = rig(16);
    let (one, port) = client(&mut rig);
    accept(&mut rig, port);
    rig.quiet();
    drop(one);
    assert_eq!(rig.expect(SHUTDOWN).0.flags, 2);
    // The guest goes on all the same: the host's kernel refuses that.
    for _ in 0..2 {
        rig.data(LED, port, b"for nobody");
    }
    let (over, _) = rig.expect(RST);
    assert_eq!((over.src_port, over.dst_port), (port, LED));
}

/// Closed, it looks like one that still reads, until its kernel has forgotten it, which tells nobody; here that is
/// after a second.
#[allow(unsafe_code)]
fn forget_when_closed(client: &TcpStream) {
    let second = 1i32;
    let (value, len) = (std::ptr::from_ref(&second).cast(), size_of::<i32>() as libc::socklen_t);
    // SAFETY: `value` is an integer of this length, and is only read during the call.
    let done =
        unsafe { libc::setsockopt(client.as_raw_fd(), libc::IPPROTO_TCP, libc::TCP_LINGER2, value, len) };
    assert_eq!(done, 0, "{}", std::io::Error::last_os_error());
}

/// They go while the guest has taken them in and says nothing: their connections end all the same.
fn leave(rig: &mut Rig, clients: Vec<(TcpStream, u32)>) {
    let mut ports: HashSet<_> = clients.iter().map(|(_, port)| *port).collect();
    clients.iter().for_each(|(client, _)| forget_when_closed(client));
    drop(clients);
    while !ports.is_empty() {
        let (packet, _) = rig.next();
        match (packet.op, packet.flags) {
            (SHUTDOWN, 2) => assert!(ports.contains(&packet.src_port)),
            (SHUTDOWN, 3) | (RST, _) => assert!(ports.remove(&packet.src_port)),
            _ => panic!("{packet:?}"),
        }
    }
}

#[test]
fn clients_that_go_before_a_silent_guest_leave_their_places() {
    let mut rig = rig(16);
    let accepted = |rig: &mut Rig| {
        let (client, port) = client(rig);
        accept(rig, port);
        (client, port)
    };
    let clients = (0..MAX_CONNECTIONS).map(|_| accepted(&mut rig)).collect();
    leave(&mut rig, clients);
    // There is room again, and one that only ended what it sends is still served, however long it waits.
    let (mut one, port) = accepted(&mut rig);
    one.shutdown(Shutdown::Write).unwrap();
    assert_eq!(rig.expect(SHUTDOWN).0.flags, 2);
    let gone = accepted(&mut rig);
    leave(&mut rig, vec![gone]);
    rig.data(LED, port, b"x");
    one.read_exact(&mut [0]).unwrap();
}

#[test]
fn a_guest_that_floods_a_client_that_does_not_read_is_cut_off() {
    let mut rig = rig(16);
    let (mut one, port) = client(&mut rig);
    accept(&mut rig, port);
    let piece = pattern(3000);
    // The kernel's buffers first, then ours, and never more: it takes no notice of what it may send.
    let limit = 64 << 20;
    let mut sent = 0;
    loop {
        rig.data(LED, port, &piece);
        sent += piece.len();
        assert!(sent < limit, "it keeps all that a guest sends");
        if rig.posted < 2 {
            rig.post();
        }
        // Credits that the guest gets meanwhile are those that it has earned.
        if let Some((packet, _)) = rig.arrived() {
            if packet.op == RST {
                break;
            }
            assert_eq!(packet.op, CREDIT_UPDATE);
        }
    }
    // What was taken arrives as it was sent, and then the end.
    let mut all = Vec::new();
    let _ = one.read_to_end(&mut all);
    assert!(all.len() <= sent);
    assert!(all.iter().zip(piece.iter().cycle()).all(|(a, b)| a == b));
}

#[test]
fn what_does_not_listen_is_refused_at_once() {
    let (socket, _other) = std::os::unix::net::UnixStream::pair().unwrap();
    let forwards = vec![VsockForward { listener: socket.into(), guest_port: LED }];
    let deaf = vmm::Vsock { cid: 3, ports: vec![], listener: None, forwards };
    assert!(Vsock::new(deaf).unwrap_err().to_string().contains("listen"));
    let forwards =
        vec![VsockForward { listener: TcpListener::bind("127.0.0.1:0").unwrap().into(), guest_port: LED }];
    Vsock::new(vmm::Vsock { cid: 3, ports: vec![], listener: None, forwards }).unwrap();
}

#[test]
fn a_listener_is_told_to_notice_clients_that_are_gone() {
    let tcp = TcpListener::bind("127.0.0.1:0").unwrap();
    let listener = tcp.try_clone().unwrap().into();
    let forwards = vec![VsockForward { listener, guest_port: LED }];
    Vsock::new(vmm::Vsock { cid: 3, ports: vec![], listener: None, forwards }).unwrap();
    assert!(sockopt::socket_keepalive(&tcp).unwrap());
    assert!(sockopt::tcp_keepidle(&tcp).unwrap() <= Duration::from_secs(60));
}
