//! The system calls of each kind of thread.
//!
//! A thread is looked up by its name without a number at its end (`vcpu3` is a `vcpu`); one that is
//! in no row of its process is not started. To add a kind: a row here and in `docs/security.md`, and a
//! part of its own if it does what the others do not. What is listed was found by what the end-to-end
//! tests need, and completed from what the C and Rust libraries do in cases that tests do not reach.
//!
//! Arguments are compared by their low 32 bits, as the kernel reads them.

use std::mem::size_of;

use kvm_bindings::{
    KVMIO, kvm_cpuid2, kvm_fpu, kvm_ioeventfd, kvm_irq_level, kvm_irq_routing, kvm_irqfd, kvm_lapic_state,
    kvm_msrs, kvm_pit_config, kvm_regs, kvm_sregs, kvm_userspace_memory_region,
};
use libc::c_long;
use vmm_sys_util::ioctl::{_IOC_NONE, _IOC_READ, _IOC_WRITE, ioctl_expr};

use super::Role;
use Arg::{Has, Is, Lacks, Own};

/// What an argument, named by its index from 0, has to be.
#[derive(Debug, Clone, Copy)]
pub(super) enum Arg {
    /// This value.
    Is(u8, u32),
    /// All of these bits set.
    Has(u8, u32),
    /// None of these bits set.
    Lacks(u8, u32),
    /// The id of this process.
    Own(u8),
}

/// A system call that may be made.
#[derive(Debug, Clone, Copy)]
pub(super) struct Rule {
    pub(super) call: c_long,
    /// One of these has to hold as a whole; without any, all arguments are good.
    pub(super) cases: &'static [&'static [Arg]],
}

const fn any(call: c_long) -> Rule {
    Rule { call, cases: &[] }
}

const fn only(call: c_long, cases: &'static [&'static [Arg]]) -> Rule {
    Rule { call, cases }
}

/// A kind of thread.
#[derive(Debug)]
pub(super) struct Table {
    /// Its name, without a number at the end.
    pub(super) thread: &'static str,
    pub(super) parts: &'static [&'static [Rule]],
}

/// The kinds of threads of a process. One that is none of these is not started.
pub(super) const fn of(role: Role) -> &'static [Table] {
    match (role, HYPERVISOR) {
        // Without shares nobody opens files.
        (Role::Hypervisor, [others @ .., _shares]) => others,
        (Role::Hypervisor | Role::SharingHypervisor, all) => all,
        (Role::Supervisor, _) => SUPERVISOR,
        (Role::Switch, _) => SWITCH,
        (Role::Share, _) => SHARE,
    }
}

/// The vCPU comes first, so that `KVM_RUN`, the call that counts, is found first in what all threads
/// share; the shared folder comes last, because most machines do without that.
const HYPERVISOR: &[Table] = &[
    Table { thread: "vcpu", parts: &[VCPU, MEMORY, THREAD, EVENTS, LOG] },
    Table { thread: "virtio-blk", parts: &[BLOCK, MEMORY, THREAD, EVENTS] },
    Table { thread: "virtio-net", parts: &[STEER, LISTEN, SOCKET, MEMORY, THREAD, EVENTS] },
    Table { thread: "virtio-rng", parts: &[TIMER, MEMORY, THREAD, EVENTS] },
    Table { thread: "virtio-balloon", parts: &[MEMORY, THREAD, EVENTS] },
    Table { thread: "virtio-vsock", parts: &[PAIR, LISTEN, SOCKET, MEMORY, THREAD, EVENTS] },
    Table { thread: "virtio-console", parts: &[LISTEN, SOCKET, MEMORY, THREAD, EVENTS] },
    // Hears what the guest's agent says.
    Table { thread: "agent", parts: &[SOCKET, MEMORY, THREAD, EVENTS] },
    // Tells it what the host has changed in shared folders.
    Table { thread: "changes", parts: &[SOCKET, MEMORY, THREAD, EVENTS] },
    ASKED,
    ANSWERING,
    // `rvm boot`: waits for Ctrl-C.
    Table { thread: "stop", parts: &[MEMORY, THREAD, EVENTS] },
    // The thread that put the machine together. It does so again when the guest resets.
    Table { thread: "main", parts: &[REBUILD, BLOCK, SOCKET, LOG, LAST, MEMORY, THREAD, EVENTS] },
    Table { thread: "virtio-fs", parts: &[FILES, MEMORY, THREAD, EVENTS] },
];

