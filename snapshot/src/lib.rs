//! The wire crate: what the metrics sidecar tells the filter about every endpoint.
//!
//! The schema is `proto/snapshot.proto`; its generated code is private. The public face is the checked domain types below:
//! every range is enforced once, when bytes are decoded, so that no reader has to doubt a value again.
//!
//! Identities ([`Membership`]) and load ([`Loads`]) travel apart: the first changes when pods come and go, the second many times
//! a second. A reader names what it has with a [`Tag`], and gets the membership only when it changed.

#![no_std]

extern crate alloc;

mod decode;
mod encode;
mod tag;

use alloc::collections::BTreeMap;
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use core::net::SocketAddr;

pub use decode::{DecodeError, LoadsDecoder};
pub use tag::Tag;

#[allow(missing_docs, unreachable_pub, unused_qualifications, clippy::all, reason = "generated code")]
mod r#gen {
    pub mod v1 {
        include!("gen/inpick.snapshot.v1.rs");
    }
}

use r#gen::v1 as wire;

/// Media type under which a snapshot travels over HTTP.
pub const CONTENT_TYPE: &str = "application/x-protobuf";

/// Header of the sidecar's answer while somebody watches its live page: whoever asks for snapshots may send recent picks with the next
/// request.
pub const WATCHED_HEADER: &str = "x-inpick-watched";

/// More endpoints than this are refused, over all pools: no known deployment comes near it, and it bounds what one decode may cost.
pub const MAX_ENDPOINTS: usize = 10_000;

/// What one answer of the sidecar holds.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Snapshot {
    /// Who the endpoints are; `None`: as in the membership that the reader named.
    pub membership: Option<Membership>,
    /// How loaded they are.
    pub loads: Loads,
}

/// The endpoints of every pool.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Membership {
    /// Drawn once when the sidecar starts.
    pub epoch: u64,
    /// Grows with every change inside an epoch.
    pub version: u64,
    /// Every pool that the sidecar knows, in the order of its configuration; names are unique.
    pub pools: Vec<PoolMembers>,
}

/// Endpoints that serve the same models.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct PoolMembers {
    /// Unique, not empty.
    pub name: String,
    /// In the order in which they were discovered; addresses are unique within a pool.
    pub endpoints: Vec<EndpointIdentity>,
    /// LoRA adapters that some endpoint of the pool reported.
    pub adapters: Vec<String>,
    /// What the pool's endpoints list under `/v1/models`.
    pub models: Vec<ServedModel>,
    /// Whether requests for which nothing can be picked are refused; `None`: nobody said.
    pub fail_closed: Option<bool>,
    /// Priorities by names of objectives.
    pub objectives: BTreeMap<String, i64>,
    /// Which model is served instead of another, the one that counts first in front.
    pub rewrites: Vec<PoolRewrite>,
}

/// Which model is served instead of the one that was asked for.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct PoolRewrite {
    /// Its name.
    pub name: String,
    /// The model that is asked for; `None`: any.
    pub model: Option<String>,
    /// Models with their weights; not empty. Where all weights are 0 they are alike.
    pub targets: Vec<(String, u32)>,
}

/// A model or an adapter that some endpoint serves. Where endpoints differ in it, each difference is an entry of its own.
#[derive(Clone, Debug, Default, Eq, Ord, PartialEq, PartialOrd)]
pub struct ServedModel {
    /// The name that requests ask for.
    pub name: String,
    /// The base model of an adapter; empty: it is no adapter, or its server does not say.
    pub parent: String,
    /// Longest prompt and answer together, in tokens, where the server says.
    pub max_model_len: Option<u32>,
}

/// Who an endpoint is.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct EndpointIdentity {
    /// Where it serves.
    pub address: SocketAddr,
    /// Pod name; empty when discovery knows only the address.
    pub pod: String,
    /// Kubernetes namespace, or empty.
    pub namespace: String,
    /// Labels of the pod, name and value.
    pub labels: Vec<(String, String)>,
    /// What it serves, as positions in [`PoolMembers::models`], and nothing else; `None`: its `/v1/models` was never read, or is too long
    /// to be known in full.
    pub models: Option<Vec<u32>>,
}

impl EndpointIdentity {
    /// An endpoint of which nothing but the address is known.
    #[must_use]
    pub const fn unnamed(address: SocketAddr) -> Self {
        Self { address, pod: String::new(), namespace: String::new(), labels: Vec::new(), models: None }
    }

    /// The name for labels: the pod's, or the address where discovery knows no name.
    #[must_use]
    pub fn name(&self) -> String {
        if self.pod.is_empty() { self.address.to_string() } else { self.pod.clone() }
    }
}

/// Load of every endpoint of one membership.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Loads {
    /// The sidecar's start, as in [`Membership::epoch`].
    pub epoch: u64,
    /// The membership whose endpoints these are.
    pub membership_version: u64,
    /// Grows with every change of content inside an epoch.
    pub generation: u64,
    /// The sidecar's wall clock when the loads were taken, in milliseconds since the Unix epoch.
    pub captured_at_ms: u64,
    /// One for each endpoint of the membership, pool after pool.
    pub endpoints: Vec<Load>,
    /// Which adapters are in use where.
    pub adapters: Vec<AdapterUse>,
}

/// What an endpoint's engine last said. A signal that the page did not carry is `None`, never 0.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Load {
    /// What the sidecar makes of the endpoint.
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
    /// KV blocks of the engine, summed over data-parallel engines.
    pub num_gpu_blocks: Option<u32>,
    /// Adapters that fit at once.
    pub max_lora: Option<u32>,
    /// When the engine's process started, in milliseconds since the Unix epoch: another value means another process.
    pub started_at_ms: Option<u64>,
    /// Another value means that the engine began anew, as its start time or counters that fell say: its caches are empty.
    pub incarnation: u32,
}

/// An adapter in use on an endpoint.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct AdapterUse {
    /// Position in [`Loads::endpoints`].
    pub endpoint: u32,
    /// Position in [`PoolMembers::adapters`] of that endpoint's pool.
    pub adapter: u32,
    /// It has requests in the queue, else in the batch.
    pub waiting: bool,
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
    /// Active health checks or the operator say that it takes no traffic.
    Unready,
    /// It has requests, and has long moved none of its counters of tokens and steps.
    Frozen,
}

impl Membership {
    /// The pool of that name, and the position of its first endpoint in [`Loads::endpoints`].
    #[must_use]
    pub fn pool(&self, name: &str) -> Option<(&PoolMembers, usize)> {
        let mut first = 0;
        for pool in &self.pools {
            if pool.name == name {
                return Some((pool, first));
            }
            first += pool.endpoints.len();
        }
        None
    }

    /// Endpoints of all pools.
    #[must_use]
    pub fn endpoint_count(&self) -> usize {
        self.pools.iter().map(|pool| pool.endpoints.len()).sum()
    }
}

impl Loads {
    /// Whether these are the loads of that membership's endpoints.
    #[must_use]
    pub fn belong_to(&self, membership: &Membership) -> bool {
        self.epoch == membership.epoch
            && self.membership_version == membership.version
            && self.endpoints.len() == membership.endpoint_count()
    }

    /// Names this state.
    #[must_use]
    pub const fn tag(&self) -> Tag {
        Tag { epoch: self.epoch, membership_version: self.membership_version, generation: self.generation }
    }
}
