//! One series of a ledger: what it has not told the host yet, and the host's ids for its stats.

use alloc::string::String;
use alloc::vec::Vec;

use catalogue::{Kind, Label, PERMILLE_SUFFIX, Stat};

use super::histogram::Histogram;
use super::sink::{SinkKind, StatSink};

/// No host gives this id: it would need four billion stats.
const REFUSED: u32 = u32::MAX;

/// A series in a ledger.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub struct SeriesId(pub(super) usize);

#[derive(Debug)]
pub(super) struct Series {
    stat: Stat,
    labels: Vec<(Label, String)>,
    pub(super) value: Pending,
    /// Host ids by slot; complete once `defined`.
    ids: Vec<u32>,
    pub(super) defined: bool,
    pub(super) dirty: bool,
}

/// What has not reached the host yet.
#[derive(Debug)]
pub(super) enum Pending {
    Counter(u64),
    Gauge(u64),
    Histogram(Histogram),
}

impl Series {
    /// A series of a family with those labels.
    pub(super) fn new(stat: Stat, labels: Vec<(Label, String)>) -> Self {
        let value = match stat.family().kind {
            Kind::Histogram(bounds) => Pending::Histogram(Histogram::new(bounds)),
            Kind::Gauge | Kind::Ratio => Pending::Gauge(0),
            Kind::Counter => Pending::Counter(0),
        };
        Self { stat, labels, value, ids: Vec::new(), defined: false, dirty: false }
    }

    /// Stats that the host does not have yet.
    pub(super) fn undefined(&self) -> usize {
        self.slots().saturating_sub(self.ids.len())
    }

    /// Defines what the host does not have, as far as there is time. True when it has all of it. A stat that the host refuses is not
    /// asked for again and never changed.
    pub(super) fn define(&mut self, sink: &mut impl StatSink) -> bool {
        while self.ids.len() < self.slots() {
            if !sink.has_time() {
                return false;
            }
            let id = self.define_slot(sink, self.ids.len());
            self.ids.push(id.unwrap_or(REFUSED));
        }
        self.defined = true;
        true
    }

    /// Tells the host what has come since the last time; `deltas` is memory to be used again.
    pub(super) fn carry_to(&mut self, sink: &mut impl StatSink, deltas: &mut Vec<u64>) {
        match &mut self.value {
            Pending::Gauge(value) => {
                if let Some(&id) = self.ids.first().filter(|&&id| id != REFUSED) {
                    sink.set(id, *value);
                }
                return;
            }
            Pending::Counter(held) => {
                deltas.clear();
                deltas.push(core::mem::take(held));
            }
            Pending::Histogram(histogram) => histogram.take(deltas),
        }
        for (&id, &delta) in self.ids.iter().zip(deltas.iter()) {
            if delta > 0 && id != REFUSED {
                sink.add(id, delta);
            }
        }
    }

    fn slots(&self) -> usize {
        match &self.value {
            Pending::Counter(_) | Pending::Gauge(_) => 1,
            // Sum, count, and the exact twin of a sum that integers cannot hold.
            Pending::Histogram(histogram) => {
                histogram.buckets() + 2 + usize::from(histogram.exact_sum_suffix().is_some())
            }
        }
    }

    fn define_slot(&self, sink: &mut impl StatSink, slot: usize) -> Option<u32> {
        let family = self.stat.family().name;
        let plain = self.labels.iter().map(|(label, value)| (*label, value.as_str()));
        let histogram = match &self.value {
            Pending::Counter(_) => return sink.define(SinkKind::Counter, family, "", &plain.collect::<Vec<_>>()),
            Pending::Gauge(_) => {
                let suffix = if self.stat.family().kind == Kind::Ratio { PERMILLE_SUFFIX } else { "" };
                return sink.define(SinkKind::Gauge, family, suffix, &plain.collect::<Vec<_>>());
            }
            Pending::Histogram(histogram) => histogram,
        };
        let buckets = histogram.buckets();
        if slot < buckets {
            let labels: Vec<(Label, &str)> = core::iter::once((Label::Le, histogram.le(slot))).chain(plain).collect();
            return sink.define(SinkKind::Counter, family, "_bucket", &labels);
        }
        let suffix = match slot - buckets {
            0 => "_sum",
            1 => "_count",
            _ => histogram.exact_sum_suffix()?,
        };
        sink.define(SinkKind::Counter, family, suffix, &plain.collect::<Vec<_>>())
    }
}