/// Provider `qemu`.
const SUPERVISOR: &[Table] = &[
    // Waits for QEMU, and carries its serial output to the log.
    Table { thread: "supervisor", parts: &[WAIT, LAST, SOCKET, MEMORY, THREAD, EVENTS] },
    Table { thread: "console", parts: &[SOCKET, LOG, MEMORY, THREAD, EVENTS] },
    // And serves who is attached to its virtio console.
    Table { thread: "attach", parts: &[LISTEN, SOCKET, MEMORY, THREAD, EVENTS] },
    // Waits for the process that serves shared folders.
    Table { thread: "shares", parts: &[WAIT, MEMORY, THREAD, EVENTS] },
    // Hands on what QEMU and that process say to each other about a shared folder.
    Table { thread: "folders", parts: &[LISTEN, SOCKET, MEMORY, THREAD, EVENTS] },
    // And what the guest is told of changes in it.
    Table { thread: "changes", parts: &[LISTEN, SOCKET, MEMORY, THREAD, EVENTS] },
    // And carries frames between QEMU and passt.
    Table { thread: "nat", parts: &[LISTEN, SOCKET, MEMORY, THREAD, EVENTS] },
    ASKED,
    ANSWERING,
];

/// The process that carries the frames of a private network.
const SWITCH: &[Table] = &[Table { thread: "switch", parts: &[LISTEN, SOCKET, MEMORY, THREAD, EVENTS] }];

/// The process that serves folders to QEMU. The threads that it starts inherit its filter.
const SHARE: &[Table] =
    &[Table { thread: "share", parts: &[FILES, MAPPED, LISTEN, SOCKET, START, MEMORY, THREAD, EVENTS] }];

/// Listens on the control socket.
const ASKED: Table = Table { thread: "control", parts: &[LISTEN, SOCKET, CONTROL, MEMORY, THREAD, EVENTS] };

/// One for each connection to it.
const ANSWERING: Table =
    Table { thread: "control-client", parts: &[SOCKET, CONTROL, MEMORY, THREAD, EVENTS] };

/// What starting a thread takes, beside what threads do. `clone3` hides its flags from filters, so
/// another filter answers "no such system call" to it, and the C library takes `clone`.
pub(super) const START: &[Rule] = &[
    any(libc::SYS_clone3),
    only(libc::SYS_clone, &[&[Has(0, THREAD_FLAGS)]]),
    any(libc::SYS_set_robust_list),
    any(libc::SYS_rseq),
    any(libc::SYS_sched_getaffinity),
    only(libc::SYS_prctl, &[&[Is(0, libc::PR_SET_NAME as u32)], &[Is(0, libc::PR_SET_NO_NEW_PRIVS as u32)]]),
    only(libc::SYS_seccomp, &[&[Is(0, libc::SECCOMP_SET_MODE_FILTER)]]),
];

const THREAD_FLAGS: u32 = (libc::CLONE_THREAD | libc::CLONE_SIGHAND | libc::CLONE_VM) as u32;
/// As the C library numbers it.
const SIGRTMIN: u32 = 34;
const EXEC: u32 = libc::PROT_EXEC as u32;
const ANONYMOUS: u32 = libc::MAP_ANONYMOUS as u32;

/// Memory of one's own, never executable.
const MEMORY: &[Rule] = &[
    only(libc::SYS_mmap, &[&[Lacks(2, EXEC), Has(3, ANONYMOUS)]]),
    only(libc::SYS_mprotect, &[&[Lacks(2, EXEC)]]),
    only(
        libc::SYS_madvise,
        &[
            &[Is(2, libc::MADV_DONTNEED as u32)],
            &[Is(2, libc::MADV_FREE as u32)],
            &[Is(2, libc::MADV_HUGEPAGE as u32)],
            &[Is(2, libc::MADV_REMOVE as u32)],
        ],
    ),
    any(libc::SYS_munmap),
    any(libc::SYS_mremap),
    any(libc::SYS_brk),
    // Keys of hash tables; what the entropy device gives.
    any(libc::SYS_getrandom),
];

