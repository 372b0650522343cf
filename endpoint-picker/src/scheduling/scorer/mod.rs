//! Scorers: each rates every candidate from 0 to 1, which is best, by the formula that the endpoint picker (EPP) has under that name.
//!
//! Two things differ from the EPP, both because its figures are those of the last scrape and nothing else. What this proxy has in flight and an
//! engine's page cannot contain is added to the engine's figures ([`crate::pool::Endpoint::unseen`]): a burst would otherwise all go to whoever looked
//! idle, and every request to an engine that froze. And a signal that is missing, or too old to count in full, is taken to be
//! what a typical endpoint of the pool has ([`signal`]), where the EPP reads 0, which is the best value there is.

mod affinity;
mod cold;
mod cost;
mod load;
mod sight;
mod signal;

pub use affinity::{BYTES_PER_TOKEN, PrefixCache};
pub use load::{ActiveRequests, LoadAware};
pub(super) use sight::{Memory, Sight, Validity};

use super::cold::NoHitLru;

/// A scorer by its plugin name, with its parameters.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Scorer {
    /// `predicted-latency-scorer`: what the request is predicted to cost on each endpoint, in time.
    PredictedLatency,
    /// `lmetric-scorer`: tokens to prefill times requests in the batch.
    LMetric,
    /// `queue-scorer`: requests waiting, between the fewest and the most among the candidates.
    Queue,
    /// `kv-cache-utilization-scorer`: free part of the KV cache.
    KvCacheUtilization,
    /// `running-requests-size-scorer`: requests running, between the fewest and the most among the candidates.
    RunningRequests,
    /// `prefix-cache-scorer`: part of the prompt that should be in the endpoint's cache.
    PrefixCache(PrefixCache),
    /// `lora-affinity-scorer`: 1 where the adapter runs, 0.8 where there is room for it, 0.6 where it waits, else 0.
    LoraAffinity,
    /// `no-hit-lru-scorer`: for a prompt that nobody has, the endpoint that least recently got such a one.
    NoHitLru(NoHitLru),
    /// `session-affinity-scorer`: 1 for the endpoint that served the session so far, else 0.
    SessionAffinity,
    /// `active-request-scorer`: requests of this proxy in flight, between none and the most among the candidates.
    ActiveRequests(ActiveRequests),
    /// `load-aware-scorer`: requests waiting, from 0.5 for none to 0 at a threshold.
    LoadAware(LoadAware),
}

impl Scorer {
    /// Every scorer, with the EPP's default parameters.
    pub const ALL: [Self; 11] = [
        Self::PredictedLatency,
        Self::LMetric,
        Self::Queue,
        Self::KvCacheUtilization,
        Self::RunningRequests,
        Self::PrefixCache(PrefixCache::DEFAULT),
        Self::LoraAffinity,
        Self::NoHitLru(NoHitLru::DEFAULT),
        Self::SessionAffinity,
        Self::ActiveRequests(ActiveRequests::DEFAULT),
        Self::LoadAware(LoadAware::DEFAULT),
    ];

    /// The plugin's name in configurations.
    #[must_use]
    pub const fn as_str(&self) -> &'static str {
        match self {
            Self::PredictedLatency => "predicted-latency-scorer",
            Self::LMetric => "lmetric-scorer",
            Self::Queue => "queue-scorer",
            Self::KvCacheUtilization => "kv-cache-utilization-scorer",
            Self::RunningRequests => "running-requests-size-scorer",
            Self::PrefixCache(_) => "prefix-cache-scorer",
            Self::LoraAffinity => "lora-affinity-scorer",
            Self::NoHitLru(_) => "no-hit-lru-scorer",
            Self::SessionAffinity => "session-affinity-scorer",
            Self::ActiveRequests(_) => "active-request-scorer",
            Self::LoadAware(_) => "load-aware-scorer",
        }
    }

    /// Whether its scores come from engines' figures, which say nothing once the sidecar no longer confirms them.
    pub(super) const fn reads_load(&self) -> bool {
        match self {
            Self::PredictedLatency
            | Self::LMetric
            | Self::Queue
            | Self::KvCacheUtilization
            | Self::RunningRequests
            | Self::LoadAware(_) => true,
            Self::PrefixCache(_)
            | Self::LoraAffinity
            | Self::NoHitLru(_)
            | Self::SessionAffinity
            | Self::ActiveRequests(_) => false,
        }
    }

    /// Whether it asks what a request would take at each endpoint.
    #[must_use]
    pub const fn needs_outlooks(&self) -> bool {
        matches!(self, Self::PredictedLatency | Self::LMetric)
    }

    /// Whether it asks who has the request's prompt, so that prompts must be hashed.
    #[must_use]
    pub const fn needs_prefixes(&self) -> bool {
        matches!(self, Self::PredictedLatency | Self::LMetric | Self::PrefixCache(_) | Self::NoHitLru(_))
    }

    /// Adds `weight` times each candidate's score, which is cut to 0 to 1.
    pub(super) fn add(&self, sight: &Sight<'_>, weight: f64, memory: &mut Memory, scores: &mut [f64]) {
        self.rate(sight, memory);
        for (score, value) in scores.iter_mut().zip(&memory.values) {
            *score += weight * value.clamp(0.0, 1.0);
        }
    }

    /// Fills [`Memory::values`] with one score for each candidate.
    fn rate(&self, sight: &Sight<'_>, memory: &mut Memory) {
        match self {
            Self::PredictedLatency => cost::rate(|outlook| outlook.cost, sight, memory),
            Self::LMetric => cost::rate(|outlook| outlook.product, sight, memory),
            Self::Queue => load::rate_queue(sight, memory),
            Self::KvCacheUtilization => load::rate_kv_cache(sight, memory),
            Self::RunningRequests => load::rate_running(sight, memory),
            Self::PrefixCache(parameters) => affinity::rate_prefix(parameters, sight, memory),
            Self::LoraAffinity => affinity::rate_adapter(sight, memory),
            Self::NoHitLru(_) => cold::rate(sight, memory),
            Self::SessionAffinity => affinity::rate_session(sight, memory),
            Self::ActiveRequests(parameters) => load::rate_active(*parameters, sight, memory),
            Self::LoadAware(parameters) => load::rate_waiting(*parameters, sight, memory),
        }
    }
}

#[cfg(test)]
mod tests;
