//! The network device whose queues another process works on: what a back-end gets, what the guest sees of a
//! bad one, and how another one takes over.

use std::fs::File;
use std::io::{self, IoSliceMut, Read, Write};
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::sync::mpsc::{Receiver, channel};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg};
use rvm::model::Nat;
use rvm::net::resolvers::Dns;
use rvm::net::{NatAddresses, passt};
use rvm::vmm::memory::{Memory, Sharing};
use rvm::vmm::virtio::mmio::status::DEVICE_NEEDS_RESET;
use rvm::vmm::virtio::net::{NetError, PeerError, VhostNet};
use rvm::vmm::virtio::{Error, VIRTIO_F_VERSION_1};
use vhost::vhost_user::message::VhostUserProtocolFeatures;
use vhost_user_backend::{VhostUserBackendMut, VhostUserDaemon, VringRwLock, VringT};
use virtio_queue::{QueueOwnedT, QueueT};
use vm_memory::{GuestAddressSpace, GuestMemoryAtomic, GuestMemoryMmap};
use vmm_sys_util::epoll::EventSet;

use crate::driver::*;
use crate::net::{F_MRG_RXBUF, HEADER, MAC, RECEIVE, RX, TX, link_is_up, outgoing};
use crate::pci_driver::{Pci, message, untouched_in};

const SIZE: u16 = 16;
/// `VHOST_USER_F_PROTOCOL_FEATURES`, and `VHOST_USER_PROTOCOL_F_REPLY_ACK`.
const PROTOCOL: u64 = 1 << 30;
const REPLY_ACK: u64 = 1 << 3;
/// Requests of the protocol.
const GET_FEATURES: u32 = 1;
const SET_FEATURES: u32 = 2;
const SET_MEM_TABLE: u32 = 5;
const SET_VRING_BASE: u32 = 10;
const GET_VRING_BASE: u32 = 11;
const SET_VRING_CALL: u32 = 13;
const SET_VRING_ERR: u32 = 14;
const GET_PROTOCOL_FEATURES: u32 = 15;
const SET_VRING_ENABLE: u32 = 18;

fn shared() -> Memory {
    Memory::new(16 << 20, Sharing::Shared).unwrap()
}

/// A place where back-ends connect.
struct Place {
    _dir: tempfile::TempDir,
    path: PathBuf,
    listener: UnixListener,
}

fn place() -> Place {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("net.sock");
    let listener = UnixListener::bind(&path).unwrap();
    Place { _dir: dir, path, listener }
}

impl Place {
    fn card(&self, memory: &Memory) -> VhostNet {
        let listener = self.listener.try_clone().unwrap();
        VhostNet::new(MAC, Some(9000), None, Some(listener), memory.guest()).unwrap()
    }
}

type Shared = GuestMemoryAtomic<GuestMemoryMmap>;

/// A back-end by the library that others use: what the guest sends comes back to it.
struct Echo(Shared);

impl VhostUserBackendMut for Echo {
    type Bitmap = ();
    type Vring = VringRwLock;

    fn num_queues(&self) -> usize {
        2
    }

    fn max_queue_size(&self) -> usize {
        256
    }

    fn features(&self) -> u64 {
        VIRTIO_F_VERSION_1 | F_MRG_RXBUF | PROTOCOL
    }

    fn protocol_features(&self) -> VhostUserProtocolFeatures {
        VhostUserProtocolFeatures::MQ | VhostUserProtocolFeatures::REPLY_ACK
    }

    fn set_event_idx(&mut self, _: bool) {}

    fn update_memory(&mut self, memory: Shared) -> io::Result<()> {
        self.0 = memory;
        Ok(())
    }

