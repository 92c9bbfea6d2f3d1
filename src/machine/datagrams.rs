//! UDP ports that are added to a running machine. The ssh client forwards none, so a small program is sent
//! to the guest (`guest/relay`), and datagrams travel as messages over the connection to it. Each client of
//! the host has a socket of its own there, which is how answers find back.
//!
//! What the guest says is not trusted: it can send to those who have sent to it, and to nobody else.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, UdpSocket};
use std::process::{ChildStdin, Command, Stdio};
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread;

use rustix::event::{PollFd, PollFlags, poll};

use crate::model::PortRun;

/// The program, compiled by `build.rs`.
const RELAY: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/relay"));
/// What it says first, maybe behind what a login shell says.
const HELLO: &[u8] = b"rvm relay 1\n";
/// Most that a login shell may say before.
const MOST_NOISE: usize = 64 * 1024;
/// Clients at once; the one that was silent for longest makes room for another one. `guest/relay` has as many.
const FLOWS: u16 = 128;
/// A message is a flow, a port of the guest and a length, big-endian, and so many bytes.
const HEADER: usize = 6;
/// Instead of a length: the flow is over.
const OVER: u16 = 0xffff;
/// Datagrams of one port before the next one's turn.
const TURN: usize = 64;

/// What the guest runs. The program is a file for a moment only, in a folder that programs may be run from:
/// `/tmp` is often none.
pub(super) fn script() -> String {
    let len = RELAY.len();
    format!(
        "umask 077; f=$(mktemp ~/.rvm-relay.XXXXXX 2>/dev/null || mktemp) && head -c {len} >\"$f\" && \
         chmod 700 \"$f\" && exec 3<\"$f\" && rm -f \"$f\" && exec /proc/self/fd/3"
    )
}

/// Who sent to which port, in the order of their numbers.
#[derive(Debug, Default)]
struct Flows {
    list: Vec<Flow>,
    clock: u64,
}

#[derive(Debug)]
struct Flow {
    /// Place of the port.
    place: usize,
    client: SocketAddr,
    /// When it sent last.
    used: u64,
}

impl Flows {
    /// The number of a flow, and whether another one had it before.
    fn number(&mut self, place: usize, client: SocketAddr) -> (u16, bool) {
        self.clock += 1;
        let used = self.clock;
        let known =
            self.list.iter_mut().zip(0..).find(|(flow, _)| flow.client == client && flow.place == place);
        if let Some((flow, number)) = known {
            flow.used = used;
            return (number, false);
        }
        let flow = Flow { place, client, used };
        if self.list.len() < usize::from(FLOWS) {
            self.list.push(flow);
            return (u16::try_from(self.list.len() - 1).unwrap_or_default(), false);
        }
        let oldest = self.list.iter_mut().zip(0..).min_by_key(|(flow, _)| flow.used);
        oldest.map_or((0, false), |(old, number)| {
            *old = flow;
            (number, true)
        })
    }

    fn find(&self, number: u16) -> Option<(usize, SocketAddr)> {
        self.list.get(usize::from(number)).map(|flow| (flow.place, flow.client))
    }
}

/// What both directions look at. The connection is locked while it is written to, which may take as long as
/// the guest likes; the flows never for long.
#[derive(Debug)]
struct Shared {
    sockets: Vec<UdpSocket>,
    run: PortRun,
    flows: Mutex<Flows>,
    link: Mutex<Option<ChildStdin>>,
}

/// Ports that are listened on, whether the guest is connected or not.
pub(super) struct Carrier(Arc<Shared>);

impl Carrier {
    /// Listens. What comes while there is no guest is dropped.
    pub(super) fn listen(run: &PortRun) -> io::Result<Self> {
        let bind = |address| {
            let bound = UdpSocket::bind(address).and_then(|socket| {
                socket.set_nonblocking(true)?;
                Ok(socket)
            });
            bound.map_err(|error| {
                io::Error::new(error.kind(), format!("cannot listen on {address}/udp: {error}"))
            })
        };
        let addresses = run.forwards().map(|forward| SocketAddr::new(forward.host_ip, forward.host));
        let sockets = addresses.map(bind).collect::<io::Result<_>>()?;
        let shared = Shared { sockets, run: run.clone(), flows: Mutex::default(), link: Mutex::default() };
        let shared = Arc::new(shared);
        let inward = Arc::clone(&shared);
        thread::Builder::new().name("inward".into()).spawn(move || inward.carry_in())?;
        Ok(Self(shared))
    }

