//! Stands between the program that runs a machine and the process that serves it a shared folder, so that another
//! process can take over from one that died.
//!
//! The program speaks vhost-user, greets its back-end once and connects to no other (`vhost-user-fs` of QEMU, versions
//! 7.2 to 10, has no way to). So it is connected to a [`Relay`], which hands on each message and keeps what a
//! back-end has to know: features, memory, queues with their doorbells. Whoever takes over is told all that and
//! rung for. The requests themselves do not come by here: they are in the memory that both others share.

use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage,
    SendFlags, recvmsg, sendmsg,
};
use vhost::vhost_user::message::FrontendReq as Request;

use crate::vmm::control;

/// How long the rest of a message may take, an answer to what a new server is told, and the wait for a server where the
/// program waits for an answer: it stands still meanwhile, and its guest with it.
const PATIENCE: Duration = Duration::from_secs(10);
/// Bytes of a header: request, flags, length of what follows.
const HEADER: usize = 12;
/// Most bytes behind it (`MAX_MSG_SIZE` of the `vhost` crate).
const MAX_PAYLOAD: usize = 4096;
/// Most descriptors that come with a message: one for each region of memory.
const MAX_FILES: usize = 8;
/// Flag: an answer is wanted where none belongs to the request.
const NEED_REPLY: u32 = 1 << 3;

/// Between one program and one server at a time.
#[derive(Debug)]
pub struct Relay {
    /// Where the program connects, once.
    programs: UnixListener,
    program: Option<UnixStream>,
    /// Where servers are [introduced](introduce).
    servers: UnixListener,
    server: Option<UnixStream>,
    /// What a server has to be told, in this order.
    said: Vec<Message>,
    /// What the program waits for an answer to.
    asked: Option<Message>,
    /// When it has waited too long, without a server.
    until: Option<Instant>,
}

/// Has the relay that listens at `relay` use the server that listens at `server`: it is connected to, and the
/// connection sent there. The relay itself may be where no connection can be made.
///
/// # Errors
/// What the system says.
pub fn introduce(relay: &Path, server: &Path) -> io::Result<()> {
    let connection = control::connect(server)?;
    let empty = Message { request: 0, flags: 0, payload: Vec::new(), files: vec![connection.into()] };
    empty.send(&control::connect(relay)?)
}

impl Relay {
    /// One whose program connects at `programs`, and whose servers are introduced at `servers`.
    pub fn new(programs: UnixListener, servers: UnixListener) -> Self {
        Self { programs, program: None, servers, server: None, said: Vec::new(), asked: None, until: None }
    }

    /// Hands on messages until the program is gone, or `stop` has something to say; then it can go on later.
    ///
    /// # Errors
    /// When nothing can be handed on any more: the program breaks the protocol, or had no answer for so long that
    /// it was hung up on.
    pub fn run(&mut self, stop: Option<BorrowedFd<'_>>) -> io::Result<()> {
        loop {
            let [stops, from_program, from_server] = self.wait(stop)?;
            if stops {
                return Ok(());
            }
            if from_server {
                self.hear_server();
            }
            if from_program && !self.hear_program()? {
                return Ok(());
            }
            if self.until.is_some_and(|until| Instant::now() >= until) {
                return Err(io::Error::new(io::ErrorKind::TimedOut, "no process serves the folder"));
            }
        }
    }

    /// Waits until there is something to do: stop, hear the program, hear the server or a new one.
    fn wait(&self, stop: Option<BorrowedFd<'_>>) -> io::Result<[bool; 3]> {
        // One question at a time: the end of the program is noticed meanwhile, too.
        let more = if self.asked.is_some() { PollFlags::empty() } else { PollFlags::IN };
        let mut fds = vec![
            match &self.program {
                Some(program) => PollFd::new(program, more),
                None => PollFd::new(&self.programs, PollFlags::IN),
            },
            match &self.server {
                Some(server) => PollFd::new(server, PollFlags::IN),
                None => PollFd::new(&self.servers, PollFlags::IN),
            },
        ];
        fds.extend(stop.map(|stop| PollFd::from_borrowed_fd(stop, PollFlags::IN)));
        let left = self.until.map(|until| until.saturating_duration_since(Instant::now()));
        let timeout = left.map(Timespec::try_from).transpose().map_err(io::Error::other)?;
        match poll(&mut fds, timeout.as_ref()) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
        let mut ready = fds.iter().map(|fd| !fd.revents().is_empty());
        let [program, server] = [(); 2].map(|()| ready.next().unwrap_or_default());
        Ok([ready.next().unwrap_or_default(), program, server])
    }

