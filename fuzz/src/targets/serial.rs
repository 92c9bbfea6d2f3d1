//! The devices behind ports, all on one bus: serial port, keyboard controller, ACPI, CMOS.

use std::io;
use std::sync::{Arc, Mutex};

use libfuzzer_sys::arbitrary::{Result, Unstructured};
use rvm::vmm::bus::Bus;
use rvm::vmm::devices::{cmos::Cmos, i8042::I8042, pm::Pm, pm::Wires, serial::SerialPort};
use rvm::vmm::notify::Notify;
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

use crate::rig::rarely;

/// First ports of the devices and how many each has.
const SERIAL: (u64, u64) = (0x3f8, 8);
const I8042: (u64, u64) = (0x60, 5);
const CMOS: (u64, u64) = (0x70, 2);
const PM: (u64, u64) = (0x600, 6);

struct NoWires;

impl Wires for NoWires {
    fn sci(&self, _: bool) {}
    fn power_off(&self) {}
}

pub fn run(u: &mut Unstructured<'_>) -> Result<()> {
    let irq = EventFd::new(EFD_NONBLOCK).unwrap();
    let serial = SerialPort::new(irq, Notify::new().unwrap(), Box::new(io::sink()));
    let serial = Arc::new(Mutex::new(serial));
    let mut bus = Bus::new();
    bus.insert(SERIAL.0, SERIAL.1, serial.clone()).unwrap();
    bus.insert(I8042.0, I8042.1, Arc::new(Mutex::new(I8042::new(Box::new(|| ()))))).unwrap();
    bus.insert(CMOS.0, CMOS.1, Arc::new(Mutex::new(Cmos))).unwrap();
    bus.insert(PM.0, PM.1, Arc::new(Mutex::new(Pm::new(NoWires)))).unwrap();
    while !u.is_empty() {
        let (base, len) = *u.choose(&[SERIAL, SERIAL, I8042, CMOS, PM])?;
        let port = if rarely(u) { u.arbitrary()? } else { base + u.int_in_range(0..=len - 1)? };
        let width = if rarely(u) { u.int_in_range(0..=8)? } else { *u.choose(&[1, 1, 2, 4])? };
        let mut data: [u8; 8] = u.arbitrary()?;
        match u.int_in_range(0..=4)? {
            0 | 1 => bus.write(port, &data[..width]),
            2 | 3 => bus.read(port, &mut data[..width]),
            _ => {
                let mut serial = serial.lock().unwrap();
                let room = serial.room();
                let input = vec![b'x'; u.int_in_range(0..=100)?];
                assert!(room <= 64 && serial.receive(&input) <= input.len());
            }
        }
    }
    Ok(())
}
