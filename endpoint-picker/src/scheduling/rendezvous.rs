//! Rendezvous hashing (Thaler and Ravishankar, "Using name-based mappings to increase hit rates", 1998): everybody who knows the same
//! endpoints gives a key to the same one, without a word between them, and only the keys of an endpoint that leaves move.

use xxhash_rust::xxh3::xxh3_64_with_seed;

/// The weight of an endpoint for a key; the highest wins. `endpoint` is [`crate::pool::Endpoint::key`].
#[must_use]
pub(super) fn weight(key: u64, endpoint: u64) -> u64 {
    xxh3_64_with_seed(&key.to_le_bytes(), endpoint)
}

#[cfg(test)]
mod tests {
    #[cfg(target_arch = "wasm32")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    use super::weight;

    fn winner(key: u64, endpoints: &[u64]) -> u64 {
        *endpoints.iter().max_by_key(|&&endpoint| weight(key, endpoint)).unwrap()
    }

    #[test]
    fn keys_spread_evenly_and_only_those_of_the_lost_endpoint_move() {
        let endpoints: alloc::vec::Vec<u64> = (0..10).map(|index| index * 7 + 1).collect();
        let mut counts = [0_u32; 10];
        for key in 0..10_000 {
            let before = winner(key, &endpoints);
            counts[(before / 7) as usize] += 1;
            let after = winner(key, &endpoints[1..]);
            assert!(before == endpoints[0] || after == before);
        }
        assert!(counts.iter().all(|count| (850..1150).contains(count)), "{counts:?}");
    }
}
