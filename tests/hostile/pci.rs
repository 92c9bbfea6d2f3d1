//! The PCI transport: configuration space, memory range, MSI-X.

use std::sync::{Arc, Mutex};
use std::thread;

use proptest::prelude::*;
use rvm::vmm::bus::BusDevice;
use rvm::vmm::pci::{ConfigPorts, MsiMessage, PciFunction};
use rvm::vmm::virtio::VIRTIO_F_VERSION_1;
use rvm::vmm::virtio::mmio::status::{DEVICE_NEEDS_RESET, FAILED};
use rvm::vmm::virtio::pci::BAR_LEN;
use rvm::vmm::virtio::rng::Rng;
use vmm_sys_util::eventfd::EventFd;

use crate::driver::*;
use crate::pci_driver::*;
use crate::states;
use crate::states::{RUNNING, assert_works};

states! { rng:
    status_only_moves_forward,
    driver_cannot_set_needs_reset,
    features_ok_is_refused_for_what_was_not_offered,
    features_are_frozen_once_agreed,
    queue_registers_are_frozen_after_driver_ok,
    queue_registers_are_frozen_while_ready,
    queue_registers_need_agreed_features,
    absent_queue_reads_zero_and_ignores_writes,
    queue_that_cannot_work_needs_a_reset,
    start_without_a_ready_queue_needs_a_reset,
    second_driver_ok_starts_nothing,
    kick_before_driver_ok_does_nothing,
    notify_register_works_without_an_ioeventfd,
    reset_with_work_in_the_queue_starts_clean,
}

fn started() -> Driver<Pci> {
    let mut driver = rng();
    driver.start(0);
    driver
}

fn event(driver: &Driver<Pci>, vector: usize) -> EventFd {
    driver.transport.function.vectors().events().nth(vector).unwrap().try_clone().unwrap()
}

/// Whether the vector was delivered since the last call.
fn delivered(event: &EventFd) -> bool {
    event.read().is_ok()
}

#[test]
fn identifies_itself() {
    let mut driver = untouched(Rng::new(), 16);
    let pci = &mut driver.transport;
    assert_eq!(pci.config(0), 0x1044_1af4, "virtio 1.x entropy");
    assert_eq!(pci.config(8) & 0xff, 1, "not transitional");
    assert_eq!(pci.config(0xc) >> 16 & 0xff, 0, "one function, no bridge");
    assert!(pci.config(0x2c) >> 16 >= 0x40);
    assert_eq!(pci.config(0x3c) >> 8 & 0xff, 0, "no interrupt pin");
    assert_eq!((pci.vectors, pci.notify_stride), (2, 4));
    let (first, len) = (pci.common, u64::from(BAR_LEN));
    assert!(first.len >= 0x38 && pci.isr.len >= 1 && pci.notify.len >= 2);
    for place in [pci.common, pci.notify, pci.isr, pci.device] {
        assert!(place.offset + place.len <= len, "{place:?}");
    }
    assert!(pci.table + 32 <= len && pci.pending + 8 <= len);
    pci.enable();
    assert_eq!(pci.load16(first.offset + 0x12), 1, "queues");
    assert_ne!(driver.offered() & VIRTIO_F_VERSION_1, 0);
    driver.write(DEVICE_FEATURES_SEL, 2);
    assert_eq!(driver.read(DEVICE_FEATURES), 0);
}

#[test]
fn functions_are_found_by_their_slots() {
    let function = untouched(Rng::new(), 16).transport.function;
    let mut ports = ConfigPorts::new(vec![Arc::new(Mutex::new(function))]);
    let mut found = Vec::new();
    for address in (0x8000_0000u32..0x8100_0000).step_by(0x100) {
        ports.write(0, &address.to_le_bytes());
        let mut id = [0xff; 4];
        ports.read(4, &mut id);
        if id != [0xff; 4] {
            found.push((address, u32::from_le_bytes(id)));
        }
    }
    assert_eq!(found, [(0x8000_0000, 0x0008_1b36), (0x8000_0800, 0x1044_1af4)]);
}

/// What a guest must not be able to change in configuration space: ids, class, BARs that are not
/// there, the list of capabilities and what the capabilities say.
fn fixed(pci: &mut Pci) -> Vec<u32> {
    let window = pci.window.at;
    let mut words: Vec<_> = [0, 8, 0x14, 0x18, 0x1c, 0x20, 0x24, 0x28, 0x2c, 0x30, 0x34, 0x38]
        .into_iter()
        .chain((0x40..256).step_by(4).filter(|at| *at != pci.msix && !(window + 4..window + 20).contains(at)))
        .collect();
    words.push(window);
    let mut values: Vec<_> = words.into_iter().map(|at| pci.config(at)).collect();
    values.push(pci.config(pci.msix) & 0x3fff_ffff);
    values.push(pci.config(4) & !0x406);
    values.push(pci.config(0x3c) & !0xff);
    values
}