    fn handle_event(&mut self, _: u16, _: EventSet, vrings: &[VringRwLock], _: usize) -> io::Result<()> {
        let memory = self.0.memory();
        let (mut rx, mut tx) = (vrings[RX].get_mut(), vrings[TX].get_mut());
        // A kick may come before all is set up.
        if ![&rx, &tx].into_iter().all(|vring| vring.get_queue().ready() && vring.is_enabled()) {
            return Ok(());
        }
        let free: Vec<_> = rx.get_queue_mut().iter(memory.clone()).unwrap().collect();
        let sent: Vec<_> = tx.get_queue_mut().iter(memory.clone()).unwrap().take(free.len()).collect();
        rx.get_queue_mut().go_to_previous_position_by(free.len() - sent.len());
        for (to, from) in free.into_iter().zip(sent) {
            let mut frame = Vec::new();
            from.clone().reader(&*memory).unwrap().read_to_end(&mut frame).unwrap();
            tx.add_used(from.head_index(), 0).unwrap();
            to.clone().writer(&*memory).unwrap().write_all(&frame).unwrap();
            rx.add_used(to.head_index(), frame.len() as u32).unwrap();
        }
        rx.signal_used_queue()?;
        tx.signal_used_queue()
    }
}

/// Puts positions back, which `Queue` itself leaves to its iterator.
trait Rewind {
    fn go_to_previous_position_by(&mut self, count: usize);
}

impl Rewind for virtio_queue::Queue {
    fn go_to_previous_position_by(&mut self, count: usize) {
        let next = self.next_avail().wrapping_sub(count as u16);
        self.set_next_avail(next);
    }
}

/// Has an echo connect. It lives as long as this process: the library waits for its own threads, and they for
/// nothing that comes.
fn echo(place: &Place) {
    let memory = Shared::new(GuestMemoryMmap::new());
    let backend = Arc::new(Mutex::new(Echo(memory.clone())));
    let mut daemon = VhostUserDaemon::new("echo".to_owned(), backend, memory).unwrap();
    daemon.start_client(place.path.to_str().unwrap()).unwrap();
    std::mem::forget(daemon);
}

/// Sends a frame and takes it back.
fn round<T: Registers>(driver: &mut Driver<T>, number: u32) {
    let frame = outgoing(60 + number as usize * 20, number);
    driver.submit(RX, &[writable(RECEIVE, 2048)]);
    driver.put(DATA, &[0; HEADER]);
    driver.put(DATA + HEADER as u64, &frame);
    driver.submit(TX, &[readable(DATA, (HEADER + frame.len()) as u32)]);
    assert_eq!(driver.used(TX).1, 0);
    let (_, len) = driver.used(RX);
    assert_eq!(driver.get(RECEIVE, len as usize)[HEADER..], frame);
}

#[test]
fn another_process_carries_frames_over_both_transports() {
    let (place, memory) = (place(), shared());
    echo(&place);
    let mut driver = Driver::in_memory(memory.guest().clone(), place.card(&memory), SIZE);
    // Over a reset the same process goes on.
    for life in 0..3 {
        driver.start(F_MRG_RXBUF);
        (0..20).for_each(|number| round(&mut driver, number + life));
        driver.reset();
    }
    drop(driver);
    echo(&place);
    let mut driver = untouched_in(memory.guest().clone(), place.card(&memory), SIZE);
    driver.transport.enable();
    for life in 0..3 {
        driver.start(F_MRG_RXBUF);
        (0..20).for_each(|number| round(&mut driver, number + life));
        driver.reset();
    }
}

#[test]
fn card_tells_what_back_end_and_machine_can_do() {
    let (place, memory) = (place(), shared());
    echo(&place);
    let mut driver = Driver::in_memory(memory.guest().clone(), place.card(&memory), SIZE);
    // GUEST_CSUM, MTU, MAC, MRG_RXBUF, STATUS, VERSION_1: not INDIRECT_DESC, which the back-end lacks.
    assert_eq!(driver.offered(), 1 << 1 | 1 << 3 | 1 << 5 | 1 << 15 | 1 << 16 | 1 << 32);
    let mut config = [0xff; 14];
    rvm::vmm::bus::BusDevice::read(&mut driver.transport, 0x100, &mut config);
    assert_eq!(config, [2, 0, 0, 0, 0, 1, 1, 0, 0, 0, 0x28, 0x23, 0, 0]);
}

