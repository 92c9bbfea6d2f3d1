//! The state machine behind the registers, as cases that run over each transport.

use rvm::vmm::virtio::mmio::status::{
    ACKNOWLEDGE, DEVICE_NEEDS_RESET, DRIVER, DRIVER_OK, FAILED, FEATURES_OK,
};
use rvm::vmm::virtio::{VIRTIO_F_EVENT_IDX, VIRTIO_F_VERSION_1};

use crate::driver::*;

pub const RUNNING: u32 = ACKNOWLEDGE | DRIVER | FEATURES_OK | DRIVER_OK;

/// Makes a driver with queues of 16 before an entropy device that nobody touched yet.
pub type Make<T> = fn() -> Driver<T>;

/// The device still answers on the queue it was started with.
pub fn assert_works<T: Registers>(driver: &mut Driver<T>) {
    assert_eq!(driver.transact(0, &[writable(DATA, 32)]), 32);
}

/// Makes one test of each case for the transport that `$make` makes.
#[macro_export]
macro_rules! states {
    ($make:ident: $($case:ident),+ $(,)?) => {
        $(#[test]
        fn $case() {
            $crate::states::$case($make);
        })+
    };
}

pub fn status_only_moves_forward<T: Registers>(rng: Make<T>) {
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

pub fn driver_cannot_set_needs_reset<T: Registers>(rng: Make<T>) {
    let mut driver = rng();
    driver.write(STATUS, ACKNOWLEDGE | DEVICE_NEEDS_RESET);
    assert_eq!(driver.status(), ACKNOWLEDGE);
}

pub fn features_ok_is_refused_for_what_was_not_offered<T: Registers>(rng: Make<T>) {
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

pub fn features_are_frozen_once_agreed<T: Registers>(rng: Make<T>) {
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

pub fn queue_registers_are_frozen_after_driver_ok<T: Registers>(rng: Make<T>) {
    let mut driver = rng();
    driver.start(0);
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

pub fn queue_registers_are_frozen_while_ready<T: Registers>(rng: Make<T>) {
    let mut driver = rng();
    driver.agree(0);
    driver.configure(0);
    driver.write(QUEUE_DESC, 0x123);
    driver.write(QUEUE_SIZE, 3);
    driver.write(STATUS, RUNNING);
    assert_eq!(driver.status(), RUNNING);
    assert_works(&mut driver);
}

pub fn queue_registers_need_agreed_features<T: Registers>(rng: Make<T>) {
    let mut driver = rng();
    driver.configure(0);
    assert_eq!(driver.read(QUEUE_READY), 0);
    driver.write(STATUS, ACKNOWLEDGE);
    driver.write(STATUS, ACKNOWLEDGE | DRIVER);
    driver.configure(0);
    assert_eq!(driver.read(QUEUE_READY), 0);
}

pub fn absent_queue_reads_zero_and_ignores_writes<T: Registers>(rng: Make<T>) {
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

pub fn queue_that_cannot_work_needs_a_reset<T: Registers>(rng: Make<T>) {
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

pub fn start_without_a_ready_queue_needs_a_reset<T: Registers>(rng: Make<T>) {
    let mut driver = rng();
    driver.agree(0);
    driver.write(STATUS, RUNNING);
    assert_eq!(driver.status(), RUNNING | DEVICE_NEEDS_RESET);
    driver.reset();
    driver.start(0);
    assert_works(&mut driver);
}

pub fn second_driver_ok_starts_nothing<T: Registers>(rng: Make<T>) {
    let mut driver = rng();
    driver.start(0);
    assert_works(&mut driver);
    driver.write(STATUS, RUNNING);
    // A second worker would begin at the ring's start and return the first chain again.
    assert_works(&mut driver);
    assert_eq!(driver.poll_used(0), None);
}

pub fn kick_before_driver_ok_does_nothing<T: Registers>(rng: Make<T>) {
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

pub fn notify_register_works_without_an_ioeventfd<T: Registers>(rng: Make<T>) {
    let mut driver = rng();
    driver.start(0);
    let head = driver.chain(0, &[writable(DATA, 8)]);
    driver.offer(0, head);
    driver.write(QUEUE_NOTIFY, 0);
    assert_eq!(driver.used(0), (head, 8));
}

pub fn reset_with_work_in_the_queue_starts_clean<T: Registers>(rng: Make<T>) {
    let mut driver = rng();
    driver.start(0);
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
