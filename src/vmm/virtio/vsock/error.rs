//! Why a socket device could not be made.

use std::io;

/// Why a socket device could not be made.
#[derive(Debug, thiserror::Error)]
pub enum VsockError {
    /// The guest's address is one that means something else.
    #[error("vsock: a guest cannot have the context identifier {cid}: 3 to {max} are possible", max = u32::MAX - 1)]
    Cid {
        /// As asked for.
        cid: u32,
    },
    /// Two services on one port.
    #[error("vsock: port {port} of the host is given twice")]
    Port {
        /// The port.
        port: u32,
    },
    /// The descriptor handed in does not take connections.
    #[error("vsock: the host's listener is not a listening stream socket")]
    NotAListener(#[source] io::Error),
}
