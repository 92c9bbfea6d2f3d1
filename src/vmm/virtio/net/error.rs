//! Why a network card could not be made.

use std::io;

use super::PeerError;

/// Why a network card could not be made.
#[derive(Debug, thiserror::Error)]
pub enum NetError {
    /// The address is not one that a card can have.
    #[error("ethernet address {} is not unicast", mac_text(mac))]
    Mac {
        /// The address.
        mac: [u8; 6],
    },
    /// The descriptor handed in is not a connected stream socket.
    #[error("network back-end is not a connected stream socket")]
    NotAStream(#[source] io::Error),
    /// The host has no TAP devices, or not for this user.
    #[error("opening /dev/net/tun for the TAP interface {name}")]
    TunDevice {
        /// The interface.
        name: String,
        /// The cause.
        #[source]
        source: io::Error,
    },
    /// There is no such interface.
    #[error("there is no network interface {name}")]
    NoInterface {
        /// The interface.
        name: String,
    },
    /// The back-end does not leave to the driver what it agreed to take.
    #[error("preparing the network back-end for what the driver takes")]
    Offloads(#[source] io::Error),
    /// A TAP interface does not let its queues be chosen.
    #[error("choosing the queues of a network back-end")]
    Queues(#[source] io::Error),
    /// The process that is to work on the queues cannot.
    #[error("giving a network card to its vhost-user back-end")]
    BackEnd(#[source] PeerError),
    /// The interface could not be attached to.
    #[error("attaching to the TAP interface {name}")]
    Attach {
        /// The interface.
        name: String,
        /// The cause.
        #[source]
        source: io::Error,
    },
}

impl NetError {
    /// What the user can do about it.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Mac { .. }
            | Self::NotAStream(_)
            | Self::Offloads(_)
            | Self::BackEnd(_)
            | Self::Queues(_) => None,
            Self::TunDevice { .. } => Some("load the module: modprobe tun".to_owned()),
            Self::NoInterface { name } => {
                Some(format!("make it: ip tuntap add dev {name} mode tap user $USER vnet_hdr multi_queue"))
            }
            Self::Attach { name, source } if source.raw_os_error() == Some(libc::EBUSY) => {
                Some(format!("another program uses {name}; stop it or make another interface"))
            }
            Self::Attach { name, .. } => Some(format!(
                "it has to be a TAP interface that belongs to you: ip tuntap add dev {name} mode tap user $USER vnet_hdr"
            )),
        }
    }
}

fn mac_text(mac: &[u8; 6]) -> String {
    mac.map(|byte| format!("{byte:02x}")).join(":")
}
