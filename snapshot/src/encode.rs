//! Domain types to bytes.

use alloc::string::{String, ToString};
use alloc::vec::Vec;

use prost::Message;

use crate::{EndpointIdentity, Load, Loads, Membership, PoolMembers, PoolRewrite, ServedModel, Snapshot, State, wire};

impl Snapshot {
    /// Writes the snapshot for the wire.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        wire::Snapshot {
            membership: self.membership.as_ref().map(Membership::to_wire),
            loads: Some(self.loads.to_wire()),
        }
        .encode_to_vec()
    }
}

impl Membership {
    /// Writes the membership alone.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        self.to_wire().encode_to_vec()
    }

    fn to_wire(&self) -> wire::Membership {
        wire::Membership {
            epoch: self.epoch,
            version: self.version,
            pools: self.pools.iter().map(PoolMembers::to_wire).collect(),
        }
    }
}

impl PoolMembers {
    fn to_wire(&self) -> wire::PoolMembers {
        wire::PoolMembers {
            name: self.name.clone(),
            endpoints: self.endpoints.iter().map(EndpointIdentity::to_wire).collect(),
            adapters: self.adapters.clone(),
            models: self.models.iter().map(ServedModel::to_wire).collect(),
            failure_mode: match self.fail_closed {
                None => wire::FailureMode::Unspecified,
                Some(false) => wire::FailureMode::Open,
                Some(true) => wire::FailureMode::Closed,
            }
            .into(),
            objectives: self
                .objectives
                .iter()
                .map(|(name, &priority)| wire::Objective { name: name.clone(), priority })
                .collect(),
            rewrites: self.rewrites.iter().map(PoolRewrite::to_wire).collect(),
        }
    }
}

impl PoolRewrite {
    fn to_wire(&self) -> wire::Rewrite {
        let target = |(model, weight): &(String, u32)| wire::RewriteTarget { model: model.clone(), weight: *weight };
        wire::Rewrite {
            name: self.name.clone(),
            model: self.model.clone(),
            targets: self.targets.iter().map(target).collect(),
        }
    }
}

impl EndpointIdentity {
    fn to_wire(&self) -> wire::EndpointIdentity {
        let labels = self.labels.iter().map(|(name, value)| wire::Label { name: name.clone(), value: value.clone() });
        wire::EndpointIdentity {
            address: self.address.to_string(),
            pod: self.pod.clone(),
            namespace: self.namespace.clone(),
            labels: labels.collect(),
            lists_models: self.models.is_some(),
            models: self.models.clone().unwrap_or_default(),
        }
    }
}

impl ServedModel {
    fn to_wire(&self) -> wire::ServedModel {
        wire::ServedModel { name: self.name.clone(), parent: self.parent.clone(), max_model_len: self.max_model_len }
    }
}

impl Loads {
    /// Writes the loads alone.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        self.to_wire().encode_to_vec()
    }

    fn to_wire(&self) -> wire::Loads {
        let adapters = self.adapters.iter().map(|used| wire::AdapterUse {
            endpoint: used.endpoint,
            adapter: used.adapter,
            waiting: used.waiting,
        });
        wire::Loads {
            epoch: self.epoch,
            membership_version: self.membership_version,
            generation: self.generation,
            captured_at_ms: self.captured_at_ms,
            endpoints: self.endpoints.iter().copied().map(Load::to_wire).collect(),
            adapters: adapters.collect(),
        }
    }
}

impl Load {
    fn to_wire(self) -> wire::Load {
        let state = match self.state {
            State::Unknown => wire::State::Unspecified,
            State::Fresh => wire::State::Fresh,
            State::Stale => wire::State::Stale,
            State::Sleeping => wire::State::Sleeping,
            State::Unready => wire::State::Unready,
            State::Frozen => wire::State::Frozen,
        };
        wire::Load {
            state: state.into(),
            age_ms: self.age_ms,
            waiting: self.waiting,
            running: self.running,
            kv_cache_usage: self.kv_cache_usage,
            block_size: self.block_size,
            num_gpu_blocks: self.num_gpu_blocks,
            max_lora: self.max_lora,
            started_at_ms: self.started_at_ms,
            incarnation: self.incarnation,
        }
    }
}
