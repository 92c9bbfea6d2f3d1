//! What a device is to its transport, and how it reaches the guest's interrupt.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU16, AtomicU32, Ordering};

use virtio_queue::Queue;
use vm_memory::GuestMemoryMmap;
use vmm_sys_util::eventfd::EventFd;

use super::Error;
use crate::vmm::pci::Vectors;

/// Interrupt status bit: a used buffer (virtio 1.2, section 4.2.2, InterruptStatus).
pub const INTERRUPT_USED: u32 = 1;
/// Interrupt status bit: the configuration changed.
pub const INTERRUPT_CONFIG: u32 = 2;
/// The vector of what is not to interrupt (virtio 1.2, section 4.1.5.1.2).
pub const NO_VECTOR: u16 = 0xffff;

/// A virtio device, whatever transport stands before it.
///
/// A transport calls [`activate`](Self::activate) once the driver has said DRIVER_OK, and
/// [`reset`](Self::reset) before it forgets the queues; every other method may be called at any time.
pub trait VirtioDevice: Send {
    /// Device type (virtio 1.2, section 5).
    fn device_id(&self) -> u32;

    /// The largest size of each queue, a power of two; the length is the number of queues.
    fn queue_max_sizes(&self) -> &[u16];

    /// Feature bits offered.
    fn features(&self) -> u64;

    /// Reads the device's configuration. Any offset and length is safe; what lies outside reads zero.
    fn read_config(&self, offset: u64, data: &mut [u8]);

    /// Writes the device's configuration. What cannot be written is ignored.
    fn write_config(&mut self, _offset: u64, _data: &[u8]) {}

    /// Starts work on the queues.
    ///
    /// # Errors
    /// When a queue is not ready that the device cannot do without, or the worker does not start.
    fn activate(&mut self, activation: Activation) -> Result<(), Error>;

    /// Stops work: on return no worker touches guest memory or raises an interrupt. Harmless when
    /// the device is not active. The device can be activated again.
    fn reset(&mut self);
}

/// What a device gets when its driver is ready.
pub struct Activation {
    /// Guest memory.
    pub mem: GuestMemoryMmap,
    /// Feature bits that device and driver agreed on.
    pub features: u64,
    /// All queues in order, each with the event that the driver's kicks signal. Queues that the
    /// driver made ready are checked; one that it left alone is not `ready()`.
    pub queues: Vec<(Queue, EventFd)>,
    /// The way to the guest's interrupt.
    pub interrupt: Interrupt,
}

/// The device's way to its driver: an interrupt, and what the driver reads when it comes.
#[derive(Clone, Debug)]
pub struct Interrupt {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    wires: Wires,
    status: AtomicU32,
    generation: AtomicU32,
    needs_reset: AtomicBool,
}

/// What leads to the guest.
#[derive(Debug)]
enum Wires {
    /// One line for everything.
    Line(EventFd),
    /// Vectors, and which of them the driver chose for what.
    Vectors { vectors: Arc<Vectors>, config: AtomicU16, queues: Box<[AtomicU16]> },
}

impl Interrupt {
    /// Makes one that signals `line`, usually an irqfd, for everything.
    pub fn new(line: EventFd) -> Self {
        Self::with_wires(Wires::Line(line))
    }

    /// Makes one that raises for the configuration, and for each of `queues` queues, the vector that
    /// the driver chooses for it; none until then.
    pub fn with_vectors(vectors: Arc<Vectors>, queues: usize) -> Self {
        Self::with_wires(Wires::Vectors {
            vectors,
            config: AtomicU16::new(NO_VECTOR),
            queues: (0..queues).map(|_| AtomicU16::new(NO_VECTOR)).collect(),
        })
    }

    fn with_wires(wires: Wires) -> Self {
        Self {
            shared: Arc::new(Shared {
                wires,
                status: AtomicU32::new(0),
                generation: AtomicU32::new(0),
                needs_reset: AtomicBool::new(false),
            }),
        }
    }

    /// Tells the driver that `queue` holds used buffers.
    pub fn used(&self, queue: u16) {
        self.shared.status.fetch_or(INTERRUPT_USED, Ordering::SeqCst);
        self.shared.wires.raise(Some(queue));
    }

