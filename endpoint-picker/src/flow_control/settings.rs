//! The settings of flow control.

/// Requests that wait in one priority's band at most, and bytes of their bodies, as in the endpoint picker.
pub const DEFAULT_BAND_REQUESTS: u64 = 5_000;
/// See [`DEFAULT_BAND_REQUESTS`].
pub const DEFAULT_BAND_BYTES: u64 = 1_000_000_000;
/// Requests that wait in all at most: what Envoy holds of each client's connection and body stays in memory for as long.
pub const DEFAULT_MAX_REQUESTS: u64 = 10_000;
/// Bytes of bodies that wait in all at most, of one worker.
pub const DEFAULT_MAX_BYTES: u64 = 1_000_000_000;
/// For so long a request waits at most, in milliseconds: the endpoint picker's newest default.
pub const DEFAULT_TTL_MS: u64 = 60_000;
/// After so many milliseconds a request is not overtaken any more by one of its flow that costs less: a few times the life of a prefix
/// in conversations' caches, and less than what a client takes for an outage.
pub const DEFAULT_MAX_OVERTAKEN_MS: u64 = 2_000;
/// Requests beyond its slots that an endpoint is given: the next one begins in the step in which another ends, and not when a page says so.
pub const DEFAULT_QUEUE_DEPTH: u64 = 1;
/// Used part of the KV cache at which an endpoint is full, as in the endpoint picker's detectors.
pub const DEFAULT_KV_CACHE_USAGE: f64 = 0.8;

/// Who is first inside a flow.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum Ordering {
    /// Who came first.
    #[default]
    FirstCome,
    /// Whose client's patience ends first; who names none comes after those who do.
    EarliestDeadline,
}

/// Which flow of a band is next.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum Fairness {
    /// Each in its turn.
    #[default]
    RoundRobin,
    /// The one whose first request is before the others' first ones.
    BestHead,
}

/// Whom of a flow an endpoint's free slot is given to.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum Dispatch {
    /// Who takes the least there, because its prompt is in the cache, until the first one has waited for [`FlowSettings::max_overtaken_micros`].
    #[default]
    LeastCost,
    /// The first one.
    First,
}

/// How requests wait.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct FlowSettings {
    /// For so long one waits at most; microseconds.
    pub ttl_micros: u64,
    /// So many wait at most.
    pub max_requests: u64,
    /// Their bodies have so many bytes at most.
    pub max_bytes: u64,
    /// So many wait in one band at most.
    pub band_requests: u64,
    /// Their bodies have so many bytes at most.
    pub band_bytes: u64,
    /// Who is first inside a flow.
    pub ordering: Ordering,
    /// Which flow is next.
    pub fairness: Fairness,
    /// Whom of it a free slot is given to.
    pub dispatch: Dispatch,
    /// For so long the first of a flow lets cheaper ones pass; microseconds.
    pub max_overtaken_micros: u64,
    /// Requests beyond its slots that an endpoint is given.
    pub queue_depth: u32,
    /// Used part of the KV cache at which an endpoint is full, 0 to 1.
    pub kv_cache_usage: f64,
}

impl Default for FlowSettings {
    fn default() -> Self {
        Self {
            ttl_micros: DEFAULT_TTL_MS * 1_000,
            max_requests: DEFAULT_MAX_REQUESTS,
            max_bytes: DEFAULT_MAX_BYTES,
            band_requests: DEFAULT_BAND_REQUESTS,
            band_bytes: DEFAULT_BAND_BYTES,
            ordering: Ordering::default(),
            fairness: Fairness::default(),
            dispatch: Dispatch::default(),
            max_overtaken_micros: DEFAULT_MAX_OVERTAKEN_MS * 1_000,
            queue_depth: DEFAULT_QUEUE_DEPTH as u32,
            kv_cache_usage: DEFAULT_KV_CACHE_USAGE,
        }
    }
}