#[test]
fn configuration_space_takes_any_access() {
    let mut driver = started();
    let before = fixed(&mut driver.transport);
    for value in [0xff, 0, 0xa5] {
        for offset in (0..260).chain([usize::MAX - 3, usize::MAX]) {
            for width in 0..9 {
                let mut data = vec![0x5a; width];
                driver.transport.function.config_read(offset, &mut data);
                driver.transport.function.config_write(offset, &vec![value; width]);
            }
        }
        assert_eq!(fixed(&mut driver.transport), before, "after {value:#x}");
    }
    driver.transport.function.reset();
    driver.transport.enable();
    driver.start(0);
    assert_works(&mut driver);
}

#[test]
fn memory_range_takes_any_access() {
    let mut driver = started();
    let beyond = u64::from(BAR_LEN)..u64::from(BAR_LEN) + 16;
    for value in [0xff, 0] {
        for offset in (0..u64::from(BAR_LEN)).chain(beyond.clone()).chain([u64::MAX - 3, u64::MAX]) {
            for width in 0..9 {
                let mut data = vec![0x5a; width];
                driver.transport.function.read(offset, &mut data);
                driver.transport.function.write(offset, &vec![value; width]);
            }
        }
    }
    driver.transport.enable();
    driver.reset();
    driver.start(0);
    assert_works(&mut driver);
}

#[test]
fn wrong_width_or_offset_reads_zero_and_writes_nothing() {
    let mut driver = started();
    let common = driver.transport.common.offset;
    let function = &mut driver.transport.function;
    let natural = |offset: u64| match offset {
        0 | 4 | 8 | 0xc | 0x20..0x38 if offset.is_multiple_of(4) => 4,
        0x14 | 0x15 => 1,
        0x10..0x20 if offset.is_multiple_of(2) => 2,
        _ => 0,
    };
    for offset in 0..0x40 {
        for width in (0..9).filter(|width| *width != natural(offset)) {
            let mut data = vec![0xff; width];
            function.read(common + offset, &mut data);
            assert_eq!(data, vec![0; width], "{width} at {offset:#x}");
            function.write(common + offset, &vec![0; width]);
        }
    }
    assert_eq!(driver.status(), RUNNING);
    assert_works(&mut driver);
}

#[test]
fn queue_cannot_grow_or_be_taken_back_while_it_runs() {
    let mut driver = started();
    let common = driver.transport.common.offset;
    assert_works(&mut driver);
    // The size of the checked queue has to stay the one that bounds its rings (CVE-2026-5747).
    for size in [0x8000, 0xffff, 64, 0, 1] {
        driver.transport.store16(common + COMMON_QUEUE_SIZE, size);
        assert_eq!(driver.transport.load16(common + COMMON_QUEUE_SIZE), 16);
    }
    driver.transport.store16(common + COMMON_QUEUE_ENABLE, 0);
    assert_eq!(driver.transport.load16(common + COMMON_QUEUE_ENABLE), 1);
    for _ in 0..40 {
        assert_works(&mut driver);
    }
}

#[test]
fn interrupts_come_by_the_vectors_that_the_driver_chose() {
    let mut driver = started();
    let (config, queue) = (event(&driver, 0), event(&driver, 1));
    assert_works(&mut driver);
    driver.wait_for("vector of the queue", |_| delivered(&queue).then_some(()));
    assert!(!delivered(&config));
    driver.set_avail_index(driver.queues[0].avail, 500);
    driver.kick(0);
    driver.wait_broken();
    driver.wait_for("vector of the configuration", |_| delivered(&config).then_some(()));
    assert!(!delivered(&queue));
    assert_eq!(driver.read(INTERRUPT_STATUS), 3);
    assert_eq!(driver.read(INTERRUPT_STATUS), 0, "reading clears");
}