/// A back-end by hand: it answers as the protocol has it, and tells what it was asked.
struct Hand {
    asked: Receiver<(u32, Vec<u8>, Vec<OwnedFd>)>,
    socket: UnixStream,
}

/// What a hand answers to GET_FEATURES, and to everything else where that is not what it should be.
#[derive(Clone, Copy)]
struct Manners {
    features: u64,
    /// Request at which it misbehaves.
    bad_at: u32,
    /// The answer then: header words and payload. Empty: it hangs up.
    bad: &'static [u32],
    /// It answers nothing then, and nothing that comes later.
    mute: bool,
    /// It does not hang up when the card does.
    stays: bool,
}

const GOOD: Manners = Manners {
    features: VIRTIO_F_VERSION_1 | F_MRG_RXBUF | PROTOCOL,
    bad_at: 0,
    bad: &[],
    mute: false,
    stays: false,
};

fn hand(place: &Place, manners: Manners) -> Hand {
    let socket = UnixStream::connect(&place.path).unwrap();
    let (tell, asked) = channel();
    let mut ours = socket.try_clone().unwrap();
    thread::spawn(move || {
        let mut is_mute = false;
        while let Some((request, flags, payload, fds)) = hear(&ours) {
            let answer = match request {
                GET_FEATURES => Some(manners.features),
                GET_PROTOCOL_FEATURES => Some(REPLY_ACK | 1),
                GET_VRING_BASE => Some(7 << 32 | u64::from(payload[0])),
                _ => (flags & 8 != 0).then_some(0),
            };
            is_mute |= manners.mute && request == manners.bad_at;
            let words = match answer.filter(|_| !is_mute) {
                _ if request == manners.bad_at && !is_mute => manners.bad.to_vec(),
                Some(answer) => vec![request, 5, 8, answer as u32, (answer >> 32) as u32],
                None => {
                    let _ = tell.send((request, payload, fds));
                    continue;
                }
            };
            let _ = tell.send((request, payload, fds));
            let bytes: Vec<u8> = words.into_iter().flat_map(u32::to_le_bytes).collect();
            if bytes.is_empty() || ours.write_all(&bytes).is_err() {
                let _ = ours.shutdown(std::net::Shutdown::Both);
                return;
            }
        }
        if !manners.stays {
            let _ = ours.shutdown(std::net::Shutdown::Both);
        }
    });
    Hand { asked, socket }
}

/// One message: request, flags, payload, descriptors.
fn hear(socket: &UnixStream) -> Option<(u32, u32, Vec<u8>, Vec<OwnedFd>)> {
    let mut header = [0; 12];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(8))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let slices = &mut [IoSliceMut::new(&mut header)];
    let got = recvmsg(socket, slices, &mut control, RecvFlags::WAITALL).ok()?.bytes;
    let mut fds = Vec::new();
    for message in control.drain() {
        if let RecvAncillaryMessage::ScmRights(rights) = message {
            fds.extend(rights);
        }
    }
    if got != 12 {
        return None;
    }
    let word = |at: usize| u32::from_le_bytes(header[at..at + 4].try_into().unwrap());
    let mut payload = vec![0; word(8) as usize];
    (&*socket).read_exact(&mut payload).ok()?;
    Some((word(0), word(4), payload, fds))
}

impl Hand {
    /// What it was asked next, which has to be `request` after some others.
    fn until(&self, request: u32) -> (Vec<u8>, Vec<OwnedFd>) {
        loop {
            let (asked, payload, fds) = self.asked.recv_timeout(Duration::from_secs(20)).unwrap();
            if asked == request {
                return (payload, fds);
            }
        }
    }

    fn hang_up(&self) {
        self.socket.shutdown(std::net::Shutdown::Both).unwrap();
    }
}

