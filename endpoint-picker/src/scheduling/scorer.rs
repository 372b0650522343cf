//! Scorers: one signal each, from an endpoint's load to a score in 0 to 1, 1 being best.
//!
//! The formulas are those of the endpoint picker's plugins of the same names: queue and running requests are scaled between
//! the candidates' least and most, KV cache use is taken as it is. What this proxy has in flight and the
//! figures cannot contain is added to them first: a burst would otherwise all go to whoever looked idle, and every request to
//! an engine that froze. An endpoint without the signal scores 0; a
//! signal that no candidate has decides nothing.

use crate::pool::Endpoint;

/// A scorer by its plugin name.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum Scorer {
    /// `queue-scorer`: requests waiting.
    Queue,
    /// `kv-cache-utilization-scorer`: free part of the KV cache.
    KvCacheUtilization,
    /// `running-requests-size-scorer`: requests running.
    RunningRequests,
}

impl Scorer {
    /// Every scorer.
    pub const ALL: [Self; 3] = [Self::Queue, Self::KvCacheUtilization, Self::RunningRequests];

    /// The plugin's name in configurations.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Queue => "queue-scorer",
            Self::KvCacheUtilization => "kv-cache-utilization-scorer",
            Self::RunningRequests => "running-requests-size-scorer",
        }
    }

    /// Adds `weight` times each candidate's score.
    pub(super) fn add(self, endpoints: &[Endpoint], candidates: &[usize], weight: f64, scores: &mut [f64]) {
        match self {
            Self::Queue => add_scaled(endpoints, candidates, weight, scores, |endpoint| {
                endpoint.load.waiting.map(|waiting| waiting.saturating_add(endpoint.unseen()))
            }),
            Self::RunningRequests => add_scaled(endpoints, candidates, weight, scores, |endpoint| {
                endpoint.load.running.map(|running| running.saturating_add(endpoint.unseen()))
            }),
            Self::KvCacheUtilization => {
                for (score, endpoint) in scores.iter_mut().zip(select(endpoints, candidates)) {
                    *score += endpoint.load.kv_cache_usage.map_or(0.0, |usage| weight * (1.0 - usage));
                }
            }
        }
    }
}

/// Scores by requests in flight alone.
pub(super) fn add_in_flight(endpoints: &[Endpoint], candidates: &[usize], scores: &mut [f64]) {
    add_scaled(endpoints, candidates, 1.0, scores, |endpoint| Some(endpoint.in_flight()));
}

fn select<'a>(endpoints: &'a [Endpoint], candidates: &'a [usize]) -> impl Iterator<Item = &'a Endpoint> {
    candidates.iter().filter_map(|&index| endpoints.get(index))
}

/// `(max - value) / (max - min)`, and 1 for all when they are equal.
fn add_scaled(
    endpoints: &[Endpoint],
    candidates: &[usize],
    weight: f64,
    scores: &mut [f64],
    value: impl Fn(&Endpoint) -> Option<u32>,
) {
    let mut known = select(endpoints, candidates).filter_map(&value);
    let Some(first) = known.next() else { return };
    let (least, most) = known.fold((first, first), |(least, most), value| (least.min(value), most.max(value)));
    for (score, endpoint) in scores.iter_mut().zip(select(endpoints, candidates)) {
        *score += match value(endpoint) {
            None => 0.0,
            Some(_) if least == most => weight,
            Some(value) => weight * f64::from(most - value) / f64::from(most - least),
        };
    }
}
