//! Tries the host's KVM with a guest of a few instructions.
//!
//! That `/dev/kvm` opens does not mean that it runs guests: there are hosts whose KVM emulates
//! ring 0 instruction by instruction, about a thousand times slower, and stock kernels die on
//! it. So a loop in ring 0 is timed at two lengths. Their difference is free of what entering
//! and leaving the guest costs, which differs by a factor of a hundred between hosts.

use std::io;
use std::sync::mpsc::channel;
use std::time::{Duration, Instant};

use kvm_bindings::kvm_regs;
use kvm_ioctls::{Kvm, VcpuExit, VcpuFd, VmFd};
use vm_memory::{Bytes, GuestAddress};
use vmm_sys_util::signal::{Killable, SIGRTMIN};

use super::memory::{Memory, Sharing};
use super::shared_page::SharedPage;
use super::{Error, cpu, machine, vcpu};

/// What this host's KVM can do.
#[derive(Debug)]
pub enum Probe {
    /// There is no `/dev/kvm`.
    NoDevice,
    /// There is one, and this user may not open it.
    NoPermission,
    /// It fails where a KVM does not fail.
    Broken(io::Error),
    /// It runs kernels by emulating them, too slow and too incomplete for a stock one.
    Emulated {
        /// Nanoseconds for one turn of a loop of two instructions.
        ns_per_iteration: f64,
        /// Nanoseconds for one exit to this process and back.
        exit_ns: f64,
    },
    /// It runs stock guests.
    Usable {
        /// As above; a few nanoseconds at most.
        ns_per_iteration: f64,
        /// As above; one to a hundred microseconds.
        exit_ns: f64,
    },
}

impl Probe {
    /// Whether machines can run on it.
    pub fn is_usable(&self) -> bool {
        matches!(self, Self::Usable { .. })
    }
}

/// A turn of the loop that takes longer is not run by the processor. Real ones take 0.2 to 3 ns,
/// also nested; an emulated one took 1,200 ns.
const EMULATED_NS: f64 = 100.0;
/// Turns of the loop in the two runs that are compared.
const SHORT: u32 = 200;
const LONG: u32 = 2000;
/// How often they are compared where the first time is not clear.
const ROUNDS: u32 = 8;
/// Exits whose cost is averaged.
const EXITS: u32 = 20;
/// How long the guest may take. It takes 1 to 10 ms; on an overloaded nested host, 500.
const LIMIT: Duration = Duration::from_secs(3);

/// Where the guest's code is: behind the boot tables, whose first GiB it runs in.
const CODE: u64 = 0x1_0000;
/// `0: dec ecx; jnz 0; 4: out 0x10, al; jmp 4`: a loop of ECX turns, then exit after exit.
const PROGRAM: [u8; 8] = [0xff, 0xc9, 0x75, 0xfc, 0xe6, 0x10, 0xeb, 0xfc];
/// The port that it writes to.
const PORT: u16 = 0x10;
/// Guest memory: what the smallest machine has.
const MEMORY: u64 = 16 << 20;

/// Runs the guest; takes about ten milliseconds, and gives up on a KVM that hangs after a few
/// seconds.
pub fn probe() -> Probe {
    let kvm = match Kvm::new().map_err(io::Error::from) {
        Ok(kvm) => kvm,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Probe::NoDevice,
        Err(e) if e.kind() == io::ErrorKind::PermissionDenied => return Probe::NoPermission,
        Err(e) => return Probe::Broken(e),
    };
    match measure(&kvm) {
        Ok(times) => verdict(times),
        Err(e) => Probe::Broken(io::Error::other(e)),
    }
}

#[derive(Debug, Clone, Copy)]
struct Times {
    short: Duration,
    long: Duration,
    exits: Duration,
}

fn nanoseconds(time: Duration) -> f64 {
    time.as_secs_f64() * 1e9
}

/// Nanoseconds for a turn of the loop. Noise can make the long run the shorter one.
fn per_iteration(short: Duration, long: Duration) -> f64 {
    (nanoseconds(long) - nanoseconds(short)).max(0.0) / f64::from(LONG - SHORT)
}

fn verdict(times: Times) -> Probe {
    let ns_per_iteration = per_iteration(times.short, times.long);
    let exit_ns = nanoseconds(times.exits) / f64::from(EXITS);
    if ns_per_iteration > EMULATED_NS {
        Probe::Emulated { ns_per_iteration, exit_ns }
    } else {
        Probe::Usable { ns_per_iteration, exit_ns }
    }
}

/// The guest; nothing is declared to be kept that the thread which runs it does not own, because
/// a KVM that hangs keeps that thread for ever.
struct Guest {
    vcpu: VcpuFd,
    _memory: Memory,
    _vm: VmFd,
}

