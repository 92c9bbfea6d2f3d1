//! `nat`: where a machine's first card leads, and what does not go together with that.

use crate::model::{Nat, NatBackend, ProviderKind};

use super::layer::Stack;
use super::walk::{Reader, Sp};

impl Reader<'_> {
    /// Checks the way out of a machine against its other keys; which one it is.
    pub fn check_nat(&mut self, stack: &Stack<'_>, backend: Option<&Sp<NatBackend>>) -> Nat {
        let Some(nat) = stack.pick(|layer| layer.nat.as_ref()) else { return Nat::default() };
        match (nat.value, backend) {
            // One that is less than open is kept by who looks at the frames, of which there is nobody then.
            (Nat::NoHost | Nat::Closed, Some(backend)) if backend.value == NatBackend::VhostUser => {
                let word = nat.value.as_str();
                let message = format!("`nat_backend` cannot be \"vhost-user\" with `nat = \"{word}\"`");
                let help = "leave `nat_backend` out: rvm drops frames for this host's loopback addresses, and with \
                            vhost-user it would see none";
                self.wrong(&backend.span, message, help);
            }
            (Nat::None, Some(backend)) if backend.value != NatBackend::Auto => {
                let message =
                    "`nat_backend` is of no use with `nat = \"none\"`: the machine has no such card";
                self.wrong(&backend.span, message, "leave it out, or set it to \"auto\" for this machine");
            }
            _ => {}
        }
        if nat.value == Nat::None {
            self.check_no_nat(stack, nat);
        }
        nat.value
    }

    fn check_no_nat(&mut self, stack: &Stack<'_>, nat: &Sp<Nat>) {
        let instead = "`nat = \"closed\"` lets the machine reach nobody either, and";
        for port in stack.all(|layer| &layer.ports) {
            let message = "a machine with `nat = \"none\"` has no card that a port could lead to";
            let help = format!("{instead} has its ports forwarded; `rvm port add` leads to one by SSH");
            self.wrong(&port.span, message, help);
        }
        if stack.pick(|layer| layer.auto_forward) == Some(true) {
            let message = "`nat = \"none\"` and `auto_forward` contradict each other";
            let help = "set `auto_forward = false` for this machine (`rvm port add` leads to a port when it is wanted), \
                        or use `nat = \"closed\"`";
            self.wrong(&nat.span, message, help);
        }
        if stack.pick(|layer| layer.provider) == Some(ProviderKind::Qemu) {
            let message = "`nat = \"none\"` is not for provider \"qemu\": without a card only a virtio socket leads in, \
                           and there is none";
            let help =
                format!("{instead} has a card for SSH; or leave `provider` to rvm, on a host with KVM");
            self.wrong(&nat.span, message, help);
        }
    }
}
