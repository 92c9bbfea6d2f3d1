//! The network device (virtio 1.2, section 5.1).

use super::Error;
use super::device::{Activation, VirtioDevice};

/// Why a network back-end was refused.
#[derive(Debug, thiserror::Error)]
pub enum NetError {}

impl NetError {
    /// What the user can do about it.
    pub fn hint(&self) -> Option<String> {
        None
    }
}

/// A network card.
#[derive(Debug)]
pub struct Net {}

impl Net {
    /// A card with the back-end that `net` names.
    ///
    /// # Errors
    /// [`Error::Net`] when the back-end cannot serve.
    pub fn new(_net: crate::vmm::Net) -> Result<Self, Error> {
        Ok(Self {})
    }
}

impl VirtioDevice for Net {
    fn device_id(&self) -> u32 {
        1
    }
    fn queue_max_sizes(&self) -> &[u16] {
        &[256, 256]
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
