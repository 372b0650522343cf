//! The statistics of one virtual machine, kept here and carried to the host's stats in batches.
//!
//! Envoy's stats are integers, cost a regular expression a label to define and a host call to change, and its histograms
//! approximate. So samples are counted here, and a flush adds to Envoy *counters* whatever came since the last one: exact
//! classic histograms, at a price that does not depend on the number of requests. Seconds are counted in microseconds; the
//! whole-second `_sum` carries its remainder, so that it never drifts, and a twin in microseconds is exact.

use alloc::boxed::Box;
use alloc::collections::VecDeque;
use alloc::string::String;
use alloc::vec::Vec;

use catalogue::{Bounds, Kind, Label, SUM_MICROSECONDS_SUFFIX, Scale, Stat, Switch, label_value, stat_name};
use hashbrown::HashMap;

use crate::config::StatsConfig;

/// The host's stats, as far as a ledger needs them.
pub trait StatSink {
    /// Defines a counter or gauge of that name; `None` if the host refuses. Slow: tens of microseconds.
    fn define(&mut self, kind: SinkKind, name: &str) -> Option<u32>;
    /// Adds to a counter.
    fn add(&mut self, id: u32, delta: u64);
    /// Sets a gauge.
    fn set(&mut self, id: u32, value: u64);
    /// Whether the current callback has time left for more.
    fn has_time(&mut self) -> bool;
}

/// What the host can define.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum SinkKind {
    /// Only grows.
    Counter,
    /// Is set.
    Gauge,
}

/// A series in a ledger.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub struct SeriesId(usize);

/// Statistics on their way to the host.
#[derive(Debug)]
pub struct Ledger {
    config: StatsConfig,
    series: Vec<Series>,
    by_key: HashMap<Key, SeriesId>,
    undefined: VecDeque<SeriesId>,
    dirty: VecDeque<SeriesId>,
    flushing: usize,
}

#[derive(Debug, Eq, Hash, PartialEq)]
struct Key {
    stat: Stat,
    values: Vec<String>,
}

#[derive(Debug)]
struct Series {
    /// The same samples under each of these families.
    stats: Vec<Stat>,
    labels: Vec<(Label, String)>,
    value: Pending,
    /// Host ids by family and slot; complete once `defined`.
    ids: Vec<u32>,
    defined: bool,
    dirty: bool,
}

/// What has not reached the host yet.
#[derive(Debug)]
enum Pending {
    Counter(u64),
    Gauge(u64),
    Histogram(Histogram),
}

#[derive(Debug)]
struct Histogram {
    bounds: Bounds,
    limits: Box<[u64]>,
    /// Samples by bucket, not cumulative; the last is beyond all limits.
    counts: Box<[u64]>,
    sum: u64,
    /// Microseconds that did not fill a whole second yet.
    carry: u64,
}

impl Ledger {
    /// An empty ledger.
    #[must_use]
    pub fn new(config: StatsConfig) -> Self {
        Self {
            config,
            series: Vec::new(),
            by_key: HashMap::new(),
            undefined: VecDeque::new(),
            dirty: VecDeque::new(),
            flushing: 0,
        }
    }

    /// A series that feeds several families of the same kind and labels, as far as their switches are on; `None` when none is. Each call
    /// makes a new one: callers keep it.
    pub fn spelled(&mut self, stats: &[Stat], values: &[&str]) -> Option<SeriesId> {
        let stats: Vec<Stat> = stats.iter().copied().filter(|stat| self.is_on(*stat)).collect();
        let family = stats.first()?.family();
        let labels =
            family.labels.iter().copied().zip(values.iter().map(|value| label_value(value).into_owned())).collect();
        Some(self.new_series(stats, labels))
    }

    /// Adds 1 to a counter. Values stand in the order of the family's labels.
    pub fn count(&mut self, stat: Stat, values: &[&str]) {
        self.add(stat, values, 1);
    }

