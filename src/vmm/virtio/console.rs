//! The console device (virtio 1.2, section 5.3): one port, `hvc0` in a Linux guest, to which any
//! number of people on the host can attach.

use std::os::unix::net::UnixListener;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};

use virtio_queue::Queue;
use vm_memory::GuestMemoryMmap;
use vmm_sys_util::epoll::EventSet;
use vmm_sys_util::eventfd::EventFd;

use super::chain::Chain;
use super::device::{Activation, Interrupt, VirtioDevice, read_bytes};
use super::queue::{Fault, Ring};
use super::worker::{Events, Source, Worker as Thread, WorkerError, give_up, ready_queues};
use super::{Error, VIRTIO_F_EVENT_IDX, VIRTIO_F_INDIRECT_DESC, VIRTIO_F_VERSION_1};
use crate::vmm::attach::{Attached, Size};

/// Device type 3 (virtio 1.2, section 5).
const DEVICE_ID: u32 = 3;
/// Descriptors in each queue.
const QUEUE_SIZE: u16 = 64;
/// Most bytes in a chain; Linux writes up to 32 KiB.
pub const BYTE_LIMIT: u32 = 1 << 20;
/// Chains of one queue before the other one, who is attached, and the order to stop get a look.
const BATCH: u16 = 16;
/// Bytes of output copied at once.
const STEP: usize = 4096;
/// The name of the worker thread.
const NAME: &str = "virtio-console";

/// Feature bit: the configuration has the size of the terminal (virtio 1.2, section 5.3.3).
const F_SIZE: u64 = 1 << 0;
/// Before anybody attached.
const FIRST_SIZE: Size = Size { columns: 80, rows: 24 };

/// Queue numbers (virtio 1.2, section 5.3.2), which serve as event tokens too.
const RX: u16 = 0;
const TX: u16 = 1;
/// First event token of who is attached.
const ATTACHED: u64 = 16;

/// The console.
pub struct Console {
    /// The worker's while there is one; who is attached stays so over resets.
    attached: Arc<Mutex<Attached>>,
    size: Arc<AtomicU32>,
    worker: Option<Thread>,
}

impl Console {
    /// A console to which one attaches by connecting to `listener`; `vmm::attach::wire` is what is
    /// spoken there. Nobody is served before the guest's driver has started.
    ///
    /// # Errors
    /// [`Error::EventFd`] when the listener cannot be made non-blocking.
    pub fn new(listener: UnixListener) -> Result<Self, Error> {
        let attached = Attached::new(listener, ATTACHED).map_err(Error::EventFd)?;
        Ok(Self {
            attached: Arc::new(Mutex::new(attached)),
            size: Arc::new(AtomicU32::new(pack(FIRST_SIZE))),
            worker: None,
        })
    }
}

/// Columns and rows as they are in the configuration: 16 bits each, little-endian.
fn pack(size: Size) -> u32 {
    u32::from(size.columns) | u32::from(size.rows) << 16
}

impl VirtioDevice for Console {
    fn device_id(&self) -> u32 {
        DEVICE_ID
    }

    fn queue_max_sizes(&self) -> &[u16] {
        &[QUEUE_SIZE, QUEUE_SIZE]
    }

    fn features(&self) -> u64 {
        VIRTIO_F_VERSION_1 | VIRTIO_F_INDIRECT_DESC | VIRTIO_F_EVENT_IDX | F_SIZE
    }

    fn read_config(&self, offset: u64, data: &mut [u8]) {
        read_bytes(&self.size.load(Ordering::SeqCst).to_le_bytes(), offset, data);
    }

    fn activate(&mut self, activation: Activation) -> Result<(), Error> {
        self.worker = None;
        let Activation { mem, features, queues, interrupt } = activation;
        let [rx, tx] = ready_queues(queues)?;
        if self.attached.is_poisoned() {
            return Err(Error::WorkerFailed { device: NAME });
        }
        let (attached, size) = (Arc::clone(&self.attached), Arc::clone(&self.size));
        let setup = Setup { mem, features, rx, tx, interrupt, size };
        self.worker = Some(Thread::spawn(NAME, move |events| {
            let Ok(mut attached) = attached.lock() else { return };
            if let Err(error) = run(&events, &setup, &mut attached) {
                give_up(NAME, &error, &setup.interrupt);
            }
        })?);
        Ok(())
    }

    fn reset(&mut self) {
        self.worker = None;
    }
}

