//! The virtio devices of a machine, each with its address and interrupt.
//!
//! They outlive a reset of the machine: image files stay open, network connections stay up, and
//! a frame of which half had arrived is not lost.

use std::sync::{Arc, Mutex, PoisonError};

use kvm_ioctls::{IoEventAddress, VmFd};
use vm_memory::GuestMemoryMmap;
use vmm_sys_util::eventfd::EventFd;

use super::boot::cmdline::MmioDevice;
use super::bus::{Bus, BusDevice};
use super::machine::eventfd;
use super::virtio::{MmioTransport, VIRTIO_MMIO_SIZE, VirtioDevice, block::Block, net::Net, rng::Rng};
use super::{Error, Spec, layout};

/// Offset of the QueueNotify register (virtio 1.2, section 4.2.2).
const QUEUE_NOTIFY: u64 = 0x50;
/// Offset of the Status register; writing zero resets the device.
const STATUS: u64 = 0x70;

struct Slot {
    transport: Arc<Mutex<MmioTransport>>,
    irq: EventFd,
    kicks: Vec<EventFd>,
    place: MmioDevice,
}

/// All of them, in the order in which the guest finds them.
pub struct Slots {
    slots: Vec<Slot>,
}

impl Slots {
    /// Opens the disks in order, then the network cards in order, then the entropy source.
    /// The network descriptors are moved out of `spec`.
    ///
    /// # Errors
    /// [`Error::TooManyDevices`], [`Error::Virtio`], [`Error::Kvm`].
    pub fn open(spec: &mut Spec, mem: &GuestMemoryMmap) -> Result<Self, Error> {
        let asked = spec.disks.len() + spec.nets.len();
        if asked >= layout::VIRTIO_GSIS.len() {
            return Err(Error::TooManyDevices(asked));
        }
        let mut devices: Vec<Box<dyn VirtioDevice>> = Vec::with_capacity(asked + 1);
        for disk in &spec.disks {
            devices.push(Box::new(Block::open(disk)?));
        }
        for net in spec.nets.drain(..) {
            devices.push(Box::new(Net::new(net)?));
        }
        devices.push(Box::new(Rng::new()));
        let places = (layout::VIRTIO_MMIO..).step_by(layout::VIRTIO_MMIO_STRIDE as usize);
        let slots = devices
            .into_iter()
            .zip(places.zip(layout::VIRTIO_GSIS))
            .map(|(device, (base, gsi))| Slot::new(device, mem, MmioDevice { base, gsi }))
            .collect::<Result<_, _>>()?;
        Ok(Self { slots })
    }

    /// Wires interrupts and kicks to `vm`.
    ///
    /// # Errors
    /// [`Error::Kvm`].
    pub fn attach(&self, vm: &VmFd) -> Result<(), Error> {
        let failed = |what| move |e: kvm_ioctls::Error| Error::Kvm { what, source: e.into() };
        for slot in &self.slots {
            vm.register_irqfd(&slot.irq, slot.place.gsi).map_err(failed("virtio interrupt"))?;
            let notify = IoEventAddress::Mmio(slot.place.base + QUEUE_NOTIFY);
            for (queue, kick) in (0u32..).zip(&slot.kicks) {
                vm.register_ioevent(kick, &notify, queue).map_err(failed("virtio notification"))?;
            }
        }
        Ok(())
    }

    /// Puts the registers on the bus.
    ///
    /// # Errors
    /// [`Error::Bus`], if the layout contradicts itself.
    pub fn add_to(&self, bus: &mut Bus) -> Result<(), Error> {
        for slot in &self.slots {
            bus.insert(slot.place.base, VIRTIO_MMIO_SIZE, slot.transport.clone())?;
        }
        Ok(())
    }

    /// Where they are, to tell the guest.
    pub fn announced(&self) -> Vec<MmioDevice> {
        self.slots.iter().map(|slot| slot.place).collect()
    }

    /// Stops all work on guest memory and puts every device into the state after power-on.
    pub fn reset(&self) {
        for slot in &self.slots {
            let mut transport = slot.transport.lock().unwrap_or_else(PoisonError::into_inner);
            transport.write(STATUS, &0u32.to_le_bytes());
        }
    }
}

impl Slot {
    fn new(device: Box<dyn VirtioDevice>, mem: &GuestMemoryMmap, place: MmioDevice) -> Result<Self, Error> {
        let irq = eventfd()?;
        let clone = irq.try_clone().map_err(|source| Error::Kvm { what: "event descriptor", source })?;
        let transport = MmioTransport::new(device, mem.clone(), clone)?;
        let kicks =
            transport.queue_kicks().map_err(|source| Error::Kvm { what: "event descriptor", source })?;
        Ok(Self { transport: Arc::new(Mutex::new(transport)), irq, kicks, place })
    }
}
