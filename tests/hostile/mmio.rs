//! The register state machine.

use proptest::prelude::*;
use rvm::vmm::bus::BusDevice;
use rvm::vmm::virtio::mmio::status::{
    ACKNOWLEDGE, DEVICE_NEEDS_RESET, DRIVER, DRIVER_OK, FAILED, FEATURES_OK,
};
use rvm::vmm::virtio::rng::Rng;
use rvm::vmm::virtio::{VIRTIO_F_EVENT_IDX, VIRTIO_F_VERSION_1};

use crate::driver::*;

const RUNNING: u32 = ACKNOWLEDGE | DRIVER | FEATURES_OK | DRIVER_OK;

fn rng() -> Driver {
    Driver::new(Rng::new(), 16)
}

/// The device still answers on the queue it was started with.
fn assert_works(driver: &mut Driver) {
    assert_eq!(driver.transact(0, &[writable(DATA, 32)]), 32);
}

#[test]
fn identifies_itself() {
    let mut driver = rng();
    assert_eq!(driver.read(0x00), 0x7472_6976);
    assert_eq!(driver.read(0x04), 2);
    assert_eq!(driver.read(0x08), 4);
    assert_ne!(driver.offered() & VIRTIO_F_VERSION_1, 0);
    // Feature bits beyond the 64 there are, and shared memory that is not there.
    driver.write(DEVICE_FEATURES_SEL, 2);
    assert_eq!(driver.read(DEVICE_FEATURES), 0);
    for register in [0xb0, 0xb4, 0xb8, 0xbc] {
        assert_eq!(driver.read(register), u32::MAX);
    }
}

#[test]
fn wrong_width_or_alignment_reads_zero_and_writes_nothing() {
    let mut driver = Driver::started(Rng::new(), 16, 0);
    for width in [1, 2, 3, 5, 8] {
        let mut data = vec![0xff; width];
        driver.transport.read(STATUS, &mut data);
        assert_eq!(data, vec![0; width], "width {width}");
        driver.transport.write(STATUS, &vec![0; width]);
        assert_eq!(driver.status(), RUNNING, "width {width}");
    }
    for offset in 1..4 {
        assert_eq!(driver.read(STATUS - offset), 0);
        driver.write(STATUS - offset, 0);
        assert_eq!(driver.status(), RUNNING);
    }
    driver.transport.read(0, &mut []);
    driver.transport.write(STATUS, &[]);
    assert_works(&mut driver);
}

#[test]
fn config_space_takes_any_access() {
    let mut driver = rng();
    for offset in [0x100, 0x101, 0x1ff, 0xfff, u64::MAX - 3, u64::MAX] {
        for width in 0..9 {
            let mut data = vec![0xff; width];
            driver.transport.read(offset, &mut data);
            assert_eq!(data, vec![0; width]);
            driver.transport.write(offset, &vec![0xff; width]);
        }
    }
    assert_eq!(driver.status(), 0);
}

#[test]
fn status_only_moves_forward() {
    let mut driver = rng();
    for wrong in [DRIVER, FEATURES_OK, DRIVER_OK, RUNNING, ACKNOWLEDGE | 16, 32, u32::MAX] {
        driver.write(STATUS, wrong);
        assert_eq!(driver.status(), 0, "{wrong:#x}");
    }
    driver.write(STATUS, ACKNOWLEDGE);
    for wrong in [DRIVER, ACKNOWLEDGE | FEATURES_OK, ACKNOWLEDGE | DRIVER_OK, RUNNING] {
        driver.write(STATUS, wrong);
        assert_eq!(driver.status(), ACKNOWLEDGE, "{wrong:#x}");
    }
    driver.agree(0);
    let agreed = ACKNOWLEDGE | DRIVER | FEATURES_OK;
    for wrong in [ACKNOWLEDGE, ACKNOWLEDGE | DRIVER, agreed | 16] {
        driver.write(STATUS, wrong);
        assert_eq!(driver.status(), agreed, "{wrong:#x}");
    }
    driver.write(STATUS, agreed | FAILED);
    driver.write(STATUS, agreed | FAILED | DRIVER_OK);
    assert_eq!(driver.status(), agreed | FAILED);
    driver.reset();
}

