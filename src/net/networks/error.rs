//! Why a machine has no place in a network.

use std::io;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use ipnet::IpNet;
use thiserror::Error;

use crate::model::Code;
use crate::net::switch::ClientError;
use crate::state::LockError;

/// Why a machine has no place in a network.
#[derive(Debug, Error)]
pub enum NetworkError {
    /// A file cannot be read or written.
    #[error("cannot {action} {path}")]
    File {
        /// Verb.
        action: &'static str,
        /// Which.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// Waiting for another rvm.
    #[error(transparent)]
    Lock(#[from] LockError),
    /// The state is of another version.
    #[error("{path} was written by another version of rvm (format {version})")]
    Version {
        /// The file.
        path: PathBuf,
        /// Its format.
        version: u32,
    },
    /// The host itself has a way to some of the addresses.
    #[error(
        "the subnet {subnet} of network `{network}` overlaps {route}, which this host reaches over {device}"
    )]
    HostRoute {
        /// Network.
        network: String,
        /// Its subnet.
        subnet: IpNet,
        /// Route of the host.
        route: IpNet,
        /// Its interface.
        device: String,
    },
    /// Another machine has the address.
    #[error("address {ip} of network `{network}` belongs to machine `{machine}` of {project}")]
    Taken {
        /// Network.
        network: String,
        /// The address.
        ip: IpAddr,
        /// Who has it.
        machine: String,
        /// Its project.
        project: PathBuf,
    },
    /// It has another subnet, or MTU, or DHCP, and others use it so.
    #[error("network `{network}` is in use as {now}, the file says {wanted}")]
    InUse {
        /// Network.
        network: String,
        /// As it is.
        now: String,
        /// As the file says.
        wanted: String,
    },
    /// All addresses are taken.
    #[error("no address of {subnet} is free in network `{network}`")]
    Full {
        /// Network.
        network: String,
        /// Its subnet.
        subnet: IpNet,
    },
    /// No subnet could be found.
    #[error("no subnet is free for network `{0}`")]
    NoSubnet(String),
    /// The switch did not start.
    #[error("the switch of network `{network}` did not start: {text}")]
    Start {
        /// Network.
        network: String,
        /// What it said.
        text: String,
    },
    /// It does not do what is asked.
    #[error("machine `{machine}` cannot be connected to network `{network}`")]
    Connect {
        /// Network.
        network: String,
        /// Machine.
        machine: String,
        /// Why.
        #[source]
        source: ClientError,
    },
}

impl NetworkError {
    /// Its stable code (`docs/errors.md`).
    pub fn code(&self) -> Code {
        match self {
            NetworkError::File { .. } => Code::NetworkFile,
            NetworkError::Lock(e) => e.code(),
            NetworkError::Version { .. } => Code::NetworkVersion,
            NetworkError::HostRoute { .. } => Code::SubnetOfHost,
            NetworkError::Taken { .. } => Code::AddressTaken,
            NetworkError::InUse { .. } => Code::NetworkInUse,
            NetworkError::Full { .. } => Code::NetworkFull,
            NetworkError::NoSubnet(_) => Code::NoSubnet,
            NetworkError::Start { .. } => Code::NoSwitch,
            NetworkError::Connect { .. } => Code::NotConnected,
        }
    }

    /// What to do next.
    pub fn hint(&self) -> Option<String> {
        Some(match self {
            NetworkError::HostRoute { .. } | NetworkError::NoSubnet(_) => {
                "give the network other addresses: `[[network]]` with `subnet = \"10.77.0.0/24\"`; `ip route` shows \
                 those of this host"
                    .into()
            }
            NetworkError::Taken { .. } => "choose another `ip`, or destroy that machine".into(),
            NetworkError::InUse { .. } => {
                "halt all machines of the network, then `rvm up`; projects that share a network must say the same of it"
                    .into()
            }
            NetworkError::Full { .. } => "give the network a larger `subnet`".into(),
            NetworkError::Version { .. } => "use that version, or destroy the machines of the network with it".into(),
            NetworkError::Connect { .. } => "run the command again; `rvm halt` and `rvm up` connect it anew".into(),
            NetworkError::File { .. } | NetworkError::Lock(_) | NetworkError::Start { .. } => return None,
        })
    }
}

/// A failure with a file.
pub(super) fn file(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> NetworkError {
    move |source| NetworkError::File { action, path: path.to_owned(), source }
}
