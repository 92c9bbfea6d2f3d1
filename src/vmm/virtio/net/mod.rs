//! The network device (virtio 1.2, section 5.1): pairs of queues with a worker each, and a control queue where there
//! are several.

mod backend;
mod batch;
mod checksum;
mod control;
mod error;
mod loopback;
mod offload;
mod pairs;
mod receive;
mod served;
mod stream;
mod tap;
mod vhost;
mod worker;

pub use error::NetError;
pub use loopback::is_for_loopback;
pub use vhost::{PeerError, VhostNet};

use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use virtio_queue::{Queue, QueueT};
use vm_memory::GuestMemoryMmap;
use vmm_sys_util::eventfd::EventFd;

use super::chain::Chain;
use super::device::{Activation, Interrupt, VirtioDevice, read_bytes};
use super::worker::{Options, Worker as Thread, ready_queues, serve};
use super::{Error, VIRTIO_F_EVENT_IDX, VIRTIO_F_INDIRECT_DESC, VIRTIO_F_VERSION_1, error_text};
use crate::vmm::NetBackend;
use backend::Backend;
use pairs::Pairs;
use worker::Setup;

/// Device type 1 (virtio 1.2, section 5).
const DEVICE_ID: u32 = 1;
/// Descriptors in each queue.
const QUEUE_SIZE: u16 = 256;
/// Bytes before each frame between driver and device (virtio 1.2, section 5.1.6).
const HEADER_LEN: usize = 12;
/// Bytes of the shortest frame: two addresses and a type.
const ETHERNET_HEADER: usize = 14;
/// Bytes of the longest frame: the largest IP packet and an ethernet header with a VLAN tag.
const MAX_FRAME: usize = 65535 + ETHERNET_HEADER + 4;
/// Pairs of queues at most.
const MAX_PAIRS: usize = 8;
/// The sizes of all queues that there can be: those of the pairs, then control.
const QUEUE_SIZES: [u16; 2 * MAX_PAIRS + 1] = [QUEUE_SIZE; 2 * MAX_PAIRS + 1];
/// The name of the worker thread.
const NAME: &str = "virtio-net";

/// Feature bits of the network device (virtio 1.2, section 5.1.3).
const F_MAC: u64 = 1 << 5;
const F_MRG_RXBUF: u64 = 1 << 15;
const F_STATUS: u64 = 1 << 16;
const F_CTRL_VQ: u64 = 1 << 17;
const F_MQ: u64 = 1 << 22;
/// `VIRTIO_NET_S_LINK_UP`.
const LINK_UP: u16 = 1;

/// What a card carried and did not carry: frames, and bytes of those with their Ethernet headers.
#[derive(Debug, Default)]
pub struct Counters {
    /// Given to the guest.
    pub received: AtomicU64,
    /// Bytes of those.
    pub received_bytes: AtomicU64,
    /// Too long for the guest's buffers.
    pub receive_dropped: AtomicU64,
    /// Taken from the guest and by the back-end.
    pub sent: AtomicU64,
    /// Bytes of those.
    pub sent_bytes: AtomicU64,
    /// Taken from the guest and not sent: no frame, another card's address, no link, or one that the back-end
    /// refused.
    pub send_dropped: AtomicU64,
}

/// What device and worker both look at.
#[derive(Debug)]
struct Shared {
    counters: Arc<Counters>,
    up: AtomicBool,
}

impl Shared {
    fn is_up(&self) -> bool {
        self.up.load(Ordering::Relaxed)
    }

    /// Takes the link down for good and says so, once.
    fn link_down(&self, cause: &dyn std::error::Error, interrupt: &Interrupt) {
        if self.up.swap(false, Ordering::SeqCst) {
            tracing::warn!(cause = %error_text(cause), "network link of the guest is down");
            interrupt.config_changed();
        }
    }
}

/// A card's address is unicast, and somebody's.
fn check_mac(mac: [u8; 6]) -> Result<(), NetError> {
    if mac[0] & 1 != 0 || mac == [0; 6] { Err(NetError::Mac { mac }) } else { Ok(()) }
}

/// A network card.
#[derive(Debug)]
pub struct Net {
    pairs: Arc<Pairs>,
    shared: Arc<Shared>,
    mac: [u8; 6],
    features: u64,
    /// One for each pair that the driver set up, and one for the control queue.
    workers: Vec<Thread>,
}

impl Net {
    /// A card with the back-end that `net` names. When the back-end goes away later, the guest
    /// sees its link go down.
    ///
    /// # Errors
    /// [`Error::Net`] when the back-end cannot serve.
    pub fn new(net: crate::vmm::Net) -> Result<Self, Error> {
        Self::with_pairs(net, 1)
    }

    /// As [`new`](Self::new), with a pair of queues for each of `cpus`, 8 at most, where the back-end has as
    /// many: a TAP interface that was made for it.
    ///
    /// # Errors
    /// [`Error::Net`] when the back-end cannot serve.
    pub fn with_pairs(net: crate::vmm::Net, cpus: usize) -> Result<Self, Error> {
        check_mac(net.mac)?;
        Self::over(net.mac, Backend::open(net.backend, cpus.clamp(1, MAX_PAIRS))?)
    }

