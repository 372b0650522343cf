//! Bytes to domain types, with every range checked.

use alloc::string::String;
use alloc::vec::Vec;
use core::net::SocketAddr;

use prost::Message;

use crate::{
    AdapterUse, EndpointIdentity, Load, Loads, MAX_ENDPOINTS, Membership, PoolMembers, PoolRewrite, ServedModel,
    Snapshot, State, wire,
};

/// Why bytes are not a snapshot.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum DecodeError {
    /// Not the schema's protobuf.
    #[error("not a snapshot: {0}")]
    Protobuf(#[from] prost::DecodeError),
    /// There are no loads.
    #[error("a snapshot without loads")]
    NoLoads,
    /// A pool without a name, or two pools of one name.
    #[error("pool {0:?} is unnamed or listed twice")]
    PoolName(String),
    /// Not `ip:port`.
    #[error("{0:?} is not ip:port")]
    Address(String),
    /// The same address twice in a pool.
    #[error("endpoint {0} is listed twice")]
    DuplicateEndpoint(SocketAddr),
    /// An endpoint that serves a model that is not there.
    #[error("endpoint {0} serves a model that is not listed")]
    Model(SocketAddr),
    /// A rewrite to no model.
    #[error("rewrite {0:?} has no target")]
    Rewrite(String),
    /// A usage that is not a ratio from 0 to 1.
    #[error("KV cache usage of endpoint {0} is not a ratio from 0 to 1")]
    KvCacheUsage(usize),
    /// An adapter in use on an endpoint that is not there.
    #[error("an adapter is in use on endpoint {0}, which is not there")]
    AdapterUse(u32),
    /// More than [`MAX_ENDPOINTS`].
    #[error("{0} endpoints, more than {MAX_ENDPOINTS}")]
    TooManyEndpoints(usize),
    /// The loads are not those of the membership beside them.
    #[error("the loads are not those of the membership beside them")]
    Mismatch,
}

impl Snapshot {
    /// Reads a snapshot from the wire.
    ///
    /// # Errors
    ///
    /// See [`DecodeError`]: one bad value refuses the whole, so that a reader never installs half a truth.
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        let raw = wire::Snapshot::decode(bytes)?;
        let membership = raw.membership.map(Membership::from_wire).transpose()?;
        let raw_loads = raw.loads.ok_or(DecodeError::NoLoads)?;
        let mut loads = Loads::default();
        loads.read(&raw_loads)?;
        if membership.as_ref().is_some_and(|membership| !loads.belong_to(membership)) {
            return Err(DecodeError::Mismatch);
        }
        Ok(Self { membership, loads })
    }
}

impl Membership {
    /// Reads a membership that stands alone.
    ///
    /// # Errors
    ///
    /// See [`DecodeError`].
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        Self::from_wire(wire::Membership::decode(bytes)?)
    }

    fn from_wire(raw: wire::Membership) -> Result<Self, DecodeError> {
        let pools = raw.pools.into_iter().map(PoolMembers::from_wire).collect::<Result<Vec<_>, _>>()?;
        let mut names: Vec<&str> = pools.iter().map(|pool| pool.name.as_str()).collect();
        names.sort_unstable();
        let twice = names.array_windows::<2>().find(|[left, right]| left == right).map(|[name, _]| *name);
        if let Some(name) = names.iter().find(|name| name.is_empty()).copied().or(twice) {
            return Err(DecodeError::PoolName(name.into()));
        }
        let membership = Self { epoch: raw.epoch, version: raw.version, pools };
        match membership.endpoint_count() {
            count if count > MAX_ENDPOINTS => Err(DecodeError::TooManyEndpoints(count)),
            _ => Ok(membership),
        }
    }
}

impl PoolMembers {
    fn from_wire(raw: wire::PoolMembers) -> Result<Self, DecodeError> {
        let failure_mode = raw.failure_mode();
        let endpoints = raw.endpoints.into_iter().map(EndpointIdentity::from_wire).collect::<Result<Vec<_>, _>>()?;
        let mut addresses: Vec<SocketAddr> = endpoints.iter().map(|endpoint| endpoint.address).collect();
        addresses.sort_unstable();
        if let Some(&[twice, _]) = addresses.array_windows::<2>().find(|[left, right]| left == right) {
            return Err(DecodeError::DuplicateEndpoint(twice));
        }
        let models: Vec<ServedModel> = raw.models.into_iter().map(ServedModel::from_wire).collect();
        for endpoint in &endpoints {
            let mut places = endpoint.models.iter().flatten();
            if places.any(|&place| place as usize >= models.len()) {
                return Err(DecodeError::Model(endpoint.address));
            }
        }
        let fail_closed = match failure_mode {
            wire::FailureMode::Unspecified => None,
            wire::FailureMode::Open => Some(false),
            wire::FailureMode::Closed => Some(true),
        };
        let rewrites = raw.rewrites.into_iter().map(PoolRewrite::from_wire).collect::<Result<Vec<_>, _>>()?;
        Ok(Self {
            name: raw.name,
            endpoints,
            adapters: raw.adapters,
            models,
            fail_closed,
            objectives: raw.objectives.into_iter().map(|objective| (objective.name, objective.priority)).collect(),
            rewrites,
        })
    }
}