#[test]
fn vector_out_of_range_is_no_vector() {
    let mut driver = started();
    let common = driver.transport.common.offset;
    for register in [COMMON_CONFIG_VECTOR, COMMON_QUEUE_VECTOR] {
        for vector in [2, 3, 0x7ff, 0x800, 0xfffe, NO_VECTOR] {
            driver.transport.store16(common + register, vector);
            assert_eq!(driver.transport.load16(common + register), NO_VECTOR);
        }
    }
    driver.submit(0, &[writable(DATA, 32)]);
    while driver.poll_used(0).is_none() {
        thread::yield_now();
    }
    assert!(!delivered(&event(&driver, 0)) && !delivered(&event(&driver, 1)));
    // Of a queue that is not there.
    driver.write(QUEUE_SEL, 1);
    driver.transport.store16(common + COMMON_QUEUE_VECTOR, 1);
    assert_eq!(driver.transport.load16(common + COMMON_QUEUE_VECTOR), NO_VECTOR);
}

#[test]
fn masked_vector_is_kept_pending() {
    let mut driver = started();
    let queue = event(&driver, 1);
    let raise = |driver: &Driver<Pci>| driver.transport.function.vectors().raise(1);
    type Switch = fn(&mut Pci, bool);
    let switches: [(&str, Switch); 3] = [
        ("vector", |pci, masked| pci.set_entry(1, message(1), masked)),
        ("function", |pci, masked| pci.set_msix(true, masked)),
        ("MSI-X", |pci, masked| pci.set_msix(!masked, false)),
    ];
    for (what, switch) in switches {
        raise(&driver);
        assert!(delivered(&queue) && !driver.transport.is_pending(1), "{what}");
        switch(&mut driver.transport, true);
        raise(&driver);
        raise(&driver);
        assert!(!delivered(&queue) && driver.transport.is_pending(1), "{what}");
        assert!(!driver.transport.is_pending(0));
        switch(&mut driver.transport, false);
        assert!(delivered(&queue) && !driver.transport.is_pending(1), "{what}");
    }
}

#[test]
fn no_interrupt_is_lost_between_masking_and_unmasking() {
    let mut driver = started();
    let vectors = driver.transport.function.vectors().clone();
    let queue = event(&driver, 1);
    let control = driver.transport.table + 16 + 12;
    for _ in 0..500 {
        thread::scope(|scope| {
            scope.spawn(|| vectors.raise(1));
            for masked in [1, 0] {
                driver.transport.store32(control, masked);
            }
        });
        assert!(delivered(&queue));
    }
}

#[test]
fn message_is_routed_when_it_is_needed_and_not_again() {
    let mut driver = rng();
    let routes = driver.transport.notebook.routes.clone();
    let take = || std::mem::take(&mut *routes.lock().unwrap());
    assert_eq!(take(), [(0, message(0)), (1, message(1))]);
    let pci = &mut driver.transport;
    pci.set_entry(1, message(1), true);
    pci.set_entry(1, message(1), false);
    pci.set_msix(true, true);
    pci.set_msix(true, false);
    assert_eq!(take(), []);
    // Another processor, as an operating system does it: masked meanwhile.
    let other = MsiMessage { address: 0x1_fee0_2000, data: 7 };
    let at = pci.table + 16;
    pci.store32(at + 12, 1);
    pci.set_entry(1, other, true);
    assert_eq!(take(), []);
    pci.store32(at + 12, 0);
    assert_eq!(take(), [(1, other)]);
    // Both halves at once.
    pci.store32(at + 12, 1);
    pci.function.write(at, &0xfee0_3000u64.to_le_bytes());
    pci.function.write(at + 8, &9u64.to_le_bytes());
    assert_eq!(take(), [(1, MsiMessage { address: 0xfee0_3000, data: 9 })]);
    assert_eq!(pci.load::<8>(at), 0xfee0_3000u64.to_le_bytes());
    assert_eq!(pci.load::<8>(at + 8), 9u64.to_le_bytes());
}

#[test]
fn message_that_the_host_refuses_leaves_its_vector_masked() {
    let mut driver = started();
    let (refuse, queue) = (driver.transport.notebook.refuse.clone(), event(&driver, 1));
    *refuse.lock().unwrap() = true;
    driver.transport.set_entry(1, MsiMessage { address: 1, data: 1 }, false);
    driver.submit(0, &[writable(DATA, 32)]);
    while driver.poll_used(0).is_none() {
        thread::yield_now();
    }
    driver.wait_for("pending bit", |driver| driver.transport.is_pending(1).then_some(()));
    assert!(!delivered(&queue));
    *refuse.lock().unwrap() = false;
    driver.transport.set_entry(1, message(1), false);
    assert!(delivered(&queue));
}

