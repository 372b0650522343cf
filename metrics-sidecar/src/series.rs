//! Series of one family, taken together. Pure.

use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hash, Hasher};

use crate::exposition::{LineError, Sample};

/// How far above 1 a usage may be by rounding and still count as full.
const USAGE_ROUNDING: f64 = 1e-6;

/// Values of a family's series, one for each engine.
///
/// Series that differ only in a rank (`tp_rank`, `pp_rank`, `cp_rank`, `moe_ep_rank`, …) are the same engine seen from its several
/// devices: the largest counts. Series that differ in `dp_rank`, `engine` or any other label are different engines.
#[derive(Default)]
pub(crate) struct Series {
    engines: BTreeMap<u64, f64>,
    /// One unusable value spoils the whole: half a sum would look like a shorter queue.
    spoilt: bool,
}

impl Series {
    /// Adds the value of a line.
    pub(crate) fn add(&mut self, sample: &Sample<'_>, value: f64) -> Result<(), LineError> {
        let mut engine = 0_u64;
        for label in sample.labels() {
            let label = label?;
            if label.name.ends_with(b"_rank") && label.name != b"dp_rank" {
                continue;
            }
            let mut hasher = DefaultHasher::new();
            (label.name, label.raw).hash(&mut hasher);
            // The order of labels does not matter.
            engine = engine.wrapping_add(hasher.finish());
        }
        self.spoilt |= !value.is_finite() || value < 0.0;
        self.engines.entry(engine).and_modify(|largest| *largest = largest.max(value)).or_insert(value);
        Ok(())
    }

    /// Whether the page carries none.
    pub(crate) fn is_empty(&self) -> bool {
        self.engines.is_empty()
    }

    /// Sum over engines, if it can be used.
    pub(crate) fn sum(&self) -> Option<f64> {
        (!self.is_empty() && !self.spoilt).then(|| self.engines.values().sum())
    }

    /// Mean over engines as a ratio, if it is one.
    pub(crate) fn ratio(&self) -> Option<f64> {
        #[allow(clippy::cast_precision_loss, reason = "a page holds far fewer than 2^52 series")]
        let mean = self.sum()? / self.engines.len() as f64;
        (mean <= 1.0 + USAGE_ROUNDING).then(|| mean.min(1.0))
    }
}