#[test]
fn driver_cannot_set_needs_reset() {
    let mut driver = rng();
    driver.write(STATUS, ACKNOWLEDGE | DEVICE_NEEDS_RESET);
    assert_eq!(driver.status(), ACKNOWLEDGE);
}

#[test]
fn features_ok_is_refused_for_what_was_not_offered() {
    for features in
        [0, VIRTIO_F_EVENT_IDX, VIRTIO_F_VERSION_1 | 1 << 5, VIRTIO_F_VERSION_1 | 1 << 63, u64::MAX]
    {
        let mut driver = rng();
        driver.write(STATUS, ACKNOWLEDGE);
        driver.write(STATUS, ACKNOWLEDGE | DRIVER);
        driver.choose(features);
        driver.write(STATUS, ACKNOWLEDGE | DRIVER | FEATURES_OK);
        assert_eq!(driver.status(), ACKNOWLEDGE | DRIVER, "{features:#x}");
    }
}

#[test]
fn features_are_frozen_once_agreed() {
    let mut driver = rng();
    driver.agree(0);
    driver.choose(u64::MAX);
    driver.write(STATUS, RUNNING & !DRIVER_OK);
    driver.configure(0);
    driver.write(STATUS, RUNNING);
    assert_eq!(driver.status(), RUNNING);
    // EVENT_IDX was not agreed on, so each used buffer interrupts whatever `used_event` says.
    let used_event = driver.queues[0].avail + 4 + 16 * 2;
    driver.put(used_event, &1000u16.to_le_bytes());
    assert_works(&mut driver);
    assert_works(&mut driver);
}

#[test]
fn queue_registers_are_frozen_after_driver_ok() {
    let mut driver = Driver::started(Rng::new(), 16, 0);
    driver.write(QUEUE_SEL, 0);
    for register in [QUEUE_SIZE, QUEUE_DESC, QUEUE_DRIVER, QUEUE_DEVICE] {
        driver.write(register, 0xffff_fff0);
        driver.write(register + 4, 0xffff_fff0);
    }
    driver.write(QUEUE_READY, 0);
    assert_eq!(driver.read(QUEUE_READY), 1);
    for _ in 0..40 {
        assert_works(&mut driver);
    }
}

#[test]
fn queue_registers_are_frozen_while_ready() {
    let mut driver = rng();
    driver.agree(0);
    driver.configure(0);
    driver.write(QUEUE_DESC, 0x123);
    driver.write(QUEUE_SIZE, 3);
    driver.write(STATUS, RUNNING);
    assert_eq!(driver.status(), RUNNING);
    assert_works(&mut driver);
}

#[test]
fn queue_registers_need_agreed_features() {
    let mut driver = rng();
    driver.configure(0);
    assert_eq!(driver.read(QUEUE_READY), 0);
    driver.write(STATUS, ACKNOWLEDGE);
    driver.write(STATUS, ACKNOWLEDGE | DRIVER);
    driver.configure(0);
    assert_eq!(driver.read(QUEUE_READY), 0);
}

#[test]
fn absent_queue_reads_zero_and_ignores_writes() {
    let mut driver = rng();
    driver.agree(0);
    for queue in [1, 0xffff, u32::MAX] {
        driver.write(QUEUE_SEL, queue);
        driver.write(QUEUE_READY, 1);
        assert_eq!(driver.read(QUEUE_READY), 0);
        assert_eq!(driver.read(QUEUE_SIZE_MAX), 0);
    }
    driver.configure(0);
    driver.write(STATUS, RUNNING);
    for queue in [1, 2, 0xffff, u32::MAX] {
        driver.write(QUEUE_NOTIFY, queue);
    }
    assert_works(&mut driver);
}

