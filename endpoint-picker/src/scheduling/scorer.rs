//! Scorers: one signal each, from an endpoint's load to a score of at most 1, which is best.
//!
//! Scales are absolute and straight: each request more costs the same, so that a small difference stays small whatever the rest of the pool
//! looks like, and a large one is never flattened. A count beyond its scale scores below 0.
//!
//! What this proxy has in flight and an engine's figures cannot contain is added to its queue first: a burst would otherwise all go to
//! whoever looked idle, and every request to an engine that froze. A signal that is missing or old says little, so it counts as the median of those
//! that are fresh, the more the older it is; then requests in flight decide.

use alloc::vec::Vec;

use crate::pool::{Endpoint, Pool};
use crate::time::Timestamp;

use super::eligibility::Candidate;

/// Requests waiting that cost a whole score. One then weighs as much as a tenth of the KV cache: at the depth of 5 that pickers take for
/// saturation, a queue costs as much as a cache that is half full.
const WAITING_SCALE: f64 = 10.0;
/// Requests running that cost a whole score: engines are configured for batches of 64 to 256.
const RUNNING_SCALE: f64 = 64.0;
/// Requests in flight that cost a whole score. Most of them run, and some belong to the queue, which is counted by itself.
const IN_FLIGHT_SCALE: f64 = 32.0;
/// Beyond its time of validity a signal loses half of what it says every two seconds: a queue can fill or empty in that time.
const FADE_HALF_LIFE_MICROS: f64 = 2_000_000.0;

/// A scorer by its plugin name.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum Scorer {
    /// `queue-scorer`: requests waiting.
    Queue,
    /// `kv-cache-utilization-scorer`: free part of the KV cache.
    KvCacheUtilization,
    /// `running-requests-size-scorer`: requests running.
    RunningRequests,
    /// `active-request-scorer`: requests of this proxy in flight.
    ActiveRequests,
}

/// What the signals of one pick are worth.
#[derive(Clone, Copy, Debug)]
pub(super) struct Validity {
    pub(super) now: Timestamp,
    /// Loads younger than this count in full; microseconds.
    pub(super) max_age_micros: u64,
}

impl Scorer {
    /// Every scorer.
    pub const ALL: [Self; 4] = [Self::Queue, Self::KvCacheUtilization, Self::RunningRequests, Self::ActiveRequests];

    /// The plugin's name in configurations.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Queue => "queue-scorer",
            Self::KvCacheUtilization => "kv-cache-utilization-scorer",
            Self::RunningRequests => "running-requests-size-scorer",
            Self::ActiveRequests => "active-request-scorer",
        }
    }

    /// Adds `weight` times each candidate's score; `known` is working memory.
    pub(super) fn add(
        self,
        pool: &Pool,
        candidates: &[Candidate],
        validity: Validity,
        weight: f64,
        scores: &mut [f64],
        known: &mut Vec<f64>,
    ) {
        let median = if self == Self::ActiveRequests { 0.0 } else { self.median(pool, candidates, validity, known) };
        for (score, endpoint) in scores.iter_mut().zip(endpoints(pool, candidates)) {
            let worth = validity.worth(pool, endpoint);
            let signal = self.signal(endpoint).map_or(median, |signal| worth * signal + (1.0 - worth) * median);
            let unseen = || f64::from(endpoint.unseen(pool.confirmed_at()));
            *score += weight
                * match self {
                    Self::Queue => 1.0 - (signal + unseen()) / WAITING_SCALE,
                    Self::RunningRequests => 1.0 - (signal + unseen()) / RUNNING_SCALE,
                    Self::KvCacheUtilization => 1.0 - signal,
                    Self::ActiveRequests => 1.0 - f64::from(endpoint.in_flight().total()) / IN_FLIGHT_SCALE,
                };
        }
    }

    fn signal(self, endpoint: &Endpoint) -> Option<f64> {
        let load = endpoint.load();
        match self {
            Self::Queue => load.waiting.map(f64::from),
            Self::KvCacheUtilization => load.kv_cache_usage,
            Self::RunningRequests => load.running.map(f64::from),
            Self::ActiveRequests => None,
        }
    }

    /// The median of the fresh signals, the upper of two; 0 when there is none, so that the signal decides nothing.
    fn median(self, pool: &Pool, candidates: &[Candidate], validity: Validity, known: &mut Vec<f64>) -> f64 {
        known.clear();
        let mut all_known = true;
        for endpoint in endpoints(pool, candidates) {
            match self.signal(endpoint) {
                Some(signal) if validity.worth(pool, endpoint) >= 1.0 => known.push(signal),
                _ => all_known = false,
            }
        }
        // Nobody needs it.
        if all_known {
            return 0.0;
        }
        let middle = known.len() / 2;
        if known.is_empty() { 0.0 } else { *known.select_nth_unstable_by(middle, f64::total_cmp).1 }
    }
}

impl Validity {
    /// What an endpoint's load is still worth, 0 to 1.
    fn worth(self, pool: &Pool, endpoint: &Endpoint) -> f64 {
        let Some(load_at) = endpoint.load_at(pool.confirmed_at()) else { return 0.0 };
        let beyond = self.now.micros_since(load_at).saturating_sub(self.max_age_micros);
        if beyond == 0 { 1.0 } else { halved(beyond as f64 / FADE_HALF_LIFE_MICROS) }
    }
}

/// `0.5^halvings`, by straight lines between whole numbers (`exp2` needs a library that the core does not have), and 0 from 16 on.
fn halved(halvings: f64) -> f64 {
    const MOST: f64 = 16.0;
    if halvings >= MOST {
        return 0.0;
    }
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "0 to 16")]
    let whole = halvings as u32;
    let at_whole = 1.0 / f64::from(1_u32 << whole);
    at_whole * (1.0 - 0.5 * (halvings - f64::from(whole)))
}

fn endpoints<'a>(pool: &'a Pool, candidates: &'a [Candidate]) -> impl Iterator<Item = &'a Endpoint> {
    candidates.iter().filter_map(|candidate| pool.endpoint(candidate.id))
}

#[cfg(test)]
mod tests {
    #[cfg(target_arch = "wasm32")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    use super::halved;

    #[test]
    fn halving_falls_steadily_and_is_exact_at_whole_numbers() {
        assert_eq!([0.0, 1.0, 2.0, 10.0].map(halved), [1.0, 0.5, 0.25, 1.0 / 1024.0]);
        assert!((1..320).all(|step| halved(f64::from(step) / 20.0) < halved(f64::from(step - 1) / 20.0)));
        assert_eq!([16.0, 1e300].map(halved), [0.0, 0.0]);
    }
}
