//! A CMOS that holds nothing: enough for kernels that touch it without asking ACPI.

use crate::vmm::bus::BusDevice;

/// Reads as zeros. All ones would say "update in progress", which old kernels wait for.
#[derive(Debug, Default)]
pub struct Cmos;

impl BusDevice for Cmos {
    fn read(&mut self, _offset: u64, data: &mut [u8]) {
        data.fill(0);
    }

    fn write(&mut self, _offset: u64, _data: &[u8]) {}
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_update_is_ever_in_progress() {
        let mut data = [0xff];
        Cmos.write(0, &[0x0a]);
        Cmos.read(1, &mut data);
        assert_eq!(data, [0]);
    }
}