#[test]
fn queue_that_cannot_work_needs_a_reset() {
    let good = Queue::at(0, 16);
    let cases: Vec<(&str, Queue)> = vec![
        ("table misaligned", Queue { descriptors: good.descriptors + 8, ..good }),
        ("available ring misaligned", Queue { avail: good.avail + 1, ..good }),
        ("used ring misaligned", Queue { used: good.used + 2, ..good }),
        ("table missing", Queue { descriptors: 0, ..good }),
        ("available ring missing", Queue { avail: 0, ..good }),
        ("used ring missing", Queue { used: 0, ..good }),
        ("table in the hole", Queue { descriptors: LOW_END, ..good }),
        ("available ring runs into the hole", Queue { avail: LOW_END - 32, ..good }),
        ("used ring beyond memory", Queue { used: HIGH_END, ..good }),
        ("used ring runs beyond memory", Queue { used: HIGH_END - 128, ..good }),
        ("table at the end of addresses", Queue { descriptors: u64::MAX - 15, ..good }),
        ("rings overlap", Queue { used: good.avail, ..good }),
        ("ring in the table", Queue { avail: good.descriptors + 254, ..good }),
        ("size 0", Queue { size: 0, ..good }),
        ("size 3", Queue { size: 3, ..good }),
        ("size too large", Queue { size: 128, ..good }),
    ];
    for (case, queue) in cases {
        let mut driver = rng();
        driver.agree(0);
        driver.queues[0] = queue;
        driver.configure(0);
        driver.write(STATUS, RUNNING);
        assert_eq!(driver.status(), RUNNING | DEVICE_NEEDS_RESET, "{case}");
        assert_eq!(driver.read(INTERRUPT_STATUS), 2, "{case}");
        driver.kick(0);
        driver.write(QUEUE_NOTIFY, 0);
        // And the device lives.
        driver.reset();
        assert_eq!(driver.read(INTERRUPT_STATUS), 0, "{case}");
        driver.queues[0] = good;
        driver.start(0);
        assert_works(&mut driver);
    }
}

#[test]
fn queue_size_register_does_not_wrap() {
    let mut driver = rng();
    driver.agree(0);
    driver.configure(0);
    driver.write(QUEUE_READY, 0);
    driver.write(QUEUE_SIZE, 0x1_0010);
    driver.write(QUEUE_READY, 1);
    driver.write(STATUS, RUNNING);
    assert_eq!(driver.status(), RUNNING | DEVICE_NEEDS_RESET);
}

#[test]
fn start_without_a_ready_queue_needs_a_reset() {
    let mut driver = rng();
    driver.agree(0);
    driver.write(STATUS, RUNNING);
    assert_eq!(driver.status(), RUNNING | DEVICE_NEEDS_RESET);
    driver.reset();
    driver.start(0);
    assert_works(&mut driver);
}

#[test]
fn second_driver_ok_starts_nothing() {
    let mut driver = Driver::started(Rng::new(), 16, 0);
    assert_works(&mut driver);
    driver.write(STATUS, RUNNING);
    // A second worker would begin at the ring's start and return the first chain again.
    assert_works(&mut driver);
    assert_eq!(driver.poll_used(0), None);
}

#[test]
fn kick_before_driver_ok_does_nothing() {
    let mut driver = rng();
    driver.write(QUEUE_NOTIFY, 0);
    driver.kick(0);
    driver.agree(0);
    driver.configure(0);
    driver.write(QUEUE_NOTIFY, 0);
    assert_eq!(driver.poll_used(0), None);
    driver.write(STATUS, RUNNING);
    assert_works(&mut driver);
}

