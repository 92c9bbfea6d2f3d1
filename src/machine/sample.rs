//! What a running machine takes from the host, at one moment.

use std::fs;
use std::time::{Duration, Instant};

use super::{Machines, State, Status};
use crate::provider;
use crate::vmm::control::Usage;

/// Ticks a second in what the kernel tells of processes: `USER_HZ`, which is 100 wherever Linux runs
/// (its include/asm-generic/param.h).
const TICKS: u64 = 100;

/// One look at a machine that runs. Two of them give rates.
#[derive(Debug, Clone)]
pub struct Sample {
    /// When it was taken.
    pub at: Instant,
    /// The machine's process: another one counts from the beginning.
    pub pid: u32,
    /// Processor time of the machine's processes since they were started, the guest's included.
    pub cpu: Duration,
    /// Bytes of the host's memory that they hold, pages that they share with others counted in part
    /// (`Pss` of proc_pid_smaps(5)). `None` where the kernel keeps that from us: a hypervisor's process
    /// shows its memory to root only.
    pub pss: Option<u64>,
    /// The same with shared pages counted in full (`VmRSS` of proc_pid_status(5)).
    pub rss: u64,
    /// What the machine says of its memory, its disks and its network.
    pub usage: Option<Usage>,
}

impl Machines<'_> {
    /// A look at a machine; `None` where it does not run, or ends meanwhile. Takes up to 200 ms, which the
    /// guest has to answer for its memory.
    pub fn sample(&self, status: &Status) -> Option<Sample> {
        let (id, pid) = match (&status.id, status.pid) {
            (Some(id), Some(pid)) if status.state == State::Running => (id, pid),
            _ => return None,
        };
        let usage = provider::usage(&self.layout.machine(id));
        let at = Instant::now();
        let processes: Vec<Process> =
            std::iter::once(pid).chain(children(pid)).filter_map(Process::look).collect();
        if processes.is_empty() {
            return None;
        }
        // What is not known of one of them is not known of the machine.
        let pss = processes.iter().map(|process| process.pss).sum();
        let cpu = processes.iter().map(|process| process.cpu).sum();
        Some(Sample { at, pid, cpu, pss, rss: processes.iter().map(|process| process.rss).sum(), usage })
    }
}

/// Processes that this one has started (a QEMU has one above it).
fn children(pid: u32) -> Vec<u32> {
    let text = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
    text.split_whitespace().filter_map(|word| word.parse().ok()).collect()
}

/// What the kernel says of one process.
struct Process {
    cpu: Duration,
    pss: Option<u64>,
    rss: u64,
}

impl Process {
    fn look(pid: u32) -> Option<Process> {
        let read = |name: &str| fs::read_to_string(format!("/proc/{pid}/{name}")).ok();
        let ticks = ticks(&read("stat")?)?;
        Some(Process {
            cpu: Duration::from_millis(ticks.saturating_mul(1000 / TICKS)),
            pss: read("smaps_rollup").as_deref().and_then(|text| size(text, "Pss:")),
            rss: size(&read("status")?, "VmRSS:")?,
        })
    }
}

/// Time in user and in kernel mode, in ticks (proc_pid_stat(5), fields 14 and 15). The name before them is
/// in parentheses and may hold anything.
fn ticks(stat: &str) -> Option<u64> {
    let (_, rest) = stat.rsplit_once(") ")?;
    // The first field behind the name is the third.
    let mut fields = rest.split(' ').skip(11);
    let user: u64 = fields.next()?.parse().ok()?;
    let kernel: u64 = fields.next()?.parse().ok()?;
    user.checked_add(kernel)
}

/// A line such as `Pss:  12 kB` in bytes.
fn size(text: &str, name: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix(name))?;
    line.trim().strip_suffix(" kB")?.parse::<u64>().ok()?.checked_mul(1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_kernel_writes_is_read() {
        let stat = "42 (a) R (b) S 1 42 42 0 -1 4194560 1 2 3 4 700 30 5 6 20 0 9 0 100 1 2 3";
        assert_eq!(ticks(stat), Some(730));
        for bad in ["", "42 (x) S", "42 (x) S 1 2 3 4 5 6 7 8 9 10 x 1"] {
            assert_eq!(ticks(bad), None, "{bad}");
        }
        let rollup = "00-ff ---p 0 0 0 [rollup]\nRss:  9 kB\nPss:     1234 kB\nPss_Dirty: 1 kB\n";
        assert_eq!(size(rollup, "Pss:"), Some(1234 * 1024));
        assert_eq!((size("Rss: 9 kB\n", "Pss:"), size("Pss: x kB\n", "Pss:")), (None, None));
    }

    #[test]
    fn this_process_is_one() {
        let process = Process::look(std::process::id()).unwrap();
        assert!(process.rss > 1 << 20);
        assert!(process.pss.is_some_and(|pss| pss > 1 << 16 && pss <= process.rss));
        assert!(Process::look(u32::MAX).is_none());
    }
}