#[test]
fn back_end_gets_the_memory_of_the_guest_and_its_rings() {
    let (place, memory) = (place(), shared());
    let hand = hand(&place, GOOD);
    let mut driver = Driver::in_memory(memory.guest().clone(), place.card(&memory), SIZE);
    let (table, files) = hand.until(SET_MEM_TABLE);
    assert_eq!((table.len(), table[0], files.len()), (8 + 32, 1, 1));
    driver.put(DATA, b"there");
    let mut bytes = [0; 5];
    let file = File::from(files.into_iter().next().unwrap());
    std::os::unix::fs::FileExt::read_exact_at(&file, &mut bytes, DATA).unwrap();
    assert_eq!(&bytes, b"there");
    driver.start(F_MRG_RXBUF);
    let (features, _) = hand.until(SET_FEATURES);
    // What is the card's own is not asked of the back-end.
    let expected = VIRTIO_F_VERSION_1 | F_MRG_RXBUF | PROTOCOL;
    assert_eq!(features, expected.to_le_bytes());
    // Reception first, so that the first frame that is sent can be answered.
    for queue in [0, 1] {
        assert_eq!(hand.until(SET_VRING_BASE).0, [queue, 0, 0, 0, 0, 0, 0, 0]);
        assert_eq!(hand.until(SET_VRING_CALL).1.len(), 1);
        assert_eq!(hand.until(SET_VRING_ENABLE).0, [queue, 0, 0, 0, 1, 0, 0, 0]);
    }
    // On return from the reset the back-end has stopped.
    driver.reset();
    let stops = hand.asked.try_iter().filter(|(request, ..)| *request == GET_VRING_BASE).count();
    assert_eq!(stops, 2);
}

#[test]
fn back_end_that_misbehaves_in_its_greeting_is_refused() {
    let cases: &[(&str, Manners)] = &[
        ("lacks the features of", Manners { features: VIRTIO_F_VERSION_1, ..GOOD }),
        ("lacks virtio 1.0", Manners { features: PROTOCOL, ..GOOD }),
        ("unexpected end of file", Manners { bad_at: GET_FEATURES, ..GOOD }),
        ("does not answer", Manners { bad_at: GET_FEATURES, bad: &[2, 5, 8, 0, 0], ..GOOD }),
        ("does not answer", Manners { bad_at: GET_FEATURES, bad: &[1, 1, 8, 0, 0], ..GOOD }),
        ("does not answer", Manners { bad_at: GET_FEATURES, bad: &[1, 6, 8, 0, 0], ..GOOD }),
        ("does not answer", Manners { bad_at: GET_FEATURES, bad: &[1, 5, u32::MAX, 0, 0], ..GOOD }),
        ("refuses SET_MEM_TABLE: 22", Manners { bad_at: SET_MEM_TABLE, bad: &[5, 5, 8, 22, 0], ..GOOD }),
    ];
    for (text, manners) in cases {
        let (place, memory) = (place(), shared());
        let _hand = hand(&place, *manners);
        let error = VhostNet::new(MAC, None, None, Some(place.listener), memory.guest()).unwrap_err();
        let Error::Net(error) = error else { panic!("{error}") };
        let cause = std::error::Error::source(&error).unwrap();
        let deepest = cause.source().map(ToString::to_string).unwrap_or_default();
        assert!(format!("{cause}: {deepest}").contains(text), "{cause}: {deepest}");
    }
}

#[test]
fn card_needs_shared_memory_and_somebody_who_serves_it() {
    let place = place();
    let refused = |memory: &Memory| {
        let listener = Some(place.listener.try_clone().unwrap());
        match VhostNet::new(MAC, None, None, listener, memory.guest()).unwrap_err() {
            Error::Net(NetError::BackEnd(error)) => error,
            other => panic!("{other}"),
        }
    };
    let private = Memory::new(16 << 20, Sharing::Private).unwrap();
    assert!(matches!(refused(&private), PeerError::NotShared));
    assert!(matches!(refused(&shared()), PeerError::Lacks { what: "a connection" }));
}

#[test]
fn back_end_that_says_that_the_driver_breaks_the_rules_stops_the_card() {
    let (place, memory) = (place(), shared());
    let hand = hand(&place, GOOD);
    let mut driver = Driver::in_memory(memory.guest().clone(), place.card(&memory), SIZE);
    driver.start(0);
    let (_, fds) = hand.until(SET_VRING_ERR);
    File::from(fds.into_iter().next().unwrap()).write_all(&1u64.to_ne_bytes()).unwrap();
    driver.wait_broken();
    // It has been stopped, and the card works again after a reset.
    hand.until(GET_VRING_BASE);
    driver.reset();
    driver.start(0);
    hand.until(SET_VRING_ENABLE);
    assert_eq!(driver.status() & DEVICE_NEEDS_RESET, 0);
}

