//! The block device (virtio 1.2, section 5.2): a disk image behind one queue and one worker.

mod error;
mod image;
mod lock;
mod qcow2;
mod request;

pub use error::DiskError;

use std::sync::{Arc, Mutex};

use super::device::{Activation, VirtioDevice, read_bytes};
use super::worker::{Options, Worker, ready_queues, serve};
use super::{Error, VIRTIO_F_EVENT_IDX, VIRTIO_F_INDIRECT_DESC, VIRTIO_F_VERSION_1};
use crate::vmm::Disk;
use image::Image;
use request::Target;

/// Device type 2 (virtio 1.2, section 5).
const DEVICE_ID: u32 = 2;
/// Descriptors in the one queue.
const QUEUE_SIZE: u16 = 256;
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
const F_DISCARD: u64 = 1 << 13;
const F_WRITE_ZEROES: u64 = 1 << 14;

/// A disk. Its image stays open and locked until it is dropped.
#[derive(Debug)]
pub struct Block {
    /// The worker's while there is one.
    image: Arc<Mutex<Image>>,
    read_only: bool,
    serial: [u8; SERIAL_LEN],
    config: [u8; 60],
    worker: Option<Worker>,
}

impl Block {
    /// Opens the image that `disk` names, of the format that it names, and locks it: for itself
    /// alone, or with other readers if the disk is read-only. A backing file is opened only if
    /// `disk` names it; what the image's own header says is ignored.
    ///
    /// # Errors
    /// [`Error::Disk`] when the image cannot serve.
    pub fn open(disk: &Disk) -> Result<Self, Error> {
        let serial = serial_bytes(&disk.serial)?;
        let image = Image::open(disk)?;
        Ok(Self {
            config: config(image.size()),
            image: Arc::new(Mutex::new(image)),
            read_only: disk.read_only,
            serial,
            worker: None,
        })
    }
}

impl VirtioDevice for Block {
    fn device_id(&self) -> u32 {
        DEVICE_ID
    }

    fn queue_max_sizes(&self) -> &[u16] {
        &[QUEUE_SIZE]
    }

    fn features(&self) -> u64 {
        let common = VIRTIO_F_VERSION_1 | VIRTIO_F_INDIRECT_DESC | VIRTIO_F_EVENT_IDX;
        let changing = if self.read_only { F_RO } else { F_DISCARD | F_WRITE_ZEROES };
        common | F_SEG_MAX | F_BLK_SIZE | F_FLUSH | changing
    }

    fn read_config(&self, offset: u64, data: &mut [u8]) {
        read_bytes(&self.config, offset, data);
    }

    fn activate(&mut self, activation: Activation) -> Result<(), Error> {
        self.worker = None;
        let Activation { mem, features, queues, interrupt } = activation;
        let [(queue, kick)] = ready_queues(queues)?;
        if self.image.is_poisoned() {
            return Err(Error::WorkerFailed { device: NAME });
        }
        let image = Arc::clone(&self.image);
        let (read_only, serial) = (self.read_only, self.serial);
        self.worker = Some(Worker::spawn(NAME, move |events| {
            let Ok(mut image) = image.lock() else { return };
            let write_through = features & F_FLUSH == 0;
            let mut target = Target { image: &mut image, read_only, write_through, serial, logged: false };
            let options = Options { features, byte_limit: BYTE_LIMIT, name: NAME };
            serve(&events, (&mem, &queue, &kick), &options, &interrupt, |chain| target.execute(chain));
        })?);
        Ok(())
    }

    fn reset(&mut self) {
        self.worker = None;
    }
}

impl Drop for Block {
    fn drop(&mut self) {
        self.reset();
        // The tables of a qcow2 image may be in memory still, though the driver never flushed.
        if let Ok(image) = self.image.lock()
            && !self.read_only
            && let Err(error) = image.flush()
        {
            tracing::error!(%error, "the last writes to a disk image may be lost");
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

/// The configuration space (virtio 1.2, section 5.2.4).
fn config(size: u64) -> [u8; 60] {
    let mut config = [0; 60];
    let mut put = |at: usize, bytes: &[u8]| {
        if let Some(field) = config.get_mut(at..at + bytes.len()) {
            field.copy_from_slice(bytes);
        }
    };
    put(0, &(size / SECTOR).to_le_bytes());
    put(12, &SEG_MAX.to_le_bytes());
    put(20, &(SECTOR as u32).to_le_bytes());
    put(36, &MAX_DISCARD_SECTORS.to_le_bytes());
    put(40, &(MAX_RANGES as u32).to_le_bytes());
    put(44, &1u32.to_le_bytes());
    put(48, &MAX_ZERO_SECTORS.to_le_bytes());
    put(52, &(MAX_RANGES as u32).to_le_bytes());
    put(56, &[1]);
    config
}
