//! Packets for loopback addresses, which never leave a host (RFC 1122, section 3.2.1.3; RFC 4291, section
//! 2.5.3). A guest that sends one means the host's: who carries its frames may be a program that connects
//! wherever they say, as passt before February 2024 is.

/// Where the addresses of an IPv6 packet end in a frame: what [`is_for_loopback`] looks at. Those of an IPv4
/// packet end earlier.
pub(super) const ADDRESSES_END: usize = 54;

const ETHERTYPE: usize = 12;
const IPV4: [u8; 2] = [0x08, 0];
const IPV6: [u8; 2] = [0x86, 0xdd];
/// Where the destination is.
const IPV4_TO: usize = 30;
const IPV6_TO: usize = 38;

/// Whether the Ethernet frame that begins with `frame`, of which 54 bytes are enough, holds a packet for a loopback
/// address, or for one that stands for it: "this host" (0.0.0.0/8), `::`, and IPv4 addresses written as IPv6 ones.
pub fn is_for_loopback(frame: &[u8]) -> bool {
    let at = |place: usize| frame.get(place..).unwrap_or_default();
    match at(ETHERTYPE).first_chunk() {
        Some(&IPV4) => matches!(at(IPV4_TO).first_chunk::<4>(), Some([0 | 127, ..])),
        // The rest of the first 80 zero bits' space is reserved.
        Some(&IPV6) => matches!(at(IPV6_TO).first_chunk::<16>(), Some([0, 0, 0, 0, 0, 0, 0, 0, 0, 0, ..])),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use super::*;

    fn frame(to: &str) -> Vec<u8> {
        let mut frame = vec![2; 12];
        match to.parse().unwrap() {
            IpAddr::V4(v4) => {
                frame.extend(IPV4);
                frame.extend([1; 16]);
                frame.extend(v4.octets());
            }
            IpAddr::V6(v6) => {
                frame.extend(IPV6);
                frame.extend([1; 24]);
                frame.extend(v6.octets());
            }
        }
        frame
    }

    #[test]
    fn loopback_in_any_form_is_found() {
        for to in [
            "127.0.0.1",
            "127.82.86.77",
            "0.0.0.0",
            "::1",
            "::",
            "::ffff:127.0.0.1",
            "::ffff:192.0.2.1",
            "::127.0.0.1",
        ] {
            assert!(is_for_loopback(&frame(to)), "{to}");
        }
        for to in [
            "10.0.2.2",
            "192.0.2.1",
            "255.255.255.255",
            "224.0.0.1",
            "fe80::1",
            "ff02::1",
            "2001:db8::1",
            "64:ff9b::1",
        ] {
            assert!(!is_for_loopback(&frame(to)), "{to}");
        }
        assert!(!is_for_loopback(&frame("127.0.0.1")[..33]), "no packet");
        let mut other = frame("127.0.0.1");
        other[13] = 6;
        assert!(!is_for_loopback(&other), "ARP");
        assert!(frame("::1").len() == ADDRESSES_END);
    }
}
