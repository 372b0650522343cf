//! Placement that everybody agrees on without talking: of the endpoints at hand, the one with the highest weight for a key.
//!
//! Every worker of every replica computes the same weights. When an endpoint leaves, only the keys that it held move, each to the
//! endpoint with the next weight; a new one takes its share evenly from all others.

use core::net::{IpAddr, SocketAddr};

/// The weight of an endpoint for a key: the highest one holds it. Equal for equal arguments wherever it is computed. A pick asks for that of
/// each endpoint twice, so it is a few multiplications.
#[must_use]
pub fn weight(key: u64, address: SocketAddr) -> u64 {
    let ip = mapped(address.ip());
    #[allow(clippy::cast_possible_truncation, reason = "both halves are taken")]
    let (high, low) = ((ip >> 64) as u64, ip as u64);
    let place = low.wrapping_add(mixed(high)).wrapping_add(u64::from(address.port()).rotate_left(48));
    mixed(key ^ mixed(place))
}

/// An address as IPv6 has it, so that one that is written either way is the same.
fn mapped(ip: IpAddr) -> u128 {
    match ip {
        IpAddr::V4(ip) => ip.to_ipv6_mapped().to_bits(),
        IpAddr::V6(ip) => ip.to_bits(),
    }
}

/// Each bit of the result depends on each of `bits`, and no two have the same: the finalizer of SplitMix64 (Steele, Lea and Flood, "Fast
/// splittable pseudorandom number generators", 2014).
const fn mixed(bits: u64) -> u64 {
    let bits = (bits ^ bits >> 30).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    let bits = (bits ^ bits >> 27).wrapping_mul(0x94D0_49BB_1331_11EB);
    bits ^ bits >> 31
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
        assert_eq!(weight(7, address), 0xebc1_f419_d45d_6ca1);
        assert_eq!(weight(7, address), weight(7, "[::ffff:10.1.2.3]:8000".parse().unwrap()));
        assert_ne!(weight(7, address), weight(8, address));
        assert_ne!(weight(7, address), weight(7, "10.1.2.3:8001".parse().unwrap()));
    }
}
