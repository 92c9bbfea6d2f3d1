//! The file system device (virtio 1.2, section 5.11): a folder of the host that the guest mounts.
//!
//! The driver speaks FUSE through two queues, one of them for requests that nothing may hold up. One
//! worker serves both and does one request at a time, on a [`server`] that has no locks for that reason.
//! [`VhostFs`] is the same for a guest that another program runs.

mod error;
mod feed;
mod relay;
mod server;
mod vhost;

pub use error::FsError;
pub use feed::{Feed, LISTENS, flush};
pub use relay::{Relay, introduce};
#[cfg(test)]
pub(crate) use server::tests::escape::while_they_change_places;
pub use server::{Budget, MAX_DESCRIPTORS};
pub use vhost::{Serving, VhostFs};

use std::sync::{Arc, Mutex, PoisonError};

use virtio_queue::Queue;
use vm_memory::GuestMemoryMmap;
use vmm_sys_util::epoll::EventSet;
use vmm_sys_util::eventfd::EventFd;

use super::chain::Chain;
use super::device::{Activation, Interrupt, VirtioDevice, read_bytes};
use super::queue::{Fault, Ring};
use super::worker::{Events, Source, Worker, WorkerError, give_up, ready_queues};
use super::{Error, VIRTIO_F_EVENT_IDX, VIRTIO_F_INDIRECT_DESC, VIRTIO_F_VERSION_1};
use crate::vmm::Share;
use server::Server;

/// Device type 26 (virtio 1.2, section 5).
const DEVICE_ID: u32 = 26;
/// Queues: urgent requests, others.
const QUEUES: usize = 2;
/// Descriptors in each queue. The largest request takes 262, one for each page and six more; QEMU lets
/// drivers behind memory-mapped registers choose as many as this, whatever it is told.
const QUEUE_SIZE: u16 = 1024;
/// Bytes of the tag (section 5.11.4).
pub const TAG_LEN: usize = 36;
/// Most bytes in one chain: the largest transfer and what goes with it.
const BYTE_LIMIT: u32 = (1 << 20) + (64 << 10);
/// Requests between two looks at the order to stop and at the other queue.
const BATCH: u16 = 16;
/// Batches at most before the server hears what the host has changed.
const TURNS: u32 = 64;
/// The token of what the host has changed; queues have theirs from 0.
const CHANGES: u64 = QUEUES as u64;
/// The name of the worker thread.
const NAME: &str = "virtio-fs";

/// A shared folder.
#[derive(Debug)]
pub struct Fs {
    tag: String,
    config: [u8; TAG_LEN + 4],
    /// The worker's while there is one.
    server: Arc<Mutex<Server>>,
    worker: Option<Worker>,
}

impl Fs {
    /// A device for the folder that `share` names, which is opened. All of a machine have one `budget`.
    ///
    /// # Errors
    /// [`Error::Fs`] when the tag or the folder cannot serve.
    pub fn new(share: &Share, budget: &Budget) -> Result<Self, Error> {
        let mut config = [0; TAG_LEN + 4];
        let tag = share.tag.as_bytes();
        match config.get_mut(..tag.len()) {
            Some(start) if (1..=TAG_LEN).contains(&tag.len()) && !tag.contains(&0) => {
                start.copy_from_slice(tag);
            }
            _ => return Err(FsError::Tag { tag: share.tag.clone() }.into()),
        }
        if let Some(queues) = config.last_chunk_mut() {
            // One for requests that are not urgent.
            *queues = 1u32.to_le_bytes();
        }
        Ok(Self {
            tag: share.tag.clone(),
            config,
            server: Arc::new(Mutex::new(open_server(share, budget)?)),
            worker: None,
        })
    }

    /// The same, which tells `feed` of what the host changes in the folder.
    #[must_use]
    pub fn telling(self, feed: &Feed) -> Self {
        self.server.lock().unwrap_or_else(PoisonError::into_inner).tell(feed, &self.tag);
        self
    }
}

