//! Stats: one set per host, shared by every VM, as Envoy's are one set per process.

use std::collections::BTreeMap;

/// The kinds of stat; the number is the low two bits of an id (`MetricType` in proxy-wasm-cpp-host).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum StatKind {
    /// Only grows.
    Counter,
    /// Set, raised and lowered.
    Gauge,
    /// Records values.
    Histogram,
}

/// Bits of an id that carry the kind (proxy-wasm-cpp-host `include/proxy-wasm/wasm.h`, `kMetricTypeMask`).
const KIND_BITS: u32 = 2;

impl StatKind {
    pub(crate) const fn from_abi(number: u32) -> Option<Self> {
        match number {
            0 => Some(Self::Counter),
            1 => Some(Self::Gauge),
            2 => Some(Self::Histogram),
            _ => None,
        }
    }

    const fn abi(self) -> u32 {
        match self {
            Self::Counter => 0,
            Self::Gauge => 1,
            Self::Histogram => 2,
        }
    }
}

/// Values of all stats by name. Names are as the guest gave them; Envoy prints them behind `wasmcustom.`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    counters: BTreeMap<String, u64>,
    gauges: BTreeMap<String, u64>,
    histograms: BTreeMap<String, Vec<u64>>,
}

impl Stats {
    /// The counter's value; `None` when it was never defined.
    #[must_use]
    pub fn counter(&self, name: &str) -> Option<u64> {
        self.counters.get(name).copied()
    }

    /// The gauge's value; `None` when it was never defined.
    #[must_use]
    pub fn gauge(&self, name: &str) -> Option<u64> {
        self.gauges.get(name).copied()
    }

    /// Every value recorded, in order; `None` when the histogram was never defined.
    #[must_use]
    pub fn histogram(&self, name: &str) -> Option<&[u64]> {
        self.histograms.get(name).map(Vec::as_slice)
    }

    /// All counters by name.
    pub fn counters(&self) -> impl Iterator<Item = (&str, u64)> {
        self.counters.iter().map(|(name, value)| (name.as_str(), *value))
    }

    /// All gauges by name.
    pub fn gauges(&self) -> impl Iterator<Item = (&str, u64)> {
        self.gauges.iter().map(|(name, value)| (name.as_str(), *value))
    }

    /// All histograms by name.
    pub fn histograms(&self) -> impl Iterator<Item = (&str, &[u64])> {
        self.histograms.iter().map(|(name, values)| (name.as_str(), values.as_slice()))
    }

    pub(crate) fn count(&mut self, name: &str) {
        *self.counters.entry(name.to_owned()).or_default() += 1;
    }

    fn define(&mut self, kind: StatKind, name: &str) {
        match kind {
            StatKind::Counter => {
                self.counters.entry(name.to_owned()).or_default();
            }
            StatKind::Gauge => {
                self.gauges.entry(name.to_owned()).or_default();
            }
            StatKind::Histogram => {
                self.histograms.entry(name.to_owned()).or_default();
            }
        }
    }
}

/// Why an id could not be used (Envoy `source/extensions/common/wasm/context.cc`, `incrementMetric` and
/// its neighbours).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum StatError {
    /// The id was never handed out.
    UnknownId,
    /// The kind does not allow it, or a counter was to grow by nothing or less.
    NotAllowed,
}

/// The ids of one VM. Each definition takes a new one, even for a name that has one already.
#[derive(Clone, Debug, Default)]
pub(crate) struct StatIds {
    names: BTreeMap<u32, (StatKind, String)>,
    defined: BTreeMap<StatKind, u32>,
}

impl StatIds {
    pub(crate) fn define(&mut self, stats: &mut Stats, kind: StatKind, name: &str) -> u32 {
        let count = self.defined.entry(kind).or_default();
        *count += 1;
        let id = (*count << KIND_BITS) | kind.abi();
        self.names.insert(id, (kind, name.to_owned()));
        stats.define(kind, name);
        id
    }

    pub(crate) fn increment(&self, stats: &mut Stats, id: u32, offset: i64) -> Result<(), StatError> {
        match StatKind::from_abi(kind_bits(id)) {
            Some(StatKind::Counter) => {
                let value = self.slot(id, &mut stats.counters)?;
                let growth = u64::try_from(offset).ok().filter(|growth| *growth > 0).ok_or(StatError::NotAllowed)?;
                *value = value.wrapping_add(growth);
                Ok(())
            }
            Some(StatKind::Gauge) => {
                let value = self.slot(id, &mut stats.gauges)?;
                *value = value.wrapping_add_signed(offset);
                Ok(())
            }
            Some(StatKind::Histogram) | None => Err(StatError::NotAllowed),
        }
    }