    /// Takes a message of the program's, or the program; `false`: it is gone.
    fn hear_program(&mut self) -> io::Result<bool> {
        let Some(program) = &self.program else {
            self.program = accept(&self.programs)?;
            return Ok(true);
        };
        let Some(message) = Message::receive(program)? else { return Ok(false) };
        if self.asked.is_some() {
            return Err(unexpected("a message before the answer to the one before"));
        }
        let waits = message.is_answered();
        self.keep(&message)?;
        if let Some(server) = &self.server
            && message.send(server).is_err()
        {
            self.server = None;
        }
        if waits {
            self.asked = Some(message);
            self.until = self.server.is_none().then(|| Instant::now() + PATIENCE);
        }
        Ok(true)
    }

    /// Takes an answer of the server's, or a new server. One that is gone or answers what nobody asked is left.
    fn hear_server(&mut self) {
        let answer = match &self.server {
            Some(server) => Message::receive(server).ok().flatten(),
            None => return self.greet(),
        };
        let asked = self.asked.as_ref().map(|asked| asked.request);
        match (answer, &self.program) {
            // Who does not take an answer is found to be gone when it is heard next.
            (Some(answer), Some(program)) if Some(answer.request) == asked => {
                let _ = answer.send(program);
                self.asked = None;
            }
            _ => {
                self.server = None;
                self.until = self.asked.is_some().then(|| Instant::now() + PATIENCE);
            }
        }
    }

    /// Takes a new server, and tells it where things stand.
    fn greet(&mut self) {
        let Ok(Some(stream)) = accept(&self.servers) else { return };
        let introduced = Message::receive(&stream).ok().flatten();
        let Some(socket) = introduced.and_then(|mut message| message.files.pop()) else { return };
        let server = UnixStream::from(socket);
        let told = self.said.iter().try_for_each(|message| message.repeat(&server));
        let asked = self.asked.iter().try_for_each(|message| message.send(&server));
        if told.and(asked).is_err() {
            return;
        }
        // What was rung for may have died with the one before, and so may the word that something is done.
        for message in &self.said {
            if matches!(message.kind(), Some(Request::SET_VRING_KICK | Request::SET_VRING_CALL)) {
                message.ring();
            }
        }
        self.server = Some(server);
        self.until = None;
    }

    /// Keeps what the next server has to be told.
    fn keep(&mut self, message: &Message) -> io::Result<()> {
        match message.kind() {
            Some(Request::GET_VRING_BASE) => {
                // It stops the queue, which begins again with its next doorbell.
                let queue = message.queue();
                self.said
                    .retain(|kept| (kept.kind(), kept.queue()) != (Some(Request::SET_VRING_KICK), queue));
            }
            Some(
                Request::GET_FEATURES
                | Request::SET_FEATURES
                | Request::SET_OWNER
                | Request::SET_MEM_TABLE
                | Request::GET_PROTOCOL_FEATURES
                | Request::SET_PROTOCOL_FEATURES
                | Request::GET_QUEUE_NUM
                | Request::SET_VRING_NUM
                | Request::SET_VRING_ADDR
                | Request::SET_VRING_BASE
                | Request::SET_VRING_KICK
                | Request::SET_VRING_CALL
                | Request::SET_VRING_ERR
                | Request::SET_VRING_ENABLE,
            ) => {
                let copy = message.try_clone()?;
                let same =
                    |kept: &&mut Message| (kept.request, kept.queue()) == (message.request, message.queue());
                // Where its predecessor was: memory comes before the queues in it.
                match self.said.iter_mut().find(same) {
                    Some(kept) => *kept = copy,
                    None => self.said.push(copy),
                }
            }
            _ => return Err(unexpected(&format!("request {} of vhost-user", message.request))),
        }
        Ok(())
    }
}

/// A message of either side.
#[derive(Debug)]
struct Message {
    request: u32,
    flags: u32,
    payload: Vec<u8>,
    files: Vec<OwnedFd>,
}

impl Message {
    /// Takes one; `None`: the other side has ended.
    fn receive(socket: &UnixStream) -> io::Result<Option<Self>> {
        let deadline = Instant::now() + PATIENCE;
        let (mut header, mut files) = ([0; HEADER], Vec::new());
        if !fill(socket, &mut header, &mut files, deadline)? {
            return Ok(None);
        }
        let [request, flags, len] = [0, 4, 8].map(|at| {
            let bytes = header.get(at..at + 4).and_then(|bytes| bytes.try_into().ok());
            bytes.map_or(0, u32::from_le_bytes)
        });
        let len = len as usize;
        if len > MAX_PAYLOAD {
            return Err(unexpected("a message that is too long"));
        }
        let mut payload = vec![0; len];
        if !fill(socket, &mut payload, &mut files, deadline)? {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        Ok(Some(Self { request, flags, payload, files }))
    }

    fn send(&self, socket: &UnixStream) -> io::Result<()> {
        let header = [self.request, self.flags, self.payload.len() as u32];
        let header: Vec<u8> = header.into_iter().flat_map(u32::to_le_bytes).collect();
        let files: Vec<BorrowedFd<'_>> = self.files.iter().map(AsFd::as_fd).collect();
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_FILES))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        if !files.is_empty() && !control.push(SendAncillaryMessage::ScmRights(&files)) {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        let parts = [IoSlice::new(&header), IoSlice::new(&self.payload)];
        // A few hundred bytes, one after the other: a socket that has no room for them is stuck.
        match sendmsg(socket, &parts, &mut control, SendFlags::NOSIGNAL | SendFlags::DONTWAIT)? {
            count if count == HEADER + self.payload.len() => Ok(()),
            _ => Err(io::ErrorKind::WriteZero.into()),
        }
    }

