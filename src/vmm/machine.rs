//! One life of a virtual machine, from power-on to power-off or reset.

use std::io::{self, Write};
use std::sync::{Arc, Mutex};

use kvm_bindings::{KVM_PIT_SPEAKER_DUMMY, kvm_pit_config};
use kvm_ioctls::{Kvm, VcpuFd, VmFd};
use vmm_sys_util::eventfd::EventFd;

use super::bus::Bus;
use super::console;
use super::cpu::{self, Model};
use super::devices::cmos::Cmos;
use super::devices::i8042::I8042;
use super::devices::pm::{Pm, Wires};
use super::devices::serial::SerialPort;
use super::ending::{End, Ending};
use super::memory::Memory;
use super::notify::Notify;
use super::slots::Slots;
use super::vcpu::{Buses, Running};
use super::{Error, Spec, acpi, boot, layout};

/// Wires of the power management registers to KVM and to the end of the machine.
pub struct PmWires {
    vm: Arc<VmFd>,
    ending: Arc<Ending>,
}

impl Wires for PmWires {
    fn sci(&self, active: bool) {
        if let Err(e) = self.vm.set_irq_line(layout::SCI_GSI, active) {
            tracing::warn!("cannot drive the ACPI interrupt: {e}");
        }
    }

    fn power_off(&self) {
        self.ending.finish(Ok(End::PowerOff));
    }
}

/// The power management device of a machine.
pub type MachinePm = Arc<Mutex<Pm<PmWires>>>;

/// What is opened once and serves all lives of a machine, beside its devices.
pub struct Files {
    images: boot::Images,
    output: console::Output,
}

impl Files {
    /// Opens what `spec` names.
    ///
    /// # Errors
    /// [`Error::Boot`], [`Error::Log`].
    pub fn open(spec: &Spec) -> Result<Self, Error> {
        let images = boot::Images::open(&spec.kernel, spec.initrd.as_deref())?;
        Ok(Self { images, output: console::Output::open(&spec.serial)? })
    }
}

/// A machine that has been put together and not started.
pub struct Machine {
    vcpus: Vec<VcpuFd>,
    buses: Arc<Buses>,
    /// How it ends.
    pub ending: Arc<Ending>,
    /// Its power button.
    pub pm: MachinePm,
    /// Its serial port, for input.
    pub serial: Arc<Mutex<SerialPort>>,
    /// Written to when the guest has read all serial input.
    pub drained: Notify,
    /// Last, so that everything that KVM still calls is gone before.
    _vm: Arc<VmFd>,
}

impl Machine {
    /// Puts a machine together in `memory`, which reads zeros, with the virtio devices of `slots`.
    ///
    /// # Errors
    /// Any of [`Error`].
    pub fn build(
        kvm: &Kvm,
        spec: &Spec,
        model: &Model,
        memory: &Memory,
        slots: &Slots,
        files: &Files,
    ) -> Result<Self, Error> {
        let ending = Arc::new(Ending::new().map_err(failed("event descriptor"))?);
        let vm = Arc::new(create_vm(kvm)?);
        memory.attach(&vm)?;
        slots.attach(&vm, &ending)?;

        let pm = Arc::new(Mutex::new(Pm::new(PmWires { vm: vm.clone(), ending: ending.clone() })));
        let drained = Notify::new().map_err(failed("event descriptor"))?;
        let serial = serial_port(&vm, &drained, files.output.writer(&ending))?;
        let mut buses = Buses { ports: Bus::new(), memory: Bus::new() };
        add_ports(&mut buses.ports, &serial, &pm, &ending)?;
        slots.add_to(&mut buses)?;

        let guest = memory.guest();
        cpu::prepare_memory(guest)?;
        let devices = slots.announced();
        let rsdp = acpi::write(guest, spec.cpus, &devices)?;
        let cmdline = boot::cmdline::with_devices(&spec.cmdline, devices.mmio());
        let entry = boot::load(guest, &files.images, &cmdline, rsdp)?;

        let mut vcpus = Vec::with_capacity(spec.cpus.into());
        for cpu in 0..spec.cpus {
            let vcpu = vm.create_vcpu(cpu.into()).map_err(|e| failed("virtual CPU")(e.into()))?;
            model.configure(&vcpu, cpu, entry.0)?;
            vcpus.push(vcpu);
        }
        Ok(Self { vcpus, buses: Arc::new(buses), ending, pm, serial, drained, _vm: vm })
    }

    /// Starts the virtual CPUs; they stop when what is returned is dropped.
    ///
    /// # Errors
    /// When a thread cannot be started.
    pub fn start(&mut self) -> Result<Running, Error> {
        Ok(Running::start(std::mem::take(&mut self.vcpus), &self.buses, &self.ending)?)
    }
}

fn failed(what: &'static str) -> impl Fn(io::Error) -> Error {
    move |source| Error::Kvm { what, source }
}

/// A new event descriptor.
pub(super) fn eventfd() -> Result<EventFd, Error> {
    EventFd::new(libc::EFD_NONBLOCK | libc::EFD_CLOEXEC).map_err(failed("event descriptor"))
}

/// A VM with the interrupt controllers and the timer of a PC.
pub(super) fn create_vm(kvm: &Kvm) -> Result<VmFd, Error> {
    let step = |what| move |e: kvm_ioctls::Error| Error::Kvm { what, source: e.into() };
    let vm = loop {
        match kvm.create_vm() {
            // The kernel gives up on any signal while it makes a VM.
            Err(e) if e.errno() == libc::EINTR => {}
            result => break result.map_err(step("virtual machine"))?,
        }
    };
    vm.set_tss_address(layout::KVM_TSS).map_err(step("TSS address"))?;
    vm.create_irq_chip().map_err(step("interrupt controllers"))?;
    let pit = kvm_pit_config { flags: KVM_PIT_SPEAKER_DUMMY, ..Default::default() };
    vm.create_pit2(pit).map_err(step("timer"))?;
    Ok(vm)
}

fn serial_port(
    vm: &VmFd,
    drained: &Notify,
    out: Box<dyn Write + Send>,
) -> Result<Arc<Mutex<SerialPort>>, Error> {
    let irq = eventfd()?;
    vm.register_irqfd(&irq, layout::COM1_GSI).map_err(|e| failed("serial interrupt")(e.into()))?;
    Ok(Arc::new(Mutex::new(SerialPort::new(irq, drained.clone(), out))))
}

fn add_ports(
    ports: &mut Bus,
    serial: &Arc<Mutex<SerialPort>>,
    pm: &MachinePm,
    ending: &Arc<Ending>,
) -> Result<(), Error> {
    let reset = ending.clone();
    let i8042 = I8042::new(Box::new(move || reset.finish(Ok(End::Reset))));
    ports.insert(layout::COM1, layout::COM_LEN, serial.clone())?;
    ports.insert(layout::I8042, layout::I8042_LEN, Arc::new(Mutex::new(i8042)))?;
    ports.insert(layout::CMOS, layout::CMOS_LEN, Arc::new(Mutex::new(Cmos)))?;
    ports.insert(layout::PM1A_EVT.into(), layout::PM_LEN, pm.clone())?;
    Ok(())
}