/// What the worker takes over from the device.
struct Setup {
    mem: GuestMemoryMmap,
    features: u64,
    rx: (Queue, EventFd),
    tx: (Queue, EventFd),
    interrupt: Interrupt,
    size: Arc<AtomicU32>,
}

/// One queue.
struct Side<'m> {
    ring: Ring<'m>,
    chain: Chain<'m>,
    /// There may be a chain to take.
    awake: bool,
}

struct Worker<'m> {
    rx: Side<'m>,
    tx: Side<'m>,
    attached: &'m mut Attached,
    setup: &'m Setup,
}

/// Moves bytes until told to stop or the driver breaks the rules.
fn run(events: &Events, setup: &Setup, attached: &mut Attached) -> Result<(), WorkerError> {
    let side = |queue: &Queue| -> Result<_, WorkerError> {
        let ring = Ring::new(&setup.mem, queue, setup.features, BYTE_LIMIT)?;
        let chain = ring.new_chain();
        Ok(Side { ring, chain, awake: true })
    };
    let (rx, tx) = (side(&setup.rx.0)?, side(&setup.tx.0)?);
    events.watch(&setup.rx.1, u64::from(RX), EventSet::IN)?;
    events.watch(&setup.tx.1, u64::from(TX), EventSet::IN)?;
    let any = EventSet::IN | EventSet::OUT | EventSet::READ_HANG_UP;
    let watch = |fd, token| events.watch(&Source(fd), token, any);
    attached.watch(&watch)?;
    let mut worker = Worker { rx, tx, attached, setup };
    loop {
        let idle = !worker.has_work();
        if !events.wait(idle, |token, set| worker.note(token, set))? {
            return Ok(());
        }
        worker.transmit()?;
        worker.attached.work(&watch);
        worker.resize();
        worker.receive()?;
    }
}

impl Worker<'_> {
    fn note(&mut self, token: u64, set: EventSet) {
        match token {
            _ if token == u64::from(RX) => self.rx.awake = true,
            _ if token == u64::from(TX) => self.tx.awake = true,
            _ => self.attached.note(token, set),
        }
    }

    fn has_work(&self) -> bool {
        let typed = !self.attached.input().is_empty();
        self.tx.awake || self.rx.awake && typed || self.attached.has_work()
    }

    /// Tells the guest when the terminal has changed its size.
    fn resize(&mut self) {
        if let Some(size) = self.attached.take_size()
            && self.setup.size.swap(pack(size), Ordering::SeqCst) != pack(size)
        {
            self.setup.interrupt.config_changed();
        }
    }

    /// Takes output of the guest's, whether anybody reads it or not.
    fn transmit(&mut self) -> Result<(), Fault> {
        if !self.tx.awake {
            return Ok(());
        }
        let Side { ring, chain, awake } = &mut self.tx;
        let mut bytes = [0; STEP];
        ring.disable_kicks()?;
        *awake = false;
        for taken in 1..=BATCH {
            if !ring.pop(chain)? {
                break;
            }
            let mut left = chain.readable_len();
            while left > 0 {
                let Some(step) = bytes.get_mut(..left.min(STEP)) else { break };
                if !chain.read_exact(step) {
                    break;
                }
                left -= step.len();
                self.attached.push_output(step);
            }
            ring.push(chain.head(), 0)?;
            *awake = taken == BATCH;
        }
        if ring.publish()? {
            self.setup.interrupt.used(TX);
        }
        *awake = *awake || ring.enable_kicks()?;
        Ok(())
    }

    /// Gives the guest what was typed, as far as it has buffers for it.
    fn receive(&mut self) -> Result<(), Fault> {
        let Side { ring, chain, awake } = &mut self.rx;
        if !*awake || self.attached.input().is_empty() {
            return Ok(());
        }
        ring.disable_kicks()?;
        for _ in 0..BATCH {
            if self.attached.input().is_empty() {
                break;
            }
            if !ring.pop(chain)? {
                *awake = false;
                break;
            }
            // Two pieces at most: what is typed lies in a ring.
            let mut count = 0;
            for _ in 0..2 {
                let written = chain.write(self.attached.input());
                self.attached.take_input(written);
                count += written;
            }
            ring.push(chain.head(), count as u32)?;
        }
        if ring.publish()? {
            self.setup.interrupt.used(RX);
        }
        if !*awake {
            *awake = ring.enable_kicks()?;
        }
        Ok(())
    }
}
