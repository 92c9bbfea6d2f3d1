//! UDP ports that are added to a running machine, or followed. The ssh client forwards none, so a small program is sent
//! to the guest (`guest/relay`), and datagrams travel as messages over the connection to it. Each client of
//! the host has a socket of its own there, which is how answers find back.
//!
//! What the guest says is not trusted: it can send to those who have sent to it, and to nobody else.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, UdpSocket};
use std::os::fd::OwnedFd;
use std::process::{ChildStdin, Command, Stdio};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, Weak};
use std::thread;

use rustix::event::{EventfdFlags, PollFd, PollFlags, eventfd, poll};

use super::keepers::Words;
use crate::model::{Forward, PortRun};

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

/// A port of the host, and where it leads.
#[derive(Debug)]
struct Port {
    socket: UdpSocket,
    at: SocketAddr,
    guest: u16,
}

/// Who sent to which port, in the order of their numbers.
#[derive(Debug, Default)]
struct Flows {
    list: Vec<Flow>,
    clock: u64,
}

#[derive(Debug)]
struct Flow {
    /// It may be closed.
    port: Weak<Port>,
    client: SocketAddr,
    /// When it sent last.
    used: u64,
}

impl Flows {
    /// The number of a flow, and whether another one had it before.
    fn number(&mut self, port: &Arc<Port>, client: SocketAddr) -> (u16, bool) {
        self.clock += 1;
        let used = self.clock;
        let is_it = |flow: &Flow| flow.client == client && flow.port.as_ptr() == Arc::as_ptr(port);
        if let Some((flow, number)) = self.list.iter_mut().zip(0..).find(|(flow, _)| is_it(flow)) {
            flow.used = used;
            return (number, false);
        }
        let flow = Flow { port: Arc::downgrade(port), client, used };
        if self.list.len() < usize::from(FLOWS) {
            self.list.push(flow);
            return (u16::try_from(self.list.len() - 1).unwrap_or_default(), false);
        }
        // Those of ports that are closed come first.
        let rank = |flow: &Flow| (flow.port.strong_count() > 0, flow.used);
        let oldest = self.list.iter_mut().zip(0..).min_by_key(|(flow, _)| rank(flow));
        oldest.map_or((0, false), |(old, number)| {
            *old = flow;
            (number, true)
        })
    }

    fn find(&self, number: u16) -> Option<(Arc<Port>, SocketAddr)> {
        let flow = self.list.get(usize::from(number))?;
        Some((flow.port.upgrade()?, flow.client))
    }
}

/// What both directions look at. The connection is locked while it is written to, which may take as long as
/// the guest likes; the others never for long.
#[derive(Debug)]
struct Shared {
    ports: Mutex<Vec<Arc<Port>>>,
    /// There is a port.
    opened: Condvar,
    /// There are others than before.
    changed: OwnedFd,
    flows: Mutex<Flows>,
    link: Mutex<Option<ChildStdin>>,
}

/// Ports that are listened on, whether the guest is connected or not.
#[derive(Clone)]
pub(super) struct Carrier(Arc<Shared>);

impl Carrier {
    /// One that listens on no port yet. What comes while there is no guest is dropped.
    pub(super) fn new() -> io::Result<Self> {
        let changed = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        let (ports, opened) = (Mutex::default(), Condvar::new());
        let shared =
            Arc::new(Shared { ports, opened, changed, flows: Mutex::default(), link: Mutex::default() });
        let inward = Arc::clone(&shared);
        thread::Builder::new().name("inward".into()).spawn(move || inward.carry_in())?;
        Ok(Self(shared))
    }

    /// One that listens on those ports.
    pub(super) fn listen(run: &PortRun) -> io::Result<Self> {
        let carrier = Self::new()?;
        run.forwards().try_for_each(|forward| carrier.open(&forward))?;
        Ok(carrier)
    }

    /// Listens on one port more.
    pub(super) fn open(&self, forward: &Forward) -> io::Result<()> {
        let at = SocketAddr::new(forward.host_ip, forward.host);
        let bound = UdpSocket::bind(at).and_then(|socket| {
            socket.set_nonblocking(true)?;
            Ok(socket)
        });
        let socket = bound
            .map_err(|error| io::Error::new(error.kind(), format!("cannot listen on {at}/udp: {error}")))?;
        hold(&self.0.ports).push(Arc::new(Port { socket, at, guest: forward.guest }));
        self.0.opened.notify_all();
        self.tell_change();
        Ok(())
    }

