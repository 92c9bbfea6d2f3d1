//! The entropy device (virtio 1.2, section 5.4): fills buffers from the host's random generator,
//! not faster than [`RATE`]. A request that comes too early waits; none is dropped or cut short for
//! that.

use std::sync::{Arc, Mutex};

use virtio_queue::Queue;
use vm_memory::GuestMemoryMmap;
use vmm_sys_util::epoll::EventSet;
use vmm_sys_util::eventfd::EventFd;

use super::chain::Chain;
use super::device::{Activation, Interrupt, VirtioDevice, read_bytes};
use super::limit::{Bucket, Clock, HostClock};
use super::queue::Ring;
use super::worker::{Events, Source, Worker, WorkerError, give_up, ready_queues};
use super::{Error, VIRTIO_F_EVENT_IDX, VIRTIO_F_INDIRECT_DESC, VIRTIO_F_VERSION_1};

/// Device type 4 (virtio 1.2, section 5).
const DEVICE_ID: u32 = 4;
/// Descriptors in the one queue.
const QUEUE_SIZE: u16 = 64;
/// Most bytes that one request gets, however large its buffers are.
pub const MAX_REQUEST: usize = 64 * 1024;
/// Bytes that a guest gets at once after it was quiet: far more than a boot takes.
pub const BURST: u32 = 1 << 20;
/// Bytes a second in the long run. Guests seed generators of their own with some hundred bytes;
/// more is a guest that keeps a host CPU busy.
pub const RATE: u32 = 1 << 20;
/// Most bytes that one chain may span.
const BYTE_LIMIT: u32 = u32::MAX;
/// Bytes fetched from the host at once.
const STEP: usize = 4096;
/// Requests between two looks at the order to stop, and at most before an interrupt.
const BATCH: u16 = 16;
/// The name of the worker thread.
const NAME: &str = "virtio-rng";
/// What the worker waits for besides the order to stop.
const KICK: u64 = 0;
const TIMER: u64 = 1;

/// The entropy device.
pub struct Rng {
    /// The worker's while there is one. It outlives resets, so that a reset fills no bucket.
    pace: Arc<Mutex<Pace>>,
    worker: Option<Worker>,
}

struct Pace {
    bucket: Bucket,
    /// The host's, from the first start on, unless another was given.
    clock: Option<Box<dyn Clock>>,
}

impl Rng {
    /// An entropy device that takes from `getrandom(2)`.
    pub fn new() -> Self {
        Self::with(None)
    }

    /// One whose rate goes by `clock`.
    pub fn with_clock(clock: Box<dyn Clock>) -> Self {
        Self::with(Some(clock))
    }

    fn with(clock: Option<Box<dyn Clock>>) -> Self {
        let pace = Pace { bucket: Bucket::new(BURST, RATE), clock };
        Self { pace: Arc::new(Mutex::new(pace)), worker: None }
    }
}

impl Default for Rng {
    fn default() -> Self {
        Self::new()
    }
}

impl VirtioDevice for Rng {
    fn device_id(&self) -> u32 {
        DEVICE_ID
    }

    fn queue_max_sizes(&self) -> &[u16] {
        &[QUEUE_SIZE]
    }

    fn features(&self) -> u64 {
        VIRTIO_F_VERSION_1 | VIRTIO_F_INDIRECT_DESC | VIRTIO_F_EVENT_IDX
    }

    fn read_config(&self, offset: u64, data: &mut [u8]) {
        read_bytes(&[], offset, data);
    }

    fn activate(&mut self, activation: Activation) -> Result<(), Error> {
        self.worker = None;
        let Activation { mem, features, queues, interrupt } = activation;
        let [queue] = ready_queues(queues)?;
        if self.pace.is_poisoned() {
            return Err(Error::WorkerFailed { device: NAME });
        }
        let pace = Arc::clone(&self.pace);
        self.worker = Some(Worker::spawn(NAME, move |events| {
            let Ok(mut pace) = pace.lock() else { return };
            let setup = Setup { mem, features, queue, interrupt };
            if let Err(error) = run(&events, &setup, &mut pace) {
                give_up(NAME, &error, &setup.interrupt);
            }
        })?);
        Ok(())
    }

    fn reset(&mut self) {
        self.worker = None;
    }
}

/// What comes next.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Next {
    /// More work.
    Work,
    /// A wait for the driver.
    Kick,
    /// A wait for the clock; kicks change nothing meanwhile.
    Alarm,
}

/// What the worker takes over from the device.
struct Setup {
    mem: GuestMemoryMmap,
    features: u64,
    queue: (Queue, EventFd),
    interrupt: Interrupt,
}

fn run(events: &Events, setup: &Setup, pace: &mut Pace) -> Result<(), WorkerError> {
    let (queue, kick) = &setup.queue;
    let mut ring = Ring::new(&setup.mem, queue, setup.features, BYTE_LIMIT)?;
    let mut chain = ring.new_chain();
    let Pace { bucket, clock } = pace;
    let clock = match clock {
        Some(clock) => clock,
        None => clock.insert(Box::new(HostClock::new()?)),
    };
    events.watch(kick, KICK, EventSet::IN)?;
    events.watch(&Source(clock.as_raw_fd()), TIMER, EventSet::IN)?;
    let mut next = Next::Work;
    loop {
        let mut woken = next == Next::Work;
        let go_on = events.wait(!woken, |token, _| {
            woken |= matches!((token, next), (KICK, Next::Kick) | (TIMER, Next::Alarm));
        })?;
        if !go_on {
            return Ok(());
        }
        if !woken {
            continue;
        }
        next = serve_batch(&mut ring, &mut chain, bucket, clock.as_mut())?;
        if ring.publish()? {
            setup.interrupt.used(0);
        }
        if next == Next::Kick && ring.enable_kicks()? {
            next = Next::Work;
        }
    }
}

/// Fills up to [`BATCH`] chains, as many as there are and the rate allows.
fn serve_batch<'m>(
    ring: &mut Ring<'m>,
    chain: &mut Chain<'m>,
    bucket: &mut Bucket,
    clock: &mut dyn Clock,
) -> Result<Next, WorkerError> {
    ring.disable_kicks()?;
    for _ in 0..BATCH {
        if !ring.pop(chain)? {
            return Ok(Next::Kick);
        }
        let asked = chain.writable_len().min(MAX_REQUEST);
        if let Err(delay) = bucket.take(asked as u32, clock.now()) {
            ring.unpop(1);
            clock.alarm(delay)?;
            return Ok(Next::Alarm);
        }
        ring.push(chain.head(), fill(chain))?;
    }
    Ok(Next::Work)
}

/// Fills the chain's buffers; gives the number of bytes written.
fn fill(chain: &mut Chain<'_>) -> u32 {
    let mut bytes = [0; STEP];
    let mut left = MAX_REQUEST;
    while left > 0 {
        let step = chain.writable_len().min(left).min(STEP);
        let Some(now) = bytes.get_mut(..step).filter(|now| !now.is_empty()) else { break };
        if getrandom::fill(now).is_err() {
            break;
        }
        left -= chain.write(now);
    }
    (MAX_REQUEST - left) as u32
}