/// Locks, time, signals, and the ways a thread or the process ends.
const THREAD: &[Rule] = &[
    any(libc::SYS_futex),
    any(libc::SYS_sched_yield),
    any(libc::SYS_clock_gettime),
    any(libc::SYS_clock_nanosleep),
    any(libc::SYS_nanosleep),
    any(libc::SYS_restart_syscall),
    any(libc::SYS_rt_sigprocmask),
    any(libc::SYS_rt_sigreturn),
    any(libc::SYS_sigaltstack),
    // What reports an overflow of the stack, and lets other faults take their course.
    only(libc::SYS_rt_sigaction, &[&[Is(0, libc::SIGSEGV as u32)], &[Is(0, libc::SIGBUS as u32)]]),
    // `abort`.
    only(libc::SYS_tgkill, &[&[Own(0), Is(2, libc::SIGABRT as u32)]]),
    only(libc::SYS_prctl, &[&[Is(0, libc::PR_GET_NAME as u32)]]),
    any(libc::SYS_getpid),
    any(libc::SYS_gettid),
    any(libc::SYS_exit),
    any(libc::SYS_exit_group),
];

/// Events, and descriptors that are open already.
const EVENTS: &[Rule] = &[
    any(libc::SYS_read),
    any(libc::SYS_write),
    any(libc::SYS_close),
    any(libc::SYS_dup),
    any(libc::SYS_eventfd2),
    any(libc::SYS_epoll_create1),
    any(libc::SYS_epoll_ctl),
    any(libc::SYS_epoll_wait),
    any(libc::SYS_epoll_pwait),
    any(libc::SYS_poll),
    any(libc::SYS_ppoll),
    // Blocking or not.
    only(libc::SYS_ioctl, &[&[Is(1, libc::FIONBIO as u32)]]),
    only(
        libc::SYS_fcntl,
        &[
            &[Is(1, libc::F_DUPFD_CLOEXEC as u32)],
            &[Is(1, libc::F_GETFD as u32)],
            &[Is(1, libc::F_GETFL as u32)],
        ],
    ),
];

/// The console's log: appending, and moving a full one over the older one.
const LOG: &[Rule] = &[any(libc::SYS_pread64), any(libc::SYS_pwrite64), any(libc::SYS_ftruncate)];

/// Images, through descriptors that are open already.
const BLOCK: &[Rule] = &[
    any(libc::SYS_preadv),
    any(libc::SYS_pwritev),
    any(libc::SYS_preadv2),
    any(libc::SYS_pwritev2),
    any(libc::SYS_pread64),
    any(libc::SYS_pwrite64),
    any(libc::SYS_fdatasync),
    any(libc::SYS_fsync),
    any(libc::SYS_fallocate),
    any(libc::SYS_ftruncate),
    any(libc::SYS_lseek),
    any(libc::SYS_fstat),
    // With an empty path it is `fstat`. Landlock does not cover it: whether a path exists can be asked.
    any(libc::SYS_statx),
];

/// Files in shared folders, each by one name in a folder that is open. Landlock says in which.
const FILES: &[Rule] = &[
    any(libc::SYS_openat2),
    any(libc::SYS_statx),
    any(libc::SYS_getdents64),
    any(libc::SYS_preadv),
    any(libc::SYS_pwritev),
    any(libc::SYS_pwritev2),
    any(libc::SYS_fsync),
    any(libc::SYS_fdatasync),
    any(libc::SYS_syncfs),
    any(libc::SYS_fstatfs),
    any(libc::SYS_fallocate),
    any(libc::SYS_ftruncate),
    any(libc::SYS_lseek),
    any(libc::SYS_copy_file_range),
    any(libc::SYS_mkdirat),
    any(libc::SYS_mknodat),
    any(libc::SYS_symlinkat),
    any(libc::SYS_linkat),
    any(libc::SYS_unlinkat),
    any(libc::SYS_renameat2),
    any(libc::SYS_readlinkat),
    any(libc::SYS_fchmodat),
    any(libc::SYS_utimensat),
    // To hear of what others change.
    any(libc::SYS_fanotify_mark),
    any(libc::SYS_name_to_handle_at),
];

