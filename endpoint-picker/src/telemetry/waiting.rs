//! Requests that wait in flow control, by what their gauges tell apart.

use alloc::collections::BTreeMap;
use alloc::string::String;

use crate::record::ExchangeRecord;

/// What gauges tell requests that wait apart by.
#[derive(Clone, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub struct WaitingKey {
    /// The flow's name.
    pub fairness_id: String,
    /// The band's priority.
    pub priority: i64,
    /// The model that the client asked for.
    pub model: String,
    /// The model that is asked for upstream.
    pub target: String,
}

/// A request that began or ceased to wait.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct WaitingNote {
    key: WaitingKey,
    bytes: u64,
    began: bool,
}

impl WaitingNote {
    /// The request of that record does; `None`: flow control never saw it.
    pub(crate) fn of(record: &ExchangeRecord, began: bool) -> Option<Self> {
        let queued = record.queued.as_ref()?;
        let key = WaitingKey {
            fairness_id: queued.fairness_id.clone(),
            priority: queued.priority,
            model: record.model.clone(),
            target: record.target_model.clone(),
        };
        Some(Self { key, bytes: queued.bytes, began })
    }
}

/// How many wait. Who has nobody left that waits is not kept.
#[derive(Debug, Default)]
pub(super) struct Waiting {
    counts: BTreeMap<WaitingKey, Count>,
}

#[derive(Clone, Copy, Debug, Default)]
struct Count {
    requests: u32,
    bytes: u64,
}

impl Waiting {
    pub(super) fn note(&mut self, note: WaitingNote) {
        let WaitingNote { key, bytes, began } = note;
        if began {
            let count = self.counts.entry(key).or_default();
            count.requests = count.requests.saturating_add(1);
            count.bytes = count.bytes.saturating_add(bytes);
        } else if let Some(count) = self.counts.get_mut(&key) {
            count.requests = count.requests.saturating_sub(1);
            count.bytes = count.bytes.saturating_sub(bytes);
            if count.requests == 0 {
                self.counts.remove(&key);
            }
        }
    }

    /// Requests that wait, and bytes of their bodies.
    pub(super) fn iter(&self) -> impl Iterator<Item = (&WaitingKey, u32, u64)> {
        self.counts.iter().map(|(key, count)| (key, count.requests, count.bytes))
    }
}
