//! What gauges show, by series, while it is being added up.

use alloc::string::String;
use alloc::vec::Vec;

use catalogue::{Stat, label_value};
use hashbrown::HashMap;
use prost::Message;
use snapshot::{Loads, Membership};

use crate::admission::Table;
use crate::board::Board;

/// The labelled gauges, by their number in shared data: only ever appended to.
pub(super) const LABELLED: [Stat; 27] = [
    Stat::ObjectiveRunningRequests,
    Stat::ModelRunningRequests,
    Stat::InFlightRequests,
    Stat::Endpoints,
    Stat::PoolReadyPods,
    Stat::PoolPerPodQueueSize,
    Stat::PoolRunningRequests,
    Stat::PoolKvCacheUtilizationPermille,
    Stat::LearnedFixedTime,
    Stat::LearnedPrefillRate,
    Stat::LearnedSlotTime,
    Stat::LearnedSlots,
    Stat::LlmDRequestRunning,
    Stat::LlmDPrefixIndexerSize,
    Stat::SignalAge,
    Stat::FlowQueueSize,
    Stat::FlowQueueBytes,
    Stat::FlowPoolSaturation,
    Stat::LlmDFlowQueueSize,
    Stat::LlmDFlowQueueBytes,
    Stat::LlmDFlowPoolSaturation,
    Stat::LlmDFlowStaleEndpoints,
    Stat::LlmDFlowCapacityRequests,
    Stat::LlmDFlowCapacityBytes,
    Stat::LlmDFlowGlobalCapacityRequests,
    Stat::LlmDFlowGlobalCapacityBytes,
    Stat::Ejected,
];

/// One labelled gauge.
#[derive(Clone, Eq, Hash, Message, PartialEq)]
pub(super) struct SeriesKey {
    /// Position in [`LABELLED`].
    #[prost(uint32, tag = "1")]
    pub(super) stat: u32,
    /// Values in the order of the family's labels.
    #[prost(string, repeated, tag = "2")]
    pub(super) values: Vec<String>,
}

/// What the gauges show.
#[derive(Debug)]
pub struct Facts<'a> {
    /// Who the endpoints are.
    pub membership: Option<&'a Membership>,
    /// How loaded they are.
    pub loads: &'a Loads,
    /// What is in flight.
    pub board: &'a Board,
    /// Milliseconds since the sidecar last confirmed the loads; `None`: it never did.
    pub snapshot_age_ms: Option<u64>,
    /// Milliseconds since these loads came.
    pub loads_age_ms: Option<u64>,
}

/// Values by series, while they are being added up.
pub(super) struct Values {
    pub(super) table: Table,
    pub(super) values: HashMap<SeriesKey, u64>,
}

impl Values {
    fn value(&mut self, stat: Stat, labels: &[&str]) -> Option<&mut u64> {
        let stat = u32::try_from(LABELLED.iter().position(|known| *known == stat)?).ok()?;
        let values = labels.iter().map(|label| label_value(label).into_owned()).collect();
        Some(self.values.entry(SeriesKey { stat, values }).or_default())
    }

    pub(super) fn add(&mut self, stat: Stat, labels: &[&str], more: u64) {
        if let Some(value) = self.value(stat, labels) {
            *value = value.saturating_add(more);
        }
    }

    /// Makes it at least that.
    pub(super) fn raise(&mut self, stat: Stat, labels: &[&str], least: u64) {
        if let Some(value) = self.value(stat, labels) {
            *value = least.max(*value);
        }
    }
}
