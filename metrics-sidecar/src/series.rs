//! Series of one family, taken together. Pure.

use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hash, Hasher};

use crate::exposition::{LabelPair, LineError, Sample};

/// How far above 1 a usage may be by rounding and still count as full.
const USAGE_ROUNDING: f64 = 1e-6;

/// Values of a family's series, one for each engine.
///
/// Series that differ only in a rank (`tp_rank`, `pp_rank`, `cp_rank`, `moe_ep_rank`, …) or in `pid` are the same engine seen from its
/// several devices and processes: the largest counts. Series that differ in `dp_rank`, `engine` or any other label are different
/// engines. SGLang prints the requests of each `priority` beside those of all, whose `priority` is empty.
#[derive(Debug, Default)]
pub(crate) struct Series {
    engines: Largest,
    priorities: Largest,
    /// One unusable value spoils the whole: half a sum would look like a shorter queue.
    spoilt: bool,
}

/// Tells engines of one page apart.
#[derive(Clone, Copy, Debug, Default, Eq, Ord, PartialEq, PartialOrd)]
pub(crate) struct EngineKey(u64);

impl EngineKey {
    /// Adds a label of the engine. The order of labels does not matter.
    pub(crate) fn add(&mut self, label: &LabelPair<'_>) {
        let mut hasher = DefaultHasher::new();
        (label.name, label.raw).hash(&mut hasher);
        self.0 = self.0.wrapping_add(hasher.finish());
    }
}

/// Largest value of each engine. Nearly always there is one, which takes no allocation.
#[derive(Debug, Default)]
struct Largest {
    first: Option<(EngineKey, f64)>,
    others: BTreeMap<EngineKey, f64>,
}

impl Largest {
    fn add(&mut self, key: EngineKey, value: f64) {
        match &mut self.first {
            None => self.first = Some((key, value)),
            Some((first, largest)) if *first == key => *largest = largest.max(value),
            Some(_) => {
                self.others.entry(key).and_modify(|largest| *largest = largest.max(value)).or_insert(value);
            }
        }
    }

    fn values(&self) -> impl Iterator<Item = f64> {
        self.first.iter().map(|(_, value)| *value).chain(self.others.values().copied())
    }
}

impl Series {
    /// Adds the value of a line, of the engine that its labels name.
    pub(crate) fn add(&mut self, sample: &Sample<'_>, value: f64) -> Result<(), LineError> {
        let mut engine = EngineKey::default();
        let mut is_part = false;
        for label in sample.labels() {
            let label = label?;
            match label.name {
                b"priority" if label.raw.is_empty() => continue,
                b"priority" => is_part = true,
                b"pid" => continue,
                name if name.ends_with(b"_rank") && name != b"dp_rank" => continue,
                _ => {}
            }
            engine.add(&label);
        }
        let series = if is_part { &mut self.priorities } else { &mut self.engines };
        series.add(engine, value);
        self.spoilt |= !value.is_finite() || value < 0.0;
        Ok(())
    }

    /// Adds what a label says of an engine. What is not a number gives way to what another line says of the same engine, and spoils a
    /// sum.
    pub(crate) fn add_said(&mut self, engine: EngineKey, value: f64) {
        self.engines.add(engine, value);
    }

    /// Sum over engines, if it can be used.
    pub(crate) fn sum(&self) -> Option<f64> {
        (!self.is_empty() && !self.spoilt).then(|| self.values().sum())
    }

    /// Mean over engines as a ratio, if it is one.
    pub(crate) fn ratio(&self) -> Option<f64> {
        #[allow(clippy::cast_precision_loss, reason = "a page holds far fewer than 2^52 series")]
        let mean = self.sum()? / self.values().count() as f64;
        (mean <= 1.0 + USAGE_ROUNDING).then(|| mean.min(1.0))
    }

    /// The largest of any engine, if it can be used.
    pub(crate) fn largest(&self) -> Option<f64> {
        (!self.spoilt).then(|| self.values().reduce(f64::max)).flatten()
    }

    /// Whether the page carries none.
    pub(crate) fn is_empty(&self) -> bool {
        self.values().next().is_none()
    }

    fn values(&self) -> impl Iterator<Item = f64> {
        let series = if self.engines.first.is_some() { &self.engines } else { &self.priorities };
        series.values()
    }
}
