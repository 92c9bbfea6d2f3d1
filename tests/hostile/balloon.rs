//! The memory balloon.

use std::time::Duration;

use rvm::vmm::bus::BusDevice;
use rvm::vmm::virtio::balloon::{Balloon, Control, MAX_PFNS, Stats};
use rvm::vmm::virtio::{VIRTIO_F_EVENT_IDX, VIRTIO_F_INDIRECT_DESC};

use crate::driver::*;

const STATS_VQ: u64 = 1 << 1;
const REPORTING: u64 = 1 << 5;
const INFLATE: usize = 0;
const DEFLATE: usize = 1;
const STATS: usize = 2;
const PAGE: u64 = 4096;
const MEMORY: u64 = 8 << 20;
/// Where the pages are that tests give away.
const VICTIM: u64 = 2 << 20;
const CONFIG: u64 = 0x100;

fn started(features: u64) -> (Driver, Control) {
    let balloon = Balloon::new(MEMORY).unwrap();
    let control = balloon.control();
    (Driver::started(balloon, 64, features), control)
}

/// Writes numbers of pages, gives where.
fn list(driver: &Driver, numbers: impl IntoIterator<Item = u64>) -> Buf {
    let bytes: Vec<u8> = numbers.into_iter().flat_map(|number| (number as u32).to_le_bytes()).collect();
    driver.put(DATA, &bytes);
    readable(DATA, bytes.len() as u32)
}

fn fill(driver: &Driver, address: u64, pages: u64) {
    driver.put(address, &vec![0xaa; (pages * PAGE) as usize]);
}

/// Which of the pages from `address` on hold what was filled in.
fn kept(driver: &Driver, address: u64, pages: u64) -> Vec<bool> {
    let page = |n| driver.get(address + n * PAGE, PAGE as usize);
    let whole = |bytes: Vec<u8>| match bytes.first() {
        Some(0xaa) => bytes.iter().all(|byte| *byte == 0xaa),
        _ => !bytes.iter().all(|byte| *byte == 0),
    };
    (0..pages).map(|n| whole(page(n))).collect()
}

fn given_back(control: &Control) -> (u64, u64) {
    let usage = control.usage(Duration::ZERO);
    (usage.given_back / PAGE, usage.refused / PAGE)
}

#[test]
fn inflated_pages_go_back_and_no_others() {
    for features in [0, VIRTIO_F_EVENT_IDX] {
        let (mut driver, control) = started(features);
        fill(&driver, VICTIM, 8);
        let first = VICTIM / PAGE;
        // Out of order, one twice, and two bytes of a number that is none.
        let mut buf = list(&driver, [first + 6, first + 2, first + 1, first + 6, first + 3, 0]);
        buf.len -= 2;
        assert_eq!(driver.transact(INFLATE, &[buf]), 0);
        assert_eq!(
            kept(&driver, VICTIM, 8),
            [true, false, false, false, true, true, false, true],
            "features {features:#x}"
        );
        assert_eq!(given_back(&control), (4, 0));
        // Taken back, they are memory like any other.
        let buf = list(&driver, [first + 1]);
        assert_eq!(driver.transact(DEFLATE, &[buf]), 0);
        fill(&driver, VICTIM, 8);
        assert_eq!(kept(&driver, VICTIM, 8), [true; 8]);
    }
}

#[test]
fn list_in_any_pieces_is_one_list() {
    let (mut driver, control) = started(0);
    fill(&driver, VICTIM, 2);
    let buf = list(&driver, [VICTIM / PAGE, VICTIM / PAGE + 1]);
    let pieces = [readable(buf.addr, 3), readable(buf.addr + 3, 2), readable(buf.addr + 5, 3)];
    driver.transact(INFLATE, &pieces);
    assert_eq!(kept(&driver, VICTIM, 2), [false; 2]);
    assert_eq!(given_back(&control), (2, 0));
}

