//! The registers of the memory-mapped transport.

use proptest::prelude::*;
use rvm::vmm::bus::BusDevice;
use rvm::vmm::virtio::VIRTIO_F_VERSION_1;
use rvm::vmm::virtio::mmio::status::{DEVICE_NEEDS_RESET, FAILED};
use rvm::vmm::virtio::rng::Rng;

use crate::driver::*;
use crate::states;
use crate::states::{RUNNING, assert_works};

fn rng() -> Driver {
    Driver::new(Rng::new(), 16)
}

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
fn interrupt_status_is_cleared_bit_by_bit() {
    let mut driver = Driver::started(Rng::new(), 16, 0);
    assert_works(&mut driver);
    driver.wait_for("interrupt", |driver| (driver.read(INTERRUPT_STATUS) == 1).then_some(()));
    driver.write(INTERRUPT_ACK, 2);
    assert_eq!(driver.read(INTERRUPT_STATUS), 1);
    driver.write(INTERRUPT_ACK, u32::MAX);
    assert_eq!(driver.read(INTERRUPT_STATUS), 0);
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
