//! Virtual CPUs: a thread each, running the guest and passing what it touches to the buses.

use std::io;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Arc, OnceLock};
use std::thread::JoinHandle;
use std::time::Duration;

use kvm_ioctls::{VcpuExit, VcpuFd};
use vmm_sys_util::signal::{Killable, SIGRTMIN, register_signal_handler, unblock_signal};

use super::bus::Bus;
use super::ending::{End, Ending};
use super::sandbox;
use super::shared_page::SharedPage;

/// Why a virtual CPU cannot go on.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// KVM could not emulate an instruction.
    #[error("virtual CPU {cpu} stopped at {rip:#x}: KVM internal error {suberror}")]
    Internal {
        /// Number of the CPU.
        cpu: u8,
        /// Where the guest was.
        rip: u64,
        /// `KVM_INTERNAL_ERROR_*`.
        suberror: u32,
    },
    /// The processor refuses the guest's state.
    #[error("virtual CPU {cpu} cannot enter the guest at {rip:#x}: hardware reason {reason:#x}")]
    Entry {
        /// Number of the CPU.
        cpu: u8,
        /// Where the guest was.
        rip: u64,
        /// What the processor says.
        reason: u64,
    },
    /// KVM reports what it should not.
    #[error("virtual CPU {cpu} stopped at {rip:#x}: unexpected exit {exit}")]
    Unexpected {
        /// Number of the CPU.
        cpu: u8,
        /// Where the guest was.
        rip: u64,
        /// The exit, as KVM names it.
        exit: String,
    },
    /// `KVM_RUN` failed.
    #[error("cannot run virtual CPU {cpu}")]
    Run {
        /// Number of the CPU.
        cpu: u8,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// No thread, no signal, no page.
    #[error("cannot start virtual CPU {cpu}: {what}")]
    Start {
        /// Number of the CPU.
        cpu: u8,
        /// What is missing.
        what: &'static str,
        /// Why.
        #[source]
        source: io::Error,
    },
}

impl Error {
    /// What to do about it.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Internal { .. } | Self::Entry { .. } => Some(
                "this host's KVM cannot run the guest's kernel code; `rvm doctor` tells what it can do"
                    .into(),
            ),
            _ => None,
        }
    }
}

/// Where the accesses of a guest go.
pub struct Buses {
    /// Ports.
    pub ports: Bus,
    /// Memory addresses without RAM.
    pub memory: Bus,
}

/// The running virtual CPUs of a machine; dropping it stops and joins them.
pub struct Running {
    ending: Arc<Ending>,
    threads: Vec<(JoinHandle<()>, SharedPage)>,
    /// Disconnected when the last thread has ended.
    ended: Receiver<()>,
}

impl Running {
    /// Starts a thread for each of `vcpus`.
    ///
    /// # Errors
    /// [`Error::Start`]; the threads that had started are stopped.
    pub fn start(vcpus: Vec<VcpuFd>, buses: &Arc<Buses>, ending: &Arc<Ending>) -> Result<Self, Error> {
        catch_kicks()?;
        let (alive, ended) = channel();
        let mut running = Self { ending: ending.clone(), threads: Vec::with_capacity(vcpus.len()), ended };
        let started = (0..)
            .zip(vcpus)
            .try_for_each(|(cpu, vcpu)| running.spawn(cpu, vcpu, buses.clone(), alive.clone()));
        // Before `running` can be dropped, which waits until the threads alone hold it no more.
        drop(alive);
        started?;
        Ok(running)
    }

    fn spawn(&mut self, cpu: u8, fd: VcpuFd, buses: Arc<Buses>, alive: Sender<()>) -> Result<(), Error> {
        let page =
            SharedPage::map(&fd).map_err(|source| Error::Start { cpu, what: "shared page", source })?;
        let own_page =
            SharedPage::map(&fd).map_err(|source| Error::Start { cpu, what: "shared page", source })?;
        let ending = self.ending.clone();
        let mut vcpu = Vcpu { cpu, fd, page: own_page };
        let body = move || {
            // Whoever started the process may have blocked it. Failing that, each kick only
            // takes effect when the guest next leaves by itself.
            _ = unblock_signal(SIGRTMIN());
            if let Some(reason) = vcpu.run(&buses, &ending).transpose() {
                ending.finish(reason.map_err(Into::into));
            }
            drop(alive);
        };
        let thread = sandbox::spawn(&format!("vcpu{cpu}"), body).map_err(|source| Error::Start {
            cpu,
            what: "thread",
            source,
        })?;
        self.threads.push((thread, page));
        Ok(())
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.ending.stopping().store(true, Ordering::Release);
        // A signal that arrives just before a thread blocks outside KVM is lost, hence again.
        loop {
            for (thread, page) in &self.threads {
                page.exit_immediately();
                _ = thread.kill(SIGRTMIN());
            }
            match self.ended.recv_timeout(Duration::from_millis(10)) {
                Err(RecvTimeoutError::Disconnected) => break,
                Err(RecvTimeoutError::Timeout) | Ok(()) => {}
            }
        }
        for (thread, _) in self.threads.drain(..) {
            if thread.join().is_err() {
                tracing::error!("a virtual CPU thread panicked");
            }
        }
    }
}