#[test]
fn pages_that_are_no_memory_are_refused_and_the_others_go() {
    let (mut driver, control) = started(0);
    let (last_low, last_high) = (LOW_END / PAGE - 1, HIGH_END / PAGE - 1);
    for address in [LOW_END - PAGE, HIGH_START, HIGH_END - PAGE] {
        fill(&driver, address, 1);
    }
    // Runs that go on into the hole, out of the hole and beyond the end; numbers that overflow.
    let hole = last_low + 1..HIGH_START / PAGE;
    let refused = hole.clone().count() as u64 + 3;
    let numbers = [last_low].into_iter().chain(hole).chain([HIGH_START / PAGE]);
    let far = [last_high, last_high + 1, u64::from(u32::MAX) - 1, u64::from(u32::MAX)];
    let buf = list(&driver, numbers.chain(far));
    driver.transact(INFLATE, &[buf]);
    for address in [LOW_END - PAGE, HIGH_START, HIGH_END - PAGE] {
        assert_eq!(kept(&driver, address, 1), [false], "{address:#x}");
    }
    assert_eq!(given_back(&control), (3, refused));
}

#[test]
fn list_that_is_too_long_needs_a_reset() {
    let (mut driver, control) = started(VIRTIO_F_INDIRECT_DESC);
    fill(&driver, VICTIM, 1);
    let longest = list(&driver, vec![VICTIM / PAGE; MAX_PFNS]);
    driver.transact(INFLATE, &[longest]);
    assert_eq!(given_back(&control), (1, 0));
    // One more; and all that 128 descriptors can point to.
    for pieces in [vec![longest, readable(DATA, 4)], vec![readable(0, LOW_END as u32); 64]] {
        driver.submit(INFLATE, &pieces);
        driver.wait_broken();
        driver.reset();
        driver.start(0);
    }
    assert_eq!(driver.transact(INFLATE, &[longest]), 0);
}

#[test]
fn writable_list_and_empty_list_give_nothing_back() {
    let (mut driver, control) = started(0);
    assert_eq!(driver.transact(INFLATE, &[writable(DATA, 64)]), 0);
    assert_eq!(driver.transact(INFLATE, &[readable(DATA, 0)]), 0);
    assert_eq!(driver.transact(DEFLATE, &[writable(DATA, 64)]), 0);
    assert_eq!(given_back(&control), (0, 0));
}

#[test]
fn rings_that_are_given_away_harm_the_balloon_only() {
    let (mut driver, _control) = started(0);
    fill(&driver, VICTIM, 1);
    driver.transact(INFLATE, &[readable(VICTIM, 4)]);
    // All memory, rings and the list itself among it.
    let all = list(&driver, 0..LOW_END / PAGE);
    driver.submit(INFLATE, &[all]);
    driver.kick(INFLATE);
    driver.reset();
    driver.start(0);
    let buf = list(&driver, [VICTIM / PAGE]);
    assert_eq!(driver.transact(INFLATE, &[buf]), 0);
}

#[test]
fn reported_pages_go_back_wherever_the_queue_is() {
    for queue in [3, 4] {
        let balloon = Balloon::new(MEMORY).unwrap();
        let control = balloon.control();
        let mut driver = Driver::new(balloon, 64);
        driver.agree(REPORTING);
        for index in [INFLATE, DEFLATE, queue] {
            driver.configure(index);
        }
        driver.write(STATUS, 0xf);
        assert_eq!(driver.status(), 0xf);
        fill(&driver, VICTIM, 6);
        // Whole pages, and parts of pages, which stay.
        let pieces = [
            writable(VICTIM, 2 * PAGE as u32),
            writable(VICTIM + 3 * PAGE + 1, 2 * PAGE as u32),
            writable(VICTIM + 5 * PAGE, 100),
            writable(VICTIM, 0),
        ];
        assert_eq!(driver.transact(queue, &pieces), 0);
        assert_eq!(kept(&driver, VICTIM, 6), [false, false, true, true, false, true], "queue {queue}");
        assert_eq!(control.usage(Duration::ZERO).given_back, 3 * PAGE);
        // What is to be read is not free.
        assert_eq!(driver.transact(queue, &[readable(VICTIM + 2 * PAGE, PAGE as u32)]), 0);
        assert_eq!(kept(&driver, VICTIM + 2 * PAGE, 1), [true]);
    }
}

