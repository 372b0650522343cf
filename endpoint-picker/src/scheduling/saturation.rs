//! How full a pool is, as the endpoint picker's `utilization-detector` tells it.

use crate::pool::{Endpoint, Pool};
use crate::time::Timestamp;

/// When an endpoint counts as full.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Saturation {
    /// Requests waiting.
    pub queue_depth: u32,
    /// Used part of the KV cache, above 0.
    pub kv_cache_usage: f64,
    /// An endpoint whose figures are older counts as full; microseconds.
    pub staleness_micros: u64,
}

impl Saturation {
    /// The mean over the endpoints that take traffic: 1 is a pool that is full, and so is one without endpoints. An endpoint counts by the fuller of
    /// its queue and its KV cache, and as full where neither is known or both are old.
    #[must_use]
    pub fn level(&self, pool: &Pool, now: Timestamp) -> f64 {
        let (mut sum, mut count) = (0.0, 0_u32);
        let endpoints = pool.members().iter().filter_map(|&id| pool.endpoint(id));
        for endpoint in endpoints.filter(|endpoint| endpoint.takes_requests()) {
            sum += self.fullness(pool, endpoint, now);
            count += 1;
        }
        if count == 0 { 1.0 } else { sum / f64::from(count) }
    }

    fn fullness(&self, pool: &Pool, endpoint: &Endpoint, now: Timestamp) -> f64 {
        let is_fresh = pool.has_fresh_load(endpoint, now, self.staleness_micros);
        let load = endpoint.load();
        let queue = load.waiting.map(|waiting| f64::from(waiting) / f64::from(self.queue_depth));
        let cache = load.kv_cache_usage.map(|usage| usage / self.kv_cache_usage);
        [queue, cache].into_iter().flatten().filter(|_| is_fresh).reduce(f64::max).unwrap_or(1.0)
    }
}
