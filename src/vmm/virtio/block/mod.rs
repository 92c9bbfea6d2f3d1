//! The block device (virtio 1.2, section 5.2): a disk image behind one or more queues,
//! each with a worker.

mod clusters;
mod counters;
mod error;
mod freed;
mod image;
mod lock;
mod qcow2;
mod request;
mod storage;

pub use counters::Counters;
pub use error::DiskError;

use std::sync::Arc;

use virtio_queue::{Queue, QueueT};
use vm_memory::GuestMemoryMmap;
use vmm_sys_util::eventfd::EventFd;

use super::device::{Activation, Interrupt, VirtioDevice, read_bytes};
use super::queue::SetupError;
use super::worker::{Options, Worker, serve};
use super::{Error, VIRTIO_F_EVENT_IDX, VIRTIO_F_INDIRECT_DESC, VIRTIO_F_VERSION_1};
use crate::vmm::Disk;
use image::Image;
use request::Target;

/// Device type 2 (virtio 1.2, section 5).
const DEVICE_ID: u32 = 2;
/// Descriptors in each queue.
const QUEUE_SIZE: u16 = 256;
/// Most queues: each costs a thread, and more than this many requests at once help no disk.
const MAX_QUEUES: usize = 8;
const QUEUES: [u16; MAX_QUEUES] = [QUEUE_SIZE; MAX_QUEUES];
/// A disk with fewer bytes is not worth more than one queue.
const SMALL: u64 = 16 << 20;
/// Data buffers in a request: what a queue holds, less header and status.
const SEG_MAX: u32 = QUEUE_SIZE as u32 - 2;
/// Bytes in a sector, the unit of every address (virtio 1.2, section 5.2.4).
const SECTOR: u64 = 512;
/// Bytes that GET_ID answers (virtio 1.2, section 5.2.6).
const SERIAL_LEN: usize = 20;
/// Ranges in one discard or write-zeroes request.
const MAX_RANGES: usize = 16;
/// Sectors in one range to discard: 2 GiB.
const MAX_DISCARD_SECTORS: u32 = 4 << 20;
/// Sectors in one range to zero: 64 MiB, because it may have to be written.
const MAX_ZERO_SECTORS: u32 = 128 << 10;
/// Most bytes in one chain. A 4 GiB chain could not be described to the driver when done.
const BYTE_LIMIT: u32 = 1 << 30;
/// The name of the worker thread.
const NAME: &str = "virtio-blk";

/// Feature bits of the block device (virtio 1.2, section 5.2.3).
const F_SEG_MAX: u64 = 1 << 2;
const F_RO: u64 = 1 << 5;
const F_BLK_SIZE: u64 = 1 << 6;
const F_FLUSH: u64 = 1 << 9;
const F_MQ: u64 = 1 << 12;
const F_DISCARD: u64 = 1 << 13;
const F_WRITE_ZEROES: u64 = 1 << 14;

/// A disk. Its image stays open and locked until it is dropped.
#[derive(Debug)]
pub struct Block {
    image: Arc<Image>,
    read_only: bool,
    serial: [u8; SERIAL_LEN],
    config: [u8; 60],
    queues: usize,
    counters: Arc<Counters>,
    /// One for each queue that the driver uses.
    workers: Vec<Worker>,
}

impl Block {
    /// Opens the image that `disk` names, of the format that it names, and locks it: for itself
    /// alone, or with other readers if the disk is read-only. A backing file is opened only if
    /// `disk` names it; what the image's own header says is ignored.
    ///
    /// # Errors
    /// [`Error::Disk`] when the image cannot serve.
    pub fn open(disk: &Disk) -> Result<Self, Error> {
        Self::with_queues(disk, 1)
    }

    /// As [`open`](Self::open), with a queue for each of `cpus`: 8 at most, and one for disks below
    /// 16 MiB.
    ///
    /// # Errors
    /// [`Error::Disk`] when the image cannot serve.
    pub fn with_queues(disk: &Disk, cpus: usize) -> Result<Self, Error> {
        let serial = serial_bytes(&disk.serial)?;
        let image = Image::open(disk)?;
        let queues = if image.size() < SMALL { 1 } else { cpus.clamp(1, MAX_QUEUES) };
        Ok(Self {
            config: config(image.size(), queues as u16, image.granularity()),
            image: Arc::new(image),
            read_only: disk.read_only,
            serial,
            queues,
            counters: Arc::default(),
            workers: Vec::new(),
        })
    }

    /// Bytes that its image may come to hold.
    pub fn most_bytes(&self) -> u64 {
        self.image.most_bytes()
    }

    /// What it has carried since it was opened; goes on counting.
    pub fn counters(&self) -> Arc<Counters> {
        Arc::clone(&self.counters)
    }