#[test]
fn another_back_end_takes_over_where_the_first_ended() {
    let (place, memory) = (place(), shared());
    let first = hand(&place, GOOD);
    let mut driver = Driver::in_memory(memory.guest().clone(), place.card(&memory), SIZE);
    driver.start(F_MRG_RXBUF);
    first.until(SET_VRING_ENABLE);
    first.until(SET_VRING_ENABLE);
    // It used three buffers to receive and none to send.
    let used = driver.queues[RX].used;
    driver.put(used + 2, &3u16.to_le_bytes());
    assert!(link_is_up(&mut driver));
    first.hang_up();
    driver.wait_for("the link to go down", |driver| (!link_is_up(driver)).then_some(()));
    // One that cannot serve what the driver agreed to is not taken.
    let worse = hand(&place, Manners { features: VIRTIO_F_VERSION_1 | PROTOCOL, ..GOOD });
    worse.until(SET_MEM_TABLE);
    assert!(worse.asked.recv_timeout(Duration::from_secs(20)).is_err(), "it was given queues");
    assert!(!link_is_up(&mut driver));
    let second = hand(&place, GOOD);
    assert_eq!(second.until(SET_VRING_BASE).0, [0, 0, 0, 0, 3, 0, 0, 0]);
    assert_eq!(second.until(SET_VRING_BASE).0, [1, 0, 0, 0, 0, 0, 0, 0]);
    driver.wait_for("the link to come up", |driver| link_is_up(driver).then_some(()));
    assert_eq!(driver.status() & DEVICE_NEEDS_RESET, 0);
}

#[test]
fn back_end_that_does_not_stop_is_waited_for_until_it_hangs_up() {
    let (place, memory) = (place(), shared());
    let mute = hand(&place, Manners { bad_at: GET_VRING_BASE, mute: true, ..GOOD });
    let (tell, strays) = channel();
    let card = place.card(&memory).on_stray(move || tell.send(()).unwrap());
    let mut driver = Driver::in_memory(memory.guest().clone(), card, SIZE);
    driver.start(0);
    driver.reset();
    // It was asked, and is gone: nothing more can be read from it.
    mute.until(GET_VRING_BASE);
    assert_eq!((&mute.socket).read(&mut [0]).unwrap(), 0);
    assert!(strays.try_recv().is_err());
    let good = hand(&place, GOOD);
    driver.start(0);
    good.until(SET_VRING_ENABLE);
    driver.wait_for("the link to come up", |driver| link_is_up(driver).then_some(()));
    assert_eq!(driver.status() & DEVICE_NEEDS_RESET, 0);
}

#[test]
fn back_end_that_neither_stops_nor_hangs_up_ends_the_machine() {
    let (place, memory) = (place(), shared());
    let mute = hand(&place, Manners { bad_at: GET_VRING_BASE, mute: true, stays: true, ..GOOD });
    let (tell, strays) = channel();
    let card = place.card(&memory).on_stray(move || tell.send(()).unwrap());
    let mut driver = Driver::in_memory(memory.guest().clone(), card, SIZE);
    driver.start(0);
    driver.reset();
    // Before the reset is done whoever owns the memory knows.
    strays.try_recv().unwrap();
    mute.until(GET_VRING_BASE);
    // Nobody else gets the queues.
    let _good = hand(&place, GOOD);
    driver.agree(0);
    (0..2).for_each(|queue| driver.configure(queue));
    driver.write(STATUS, crate::states::RUNNING);
    assert_ne!(driver.status() & DEVICE_NEEDS_RESET, 0);
    assert!(!link_is_up(&mut driver));
}

