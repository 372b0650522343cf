//! The gauges of the whole Envoy, which one writer sets: the holder of the lease.
//!
//! Envoy keeps a gauge for ever, whoever set it. So every labelled gauge that was ever set is listed in shared data, and a new holder sets
//! to 0 what its predecessor had set and what nobody counts any more.

mod queues;
mod values;

use alloc::borrow::ToOwned;
use alloc::string::{String, ToString};
use alloc::vec::Vec;

use catalogue::{Stat, label_value};
use hashbrown::{HashMap, HashSet};
use prost::Message;
use snapshot::{Load, Membership, State};

use self::queues::Bands;
pub use self::values::Facts;
use self::values::{LABELLED, SeriesKey, Values};
use crate::admission::{OTHER, Table};
use crate::board::{Board, Lesson, Order, Post, key};
use crate::config::StatsConfig;
use crate::flusher::{Flusher, HostStats};
use crate::ledger::Ledger;
use crate::shared_data::{SharedData, update};
use crate::telemetry::{FAIRNESS_ID, PREFIX_PLUGIN};
use crate::time::Timestamp;

/// Gauges are computed and reach Envoy this often, like the workers' counters by default.
const INTERVAL_MS: u64 = 1_000;

/// Every labelled gauge that was ever set.
#[derive(Clone, Eq, Message, PartialEq)]
struct SeriesList {
    #[prost(message, repeated, tag = "1")]
    series: Vec<SeriesKey>,
}

/// The gauges on their way to the host.
#[derive(Debug)]
pub struct Gauges {
    ledger: Ledger,
    flusher: Flusher,
    /// Series that are listed in shared data.
    listed: HashSet<SeriesKey>,
    computed_at: Option<Timestamp>,
}

impl Gauges {
    /// Gauges of an instance that has just taken the lease. `build` are the values of `inference_extension_info`.
    pub fn new(shared: &mut impl SharedData, build: [&str; 2]) -> Self {
        // Which spellings are published is each worker's own setting, and comes with its posts.
        let stats =
            StatsConfig { objective: true, model: true, llm_d: true, flow_control: true, ..StatsConfig::default() };
        let mut ledger = Ledger::new(stats);
        ledger.set(Stat::ExtensionInfo, &build, 1);
        let listed = shared.get(key::SERIES).and_then(|(bytes, _)| SeriesList::decode(bytes.as_slice()).ok());
        let listed = listed.unwrap_or_default().series.into_iter().collect();
        Self { ledger, flusher: Flusher::default(), listed, computed_at: None }
    }

    /// Whether [`Self::compute`] is due.
    #[must_use]
    pub fn is_due(&self, now: Timestamp) -> bool {
        self.computed_at.is_none_or(|at| now.millis_since(at) >= INTERVAL_MS)
    }

    /// Sets every gauge anew.
    pub fn compute<'a>(
        &mut self,
        shared: &mut impl SharedData,
        facts: &Facts<'_>,
        posts: impl Iterator<Item = &'a Post>,
        now: Timestamp,
    ) {
        self.computed_at = Some(now);
        let table = shared.get(key::ADMISSION).and_then(|(bytes, _)| Table::decode(bytes.as_slice()).ok());
        let mut values = Values { table: table.unwrap_or_default(), values: HashMap::new() };
        let (mut memory_bytes, mut prefix_entries) = (0, 0);
        let mut lessons = Lessons::default();
        let mut bands = Bands::default();
        // By place in the membership. What one worker met, the others know within a tick or two.
        let mut ejected = HashSet::new();
        for post in posts {
            memory_bytes = post.memory_bytes.saturating_add(memory_bytes);
            // All workers know nearly the same.
            prefix_entries = prefix_entries.max(post.prefix_entries);
            if post.llm_d {
                values.raise(Stat::LlmDPrefixIndexerSize, &[PREFIX_PLUGIN, PREFIX_PLUGIN], post.prefix_entries);
            }
            values.add_running(post);
            values.add_queues(post);
            bands.add(post);
            lessons.add(post);
            if post.order.is_some() && post.order == facts.membership.map(Order::of) {
                ejected.extend(post.ejected.iter().map(|place| place.saturating_add(post.first)));
            }
        }
        if let Some(membership) = facts.membership {
            values.add_lessons(&lessons, membership);
        }
        bands.fill(&mut values, facts);
        self.ledger.set(Stat::PrefixIndexerSize, &[], prefix_entries);
        values.add_in_flight(facts.board, facts.membership);
        if let Some(membership) = facts.membership {
            values.add_pools(membership, facts, &ejected);
        }
        self.list(shared, &values.values);
        for key in &self.listed {
            let value = values.values.get(key).copied().unwrap_or(0);
            let labels: Vec<&str> = key.values.iter().map(String::as_str).collect();
            if let Some(&stat) = LABELLED.get(key.stat as usize) {
                self.ledger.set(stat, &labels, value);
            }
        }
        self.ledger.set(Stat::VmMemoryBytes, &[], memory_bytes);
        if let Some(age_ms) = facts.snapshot_age_ms {
            self.ledger.set(Stat::SnapshotAgeSeconds, &[], age_ms / 1_000);
            self.ledger.set(Stat::SnapshotGeneration, &[], facts.loads.generation);
        }
    }

    /// Carries the gauges to the host, as far as there is time.
    pub fn flush(&mut self, host: &mut impl HostStats, now: Timestamp) {
        self.flusher.tick(&mut self.ledger, host, INTERVAL_MS, now);
    }

    /// Lists what is set for the first time, before it is set.
    fn list(&mut self, shared: &mut impl SharedData, values: &HashMap<SeriesKey, u64>) {
        if values.keys().all(|key| self.listed.contains(key)) {
            return;
        }
        // A list that cannot be written is kept here; the next new series tries again.
        let _ = update(shared, key::SERIES, |held| {
            let mut list = held.and_then(|bytes| SeriesList::decode(bytes).ok()).unwrap_or_default();
            let known: HashSet<SeriesKey> = list.series.iter().cloned().collect();
            let before = list.series.len();
            list.series.extend(values.keys().chain(&self.listed).filter(|key| !known.contains(*key)).cloned());
            ((), (list.series.len() > before).then(|| list.encode_to_vec()))
        });
        self.listed.extend(values.keys().cloned());
    }
}

