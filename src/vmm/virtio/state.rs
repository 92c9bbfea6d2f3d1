//! What every transport has behind its registers: the steps of a driver, the features that were
//! agreed on, the queues as they are being set up, and the device.
//!
//! A transport decodes accesses and calls this; which of them take effect is decided here.

use std::io;

use vm_memory::GuestMemoryMmap;
use vmm_sys_util::eventfd::EventFd;

use super::device::{Activation, Interrupt, VirtioDevice};
use super::queue::QueueConfig;
use super::{Error, VIRTIO_F_VERSION_1, error_text, new_event};

/// Device status bits (virtio 1.2, section 2.1).
pub mod status {
    /// The guest noticed the device.
    pub const ACKNOWLEDGE: u32 = 1;
    /// The guest has a driver for it.
    pub const DRIVER: u32 = 2;
    /// The driver is ready.
    pub const DRIVER_OK: u32 = 4;
    /// Features are agreed on.
    pub const FEATURES_OK: u32 = 8;
    /// The device needs to be reset.
    pub const DEVICE_NEEDS_RESET: u32 = 64;
    /// The driver gave up.
    pub const FAILED: u32 = 128;
}

/// A device and how far its driver has come with it.
pub(super) struct State {
    pub(super) device: Box<dyn VirtioDevice>,
    pub(super) interrupt: Interrupt,
    mem: GuestMemoryMmap,
    queues: Vec<QueueConfig>,
    kicks: Vec<EventFd>,
    status: u32,
    driver_features: u64,
    /// Which half of the offered features the driver reads.
    pub(super) device_features_sel: u32,
    /// Which half of its own features the driver writes.
    pub(super) driver_features_sel: u32,
    /// Which queue the driver sets up.
    pub(super) queue_sel: u32,
}

impl State {
    /// The state after power-on of `device`, whose rings live in `mem`.
    ///
    /// # Errors
    /// [`Error::EventFd`] when the descriptors for the queues' kicks cannot be had.
    pub(super) fn new(
        device: Box<dyn VirtioDevice>,
        mem: GuestMemoryMmap,
        interrupt: Interrupt,
    ) -> Result<Self, Error> {
        let kicks = device
            .queue_max_sizes()
            .iter()
            .map(|_| new_event())
            .collect::<io::Result<Vec<_>>>()
            .map_err(Error::EventFd)?;
        let queues = fresh_queues(device.as_ref());
        Ok(Self {
            device,
            interrupt,
            mem,
            queues,
            kicks,
            status: 0,
            driver_features: 0,
            device_features_sel: 0,
            driver_features_sel: 0,
            queue_sel: 0,
        })
    }

    /// Descriptors of the queues' kick events, by queue number.
    ///
    /// # Errors
    /// When a descriptor cannot be duplicated.
    pub(super) fn queue_kicks(&self) -> io::Result<Vec<EventFd>> {
        self.kicks.iter().map(EventFd::try_clone).collect()
    }

    /// How many queues there are.
    pub(super) fn queue_count(&self) -> usize {
        self.queues.len()
    }

    /// What the driver reads as the device status.
    pub(super) fn status(&self) -> u32 {
        let broken = if self.interrupt.is_broken() { status::DEVICE_NEEDS_RESET } else { 0 };
        self.status | broken
    }

    /// The selected half of the offered features.
    pub(super) fn device_features(&self) -> u32 {
        half(self.device.features(), self.device_features_sel)
    }

    /// The selected half of the features that the driver wrote.
    pub(super) fn driver_features(&self) -> u32 {
        half(self.driver_features, self.driver_features_sel)
    }

    /// The selected queue, if there is one.
    pub(super) fn queue(&self) -> Option<&QueueConfig> {
        self.queues.get(usize::try_from(self.queue_sel).ok()?)
    }

    /// The driver may choose features between DRIVER and FEATURES_OK only.
    pub(super) fn write_features(&mut self, value: u32) {
        if self.status != status::ACKNOWLEDGE | status::DRIVER {
            return;
        }
        match self.driver_features_sel {
            0 => set_low(&mut self.driver_features, value),
            1 => set_high(&mut self.driver_features, value),
            _ => {}
        }
    }

    /// Sets the selected queue up. Queues change between FEATURES_OK and DRIVER_OK, each until it is
    /// ready; then they are frozen until the reset.
    pub(super) fn configure(&mut self, change: impl FnOnce(&mut QueueConfig)) {
        if let Some(queue) = self.open_queue()
            && !queue.ready
        {
            change(queue);
        }
    }

