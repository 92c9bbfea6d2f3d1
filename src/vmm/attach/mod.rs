//! Who is attached to a console, through its socket.
//!
//! The machine never waits for them. Everybody reads from one ring of the last output; who is too
//! slow loses the oldest and is told so. What is typed, by anybody, waits in one small buffer; when
//! the guest does not read, nothing more is taken from the sockets. So memory is bounded, whatever
//! guest and readers do.

mod output;
mod questions;
pub mod wire;

pub use output::KEPT;
pub use wire::Size;

use std::collections::VecDeque;
use std::io::{self, ErrorKind, Read, Write};
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::net::{UnixListener, UnixStream};

use vmm_sys_util::epoll::EventSet;

use output::Output;
use questions::Questions;
use wire::{Item, Parser};

/// How many can be attached at the same time; one more is told so and sent away.
pub const MAX_ATTACHED: usize = 16;
/// Bytes typed that the guest has not read.
pub const MAX_INPUT: usize = 4096;
/// What a reader gets in place of what it was too slow for.
const LOST: &[u8] = b"\r\n[output lost: it came faster than it was read]\r\n";
/// What one gets for whom there is no room.
const FULL: &[u8] = b"too many are attached to this console\r\n";

/// A way to be told of edges of a descriptor, under a number.
pub type Watch<'a> = &'a dyn Fn(RawFd, u64) -> io::Result<()>;

/// The host's side of a console. It does nothing by itself: whoever moves the guest's bytes waits for
/// its descriptors ([`Self::watch`]), tells it of their edges ([`Self::note`]) and lets it work
/// ([`Self::work`]).
#[derive(Debug)]
pub struct Attached {
    listener: UnixListener,
    /// There may be somebody to let in.
    knocking: bool,
    clients: [Option<Client>; MAX_ATTACHED],
    output: Output,
    questions: Questions,
    input: VecDeque<u8>,
    size: Option<Size>,
    first_token: u64,
}

#[derive(Debug)]
struct Client {
    stream: UnixStream,
    parser: Parser,
    /// Number of the first byte of output that it has not got.
    at: u64,
    /// What it gets before that.
    notice: &'static [u8],
    readable: bool,
    writable: bool,
    /// It has closed its end; what it typed before still counts.
    gone: bool,
}

impl Attached {
    /// Lets whoever connects to `listener` in. It uses the tokens from `first_token` on.
    ///
    /// # Errors
    /// When the listener cannot be made non-blocking.
    pub fn new(listener: UnixListener, first_token: u64) -> io::Result<Self> {
        listener.set_nonblocking(true)?;
        Ok(Self {
            listener,
            knocking: true,
            clients: [const { None }; MAX_ATTACHED],
            output: Output::new(),
            questions: Questions::new(),
            input: VecDeque::with_capacity(MAX_INPUT),
            size: None,
            first_token,
        })
    }

    /// Begins to watch everything that there is. Edges from before are not lost: all is looked at.
    ///
    /// # Errors
    /// What `watch` says.
    pub fn watch(&mut self, watch: Watch<'_>) -> io::Result<()> {
        watch(self.listener.as_raw_fd(), self.first_token)?;
        self.knocking = true;
        for (client, token) in self.clients.iter_mut().zip(self.first_token + 1..) {
            if let Some(client) = client {
                watch(client.stream.as_raw_fd(), token)?;
                (client.readable, client.writable) = (true, true);
            }
        }
        Ok(())
    }

    /// Something happened to the descriptor with that token.
    pub fn note(&mut self, token: u64, set: EventSet) {
        let Some(index) = token.checked_sub(self.first_token) else { return };
        let Some(index) = index.checked_sub(1) else {
            self.knocking = true;
            return;
        };
        let slot = usize::try_from(index).ok().and_then(|index| self.clients.get_mut(index));
        if let Some(Some(client)) = slot {
            client.gone |= set.intersects(EventSet::HANG_UP | EventSet::ERROR);
            client.readable |= client.gone || set.intersects(EventSet::IN | EventSet::READ_HANG_UP);
            client.writable = !client.gone && (client.writable || set.contains(EventSet::OUT));
        }
    }

    /// Whether [`Self::work`] would find something to do.
    pub fn has_work(&self) -> bool {
        let room = self.room() > 0;
        let behind = |client: &Client| client.at < self.output.end() || !client.notice.is_empty();
        let busy = |client: &Client| client.readable && room || client.writable && behind(client);
        self.knocking || self.clients.iter().flatten().any(busy)
    }