    /// A card with a pair of queues for each of several connected stream sockets: its control queue for tests
    /// on hosts without TAP interfaces.
    ///
    /// # Errors
    /// [`Error::Net`] when one of them cannot serve.
    #[doc(hidden)]
    pub fn over_sockets(mac: [u8; 6], sockets: Vec<OwnedFd>) -> Result<Self, Error> {
        let streams = sockets.into_iter().map(|socket| Backend::open(NetBackend::Stream(socket), 1));
        let streams = streams.collect::<Result<Vec<_>, _>>()?;
        Self::over(mac, streams.into_iter().flatten().collect())
    }

    fn over(mac: [u8; 6], backends: Vec<Backend>) -> Result<Self, Error> {
        let basic = VIRTIO_F_VERSION_1 | VIRTIO_F_INDIRECT_DESC | VIRTIO_F_EVENT_IDX;
        let offered = backends.first().map_or(0, Backend::features);
        let several = if backends.len() > 1 { F_MQ | F_CTRL_VQ } else { 0 };
        let shared = Shared { counters: Arc::default(), up: AtomicBool::new(true) };
        Ok(Self {
            pairs: Arc::new(Pairs::new(backends).map_err(NetError::Queues)?),
            shared: Arc::new(shared),
            mac,
            features: basic | F_MAC | F_MRG_RXBUF | F_STATUS | offered | several,
            workers: Vec::new(),
        })
    }

    /// Frames carried and dropped since the card was made; they go on counting.
    pub fn counters(&self) -> Arc<Counters> {
        Arc::clone(&self.shared.counters)
    }

    /// Starts the worker of a pair.
    fn spawn(&self, setup: Setup) -> Result<Thread, Error> {
        let failed = Error::WorkerFailed { device: NAME };
        let Some(backend) = self.pairs.backend(setup.pair.into()) else { return Err(failed) };
        // Before the driver goes on: what comes in from now on is as it agreed to take it.
        let Ok(mut locked) = backend.lock() else { return Err(failed) };
        locked.set_features(setup.features).map_err(NetError::Offloads)?;
        drop(locked);
        let shared = Arc::clone(&self.shared);
        Thread::spawn(NAME, move |events| {
            let Ok(mut backend) = backend.lock() else { return };
            worker::run(&events, &setup, &mut backend, &shared);
        })
    }

    /// Starts the worker of the control queue, which is that of the number, with `running` pairs.
    fn spawn_control(
        &self,
        number: u16,
        (queue, kick): (Queue, EventFd),
        (mem, features, interrupt): (GuestMemoryMmap, u64, Interrupt),
        running: usize,
    ) -> Result<Thread, Error> {
        let pairs = Arc::clone(&self.pairs);
        Thread::spawn(NAME, move |events| {
            let options = Options { features, byte_limit: control::BYTE_LIMIT, name: NAME };
            serve(number, &events, (&mem, &queue, &kick), &options, &interrupt, |chain: &mut Chain<'_>| {
                control::execute(chain, &pairs, running)
            });
        })
    }

    fn start(&mut self, activation: Activation) -> Result<(), Error> {
        let Activation { mem, features, queues, interrupt } = activation;
        self.pairs.use_first(1).map_err(NetError::Queues)?;
        let most = if features & F_MQ == 0 { 1 } else { self.pairs.len() };
        let mut queues = queues.into_iter();
        let mut set_up: Vec<_> = queues.by_ref().take(2 * most).collect();
        // The first pair is there for every driver; of the others it sets up as many as it likes, in order.
        let mut running = 0;
        while running < most {
            let rest = set_up.split_off(set_up.len().min(2));
            match ready_queues(std::mem::replace(&mut set_up, rest)) {
                Ok([rx, tx]) => {
                    let (mem, interrupt) = (mem.clone(), interrupt.clone());
                    let (pair, pairs) = (running as u16, Arc::clone(&self.pairs));
                    let setup = Setup { mem, features, rx, tx, interrupt, mac: self.mac, pair, pairs };
                    self.workers.push(self.spawn(setup)?);
                    running += 1;
                }
                Err(error) if running == 0 => return Err(error),
                Err(_) => break,
            }
        }
        if features & F_CTRL_VQ != 0
            && let Some(control) = queues.next().filter(|(queue, _)| queue.ready())
        {
            let number = 2 * most as u16;
            self.workers.push(self.spawn_control(number, control, (mem, features, interrupt), running)?);
        }
        Ok(())
    }
}

impl VirtioDevice for Net {
    fn device_id(&self) -> u32 {
        DEVICE_ID
    }

    fn queue_max_sizes(&self) -> &[u16] {
        let control = usize::from(self.features & F_CTRL_VQ != 0);
        QUEUE_SIZES.get(..2 * self.pairs.len() + control).unwrap_or(&QUEUE_SIZES)
    }

    fn features(&self) -> u64 {
        self.features
    }

    fn read_config(&self, offset: u64, data: &mut [u8]) {
        let link = if self.shared.is_up() { LINK_UP } else { 0 };
        // Where there is no choice, nothing is said of it.
        let pairs = if self.features & F_MQ == 0 { 0 } else { self.pairs.len() as u16 };
        let mut config = [0; 10];
        let (mac, words) = config.split_at_mut(self.mac.len());
        mac.copy_from_slice(&self.mac);
        for (to, word) in words.chunks_mut(2).zip([link, pairs]) {
            to.copy_from_slice(&word.to_le_bytes());
        }
        read_bytes(&config, offset, data);
    }

    fn activate(&mut self, activation: Activation) -> Result<(), Error> {
        self.reset();
        self.start(activation).inspect_err(|_| self.reset())
    }

    fn reset(&mut self) {
        for worker in &self.workers {
            worker.tell_to_stop();
        }
        self.workers.clear();
    }
}