    /// Carries datagrams over the connection that `command` makes, which runs [`script`] in the guest, until
    /// that ends. `ready` is called once they go.
    pub(super) fn carry(
        &mut self,
        mut command: Command,
        ready: &mut dyn FnMut() -> io::Result<()>,
    ) -> io::Result<()> {
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
        if let (Some(input), Some(output)) = (child.stdin.take(), child.stdout.take()) {
            // That it ended is no error here: the caller looks why.
            let _ = self.0.carry_out(input, output, ready);
        }
        // Whoever writes to it sees that it is gone, and lets go of it.
        let _ = child.kill();
        *hold(&self.0.link) = None;
        child.wait().map(drop)
    }
}

fn hold<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
}

impl Shared {
    /// From the clients to the guest, for as long as the process lives.
    fn carry_in(&self) {
        let mut message = vec![0; HEADER + usize::from(OVER)];
        loop {
            let mut fds: Vec<PollFd<'_>> =
                self.sockets.iter().map(|socket| PollFd::new(socket, PollFlags::IN)).collect();
            match poll(&mut fds, None) {
                Ok(_) | Err(rustix::io::Errno::INTR) => {}
                Err(_) => return,
            }
            let ready: Vec<bool> = fds.iter().map(|fd| !fd.revents().is_empty()).collect();
            for (place, socket) in
                self.sockets.iter().enumerate().filter(|(place, _)| ready.get(*place) == Some(&true))
            {
                for _ in 0..TURN {
                    let room = message.get_mut(HEADER..).unwrap_or_default();
                    // An error is the answer to a datagram that went out, and ends with being heard.
                    let Ok((len, client)) = socket.recv_from(room) else { break };
                    self.send_in(place, client, &mut message, len);
                }
            }
        }
    }

    fn send_in(&self, place: usize, client: SocketAddr, message: &mut [u8], len: usize) {
        let mut link = hold(&self.link);
        let Some(input) = link.as_mut() else { return };
        let (number, was_others) = hold(&self.flows).number(place, client);
        let port = u16::try_from(place).unwrap_or_default().saturating_add(self.run.first.guest);
        let mut result = Ok(());
        if was_others {
            result = input.write_all(&header(number, port, OVER));
        }
        let (Some(room), Ok(len)) = (message.first_chunk_mut::<HEADER>(), u16::try_from(len)) else { return };
        *room = header(number, port, len);
        let whole = message.get(..HEADER + usize::from(len)).unwrap_or_default();
        if result.and_then(|()| input.write_all(whole)).is_err() {
            *link = None;
        }
    }

    /// From the guest to the clients, until it is gone.
    fn carry_out(
        &self,
        mut input: ChildStdin,
        mut output: impl Read,
        ready: &mut dyn FnMut() -> io::Result<()>,
    ) -> io::Result<()> {
        input.write_all(RELAY)?;
        let mut said = Vec::new();
        while !said.ends_with(HELLO) {
            let mut byte = [0];
            output.read_exact(&mut byte)?;
            said.extend(byte);
            if said.len() > MOST_NOISE {
                return Err(io::ErrorKind::InvalidData.into());
            }
        }
        *hold(&self.flows) = Flows::default();
        *hold(&self.link) = Some(input);
        ready()?;
        let mut output = io::BufReader::new(output);
        let mut datagram = vec![0; usize::from(OVER)];
        loop {
            let mut head = [0; HEADER];
            output.read_exact(&mut head)?;
            let [f0, f1, _, _, l0, l1] = head;
            let len = u16::from_be_bytes([l0, l1]);
            let room = datagram.get_mut(..usize::from(len)).unwrap_or_default();
            output.read_exact(room)?;
            let to = hold(&self.flows).find(u16::from_be_bytes([f0, f1]));
            if let Some((socket, client)) =
                to.and_then(|(place, client)| Some((self.sockets.get(place)?, client)))
            {
                // One that is lost is lost, as on any network.
                let _ = socket.send_to(room, client);
            }
        }
    }
}