    /// Lets one in who waits; gives everybody what they have not got of the output; takes what they
    /// type, as far as there is room.
    pub fn work(&mut self, watch: Watch<'_>) {
        if self.knocking {
            self.admit(watch);
        }
        for index in 0..self.clients.len() {
            let result = self.serve(index);
            if let (Err(error), Some(slot)) = (result, self.clients.get_mut(index)) {
                tracing::debug!(%error, "a console was detached");
                *slot = None;
            }
        }
    }

    /// Output of the guest. Questions to the terminal are left out.
    pub fn push_output(&mut self, bytes: &[u8]) {
        let Self { output, questions, .. } = self;
        questions.filter(bytes, |text| output.push(text));
    }

    /// What was typed and not taken yet, the front of it in one piece.
    pub fn input(&self) -> &[u8] {
        self.input.as_slices().0
    }

    /// The guest has taken that many bytes.
    pub fn take_input(&mut self, count: usize) {
        self.input.drain(..count.min(self.input.len()));
    }

    /// The size of the terminal that told it last, once for each time.
    pub fn take_size(&mut self) -> Option<Size> {
        self.size.take()
    }

    fn room(&self) -> usize {
        MAX_INPUT.saturating_sub(self.input.len())
    }

    fn admit(&mut self, watch: Watch<'_>) {
        let stream = match self.listener.accept() {
            Ok((stream, _)) => stream,
            Err(error) => {
                self.knocking = error.kind() == ErrorKind::Interrupted;
                if !matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) {
                    tracing::warn!(%error, "cannot let anybody attach to the console");
                }
                return;
            }
        };
        let free = self.clients.iter_mut().zip(self.first_token + 1..).find(|(slot, _)| slot.is_none());
        let Some((slot, token)) = free else {
            // Whether it reads that is its own concern.
            let _ = stream.set_nonblocking(true).and_then(|()| (&stream).write_all(FULL));
            return;
        };
        match stream.set_nonblocking(true).and_then(|()| watch(stream.as_raw_fd(), token)) {
            Ok(()) => {
                let (at, notice) = (self.output.start(), &[][..]);
                let parser = Parser::default();
                *slot =
                    Some(Client { stream, parser, at, notice, readable: true, writable: true, gone: false });
            }
            Err(error) => tracing::warn!(%error, "cannot attach to the console"),
        }
    }

    /// # Errors
    /// When that client has gone or sends what is no frame.
    fn serve(&mut self, index: usize) -> io::Result<()> {
        let room = self.room();
        let Some(Some(client)) = self.clients.get_mut(index) else { return Ok(()) };
        client.send(&self.output)?;
        if client.readable && room > 0 {
            client.receive(room, &mut self.input, &mut self.size)?;
        }
        Ok(())
    }
}

impl Client {
    /// Sends what it has not got, until it is up to date or takes no more.
    fn send(&mut self, output: &Output) -> io::Result<()> {
        if self.at < output.start() {
            (self.at, self.notice) = (output.start(), LOST);
        }
        while self.writable {
            let piece = if self.notice.is_empty() { output.piece(self.at) } else { self.notice };
            if piece.is_empty() {
                break;
            }
            match self.stream.write(piece) {
                Ok(count) if self.notice.is_empty() => self.at += count as u64,
                Ok(count) => self.notice = self.notice.get(count..).unwrap_or_default(),
                Err(error) if error.kind() == ErrorKind::WouldBlock => self.writable = false,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Takes at most `room` bytes off the socket, so that no more is typed than that.
    fn receive(&mut self, room: usize, input: &mut VecDeque<u8>, size: &mut Option<Size>) -> io::Result<()> {
        let mut bytes = [0; MAX_INPUT];
        let read = self.stream.read(bytes.get_mut(..room).unwrap_or_default());
        let mut taken = match read {
            Ok(0) if self.gone => return Err(ErrorKind::UnexpectedEof.into()),
            // It types no more, and may go on to read.
            Ok(0) => {
                self.readable = false;
                return Ok(());
            }
            Ok(count) => bytes.get(..count).unwrap_or_default(),
            Err(error) if error.kind() == ErrorKind::WouldBlock => {
                self.readable = false;
                return Ok(());
            }
            Err(error) if error.kind() == ErrorKind::Interrupted => return Ok(()),
            Err(error) => return Err(error),
        };
        while let Some(item) = self.parser.next(&mut taken).map_err(io::Error::other)? {
            match item {
                Item::Input(typed) => input.extend(typed),
                Item::Size(told) => *size = Some(told),
            }
        }
        Ok(())
    }
}
