//! The same folder for another program that runs the machine: a vhost-user back-end.
//!
//! Protocol and shared memory are the `vhost` crates' part; queues and chains are read by the same code
//! as everywhere here, and the requests are the same server's.

use std::io;
use std::os::unix::net::UnixListener;
use std::sync::{Arc, Mutex, PoisonError};

use vhost::vhost_user::Listener;
use vhost::vhost_user::message::{VhostUserProtocolFeatures, VhostUserVirtioFeatures};
use vhost_user_backend::{VhostUserBackendMut, VhostUserDaemon, VringRwLock, VringT};
use virtio_queue::QueueT;
use vm_memory::{GuestAddressSpace, GuestMemoryAtomic, GuestMemoryMmap};
use vmm_sys_util::epoll::EventSet;

use super::server::Server;
use super::{BYTE_LIMIT, Budget, Feed, NAME, QUEUE_SIZE, QUEUES, open_server, serve};
use crate::vmm::Share;
use crate::vmm::virtio::queue::Ring;
use crate::vmm::virtio::worker::WorkerError;
use crate::vmm::virtio::{Error, VIRTIO_F_EVENT_IDX, VIRTIO_F_INDIRECT_DESC, VIRTIO_F_VERSION_1, error_text};

/// The number of the event that the host has changed something; those below are the library's.
const CHANGES: u16 = QUEUES as u16 + 1;

/// Memory as the other program maps it, and maps it anew.
type Shared = GuestMemoryAtomic<GuestMemoryMmap>;

/// A shared folder that another program offers to its guest.
pub struct VhostFs {
    backend: Arc<Mutex<Backend>>,
    memory: Shared,
}

/// One that is being served, until this is dropped or the other program goes.
pub struct Serving {
    daemon: VhostUserDaemon<Arc<Mutex<Backend>>>,
}

impl VhostFs {
    /// Opens the folder. Nothing else is opened later, but what lies in it. All of a machine have one `budget`.
    ///
    /// # Errors
    /// [`Error::Fs`] when the folder cannot serve.
    pub fn open(share: &Share, budget: &Budget) -> Result<Self, Error> {
        let memory = Shared::new(GuestMemoryMmap::new());
        let server = open_server(share, budget)?;
        let backend = Backend { server, memory: memory.clone(), features: 0, broken: false };
        Ok(Self { backend: Arc::new(Mutex::new(backend)), memory })
    }

    /// The same, which tells `feed` of what the host changes in the folder of that tag.
    #[must_use]
    pub fn telling(self, feed: &Feed, tag: &str) -> Self {
        self.backend.lock().unwrap_or_else(PoisonError::into_inner).server.tell(feed, tag);
        self
    }

    /// Takes over from one that died under the guest.
    #[must_use]
    pub fn taking_over(self) -> Self {
        self.backend.lock().unwrap_or_else(PoisonError::into_inner).server.take_over();
        self
    }

    /// Waits for the program to connect to `listener` and serves it, on threads of its own.
    ///
    /// # Errors
    /// When nobody can connect or a thread does not start.
    pub fn serve(self, listener: UnixListener) -> io::Result<Serving> {
        let failed = |error: vhost_user_backend::Error| io::Error::other(error.to_string());
        let source = self.backend.lock().unwrap_or_else(PoisonError::into_inner).server.source();
        let mut daemon =
            VhostUserDaemon::new("share".to_owned(), self.backend, self.memory).map_err(failed)?;
        if let (Some(source), Some(events)) = (source, daemon.get_epoll_handlers().first()) {
            events.register_listener(source, EventSet::IN, CHANGES.into())?;
        }
        daemon.start(&mut Listener::from(listener)).map_err(failed)?;
        Ok(Serving { daemon })
    }
}

impl Serving {
    /// Blocks until the other program is gone.
    pub fn wait(mut self) {
        // It may go in the middle of a message: then it has ended, too.
        if let Err(error) = self.daemon.wait() {
            tracing::debug!(%error, "the program that ran the machine is gone");
        }
        // Its workers wait for doorbells that nobody rings any more, and dropping it would wait for them.
        std::mem::forget(self);
    }
}

/// What the threads of the protocol call.
struct Backend {
    server: Server,
    memory: Shared,
    features: u64,
    /// The driver broke the rules of a queue; nothing more is done for it until it begins again.
    broken: bool,
}

impl Backend {
    /// Does all that the driver asks for in both queues.
    fn work(&mut self, vrings: &[VringRwLock]) -> Result<(), WorkerError> {
        let memory = self.memory.memory();
        let mut more = true;
        while more {
            more = false;
            for vring in vrings {
                // Whoever sets the queue up has to wait for the end of a batch.
                let mut state = vring.get_mut();
                if !state.get_queue().ready() || !state.is_enabled() {
                    continue;
                }
                // All that was taken has been given back, but for what a server before this one died of: that is done
                // again. It takes nothing before it has done what it took before.
                let used = state.get_queue().next_used();
                state.get_queue_mut().set_next_avail(used);
                let mut ring = Ring::new(&memory, state.get_queue(), self.features, BYTE_LIMIT)?;
                let mut chain = ring.new_chain();
                let interrupt = || {
                    // It fails only when the counter is full, and then the driver is woken anyway.
                    let _ = state.signal_used_queue();
                };
                more |= serve(&mut ring, &mut chain, &mut self.server, interrupt)?;
                let (avail, used) = ring.positions();
                let queue = state.get_queue_mut();
                queue.set_next_avail(avail);
                queue.set_next_used(used);
            }
        }
        Ok(())
    }
}

impl VhostUserBackendMut for Backend {
    type Bitmap = ();
    type Vring = VringRwLock;

    fn num_queues(&self) -> usize {
        QUEUES
    }

    fn max_queue_size(&self) -> usize {
        QUEUE_SIZE.into()
    }

    fn features(&self) -> u64 {
        let protocol = VhostUserVirtioFeatures::PROTOCOL_FEATURES.bits();
        VIRTIO_F_VERSION_1 | VIRTIO_F_INDIRECT_DESC | VIRTIO_F_EVENT_IDX | protocol
    }

    fn acked_features(&mut self, features: u64) {
        self.features = features;
        self.broken = false;
    }

    fn protocol_features(&self) -> VhostUserProtocolFeatures {
        VhostUserProtocolFeatures::MQ | VhostUserProtocolFeatures::REPLY_ACK
    }

    /// The rings read it from the features.
    fn set_event_idx(&mut self, _enabled: bool) {}

    fn update_memory(&mut self, memory: Shared) -> io::Result<()> {
        self.memory = memory;
        Ok(())
    }

    /// An error would end the thread, and with it all that comes after a reset.
    fn handle_event(
        &mut self,
        event: u16,
        _set: EventSet,
        vrings: &[VringRwLock],
        _thread: usize,
    ) -> io::Result<()> {
        if event == CHANGES {
            // It comes again as long as there is more.
            self.server.hear();
            return Ok(());
        }
        if !self.broken
            && let Err(error) = self.work(vrings)
        {
            tracing::warn!(device = NAME, error = %error_text(&error), "virtio device needs a reset");
            self.broken = true;
        }
        Ok(())
    }
}
