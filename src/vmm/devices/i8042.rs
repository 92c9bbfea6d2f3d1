//! What is left of the keyboard controller: the reset line.

use crate::vmm::bus::BusDevice;
use crate::vmm::layout::I8042_RESET;

/// Offset of the command and status register.
const COMMAND: u64 = 4;
/// Status: output buffer full, input buffer empty. Linux drains a full output buffer 16 times
/// and then decides that there is no controller, in under a millisecond instead of the half
/// second that it waits for an answer; and its reboot code, which waits for an empty input
/// buffer, goes straight on.
const STATUS: u8 = 0x01;

/// Resets the machine when the guest asks for it; no keyboard, no mouse.
pub struct I8042 {
    reset: Box<dyn Fn() + Send>,
}

impl I8042 {
    /// `reset` is called on the thread of the virtual CPU that wrote the command.
    pub fn new(reset: Box<dyn Fn() + Send>) -> Self {
        Self { reset }
    }
}

impl BusDevice for I8042 {
    fn read(&mut self, offset: u64, data: &mut [u8]) {
        if let ([byte], COMMAND) = (data, offset) {
            *byte = STATUS;
        }
    }

    fn write(&mut self, offset: u64, data: &[u8]) {
        if offset == COMMAND && data == [I8042_RESET] {
            (self.reset)();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU32, Ordering};

    use super::*;

    fn device() -> (I8042, Arc<AtomicU32>) {
        let resets = Arc::new(AtomicU32::new(0));
        let count = resets.clone();
        (I8042::new(Box::new(move || _ = count.fetch_add(1, Ordering::Relaxed))), resets)
    }

    #[test]
    fn only_the_reset_command_resets() {
        let (mut device, resets) = device();
        for value in 0..=255 {
            device.write(0, &[value]);
            if value != 0xfe {
                device.write(4, &[value]);
            }
        }
        device.write(4, &[0xfe, 0xfe]);
        device.write(4, &[]);
        assert_eq!(resets.load(Ordering::Relaxed), 0);
        device.write(4, &[0xfe]);
        assert_eq!(resets.load(Ordering::Relaxed), 1);
    }

    #[test]
    fn the_status_lets_reboot_code_pass_and_drivers_give_up() {
        let (mut device, _) = device();
        let mut status = [0xff];
        device.read(4, &mut status);
        assert_eq!(status[0] & 0x02, 0, "input buffer empty");
        assert_eq!(status[0] & 0x01, 1, "output buffer never empty");
        let mut wide = [0xff; 4];
        device.read(4, &mut wide);
        device.read(0, &mut wide);
        assert_eq!(wide, [0xff; 4]);
    }
}
