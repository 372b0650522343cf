//! Free ports of 127.0.0.1.

use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::ops::Range;

use rand::Rng as _;

/// Below the ports that Linux, macOS and the IANA give to outgoing connections, so a busy client cannot take one in between.
const RANGE: Range<u16> = 20_000..32_000;

/// True if nothing listens there.
#[must_use]
pub fn is_free(addr: SocketAddr) -> bool {
    TcpListener::bind(addr).is_ok()
}

/// A port of 127.0.0.1 on which nothing listens. It is not held: another process could take it before the caller does, but picks
/// are random over 12,000 ports, so that is rare, and the caller sees it.
#[must_use]
pub fn free_port() -> u16 {
    let mut random = rand::rng();
    let mut picks = std::iter::repeat_with(|| random.random_range(RANGE));
    picks.find(|port| is_free((Ipv4Addr::LOCALHOST, *port).into())).unwrap_or(RANGE.start)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn port_with_a_listener_is_not_free() {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let addr = listener.local_addr().unwrap();
        assert!(!is_free(addr));
        drop(listener);
        assert!(is_free(addr));
    }

    #[test]
    fn free_ports_lie_below_those_of_outgoing_connections() {
        for _ in 0..50 {
            assert!(RANGE.contains(&free_port()));
        }
    }
}
