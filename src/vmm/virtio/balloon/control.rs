//! What the balloon shares with the rest of the process: its size as it is and as it should be, and
//! what the guest last said about its memory.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use vmm_sys_util::eventfd::EventFd;

use super::pages::Outcome;
use super::{BALLOON_PAGE, Stats};
use crate::vmm::virtio::device::Interrupt;
use crate::vmm::virtio::{Error, new_event};

/// Offset of `actual` in the configuration (virtio 1.2, section 5.5.4).
const ACTUAL: u64 = 4;

/// A guest's memory, seen through its balloon. Sizes are in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Usage {
    /// What the balloon should hold.
    pub target: u64,
    /// What it holds, as the guest says.
    pub actual: u64,
    /// Given back to the host so far, by inflating and by free page reports; some of it more than
    /// once.
    pub given_back: u64,
    /// Pages that the guest wanted to give back and that are none of its own.
    pub refused: u64,
    /// What the guest says about its memory; `None` where it says nothing.
    pub stats: Option<Stats>,
}

/// Reaches a balloon from other threads; clones reach the same one.
#[derive(Clone)]
pub struct Control {
    shared: Arc<Shared>,
}

impl Control {
    pub(super) fn new(shared: Arc<Shared>) -> Self {
        Self { shared }
    }

    /// Asks the guest to fill the balloon to `bytes`, rounded down to whole pages. It does so as it
    /// can, and takes pages back when it runs out of memory. More than it has is taken for all of it.
    pub fn set_target(&self, bytes: u64) {
        let pages = bytes.min(self.shared.memory) / BALLOON_PAGE;
        self.shared.target.store(u32::try_from(pages).unwrap_or(u32::MAX), Ordering::SeqCst);
        if let Some(interrupt) = &self.shared.state().interrupt {
            interrupt.config_changed();
        }
    }

    /// How things stand. A guest that tells is asked anew and gets `patience` to answer; after that
    /// what it said last counts.
    pub fn usage(&self, patience: Duration) -> Usage {
        let shared = &self.shared;
        let mut state = shared.state();
        if state.tells {
            let before = state.answers;
            state.wanted = true;
            // A write fails only when the counter is full, and then the worker is woken anyway.
            let _ = shared.ask.write(1);
            let waited =
                shared.answered.wait_timeout_while(state, patience, |now| now.tells && now.answers == before);
            state = waited.map_or_else(|poisoned| poisoned.into_inner().0, |(state, _)| state);
        }
        let bytes = |pages: &AtomicU32| u64::from(pages.load(Ordering::SeqCst)) * BALLOON_PAGE;
        Usage {
            target: bytes(&shared.target),
            actual: bytes(&shared.actual),
            given_back: shared.given_back.load(Ordering::Relaxed),
            refused: shared.refused.load(Ordering::Relaxed),
            stats: state.stats,
        }
    }
}

/// What device, worker and [`Control`] look at.
pub(super) struct Shared {
    /// Of the guest, in bytes.
    memory: u64,
    /// In pages.
    target: AtomicU32,
    actual: AtomicU32,
    given_back: AtomicU64,
    refused: AtomicU64,
    state: Mutex<State>,
    answered: Condvar,
    /// Wakes the worker: statistics are wanted.
    pub(super) ask: EventFd,
}

#[derive(Default)]
struct State {
    /// While the device is active.
    interrupt: Option<Interrupt>,
    /// Whether the driver has a queue for statistics.
    tells: bool,
    wanted: bool,
    answers: u64,
    stats: Option<Stats>,
}

impl Shared {
    pub(super) fn new(memory: u64) -> Result<Self, Error> {
        Ok(Self {
            memory,
            target: AtomicU32::new(0),
            actual: AtomicU32::new(0),
            given_back: AtomicU64::new(0),
            refused: AtomicU64::new(0),
            state: Mutex::default(),
            answered: Condvar::new(),
            ask: new_event().map_err(Error::EventFd)?,
        })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// `num_pages`, `actual`, and two fields of features that are not offered.
    pub(super) fn config(&self) -> [u8; 16] {
        let mut config = [0; 16];
        let fields = [&self.target, &self.actual];
        for (to, field) in config.as_chunks_mut::<4>().0.iter_mut().zip(fields) {
            *to = field.load(Ordering::SeqCst).to_le_bytes();
        }
        config
    }

    /// The driver says how large the balloon is; it can write nothing else.
    pub(super) fn write_config(&self, offset: u64, data: &[u8]) {
        if let (ACTUAL, Ok(bytes)) = (offset, <[u8; 4]>::try_from(data)) {
            self.actual.store(u32::from_le_bytes(bytes), Ordering::SeqCst);
        }
    }

    pub(super) fn started(&self, interrupt: Interrupt, tells: bool) {
        let mut state = self.state();
        *state = State { interrupt: Some(interrupt), tells, answers: state.answers, ..State::default() };
    }

    /// The guest that knew the balloon is gone; the target stays for the next.
    pub(super) fn stopped(&self) {
        let mut state = self.state();
        *state = State { answers: state.answers, ..State::default() };
        self.actual.store(0, Ordering::SeqCst);
        self.answered.notify_all();
    }

    /// Nothing will be said any more until the next start.
    pub(super) fn silent(&self) {
        self.state().tells = false;
        self.answered.notify_all();
    }

    /// Whether statistics are wanted; asked once for each wish.
    pub(super) fn take_wish(&self) -> bool {
        std::mem::take(&mut self.state().wanted)
    }

    pub(super) fn answer(&self, stats: Stats) {
        let mut state = self.state();
        state.stats = Some(stats);
        state.answers += 1;
        self.answered.notify_all();
    }

    pub(super) fn count(&self, outcome: Outcome) {
        self.given_back.fetch_add(outcome.given_back, Ordering::Relaxed);
        self.refused.fetch_add(outcome.refused, Ordering::Relaxed);
    }
}
