//! MSI-X (section 6.8.2): the table that the guest writes, and the vectors that workers raise.
//!
//! Raising takes no lock and, where the guest has not masked the vector, is one write to an event
//! that KVM turns into the interrupt: the guest leaves nothing for it, and neither does a worker wait.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};

use vmm_sys_util::eventfd::EventFd;

/// Bytes of one table entry: message address (8), message data (4), vector control (4).
pub const ENTRY_LEN: usize = 16;
/// Offset of the message data in an entry.
const ENTRY_DATA: usize = 8;
/// Offset of vector control.
const ENTRY_CONTROL: usize = 12;
/// Vector control bit: masked.
const ENTRY_MASKED: u32 = 1;
/// Message control bit: MSI-X is on.
const ENABLE: u16 = 1 << 15;
/// Message control bit: all vectors are masked.
const FUNCTION_MASK: u16 = 1 << 14;
/// Message control bits that the guest may write.
pub const CONTROL_WRITABLE: u16 = ENABLE | FUNCTION_MASK;

/// What a vector writes to which address.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct MsiMessage {
    /// Address, 0xfeexxxxx on x86.
    pub address: u64,
    /// Data.
    pub data: u32,
}

/// Who delivers the messages of one function.
pub trait MsiRouter: Send {
    /// From now on an event on `vector` is delivered as `message`.
    ///
    /// # Errors
    /// When the host refuses the message or has no memory.
    fn route(&self, vector: u16, message: MsiMessage) -> io::Result<()>;

    /// Stops the delivery of `event`, that of `vector`: what is signalled from now on stays there.
    ///
    /// # Errors
    /// When the host refuses.
    fn disconnect(&self, vector: u16, event: &EventFd) -> io::Result<()>;

    /// Takes it up again, with what was signalled meanwhile.
    ///
    /// # Errors
    /// When the host refuses.
    fn connect(&self, vector: u16, event: &EventFd) -> io::Result<()>;
}

/// State bit: the guest does not want the vector at the moment.
const MASKED: u8 = 1;
/// State bit: it was raised meanwhile.
const PENDING: u8 = 2;
/// State bit: another process signals the event by itself.
const LENT: u8 = 4;

#[derive(Debug)]
struct Vector {
    event: EventFd,
    state: AtomicU8,
}

/// The vectors of a function, shared by its registers and its workers.
#[derive(Debug)]
pub struct Vectors {
    vectors: Vec<Vector>,
}

impl Vectors {
    /// `count` vectors, all masked.
    ///
    /// # Errors
    /// When the process has no descriptors left.
    pub fn new(count: u16) -> io::Result<Self> {
        let vector = |_| {
            let event = EventFd::new(libc::EFD_NONBLOCK | libc::EFD_CLOEXEC)?;
            Ok(Vector { event, state: AtomicU8::new(MASKED) })
        };
        Ok(Self { vectors: (0..count).map(vector).collect::<io::Result<_>>()? })
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.vectors.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.vectors.is_empty()
    }

    /// The event of each, which is signalled when the interrupt is to be delivered.
    pub fn events(&self) -> impl Iterator<Item = &EventFd> {
        self.vectors.iter().map(|vector| &vector.event)
    }

    /// Interrupts the guest, or notes it for when the vector is unmasked. One that is not there,
    /// which is how drivers say that they want no interrupt, does nothing.
    pub fn raise(&self, vector: u16) {
        let Some(vector) = self.vectors.get(usize::from(vector)) else { return };
        // Unmasking clears both bits at once, so an interrupt is noted before it or delivered here.
        let masked = |state: u8| (state & MASKED != 0).then_some(MASKED | PENDING);
        if vector.state.fetch_update(Ordering::SeqCst, Ordering::SeqCst, masked).is_err() {
            vector.deliver();
        }
    }

