//! ACPI fixed power management registers: the power button and soft-off.
//!
//! Source: ACPI 6.5, section 4.8.3 (PM1 event and control grouping).

use crate::vmm::bus::BusDevice;
use crate::vmm::layout::SLP_TYP_S5;

/// PM1 status and enable: the power button.
const PWRBTN: u16 = 1 << 8;
/// Enable bits that there are: timer, global lock, power button, sleep button, RTC.
const ENABLE_MASK: u16 = 1 << 0 | 1 << 5 | 1 << 8 | 1 << 9 | 1 << 10;
/// PM1 control: ACPI mode, always on.
const SCI_EN: u16 = 1 << 0;
/// PM1 control: sleep type, bits 12:10.
const SLP_TYP: u16 = 0b111 << 10;
/// PM1 control: enter the sleep type now; reads as zero.
const SLP_EN: u16 = 1 << 13;

/// What the registers act upon.
pub trait Wires: Send {
    /// Drives the system control interrupt, a level.
    fn sci(&self, active: bool);
    /// The guest switched itself off.
    fn power_off(&self);
}

/// PM1a_STS, PM1a_EN, PM1a_CNT: three words in a row.
pub struct Pm<W> {
    status: u16,
    enable: u16,
    control: u16,
    wires: W,
}

impl<W: Wires> Pm<W> {
    /// Registers as after a reset.
    pub fn new(wires: W) -> Self {
        Self { status: 0, enable: 0, control: SCI_EN, wires }
    }

    /// Presses the power button. A guest that has not enabled it sees that later.
    pub fn press_power_button(&mut self) {
        self.status |= PWRBTN;
        self.update_sci();
    }

    fn update_sci(&self) {
        self.wires.sci(self.status & self.enable != 0);
    }

    fn image(&self) -> [u8; 6] {
        let ([s0, s1], [e0, e1]) = (self.status.to_le_bytes(), self.enable.to_le_bytes());
        let [c0, c1] = self.control.to_le_bytes();
        [s0, s1, e0, e1, c0, c1]
    }
}

impl<W: Wires> BusDevice for Pm<W> {
    fn read(&mut self, offset: u64, data: &mut [u8]) {
        let image = self.image();
        let from = usize::try_from(offset).ok().and_then(|at| image.get(at..)).unwrap_or_default();
        for (to, byte) in data.iter_mut().zip(from) {
            *to = *byte;
        }
    }

    fn write(&mut self, offset: u64, data: &[u8]) {
        // Bits written as one: status clears them, the others take the bytes that came.
        let mut control = self.control.to_le_bytes();
        let mut enable = self.enable.to_le_bytes();
        let mut control_written = false;
        for (distance, byte) in (0..).zip(data) {
            match offset.checked_add(distance) {
                Some(0) => self.status &= !u16::from(*byte),
                Some(1) => self.status &= !(u16::from(*byte) << 8),
                Some(2) => enable[0] = *byte,
                Some(3) => enable[1] = *byte,
                Some(4) => (control[0], control_written) = (*byte, true),
                Some(5) => (control[1], control_written) = (*byte, true),
                _ => {}
            }
        }
        self.enable = u16::from_le_bytes(enable) & ENABLE_MASK;
        self.update_sci();
        if control_written {
            let value = u16::from_le_bytes(control);
            self.control = value & SLP_TYP | SCI_EN;
            if value & SLP_EN != 0 && (value & SLP_TYP) >> 10 == u16::from(SLP_TYP_S5) {
                self.wires.power_off();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use super::*;

    #[derive(Clone, Default)]
    struct Spy(Arc<Mutex<(bool, u32)>>);

    impl Wires for Spy {
        fn sci(&self, active: bool) {
            self.0.lock().unwrap().0 = active;
        }
        fn power_off(&self) {
            self.0.lock().unwrap().1 += 1;
        }
    }

    impl Spy {
        fn sci_level(&self) -> bool {
            self.0.lock().unwrap().0
        }
        fn power_offs(&self) -> u32 {
            self.0.lock().unwrap().1
        }
    }

    fn device() -> (Pm<Spy>, Spy) {
        let spy = Spy::default();
        (Pm::new(spy.clone()), spy)
    }

    fn read16(pm: &mut Pm<Spy>, offset: u64) -> u16 {
        let mut data = [0; 2];
        pm.read(offset, &mut data);
        u16::from_le_bytes(data)
    }

    #[test]
    fn the_button_raises_the_interrupt_when_enabled_and_the_guest_clears_it() {
        let (mut pm, spy) = device();
        pm.write(2, &PWRBTN.to_le_bytes());
        assert!(!spy.sci_level());
        pm.press_power_button();
        assert!(spy.sci_level());
        assert_eq!(read16(&mut pm, 0), PWRBTN);
        pm.write(0, &1u16.to_le_bytes());
        assert!(spy.sci_level(), "another bit clears nothing");
        pm.write(0, &PWRBTN.to_le_bytes());
        assert!(!spy.sci_level());
        assert_eq!(read16(&mut pm, 0), 0);
    }

    #[test]
    fn an_early_press_is_seen_when_the_guest_enables_the_button() {
        let (mut pm, spy) = device();
        pm.press_power_button();
        assert!(!spy.sci_level());
        pm.write(2, &PWRBTN.to_le_bytes());
        assert!(spy.sci_level());
    }

    #[test]
    fn only_s5_with_sleep_enable_switches_off() {
        let (mut pm, spy) = device();
        for value in [0u16, 5 << 10, 1 << 13, 3 << 10 | 1 << 13] {
            pm.write(4, &value.to_le_bytes());
        }
        assert_eq!(spy.power_offs(), 0);
        pm.write(4, &(5 << 10 | 1 << 13 | 1u16).to_le_bytes());
        assert_eq!(spy.power_offs(), 1);
        pm.write(5, &[(5 << 2 | 1 << 5) as u8]);
        assert_eq!(spy.power_offs(), 2, "bytewise as well");
    }

    #[test]
    fn acpi_mode_cannot_be_left_and_sleep_enable_reads_zero() {
        let (mut pm, _) = device();
        pm.write(4, &0u16.to_le_bytes());
        assert_eq!(read16(&mut pm, 4), SCI_EN);
        pm.write(4, &(1u16 << 13).to_le_bytes());
        assert_eq!(read16(&mut pm, 4) & SLP_EN, 0);
    }

    #[test]
    fn any_width_at_any_offset_is_survived() {
        let (mut pm, _) = device();
        for offset in [0, 1, 3, 5, 6, 100, u64::MAX - 2, u64::MAX] {
            for len in 0..=8 {
                pm.write(offset, &[0xdf; 8][..len]);
                pm.read(offset, &mut [0; 8][..len]);
            }
        }
    }
}