/// The guest's memory, of which QEMU sends descriptors.
const MAPPED: &[Rule] = &[only(libc::SYS_mmap, &[&[Lacks(2, EXEC)]]), any(libc::SYS_fstat)];

/// Sockets that are connected already.
const SOCKET: &[Rule] = &[
    any(libc::SYS_recvfrom),
    any(libc::SYS_recvmsg),
    any(libc::SYS_sendto),
    any(libc::SYS_sendmsg),
    any(libc::SYS_readv),
    any(libc::SYS_writev),
    any(libc::SYS_shutdown),
];

/// A pair of sockets, for what the guest connects to.
const PAIR: &[Rule] = &[only(libc::SYS_socketpair, &[&[Is(0, libc::AF_UNIX as u32)]])];

/// The wait of a device that may do something only so fast.
const TIMER: &[Rule] = &[any(libc::SYS_timerfd_create), any(libc::SYS_timerfd_settime)];

/// Connections to the sockets in the machine's folder.
const LISTEN: &[Rule] = &[any(libc::SYS_accept4)];

/// What control clients ask for, and time limits for them.
const CONTROL: &[Rule] = &[
    only(
        libc::SYS_setsockopt,
        &[
            &[Is(1, libc::SOL_SOCKET as u32), Is(2, libc::SO_RCVTIMEO as u32)],
            &[Is(1, libc::SOL_SOCKET as u32), Is(2, libc::SO_SNDTIMEO as u32)],
        ],
    ),
    // The power button's interrupt.
    only(libc::SYS_ioctl, &[&[Is(1, KVM_IRQ_LINE)]]),
    // How much of the guest's memory is there.
    any(libc::SYS_mincore),
];

/// Running the guest, and wiring devices to it when their driver is ready.
const VCPU: &[Rule] = &[only(
    libc::SYS_ioctl,
    &[
        &[Is(1, KVM_RUN)],
        &[Is(1, KVM_GET_REGS)],
        &[Is(1, KVM_IRQ_LINE)],
        &[Is(1, KVM_SET_GSI_ROUTING)],
        &[Is(1, KVM_IRQFD)],
        &[Is(1, KVM_IOEVENTFD)],
        // What a driver agreed on, told to its TAP interface.
        &[Is(1, TUNSETOFFLOAD)],
        &[Is(1, TUNSETQUEUE)],
    ],
)];

/// How many queues of a TAP interface a driver uses.
const STEER: &[Rule] = &[only(libc::SYS_ioctl, &[&[Is(1, TUNSETQUEUE)]])];

/// A new virtual machine of KVM's after a reset; stopping the processors of the old one; the
/// terminal of `rvm boot`.
const REBUILD: &[Rule] = &[
    only(
        libc::SYS_ioctl,
        &[
            &[Is(1, KVM_CREATE_VM)],
            &[Is(1, KVM_CHECK_EXTENSION)],
            &[Is(1, KVM_GET_VCPU_MMAP_SIZE)],
            &[Is(1, KVM_SET_TSS_ADDR)],
            &[Is(1, KVM_CREATE_IRQCHIP)],
            &[Is(1, KVM_CREATE_PIT2)],
            &[Is(1, KVM_SET_USER_MEMORY_REGION)],
            &[Is(1, KVM_SET_GSI_ROUTING)],
            &[Is(1, KVM_IRQFD)],
            &[Is(1, KVM_IOEVENTFD)],
            &[Is(1, KVM_IRQ_LINE)],
            &[Is(1, KVM_CREATE_VCPU)],
            &[Is(1, KVM_SET_CPUID2)],
            &[Is(1, KVM_SET_MSRS)],
            &[Is(1, KVM_SET_REGS)],
            &[Is(1, KVM_GET_SREGS)],
            &[Is(1, KVM_SET_SREGS)],
            &[Is(1, KVM_SET_FPU)],
            &[Is(1, KVM_GET_LAPIC)],
            &[Is(1, KVM_SET_LAPIC)],
            &[Is(1, libc::TIOCGWINSZ as u32)],
            &[Is(1, libc::TCGETS as u32)],
            &[Is(1, libc::TCSETS as u32)],
            &[Is(1, libc::TCGETS2 as u32)],
            &[Is(1, libc::TCSETS2 as u32)],
        ],
    ),
    // The pages that KVM shares with us.
    only(libc::SYS_mmap, &[&[Lacks(2, EXEC)]]),
    // The kick that makes a processor leave the guest.
    only(libc::SYS_tgkill, &[&[Own(0), Is(2, SIGRTMIN)]]),
    only(libc::SYS_rt_sigaction, &[&[Is(0, SIGRTMIN)]]),
];

