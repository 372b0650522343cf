//! What a worker says of the requests that wait in its flow control.

use alloc::vec::Vec;

use prost::Message;

use crate::accounts::RunningLabels;
use crate::admission::{Admitted, Table, text_of};

/// What flow control holds in one worker.
#[derive(Clone, Eq, Message, PartialEq)]
pub struct FlowPost {
    /// How full the pool is, in thousandths: 1000 is one whose endpoints have no room, in the mean.
    #[prost(uint64, tag = "1")]
    pub saturation_permille: u64,
    /// Requests that wait.
    #[prost(message, repeated, tag = "2")]
    pub waiting: Vec<WaitingPost>,
    /// What each band may hold.
    #[prost(message, repeated, tag = "3")]
    pub bands: Vec<BandPost>,
    /// How many requests may wait in all bands; 0: there is no limit.
    #[prost(uint64, tag = "4")]
    pub max_requests: u64,
    /// How many bytes of them; 0: there is no limit.
    #[prost(uint64, tag = "5")]
    pub max_bytes: u64,
}

/// Requests that wait and have the same labels.
#[derive(Clone, Copy, Eq, Message, PartialEq)]
pub struct WaitingPost {
    /// The label of the fairness id, written as that of a model in [`super::RunningModel`].
    #[prost(uint32, tag = "1")]
    pub fairness_id: u32,
    /// Their priority.
    #[prost(sint64, tag = "2")]
    pub priority: i64,
    /// The label of the model that was asked for.
    #[prost(uint32, tag = "3")]
    pub model: u32,
    /// The label of the model that is asked for upstream.
    #[prost(uint32, tag = "4")]
    pub target: u32,
    /// How many.
    #[prost(uint32, tag = "5")]
    pub requests: u32,
    /// Bytes of their bodies.
    #[prost(uint64, tag = "6")]
    pub bytes: u64,
}

/// What one band may hold.
#[derive(Clone, Copy, Eq, Message, PartialEq)]
pub struct BandPost {
    /// Its priority.
    #[prost(sint64, tag = "1")]
    pub priority: i64,
    /// How many requests may wait in it.
    #[prost(uint64, tag = "2")]
    pub max_requests: u64,
    /// How many bytes of them.
    #[prost(uint64, tag = "3")]
    pub max_bytes: u64,
}

impl WaitingPost {
    /// So many requests of those, with so many bytes.
    #[must_use]
    pub fn of(fairness_id: Admitted, running: RunningLabels, requests: u32, bytes: u64) -> Self {
        let [fairness_id, model, target] = [fairness_id, running.model, running.target].map(Admitted::number);
        Self { fairness_id, priority: running.priority, model, target, requests, bytes }
    }

    /// The values of the labels of fairness id, model and target in that table.
    #[must_use]
    pub fn texts<'a>(&self, table: &'a Table) -> [&'a str; 3] {
        let [model, target] = [self.model, self.target].map(|number| text_of(number, &table.models));
        [text_of(self.fairness_id, &table.fairness_ids), model, target]
    }
}