    /// Starts the worker of one queue.
    fn spawn(
        &self,
        (number, (queue, kick)): (u16, (Queue, EventFd)),
        mem: GuestMemoryMmap,
        features: u64,
        interrupt: Interrupt,
    ) -> Result<Worker, Error> {
        let (image, counters) = (Arc::clone(&self.image), Arc::clone(&self.counters));
        let (read_only, serial) = (self.read_only, self.serial);
        Worker::spawn(NAME, move |events| {
            let write_through = features & F_FLUSH == 0;
            let meter = (&*counters, number);
            let stopping = events.stopping();
            let image = &image;
            let target = Target { image, read_only, write_through, serial, meter, stopping, logged: false };
            let options = Options { features, byte_limit: BYTE_LIMIT, name: NAME };
            serve(number, &events, (&mem, &queue, &kick), &options, &interrupt, target);
        })
    }
}

impl VirtioDevice for Block {
    fn device_id(&self) -> u32 {
        DEVICE_ID
    }

    fn queue_max_sizes(&self) -> &[u16] {
        QUEUES.get(..self.queues).unwrap_or(&QUEUES)
    }

    fn features(&self) -> u64 {
        let common = VIRTIO_F_VERSION_1 | VIRTIO_F_INDIRECT_DESC | VIRTIO_F_EVENT_IDX;
        let changing = if self.read_only { F_RO } else { F_DISCARD | F_WRITE_ZEROES };
        let several = if self.queues > 1 { F_MQ } else { 0 };
        common | several | F_SEG_MAX | F_BLK_SIZE | F_FLUSH | changing
    }

    fn read_config(&self, offset: u64, data: &mut [u8]) {
        read_bytes(&self.config, offset, data);
    }

    fn activate(&mut self, activation: Activation) -> Result<(), Error> {
        self.reset();
        let Activation { mem, features, mut queues, interrupt } = activation;
        // The first one is there for every driver; of the others it takes as many as it likes.
        if !queues.first().is_some_and(|(queue, _)| queue.ready()) {
            return Err(Error::Queue { index: 0, source: SetupError::NotReady });
        }
        if features & F_MQ == 0 {
            queues.truncate(1);
        }
        for (number, queue) in (0..).zip(queues).filter(|(_, (queue, _))| queue.ready()) {
            match self.spawn((number, queue), mem.clone(), features, interrupt.clone()) {
                Ok(worker) => self.workers.push(worker),
                Err(error) => {
                    self.reset();
                    return Err(error);
                }
            }
        }
        Ok(())
    }

    fn reset(&mut self) {
        for worker in &self.workers {
            worker.tell_to_stop();
        }
        self.workers.clear();
    }
}

impl Drop for Block {
    fn drop(&mut self) {
        self.reset();
        if self.read_only {
            return;
        }
        // The tables of a qcow2 image may be in memory still, though the driver never flushed.
        if let Err(error) = self.image.flush() {
            tracing::error!(%error, "the last writes to a disk image may be lost");
            return;
        }
        // Who ends the process meanwhile loses space, not data.
        if self.image.is_untidy()
            && let Err(error) = self.image.sync()
        {
            tracing::warn!(%error, "space that a disk freed is not given back to the host");
        }
    }
}

fn serial_bytes(serial: &str) -> Result<[u8; SERIAL_LEN], DiskError> {
    let mut bytes = [0; SERIAL_LEN];
    let printable = serial.bytes().all(|byte| (b' '..=b'~').contains(&byte));
    match bytes.get_mut(..serial.len()) {
        Some(start) if printable => start.copy_from_slice(serial.as_bytes()),
        _ => return Err(DiskError::Serial { serial: serial.to_owned() }),
    }
    Ok(bytes)
}

/// The configuration space (virtio 1.2, section 5.2.4). Less than `granularity` bytes are not worth a
/// discard.
fn config(size: u64, queues: u16, granularity: u64) -> [u8; 60] {
    let mut config = [0; 60];
    let mut put = |at: usize, bytes: &[u8]| {
        if let Some(field) = config.get_mut(at..at + bytes.len()) {
            field.copy_from_slice(bytes);
        }
    };
    put(0, &(size / SECTOR).to_le_bytes());
    put(12, &SEG_MAX.to_le_bytes());
    put(20, &(SECTOR as u32).to_le_bytes());
    put(34, &queues.to_le_bytes());
    put(36, &MAX_DISCARD_SECTORS.to_le_bytes());
    put(40, &(MAX_RANGES as u32).to_le_bytes());
    put(44, &u32::try_from(granularity / SECTOR).unwrap_or(1).to_le_bytes());
    put(48, &MAX_ZERO_SECTORS.to_le_bytes());
    put(52, &(MAX_RANGES as u32).to_le_bytes());
    put(56, &[1]);
    config
}