#[test]
fn table_beyond_its_entries_reads_zero_and_takes_nothing() {
    let mut driver = rng();
    let pci = &mut driver.transport;
    pci.notebook.routes.lock().unwrap().clear();
    for at in (pci.table + 32..pci.pending).step_by(4) {
        pci.store32(at, u32::MAX);
        assert_eq!(pci.load32(at), 0);
    }
    for (offset, width) in [(1, 4), (2, 4), (0, 1), (0, 2), (0, 3), (4, 8), (12, 8), (12, 1)] {
        let mut data = vec![0xff; width];
        pci.function.read(pci.table + offset, &mut data);
        assert_eq!(data, vec![0; width]);
        pci.function.write(pci.table + offset, &vec![0xff; width]);
    }
    // Pending bits are the device's.
    pci.function.write(pci.pending, &[0xff; 8]);
    assert!(!pci.is_pending(0) && !pci.is_pending(63));
    assert!(pci.notebook.routes.lock().unwrap().is_empty());
    assert_eq!(pci.load32(pci.table + 12), 0, "not masked");
}

#[test]
fn guest_without_msix_gets_no_interrupt_and_can_poll() {
    let mut driver = untouched(Rng::new(), 16);
    driver.transport.set_config(4, 0b110);
    driver.start(0);
    let head = driver.submit(0, &[writable(DATA, 8)]);
    let used = loop {
        match driver.poll_used(0) {
            Some(used) => break used,
            None => thread::yield_now(),
        }
    };
    assert_eq!(used, (head, 8));
    while driver.read(INTERRUPT_STATUS) != 1 {
        thread::yield_now();
    }
    assert_eq!(driver.read(INTERRUPT_STATUS), 0);
    assert!(!delivered(&event(&driver, 0)) && !delivered(&event(&driver, 1)));
}

#[test]
fn memory_range_cannot_be_moved() {
    let mut driver = started();
    assert_eq!(driver.transport.config(0x10), BASE);
    for value in [0, 0x1000, 0xfee0_0000, 0xd000_0000, BASE + BAR_LEN, BASE + 0x10, 0xffff_8000] {
        driver.transport.set_config(0x10, value);
        assert_eq!(driver.transport.config(0x10), BASE, "after {value:#x}");
        driver.transport.set_config(0x14, value);
        assert_eq!(driver.transport.config(0x14), 0, "32 bits");
    }
    driver.transport.set_config(0x10, u32::MAX);
    assert_eq!(driver.transport.config(0x10), !(BAR_LEN - 1), "its size");
    assert_works(&mut driver);
}

#[test]
fn memory_range_answers_only_when_it_is_on() {
    let mut driver = started();
    driver.transport.set_config(4, 0b100);
    assert_eq!(driver.status(), 0xff);
    driver.write(STATUS, 0);
    driver.transport.set_config(4, 0b110);
    assert_eq!(driver.status(), RUNNING, "the write went nowhere");
    assert_works(&mut driver);
}

/// Sets the window of configuration space onto the memory range.
fn aim(pci: &mut Pci, bar: u8, offset: u32, len: u32) -> usize {
    let at = pci.window.at;
    pci.function.config_write(at + 4, &[bar]);
    pci.set_config(at + 8, offset);
    pci.set_config(at + 12, len);
    at + 16
}

#[test]
fn window_in_configuration_space_reaches_the_registers() {
    let mut driver = untouched(Rng::new(), 16);
    let pci = &mut driver.transport;
    // The memory range need not be on for it.
    let common = pci.common.offset as u32;
    let data = aim(pci, 0, common + 0x12, 2);
    assert_eq!(pci.config(data), 1, "queues");
    let data = aim(pci, 0, common + COMMON_STATUS as u32, 1);
    pci.function.config_write(data, &[1]);
    assert_eq!(pci.config(data), 1, "ACKNOWLEDGE");
    let data = aim(pci, 0, common, 4);
    pci.set_config(data, 1);
    let data = aim(pci, 0, common + 4, 4);
    assert_eq!(pci.config(data), 1, "VERSION_1 in the high half");
}

