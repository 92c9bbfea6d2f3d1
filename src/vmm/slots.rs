//! The virtio devices of a machine, each behind its transport, with its address and interrupts.
//!
//! They outlive a reset of the machine: image files stay open, network connections stay up, and
//! a frame of which half had arrived is not lost.

use std::io;
use std::sync::{Arc, Mutex, PoisonError};

use kvm_ioctls::{IoEventAddress, NoDatamatch, VmFd};
use vm_memory::GuestMemoryMmap;
use vmm_sys_util::eventfd::EventFd;

use super::acpi::Announced;
use super::boot::cmdline::MmioDevice;
use super::ending::{Alarm, Ending};
use super::machine::eventfd;
use super::meters::Meters;
use super::msi::MsiRoutes;
use super::pci::{ConfigPorts, PciFunction};
use super::vcpu::Buses;
use super::virtio::balloon::{self, Balloon};
use super::virtio::console::Console;
use super::virtio::pci::{BAR_LEN, notify_offset, vector_count};
use super::virtio::{
    MmioTransport, PciTransport, VIRTIO_MMIO_SIZE, VirtioDevice, block::Block, fs::Budget, fs::Fs, net::Net,
    net::VhostNet, rng::Rng, vsock::Vsock,
};
use super::{Error, NetBackend, Spec, Transport, VhostUser, layout};

/// Offset of the QueueNotify register (virtio 1.2, section 4.2.2).
const QUEUE_NOTIFY: u64 = 0x50;
/// Devices of every machine: entropy source and balloon.
const ALWAYS: usize = 2;

struct MmioSlot {
    transport: Arc<Mutex<MmioTransport>>,
    irq: EventFd,
    kicks: Vec<EventFd>,
    place: MmioDevice,
}

struct PciSlot {
    transport: Arc<Mutex<PciTransport>>,
    kicks: Vec<EventFd>,
    /// Guest-physical start of its memory range.
    base: u32,
    /// The interrupt of each vector.
    gsis: Vec<u32>,
}

/// All of them, in the order in which the guest finds them.
pub struct Slots {
    placed: Placed,
    balloon: balloon::Control,
    meters: Meters,
    alarm: Alarm,
    largest_file: u64,
}

enum Placed {
    /// Behind memory-mapped registers.
    Mmio(MmioSlots),
    /// On a PCI bus.
    Pci(PciSlots),
}

/// Devices behind memory-mapped registers.
struct MmioSlots {
    slots: Vec<MmioSlot>,
}

/// Devices on a PCI bus.
struct PciSlots {
    slots: Vec<PciSlot>,
    routes: Arc<MsiRoutes>,
}

impl Slots {
    /// Opens the disks in order, then the network cards in order, then what every machine has, the
    /// entropy source and the balloon, then sockets and console if there are to be any, then shares. The
    /// descriptors of network, sockets and console are moved out of `spec`.
    ///
    /// # Errors
    /// [`Error::TooManyDevices`], [`Error::Virtio`], [`Error::Kvm`].
    pub fn open(spec: &mut Spec, mem: &GuestMemoryMmap) -> Result<Self, Error> {
        let places = match spec.transport {
            Transport::Mmio => layout::VIRTIO_GSIS.len(),
            Transport::Pci => layout::PCI_SLOTS,
        };
        let others = ALWAYS + usize::from(spec.vsock.is_some()) + usize::from(spec.console.is_some());
        let (asked, max) = (spec.disks.len() + spec.nets.len() + spec.shares.len(), places - others);
        if asked > max {
            return Err(Error::TooManyDevices { asked, max });
        }
        let (mut meters, mut largest_file, alarm) = (Meters::default(), 0, Alarm::default());
        let mut devices: Vec<Box<dyn VirtioDevice>> = Vec::with_capacity(asked + others);
        for disk in &spec.disks {
            let disk = Block::with_queues(disk, spec.cpus.into())?;
            meters.add_disk(disk.counters());
            largest_file = disk.most_bytes().max(largest_file);
            devices.push(Box::new(disk));
        }
        for net in spec.nets.drain(..) {
            devices.push(match net.backend {
                // What another process carries is not counted.
                NetBackend::VhostUser(VhostUser { socket, listener, mtu }) => {
                    let card = VhostNet::new(net.mac, mtu, socket, listener, mem)?;
                    let alarm = alarm.clone();
                    Box::new(card.on_stray(move || alarm.raise()))
                }
                _ => {
                    let net = Net::with_pairs(net, spec.cpus.into())?;
                    meters.add_net(net.counters());
                    Box::new(net)
                }
            });
        }
        devices.push(Box::new(Rng::new()));
        let balloon = Balloon::new(spec.memory)?;
        let control = balloon.control();
        devices.push(Box::new(balloon));
        if let Some(vsock) = spec.vsock.take() {
            devices.push(Box::new(Vsock::new(vsock)?));
        }
        if let Some(listener) = spec.console.take() {
            devices.push(Box::new(Console::new(listener)?));
        }
        let files = Budget::of_memory(spec.memory);
        for share in &spec.shares {
            let device = Fs::new(share, &files)?;
            devices.push(Box::new(match &spec.changes {
                Some(feed) => device.telling(feed),
                None => device,
            }));
        }
        let placed = match spec.transport {
            Transport::Mmio => MmioSlots::new(devices, mem).map(Placed::Mmio),
            Transport::Pci => PciSlots::new(devices, mem).map(Placed::Pci),
        }?;
        Ok(Self { placed, balloon: control, meters, alarm, largest_file })
    }

