//! Networks without root: one `passt` process a machine.
//!
//! passt (<https://passt.top>) translates between Ethernet frames on a stream socket and
//! ordinary sockets of the host: it gives the guest an address by DHCP, a resolver and a
//! way out, and listens on the host for the forwarded ports. It ends when the virtual
//! machine closes its end of the socket, so nothing has to be cleaned up.

mod passt;
mod ports;

pub use passt::{NetError, Passt};
pub use ports::{PortError, choose};
