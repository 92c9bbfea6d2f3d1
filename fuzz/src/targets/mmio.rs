//! The registers of the memory-mapped transport, written in any order.

use libfuzzer_sys::arbitrary::{Result, Unstructured};
use rvm::vmm::bus::BusDevice;
use rvm::vmm::virtio::MmioTransport;
use rvm::vmm::virtio::mmio::status::{DEVICE_NEEDS_RESET, FAILED};
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

use crate::rig::{memory, rarely};
use crate::targets::any_device;
use crate::wires::mmio::{QUEUE_READY, QUEUE_SEL, STATUS};

/// Status without its two ways to fail, as a driver can have reached it.
const REACHABLE: [u32; 5] = [0, 1, 3, 11, 15];

fn read(transport: &mut MmioTransport, register: u64) -> u32 {
    let mut word = [0; 4];
    transport.read(register, &mut word);
    u32::from_le_bytes(word)
}

pub fn run(u: &mut Unstructured<'_>) -> Result<()> {
    let irq = EventFd::new(EFD_NONBLOCK).unwrap();
    let mut transport = MmioTransport::new(any_device(u)?, memory(), irq).unwrap();
    while !u.is_empty() {
        let register = if rarely(u) { u.arbitrary()? } else { 4 * u64::from(u.int_in_range(0..=0x2cu8)?) };
        if rarely(u) {
            let data: [u8; 8] = u.arbitrary()?;
            let width = u.int_in_range(0..=8)?;
            transport.write(register, &data[..width]);
            transport.read(register, &mut [0; 8][..width]);
        } else {
            let value = match u.int_in_range(0..=3)? {
                0 => u.int_in_range(0..=16)?,
                1 => *u.choose(&[1, 3, 11, 15])?,
                2 => 0x1000 * u.int_in_range(0..=0x110u32)?,
                _ => u.arbitrary()?,
            };
            transport.write(register, &value.to_le_bytes());
        }
        let steps = read(&mut transport, STATUS) & !(FAILED | DEVICE_NEEDS_RESET);
        assert!(REACHABLE.contains(&steps), "status {steps:#x}");
        if read(&mut transport, QUEUE_READY) == 1 {
            assert!(steps >= 11, "a queue is ready in status {steps:#x}");
        }
    }
    transport.write(STATUS, &[0; 4]);
    transport.write(QUEUE_SEL, &[0; 4]);
    assert_eq!((read(&mut transport, STATUS), read(&mut transport, QUEUE_READY)), (0, 0));
    Ok(())
}
