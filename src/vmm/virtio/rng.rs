//! The entropy device (virtio 1.2, section 5.4): fills buffers from the host's random generator.

use super::chain::Chain;
use super::device::{Activation, VirtioDevice, read_bytes};
use super::worker::{Options, Worker, ready_queues, serve};
use super::{Error, VIRTIO_F_EVENT_IDX, VIRTIO_F_INDIRECT_DESC, VIRTIO_F_VERSION_1};

/// Device type 4 (virtio 1.2, section 5).
const DEVICE_ID: u32 = 4;
/// Descriptors in the one queue.
const QUEUE_SIZE: u16 = 64;
/// Most bytes that one request gets, however large its buffers are.
pub const MAX_REQUEST: usize = 64 * 1024;
/// Most bytes that one chain may span.
const BYTE_LIMIT: u32 = u32::MAX;
/// Bytes fetched from the host at once.
const STEP: usize = 4096;
/// The name of the worker thread.
const NAME: &str = "virtio-rng";

/// The entropy device.
#[derive(Debug, Default)]
pub struct Rng {
    worker: Option<Worker>,
}

impl Rng {
    /// An entropy device that takes from `getrandom(2)`.
    pub fn new() -> Self {
        Self::default()
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
        let Activation { mem, features, queues, interrupt } = activation;
        let [(queue, kick)] = ready_queues(queues)?;
        let options = Options { features, byte_limit: BYTE_LIMIT, name: NAME };
        self.worker = Some(Worker::spawn(NAME, move |events| {
            serve(&events, (&mem, &queue, &kick), &options, &interrupt, fill);
        })?);
        Ok(())
    }

    fn reset(&mut self) {
        self.worker = None;
    }
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
