//! The block device (virtio 1.2, section 5.2).

use super::Error;
use super::device::{Activation, VirtioDevice};

/// Why a disk image was refused.
#[derive(Debug, thiserror::Error)]
pub enum DiskError {}

impl DiskError {
    /// What the user can do about it.
    pub fn hint(&self) -> Option<String> {
        None
    }
}

/// A disk.
#[derive(Debug)]
pub struct Block {}

impl Block {
    /// Opens the image behind `disk`, and locks it.
    ///
    /// # Errors
    /// [`Error::Disk`] when the image cannot serve.
    pub fn open(_disk: &crate::vmm::Disk) -> Result<Self, Error> {
        Ok(Self {})
    }
}

impl VirtioDevice for Block {
    fn device_id(&self) -> u32 {
        2
    }
    fn queue_max_sizes(&self) -> &[u16] {
        &[256]
    }
    fn features(&self) -> u64 {
        super::VIRTIO_F_VERSION_1
    }
    fn read_config(&self, _offset: u64, data: &mut [u8]) {
        data.fill(0);
    }
    fn activate(&mut self, _activation: Activation) -> Result<(), Error> {
        Ok(())
    }
    fn reset(&mut self) {}
}
