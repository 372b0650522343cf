//! Free ports of 127.0.0.1.

use std::collections::BTreeSet;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::ops::Range;
use std::sync::{Mutex, PoisonError};

use rand::Rng as _;

/// Below the ports that Linux, macOS and the IANA give to outgoing connections, so a busy client cannot take one in between.
const RANGE: Range<u16> = 20_000..32_000;

/// What this process has given out: a program takes its port long after it was told, and tests start many at once.
static GIVEN: Mutex<BTreeSet<u16>> = Mutex::new(BTreeSet::new());

/// True if nothing listens there.
#[must_use]
pub fn is_free(addr: SocketAddr) -> bool {
    TcpListener::bind(addr).is_ok()
}

/// A port of 127.0.0.1 on which nothing listens, and no two calls of one process give the same. It is not held: another process
/// could take it before the caller does, but picks are random over 12,000 ports, so that is rare, and the caller sees it.
#[must_use]
pub fn free_port() -> u16 {
    let mut random = rand::rng();
    let mut given = GIVEN.lock().unwrap_or_else(PoisonError::into_inner);
    if given.len() > RANGE.len() / 2 {
        // The first of them are free again or seen to be in use.
        given.clear();
    }
    let mut picks = std::iter::repeat_with(|| random.random_range(RANGE));
    picks.find(|port| is_free((Ipv4Addr::LOCALHOST, *port).into()) && given.insert(*port)).unwrap_or(RANGE.start)
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

    #[test]
    fn no_port_is_given_twice() {
        let ports: BTreeSet<_> = (0..1_000).map(|_| free_port()).collect();
        assert_eq!(ports.len(), 1_000);
    }
}
