//! The wire crate: what the metrics sidecar tells the filter about the load of every endpoint.
//!
//! The schema is `proto/snapshot.proto`; its generated code is private. The public face is the checked domain types below:
//! every range is enforced once, in [`Snapshot::decode`], so that no reader has to doubt a value again.

#![no_std]

extern crate alloc;

use alloc::string::String;
use alloc::vec::Vec;
use core::net::SocketAddr;

use prost::Message;

#[allow(missing_docs, unreachable_pub, unused_qualifications, clippy::all, reason = "generated code")]
mod r#gen {
    pub mod v1 {
        include!("gen/inpick.snapshot.v1.rs");
    }
}

use r#gen::v1 as wire;

/// Media type under which a snapshot travels over HTTP.
pub const CONTENT_TYPE: &str = "application/x-protobuf";

/// A pool of more endpoints than this is refused: no known deployment comes near it, and it bounds what one decode may cost.
pub const MAX_ENDPOINTS: usize = 10_000;

/// Load of every endpoint of every pool, replaced whole.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Snapshot {
    /// Drawn once when the sidecar starts.
    pub epoch: u64,
    /// Grows with every change of content inside an epoch.
    pub generation: u64,
    /// The sidecar's wall clock when the snapshot was made, in milliseconds since the Unix epoch.
    pub captured_at_ms: u64,
    /// Every pool that the sidecar knows, in the order of its configuration.
    pub pools: Vec<Pool>,
}

/// Endpoints that serve the same models.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Pool {
    /// Unique, not empty.
    pub name: String,
    /// Sorted as the sidecar discovered them; addresses are unique within a pool.
    pub endpoints: Vec<Endpoint>,
}

/// One address and what its engine last said. A signal that the page did not carry is `None`, never 0.
#[derive(Clone, Debug, PartialEq)]
pub struct Endpoint {
    /// Where it serves.
    pub address: SocketAddr,
    /// Pod name for labels; empty when discovery knows only the address.
    pub pod: String,
    /// Kubernetes namespace for labels, or empty.
    pub namespace: String,
    /// What the sidecar makes of it.
    pub state: State,
    /// Milliseconds between the last good scrape and the capture; `None`: never scraped.
    pub age_ms: Option<u64>,
    /// Requests in the engine's queue, summed over data-parallel engines.
    pub waiting: Option<u32>,
    /// Requests in the engine's batch, summed over data-parallel engines.
    pub running: Option<u32>,
    /// Used part of the KV cache as a ratio, 0 to 1, averaged over data-parallel engines.
    pub kv_cache_usage: Option<f64>,
    /// Tokens in one KV block.
    pub block_size: Option<u32>,
    /// KV blocks of the engine.
    pub num_gpu_blocks: Option<u32>,
    /// Adapters that fit at once.
    pub max_lora: Option<u32>,
    /// Adapters with running requests.
    pub running_adapters: Vec<String>,
    /// Adapters with waiting requests.
    pub waiting_adapters: Vec<String>,
}

impl Endpoint {
    /// An endpoint of which nothing but the address is known.
    #[must_use]
    pub const fn unknown(address: SocketAddr) -> Self {
        Self {
            address,
            pod: String::new(),
            namespace: String::new(),
            state: State::Unknown,
            age_ms: None,
            waiting: None,
            running: None,
            kv_cache_usage: None,
            block_size: None,
            num_gpu_blocks: None,
            max_lora: None,
            running_adapters: Vec::new(),
            waiting_adapters: Vec::new(),
        }
    }
}

/// What the sidecar makes of an endpoint.
#[derive(Clone, Copy, Debug, Default, Eq, Hash, PartialEq)]
pub enum State {
    /// Listed, but never scraped with success.
    #[default]
    Unknown,
    /// Its metrics are younger than the sidecar's staleness limit.
    Fresh,
    /// Its metrics are older than the sidecar's staleness limit.
    Stale,
    /// The engine says that it sleeps.
    Sleeping,
    /// The proxy's health checks or the operator say that it takes no traffic.
    Unready,
}

/// Why bytes are not a snapshot.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum DecodeError {
    /// Not the schema's protobuf.
    #[error("not a snapshot: {0}")]
    Protobuf(#[from] prost::DecodeError),
    /// A pool without a name, or two pools of one name.
    #[error("pool {0:?} is unnamed or listed twice")]
    PoolName(String),
    /// Not `ip:port`.
    #[error("{0:?} is not ip:port")]
    Address(String),
    /// The same address twice in a pool.
    #[error("endpoint {0} is listed twice")]
    DuplicateEndpoint(SocketAddr),
    /// A usage that is not a ratio from 0 to 1.
    #[error("KV cache usage of {0} is not a ratio from 0 to 1")]
    KvCacheUsage(SocketAddr),
    /// More than [`MAX_ENDPOINTS`].
    #[error("a pool has {0} endpoints, more than {MAX_ENDPOINTS}")]
    TooManyEndpoints(usize),
}