    /// Adds to a counter.
    pub fn add(&mut self, stat: Stat, values: &[&str], delta: u64) {
        if let Some(id) = self.labelled(stat, values) {
            self.add_to(id, delta);
        }
    }

    /// Sets a gauge.
    pub fn set(&mut self, stat: Stat, values: &[&str], value: u64) {
        let Some(id) = self.labelled(stat, values) else { return };
        let Some(series) = self.series.get_mut(id.0) else { return };
        if let Pending::Gauge(held) = &mut series.value
            && (*held != value || !series.defined)
        {
            *held = value;
            self.mark(id);
        }
    }

    /// The series of a family and label values, for callers that add to it often; `None` when its switch is off.
    pub fn labelled(&mut self, stat: Stat, values: &[&str]) -> Option<SeriesId> {
        if !self.is_on(stat) {
            return None;
        }
        let key = Key { stat, values: values.iter().map(|value| label_value(value).into_owned()).collect() };
        if let Some(&id) = self.by_key.get(&key) {
            return Some(id);
        }
        let labels = stat.family().labels.iter().copied().zip(key.values.iter().cloned()).collect();
        let id = self.new_series(alloc::vec![stat], labels);
        self.by_key.insert(key, id);
        Some(id)
    }

    /// Adds to the counter that [`Self::labelled`] found.
    pub fn add_to(&mut self, id: SeriesId, delta: u64) {
        if let Some(Series { value: Pending::Counter(held), .. }) = self.series.get_mut(id.0) {
            *held = held.saturating_add(delta);
            self.mark(id);
        }
    }

    /// Stats that wait to be defined.
    #[must_use]
    pub fn undefined(&self) -> usize {
        self.undefined
            .iter()
            .filter_map(|id| self.series.get(id.0))
            .map(|series| series.slots() - series.ids.len())
            .sum()
    }

    /// Defines what is new, as far as there is time. A series counts in the host only once all its stats exist, so that a
    /// histogram never shows half its buckets.
    pub fn define(&mut self, sink: &mut impl StatSink) {
        while let Some(&id) = self.undefined.front() {
            let Some(series) = self.series.get_mut(id.0) else { return };
            while series.ids.len() < series.slots() {
                if !sink.has_time() {
                    return;
                }
                let (kind, name) = series.slot_name(series.ids.len());
                // A host that refuses a stat would be asked for ever: the slot gets an id that no host gives and is skipped.
                series.ids.push(sink.define(kind, &name).unwrap_or(REFUSED));
            }
            series.defined = true;
            self.undefined.pop_front();
        }
    }

    /// Begins a flush of everything recorded up to now; [`Self::flush`] carries it out.
    pub fn begin_flush(&mut self) {
        self.flushing = self.dirty.len();
    }

    /// Carries what a flush began with to the host, as far as there is time. True when all of it is there.
    pub fn flush(&mut self, sink: &mut impl StatSink) -> bool {
        while self.flushing > 0 {
            if !sink.has_time() {
                return false;
            }
            self.flushing -= 1;
            let Some(id) = self.dirty.pop_front() else { break };
            let Some(series) = self.series.get_mut(id.0) else { continue };
            if series.defined {
                series.dirty = false;
                series.carry_to(sink);
            } else {
                self.dirty.push_back(id);
            }
        }
        true
    }

    fn is_on(&self, stat: Stat) -> bool {
        match stat.family().switch {
            Switch::Always => true,
            Switch::Objective => self.config.objective,
            Switch::Model => self.config.model,
        }
    }

    fn new_series(&mut self, stats: Vec<Stat>, labels: Vec<(Label, String)>) -> SeriesId {
        let value = match stats.first().map(|stat| stat.family().kind) {
            Some(Kind::Histogram(bounds)) => Pending::Histogram(Histogram::new(bounds)),
            Some(Kind::Gauge) => Pending::Gauge(0),
            Some(Kind::Counter) | None => Pending::Counter(0),
        };
        let id = SeriesId(self.series.len());
        self.series.push(Series { stats, labels, value, ids: Vec::new(), defined: false, dirty: false });
        self.undefined.push_back(id);
        id
    }