    /// Tells it to one that was not there when it was said. The answer is nobody's.
    fn repeat(&self, server: &UnixStream) -> io::Result<()> {
        let flags = self.flags & !NEED_REPLY;
        Self { flags, payload: self.payload.clone(), ..self.try_clone()? }.send(server)?;
        if self.is_question() {
            Self::receive(server)?.ok_or(io::ErrorKind::UnexpectedEof)?;
        }
        Ok(())
    }

    fn try_clone(&self) -> io::Result<Self> {
        let files = self.files.iter().map(OwnedFd::try_clone).collect::<io::Result<_>>()?;
        Ok(Self { request: self.request, flags: self.flags, payload: self.payload.clone(), files })
    }

    fn kind(&self) -> Option<Request> {
        Request::try_from(self.request).ok()
    }

    fn is_question(&self) -> bool {
        matches!(
            self.kind(),
            Some(
                Request::GET_FEATURES
                    | Request::GET_PROTOCOL_FEATURES
                    | Request::GET_QUEUE_NUM
                    | Request::GET_VRING_BASE
            )
        )
    }

    fn is_answered(&self) -> bool {
        self.is_question() || self.flags & NEED_REPLY != 0
    }

    /// Number of the queue that it is about.
    fn queue(&self) -> Option<u8> {
        match self.kind()? {
            Request::SET_VRING_NUM
            | Request::SET_VRING_ADDR
            | Request::SET_VRING_BASE
            | Request::GET_VRING_BASE
            | Request::SET_VRING_KICK
            | Request::SET_VRING_CALL
            | Request::SET_VRING_ERR
            | Request::SET_VRING_ENABLE => self.payload.first().copied(),
            _ => None,
        }
    }

    /// Rings the doorbell that it brought.
    fn ring(&self) {
        for file in &self.files {
            // It fails when it was rung for ever: it is heard anyway.
            let _ = rustix::io::write(file, &1_u64.to_ne_bytes());
        }
    }
}

/// Fills `bytes`; descriptors that come along go to `files`. `false`: the other side ended before the first of them.
fn fill(
    socket: &UnixStream,
    bytes: &mut [u8],
    files: &mut Vec<OwnedFd>,
    deadline: Instant,
) -> io::Result<bool> {
    let mut filled = 0;
    while filled < bytes.len() {
        let left = deadline.saturating_duration_since(Instant::now());
        let timeout = Timespec::try_from(left).map_err(io::Error::other)?;
        match poll(&mut [PollFd::new(socket, PollFlags::IN)], Some(&timeout)) {
            Ok(0) => return Err(io::ErrorKind::TimedOut.into()),
            Ok(_) | Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_FILES))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let room = bytes.get_mut(filled..).unwrap_or_default();
        let flags = RecvFlags::DONTWAIT | RecvFlags::CMSG_CLOEXEC;
        match recvmsg(socket, &mut [IoSliceMut::new(room)], &mut control, flags) {
            Ok(message) if message.bytes == 0 && filled == 0 => return Ok(false),
            Ok(message) if message.bytes == 0 => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(message) => filled += message.bytes,
            Err(Errno::AGAIN | Errno::INTR) => {}
            // It was killed with words of ours unread.
            Err(Errno::CONNRESET) if filled == 0 => return Ok(false),
            Err(error) => return Err(error.into()),
        }
        for part in control.drain() {
            if let RecvAncillaryMessage::ScmRights(received) = part {
                files.extend(received);
            }
        }
        if files.len() > MAX_FILES {
            return Err(unexpected("too many descriptors"));
        }
    }
    Ok(true)
}

/// Who connects, unless it is gone again.
fn accept(listener: &UnixListener) -> io::Result<Option<UnixStream>> {
    match listener.accept() {
        Ok((stream, _)) => Ok(Some(stream)),
        Err(error) => match error.kind() {
            io::ErrorKind::ConnectionAborted | io::ErrorKind::Interrupted => Ok(None),
            _ => Err(error),
        },
    }
}

fn unexpected(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}

#[cfg(test)]
mod tests;