#[test]
fn notify_register_works_without_an_ioeventfd() {
    let mut driver = Driver::started(Rng::new(), 16, 0);
    let head = driver.chain(0, &[writable(DATA, 8)]);
    driver.offer(0, head);
    driver.write(QUEUE_NOTIFY, 0);
    assert_eq!(driver.used(0), (head, 8));
}

#[test]
fn interrupt_status_is_cleared_bit_by_bit() {
    let mut driver = Driver::started(Rng::new(), 16, 0);
    assert_works(&mut driver);
    driver.wait_for("interrupt", |driver| (driver.read(INTERRUPT_STATUS) == 1).then_some(()));
    driver.write(INTERRUPT_ACK, 2);
    assert_eq!(driver.read(INTERRUPT_STATUS), 1);
    driver.write(INTERRUPT_ACK, u32::MAX);
    assert_eq!(driver.read(INTERRUPT_STATUS), 0);
}

#[test]
fn reset_with_work_in_the_queue_starts_clean() {
    let mut driver = Driver::started(Rng::new(), 16, 0);
    for _ in 0..50 {
        for _ in 0..8 {
            driver.submit(0, &[writable(DATA, 4096)]);
        }
        driver.reset();
        // No worker is left that could write: what is in memory stays.
        driver.put(DATA, &[0xa5; 4096]);
        let used = driver.get(driver.queues[0].used, 132);
        driver.kick(0);
        assert_eq!(driver.get(driver.queues[0].used, 132), used);
        assert_eq!(driver.get(DATA, 4096), vec![0xa5; 4096]);
        driver.start(0);
        assert_works(&mut driver);
    }
}

#[derive(Debug, Clone)]
enum Access {
    Write(u64, u32),
    Odd(u64, Vec<u8>),
    Kick,
}

fn access() -> impl Strategy<Value = Access> {
    let register = prop_oneof![
        9 => prop::sample::select(vec![
            DEVICE_FEATURES_SEL, DRIVER_FEATURES, DRIVER_FEATURES_SEL, QUEUE_SEL, QUEUE_SIZE,
            QUEUE_READY, QUEUE_NOTIFY, INTERRUPT_ACK, STATUS, QUEUE_DESC, QUEUE_DESC + 4,
            QUEUE_DRIVER, QUEUE_DRIVER + 4, QUEUE_DEVICE, QUEUE_DEVICE + 4,
        ]),
        1 => 0..0x1000u64,
    ];
    let value = prop_oneof![
        4 => prop::sample::select(vec![0, 1, 2, 3, 7, 11, 15, 16, 64, 128, 0x1_0000, 0x1_8000, 0x2_0000]),
        1 => any::<u32>(),
    ];
    prop_oneof![
        8 => (register, value).prop_map(|(register, value)| Access::Write(register, value)),
        1 => (any::<u64>(), prop::collection::vec(any::<u8>(), 0..9))
            .prop_map(|(offset, data)| Access::Odd(offset, data)),
        1 => Just(Access::Kick),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, ..ProptestConfig::default() })]

    /// Whatever is written, nothing panics, the status is one that the driver can have reached and
    /// a reset brings the device back.
    #[test]
    fn random_writes_keep_the_state_machine(accesses in prop::collection::vec(access(), 0..120)) {
        let mut driver = rng();
        for access in accesses {
            match access {
                Access::Write(register, value) => driver.write(register, value),
                Access::Odd(offset, data) => {
                    driver.transport.write(offset, &data);
                    let mut back = data;
                    driver.transport.read(offset, &mut back);
                }
                Access::Kick => driver.kick(0),
            }
            let steps = driver.status() & !(FAILED | DEVICE_NEEDS_RESET);
            let reachable = [0, 1, 3, 11, 15];
            prop_assert!(reachable.contains(&steps), "status {steps:#x}");
            driver.write(QUEUE_SEL, 0);
            if driver.read(QUEUE_READY) == 1 {
                prop_assert!(steps >= 11);
            }
        }
        driver.reset();
        driver.start(0);
        assert_works(&mut driver);
    }
}
