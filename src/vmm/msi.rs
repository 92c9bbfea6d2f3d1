//! KVM's table of interrupt routes: the pins of the interrupt controllers, and the messages of
//! MSI-X vectors.
//!
//! KVM takes the table as a whole and forgets what is not in it, so the routes of the pins that it
//! made itself are written down here again. Source: the kernel's
//! `Documentation/virt/kvm/api.rst`, `KVM_SET_GSI_ROUTING`.

use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use kvm_bindings::{
    KVM_IRQ_ROUTING_IRQCHIP, KVM_IRQ_ROUTING_MSI, KVM_IRQCHIP_IOAPIC, KVM_IRQCHIP_PIC_MASTER,
    KVM_IRQCHIP_PIC_SLAVE, KvmIrqRouting, kvm_irq_routing_entry, kvm_irq_routing_irqchip,
    kvm_irq_routing_msi,
};
use kvm_ioctls::VmFd;
use vmm_sys_util::eventfd::EventFd;

use super::pci::{MsiMessage, MsiRouter};

/// Pins of the IOAPIC; the first interrupt of a vector comes after them.
const IOAPIC_PINS: u32 = 24;
/// Pins of each of the two 8259.
const PIC_PINS: u32 = 8;

/// The routes of a machine; they last over resets, which begin with none.
#[derive(Debug, Default)]
pub struct MsiRoutes {
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    /// The present life of the machine. Weak, because whoever holds its descriptor keeps it alive.
    vm: Weak<VmFd>,
    /// By interrupt number, from [`IOAPIC_PINS`] on.
    messages: Vec<Option<MsiMessage>>,
}

/// The part of the routes that belongs to one device.
#[derive(Debug)]
pub struct DeviceRoutes {
    routes: Arc<MsiRoutes>,
    /// Its first vector among all.
    first: usize,
    count: u16,
}

impl MsiRoutes {
    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Gives a device with `count` vectors interrupts of its own.
    pub fn reserve(self: &Arc<Self>, count: u16) -> DeviceRoutes {
        let mut inner = self.inner();
        let first = inner.messages.len();
        inner.messages.resize(first + usize::from(count), None);
        drop(inner);
        DeviceRoutes { routes: self.clone(), first, count }
    }

    /// `vm` begins with the routes that KVM makes for the pins, and no message.
    pub fn attach(&self, vm: &Arc<VmFd>) {
        let mut inner = self.inner();
        inner.vm = Arc::downgrade(vm);
        inner.messages.fill(None);
    }
}

impl DeviceRoutes {
    /// The interrupt of each vector.
    pub fn gsis(&self) -> impl Iterator<Item = u32> + use<> {
        let first = IOAPIC_PINS + self.first as u32;
        first..first + u32::from(self.count)
    }

    /// `None` when its virtual CPUs have ended, so that nobody asks.
    fn vm(&self) -> Option<Arc<VmFd>> {
        self.routes.inner().vm.upgrade()
    }
}

impl MsiRouter for DeviceRoutes {
    fn route(&self, vector: u16, message: MsiMessage) -> io::Result<()> {
        let mut inner = self.routes.inner();
        // No machine: its virtual CPUs have ended, so nobody asked.
        let Some(vm) = inner.vm.upgrade() else { return Ok(()) };
        let slot = inner.messages.get_mut(self.first + usize::from(vector));
        let slot = slot.filter(|_| vector < self.count).ok_or(io::ErrorKind::InvalidInput)?;
        let before = slot.replace(message);
        let result = table(&inner.messages).and_then(|table| Ok(vm.set_gsi_routing(&table)?));
        // A message that KVM refused must not spoil the next table.
        if result.is_err()
            && let Some(slot) = inner.messages.get_mut(self.first + usize::from(vector))
        {
            *slot = before;
        }
        result
    }

    fn disconnect(&self, vector: u16, event: &EventFd) -> io::Result<()> {
        match (self.vm(), self.gsis().nth(vector.into())) {
            (Some(vm), Some(gsi)) => Ok(vm.unregister_irqfd(event, gsi)?),
            _ => Ok(()),
        }
    }

    fn connect(&self, vector: u16, event: &EventFd) -> io::Result<()> {
        match (self.vm(), self.gsis().nth(vector.into())) {
            (Some(vm), Some(gsi)) => Ok(vm.register_irqfd(event, gsi)?),
            _ => Ok(()),
        }
    }
}

/// All routes: the pins as KVM has them by itself, then the messages.
fn table(messages: &[Option<MsiMessage>]) -> io::Result<KvmIrqRouting> {
    let pic = |pin: u32| {
        let chip = if pin < PIC_PINS { KVM_IRQCHIP_PIC_MASTER } else { KVM_IRQCHIP_PIC_SLAVE };
        pin_route(pin, chip, pin % PIC_PINS)
    };
    let mut entries: Vec<_> = (0..IOAPIC_PINS).map(|pin| pin_route(pin, KVM_IRQCHIP_IOAPIC, pin)).collect();
    entries.extend((0..2 * PIC_PINS).map(pic));
    let messages = (IOAPIC_PINS..).zip(messages);
    entries.extend(messages.filter_map(|(gsi, message)| Some(message_route(gsi, (*message)?))));
    KvmIrqRouting::from_entries(&entries).map_err(|_| io::Error::other("more interrupts than KVM has routes"))
}

fn pin_route(gsi: u32, irqchip: u32, pin: u32) -> kvm_irq_routing_entry {
    let mut entry = kvm_irq_routing_entry { gsi, type_: KVM_IRQ_ROUTING_IRQCHIP, ..Default::default() };
    entry.u.irqchip = kvm_irq_routing_irqchip { irqchip, pin };
    entry
}

fn message_route(gsi: u32, message: MsiMessage) -> kvm_irq_routing_entry {
    let mut entry = kvm_irq_routing_entry { gsi, type_: KVM_IRQ_ROUTING_MSI, ..Default::default() };
    entry.u.msi = kvm_irq_routing_msi {
        address_lo: message.address as u32,
        address_hi: (message.address >> 32) as u32,
        data: message.data,
        ..Default::default()
    };
    entry
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn devices_have_interrupts_of_their_own_behind_the_pins() {
        let routes = Arc::new(MsiRoutes::default());
        let (first, second) = (routes.reserve(3), routes.reserve(2));
        assert_eq!(first.gsis().collect::<Vec<_>>(), [24, 25, 26]);
        assert_eq!(second.gsis().collect::<Vec<_>>(), [27, 28]);
    }

    #[test]
    fn the_table_keeps_every_pin() {
        let message = MsiMessage { address: 0xfee0_1000, data: 0x4021 };
        let table = table(&[None, Some(message)]).unwrap();
        let entries: Vec<_> = table.as_slice().iter().map(|e| (e.gsi, e.type_)).collect();
        assert_eq!(entries.len(), 24 + 16 + 1);
        for gsi in 0..24 {
            let routes = entries.iter().filter(|entry| **entry == (gsi, KVM_IRQ_ROUTING_IRQCHIP)).count();
            assert_eq!(routes, if gsi < 16 { 2 } else { 1 }, "pin {gsi}");
        }
        assert_eq!(entries.last(), Some(&(25, KVM_IRQ_ROUTING_MSI)));
    }
}
