//! The socket device (virtio 1.2, section 5.10): stream sockets between guest and host.
//!
//! A guest reaches the ports of the host that the [`Vsock`](crate::vmm::Vsock) lists, each a service.
//! Programs of the host reach the guest through one listening UNIX socket:
//! they write `CONNECT <port>\n` and, once the guest has taken the connection, read `OK <port>\n`; or through
//! listening sockets of which each leads to one port of the guest, where there is nothing to be said. One that
//! ends what it sends before the guest has taken such a connection is taken for gone.

mod connection;
mod error;
mod host;
mod mux;
mod packet;
mod worker;

pub use error::VsockError;

use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex};

use super::device::{Activation, VirtioDevice, read_bytes};
use super::worker::{Worker as Thread, ready_queues};
use super::{Error, VIRTIO_F_EVENT_IDX, VIRTIO_F_INDIRECT_DESC, VIRTIO_F_VERSION_1};
use host::Host;
use worker::Setup;

/// Device type 19 (virtio 1.2, section 5).
const DEVICE_ID: u32 = 19;
/// Descriptors in each queue.
const QUEUE_SIZE: u16 = 128;
/// The lowest context identifier that is not reserved (section 5.10.4).
const FIRST_CID: u32 = 3;
/// The name of the worker thread.
const NAME: &str = "virtio-vsock";

/// Feature bit: stream sockets (section 5.10.3).
const F_STREAM: u64 = 1 << 0;

/// Connections at a time, all states and directions together.
pub const MAX_CONNECTIONS: usize = 256;
/// Bytes on their way from the guest that are kept for one connection: its credit.
pub const BUFFER: u32 = 64 * 1024;
/// Refusals that wait for the guest to offer buffers; more are not sent.
pub const MAX_RESETS: usize = 256;

/// What a device did not do for its guest.
#[derive(Debug, Default)]
pub struct Counters {
    /// Packets without a whole header, or from an address that is not the guest's.
    pub dropped: AtomicU64,
    /// Refusals that were not sent because too many waited.
    pub resets_dropped: AtomicU64,
}

/// A socket device.
#[derive(Debug)]
pub struct Vsock {
    cid: u32,
    /// The worker's while there is one.
    host: Arc<Mutex<Host>>,
    counters: Arc<Counters>,
    worker: Option<Thread>,
}

impl Vsock {
    /// A device with what `spec` lists behind it. A reset of the device ends all connections; the
    /// listener stays.
    ///
    /// # Errors
    /// [`Error::Vsock`] when the address or a descriptor cannot serve.
    pub fn new(spec: crate::vmm::Vsock) -> Result<Self, Error> {
        let cid = spec.cid;
        if !(FIRST_CID..u32::MAX).contains(&cid) {
            return Err(VsockError::Cid { cid }.into());
        }
        Ok(Self { cid, host: Arc::new(Mutex::new(Host::new(spec)?)), counters: Arc::default(), worker: None })
    }

    /// What the device did not do since it was made.
    pub fn counters(&self) -> Arc<Counters> {
        Arc::clone(&self.counters)
    }
}

impl VirtioDevice for Vsock {
    fn device_id(&self) -> u32 {
        DEVICE_ID
    }

    /// Packets to the guest, packets from it, events.
    fn queue_max_sizes(&self) -> &[u16] {
        &[QUEUE_SIZE; 3]
    }

    fn features(&self) -> u64 {
        VIRTIO_F_VERSION_1 | VIRTIO_F_INDIRECT_DESC | VIRTIO_F_EVENT_IDX | F_STREAM
    }

    fn read_config(&self, offset: u64, data: &mut [u8]) {
        read_bytes(&u64::from(self.cid).to_le_bytes(), offset, data);
    }

    fn activate(&mut self, activation: Activation) -> Result<(), Error> {
        self.worker = None;
        let Activation { mem, features, queues, interrupt } = activation;
        // The third queue tells of a moved guest, which does not happen here.
        let [rx, tx, _events] = ready_queues(queues)?;
        if self.host.is_poisoned() {
            return Err(Error::WorkerFailed { device: NAME });
        }
        let (host, counters) = (Arc::clone(&self.host), Arc::clone(&self.counters));
        let setup = Setup { mem, features, rx, tx, interrupt, cid: self.cid };
        self.worker = Some(Thread::spawn(NAME, move |events| {
            let Ok(mut host) = host.lock() else { return };
            worker::run(&events, &setup, &mut host, &counters);
        })?);
        Ok(())
    }

    fn reset(&mut self) {
        self.worker = None;
    }
}
