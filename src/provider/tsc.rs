//! How fast this host's time stamp counter runs.
//!
//! QEMU's software emulation hands the host's counter to the guest, and its `microvm` (ACPI
//! without legacy hardware) has no other clock by which Linux 6.12 could calibrate its timers:
//! without being told, such a kernel waits for its first timer tick for ever.
#![allow(unsafe_code)]

use std::time::{Duration, Instant};

/// Long enough for an error below one in a thousand; Linux refines the value later.
const SPAN: Duration = Duration::from_millis(20);

/// The counter's frequency in kHz; `None` on hosts that have no such counter.
#[cfg(target_arch = "x86_64")]
pub(super) fn khz() -> Option<u64> {
    let (start, first) = (Instant::now(), counter());
    std::thread::sleep(SPAN);
    let (ticks, time) = (counter().checked_sub(first)?, start.elapsed());
    let khz = u128::from(ticks).checked_mul(1_000_000)? / time.as_nanos().max(1);
    u64::try_from(khz).ok().filter(|khz| *khz > 0)
}

/// The counter's frequency in kHz; `None` on hosts that have no such counter.
#[cfg(not(target_arch = "x86_64"))]
pub(super) fn khz() -> Option<u64> {
    None
}

#[cfg(target_arch = "x86_64")]
fn counter() -> u64 {
    // SAFETY: every x86-64 processor has the instruction, and Linux lets programs use it.
    unsafe { core::arch::x86_64::_rdtsc() }
}

#[cfg(all(test, target_arch = "x86_64"))]
mod tests {
    #[test]
    fn a_processor_of_this_century() {
        let khz = super::khz().unwrap();
        assert!((100_000..10_000_000).contains(&khz), "{khz} kHz");
    }
}