    /// What another process signals to tell the driver that `queue` holds used buffers, until the next reset.
    /// `None` where it cannot, and has to have us call [`used`](Self::used): the driver reads the status bit, or
    /// has the vector masked at the moment. A vector that the driver chooses later is not heeded.
    pub fn lend(&self, queue: u16) -> Option<EventFd> {
        match &self.shared.wires {
            Wires::Line(_) => None,
            Wires::Vectors { vectors, .. } => vectors.lend(self.vector(Some(queue))),
        }
    }

    /// Tells the driver that the configuration space changed.
    pub fn config_changed(&self) {
        self.shared.generation.fetch_add(1, Ordering::SeqCst);
        self.shared.status.fetch_or(INTERRUPT_CONFIG, Ordering::SeqCst);
        self.shared.wires.raise(None);
    }

    /// Sets DEVICE_NEEDS_RESET and says so (virtio 1.2, section 2.1.2).
    pub fn needs_reset(&self) {
        self.shared.needs_reset.store(true, Ordering::SeqCst);
        self.config_changed();
    }

    /// Whether the device asked to be reset.
    pub fn is_broken(&self) -> bool {
        self.shared.needs_reset.load(Ordering::SeqCst)
    }

    /// Interrupt status bits that the driver has not acknowledged.
    pub fn status(&self) -> u32 {
        self.shared.status.load(Ordering::SeqCst)
    }

    /// The number that grows with each change of the configuration space.
    pub fn generation(&self) -> u32 {
        self.shared.generation.load(Ordering::SeqCst)
    }

    /// The driver acknowledges status bits.
    pub(super) fn acknowledge(&self, bits: u32) {
        self.shared.status.fetch_and(!bits, Ordering::SeqCst);
    }

    /// The driver reads the status bits, which acknowledges them all.
    pub(super) fn take_status(&self) -> u32 {
        self.shared.status.swap(0, Ordering::SeqCst)
    }

    /// The vector of `queue`, of the configuration without one; [`NO_VECTOR`] where there is none.
    pub(super) fn vector(&self, queue: Option<u16>) -> u16 {
        self.shared.wires.slot(queue).map_or(NO_VECTOR, |slot| slot.load(Ordering::SeqCst))
    }

    /// The driver chooses a vector; one that is not there is [`NO_VECTOR`], which it reads back.
    pub(super) fn set_vector(&self, queue: Option<u16>, vector: u16) {
        if let (Some(slot), Wires::Vectors { vectors, .. }) =
            (self.shared.wires.slot(queue), &self.shared.wires)
        {
            let there = usize::from(vector) < vectors.len();
            slot.store(if there { vector } else { NO_VECTOR }, Ordering::SeqCst);
        }
    }

    /// Back to the state after power-on; the generation goes on counting.
    pub(super) fn reset(&self) {
        self.shared.status.store(0, Ordering::SeqCst);
        self.shared.needs_reset.store(false, Ordering::SeqCst);
        if let Wires::Vectors { config, queues, .. } = &self.shared.wires {
            for slot in queues.iter().chain([config]) {
                slot.store(NO_VECTOR, Ordering::SeqCst);
            }
        }
    }
}

impl Wires {
    /// Interrupts for `queue`, or for the configuration.
    fn raise(&self, queue: Option<u16>) {
        match self {
            Self::Line(line) => {
                // A write fails only when the counter is full, and then an interrupt is pending anyway.
                let _ = line.write(1);
            }
            Self::Vectors { vectors, .. } => {
                if let Some(slot) = self.slot(queue) {
                    vectors.raise(slot.load(Ordering::SeqCst));
                }
            }
        }
    }

    /// Where the choice of the driver is kept.
    fn slot(&self, queue: Option<u16>) -> Option<&AtomicU16> {
        match (self, queue) {
            (Self::Line(_), _) => None,
            (Self::Vectors { config, .. }, None) => Some(config),
            (Self::Vectors { queues, .. }, Some(queue)) => queues.get(usize::from(queue)),
        }
    }
}

/// Reads `data` from `config` at `offset`, zeros outside it: what every device's
/// [`VirtioDevice::read_config`] does with its bytes.
pub(super) fn read_bytes(config: &[u8], offset: u64, data: &mut [u8]) {
    data.fill(0);
    let Some(rest) = usize::try_from(offset).ok().and_then(|start| config.get(start..)) else {
        return;
    };
    for (to, from) in data.iter_mut().zip(rest) {
        *to = *from;
    }
}