/// The record of how the machine ended, and giving up its lock.
const LAST: &[Rule] =
    &[any(libc::SYS_fsync), any(libc::SYS_ftruncate), any(libc::SYS_flock), any(libc::SYS_lseek)];

/// The end of QEMU and what it said.
const WAIT: &[Rule] = &[
    any(libc::SYS_wait4),
    any(libc::SYS_waitid),
    any(libc::SYS_pread64),
    any(libc::SYS_fstat),
    any(libc::SYS_statx),
];

/// Numbers of `linux/kvm.h`, put together from the sizes of their arguments.
const fn io(number: u32) -> u32 {
    ioctl_expr(_IOC_NONE, KVMIO, number, 0) as u32
}

const fn sized<T>(direction: u32, number: u32) -> u32 {
    ioctl_expr(direction, KVMIO, number, size_of::<T>() as u32) as u32
}

/// `linux/if_tun.h`.
const TUNSETOFFLOAD: u32 = 0x4004_54d0;
const TUNSETQUEUE: u32 = 0x4004_54d9;
const KVM_CREATE_VM: u32 = io(0x01);
const KVM_CHECK_EXTENSION: u32 = io(0x03);
const KVM_GET_VCPU_MMAP_SIZE: u32 = io(0x04);
const KVM_CREATE_VCPU: u32 = io(0x41);
const KVM_SET_USER_MEMORY_REGION: u32 = sized::<kvm_userspace_memory_region>(_IOC_WRITE, 0x46);
const KVM_SET_TSS_ADDR: u32 = io(0x47);
const KVM_CREATE_IRQCHIP: u32 = io(0x60);
const KVM_IRQ_LINE: u32 = sized::<kvm_irq_level>(_IOC_WRITE, 0x61);
const KVM_SET_GSI_ROUTING: u32 = sized::<kvm_irq_routing>(_IOC_WRITE, 0x6a);
const KVM_IRQFD: u32 = sized::<kvm_irqfd>(_IOC_WRITE, 0x76);
const KVM_CREATE_PIT2: u32 = sized::<kvm_pit_config>(_IOC_WRITE, 0x77);
const KVM_IOEVENTFD: u32 = sized::<kvm_ioeventfd>(_IOC_WRITE, 0x79);
const KVM_RUN: u32 = io(0x80);
const KVM_GET_REGS: u32 = sized::<kvm_regs>(_IOC_READ, 0x81);
const KVM_SET_REGS: u32 = sized::<kvm_regs>(_IOC_WRITE, 0x82);
const KVM_GET_SREGS: u32 = sized::<kvm_sregs>(_IOC_READ, 0x83);
const KVM_SET_SREGS: u32 = sized::<kvm_sregs>(_IOC_WRITE, 0x84);
const KVM_SET_MSRS: u32 = sized::<kvm_msrs>(_IOC_WRITE, 0x89);
const KVM_SET_FPU: u32 = sized::<kvm_fpu>(_IOC_WRITE, 0x8d);
const KVM_GET_LAPIC: u32 = sized::<kvm_lapic_state>(_IOC_READ, 0x8e);
const KVM_SET_LAPIC: u32 = sized::<kvm_lapic_state>(_IOC_WRITE, 0x8f);
const KVM_SET_CPUID2: u32 = sized::<kvm_cpuid2>(_IOC_WRITE, 0x90);

