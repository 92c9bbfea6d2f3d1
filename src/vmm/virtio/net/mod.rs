//! The network device (virtio 1.2, section 5.1): one pair of queues, one worker.

mod backend;
mod batch;
mod checksum;
mod error;
mod loopback;
mod offload;
mod receive;
mod served;
mod stream;
mod tap;
mod vhost;
mod worker;

pub use error::NetError;
pub use loopback::is_for_loopback;
pub use vhost::{PeerError, VhostNet};

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use super::device::{Activation, Interrupt, VirtioDevice, read_bytes};
use super::worker::{Worker as Thread, ready_queues};
use super::{Error, VIRTIO_F_EVENT_IDX, VIRTIO_F_INDIRECT_DESC, VIRTIO_F_VERSION_1, error_text};
use backend::Backend;
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
/// The name of the worker thread.
const NAME: &str = "virtio-net";

/// Feature bits of the network device (virtio 1.2, section 5.1.3).
const F_MAC: u64 = 1 << 5;
const F_MRG_RXBUF: u64 = 1 << 15;
const F_STATUS: u64 = 1 << 16;
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
    /// Taken from the guest and sent.
    pub sent: AtomicU64,
    /// Bytes of those, counted when they are taken.
    pub sent_bytes: AtomicU64,
    /// Taken from the guest and not sent: no frame, another card's address, or no link.
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
    /// The worker's while there is one.
    backend: Arc<Mutex<Backend>>,
    shared: Arc<Shared>,
    mac: [u8; 6],
    features: u64,
    worker: Option<Thread>,
}

impl Net {
    /// A card with the back-end that `net` names. When the back-end goes away later, the guest
    /// sees its link go down.
    ///
    /// # Errors
    /// [`Error::Net`] when the back-end cannot serve.
    pub fn new(net: crate::vmm::Net) -> Result<Self, Error> {
        check_mac(net.mac)?;
        let backend = Backend::new(net.backend)?;
        let basic = VIRTIO_F_VERSION_1 | VIRTIO_F_INDIRECT_DESC | VIRTIO_F_EVENT_IDX;
        let features = basic | F_MAC | F_MRG_RXBUF | F_STATUS | backend.features();
        let shared = Shared { counters: Arc::default(), up: AtomicBool::new(true) };
        Ok(Self {
            backend: Arc::new(Mutex::new(backend)),
            shared: Arc::new(shared),
            mac: net.mac,
            features,
            worker: None,
        })
    }

    /// Frames carried and dropped since the card was made; they go on counting.
    pub fn counters(&self) -> Arc<Counters> {
        Arc::clone(&self.shared.counters)
    }
}

impl VirtioDevice for Net {
    fn device_id(&self) -> u32 {
        DEVICE_ID
    }

    fn queue_max_sizes(&self) -> &[u16] {
        &[QUEUE_SIZE, QUEUE_SIZE]
    }

    fn features(&self) -> u64 {
        self.features
    }

    fn read_config(&self, offset: u64, data: &mut [u8]) {
        let mut config = [0; 8];
        let (mac, status) = config.split_at_mut(6);
        mac.copy_from_slice(&self.mac);
        let link = if self.shared.is_up() { LINK_UP } else { 0 };
        status.copy_from_slice(&link.to_le_bytes());
        read_bytes(&config, offset, data);
    }

    fn activate(&mut self, activation: Activation) -> Result<(), Error> {
        self.worker = None;
        let Activation { mem, features, queues, interrupt } = activation;
        let [rx, tx] = ready_queues(queues)?;
        // Before the driver goes on: what comes in from now on is as it agreed to take it.
        let failed = |_| Error::WorkerFailed { device: NAME };
        self.backend.lock().map_err(failed)?.set_features(features).map_err(NetError::Offloads)?;
        let (backend, shared) = (Arc::clone(&self.backend), Arc::clone(&self.shared));
        let setup = Setup { mem, features, rx, tx, interrupt, mac: self.mac };
        self.worker = Some(Thread::spawn(NAME, move |events| {
            let Ok(mut backend) = backend.lock() else { return };
            worker::run(&events, &setup, &mut backend, &shared);
        })?);
        Ok(())
    }

    fn reset(&mut self) {
        self.worker = None;
    }
}