/// Makes the guest and times it on a thread that can be left behind.
fn measure(kvm: &Kvm) -> Result<Times, Error> {
    vcpu::catch_kicks()?;
    let failed = |what| move |source| Error::Kvm { what, source };
    let mut guest = Guest::new(kvm)?;
    let page = SharedPage::map(&guest.vcpu).map_err(failed("shared page"))?;
    let (sender, times) = channel();
    let thread = std::thread::Builder::new()
        .name("probe".into())
        // Nobody listens any more when the time is up.
        .spawn(move || _ = sender.send(guest.times()))
        .map_err(failed("thread"))?;
    if let Ok(times) = times.recv_timeout(LIMIT) {
        return times.map_err(failed("probe guest"));
    }
    page.exit_immediately();
    _ = thread.kill(SIGRTMIN());
    // What is not back now never comes: the thread is left to the end of the process.
    _ = times.recv_timeout(LIMIT);
    Err(failed("probe guest")(io::ErrorKind::TimedOut.into()))
}

impl Guest {
    fn new(kvm: &Kvm) -> Result<Self, Error> {
        let vm = machine::create_vm(kvm)?;
        let memory = Memory::new(MEMORY, Sharing::Private)?;
        memory.attach(&vm)?;
        cpu::prepare_memory(memory.guest())?;
        memory
            .guest()
            .write_slice(&PROGRAM, GuestAddress(CODE))
            .map_err(|e| Error::Kvm { what: "probe guest", source: io::Error::other(e) })?;
        let vcpu = vm.create_vcpu(0).map_err(|e| Error::Kvm { what: "virtual CPU", source: e.into() })?;
        cpu::Model::new(kvm, 1, false)?.configure(&vcpu, 0, CODE)?;
        Ok(Self { vcpu, _memory: memory, _vm: vm })
    }

    /// Times both loops, again and again unless the long one alone is shorter than emulation could
    /// make it: on a busy host any single run may be interrupted, the short one too, and the shortest
    /// of several tells what the processor does.
    fn times(&mut self) -> io::Result<Times> {
        // The first run pays for page faults and cold caches.
        self.run_loop(SHORT)?;
        let (mut short, mut long) = (Duration::MAX, Duration::MAX);
        for _ in 0..ROUNDS {
            short = short.min(self.run_loop(SHORT)?);
            long = long.min(self.run_loop(LONG)?);
            if per_iteration(Duration::ZERO, long) <= EMULATED_NS {
                break;
            }
        }
        let start = Instant::now();
        for _ in 0..EXITS {
            self.run_to_exit()?;
        }
        Ok(Times { short, long, exits: start.elapsed() })
    }

    fn run_loop(&mut self, turns: u32) -> io::Result<Duration> {
        let regs = kvm_regs { rip: CODE, rcx: turns.into(), rflags: 2, ..Default::default() };
        self.vcpu.set_regs(&regs)?;
        let start = Instant::now();
        self.run_to_exit()?;
        Ok(start.elapsed())
    }

    fn run_to_exit(&mut self) -> io::Result<()> {
        let start = Instant::now();
        loop {
            match self.vcpu.run() {
                Ok(VcpuExit::IoOut(PORT, _)) => return Ok(()),
                Ok(other) => return Err(io::Error::other(format!("unexpected exit {other:?}"))),
                Err(e) if matches!(e.errno(), libc::EINTR | libc::EAGAIN) && start.elapsed() < LIMIT => {}
                Err(e) => return Err(e.into()),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn times(short_us: u64, long_us: u64, exits_us: u64) -> Times {
        let us = Duration::from_micros;
        Times { short: us(short_us), long: us(long_us), exits: us(exits_us) }
    }

    #[test]
    fn what_an_exit_costs_does_not_make_a_kvm_emulated() {
        let Probe::Usable { ns_per_iteration, exit_ns } = verdict(times(95, 99, 1900)) else {
            panic!("a nested KVM with slow exits is usable");
        };
        assert!((2.2..2.3).contains(&ns_per_iteration), "{ns_per_iteration}");
        assert!((94_999.0..95_001.0).contains(&exit_ns), "{exit_ns}");
    }

    #[test]
    fn a_slow_loop_does() {
        let slow = verdict(times(250, 2400, 200));
        assert!(matches!(slow, Probe::Emulated { ns_per_iteration, .. } if ns_per_iteration > 1000.0));
        assert!(!slow.is_usable());
    }

    #[test]
    fn noise_gives_no_negative_times() {
        assert!(matches!(verdict(times(9, 8, 40)), Probe::Usable { ns_per_iteration: 0.0, .. }));
    }

    #[test]
    fn the_host_gets_a_verdict_in_time() {
        let start = Instant::now();
        let verdict = probe();
        assert!(start.elapsed() < 3 * LIMIT, "{verdict:?} after {:?}", start.elapsed());
    }
}