/// Makes [`SIGRTMIN`] interrupt system calls and do nothing else.
pub(super) fn catch_kicks() -> Result<(), Error> {
    extern "C" fn nothing(_: libc::c_int, _: *mut libc::siginfo_t, _: *mut libc::c_void) {}
    static CAUGHT: OnceLock<Result<(), i32>> = OnceLock::new();
    CAUGHT
        .get_or_init(|| register_signal_handler(SIGRTMIN(), nothing).map_err(|e| e.errno()))
        .map_err(|errno| Error::Start { cpu: 0, what: "signal", source: io::Error::from_raw_os_error(errno) })
}

struct Vcpu {
    cpu: u8,
    fd: VcpuFd,
    page: SharedPage,
}

/// `KVM_SYSTEM_EVENT_*`, of which x86 has few.
const SYSTEM_EVENT_SHUTDOWN: u32 = 1;
const SYSTEM_EVENT_RESET: u32 = 2;

impl Vcpu {
    /// Runs the guest until it ends or the machine is stopped by someone else (`None`).
    fn run(&mut self, buses: &Buses, ending: &Ending) -> Result<Option<End>, Error> {
        let Self { cpu, fd, page } = self;
        let cpu = *cpu;
        loop {
            match fd.run().map(|exit| serve(exit, buses, || page.port_access_size())) {
                Ok(Next::GoOn) => {}
                Ok(Next::End(end)) => return Ok(Some(end)),
                Ok(Next::Internal) => {
                    let suberror = page.internal_suberror();
                    return Err(Error::Internal { cpu, rip: rip(fd), suberror });
                }
                Ok(Next::Refused(reason)) => return Err(Error::Entry { cpu, rip: rip(fd), reason }),
                Ok(Next::Unexpected(exit)) => return Err(Error::Unexpected { cpu, rip: rip(fd), exit }),
                Err(e) if matches!(e.errno(), libc::EINTR | libc::EAGAIN) => {}
                Err(e) => return Err(Error::Run { cpu, source: e.into() }),
            }
            if ending.is_stopping() {
                return Ok(None);
            }
        }
    }
}

/// Where the guest is; 0 when KVM does not say.
fn rip(fd: &VcpuFd) -> u64 {
    fd.get_regs().map_or(0, |regs| regs.rip)
}

/// What follows on an exit.
#[derive(Debug, PartialEq, Eq)]
enum Next {
    /// Back into the guest.
    GoOn,
    /// The life of the machine is over.
    End(End),
    /// KVM could not emulate an instruction.
    Internal,
    /// The processor refuses the guest's state, for this reason.
    Refused(u64),
    /// KVM reports this, which it should not.
    Unexpected(String),
}

/// Does what the guest left for. `width` is that of one access, where it is one to a port.
#[inline]
fn serve(exit: VcpuExit<'_>, buses: &Buses, width: impl Fn() -> u8) -> Next {
    match exit {
        VcpuExit::IoIn(port, data) => read_port(&buses.ports, port, width(), data),
        VcpuExit::IoOut(port, data) => write_port(&buses.ports, port, width(), data),
        VcpuExit::MmioRead(addr, data) => buses.memory.read(addr, data),
        VcpuExit::MmioWrite(addr, data) => buses.memory.write(addr, data),
        VcpuExit::Intr => {}
        // A triple fault: what a processor does about it is reset the machine.
        VcpuExit::Shutdown => return Next::End(End::Reset),
        VcpuExit::SystemEvent(SYSTEM_EVENT_SHUTDOWN, _) => return Next::End(End::PowerOff),
        VcpuExit::SystemEvent(SYSTEM_EVENT_RESET, _) => return Next::End(End::Reset),
        VcpuExit::InternalError => return Next::Internal,
        VcpuExit::FailEntry(reason, _) => return Next::Refused(reason),
        other => return Next::Unexpected(format!("{other:?}")),
    }
    Next::GoOn
}

/// Reads a port as often as `data` holds accesses of `size` bytes: once, or as a string instruction repeats.
fn read_port(ports: &Bus, port: u16, size: u8, data: &mut [u8]) {
    for access in data.chunks_mut(usize::from(size).max(1)) {
        ports.read(u64::from(port), access);
    }
}