    /// Records one sample in the histogram that [`Self::labelled`] found.
    pub fn sample(&mut self, id: SeriesId, sample: u64) {
        if let Some(Series { value: Pending::Histogram(histogram), .. }) = self.series.get_mut(id.0) {
            histogram.record(sample);
            self.mark(id);
        }
    }

    fn mark(&mut self, id: SeriesId) {
        if let Some(series) = self.series.get_mut(id.0)
            && !series.dirty
        {
            series.dirty = true;
            self.dirty.push_back(id);
        }
    }
}

/// No host gives this id: it would need four billion stats.
const REFUSED: u32 = u32::MAX;

impl Series {
    fn slots_per_family(&self) -> usize {
        match &self.value {
            Pending::Counter(_) | Pending::Gauge(_) => 1,
            // Buckets with +Inf, sum, count, and the exact twin of a sum of seconds.
            Pending::Histogram(histogram) => histogram.counts.len() + 2 + usize::from(histogram.in_seconds()),
        }
    }

    fn slots(&self) -> usize {
        self.slots_per_family() * self.stats.len()
    }

    fn slot_name(&self, slot: usize) -> (SinkKind, String) {
        let per_family = self.slots_per_family();
        let family = self.stats.get(slot / per_family).map_or("", |stat| stat.family().name);
        let plain: Vec<(Label, &str)> = self.labels.iter().map(|(label, value)| (*label, value.as_str())).collect();
        let Pending::Histogram(histogram) = &self.value else {
            let kind = if matches!(self.value, Pending::Gauge(_)) { SinkKind::Gauge } else { SinkKind::Counter };
            return (kind, stat_name(family, "", &plain));
        };
        let buckets = histogram.counts.len();
        let name = match slot % per_family {
            bucket if bucket < buckets => {
                let le = histogram.bounds.le().nth(bucket).unwrap_or("+Inf");
                let labels: Vec<(Label, &str)> = core::iter::once((Label::Le, le)).chain(plain).collect();
                stat_name(family, "_bucket", &labels)
            }
            slot if slot == buckets => stat_name(family, "_sum", &plain),
            slot if slot == buckets + 1 => stat_name(family, "_count", &plain),
            _ => stat_name(family, SUM_MICROSECONDS_SUFFIX, &plain),
        };
        (SinkKind::Counter, name)
    }

    fn carry_to(&mut self, sink: &mut impl StatSink) {
        let mut add = |ids: &[u32], slot: usize, delta: u64| {
            if delta > 0
                && let Some(&id) = ids.get(slot)
                && id != REFUSED
            {
                sink.add(id, delta);
            }
        };
        match &mut self.value {
            Pending::Counter(held) => add(&self.ids, 0, core::mem::take(held)),
            Pending::Gauge(value) => {
                if let Some(&id) = self.ids.first()
                    && id != REFUSED
                {
                    sink.set(id, *value);
                }
            }
            Pending::Histogram(histogram) => {
                let deltas = histogram.take();
                for ids in self.ids.chunks(deltas.len()) {
                    for (slot, &delta) in deltas.iter().enumerate() {
                        add(ids, slot, delta);
                    }
                }
            }
        }
    }
}

impl Histogram {
    fn new(bounds: Bounds) -> Self {
        let limits = bounds.limits().into_boxed_slice();
        Self { bounds, counts: alloc::vec![0; limits.len() + 1].into_boxed_slice(), limits, sum: 0, carry: 0 }
    }

    fn in_seconds(&self) -> bool {
        self.bounds.scale == Scale::Microseconds
    }

    fn record(&mut self, sample: u64) {
        let bucket = self.limits.partition_point(|&limit| limit < sample);
        if let Some(count) = self.counts.get_mut(bucket) {
            *count += 1;
        }
        self.sum = self.sum.saturating_add(sample);
    }