    /// Listens no more on those ports of which `keep` does not hold; their sockets are closed within moments.
    pub(super) fn retain(&self, keep: impl Fn(SocketAddr) -> bool) {
        hold(&self.0.ports).retain(|port| keep(port.at));
        self.tell_change();
    }

    fn tell_change(&self) {
        // It fails only where it was told so often that nobody can have missed it.
        let _ = rustix::io::write(&self.0.changed, &1_u64.to_ne_bytes());
    }

    /// Waits until there is a port.
    pub(super) fn wait_for_port(&self) {
        let ports = hold(&self.0.ports);
        drop(
            self.0.opened.wait_while(ports, |ports| ports.is_empty()).unwrap_or_else(PoisonError::into_inner),
        );
    }

    /// Carries datagrams over the connection that `command` makes, which runs [`script`] in the guest, until
    /// that ends, for one caller at a time; what it had to say. `ready` is called once they go.
    pub(super) fn carry(
        &self,
        mut command: Command,
        ready: &mut dyn FnMut() -> io::Result<()>,
    ) -> io::Result<Words> {
        let mut child =
            command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
        let words = Words::of(&mut child);
        if let (Some(input), Some(output)) = (child.stdin.take(), child.stdout.take()) {
            // That it ended is no error here: the caller looks why.
            let _ = self.0.carry_out(input, output, ready);
        }
        // Whoever writes to it sees that it is gone, and lets go of it.
        let _ = child.kill();
        *hold(&self.0.link) = None;
        child.wait()?;
        Ok(words)
    }
}

#[cfg(test)]
impl Carrier {
    /// What runs in the guest ends with its input.
    pub(super) fn hang_up(&self) {
        *hold(&self.0.link) = None;
    }
}