    /// The event of a vector for another process, which raises it from now on, until it is [taken
    /// back](Self::take_back). `None` where that would pass by what the guest wants: the vector is masked, or
    /// not there.
    pub fn lend(&self, vector: u16) -> Option<EventFd> {
        let vector = self.vectors.get(usize::from(vector))?;
        let unmasked = |state: u8| (state & MASKED == 0).then_some(state | LENT);
        vector.state.fetch_update(Ordering::SeqCst, Ordering::SeqCst, unmasked).ok()?;
        vector.event.try_clone().ok()
    }

    /// No other process raises vectors any more.
    pub fn take_back(&self) {
        for vector in &self.vectors {
            vector.state.fetch_and(!LENT, Ordering::SeqCst);
        }
    }

    fn is_lent(&self, vector: usize) -> bool {
        self.vectors.get(vector).is_some_and(|v| v.state.load(Ordering::SeqCst) & LENT != 0)
    }

    fn set_masked(&self, vector: usize, masked: bool) {
        let Some(vector) = self.vectors.get(vector) else { return };
        if masked {
            vector.state.fetch_or(MASKED, Ordering::SeqCst);
        } else if vector.state.fetch_and(!(MASKED | PENDING), Ordering::SeqCst) & PENDING != 0 {
            vector.deliver();
        }
    }

    fn is_pending(&self, vector: usize) -> bool {
        self.vectors.get(vector).is_some_and(|vector| {
            let state = vector.state.load(Ordering::SeqCst);
            let elsewhere = state & (LENT | MASKED) == LENT | MASKED && vector.is_signalled();
            state & PENDING != 0 || elsewhere
        })
    }

    /// Masked, and nothing raised.
    fn reset(&self) {
        for vector in &self.vectors {
            vector.state.store(MASKED, Ordering::SeqCst);
            // What KVM has not taken is not for the next life.
            let _ = vector.event.read();
        }
    }
}

impl Vector {
    fn deliver(&self) {
        // A write fails only when the counter is full, and then an interrupt is pending anyway.
        let _ = self.event.write(1);
    }

    /// Whether something was signalled that the host, which does not listen, has not taken.
    fn is_signalled(&self) -> bool {
        let signalled = self.event.read();
        if let Ok(count) = signalled {
            let _ = self.event.write(count);
        }
        signalled.is_ok()
    }
}

#[derive(Debug, Clone, Copy)]
struct Entry {
    message: MsiMessage,
    masked: bool,
    /// What the host delivers for it at present.
    routed: Option<MsiMessage>,
    /// Whether the host delivers its event.
    connected: bool,
}

const FRESH: Entry =
    Entry { message: MsiMessage { address: 0, data: 0 }, masked: true, routed: None, connected: true };

/// The guest's side: table, pending bits and message control.
pub struct Msix {
    entries: Vec<Entry>,
    control: u16,
    vectors: Arc<Vectors>,
    router: Box<dyn MsiRouter>,
    /// Whether the host's refusal was logged: once, since the guest could repeat it for ever.
    refused: bool,
}

impl Msix {
    /// A table for `vectors`, whose messages `router` delivers.
    pub fn new(vectors: Arc<Vectors>, router: Box<dyn MsiRouter>) -> Self {
        Self { entries: vec![FRESH; vectors.len()], control: 0, vectors, router, refused: false }
    }

    /// Reads the table: words and double words at multiples of their size, else zeros.
    pub fn read_table(&self, offset: u64, data: &mut [u8]) {
        data.fill(0);
        let Some((index, at)) = position(offset, data.len()) else { return };
        let Some(entry) = self.entries.get(index) else { return };
        let mut bytes = [0; ENTRY_LEN];
        let (address, rest) = bytes.split_at_mut(ENTRY_DATA);
        address.copy_from_slice(&entry.message.address.to_le_bytes());
        let (message, control) = rest.split_at_mut(ENTRY_CONTROL - ENTRY_DATA);
        message.copy_from_slice(&entry.message.data.to_le_bytes());
        control.copy_from_slice(&u32::from(entry.masked).to_le_bytes());
        for (to, from) in data.iter_mut().zip(bytes.iter().skip(at)) {
            *to = *from;
        }
    }

