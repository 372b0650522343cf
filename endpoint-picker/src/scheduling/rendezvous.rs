//! Placement that everybody agrees on without talking: of the endpoints at hand, the one with the highest weight for a key.
//!
//! Every worker of every replica computes the same weights. When an endpoint leaves, only the keys that it held move, each to the
//! endpoint with the next weight; a new one takes its share evenly from all others.

use core::net::{IpAddr, SocketAddr};

use xxhash_rust::xxh3::xxh3_64_with_seed;

/// The weight of an endpoint for a key: the highest one holds it. Equal for equal arguments wherever it is computed.
#[must_use]
pub fn weight(key: u64, address: SocketAddr) -> u64 {
    let mut bytes = [0; 18];
    let (ip, port) = bytes.split_at_mut(16);
    ip.copy_from_slice(&mapped(address.ip()));
    port.copy_from_slice(&address.port().to_be_bytes());
    xxh3_64_with_seed(&bytes, key)
}

/// An address as IPv6 has it, so that one that is written either way is the same.
fn mapped(ip: IpAddr) -> [u8; 16] {
    match ip {
        IpAddr::V4(ip) => ip.to_ipv6_mapped().octets(),
        IpAddr::V6(ip) => ip.octets(),
    }
}

#[cfg(test)]
mod tests {
    use alloc::vec::Vec;
    #[cfg(target_arch = "wasm32")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    use super::*;

    const KEYS: u64 = 20_000;

    fn endpoints(count: u8) -> Vec<SocketAddr> {
        (0..count).map(|last| SocketAddr::from(([10, 0, 0, last], 8000))).collect()
    }

    fn holder(key: u64, endpoints: &[SocketAddr]) -> SocketAddr {
        *endpoints.iter().max_by_key(|&&address| weight(key, address)).unwrap()
    }

    #[test]
    fn keys_spread_evenly_even_where_addresses_and_keys_are_much_alike() {
        let endpoints = endpoints(10);
        for &address in &endpoints {
            let held = (0..KEYS).filter(|&key| holder(key, &endpoints) == address).count() as f64;
            let share = held / (KEYS as f64 / 10.0);
            assert!((0.93..1.07).contains(&share), "{address} holds {share} of its share");
        }
        let ports: Vec<SocketAddr> = (0..4).map(|port| SocketAddr::from(([127, 0, 0, 1], 9000 + port))).collect();
        for &address in &ports {
            let held = (0..KEYS).filter(|&key| holder(key, &ports) == address).count() as f64;
            assert!((0.95..1.05).contains(&(held / (KEYS as f64 / 4.0))), "{address} holds {held}");
        }
    }

    #[test]
    fn only_the_keys_of_an_endpoint_that_left_move_and_they_spread() {
        let all = endpoints(10);
        let left = all[3];
        let rest: Vec<SocketAddr> = all.iter().copied().filter(|&address| address != left).collect();
        let mut moved = Vec::new();
        for key in 0..KEYS {
            let before = holder(key, &all);
            if before == left {
                moved.push(holder(key, &rest));
            } else {
                assert_eq!(holder(key, &rest), before);
            }
        }
        for &address in &rest {
            let taken = moved.iter().filter(|&&to| to == address).count() as f64;
            let share = taken / (moved.len() as f64 / 9.0);
            assert!((0.75..1.25).contains(&share), "{address} took {share} of its share");
        }
    }

    #[test]
    fn a_weight_is_the_same_everywhere_and_for_each_way_to_write_an_address() {
        let address: SocketAddr = "10.1.2.3:8000".parse().unwrap();
        assert_eq!(weight(7, address), 0x76ca_1365_d478_49a7);
        assert_eq!(weight(7, address), weight(7, "[::ffff:10.1.2.3]:8000".parse().unwrap()));
        assert_ne!(weight(7, address), weight(8, address));
        assert_ne!(weight(7, address), weight(7, "10.1.2.3:8001".parse().unwrap()));
    }
}