/// What workers learned, by membership and place in it: sums weighted by their answers.
#[derive(Debug, Default)]
struct Lessons(HashMap<(u64, u64, u32), Lesson>);

impl Lessons {
    fn add(&mut self, post: &Post) {
        let Some(order) = post.order else { return };
        for lesson in &post.lessons {
            let key = (order.epoch, order.version, post.first.saturating_add(lesson.place));
            let sum = self.0.entry(key).or_default();
            let answers = u64::from(lesson.answers);
            sum.fixed_micros = sum.fixed_micros.saturating_add(lesson.fixed_micros.saturating_mul(answers));
            sum.token_nanos = sum.token_nanos.saturating_add(lesson.token_nanos.saturating_mul(answers));
            sum.slot_micros = sum.slot_micros.saturating_add(lesson.slot_micros.saturating_mul(answers));
            sum.slots = sum.slots.max(lesson.slots);
            sum.answers = sum.answers.saturating_add(lesson.answers);
        }
    }

    fn mean(&self, order: Order, place: u32) -> Option<Lesson> {
        let sum = self.0.get(&(order.epoch, order.version, place))?;
        let answers = u64::from(sum.answers.max(1));
        Some(Lesson {
            fixed_micros: sum.fixed_micros / answers,
            token_nanos: sum.token_nanos / answers,
            slot_micros: sum.slot_micros / answers,
            ..*sum
        })
    }
}

/// The state of an endpoint that is left out because its requests failed, and would not be for what the sidecar says of it.
const EJECTED: &str = "ejected";

/// The one state under which an endpoint is counted.
const fn state(load: &Load, is_ejected: bool) -> &'static str {
    match load.state {
        State::Fresh | State::Stale | State::Unknown if is_ejected => EJECTED,
        State::Fresh => "fresh",
        State::Stale => "stale",
        State::Unknown => "unknown",
        State::Sleeping => "sleeping",
        State::Unready => "unready",
        State::Frozen => "frozen",
    }
}

impl Values {
    fn add_running(&mut self, post: &Post) {
        // Every name that has a label shows a value, 0 too.
        for model in self.table.models.clone().iter().map(String::as_str).chain([OTHER]) {
            for (stat, is_on) in
                [(Stat::ObjectiveRunningRequests, post.objective), (Stat::ModelRunningRequests, post.model)]
            {
                if is_on {
                    self.add(stat, &[model], 0);
                }
            }
        }
        for running in &post.running {
            let [model, target] = running.texts(&self.table).map(ToOwned::to_owned);
            if post.llm_d {
                let priority = running.priority.to_string();
                let fairness_id = running.fairness_text(&self.table).unwrap_or(FAIRNESS_ID).to_owned();
                let labels = [model.as_str(), target.as_str(), &priority, &fairness_id];
                self.add(Stat::LlmDRequestRunning, &labels, u64::from(running.count));
            }
            for (stat, is_on) in
                [(Stat::ObjectiveRunningRequests, post.objective), (Stat::ModelRunningRequests, post.model)]
            {
                if is_on {
                    self.add(stat, &[&model], u64::from(running.count));
                }
            }
        }
    }

