//! The hypervisor: one KVM virtual machine, its devices and its way to boot Linux.
//!
//! This room knows nothing of Vagrantfiles, boxes or SSH and imports nothing of this crate
//! outside itself. It takes a [`Spec`] of checked numbers, paths and open descriptors, and
//! gives back why the guest ended.
//!
//! [`Vmm::new`] puts the machine together, so that whatever is wrong with its parts is said
//! before anything runs; [`Vmm::run`] blocks until the guest ends; a [`Handle`] reaches the
//! machine from other threads meanwhile, and [`control`] puts that on a socket. Between the two,
//! [`sandbox::enter`] may shut the process in: a machine that is put together opens nothing more.

pub mod acpi;
pub mod attach;
pub mod boot;
pub mod bus;
mod console;
pub mod control;
pub mod cpu;
pub mod devices;
mod ending;
mod error;
mod handle;
pub mod layout;
mod machine;
pub mod memory;
pub mod meters;
mod msi;
pub mod notify;
pub mod pci;
pub mod probe;
mod release;
mod resets;
pub mod sandbox;
mod shared_page;
mod slots;
mod spec;
pub mod vcpu;
pub mod virtio;

pub use devices::log::BoundedLog;
pub use devices::terminal::RawMode;
pub use error::Error;
pub use handle::Handle;
pub use spec::{
    Backing, Disk, DiskFormat, Exit, Net, NetBackend, OnReset, Serial, Share, Spec, Transport, VhostUser,
    Vsock, VsockForward, VsockPort, VsockService,
};

use std::sync::Arc;
use std::time::Instant;

use kvm_ioctls::Kvm;

use console::Console;
use cpu::Model;
use ending::End;
use handle::Core;
use machine::{Files, Machine};
use memory::Memory;
use resets::ResetGuard;
use slots::Slots;

/// The stable version of the KVM API.
const KVM_API: i32 = 12;
/// What a local APIC without extended ids and this hypervisor's tables were made for.
const MAX_CPUS: usize = 64;

/// A virtual machine.
///
/// Fields drop in order: the machine and its devices before the memory they use.
pub struct Vmm {
    machine: Option<Machine>,
    slots: Slots,
    files: Files,
    memory: Memory,
    model: Model,
    kvm: Kvm,
    spec: Spec,
    core: Arc<Core>,
}

impl Vmm {
    /// Opens all files, loads the kernel and sets up the virtual CPUs; nothing runs yet.
    ///
    /// # Errors
    /// Any of [`Error`].
    pub fn new(mut spec: Spec) -> Result<Self, Error> {
        let kvm = Kvm::new().map_err(|e| Error::Open(e.into()))?;
        match kvm.get_api_version() {
            KVM_API => {}
            other => return Err(Error::Version(other)),
        }
        let max = kvm.get_max_vcpus().min(MAX_CPUS);
        if spec.cpus == 0 || usize::from(spec.cpus) > max {
            return Err(Error::Cpus { asked: spec.cpus, max });
        }
        let model = Model::new(&kvm, spec.cpus, spec.nested)?;
        memory::check(spec.memory, model.address_bits())?;
        let files = Files::open(&spec)?;
        let memory = Memory::new(spec.memory, spec.sharing())?;
        let slots = Slots::open(&mut spec, memory.guest())?;
        let machine = Machine::build(&kvm, &spec, &model, &memory, &slots, &files)?;
        let core = Arc::new(Core::new(&spec, &machine, memory.guest(), &slots));
        Ok(Self { machine: Some(machine), slots, files, memory, model, kvm, spec, core })
    }

    /// A way to reach the machine from other threads, as long as it lives and after.
    pub fn handle(&self) -> Handle {
        Handle::new(self.core.clone())
    }

    /// Bytes that the largest of its images may come to hold: for [`sandbox::Policy`].
    pub fn largest_file(&self) -> u64 {
        self.slots.largest_file()
    }

    /// Runs the guest on this thread and one for each virtual CPU, until it ends. With
    /// [`OnReset::Restart`] a reset makes a new machine in the same process, with the same
    /// open files and connections.
    ///
    /// # Errors
    /// What the machine failed with, or [`Error::KeepsResetting`].
    pub fn run(mut self) -> Result<Exit, Error> {
        let result = self.lives();
        self.core.ended();
        result
    }

    fn lives(&mut self) -> Result<Exit, Error> {
        let mut console = Console::open(&self.spec.serial)?;
        let mut resets = ResetGuard::default();
        loop {
            let mut machine = match self.machine.take() {
                Some(first) => first,
                None => self.rebuild()?,
            };
            let running = machine.start()?;
            let end = console.serve(&machine);
            drop(running);
            self.slots.reset();
            // All of the old VM has to be gone before a new one takes its interrupt descriptors.
            self.core.between_lives();
            drop(machine);
            match (end?, self.spec.on_reset) {
                (End::PowerOff, _) => return Ok(Exit::PowerOff),
                (End::Stop, _) => return Ok(Exit::Stopped),
                (End::Reset, OnReset::Exit) => return Ok(Exit::Reset),
                (End::Reset, OnReset::Restart) => {}
            }
            resets.count(Instant::now())?;
        }
    }

    /// Puts the machine together again after a reset.
    fn rebuild(&self) -> Result<Machine, Error> {
        self.slots.check_at_rest()?;
        self.memory.clear();
        let Self { kvm, spec, model, memory, slots, files, .. } = self;
        let machine = Machine::build(kvm, spec, model, memory, slots, files)?;
        self.core.restarted(&machine);
        Ok(machine)
    }
}
