//! Networks without root: one `passt` process a machine, one switch a private network.
//!
//! passt (<https://passt.top>) translates between Ethernet frames on a stream socket and
//! ordinary sockets of the host: it gives the guest an address by DHCP, a resolver and a
//! way out, and listens on the host for the forwarded ports. It ends when the virtual
//! machine closes its end of the socket, so nothing has to be cleaned up.
//!
//! [`switch`] joins machines with each other, and has no way out at all.

mod nat;
mod networks;
pub mod passt;
mod ports;
pub mod relay;
pub mod resolvers;
mod routes;
pub mod switch;

pub use nat::{HOST_NAME, NatAddresses, call_out};
pub use networks::{
    Applicant, Lost, Mended, NetworkError, NetworkStatus, Networks, Seat, network_id, owner,
    wait_switch_ended,
};
pub use passt::NetError;
pub use ports::{PortError, choose, listen, somebody_listens};