    /// Writes the table: words and double words at multiples of their size, else nowhere.
    pub fn write_table(&mut self, offset: u64, data: &[u8]) {
        let Some((index, at)) = position(offset, data.len()) else { return };
        let Some(entry) = self.entries.get_mut(index) else { return };
        for (at, word) in (at..).step_by(4).zip(data.chunks_exact(4)) {
            let word = <[u8; 4]>::try_from(word).map_or(0, u32::from_le_bytes);
            let address = &mut entry.message.address;
            match at {
                0 => *address = *address & !u64::from(u32::MAX) | u64::from(word),
                4 => *address = *address & u64::from(u32::MAX) | u64::from(word) << 32,
                ENTRY_DATA => entry.message.data = word,
                ENTRY_CONTROL => entry.masked = word & ENTRY_MASKED != 0,
                _ => {}
            }
        }
        self.update(index);
    }

    /// Reads the pending bits, one a vector.
    pub fn read_pending(&self, offset: u64, data: &mut [u8]) {
        let first = usize::try_from(offset).unwrap_or(usize::MAX);
        for (at, byte) in data.iter_mut().enumerate() {
            let vector = first.saturating_add(at).saturating_mul(8);
            let bits = (0..8).filter(|bit| self.vectors.is_pending(vector.saturating_add(*bit)));
            *byte = bits.fold(0, |byte, bit| byte | 1 << bit);
        }
    }

    /// The guest has written message control.
    pub fn set_control(&mut self, control: u16) {
        let control = control & CONTROL_WRITABLE;
        if control != self.control {
            self.control = control;
            for index in 0..self.entries.len() {
                self.update(index);
            }
        }
    }

    /// Back to the state after power-on; the host has forgotten all routes.
    pub fn reset(&mut self) {
        self.control = 0;
        self.entries.fill(FRESH);
        self.vectors.reset();
    }

    /// Masks or unmasks a vector as all the bits for it say. Its message is handed on when it is
    /// needed, since that is dear: KVM waits for all interrupts in flight.
    fn update(&mut self, index: usize) {
        let on = self.control & (ENABLE | FUNCTION_MASK) == ENABLE;
        let Some(entry) = self.entries.get_mut(index) else { return };
        let mut masked = !on || entry.masked;
        if !masked && entry.routed != Some(entry.message) {
            match self.router.route(index as u16, entry.message) {
                Ok(()) => entry.routed = Some(entry.message),
                Err(error) => {
                    masked = true;
                    self.refuse(index, &error);
                }
            }
        }
        self.vectors.set_masked(index, masked);
        self.connect(index, masked);
    }

    /// The device was reset: whoever had vectors raises them no more.
    pub fn take_back(&mut self) {
        self.vectors.take_back();
        for index in 0..self.entries.len() {
            self.connect(index, false);
        }
    }

    /// A vector that is raised by another process is masked by the host's not listening.
    fn connect(&mut self, index: usize, masked: bool) {
        let lent = self.vectors.is_lent(index);
        let wanted = !(lent && masked);
        let (Some(entry), Some(event)) = (self.entries.get_mut(index), self.vectors.events().nth(index))
        else {
            return;
        };
        if entry.connected == wanted {
            return;
        }
        if !lent {
            // What it raised for a device that has begun anew.
            let _ = event.read();
        }
        let router = &self.router;
        let result =
            if wanted { router.connect(index as u16, event) } else { router.disconnect(index as u16, event) };
        match result {
            Ok(()) => entry.connected = wanted,
            Err(error) => self.refuse(index, &error),
        }
    }

    fn refuse(&mut self, index: usize, error: &io::Error) {
        if !std::mem::replace(&mut self.refused, true) {
            tracing::warn!(vector = index, %error, "the host cannot deliver an interrupt of the guest");
        }
    }
}

/// Which entry an access is to, and where in it.
fn position(offset: u64, len: usize) -> Option<(usize, usize)> {
    let offset = usize::try_from(offset).ok()?;
    let whole = matches!(len, 4 | 8) && offset.is_multiple_of(len);
    whole.then_some((offset / ENTRY_LEN, offset % ENTRY_LEN))
}