    /// The way to the balloon.
    pub fn balloon(&self) -> balloon::Control {
        self.balloon.clone()
    }

    /// Bytes that the largest image may come to hold.
    pub fn largest_file(&self) -> u64 {
        self.largest_file
    }

    /// What disks and network cards carry.
    pub fn meters(&self) -> Meters {
        self.meters.clone()
    }

    /// Wires interrupts and kicks to `vm`, a new one, whose life ends by `ending`.
    ///
    /// # Errors
    /// [`Error::Kvm`].
    pub fn attach(&self, vm: &Arc<VmFd>, ending: &Arc<Ending>) -> Result<(), Error> {
        self.alarm.begin(ending);
        match &self.placed {
            Placed::Mmio(slots) => slots.attach(vm),
            Placed::Pci(slots) => slots.attach(vm),
        }
    }

    /// Whether what was [reset](Self::reset) is at rest, so that the memory may be used anew.
    ///
    /// # Errors
    /// [`Error::Stray`].
    pub fn check_at_rest(&self) -> Result<(), Error> {
        self.alarm.check()
    }

    /// Puts the registers on the buses.
    ///
    /// # Errors
    /// [`Error::Bus`], if the layout contradicts itself.
    pub fn add_to(&self, buses: &mut Buses) -> Result<(), Error> {
        match &self.placed {
            Placed::Mmio(MmioSlots { slots }) => {
                for slot in slots {
                    buses.memory.insert(slot.place.base, VIRTIO_MMIO_SIZE, slot.transport.clone())?;
                }
            }
            Placed::Pci(PciSlots { slots, .. }) => {
                let mut functions: Vec<Arc<Mutex<dyn PciFunction>>> = Vec::with_capacity(slots.len());
                for slot in slots {
                    buses.memory.insert(slot.base.into(), BAR_LEN.into(), slot.transport.clone())?;
                    functions.push(slot.transport.clone());
                }
                let ports = Arc::new(Mutex::new(ConfigPorts::new(functions)));
                buses.ports.insert(layout::PCI_CONFIG, layout::PCI_CONFIG_LEN, ports)?;
            }
        }
        Ok(())
    }

    /// What there is to tell the guest.
    pub fn announced(&self) -> Announced {
        match &self.placed {
            Placed::Mmio(MmioSlots { slots }) => {
                Announced::Mmio(slots.iter().map(|slot| slot.place).collect())
            }
            Placed::Pci(_) => Announced::Pci,
        }
    }

    /// Stops all work on guest memory and puts every device into the state after power-on.
    pub fn reset(&self) {
        match &self.placed {
            Placed::Mmio(MmioSlots { slots }) => {
                for slot in slots {
                    slot.transport.lock().unwrap_or_else(PoisonError::into_inner).reset();
                }
            }
            Placed::Pci(PciSlots { slots, .. }) => {
                for slot in slots {
                    slot.transport.lock().unwrap_or_else(PoisonError::into_inner).reset();
                }
            }
        }
    }
}

