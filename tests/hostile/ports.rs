//! The devices behind ports, as a guest reaches them: any port, any width, any order.

use std::io::{self, Write};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};

use proptest::prelude::*;
use rvm::vmm::BoundedLog;
use rvm::vmm::bus::Bus;
use rvm::vmm::devices::cmos::Cmos;
use rvm::vmm::devices::i8042::I8042;
use rvm::vmm::devices::pm::{Pm, Wires};
use rvm::vmm::devices::serial::SerialPort;
use rvm::vmm::notify::Notify;
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

/// First ports, written down a second time on purpose, and how many there are.
const SERIAL: (u64, u64) = (0x3f8, 8);
const KEYBOARD: (u64, u64) = (0x60, 5);
const CMOS: (u64, u64) = (0x70, 2);
const PM: (u64, u64) = (0x600, 6);

/// What the guest did that has an effect outside the devices.
#[derive(Default)]
struct Effects {
    resets: AtomicU32,
    power_offs: AtomicU32,
}

struct ToEffects(Arc<Effects>);

impl Wires for ToEffects {
    fn sci(&self, _: bool) {}
    fn power_off(&self) {
        self.0.power_offs.fetch_add(1, Ordering::Relaxed);
    }
}

struct Ports {
    bus: Bus,
    serial: Arc<Mutex<SerialPort>>,
    effects: Arc<Effects>,
}

fn ports(out: Box<dyn Write + Send>) -> Ports {
    let irq = EventFd::new(EFD_NONBLOCK).unwrap();
    let serial = Arc::new(Mutex::new(SerialPort::new(irq, Notify::new().unwrap(), out)));
    let effects = Arc::new(Effects::default());
    let resets = effects.clone();
    let keyboard = I8042::new(Box::new(move || _ = resets.resets.fetch_add(1, Ordering::Relaxed)));
    let mut bus = Bus::new();
    bus.insert(SERIAL.0, SERIAL.1, serial.clone()).unwrap();
    bus.insert(KEYBOARD.0, KEYBOARD.1, Arc::new(Mutex::new(keyboard))).unwrap();
    bus.insert(CMOS.0, CMOS.1, Arc::new(Mutex::new(Cmos))).unwrap();
    bus.insert(PM.0, PM.1, Arc::new(Mutex::new(Pm::new(ToEffects(effects.clone()))))).unwrap();
    Ports { bus, serial, effects }
}

fn read(ports: &Ports, port: u64, width: usize) -> Vec<u8> {
    let mut data = vec![0xa5; width];
    ports.bus.read(port, &mut data);
    data
}

/// An access that is wider than a register, or leaves its device, does nothing and reads as if
/// nobody was there.
#[test]
fn wide_accesses_do_nothing() {
    let (pipe, writer) = io::pipe().unwrap();
    let ports = ports(Box::new(writer));
    for width in [2, 4] {
        for port in SERIAL.0..SERIAL.0 + SERIAL.1 {
            ports.bus.write(port, &vec![0xfe; width]);
            assert_eq!(read(&ports, port, width), vec![0xff; width], "port {port:#x}, {width} bytes");
        }
        for port in KEYBOARD.0 - 3..KEYBOARD.0 + KEYBOARD.1 {
            ports.bus.write(port, &vec![0xfe; width]);
            assert_eq!(read(&ports, port, width), vec![0xff; width], "port {port:#x}, {width} bytes");
        }
        for port in [CMOS.0 - 1, CMOS.0 + 1, PM.0 - 1, PM.0 + PM.1 - 1] {
            assert_eq!(read(&ports, port, width), vec![0xff; width], "port {port:#x}, {width} bytes");
        }
    }
    assert_eq!(ports.effects.resets.load(Ordering::Relaxed), 0);
    assert_eq!(ports.effects.power_offs.load(Ordering::Relaxed), 0);
    drop(ports);
    assert_eq!(io::read_to_string(pipe).unwrap(), "", "nothing reached the console");
}

#[test]
fn the_reset_line_answers_to_one_byte_only() {
    let ports = ports(Box::new(io::sink()));
    for port in KEYBOARD.0..KEYBOARD.0 + KEYBOARD.1 - 1 {
        ports.bus.write(port, &[0xfe]);
    }
    for other in (0..=255).filter(|byte| *byte != 0xfe) {
        ports.bus.write(0x64, &[other]);
    }
    assert_eq!(ports.effects.resets.load(Ordering::Relaxed), 0);
    ports.bus.write(0x64, &[0xfe]);
    ports.bus.write(0x64, &[0xfe]);
    assert_eq!(ports.effects.resets.load(Ordering::Relaxed), 2);
}

