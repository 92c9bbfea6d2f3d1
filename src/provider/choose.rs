//! Which provider serves on this host.

use std::path::PathBuf;

use super::ProviderError;
use crate::model::{ProviderKind, program_in};
use crate::vmm::probe::Probe;

/// The provider for a machine, and why where the user did not ask for it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Choice {
    /// Which.
    pub kind: ProviderKind,
    /// QEMU only: KVM is good, let QEMU use it.
    pub accelerated: bool,
    /// One honest line, when it is not the default.
    pub note: Option<String>,
}

/// Takes what was `forced`, else `kvm` where it works, else `qemu` with a line that says why.
/// `qemu` says whether its binary is there.
pub fn choose(forced: Option<ProviderKind>, probe: &Probe, qemu: bool) -> Result<Choice, ProviderError> {
    let trouble = trouble(probe);
    match (forced, trouble) {
        (Some(ProviderKind::Kvm) | None, None) => {
            Ok(Choice { kind: ProviderKind::Kvm, accelerated: false, note: None })
        }
        (Some(ProviderKind::Kvm), Some(why)) => Err(ProviderError::NoKvm(why)),
        (Some(ProviderKind::Qemu), _) if !qemu => Err(ProviderError::NoQemu),
        (Some(ProviderKind::Qemu), trouble) => {
            Ok(Choice { kind: ProviderKind::Qemu, accelerated: trouble.is_none(), note: None })
        }
        (None, Some(kvm)) if !qemu => Err(ProviderError::NoProvider { kvm }),
        (None, Some(why)) => Ok(Choice {
            kind: ProviderKind::Qemu,
            accelerated: false,
            note: Some(format!("Provider `qemu` with software emulation (slow), because {why}.")),
        }),
    }
}

/// Why KVM cannot run stock guests here, as a clause; `None` when it can.
fn trouble(probe: &Probe) -> Option<String> {
    match probe {
        Probe::Usable { .. } => None,
        Probe::NoDevice => Some("there is no /dev/kvm".into()),
        Probe::NoPermission => Some("this user may not open /dev/kvm (group `kvm`)".into()),
        Probe::Emulated { ns_per_iteration, .. } => Some(format!(
            "this KVM emulates kernel mode ({ns_per_iteration:.0} ns for an instruction pair that takes 1) and cannot run stock kernels"
        )),
        Probe::Broken(why) => Some(format!("KVM does not work here ({why})")),
    }
}

/// Where `qemu-system-x86_64` is, among the folders of `path` (the value of `PATH`).
pub fn qemu_binary(path: &str) -> Option<PathBuf> {
    program_in("qemu-system-x86_64", path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn falls_back_to_qemu_and_says_why() {
        let choice = choose(None, &Probe::NoDevice, true).unwrap();
        assert_eq!(choice.kind, ProviderKind::Qemu);
        assert!(choice.note.unwrap().contains("/dev/kvm"));
    }

    #[test]
    fn what_was_forced_is_never_replaced() {
        assert!(matches!(
            choose(Some(ProviderKind::Kvm), &Probe::NoPermission, true),
            Err(ProviderError::NoKvm(_))
        ));
        assert!(matches!(
            choose(Some(ProviderKind::Qemu), &Probe::NoDevice, false),
            Err(ProviderError::NoQemu)
        ));
        assert!(matches!(choose(None, &Probe::NoDevice, false), Err(ProviderError::NoProvider { .. })));
    }
}