    /// What to add to each slot, in the slots' order; nothing is left behind but the carry.
    fn take(&mut self) -> Vec<u64> {
        let mut cumulative = 0;
        let mut deltas: Vec<u64> = self
            .counts
            .iter_mut()
            .map(|count| {
                cumulative += core::mem::take(count);
                cumulative
            })
            .collect();
        let sum = core::mem::take(&mut self.sum);
        if self.in_seconds() {
            self.carry += sum;
            deltas.push(self.carry / MICROS_PER_SECOND);
            self.carry %= MICROS_PER_SECOND;
            deltas.push(cumulative);
            deltas.push(sum);
        } else {
            deltas.push(sum);
            deltas.push(cumulative);
        }
        deltas
    }
}

const MICROS_PER_SECOND: u64 = 1_000_000;

#[cfg(test)]
mod tests {
    use alloc::collections::BTreeMap;
    use alloc::format;
    use alloc::string::ToString;
    #[cfg(target_arch = "wasm32")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    use super::*;

    /// A host's stats with a budget of definitions and additions.
    struct Host {
        names: Vec<String>,
        values: BTreeMap<String, u64>,
        time: usize,
    }

    impl Host {
        fn with_time(time: usize) -> Self {
            Self { names: Vec::new(), values: BTreeMap::new(), time }
        }

        fn value(&self, name: &str) -> u64 {
            self.values.get(name).copied().unwrap_or_else(|| panic!("{name} is not in {:?}", self.values))
        }
    }

    impl StatSink for Host {
        fn define(&mut self, _: SinkKind, name: &str) -> Option<u32> {
            assert!(!self.names.iter().any(|known| known == name), "{name} defined twice");
            self.names.push(name.to_string());
            self.values.insert(name.to_string(), 0);
            Some(u32::try_from(self.names.len() - 1).unwrap())
        }

        fn add(&mut self, id: u32, delta: u64) {
            *self.values.get_mut(&self.names[id as usize]).unwrap() += delta;
        }

        fn set(&mut self, id: u32, value: u64) {
            self.values.insert(self.names[id as usize].clone(), value);
        }

        fn has_time(&mut self) -> bool {
            self.time = self.time.saturating_sub(1);
            self.time > 0
        }
    }

    fn ledger(model: bool) -> Ledger {
        Ledger::new(StatsConfig { model, ..StatsConfig::default() })
    }

    fn settle(ledger: &mut Ledger, host: &mut Host) {
        host.time = usize::MAX;
        ledger.define(host);
        ledger.begin_flush();
        assert!(ledger.flush(host));
    }

    #[test]
    fn a_histogram_becomes_cumulative_counters_with_exact_sums() {
        let (mut ledger, mut host) = (ledger(false), Host::with_time(0));
        let series = ledger.labelled(Stat::ObjectiveInputTokens, &["m", "t"]).unwrap();
        for tokens in [1, 8, 9, 32_778, 32_779, 2_000_000] {
            ledger.sample(series, tokens);
        }
        settle(&mut ledger, &mut host);
        let bucket = |le: &str| {
            host.value(&format!("le={le};model_name=m;target_model_name=t;inference_objective_input_tokens_bucket"))
        };
        assert_eq!(["1", "8", "16", "16384", "32778", "65536", "+Inf"].map(bucket), [1, 2, 3, 3, 4, 5, 6]);
        assert_eq!(host.value("model_name=m;target_model_name=t;inference_objective_input_tokens_sum"), 2_065_575);
        assert_eq!(host.value("model_name=m;target_model_name=t;inference_objective_input_tokens_count"), 6);
    }