    fn add_in_flight(&mut self, board: &Board, membership: Option<&Membership>) {
        let admitted: HashSet<String> = self.table.endpoints.iter().cloned().collect();
        let mut add = |pool: &str, address: &str, count: u32| {
            let endpoint = label_value(address);
            let endpoint = if admitted.contains(endpoint.as_ref()) { endpoint.as_ref() } else { OTHER };
            self.add(Stat::InFlightRequests, &[pool, endpoint], u64::from(count));
        };
        let members = membership.into_iter().flat_map(|membership| &membership.pools);
        let members = members.flat_map(|pool| pool.endpoints.iter().map(move |endpoint| (pool, endpoint)));
        for ((pool, endpoint), &count) in members.zip(&board.in_flight).filter(|(_, count)| **count > 0) {
            add(&pool.name, &endpoint.address.to_string(), count);
        }
        for departed in &board.departed {
            add(&departed.pool, &departed.address, departed.count);
        }
    }

    fn add_lessons(&mut self, lessons: &Lessons, membership: &Membership) {
        let admitted: HashSet<String> = self.table.endpoints.iter().cloned().collect();
        let order = Order::of(membership);
        let members =
            membership.pools.iter().flat_map(|pool| pool.endpoints.iter().map(move |endpoint| (pool, endpoint)));
        for (place, (pool, endpoint)) in (0_u32..).zip(members) {
            let Some(lesson) = lessons.mean(order, place) else { continue };
            let address = endpoint.address.to_string();
            let address = label_value(&address);
            // Of those without a label of their own there is no mean to show.
            if admitted.contains(address.as_ref()) {
                let labels = [pool.name.as_str(), address.as_ref()];
                self.add(Stat::LearnedFixedTime, &labels, lesson.fixed_micros);
                self.add(Stat::LearnedPrefillRate, &labels, 1_000_000_000 / lesson.token_nanos.max(1));
                self.add(Stat::LearnedSlotTime, &labels, lesson.slot_micros);
                self.add(Stat::LearnedSlots, &labels, u64::from(lesson.slots));
            }
        }
    }

    fn add_pools(&mut self, membership: &Membership, facts: &Facts<'_>, ejected: &HashSet<u32>) {
        let loads = facts.loads;
        let admitted: HashSet<String> = self.table.pods.iter().cloned().collect();
        let addresses: HashSet<String> = self.table.endpoints.iter().cloned().collect();
        let mut loads = (0..).zip(&loads.endpoints).filter(|_| loads.belong_to(membership));
        for pool in &membership.pools {
            for state in ["fresh", "stale", "unknown", "sleeping", "unready", "frozen", EJECTED] {
                self.add(Stat::Endpoints, &[&pool.name, state], 0);
            }
            self.add(Stat::PoolReadyPods, &[&pool.name], 0);
            for endpoint in &pool.endpoints {
                let Some((place, load)) = loads.next() else { break };
                let name = endpoint.name();
                let name = label_value(&name);
                let pod = if admitted.contains(name.as_ref()) { name.as_ref() } else { OTHER };
                self.add_load(&pool.name, pod, load);
                let address = endpoint.address.to_string();
                let address = label_value(&address);
                let address = if addresses.contains(address.as_ref()) { address.as_ref() } else { OTHER };
                let state = state(load, ejected.contains(&place));
                self.add(Stat::Endpoints, &[&pool.name, state], 1);
                if state == EJECTED {
                    self.raise(Stat::Ejected, &[&pool.name, address], 1);
                }
                // What is fresh was read again whenever the sidecar confirmed it; the rest is as old as the loads.
                let since = if load.state == State::Fresh { facts.snapshot_age_ms } else { facts.loads_age_ms };
                if let (Some(age_ms), Some(since)) = (load.age_ms, since) {
                    // Endpoints that share a label show the oldest of them.
                    self.raise(Stat::SignalAge, &[&pool.name, address], age_ms.saturating_add(since));
                }
            }
        }
    }

    fn add_load(&mut self, pool: &str, pod: &str, load: &Load) {
        self.add(Stat::PoolReadyPods, &[pool], u64::from(load.state == State::Fresh));
        if let Some(waiting) = load.waiting {
            self.add(Stat::PoolPerPodQueueSize, &[pool, pod], u64::from(waiting));
        }
        if let Some(running) = load.running {
            self.add(Stat::PoolRunningRequests, &[pool, pod], u64::from(running));
        }
        if let Some(usage) = load.kv_cache_usage {
            #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a ratio: 0 to 1000")]
            let permille = (usage * 1000.0 + 0.5) as u64;
            // Pods that share a label show the fullest of them.
            self.raise(Stat::PoolKvCacheUtilizationPermille, &[pool, pod], permille);
        }
    }
}

#[cfg(test)]
mod tests;
