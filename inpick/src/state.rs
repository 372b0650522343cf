//! What a sidecar's `/api/state` says, as far as the terminal shows it.

use serde::Deserialize;

/// The document.
#[derive(Clone, Debug, Default, Deserialize)]
pub(crate) struct State {
    /// Why there is nothing of Envoy's page, if that is so.
    pub(crate) envoy_problem: Option<String>,
    pub(crate) pools: Vec<Pool>,
    pub(crate) endpoints: Vec<Endpoint>,
}

/// A pool.
#[derive(Clone, Debug, Deserialize)]
pub(crate) struct Pool {
    pub(crate) name: String,
    pub(crate) problem: Option<String>,
    pub(crate) endpoints: u64,
    pub(crate) fresh: u64,
    pub(crate) waiting: u64,
    pub(crate) running: u64,
    pub(crate) kv_cache_usage: Option<f64>,
    pub(crate) in_flight: Option<u64>,
    pub(crate) picks_per_second: Option<f64>,
}

/// An endpoint.
#[derive(Clone, Debug, Deserialize)]
pub(crate) struct Endpoint {
    pub(crate) pool: String,
    pub(crate) address: String,
    pub(crate) pod: String,
    pub(crate) state: String,
    pub(crate) problem: Option<String>,
    pub(crate) waiting: Option<u64>,
    pub(crate) running: Option<u64>,
    pub(crate) kv_cache_usage: Option<f64>,
    pub(crate) age_ms: Option<u64>,
    pub(crate) in_flight: Option<u64>,
    pub(crate) share: Option<f64>,
    pub(crate) failures: Option<u64>,
    pub(crate) predicted_wait_ms: Option<u64>,
}

impl Endpoint {
    /// What it is called: its pod, or its address.
    pub(crate) fn name(&self) -> &str {
        if self.pod.is_empty() { &self.address } else { &self.pod }
    }
}