fn header(flow: u16, port: u16, len: u16) -> [u8; HEADER] {
    let ([f0, f1], [p0, p1], [l0, l1]) = (flow.to_be_bytes(), port.to_be_bytes(), len.to_be_bytes());
    [f0, f1, p0, p1, l0, l1]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Forward, Protocol};
    use std::time::Duration;

    const PATIENCE: Duration = Duration::from_secs(20);

    fn socket() -> UdpSocket {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        socket
    }

    fn port_of(socket: &UdpSocket) -> u16 {
        socket.local_addr().unwrap().port()
    }

    /// The program on this host, with the script that runs it in guests.
    fn shell(home: &std::path::Path) -> Command {
        let mut command = Command::new("sh");
        command.arg("-c").arg(format!("echo Welcome; {}", script())).env("HOME", home);
        command
    }

    /// A run to the port of `server`, and its carrier.
    fn carrier(server: &UdpSocket) -> (SocketAddr, Carrier) {
        let free = port_of(&socket());
        let host_ip = "127.0.0.1".parse().unwrap();
        let (guest, protocol) = (port_of(server), Protocol::Udp);
        let first = Forward { guest, host: free, host_ip, protocol, auto_correct: false };
        let at = SocketAddr::new(host_ip, free);
        (at, Carrier::listen(&PortRun { first, count: 1 }).unwrap())
    }

    #[test]
    fn answers_find_back_and_a_lost_guest_is_connected_to_again() {
        let (home, server) = (tempfile::tempdir().unwrap(), socket());
        let (at, mut carrier) = carrier(&server);
        let (tell, told) = std::sync::mpsc::channel();
        let command = || shell(home.path());
        let (first, second) = (command(), command());
        let link = Arc::clone(&carrier.0);
        let carrying = thread::spawn(move || {
            for command in [first, second] {
                carrier.carry(command, &mut || tell.send(()).map_err(io::Error::other)).unwrap();
            }
        });
        for _ in 0..2 {
            told.recv_timeout(PATIENCE).unwrap();
            assert_eq!(std::fs::read_dir(home.path()).unwrap().count(), 0, "the program is a file still");
            let clients = [socket(), socket()];
            for (client, len) in clients.iter().zip([3, 60_000]) {
                client.send_to(&vec![7; len], at).unwrap();
            }
            let mut buffer = vec![0; 65_536];
            for _ in 0..2 {
                let (len, from) = server.recv_from(&mut buffer).unwrap();
                server.send_to(&buffer[..len + 1], from).unwrap();
            }
            for (client, len) in clients.iter().zip([4, 60_001]) {
                let (got, from) = client.recv_from(&mut buffer).unwrap();
                assert_eq!((got, from), (len, at), "the answer of another one");
            }
            // The guest's end: the relay ends with its input.
            *hold(&link.link) = None;
        }
        carrying.join().unwrap();
    }

    #[test]
    fn many_clients_have_few_flows() {
        let mut flows = Flows::default();
        let client = |port: u16| SocketAddr::from(([127, 0, 0, 1], port));
        for port in 0..FLOWS {
            assert_eq!(flows.number(0, client(1000 + port)), (port, false));
        }
        assert_eq!(flows.number(0, client(1000)), (0, false), "known");
        assert_eq!(flows.number(1, client(1000)), (1, true), "another port, instead of the silent one");
        assert_eq!(flows.number(0, client(1000)), (0, false));
        assert_eq!(flows.find(1), Some((1, client(1000))));
        assert_eq!(flows.find(FLOWS), None);
        assert_eq!(flows.list.len(), usize::from(FLOWS));
    }

    #[test]
    fn a_program_that_says_no_hello_carries_nothing() {
        let server = socket();
        let (at, mut carrier) = carrier(&server);
        let mut command = Command::new("sh");
        command.args(["-c", "head -c 100000 /dev/zero; exec cat"]);
        carrier.carry(command, &mut || panic!("it is not ready")).unwrap();
        socket().send_to(b"x", at).unwrap();
        server.set_read_timeout(Some(Duration::from_millis(50))).unwrap();
        assert!(server.recv_from(&mut [0; 8]).is_err());
        assert!(Carrier::listen(&carrier.0.run).is_err(), "its port is taken");
    }
}
