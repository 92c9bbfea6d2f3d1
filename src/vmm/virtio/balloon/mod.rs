//! The memory balloon (virtio 1.2, section 5.5): memory that the guest does not need goes back to
//! the host.
//!
//! Most of it goes by free page reporting, without being asked for; inflating takes memory away from
//! a guest on purpose. The guest also tells how much memory it thinks it has left.

mod control;
mod pages;
mod stats;
mod worker;

pub use control::{Control, Usage};
pub use stats::Stats;

use std::sync::Arc;

use super::device::{Activation, VirtioDevice, read_bytes};
use super::worker::Worker as Thread;
use super::{Error, VIRTIO_F_EVENT_IDX, VIRTIO_F_INDIRECT_DESC, VIRTIO_F_VERSION_1};
use control::Shared;
use worker::{Kind, Setup};

/// Device type 5 (virtio 1.2, section 5).
const DEVICE_ID: u32 = 5;
/// Descriptors in each queue. Linux needs 32 to report with.
const QUEUE_SIZE: u16 = 128;
/// Most page numbers in one request; Linux sends 256. A longer one breaks the rules.
pub const MAX_PFNS: usize = 4096;
/// Bytes of the pages that numbers count, whatever the guest's own page size is (section 5.5.6).
pub const BALLOON_PAGE: u64 = 4096;
/// The name of the worker thread.
const NAME: &str = "virtio-balloon";

/// Feature bits of the balloon (virtio 1.2, section 5.5.3).
const F_STATS_VQ: u64 = 1 << 1;
const F_DEFLATE_ON_OOM: u64 = 1 << 2;
const F_REPORTING: u64 = 1 << 5;

/// Queue numbers (virtio 1.2, section 5.5.2).
const INFLATE: usize = 0;
const DEFLATE: usize = 1;
const STATS: usize = 2;
/// Where the queue for reports is. It is the last of five, behind the one for free page hints, which
/// is not offered; Linux counts queues that are there, and puts it into that one's place.
const REPORTING: [usize; 2] = [3, 4];

/// The balloon.
pub struct Balloon {
    shared: Arc<Shared>,
    worker: Option<Thread>,
}

impl Balloon {
    /// An empty balloon in a guest of `memory` bytes.
    ///
    /// # Errors
    /// [`Error::EventFd`] when the process has no descriptor left.
    pub fn new(memory: u64) -> Result<Self, Error> {
        Ok(Self { shared: Arc::new(Shared::new(memory)?), worker: None })
    }

    /// A way to it from other threads.
    pub fn control(&self) -> Control {
        Control::new(Arc::clone(&self.shared))
    }
}

impl VirtioDevice for Balloon {
    fn device_id(&self) -> u32 {
        DEVICE_ID
    }

    fn queue_max_sizes(&self) -> &[u16] {
        &[QUEUE_SIZE; 5]
    }

    fn features(&self) -> u64 {
        VIRTIO_F_VERSION_1
            | VIRTIO_F_INDIRECT_DESC
            | VIRTIO_F_EVENT_IDX
            | F_STATS_VQ
            | F_DEFLATE_ON_OOM
            | F_REPORTING
    }

    fn read_config(&self, offset: u64, data: &mut [u8]) {
        read_bytes(&self.shared.config(), offset, data);
    }

    fn write_config(&mut self, offset: u64, data: &[u8]) {
        self.shared.write_config(offset, data);
    }

    fn activate(&mut self, activation: Activation) -> Result<(), Error> {
        self.worker = None;
        let Activation { mem, features, queues, interrupt } = activation;
        let mut kinds = vec![(INFLATE, Kind::Inflate), (DEFLATE, Kind::Deflate)];
        if features & F_STATS_VQ != 0 {
            kinds.push((STATS, Kind::Stats));
        }
        if features & F_REPORTING != 0 {
            kinds.extend(REPORTING.map(|index| (index, Kind::Report)));
        }
        let setup = Setup::new(mem, features, queues, &kinds, interrupt)?;
        self.shared.started(setup.interrupt.clone(), setup.has(Kind::Stats));
        let shared = Arc::clone(&self.shared);
        self.worker = Some(Thread::spawn(NAME, move |events| worker::run(&events, &setup, &shared))?);
        Ok(())
    }

    fn reset(&mut self) {
        self.worker = None;
        self.shared.stopped();
    }
}