    pub(crate) fn record(&self, stats: &mut Stats, id: u32, value: u64) -> Result<(), StatError> {
        match StatKind::from_abi(kind_bits(id)).ok_or(StatError::UnknownId)? {
            StatKind::Counter => {
                let counter = self.slot(id, &mut stats.counters)?;
                *counter = counter.wrapping_add(value);
            }
            StatKind::Gauge => *self.slot(id, &mut stats.gauges)? = value,
            StatKind::Histogram => self.slot(id, &mut stats.histograms)?.push(value),
        }
        Ok(())
    }

    pub(crate) fn get(&self, stats: &Stats, id: u32) -> Result<u64, StatError> {
        let values = match StatKind::from_abi(kind_bits(id)) {
            Some(StatKind::Counter) => &stats.counters,
            Some(StatKind::Gauge) => &stats.gauges,
            Some(StatKind::Histogram) | None => return Err(StatError::NotAllowed),
        };
        let (_, name) = self.names.get(&id).ok_or(StatError::UnknownId)?;
        values.get(name).copied().ok_or(StatError::UnknownId)
    }

    /// The name behind an id, for the trace.
    pub(crate) fn name(&self, id: u32) -> Option<&str> {
        self.names.get(&id).map(|(_, name)| name.as_str())
    }

    fn slot<'a, V>(&self, id: u32, values: &'a mut BTreeMap<String, V>) -> Result<&'a mut V, StatError> {
        let (_, name) = self.names.get(&id).ok_or(StatError::UnknownId)?;
        values.get_mut(name).ok_or(StatError::UnknownId)
    }
}

const fn kind_bits(id: u32) -> u32 {
    id & ((1 << KIND_BITS) - 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_definition_takes_a_new_id_for_one_stat() {
        let (mut stats, mut ids) = (Stats::default(), StatIds::default());
        let first = ids.define(&mut stats, StatKind::Counter, "c");
        let second = ids.define(&mut stats, StatKind::Counter, "c");
        assert_ne!(first, second);
        assert_eq!((first & 3, second & 3), (0, 0));
        ids.increment(&mut stats, first, 2).unwrap();
        ids.increment(&mut stats, second, 3).unwrap();
        assert_eq!(stats.counter("c"), Some(5));
    }

    #[test]
    fn two_vms_share_a_stat_and_not_its_id() {
        let mut stats = Stats::default();
        let (mut one, mut two) = (StatIds::default(), StatIds::default());
        let pad = one.define(&mut stats, StatKind::Gauge, "other");
        let a = one.define(&mut stats, StatKind::Gauge, "g");
        let b = two.define(&mut stats, StatKind::Gauge, "g");
        assert_eq!((pad, a, b), (5, 9, 5));
        one.record(&mut stats, a, 7).unwrap();
        assert_eq!(two.get(&stats, b), Ok(7));
    }

    #[test]
    fn a_counter_refuses_to_grow_by_nothing_or_less() {
        let (mut stats, mut ids) = (Stats::default(), StatIds::default());
        let id = ids.define(&mut stats, StatKind::Counter, "c");
        assert_eq!(ids.increment(&mut stats, id, 0), Err(StatError::NotAllowed));
        assert_eq!(ids.increment(&mut stats, id, -1), Err(StatError::NotAllowed));
        assert_eq!(ids.record(&mut stats, id, 4), Ok(()));
        assert_eq!(stats.counter("c"), Some(4));
    }

    #[test]
    fn a_gauge_is_raised_lowered_and_set() {
        let (mut stats, mut ids) = (Stats::default(), StatIds::default());
        let id = ids.define(&mut stats, StatKind::Gauge, "g");
        ids.increment(&mut stats, id, 5).unwrap();
        ids.increment(&mut stats, id, -2).unwrap();
        assert_eq!(ids.get(&stats, id), Ok(3));
        ids.record(&mut stats, id, 40).unwrap();
        assert_eq!(stats.gauge("g"), Some(40));
    }

    #[test]
    fn a_histogram_only_records() {
        let (mut stats, mut ids) = (Stats::default(), StatIds::default());
        let id = ids.define(&mut stats, StatKind::Histogram, "h");
        ids.record(&mut stats, id, 1).unwrap();
        ids.record(&mut stats, id, 9).unwrap();
        assert_eq!(ids.increment(&mut stats, id, 1), Err(StatError::NotAllowed));
        assert_eq!(ids.get(&stats, id), Err(StatError::NotAllowed));
        assert_eq!(stats.histogram("h"), Some(&[1, 9][..]));
    }

    #[test]
    fn an_unknown_id_is_told_from_a_wrong_kind() {
        let (mut stats, ids) = (Stats::default(), StatIds::default());
        assert_eq!(ids.increment(&mut stats, 4, 1), Err(StatError::UnknownId));
        assert_eq!(ids.increment(&mut stats, 7, 1), Err(StatError::NotAllowed));
        assert_eq!(ids.record(&mut stats, 7, 1), Err(StatError::UnknownId));
    }
}
