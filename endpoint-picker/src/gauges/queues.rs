//! The gauges of flow control: what waits by label, how full the bands and the pool are.

use alloc::borrow::ToOwned;
use alloc::collections::BTreeMap;
use alloc::string::{String, ToString};

use catalogue::Stat;
use snapshot::State;

use super::values::{Facts, Values};
use crate::board::Post;

/// The stages of a pool whose pods all do the same: the one that all are of, and the one that requests are held back by.
const STAGES: [&str; 2] = ["decode", "effective"];
/// What the picker whose spelling it is calls the part that looks for stale loads.
const DETECTOR: &str = "utilization-detector";

/// What of a limit is used.
#[derive(Clone, Copy, Debug, Default)]
struct Use {
    held: u64,
    /// 0: there is no limit.
    limit: u64,
}

impl Use {
    fn add(&mut self, held: u64, limit: u64) {
        self.held = self.held.saturating_add(held);
        self.limit = self.limit.saturating_add(limit);
    }

    /// In thousandths of the limit.
    const fn permille(self) -> Option<u64> {
        self.held.saturating_mul(1_000).checked_div(self.limit)
    }
}

/// Requests, and bytes of them, by pool; by band where there is a priority. Only of workers that publish the newest spelling.
#[derive(Debug, Default)]
pub(super) struct Bands {
    uses: BTreeMap<(String, Option<i64>), [Use; 2]>,
}

impl Bands {
    pub(super) fn add(&mut self, post: &Post) {
        let Some(flow) = post.flow.as_ref().filter(|_| post.llm_d) else { return };
        let mut add = |priority: Option<i64>, limits: [u64; 2]| {
            let waiting = flow.waiting.iter().filter(|waiting| priority.is_none_or(|band| band == waiting.priority));
            let held = waiting.fold([0_u64; 2], |[requests, bytes], waiting| {
                [requests.saturating_add(u64::from(waiting.requests)), bytes.saturating_add(waiting.bytes)]
            });
            let uses = self.uses.entry((post.pool.clone(), priority)).or_default();
            for ((of, held), limit) in uses.iter_mut().zip(held).zip(limits) {
                of.add(held, limit);
            }
        };
        for band in &flow.bands {
            add(Some(band.priority), [band.max_requests, band.max_bytes]);
        }
        add(None, [flow.max_requests, flow.max_bytes]);
    }

    pub(super) fn fill(self, values: &mut Values, facts: &Facts<'_>) {
        for ((pool, priority), uses) in self.uses {
            let stats = match priority {
                Some(_) => [Stat::LlmDFlowCapacityRequests, Stat::LlmDFlowCapacityBytes],
                None => [Stat::LlmDFlowGlobalCapacityRequests, Stat::LlmDFlowGlobalCapacityBytes],
            };
            for (stat, of) in stats.into_iter().zip(uses) {
                let Some(permille) = of.permille() else { continue };
                match priority {
                    Some(priority) => values.raise(stat, &[&priority.to_string(), &pool], permille),
                    None => values.raise(stat, &[&pool], permille),
                }
            }
            if priority.is_none() {
                values.add(Stat::LlmDFlowStaleEndpoints, &[DETECTOR], stale(facts, &pool));
            }
        }
    }
}

/// Endpoints of a pool whose load is missing or stale.
fn stale(facts: &Facts<'_>, pool: &str) -> u64 {
    let Some(membership) = facts.membership else { return 0 };
    let Some((members, first)) = membership.pool(pool) else { return 0 };
    if !facts.loads.belong_to(membership) {
        return members.endpoints.len() as u64;
    }
    let loads = facts.loads.endpoints.iter().skip(first).take(members.endpoints.len());
    loads.filter(|load| matches!(load.state, State::Stale | State::Unknown)).count() as u64
}

impl Values {
    /// What a worker's flow control holds.
    pub(super) fn add_queues(&mut self, post: &Post) {
        let Some(flow) = &post.flow else { return };
        let pool = post.pool.as_str();
        self.raise(Stat::FlowPoolSaturation, &[pool], flow.saturation_permille);
        for waiting in &flow.waiting {
            let [fairness_id, model, target] = waiting.texts(&self.table).map(ToOwned::to_owned);
            let priority = waiting.priority.to_string();
            let labels = [priority.as_str(), &fairness_id];
            self.add(Stat::FlowQueueSize, &labels, u64::from(waiting.requests));
            self.add(Stat::FlowQueueBytes, &labels, waiting.bytes);
            if post.llm_d {
                let labels = [model.as_str(), &target, &priority, &fairness_id, pool];
                self.add(Stat::LlmDFlowQueueSize, &labels, u64::from(waiting.requests));
                self.add(Stat::LlmDFlowQueueBytes, &labels, waiting.bytes);
            }
        }
        if post.llm_d {
            for stage in STAGES {
                self.raise(Stat::LlmDFlowPoolSaturation, &[pool, stage], flow.saturation_permille);
            }
        }
    }
}
