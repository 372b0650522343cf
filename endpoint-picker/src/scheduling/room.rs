//! Whether an endpoint has room for one more request: what flow control waits for.

use crate::pool::{Endpoint, EndpointId, Pool};
use crate::time::Timestamp;

/// How full an endpoint may be, and how much of its room is this worker's.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Room {
    /// Requests beyond the engine's slots that an endpoint is given.
    pub queue_depth: u32,
    /// Used part of the KV cache at which an endpoint is full, above 0.
    pub kv_cache_usage: f64,
    /// With whom this worker shares what is free.
    pub peers: Peers,
}

/// The workers that have requests waiting, as one of them sees them.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Peers {
    /// How many they are, this one among them; at least 1.
    pub workers: u32,
    /// Those that come before this one: with a request of a higher priority than any of this one, or with one as urgent and fewer in flight.
    pub before: u32,
    /// Those that neither come before it nor after it, this one among them; at least 1.
    pub equals: u32,
    /// Another one for each of those, and for each of them another one from time to time.
    pub turn: u32,
    /// Requests of the highest priority of each that comes before this one: so many slots that this one frees are left to those at most.
    pub wanted: u32,
}

impl Default for Peers {
    /// One worker alone.
    fn default() -> Self {
        Self { workers: 1, before: 0, equals: 1, turn: 0, wanted: 0 }
    }
}

impl Room {
    /// Whether the endpoint has room. Where its slots are not known, its engine never had a queue, and its page says when it has one. A page that is
    /// older than `max_age_micros` says nothing: then requests in flight against known slots decide alone.
    #[must_use]
    pub fn is_at(&self, pool: &Pool, id: EndpointId, now: Timestamp, max_age_micros: u64) -> bool {
        let Some(endpoint) = pool.endpoint(id).filter(|endpoint| endpoint.takes_requests()) else { return false };
        let figures = Figures::of(pool, endpoint, now, max_age_micros);
        if figures.kv_cache_usage.is_some_and(|usage| usage >= self.kv_cache_usage) {
            return false;
        }
        let Some(capacity) = self.capacity(endpoint) else {
            return figures.waiting.is_none_or(|waiting| waiting <= self.queue_depth);
        };
        let requests = i64::from(figures.requests);
        if self.peers.workers <= 1 {
            return requests < capacity;
        }
        // What the others know of this worker is of when they were last told, and so is what this one knows of them: of what was free then,
        // each takes its share.
        let since = endpoint.in_flight().own_since_told();
        if since < 0 && self.leaves_to_others(pool, endpoint, now) {
            return self.share(capacity - requests, self.peers.before, endpoint) > 0;
        }
        let before = if endpoint.in_flight().is_spurned(now) { 0 } else { self.peers.before };
        since < self.share(capacity - (requests - since), before, endpoint)
    }

    /// Whether this worker leaves what it freed there to those that come before it, who will be told of it: as much as they have waiting, and for as
    /// long as they need to take it.
    fn leaves_to_others(&self, pool: &Pool, endpoint: &Endpoint, now: Timestamp) -> bool {
        self.peers.before > 0 && pool.freed() <= self.peers.wanted && !endpoint.in_flight().is_spurned(now)
    }

    /// How full the endpoint is, to be shown: 1 is one without room, and so is one that takes no requests or whose page is stale or missing, which is
    /// how the Endpoint Picker's `utilization-detector` counts it. Whether a request goes there is [`Self::is_at`]'s to say, to which a stale page says nothing.
    #[must_use]
    pub fn fullness(&self, pool: &Pool, endpoint: &Endpoint, now: Timestamp, max_age_micros: u64) -> f64 {
        if !endpoint.takes_requests() || !pool.has_fresh_load(endpoint, now, max_age_micros) {
            return 1.0;
        }
        let figures = Figures::of(pool, endpoint, now, max_age_micros);
        let cache = figures.kv_cache_usage.map_or(0.0, |usage| usage / self.kv_cache_usage);
        let requests = match self.capacity(endpoint) {
            Some(capacity) => f64::from(figures.requests) / capacity.max(1) as f64,
            None => f64::from(figures.waiting.unwrap_or(0)) / f64::from(self.queue_depth.saturating_add(1)),
        };
        requests.max(cache)
    }

    /// Requests that it is given at most; `None`: its slots are not known.
    fn capacity(&self, endpoint: &Endpoint) -> Option<i64> {
        endpoint.slots().map(|slots| i64::from(slots.max(1).saturating_add(self.queue_depth)))
    }

    /// This worker's part of what is free. Those with requests of a higher priority get one more than others, then each in its turn, which is
    /// another one at each endpoint.
    fn share(&self, free: i64, before: u32, endpoint: &Endpoint) -> i64 {
        let Peers { workers, equals, turn, .. } = self.peers;
        let place = before.saturating_add(turn.wrapping_add(endpoint.place()) % equals.max(1));
        free.div_euclid(i64::from(workers)) + i64::from(i64::from(place) < free.rem_euclid(i64::from(workers)))
    }
}

/// What counts of an endpoint's figures.
#[derive(Clone, Copy, Debug)]
struct Figures {
    kv_cache_usage: Option<f64>,
    waiting: Option<u32>,
    /// Requests that it has, as far as is known.
    requests: u32,
}

impl Figures {
    fn of(pool: &Pool, endpoint: &Endpoint, now: Timestamp, max_age_micros: u64) -> Self {
        let own = endpoint.in_flight().total();
        if !pool.has_fresh_load(endpoint, now, max_age_micros) {
            return Self { kv_cache_usage: None, waiting: None, requests: own };
        }
        let load = endpoint.load();
        let requests = endpoint.requests().map_or(own, |requests| requests.max(own));
        Self { kv_cache_usage: load.kv_cache_usage, waiting: load.waiting, requests }
    }
}
