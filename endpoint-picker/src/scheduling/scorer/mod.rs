//! Scorers: one signal each, from an endpoint's load to a score of at most 1, which is best.
//!
//! Scales are absolute and straight: each request more costs the same, so that a small difference stays small whatever the rest of the pool
//! looks like, and a large one is never flattened. A count beyond its scale scores below 0.
//!
//! What this proxy has in flight and an engine's figures cannot contain is added to its queue first: a burst would otherwise all go to
//! whoever looked idle, and every request to an engine that froze. A signal that is missing, or too old to count in
//! full, is taken to be what a typical endpoint of the pool with as many requests in flight when its page was made would have ([`Typical`]): so requests in flight
//! decide, and an endpoint that says nothing is neither idle nor full.

use alloc::vec::Vec;

use crate::pool::{Endpoint, Pool};
use crate::time::Timestamp;

use super::candidate::Candidate;

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
        if self == Self::ActiveRequests {
            // Always known: nothing to assume, and no age.
            for (score, endpoint) in scores.iter_mut().zip(endpoints(pool, candidates)) {
                *score += weight * (1.0 - f64::from(endpoint.in_flight().total()) / IN_FLIGHT_SCALE);
            }
            return;
        }
        let typical = Typical::of(self, pool, candidates, validity, known);
        for (score, endpoint) in scores.iter_mut().zip(endpoints(pool, candidates)) {
            let worth = validity.worth(pool, endpoint);
            let assumed = || typical.signal(endpoint);
            let signal = match self.signal(endpoint) {
                Some(signal) if worth >= 1.0 => signal,
                Some(signal) => worth * signal + (1.0 - worth) * assumed(),
                None => assumed(),
            };
            let unseen = || f64::from(endpoint.unseen(pool.confirmed_at()));
            let cost = match self {
                Self::Queue => (signal + unseen()) / WAITING_SCALE,
                Self::RunningRequests => (signal + unseen()) / RUNNING_SCALE,
                Self::KvCacheUtilization | Self::ActiveRequests => signal.min(1.0),
            };
            *score += weight * (1.0 - cost);
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
}

/// What an endpoint with a fresh signal has in the middle: the medians over those endpoints, or 0 where there are none, so that the
/// signal decides nothing.
#[derive(Clone, Copy, Debug, Default)]
struct Typical {
    signal: f64,
    in_flight: f64,
}

impl Typical {
    /// Keeps the scale from an endpoint's first request in flight, where a ratio of small counts would say too much.
    const BASE_IN_FLIGHT: f64 = 2.0;

    fn of(scorer: Scorer, pool: &Pool, candidates: &[Candidate], validity: Validity, known: &mut Vec<f64>) -> Self {
        let fresh = |endpoint: &Endpoint| scorer.signal(endpoint).filter(|_| validity.worth(pool, endpoint) >= 1.0);
        // Where every signal is fresh nobody asks.
        if endpoints(pool, candidates).all(|endpoint| fresh(endpoint).is_some()) {
            return Self::default();
        }
        known.clear();
        known.extend(endpoints(pool, candidates).filter_map(fresh));
        let signal = median(known);
        known.clear();
        let with_signal = endpoints(pool, candidates).filter(|endpoint| fresh(endpoint).is_some());
        known.extend(with_signal.map(|endpoint| f64::from(endpoint.in_flight().at_page())));
        Self { signal, in_flight: median(known) }
    }

    /// The signal that an endpoint would have if it were a typical one.
    fn signal(self, endpoint: &Endpoint) -> f64 {
        self.signal * (f64::from(endpoint.in_flight().at_page()) + Self::BASE_IN_FLIGHT)
            / (self.in_flight + Self::BASE_IN_FLIGHT)
    }
}

/// The middle value, or the mean of the middle two; 0 of none.
fn median(values: &mut [f64]) -> f64 {
    let (middle, is_even) = (values.len() / 2, values.len().is_multiple_of(2));
    if values.is_empty() {
        return 0.0;
    }
    let (below, &mut upper, _) = values.select_nth_unstable_by(middle, f64::total_cmp);
    if is_even { (upper + below.iter().copied().fold(f64::NEG_INFINITY, f64::max)) / 2.0 } else { upper }
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

    use super::{halved, median};

    #[test]
    fn a_median_is_the_middle() {
        assert_eq!(median(&mut []), 0.0);
        assert_eq!(median(&mut [3.0]), 3.0);
        assert_eq!(median(&mut [5.0, 1.0]), 3.0);
        assert_eq!(median(&mut [9.0, 1.0, 4.0]), 4.0);
        assert_eq!(median(&mut [9.0, 1.0, 4.0, 2.0]), 3.0);
    }

    #[test]
    fn halving_falls_steadily_and_is_exact_at_whole_numbers() {
        assert_eq!([0.0, 1.0, 2.0, 10.0].map(halved), [1.0, 0.5, 0.25, 1.0 / 1024.0]);
        assert!((1..320).all(|step| halved(f64::from(step) / 20.0) < halved(f64::from(step - 1) / 20.0)));
        assert_eq!([16.0, 1e300].map(halved), [0.0, 0.0]);
    }
}
