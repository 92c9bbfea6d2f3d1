//! The pairs of queues of a card, each with a way of its own to the host, and how many of them the driver uses
//! (virtio 1.2, section 5.1.6.5.6).

use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use vmm_sys_util::eventfd::EventFd;

use super::backend::Backend;
use super::tap::TapQueue;
use crate::vmm::virtio::new_event;

/// All pairs of a card. Those from the first on are in use, one at least.
#[derive(Debug)]
pub(super) struct Pairs {
    list: Vec<Pair>,
}

#[derive(Debug)]
struct Pair {
    /// The worker's while there is one.
    backend: Arc<Mutex<Backend>>,
    /// What has the host send frames this way, or not; it would fill a queue that nobody empties.
    switch: Option<TapQueue>,
    active: AtomicBool,
    /// Signalled when the driver begins to use it.
    wake: EventFd,
}

impl Pairs {
    /// One for each of `backends`; the first is in use.
    ///
    /// # Errors
    /// When descriptors cannot be had, or the host does not switch a queue off.
    pub(super) fn new(backends: Vec<Backend>) -> io::Result<Self> {
        let pair = |backend: Backend| {
            let switch = backend.switch()?;
            let (backend, active) = (Arc::new(Mutex::new(backend)), AtomicBool::new(true));
            Ok(Pair { backend, switch, active, wake: new_event()? })
        };
        let pairs = Self { list: backends.into_iter().map(pair).collect::<io::Result<_>>()? };
        pairs.use_first(1)?;
        Ok(pairs)
    }

    pub(super) fn len(&self) -> usize {
        self.list.len()
    }

    /// The back-end of a pair.
    pub(super) fn backend(&self, number: usize) -> Option<Arc<Mutex<Backend>>> {
        self.list.get(number).map(|pair| pair.backend.clone())
    }

    /// What is signalled when the driver begins to use a pair.
    pub(super) fn wake(&self, number: usize) -> Option<&EventFd> {
        self.list.get(number).map(|pair| &pair.wake)
    }

    /// Whether the driver uses a pair.
    pub(super) fn is_active(&self, number: usize) -> bool {
        self.list.get(number).is_some_and(|pair| pair.active.load(Ordering::SeqCst))
    }

    /// Uses the first `count` pairs from now on.
    ///
    /// # Errors
    /// When the host refuses; the pairs before that one are as they are to be.
    pub(super) fn use_first(&self, count: usize) -> io::Result<()> {
        for (number, pair) in self.list.iter().enumerate() {
            let wanted = number < count;
            if pair.active.load(Ordering::SeqCst) == wanted {
                continue;
            }
            let switch = |on| pair.switch.as_ref().map_or(Ok(()), |switch: &TapQueue| switch.set(on));
            if wanted {
                switch(true)?;
                pair.active.store(true, Ordering::SeqCst);
                // A write fails only when the counter is full, and then it is awake anyway.
                let _ = pair.wake.write(1);
            } else {
                // A worker that finds it switched off has to see why.
                pair.active.store(false, Ordering::SeqCst);
                switch(false)?;
            }
        }
        Ok(())
    }
}