impl MmioSlots {
    fn new(devices: Vec<Box<dyn VirtioDevice>>, mem: &GuestMemoryMmap) -> Result<Self, Error> {
        let places = (layout::VIRTIO_MMIO..).step_by(layout::VIRTIO_MMIO_STRIDE as usize);
        let slot = |(device, (base, gsi))| {
            let irq = eventfd()?;
            let transport = MmioTransport::new(device, mem.clone(), irq.try_clone().map_err(no_event())?)?;
            let kicks = transport.queue_kicks().map_err(no_event())?;
            let place = MmioDevice { base, gsi };
            Ok(MmioSlot { transport: Arc::new(Mutex::new(transport)), irq, kicks, place })
        };
        let slots = devices.into_iter().zip(places.zip(layout::VIRTIO_GSIS)).map(slot);
        Ok(Self { slots: slots.collect::<Result<_, Error>>()? })
    }

    fn attach(&self, vm: &VmFd) -> Result<(), Error> {
        for slot in &self.slots {
            vm.register_irqfd(&slot.irq, slot.place.gsi).map_err(failed("virtio interrupt"))?;
            let notify = IoEventAddress::Mmio(slot.place.base + QUEUE_NOTIFY);
            for (queue, kick) in (0u32..).zip(&slot.kicks) {
                vm.register_ioevent(kick, &notify, queue).map_err(failed("virtio notification"))?;
            }
        }
        Ok(())
    }
}

impl PciSlots {
    fn new(devices: Vec<Box<dyn VirtioDevice>>, mem: &GuestMemoryMmap) -> Result<Self, Error> {
        let routes = Arc::new(MsiRoutes::default());
        let slot = |(device, base): (Box<dyn VirtioDevice>, u32)| {
            let own = routes.reserve(vector_count(device.queue_max_sizes().len()));
            let gsis = own.gsis().collect();
            let transport = PciTransport::new(device, mem.clone(), base, Box::new(own))?;
            let kicks = transport.queue_kicks().map_err(no_event())?;
            Ok(PciSlot { transport: Arc::new(Mutex::new(transport)), kicks, base, gsis })
        };
        let bases = (layout::PCI_MEMORY..).step_by(BAR_LEN as usize);
        let slots = devices.into_iter().zip(bases).map(slot).collect::<Result<_, Error>>()?;
        Ok(Self { slots, routes })
    }

    /// The kicks stay where the hypervisor put the memory ranges, whether or not the guest has them
    /// answer: a kick too many does nothing.
    fn attach(&self, vm: &Arc<VmFd>) -> Result<(), Error> {
        self.routes.attach(vm);
        for slot in &self.slots {
            let transport = slot.transport.lock().unwrap_or_else(PoisonError::into_inner);
            for (event, gsi) in transport.vectors().events().zip(&slot.gsis) {
                vm.register_irqfd(event, *gsi).map_err(failed("virtio interrupt"))?;
            }
            for (queue, kick) in (0..).zip(&slot.kicks) {
                let notify = IoEventAddress::Mmio(u64::from(slot.base) + notify_offset(queue));
                // Without a value to compare KVM does not decode the instruction where it need not.
                vm.register_ioevent(kick, &notify, NoDatamatch).map_err(failed("virtio notification"))?;
            }
        }
        Ok(())
    }
}

fn failed(what: &'static str) -> impl Fn(kvm_ioctls::Error) -> Error {
    move |e| Error::Kvm { what, source: e.into() }
}

fn no_event() -> impl Fn(io::Error) -> Error {
    |source| Error::Kvm { what: "event descriptor", source }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_slot_has_room_in_pci_memory() {
        let end = layout::PCI_MEMORY + layout::PCI_SLOTS as u32 * BAR_LEN;
        assert!(end <= layout::PCI_MEMORY + layout::PCI_MEMORY_LEN);
        assert!(layout::PCI_MEMORY.is_multiple_of(BAR_LEN));
    }
}
