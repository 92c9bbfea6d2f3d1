//! The network card whose queues another process works on: what that one answers and signals is right, wrong or
//! cut off. It is never silent, which would only have the card wait.

use std::fs::File;
use std::io::{Read, Write};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::thread;

use libfuzzer_sys::arbitrary::{Result, Unstructured};
use rvm::vmm::virtio::net::VhostNet;
use vm_memory::{FileOffset, GuestAddress, GuestMemoryMmap};
use vmm_sys_util::sock_ctrl_msg::ScmSocket;

use super::net::MAC;
use crate::rig::{HIGH_END, HIGH_START, LOW_END, Rig, mostly, rarely, readable, writable};

/// Requests that have an answer of their own; of the others all are acknowledged, if that was agreed on.
const GET_FEATURES: u32 = 1;
const GET_VRING_BASE: u32 = 11;
const GET_PROTOCOL_FEATURES: u32 = 15;
/// Requests that bring an event which the peer may signal: for used buffers, and for a driver that breaks the rules,
/// which would be taken for a refusal of a good one before it runs.
const SET_VRING_CALL: u32 = 13;
const SET_VRING_ERR: u32 = 14;
/// `VIRTIO_F_VERSION_1`, `VHOST_USER_F_PROTOCOL_FEATURES`, MRG_RXBUF.
const FEATURES: u64 = 1 << 32 | 1 << 30 | 1 << 15;
const REPLY_ACK: u64 = 1 << 3;
const NEED_REPLY: u32 = 1 << 3;
const HEADER: usize = 12;
/// Answers in a life: one start and one stop, and some more.
const ANSWERS: usize = 24;

/// How a request is answered.
struct Answer {
    /// Added to the words of the right header.
    header: [u32; 3],
    payload: Option<u64>,
    /// Bytes of it that are sent before the peer hangs up; all, and no hanging up, without.
    cut: Option<usize>,
    /// Signals an event that it was given.
    signals: bool,
}

impl Answer {
    fn any(u: &mut Unstructured<'_>) -> Result<Self> {
        Ok(Self {
            header: [mostly(u, 0) as u32, mostly(u, 0) as u32, mostly(u, 0) as u32],
            payload: if rarely(u) { Some(u.arbitrary()?) } else { None },
            cut: if rarely(u) { Some(u.int_in_range(0..=HEADER + 8)?) } else { None },
            signals: u.ratio(1, 8)?,
        })
    }
}

/// Memory as the rig has it, in a file.
fn shared() -> GuestMemoryMmap {
    let range = |start: u64, end: u64| {
        let file = tempfile::tempfile_in("/dev/shm").unwrap();
        file.set_len(end - start).unwrap();
        (GuestAddress(start), (end - start) as usize, Some(FileOffset::from_arc(Arc::new(file), 0)))
    };
    GuestMemoryMmap::from_ranges_with_files([range(0, LOW_END), range(HIGH_START, HIGH_END)]).unwrap()
}

pub fn run(u: &mut Unstructured<'_>) -> Result<()> {
    let mut answers = Vec::new();
    for _ in 0..ANSWERS {
        answers.push(Answer::any(u)?);
    }
    let mtu = if u.arbitrary()? { Some(u.arbitrary()?) } else { None };
    let (ours, theirs) = UnixStream::pair().unwrap();
    let peer = thread::spawn(move || serve(&theirs, answers));
    let result = drive(ours, mtu, u);
    // It ends when the card is gone.
    peer.join().unwrap();
    result
}

fn drive(socket: UnixStream, mtu: Option<u16>, u: &mut Unstructured<'_>) -> Result<()> {
    let mem = shared();
    let Ok(card) = VhostNet::new(MAC, mtu, Some(socket), None, &mem) else { return Ok(()) };
    let card = card.on_stray(|| panic!("a peer that hangs up was taken for a stray one"));
    let Some(mut rig) = Rig::start_in(mem, card, u)? else { return Ok(()) };
    for _ in 0..u.int_in_range(0..=4)? {
        let buf = if u.arbitrary()? { writable(100) } else { readable([0; 72]) };
        let queue = u.int_in_range(0..=1)?;
        rig.offer(u, queue, &[buf])?;
        rig.kick(queue as u32);
    }
    rig.reset();
    Ok(())
}

/// Answers until the card hangs up, or as long as there are answers.
fn serve(mut socket: &UnixStream, answers: Vec<Answer>) {
    let mut events: Vec<(u32, File)> = Vec::new();
    let mut answers = answers.into_iter();
    while let Some((request, wants_answer, fd)) = hear(socket) {
        let is_early = request != GET_VRING_BASE;
        events.extend(
            fd.filter(|_| [SET_VRING_CALL, SET_VRING_ERR].contains(&request)).map(|fd| (request, fd)),
        );
        let right = match request {
            GET_FEATURES => FEATURES,
            GET_PROTOCOL_FEATURES => REPLY_ACK | 1,
            GET_VRING_BASE => 0,
            _ if wants_answer => 0,
            _ => continue,
        };
        let Some(answer) = answers.next() else { break };
        for (_, event) in events.iter_mut().filter(|(kind, _)| !is_early || *kind == SET_VRING_CALL) {
            if answer.signals {
                let _ = event.write_all(&1u64.to_ne_bytes());
            }
        }
        let header = [request, 5, 8];
        let words = header.iter().zip(answer.header).map(|(right, more)| right.wrapping_add(more));
        let mut bytes: Vec<u8> = words.flat_map(u32::to_le_bytes).collect();
        bytes.extend(answer.payload.unwrap_or(right).to_le_bytes());
        bytes.truncate(answer.cut.unwrap_or(bytes.len()));
        if socket.write_all(&bytes).is_err() || answer.cut.is_some() {
            break;
        }
    }
    let _ = socket.shutdown(Shutdown::Both);
}

/// One message: request, whether it wants an answer, the first descriptor with it.
fn hear(mut socket: &UnixStream) -> Option<(u32, bool, Option<File>)> {
    let mut header = [0; HEADER];
    let (got, fd) = socket.recv_with_fd(&mut header).ok()?;
    socket.read_exact(header.get_mut(got..)?).ok().filter(|()| got > 0)?;
    let word = |at: usize| u32::from_le_bytes([header[at], header[at + 1], header[at + 2], header[at + 3]]);
    let mut payload = vec![0; word(8) as usize];
    socket.read_exact(&mut payload).ok()?;
    Some((word(0), word(4) & NEED_REPLY != 0, fd))
}