    #[test]
    fn seconds_are_carried_so_that_the_sum_never_drifts() {
        let (mut ledger, mut host) = (ledger(false), Host::with_time(0));
        let series = ledger.labelled(Stat::ObjectiveRequestDurationSeconds, &["m", "m"]).unwrap();
        for _ in 0..10 {
            ledger.sample(series, 350_000);
            settle(&mut ledger, &mut host);
        }
        let labels = "model_name=m;target_model_name=m;inference_objective_request_duration_seconds";
        assert_eq!(host.value(&format!("{labels}_sum")), 3);
        assert_eq!(host.value(&format!("{labels}_sum_microseconds")), 3_500_000);
        assert_eq!(host.value(&format!("le=0.2;{labels}_bucket")), 0);
        assert_eq!(host.value(&format!("le=0.4;{labels}_bucket")), 10);
    }

    #[test]
    fn one_record_feeds_every_spelling() {
        let (mut ledger, mut host) = (ledger(true), Host::with_time(0));
        let series = ledger.spelled(&[Stat::ObjectiveOutputTokens, Stat::ModelOutputTokens], &["m", "m"]).unwrap();
        ledger.sample(series, 5);
        settle(&mut ledger, &mut host);
        for family in ["inference_objective_output_tokens", "inference_model_output_tokens"] {
            assert_eq!(host.value(&format!("model_name=m;target_model_name=m;{family}_sum")), 5);
            assert_eq!(host.value(&format!("le=8;model_name=m;target_model_name=m;{family}_bucket")), 1);
        }
    }

    #[test]
    fn definitions_are_spread_and_nothing_counted_meanwhile_is_lost() {
        let (mut ledger, mut host) = (ledger(false), Host::with_time(0));
        let series = ledger.labelled(Stat::ObjectiveInputTokens, &["m", "m"]).unwrap();
        ledger.sample(series, 5);
        let mut rounds = 0;
        while ledger.undefined() > 0 {
            host.time = 6;
            ledger.define(&mut host);
            ledger.begin_flush();
            ledger.flush(&mut host);
            ledger.sample(series, 5);
            rounds += 1;
        }
        assert!(rounds > 3, "{rounds}");
        settle(&mut ledger, &mut host);
        assert_eq!(host.value("model_name=m;target_model_name=m;inference_objective_input_tokens_count"), rounds + 1);
    }

    #[test]
    fn a_flush_that_runs_out_of_time_goes_on_where_it_stopped() {
        let (mut ledger, mut host) = (ledger(false), Host::with_time(usize::MAX));
        for outcome in ["a", "b", "c", "d"] {
            ledger.count(Stat::RequestBodiesTotal, &[outcome]);
        }
        ledger.define(&mut host);
        ledger.begin_flush();
        host.time = 3;
        assert!(!ledger.flush(&mut host));
        host.time = usize::MAX;
        assert!(ledger.flush(&mut host));
        for outcome in ["a", "b", "c", "d"] {
            assert_eq!(host.value(&format!("outcome={outcome};inpick_request_bodies_total")), 1);
        }
    }

    #[test]
    fn a_switched_off_family_is_never_defined() {
        let config = StatsConfig { objective: false, ..StatsConfig::default() };
        let (mut ledger, mut host) = (Ledger::new(config), Host::with_time(0));
        assert_eq!(ledger.labelled(Stat::ObjectiveRequestDurationSeconds, &["m", "m"]), None);
        assert_eq!(ledger.spelled(&[Stat::ObjectiveOutputTokens, Stat::ModelOutputTokens], &["m", "m"]), None);
        ledger.count(Stat::ObjectiveRequestTotal, &["m", "m", "0"]);
        settle(&mut ledger, &mut host);
        assert!(host.names.is_empty());
    }

    #[test]
    fn a_gauge_is_set_to_its_last_value() {
        let (mut ledger, mut host) = (ledger(false), Host::with_time(0));
        ledger.set(Stat::SnapshotGeneration, &[], 4);
        ledger.set(Stat::SnapshotGeneration, &[], 0);
        settle(&mut ledger, &mut host);
        assert_eq!(host.value("inpick_snapshot_generation"), 0);
    }
}