impl Snapshot {
    /// Reads a snapshot from the wire.
    ///
    /// # Errors
    ///
    /// See [`DecodeError`]: one bad value refuses the whole, so that a reader never installs half a truth.
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        let raw = wire::Snapshot::decode(bytes)?;
        let mut pools: Vec<Pool> = Vec::with_capacity(raw.pools.len());
        for pool in raw.pools {
            if pool.name.is_empty() || pools.iter().any(|known| known.name == pool.name) {
                return Err(DecodeError::PoolName(pool.name));
            }
            if pool.endpoints.len() > MAX_ENDPOINTS {
                return Err(DecodeError::TooManyEndpoints(pool.endpoints.len()));
            }
            let endpoints = pool.endpoints.into_iter().map(Endpoint::from_wire).collect::<Result<Vec<_>, _>>()?;
            let mut addresses: Vec<SocketAddr> = endpoints.iter().map(|endpoint| endpoint.address).collect();
            addresses.sort_unstable();
            if let Some(&[twice, _]) = addresses.array_windows::<2>().find(|[left, right]| left == right) {
                return Err(DecodeError::DuplicateEndpoint(twice));
            }
            pools.push(Pool { name: pool.name, endpoints });
        }
        Ok(Self { epoch: raw.epoch, generation: raw.generation, captured_at_ms: raw.captured_at_ms, pools })
    }

    /// Writes the snapshot for the wire.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        wire::Snapshot {
            epoch: self.epoch,
            generation: self.generation,
            captured_at_ms: self.captured_at_ms,
            pools: self
                .pools
                .iter()
                .map(|pool| wire::Pool {
                    name: pool.name.clone(),
                    endpoints: pool.endpoints.iter().map(Endpoint::to_wire).collect(),
                })
                .collect(),
        }
        .encode_to_vec()
    }

    /// The pool of that name.
    #[must_use]
    pub fn pool(&self, name: &str) -> Option<&Pool> {
        self.pools.iter().find(|pool| pool.name == name)
    }
}

impl Endpoint {
    fn from_wire(raw: wire::Endpoint) -> Result<Self, DecodeError> {
        let state = match raw.state() {
            wire::State::Unspecified => State::Unknown,
            wire::State::Fresh => State::Fresh,
            wire::State::Stale => State::Stale,
            wire::State::Sleeping => State::Sleeping,
            wire::State::Unready => State::Unready,
        };
        let Ok(address) = raw.address.parse::<SocketAddr>() else {
            return Err(DecodeError::Address(raw.address));
        };
        if raw.kv_cache_usage.is_some_and(|usage| !(0.0..=1.0).contains(&usage)) {
            return Err(DecodeError::KvCacheUsage(address));
        }
        Ok(Self {
            address,
            pod: raw.pod,
            namespace: raw.namespace,
            state,
            age_ms: raw.age_ms,
            waiting: raw.waiting,
            running: raw.running,
            kv_cache_usage: raw.kv_cache_usage,
            block_size: raw.block_size,
            num_gpu_blocks: raw.num_gpu_blocks,
            max_lora: raw.max_lora,
            running_adapters: raw.running_adapters,
            waiting_adapters: raw.waiting_adapters,
        })
    }

    fn to_wire(&self) -> wire::Endpoint {
        let state = match self.state {
            State::Unknown => wire::State::Unspecified,
            State::Fresh => wire::State::Fresh,
            State::Stale => wire::State::Stale,
            State::Sleeping => wire::State::Sleeping,
            State::Unready => wire::State::Unready,
        };
        wire::Endpoint {
            address: alloc::format!("{}", self.address),
            pod: self.pod.clone(),
            namespace: self.namespace.clone(),
            state: state.into(),
            age_ms: self.age_ms,
            waiting: self.waiting,
            running: self.running,
            kv_cache_usage: self.kv_cache_usage,
            block_size: self.block_size,
            num_gpu_blocks: self.num_gpu_blocks,
            max_lora: self.max_lora,
            running_adapters: self.running_adapters.clone(),
            waiting_adapters: self.waiting_adapters.clone(),
        }
    }
}

#[cfg(test)]
mod tests {
    use alloc::string::ToString;
    use alloc::vec;

    use super::*;

    fn endpoint(address: &str) -> Endpoint {
        Endpoint {
            pod: "pod-0".to_string(),
            state: State::Fresh,
            age_ms: Some(12),
            waiting: Some(3),
            kv_cache_usage: Some(0.25),
            running_adapters: vec!["a".to_string()],
            ..Endpoint::unknown(address.parse().unwrap())
        }
    }

    fn snapshot(endpoints: Vec<Endpoint>) -> Snapshot {
        Snapshot { epoch: 7, generation: 2, captured_at_ms: 5, pools: vec![Pool { name: "p".to_string(), endpoints }] }
    }

    #[test]
    fn what_is_encoded_is_decoded() {
        let sent = snapshot(vec![endpoint("10.0.0.1:8000"), Endpoint::unknown("[::1]:8000".parse().unwrap())]);
        assert_eq!(Snapshot::decode(&sent.encode()), Ok(sent));
    }

    #[test]
    fn absent_signals_stay_absent() {
        let sent = snapshot(vec![Endpoint::unknown("10.0.0.1:8000".parse().unwrap())]);
        let received = Snapshot::decode(&sent.encode()).unwrap();
        assert_eq!(received.pools[0].endpoints[0].waiting, None);
    }

    #[test]
    fn a_usage_outside_the_ratio_is_refused() {
        for usage in [f64::NAN, f64::INFINITY, -0.1, 1.5] {
            let mut bad = endpoint("10.0.0.1:8000");
            bad.kv_cache_usage = Some(usage);
            let address = bad.address;
            assert_eq!(Snapshot::decode(&snapshot(vec![bad]).encode()), Err(DecodeError::KvCacheUsage(address)));
        }
    }

    #[test]
    fn an_address_listed_twice_is_refused() {
        let bytes = snapshot(vec![endpoint("10.0.0.1:8000"), endpoint("10.0.0.1:8000")]).encode();
        assert!(matches!(Snapshot::decode(&bytes), Err(DecodeError::DuplicateEndpoint(_))));
    }

    #[test]
    fn garbage_is_refused() {
        assert!(Snapshot::decode(b"\xff\xff\xff").is_err());
    }
}
