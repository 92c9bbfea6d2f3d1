//! The devices of a PC that are not virtio: serial port, power management, reset, clock.

pub mod cmos;
pub mod i8042;
pub mod log;
pub mod pm;
pub mod serial;
pub mod terminal;
