//! Scorers of load: what engines say of themselves, and what this proxy has in flight.

use snapshot::Load;

use crate::pool::Endpoint;

use super::sight::{Memory, Sight};
use super::signal::collect;

/// Parameters of `active-request-scorer`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ActiveRequests {
    /// An endpoint with at most so many requests in flight is idle and scores 1.
    pub idle_threshold: u32,
    /// The best score of one that is not idle, 0 to 1.
    pub max_busy_score: f64,
}

/// Parameters of `load-aware-scorer`.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct LoadAware {
    /// Requests waiting at which the score is 0; at least 1.
    pub threshold: u32,
}

impl ActiveRequests {
    /// The EPP's: only an endpoint without requests is idle, and there is no gap between idle and busy.
    pub const DEFAULT: Self = Self { idle_threshold: 0, max_busy_score: 1.0 };
}

impl LoadAware {
    /// The EPP's.
    pub const DEFAULT: Self = Self { threshold: 128 };
}

/// `queue-scorer`.
pub(super) fn rate_queue(sight: &Sight<'_>, memory: &mut Memory) {
    collect_requests(|load| load.waiting, sight, memory);
    spread(&mut memory.values);
}

/// `running-requests-size-scorer`.
pub(super) fn rate_running(sight: &Sight<'_>, memory: &mut Memory) {
    collect_requests(|load| load.running, sight, memory);
    spread(&mut memory.values);
}

/// `kv-cache-utilization-scorer`.
pub(super) fn rate_kv_cache(sight: &Sight<'_>, memory: &mut Memory) {
    collect(|endpoint| endpoint.load().kv_cache_usage, |_| 0.0, sight, memory);
    memory.values.iter_mut().for_each(|value| *value = 1.0 - *value);
}

/// `load-aware-scorer`.
pub(super) fn rate_waiting(LoadAware { threshold }: LoadAware, sight: &Sight<'_>, memory: &mut Memory) {
    collect_requests(|load| load.waiting, sight, memory);
    let threshold = f64::from(threshold);
    memory.values.iter_mut().for_each(|value| *value = 0.5 * (1.0 - value.min(threshold) / threshold));
}

/// `active-request-scorer`.
pub(super) fn rate_active(parameters: ActiveRequests, sight: &Sight<'_>, memory: &mut Memory) {
    memory.set(sight.endpoints().map(|endpoint| f64::from(endpoint.in_flight().total())));
    let most = memory.values.iter().copied().fold(0.0, f64::max);
    for value in &mut memory.values {
        let is_idle = *value <= f64::from(parameters.idle_threshold);
        *value = if is_idle { 1.0 } else { (most - *value) / most * parameters.max_busy_score };
    }
}

/// A count of requests that engines report, and what this proxy has in flight and they cannot report yet. Where no engine reports it, all that is
/// in flight.
fn collect_requests(count: impl Fn(&Load) -> Option<u32>, sight: &Sight<'_>, memory: &mut Memory) {
    let alone = |endpoint: &Endpoint| f64::from(endpoint.in_flight().at_page());
    collect(|endpoint| count(endpoint.load()).map(f64::from), alone, sight, memory);
    let confirmed_at = sight.pool.confirmed_at();
    for (value, endpoint) in memory.values.iter_mut().zip(sight.endpoints()) {
        *value += f64::from(endpoint.unseen(confirmed_at));
    }
}

/// 1 for the fewest, 0 for the most, straight in between; 1 for all when they are equal. Where signals fade two endpoints may differ by a part
/// of a request, which no engine can: that part then counts as a part of the whole scale.
fn spread(values: &mut [f64]) {
    let fewest = values.iter().copied().fold(f64::INFINITY, f64::min);
    let most = values.iter().copied().fold(fewest, f64::max);
    let span = (most - fewest).max(1.0);
    values.iter_mut().for_each(|value| *value = 1.0 - (*value - fewest) / span);
}