#[test]
fn window_out_of_range_reaches_nothing() {
    let mut driver = started();
    let status = driver.transport.common.offset as u32 + COMMON_STATUS as u32;
    for (bar, offset, len) in [
        (1, status, 1),
        (5, status, 1),
        (0xff, status, 1),
        (0, status, 0),
        (0, status, 3),
        (0, status, 8),
        (0, status, u32::MAX),
        (0, status + 1, 2),
        (0, status + 2, 4),
        (0, BAR_LEN, 1),
        (0, BAR_LEN - 2, 4),
        (0, u32::MAX, 1),
        (0, u32::MAX - 3, 4),
    ] {
        let pci = &mut driver.transport;
        let data = aim(pci, bar, offset, len);
        pci.set_config(data, 0);
        assert_eq!(pci.config(data), 0, "{bar} {offset:#x} {len}");
        pci.set_config(data, u32::MAX);
        assert_eq!(pci.config(data), u32::MAX, "only what was written");
        assert_eq!(driver.status(), RUNNING);
    }
    assert_works(&mut driver);
}

#[test]
fn reset_of_the_machine_forgets_everything() {
    let mut driver = started();
    driver.transport.function.vectors().raise(0);
    driver.transport.set_entry(0, message(0), true);
    driver.transport.function.vectors().raise(0);
    driver.transport.function.reset();
    let pci = &mut driver.transport;
    assert_eq!(pci.config(4) & 0xffff, 0);
    assert_eq!(pci.config(pci.msix) >> 30, 0);
    pci.set_config(4, 0b110);
    assert_eq!((pci.load32(pci.table), pci.load32(pci.table + 12)), (0, 1), "fresh and masked");
    assert!(!pci.is_pending(0));
    let common = pci.common.offset;
    assert_eq!(pci.load16(common + COMMON_CONFIG_VECTOR), NO_VECTOR);
    assert!(!delivered(&event(&driver, 0)), "an interrupt of the old life");
    // A new life has no routes, so they are handed on again.
    driver.transport.notebook.routes.lock().unwrap().clear();
    driver.transport.enable();
    assert_eq!(driver.transport.notebook.routes.lock().unwrap().len(), 2);
    driver.start(0);
    assert_works(&mut driver);
}

#[derive(Debug, Clone)]
enum Access {
    Config(usize, Vec<u8>),
    Memory(u64, Vec<u8>),
    Kick,
    Raise(u16),
}

fn access() -> impl Strategy<Value = Access> {
    let value = prop_oneof![
        4 => prop::sample::select(vec![0, 1, 2, 3, 7, 11, 15, 16, 64, 128, 0x1_0000, 0x1_8000, 0x2_0000]),
        1 => any::<u32>(),
    ];
    let width = prop_oneof![8 => prop::sample::select(vec![1usize, 2, 4]), 1 => 0..9usize];
    let data =
        (value, width).prop_map(|(value, width)| u64::from(value).to_le_bytes()[..width.min(8)].to_vec());
    // Pages of the memory range; mostly their beginnings.
    let memory =
        (0..9u64, prop_oneof![8 => 0..0x40u64, 1 => 0..0x1000u64]).prop_map(|(p, at)| p * 0x1000 + at);
    prop_oneof![
        4 => (0..264usize, data.clone()).prop_map(|(offset, data)| Access::Config(offset, data)),
        8 => (memory, data).prop_map(|(offset, data)| Access::Memory(offset, data)),
        1 => Just(Access::Kick),
        1 => (0..4u16).prop_map(Access::Raise),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, ..ProptestConfig::default() })]

    /// Whatever is written, nothing panics, the status is one that the driver can have reached, what is
    /// fixed stays, and a reset brings the device back.
    #[test]
    fn random_writes_keep_the_state_machine(accesses in prop::collection::vec(access(), 0..160)) {
        let mut driver = rng();
        let before = fixed(&mut driver.transport);
        for access in accesses {
            let function = &mut driver.transport.function;
            match access {
                Access::Config(offset, mut data) => {
                    function.config_write(offset, &data);
                    function.config_read(offset, &mut data);
                }
                Access::Memory(offset, mut data) => {
                    function.write(offset, &data);
                    function.read(offset, &mut data);
                }
                Access::Kick => driver.kick(0),
                Access::Raise(vector) => function.vectors().raise(vector),
            }
            driver.transport.set_config(4, 0b110);
            let steps = driver.status() & !(FAILED | DEVICE_NEEDS_RESET);
            prop_assert!([0, 1, 3, 11, 15].contains(&steps), "status {steps:#x}");
            driver.write(QUEUE_SEL, 0);
            if driver.read(QUEUE_READY) == 1 {
                prop_assert!(steps >= 11);
            }
        }
        prop_assert_eq!(fixed(&mut driver.transport), before);
        driver.reset();
        driver.transport.enable();
        driver.start(0);
        assert_works(&mut driver);
    }
}