#[test]
fn masked_vector_of_a_back_end_waits_in_its_event() {
    let (place, memory) = (place(), shared());
    let hand = hand(&place, GOOD);
    let mut driver: Driver<Pci> = untouched_in(memory.guest().clone(), place.card(&memory), SIZE);
    driver.transport.enable();
    driver.start(0);
    let (_, fds) = hand.until(SET_VRING_CALL);
    let mut call = File::from(fds.into_iter().next().unwrap());
    let event = driver.transport.function.vectors().events().nth(1).unwrap().try_clone().unwrap();
    let signal = |call: &mut File| call.write_all(&1u64.to_ne_bytes()).unwrap();
    signal(&mut call);
    assert!(event.read().is_ok(), "the guest's vector itself");
    let switches = driver.transport.notebook.switches.clone();
    assert_eq!(*switches.lock().unwrap(), []);
    // Masked: the host listens no more, and what comes is pending.
    let message = message(1);
    driver.transport.set_entry(1, message, true);
    assert_eq!(*switches.lock().unwrap(), [(1, false)]);
    assert!(!driver.transport.is_pending(1));
    signal(&mut call);
    assert!(driver.transport.is_pending(1) && !driver.transport.is_pending(0));
    driver.transport.set_entry(1, message, false);
    assert_eq!(*switches.lock().unwrap(), [(1, false), (1, true)]);
    assert!(event.read().is_ok(), "what came meanwhile is delivered");
    // A reset takes it back, masked or not, and what was pending is gone.
    driver.transport.set_entry(1, message, true);
    signal(&mut call);
    driver.reset();
    assert_eq!(switches.lock().unwrap()[2..], [(1, false), (1, true)]);
    assert!(event.read().is_err());
    assert!(!driver.transport.is_pending(1));
}

/// An ARP request for passt's own address, and its answer.
fn ask_gateway(driver: &mut Driver) {
    let mut frame = [[0xff; 6], MAC].concat();
    frame.extend([8, 6, 0, 1, 8, 0, 6, 4, 0, 1]);
    frame.extend(MAC);
    frame.extend([10, 0, 2, 15, 0, 0, 0, 0, 0, 0, 10, 0, 2, 2]);
    driver.submit(RX, &[writable(RECEIVE, 2048)]);
    driver.put(DATA, &[0; HEADER]);
    driver.put(DATA + HEADER as u64, &frame);
    driver.submit(TX, &[readable(DATA, (HEADER + frame.len()) as u32)]);
    let (_, len) = driver.used(RX);
    let answer = &driver.get(RECEIVE, len as usize)[HEADER..];
    assert_eq!((&answer[..6], &answer[20..22]), (&MAC[..], &[0, 2][..]), "{answer:x?}");
}

/// The real one, as machines start it: over a reset, and when it is killed and another one comes.
#[test]
#[ignore = "takes a passt of November 2024 or later in PATH"]
fn passt_answers_over_resets_and_another_one_takes_over() {
    assert!(passt::has_vhost_user(), "the passt in PATH has no --vhost-user");
    let (place, memory) = (place(), shared());
    let addresses = NatAddresses { guest: [10, 0, 2, 15].into(), gateway: [10, 0, 2, 2].into(), prefix: 24 };
    let launch = || {
        let peer = UnixStream::connect(&place.path).unwrap();
        passt::start(Nat::Open, &addresses, &[], &Dns::new(Nat::Open, addresses.gateway), &peer, true)
            .unwrap();
        peer
    };
    let first = launch();
    let mut driver = Driver::in_memory(memory.guest().clone(), place.card(&memory), SIZE);
    for _ in 0..3 {
        driver.start(F_MRG_RXBUF);
        ask_gateway(&mut driver);
        driver.reset();
    }
    driver.start(F_MRG_RXBUF);
    // It ends with its connection, as when it is killed.
    first.shutdown(std::net::Shutdown::Both).unwrap();
    driver.wait_for("the link to go down", |driver| (!link_is_up(driver)).then_some(()));
    let _second = launch();
    driver.wait_for("the link to come up", |driver| link_is_up(driver).then_some(()));
    ask_gateway(&mut driver);
}
