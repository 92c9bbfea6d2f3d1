//! The first serial port: a 16550A (vm-superio) on ports 0x3f8 to 0x3ff, interrupt 4.

use std::io::{self, Write};

use vm_superio::Trigger;
use vm_superio::serial::SerialEvents;
use vmm_sys_util::eventfd::EventFd;

use crate::vmm::bus::BusDevice;
use crate::vmm::notify::Notify;

/// Raises the interrupt: an eventfd that KVM listens to.
struct Irq(EventFd);

impl Trigger for Irq {
    type E = io::Error;

    fn trigger(&self) -> io::Result<()> {
        self.0.write(1)
    }
}

/// Says when the guest has read all input, so that more may come.
struct Drained(Notify);

impl SerialEvents for Drained {
    fn buffer_read(&self) {}
    fn out_byte(&self) {}
    fn tx_lost_byte(&self) {}
    fn in_buffer_empty(&self) {
        self.0.signal();
    }
}

/// The port.
pub struct SerialPort {
    uart: vm_superio::Serial<Irq, Drained, Box<dyn Write + Send>>,
}

impl SerialPort {
    /// What the guest sends goes to `out`; `irq` raises its interrupt; `drained` is written to
    /// each time the guest has read all input.
    pub fn new(irq: EventFd, drained: Notify, out: Box<dyn Write + Send>) -> Self {
        Self { uart: vm_superio::Serial::with_events(Irq(irq), Drained(drained), out) }
    }

    /// How many bytes of input fit now.
    pub fn room(&mut self) -> usize {
        self.uart.fifo_capacity()
    }

    /// Gives input to the guest; what exceeds [`Self::room`] is not taken. Returns how much was.
    pub fn receive(&mut self, input: &[u8]) -> usize {
        let input = input.get(..self.room()).unwrap_or(input);
        match self.uart.enqueue_raw_bytes(input) {
            // In loopback mode the line is cut, and what comes over it is lost; after a failed
            // interrupt the bytes are in the port all the same.
            Ok(0) | Err(_) => input.len(),
            Ok(taken) => taken,
        }
    }
}

impl BusDevice for SerialPort {
    fn read(&mut self, offset: u64, data: &mut [u8]) {
        if let ([byte], Ok(offset)) = (data, u8::try_from(offset)) {
            *byte = self.uart.read(offset);
        }
    }

    fn write(&mut self, offset: u64, data: &[u8]) {
        if let ([byte], Ok(offset)) = (data, u8::try_from(offset)) {
            // The line has no way to report; the log counts what it loses, a closed standard
            // output has no reader who could miss anything.
            _ = self.uart.write(offset, *byte);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use super::*;

    #[derive(Clone, Default)]
    struct Sink(Arc<Mutex<Vec<u8>>>);

    impl Write for Sink {
        fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(buf);
            Ok(buf.len())
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn port() -> (SerialPort, Sink, EventFd, Notify) {
        let irq = EventFd::new(libc::EFD_NONBLOCK).unwrap();
        let (drained, sink) = (Notify::new().unwrap(), Sink::default());
        let port = SerialPort::new(irq.try_clone().unwrap(), drained.clone(), Box::new(sink.clone()));
        (port, sink, irq, drained)
    }

    #[test]
    fn what_the_guest_sends_comes_out() {
        let (mut port, sink, ..) = port();
        for byte in b"hello" {
            port.write(0, &[*byte]);
        }
        assert_eq!(*sink.0.lock().unwrap(), b"hello");
    }

    #[test]
    fn input_raises_the_interrupt_and_is_bounded() {
        let (mut port, _, irq, drained) = port();
        port.write(1, &[1]); // interrupt on received data
        let taken = port.receive(&[b'x'; 1000]);
        assert_eq!(taken, 64);
        assert_eq!(port.room(), 0);
        assert_eq!(port.receive(b"more"), 0);
        assert_eq!(irq.read().unwrap(), 1);
        let mut byte = [0];
        for _ in 0..64 {
            assert!(!drained.clear());
            port.read(0, &mut byte);
            assert_eq!(byte, [b'x']);
        }
        assert!(drained.clear());
    }

    #[test]
    fn any_access_is_survived() {
        let (mut port, ..) = port();
        for offset in [0, 5, 7, 8, 255, 256, u64::MAX] {
            for len in 0..=8 {
                port.write(offset, &[0x1f; 8][..len]);
                port.read(offset, &mut [0; 8][..len]);
            }
        }
    }
}