/// The kind of the thread with that name, in a process of that role.
pub(super) fn kind_of(role: Role, thread: &str) -> Option<&'static Table> {
    let kind = thread.trim_end_matches(|c: char| c.is_ascii_digit());
    of(role).iter().find(|table| table.thread == kind)
}

#[cfg(test)]
mod tests {
    use super::super::threads::SPAWNER;
    use super::*;

    fn all() -> impl Iterator<Item = &'static Table> {
        Role::ALL.into_iter().flat_map(of)
    }

    #[test]
    fn every_process_has_a_table_for_its_own_thread() {
        for role in Role::ALL {
            assert!(kind_of(role, role.kind()).is_some(), "{role:?}");
        }
    }

    #[test]
    fn a_number_behind_the_name_is_no_kind_of_its_own() {
        let found = |name| kind_of(Role::Hypervisor, name).map(|table| table.thread);
        assert_eq!((found("vcpu63"), found("main")), (Some("vcpu"), Some("main")));
        assert_eq!((found("vcpus"), found(""), found("supervisor")), (None, None, None));
    }

    #[test]
    fn every_kind_is_described() {
        let document = include_str!("../../../docs/security.md");
        for thread in all().map(|table| table.thread).chain([SPAWNER]) {
            let row = format!("| `{thread}` |");
            assert!(document.contains(&row), "docs/security.md has no row {row}");
        }
    }

    #[test]
    fn numbers_are_those_of_the_kernel() {
        assert_eq!(KVM_RUN, 0xae80);
        assert_eq!(KVM_IRQFD, 0x4020_ae76);
        assert_eq!(KVM_IOEVENTFD, 0x4040_ae79);
        assert_eq!(KVM_SET_GSI_ROUTING, 0x4008_ae6a);
        assert_eq!(KVM_GET_SREGS, 0x8138_ae83);
        assert_eq!(vmm_sys_util::signal::SIGRTMIN(), SIGRTMIN as i32);
    }

    /// Calls by which a process would become another, or reach another: in no table.
    #[test]
    fn no_thread_leaves_the_process() {
        let forbidden = [
            libc::SYS_execve,
            libc::SYS_execveat,
            libc::SYS_fork,
            libc::SYS_vfork,
            libc::SYS_ptrace,
            libc::SYS_process_vm_readv,
            libc::SYS_process_vm_writev,
            libc::SYS_kill,
            libc::SYS_tkill,
            libc::SYS_socket,
            libc::SYS_connect,
            libc::SYS_bind,
            libc::SYS_open,
            libc::SYS_openat,
            libc::SYS_openat2,
            libc::SYS_unlinkat,
            libc::SYS_renameat2,
            libc::SYS_mount,
            libc::SYS_unshare,
            libc::SYS_setns,
            libc::SYS_bpf,
            libc::SYS_userfaultfd,
            libc::SYS_memfd_create,
            // What a ring does, filters do not see.
            libc::SYS_io_uring_setup,
            libc::SYS_io_uring_enter,
            libc::SYS_pkey_mprotect,
        ];
        // What threads may that open files, and none that does not.
        let files = [libc::SYS_openat2, libc::SYS_unlinkat, libc::SYS_renameat2];
        for table in all() {
            let opening = ["virtio-fs", "share"].contains(&table.thread);
            for rule in table.parts.iter().copied().flatten().chain(START) {
                let may = !forbidden.contains(&rule.call) || (opening && files.contains(&rule.call));
                assert!(may, "{} may make call {}", table.thread, rule.call);
            }
        }
        let hypervisor = of(Role::Hypervisor);
        assert!(hypervisor.len() > 10 && hypervisor.iter().all(|table| table.thread != "virtio-fs"));
    }

    #[test]
    fn every_rule_on_memory_forbids_code() {
        for rule in all().flat_map(|table| table.parts).copied().flatten() {
            if [libc::SYS_mmap, libc::SYS_mprotect].contains(&rule.call) {
                let no_code = |case: &&[Arg]| case.iter().any(|arg| matches!(arg, Lacks(2, EXEC)));
                assert!(!rule.cases.is_empty() && rule.cases.iter().all(no_code));
            }
        }
    }
}
