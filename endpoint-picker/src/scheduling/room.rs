//! Whether an endpoint has room for one more request: what flow control waits for.

use snapshot::State;

use crate::pool::Endpoint;

/// How full an endpoint may be, and how much of its room is this worker's.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Room {
    /// Requests beyond the engine's slots that an endpoint is given.
    pub queue_depth: u32,
    /// Used part of the KV cache at which an endpoint is full, above 0.
    pub kv_cache_usage: f64,
    /// Workers that have requests waiting, this one among them; at least 1. They share what is free.
    pub workers: u32,
    /// Which of them this one is, from 0 on.
    pub rank: u32,
}

impl Room {
    /// Whether the endpoint has room. Where its slots are not known, its engine never had a queue, and its page says when it has one.
    #[must_use]
    pub fn is_at(&self, endpoint: &Endpoint) -> bool {
        let load = endpoint.load();
        if matches!(load.state, State::Unready | State::Sleeping)
            || load.kv_cache_usage.is_some_and(|usage| usage >= self.kv_cache_usage)
        {
            return false;
        }
        let Some(capacity) = self.capacity(endpoint) else {
            return load.waiting.is_none_or(|waiting| waiting <= self.queue_depth);
        };
        let requests = i64::from(requests(endpoint));
        if self.workers <= 1 {
            return requests < capacity;
        }
        // What the others know of this worker is of when they were last told, and so is what this one knows of them: of what was free then,
        // each takes its share.
        let since = endpoint.in_flight().own_since_told();
        let free = capacity - (requests - since);
        since < self.share(free, endpoint)
    }

    /// How full the endpoint is: 1 is one without room.
    #[must_use]
    pub fn fullness(&self, endpoint: &Endpoint) -> f64 {
        let load = endpoint.load();
        let cache = load.kv_cache_usage.map_or(0.0, |usage| usage / self.kv_cache_usage);
        let requests = match self.capacity(endpoint) {
            Some(capacity) => f64::from(requests(endpoint)) / capacity.max(1) as f64,
            None => f64::from(load.waiting.unwrap_or(0)) / f64::from(self.queue_depth.saturating_add(1)),
        };
        requests.max(cache)
    }

    /// Requests that it is given at most; `None`: its slots are not known.
    fn capacity(&self, endpoint: &Endpoint) -> Option<i64> {
        endpoint.slots().map(|slots| i64::from(slots.max(1).saturating_add(self.queue_depth)))
    }

    /// This worker's part of what is free. Who gets one more than others is another one at each endpoint.
    fn share(&self, free: i64, endpoint: &Endpoint) -> i64 {
        let (workers, rank) = (i64::from(self.workers), i64::from(self.rank));
        let turn = (rank + i64::from(endpoint.place())) % workers;
        free.div_euclid(workers) + i64::from(turn < free.rem_euclid(workers))
    }
}

/// Requests that the endpoint has, as far as is known.
fn requests(endpoint: &Endpoint) -> u32 {
    let own = endpoint.in_flight().total();
    endpoint.requests().map_or(own, |requests| requests.max(own))
}