/// Writes it as often.
fn write_port(ports: &Bus, port: u16, size: u8, data: &[u8]) {
    for access in data.chunks(usize::from(size).max(1)) {
        ports.write(u64::from(port), access);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::super::bus::BusDevice;
    use super::*;

    /// A device that gives bytes in order and keeps what it is given.
    #[derive(Default)]
    struct Tape {
        next: u8,
        written: Vec<Vec<u8>>,
    }

    impl BusDevice for Tape {
        fn read(&mut self, _: u64, data: &mut [u8]) {
            for byte in data {
                *byte = self.next;
                self.next += 1;
            }
            // A gap between accesses.
            self.next += 10;
        }

        fn write(&mut self, _: u64, data: &[u8]) {
            self.written.push(data.to_vec());
        }
    }

    /// One device at port 0x10 and at address 0x1000.
    fn buses() -> (Buses, Arc<Mutex<Tape>>) {
        let tape = Arc::new(Mutex::new(Tape::default()));
        let mut buses = Buses { ports: Bus::new(), memory: Bus::new() };
        buses.ports.insert(0x10, 8, tape.clone()).unwrap();
        buses.memory.insert(0x1000, 8, tape.clone()).unwrap();
        (buses, tape)
    }

    #[test]
    fn a_triple_fault_is_a_reset() {
        let (buses, _) = buses();
        let next = |exit| serve(exit, &buses, || 1);
        assert_eq!(next(VcpuExit::Shutdown), Next::End(End::Reset));
        assert_eq!(next(VcpuExit::SystemEvent(SYSTEM_EVENT_RESET, &[])), Next::End(End::Reset));
        assert_eq!(next(VcpuExit::SystemEvent(SYSTEM_EVENT_SHUTDOWN, &[])), Next::End(End::PowerOff));
    }

    #[test]
    fn exits_that_nobody_can_serve_end_the_machine_with_a_reason() {
        let (buses, _) = buses();
        let next = |exit| serve(exit, &buses, || 1);
        assert_eq!(next(VcpuExit::InternalError), Next::Internal);
        assert_eq!(next(VcpuExit::FailEntry(7, 0)), Next::Refused(7));
        // A halt that KVM does not wait out itself would otherwise be a loop of ours.
        assert_eq!(next(VcpuExit::Hlt), Next::Unexpected("Hlt".into()));
        assert_eq!(next(VcpuExit::Unknown), Next::Unexpected("Unknown".into()));
        assert!(matches!(next(VcpuExit::SystemEvent(99, &[1])), Next::Unexpected(_)));
    }

    #[test]
    fn accesses_go_to_their_device_and_the_guest_goes_on() {
        let (buses, tape) = buses();
        let mut data = [0; 4];
        assert_eq!(serve(VcpuExit::IoIn(0x10, &mut data), &buses, || 4), Next::GoOn);
        assert_eq!(data, [0, 1, 2, 3]);
        assert_eq!(serve(VcpuExit::IoIn(0x99, &mut data), &buses, || 2), Next::GoOn);
        assert_eq!(data, [0xff; 4], "nobody is there");
        assert_eq!(serve(VcpuExit::MmioRead(0x1000, &mut data[..2]), &buses, || 0), Next::GoOn);
        assert_eq!(data, [14, 15, 0xff, 0xff]);
        assert_eq!(serve(VcpuExit::MmioWrite(0x1003, &[5]), &buses, || 0), Next::GoOn);
        assert_eq!(serve(VcpuExit::IoOut(0x12, &[6, 7]), &buses, || 1), Next::GoOn);
        assert_eq!(serve(VcpuExit::Intr, &buses, || 0), Next::GoOn);
        // However long a string is, and whatever KVM says of its width.
        assert_eq!(serve(VcpuExit::IoIn(0x10, &mut []), &buses, || 0), Next::GoOn);
        assert_eq!(serve(VcpuExit::IoOut(0x10, &[]), &buses, || 1), Next::GoOn);
        assert_eq!(tape.lock().unwrap().written, [vec![5], vec![6], vec![7]]);
    }

    /// `rep insb` of two or four bytes is as long as one wide access.
    #[test]
    fn repeated_accesses_are_told_from_wide_ones() {
        let tape = Arc::new(Mutex::new(Tape::default()));
        let mut ports = Bus::new();
        ports.insert(0x3f8, 8, tape.clone()).unwrap();
        let read = |size, len| {
            tape.lock().unwrap().next = 0;
            let mut data = vec![0; len];
            read_port(&ports, 0x3f8, size, &mut data);
            data
        };
        assert_eq!(read(1, 2), [0, 11]);
        assert_eq!(read(2, 2), [0, 1]);
        assert_eq!(read(1, 4), [0, 11, 22, 33]);
        assert_eq!(read(2, 4), [0, 1, 12, 13]);
        assert_eq!(read(4, 4), [0, 1, 2, 3]);
        for (size, accesses) in [
            (1, vec![vec![7], vec![8], vec![9], vec![6]]),
            (2, vec![vec![7, 8], vec![9, 6]]),
            (4, vec![vec![7, 8, 9, 6]]),
        ] {
            tape.lock().unwrap().written.clear();
            write_port(&ports, 0x3f8, size, &[7, 8, 9, 6]);
            assert_eq!(tape.lock().unwrap().written, accesses);
        }
    }
}
