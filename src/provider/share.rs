//! Folders of the host that a guest mounts while it runs (virtio-fs).

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::model::ProviderKind;

/// A shared folder of a [`VmSpec`](super::VmSpec). The guest mounts it with
/// `mount -t virtiofs TAG FOLDER`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ShareSpec {
    /// By which the guest finds it: 1 to 36 bytes (virtio 1.2, section 5.11.4), no two alike in a machine.
    pub tag: String,
    /// Absolute path of a folder of the host, without symbolic links. The guest sees what is below it,
    /// and nothing else.
    pub source: PathBuf,
    /// The host refuses whatever would change it.
    pub read_only: bool,
    /// User and group whom the guest takes for the owner of all that is the host user's. What the guest
    /// makes belongs to the host user, whoever in the guest makes it.
    pub owner: (u32, u32),
}

/// Whether machines of a provider can have shared folders.
///
/// # Errors
/// Why not, as a clause that follows "because".
pub fn serves_shares(provider: ProviderKind) -> Result<(), &'static str> {
    match provider {
        ProviderKind::Kvm => Err("provider `kvm` has no virtio-fs yet"),
        ProviderKind::Qemu => Err("provider `qemu` has no virtio-fs yet"),
    }
}
