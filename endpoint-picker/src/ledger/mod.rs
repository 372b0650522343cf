//! The statistics of one virtual machine, kept here and carried to the host's stats in batches.
//!
//! Envoy's stats are integers, cost a regular expression a label to define and a host call to change, and its histograms
//! approximate. So samples are counted here, and a flush adds to Envoy *counters* whatever came since the last one: exact
//! classic histograms, at a price that does not depend on the number of requests. Seconds and ratios are counted in millionths; the
//! whole `_sum` carries its remainder, so that it never drifts, and a twin in millionths is exact.

mod accumulator;
mod histogram;
mod series;
mod sink;

use alloc::collections::VecDeque;
use alloc::string::String;
use alloc::vec::Vec;

use catalogue::{Kind, Label, Stat, Switch, label_value};
use hashbrown::HashMap;

use self::accumulator::Target;
use self::series::{Pending, Series};
use crate::config::StatsConfig;

pub use accumulator::{Accumulator, Limits};
pub use series::SeriesId;
pub use sink::{SinkKind, StatSink};

/// Statistics on their way to the host.
#[derive(Debug)]
pub struct Ledger {
    config: StatsConfig,
    series: Vec<Series>,
    by_key: HashMap<Key, SeriesId>,
    /// Counters and gauges, of one stat each; behind them histograms, of dozens; and last those of the GenAI conventions, which alerts do
    /// not wait for.
    undefined: [VecDeque<SeriesId>; 3],
    dirty: VecDeque<SeriesId>,
    flushing: usize,
    /// Memory of a flush, kept for the next one.
    deltas: Vec<u64>,
}

#[derive(Debug, Eq, Hash, PartialEq)]
struct Key {
    stat: Stat,
    values: Vec<String>,
}

impl Ledger {
    /// An empty ledger.
    #[must_use]
    pub fn new(config: StatsConfig) -> Self {
        Self {
            config,
            series: Vec::new(),
            by_key: HashMap::new(),
            undefined: [const { VecDeque::new() }; 3],
            dirty: VecDeque::new(),
            flushing: 0,
            deltas: Vec::new(),
        }
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

    /// Sets a gauge; one that is a ratio is set in thousandths.
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
        let id = self.new_series(stat, labels);
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
        self.undefined.iter().flatten().filter_map(|id| self.series.get(id.0)).map(Series::undefined).sum()
    }

    /// Defines what is new, as far as there is time. A series counts in the host only once all its stats exist, so that a
    /// histogram never shows half its buckets.
    pub fn define(&mut self, sink: &mut impl StatSink) {
        for queue in &mut self.undefined {
            while let Some(&id) = queue.front() {
                let Some(series) = self.series.get_mut(id.0) else { return };
                if !series.define(sink) {
                    return;
                }
                queue.pop_front();
            }
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
                series.carry_to(sink, &mut self.deltas);
            } else {
                self.dirty.push_back(id);
            }
        }
        true
    }

    /// Whether a family is published.
    #[must_use]
    pub const fn is_on(&self, stat: Stat) -> bool {
        match stat.family().switch {
            Switch::Always => true,
            Switch::Objective => self.config.objective,
            Switch::Model => self.config.model,
            Switch::GenAi => self.config.gen_ai,
            Switch::LlmD => self.config.llm_d,
            Switch::FlowControl => self.config.flow_control,
            Switch::LlmDFlowControl => self.config.llm_d && self.config.flow_control,
        }
    }

    fn new_series(&mut self, stat: Stat, labels: Vec<(Label, String)>) -> SeriesId {
        let id = SeriesId(self.series.len());
        self.series.push(Series::new(stat, labels));
        let [single, histograms, gen_ai] = &mut self.undefined;
        let queue = match (stat.family().kind, stat.family().switch) {
            (Kind::Counter | Kind::Gauge | Kind::Ratio, _) => single,
            (Kind::Histogram(_), Switch::GenAi) => gen_ai,
            (Kind::Histogram(_), _) => histograms,
        };
        queue.push_back(id);
        id
    }

    /// Records one sample in the histogram that [`Self::labelled`] found.
    pub fn sample(&mut self, id: SeriesId, sample: u64) {
        if let Some(Series { value: Pending::Histogram(histogram), .. }) = self.series.get_mut(id.0) {
            histogram.record(sample);
            self.mark(id);
        }
    }

    /// Gives what an accumulator holds to the series that are derived from it.
    pub fn absorb(&mut self, accumulator: &mut Accumulator) {
        let (counts, sum, targets) = accumulator.take();
        let number: u64 = counts.iter().map(|&count| u64::from(count)).sum();
        if number > 0 {
            for target in targets {
                let (id, counter) = match target {
                    Target::Samples(id, places) => {
                        if let Some(Series { value: Pending::Histogram(histogram), .. }) = self.series.get_mut(id.0) {
                            histogram.add(counts, places, sum);
                            self.mark(*id);
                        }
                        continue;
                    }
                    Target::Number(id) => (*id, number),
                    Target::Sum(id) => (*id, sum),
                };
                self.add_to(id, counter);
            }
        }
        counts.fill(0);
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

#[cfg(test)]
mod tests;