/// A guest that prints for ever fills two files of the size that was said, and no more.
#[test]
fn a_console_flood_is_bounded() {
    const LIMIT: u64 = 4096;
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("console.log");
    let ports = ports(Box::new(BoundedLog::open(&path, LIMIT).unwrap()));
    for byte in (b'a'..=b'z').cycle().take(20_000) {
        ports.bus.write(SERIAL.0, &[byte]);
    }
    let mut sizes: Vec<u64> = Vec::new();
    for entry in std::fs::read_dir(folder.path()).unwrap() {
        sizes.push(entry.unwrap().metadata().unwrap().len());
    }
    assert_eq!(sizes.len(), 2);
    assert!(sizes.iter().all(|size| *size <= LIMIT) && sizes.contains(&LIMIT), "{sizes:?}");
}

/// A reader of the console that is gone is no concern of the guest's.
#[test]
fn a_console_that_takes_nothing_stops_no_guest() {
    let (pipe, writer) = io::pipe().unwrap();
    drop(pipe);
    let ports = ports(Box::new(writer));
    for _ in 0..1000 {
        ports.bus.write(SERIAL.0, b"x");
    }
    assert_eq!(read(&ports, SERIAL.0 + 5, 1)[0] & 0x20, 0x20, "it takes the next byte");
}

/// Input that the guest never reads is bounded, whatever modes it sets.
#[test]
fn input_that_nobody_reads_is_bounded() {
    for modes in 0..=255u8 {
        let ports = ports(Box::new(io::sink()));
        for register in [1, 2, 3, 4] {
            ports.bus.write(SERIAL.0 + register, &[modes]);
        }
        let mut serial = ports.serial.lock().unwrap();
        for _ in 0..50 {
            let room = serial.room();
            assert!(room <= 64 && serial.receive(&[b'x'; 100]) <= 100);
        }
    }
}

#[derive(Debug, Clone)]
enum Access {
    Read(u64, usize),
    Write(u64, Vec<u8>),
    Input(usize),
}

fn access() -> impl Strategy<Value = Access> {
    let inside = prop::sample::select(vec![SERIAL, SERIAL, KEYBOARD, CMOS, PM])
        .prop_flat_map(|(base, len)| base..base + len);
    let port = prop_oneof![9 => inside.boxed(), 1 => (0..0x1_0000u64).boxed(), 1 => any::<u64>().boxed()];
    prop_oneof![
        3 => (port.clone(), 0..9usize).prop_map(|(port, width)| Access::Read(port, width)),
        3 => (port, prop::collection::vec(any::<u8>(), 0..9)).prop_map(|(port, data)| Access::Write(port, data)),
        1 => (0..200usize).prop_map(Access::Input),
    ]
}

proptest! {
    /// Nothing panics, the devices go on answering, and only the two commands that are meant to
    /// end a machine do.
    #[test]
    fn random_accesses_are_survived(accesses in prop::collection::vec(access(), 0..200)) {
        let ports = ports(Box::new(io::sink()));
        for access in &accesses {
            match access {
                Access::Read(port, width) => _ = read(&ports, *port, *width),
                Access::Write(port, data) => ports.bus.write(*port, data),
                Access::Input(count) => {
                    let mut serial = ports.serial.lock().unwrap();
                    prop_assert!(serial.receive(&vec![b'x'; *count]) <= *count);
                    prop_assert!(serial.room() <= 64);
                }
            }
        }
        let written = |wanted: fn(u64, &[u8]) -> bool| {
            accesses.iter().filter(|a| matches!(a, Access::Write(port, data) if wanted(*port, data))).count()
        };
        let resets = written(|port, data| port == 0x64 && data == [0xfe]);
        prop_assert_eq!(ports.effects.resets.load(Ordering::Relaxed), resets as u32);
        let touches_control = |port: u64, data: &[u8]| {
            (PM.0..PM.0 + PM.1).contains(&port) && port + data.len() as u64 > PM.0 + 4
        };
        if written(touches_control) == 0 {
            prop_assert_eq!(ports.effects.power_offs.load(Ordering::Relaxed), 0);
        }
        prop_assert_eq!(read(&ports, 0x64, 1), [0x01]);
        prop_assert_eq!(read(&ports, CMOS.0, 1), [0]);
    }
}