    /// Says whether the selected queue is ready, as long as queues can be set up.
    pub(super) fn set_ready(&mut self, ready: bool) {
        if let Some(queue) = self.open_queue() {
            queue.ready = ready;
        }
    }

    /// The selected queue, while queues can be set up.
    fn open_queue(&mut self) -> Option<&mut QueueConfig> {
        if self.status != status::ACKNOWLEDGE | status::DRIVER | status::FEATURES_OK {
            return None;
        }
        self.queues.get_mut(usize::try_from(self.queue_sel).ok()?)
    }

    /// A kick that did not go through an ioeventfd.
    pub(super) fn kick(&self, queue: u32) {
        if self.status & status::DRIVER_OK == 0 {
            return;
        }
        if let Some(kick) = usize::try_from(queue).ok().and_then(|index| self.kicks.get(index)) {
            // A write fails only when the counter is full, and then a kick is pending anyway.
            let _ = kick.write(1);
        }
    }

    /// One step forward in the order of section 3.1.1, or a reset; anything else keeps the state.
    pub(super) fn write_status(&mut self, value: u32) {
        use status::{ACKNOWLEDGE, DEVICE_NEEDS_RESET, DRIVER, DRIVER_OK, FAILED, FEATURES_OK};
        if value == 0 {
            return self.reset();
        }
        // The driver writes back what it read, and that bit is the device's.
        let value = value & !DEVICE_NEEDS_RESET;
        if self.status & FAILED != 0 || value & self.status != self.status {
            return;
        }
        if value == self.status | FAILED {
            self.status = value;
            return;
        }
        const KNOWN: u32 = ACKNOWLEDGE | DRIVER;
        const AGREED: u32 = KNOWN | FEATURES_OK;
        const RUNNING: u32 = AGREED | DRIVER_OK;
        match (self.status, value) {
            // Some firmware drivers take the first two steps at once.
            (0, ACKNOWLEDGE) | (0 | ACKNOWLEDGE, KNOWN) => self.status = value,
            (KNOWN, AGREED) if self.features_agree() => self.status = value,
            (AGREED, RUNNING) => {
                self.status = value;
                self.activate();
            }
            _ => {}
        }
    }

    fn features_agree(&self) -> bool {
        let unoffered = self.driver_features & !self.device.features();
        unoffered == 0 && self.driver_features & VIRTIO_F_VERSION_1 != 0
    }

    fn activate(&mut self) {
        if let Err(error) = self.try_activate() {
            tracing::warn!(device = self.device.device_id(), error = %error_text(&error),
                "virtio device not started");
            self.interrupt.needs_reset();
        }
    }

    fn try_activate(&mut self) -> Result<(), Error> {
        let mut queues = Vec::with_capacity(self.queues.len());
        for (index, (config, kick)) in self.queues.iter().zip(&self.kicks).enumerate() {
            let queue = config
                .build(&self.mem, self.driver_features)
                .map_err(|source| Error::Queue { index, source })?;
            queues.push((queue, kick.try_clone().map_err(Error::EventFd)?));
        }
        self.device.activate(Activation {
            mem: self.mem.clone(),
            features: self.driver_features,
            queues,
            interrupt: self.interrupt.clone(),
        })
    }

    /// Back to the state after power-on; on return nothing of the device touches guest memory.
    pub(super) fn reset(&mut self) {
        self.device.reset();
        self.interrupt.reset();
        self.queues = fresh_queues(self.device.as_ref());
        self.status = 0;
        self.driver_features = 0;
        self.device_features_sel = 0;
        self.driver_features_sel = 0;
        self.queue_sel = 0;
    }
}

impl Drop for State {
    fn drop(&mut self) {
        self.device.reset();
    }
}

fn fresh_queues(device: &dyn VirtioDevice) -> Vec<QueueConfig> {
    let fresh =
        |&max_size: &u16| QueueConfig { max_size, size: u32::from(max_size), ..QueueConfig::default() };
    device.queue_max_sizes().iter().map(fresh).collect()
}

/// The 32 feature bits that a selector register points to.
fn half(features: u64, selector: u32) -> u32 {
    match selector {
        0 => (features & u64::from(u32::MAX)) as u32,
        1 => (features >> 32) as u32,
        _ => 0,
    }
}

/// Replaces the low half of `whole`.
pub(super) fn set_low(whole: &mut u64, value: u32) {
    *whole = *whole & !u64::from(u32::MAX) | u64::from(value);
}

/// Replaces the high half of `whole`.
pub(super) fn set_high(whole: &mut u64, value: u32) {
    *whole = *whole & u64::from(u32::MAX) | u64::from(value) << 32;
}