fn open_server(share: &Share, budget: &Budget) -> Result<Server, FsError> {
    let mut server = Server::open(&share.source, share.read_only, share.owner, budget)
        .map_err(|source| FsError::Source { path: share.source.clone(), source })?;
    share.hidden.iter().for_each(|path| server.hide(path));
    Ok(server)
}

impl VirtioDevice for Fs {
    fn device_id(&self) -> u32 {
        DEVICE_ID
    }

    fn queue_max_sizes(&self) -> &[u16] {
        &[QUEUE_SIZE; QUEUES]
    }

    fn features(&self) -> u64 {
        VIRTIO_F_VERSION_1 | VIRTIO_F_INDIRECT_DESC | VIRTIO_F_EVENT_IDX
    }

    fn read_config(&self, offset: u64, data: &mut [u8]) {
        read_bytes(&self.config, offset, data);
    }

    fn activate(&mut self, activation: Activation) -> Result<(), Error> {
        self.reset();
        let Activation { mem, features, queues, interrupt } = activation;
        let queues = ready_queues(queues)?;
        if self.server.is_poisoned() {
            return Err(Error::WorkerFailed { device: NAME });
        }
        let server = Arc::clone(&self.server);
        let setup = Setup { mem, features, queues, interrupt };
        self.worker = Some(Worker::spawn(NAME, move |events| {
            let Ok(mut server) = server.lock() else { return };
            if let Err(error) = run(&events, &setup, &mut server) {
                give_up(NAME, &error, &setup.interrupt);
            }
        })?);
        Ok(())
    }

    /// Whatever the guest had open is closed.
    fn reset(&mut self) {
        self.worker = None;
        self.server.lock().unwrap_or_else(PoisonError::into_inner).reset();
    }
}

/// What the worker takes over from the device.
struct Setup {
    mem: GuestMemoryMmap,
    features: u64,
    queues: [(Queue, EventFd); QUEUES],
    interrupt: Interrupt,
}

/// Serves both queues until told to stop or the driver breaks the rules.
fn run(events: &Events, setup: &Setup, server: &mut Server) -> Result<(), WorkerError> {
    let mut sides = Vec::with_capacity(QUEUES);
    for (number, (queue, kick)) in (0..).zip(&setup.queues) {
        let ring = Ring::new(&setup.mem, queue, setup.features, BYTE_LIMIT)?;
        events.watch(kick, number, EventSet::IN)?;
        let chain = ring.new_chain();
        sides.push((ring, chain, true));
    }
    if let Some(source) = server.source() {
        events.watch(&Source(source), CHANGES, EventSet::IN)?;
    }
    let (mut changed, mut turns) = (server.source().is_some(), 0);
    loop {
        let idle = !changed && !sides.iter().any(|(_, _, awake)| *awake);
        let woken = |token: u64, _| {
            changed |= token == CHANGES;
            if let Some((_, _, awake)) = usize::try_from(token).ok().and_then(|side| sides.get_mut(side)) {
                *awake = true;
            }
        };
        if !events.wait(idle, woken)? {
            return Ok(());
        }
        for (number, (ring, chain, awake)) in (0..).zip(&mut sides).filter(|(_, side)| side.2) {
            *awake = serve(ring, chain, server, || setup.interrupt.used(number))?;
        }
        // Most are of what the guest has just done: they come together meanwhile.
        turns += 1;
        if changed && (turns >= TURNS || !sides.iter().any(|(_, _, awake)| *awake)) {
            (changed, turns) = (!server.hear(), 0);
        }
    }
}

/// Up to [`BATCH`] requests; true when there may be more. Each is answered at once, because the next
/// may take long.
fn serve<'m>(
    ring: &mut Ring<'m>,
    chain: &mut Chain<'m>,
    server: &mut Server,
    interrupt: impl Fn(),
) -> Result<bool, Fault> {
    ring.disable_kicks()?;
    for _ in 0..BATCH {
        if !ring.pop(chain)? {
            return ring.enable_kicks();
        }
        let written = server.handle(chain);
        ring.push(chain.head(), written)?;
        if ring.publish()? {
            interrupt();
        }
    }
    Ok(true)
}
