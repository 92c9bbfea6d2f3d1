//! A network card whose queues another process works on (vhost-user): it maps the guest's memory, hears the
//! driver's kicks and raises its interrupts, so that frames cross no socket and are copied once less.
//!
//! Before a reset is done it has said that it stopped, or hung up. One that does neither could write to memory
//! that the guest has put to other use: the machine has to end.
//!
//! When it goes away, the guest sees its link go down. Where a socket was given at which the next one
//! connects, that one takes over at the buffers that the first has not used.

mod peer;
mod worker;

pub use peer::PeerError;

use std::fmt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use vm_memory::GuestMemoryMmap;

use super::offload::F_GUEST_CSUM;
use super::{DEVICE_ID, F_MAC, F_MRG_RXBUF, F_STATUS, LINK_UP, NAME, NetError, QUEUE_SIZE, check_mac};
use crate::vmm::virtio::device::{Activation, VirtioDevice, read_bytes};
use crate::vmm::virtio::worker::{Worker as Thread, ready_queues};
use crate::vmm::virtio::{Error, VIRTIO_F_EVENT_IDX, VIRTIO_F_INDIRECT_DESC, VIRTIO_F_VERSION_1};
use peer::{Peer, Table};
use worker::Setup;

/// Queues of a card: one to receive, one to send.
const QUEUES: usize = 2;
/// `VIRTIO_NET_F_MTU` (virtio 1.2, section 5.1.3).
const F_MTU: u64 = 1 << 3;
/// Features that are the back-end's work.
const BACKEND: u64 = VIRTIO_F_VERSION_1 | VIRTIO_F_INDIRECT_DESC | VIRTIO_F_EVENT_IDX | F_MRG_RXBUF;
/// Those that the card has whatever the back-end is. passt marks what it gives the guest as valid and leaves
/// its checksums out, which a driver may only be told that agreed to it.
const OWN: u64 = F_MAC | F_STATUS | F_GUEST_CSUM;

/// Who works on the queues, and how another one comes.
#[derive(Debug)]
struct Link {
    peer: Option<Peer>,
    listener: Option<UnixListener>,
    table: Table,
    /// One was left behind that may be at work for ever.
    stray: bool,
}

/// What device and worker both look at.
struct Shared {
    up: AtomicBool,
    on_stray: Box<dyn Fn() + Send + Sync>,
}

impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shared").field("up", &self.up).finish_non_exhaustive()
    }
}

/// A network card.
#[derive(Debug)]
pub struct VhostNet {
    /// The worker's while there is one.
    link: Arc<Mutex<Link>>,
    shared: Arc<Shared>,
    mac: [u8; 6],
    mtu: Option<u16>,
    features: u64,
    worker: Option<Thread>,
}

impl VhostNet {
    /// A card of that address, whose queues are worked on by who is at the other end of `socket`, and then by
    /// who connects to `listener`. `mem`, the guest's memory, has to be shared. `mtu` is what the driver is
    /// told to use, if it is not to choose.
    ///
    /// # Errors
    /// [`Error::Net`] when the back-end cannot serve.
    pub fn new(
        mac: [u8; 6],
        mtu: Option<u16>,
        socket: Option<UnixStream>,
        listener: Option<UnixListener>,
        mem: &GuestMemoryMmap,
    ) -> Result<Self, Error> {
        check_mac(mac)?;
        let table = Table::of(mem).map_err(NetError::BackEnd)?;
        if let Some(listener) = &listener {
            listener.set_nonblocking(true).map_err(NetError::NotAStream)?;
        }
        let accepted = || listener.as_ref()?.accept().ok().map(|(socket, _)| socket);
        let nobody = PeerError::Lacks { what: "a connection" };
        let socket = socket.or_else(accepted).ok_or(NetError::BackEnd(nobody))?;
        let peer = Peer::greet(socket, &table).map_err(NetError::BackEnd)?;
        if peer.features() & VIRTIO_F_VERSION_1 == 0 {
            return Err(NetError::BackEnd(PeerError::Lacks { what: "virtio 1.0" }).into());
        }
        let features = OWN | peer.features() & BACKEND | mtu.map_or(0, |_| F_MTU);
        let link = Link { peer: Some(peer), listener, table, stray: false };
        Ok(Self {
            link: Arc::new(Mutex::new(link)),
            shared: Arc::new(Shared { up: AtomicBool::new(true), on_stray: Box::new(|| {}) }),
            mac,
            mtu,
            features,
            worker: None,
        })
    }

    /// Has `tell` called when a back-end neither stops nor hangs up, from the card's thread. The card carries
    /// nothing from then on, and who owns the memory must not use it for anything else.
    #[must_use]
    pub fn on_stray(mut self, tell: impl Fn() + Send + Sync + 'static) -> Self {
        let up = AtomicBool::new(self.shared.up.load(Ordering::SeqCst));
        self.shared = Arc::new(Shared { up, on_stray: Box::new(tell) });
        self
    }
}

impl VirtioDevice for VhostNet {
    fn device_id(&self) -> u32 {
        DEVICE_ID
    }

    fn queue_max_sizes(&self) -> &[u16] {
        &[QUEUE_SIZE; QUEUES]
    }

    fn features(&self) -> u64 {
        self.features
    }

    fn read_config(&self, offset: u64, data: &mut [u8]) {
        let link = if self.shared.up.load(Ordering::SeqCst) { LINK_UP } else { 0 };
        let mut config = [0; 12];
        let (mac, words) = config.split_at_mut(self.mac.len());
        mac.copy_from_slice(&self.mac);
        // Pairs of queues come between; there is one, which is not said.
        for (to, word) in words.chunks_mut(2).zip([link, 0, self.mtu.unwrap_or_default()]) {
            to.copy_from_slice(&word.to_le_bytes());
        }
        read_bytes(&config, offset, data);
    }

    fn activate(&mut self, activation: Activation) -> Result<(), Error> {
        self.worker = None;
        let Activation { mem, features, queues, interrupt } = activation;
        let queues = ready_queues(queues)?;
        if self.link.lock().map_or(true, |link| link.stray) {
            return Err(NetError::BackEnd(PeerError::Stray).into());
        }
        let (link, shared) = (Arc::clone(&self.link), Arc::clone(&self.shared));
        let setup = Setup { mem, features, queues, interrupt };
        self.worker = Some(Thread::spawn(NAME, move |events| {
            let Ok(mut link) = link.lock() else { return };
            worker::run(&events, &setup, &mut link, &shared);
        })?);
        Ok(())
    }

    fn reset(&mut self) {
        self.worker = None;
    }
}