impl PoolRewrite {
    fn from_wire(raw: wire::Rewrite) -> Result<Self, DecodeError> {
        if raw.targets.is_empty() {
            return Err(DecodeError::Rewrite(raw.name));
        }
        let targets = raw.targets.into_iter().map(|target| (target.model, target.weight)).collect();
        Ok(Self { name: raw.name, model: raw.model, targets })
    }
}

impl EndpointIdentity {
    fn from_wire(raw: wire::EndpointIdentity) -> Result<Self, DecodeError> {
        let Ok(address) = raw.address.parse() else { return Err(DecodeError::Address(raw.address)) };
        let labels = raw.labels.into_iter().map(|label| (label.name, label.value)).collect();
        let models = raw.lists_models.then_some(raw.models);
        Ok(Self { address, pod: raw.pod, namespace: raw.namespace, labels, models })
    }
}

impl ServedModel {
    fn from_wire(raw: wire::ServedModel) -> Self {
        Self { name: raw.name, parent: raw.parent, max_model_len: raw.max_model_len }
    }
}

/// Reads loads again and again into the same memory: once it has seen as many endpoints as there are, a read allocates nothing.
#[derive(Debug, Default)]
pub struct LoadsDecoder {
    raw: wire::Loads,
    loads: Loads,
}

impl LoadsDecoder {
    /// Reads loads that stand alone; the result lives until the next call.
    ///
    /// # Errors
    ///
    /// See [`DecodeError`].
    pub fn decode(&mut self, bytes: &[u8]) -> Result<&Loads, DecodeError> {
        self.raw.clear();
        self.raw.merge(bytes)?;
        self.loads.read(&self.raw)?;
        Ok(&self.loads)
    }
}

impl Loads {
    fn read(&mut self, raw: &wire::Loads) -> Result<(), DecodeError> {
        if raw.endpoints.len() > MAX_ENDPOINTS {
            return Err(DecodeError::TooManyEndpoints(raw.endpoints.len()));
        }
        self.epoch = raw.epoch;
        self.membership_version = raw.membership_version;
        self.generation = raw.generation;
        self.captured_at_ms = raw.captured_at_ms;
        self.endpoints.clear();
        for (index, load) in raw.endpoints.iter().enumerate() {
            self.endpoints.push(Load::from_wire(load).ok_or(DecodeError::KvCacheUsage(index))?);
        }
        self.adapters.clear();
        for used in &raw.adapters {
            if used.endpoint as usize >= self.endpoints.len() {
                return Err(DecodeError::AdapterUse(used.endpoint));
            }
            self.adapters.push(AdapterUse { endpoint: used.endpoint, adapter: used.adapter, waiting: used.waiting });
        }
        Ok(())
    }
}

impl Load {
    /// `None` when the KV cache usage is not a ratio.
    fn from_wire(raw: &wire::Load) -> Option<Self> {
        let state = match raw.state() {
            wire::State::Unspecified => State::Unknown,
            wire::State::Fresh => State::Fresh,
            wire::State::Stale => State::Stale,
            wire::State::Sleeping => State::Sleeping,
            wire::State::Unready => State::Unready,
            wire::State::Frozen => State::Frozen,
        };
        if raw.kv_cache_usage.is_some_and(|usage| !(0.0..=1.0).contains(&usage)) {
            return None;
        }
        Some(Self {
            state,
            age_ms: raw.age_ms,
            waiting: raw.waiting,
            running: raw.running,
            kv_cache_usage: raw.kv_cache_usage,
            block_size: raw.block_size,
            num_gpu_blocks: raw.num_gpu_blocks,
            max_lora: raw.max_lora,
            started_at_ms: raw.started_at_ms,
            incarnation: raw.incarnation,
        })
    }
}