#[test]
fn report_outside_memory_needs_a_reset_and_touches_nothing() {
    let (mut driver, control) = started(REPORTING);
    fill(&driver, VICTIM, 1);
    driver.submit(4, &[writable(VICTIM, PAGE as u32), writable(LOW_END, PAGE as u32)]);
    driver.wait_broken();
    assert_eq!(kept(&driver, VICTIM, 1), [true]);
    assert_eq!(given_back(&control), (0, 0));
}

fn statistics(entries: &[(u16, u64)]) -> Vec<u8> {
    let entry = |(tag, value): &(u16, u64)| [&tag.to_le_bytes()[..], &value.to_le_bytes()].concat();
    entries.iter().flat_map(entry).collect()
}

/// Tells `entries`; the buffer stays with the device.
fn tell(driver: &mut Driver, entries: &[(u16, u64)]) {
    let bytes = statistics(entries);
    driver.put(DATA, &bytes);
    driver.submit(STATS, &[readable(DATA, bytes.len() as u32)]);
}

#[test]
fn statistics_are_asked_for_anew() {
    let (mut driver, control) = started(STATS_VQ);
    tell(&mut driver, &[(4, 1000)]);
    let patient = Duration::from_secs(20);
    let asking = std::thread::spawn({
        let control = control.clone();
        move || control.usage(patient).stats
    });
    driver.used(STATS);
    tell(
        &mut driver,
        &[(0, 1), (1, 2), (2, 3), (3, 4), (4, 5), (5, 6), (6, 7), (7, 8), (8, 9), (99, 10), (4, 11)],
    );
    // The first words may have come in between the question and the answer.
    let answer = asking.join().unwrap().expect("statistics");
    let expected = Stats {
        swap_in: Some(1),
        swap_out: Some(2),
        major_faults: Some(3),
        minor_faults: Some(4),
        free: Some(11),
        total: Some(6),
        available: Some(7),
        caches: Some(8),
    };
    assert!(answer == expected || answer == Stats { free: Some(1000), ..Stats::default() }, "{answer:?}");
    // Nobody answers the next question: what was said last counts.
    let again = control.usage(Duration::ZERO).stats;
    assert!(again == Some(expected) || again == Some(answer));
}

#[test]
fn statistics_are_taken_for_what_they_are() {
    let entries = [(5, u64::MAX), (4, 7), (99, 1), (6, 8)];
    let bytes = statistics(&entries);
    let len = bytes.len() as u32;
    // A buffer as large as can be: no more than 64 entries are looked at.
    let mut many = statistics(&vec![(4, 1); MAX_PFNS * 4 / 10]);
    many[64 * 10..][..10].copy_from_slice(&statistics(&[(5, 2)]));
    let free = |bytes| Stats { free: Some(bytes), ..Stats::default() };
    let cases = [
        (&bytes, readable(DATA, len), Stats { available: Some(8), ..free(7) }),
        (&bytes, readable(DATA, len - 1), free(7)),
        (&bytes, readable(DATA, 9), Stats::default()),
        (&bytes, readable(DATA, 0), Stats::default()),
        (&bytes, writable(DATA, len), Stats::default()),
        (&many, readable(DATA, many.len() as u32), free(1)),
    ];
    for (bytes, buf, expected) in cases {
        let (mut driver, control) = started(STATS_VQ);
        driver.put(DATA, bytes);
        driver.submit(STATS, &[buf]);
        // A second buffer sends the first one back: both have been read by then.
        driver.submit(STATS, &[buf]);
        driver.used(STATS);
        assert_eq!(control.usage(Duration::ZERO).stats, Some(expected), "{buf:?}");
        assert_eq!(&driver.get(DATA, bytes.len()), bytes);
    }
}

