//! The settings of flow control.

use alloc::vec::Vec;

use super::Fields;
use crate::flow_control::{
    DEFAULT_BAND_BYTES, DEFAULT_BAND_REQUESTS, DEFAULT_KV_CACHE_USAGE, DEFAULT_MAX_BYTES, DEFAULT_MAX_OVERTAKEN_MS,
    DEFAULT_MAX_REQUESTS, DEFAULT_QUEUE_DEPTH, DEFAULT_TTL_MS, Dispatch, Fairness, FlowSettings, Ordering,
};

/// More bytes than these no worker has.
const MOST_BYTES: u64 = 1 << 40;
/// A client that waits for more than a day is none.
const MOST_MILLIS: u64 = 86_400_000;

/// `flow_control: {}` turns it on with its defaults; without it, or with `enabled: false`, it is off.
pub(super) fn read(root: &mut Fields, errors: &mut Vec<alloc::string::String>) -> Option<FlowSettings> {
    let mut fields = root.object("flow_control", errors)?;
    let is_enabled = fields.boolean("enabled", errors).unwrap_or(true);
    let mut millis = |fields: &mut Fields, name: &str, default: u64| {
        fields.integer(name, 0..=MOST_MILLIS, errors).unwrap_or(default) * 1_000
    };
    let ttl_micros = millis(&mut fields, "ttl_ms", DEFAULT_TTL_MS);
    let max_overtaken_micros = millis(&mut fields, "max_overtaken_ms", DEFAULT_MAX_OVERTAKEN_MS);
    let orderings = [("first_come", Ordering::FirstCome), ("earliest_deadline", Ordering::EarliestDeadline)];
    let kinds = [("round_robin", Fairness::RoundRobin), ("best_head", Fairness::BestHead)];
    let dispatches = [("least_cost", Dispatch::LeastCost), ("first", Dispatch::First)];
    let mut number = |fields: &mut Fields, name: &str, most: u64, default: u64| {
        fields.integer(name, 0..=most, errors).unwrap_or(default)
    };
    let max_requests = number(&mut fields, "max_requests", 1_000_000, DEFAULT_MAX_REQUESTS);
    let max_bytes = number(&mut fields, "max_bytes", MOST_BYTES, DEFAULT_MAX_BYTES);
    let band_requests = number(&mut fields, "max_band_requests", 1_000_000, DEFAULT_BAND_REQUESTS);
    let band_bytes = number(&mut fields, "max_band_bytes", MOST_BYTES, DEFAULT_BAND_BYTES);
    let queue_depth = number(&mut fields, "queue_depth", 1_000_000, DEFAULT_QUEUE_DEPTH);
    let settings = FlowSettings {
        ttl_micros,
        max_requests,
        max_bytes,
        band_requests,
        band_bytes,
        ordering: fields.choice("ordering", &orderings, errors).unwrap_or_default(),
        fairness: fields.choice("fairness", &kinds, errors).unwrap_or_default(),
        dispatch: fields.choice("dispatch", &dispatches, errors).unwrap_or_default(),
        max_overtaken_micros,
        queue_depth: u32::try_from(queue_depth).unwrap_or(u32::MAX),
        kv_cache_usage: fields.number("kv_cache_usage", 0.01..=1.0, errors).unwrap_or(DEFAULT_KV_CACHE_USAGE),
    };
    fields.finish(errors);
    is_enabled.then_some(settings)
}