fn hold<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Shared {
    /// From the clients to the guest, for as long as the process lives.
    fn carry_in(&self) {
        let mut message = vec![0; HEADER + usize::from(OVER)];
        loop {
            let ports = hold(&self.ports).clone();
            let mut fds = vec![PollFd::new(&self.changed, PollFlags::IN)];
            fds.extend(ports.iter().map(|port| PollFd::new(&port.socket, PollFlags::IN)));
            match poll(&mut fds, None) {
                Ok(_) | Err(rustix::io::Errno::INTR) => {}
                Err(_) => return,
            }
            let mut ready = fds.iter().map(|fd| !fd.revents().is_empty());
            if ready.next() == Some(true) {
                let _ = rustix::io::read(&self.changed, &mut [0; 8]);
                continue;
            }
            for (port, _) in ports.iter().zip(ready).filter(|(_, ready)| *ready) {
                for _ in 0..TURN {
                    let room = message.get_mut(HEADER..).unwrap_or_default();
                    // An error is the answer to a datagram that went out, and ends with being heard.
                    let Ok((len, client)) = port.socket.recv_from(room) else { break };
                    self.send_in(port, client, &mut message, len);
                }
            }
        }
    }

    fn send_in(&self, port: &Arc<Port>, client: SocketAddr, message: &mut [u8], len: usize) {
        let mut link = hold(&self.link);
        let Some(input) = link.as_mut() else { return };
        let (number, was_others) = hold(&self.flows).number(port, client);
        let mut result = Ok(());
        if was_others {
            result = input.write_all(&header(number, port.guest, OVER));
        }
        let (Some(room), Ok(len)) = (message.first_chunk_mut::<HEADER>(), u16::try_from(len)) else { return };
        *room = header(number, port.guest, len);
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
            if let Some((port, client)) = to {
                // One that is lost is lost, as on any network.
                let _ = port.socket.send_to(room, client);
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
    use crate::model::Protocol;
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

    /// A run to the port of `server`, and where it begins.
    fn run(server: &UdpSocket) -> (SocketAddr, PortRun) {
        let free = port_of(&socket());
        let host_ip = "127.0.0.1".parse().unwrap();
        let (guest, protocol) = (port_of(server), Protocol::Udp);
        let first = Forward { guest, host: free, host_ip, protocol, auto_correct: false };
        (SocketAddr::new(host_ip, free), PortRun { first, count: 1 })
    }

    #[test]
    fn answers_find_back_and_a_lost_guest_is_connected_to_again() {
        let (home, server) = (tempfile::tempdir().unwrap(), socket());
        let (at, run) = run(&server);
        let carrier = Carrier::listen(&run).unwrap();
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
    fn ports_come_and_go_while_it_carries() {
        let (home, servers) = (tempfile::tempdir().unwrap(), [socket(), socket()]);
        let carrier = Carrier::new().unwrap();
        let (work, command) = (carrier.clone(), shell(home.path()));
        let carrying = thread::spawn(move || {
            work.wait_for_port();
            work.carry(command, &mut || Ok(())).map(drop)
        });
        let client = socket();
        let mut runs = Vec::new();
        for server in &servers {
            let (at, run) = run(server);
            carrier.open(&run.first).unwrap();
            // Nobody says when the other end is there.
            let mut heard = [0; 16];
            server.set_read_timeout(Some(Duration::from_millis(100))).unwrap();
            let from = std::iter::repeat_with(|| {
                client.send_to(b"there?", at).unwrap();
                server.recv_from(&mut heard).ok()
            });
            let (len, from) = from.take(200).flatten().next().expect("nothing arrives");
            server.send_to(&heard[..len - 1], from).unwrap();
            assert_eq!(client.recv_from(&mut heard).unwrap(), (len - 1, at));
            runs.push((at, run));
        }
        let (closed, kept) = (runs[0].0, runs[1].0);
        carrier.retain(|at| at != closed);
        let deadline = std::time::Instant::now() + PATIENCE;
        // A port that is closed is another program's; who sent to it before hears nothing of the guest more.
        while UdpSocket::bind(closed).is_err() {
            assert!(std::time::Instant::now() < deadline, "it is not closed");
            thread::yield_now();
        }
        assert!(hold(&carrier.0.flows).find(0).is_none());
        assert_eq!(hold(&carrier.0.flows).find(1).unwrap().0.at, kept);
        *hold(&carrier.0.link) = None;
        carrying.join().unwrap().unwrap();
    }

    #[test]
    fn many_clients_have_few_flows() {
        let mut flows = Flows::default();
        let client = |port: u16| SocketAddr::from(([127, 0, 0, 1], port));
        let port = || Arc::new(Port { socket: socket(), at: client(1), guest: 1 });
        let (first, second) = (port(), port());
        for port in 0..FLOWS {
            assert_eq!(flows.number(&first, client(1000 + port)), (port, false));
        }
        assert_eq!(flows.number(&first, client(1000)), (0, false), "known");
        assert_eq!(flows.number(&second, client(1000)), (1, true), "another port, instead of the silent one");
        assert_eq!(flows.number(&first, client(1000)), (0, false));
        let (found, at) = flows.find(1).unwrap();
        assert!(Arc::ptr_eq(&found, &second));
        assert_eq!(at, client(1000));
        assert!(flows.find(FLOWS).is_none());
        assert_eq!(flows.list.len(), usize::from(FLOWS));
        drop((found, second));
        assert!(flows.find(1).is_none(), "it is closed");
        assert_eq!(flows.number(&first, client(1)), (1, true), "those of closed ports make room first");
    }

    #[test]
    fn a_program_that_says_no_hello_carries_nothing() {
        let server = socket();
        let (at, run) = run(&server);
        let carrier = Carrier::listen(&run).unwrap();
        let mut command = Command::new("sh");
        command.args(["-c", "head -c 100000 /dev/zero; exec cat"]);
        carrier.carry(command, &mut || panic!("it is not ready")).unwrap();
        socket().send_to(b"x", at).unwrap();
        server.set_read_timeout(Some(Duration::from_millis(50))).unwrap();
        assert!(server.recv_from(&mut [0; 8]).is_err());
        assert!(Carrier::listen(&run).is_err(), "its port is taken");
    }
}