#[test]
fn statistics_that_are_too_long_need_a_reset() {
    let (mut driver, control) = started(STATS_VQ);
    driver.submit(STATS, &[readable(DATA, MAX_PFNS as u32 * 4 + 1)]);
    driver.wait_broken();
    // It says nothing any more, and nobody waits for it.
    assert_eq!(control.usage(Duration::from_secs(3600)).stats, None);
}

#[test]
fn guest_without_statistics_is_not_waited_for() {
    let balloon = Balloon::new(MEMORY).unwrap();
    let control = balloon.control();
    assert_eq!(control.usage(Duration::from_secs(3600)).stats, None);
    let mut driver = Driver::started(balloon, 64, 0);
    assert_eq!(control.usage(Duration::from_secs(3600)).stats, None);
    driver.reset();
    driver.start(STATS_VQ);
    tell(&mut driver, &[(4, 1)]);
    driver.reset();
    assert_eq!(control.usage(Duration::from_secs(3600)).stats, None);
}

#[test]
fn reset_ends_a_wait_for_statistics() {
    let (mut driver, control) = started(STATS_VQ);
    tell(&mut driver, &[(4, 1)]);
    let asking = std::thread::spawn(move || control.usage(Duration::from_secs(3600)));
    driver.used(STATS);
    driver.reset();
    asking.join().unwrap();
}

fn config(driver: &mut Driver) -> [u32; 4] {
    let mut bytes = [0xff; 16];
    driver.transport.read(CONFIG, &mut bytes);
    std::array::from_fn(|n| u32::from_le_bytes(bytes[n * 4..][..4].try_into().unwrap()))
}

#[test]
fn target_is_told_and_only_the_size_can_be_written() {
    let (mut driver, control) = started(0);
    assert_eq!(config(&mut driver), [0; 4]);
    control.set_target(3 * PAGE + 1);
    assert_eq!(driver.read(INTERRUPT_STATUS) & 2, 2);
    assert_eq!(config(&mut driver), [3, 0, 0, 0]);
    for (offset, bytes) in [
        (0, &[9; 4][..]),
        (4, &[9; 2]),
        (4, &[9; 8]),
        (6, &[9; 4]),
        (8, &[9; 4]),
        (u64::MAX - CONFIG, &[9; 4]),
    ] {
        driver.transport.write(CONFIG + offset, bytes);
        assert_eq!(config(&mut driver), [3, 0, 0, 0]);
    }
    driver.transport.write(CONFIG + 4, &u32::MAX.to_le_bytes());
    let usage = control.usage(Duration::ZERO);
    assert_eq!((usage.target, usage.actual), (3 * PAGE, u64::from(u32::MAX) * PAGE));
    // A guest cannot be asked for more than it has. A new guest finds the same target.
    control.set_target(u64::MAX);
    driver.reset();
    driver.start(0);
    assert_eq!(config(&mut driver), [(MEMORY / PAGE) as u32, 0, 0, 0]);
}

#[test]
fn balloon_needs_its_two_queues_and_no_more() {
    let mut driver = Driver::new(Balloon::new(MEMORY).unwrap(), 64);
    driver.agree(STATS_VQ | REPORTING);
    driver.configure(INFLATE);
    driver.write(STATUS, 0xf);
    driver.wait_broken();
    driver.reset();
    driver.agree(STATS_VQ | REPORTING);
    driver.configure(INFLATE);
    driver.configure(DEFLATE);
    driver.write(STATUS, 0xf);
    assert_eq!(driver.status(), 0xf);
    let buf = list(&driver, [VICTIM / PAGE]);
    assert_eq!(driver.transact(DEFLATE, &[buf]), 0);
}
